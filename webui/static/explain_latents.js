// Latents: what the model really works on. Four channels at every step, how their numbers are spread,
// and what the VAE keeps and loses of a picture.

import { asked, made } from "./dom.js";
import { Colours, heat, numbers } from "./explain_data.js";
import { choice, figure, line, pane } from "./explain_parts.js";

const BINS = 48;
const SPREAD = 4; // of the histograms, in numbers on both sides of 0
const REST_MS = 250;

export class View {
  constructor(root, page) {
    this.page = page;
    this.view = "x";
    this.says = line();
    this.views = choice(
      "What is shown of the step", [["x", "Noisy"], ["denoised", "Estimate"], ["noise", "Predicted noise"]],
      (view) => {
        this.view = view;
        this.draw();
        this.saves();
      },
    );
    this.whole = pane("As colours", "by the quick view");
    this.channels = made("div", { className: "v-ex-channels" });
    this.about = made("p", { className: "v-ex-note" });
    this.exports = made("div", { className: "v-ex-row" });
    root.append(
      this.views.element,
      made("div", { className: "v-ex-spread" }, this.whole.figure, this.channels),
      this.about, this.says.element,
      made("div", {}, made("h3", { textContent: "Take the timeline along" }), this.exports),
      this.vae(),
    );
  }

  /** What the VAE does to the finished picture. */
  vae() {
    this.before = pane("The picture");
    this.behind = pane("Through the VAE and back");
    this.apart = pane("What became another");
    this.nudge = made("input", { type: "range", min: -12, max: 12, step: 1, value: 0 });
    this.nudge.setAttribute("aria-label", "Nudge of one latent number");
    this.nudged = made("output", { textContent: "0" });
    this.channel = choice("Channel", [[0, "Channel 1"], [1, "Channel 2"], [2, "Channel 3"], [3, "Channel 4"]], (channel) => {
      this.nudgeChannel = Number(channel);
      this.nudgeSoon();
    });
    this.nudgeChannel = 0;
    this.cell = made("i", { hidden: true });
    const over = made("div", { className: "v-ex-over" }, this.behind.canvas, this.cell);
    this.behind.figure.prepend(over);
    this.lost = made("p", { className: "v-ex-note" });
    over.addEventListener("click", (event) => {
      const box = over.getBoundingClientRect();
      this.spot = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
      this.nudgeSoon();
    });
    this.nudge.addEventListener("input", () => this.nudgeSoon());
    const scale = made("label", { className: "v-ex-scale" }, made("span", { textContent: "Nudge one latent number by" }), this.nudged, this.nudge);
    this.begin = made("button", { type: "button", className: "v-quiet", textContent: "Send the finished picture through the VAE" });
    this.begin.addEventListener("click", () => this.through());
    this.trial = made(
      "div", { hidden: true, className: "v-ex-panel" },
      made("div", { className: "v-ex-panes" }, this.before.figure, this.behind.figure, this.apart.figure),
      this.lost, scale, this.channel.element,
      made("p", { className: "v-ex-note", textContent: "Click into the second picture to choose which cell. One number of one cell changes a whole patch and its neighbours: the decoder looks around. Far off it dims everything a little, for the decoder's norms look at the whole picture." }),
    );
    return made("div", {}, made("h3", { textContent: "What the VAE keeps" }), this.begin, this.trial);
  }

  async show() {
    const { id, image, pictures } = this.page.run;
    const url = `/api/explain/latents/${id}/${image}`;
    this.begin.disabled = !pictures.includes(image);
    if (url !== this.shown) {
      this.shown = url;
      this.trial.hidden = true;
      this.begin.hidden = false;
      this.saves();
      try {
        this.found = await numbers(url);
        if (this.shown !== url) return;
        this.colours = new Colours(this.found.arrays.preview);
        this.says.say("");
      } catch (error) {
        this.shown = null;
        this.says.say(error.message, "problem");
        return;
      }
    }
    this.draw();
  }

  saves() {
    const { id, image } = this.page.run;
    const view = { x: "latents", denoised: "denoised", noise: "noise" }[this.view];
    this.exports.replaceChildren(
      ...[["gif", "GIF"], ["webp", "WebP"], ["png", "Contact sheet (PNG)"]].map(([kind, title]) =>
        made("a", { className: "v-quiet", textContent: title, href: `/api/explain/timeline/${id}/${image}/${view}.${kind}`, download: "" }),
      ),
    );
  }

  /** The numbers of a step in the chosen view; the noise is what stands between x and the estimate. */
  values() {
    const { at } = this.page;
    const x = this.found.arrays[`x${at}`];
    const estimate = this.found.arrays[`denoised${at}`];
    const { sigma } = this.page.run.byPlace.get(at);
    if (this.view === "x") return x;
    if (!estimate) return null;
    if (this.view === "denoised") return estimate;
    if (!(sigma > 0)) return null;
    const scale = Math.sqrt(1 + sigma * sigma);
    return { shape: x.shape, data: x.data.map((value, i) => (value * scale - estimate.data[i]) / sigma) };
  }

  draw() {
    if (!this.found) return;
    const values = this.values();
    this.channels.hidden = this.whole.figure.hidden = !values;
    if (!values) {
      this.about.textContent = this.page.at === this.page.run.first
        ? "At the first step the model has said nothing yet. Go one step on."
        : "At the end there is no noise left to predict.";
      return;
    }
    this.colours.draw(this.whole.canvas, [[1, this.colours.levels(values)]]);
    const [channels, h, w] = values.shape;
    while (this.channels.children.length > channels) this.channels.lastElementChild.remove();
    for (let c = 0; c < channels; c++) {
      const own = this.channels.children[c] || this.channels.appendChild(this.made(c));
      this.channelled(own, values.data.subarray(c * h * w, (c + 1) * h * w), h, w);
    }
    this.about.textContent = {
      x: `${channels} channels of ${w} × ${h} numbers: this and the prompt are all the model is given. Shown at unit variance, as the network wants them.`,
      denoised: "What the model takes the finished latents to be, from where the last step began.",
      noise: "The noise that the model takes to be in them: what is left when the estimate is taken away, divided by σ. It is close to a bell of width 1 at every step.",
    }[this.view];
  }

