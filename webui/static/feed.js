// The queue as it is now, over a WebSocket, through lost connections.

import { asked } from "./dom.js";

const LONGEST_MS = 15_000;

export class Feed {
  /**
   * `heard(queue)` for each change: {jobs, waiting, running, paused, everybody_paused}; `out()` once,
   * when the server lets this browser in no longer.
   */
  constructor(heard, out = () => {}) {
    this.heard = heard;
    this.out = out;
    this.tries = 0;
    this.open();
  }

  open() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/api/queue/events`);
    socket.onmessage = ({ data }) => {
      this.tries = 0;
      this.heard(JSON.parse(data));
    };
    socket.onclose = () => this.closed();
  }

  async closed() {
    const status = await asked("/api/queue").then(() => 200, (error) => error.status);
    if (status === 401) {
      this.out();
      return;
    }
    this.tries += 1;
    setTimeout(() => this.open(), Math.min(LONGEST_MS, 500 * 2 ** this.tries));
  }
}
