// The session: its jobs and images, the job that runs, and which image is on the stage.

import { asked, kept, made, part, sentence } from "./dom.js";
import { Develop } from "./develop.js";
import { Forever } from "./forever.js";
import { Gallery } from "./gallery.js";
import { Reel } from "./reel.js";
import { Stage } from "./stage.js";
import { Status } from "./status.js";
import { Timeline } from "./timeline.js";
import { Watch } from "./watch.js";

const ADDED_MS = 1500;
const REMEMBERED = 12; // jobs of earlier runs of the server whose pictures are asked for again

export class Session {
  constructor(root, form) {
    this.form = form;
    this.stage = new Stage(root);
    this.status = new Status(root);
    this.timeline = new Timeline(root, (bitmaps, words) => this.stage.draw(bitmaps, words));
    this.gallery = new Gallery(root, {
      chosen: (image) => this.showImage(image),
      reuseSeed: (image) => form.setSeed(image.request.seed),
      reuseAll: (image) => form.useImage(image),
    });
    this.caption = part("caption", root);
    this.develop = new Develop(this.timeline);
    this.forever = new Forever(this.status, form);
    this.start = null; // what is begun with, once there is a page for it
    this.reels = new Map();
    this.job = null;
    this.watch = null;
    this.queued = new Set(); // jobs that come on the stage one after another
    this.line = []; // the queue as it was told last
    this.engine = { ready: true };
  }

  /** After a load or reload: what there is, and the job that runs. */
  async resume() {
    let session;
    try {
      session = await asked("/api/session");
    } catch (error) {
      this.status.problem(error.message);
      return;
    }
    this.engine = session.engine;
    this.machine();
    for (const job of session.jobs) {
      for (const image of job.images) this.gallery.add({ job: job.id, ...image });
    }
    const running = session.jobs.filter((job) => ["running", "waiting"].includes(job.state));
    const current = running.find((job) => job.state === "running") || running[0];
    const newest = this.gallery.newest();
    for (const job of running) this.queued.add(job.id);
    if (current) this.follow(current.id);
    // Quietly: the line says "Ready." from the start, or by now something that must not be lost.
    else if (newest) this.showImage(newest, { quietly: true });
    this.earlier(new Set(session.jobs.map((job) => job.id)));
  }

  /** Pictures from before the server was started last: it knows their jobs still, by id. */
  async earlier(present) {
    const ids = (kept("vitrine.jobs") || []).filter((id) => !present.has(id));
    for (const id of ids.slice(0, REMEMBERED)) {
      const job = await asked(`/api/jobs/${id}`).catch(() => null);
      for (const image of (job?.images || []).reverse()) {
        this.gallery.add({ job: id, ...image }, { older: true });
      }
    }
    const newest = this.gallery.newest();
    if (newest && !this.timeline.reel && !this.isRunning) {
      this.showImage(newest, { quietly: true });
    }
  }

  remember(id) {
    const ids = (kept("vitrine.jobs") || []).filter((other) => other !== id);
    kept("vitrine.jobs", [id, ...ids].slice(0, 4 * REMEMBERED));
  }

  machine() {
    const { ready, device, precision, problem } = this.engine;
    const line = part("machine");
    if (!line) return;
    line.textContent = problem || (ready ? `${device} · ${precision}` : "the engine is getting ready");
    if (ready || problem) return;
    this.patience = Math.min(30_000, (this.patience || 1000) * 1.5);
    setTimeout(() => this.again(), this.patience);
  }

  async again() {
    const session = await asked("/api/session").catch(() => null);
    if (session) this.engine = session.engine;
    this.machine();
  }

  /** A job was handed over: it comes on the stage now, or after those before it. */
  handed(id) {
    this.queued.add(id);
    if (!this.isRunning) this.follow(id);
    else this.added();
  }

  /** The button that was pressed says so for a while: no words lie over it. */
  added() {
    const button = part("queue-add");
    if (!button) return;
    this.status.live.textContent = "Added to the queue.";
    button.textContent = "Added";
    clearTimeout(this.addedTimer);
    this.addedTimer = setTimeout(() => (button.textContent = "Add to the queue"), ADDED_MS);
  }

