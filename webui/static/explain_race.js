// The sampler race: several samplers from the same noise, side by side at the same noise level.
// Each lane is a job of its own, so its picture is the one it would be alone.

import { asked, made } from "./dom.js";
import { figure, line } from "./explain_parts.js";
import { Watch } from "./watch.js";

const BEGIN = ["euler", "dpmpp_2m", "heun", "euler_ancestral"];
const REFERENCE = { sampler: "heun", schedule: "karras", steps: 60 };
const MOST = 6;
const SIGMAS = 200; // places of the slider

export class View {
  constructor(root, page) {
    this.page = page;
    this.lanes = [];
    this.says = line();
    this.grid = made("div", { className: "v-ex-lanes" });
    this.add = made("button", { type: "button", className: "v-quiet", textContent: "Add a lane" });
    this.start = made("button", { type: "button", className: "v-ex-go", textContent: "Race" });
    this.fine = made("input", { type: "checkbox", checked: true });
    const fine = made("label", { className: "v-ex-check" }, this.fine, ` Also paint a reference: Heun in ${REFERENCE.steps} steps`);
    this.slider = made("input", { type: "range", min: 0, max: SIGMAS, step: 1, value: SIGMAS });
    this.slider.setAttribute("aria-label", "Noise level that all lanes are shown at, from noise to image");
    this.readout = made("output", {});
    this.bar = made("div", { hidden: true }, this.slider, made("div", { className: "v-ex-ends" }, made("span", { textContent: "Noise" }), this.readout, made("span", { textContent: "Image" })));
    this.within = made("input", { type: "range", min: 0.01, max: 1, step: 0.01, value: 0.2 });
    this.within.setAttribute("aria-label", "How near the reference is near enough");
    this.verdict = made("p", { className: "v-ex-means" });
    this.judge = made("div", { className: "v-ex-panel", hidden: true },
      made("label", { className: "v-ex-scale" }, made("span", { textContent: "Near enough: at most this far from the reference" }), (this.epsilon = made("output", {})), this.within), this.verdict,
      made("p", { className: "v-ex-note", textContent:
        "Distances are root mean squares between the final latents, whose own spread is about 1. Samplers with fresh noise at every step " +
        "(“a”, SDE, LCM) paint another picture by design, so they stay far from the reference however many steps they take." }));
    root.append(
      made("p", { className: "v-ex-note", textContent: "Everything else is as in the picture above: prompt, scale, size, and the seed, so all lanes begin with the same noise." }),
      this.grid, this.bar, made("div", { className: "v-ex-row" }, this.add, fine, this.start), this.says.element, this.judge,
    );
    this.add.addEventListener("click", () => this.lane());
    this.start.addEventListener("click", () => this.race());
    this.slider.addEventListener("input", () => this.draw());
    this.within.addEventListener("input", () => this.judged());
  }

  show() {
    const { run } = this.page;
    if (this.samplers) return;
    this.samplers = run.samplers;
    this.highest = run.steps[0].sigma;
    for (const sampler of BEGIN) this.lane(sampler);
  }

  lane(sampler = "unipc") {
    if (this.lanes.length >= MOST) return;
    const choice = made("select", {}, ...this.samplers.map(({ name, title }) => made("option", { value: name, textContent: title })));
    choice.value = sampler;
    choice.setAttribute("aria-label", "Sampler");
    const steps = made("input", { type: "number", min: 1, max: 150, value: Math.min(20, this.page.run.request.steps), inputMode: "numeric" });
    steps.setAttribute("aria-label", "Steps");
    const canvas = made("canvas", { width: 128, height: 128 });
    canvas.setAttribute("role", "img");
    const told = made("span", {});
    const away = made("button", { type: "button", className: "v-quiet", textContent: "Remove" });
    const element = made(
      "figure", { className: "v-ex-pane" },
      made("div", { className: "v-ex-field v-ex-lane" }, choice, steps), canvas,
      made("figcaption", {}, told), away,
    );
    const one = { choice, steps, canvas, told, element, frames: new Map(), levels: [] };
    away.addEventListener("click", () => {
      one.watch?.close();
      this.lanes = this.lanes.filter((other) => other !== one);
      element.remove();
    });
    this.lanes.push(one);
    this.grid.append(element);
  }

  asks(change) {
    const { run } = this.page;
    const { seed, ...rest } = run.request;
    const own = rest.variation?.strength ? BigInt(seed) : BigInt(seed) + BigInt(run.image);
    const asks = { ...rest, schedule: "automatic", sampler_options: {}, schedule_options: {}, images: 1, branch: null, ...change };
    // JavaScript can't hold the largest seeds as numbers.
    return asked("/api/jobs", {
      method: "POST", headers: { "content-type": "application/json" },
      body: `{"seed":${own},${JSON.stringify(asks).slice(1)}`,
    });
  }

  async race() {
    this.start.disabled = true;
    this.judge.hidden = true;
    this.bar.hidden = false;
    this.slider.value = SIGMAS;
    this.highest = this.page.run.steps[0].sigma;
    this.reference = null;
    this.said = null;
    try {
      const running = [];
      for (const one of this.lanes) {
        const { id } = await this.asks({ sampler: one.choice.value, steps: Number(one.steps.value) });
        running.push(this.follow(one, id));
      }
      if (this.fine.checked) {
        const { id } = await this.asks(REFERENCE);
        this.reference = id;
        running.push(new Promise((resolve, reject) => this.end(id, {}, resolve, reject)));
      }
      this.says.say("The lanes run one after another: there is one engine…");
      await Promise.all(running);
      await this.told();
      this.says.say("");
    } catch (error) {
      this.says.say(error.message, "problem");
    }
    this.start.disabled = false;
    this.page.look();
  }

