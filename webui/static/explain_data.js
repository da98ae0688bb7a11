// Numbers from the server and what is drawn of them: halves, latents to colours, heat.
// Nothing here asks the server twice for the same numbers.

import { sentence } from "./dom.js";

const KEPT = 96;
const MOST_PIXELS = 640 * 640; // of a quick view
const answers = new Map(); // url -> promise of numbers; the oldest go first

/** The numbers at an address: {head, arrays: {name: {shape, data: Float32Array}}}. */
export function numbers(url) {
  if (answers.has(url)) {
    const known = answers.get(url);
    answers.delete(url);
    answers.set(url, known);
    return known;
  }
  const answer = fetched(url);
  answers.set(url, answer);
  answer.catch(() => answers.delete(url));
  for (const old of answers.keys()) {
    if (answers.size <= KEPT) break;
    answers.delete(old);
  }
  return answer;
}

export const isKnown = (url) => answers.has(url);

async function fetched(url) {
  const answer = await fetch(url).catch(() => null);
  if (!answer) throw new Error("The server does not answer. Is it still running?");
  if (!answer.ok) {
    const body = await answer.json().catch(() => ({}));
    throw new Error(sentence(body.error || `The server answered ${answer.status}`));
  }
  return unpacked(await answer.arrayBuffer());
}

/** See webui/packing.py. */
export function unpacked(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const arrays = {};
  for (const [name, { type, shape, at }] of Object.entries(head.arrays)) {
    const count = shape.reduce((product, side) => product * side, 1);
    const from = 4 + length + at;
    const data =
      type === "f2" ? singles(new Uint16Array(buffer, from, count)) : new Float32Array(buffer, from, count);
    arrays[name] = { shape, data };
  }
  return { head, arrays };
}

let table = null;

/** Half precision numbers as single precision ones. */
export function singles(halves) {
  table ||= Float32Array.from({ length: 65536 }, (_, bits) => half(bits));
  const out = new Float32Array(halves.length);
  for (let i = 0; i < out.length; i++) out[i] = table[halves[i]];
  return out;
}

function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const share = bits & 1023;
  if (exponent === 31) return share ? NaN : sign * Infinity;
  return exponent ? sign * 2 ** (exponent - 15) * (1 + share / 1024) : sign * 2 ** -14 * (share / 1024);
}

/** The linear preview of a checkpoint: latents to colours, as core/images/preview.py does it. */
export class Colours {
  constructor({ shape, data }) {
    this.channels = shape[0] - 1;
    this.patch = Math.round(Math.sqrt(shape[1] / 3));
    this.factors = data;
  }

  /** Latents (c h w) as levels 0 to 255 of red, green and blue, without the constant.
   * Being linear, what is mixed of latents is mixed of these alike. */
  levels({ shape, data }) {
    const [channels, h, w] = shape;
    while (w * h * this.patch ** 2 > MOST_PIXELS && this.patch % 2 === 0) this.halve();
    const p = this.patch;
    const square = p * p;
    const width = w * p;
    const out = new Float32Array(h * w * square * 3);
    for (let y = 0; y < h; y++) {
      for (let x = 0; x < w; x++) {
        for (let c = 0; c < channels; c++) {
          const value = data[(c * h + y) * w + x] * 255;
          const row = c * square * 3;
          for (let k = 0; k < 3; k++) {
            for (let i = 0; i < p; i++) {
              let to = (((y * p + i) * width + x * p) * 3) + k;
              let from = row + k * square + i * p;
              for (let j = 0; j < p; j++, to += 3, from++) out[to] += value * this.factors[from];
            }
          }
        }
      }
    }
    return { width, height: h * p, data: out };
  }

  /** Patches of half the side: each of their pixels the mean of four. Large pictures stay quick. */
  halve() {
    const [p, half] = [this.patch, this.patch / 2];
    const rows = this.factors.length / (p * p);
    const means = new Float32Array(rows * half * half);
    for (let row = 0; row < rows; row++) {
      for (let i = 0; i < p; i++) {
        for (let j = 0; j < p; j++) {
          means[row * half * half + (i >> 1) * half + (j >> 1)] += this.factors[row * p * p + i * p + j] / 4;
        }
      }
    }
    this.patch = half;
    this.factors = means;
    this.known = null;
  }

