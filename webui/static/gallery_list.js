// The pictures there are, newest first, as far as they were asked for: page after page, from the
// server's index. It knows no document.

import { asked, json } from "./dom.js";

const PAGE = 400;
const LOOKS = ["id", "starred", "shared"]; // what can be another on the wall

export class List {
  /** `changed()` when all is another list; `arrived(first, last)` when there is more of it. */
  constructor({ changed, arrived, failed }) {
    Object.assign(this, { changed, arrived, failed });
    this.rows = [];
    this.total = 0;
    this.filter = {};
    this.turn = 0;
  }

  /** How many places the wall needs: all there are, or, where nobody knows, some more than are known. */
  get count() {
    return this.total ?? this.rows.length + (this.next ? PAGE : 0);
  }

  /** Begins anew, with a filter: {words, model, since, until, starred, shared}. */
  async load(filter = this.filter) {
    this.filter = filter;
    const turn = ++this.turn;
    this.loading = null;
    try {
      const page = await this.page(null);
      if (turn !== this.turn) return;
      this.rows = page.pictures;
      this.next = page.next;
      this.total = page.total;
      this.changed();
    } catch (error) {
      if (turn === this.turn) this.failed(error);
    }
  }

  page(before) {
    if (this.filter.shared) {
      return asked(`/api/shared?${new URLSearchParams({ words: this.filter.words })}`);
    }
    const query = new URLSearchParams({ limit: PAGE });
    for (const [name, value] of Object.entries({ ...this.filter, before })) {
      if (value) query.set(name, value);
    }
    return asked(`/api/gallery?${query}`);
  }

  /** Reads on until the row at `index` is there; resolves to whether it is. */
  reach(index) {
    if (index < this.rows.length || !this.next) return Promise.resolve(index < this.rows.length);
    this.wanted = Math.max(this.wanted || 0, index);
    this.loading ||= this.on(this.turn).finally(() => (this.loading = null));
    return this.loading.then(() => index < this.rows.length);
  }

  async on(turn) {
    while (this.next && this.rows.length <= this.wanted) {
      let page;
      try {
        page = await this.page(this.next);
      } catch (error) {
        if (turn === this.turn) this.failed(error);
        return;
      }
      if (turn !== this.turn) return;
      const first = this.rows.length;
      const known = new Set(this.rows.slice(-PAGE).map((row) => row.id));
      this.rows.push(...page.pictures.filter((row) => !known.has(row.id)));
      this.next = page.next;
      if (!this.next) this.total = this.rows.length;
      this.arrived(first, this.rows.length - 1);
    }
  }

  /** Whether the newest picture is another one than was read; then all is read anew. */
  async refresh() {
    const turn = this.turn;
    const page = await this.page(null).catch(() => null);
    if (!page || turn !== this.turn) return;
    const same = page.total === this.total && page.pictures.length <= this.rows.length
      && page.pictures.every((row, i) => LOOKS.every((look) => row[look] === this.rows[i][look]));
    if (same) return;
    this.rows = page.pictures;
    this.next = page.next;
    this.total = page.total;
    this.changed();
  }

  /** What is in the bin is gone for good. */
  async empty() {
    await asked("/api/gallery/empty", { method: "POST" });
    await this.load();
  }

  /** Files that other programs put into the outputs folder; how many were new. */
  async scan() {
    const { added } = await asked("/api/gallery/scan", { method: "POST" });
    await this.load();
    return added;
  }

  /** The names of the models that made them. */
  models() {
    return asked("/api/gallery/models");
  }

  /** All that is known of one picture. */
  picture(id) {
    return asked(`/api/gallery/${encodeURIComponent(id)}`);
  }

  index(id) {
    return this.rows.findIndex((row) => row.id === id);
  }

  async star(ids, starred) {
    await asked("/api/gallery/star", json({ ids, starred }));
    for (const row of this.rows) if (ids.includes(row.id)) row.starred = starred;
  }

  /** Shown to everybody, or to its owner alone again. Resolves to its link, where it is shown. */
  async share(id, shared) {
    const told = await asked(`/api/shared/${encodeURIComponent(id)}`, { method: shared ? "PUT" : "DELETE" });
    const row = this.rows.find((one) => one.id === id);
    if (row) row.shared = shared;
    return told.link;
  }

  /** Into the bin, or out of it where it is the bin that is shown. */
  async bin(ids) {
    await asked(this.filter.binned ? "/api/gallery/restore" : "/api/gallery/bin", json({ ids }));
    const gone = new Set(ids);
    this.rows = this.rows.filter((row) => !gone.has(row.id));
    if (this.total !== null) this.total -= gone.size;
  }

  async restore(ids) {
    await asked("/api/gallery/restore", json({ ids }));
    await this.load();
  }
}
