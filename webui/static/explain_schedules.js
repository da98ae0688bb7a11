// Schedules: how the noise falls, step by step, in every schedule there is, and one drawn by hand.

import { asked, made } from "./dom.js";
import { numbers } from "./explain_data.js";
import { choice, line, plain } from "./explain_parts.js";

const NAMES = "http://www.w3.org/2000/svg";
const LOWEST = 0.01; // of σ on a logarithmic axis: 0 itself has no place there
const EDGE = { left: 46, right: 16, top: 32, bottom: 30 };
const SHOWN = ["karras", "normal", "exponential", "beta"];
const HUES = [172, 36, 285, 345, 195, 95, 315, 18, 245, 140, 60, 270, 215, 120];

const MEASURES = {
  sigma: { title: "Noise level σ", of: (sigmas) => sigmas, log: true,
    means: "How much noise there is, on a logarithmic axis. A run starts at the left with noise alone, and ends at 0, below the axis." },
  kept: { title: "ᾱ", of: (sigmas) => sigmas.map((s) => 1 / (1 + s * s)),
    means: "ᾱ = 1 / (1 + σ²): which share of the latents' variance is picture. 0 is noise, 1 the picture." },
  snr: { title: "log SNR", of: (sigmas) => sigmas.map((s) => (s > 0 ? -2 * Math.log(s) : null)),
    means: "The logarithm of signal over noise, −2 ln σ. At 0 there is as much picture as noise." },
  size: { title: "Step size", of: (sigmas) => sigmas.slice(0, -1).map((s, k) => s - sigmas[k + 1]), log: true,
    means: "How far σ falls in each step, on a logarithmic axis. Even steps are a flat line." },
};

/** A few round numbers between two. */
function round(low, high) {
  const wide = (high - low) / 4;
  const size = 10 ** Math.floor(Math.log10(wide));
  const step = [1, 2, 5, 10].find((times) => times * size >= wide) * size;
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, k) => (first + k) * step);
}

export class View {
  constructor(root, page) {
    this.page = page;
    this.measure = "sigma";
    this.chosen = new Set(SHOWN);
    this.drawn = null;
    [this.width, this.height] = [900, 420];
    this.says = line();
    this.measures = choice(
      "What is plotted", Object.entries(MEASURES).map(([name, { title }]) => [name, title]),
      (name) => {
        this.measure = name;
        this.draw();
      },
    );
    this.steps = made("input", { type: "number", min: 2, max: 150, value: 20, inputMode: "numeric" });
    this.svg = document.createElementNS(NAMES, "svg");
    this.svg.setAttribute("class", "v-ex-plot");
    this.svg.setAttribute("role", "img");
    this.means = made("p", { className: "v-ex-note" });
    this.legend = made("div", { className: "v-ex-legend" });
    this.hand = made("button", { type: "button", className: "v-quiet v-toggle", textContent: "Draw one by hand" });
    this.paint = made("button", { type: "button", className: "v-quiet", textContent: "Paint with it", hidden: true });
    this.clear = made("button", { type: "button", className: "v-quiet", textContent: "Clear", hidden: true });
    this.result = made("figure", { className: "v-ex-pane v-ex-result", hidden: true });
    root.append(
      made("div", { className: "v-ex-row" }, this.measures.element, made("label", { className: "v-ex-field is-short" }, "Steps", this.steps)),
      this.svg, this.means, this.legend,
      made("div", { className: "v-ex-row" }, this.hand, this.paint, this.clear), this.says.element, this.result,
    );
    this.listen();
  }

  listen() {
    this.steps.addEventListener("change", () => this.load());
    new ResizeObserver(() => {
      if (!this.svg.clientWidth) return;
      this.width = this.svg.clientWidth;
      this.height = Math.round(Math.min(460, Math.max(280, this.width * 0.45)));
      this.draw();
    }).observe(this.svg);
    this.hand.addEventListener("click", () => this.drawing(this.hand.getAttribute("aria-pressed") !== "true"));
    this.clear.addEventListener("click", () => {
      this.drawn = null;
      this.draw();
    });
    this.paint.addEventListener("click", () => this.painted());
    this.svg.addEventListener("pointerdown", (event) => {
      if (this.hand.getAttribute("aria-pressed") !== "true") return;
      event.preventDefault();
      this.svg.setPointerCapture(event.pointerId);
      this.last = null;
      this.pulled(event);
    });
    this.svg.addEventListener("pointermove", (event) => {
      if (this.svg.hasPointerCapture(event.pointerId)) this.pulled(event);
    });
  }

  async show() {
    const { run } = this.page;
    if (run && run !== this.run) {
      this.run = run;
      this.steps.value = Math.max(2, run.request.steps);
      this.spans = null;
      this.load();
      this.windows(run);
    } else if (!this.found) this.load();
  }

