// What a step would have been without its guides: two estimates of one moment, asked for when the
// hand rests. Each is decoded by the model's own VAE, so only the guides make a difference.

import { sentence } from "./dom.js";

const REST_MS = 300;
const KEPT = 48; // pairs of bitmaps

export class Unguided {
  constructor(changed) {
    this.changed = changed;
    this.pairs = new Map(); // address -> {bitmaps} or {problem}
    this.timer = 0;
  }

  /** Whether a run has guides that can be left out. */
  static of(reel) {
    return Boolean(reel?.request?.controls?.length);
  }

  /** {bitmaps: [with, without]}, {problem}, or null while it is not here. */
  pair(reel, at) {
    const url = address(reel, at);
    if (!url) return null;
    if (this.pairs.has(url)) return this.pairs.get(url);
    this.wanted = url;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.fetch(url), REST_MS);
    return null;
  }

  async fetch(url) {
    if (this.wanted !== url || this.busy === url) return;
    this.busy = url;
    try {
      const bitmaps = [await picture(url), await picture(`${url}?without_guides=true`)];
      this.keep(url, { bitmaps });
    } catch (error) {
      this.keep(url, { problem: error.message });
    }
    this.busy = "";
    this.changed();
  }

  keep(url, pair) {
    this.pairs.set(url, pair);
    for (const [old, { bitmaps }] of this.pairs) {
      if (this.pairs.size <= KEPT) break;
      for (const bitmap of bitmaps || []) bitmap.close();
      this.pairs.delete(old);
    }
  }
}

/** Where the estimate that is made at a place of the timeline can be had. */
function address(reel, at) {
  const begun = reel.begins.filter((one) => one.at <= at).at(-1);
  if (!begun) return "";
  const next = reel.begins.find((one) => one.at > at)?.at ?? reel.last + 1;
  // Behind the last step of a walk the model is not asked any more.
  const place = Math.max(begun.at, Math.min(at, next - 2));
  return `/api/explain/inside/${reel.job}/${reel.image}/${begun.pass}/${place - begun.offset}.jpg`;
}

async function picture(url) {
  const answer = await fetch(url).catch(() => null);
  if (!answer) throw new Error("The server does not answer. Is it still running?");
  if (answer.ok) return createImageBitmap(await answer.blob());
  const said = await answer.json().catch(() => ({}));
  throw new Error(sentence(said.error || `The server answered ${answer.status}`));
}
