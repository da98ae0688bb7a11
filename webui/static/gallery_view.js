// One picture in full: arrow keys and swipes lead to the next, wheel and fingers come closer, what it
// was made with stands beside it.

import { copied, kept, made, sentence } from "./dom.js";
import { go, hasTab, send } from "./shell.js";
import { problem, toast } from "./toast.js";
import { Zoom } from "./zoom.js";

const SENDS = [
  ["text", "Text", "create"],
  ["image", "Image", "create"],
  ["inpaint", "Inpaint", "create"],
  ["extras", "Extras", "extras"],
  ["info", "PNG info", "info"],
];

const MARKUP = `
  <div class="v-view-stage" data-v="stage" tabindex="-1" autofocus>
    <div class="v-view-frame" data-v="frame"><img data-v="picture" alt="" draggable="false"><img data-v="before" alt="The picture it was made from" draggable="false" hidden></div>
    <button type="button" class="v-view-turn" data-v="back" aria-label="Newer picture"><svg viewBox="0 0 16 16" aria-hidden="true"><path d="M10.5 2.5L5 8l5.5 5.5"/></svg></button>
    <button type="button" class="v-view-turn" data-v="on" aria-label="Older picture"><svg viewBox="0 0 16 16" aria-hidden="true"><path d="M5.5 2.5L11 8l-5.5 5.5"/></svg></button>
    <label class="v-view-split" data-v="split" hidden><span class="v-hidden">Before and after</span><input type="range" min="0" max="100" value="50"></label>
  </div>
  <div class="v-view-top">
    <p class="v-view-place" data-v="place"></p>
    <button type="button" class="v-quiet v-toggle" data-v="compare" aria-pressed="false" hidden>Before / after</button>
    <button type="button" class="v-quiet v-toggle" data-v="star" aria-pressed="false"><svg viewBox="0 0 16 16" aria-hidden="true"><path d="M8 1.6l2 4.2 4.5.6-3.3 3.2.8 4.6L8 12l-4 2.2.8-4.6L1.5 6.4 6 5.8z"/></svg>Star</button>
    <button type="button" class="v-quiet" data-v="bin">Delete</button>
    <button type="button" class="v-quiet v-toggle" data-v="facts" aria-pressed="true">Details</button>
    <button type="button" class="v-quiet" data-v="close">Close</button>
  </div>
  <aside class="v-view-facts" data-v="aside" aria-label="What it was made with" tabindex="0">
    <h2 class="v-hidden">Prompt</h2>
    <p class="v-view-prompt" data-v="prompt"></p>
    <p class="v-view-negative" data-v="negative" hidden></p>
    <div class="v-view-sends"><p>Send to</p><div data-v="sends"></div></div>
    <div class="v-view-do">
      <button type="button" class="v-quiet" data-v="timeline">Open its timeline</button>
      <button type="button" class="v-quiet" data-v="copy">Copy prompt</button>
      <a class="v-quiet" data-v="save" download>Download</a>
    </div>
    <div class="v-view-share" data-v="sharing">
      <p data-v="seen"></p>
      <div><button type="button" class="v-quiet v-toggle" data-v="share" aria-pressed="false"></button><button type="button" class="v-quiet" data-v="link" hidden>Copy link</button></div>
    </div>
    <dl data-v="table"></dl>
    <details data-v="raw" hidden><summary>As written in the file</summary><pre data-v="text"></pre></details>
    <ul class="v-view-notes" data-v="notes"></ul>
  </aside>`;

export class View {
  /** `does`: {moved(id), closed(), bin(id), star(id, starred), share(id, shared)}. */
  constructor(list, does) {
    this.list = list;
    this.does = does;
    this.dialog = made("dialog", { className: "v-view" });
    this.dialog.setAttribute("aria-label", "One picture in full");
    this.dialog.innerHTML = MARKUP;
    document.querySelector(".gradio-container").append(this.dialog);
    this.parts = {};
    for (const element of this.dialog.querySelectorAll("[data-v]")) this.parts[element.dataset.v] = element;
    this.zoom = new Zoom(this.parts.frame, this.parts.stage, {
      swiped: (direction) => this.step(direction),
      dropped: () => this.dialog.close(),
    });
    this.told = new Map();
    this.facts(kept("vitrine.gallery.facts") ?? innerWidth >= 860);
    this.sends();
    this.listen();
  }

  get isOpen() {
    return this.dialog.open;
  }

  get row() {
    return this.list.rows[this.at];
  }

  /** Shows the picture of that id; without a word where there is none. */
  async show(id) {
    if (this.isOpen && this.id === id) return;
    this.id = id;
    this.at = this.list.index(id);
    if (!this.isOpen) this.dialog.showModal();
    if (this.at >= 0) this.draw();
    try {
      const told = await this.tell(id);
      if (this.id !== id || !this.isOpen) return;
      if (this.drawn !== id) this.draw(this.row || told);
      this.fill(told);
    } catch (error) {
      if (this.id !== id || !this.isOpen) return;
      this.dialog.close();
      problem(error);
    }
  }