  /** The queue is another one: the stage is for what runs. */
  lined({ jobs }) {
    // What was in the queue and is there no longer was worked off elsewhere, or discarded.
    const there = new Set(jobs.map((job) => job.id));
    for (const { id } of this.line) if (!there.has(id) && id !== this.job?.id) this.queued.delete(id);
    this.line = jobs.filter((job) => this.queued.has(job.id) || this.watchesAll);
    const [first] = this.line;
    if (!first || first.id === this.job?.id) return;
    const mine = this.line.find((job) => job.id === this.job?.id);
    if (!this.isRunning || (mine?.state === "waiting" && first.state === "running")) this.follow(first.id);
  }

  /** Whether another job follows the one that is over. */
  next() {
    this.queued.delete(this.job.id);
    this.line = this.line.filter((job) => job.id !== this.job.id);
    const first = this.line[0]?.id ?? [...this.queued][0];
    if (first) this.follow(first);
    return Boolean(first);
  }

  /** Watches a job from its beginning. */
  follow(id) {
    this.watch?.close();
    this.develop.stop();
    this.job = { id, images: 1, ready: this.engine.ready };
    document.documentElement.classList.add("is-running");
    this.start?.show("result");
    part("notes").replaceChildren();
    part("notes").hidden = true;
    this.status.say("Handing it to the engine…", { kind: "busy", share: 0 });
    this.watch = new Watch(id, {
      message: (message) => this.heard(message),
      frame: (image, view, index, blob) => this.reels.get(`${id}/${image}`)?.push(view, index, blob),
      lost: () => this.status.say("The connection is lost; trying again…", { kind: "busy", share: 0 }),
      gone: () => {
        this.status.problem("This job is no longer there");
        this.ended();
        this.next();
      },
    });
  }

  heard(message) {
    if (message.type === "started") {
      this.job.begun = true;
      this.job.images = message.request.images;
      this.job.request = message.request;
      this.job.passes = message.passes;
      document.documentElement.classList.toggle("has-several", this.job.images > 1);
      this.form.used(message.request.seed);
    } else if (message.type === "loaded") {
      this.engine = { ready: true, device: message.device, precision: message.precision };
      this.machine();
    } else if (message.type === "step") {
      this.stepped(message);
    } else if (message.type === "image") {
      this.imageDone(message);
    } else if (message.type === "note") {
      part("notes").append(made("li", { textContent: sentence(message.text) }));
      part("notes").hidden = false;
    }
    this.status.tell(message, this.job);
    if (["finished", "failed", "cancelled"].includes(message.type)) {
      this.ended(message.type);
      const follows = this.start?.next(message.type, message.interrupted);
      if (!this.next() && !follows) this.forever.ended(message.type, message.interrupted);
    }
  }

  stepped(message) {
    for (const image of message.images) {
      const reel = this.reelOf(this.job.id, image, this.job.request);
      reel.passes = this.job.passes || [];
      reel.step(message);
    }
    const first = Math.min(...message.images);
    const shown = this.reels.get(`${this.job.id}/${first}`);
    this.job.whole = shown.total;
    if (message.begins && this.timeline.reel === shown) this.stage.shape(shown.width, shown.height);
    if (this.timeline.reel?.job !== this.job.id || this.showing !== first) {
      // A person who looks at an earlier image of this job is left with it.
      const watching = this.timeline.reel?.job === this.job.id && !this.timeline.following;
      if (!watching || this.timeline.reel.image === first) this.putReel(this.job.id, first);
      this.showing = first;
    }
  }

  reelOf(job, image, request) {
    const name = `${job}/${image}`;
    if (!this.reels.has(name)) {
      const reel = new Reel(job, image, (changed) => this.timeline.changed(changed));
      reel.width = request.width;
      reel.height = request.height;
      reel.request = request;
      this.reels.set(name, reel);
    }
    return this.reels.get(name);
  }

  putReel(job, image, options) {
    const reel = this.reels.get(`${job}/${image}`);
    for (const [name, other] of this.reels) {
      // Bitmaps are large: only the reel on the stage and those of the running job are kept.
      if (other !== reel && other.job !== this.job?.id) {
        other.close();
        this.reels.delete(name);
      }
    }
    this.stage.shape(reel.width, reel.height);
    this.captioned(reel);
    this.timeline.put(reel, options);
    this.compared(reel);
  }

