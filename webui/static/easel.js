// The easel: the picture to begin with, and what a person paints on it. A mask where something is
// to change, or colours of a sketch; with mouse, pen, finger and keys.

import { made, part } from "./dom.js";
import { Layer, MASK, filed, maskOf, paintOf, stroked } from "./layer.js";
import { styled } from "./styled.js";
import { View } from "./view.js";

const COLOURS = ["#17181a", "#ffffff", "#d23c32", "#e8862c", "#efc83a", "#4f9d4a", "#2f7fc1", "#7b4fa3",
  "#8a5a36", "#f0b8a0"];

export class Easel {
  /** `heard`: {painted(), file()} */
  static async made(root, heard) {
    const [markup] = await Promise.all([
      fetch(new URL("easel.html", import.meta.url)).then((answer) => answer.text()),
      styled("easel.css"),
    ]);
    const place = made("div", { className: "v-easel", hidden: true });
    place.innerHTML = markup; // our own file; nothing of a request is in it
    root.querySelector(".v-case").after(place);
    return new Easel(place, heard);
  }

  constructor(place, heard) {
    this.place = place;
    this.heard = heard;
    this.tools = {};
    for (const tool of place.querySelectorAll("[data-v]")) this.tools[tool.dataset.v] = tool;
    this.base = this.tools.base;
    this.layers = { mask: new Layer(), sketch: new Layer() };
    for (const [name, layer] of Object.entries(this.layers)) {
      const shown = this.tools[name];
      layer.canvas.className = shown.className;
      shown.replaceWith(layer.canvas);
    }
    this.live = this.tools.live;
    this.extend = [0, 0, 0, 0];
    this.view = new View(this.tools.board, this.tools.sheet, () => this.extend, () => this.brush());
    this.mode = "image";
    this.drawing = false;
    this.erases = false;
    this.colour = COLOURS[2];
    this.share = 0.14; // of the shorter side: the brush
    this.alpha = 1;
    this.pointers = new Map();
    this.stroke = null;
    this.cursor = null;
    this.dirty = { mask: false, sketch: false };
    this.colours();
    this.listen();
    this.put(null);
  }

  get hasPicture() {
    return this.base.width > 1;
  }

  get layer() {
    return this.mode === "inpaint" ? this.layers.mask : this.layers.sketch;
  }

  get paints() {
    return this.hasPicture && (this.mode === "inpaint" || this.drawing);
  }

  get brushSize() {
    return Math.max(1, this.share * Math.min(this.base.width, this.base.height));
  }

  /** A picture to begin with; null takes it away. What was painted goes with the old one. */
  put(bitmap) {
    const [width, height] = bitmap ? [bitmap.width, bitmap.height] : [1, 1];
    for (const canvas of [this.base, this.live]) {
      canvas.width = width;
      canvas.height = height;
    }
    for (const layer of Object.values(this.layers)) layer.size(width, height);
    if (bitmap) this.base.getContext("2d").drawImage(bitmap, 0, 0);
    this.dirty = { mask: false, sketch: false };
    this.view.size(width, height);
    this.acting(null);
    this.shown();
  }

  /** A mask's picture, or none, to go on from. */
  masked(bitmap) {
    const { width, height } = this.base;
    this.layers.mask.begin(bitmap && paintOf(bitmap, width, height, MASK));
    this.dirty.mask = false;
    this.acting(null);
    this.shown();
  }

  /** A mask from a file, as something that can be undone. */
  maskFrom(bitmap) {
    const { width, height } = this.base;
    this.did({ kind: "put", paint: paintOf(bitmap, width, height, MASK) }, "mask");
  }

  moded(mode) {
    this.mode = mode;
    if (mode === "inpaint") this.drawing = false;
    this.shown();
  }

  draws(on) {
    this.drawing = on;
    this.shown();
  }

  extended(sides) {
    if (sides.every((side, i) => side === this.extend[i])) return;
    this.extend = sides;
    const { margin } = this.tools;
    margin.style.inset = sides.length
      ? `${-sides[1]}px ${-sides[2]}px ${-sides[3]}px ${-sides[0]}px` : "0";
    this.acting(null);
    if (this.hasPicture) this.view.fit();
  }

