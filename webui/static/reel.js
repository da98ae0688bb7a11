// One image's frames: which steps there are, and their pictures as bitmaps, in both views.
// Fetched once; from then on scrubbing needs nothing but this object.

const AT_ONCE = 4;
const PIXELS = 64 * 2 ** 20; // of all bitmaps of one reel together: 256 MB

export const VIEWS = ["latents", "denoised"];

export class Reel {
  constructor(job, image, changed) {
    this.job = job;
    this.image = image;
    this.changed = changed;
    this.total = 0;
    this.first = 0; // a branch begins later
    this.reached = -1;
    this.passes = []; // what is planned: [{width, height, steps}]
    this.begins = []; // where each pass begins that has begun: [{at, pass, offset}]
    this.schedule = [];
    this.sigmas = [];
    this.timesteps = [];
    this.width = 0;
    this.height = 0;
    this.done = null;
    this.final = null;
    this.over = false;
    this.bitmaps = { latents: [], denoised: [] };
    this.full = { latents: [], denoised: [] };
    this.known = { latents: new Set(), denoised: new Set() };
    this.busy = new Set();
    this.closed = false;
    this.pushed = true;
  }

  /** A step message: there is one more frame, or two. `at` counts on through all passes. */
  step(message) {
    const { at, index, pass } = message;
    if (message.begins) {
      if (this.reached < 0) this.first = at;
      this.begins.push({ at, pass, offset: at - index });
      (message.sigmas || []).forEach((sigma, k) => (this.schedule[at - index + k] = sigma));
      const planned = this.passes[pass];
      if (planned && !this.done) [this.width, this.height] = [planned.width, planned.height];
    }
    const later = this.passes.slice(pass + 1).reduce((sum, one) => sum + one.steps + 1, 0);
    this.total = at + message.total - index + later;
    this.reached = Math.max(this.reached, at);
    this.sigmas[at] = message.sigma;
    this.timesteps[at] = message.timestep;
    for (const frame of message.frames || []) {
      const [image, view] = frame.split("/");
      if (Number(image) === this.image) this.known[view].add(at);
    }
    this.changed(this);
  }

  /** Nothing more is pushed: fetch what is missing. */
  end() {
    this.over = true;
    this.pushed = false;
    this.fill();
  }

  get last() {
    return Math.max(0, this.reached);
  }

  /** The frame to show at a step: itself, or the nearest earlier one that is here. */
  frame(view, index) {
    if (index >= this.last && this.final && (view === "denoised" || this.done?.finished)) {
      return this.final;
    }
    const begun = this.begins.some(({ at }) => at === index) || index === 0;
    const shown = view === "denoised" && begun && !this.known.denoised.has(index) ? "latents" : view;
    for (let k = index; k >= this.first; k--) {
      if (this.bitmaps[shown][k]) return this.bitmaps[shown][k];
    }
    return this.bitmaps.latents[this.first] || null;
  }

  has(view, index) {
    return Boolean(this.bitmaps[view][index]);
  }

  /** A frame that came over the WebSocket. */
  async push(view, index, blob) {
    await this.keep(view, index, blob, false);
    this.fill();
  }

  async keep(view, index, blob, full) {
    const bitmap = await this.decoded(blob).catch(() => null);
    if (!bitmap) return;
    if (this.closed || (this.full[view][index] && !full)) {
      bitmap.close();
      return;
    }
    this.bitmaps[view][index]?.close();
    this.bitmaps[view][index] = bitmap;
    this.full[view][index] = full;
    this.changed(this);
  }

  /** A bitmap no larger than fits, all frames counted. */
  async decoded(blob) {
    const most = PIXELS / (2 * (this.total + 1));
    const size = this.width * this.height;
    if (size > most) {
      const resizeWidth = Math.floor(this.width * Math.sqrt(most / size));
      return createImageBitmap(blob, { resizeWidth, resizeQuality: "high" });
    }
    return createImageBitmap(blob);
  }

  url(view, index, full = false) {
    const query = full ? "?full=1" : "";
    return `/frames/${this.job}/${this.image}/${view}/${index}.jpg${query}`;
  }

  /** Fetches the frames that are not here, a few at a time, the noisy view first. */
  fill() {
    if (this.closed) return;
    for (const view of VIEWS) {
      // While frames are pushed, the newest is on its way already.
      const newest = this.pushed ? this.bitmaps[view].length - 1 : Infinity;
      for (const index of this.known[view]) {
        if (this.busy.size >= AT_ONCE) return;
        const name = `${view}/${index}`;
        if (index > newest || this.bitmaps[view][index] || this.busy.has(name)) continue;
        this.busy.add(name);
        this.fetched(view, index, false).finally(() => {
          this.busy.delete(name);
          this.fill();
        });
      }
    }
  }

  async fetched(view, index, full) {
    const answer = await fetch(this.url(view, index, full)).catch(() => null);
    if (!answer?.ok) {
      if (!full) this.known[view].delete(index);
      return answer?.status ?? 0;
    }
    if (answer.status === 200) await this.keep(view, index, await answer.blob(), full);
    return answer.status;
  }

  /** The finished picture, as it was saved. */
  async finish(done) {
    this.done = done;
    this.width = done.width;
    this.height = done.height;
    const answer = await fetch(`/images/${this.job}/${this.image}.png`).catch(() => null);
    const final = answer?.ok
      ? await createImageBitmap(await answer.blob()).catch(() => null)
      : null;
    if (this.closed) {
      final?.close();
      return;
    }
    this.final?.close();
    this.final = final;
    this.changed(this);
  }

  get complete() {
    return VIEWS.every((view) => [...this.known[view]].every((k) => this.bitmaps[view][k]));
  }

  close() {
    this.closed = true;
    for (const view of VIEWS) this.bitmaps[view].forEach((bitmap) => bitmap.close());
    this.final?.close();
    this.bitmaps = { latents: [], denoised: [] };
    this.final = null;
  }
}
