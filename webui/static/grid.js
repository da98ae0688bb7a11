// A wall of many cells of one size, of which the document holds only those that are seen.
// It scrolls with the window, and knows nothing of what the cells show.

const AHEAD = 0.6; // windows above and below that are drawn too
const SETTLED_MS = 90;

export class Grid {
  /**
   * `cell(index)` makes an element, or null while nothing is known of it; `seen(first, last)` is told
   * what is on show; `settled(element)` when a cell stays long enough to be worth its picture.
   */
  constructor(root, { cell, seen = () => {}, settled = () => {}, least = 170, gap = 10, below = 0, shape = 1 }) {
    Object.assign(this, { root, cell, seen, settled, least, gap, below, shape });
    this.count = 0;
    this.cells = new Map();
    this.columns = 1;
    this.place = 0; // the cell that keys move from
    root.classList.add("v-grid");
    root.addEventListener("keydown", (event) => this.keyed(event));
    root.addEventListener("focusin", (event) => {
      const at = [...this.cells].find(([, element]) => element.contains(event.target));
      if (at) this.stand(at[0]);
    });
    let waiting = 0;
    this.later = () => (waiting ||= requestAnimationFrame(() => ((waiting = 0), this.paint())));
    addEventListener("scroll", this.later, { passive: true });
    new ResizeObserver(() => this.layout()).observe(root);
  }

  /** There are `count` cells from now on; those that are drawn stay. */
  resize(count) {
    this.count = count;
    this.layout();
  }

  /** Draws every cell anew. */
  renew() {
    for (const element of this.cells.values()) element.remove();
    this.cells.clear();
    this.paint();
  }

  /** Draws one cell anew, if it is on show. */
  redraw(index) {
    const old = this.cells.get(index);
    if (!old) return;
    const focused = old.contains(document.activeElement);
    this.cells.delete(index);
    this.put(index, old);
    if (focused) this.focus(index);
  }

  layout() {
    const width = this.root.clientWidth;
    if (!width) return;
    this.columns = Math.max(2, Math.floor((width + this.gap) / (this.least + this.gap)));
    this.across = (width - this.gap * (this.columns - 1)) / this.columns;
    this.down = this.across * this.shape + this.below;
    const rows = Math.ceil(this.count / this.columns);
    this.root.style.height = `${Math.max(0, rows * (this.down + this.gap) - this.gap)}px`;
    for (const [index, element] of this.cells) this.move(element, index);
    this.paint();
  }

  paint() {
    if (!this.root.checkVisibility() || !this.across) return;
    const top = -this.root.getBoundingClientRect().top;
    const row = this.down + this.gap;
    const span = (from, to) => [
      Math.max(0, Math.floor(from / row) * this.columns),
      Math.min(this.count, (Math.floor(to / row) + 1) * this.columns) - 1,
    ];
    const [first, last] = span(top - innerHeight * AHEAD, top + innerHeight * (1 + AHEAD));
    for (const [index, element] of this.cells) {
      if (index >= first && index <= last) continue;
      if (element.contains(document.activeElement) && index < this.count) continue;
      for (const picture of element.querySelectorAll("img")) picture.removeAttribute("src");
      element.remove();
      this.cells.delete(index);
    }
    for (let index = first; index <= last; index++) {
      if (!this.cells.has(index)) this.put(index);
    }
    if (last >= first) this.seen(first, last, ...span(top, top + innerHeight));
    clearTimeout(this.rest);
    const quick = Math.abs(top - (this.top ?? top)) > innerHeight;
    this.top = top;
    if (quick) this.rest = setTimeout(() => this.settle(), SETTLED_MS);
    else this.settle();
  }

  settle() {
    for (const element of this.cells.values()) this.settled(element);
  }

  put(index, old = null) {
    const element = this.cell(index);
    old?.remove();
    if (!element) return;
    element.dataset.index = index;
    element.classList.add("v-cell");
    this.cells.set(index, element);
    this.move(element, index);
    const button = element.querySelector("button");
    if (button) button.tabIndex = index === this.place ? 0 : -1;
    // In the order of reading, so that Tab and screen readers go as the eyes do.
    const after = [...this.root.children].find((other) => Number(other.dataset.index) > index);
    this.root.insertBefore(element, after || null);
    if (old) this.settled(element);
  }

  move(element, index) {
    const [x, y] = [index % this.columns, Math.floor(index / this.columns)];
    element.style.width = `${this.across}px`;
    element.style.height = `${this.down}px`;
    element.style.transform = `translate(${x * (this.across + this.gap)}px, ${y * (this.down + this.gap)}px)`;
  }

  /** Cells that show data which was not there before. */
  arrived(first, last) {
    for (let index = first; index <= last; index++) {
      if (this.cells.has(index)) this.redraw(index);
    }
    this.later();
  }

  stand(index) {
    for (const at of [this.place, index]) {
      const button = this.cells.get(at)?.querySelector("button");
      if (button) button.tabIndex = at === index ? 0 : -1;
    }
    this.place = index;
  }

  /** Scrolls to a cell if need be, and gives it the keyboard. */
  focus(index, { quiet = false } = {}) {
    if (index < 0 || index >= this.count) return;
    const row = Math.floor(index / this.columns) * (this.down + this.gap);
    const top = this.root.getBoundingClientRect().top + row;
    const roof = 130;
    if (top < roof) scrollBy(0, top - roof);
    else if (top + this.down > innerHeight - 20) scrollBy(0, top + this.down - innerHeight + 20);
    this.paint();
    this.stand(index);
    if (!quiet) this.cells.get(index)?.querySelector("button")?.focus({ preventScroll: true });
  }

  keyed(event) {
    const at = Number(event.target.closest(".v-cell")?.dataset.index ?? NaN);
    if (Number.isNaN(at) || event.ctrlKey || event.metaKey || event.altKey) return;
    const to = {
      ArrowLeft: at - 1,
      ArrowRight: at + 1,
      ArrowUp: at - this.columns,
      ArrowDown: at + this.columns,
      Home: 0,
      End: this.count - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.focus(Math.max(0, Math.min(this.count - 1, to)));
  }
}
