// A picture that fills its room, and can be come closer to: wheel, two fingers, a double click.
// At its own size a swipe sideways leads on, a swipe down puts it away.

const NEAREST = 16; // screen pixels for each of the picture's
const SWIPE = 60;

export class Zoom {
  constructor(frame, room, { swiped, dropped }) {
    Object.assign(this, { frame, room, swiped, dropped });
    this.size = { width: 1, height: 1 };
    this.pointers = new Map();
    this.fit();
    new ResizeObserver(() => this.fit()).observe(room);
    room.addEventListener("wheel", (event) => this.wheeled(event), { passive: false });
    room.addEventListener("dblclick", (event) => this.clicked(event));
    room.addEventListener("pointerdown", (event) => this.down(event));
    room.addEventListener("pointermove", (event) => this.moved(event));
    for (const name of ["pointerup", "pointercancel"]) {
      room.addEventListener(name, (event) => this.up(event));
    }
  }

  /** The whole picture, as large as the room allows. */
  fit(width = this.size.width, height = this.size.height) {
    this.size = { width, height };
    const box = this.room.getBoundingClientRect();
    this.base = Math.min(box.width / width, box.height / height) || 1;
    // Whole screen pixels for each pixel of a small picture.
    const dense = devicePixelRatio || 1;
    if (this.base >= 2) this.base = Math.floor(this.base * dense) / dense;
    this.scale = this.base;
    this.x = this.y = 0;
    this.draw();
  }

  get isFitted() {
    return this.scale <= this.base * 1.001;
  }

  draw() {
    const { width, height } = this.size;
    const box = this.room.getBoundingClientRect();
    const slack = (span, room) => Math.max(0, (span * this.scale - room) / 2);
    this.x = Math.max(-slack(width, box.width), Math.min(slack(width, box.width), this.x));
    this.y = Math.max(-slack(height, box.height), Math.min(slack(height, box.height), this.y));
    const { style } = this.frame;
    style.width = `${width * this.scale}px`;
    style.height = `${height * this.scale}px`;
    style.transform = `translate(-50%, -50%) translate(${this.x}px, ${this.y}px)`;
    this.frame.classList.toggle("is-enlarged", this.scale >= 2);
    this.room.classList.toggle("is-near", !this.isFitted);
  }

  /** Nearer by a factor, with the place under (x, y) staying where it is. */
  by(factor, x = null, y = null) {
    const box = this.room.getBoundingClientRect();
    const [atX, atY] = [x === null ? 0 : x - box.x - box.width / 2, y === null ? 0 : y - box.y - box.height / 2];
    const nearest = Math.max(NEAREST, this.base * 2);
    const scale = Math.max(this.base, Math.min(nearest, this.scale * factor));
    const change = scale / this.scale;
    this.x = atX - (atX - this.x) * change;
    this.y = atY - (atY - this.y) * change;
    this.scale = scale;
    this.draw();
  }

  wheeled(event) {
    event.preventDefault();
    this.by(Math.exp(-event.deltaY / (event.deltaMode ? 12 : 320)), event.clientX, event.clientY);
  }

  clicked(event) {
    if (event.target.closest("button, label")) return;
    if (this.isFitted) this.by(Math.max(2.5, 1 / this.base), event.clientX, event.clientY);
    else this.fit();
  }

  down(event) {
    if (event.target.closest("button, label") || event.button) return;
    this.room.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    this.begun = { x: event.clientX, y: event.clientY, alone: this.pointers.size === 1 && this.isFitted };
  }

  moved(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const now = { x: event.clientX, y: event.clientY };
    if (this.pointers.size === 2) {
      const [other] = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
      const apart = (at) => Math.hypot(at.x - other.x, at.y - other.y) || 1;
      this.by(apart(now) / apart(before), (now.x + other.x) / 2, (now.y + other.y) / 2);
      this.begun.alone = false;
    } else if (!this.isFitted) {
      this.x += now.x - before.x;
      this.y += now.y - before.y;
      this.draw();
    }
    this.pointers.set(event.pointerId, now);
  }

  up(event) {
    if (!this.pointers.delete(event.pointerId) || !this.begun?.alone) return;
    const { x, y } = this.begun;
    this.begun = null;
    if (event.type === "pointercancel" || !this.isFitted) return;
    const [across, down] = [event.clientX - x, event.clientY - y];
    if (Math.abs(across) > SWIPE && Math.abs(across) > 1.5 * Math.abs(down)) this.swiped(across < 0 ? 1 : -1);
    else if (event.pointerType === "touch" && down > 1.5 * SWIPE && down > 2 * Math.abs(across)) this.dropped();
  }
}
