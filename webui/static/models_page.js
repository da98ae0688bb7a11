// The models: a card for each file of a kind. Pressing one uses it, and its corner tells more of it.

import { asked, kept, made } from "./dom.js";
import { Grid } from "./grid.js";
import { Details, bytes, use } from "./models_details.js";
import { onTab } from "./shell.js";
import { styled } from "./styled.js";
import { problem } from "./toast.js";

const LOOK_MS = 2500; // how often it is asked whether more is known, while the page is on show
const TYPING_MS = 120;
const MANY = 5; // reasons that are shown without being asked for

export async function mount(root) {
  await Promise.all([styled("gallery.css"), styled("models.css")]);
  new Page(root);
}

class Page {
  constructor(root) {
    this.parts = {};
    for (const element of root.querySelectorAll("[data-v]")) this.parts[element.dataset.v] = element;
    this.cards = [];
    this.shown = [];
    this.kind = kept("vitrine.models.kind") || "checkpoint";
    this.grid = new Grid(this.parts.wall, {
      cell: (index) => this.cell(index),
      settled: (element) => pictured(element),
      least: innerWidth < 860 ? 150 : 190,
      gap: innerWidth < 860 ? 8 : 14,
      below: 84,
    });
    this.details = new Details();
    this.listen();
    this.begin();
    onTab(({ tab, changed }) => this.arrivedAt(tab, changed));
  }

