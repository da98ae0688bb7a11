// The walk-through: from the words to the picture, on the person's own run. Every figure is computed
// from it, and every stage leads on to the view that shows more.

import { made } from "./dom.js";
import { Colours, heat, numbers } from "./explain_data.js";
import { figure, line, pane, plain } from "./explain_parts.js";

const PARTS = { input: "Going down: ever smaller, ever more channels", middle: "The bottom", output: "Going up again" };

export class View {
  constructor(root, page) {
    this.page = page;
    this.root = root;
    this.says = line();
    root.append(this.says.element);
    this.stages = [
      this.stage("1. Your words become numbers", "words", "See the words at every step", [
        "The prompt is cut into tokens: common words are one, rare ones several. A text encoder turns each into a list of numbers that has read all the words before it.",
        "75 or 77? Both: 75 tokens of yours fit, and the encoder adds a start and an end. What you don't fill is filler, and it is read as well.",
      ], () => this.words()),
      this.stage("2. It begins with noise", "latents", "See the latents at every step", [
        "The seed draws noise, and nothing else: the same seed is the same noise, on any machine. It is not drawn as pixels but as latents, a smaller grid that the VAE can turn into pixels at the end.",
      ], () => this.noise()),
      this.stage("3. The U-Net guesses the noise", "attention", "See where it looks", [
        "It is given the noisy latents, the words, and how much noise there is. It goes down to a coarse grid and up again, and looks at your words on the way. Below is what each of its blocks answered in your run: pale places are where a block is most active.",
        "“Subtract the noise” is only half of it. Take all the guessed noise away at once and you get a blur, as the left picture shows: at high noise many pictures are possible, and the guess is the mean of them all.",
      ], () => this.network()),
      this.stage("4. The sampler goes down step by step", "schedules", "See the schedules", [
        "So a sampler takes away only as much as the next, lower noise level asks for, and asks again. Some samplers then put fresh noise back (those with an “a” in their name). The noise level is called σ; the list of levels is the schedule.",
      ], () => this.steps()),
      this.stage("5. Guidance exaggerates the prompt", "guidance", "Drag the scale", [
        "The model is asked twice at each step: with your prompt, and with the negative prompt. The scale says how far to go from the second answer to the first and beyond.",
        "At 0 your prompt has no say at all. At 1 it is the prompt alone: no guidance, and the negative prompt does nothing.",
      ], () => this.guidance()),
      this.stage("6. The VAE makes pixels", "latents", "See what it keeps", [
        "Its decoder turns the finished latents into a picture. A VAE file holds this decoder and an encoder, which goes the other way; from words to a picture only the decoder is used. It has no idea of your prompt.",
      ], () => this.pixels()),
    ];
    root.append(...this.stages.map((stage) => stage.element));
  }

  stage(title, view, word, paragraphs, fill) {
    const shown = made("div", { className: "v-ex-shown" });
    const facts = made("p", { className: "v-ex-facts" });
    const more = made("button", { type: "button", className: "v-quiet", textContent: word });
    more.addEventListener("click", () => this.page.place({ view, step: this.page.at }, false));
    const element = made(
      "section", { className: "v-ex-stage" }, made("h2", { textContent: title }),
      made("div", { className: "v-ex-read" }, ...paragraphs.map((text) => made("p", { textContent: text })), facts, more), shown,
    );
    return { element, shown, facts, fill };
  }

  async show() {
    const { run } = this.page;
    if (run === this.run) return;
    this.run = run;
    this.first = run.steps[0];
    this.asking = run.steps.filter((step) => !step.last);
    const latents = await numbers(`/api/explain/latents/${run.id}/${run.image}`).catch(() => null);
    if (this.run !== run) return;
    this.latents = latents;
    if (latents) this.colours = new Colours(latents.arrays.preview);
    for (const stage of this.stages) {
      this.now = stage;
      try {
        await stage.fill(stage);
      } catch (error) {
        stage.facts.textContent = error.message;
      }
      if (this.run !== run) return;
    }
  }

  /** The step a share of the way down. */
  step(share) {
    return this.asking[Math.min(this.asking.length - 1, Math.round(share * this.asking.length))];
  }

