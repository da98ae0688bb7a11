// Attention: point at a word and see where in the picture it was looked at; point into the picture
// and see which words were. All maps are here; pointing asks nobody.

import { made } from "./dom.js";
import { Colours, heat, isKnown, numbers, resized } from "./explain_data.js";
import { choice, line } from "./explain_parts.js";

const GRID = 48; // cells of the finer side that maps are drawn with
const PARTS = { input: "Going down", middle: "Middle", output: "Going up" };

export class View {
  constructor(root, page) {
    this.page = page;
    this.prompt = 0;
    this.group = "all";
    this.word = null;
    this.spot = null;
    this.base = made("canvas", { width: 8, height: 8 });
    this.map = made("canvas", { width: 8, height: 8 });
    this.mark = made("i", { hidden: true });
    this.over = made("div", { className: "v-ex-over", tabIndex: 0 }, this.base, this.map, this.mark);
    this.over.setAttribute("role", "img");
    this.over.setAttribute("aria-label", "Where the words were looked at. Click a place to rank the words there.");
    this.says = line();
    this.spanning = choice(
      "Which steps", [["one", "This step"], ["all", "All steps"]], (span) => this.spans(span),
    );
    this.span = "one";
    this.prompts = choice("Which prompt", [], (number) => this.told(Number(number)));
    this.groups = choice("Which layers", [], (group) => {
      this.group = group;
      this.draw();
    });
    this.tokens = made("div", { className: "v-ex-tokens" });
    this.about = made("p", { className: "v-ex-note" });
    this.ranks = made("ol", { className: "v-ex-ranks" });
    this.ranked = made("div", { hidden: true }, made("h3", { textContent: "Words at the marked place" }), this.ranks);
    const left = made("div", { className: "v-ex-side" }, this.over, this.spanning.element, this.groups.element);
    const right = made(
      "div", { className: "v-ex-side" },
      this.prompts.element,
      made("div", {}, made("h3", { textContent: "Point at a word, or into the picture" }), this.tokens),
      this.about, this.ranked, this.says.element,
    );
    root.append(left, right);
    this.listen();
  }

