// Forward noise: a picture under more and more noise, as in training, and what one call of the
// network would make of it. The noised picture is a sum made here; only the guess is asked for.

import { asked, made } from "./dom.js";
import { Colours, numbers } from "./explain_data.js";
import { choice, figure, line, pane } from "./explain_parts.js";

const REST_MS = 300;
const STRENGTHS = [0.25, 0.5, 0.75, 1];
const MOST_NOISE = 0.999; // A1111 counts a strength above this as this

export class View {
  constructor(root, page) {
    this.page = page;
    this.t = 400;
    this.noised = pane("The picture with noise");
    this.cond = pane("One guess, with the prompt");
    this.uncond = pane("One guess, without");
    this.noised.figure.classList.add("is-main");
    const panes = made("div", { className: "v-ex-panes is-three" }, this.noised.figure, this.cond.figure, this.uncond.figure);
    this.input = made("input", { type: "range", min: 0, max: 999, step: 1, value: this.t });
    this.input.setAttribute("aria-label", "Timestep t, from the picture to noise");
    this.readout = made("output", {});
    this.ticks = made("div", { className: "v-ex-ticks" });
    const ends = made("div", { className: "v-ex-ends" }, made("span", { textContent: "t = 0, the picture" }), this.readout, made("span", { textContent: "t = T, noise" }));
    this.formula = made("p", { className: "v-ex-formula" });
    this.words = made("input", { type: "text", autocomplete: "off", maxLength: 1000 });
    this.file = made("input", { type: "file", accept: "image/png,image/jpeg,image/webp", className: "v-hidden" });
    const browse = made("button", { type: "button", className: "v-quiet", textContent: "Choose a picture…" });
    this.own = made("button", { type: "button", className: "v-quiet", textContent: "Use the picture made last" });
    this.seeds = choice("Noise", [["0", "This noise"], ["1", "Another noise"]], (seed) => this.reseed(seed));
    this.steps = made("input", { type: "number", min: 1, max: 150, value: 20, inputMode: "numeric" });
    this.says = line();
    const prompt = made("label", { className: "v-ex-field" }, "Prompt for the guess", this.words);
    const steps = made("label", { className: "v-ex-field is-short" }, "Steps", this.steps);
    const note = made("p", { className: "v-ex-note", textContent:
      "In training a picture is never noised step by step: it is put under the noise of any t at once, by the sum above. " +
      "The model then guesses the noise, which is the same as guessing the picture. One guess from far right is a blur: " +
      "the mean of all pictures it could be. That is why a sampler goes down in many steps, and takes away a part of the noise at each." });
    const strength = made("p", { className: "v-ex-note", textContent:
      "The marks show where image to image begins for a strength: it puts your picture under the noise of that t, and goes down from there." });
    root.append(
      panes,
      made("div", { className: "v-ex-panel is-wide" }, made("div", {}, this.ticks, this.input, ends), this.formula, this.says.element,
        made("div", { className: "v-ex-row" }, prompt, steps),
        made("div", { className: "v-ex-row" }, browse, this.own, this.seeds.element, this.file), note, strength),
    );
    this.seed = "0";
    browse.addEventListener("click", () => this.file.click());
    this.file.addEventListener("change", () => this.file.files[0] && this.put(this.file.files[0]));
    this.own.addEventListener("click", () => this.fromRun());
    this.input.addEventListener("input", () => {
      this.t = Number(this.input.value);
      this.draw();
    });
    this.words.addEventListener("input", () => this.guessSoon());
    this.steps.addEventListener("change", () => this.marked());
  }

  async show() {
    this.own.hidden = !this.page.run?.pictures.length;
    if (this.begun) return;
    this.begun = true;
    const { run } = this.page;
    if (run) {
      this.words.value = run.request.prompt;
      this.steps.value = run.request.steps;
    }
    this.marked();
    if (run?.pictures.length) await this.fromRun();
    else this.says.say("Choose a picture to put under noise.");
  }

  async fromRun() {
    const { id, image } = this.page.run;
    const answer = await fetch(`/images/${id}/${image}.png`);
    if (answer.ok) await this.put(await answer.blob());
  }

  async put(blob) {
    try {
      this.says.say("Turning the picture into latents…");
      const { name } = await asked("/api/pictures", { method: "POST", body: blob });
      this.name = name;
      await this.read();
    } catch (error) {
      this.says.say(error.message, "problem");
    }
  }

  query(more = {}) {
    const checkpoint = this.page.run?.request.checkpoint || this.found?.head.checkpoint || "";
    return new URLSearchParams({ checkpoint, seed: this.seed, ...more });
  }

