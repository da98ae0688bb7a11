// The picture to begin with: where it comes from, the easel it is painted on, and the size it asks
// for. Nothing of this is loaded before somebody begins with a picture.

import { asked, control, made, part, present, sentence } from "./dom.js";
import { Axis } from "./axis.js";

const LARGEST = 64 * 2 ** 20; // bytes of a file
const MOST_PIXELS = 4096 * 4096;
const STEP = 8;
const PAUSE_MS = 1200; // after the last stroke, before what is painted is put in safety
const SIDES = ["left", "top", "right", "bottom"];
const ACTING = ["grow", "blur", "invert", "fill", "soft"].map((name) => `start.${name}`);

export class Start {
  constructor(root, form, session) {
    this.root = root;
    this.form = form;
    this.session = session;
    this.mode = "text";
    this.side = "result";
    this.picture = ""; // the name of what lies on the easel
    this.flat = ""; // and of it with the sketch on it, once that was put in
    this.mask = "";
    this.size = null;
    this.series = null; // of several pictures: {names, at, runs}
    this.axis = new Axis(form, session);
    document.addEventListener("click", (event) => this.clicked(event));
    form.hear((values) => this.heard(values));
  }

  /** The form's values, whenever one has changed. */
  async heard(values) {
    const mode = values.mode || "text";
    const changed = mode !== this.mode;
    if (changed) this.moded(mode);
    if (mode === "text") return;
    this.axis.draw(values);
    await this.laid(values);
    const compose = document.getElementById("v-compose");
    compose?.classList.toggle("is-whole", values["start.only_masked"] !== true);
    if (!this.easel) return;
    this.easel.soft(values["start.soft"] === true);
    const sides = SIDES.map((side) => Math.max(0, Math.round(Number(values[`start.extend.${side}`]) || 0)));
    this.easel.extended(mode === "inpaint" ? sides : [0, 0, 0, 0]);
    const acting = JSON.stringify(ACTING.map((name) => values[name]));
    if (this.acts !== acting) this.easel.acting(null);
    this.acts = acting;
    this.said();
  }

  moded(mode) {
    const compose = document.getElementById("v-compose");
    if (compose) compose.dataset.mode = mode;
    const first = this.mode === "text";
    this.mode = mode;
    this.easel?.moded(mode);
    if (mode === "text") this.show("result");
    else if (first && !this.session.isRunning) this.show("easel");
    this.sides();
    if (mode !== "text") {
      present("#v-start .v-start").then(() => this.said());
      present("#v-axis .v-axis").then(() => this.axis.draw(this.form.values));
    }
  }

  /** What the form names comes to lie on the easel. Calls take turns. */
  laid(values) {
    this.turn = (this.turn || Promise.resolve()).then(() => this.lay(values)).catch((error) => {
      this.session.status.problem(error.message);
    });
    return this.turn;
  }

  async lay(values) {
    if (!this.easel) {
      const { Easel } = await import("./easel.js");
      this.easel = await Easel.made(this.root, {
        painted: () => this.painted(),
        file: () => this.chosen((file) => this.maskFrom(file)),
        acting: (on) => this.acting(on),
      });
      this.easel.moded(this.mode);
      this.show(this.side);
    }
    const picture = values["start.picture"] || "";
    if (picture !== this.picture && picture !== this.flat) {
      const bitmap = picture ? await bitmapOf(picture, this.form) : null;
      this.picture = picture;
      this.flat = "";
      this.mask = "";
      this.size = bitmap && { width: bitmap.width, height: bitmap.height };
      this.easel.put(bitmap);
    }
    const mask = values["start.mask"] || "";
    if (mask !== this.mask && this.mode === "inpaint") {
      const bitmap = mask && this.size ? await bitmapOf(mask, this.form) : null;
      this.mask = mask;
      this.easel.masked(bitmap);
    }
  }

  // Pictures

  clicked(event) {
    const name = event.target.closest?.("[data-v]")?.dataset.v;
    const acts = {
      "start-choose": () => this.chosen((...files) => this.putAll(files), true),
      "start-draw": () => this.blank(),
      "start-take": () => this.take(),
      "start-remove": () => this.remove(),
      "depth-choose": () => this.chosen((file) => this.deepen(file)),
      "depth-remove": () => this.form.fill({ "start.depth": "" }),
      "size-own": () => this.sized(1),
      "size-shape": () => this.sized(this.shapeScale()),
      "side-easel": () => this.show("easel"),
      "side-result": () => this.show("result"),
    };
    acts[name]?.();
  }

