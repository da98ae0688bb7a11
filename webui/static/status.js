// What is happening, in words: for eyes at every step, for screen readers now and then.

import { part, sentence } from "./dom.js";

const SPOKEN_MS = 5000;

export class Status {
  constructor(root) {
    this.line = part("status", root);
    this.live = part("live", root);
    this.bar = part("progress", root);
    this.spoken = 0;
    this.tempo = [];
  }

  /** `kind`: "", "busy", "problem". Important words are spoken at once. */
  say(text, { kind = "", spoken = true, share = null } = {}) {
    this.line.textContent = text;
    this.line.dataset.kind = kind;
    this.bar.hidden = share === null;
    if (share !== null) this.bar.firstElementChild.style.transform = `scaleX(${share})`;
    document.title = share ? `${Math.round(share * 100)} % – Vitrine` : "Vitrine";
    const now = performance.now();
    if (spoken || now - this.spoken > SPOKEN_MS) {
      this.spoken = now;
      this.live.textContent = text;
    }
  }

  problem(text) {
    this.say(sentence(text), { kind: "problem" });
  }

  /** The words for one message of a running job; `run` knows what came before. */
  tell(message, run) {
    const several = run.images > 1;
    if (message.type === "place") {
      const before = message.place;
      const words = message.paused ? "Paused; it waits in the queue until you go on"
        : before === 0 ? "Next in line" : `Waiting: ${before} before this one`;
      this.say(before === 0 && !run.ready && !message.paused ? "The engine is getting ready…" : `${words}…`, {
        kind: "busy", share: 0,
      });
    } else if (message.type === "started") {
      this.tempo = [];
      this.say("Getting ready…", { kind: "busy", share: 0 });
    } else if (message.type === "loading") {
      const share = message.total ? message.done / message.total : 0;
      const part = message.part ? ` ${message.part}` : "";
      this.say(`Loading${part}${message.total ? `: ${Math.round(share * 100)} %` : "…"}`, {
        kind: "busy", spoken: false, share: 0,
      });
    } else if (message.type === "step") {
      this.step(message, run, several);
    } else if (message.type === "decoding") {
      const which = several ? `image ${message.images[0] + 1} of ${run.images}` : "the picture";
      this.say(`Decoding ${which}: from latents to pixels…`, {
        kind: "busy", spoken: false, share: this.share,
      });
    } else if (message.type === "finished") {
      this.finished(message);
    } else if (message.type === "cancelled") {
      this.say("Discarded.");
    } else if (message.type === "failed") {
      this.problem(message.text);
    }
  }

  step(message, run, several) {
    const { index, total } = message;
    if (message.begins) this.tempo = [];
    if (message.seconds > 0) this.tempo = [...this.tempo, message.seconds].slice(-8);
    const pace = this.tempo.reduce((sum, s) => sum + s, 0) / (this.tempo.length || 1);
    const first = Math.min(...message.images);
    const whole = run.whole || total || 1;
    const at = message.at ?? index;
    const left = whole - at + Math.max(0, run.images - first - message.images.length) * whole;
    const larger = message.pass > 0;
    const one = larger ? "enlarging, step" : "step";
    const words = several ? `Image ${first + 1} of ${run.images}, ${one}` : one;
    const which = words[0].toUpperCase() + words.slice(1);
    const time = pace > 0 ? ` · ${duration(left * pace)} left` : "";
    this.share = (first * whole + at) / (run.images * whole);
    this.say(`${which} ${index} of ${total}${index < total ? time : ""}`, {
      kind: "busy", spoken: false, share: this.share,
    });
  }

  finished(message) {
    const took = `in ${message.seconds.toFixed(message.seconds < 10 ? 1 : 0)} s`;
    if (message.interrupted) this.say(`Stopped ${took}; this is the estimate so far.`);
    else this.say(`Done ${took}`);
  }
}

/** Seconds in words. */
export function duration(seconds) {
  if (seconds < 1) return "less than 1 s";
  if (seconds < 90) return `about ${Math.round(seconds)} s`;
  return `about ${Math.round(seconds / 60)} min`;
}