  async read() {
    const found = await numbers(`/api/explain/encoded/${this.name}?${this.query()}`);
    this.found = found;
    this.colours = new Colours(found.arrays.preview);
    this.clean = this.colours.levels(found.arrays.latents);
    this.noise = this.colours.levels(found.arrays.noise);
    this.input.max = found.arrays.sigmas.data.length - 1;
    this.says.say("");
    this.draw();
  }

  async reseed(seed) {
    this.seed = seed === "0" ? "0" : String(Math.floor(Math.random() * 2 ** 31));
    if (this.name) await this.read().catch((error) => this.says.say(error.message, "problem"));
  }

  /** x_t = √ᾱ · x0 + √(1 − ᾱ) · noise: arXiv:2006.11239, equation 4. */
  draw() {
    if (!this.found) return;
    const sigma = this.found.arrays.sigmas.data[this.t];
    const kept = 1 / (1 + sigma * sigma);
    const [a, b] = [Math.sqrt(kept), Math.sqrt(1 - kept)];
    this.colours.draw(this.noised.canvas, [[a, this.clean], [b, this.noise]]);
    this.readout.textContent = `t ${this.t} · σ ${figure(sigma)} · ᾱ ${figure(kept)}`;
    this.formula.textContent = `x = ${a.toFixed(3)} × picture + ${b.toFixed(3)} × noise`;
    this.noised.told.textContent = `${Math.round(kept * 100)} % of its variance is the picture`;
    for (const one of [this.cond, this.uncond]) one.figure.classList.toggle("is-stale", this.drawn !== this.t);
    this.guessSoon();
  }

  guessSoon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.guess(), REST_MS);
  }

  async guess() {
    if (!this.found || this.page.view !== "noise") return;
    const { t, name } = this;
    const prompt = this.words.value.trim();
    const key = JSON.stringify([t, name, prompt, this.seed]);
    if (key === this.guessed) return;
    this.guessed = key;
    try {
      const found = await numbers(`/api/explain/guess/${name}?${this.query({ timestep: t, prompt })}`);
      if (this.guessed !== key) return;
      this.drawn = t;
      for (const which of ["cond", "uncond"]) {
        this.colours.draw(this[which].canvas, [[1, this.colours.levels(found.arrays[which])]]);
        this[which].figure.classList.remove("is-stale");
      }
      this.cond.told.textContent = prompt ? `“${prompt}”` : "no words";
      this.uncond.told.textContent = "the model alone";
      this.says.say("");
      for (const which of ["cond", "uncond"]) await this.develop(which, key, t, prompt);
    } catch (error) {
      this.guessed = null;
      this.says.say(error.message, "problem");
    }
  }

  /** The same guess through the VAE, in place of the quick view. */
  async develop(which, key, t, prompt) {
    const url = `/api/explain/guess/${this.name}/${which}.jpg?${this.query({ timestep: t, prompt })}`;
    const answer = await fetch(url).catch(() => null);
    if (!answer?.ok || this.guessed !== key) return;
    const bitmap = await createImageBitmap(await answer.blob());
    if (this.guessed !== key) return;
    const { canvas } = this[which];
    [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
  }

  /** Where image to image begins, by strength: A1111's int(min(s, 0.999) · n) + 1 intervals. */
  async marked() {
    const steps = Number(this.steps.value);
    const sampler = this.page.run?.request.sampler || "euler_ancestral";
    const schedule = this.page.run?.request.schedule || "automatic";
    const asks = new URLSearchParams({ sampler, steps, schedule: Array.isArray(schedule) ? "automatic" : schedule });
    const { timesteps } = await asked(`/api/levels?${asks}`).catch(() => ({ timesteps: null }));
    this.ticks.replaceChildren();
    if (!timesteps) return;
    const n = timesteps.length - 1;
    for (const strength of STRENGTHS) {
      const walked = Math.min(n, Math.floor(Math.min(strength, MOST_NOISE) * n) + 1);
      const t = timesteps[n - walked];
      const mark = made("button", { type: "button" }, made("span", { textContent: "strength " }), String(strength));
      mark.style.left = `${(t / 999) * 100}%`;
      mark.title = `Strength ${strength} in ${steps} steps begins at t ${Math.round(t)}`;
      mark.addEventListener("click", () => {
        this.t = Math.round(t);
        this.input.value = this.t;
        this.draw();
      });
      this.ticks.append(mark);
    }
  }
}
