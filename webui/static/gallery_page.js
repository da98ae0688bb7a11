// The gallery: every picture there is, newest first, on a wall that is quick with thousands.

import { kept, made } from "./dom.js";
import { List } from "./gallery_list.js";
import { View } from "./gallery_view.js";
import { Grid } from "./grid.js";
import { cameFromHere, go, onTab } from "./shell.js";
import { styled } from "./styled.js";
import { problem, toast } from "./toast.js";

const TYPING_MS = 220;
const LOOK_MS = 8000; // how often new pictures are looked for, while nobody is in the middle of something
const SHARP = 320; // screen pixels from which a cell shows the larger thumbnail
const WORDS = 90; // letters of a prompt that name its picture

export async function mount(root) {
  await styled("gallery.css");
  new Page(root);
}

class Page {
  constructor(root) {
    this.root = root.querySelector(".v-page");
    this.parts = {};
    for (const element of root.querySelectorAll("[data-v]")) this.parts[element.dataset.v] = element;
    this.chosen = new Set();
    this.list = new List({
      changed: () => this.changed(),
      arrived: (first, last) => this.arrived(first, last),
      failed: (error) => this.failed(error),
    });
    this.grid = new Grid(this.parts.wall, {
      cell: (index) => this.cell(index),
      settled: (element) => shown(element),
      seen: (first, last) => this.list.reach(last),
      least: kept("vitrine.gallery.least") || (innerWidth < 860 ? 110 : 190),
      gap: innerWidth < 860 ? 4 : 10,
    });
    this.view = new View(this.list, {
      moved: (id) => go("gallery", { picture: id }, { replace: true }),
      closed: () => this.viewClosed(),
      bin: (id) => this.bin([id]),
      star: (id, starred) => this.star([id], starred),
      share: (id, shared) => this.share(id, shared),
    });
    this.listen();
    this.list.load(this.filter());
    this.models();
    onTab(({ tab, query, changed }) => this.arrivedAt(tab, query.get("picture"), changed));
    setInterval(() => this.look(), LOOK_MS);
  }

  /** A run may hang new pictures while somebody looks at the newest. */
  look() {
    const isIdle = this.isHere && !document.hidden && !this.view.isOpen && !this.chosen.size;
    if (isIdle && this.loadedOnce && scrollY < innerHeight) this.list.refresh();
  }