  soft(on) {
    this.tools["tool-strengths"].hidden = !on || this.mode !== "inpaint";
    if (!on) this.alpha = 1;
  }

  /** The mask that acts, as a picture, laid over the picture in place of what was painted; null
   * takes it off. */
  acting(bitmap) {
    const { acting } = this.tools;
    acting.hidden = !bitmap;
    if (bitmap) {
      const [left, top, right, bottom] = this.extend;
      acting.width = this.base.width + left + right;
      acting.height = this.base.height + top + bottom;
      acting.getContext("2d").drawImage(paintOf(bitmap, acting.width, acting.height, MASK), 0, 0);
      Object.assign(acting.style, { inset: `${-top}px auto auto ${-left}px`,
        width: `${acting.width}px`, height: `${acting.height}px` });
    }
    this.layers.mask.canvas.hidden = Boolean(bitmap) || this.mode !== "inpaint";
    this.tools["tool-acting"].setAttribute("aria-pressed", String(Boolean(bitmap)));
  }

  /** The mask as a file; null where nothing is painted. */
  async mask() {
    return this.layers.mask.empty ? null : maskOf(this.layers.mask);
  }

  /** The picture with the sketch on it, as a file. */
  sketch() {
    const canvas = document.createElement("canvas");
    canvas.width = this.base.width;
    canvas.height = this.base.height;
    const pen = canvas.getContext("2d");
    pen.drawImage(this.base, 0, 0);
    pen.drawImage(this.layers.sketch.canvas, 0, 0);
    return filed(canvas);
  }

  // Tools

  colours() {
    const pick = made("input", { type: "color", value: this.colour, title: "Any colour" });
    pick.setAttribute("aria-label", "Any colour");
    const choose = (colour) => {
      this.colour = pick.value = colour;
      this.erases = false;
      for (const swatch of this.tools["tool-colours"].querySelectorAll("button")) {
        swatch.setAttribute("aria-pressed", String(swatch.title === colour));
      }
      this.shown();
    };
    pick.addEventListener("input", () => choose(pick.value));
    const swatches = COLOURS.map((colour) => {
      const swatch = made("button", { type: "button", className: "v-swatch", title: colour });
      swatch.setAttribute("aria-label", `Colour ${colour}`);
      swatch.setAttribute("aria-pressed", String(colour === this.colour));
      swatch.style.background = colour;
      swatch.addEventListener("click", () => choose(colour));
      return swatch;
    });
    this.tools["tool-colours"].append(...swatches, pick);
  }

  listen() {
    const on = (name, act) => this.tools[`tool-${name}`].addEventListener("click", act);
    on("draw", () => this.draws(!this.drawing));
    on("paint", () => this.erase(false));
    on("erase", () => this.erase(true));
    on("undo", () => this.undo());
    on("redo", () => this.redo());
    on("invert", () => this.did({ kind: "invert", colour: MASK }));
    on("clear", () => this.did({ kind: "clear" }));
    on("file", () => this.heard.file());
    on("acting", () => this.heard.acting(this.tools.acting.hidden));
    on("out", () => this.view.zoom(1 / 1.4));
    on("in", () => this.view.zoom(1.4));
    on("fit", () => this.view.fit());
    this.tools["tool-size"].addEventListener("input", (event) => {
      // Fine at the small end, where it matters.
      this.share = 0.005 * 200 ** (Number(event.target.value) / 100);
      this.shown();
    });
    this.tools["tool-strength"].addEventListener("input", (event) => {
      this.alpha = Number(event.target.value) / 100;
      this.shown();
    });
    const { board } = this.tools;
    board.addEventListener("pointerdown", (event) => this.down(event));
    board.addEventListener("pointermove", (event) => this.moved(event));
    for (const name of ["pointerup", "pointercancel"]) {
      board.addEventListener(name, (event) => this.up(event));
    }
    board.addEventListener("pointerleave", () => this.brush(null));
    board.addEventListener("contextmenu", (event) => this.paints && event.preventDefault());
    board.addEventListener("keydown", (event) => this.key(event));
    document.addEventListener("keydown", (event) => this.shortcut(event));
  }