  /** Asks for a file, or for several. */
  chosen(took, multiple = false) {
    const box = made("input", { type: "file", accept: "image/png,image/jpeg,image/webp", multiple });
    box.addEventListener("change", () => box.files.length && took(...box.files));
    box.click();
  }

  /** Puts pictures in; of several each is begun with in turn, once Generate was pressed. */
  async putAll(files) {
    const [first, ...rest] = files;
    if (!rest.length || this.mode === "inpaint") {
      await this.put(first);
      return;
    }
    const names = [];
    try {
      for (const file of files) {
        const words = `Putting picture ${names.length + 1} of ${files.length} in…`;
        this.session.status.say(words, { kind: "busy", spoken: false });
        names.push((await stored(file)).name);
      }
    } catch (error) {
      this.session.status.problem(`${files[names.length].name}: ${error.message}`);
      return;
    }
    this.series = { names, at: 0, runs: false };
    this.form.fill({ mode: "image", "start.picture": names[0], "start.mask": "" });
    this.show("easel");
    this.session.status.say(`${names.length} pictures are in. Generate paints them one after another.`);
  }

  /** A job is over. Whether the next picture of a series follows it. */
  next(type, interrupted) {
    const { series } = this;
    if (!series?.runs) return false;
    if (type !== "finished" || interrupted || series.at + 1 >= series.names.length) {
      series.runs = false;
      series.at = 0;
      return false;
    }
    series.at += 1;
    const name = series.names[series.at];
    this.form.fill({ "start.picture": name });
    this.form.once((values) => values["start.picture"] === name).then(() => {
      if (this.series === series && series.runs) document.getElementById("txt2img_generate").click();
    });
    return true;
  }

  /** Puts a picture in and begins with it. `mode` is what it is to be used for. */
  async put(file, { mode = this.mode === "text" ? "image" : this.mode, words = null } = {}) {
    try {
      this.session.status.say("Putting the picture in…", { kind: "busy", spoken: false });
      const { name } = await stored(file);
      this.form.fill({ mode, "start.picture": name, "start.mask": "" });
      this.show("easel");
      this.session.status.say(words || (mode === "inpaint"
        ? "Paint over what is to change, say what should be there, and press Generate."
        : "The picture is in. Say what it should become, and press Generate."));
    } catch (error) {
      this.session.status.problem(error.message);
    }
  }

  /** Begins with a picture of our own server, by its address. */
  async putUrl(url, mode) {
    const place = new URL(url, location.href);
    if (place.origin !== location.origin) {
      this.session.status.problem("Only pictures of this page can be used by their address");
      return;
    }
    const answer = await fetch(place).catch(() => null);
    if (answer?.ok) await this.put(await answer.blob(), { mode });
    else this.session.status.problem("That picture is not there any more");
  }

  /** The picture on the stage. */
  take() {
    const reel = this.session.timeline.reel;
    if (!reel?.done) {
      this.session.status.problem("There is no finished picture on show yet");
      return;
    }
    this.putUrl(`/images/${reel.job}/${reel.image}.png`, this.mode === "text" ? "image" : this.mode);
  }

  /** A white sheet of the form's size, to draw on. */
  async blank() {
    const canvas = document.createElement("canvas");
    const own = this.form.model?.size || 512;
    // Large enough to draw on; what the model paints has its own size.
    const sheet = (side) => Math.max(256, Number(this.form.values[side]) || own);
    canvas.width = sheet("width");
    canvas.height = sheet("height");
    const pen = canvas.getContext("2d");
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    const file = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    await this.put(file, { mode: "image", words: "Draw what you have in mind; a rough sketch is enough." });
    await this.laid({ ...this.form.values });
    this.easel?.draws(true);
  }

  remove() {
    this.form.fill({ "start.picture": "", "start.mask": "" });
  }

  /** A depth map, for checkpoints that read one. */
  async deepen(file) {
    try {
      this.form.fill({ "start.depth": (await stored(file)).name });
      this.session.status.say("The depth map is in: white is near.");
    } catch (error) {
      this.session.status.problem(error.message);
    }
  }

