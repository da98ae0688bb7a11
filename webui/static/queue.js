// The queue: a line that says who waits, and the panel behind it, where one's own jobs are moved,
// paused and discarded.

import { asked, json, made, part, present, sentence } from "./dom.js";
import { duration } from "./status.js";
import { styled } from "./styled.js";
import { problem } from "./toast.js";

const MARKUP = `
  <div class="v-queue-head"><h2>Queue</h2><button type="button" class="v-quiet" data-v="close">Close</button></div>
  <p class="v-queue-said" data-v="said" role="status"></p>
  <ol data-v="jobs"></ol>
  <div class="v-queue-do">
    <button type="button" class="v-quiet" data-v="pause"></button>
    <button type="button" class="v-quiet" data-v="pause-all" hidden></button>
    <button type="button" class="v-quiet" data-v="clear">Discard all that wait</button>
  </div>`;

export class Queue {
  /** `session`: hears of every change too. */
  constructor(session) {
    this.session = session;
    this.now = null;
    this.dialog = null;
    present('[data-v="queue-open"]').then((button) => {
      this.button = button;
      button.addEventListener("click", () => this.open());
      part("queue-add").addEventListener("click", () => document.getElementById("txt2img_generate").click());
      this.counted();
    });
  }

  /** The queue is another one now. */
  took(queue) {
    const before = this.now;
    this.now = queue;
    this.at = performance.now();
    this.counted();
    // Rows stay while they are the same: a click goes to what lay under it when it began.
    if (this.dialog?.open) same(before, queue) ? this.waits() : this.draw();
    this.session.lined(queue);
  }

  /** The line that opens it. */
  counted() {
    if (!this.button || !this.now) return;
    const { jobs, waiting, paused, everybody_paused } = this.now;
    this.button.hidden = !jobs.length && !paused;
    const words = waiting ? `${waiting} waiting` : "Queue";
    this.button.textContent = paused || everybody_paused ? `${words}, paused` : words;
  }

  async open() {
    await styled("queue.css");
    if (!this.dialog) {
      this.dialog = made("dialog", { className: "v-sheet-low v-queue-panel" });
      this.dialog.setAttribute("aria-label", "Queue");
      this.dialog.innerHTML = MARKUP;
      document.querySelector(".gradio-container").append(this.dialog);
      this.parts = {};
      for (const one of this.dialog.querySelectorAll("[data-v]")) this.parts[one.dataset.v] = one;
      this.listen();
    }
    this.draw();
    this.dialog.showModal();
    this.clock = setInterval(() => this.waits(), 1000);
  }

  listen() {
    const { close, pause, clear } = this.parts;
    close.addEventListener("click", () => this.dialog.close());
    pause.addEventListener("click", () => this.sent("pause", { paused: !this.now.paused }));
    this.parts["pause-all"].addEventListener("click", () =>
      this.sent("pause", { paused: !this.now.everybody_paused, everybody: true }),
    );
    clear.addEventListener("click", () => this.sent("cancel", {}));
    this.dialog.addEventListener("close", () => clearInterval(this.clock));
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    // Escape closes the panel, and stops nothing.
    this.dialog.addEventListener("keydown", (event) => event.key === "Escape" && event.stopPropagation());
  }

  async sent(what, body) {
    try {
      this.took(await asked(`/api/queue/${what}`, json(body)));
    } catch (error) {
      problem(error);
    }
  }

  draw() {
    const { jobs, waiting, running, paused, everybody_paused, house } = this.now;
    const { said, pause, clear } = this.parts;
    const focus = document.activeElement?.dataset.does;
    const own = jobs.filter((job) => job.state === "waiting");
    const others = waiting + running - jobs.length;
    said.textContent = sentence(
      everybody_paused ? "Everything is paused by the machine's own user"
        : paused ? "Yours are paused; what runs is finished"
          : jobs.length ? `${many(jobs.length, "job")} of yours${others ? `, ${others} of others` : ""}`
            : others ? `None of yours. ${many(others, "job")} of others`
              : "Nothing waits. What you add while a picture is made waits here",
    );
    const rows = [];
    let before = 0;
    for (const job of jobs) {
      const between = job.place - before;
      if (between > 0) rows.push(made("li", { className: "v-queue-others", textContent: many(between, "job") + " of others" }));
      rows.push(this.row(job, own));
      before = job.place + 1;
    }
    this.parts.jobs.replaceChildren(...rows);
    this.waits();
    pause.textContent = paused ? "Go on with mine" : "Pause mine";
    pause.hidden = !paused && !own.length;
    this.parts["pause-all"].hidden = !house;
    this.parts["pause-all"].textContent = everybody_paused ? "Go on for everybody" : "Pause everybody";
    clear.hidden = own.length < 2;
    if (focus) this.dialog.querySelector(`[data-does="${CSS.escape(focus)}"]:not([disabled])`)?.focus();
  }

  row(job, own) {
    const at = own.findIndex((one) => one.id === job.id);
    const button = (word, name, on, does) => {
      const one = made("button", { type: "button", className: "v-quiet", textContent: word, disabled: !on });
      one.dataset.does = `${name} ${job.id}`;
      one.setAttribute("aria-label", `${word}: ${job.prompt}`);
      one.addEventListener("click", does);
      return one;
    };
    const moved = (by) => {
      const ids = own.map((one) => one.id);
      ids.splice(at + by, 0, ...ids.splice(at, 1));
      this.sent("order", { jobs: ids });
    };
    const buttons = job.state === "waiting" && own.length > 1
      ? [button("Up", "up", at > 0, () => moved(-1)), button("Down", "down", at < own.length - 1, () => moved(1))]
      : [];
    buttons.push(button("Discard", "discard", true, () => this.sent("cancel", { jobs: [job.id] })));
    const wait = made("b");
    wait.dataset.job = job.id;
    const pictures = job.images > 1 ? `${job.images} pictures · ` : "";
    const facts = ` · ${pictures}${job.steps} steps · ${job.width} × ${job.height}`;
    return made(
      "li", {},
      made("div", {}, made("q", { textContent: job.prompt }), made("p", {}, wait, facts)),
      made("span", { className: "v-queue-buttons" }, ...buttons),
    );
  }

  /** When each one begins, counted down. */
  waits() {
    const spent = (performance.now() - this.at) / 1000;
    for (const job of this.now.jobs) {
      const line = this.dialog.querySelector(`b[data-job="${CSS.escape(job.id)}"]`);
      if (line) line.textContent = this.when(job, spent);
    }
  }

  when(job, spent) {
    if (job.state === "running") return "Running";
    if (this.now.paused || this.now.everybody_paused) return "Paused";
    const place = job.place <= 1 ? "Next" : `${job.place} before it`;
    return job.wait === null ? place : `${place}, in ${duration(Math.max(0, job.wait - spent))}`;
  }
}

const unhurried = (queue) => ({ ...queue, jobs: queue.jobs.map((job) => ({ ...job, wait: null })) });

/** Whether two queues differ in how long one waits, at most. */
const same = (one, other) => JSON.stringify(unhurried(one)) === JSON.stringify(unhurried(other));

const many = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
