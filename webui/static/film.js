// Draws the strip of film and the falling noise level under it, and knows where a step lies on them.

const CELL = 30; // narrowest frame on the strip, in CSS pixels
const GAP = 2;

export class Film {
  constructor(strip, levels, loupe) {
    this.strip = strip;
    this.levels = levels;
    this.loupe = loupe;
    this.grain = grain();
    this.last = 20;
    this.width = 0;
    this.cell = CELL;
  }

  /** The step under a place on the strip. */
  indexAt(x) {
    const share = (x - this.cell / 2) / Math.max(1, this.width - this.cell);
    return Math.round(Math.max(0, Math.min(1, share)) * this.last);
  }

  place(index) {
    return this.cell / 2 + (this.last ? index / this.last : 0) * (this.width - this.cell);
  }

  draw(reel, view, index) {
    const box = this.strip.parentElement.getBoundingClientRect();
    if (!box.width) return;
    this.width = box.width;
    this.last = reel ? Math.max(1, reel.over ? reel.last : reel.total) : 20;
    const most = Math.max(2, Math.floor(box.width / CELL));
    const cells = Math.min(this.last + 1, most);
    this.cell = box.width / cells;
    const pen = sized(this.strip, box.width, box.height);
    for (let i = 0; i < cells; i++) {
      const step = Math.round((i * this.last) / (cells - 1));
      this.cellAt(pen, i, box.height, reel, view, step);
    }
    this.loupe.hidden = !reel;
    if (reel) {
      const wide = Math.max(this.cell, 44) + 8;
      this.loupe.style.width = `${wide}px`;
      const left = Math.max(-4, Math.min(this.place(index) - wide / 2, box.width - wide + 4));
      this.loupe.style.transform = `translateX(${left.toFixed(2)}px)`;
      const bitmap = reel.frame(view, index);
      const [across, down] = [wide - 6, box.height + 8];
      const glass = sized(this.loupe.firstElementChild, across, down);
      if (bitmap) cover(glass, bitmap, 0, 0, across, down);
    }
    this.drawLevels(reel, index);
  }

  cellAt(pen, i, height, reel, view, step) {
    const x = i * this.cell + GAP / 2;
    const width = this.cell - GAP;
    const here = reel && step >= reel.first && step <= reel.last;
    const bitmap = here ? reel.frame(view, step) : null;
    pen.save();
    pen.beginPath();
    pen.roundRect(x, 0, width, height, 3);
    pen.clip();
    if (bitmap) {
      cover(pen, bitmap, x, 0, width, height);
    } else {
      // Not exposed yet: faint grain, fainter to the right, where less noise will be.
      pen.globalAlpha = 0.34 * (1 - step / (this.last + 6)) + 0.05;
      pen.drawImage(this.grain, (i * 37) % 64, (i * 23) % 64, width, height, x, 0, width, height);
    }
    pen.restore();
  }

  /** How much noise is left at each step, as a falling slope. */
  drawLevels(reel, index) {
    const canvas = this.levels;
    const box = canvas.getBoundingClientRect();
    if (!box.width) return;
    const pen = sized(canvas, box.width, box.height);
    const ink = getComputedStyle(canvas);
    const count = this.last;
    const highest = reel?.schedule?.find((sigma) => sigma > 0) ?? reel?.sigmas[reel.first] ?? 14.6;
    const top = Math.log1p(Math.max(highest, 1e-3));
    const level = (k) => {
      const sigma = reel?.schedule?.[k] ?? reel?.sigmas[k];
      const share = sigma === undefined ? 1 - k / count : Math.log1p(sigma) / top;
      return box.height - 1 - share * (box.height - 3);
    };
    const x = (k) => (k / count) * box.width;
    const slope = (until) => {
      pen.beginPath();
      pen.moveTo(0, box.height);
      for (let k = 0; k <= until; k++) pen.lineTo(x(k), level(k));
      pen.lineTo(x(until), box.height);
      pen.closePath();
    };
    pen.fillStyle = ink.getPropertyValue("--v-line");
    slope(count);
    pen.fill();
    if (!reel) return;
    pen.fillStyle = ink.getPropertyValue("--v-brass");
    slope(Math.min(index, count));
    pen.fill();
    pen.fillStyle = ink.getPropertyValue("--v-ink");
    // A second pass begins: a notch.
    for (const { at } of reel.begins.slice(1)) pen.fillRect(x(at) - 1, 0, 2, box.height);
  }
}

/** A canvas as dense as the screen; returns its cleared pen, in CSS pixels. */
function sized(canvas, width, height) {
  const dense = window.devicePixelRatio || 1;
  const [across, down] = [Math.round(width * dense), Math.round(height * dense)];
  if (canvas.width !== across || canvas.height !== down) {
    canvas.width = across;
    canvas.height = down;
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(dense, 0, 0, dense, 0, 0);
  pen.clearRect(0, 0, width, height);
  return pen;
}

/** The middle of a bitmap, filling a box. */
function cover(pen, bitmap, x, y, width, height) {
  const scale = Math.max(width / bitmap.width, height / bitmap.height);
  const [w, h] = [width / scale, height / scale];
  pen.imageSmoothingQuality = "medium";
  pen.drawImage(
    bitmap, (bitmap.width - w) / 2, (bitmap.height - h) / 2, w, h, x, y, width, height,
  );
}

/** A patch of noise, drawn once. */
function grain() {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 192;
  const pen = canvas.getContext("2d");
  const data = pen.createImageData(192, 192);
  for (let i = 0; i < data.data.length; i += 4) {
    const value = 90 + Math.random() * 110;
    data.data[i] = data.data[i + 1] = data.data[i + 2] = value;
    data.data[i + 3] = 255;
  }
  pen.putImageData(data, 0, 0);
  return canvas;
}
