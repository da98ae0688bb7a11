// The picture in its case: drawn at its own size, shown as large as fits, crisp when enlarged.
// One pane, or two side by side: with its noise, and what the model expects under it.

import { part } from "./dom.js";

const GRAIN = 128;
const GAP = 24;
const CAPTION = 26;

export class Stage {
  constructor(root) {
    this.case = part("case", root);
    this.hint = part("hint", root);
    this.panes = [...part("panes", root).children].map((figure) => {
      const canvas = figure.querySelector("canvas");
      return { figure, canvas, pen: canvas.getContext("2d"), words: figure.lastElementChild };
    });
    this.size = { width: GRAIN, height: GRAIN };
    new ResizeObserver(() => this.fit()).observe(this.case);
    const wide = part("wide", root);
    wide.hidden = !document.fullscreenEnabled;
    wide.addEventListener("click", () => {
      if (document.fullscreenElement) document.exitFullscreen();
      else root.querySelector(".v-show").requestFullscreen();
    });
    document.addEventListener("fullscreenchange", () => {
      wide.textContent = document.fullscreenElement ? "Leave full screen" : "Full screen";
    });
    this.empty();
  }

  /** Noise, before there is anything else: what every picture begins with. */
  empty() {
    this.shape(GRAIN, GRAIN);
    this.split(false);
    const [{ canvas, pen }] = this.panes;
    const noise = pen.createImageData(GRAIN, GRAIN);
    for (let i = 0; i < noise.data.length; i += 4) {
      for (let c = 0; c < 3; c++) {
        const bell = Math.random() + Math.random() + Math.random() - 1.5;
        noise.data[i + c] = 128 + 70 * bell;
      }
      noise.data[i + 3] = 255;
    }
    pen.putImageData(noise, 0, 0);
    this.hint.hidden = false;
    canvas.classList.add("is-waiting");
  }

  /** Makes room for a picture of this size. */
  shape(width, height) {
    for (const { canvas } of this.panes) {
      if (canvas.width !== width || canvas.height !== height) {
        canvas.width = width;
        canvas.height = height;
      }
    }
    this.size = { width, height };
    this.fit();
  }

  /** One pane or two. */
  split(two) {
    const [first, second] = this.panes;
    if (second.figure.hidden === !two) return;
    second.figure.hidden = !two;
    first.words.hidden = second.words.hidden = !two;
    this.fit();
  }

  /** As large as the case allows; whole screen pixels for each pixel of an enlarged picture. */
  fit() {
    const { width, height } = this.size;
    const style = getComputedStyle(this.case);
    let across = this.case.clientWidth - parseFloat(style.paddingLeft) * 2;
    let down = this.case.clientHeight - parseFloat(style.paddingTop) * 2;
    if (!this.panes[1].figure.hidden) {
      across = (across - GAP) / 2;
      down -= CAPTION;
    }
    if (across <= 0 || down <= 0) return;
    let scale = Math.min(across / width, down / height);
    const enlarged = scale >= 2;
    if (enlarged) {
      const dense = window.devicePixelRatio || 1;
      scale = Math.floor(scale * dense) / dense;
    }
    for (const { canvas } of this.panes) {
      canvas.style.width = `${Math.round(width * scale * 100) / 100}px`;
      canvas.style.height = `${Math.round(height * scale * 100) / 100}px`;
      canvas.classList.toggle("is-enlarged", enlarged);
    }
  }

  /** Bitmaps, as large as the picture; two of them side by side. */
  draw(bitmaps, words) {
    this.split(bitmaps.length > 1);
    this.hint.hidden = true;
    bitmaps.forEach((bitmap, i) => {
      if (!bitmap) return;
      const { canvas, pen } = this.panes[i];
      canvas.classList.remove("is-waiting");
      pen.imageSmoothingQuality = "high";
      drawnInto(pen, bitmap);
      canvas.setAttribute("aria-label", words);
    });
  }
}

/** Over the whole canvas; what has another shape (a part that is painted alone) in its middle. */
function drawnInto(pen, bitmap) {
  const { width, height } = pen.canvas;
  const stretch = (bitmap.width * height) / (bitmap.height * width);
  if (Math.abs(Math.log(stretch)) < 0.06) {
    pen.drawImage(bitmap, 0, 0, width, height);
    return;
  }
  const scale = Math.min(width / bitmap.width, height / bitmap.height);
  const [across, down] = [bitmap.width * scale, bitmap.height * scale];
  pen.clearRect(0, 0, width, height);
  pen.drawImage(bitmap, (width - across) / 2, (height - down) / 2, across, down);
}