  url(what, step) {
    return `/api/explain/${what}/${this.run.id}/${this.run.image}/${step.pass}/${step.index}`;
  }

  drawn(title, values, words = "") {
    const one = pane(title, words);
    this.colours.draw(one.canvas, [[1, this.colours.levels(values)]]);
    return one;
  }

  async words() {
    const { shown, facts } = this.now;
    const found = await numbers(`/api/explain/words/${this.run.id}`);
    const { words } = found.head.positive[0].parts[0];
    const own = words.filter((word) => word.kind === "word").length;
    const chunks = new Set(words.map((word) => word.chunk)).size;
    shown.replaceChildren(
      made("ol", { className: "v-ex-read-words" }, ...words.map((word) => {
        const item = made("li", {}, word.text, made("small", { textContent: word.kind === "padding" ? "" : word.id }));
        item.dataset.kind = word.kind;
        return item;
      })),
    );
    facts.textContent = `Yours: ${own} token${own === 1 ? "" : "s"} in ${chunks} chunk${chunks === 1 ? "" : "s"} of 77, so ${chunks * 77 - own} are start, end and filler.`;
  }

  async noise() {
    const { shown, facts } = this.now;
    if (!this.latents) throw new Error("The steps of this run are not there any more.");
    const x = this.latents.arrays[`x${this.first.at}`];
    const [channels, h, w] = x.shape;
    const maps = Array.from({ length: channels }, (_, c) => {
      const one = pane(`Channel ${c + 1}`);
      one.canvas.classList.add("is-map");
      const own = x.data.subarray(c * h * w, (c + 1) * h * w);
      heat(one.canvas, own.map((value) => value + 3), h, w, 6);
      return one.figure;
    });
    shown.replaceChildren(made("div", { className: "v-ex-panes is-maps" }, ...maps));
    const { request } = this.run;
    facts.textContent = `Yours: seed ${request.seed}, ${channels} × ${h} × ${w} numbers for ${w === h ? "" : "about "}${request.width} × ${request.height} pixels, begun at σ ${figure(this.first.sigma)}.`;
  }

  async network() {
    const { shown, facts } = this.now;
    const step = this.step(0.4);
    const { head, arrays } = await numbers(this.url("through", step));
    const rows = Object.entries(PARTS).map(([part, title]) => {
      const blocks = head.blocks.filter((block) => block.part === part).map((block) => {
        const canvas = made("canvas", { className: "is-map" });
        const [h, w] = arrays[block.array].shape;
        heat(canvas, arrays[block.array].data, h, w, 1);
        canvas.setAttribute("role", "img");
        canvas.setAttribute("aria-label", `Block ${block.index}, ${block.shape.join(" by ")}`);
        const words = made("figcaption", { textContent: block.shape.join(" × ") }, );
        words.append(made("small", { textContent: `${figure(block.seconds * 1000)} ms` }));
        return made("figure", {}, canvas, words);
      });
      return made("div", {}, made("h3", { textContent: title }), made("div", { className: "v-ex-blocks" }, ...blocks));
    });
    // Without guidance: only then the guess is the mean of what there could be.
    const { arrays: said } = await numbers(this.url("inside", this.asking[0]));
    const early = said.cond0;
    const last = this.latents?.arrays[`x${this.run.last}`];
    const pair = early && last
      ? made("div", { className: "v-ex-panes is-two" },
          this.drawn("All noise taken away at once", early, "the first guess, without guidance").figure,
          this.drawn(`Taken away in ${this.asking.length} steps`, last, "your picture, by the quick view").figure)
      : "";
    shown.replaceChildren(pair, ...rows);
    facts.textContent =
      `Yours, at step ${step.at}: ${head.blocks.length} blocks in ${figure(head.seconds * 1000)} ms for both prompts; ` +
      `${millions(head.network)} numbers in the U-Net, ${millions(head.encoder)} in the text encoder, which hands over ${head.context.join(" × ")} numbers for each prompt.`;
    this.vae = head.vae;
  }