  async load() {
    const steps = Math.min(150, Math.max(2, Math.round(Number(this.steps.value)) || 20));
    this.steps.value = steps;
    const asks = new URLSearchParams({ steps, checkpoint: this.run?.request.checkpoint || "" });
    this.says.say(this.found ? "" : "Asking the model for its noise levels…");
    try {
      this.found = await numbers(`/api/explain/schedules?${asks}`);
      this.count = steps;
      if (this.drawn && this.drawn.length !== steps + 1) this.drawn = null;
      this.says.say("");
      this.told();
      this.draw();
    } catch (error) {
      this.says.say(error.message, "problem");
    }
  }

  /** Where wording or checkpoint change in the run that is looked at. */
  async windows(run) {
    const found = await numbers(`/api/explain/words/${run.id}`).catch(() => null);
    if (this.run !== run || !found || found.head.positive.length < 2) return;
    const shares = found.head.positive.map((over) => ({
      from: over.first / found.head.intervals,
      to: over.last / found.head.intervals,
      words: over.parts.map(({ words }) => words.filter((w) => w.kind === "word").map((w) => w.text).join(" ")).join(" and "),
      checkpoint: over.checkpoint,
    }));
    const models = new Set(shares.map((one) => one.checkpoint));
    this.spans = shares.map((one) => ({ ...one, label: models.size > 1 ? `${one.checkpoint}: ${one.words}` : one.words }));
    this.draw();
  }

  told() {
    this.legend.replaceChildren(
      ...this.found.head.schedules.map(({ name, title, help }, index) => {
        const button = made("button", { type: "button", title: help }, made("i", {}), title);
        button.style.setProperty("--hue", HUES[index % HUES.length]);
        button.setAttribute("aria-pressed", String(this.chosen.has(name)));
        button.addEventListener("click", () => {
          if (!this.chosen.delete(name)) this.chosen.add(name);
          button.setAttribute("aria-pressed", String(this.chosen.has(name)));
          this.draw();
        });
        button.addEventListener("pointerenter", () => this.draw(name));
        button.addEventListener("pointerleave", () => this.draw());
        return button;
      }),
    );
  }

  /** The lines that are plotted: {name, values, hue | kind}. */
  lines() {
    const { of } = MEASURES[this.measure];
    const all = this.found.head.schedules.map(({ name }, index) => ({
      name, hue: HUES[index % HUES.length], values: of([...this.found.arrays[name].data]),
    }));
    const walked = this.walked();
    if (walked) all.push({ name: "run", kind: "run", values: of(walked) });
    if (this.drawn) all.push({ name: "drawn", kind: "drawn", values: of(this.drawn) });
    return all;
  }

  /** The levels of the run that is looked at. */
  walked() {
    const steps = (this.run?.steps || []).filter((step) => step.pass === 0);
    return steps.length > 1 ? steps.map((step) => step.sigma) : null;
  }

  scales(lines) {
    const { log } = MEASURES[this.measure];
    const floor = this.measure === "sigma" ? LOWEST : 1e-3;
    const values = lines.flatMap((one) => one.values.filter((v) => v !== null));
    const [low, high] = log
      ? [Math.log10(floor), Math.log10(Math.max(...values)) + 0.05]
      : [Math.min(...values), Math.max(...values)];
    const y = (value) => {
      const at = log ? Math.log10(Math.max(value, floor)) : value;
      return EDGE.top + (1 - (at - low) / (high - low)) * (this.height - EDGE.top - EDGE.bottom);
    };
    const back = (place) => 10 ** (low + (1 - (place - EDGE.top) / (this.height - EDGE.top - EDGE.bottom)) * (high - low));
    const ticks = log
      ? [0.001, 0.01, 0.1, 1, 10].filter((v) => Math.log10(v) >= low && Math.log10(v) <= high)
      : round(low, high);
    return { y, back, ticks };
  }

  x(index, count) {
    return EDGE.left + (index / count) * (this.width - EDGE.left - EDGE.right);
  }

