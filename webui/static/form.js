// The form: gradio's own widgets, read and filled through the two hooks of webui/pages/create.py.
// Remembers what was typed, shows what each model knows, marks the fields that are wrong.

import { asked, control, kept, made, part, present, sentence, typed } from "./dom.js";

const KEY = "vitrine.form";
/** In gradio's words: this field is not touched. */
const AS_IT_IS = { __type__: "update" };

const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

/** What the document shows of a field whose widget shows its value as it is: words, a number, a tick,
 * a choice among a few. Undefined of all others. */
function shown(id) {
  const box = control(id);
  return box?.type === "radio" ? document.querySelector(`#${id} input:checked`)?.value : says(box);
}

function says(box) {
  if (!box || box.role) return undefined;
  if (box.type === "checkbox") return box.checked;
  if (box.type === "number" || box.type === "range") return box.value && Number(box.value);
  return box.tagName === "TEXTAREA" || ["text", "radio"].includes(box.type) ? box.value : undefined;
}

export class Form {
  constructor(status) {
    this.say = status;
    this.values = {};
    this.ids = {}; // of every field, the element that its widget stands in
    this.wanted = null;
    this.given = null; // the model of a fill on its way, whose other values are kept
    this.models = { checkpoints: [], samplers: {} };
    this.last = kept("vitrine.seed");
    this.remembers = false; // not before the old values are back
    this.hands = new Map(); // by the element its widget stands in: what was last set by hand
    document.addEventListener("input", ({ target }) => this.byHand(target), true);
    this.ears = [];
    this.loaded = asked("/api/models")
      .then((models) => {
        this.models = models;
        this.shown();
      })
      .catch(() => {});
    for (const drawn of ['[data-v="knows"]', "#txt2img_width input", '[data-v="fold-said"]']) {
      present(drawn).then(() => {
        this.shown();
        this.folded();
      });
    }
    this.seeds();
  }

  /** gradio's hook: some value has changed. */
  changed(names, values) {
    const before = this.values;
    this.values = Object.fromEntries(names.map((name, i) => [name, values[i]]));
    if (this.remembers) kept(KEY, this.values);
    if (["checkpoint", "sampler", "schedule"].some((name) => before[name] !== this.values[name])) {
      const chosen = before.checkpoint && before.checkpoint !== this.values.checkpoint;
      this.shown();
      if (chosen && this.given !== this.values.checkpoint) this.useDefaults();
      if (chosen) this.given = null;
    }
    this.folded();
    this.putBack();
    this.tell();
  }

  byHand(input) {
    const value = says(input);
    if (value === undefined) return;
    const id = input.parentElement.closest("[id]")?.id;
    if (value !== "" && input.validity.valid) this.hands.set(id, value);
    else this.hands.delete(id);
  }

  /** While gradio draws the page it may set a field to what it held before a hand came, once. */
  putBack() {
    const lost = {};
    for (const [name, id] of Object.entries(this.ids)) {
      const shows = shown(id);
      if (shows !== undefined && this.hands.has(id) && !same(shows, this.hands.get(id))) lost[name] = this.hands.get(id);
    }
    if (Object.keys(lost).length) this.fill(lost);
  }

  /** `heard(values)` now, if there are any, and whenever one has changed. */
  hear(heard) {
    this.ears.push(heard);
    if (this.remembers) heard(this.values);
  }

  /** The values, once they are `fitting`. */
  once(fitting) {
    if (fitting(this.values)) return Promise.resolve(this.values);
    return new Promise((resolve) => {
      const ear = (values) => {
        if (!fitting(values)) return;
        this.ears = this.ears.filter((other) => other !== ear);
        resolve(values);
      };
      this.ears.push(ear);
    });
  }

  tell() {
    if (this.remembers) for (const heard of this.ears) heard(this.values);
  }

  /** gradio's hook at the start: what was typed last time, where it still fits. `ids` is by name, in
   * the order of the values. */
  async recalled(ids, values) {
    this.ids = ids;
    await this.loaded;
    const names = Object.keys(ids);
    const now = Object.fromEntries(names.map((name, i) => [name, values[i]]));
    const before = this.fitting(kept(KEY) || {});
    const model = before.checkpoint || this.models.default || now.checkpoint;
    const own = this.models.checkpoints.find((file) => file.name === model)?.defaults || {};
    const merged = { ...now, ...own, checkpoint: model, ...before, ...this.changedSince(now) };
    this.values = merged;
    this.remembers = true;
    this.shown();
    this.folded();
    this.tell();
    // What stays as it is isn't set again: it may be another one by the time gradio does it.
    return names.map((name) => (name in merged && !same(merged[name], now[name]) ? merged[name] : AS_IT_IS));
  }

  /** What was set while the old values were still on their way; it must not be lost. */
  changedSince(values) {
    const fresh = {};
    for (const [name, value] of Object.entries(this.values)) {
      if (name in values && !same(value, values[name])) fresh[name] = value;
    }
    // Where gradio has not told of it yet, the document shows it already.
    for (const [name, id] of Object.entries(this.ids)) {
      const shows = shown(id);
      const was = typeof shows === "string" ? String(values[name] ?? "") : values[name];
      if (shows !== undefined && shows !== "" && shows !== was) fresh[name] = shows;
    }
    return fresh;
  }

  /** Only what there still is. */
  fitting(values) {
    const fit = { ...values };
    const models = new Set(this.models.checkpoints.map((file) => file.name));
    for (const name of ["checkpoint", "enlarge.checkpoint", "refine.checkpoint"]) {
      if (fit[name] !== "" && !models.has(fit[name])) delete fit[name];
    }
    for (const name of ["sampler", "enlarge.sampler"]) {
      if (fit[name] !== "" && !(fit[name] in this.models.samplers)) delete fit[name];
    }
    return fit;
  }

