// The guides of a run: one card each. They live in one value of the form, as JSON; the server says
// what there is to guide with, and draws what the network will see.

import { asked, made, part, present, sentence } from "./dom.js";
import { styled } from "./styled.js";

const PAUSE_MS = 350; // after the last change, before the guide is drawn anew
const DRAWN_MS = 900; // after the last stroke
const PLAIN = { model: "", picture: null, preprocessor: "none", settings: {}, weight: 1, start: 0, end: 1,
  resize: "crop", hearing: "balanced", mask: null, during: "both", low_memory: false, encoder: null };
const MOST = 10;

export class Guides {
  constructor(form, session) {
    this.form = form;
    this.session = session;
    this.uses = [];
    this.cards = [];
    this.said = "";
    form.hear((values) => this.heard(values));
    present('[data-v="guides"]').then((place) => this.begin(place));
  }

  async begin(place) {
    this.place = place;
    place.addEventListener("click", (event) => {
      if (event.target.closest('[data-v="guides-add"]')) this.add();
    });
    await styled("guides.css");
    await this.draw();
  }

  /** The form's value has changed: by a paste, by what was remembered, or by us. */
  heard(values) {
    const text = values.controls || "";
    const sizes = `${values.width} ${values.height} ${values.mode} ${values["start.picture"]} ${values["start.mask"]}`;
    if (text !== this.said) {
      this.said = text;
      this.uses = read(text);
      this.draw();
    } else if (sizes !== this.sizes) for (const card of this.cards) card.later();
    this.sizes = sizes;
    const head = document.querySelector("#v-guides-fold > button");
    if (head) head.dataset.says = this.uses.length ? String(this.uses.length) : "";
  }

  /** What is there is asked for when it is needed first, and again when the list is redrawn. */
  async draw() {
    if (!this.place) return;
    part("guides-add", this.place).disabled = this.uses.length >= MOST;
    if (!this.uses.length) {
      this.cards = [];
      part("guides-list", this.place).replaceChildren();
      return;
    }
    try {
      this.there = await asked("/api/guides");
    } catch (error) {
      this.session.status.problem(error.message);
      return;
    }
    this.cards = this.uses.map((use, at) => new Card(this, use, at));
    part("guides-list", this.place).replaceChildren(...this.cards.map((card) => card.place));
  }

  async add() {
    try {
      this.there = await asked("/api/guides");
    } catch (error) {
      this.session.status.problem(error.message);
      return;
    }
    if (!this.there.models.length) {
      part("guides-said", this.place).textContent =
        "There is nothing to guide with yet: put a ControlNet, T2I-Adapter or IP-Adapter into models/ControlNet.";
      return;
    }
    const { models } = this.there;
    const own = models.find((model) => model.for === this.form.model?.name) || models[0];
    this.uses.push({ ...PLAIN, model: own.name, preprocessor: own.preprocessor || "none" });
    this.keep();
    await this.draw();
  }

  remove(at) {
    this.uses.splice(at, 1);
    this.keep();
    this.draw();
  }

  /** Into the form's own value. */
  keep() {
    this.said = this.uses.length ? JSON.stringify(this.uses) : "";
    this.form.fill({ controls: this.said });
  }

  /** Pixels that will be painted. */
  get size() {
    const own = this.form.model?.size || 512;
    const { width, height } = this.form.values;
    return { width: Number(width) || own, height: Number(height) || own };
  }

  /** What the run begins from, if that is a picture. */
  get start() {
    const { values } = this.form;
    if ((values.mode || "text") === "text" || !values["start.picture"]) return null;
    const start = { picture: values["start.picture"], resize: values["start.resize"] };
    if (values.mode === "inpaint" && values["start.mask"]) start.mask = values["start.mask"];
    return start;
  }
}

class Card {
  constructor(guides, use, at) {
    Object.assign(this, { guides, use, at });
    this.picture = made("img", { alt: "The picture of this guide" });
    this.preview = made("img", { alt: "What the network will see" });
    this.problem = made("p", { role: "alert" });
    this.help = made("p");
    this.settings = made("div", { className: "v-guide-fields" });
    this.easel = made("div", { className: "v-guide-easel", hidden: true }, made("div", { className: "v-case", hidden: true }));
    const figure = (image, words) => made("figure", {}, image, made("figcaption", { textContent: words }));
    this.place = made("section", { className: "v-guide" },
      made("div", { className: "v-guide-pictures" },
        figure(this.picture, "Picture"), figure(this.preview, "What the network sees")),
      this.links(), this.easel, this.problem, this.fields(), this.help, this.settings);
    this.place.setAttribute("aria-label", `Guide ${at + 1}`);
    this.changed(false);
  }