  erase(on) {
    this.erases = on;
    this.shown();
  }

  resize(factor) {
    this.share = Math.max(0.005, Math.min(1, this.share * factor));
    this.shown();
  }

  undo() {
    if (this.layer.undo()) this.painted();
  }

  redo() {
    if (this.layer.redo()) this.painted();
  }

  did(act, name = null) {
    if (!this.hasPicture) return;
    (name ? this.layers[name] : this.layer).add(act);
    this.painted(name);
  }

  painted(name = null) {
    this.dirty[name || (this.mode === "inpaint" ? "mask" : "sketch")] = true;
    this.acting(null);
    this.shown();
    this.heard.painted();
  }

  /** What the tools say fits what can be done. */
  shown() {
    const { tools, mode } = this;
    const inpaints = mode === "inpaint";
    tools.invite.hidden = this.hasPicture;
    tools.tools.hidden = !this.hasPicture;
    tools.sheet.hidden = !this.hasPicture;
    this.layers.mask.canvas.hidden = !inpaints || !tools.acting.hidden;
    tools["tool-draw"].hidden = inpaints;
    tools["tool-draw"].setAttribute("aria-pressed", String(this.drawing));
    for (const name of ["brushes", "sizes"]) tools[`tool-${name}`].hidden = !this.paints;
    for (const name of ["undo", "redo", "clear"]) tools[`tool-${name}`].hidden = !this.paints;
    for (const name of ["invert", "file", "acting"]) tools[`tool-${name}`].hidden = !inpaints;
    tools["tool-colours"].hidden = inpaints || !this.drawing;
    tools["tool-undo"].disabled = !this.layer.acts.length;
    tools["tool-redo"].disabled = !this.layer.undone.length;
    tools["tool-paint"].setAttribute("aria-pressed", String(!this.erases));
    tools["tool-erase"].setAttribute("aria-pressed", String(this.erases));
    tools["tool-size"].value = String(Math.round((100 * Math.log(this.share / 0.005)) / Math.log(200)));
    tools["tool-size-said"].textContent = `${Math.round(this.brushSize)} px`;
    tools["tool-strength-said"].textContent = `${Math.round(this.alpha * 100)} %`;
    tools.board.classList.toggle("is-painting", this.paints);
    this.brush();
  }

  // Pointers

  down(event) {
    if (event.target.closest("button") || !this.hasPicture) return;
    this.pointers.set(event.pointerId, { clientX: event.clientX, clientY: event.clientY });
    this.tools.board.setPointerCapture(event.pointerId);
    if (this.pointers.size === 2) {
      this.stroke = null; // two fingers move the sheet
      this.wipe();
      this.pinch = this.spread();
      return;
    }
    if (this.pointers.size > 2) return;
    const moves = event.button === 1 || this.spaced || !this.paints;
    if (moves) {
      this.drags = event.button === 0 || event.button === 1;
      return;
    }
    if (event.button !== 0 && event.pointerType === "mouse") return;
    event.preventDefault();
    this.tools.board.focus({ preventScroll: true });
    this.stroke = { kind: "stroke", points: [this.view.place(event)], size: this.brushSize,
      colour: this.mode === "inpaint" ? MASK : this.colour, alpha: this.alpha,
      erases: this.erases || event.buttons === 32 };
    this.follow();
  }

  moved(event) {
    this.brush(event.pointerType === "touch" ? null : event);
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    this.pointers.set(event.pointerId, { clientX: event.clientX, clientY: event.clientY });
    if (this.pointers.size === 2) {
      const now = this.spread();
      if (this.pinch) {
        this.view.zoom(now.apart / this.pinch.apart, now.clientX, now.clientY);
        this.view.move(now.clientX - this.pinch.clientX, now.clientY - this.pinch.clientY);
      }
      this.pinch = now;
    } else if (this.stroke) {
      const seen = event.getCoalescedEvents?.() ?? [];
      for (const one of seen.length ? seen : [event]) this.stroke.points.push(this.view.place(one));
      this.follow();
    } else if (this.drags && !this.view.fitted) {
      this.view.move(event.clientX - before.clientX, event.clientY - before.clientY);
    }
  }

