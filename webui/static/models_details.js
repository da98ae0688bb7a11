// What is known of one model, and what pressing a card of each kind does.

import { asked, control, made, sentence, typed } from "./dom.js";
import { go, send } from "./shell.js";
import { problem, toast } from "./toast.js";

/** Uses a model on Create; false where a model of that kind is not used by a press. */
export function use(card, triggers = card.triggers.slice(0, 1)) {
  const action = { word: "Go to Create", done: () => go("create") };
  if (card.kind === "checkpoint" || card.kind === "VAE") {
    fill({ [card.kind === "VAE" ? "vae" : "checkpoint"]: card.name });
    toast(`${card.title} is chosen on Create`, { action });
    return true;
  }
  const text = words(card, triggers);
  if (!text) return false;
  insert(text, action);
  return true;
}

/** Some fields of Create's form; the others stay as they are. */
const fill = (values) => send({ to: "fill", values }, { stay: true });

/** Words at the prompt's cursor; Create may do it in a better way. */
function insert(text, action = { word: "Go to Create", done: () => go("create") }) {
  const asked = new CustomEvent("vitrine-insert", { detail: { text }, cancelable: true });
  if (document.dispatchEvent(asked)) {
    const box = control("txt2img_prompt");
    const at = box.selectionEnd ?? box.value.length;
    const [before, after] = [box.value.slice(0, at), box.value.slice(at)];
    const put = (/[^\s]$/.test(before) ? " " : "") + text + (/^[^\s,]/.test(after) ? " " : "");
    typed(box, before + put + after);
    box.setSelectionRange(at + put.length, at + put.length);
  }
  toast(`${text} is in the prompt`, { action });
}

/** What stands in a prompt for a LoRA, an embedding or a hypernetwork. */
function words(card, triggers) {
  if (card.kind === "embedding") return card.title;
  const tag = { LoRA: "lora", hypernetwork: "hypernet" }[card.kind];
  if (!tag) return null;
  return [`<${tag}:${card.name}:${card.weight ?? 1}>`, ...triggers].join(" ");
}

const MARKUP = `
  <div class="v-detail-top"><h2 data-v="title"></h2><button type="button" class="v-quiet" data-v="close">Close</button></div>
  <div class="v-detail-body">
    <img data-v="picture" alt="" hidden>
    <div class="v-view-do" data-v="does"></div>
    <ul class="v-detail-remarks" data-v="remarks"></ul>
    <p class="v-detail-text" data-v="text" hidden></p>
    <section data-v="trigger-part" hidden><h3>Trigger words</h3><div class="v-chips" data-v="triggers"></div></section>
    <section data-v="example-part" hidden><h3>Prompts to try</h3><div class="v-chips" data-v="examples"></div></section>
    <dl data-v="table"></dl>
  </div>`;

export class Details {
  constructor() {
    this.dialog = made("dialog", { className: "v-detail" });
    this.dialog.innerHTML = MARKUP;
    document.querySelector(".gradio-container").append(this.dialog);
    this.parts = {};
    for (const element of this.dialog.querySelectorAll("[data-v]")) this.parts[element.dataset.v] = element;
    this.parts.close.addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    // Ahead of the page's own keys, for which Escape stops a run.
    const keyed = (event) => {
      if (!this.dialog.open || event.key !== "Escape") return;
      event.preventDefault();
      event.stopImmediatePropagation();
      this.dialog.close();
    };
    addEventListener("keydown", keyed, true);
  }

  async show(card) {
    let told;
    try {
      told = await asked(`/api/card?${new URLSearchParams({ kind: card.kind, name: card.name })}`);
    } catch (error) {
      problem(error);
      return;
    }
    this.fill({ ...card, ...told, kind: card.kind });
    if (!this.dialog.open) this.dialog.showModal();
  }

  fill(card) {
    const { title, picture, does, remarks, text, table } = this.parts;
    title.textContent = card.title;
    picture.hidden = !card.picture;
    if (card.picture) {
      const query = new URLSearchParams({ kind: card.kind, name: card.name, v: card.picture });
      picture.src = `/cards/picture.webp?${query}`;
    }
    does.replaceChildren(...this.actions(card));
    remarks.replaceChildren(...card.remarks.map((one) => made("li", { textContent: sentence(one) })));
    text.hidden = !card.description;
    text.textContent = card.description;
    this.chips("trigger", card.triggers, (word) => insert(word));
    this.chips("example", card.examples, (prompt) => {
      fill({ prompt });
      this.dialog.close();
      go("create");
    });
    const facts = [
      ["Kind", card.kind],
      ["Family", card.family],
      ["Best size", card.pixels && `${card.pixels} × ${card.pixels}`],
      ["Prediction", card.prediction],
      ["Not inside", card.lacks.join(", ")],
      ["Trained as", card.alias],
      ["Weight", card.weight],
      ["Negative", card.negative],
      ["File", card.file],
      ["Folder", card.folder],
      ["Bytes", `${bytes(card.size)} (${card.size.toLocaleString()})`],
      ["Changed", new Date(card.changed).toLocaleString([], { dateStyle: "medium", timeStyle: "short" })],
      ["SHA-256", card.hash || "being computed…"],
    ].filter(([, value]) => value !== undefined && value !== null && value !== "");
    table.replaceChildren(
      ...facts.map(([name, value]) =>
        made("div", {}, made("dt", { textContent: name }), made("dd", { textContent: String(value) })),
      ),
    );
  }

  actions(card) {
    const button = (word, done) => {
      const one = made("button", { type: "button", className: "v-quiet", textContent: word });
      one.addEventListener("click", () => {
        done();
        this.dialog.close();
      });
      return one;
    };
    if (card.kind === "checkpoint" || card.kind === "VAE") return [button("Choose it on Create", () => use(card))];
    if (!words(card, [])) return [];
    const plain = button("Add to the prompt", () => use(card, []));
    if (!card.triggers.length || card.kind === "embedding") return [plain];
    return [button("Add with its first trigger word", () => use(card)), plain];
  }

  chips(what, texts, pressed) {
    this.parts[`${what}-part`].hidden = !texts.length;
    this.parts[`${what}s`].replaceChildren(
      ...texts.map((text) => {
        const chip = made("button", { type: "button", className: "v-chip", textContent: text });
        chip.addEventListener("click", () => pressed(text));
        return chip;
      }),
    );
  }
}

export const bytes = (size) =>
  size < 1e6 ? `${Math.max(1, Math.round(size / 1e3))} kB`
    : size < 1e9 ? `${Math.round(size / 1e6)} MB` : `${(size / 1e9).toFixed(1)} GB`;