  listen() {
    const { words, folder, order, refresh, bar } = this.parts;
    let typing = 0;
    words.addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(() => this.sift(), TYPING_MS);
    });
    bar.addEventListener("submit", (event) => event.preventDefault());
    order.value = kept("vitrine.models.order") || "title";
    order.addEventListener("change", () => {
      kept("vitrine.models.order", order.value);
      this.sift();
    });
    folder.addEventListener("change", () => this.sift());
    refresh.addEventListener("click", () => this.load());
  }

  async begin() {
    try {
      const { kinds } = await asked("/api/cards");
      if (!kinds.some((one) => one.kind === this.kind)) this.kind = kinds[0].kind;
      for (const { kind, title } of kinds) {
        const radio = made("input", { type: "radio", name: "v-kind", value: kind, checked: kind === this.kind });
        radio.addEventListener("change", () => this.choose(kind));
        this.parts.kinds.append(made("label", {}, radio, made("span", { textContent: title })));
      }
      this.parts.kinds.querySelector(":checked")?.parentElement.scrollIntoView({ block: "nearest", inline: "center" });
    } catch (error) {
      problem(error);
      return;
    }
    await this.load();
  }

  choose(kind) {
    this.kind = kind;
    kept("vitrine.models.kind", kind);
    this.parts.folder.value = "*";
    scrollTo(0, 0);
    this.load();
  }

  async load() {
    const kind = this.kind;
    try {
      const found = await asked(`/api/cards/${encodeURIComponent(kind)}`);
      if (kind !== this.kind) return;
      this.version = found.version;
      this.place = found.place;
      this.cards = found.cards.map((card) => ({ ...card, kind }));
      this.broken(found.broken);
      this.folders();
      this.sift();
    } catch (error) {
      problem(error);
    }
  }

  arrivedAt(tab, changed) {
    this.isHere = tab === "models";
    if (!this.isHere || !changed) return;
    this.grid.later();
    if (this.version !== undefined) this.load();
    clearTimeout(this.looking);
    this.looking = setTimeout(() => this.look(), LOOK_MS);
  }

  /** Hashes and headers are read in the background; the cards follow. */
  async look() {
    if (!this.isHere) return;
    const began = performance.now();
    const now = document.hidden ? null : await asked("/api/cards/version").catch(() => null);
    if (now && now.version !== this.version && this.version !== undefined) await this.load();
    // Thousands of files take a while to list, and change often while they are being read.
    const took = performance.now() - began;
    this.looking = setTimeout(() => this.look(), Math.max(LOOK_MS, 8 * took));
  }

  folders() {
    const { folder } = this.parts;
    const before = folder.value;
    const names = [...new Set(this.cards.map((card) => card.folder))].filter(Boolean).sort();
    folder.replaceChildren(
      made("option", { value: "*", textContent: "All folders" }),
      ...names.map((name) => made("option", { value: name, textContent: name })),
    );
    folder.value = names.includes(before) ? before : "*";
    folder.parentElement.hidden = !names.length;
  }

  sift() {
    const { words, folder, order } = this.parts;
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const by = order.value;
    const fits = (card) => {
      const text = `${card.name} ${card.family} ${card.triggers.join(" ")} ${card.hash || ""}`.toLowerCase();
      return wanted.every((word) => text.includes(word));
    };
    const inside = (card) =>
      folder.value === "*" || card.folder === folder.value || card.folder.startsWith(`${folder.value}/`);
    const before = this.shown;
    this.shown = this.cards.filter((card) => inside(card) && fits(card));
    const compare = new Intl.Collator(undefined, { numeric: true }).compare;
    this.shown.sort((one, other) =>
      by === "title" ? compare(one.title, other.title) : other[by] - one[by],
    );
    this.redraw(before);
    this.counted(wanted.length || folder.value !== "*");
  }

  /** Where the same files stand in the same order, only cards that say something new are drawn. */
  redraw(before) {
    const { shown, grid } = this;
    const same = before.length === shown.length && before.every((card, i) => card.name === shown[i].name);
    grid.resize(shown.length);
    if (!same || before[0]?.kind !== shown[0]?.kind) {
      grid.renew();
      return;
    }
    for (const index of [...grid.cells.keys()]) {
      if (JSON.stringify(before[index]) !== JSON.stringify(shown[index])) grid.redraw(index);
    }
  }

  counted(sought) {
    const { count, empty } = this.parts;
    const [many, all] = [this.shown.length, this.cards.length];
    count.textContent = many === all ? `${all.toLocaleString()} file${all === 1 ? "" : "s"}` : `${many} of ${all}`;
    empty.hidden = many > 0;
    empty.firstElementChild.textContent = sought
      ? "No model fits. Try fewer words."
      : `Nothing of this kind here yet. Put files into ${this.place}, and press Refresh.`;
  }

  /** Files that can't be used, each with its sentence. */
  broken(files) {
    const { broken } = this.parts;
    broken.hidden = !files.length;
    const rows = files.map(({ problem: why }) => made("li", { textContent: why }));
    if (rows.length <= MANY) {
      broken.replaceChildren(...rows);
    } else {
      const summary = made("summary", { textContent: `${rows.length} files can't be used` });
      broken.replaceChildren(made("li", {}, made("details", {}, summary, made("ul", {}, ...rows))));
    }
  }

  cell(index) {
    const card = this.shown[index];
    const picture = card.picture
      ? made("img", { alt: "", decoding: "async", draggable: false })
      : made("span", { className: "v-letter", textContent: initials(card.title) });
    if (card.picture) {
      const query = new URLSearchParams({ kind: card.kind, name: card.name, v: card.picture });
      picture.dataset.src = `/cards/picture.webp?${query}`;
    }
    const facts = [card.is_read ? card.family : "being read…", bytes(card.size)].filter(Boolean);
    const open = made(
      "button",
      { type: "button", className: "v-open v-card", title: `${card.name}\n${VERBS[card.kind] || "More about it"}` },
      made("span", { className: "v-card-picture" }, picture),
      made("strong", { textContent: card.title }),
      made("span", { className: "v-card-facts", textContent: facts.join(" · ") }),
      made("code", { textContent: card.hash || "" }),
    );
    open.addEventListener("click", () => use(card) || this.details.show(card));
    const more = made("button", { type: "button", className: "v-quiet v-card-more", textContent: "Details" });
    more.setAttribute("aria-label", `Details of ${card.title}`);
    more.addEventListener("click", () => this.details.show(card));
    return made("div", {}, open, more);
  }
}

const VERBS = {
  checkpoint: "Press to choose it on Create",
  LoRA: "Press to add it to the prompt",
  embedding: "Press to add it to the prompt",
  hypernetwork: "Press to add it to the prompt",
  VAE: "Press to choose it on Create",
};

const initials = (title) =>
  (title.match(/[\p{L}\p{N}]+/gu) || ["?"]).slice(0, 2).map((word) => [...word][0]).join("").toUpperCase();

function pictured(element) {
  const picture = element.querySelector("img");
  if (!picture || picture.hasAttribute("src")) return;
  picture.onload = () => picture.classList.add("is-here");
  picture.src = picture.dataset.src;
}
