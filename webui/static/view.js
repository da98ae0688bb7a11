// How a sheet lies on its board: moved and scaled by pinching, by Ctrl and the wheel, by buttons.

const MOST = 12;

export class View {
  /** `margins()`: [left, top, right, bottom] in the picture's pixels, shown around it. */
  constructor(board, sheet, margins, changed) {
    this.board = board;
    this.sheet = sheet;
    this.margins = margins;
    this.changed = changed;
    this.width = this.height = 1;
    this.scale = 1;
    this.x = this.y = 0;
    this.fitted = true;
    new ResizeObserver(() => (this.fitted ? this.fit() : this.apply())).observe(board);
    board.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey && !event.metaKey) return;
        event.preventDefault();
        this.zoom(Math.exp(-event.deltaY * 0.004), event.clientX, event.clientY);
      },
      { passive: false },
    );
  }

  size(width, height) {
    this.width = width;
    this.height = height;
    this.sheet.style.width = `${width}px`;
    this.sheet.style.height = `${height}px`;
    this.fit();
  }

  /** As large as the board allows, margins and all. */
  fit() {
    const [left, top, right, bottom] = this.margins();
    const { clientWidth, clientHeight } = this.board;
    if (!clientWidth || !clientHeight) return;
    const [across, down] = [this.width + left + right, this.height + top + bottom];
    const room = clientWidth < 500 ? 8 : 18;
    this.scale = Math.min((clientWidth - 2 * room) / across, (clientHeight - 2 * room) / down);
    this.least = this.scale / 2;
    this.x = (clientWidth - across * this.scale) / 2 + left * this.scale;
    this.y = (clientHeight - down * this.scale) / 2 + top * this.scale;
    this.fitted = true;
    this.apply();
  }

  zoom(factor, clientX, clientY) {
    const box = this.board.getBoundingClientRect();
    const at = { x: (clientX ?? box.left + box.width / 2) - box.left,
      y: (clientY ?? box.top + box.height / 2) - box.top };
    const scale = Math.max(this.least, Math.min(MOST * this.least * 2, this.scale * factor));
    this.x = at.x - ((at.x - this.x) * scale) / this.scale;
    this.y = at.y - ((at.y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.fitted = false;
    this.apply();
  }

  move(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.fitted = false;
    this.apply();
  }

  apply() {
    this.sheet.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
    this.sheet.classList.toggle("is-enlarged", this.scale * devicePixelRatio >= 2);
    this.changed();
  }

  /** A place on the screen as a place on the picture. */
  place({ clientX, clientY }) {
    const box = this.board.getBoundingClientRect();
    return {
      x: (clientX - box.left - this.board.clientLeft - this.x) / this.scale,
      y: (clientY - box.top - this.board.clientTop - this.y) / this.scale,
    };
  }
}
