// The timeline: a strip of film that develops from left to right, under a native range input.
// Scrubbing reads the reel and nothing else; no step of it asks the server.

import { kept, part } from "./dom.js";
import { Film } from "./film.js";
import { Unguided } from "./unguided.js";

const STEP_MS = 110;
const LONGEST_MS = 5000;
const REST_MS = 900;
const SEEN = {
  latents: "with its noise",
  denoised: "the estimate",
  both: "with its noise, and the estimate",
  unguided: "the estimate with the guides, and without them",
};
const CAPTIONS = ["With its noise", "What the model expects"];

export class Timeline {
  constructor(root, show) {
    this.root = part("timeline", root);
    this.show = show;
    this.strip = part("strip", root);
    this.scrub = part("scrub", root);
    this.film = new Film(part("film", root), part("levels", root), part("loupe", root));
    this.words = {};
    for (const name of ["at", "sigma", "timestep", "begin", "end", "play", "play-word", "play-shape"]) {
      this.words[name] = part(name, root);
    }
    this.loop = part("loop", root);
    this.bare = new Unguided(() => this.draw());
    this.off = part("unguided", root);
    this.captions = [...part("panes", root).querySelectorAll("figcaption")];
    this.views = [...this.root.querySelectorAll('input[name="v-view"]')];
    this.reel = null;
    this.index = 0;
    this.following = true;
    this.timer = 0;
    this.pending = 0;
    this.listen();
    const view = kept("vitrine.view");
    for (const radio of this.views) radio.checked = radio.value === (view || "latents");
    this.loop.checked = Boolean(kept("vitrine.loop"));
    new ResizeObserver(() => this.draw()).observe(this.strip);
  }

  /** What is chosen: one view, "both", or "unguided". */
  get chosen() {
    const chosen = this.views.find((radio) => radio.checked)?.value || "latents";
    return chosen === "unguided" && !Unguided.of(this.reel) ? "latents" : chosen;
  }

  /** The view of the film, and the first one to be decoded in full. */
  get view() {
    return ["denoised", "unguided"].includes(this.chosen) ? "denoised" : "latents";
  }

  listen() {
    this.scrub.addEventListener("input", () => this.held(Number(this.scrub.value)));
    this.scrub.addEventListener("keydown", (event) => {
      if (event.key === " ") {
        event.preventDefault();
        this.toggle();
      }
    });
    this.words.play.addEventListener("click", () => this.toggle());
    this.loop.addEventListener("change", () => kept("vitrine.loop", this.loop.checked));
    for (const radio of this.views) {
      radio.addEventListener("change", () => {
        kept("vitrine.view", this.chosen);
        this.draw();
      });
    }
    this.strip.addEventListener("pointerdown", (event) => this.grabbed(event));
    this.strip.addEventListener("pointermove", (event) => {
      if (this.strip.hasPointerCapture(event.pointerId)) this.dragged(event);
    });
  }

  grabbed(event) {
    if (this.scrub.disabled || event.button > 0) return;
    event.preventDefault();
    this.strip.setPointerCapture(event.pointerId);
    this.scrub.focus({ preventScroll: true });
    this.dragged(event);
  }

  dragged(event) {
    const box = this.strip.getBoundingClientRect();
    this.held(this.film.indexAt(event.clientX - box.left));
  }

  /** Somebody took the timeline in hand. */
  held(index) {
    this.pause();
    this.go(index);
    this.following = Boolean(this.reel && !this.reel.over && this.index >= this.reel.last);
  }

  /** Another image's frames. */
  put(reel, { follow = true } = {}) {
    if (this.reel === reel) return;
    this.pause();
    this.reel = reel;
    this.following = follow;
    this.index = follow ? reel.last : 0;
    this.changed(reel);
  }

  clear() {
    this.pause();
    this.reel = null;
    this.index = 0;
    this.draw();
  }