  /** The wall has other rows: where is this picture among them? */
  moved() {
    if (!this.isOpen) return;
    this.at = this.list.index(this.id);
    if (this.at >= 0) this.placed();
  }

  hide() {
    if (!this.isOpen) return;
    this.isLeft = true;
    this.dialog.close();
  }

  tell(id) {
    if (!this.told.has(id)) {
      if (this.told.size > 60) this.told.clear();
      this.told.set(id, this.list.picture(id));
      this.told.get(id).catch(() => this.told.delete(id));
    }
    return this.told.get(id);
  }

  /** The picture itself, and what the wall knew of it already. */
  draw(row = this.row) {
    this.drawn = row.id;
    const { picture, before, prompt, save, star, split, compare } = this.parts;
    this.zoom.fit(row.width, row.height);
    picture.src = row.url;
    picture.alt = row.prompt || row.name;
    picture.style.backgroundImage = `url("${row.thumbnail}")`;
    before.hidden = split.hidden = compare.hidden = true;
    press(compare, false);
    prompt.textContent = row.prompt || row.name;
    prompt.classList.toggle("is-name", !row.prompt);
    this.parts.negative.hidden = true;
    this.parts.table.replaceChildren();
    this.parts.notes.replaceChildren();
    this.parts.raw.hidden = true;
    save.href = `${row.url}&download=1`;
    save.download = row.name;
    this.placed();
    this.parts.bin.textContent = this.list.filter.binned ? "Put back" : "Delete";
    press(star, row.starred);
    star.lastChild.textContent = row.starred ? "Starred" : "Star";
    this.parts.timeline.hidden = !row.job;
    this.parts.star.hidden = this.parts.bin.hidden = !row.mine;
    this.shared(row);
    for (const near of [this.at + 1, this.at - 1]) {
      const other = this.list.rows[near];
      if (other) new Image().src = other.url;
    }
  }

  /** Its place among the others. */
  placed() {
    const { at, list } = this;
    const many = list.total === null ? "many" : list.total.toLocaleString();
    this.parts.place.textContent = at >= 0 ? `${(at + 1).toLocaleString()} of ${many}` : "";
    this.parts.back.disabled = at <= 0;
    this.parts.on.disabled = at < 0 || at >= list.count - 1;
  }

