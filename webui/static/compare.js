// Over a result: what it began from, behind a line that can be moved, and the mask that acted.

import { made, part } from "./dom.js";
import { MASK, paintOf } from "./layer.js";
import { prepared } from "./start.js";

export class Compare {
  constructor(root, status) {
    this.status = status;
    this.figure = part("panes", root).firstElementChild;
    this.canvas = part("picture", root);
    this.reel = null;
    this.bar = made("div", { className: "v-compare" });
    this.bar.setAttribute("role", "group");
    this.bar.setAttribute("aria-label", "Compare");
    this.buttons = {};
    for (const [name, words] of [["before", "Before and after"], ["mask", "Mask"]]) {
      const button = made("button", { type: "button", className: "v-quiet", textContent: words });
      button.addEventListener("click", () => this.toggle(name));
      this.buttons[name] = button;
      this.bar.append(button);
    }
    part("case", root).after(this.bar);
    this.over = made("div", { className: "v-over", hidden: true });
    this.before = made("canvas", { className: "v-before", hidden: true });
    this.mask = made("canvas", { className: "v-used", hidden: true });
    this.there = new Set();
    this.line = made("i", { className: "v-line", hidden: true });
    this.slide = made("input", { type: "range", min: "0", max: "100", value: "50", step: "0.5", hidden: true });
    this.slide.setAttribute("aria-label", "How much of the picture before is shown");
    this.slide.addEventListener("input", () => this.slid());
    this.over.append(this.before, this.mask, this.line, this.slide);
    this.figure.append(this.over);
    new ResizeObserver(() => this.fit()).observe(this.canvas);
  }

  /** The image on the stage is another one, or is finished now. */
  put(reel) {
    if (reel !== this.reel) this.clear();
    this.reel = reel;
    const start = reel?.done ? reel.request.start : null;
    this.bar.hidden = !start;
    this.buttons.mask.hidden = !start?.mask && !start?.extend?.length;
  }

  clear() {
    this.there.clear();
    for (const name of ["before", "mask"]) this.set(name, false);
  }

  async toggle(name) {
    const canvas = this[name];
    const on = canvas.hidden;
    if (on && !this.there.has(name)) {
      const { reel } = this;
      const { start, width, height } = reel.request;
      try {
        const show = name === "mask" ? "mask" : "picture";
        const bitmap = await prepared({ start, width, height, show });
        if (reel !== this.reel) return;
        canvas.width = bitmap.width;
        canvas.height = bitmap.height;
        const seen = show === "mask" ? paintOf(bitmap, bitmap.width, bitmap.height, MASK) : bitmap;
        canvas.getContext("2d").drawImage(seen, 0, 0);
        this.there.add(name);
      } catch (error) {
        this.status.problem(error.message);
        return;
      }
    }
    this.set(name, on);
  }

  set(name, on) {
    this[name].hidden = !on;
    this.buttons[name].setAttribute("aria-pressed", String(on));
    if (name === "before") this.slide.hidden = this.line.hidden = !on;
    this.over.hidden = this.before.hidden && this.mask.hidden;
    this.fit();
    this.slid();
  }

  slid() {
    const share = Number(this.slide.value);
    this.before.style.clipPath = `inset(0 ${100 - share}% 0 0)`;
    this.line.style.left = `${share}%`;
  }

  fit() {
    this.over.style.width = this.canvas.style.width;
    this.over.style.height = this.canvas.style.height;
    this.before.classList.toggle("is-enlarged", this.canvas.classList.contains("is-enlarged"));
  }
}