  /** The reel has grown, or one of its frames came. */
  changed(reel) {
    if (reel !== this.reel) return;
    if (this.following && !this.timer) this.index = reel.last;
    this.index = Math.max(reel.first, Math.min(this.index, reel.last));
    if (!this.pending) {
      this.pending = requestAnimationFrame(() => {
        this.pending = 0;
        this.draw();
      });
    }
  }

  go(index) {
    if (!this.reel) return;
    this.index = Math.max(this.reel.first, Math.min(Math.round(index), this.reel.last));
    this.draw();
  }

  toggle() {
    if (this.timer) this.pause();
    else this.play();
  }

  play() {
    if (!this.reel || this.reel.last < 1) return;
    if (this.index >= this.reel.last) this.go(0);
    this.following = false;
    const pace = Math.min(STEP_MS, LONGEST_MS / this.reel.last);
    const tick = () => {
      const last = this.index >= this.reel.last;
      if (last && !this.loop.checked) {
        this.pause();
        return;
      }
      this.go(last ? 0 : this.index + 1);
      this.timer = setTimeout(tick, this.index >= this.reel.last ? REST_MS : pace);
    };
    this.timer = setTimeout(tick, this.index === 0 ? REST_MS / 2 : pace);
    this.shown();
  }

  pause() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.shown();
  }

  /** The play button says what it will do. */
  shown() {
    const playing = Boolean(this.timer);
    this.words["play-word"].textContent = playing ? "Pause" : "Play";
    this.words["play-shape"].setAttribute(
      "d",
      playing ? "M3.5 2.5h3.2v11H3.5zM9.3 2.5h3.2v11H9.3z" : "M4 2.5v11l9.5-5.5z",
    );
  }

  draw() {
    const { reel, view } = this;
    const ready = Boolean(reel && reel.last >= 0 && reel.known.latents.size);
    this.off.hidden = !Unguided.of(reel);
    this.scrub.disabled = !ready;
    this.words.play.disabled = !ready || reel.last < 1;
    this.root.classList.toggle("is-empty", !ready);
    this.film.draw(ready ? reel : null, view, this.index);
    if (!ready) {
      for (const name of ["at", "sigma", "timestep"]) this.words[name].textContent = "–";
      return;
    }
    // The whole way is the input's range; what is not there yet can't be reached.
    this.scrub.min = String(reel.first);
    this.scrub.max = String(reel.over ? reel.last : reel.total);
    this.scrub.value = String(this.index);
    const sigma = reel.sigmas[this.index] ?? 0;
    const timestep = reel.timesteps[this.index] ?? 0;
    this.words.at.textContent = `${this.index} / ${reel.over ? reel.last : reel.total}`;
    this.words.sigma.textContent = sigma.toFixed(sigma >= 10 ? 2 : 3);
    this.words.timestep.textContent = String(Math.round(timestep));
    const stopped = reel.over && reel.last < reel.total;
    this.words.end.textContent = stopped ? `Stopped at ${reel.last} of ${reel.total}` : "Image";
    const { start, branch } = reel.request || {};
    this.words.begin.textContent = branch ? "Branch" : start && start.strength < 1 ? "Picture and noise" : "Noise";
    const seen = SEEN[this.chosen];
    const words = `Step ${this.index} of ${reel.last}, ${seen}, sigma ${sigma.toFixed(2)}`;
    this.scrub.setAttribute("aria-valuetext", words);
    if (this.chosen === "unguided") this.compare(words);
    else {
      this.captions.forEach((caption, i) => (caption.textContent = CAPTIONS[i]));
      const views = this.chosen === "both" ? ["latents", "denoised"] : [view];
      this.show(views.map((one) => reel.frame(one, this.index)), words);
    }
  }

  /** The estimate of this moment with the guides, beside the one without them. */
  compare(words) {
    const pair = this.bare.pair(this.reel, this.index);
    const waits = pair ? pair.problem || "Without the guides" : "Without the guides: asking the model…";
    ["With the guides", waits].forEach((text, i) => (this.captions[i].textContent = text));
    this.show(pair?.bitmaps || [this.reel.frame("denoised", this.index), null], words);
  }
}