  /** What the file says, once it was read. */
  fill(told) {
    const { said } = told;
    const { prompt, negative, table, raw, text, notes, compare, before } = this.parts;
    if (told.prompt) prompt.textContent = told.prompt;
    negative.hidden = !told.negative_prompt;
    negative.replaceChildren(made("span", { textContent: "Without " }), told.negative_prompt);
    const request = said?.request;
    const facts = [
      ["Model", request?.checkpoint || told.model],
      ["Seed", request?.seed ?? told.seed],
      ["Steps", request?.steps],
      ["Guidance", request?.cfg_scale],
      ["Sampler", said?.titles?.sampler],
      ["Schedule", said?.titles?.schedule],
      ["Strength", request?.start?.strength],
      ["Size", `${told.width} × ${told.height}`],
      ["Made", new Date(told.made * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" })],
      ["By", said?.made_by],
      ["File", `${told.name}${told.size ? ` (${bytes(told.size)})` : ""}`],
    ].filter(([, value]) => value !== undefined && value !== null && value !== "");
    table.replaceChildren(
      ...facts.map(([name, value]) =>
        made("div", {}, made("dt", { textContent: name }), made("dd", { textContent: String(value) })),
      ),
    );
    raw.hidden = !said?.text;
    text.textContent = said?.text || "";
    const missing = told.size === null ? ["The file is no longer there."] : [];
    notes.replaceChildren(
      ...[...missing, ...(said?.sentences || [])].map((one) => made("li", { textContent: sentence(one) })),
    );
    compare.hidden = !told.start;
    if (told.start) before.dataset.src = told.start;
  }

  /** Who sees it, and the button that changes it. */
  shared(row) {
    const { seen, share, link } = this.parts;
    share.hidden = !row.mine || this.list.filter.binned;
    link.hidden = !row.shared;
    press(share, row.shared);
    share.textContent = row.shared ? "Stop sharing" : "Share";
    seen.textContent = row.shared
      ? row.mine ? "Everybody who is let in here can see it." : "Somebody else made this, and shares it."
      : "Only you can see it.";
  }

  async share(shared) {
    const { id } = this;
    try {
      const link = await this.does.share(id, shared);
      const told = await this.tell(id);
      told.shared = shared;
      if (this.id === id) this.shared({ ...told, ...this.row, shared });
      return link;
    } catch (error) {
      problem(error);
      return null;
    }
  }

  /** For others: by an address that they can reach, which only the server knows. */
  async copyLink() {
    const told = await this.tell(this.id);
    const link = told.mine ? await this.share(true) : location.href;
    if (link) await this.copied(link, "The link is on the clipboard");
  }

  async copied(text, words) {
    await copied(text).then(() => toast(words, { stays: 3000 }), problem);
  }

  sends() {
    for (const [to, word, tab] of SENDS) {
      if (!hasTab(tab)) continue;
      const button = made("button", { type: "button", className: "v-quiet", textContent: word });
      button.addEventListener("click", () => this.send(to));
      this.parts.sends.append(button);
    }
  }

  async send(to) {
    const told = await this.tell(this.id).catch((error) => (problem(error), null));
    if (!told) return;
    const { request, values } = told.said || {};
    this.isLeft = true;
    this.dialog.close();
    send({ to, url: told.url, name: told.name, request: request ?? null, values: values ?? null });
  }

  listen() {
    const { back, on, star, bin, facts, close, copy, timeline, compare, split, picture } = this.parts;
    const { share, link } = this.parts;
    share.addEventListener("click", () => this.share(share.getAttribute("aria-pressed") !== "true"));
    link.addEventListener("click", () => this.copyLink());
    back.addEventListener("click", () => this.step(-1));
    on.addEventListener("click", () => this.step(1));
    close.addEventListener("click", () => this.dialog.close());
    bin.addEventListener("click", () => this.bin());
    star.addEventListener("click", () => this.star());
    facts.addEventListener("click", () => this.facts(facts.getAttribute("aria-pressed") !== "true"));
    copy.addEventListener("click", () => this.copy());
    timeline.addEventListener("click", () => this.timeline());
    compare.addEventListener("click", () => this.compare(compare.getAttribute("aria-pressed") !== "true"));
    split.querySelector("input").addEventListener("input", (event) => this.splitAt(event.target.value));
    picture.addEventListener("load", () => (picture.style.backgroundImage = ""));
    this.dialog.addEventListener("close", () => {
      picture.removeAttribute("src");
      this.drawn = null;
      const left = this.isLeft;
      this.isLeft = false;
      if (!left) this.does.closed();
    });
    // Ahead of the page's own keys, for which Escape stops a run.
    addEventListener("keydown", (event) => this.isOpen && this.keyed(event), true);
  }

  keyed(event) {
    if (event.key === "Escape") {
      event.preventDefault();
      event.stopImmediatePropagation();
      this.dialog.close();
      return;
    }
    event.stopPropagation();
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const keys = {
      ArrowLeft: () => this.step(-1),
      ArrowRight: () => this.step(1),
      Delete: () => this.bin(),
      s: () => this.star(),
      i: () => this.facts(this.parts.facts.getAttribute("aria-pressed") !== "true"),
      0: () => this.zoom.fit(),
      "+": () => this.zoom.by(1.4),
      "-": () => this.zoom.by(1 / 1.4),
    };
    if (!(event.key in keys) || event.target.matches("input")) return;
    event.preventDefault();
    keys[event.key]();
  }

  async step(by) {
    if (this.at < 0 || !(await this.list.reach(this.at + by)) || this.at + by < 0) return;
    this.does.moved(this.list.rows[this.at + by].id);
  }

  async star() {
    const { row } = this;
    if (!row?.mine) return;
    await this.does.star(row.id, !row.starred);
    if (this.row === row) {
      press(this.parts.star, row.starred);
      this.parts.star.lastChild.textContent = row.starred ? "Starred" : "Star";
    }
  }

  /** The next one takes the place of one that goes into the bin. */
  async bin() {
    const { at, row } = this;
    if (!row?.mine) return;
    await this.does.bin(row.id);
    const next = this.list.rows[at] || this.list.rows[at - 1];
    if (next) this.does.moved(next.id);
    else this.dialog.close();
  }

  facts(on) {
    press(this.parts.facts, on);
    this.dialog.classList.toggle("has-facts", on);
    kept("vitrine.gallery.facts", on);
    this.zoom.fit();
  }

  async copy() {
    const { said, prompt } = await this.tell(this.id);
    await this.copied(said?.request?.prompt ?? prompt, "The prompt is on the clipboard");
  }

  async timeline() {
    const told = this.row || (await this.tell(this.id));
    this.isLeft = true;
    this.dialog.close();
    go("create");
    document.dispatchEvent(
      new CustomEvent("vitrine-open-job", { detail: { job: told.job, image: told.image } }),
    );
  }

  compare(on) {
    const { compare, before, split } = this.parts;
    press(compare, on);
    before.hidden = split.hidden = !on;
    if (!on) return;
    before.src = before.dataset.src;
    this.zoom.fit();
    split.querySelector("input").focus();
    this.splitAt(split.querySelector("input").value);
  }

  splitAt(share) {
    this.parts.frame.style.setProperty("--v-split", `${share}%`);
  }
}

const press = (button, on) => button.setAttribute("aria-pressed", String(on));

const bytes = (size) =>
  size < 1e6 ? `${Math.max(1, Math.round(size / 1e3))} kB` : `${(size / 1e6).toFixed(1)} MB`;
