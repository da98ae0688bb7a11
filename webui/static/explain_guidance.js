// Guidance: what the model expects from the prompt alone, from the negative prompt alone, and what
// guidance makes of both. Dragging asks nobody: the guided estimate is a sum of two that are here.

import { made } from "./dom.js";
import { Colours, heat, isKnown, numbers } from "./explain_data.js";
import { choice, figure, line, pane, plain } from "./explain_parts.js";

const MOST = 20;
const QUICK_MS = 700; // a model that answers so soon is asked for the other steps ahead
const REST_MS = 250;

export class View {
  constructor(root, page) {
    this.page = page;
    this.scale = null;
    this.guided = pane("Guided");
    this.cond = pane("Prompt alone");
    this.uncond = pane("Negative prompt alone");
    this.gap = pane("Where they differ");
    this.gap.canvas.classList.add("is-map");
    this.effect = pane("What the guides change");
    this.effect.canvas.classList.add("is-map");
    this.effect.figure.hidden = true;
    this.bare = false;
    this.guides = choice("Guides", [["on", "Guides on"], ["off", "Guides off"]], (value) => {
      this.bare = value === "off";
      this.show();
    });
    this.says = line();
    const label = made("label", { className: "v-ex-scale" });
    this.number = made("output", {});
    this.input = made("input", { type: "range", min: 0, max: MOST, step: 0.1, value: 7 });
    this.input.setAttribute("aria-label", "Guidance scale");
    label.append(made("span", { textContent: "Guidance scale (CFG)" }), this.number, this.input);
    this.formula = made("p", { className: "v-ex-formula" });
    this.means = made("p", { className: "v-ex-means" });
    this.jumps = choice(
      "Set the scale", [["0", "0"], ["1", "1"], ["run", "As painted"]],
      (value) => this.set(value === "run" ? this.said.head.cfg_scale : Number(value)),
    );
    const panel = made("div", { className: "v-ex-panel" }, label, this.jumps.element, this.guides.element, this.formula, this.means, this.says.element);
    this.panes = made("div", { className: "v-ex-panes" }, this.uncond.figure, this.guided.figure, this.cond.figure, this.gap.figure, this.effect.figure);
    this.guided.figure.classList.add("is-main");
    root.append(this.panes, panel);
    this.input.addEventListener("input", () => this.set(Number(this.input.value)));
    this.input.addEventListener("change", () => this.decodeSoon());
  }

  /** Where the numbers of a step are; `bare`: as they would be without the guides. */
  url(step, bare = this.bare) {
    const { id, image } = this.page.run;
    const query = bare ? "?without_guides=true" : "";
    return `/api/explain/inside/${id}/${image}/${step.pass}/${step.index}${query}`;
  }

  get hasGuides() {
    return Boolean(this.page.run.request.controls?.length);
  }

  async show() {
    this.guides.element.hidden = !this.hasGuides;
    if (!this.hasGuides) this.bare = false;
    this.guides.set(this.bare ? "off" : "on");
    const step = this.page.asking;
    const url = this.url(step);
    if (url === this.shown) return;
    this.shown = url;
    clearTimeout(this.timer);
    if (!isKnown(url)) this.says.say("Asking the model again at this step…");
    const began = performance.now();
    try {
      const said = await numbers(url);
      if (this.shown !== url) return;
      this.put(step, said);
      this.says.say("");
      await this.compared(step, url);
      if (performance.now() - began < QUICK_MS) this.ahead(step);
    } catch (error) {
      if (this.shown === url) this.says.say(error.message, "problem");
      this.shown = null;
    }
  }

  /** Where the estimate would be another one without the guides, at the scale of the run. */
  async compared(step, url) {
    this.effect.figure.hidden = !this.hasGuides;
    this.panes.classList.toggle("is-five", this.hasGuides);
    if (!this.hasGuides) return;
    const [own, bare] = await Promise.all([false, true].map((each) => numbers(this.url(step, each))));
    if (this.shown !== url) return;
    const [, h, w] = own.arrays.uncond.shape;
    const [one, two] = [own, bare].map((said) => guidedLatents(said, own.head.cfg_scale));
    const map = new Float32Array(h * w);
    for (let i = 0; i < one.length; i++) map[i % (h * w)] += (one[i] - two[i]) ** 2;
    const most = Math.sqrt(Math.max(...map));
    heat(this.effect.canvas, map.map(Math.sqrt), h, w, Math.max(most, 1e-6));
    this.effect.told.textContent = most
      ? `dark: nothing; pale: by ${figure(most)}`
      : "nothing: no guide acts at this step";
  }