  links() {
    const button = (words, act) => {
      const one = made("button", { type: "button", className: "v-quiet", textContent: words });
      one.addEventListener("click", () => act().catch((error) => this.failed(error)));
      return one;
    };
    this.unmask = button("No mask", async () => this.set({ mask: null }));
    return made("div", { className: "v-links" },
      button("Choose a picture", async () => this.chosen("picture")),
      button("Draw it", async () => this.draw()),
      button("Use the start picture", async () => this.set({ picture: null })),
      button("Mask file", async () => this.chosen("mask")),
      this.unmask,
      button("Remove guide", async () => this.guides.remove(this.at)));
  }

  fields() {
    const { there } = this.guides;
    const models = there.models.map((model) => [model.name, model.for ? `${model.title} (${model.for})` : model.title]);
    const ways = there.preprocessors.map((one) => [one.name, one.title]);
    const { hearing, resize, during } = there.choices;
    const encoders = [["", "The one that fits"], ...there.encoders.map((name) => [name, name])];
    this.ways = this.list("Made of the picture", "preprocessor", ways, () => (this.use.settings = {}));
    return made("div", { className: "v-guide-fields" },
      this.list("Model", "model", models, () => this.fit()),
      this.ways,
      this.range("Weight", "weight", 0, 2, 0.05),
      this.range("Begins at", "start", 0, 1, 0.01),
      this.range("Ends at", "end", 0, 1, 0.01),
      this.list("Who is heard", "hearing", Object.entries(hearing)),
      this.list("To fit the size", "resize", Object.entries(resize)),
      this.list("With a second pass", "during", Object.entries(during)),
      this.list("Image encoder", "encoder", encoders),
      this.flag("Low memory", "low_memory"));
  }

  list(words, name, choices, also = () => {}) {
    const box = made("select", {}, ...choices.map(([value, title]) => made("option", { value, textContent: title })));
    const value = this.use[name] ?? "";
    if (![...box.options].some((one) => one.value === value)) {
      box.prepend(made("option", { value, textContent: `${value} (not there)` }));
    }
    box.value = value;
    box.addEventListener("change", () => {
      this.use[name] = box.value || null;
      also();
      this.changed();
    });
    return made("label", {}, words, box);
  }

  /** A model that says what its pictures are made by is given those. */
  fit() {
    const wanted = this.model?.preprocessor;
    if (wanted && wanted !== this.use.preprocessor) this.made(wanted);
  }

  made(preprocessor) {
    Object.assign(this.use, { preprocessor, settings: {} });
    this.ways.control.value = preprocessor;
  }

  get model() {
    return this.guides.there.models.find((one) => one.name === this.use.model);
  }

  range(words, name, low, high, step) {
    return ranged(words, this.use[name], { low, high, step }, (value) => {
      this.use[name] = value;
      this.changed();
    });
  }

  flag(words, name) {
    const box = made("input", { type: "checkbox", checked: this.use[name] });
    box.addEventListener("change", () => {
      this.use[name] = box.checked;
      this.changed();
    });
    return made("label", { className: "v-guide-flag" }, box, words);
  }

  set(values) {
    Object.assign(this.use, values);
    this.changed();
  }

  /** Something was set: the value is kept, and what is shown follows. */
  changed(keeps = true) {
    if (keeps) this.guides.keep();
    const way = this.guides.there.preprocessors.find((one) => one.name === this.use.preprocessor);
    this.help.textContent = [this.model?.about, way?.help].filter(Boolean).join(" ");
    this.unmask.hidden = !this.use.mask;
    if (this.way !== way) {
      this.way = way;
      this.settings.replaceChildren(...(way?.settings || []).map((one) => this.setting(one)));
    }
    this.later();
  }

