// The extensions: what there is, what it costs, and how more comes. Nothing a stranger wrote becomes
// markup: all of it is set as text.

import { asked, made, sentence } from "./dom.js";
import { onTab } from "./shell.js";
import { styled } from "./styled.js";
import { problem, toast } from "./toast.js";

/** Hooks that give something which a page shows from its beginning. */
const ON_THE_PAGE = ["panels", "pages", "static", "samplers", "schedules", "preprocessors"];
const STATES = { on: "On", off: "Off", "left out": "Left out" };

export async function mount(root) {
  await Promise.all([styled("gallery.css"), styled("extensions.css")]);
  new Page(root);
}

class Page {
  constructor(root) {
    this.parts = {};
    for (const element of root.querySelectorAll("[data-v]")) this.parts[element.dataset.v] = element;
    const { get, zip, find } = this.parts;
    get.addEventListener("submit", (event) => {
      event.preventDefault();
      this.look(() => this.sent("look", { url: this.parts.url.value }));
    });
    zip.addEventListener("change", () => {
      const file = zip.files[0];
      if (file) this.look(() => this.packed(file));
      zip.value = "";
    });
    find.addEventListener("submit", (event) => {
      event.preventDefault();
      this.search();
    });
    onTab(({ tab, changed }) => tab === "extensions" && changed && this.load());
    this.load();
  }

  /** A change, with the proof that it comes from this page. */
  sent(what, values) {
    return asked(`/api/extensions/${what}`, {
      method: "POST",
      headers: { "content-type": "application/json", "x-vitrine-token": this.token },
      body: JSON.stringify(values),
    });
  }

  packed(file) {
    return asked(`/api/extensions/look-into?name=${encodeURIComponent(file.name)}`, {
      method: "POST",
      headers: { "content-type": "application/zip", "x-vitrine-token": this.token },
      body: file,
    });
  }

  async load() {
    try {
      const told = await asked("/api/extensions");
      this.token = told.token;
      this.may = told.may_change;
      this.all = told.extensions;
      const { note, more, list } = this.parts;
      more.hidden = !told.may_change;
      const words = told.all_off
        ? "This start was told to leave all extensions off."
        : "Extensions run with the rights of this machine's user, so only that user may change them, in a browser on the machine itself.";
      note.textContent = words;
      note.hidden = told.may_change && !told.all_off;
      const read = new Set([...list.querySelectorAll("li:has(> details[open])")].map((row) => row.dataset.name));
      list.replaceChildren(...this.all.map((one, index) => this.row(one, index, read.has(one.name))));
    } catch (error) {
      problem(error);
    }
  }

  /** One extension; `open`: its author's words were being read. */
  row(one, index, open) {
    const about = [STATES[one.state], one.version && `version ${one.version}`, !one.ships && "from elsewhere"];
    const cost = one.calls ? [`${one.seconds.toFixed(2)} s in ${one.calls} calls`] : [];
    if (one.load_seconds >= 0.05) cost.push(`${one.load_seconds.toFixed(2)} s to load`);
    if (one.errors) cost.push(`${one.errors} ${one.errors === 1 ? "error" : "errors"}`);
    const row = made("li", {}, made("h3", { textContent: one.title }));
    row.dataset.state = one.state;
    row.dataset.name = one.name;
    const lines = [one.description, [...about, ...cost].filter(Boolean).join(" · ")];
    if (one.permissions.length) lines.push(`It says that it does: ${one.permissions.join(", ")}.`);
    if (one.pin) lines.push(`From ${one.pin.source}${one.pin.commit ? `, commit ${one.pin.commit.slice(0, 10)}` : ""}`);
    lines.push(...one.notes.map(sentence));
    for (const text of lines.filter(Boolean)) row.append(made("p", { textContent: text }));
    for (const text of new Set([one.problem, ...one.sentences].filter(Boolean))) {
      row.append(made("p", { className: "v-xt-problem", textContent: sentence(text) }));
    }
    row.append(this.readme(one, open));
    if (this.may) row.append(this.does(one, index));
    return row;
  }

  /** What its author wrote, asked for when it is opened. */
  readme(one, open) {
    const text = made("pre");
    const more = made("details", { open }, made("summary", { textContent: "Read more" }), text);
    more.addEventListener("toggle", async () => {
      if (!more.open || text.textContent) return;
      const told = await asked(`/api/extensions/readme?name=${encodeURIComponent(one.name)}`).catch((error) => ({ text: error.message }));
      text.textContent = told.text || "Its author wrote nothing.";
    });
    return more;
  }

  does(one, index) {
    const button = (word, done) => {
      const element = made("button", { type: "button", className: "v-quiet", textContent: word });
      element.addEventListener("click", () => this.busy(element, done));
      return element;
    };
    const does = made("div", { className: "v-xt-does" });
    if (one.state === "on") {
      does.append(button("Disable", () => this.switched(one, "disable")));
      does.append(button("Reload", () => this.switched(one, "reload")));
      if (index > 0) does.append(button("Earlier", () => this.earlier(index)));
    } else does.append(button("Enable", () => this.switched(one, "enable")));
    if (one.pin?.source.startsWith("https://")) does.append(button("Update…", () => this.look(() => this.sent("look", { url: one.pin.source }))));
    if (one.can_roll_back) does.append(button("Roll back", () => this.back(one)));
    if (one.pin) does.append(button("Remove…", () => this.remove(one)));
    return does;
  }