  /** The other steps, nearest first, while the page rests on this one. */
  async ahead(step) {
    const others = this.page.run.steps.filter((one) => !one.last);
    others.sort((a, b) => Math.abs(a.at - step.at) - Math.abs(b.at - step.at));
    for (const one of others) {
      if (this.page.view !== "guidance" || this.shown !== this.url(step)) return;
      await numbers(this.url(one)).catch(() => null);
    }
  }

  put(step, said) {
    const { head, arrays } = said;
    const negative = this.page.run.request.negative_prompt.trim();
    this.uncond.title.textContent = negative ? "Negative prompt alone" : "No prompt at all";
    this.said = said;
    this.colours = new Colours(arrays.preview);
    // Several parts joined by AND count as one estimate: all their pulls together.
    const [, h, w] = arrays.uncond.shape;
    const low = arrays.uncond.data;
    const high = guidedLatents(said, 1);
    this.low = this.colours.levels(arrays.uncond);
    this.high = this.colours.levels({ shape: arrays.uncond.shape, data: high });
    this.colours.draw(this.uncond.canvas, [[1, this.low]]);
    this.colours.draw(this.cond.canvas, [[1, this.high]]);
    for (const one of [this.cond, this.uncond]) {
      one.developed = null;
      one.told.textContent = "quick view";
    }
    const gap = new Float32Array(h * w);
    for (let i = 0; i < high.length; i++) gap[i % (h * w)] += (high[i] - low[i]) ** 2;
    const most = Math.sqrt(Math.max(...gap));
    heat(this.gap.canvas, gap.map(Math.sqrt), h, w, most);
    this.gap.told.textContent = `dark: they agree; pale: they differ by ${figure(most)}`;
    if (this.scale === null || this.run !== this.page.run) this.scale = head.cfg_scale;
    this.run = this.page.run;
    this.input.max = Math.max(MOST, head.cfg_scale);
    this.set(this.scale);
    this.decodeSoon();
  }

  /** One more sum: no request, and no network. */
  set(scale) {
    this.scale = scale;
    this.input.value = scale;
    if (!this.said) return;
    this.colours.draw(this.guided.canvas, [[1 - scale, this.low], [scale, this.high]]);
    this.number.textContent = plain(scale);
    this.guided.told.textContent = "quick view";
    const low = this.uncond.title.textContent.toLowerCase();
    this.formula.textContent = `guided = ${low} + ${plain(scale)} × (prompt alone − ${low})`;
    this.means.textContent = meaning(scale, this.said.head.cfg_scale, low);
    this.jumps.set(scale === 0 ? "0" : scale === 1 ? "1" : scale === this.said.head.cfg_scale ? "run" : "");
    this.decodeSoon();
  }

  /** When the hand rests, the same estimate through the model's own VAE. */
  decodeSoon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.decode(), REST_MS);
  }

  async decode() {
    const { shown, scale } = this;
    if (!shown || this.page.view !== "guidance") return;
    await this.developed(this.guided, scale, () => this.shown === shown && this.scale === scale);
    for (const [ends, side] of [[this.cond, 1], [this.uncond, 0]]) {
      if (ends.developed !== shown) await this.developed(ends, side, () => this.shown === shown);
    }
  }

  async developed(one, scale, still) {
    const { shown } = this;
    const [path, query] = shown.split("?");
    const asks = query ? `${query}&cfg_scale=${scale}` : `cfg_scale=${scale}`;
    const answer = await fetch(`${path}.jpg?${asks}`).catch(() => null);
    if (!answer?.ok || !still()) return;
    const bitmap = await createImageBitmap(await answer.blob());
    if (!still()) return;
    one.canvas.width = bitmap.width;
    one.canvas.height = bitmap.height;
    one.canvas.getContext("2d").drawImage(bitmap, 0, 0);
    one.told.textContent = "through the VAE";
    one.developed = shown;
  }
}

/** The estimate for both prompts, guided by a scale. */
function guidedLatents({ head, arrays }, scale) {
  const low = arrays.uncond.data;
  const guided = Float32Array.from(low);
  head.weights.forEach((weight, part) => {
    const cond = arrays[`cond${part}`].data;
    for (let i = 0; i < guided.length; i++) guided[i] += scale * weight * (cond[i] - low[i]);
  });
  return guided;
}

function meaning(scale, painted, low) {
  if (scale === 0) return `At 0 the prompt has no say: this is ${low}, exactly.`;
  if (scale === 1) return `At 1 there is no guidance: this is the prompt alone, exactly.`;
  if (scale < 1) return "Between 0 and 1: somewhere on the way from one estimate to the other.";
  const times = `${plain(scale)} times as far from ${low} as the prompt alone is`;
  if (Math.abs(scale - painted) < 0.05) return `What this picture was painted with: ${times}.`;
  return `Beyond 1 the estimate is pushed on: ${times}. Far beyond, colours burn.`;
}
