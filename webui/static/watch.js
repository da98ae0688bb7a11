// Follows one job over a WebSocket, through lost connections, and hands on its messages and frames.

import { asked } from "./dom.js";

const VIEW = ["latents", "denoised"];
const HEADER = 8;

export class Watch {
  /** `heard`: {message(m), frame(image, view, index, blob), lost(), gone()} */
  constructor(job, heard) {
    this.job = job;
    this.heard = heard;
    this.after = 0;
    this.tries = 0;
    this.over = false;
    this.open();
  }

  open() {
    if (this.over) return;
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const url = `${scheme}://${location.host}/api/jobs/${this.job}/events?after=${this.after}`;
    this.socket = new WebSocket(url);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = ({ data }) => this.took(data);
    this.socket.onclose = (event) => this.closed(event);
  }

  took(data) {
    this.tries = 0;
    if (typeof data === "string") {
      for (const message of JSON.parse(data)) {
        if (message.type === "hello") {
          if (this.server && this.server !== message.server) this.anew();
          this.server = message.server;
          continue;
        }
        if (message.n) this.after = message.n;
        if (["finished", "failed", "cancelled"].includes(message.type)) this.over = true;
        this.heard.message(message);
      }
      return;
    }
    const view = new DataView(data);
    if (view.getUint8(0) !== 1) return;
    const blob = new Blob([new Uint8Array(data, HEADER)], { type: "image/jpeg" });
    const index = view.getUint32(4, true);
    this.heard.frame(view.getUint16(2, true), VIEW[view.getUint8(1)], index, blob);
  }

  /** The server was started again: its numbers begin anew. */
  anew() {
    if (this.after === 0) return;
    this.after = 0;
    this.socket.close();
  }

  async closed(event) {
    if (this.over) return;
    if (event.code === 4404 || (await this.isGone())) {
      this.over = true;
      this.heard.gone();
      return;
    }
    this.tries += 1;
    if (this.tries > 1) this.heard.lost();
    this.timer = setTimeout(() => this.open(), Math.min(8000, 250 * 2 ** this.tries));
  }

  /** A refused WebSocket says nothing; the job's own address does. */
  async isGone() {
    try {
      await asked(`/api/jobs/${this.job}`);
      return false;
    } catch (error) {
      return error.status === 404;
    }
  }

  close() {
    this.over = true;
    clearTimeout(this.timer);
    this.socket.close();
  }
}