  draw(hovered = null) {
    if (!this.found) return;
    const lines = this.lines();
    const { y, back, ticks } = this.scales(lines);
    this.back = back;
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.svg.replaceChildren();
    const put = (tag, attributes, text = "") => {
      const element = document.createElementNS(NAMES, tag);
      for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
      element.textContent = text;
      this.svg.append(element);
      return element;
    };
    for (const [index, span] of (this.spans || []).entries()) {
      const from = this.x(span.from, 1);
      const width = this.x(span.to, 1) - from;
      put("rect", { x: from, width, y: EDGE.top, height: this.height - EDGE.top - EDGE.bottom, class: `span is-${index % 2}` });
      put("text", { x: from + 6, y: EDGE.top - 10, class: "span" }, span.label.slice(0, Math.floor(width / 7)));
    }
    for (const tick of ticks) {
      put("line", { x1: EDGE.left, x2: this.width - EDGE.right, y1: y(tick), y2: y(tick), class: "grid" });
      put("text", { x: EDGE.left - 8, y: y(tick) + 4, "text-anchor": "end" }, plain(tick));
    }
    const stride = Math.ceil(this.count / (this.width < 500 ? 6 : 12));
    for (let step = 0; step <= this.count; step += stride) {
      const said = step || this.width < 500 ? step : "step 0";
      put("text", { x: this.x(step, this.count), y: this.height - 10, "text-anchor": "middle" }, said);
    }
    for (const one of lines) {
      const shown = one.kind || this.chosen.has(one.name) || one.name === hovered;
      if (!shown) continue;
      const count = one.kind === "run" ? this.walked().length - 1 : this.found.arrays[one.name]?.data.length - 1 || this.count;
      const points = one.values
        .map((value, k) => (value === null ? null : `${this.x(k, count).toFixed(1)},${y(value).toFixed(1)}`))
        .filter(Boolean);
      const path = put("polyline", { points: points.join(" "), class: one.kind || (one.name === hovered ? "is-hovered" : "") });
      if (one.hue !== undefined) path.style.setProperty("--hue", one.hue);
      for (const point of one.kind ? points : []) {
        const [cx, cy] = point.split(",");
        put("circle", { cx, cy, r: 3, class: one.kind });
      }
    }
    this.means.textContent = MEASURES[this.measure].means + (this.walked() ? " The thick line is what your picture walked." : "");
    this.paint.hidden = this.clear.hidden = !this.drawn;
  }

  drawing(on) {
    this.hand.setAttribute("aria-pressed", String(on));
    this.svg.classList.toggle("is-drawing", on);
    if (!on) return;
    this.measure = "sigma";
    this.measures.set("sigma");
    this.drawn ||= [...this.found.arrays.karras.data];
    this.says.say("Pull the points up and down. Levels always fall, and the last one is 0");
    this.draw();
  }

  /** The point under the hand, and those passed on the way there, take its height. */
  pulled(event) {
    const box = this.svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * this.width;
    const y = ((event.clientY - box.top) / box.height) * this.height;
    const count = this.drawn.length - 1;
    const index = Math.round(((x - EDGE.left) / (this.width - EDGE.left - EDGE.right)) * count);
    if (index < 0 || index >= count) return;
    const highest = this.found.arrays.training.data.at(-1);
    const level = Math.min(highest, Math.max(LOWEST, this.back(y)));
    const from = this.last ?? index;
    for (let k = Math.min(from, index); k <= Math.max(from, index); k++) this.drawn[k] = level;
    this.last = index;
    this.fallen(index);
    this.draw();
  }

  /** What does not fall any more gives way, on both sides of the point that was pulled. */
  fallen(index) {
    const levels = this.drawn;
    for (let k = index - 1; k >= 0; k--) levels[k] = Math.max(levels[k], levels[k + 1] * 1.001);
    for (let k = index + 1; k < levels.length - 1; k++) levels[k] = Math.min(levels[k], levels[k - 1] / 1.001);
    levels[levels.length - 1] = 0;
  }

  /** The run's own request with this schedule, as a job of its own. */
  async painted() {
    const { run } = this;
    if (!run) {
      this.says.say("Make a picture first; it is painted again with this schedule.");
      return;
    }
    const { seed, ...rest } = run.request;
    // JavaScript can't hold the largest seeds as numbers.
    const body = `{"seed":${seed},${JSON.stringify({ ...rest, images: 1, branch: null, schedule: this.drawn, schedule_options: {} , steps: this.drawn.length - 1 }).slice(1)}`;
    try {
      this.says.say("Painting…");
      const { id } = await asked("/api/jobs", { method: "POST", headers: { "content-type": "application/json" }, body });
      let job = { state: "running" };
      while (["running", "waiting"].includes(job.state)) {
        await new Promise((resolve) => setTimeout(resolve, 400));
        job = await asked(`/api/jobs/${id}`);
      }
      if (!job.images.length) throw new Error("This schedule came to no picture");
      const before = made("img", { src: `/images/${run.id}/${run.image}.png`, alt: "Painted with its own schedule" });
      const after = made("img", { src: `/images/${id}/0.png`, alt: "Painted with the drawn schedule" });
      this.result.replaceChildren(
        made("figure", {}, before, made("figcaption", {}, made("b", { textContent: "Its own schedule" }))),
        made("figure", {}, after, made("figcaption", {}, made("b", { textContent: "The one you drew" }), made("span", { textContent: "kept in its settings, and painted the same again" }))),
      );
      this.result.hidden = false;
      this.says.say("");
      this.page.look();
    } catch (error) {
      this.says.say(error.message, "problem");
    }
  }
}