  async maskFrom(file) {
    try {
      const { name } = await stored(file);
      const bitmap = await bitmapOf(name, this.form);
      const stretch = (bitmap.width * this.size.height) / (bitmap.height * this.size.width);
      if (Math.abs(Math.log(stretch)) > 0.02) {
        throw new Error(`The mask has ${bitmap.width} × ${bitmap.height} pixels, and the picture has ` +
          `${this.size.width} × ${this.size.height}: they must have the same shape.`);
      }
      this.easel.maskFrom(bitmap);
    } catch (error) {
      this.session.status.problem(error.message);
    }
  }

  // What is painted

  painted() {
    clearTimeout(this.pause);
    this.pause = setTimeout(() => this.flush().catch(() => {}), PAUSE_MS);
  }

  /** Puts in what was painted since the last time; the form's new values. Raises an Error. Calls
   * take turns, for a mask may still be on its way when Generate is pressed. */
  flush() {
    clearTimeout(this.pause);
    if (this.mode === "text" || !this.easel) return Promise.resolve({});
    this.flushing = (this.flushing || Promise.resolve()).catch(() => {}).then(() => this.flushed());
    return this.flushing;
  }

  async flushed() {
    await this.turn;
    const fresh = {};
    const { dirty } = this.easel;
    if (dirty.sketch) {
      dirty.sketch = false;
      this.flat = await kept(() => this.easel.sketch(), () => (dirty.sketch = true));
      fresh["start.picture"] = this.flat;
    }
    if (dirty.mask) {
      dirty.mask = false;
      this.mask = await kept(() => this.easel.mask(), () => (dirty.mask = true));
      fresh["start.mask"] = this.mask;
    }
    if (Object.keys(fresh).length) this.form.fill(fresh);
    return { "start.picture": this.flat || this.picture, "start.mask": this.mask };
  }

  /** The form's values with what was painted in them, if they are of the picture on the easel. */
  async ready(names, values) {
    const at = (name) => values[names.indexOf(name)];
    const fresh = await this.flush();
    const picture = at("start.picture") || "";
    if (this.mode === "text" || picture !== this.series?.names[this.series.at]) this.series = null;
    else this.series.runs = true;
    const same = [this.picture, this.flat].includes(picture);
    return names.map((name, i) => (same && name in fresh ? fresh[name] : values[i]));
  }

  /** Shows the mask as it will act: grown, blurred, inverted, extended. */
  async acting(on) {
    if (!on) {
      this.easel.acting(null);
      return;
    }
    try {
      const values = { ...this.form.values, ...(await this.flush()) };
      const start = { picture: values["start.picture"], mask: values["start.mask"] || null,
        grow: Number(values["start.grow"]), blur: Number(values["start.blur"]),
        invert: values["start.invert"] === true, only_masked: true, extend: this.sidesOf(values) };
      // Only masked, so that the mask comes at the picture's own size.
      this.easel.acting(await prepared({ start, ...SMALL, show: "mask" }));
    } catch (error) {
      this.session.status.problem(error.message);
    }
  }

  sidesOf(values) {
    const sides = SIDES.map((side) => Math.round(Number(values[`start.extend.${side}`]) || 0));
    return sides.some(Boolean) ? sides : [];
  }

  // Sizes

  /** The factor that brings the picture to about as many pixels as the model paints best. */
  shapeScale() {
    const own = this.form.model?.size || 512;
    return Math.sqrt((own * own) / (this.whole.width * this.whole.height));
  }

  /** The picture with what it is extended by. */
  get whole() {
    const [left, top, right, bottom] = this.easel?.extend || [0, 0, 0, 0];
    return { width: this.size.width + left + right, height: this.size.height + top + bottom };
  }

  scaled(scale) {
    const { width, height } = this.whole;
    const least = Math.min(1, Math.sqrt(MOST_PIXELS / (width * height * scale * scale)));
    const side = (pixels) => Math.max(16, Math.min(8192, Math.round((pixels * scale * least) / STEP) * STEP));
    return { width: side(width), height: side(height) };
  }

  sized(scale) {
    if (!this.size) return;
    const { width, height } = this.scaled(scale);
    this.form.fill({ width: String(width), height: String(height) });
    this.session.status.say(`The size is ${width} × ${height} now.`);
  }

  // What is shown