  up(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    if (this.pointers.size < 2) this.pinch = null;
    if (!this.pointers.size) this.drags = false;
    if (this.stroke && event.type === "pointerup") {
      const { stroke } = this;
      this.stroke = null;
      this.did(stroke);
    }
    this.stroke = null;
    this.wipe();
  }

  spread() {
    const [a, b] = [...this.pointers.values()];
    return {
      clientX: (a.clientX + b.clientX) / 2,
      clientY: (a.clientY + b.clientY) / 2,
      apart: Math.max(20, Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY)),
    };
  }

  /** The stroke under way. An eraser is shown on a copy of the layer. */
  follow() {
    if (this.following) return;
    this.following = requestAnimationFrame(() => {
      this.following = 0;
      if (!this.stroke) return;
      const pen = this.live.getContext("2d");
      pen.clearRect(0, 0, this.live.width, this.live.height);
      this.live.classList.toggle("v-mask", this.mode === "inpaint");
      if (this.stroke.erases) {
        pen.drawImage(this.layer.canvas, 0, 0);
        this.layer.canvas.style.visibility = "hidden";
      }
      stroked(pen, this.stroke);
    });
  }

  wipe() {
    this.live.getContext("2d").clearRect(0, 0, this.live.width, this.live.height);
    for (const layer of Object.values(this.layers)) layer.canvas.style.visibility = "";
  }

  /** The ring that shows how large the brush is, where the pointer or the keys have it. */
  brush(event = undefined) {
    if (event !== undefined) this.cursor = event && this.view.place(event);
    const { brush } = this.tools;
    brush.hidden = !this.paints || !this.cursor;
    if (brush.hidden) return;
    const across = this.brushSize * this.view.scale;
    brush.style.width = brush.style.height = `${across}px`;
    const x = this.view.x + this.cursor.x * this.view.scale - across / 2;
    const y = this.view.y + this.cursor.y * this.view.scale - across / 2;
    brush.style.transform = `translate(${x}px, ${y}px)`;
  }

  // Keys

  key(event) {
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const way = ways[event.key];
    if (!this.paints || event.target !== this.tools.board || event.ctrlKey || event.metaKey) return;
    if (way) {
      event.preventDefault();
      const { width, height } = this.base;
      const from = this.cursor || { x: width / 2, y: height / 2 };
      const far = event.shiftKey ? 1 : this.brushSize / 3;
      this.cursor = { x: Math.max(0, Math.min(width, from.x + way[0] * far)),
        y: Math.max(0, Math.min(height, from.y + way[1] * far)) };
      this.brush();
    } else if (event.key === " ") {
      event.preventDefault();
      this.cursor = this.cursor || { x: this.base.width / 2, y: this.base.height / 2 };
      this.did({ kind: "stroke", points: [this.cursor], size: this.brushSize, erases: this.erases,
        colour: this.mode === "inpaint" ? MASK : this.colour, alpha: this.alpha });
      this.brush();
    }
  }

  /** Wherever the focus is, but not while somebody types. */
  shortcut(event) {
    const types = event.target.closest?.("textarea, input:not([type=range]):not([type=checkbox])");
    if (this.place.hidden || !this.paints || types || event.altKey) return;
    const command = event.ctrlKey || event.metaKey;
    const key = event.key.toLowerCase();
    const acts = command
      ? { z: () => (event.shiftKey ? this.redo() : this.undo()), y: () => this.redo() }
      : { "[": () => this.resize(1 / 1.2), "]": () => this.resize(1.2), b: () => this.erase(false),
        e: () => this.erase(!this.erases) };
    if (!acts[key]) return;
    event.preventDefault();
    acts[key]();
  }
}