  made(c) {
    const map = made("canvas", { className: "is-map" });
    const bars = made("canvas", { width: BINS * 4, height: 60, className: "is-bars" });
    return made("figure", { className: "v-ex-pane" }, map, bars, made("figcaption", {}, made("b", { textContent: `Channel ${c + 1}` }), made("span", {})));
  }

  channelled(own, data, h, w) {
    const [map, bars] = own.querySelectorAll("canvas");
    [map.width, map.height] = [w, h];
    const image = map.getContext("2d").createImageData(w, h);
    const counts = new Uint32Array(BINS);
    let sum = 0;
    let squares = 0;
    data.forEach((value, i) => {
      const grey = 128 + (value / 3) * 127;
      image.data.set([grey, grey, grey, 255], i * 4);
      const bin = Math.floor(((value + SPREAD) / (2 * SPREAD)) * BINS);
      counts[Math.min(BINS - 1, Math.max(0, bin))] += 1;
      sum += value;
      squares += value * value;
    });
    map.getContext("2d").putImageData(image, 0, 0);
    const mean = sum / data.length;
    const deviation = Math.sqrt(Math.max(0, squares / data.length - mean * mean));
    own.querySelector("figcaption span").textContent = `mean ${figure(mean)}, deviation ${figure(deviation)}`;
    const context = bars.getContext("2d");
    const most = Math.max(...counts);
    context.clearRect(0, 0, bars.width, bars.height);
    context.fillStyle = getComputedStyle(bars).color;
    counts.forEach((count, k) => {
      const tall = (count / most) * bars.height;
      context.fillRect(k * 4, bars.height - tall, 3, tall);
    });
  }

  async through() {
    const { id, image, request } = this.page.run;
    this.begin.disabled = true;
    this.says.say("Through the VAE…");
    try {
      const whole = await fetch(`/images/${id}/${image}.png`);
      const { name } = await asked("/api/pictures", { method: "POST", body: await whole.blob() });
      this.name = name;
      this.checkpoint = request.checkpoint;
      const query = new URLSearchParams({ checkpoint: this.checkpoint });
      this.facts = await asked(`/api/explain/vae/${name}?${query}`);
      this.trial.hidden = false;
      this.begin.hidden = true;
      await this.put(this.before.canvas, `/api/explain/vae/${name}/before.png?${query}`);
      const { pixels, latents, psnr, mean, width, height, shape } = this.facts;
      this.lost.textContent =
        `${width} × ${height} pixels of three colours are ${pixels.toLocaleString("en")} numbers; the latents, ${shape.join(" × ")}, ` +
        `are ${latents.toLocaleString("en")}: ${figure(pixels / latents)} times fewer. Coming back, ` +
        (psnr === null ? "nothing is lost." : `a level is off by ${figure(mean)} of 255 on average, PSNR ${figure(psnr)} dB.`);
      this.spot = [0.5, 0.5];
      await this.nudgeNow();
      this.says.say("");
    } catch (error) {
      this.says.say(error.message, "problem");
    }
    this.begin.disabled = false;
  }

  nudgeSoon() {
    this.nudged.textContent = this.nudge.value;
    const [, rows, columns] = this.facts.shape;
    this.cell.hidden = false;
    this.cell.style.left = `${((Math.floor(this.spot[0] * columns) + 0.5) / columns) * 100}%`;
    this.cell.style.top = `${((Math.floor(this.spot[1] * rows) + 0.5) / rows) * 100}%`;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.nudgeNow(), REST_MS);
  }

  async nudgeNow() {
    const [, rows, columns] = this.facts.shape;
    const query = new URLSearchParams({
      checkpoint: this.checkpoint, nudge: this.nudge.value, channel: this.nudgeChannel,
      row: Math.min(rows - 1, Math.floor(this.spot[1] * rows)),
      column: Math.min(columns - 1, Math.floor(this.spot[0] * columns)),
    });
    await this.put(this.behind.canvas, `/api/explain/vae/${this.name}/behind.png?${query}`);
    this.differ();
  }

  /** The mean difference of the three colours at each pixel, stretched to its largest. */
  differ() {
    const { width, height } = this.before.canvas;
    if (this.behind.canvas.width !== width) return;
    const [one, other] = [this.before, this.behind].map(({ canvas }) => canvas.getContext("2d").getImageData(0, 0, width, height).data);
    const apart = Float32Array.from({ length: width * height }, (_, i) =>
      (Math.abs(one[4 * i] - other[4 * i]) + Math.abs(one[4 * i + 1] - other[4 * i + 1]) + Math.abs(one[4 * i + 2] - other[4 * i + 2])) / 3);
    const most = apart.reduce((a, b) => Math.max(a, b), 0);
    heat(this.apart.canvas, apart, height, width, most);
    this.apart.told.textContent = `pale: up to ${Math.round(most)} of 255 levels`;
  }

  async put(canvas, url) {
    const answer = await fetch(url).catch(() => null);
    if (!answer?.ok) return;
    const bitmap = await createImageBitmap(await answer.blob());
    [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
  }
}