  /** Over a result that began with a picture, what it was before can be laid. */
  async compared(reel) {
    if (!this.compare && !(reel.done && reel.request.start)) return;
    if (!this.compare) {
      const { Compare } = await import("./compare.js");
      this.compare ??= new Compare(this.stage.case.closest(".v-show"), this.status);
    }
    this.compare.put(this.timeline.reel);
  }

  imageDone(message) {
    const reel = this.reelOf(this.job.id, message.index, message.request);
    reel.request = message.request;
    reel.finish(message);
    reel.name = message.name;
    if (reel === this.timeline.reel) {
      this.captioned(reel);
      this.stage.shape(reel.width, reel.height);
      this.compared(reel);
    }
    this.gallery.add({ job: this.job.id, ...message });
    this.remember(this.job.id);
    if (reel === this.timeline.reel) this.gallery.select(this.job.id, message.index);
  }

  ended(type) {
    document.documentElement.classList.remove("is-running");
    const job = this.job?.id;
    for (const reel of this.reels.values()) if (reel.job === job) reel.end();
    if (type === "cancelled" && this.timeline.reel?.job === job) {
      this.timeline.clear();
      const newest = this.gallery.newest();
      if (newest) this.showImage(newest, { quietly: true });
      else this.stage.empty();
    }
    this.timeline.draw();
    this.develop.start();
  }

  /** Puts one of the session's images on the stage, with its timeline. */
  async showImage(image, { quietly = false } = {}) {
    this.gallery.select(image.job, image.index);
    if (!quietly) this.start?.show("result");
    const name = `${image.job}/${image.index}`;
    if (this.job?.id === image.job && this.reels.has(name)) {
      this.putReel(image.job, image.index);
      return;
    }
    const reel = this.reelOf(image.job, image.index, image.request);
    reel.name = image.name;
    reel.pushed = false;
    this.putReel(image.job, image.index);
    reel.finish(image);
    this.compared(reel);
    if (!quietly && !this.isRunning) this.status.say("Ready.", { spoken: false });
    try {
      await this.replay(reel);
    } catch {
      // Its steps are gone, and only the picture is left to show.
      reel.end();
    }
    this.develop.start();
  }

  /** The steps of a job that is over, read once. */
  replay(reel) {
    return new Promise((resolve, reject) => {
      const watch = new Watch(reel.job, {
        message: (message) => {
          if (message.type === "started") reel.passes = message.passes || [];
          if (message.type === "step" && message.images.includes(reel.image)) reel.step(message);
          if (["finished", "failed", "cancelled"].includes(message.type)) {
            reel.end();
            watch.close();
            resolve();
          }
        },
        frame: () => {},
        lost: () => {
          watch.close();
          reject(new Error("lost"));
        },
        gone: () => reject(new Error("gone")),
      });
    });
  }

  /** What the picture was made of, as on the plaque of a display case. */
  captioned({ request, name, done }) {
    const facts = [
      `seed ${request.seed}`, `${request.steps} steps`, `guidance ${request.cfg_scale}`,
      `${(done || request).width} × ${(done || request).height}`, ...(name ? [name] : []),
    ];
    this.caption.replaceChildren(
      made("q", { textContent: request.prompt }), " ", made("span", { textContent: facts.join(" · ") }),
    );
  }

  get isRunning() {
    return document.documentElement.classList.contains("is-running");
  }

  async steer(how) {
    if (how !== "skip") {
      this.forever.set(false);
      this.start?.next(how, true);
    }
    if (!this.isRunning || !this.job) return;
    // What has not begun has nothing to stop with.
    if (how === "interrupt" && !this.job.begun) how = "cancel";
    try {
      await asked(`/api/jobs/${this.job.id}/${how}`, { method: "POST" });
      if (how === "interrupt") {
        this.status.say("Stopping after this step…", { kind: "busy", share: this.status.share ?? 0 });
      }
    } catch (error) {
      this.status.problem(sentence(error.message));
    }
  }
}
