// While the engine rests: the linear previews on the stage become full decodes, one after another,
// the nearest to where somebody looks first.

import { VIEWS } from "./reel.js";

const RETRY_MS = 800;
const SLOW_MS = 2500; // where one decode takes longer than this, only the frame looked at is asked for

// Above this noise level a decoder sees nothing it knows and paints blobs; the linear preview shows
// noise as noise.
const DECODABLE = 1;

export class Develop {
  constructor(timeline) {
    this.timeline = timeline;
    this.running = 0;
  }

  start() {
    this.stop();
    this.slow = false;
    this.work(++this.running);
  }

  stop() {
    this.running += 1;
  }

  async work(turn) {
    while (turn === this.running) {
      const reel = this.timeline.reel;
      if (!reel || reel.closed || !reel.over) return;
      if (!reel.complete || this.timeline.timer) {
        await pause(400);
        continue;
      }
      const next = this.next(reel);
      if (!next) {
        if (!this.slow) return;
        await pause(600);
        continue;
      }
      const began = performance.now();
      const status = await reel.fetched(next.view, next.index, true);
      if (status === 202) await pause(RETRY_MS);
      else if (status !== 200) return;
      else if (performance.now() - began > SLOW_MS) this.slow = true;
    }
  }

  /** The nearest frame that is not a full decode yet, in the view that is shown first. */
  next(reel) {
    const { index, view } = this.timeline;
    const order = [view, ...VIEWS.filter((other) => other !== view)];
    for (const shown of this.slow ? [view] : order) {
      const waiting = [...reel.known[shown]]
        .filter((k) => !reel.full[shown][k] && (!this.slow || k === index))
        .filter((k) => shown === "denoised" || reel.sigmas[k] <= DECODABLE)
        .sort((a, b) => Math.abs(a - index) - Math.abs(b - index));
      if (waiting.length) return { view: shown, index: waiting[0] };
    }
    return null;
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