  /** The constant, for a picture of some levels' size. */
  constant(x, y, k) {
    const p = this.patch;
    return 255 * this.factors[this.channels * p * p * 3 + k * p * p + (y % p) * p + (x % p)];
  }

  /** Draws Σ share · levels, with the constant. */
  draw(canvas, parts) {
    const { width, height } = parts[0][1];
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    const pixels = image.data;
    const ground = this.ground(width, height);
    const [[a, first], second] = parts;
    const f = first.data;
    if (second) {
      const [b, { data: g }] = second;
      for (let i = 0, o = 0; i < f.length; i += 3, o += 4) {
        pixels[o] = ground[i] + a * f[i] + b * g[i];
        pixels[o + 1] = ground[i + 1] + a * f[i + 1] + b * g[i + 1];
        pixels[o + 2] = ground[i + 2] + a * f[i + 2] + b * g[i + 2];
        pixels[o + 3] = 255;
      }
    } else {
      for (let i = 0, o = 0; i < f.length; i += 3, o += 4) {
        pixels[o] = ground[i] + a * f[i];
        pixels[o + 1] = ground[i + 1] + a * f[i + 1];
        pixels[o + 2] = ground[i + 2] + a * f[i + 2];
        pixels[o + 3] = 255;
      }
    }
    context.putImageData(image, 0, 0);
  }

  ground(width, height) {
    if (this.known?.length === width * height * 3 && this.knownWidth === width) return this.known;
    this.known = new Float32Array(width * height * 3);
    this.knownWidth = width;
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        for (let k = 0; k < 3; k++, i++) this.known[i] = this.constant(x, y, k);
      }
    }
    return this.known;
  }
}

const EMBER = [[8, 12, 20], [66, 26, 84], [165, 46, 82], [236, 112, 62], [252, 196, 96], [255, 250, 224]];

/** The colour of a share from 0 to 1: dark, violet, orange, pale. */
export function ember(share) {
  const at = Math.min(0.9999, Math.max(0, share)) * (EMBER.length - 1);
  const low = EMBER[Math.floor(at)];
  const high = EMBER[Math.floor(at) + 1];
  return low.map((value, k) => value + (high[k] - value) * (at % 1));
}

/** A map (h w) of numbers as heat, 0 to `most`; `see(share)` is how opaque it is there. */
export function heat(canvas, values, h, w, most, see = () => 1) {
  canvas.width = w;
  canvas.height = h;
  const context = canvas.getContext("2d");
  const image = context.createImageData(w, h);
  for (let i = 0; i < h * w; i++) {
    const share = most > 0 ? values[i] / most : 0;
    const [r, g, b] = ember(share);
    image.data.set([r, g, b, 255 * see(share)], i * 4);
  }
  context.putImageData(image, 0, 0);
}

/** A map of one size brought to another, smoothly. */
export function resized(values, h, w, rows, columns) {
  if (h === rows && w === columns) return values;
  const out = new Float32Array(rows * columns);
  for (let y = 0; y < rows; y++) {
    const v = Math.min(h - 1, Math.max(0, ((y + 0.5) * h) / rows - 0.5));
    const top = Math.floor(v);
    const below = Math.min(h - 1, top + 1);
    for (let x = 0; x < columns; x++) {
      const u = Math.min(w - 1, Math.max(0, ((x + 0.5) * w) / columns - 0.5));
      const left = Math.floor(u);
      const right = Math.min(w - 1, left + 1);
      const a = values[top * w + left] * (1 - (u - left)) + values[top * w + right] * (u - left);
      const b = values[below * w + left] * (1 - (u - left)) + values[below * w + right] * (u - left);
      out[y * columns + x] = a * (1 - (v - top)) + b * (v - top);
    }
  }
  return out;
}
