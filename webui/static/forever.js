// Generating again and again: when a job ends, the next one is handed over, until somebody stops it.
// It lives in this page alone, so a reload ends it.

import { present } from "./dom.js";

const BREATH_MS = 60;

export class Forever {
  constructor(status, form) {
    this.on = false;
    this.status = status;
    this.form = form;
    present('[data-v="forever"]').then((button) => {
      this.button = button;
      button.addEventListener("click", () => this.set(!this.on));
    });
  }

  set(on) {
    if (on === this.on) return;
    this.on = on;
    this.button?.setAttribute("aria-pressed", String(on));
    if (!on) {
      clearTimeout(this.timer);
      this.status.say("This one is the last.", { spoken: true });
      return;
    }
    const same = this.form.values.seed ? " The seed is set, so each will be the same picture." : "";
    this.status.say(`Generates again and again, until you stop it; a reload of the page ends it too.${same}`);
  }

  /** A job is over; `type` as in its last message. */
  ended(type, interrupted) {
    if (!this.on) return;
    if (type !== "finished" || interrupted) this.set(false);
    else this.timer = setTimeout(() => this.on && document.getElementById("txt2img_generate").click(), BREATH_MS);
  }
}