  /** Sets some fields, and leaves the others. */
  fill(values) {
    for (const name of Object.keys(values)) this.hands.delete(this.ids[name]);
    this.wanted = { ...this.wanted, ...values };
    document.querySelector("#v-fill")?.click();
  }

  /** gradio's hook after `fill`. */
  filled(names) {
    const wanted = this.wanted || {};
    this.wanted = null;
    const { checkpoint } = wanted;
    if (checkpoint !== undefined && checkpoint !== this.values.checkpoint) this.given = checkpoint;
    // A whole request says which extensions have a part in it: the others have none.
    const whole = "prompt" in wanted;
    return names.map((name) => {
      if (name in wanted) return wanted[name];
      return whole && /^extras\..*\.on$/.test(name) ? false : AS_IT_IS;
    });
  }

  get model() {
    return this.models.checkpoints.find((file) => file.name === this.values.checkpoint);
  }

  useDefaults() {
    if (this.model) this.fill(this.model.defaults);
  }

  /** What the chosen model and sampler say of themselves. */
  shown() {
    const model = this.model;
    const knows = part("knows");
    if (knows && model) {
      knows.textContent = model.description || "";
      part("chips").replaceChildren(
        ...model.examples.slice(0, 5).map((prompt) => {
          const chip = made("button", { type: "button", className: "v-chip", textContent: prompt });
          chip.addEventListener("click", () => {
            const box = control("txt2img_prompt");
            typed(box, prompt);
            box.focus();
          });
          return made("li", {}, chip);
        }),
      );
    }
    this.unreadable();
    if (model) {
      for (const id of ["txt2img_width", "txt2img_height"]) {
        const input = control(id);
        if (input) input.placeholder = `${model.size} (its own)`;
      }
    }
    const sampler = this.models.samplers[this.values.sampler];
    const compose = document.getElementById("v-compose");
    // An attribute, for the fields come and go with their fold.
    if (sampler && compose) compose.dataset.takes = [...sampler.options, ...this.shaping()].join(" ");
    const choice = document.getElementById("txt2img_sampling");
    if (sampler && choice) choice.title = sampler.help;
  }

  /** The options that the chosen schedule takes. */
  shaping() {
    const { sampler, schedule } = this.values;
    const name = schedule === "automatic" ? this.models.samplers[sampler]?.automatic : schedule;
    return this.models.schedules?.[name] || [];
  }

  /** Files in the models folder that can't be used, and why: none is left out in silence. */
  unreadable() {
    const box = part("unreadable");
    const reasons = this.models.unreadable || [];
    if (!box) return;
    box.hidden = !reasons.length;
    const files = reasons.length === 1 ? "1 file" : `${reasons.length} files`;
    box.querySelector("summary").textContent = `${files} in the models folder can't be used`;
    const rows = reasons.map((reason) => made("li", {}, reason));
    box.querySelector("ul").replaceChildren(...rows);
  }

  /** The settings in short, for when they are folded away. */
  folded() {
    const said = part("fold-said");
    if (!said || !this.remembers) return;
    this.accordions();
    const { steps, cfg_scale, seed } = this.values;
    said.textContent = `${steps} steps · guidance ${cfg_scale}${seed ? ` · seed ${seed}` : ""}`;
  }

  /** What is on says so while it is folded away. */
  accordions() {
    const { values } = this;
    const size = values["enlarge.width"] && values["enlarge.height"]
      ? `${values["enlarge.width"]} × ${values["enlarge.height"]}` : `${values["enlarge.scale"]} times`;
    const says = {
      "v-enlarge": values["enlarge.on"] === true ? size : "",
      "v-refine": values["refine.checkpoint"] || "",
      "v-extend": ["left", "top", "right", "bottom"].map((side) => Number(values[`start.extend.${side}`]) || 0)
        .some(Boolean) ? "on" : "",
    };
    for (const [id, words] of Object.entries(says)) {
      const head = document.querySelector(`#${id} > button`);
      if (head) head.dataset.says = words;
    }
  }

  used(seed) {
    this.last = seed;
    kept("vitrine.seed", seed);
    const button = part("last-seed");
    if (!button) return;
    button.disabled = false;
    button.textContent = `Use last: ${seed}`;
  }

  /** A request's JSON becomes the form; `mode` is what it is to begin with. */
  async useRequest(request, mode) {
    try {
      const { values, notes } = await asked("/api/form", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(request),
      });
      this.fill({ ...values, mode });
      this.say(["The settings are in the form.", ...notes.map(sentence)].join(" "));
    } catch (error) {
      this.say(error.message, { kind: "problem" });
    }
  }

  setSeed(seed) {
    this.fill({ seed: String(seed) });
    this.say(`Seed ${seed} is set; it stays until you clear it.`);
  }

  /** What a picture was made with becomes the form. */
  useImage(image) {
    this.fill(image.form);
    this.say("The picture's settings are in the form.");
  }

  /** Marks fields that are wrong and says why. */
  wrong(errors) {
    const sentences = Object.values(errors).map(sentence);
    let first = null;
    for (const name of Object.keys(errors)) {
      const id = this.ids[name];
      const input = id && control(id);
      if (!input) continue;
      input.setAttribute("aria-invalid", "true");
      input.addEventListener("input", () => input.removeAttribute("aria-invalid"), { once: true });
      first = first || input;
    }
    first?.focus();
    return sentences.join(" ");
  }

  /** The buttons beside the seed. */
  async seeds() {
    const last = await present('[data-v="last-seed"]');
    last.addEventListener("click", () => this.setSeed(this.last));
    part("new-seed").addEventListener("click", () => this.fill({ seed: "" }));
    if (this.last) this.used(this.last);
  }
}
