// The noise axis under the strength: from pure noise to the picture, with the place where a run of
// this strength begins. Its scale is what the chosen schedule walks.

import { asked, part } from "./dom.js";

const PAUSE_MS = 150;
const AGAIN_MS = 1500; // while the engine gets ready
const OPTIONS = ["rho", "sigma_min", "sigma_max"];

export class Axis {
  constructor(form) {
    this.form = form;
    this.known = new Map(); // what was asked -> {sigmas, timesteps}
    this.asking = "";
    new MutationObserver(() => this.draw()).observe(document.body, { attributeFilter: ["class"] });
    // It has no size while another tab is on show.
    this.sizes = new ResizeObserver(() => this.draw());
    this.watched = null;
  }

  draw(values = this.form.values) {
    const canvas = part("axis");
    if (!canvas || values.mode === "text") return;
    if (canvas !== this.watched) {
      this.sizes.disconnect();
      this.sizes.observe(canvas);
      this.watched = canvas;
    }
    const steps = Math.max(1, Math.round(Number(values.steps)) || 20);
    const strength = Math.max(0, Math.min(1, Number(values["start.strength"] ?? 0.75)));
    // A1111's count: above 0 at least one step, and 1 begins with noise alone.
    const walked = strength > 0 ? Math.min(steps, Math.floor(Math.min(strength, 0.999) * steps) + 1) : 0;
    const levels = this.levels(values, steps);
    this.say(walked, steps, levels);
    this.paint(canvas, walked, steps, levels);
  }

  say(walked, steps, levels) {
    const from = steps - walked;
    let words = walked ? `${walked} of ${steps} steps` : "No steps: to latents and back";
    if (walked && levels && levels.sigmas.length === steps + 1) {
      words += `, from σ ${levels.sigmas[from].toFixed(2)}, timestep ${Math.round(levels.timesteps[from])}`;
    }
    const said = part("axis-said");
    if (said.textContent !== words) said.textContent = words;
    part("axis").setAttribute("aria-label", `Where on the noise axis the run begins: ${words}`);
  }

  /** Steps from left to right, as high as the noise is at each. */
  paint(canvas, walked, steps, levels) {
    const box = canvas.getBoundingClientRect();
    if (!box.width) return;
    const dense = devicePixelRatio || 1;
    canvas.width = Math.round(box.width * dense);
    canvas.height = Math.round(box.height * dense);
    const pen = canvas.getContext("2d");
    pen.scale(dense, dense);
    const style = getComputedStyle(canvas);
    const colour = (name) => style.getPropertyValue(name);
    const fits = levels && levels.sigmas.length === steps + 1;
    const top = fits ? Math.log1p(levels.sigmas[0]) : 1;
    const high = (k) => (fits ? Math.log1p(levels.sigmas[k]) / top : 1 - k / steps);
    const count = Math.min(steps, Math.max(1, Math.floor(box.width / 3)));
    const wide = box.width / count;
    for (let i = 0; i < count; i++) {
      const step = Math.floor((i * steps) / count);
      const tall = Math.max(2, high(step) * (box.height - 4));
      pen.fillStyle = colour(step >= steps - walked ? "--v-brass" : "--v-line");
      pen.fillRect(i * wide + 0.5, box.height - tall, Math.max(1, wide - 1), tall);
    }
    if (!walked) return;
    const x = Math.min(box.width - 1.5, Math.max(1, ((steps - walked) / steps) * box.width));
    pen.fillStyle = colour("--v-ink");
    pen.fillRect(x - 1, 0, 2, box.height);
  }

  /** What is known of the levels; asked for where it is not. */
  levels(values, steps) {
    const { sampler, schedule } = values;
    const query = new URLSearchParams({ sampler, schedule: schedule || "automatic", steps });
    for (const name of OPTIONS) {
      const value = values[`schedule_options.${name}`];
      if (value && this.form.shaping().includes(name)) query.set(name, value);
    }
    const discard = values["schedule_options.discard_penultimate"];
    if (discard) query.set("discard", discard);
    const key = String(query);
    if (!this.known.has(key) && sampler && this.asking !== key) {
      this.asking = key;
      clearTimeout(this.pause);
      this.pause = setTimeout(() => this.ask(key), PAUSE_MS);
    }
    return this.known.get(key);
  }

  async ask(key) {
    const levels = await asked(`/api/levels?${key}`).catch(() => null);
    if (this.asking === key) this.asking = "";
    if (levels && !levels.sigmas) setTimeout(() => this.draw(), AGAIN_MS);
    if (!levels?.sigmas) return;
    this.known.set(key, levels);
    this.draw();
  }
}