  async steps() {
    const { shown, facts } = this.now;
    if (!this.latents) throw new Error("The steps of this run are not there any more.");
    const noisy = pane("What the model is given");
    const estimate = pane("What it expects");
    const input = made("input", { type: "range", min: this.run.first, max: this.run.last, value: Math.round((this.run.first + this.run.last) * 0.4) });
    input.setAttribute("aria-label", "Step, from noise to image");
    const draw = () => {
      const at = Number(input.value);
      const { arrays } = this.latents;
      this.colours.draw(noisy.canvas, [[1, this.colours.levels(arrays[`x${at}`])]]);
      const said = arrays[`denoised${at}`] || arrays[`x${at}`];
      this.colours.draw(estimate.canvas, [[1, this.colours.levels(said)]]);
      noisy.told.textContent = `step ${at}, σ ${figure(this.run.byPlace.get(at).sigma)}`;
      estimate.told.textContent = arrays[`denoised${at}`] ? "the guess before this step" : "nothing yet";
    };
    input.addEventListener("input", draw);
    draw();
    shown.replaceChildren(
      made("div", { className: "v-ex-panes is-two" }, noisy.figure, estimate.figure), input,
      made("div", { className: "v-ex-ends" }, made("span", { textContent: "Noise" }), made("span", { textContent: "Image" })),
    );
    const { request } = this.run;
    const seconds = this.run.steps.reduce((sum, one) => sum + one.seconds, 0);
    const title = this.run.samplers.find((one) => one.name === request.sampler)?.title || request.sampler;
    facts.textContent = `Yours: ${title}, ${this.asking.length} steps in ${figure(seconds)} s.`;
  }

  async guidance() {
    const { shown, facts } = this.now;
    const step = this.step(0.4);
    const { head, arrays } = await numbers(this.url("inside", step));
    const ends = { 0: "scale 0", 1: "scale 1", [head.cfg_scale]: `scale ${plain(head.cfg_scale)}, yours` };
    const titles = { 0: this.run.request.negative_prompt.trim() ? "Negative prompt alone" : "No prompt at all", 1: "Prompt alone" };
    const low = arrays.uncond.data;
    const panes = Object.keys(ends).map(Number).sort((a, b) => a - b).map((scale) => {
      const data = Float32Array.from(low);
      head.weights.forEach((weight, part) => {
        const cond = arrays[`cond${part}`].data;
        for (let i = 0; i < data.length; i++) data[i] += weight * scale * (cond[i] - low[i]);
      });
      return this.drawn(titles[scale] || "Guided", { shape: arrays.uncond.shape, data }, ends[scale]).figure;
    });
    shown.replaceChildren(made("div", { className: `v-ex-panes ${panes.length > 2 ? "is-maps" : "is-two"}` }, ...panes));
    facts.textContent = `Yours, at step ${step.at}: the two answers, and ${plain(head.cfg_scale)} times the way from one to the other.`;
  }

  async pixels() {
    const { shown, facts } = this.now;
    const { id, image, pictures, request } = this.run;
    if (!pictures.includes(image)) throw new Error("This picture is not finished yet.");
    const picture = made("img", { src: `/images/${id}/${image}.png`, alt: request.prompt });
    const last = this.latents?.arrays[`x${this.run.last}`];
    const after = made("figure", { className: "v-ex-pane" }, picture, made("figcaption", {}, made("b", { textContent: "Through the decoder" })));
    shown.replaceChildren(made("div", { className: "v-ex-panes is-two" }, ...(last ? [this.drawn("The latents, as plain colours", last, "one flat sum for each cell").figure] : []), after));
    const count = last ? last.data.length : 0;
    const sizes = this.vae ? ` This VAE's encoder has ${millions(this.vae[0])} numbers, its decoder ${millions(this.vae[1])}.` : "";
    await picture.decode().catch(() => null);
    const pixels = picture.naturalWidth * picture.naturalHeight * 3;
    facts.textContent = count ? `Yours: ${count.toLocaleString("en")} numbers became ${pixels.toLocaleString("en")}, ${figure(pixels / count)} times as many.${sizes}` : sizes;
  }
}

const millions = (count) => (count >= 1e9 ? `${(count / 1e9).toFixed(2)} billion` : `${(count / 1e6).toFixed(1)} million`);