  /** The small picture, its words, and the sizes it could have. */
  said() {
    const words = part("start-said");
    if (!words) return;
    const { size } = this;
    const thumb = part("start-thumb");
    thumb.hidden = !size;
    const name = this.flat || this.picture;
    const url = name ? `/api/pictures/${name}/thumbnail.jpg` : "";
    if (thumb.getAttribute("src") !== url) {
      if (url) thumb.src = url;
      else thumb.removeAttribute("src");
    }
    part("start-remove").hidden = !size;
    const deep = Boolean(this.form.values["start.depth"]);
    part("depth-remove").hidden = !deep;
    part("depth-choose").hidden = deep;
    part("start-depths").hidden = !deep && !/depth/i.test(this.form.model?.name || "");
    part("start-sizes").hidden = !size;
    if (!size) {
      const drops = matchMedia("(hover: hover)").matches;
      words.textContent = `No picture yet.${drops ? " Drop one on the page, or paste it." : ""}`;
      return;
    }
    const own = this.form.model?.size;
    const width = Number(this.form.values.width) || own;
    const height = Number(this.form.values.height) || own;
    const whole = this.whole;
    const { series } = this;
    const many = series && series.names[series.at] === this.picture
      ? `Picture ${series.at + 1} of ${series.names.length}: ` : "";
    const alone = this.mode === "inpaint" && this.form.values["start.only_masked"] === true;
    const same = width === whole.width && height === whole.height;
    words.textContent = `${many}${whole.width} × ${whole.height}, ` +
      (alone ? `its masked part painted at ${width} × ${height}`
        : same ? "painted at this size" : `painted at ${width} × ${height}`);
    for (const [id, scale] of [["size-own", 1], ["size-shape", this.shapeScale()]]) {
      const button = part(id);
      const one = this.scaled(scale);
      button.hidden = one.width === width && one.height === height;
      button.textContent = `${id === "size-own" ? "As the picture" : "Its shape"}: ${one.width} × ${one.height}`;
    }
    if (!part("size-own").hidden && part("size-own").textContent.endsWith(part("size-shape").textContent.split(":")[1])) {
      part("size-shape").hidden = true;
    }
  }

  /** The way between the easel and what was made. */
  sides() {
    let bar = part("sides", this.root);
    if (!bar) {
      if (this.mode === "text") return;
      bar = made("div", { className: "v-sides" });
      bar.dataset.v = "sides";
      bar.setAttribute("role", "group");
      bar.setAttribute("aria-label", "On the stage");
      for (const [side, words] of [["easel", "Start picture"], ["result", "Result"]]) {
        const one = made("button", { type: "button", textContent: words });
        one.dataset.v = `side-${side}`;
        bar.append(one);
      }
      this.root.querySelector(".v-case").before(bar);
    }
    bar.hidden = this.mode === "text";
    for (const side of ["easel", "result"]) {
      part(`side-${side}`, bar).setAttribute("aria-pressed", String(side === this.side));
    }
  }

  show(side) {
    this.side = this.mode === "text" ? "result" : side;
    this.root.querySelector(".v-show").classList.toggle("is-easel", this.side === "easel");
    if (this.easel) {
      const was = this.easel.place.hidden;
      this.easel.place.hidden = this.side !== "easel";
      if (was && this.side === "easel" && this.easel.view.fitted) this.easel.view.fit();
    }
    this.sides();
  }
}

const SMALL = { width: 64, height: 64 };

/** A file's name after it was put in. Throws an Error with a sentence. */
async function stored(file) {
  if (file.size > LARGEST) throw new Error("A picture may have 64 MB at most.");
  return asked("/api/pictures", { method: "POST", body: file });
}

/** What is made by `made` put in; its name, or "" where there is nothing. */
async function kept(made, failed) {
  try {
    const file = await made();
    return file ? (await stored(file)).name : "";
  } catch (error) {
    failed();
    throw error;
  }
}

/** A picture that was put in, decoded; one that is gone leaves the form. */
async function bitmapOf(name, form) {
  const answer = await fetch(`/api/pictures/${name}.png`).catch(() => null);
  if (!answer?.ok) {
    form.fill({ "start.picture": "", "start.mask": "" });
    throw new Error("The picture to begin with is no longer here; put it in again.");
  }
  return createImageBitmap(await answer.blob());
}

/** A picture that the server prepares, as a bitmap. */
export async function prepared(asks) {
  const answer = await fetch("/api/pictures/prepared", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(asks),
  }).catch(() => null);
  if (!answer) throw new Error("The server does not answer. Is it still running?");
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    throw new Error(sentence(said.error || `The server answered ${answer.status}`));
  }
  return createImageBitmap(await answer.blob());
}
