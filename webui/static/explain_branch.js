// Branches: from any step on with other words, another scale, sampler or seed; and the tree of them.

import { asked, made } from "./dom.js";
import { line, plain } from "./explain_parts.js";
import { Watch } from "./watch.js";

const NAMES = "http://www.w3.org/2000/svg";
const ROW = 76;
const wide = () => (innerWidth < 860 ? 84 : 240); // as the column is in explain.css

export class View {
  constructor(root, page) {
    this.page = page;
    this.says = line();
    this.prompt = made("textarea", { rows: 3 });
    this.negative = made("textarea", { rows: 2 });
    this.cfg = made("input", { type: "number", min: 0, max: 30, step: 0.5, inputMode: "decimal" });
    this.sampler = made("select", {});
    this.seed = made("input", { type: "text", inputMode: "numeric", autocomplete: "off" });
    this.button = made("button", { type: "submit", className: "v-ex-go" });
    this.canvas = made("canvas", { width: 8, height: 8 });
    this.canvas.setAttribute("role", "img");
    this.caption = made("figcaption", {}, made("b", {}), made("span", {}));
    const field = (title, control, short = false) =>
      made("label", { className: `v-ex-field${short ? " is-short" : ""}` }, title, control);
    this.form = made(
      "form", { className: "v-ex-branching" },
      field("Prompt", this.prompt), field("Negative prompt", this.negative),
      made("div", { className: "v-ex-row" }, field("Guidance scale", this.cfg, true), field("Sampler", this.sampler)),
      (this.why = made("p", { className: "v-ex-note", hidden: true })),
      made("div", { className: "v-ex-row" }, field("Seed", this.seed), this.button),
      this.says.element,
    );
    this.tree = made("div", { className: "v-ex-tree" });
    root.append(
      this.form,
      made("figure", { className: "v-ex-pane" }, this.canvas, this.caption),
      made("div", { className: "v-ex-trees" }, made("h3", { textContent: "The tree" }), this.tree),
    );
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.go();
    });
  }

  async show() {
    const { run, at } = this.page;
    const step = run.byPlace.get(at);
    const left = step.total - step.index;
    this.button.textContent = left ? `Paint the ${left} steps that are left` : "Nothing is left to paint";
    this.button.disabled = !left;
    if (!this.watch) this.frame(at);
    if (run === this.run) {
      this.able(step);
      return;
    }
    this.run = run;
    const { request } = run;
    this.prompt.value = request.prompt;
    this.negative.value = request.negative_prompt;
    this.cfg.value = request.cfg_scale;
    this.sampler.replaceChildren(...run.samplers.map(({ name, title }) => made("option", { value: name, textContent: title })));
    this.sampler.value = request.sampler;
    this.able(step);
    this.seed.value = this.ownSeed(request, run.image);
    this.says.say("");
    await this.grow();
  }

  /** Which samplers can go on: those that plan levels of their own can't begin among others'. */
  able(step) {
    const own = this.page.run.request.sampler;
    const { plans } = this.page.run.samplers.find((one) => one.name === own) || {};
    for (const { name, plans: itself } of this.page.run.samplers) {
      const option = this.sampler.querySelector(`option[value="${name}"]`);
      option.disabled = name !== own && (plans || itself);
    }
    if (this.sampler.selectedOptions[0]?.disabled) this.sampler.value = own;
    this.why.hidden = !(plans || step.remembers);
    this.why.textContent = plans
      ? "This run's sampler chose its own noise levels, so no other one can go on from here."
      : "This run's sampler remembers the steps before. Another one can't read that, and begins without.";
  }

  /** The seed that paints this one image of its request. */
  ownSeed(request, image) {
    if (request.variation?.strength) return request.seed;
    return String(BigInt(request.seed) + BigInt(image));
  }

  /** The picture as it stands at the step. */
  async frame(at) {
    const { id, image } = this.page.run;
    this.framed = at;
    const answer = await fetch(`/frames/${id}/${image}/latents/${at}.jpg`).catch(() => null);
    if (!answer?.ok || this.framed !== at || this.watch) return;
    await this.put(await answer.blob());
    this.say(`At step ${at}`, "the branch begins with this");
  }

  async put(blob) {
    const bitmap = await createImageBitmap(blob);
    [this.canvas.width, this.canvas.height] = [bitmap.width, bitmap.height];
    this.canvas.getContext("2d").drawImage(bitmap, 0, 0);
  }

  say(title, words) {
    this.caption.firstElementChild.textContent = title;
    this.caption.lastElementChild.textContent = words;
    this.canvas.setAttribute("aria-label", title);
  }

  async go() {
    const { run, at } = this.page;
    const step = run.byPlace.get(at);
    if (!/^\d+$/.test(this.seed.value.trim())) {
      this.says.say("The seed must be a whole number", "problem");
      return;
    }
    const { seed, ...rest } = run.request;
    const variation = rest.variation?.strength
      ? { ...rest.variation, seed: rest.variation.seed + run.image } : rest.variation;
    const asks = {
      ...rest, variation, images: 1,
      prompt: this.prompt.value, negative_prompt: this.negative.value,
      cfg_scale: Number(this.cfg.value), sampler: this.sampler.value,
      branch: { job: run.id, image: run.image, index: step.index, pass_index: step.pass },
    };
    // What only the other sampler took has no place in this one's request.
    if (asks.sampler !== run.request.sampler) asks.sampler_options = {};
    // JavaScript can't hold the largest seeds as numbers.
    const body = `{"seed":${BigInt(this.seed.value.trim())},${JSON.stringify(asks).slice(1)}`;
    try {
      this.says.say("Painting…");
      this.button.disabled = true;
      const { id } = await asked("/api/jobs", { method: "POST", headers: { "content-type": "application/json" }, body });
      this.follow(id);
    } catch (error) {
      this.says.say(error.message, "problem");
      this.button.disabled = false;
    }
  }

  follow(id) {
    this.watch?.close();
    const over = async (words) => {
      this.watch?.close();
      this.watch = null;
      this.button.disabled = false;
      this.says.say(words);
      await this.page.look();
      await this.grow();
    };
    this.watch = new Watch(id, {
      message: async (message) => {
        if (message.type === "step") this.say(`Step ${message.index} of ${message.total}`, "the branch");
        if (message.type === "image") {
          const answer = await fetch(`/images/${id}/0.png`);
          if (answer.ok) await this.put(await answer.blob());
          this.say("The branch", "");
        }
        if (message.type === "finished") await over(`Painted with ${message.evaluations} calls of the model: only the rest.`);
        if (message.type === "failed") await over(message.text);
        if (message.type === "cancelled") await over("It was discarded.");
      },
      frame: (image, view, index, blob) => view === "latents" && this.put(blob),
      lost: () => this.says.say("The connection is lost; trying again…"),
      gone: () => over("This job is no longer there."),
    });
  }

  /** The tree that the run on show belongs to, the trunk first, each branch under its parent. */
  async grow() {
    const jobs = new Map(this.page.jobs.map((job) => [job.id, job]));
    let root = jobs.get(this.page.run.id);
    while (root?.request.branch && jobs.has(root.request.branch.job)) root = jobs.get(root.request.branch.job);
    if (!root) {
      this.tree.replaceChildren();
      return;
    }
    const rows = [];
    const walk = (job, parent, depth) => {
      const row = rows.push({ job, parent, depth }) - 1;
      for (const child of jobs.values()) if (child.request.branch?.job === job.id) walk(child, row, depth + 1);
    };
    walk(root, -1, 0);
    this.tree.replaceChildren(this.lines(rows), made("ul", {}, ...rows.map((row) => this.leaf(row, rows))));
  }

  lines(rows) {
    const svg = document.createElementNS(NAMES, "svg");
    const width = wide();
    svg.setAttribute("viewBox", `0 0 ${width} ${rows.length * ROW}`);
    svg.style.height = `${rows.length * ROW}px`;
    svg.setAttribute("aria-hidden", "true");
    const steps = Math.max(...rows.map(({ job }) => job.request.steps));
    const x = (step) => 8 + (step / steps) * (width - 16);
    const y = (row) => row * ROW + ROW / 2;
    rows.forEach(({ job, parent }, row) => {
      const from = x(job.request.branch?.index || 0);
      const path = document.createElementNS(NAMES, "path");
      const down = parent >= 0 ? `M${from} ${y(parent)}V${y(row)}` : `M${from} ${y(row)}`;
      path.setAttribute("d", `${down}H${x(job.request.steps)}`);
      if (job.id === this.page.run.id) path.setAttribute("class", "is-current");
      const dot = document.createElementNS(NAMES, "circle");
      for (const [name, value] of [["cx", from], ["cy", y(Math.max(0, parent))], ["r", 4]]) dot.setAttribute(name, value);
      svg.append(path, dot);
    });
    return svg;
  }

  leaf({ job, parent }, rows) {
    const { index = 0, request } = job.images[0] || { request: job.request };
    const words = made("span", {}, made("b", { textContent: request.prompt || "no words" }), made("small", { textContent: parent < 0 ? `the trunk, seed ${request.seed}` : changes(job.request, rows[parent].job.request) }));
    const picture = job.images.length
      ? made("img", { src: `/images/${job.id}/${index}/thumbnail.jpg`, alt: "" }) : made("span", {});
    const button = made("button", { type: "button" }, picture, words);
    button.setAttribute("aria-pressed", String(job.id === this.page.run.id));
    button.addEventListener("click", () => this.page.place({ job: job.id, image: index }, false));
    return made("li", {}, button);
  }
}

/** What a branch has that its parent has not. */
function changes(request, before) {
  const said = [`from step ${request.branch.index}`];
  if (request.negative_prompt !== before.negative_prompt) said.push(`negative: ${request.negative_prompt || "none"}`);
  if (request.cfg_scale !== before.cfg_scale) said.push(`scale ${plain(request.cfg_scale)}`);
  if (request.sampler !== before.sampler) said.push(request.sampler.replaceAll("_", " "));
  if (request.seed !== before.seed) said.push(`seed ${request.seed}`);
  if (said.length === 1 && request.prompt === before.prompt) said.push("nothing changed");
  return said.join(" · ");
}
