// The page that looks into runs: which picture, which step, and which of its views is open.
// Each view is a module of its own, asked for when it is opened first.

import { asked, made } from "./dom.js";
import { figure } from "./explain_parts.js";
import { go, onTab } from "./shell.js";
import { styled } from "./styled.js";

const VIEWS = [
  // name, title, what of a run it needs: "step" (one to look into), "run", or nothing
  ["tour", "Walk-through", "run", () => import("./explain_tour.js")],
  ["guidance", "Guidance", "step", () => import("./explain_guidance.js")],
  ["attention", "Attention", "step", () => import("./explain_attention.js")],
  ["latents", "Latents", "step", () => import("./explain_latents.js")],
  ["words", "Words", "step", () => import("./explain_words.js")],
  ["branch", "Branches", "step", () => import("./explain_branch.js")],
  ["race", "Race", "run", () => import("./explain_race.js")],
  ["noise", "Forward noise", "", () => import("./explain_noise.js")],
  ["schedules", "Schedules", "", () => import("./explain_schedules.js")],
];

export async function mount(root) {
  await styled("explain.css");
  new Page(root);
}

class Page {
  constructor(root) {
    this.parts = {};
    for (const element of root.querySelectorAll("[data-v]")) this.parts[element.dataset.v] = element;
    this.views = new Map();
    this.jobs = [];
    this.run = null;
    this.at = 0;
    const { views, step, create } = this.parts;
    for (const [name, title] of VIEWS) {
      const link = made("a", { href: `?tab=explain&view=${name}`, textContent: title });
      link.dataset.view = name;
      link.addEventListener("click", (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
        event.preventDefault();
        this.place({ view: name }, false);
      });
      views.append(link);
    }
    step.addEventListener("input", () => this.moved(Number(step.value)));
    step.addEventListener("change", () => this.place({ step: this.at }));
    create.addEventListener("click", (event) => {
      event.preventDefault();
      go("create");
    });
    onTab(({ tab, query, changed }) => tab === "explain" && this.arrived(query, changed));
  }

  /** Says in the address what is looked at. */
  place(change, replace = true) {
    const now = { view: this.view, job: this.run?.id, image: this.run?.image, step: this.at };
    const said = Object.entries({ ...now, ...change }).filter(([, value]) => value !== undefined);
    go("explain", Object.fromEntries(said), { replace });
  }

  async arrived(query, changed) {
    if (changed) await this.look();
    const asks = VIEWS.find(([name]) => name === query.get("view")) || VIEWS[0];
    [this.view, , this.needs] = asks;
    for (const link of this.parts.views.children) {
      if (link.dataset.view === this.view) {
        link.setAttribute("aria-current", "page");
        this.parts.views.scrollLeft = link.offsetLeft - this.parts.views.clientWidth / 2 + 60;
      } else link.removeAttribute("aria-current");
    }
    const newest = this.jobs.at(-1);
    const id = query.get("job") || newest?.id;
    const image = Number(query.get("image") ?? newest?.images[0]?.index ?? 0);
    const problem = id ? await this.opened(id, image) : "";
    if (this.run) this.at = this.within(Number(query.get("step") ?? Math.ceil(this.run.last * 0.4)));
    await this.shown(problem);
  }

  /** The pictures there are to look into: of this session's jobs. */
  async look() {
    const session = await asked("/api/session").catch(() => ({ jobs: [] }));
    this.jobs = session.jobs.filter((job) => job.images.length || job.state === "running");
  }

  /** Reads a run; returns a sentence where it can't be had. */
  async opened(id, image) {
    if (this.run?.id === id && this.run.image === image && this.run.state === "finished") return "";
    try {
      const run = await asked(`/api/explain/run/${id}/${image}`);
      run.last = run.steps.at(-1).at;
      run.first = run.steps[0].at;
      run.byPlace = new Map(run.steps.map((step) => [step.at, step]));
      this.run = run;
      return "";
    } catch (error) {
      this.run = null;
      return error.message;
    }
  }

  within(at) {
    return Math.min(this.run.last, Math.max(this.run.first, Number.isFinite(at) ? at : this.run.first));
  }

  /** The step whose interval is looked into: behind the last of a walk nothing is asked. */
  get asking() {
    let step = this.run.byPlace.get(this.at);
    while (step?.last && this.run.byPlace.has(step.at - 1)) step = this.run.byPlace.get(step.at - 1);
    return step;
  }

  async shown(problem) {
    const { run, steps, step, prompt, pictures, empty, body } = this.parts;
    const lacking = this.needs && !this.run;
    empty.hidden = !lacking;
    empty.firstElementChild.textContent =
      problem || "Make a picture first. Then every step of it can be looked into here.";
    run.hidden = !this.run || !this.needs;
    steps.hidden = run.hidden || this.needs !== "step";
    body.hidden = Boolean(lacking);
    if (this.run) {
      step.min = this.run.first;
      step.max = this.run.last;
      step.value = this.at;
      const { request } = this.run;
      prompt.replaceChildren(made("q", { textContent: request.prompt || "no words" }));
      this.told();
      this.thumbnails(pictures);
    }
    for (const [name, view] of this.views) view.element.hidden = name !== this.view;
    if (lacking) return;
    await (await this.current()).show();
  }

  async current() {
    const name = this.view;
    if (!this.views.has(name)) {
      const { View } = await VIEWS.find(([other]) => other === name)[3]();
      if (!this.views.has(name)) {
        const element = made("div", { className: `v-ex-view v-ex-${name}` });
        this.parts.body.append(element);
        this.views.set(name, Object.assign(new View(element, this), { element }));
      }
    }
    for (const [other, view] of this.views) view.element.hidden = other !== this.view;
    return this.views.get(name);
  }

  thumbnails(list) {
    const all = this.jobs.flatMap((job) => job.images.map((image) => ({ job: job.id, ...image })));
    const shown = all.slice(-24).reverse();
    list.hidden = shown.length < 2;
    list.replaceChildren(
      ...shown.map(({ job, index, request }) => {
        const picture = made("img", { src: `/images/${job}/${index}/thumbnail.jpg`, alt: request.prompt });
        const button = made("button", { type: "button", title: request.prompt }, picture);
        const current = job === this.run.id && index === this.run.image;
        button.setAttribute("aria-pressed", String(current));
        button.addEventListener("click", () => this.place({ job, image: index, step: undefined }, false));
        return made("li", {}, button);
      }),
    );
  }

  moved(at) {
    this.at = at;
    this.told();
    this.views.get(this.view)?.show();
  }

  told() {
    const step = this.run.byPlace.get(this.at);
    if (!step) return;
    const words = [`step ${this.at} of ${this.run.last}`, `noise level σ ${figure(step.sigma)}`];
    if (step.sigma > 0) words.push(`timestep ${Math.round(step.timestep)}`);
    if (step.seconds) words.push(`${figure(step.seconds * 1000)} ms`);
    if (step.change !== null) words.push(`moved by ${figure(step.change)}`);
    this.parts.readout.textContent = words.join(" · ");
  }
}