  /** Does it, reads the list again, and says what `done` gave to be said, which has then been drawn. */
  async busy(element, done) {
    element.disabled = true;
    let told = null;
    try {
      told = await done();
    } catch (error) {
      problem(error);
    }
    await this.load();
    if (told) this.follow(told);
  }

  async switched({ name, title, hooks }, what) {
    await this.sent("switch", { name, do: what });
    const became = { enable: "is on", disable: "is off", reload: "was read anew" }[what];
    return { name, words: `${title} ${became}`, before: hooks };
  }

  async back({ name, title, hooks }) {
    await this.sent("roll-back", { name });
    return { name, words: `${title} is as it was before`, before: hooks };
  }

  /** Says what became of one. What it draws comes and goes with the page, which is drawn anew. */
  follow({ name, words, before = [] }) {
    const now = this.all.find((one) => one.name === name)?.hooks ?? [];
    const draws = [...before, ...now].some((hook) => ON_THE_PAGE.includes(hook));
    const action = { word: "Load again", done: () => location.reload() };
    if (draws) toast(`${words}; the page shows it when it is loaded again`, { action, stays: 60000 });
    else toast(words);
  }

  async earlier(index) {
    const names = this.all.map((one) => one.name);
    [names[index - 1], names[index]] = [names[index], names[index - 1]];
    await this.sent("order", { names });
  }

  async remove({ name, title, hooks }) {
    if (!confirm(`Remove ${title}? Its files are deleted.`)) return null;
    await this.sent("remove", { name });
    return { name, words: `${title} is gone`, before: hooks };
  }

  async search() {
    const { words, index, found } = this.parts;
    found.replaceChildren(made("li", { textContent: "Asking for the list…" }));
    try {
      const told = await this.sent("index", { url: index.value, words: words.value });
      const rows = told.entries.map((entry) => this.listed(entry));
      found.replaceChildren(...rows);
      if (!rows.length) found.append(made("li", { textContent: "Nothing in the list holds these words." }));
    } catch (error) {
      found.replaceChildren();
      problem(error);
    }
  }

  listed(entry) {
    const look = made("button", { type: "button", className: "v-quiet", textContent: "Look at it" });
    look.addEventListener("click", () => this.look(() => this.sent("look", { url: entry.url }), entry.commit));
    const tags = [`${entry.stars} stars`, ...entry.tags].join(" · ");
    return made(
      "li",
      {},
      made("h3", { textContent: entry.name }),
      made("p", { textContent: entry.description }),
      made("p", { textContent: tags }),
      made("div", { className: "v-xt-does" }, look),
    );
  }

  /** Fetches, then shows what came; nothing of it has run. */
  async look(fetching, reviewed = "") {
    const away = toast("It is fetched; nothing of it runs.", { stays: 180000 });
    try {
      this.shown(await fetching(), reviewed);
    } catch (error) {
      problem(error);
    } finally {
      away();
    }
  }

  shown(one, reviewed) {
    const { sheet } = this.parts;
    const facts = made("dl");
    const fact = (name, text) => text && facts.append(made("dt", { textContent: name }), made("dd", { textContent: text }));
    fact("From", one.pin.source);
    fact("Commit", one.pin.commit || "not known");
    fact("Fetched", one.note && sentence(one.note));
    if (reviewed && one.pin.commit) fact("Reviewed", reviewed === one.pin.commit ? "this very commit" : `another commit, ${reviewed.slice(0, 10)}`);
    fact("Files", `${one.files.length}, ${(one.size / 1024).toFixed(0)} KB`);
    fact("Packages", one.requirements.join(", ") || "none");
    fact("To install", one.missing.join(", ") || "nothing");
    fact("It says it does", one.about.permissions.join(", ") || "nothing beside computing");
    fact("In place of", one.replaces && `what is installed, ${one.replaces.commit.slice(0, 10) || one.replaces.source}`);
    fact("Kind", one.tier.map(sentence).join(" "));
    const names = made("details", {}, made("summary", { textContent: "All files" }), made("pre", { textContent: one.files.map(([path, size]) => `${size}\t${path}`).join("\n") }));
    const parts = [made("h2", { textContent: one.title }), made("p", { textContent: one.about.description }), facts, names];
    if (one.diff) parts.push(made("details", { open: true }, made("summary", { textContent: "What changes" }), made("pre", { textContent: one.diff })));
    for (const text of one.problems) parts.push(made("p", { className: "v-xt-problem", textContent: sentence(text) }));
    parts.push(made("p", { className: "v-xt-rights", textContent: "This runs with your rights: it can read and change all that you can." }));
    sheet.replaceChildren(...parts, this.answers(one));
    sheet.showModal();
  }

  answers(one) {
    const { sheet } = this.parts;
    const does = made("div", { className: "v-xt-does" });
    const no = made("button", { type: "button", className: "v-quiet", textContent: "Close" });
    no.addEventListener("click", () => sheet.close());
    does.append(no);
    if (one.problems.length) return does;
    const yes = made("button", { type: "button", className: "v-quiet", textContent: one.replaces ? "Update" : "Install and enable" });
    yes.dataset.v = "install";
    yes.addEventListener("click", () =>
      this.busy(yes, async () => {
        const done = await this.sent("install", { id: one.id, enable: true }).finally(() => sheet.close());
        return { name: one.name, words: `${one.title} is ${done.state}` };
      }),
    );
    does.append(yes);
    return does;
  }
}
