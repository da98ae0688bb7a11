// Words: what the model reads of the prompt at each step, as tokens, and how alike it takes them to be.

import { made } from "./dom.js";
import { heat, numbers } from "./explain_data.js";
import { choice, line } from "./explain_parts.js";

export class View {
  constructor(root, page) {
    this.page = page;
    this.side = "positive";
    this.says = line();
    this.sides = choice("Which prompt", [["positive", "Prompt"], ["negative", "Negative prompt"]], (side) => {
      this.side = side;
      this.draw();
    });
    this.times = made("ol", { className: "v-ex-times" });
    this.parts = made("div", { className: "v-ex-chunks" });
    this.map = made("canvas", { width: 8, height: 8, className: "is-map" });
    this.map.setAttribute("role", "img");
    this.map.setAttribute("aria-label", "How alike the encodings of the words are");
    this.names = made("ol", { className: "v-ex-names" });
    this.names.setAttribute("aria-hidden", "true");
    this.pair = made("p", { className: "v-ex-note", textContent: "Point at a square to compare two words." });
    const alike = made(
      "div", { className: "v-ex-alike" }, made("h3", { textContent: "How alike the words are to the model" }),
      made("div", { className: "v-ex-square" }, this.names, this.map), this.pair,
      made("p", { className: "v-ex-note", textContent:
        "The cosine between the encodings of any two tokens: pale is alike. Each has read all that stands before it, so the same word twice is not the same." }),
    );
    root.append(
      made("div", { className: "v-ex-side" }, this.sides.element,
        made("div", {}, made("h3", { textContent: "Wording by steps" }), this.times),
        made("div", {}, made("h3", { textContent: "As it is read at this step" }), this.parts),
        made("p", { className: "v-ex-note", textContent:
          "The text encoder always reads 77 tokens: a start, up to 75 tokens of yours, an end, and filler up to 77. " +
          "Longer prompts are read 75 at a time. Numbers are ids in CLIP's vocabulary of 49,408." }),
        this.says.element),
      alike,
    );
    this.map.addEventListener("pointermove", (event) => this.compared(event));
    this.map.addEventListener("click", (event) => this.compared(event));
  }

  async show() {
    const { run } = this.page;
    const step = this.page.asking;
    const url = `/api/explain/words/${run.id}?pass_index=${step.pass}`;
    if (url !== this.shown) {
      this.shown = url;
      this.says.say("Reading the prompt…");
      try {
        this.found = await numbers(url);
        this.says.say("");
      } catch (error) {
        this.shown = null;
        this.says.say(error.message, "problem");
        return;
      }
    }
    this.draw();
  }

  draw() {
    if (!this.found) return;
    const stretches = this.found.head[this.side];
    const { index } = this.page.asking;
    const now = stretches.find((one) => index < one.last) || stretches.at(-1);
    this.times.replaceChildren(
      ...stretches.map((one) => {
        const words = one.parts.map(({ words }) => spoken(words)).join(" AND ");
        const item = made("li", {}, made("b", { textContent: one.last - one.first > 1 ? `steps ${one.first + 1} to ${one.last}` : `step ${one.last}` }), ` ${words || "no words"}`);
        if (one === now) item.setAttribute("aria-current", "step");
        return item;
      }),
    );
    this.parts.replaceChildren(...now.parts.flatMap((part) => this.chunks(part, now.parts.length)));
    this.likeness(now.parts[0]);
  }

  chunks({ words, weight }, count) {
    const numbers = [...new Set(words.map((word) => word.chunk))];
    return numbers.map((number) => {
      const own = words.filter((word) => word.chunk === number);
      const tokens = own.map((word) => {
        const token = made("li", {}, word.text, made("small", { textContent: word.kind === "padding" ? "" : word.id }));
        token.dataset.kind = word.kind;
        if (word.near.length) {
          token.append(made("small", { textContent: `near ${word.near.join(", ")}` }));
          token.title = "An embedding stands in for words: these tokens of the vocabulary are nearest to it.";
        }
        if (word.weight !== 1) token.append(made("small", { textContent: `× ${word.weight}`, className: "is-weight" }));
        return token;
      });
      const filled = own.filter((word) => word.kind === "word").length;
      const title = `${filled} of 75 tokens${numbers.length > 1 ? `, chunk ${number + 1}` : ""}${count > 1 ? `, weight ${weight}` : ""}`;
      return made("div", {}, made("p", { textContent: title }), made("ol", {}, ...tokens));
    });
  }

  likeness({ words, likeness }) {
    const { shape, data } = this.found.arrays[likeness];
    const kept = words.map((word, at) => [word, at]).filter(([word]) => word.kind !== "padding");
    const n = kept.length;
    const square = new Float32Array(n * n);
    kept.forEach(([, a], i) => kept.forEach(([, b], j) => (square[i * n + j] = data[a * shape[1] + b])));
    heat(this.map, square.map((value) => Math.max(0, value)), n, n, 1);
    this.names.replaceChildren(...kept.map(([word]) => made("li", { textContent: word.text })));
    this.compare = { words: kept.map(([word]) => word.text), square, n };
  }

  compared(event) {
    if (!this.compare) return;
    const { words, square, n } = this.compare;
    const box = this.map.getBoundingClientRect();
    const within = (share) => Math.min(n - 1, Math.max(0, Math.floor(share * n)));
    const i = within((event.clientY - box.top) / box.height);
    const j = within((event.clientX - box.left) / box.width);
    this.pair.textContent = `“${words[i]}” and “${words[j]}”: ${square[i * n + j].toFixed(2)}`;
  }
}

const spoken = (words) => words.filter((word) => word.kind === "word").map((word) => word.text).join(" ");