  listen() {
    const point = (event) => {
      const box = this.over.getBoundingClientRect();
      this.pointed((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    };
    this.over.addEventListener("click", (event) => {
      point(event);
      this.held = true;
    });
    this.over.addEventListener("pointermove", (event) => {
      if (event.pointerType === "mouse" && !this.held) point(event);
    });
    this.over.addEventListener("pointerleave", () => {
      if (this.held) return;
      this.spot = null;
      this.draw();
    });
    this.over.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!move) return;
      event.preventDefault();
      this.held = true;
      const [x, y] = this.spot || [0.5, 0.5];
      this.pointed(x + move[0] / 32, y + move[1] / 32);
    });
  }

  pointed(x, y) {
    const within = (value) => Math.min(0.999, Math.max(0, value));
    this.spot = [within(x), within(y)];
    this.draw();
  }

  url(step) {
    const { id, image } = this.page.run;
    return `/api/explain/where/${id}/${image}/${step.pass}/${step.index}`;
  }

  async spans(span) {
    this.span = span;
    this.shown = null;
    await this.show();
  }

  async show() {
    const step = this.page.asking;
    const { id, image } = this.page.run;
    const wanted = this.span === "all" ? `${id}/${image}/all` : this.url(step);
    if (wanted === this.shown) return;
    this.shown = wanted;
    try {
      if (this.span === "all") await this.whole(wanted, step.pass);
      else {
        if (!isKnown(wanted)) this.says.say("Asking the model again at this step, watching where it looks…");
        const found = await numbers(wanted);
        if (this.shown !== wanted) return;
        this.put(found.head.prompts, (name) => found.arrays[name]);
        await this.ground(step);
      }
      if (this.shown === wanted) this.says.say("");
    } catch (error) {
      if (this.shown === wanted) this.says.say(error.message, "problem");
      this.shown = null;
    }
  }

  /** The mean over all steps of a pass, growing as they come. */
  async whole(wanted, pass) {
    const steps = this.page.run.steps.filter((one) => one.pass === pass && !one.last);
    await this.ground(null);
    let sums = null;
    let words = null;
    let count = 0;
    for (const step of steps) {
      this.says.say(`Looking at step ${count + 1} of ${steps.length}…`);
      const found = await numbers(this.url(step));
      if (this.shown !== wanted) return;
      const said = JSON.stringify(found.head.prompts.map((one) => one.words.map((word) => word.text)));
      if (words !== null && said !== words) {
        throw new Error("The wording changes from step to step here; look at single steps");
      }
      words = said;
      count += 1;
      sums ||= Object.fromEntries(
        Object.entries(found.arrays).map(([name, { shape, data }]) => [name, { shape, data: new Float32Array(data.length) }]),
      );
      for (const [name, { data }] of Object.entries(found.arrays)) {
        const sum = sums[name].data;
        for (let i = 0; i < sum.length; i++) sum[i] += data[i];
      }
      const means = (name) => ({ shape: sums[name].shape, data: sums[name].data.map((value) => value / count) });
      this.put(found.head.prompts, means);
    }
  }

  /** What lies under the map: the estimate that this step led to, or the finished picture. */
  async ground(step) {
    const { id, image, pictures } = this.page.run;
    const key = `${id}/${image}/${step ? step.at : "done"}`;
    if (key === this.grounded) return;
    this.grounded = key;
    if (!step && pictures.includes(image)) {
      const answer = await fetch(`/images/${id}/${image}.png`);
      const bitmap = await createImageBitmap(await answer.blob());
      if (this.grounded !== key) return;
      Object.assign(this.base, { width: bitmap.width, height: bitmap.height });
      this.base.getContext("2d").drawImage(bitmap, 0, 0);
      return;
    }
    const found = await numbers(`/api/explain/latents/${id}/${image}`);
    const at = (step || this.page.run.steps.at(-1)).at;
    const estimate = found.arrays[`denoised${at + 1}`] || found.arrays[`x${at}`];
    if (!estimate || this.grounded !== key) return;
    const colours = new Colours(found.arrays.preview);
    colours.draw(this.base, [[1, colours.levels(estimate)]]);
  }

  put(prompts, array) {
    this.said = prompts.map((one) => ({
      ...one,
      groups: one.groups.map((group) => ({ ...group, map: array(group.array) })),
    }));
    this.prompts.fill(this.said.map((one, number) => [number, one.name]), this.prompt);
    const groups = this.said[0].groups;
    const wanted = groups.some((group) => nameOf(group) === this.group) ? this.group : "all";
    this.groups.fill(
      [["all", "All layers"], ...groups.map((group) => [nameOf(group), titleOf(group)])], wanted,
    );
    this.group = wanted;
    this.told(Math.min(this.prompt, this.said.length - 1));
  }

  told(number) {
    this.prompt = number;
    this.prompts.set(number);
    const { words } = this.said[number];
    if (this.word === null || this.word >= words.length) {
      this.word = this.strongest(words);
    }
    this.tokens.replaceChildren(...words.map((word, index) => this.token(word, index)));
    this.draw();
  }

  /** The word that is looked at most in some place. */
  strongest(words) {
    const peaks = this.maps().data.map((map, n) => (words[n].kind === "word" ? Math.max(...map) : -1));
    return Math.max(0, peaks.indexOf(Math.max(...peaks)));
  }

  token(word, index) {
    const button = made("button", { type: "button", textContent: word.text });
    button.dataset.kind = word.kind;
    button.title = `token ${word.id}`;
    if (word.weight !== 1) button.append(made("sup", { textContent: ` ×${word.weight}` }));
    const chosen = () => {
      this.word = index;
      if (!this.held) this.spot = null;
      this.draw();
    };
    button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && chosen());
    button.addEventListener("focus", chosen);
    button.addEventListener("click", () => {
      this.held = false;
      this.spot = null;
      chosen();
    });
    return button;
  }

  /** Every word's map over the chosen layers, (n h w) on one grid. */
  maps() {
    const key = `${this.shown}|${this.prompt}|${this.group}|${this.said[this.prompt].groups[0].map.data[0]}`;
    if (this.known?.key === key) return this.known;
    const { groups } = this.said[this.prompt];
    const chosen = this.group === "all" ? groups : groups.filter((one) => nameOf(one) === this.group);
    const shapes = chosen.map(({ map }) => map.shape);
    const [count] = shapes[0];
    const longest = Math.max(...shapes.flatMap(([, h, w]) => [h, w]));
    const [, high, wide] = shapes.find(([, h, w]) => Math.max(h, w) === longest);
    const finer = Math.max(1, GRID / longest);
    const h = Math.round(high * finer);
    const w = Math.round(wide * finer);
    const data = Array.from({ length: count }, () => new Float32Array(h * w));
    for (const { map } of chosen) {
      const [, rows, columns] = map.shape;
      for (let n = 0; n < count; n++) {
        const own = map.data.subarray(n * rows * columns, (n + 1) * rows * columns);
        const large = resized(own, rows, columns, h, w);
        for (let i = 0; i < large.length; i++) data[n][i] += large[i] / chosen.length;
      }
    }
    this.known = { key, h, w, data };
    return this.known;
  }

  draw() {
    if (!this.said) return;
    const { h, w, data } = this.maps();
    const { words } = this.said[this.prompt];
    const map = data[this.word];
    const most = Math.max(...map);
    const least = Math.min(...map);
    const range = Math.max(most - least, 1e-6);
    heat(this.map, map.map((value) => value - least), h, w, range, (share) => 0.35 + 0.55 * share);
    [...this.tokens.children].forEach((button, index) =>
      button.setAttribute("aria-pressed", String(index === this.word)),
    );
    const mean = map.reduce((sum, value) => sum + value, 0) / map.length;
    const word = words[this.word];
    const asides = {
      start: "The start takes most of it nearly everywhere: what has no word to look at looks there.",
      end: "The end has read the whole prompt, so a good deal of the picture is in it.",
      padding: "The model always reads 77 tokens; behind the end they are filler, and looked at too.",
    };
    this.about.textContent =
      `“${word.text}” gets ${percent(mean)} of all attention: ` +
      `${percent(most)} where the map is palest, ${percent(least)} where it is darkest. ` +
      (asides[word.kind] || "");
    this.rank(words, data, h, w);
  }

  rank(words, data, h, w) {
    this.mark.hidden = this.ranked.hidden = !this.spot;
    if (!this.spot) return;
    const [x, y] = this.spot;
    this.mark.style.left = `${x * 100}%`;
    this.mark.style.top = `${y * 100}%`;
    const place = Math.floor(y * h) * w + Math.floor(x * w);
    const order = words.map((word, index) => [data[index][place], word]).sort(([a], [b]) => b - a);
    this.ranks.replaceChildren(
      ...order.slice(0, 12).map(([share, word]) => {
        const bar = made("i", {});
        bar.style.width = `${Math.max(0.5, share * 100)}%`;
        return made("li", {}, made("span", { textContent: word.text }), bar, made("span", { textContent: percent(share) }));
      }),
    );
  }
}

const nameOf = ({ part, rows, columns }) => `${part}/${rows}x${columns}`;
const titleOf = ({ part, rows, columns }) => `${PARTS[part]} ${rows} × ${columns}`;
const percent = (share) => `${(share * 100).toFixed(share < 0.1 ? 1 : 0)} %`;