  setting(one) {
    const value = this.use.settings[one.name] ?? one.default;
    const keep = (now) => {
      this.use.settings = { ...this.use.settings, [one.name]: now };
      this.changed();
    };
    if (one.choices.length) {
      const box = made("select", { title: one.help }, ...one.choices.map(([each, title]) => made("option", { value: each, textContent: title })));
      if (![...box.options].some((each) => each.value === value)) {
        box.prepend(made("option", { value, textContent: `${value} (not there)` }));
      }
      box.value = value;
      box.addEventListener("change", () => keep(box.value));
      return made("label", { title: one.help }, one.label, box);
    }
    if (typeof one.default === "boolean") {
      const box = made("input", { type: "checkbox", checked: value, title: one.help });
      box.addEventListener("change", () => keep(box.checked));
      return made("label", { className: "v-guide-flag", title: one.help }, box, one.label);
    }
    return ranged(one.label, value, one, keep);
  }

  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.show().catch((error) => this.failed(error)), PAUSE_MS);
  }

  async show() {
    const { start, size } = this.guides;
    const name = this.use.picture || start?.picture;
    if (name) this.picture.src = `/api/pictures/${name}/thumbnail.jpg`;
    else {
      this.picture.removeAttribute("src");
      throw new Error("This guide needs a picture: choose one, draw one, or start from a picture.");
    }
    const turn = (this.turn = (this.turn || 0) + 1);
    const answer = await fetch("/api/guides/preview", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ use: this.use, start, ...size }),
    }).catch(() => null);
    if (turn !== this.turn) return;
    if (!answer) throw new Error("The server does not answer. Is it still running?");
    if (!answer.ok) {
      const said = await answer.json().catch(() => ({}));
      throw new Error(sentence(said.error || `The server answered ${answer.status}`));
    }
    URL.revokeObjectURL(this.preview.src);
    this.preview.src = URL.createObjectURL(await answer.blob());
    this.problem.textContent = "";
  }

  failed(error) {
    this.preview.removeAttribute("src");
    this.problem.textContent = error.message;
  }

  async chosen(name) {
    const file = await new Promise((resolve) => {
      const box = made("input", { type: "file", accept: "image/png,image/jpeg,image/webp" });
      box.addEventListener("change", () => resolve(box.files[0] || null));
      box.addEventListener("cancel", () => resolve(null));
      box.click();
    });
    if (file) this.set({ [name]: (await stored(file)).name });
  }

  /** A white sheet, or the picture there is, to draw the guide on. */
  async draw() {
    if (!this.board) {
      const { Easel } = await import("./easel.js");
      this.board = await Easel.made(this.easel, { painted: () => this.drawn(), file: () => {}, acting: () => {} });
      this.board.soft(false);
      this.board.share = 0.02;
      this.easel.querySelector(".v-swatch").click(); // black
    }
    const hides = !this.easel.hidden;
    this.easel.hidden = hides;
    this.board.place.hidden = hides;
    if (hides) return;
    this.board.put(await this.sheet());
    this.board.draws(true);
  }

  async sheet() {
    if (this.use.picture) {
      const answer = await fetch(`/api/pictures/${this.use.picture}.png`);
      if (answer.ok) return createImageBitmap(await answer.blob());
    }
    const { width, height } = this.guides.size;
    const canvas = made("canvas", { width, height });
    const pen = canvas.getContext("2d");
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, width, height);
    if (this.use.preprocessor === "none" && !this.model?.preprocessor) this.made("scribble");
    return createImageBitmap(canvas);
  }

  drawn() {
    clearTimeout(this.drawing);
    this.drawing = setTimeout(async () => {
      try {
        this.set({ picture: (await stored(await this.board.sketch())).name });
      } catch (error) {
        this.failed(error);
      }
    }, DRAWN_MS);
  }
}

function ranged(words, value, { low, high, step, help = "" }, keep) {
  const box = made("input", { type: "range", min: low, max: high, step, value, title: help });
  const said = made("output", { textContent: value });
  box.addEventListener("input", () => {
    said.textContent = box.value;
    keep(Number(box.value));
  });
  return made("label", { title: help }, made("span", {}, `${words} `, said), box);
}

const stored = (file) => asked("/api/pictures", { method: "POST", body: file });

function read(text) {
  try {
    const uses = JSON.parse(text || "[]");
    return Array.isArray(uses) ? uses.map((use) => ({ ...PLAIN, ...use, settings: { ...use.settings } })) : [];
  } catch {
    return [];
  }
}