  listen() {
    const { words, model, since, until, binned, starred, shared, choose, least, filter, bar } = this.parts;
    let typing = 0;
    words.addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(() => this.refilter(), TYPING_MS);
    });
    bar.addEventListener("submit", (event) => event.preventDefault());
    for (const field of [model, since, until, binned]) field.addEventListener("change", () => this.refilter());
    for (const [one, other] of [[starred, shared], [shared, starred]]) {
      one.addEventListener("click", () => {
        press(one, !pressed(one));
        if (pressed(shared)) press(other, false);
        if (pressed(shared)) this.choosing(false);
        this.refilter();
      });
    }
    this.parts.unfilter.addEventListener("click", () => {
      model.value = since.value = until.value = "";
      binned.checked = false;
      this.refilter();
    });
    this.parts.scan.addEventListener("click", () => this.scan());
    this.parts["bin-empty"].addEventListener("click", () => this.emptyBin());
    least.value = this.grid.least;
    least.addEventListener("input", () => {
      this.grid.least = Number(least.value);
      kept("vitrine.gallery.least", this.grid.least);
      this.grid.layout();
    });
    choose.addEventListener("click", () => this.choosing(!pressed(choose)));
    document.addEventListener("pointerdown", (event) => {
      if (filter.open && !filter.contains(event.target)) filter.open = false;
    });
    this.root.addEventListener("keydown", (event) => this.keyed(event));
    this.parts["chosen-star"].addEventListener("click", () => this.starChosen());
    this.parts["chosen-save"].addEventListener("click", () => this.saveChosen());
    this.parts["chosen-bin"].addEventListener("click", () => this.bin([...this.chosen]));
    this.parts["chosen-none"].addEventListener("click", () => this.choosing(false));
  }

  filter() {
    const { words, model, since, until, starred, shared, binned } = this.parts;
    if (pressed(shared)) return { words: words.value.trim(), shared: "1" };
    const day = (text, more) => text && new Date(`${text}T00:00:00`).getTime() / 1000 + more;
    return {
      words: words.value.trim(),
      model: model.value,
      since: day(since.value, 0),
      until: day(until.value, 86_400),
      starred: pressed(starred) ? "1" : "",
      binned: binned.checked ? "1" : "",
    };
  }

  refilter() {
    const { model, since, until, binned } = this.parts;
    const filters = [model, since, until].filter((field) => field.value).length + binned.checked;
    this.parts["chosen-bin"].textContent = binned.checked ? "Put back" : "Delete";
    this.parts["bin-empty"].hidden = !binned.checked;
    this.parts.filter.hidden = this.parts.choose.hidden = pressed(this.parts.shared);
    this.parts.filtered.textContent = filters ? ` (${filters})` : "";
    this.list.load(this.filter());
  }

  async models() {
    const { models } = await this.list.models().catch(() => ({ models: [] }));
    const chosen = this.parts.model.value;
    const options = models.map((name) => made("option", { value: name, textContent: name }));
    this.parts.model.replaceChildren(made("option", { value: "", textContent: "Any" }), ...options);
    this.parts.model.value = chosen;
  }

  arrivedAt(tab, picture, changed) {
    this.isHere = tab === "gallery";
    if (!this.isHere) {
      this.view.hide();
      return;
    }
    if (changed) {
      this.grid.later();
      if (this.loadedOnce) this.list.refresh();
    }
    if (picture) this.view.show(picture);
    else this.view.hide();
  }

  changed() {
    this.loadedOnce = true;
    const there = new Set(this.list.rows.map((row) => row.id));
    for (const id of this.chosen) if (!there.has(id)) this.chosen.delete(id);
    this.grid.resize(this.list.count);
    this.grid.renew();
    this.counted();
    this.view.moved();
  }

  arrived(first, last) {
    this.grid.resize(this.list.count);
    this.grid.arrived(first, last);
    this.counted();
  }

  failed(error) {
    this.parts.empty.hidden = false;
    this.parts.empty.firstElementChild.textContent = error.message;
    this.grid.resize(0);
  }

  counted() {
    const { count, total } = this.list;
    const { binned, shared, ...others } = this.filter();
    const sought = Object.values(others).some(Boolean);
    const known = total === null ? `more than ${this.list.rows.length}` : total.toLocaleString();
    this.parts.count.textContent = count ? `${known} picture${total === 1 ? "" : "s"}` : "";
    this.parts.empty.hidden = count > 0;
    this.parts.empty.firstElementChild.textContent = sought
      ? "No picture fits. Try fewer words, or clear the filter."
      : shared ? "Nobody shares a picture yet. Open one of yours, and press Share." : binned ? "The bin is empty." : "Nothing here yet. Every picture you make on Create comes to stay here.";
    this.chosenShown();
  }

  /** One picture on the wall; a plain place while its row is still on the way. */
  cell(index) {
    const row = this.list.rows[index];
    if (!row) return made("div", { className: "v-unknown" });
    const picture = made("img", { alt: "", decoding: "async", draggable: false });
    const sharp = this.grid.across * devicePixelRatio > SHARP;
    picture.dataset.src = sharp ? row.thumbnail.replace("/256.", "/512.") : row.thumbnail;
    const open = made("button", { type: "button", className: "v-open", title: short(row.prompt) }, picture);
    open.setAttribute("aria-label", `${short(row.prompt) || row.name}${row.starred ? ", starred" : ""}${row.shared ? ", shared" : ""}`);
    open.addEventListener("click", (event) => this.pressed(event, index, row));
    const pick = made("input", { type: "checkbox", checked: this.chosen.has(row.id), tabIndex: -1 });
    pick.setAttribute("aria-label", "Select this picture");
    pick.addEventListener("click", (event) => this.picked(index, pick.checked, event.shiftKey));
    const cell = made("div", {}, open);
    if (!this.list.filter.shared) cell.append(made("label", { className: "v-pick" }, pick));
    cell.classList.toggle("is-starred", Boolean(row.starred));
    cell.classList.toggle("is-shared", Boolean(row.shared) && !this.list.filter.shared);
    cell.classList.toggle("is-chosen", this.chosen.has(row.id));
    return cell;
  }

  pressed(event, index, row) {
    const shared = pressed(this.parts.shared);
    if (!shared && (pressed(this.parts.choose) || event.ctrlKey || event.metaKey || event.shiftKey)) {
      this.picked(index, !this.chosen.has(row.id), event.shiftKey);
    } else {
      go("gallery", { picture: row.id });
    }
  }

  picked(index, on, range) {
    const from = range && this.last !== undefined ? this.last : index;
    for (let i = Math.min(from, index); i <= Math.max(from, index); i++) {
      const row = this.list.rows[i];
      if (!row) continue;
      if (on) this.chosen.add(row.id);
      else this.chosen.delete(row.id);
      this.grid.redraw(i);
    }
    this.last = index;
    this.chosenShown();
  }

  choosing(on) {
    press(this.parts.choose, on);
    this.root.classList.toggle("is-choosing", on);
    if (!on && this.chosen.size) {
      this.chosen.clear();
      this.grid.renew();
    }
    this.chosenShown();
  }

  chosenShown() {
    const many = this.chosen.size;
    this.root.classList.toggle("has-chosen", many > 0);
    this.parts.chosen.hidden = !many;
    this.parts["chosen-count"].textContent = `${many} selected`;
    const rows = this.list.rows.filter((row) => this.chosen.has(row.id));
    this.unstar = many > 0 && rows.every((row) => row.starred);
    this.parts["chosen-star"].textContent = this.unstar ? "Unstar" : "Star";
  }

  async star(ids, starred) {
    try {
      await this.list.star(ids, starred);
    } catch (error) {
      problem(error);
    }
    for (const id of ids) this.grid.redraw(this.list.index(id));
  }

  async share(id, shared) {
    const link = await this.list.share(id, shared);
    this.grid.redraw(this.list.index(id));
    return link;
  }

  async starChosen() {
    await this.star([...this.chosen], !this.unstar);
    this.chosenShown();
  }

  async bin(ids) {
    const first = Math.min(...ids.map((id) => this.list.index(id)).filter((at) => at >= 0));
    try {
      await this.list.bin(ids);
    } catch (error) {
      problem(error);
      return;
    }
    for (const id of ids) this.chosen.delete(id);
    this.grid.resize(this.list.count);
    this.grid.renew();
    this.counted();
    if (!this.view.isOpen && Number.isFinite(first)) this.grid.focus(Math.min(first, this.list.count - 1));
    const what = ids.length === 1 ? "The picture is" : `${ids.length} pictures are`;
    if (this.list.filter.binned) {
      toast(`${what} back in the gallery`);
      return;
    }
    toast(`${what} in the bin`, {
      action: { word: "Undo", done: () => this.list.restore(ids).catch(problem) },
    });
  }

  async scan() {
    const away = toast("Looking through the outputs folder…", { stays: 600_000 });
    try {
      const added = await this.list.scan();
      toast(added ? `${added} new picture${added === 1 ? "" : "s"} found` : "Nothing new was found");
      this.models();
    } catch (error) {
      problem(error);
    }
    away();
  }

  async emptyBin() {
    if (!confirm("Delete everything in the bin for good?")) return;
    await this.list.empty().catch(problem);
  }

  /** One after another: as files of their own, as they lie on the disk. */
  async saveChosen() {
    for (const row of this.list.rows.filter((one) => this.chosen.has(one.id))) {
      const link = made("a", { href: `${row.url}?download=1`, download: row.name });
      link.click();
      await new Promise((resolve) => setTimeout(resolve, 150));
    }
  }

  viewClosed() {
    const at = this.list.index(this.view.id);
    if (cameFromHere()) history.back();
    else go("gallery", {}, { replace: true });
    if (at >= 0) this.grid.focus(at);
  }

  keyed(event) {
    if (event.target.matches("input:not([type=checkbox]), select") || this.view.isOpen) return;
    const at = Number(event.target.closest(".v-cell")?.dataset.index ?? NaN);
    const row = this.list.rows[at];
    if (event.key === "Escape" && (this.chosen.size || this.root.classList.contains("is-choosing"))) {
      event.stopPropagation();
      this.choosing(false);
    } else if (event.key === "/" ) {
      event.preventDefault();
      this.parts.words.focus();
    } else if (!row) return;
    else if (this.list.filter.shared) return;
    else if (event.key === "Delete") this.bin(this.chosen.size ? [...this.chosen] : [row.id]);
    else if (event.key === "s") this.star([row.id], !row.starred);
    else if (event.key === "x") this.picked(at, !this.chosen.has(row.id), false);
  }
}

/** The thumbnail is asked for when its cell stays. */
function shown(element) {
  const picture = element.querySelector("img");
  if (!picture || picture.hasAttribute("src")) return;
  picture.onload = () => picture.classList.add("is-here");
  picture.onerror = () => element.classList.add("is-missing");
  picture.src = picture.dataset.src;
}

const press = (button, on) => button.setAttribute("aria-pressed", String(on));

const pressed = (button) => button.getAttribute("aria-pressed") === "true";

const short = (text) => (text.length > WORDS ? `${text.slice(0, WORDS)}…` : text);