  follow(one, id) {
    one.watch?.close();
    for (const bitmap of one.frames.values()) bitmap.close();
    Object.assign(one, { id, frames: new Map(), levels: [] });
    one.told.textContent = "waiting";
    return new Promise((resolve, reject) => {
      one.watch = this.end(id, {
        step: (message) => {
          one.levels[message.index] = message.sigma;
          one.told.textContent = `step ${message.index} of ${message.total}`;
        },
        frame: async (image, view, index, blob) => {
          if (view === "denoised") await this.keep(one, index, blob);
        },
        image: async () => {
          const answer = await fetch(`/images/${id}/0.png`);
          if (answer.ok) await this.keep(one, Infinity, await answer.blob());
        },
      }, async () => {
        // Frames that were skipped while it ran.
        for (let k = 1; k < one.levels.length; k++) {
          if (one.frames.has(k)) continue;
          const answer = await fetch(`/frames/${id}/0/denoised/${k}.jpg`);
          if (answer.ok) await this.keep(one, k, await answer.blob());
        }
        resolve();
      }, reject);
    });
  }

  end(id, heard, done, failed) {
    const watch = new Watch(id, {
      message: (message) => {
        if (message.type === "step") heard.step?.(message);
        if (message.type === "image") heard.image?.();
        if (message.type === "finished") done();
        if (message.type === "failed") failed(new Error(message.text));
        if (message.type === "cancelled") failed(new Error("A lane was discarded"));
        if (["finished", "failed", "cancelled"].includes(message.type)) watch.close();
      },
      frame: (...frame) => heard.frame?.(...frame),
      lost: () => {},
      gone: () => failed(new Error("A lane is no longer there")),
    });
    return watch;
  }

  async keep(one, index, blob) {
    const bitmap = await createImageBitmap(blob).catch(() => null);
    if (!bitmap) return;
    one.frames.set(index, bitmap);
    this.drawLane(one);
  }

  /** Falling levels evenly in log σ, and 0 at the right end. */
  get level() {
    const at = Number(this.slider.value);
    return at >= SIGMAS ? 0 : this.highest * (0.02 / this.highest) ** (at / (SIGMAS - 1));
  }

  draw() {
    for (const one of this.lanes) this.drawLane(one);
  }

  /** The lane's estimate when it had come down to the level; nothing is asked of anybody. */
  drawLane(one) {
    const { level } = this;
    this.readout.textContent = level ? `all at σ ${figure(level)} or just below` : "all at the end";
    let at = level ? one.levels.findIndex((sigma) => sigma <= level) : Infinity;
    if (at < 0) at = one.levels.length - 1;
    const there = [...one.frames.keys()].filter((k) => k <= Math.max(1, at)).sort((a, b) => b - a)[0];
    const bitmap = one.frames.get(there);
    if (!bitmap) return;
    [one.canvas.width, one.canvas.height] = [bitmap.width, bitmap.height];
    one.canvas.getContext("2d").drawImage(bitmap, 0, 0);
    if (this.said) this.score(one, at);
  }

  async told() {
    const jobs = this.lanes.map((one) => one.id).join(",");
    const { lanes } = await asked(`/api/explain/race?jobs=${jobs}&reference=${this.reference || ""}`);
    this.said = new Map(lanes.map((lane) => [lane.id, lane]));
    this.judge.hidden = !this.reference;
    const far = lanes.map((lane) => lane.distance).filter((value) => value !== null);
    if (far.length) this.within.max = (Math.ceil(Math.max(...far) * 11) / 10).toFixed(2);
    this.judged();
    this.draw();
  }

  score(one, at) {
    const lane = this.said.get(one.id);
    if (!lane) return;
    const step = at === Infinity ? null : lane.steps[at];
    const words = [`${lane.calls} calls`, `${figure(lane.seconds)} s`];
    if (step) words.unshift(`step ${at}`);
    const far = step ? step.distance : lane.distance;
    if (far !== null && far !== undefined) words.push(`${figure(far)} from the reference`);
    one.told.textContent = words.join(" · ");
  }

  judged() {
    const epsilon = Number(this.within.value);
    this.epsilon.textContent = figure(epsilon);
    if (!this.said) return;
    const near = this.lanes.filter((one) => (this.said.get(one.id)?.distance ?? Infinity) <= epsilon);
    const cost = ({ id }) => this.said.get(id);
    near.sort((a, b) => cost(a).calls - cost(b).calls || cost(a).distance - cost(b).distance);
    for (const one of this.lanes) one.element.classList.toggle("is-won", one === near[0]);
    const title = near[0]?.choice.selectedOptions[0].textContent;
    this.verdict.textContent = near.length
      ? `Cheapest within ${figure(epsilon)}: ${title} in ${near[0].steps.value} steps, ${this.said.get(near[0].id).calls} calls of the model.`
      : `No lane comes within ${figure(epsilon)} of the reference.`;
  }
}
