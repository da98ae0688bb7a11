// The page's scripts begin here. `page` is what webui/pages/create.py calls by name.

import { asked, control, part, present } from "./dom.js";
import { drops } from "./drop.js";
import { Feed } from "./feed.js";
import { Form } from "./form.js";
import { Guides } from "./guides.js";
import { keys } from "./keys.js";
import { Queue } from "./queue.js";
import { reading } from "./reading.js";
import { resets } from "./resets.js";
import { Session } from "./session.js";
import { go } from "./shell.js";
import { Start } from "./start.js";
import { theming } from "./theming.js";
import { startWordings } from "./wordings.js";

const OUT = "You are no longer let in here; ask for a new link";
const PATIENCE_MS = 5000;

let session = null;
let start = null;
let patience = 0;
let arrived = null;
const sent = new Promise((resolve) => (arrived = resolve));
const form = new Form((text) => session?.status.say(text));

export const page = {
  /** The stage is drawn. */
  async mount(root) {
    if (session) return;
    session = new Session(root, form);
    start = new Start(root, form, session);
    session.start = start;
    new Guides(form, session);
    keys(session);
    drops(form, session.status, start);
    folding();
    theming();
    inviting();
    startWordings();
    resets(form);
    lookingInside(root);
    arrived();
    const queue = new Queue(session);
    await session.resume();
    new Feed((told) => queue.took(told), () => session.status.problem(OUT));
  },

  /** Generate was pressed: what was painted is put in first. */
  async ready(names, values) {
    try {
      clearTimeout(patience);
      const painted = await start.ready(names, values);
      waiting();
      return painted;
    } catch (error) {
      session.status.problem(error.message);
      throw error;
    }
  },

  changed(names, values) {
    form.changed(names, values);
    reading(form.values);
  },
  async recalled(ids, values) {
    const recalled = await form.recalled(ids, values);
    reading(form.values);
    return recalled;
  },
  filled: (names) => form.filled(names),

  /** The server's answer to Generate. */
  replied(reply) {
    clearTimeout(patience);
    if (!reply) session.status.problem("The server did not take it; its log says why.");
    else if (reply.job) session.handed(reply.job);
    else {
      session.forever.set(false);
      if (Object.keys(reply.errors).some((name) => name.startsWith("start."))) start.show("easel");
      session.status.problem(form.wrong(reply.errors));
    }
  },

  stop: () => session.steer("interrupt"),
  skip: () => session.steer("skip"),
  discard: () => session.steer("cancel"),
};

/** Other pages hand over {to: "text" | "image" | "inpaint", url?, request?}. */
document.addEventListener("vitrine-send", async ({ detail }) => {
  if (!["text", "image", "inpaint"].includes(detail?.to)) return;
  await sent;
  await form.loaded;
  if (detail.request) await form.useRequest(detail.request, detail.to);
  else form.fill({ mode: detail.to });
  if (detail.url && detail.to !== "text") await start.putUrl(detail.url, detail.to);
});

/** Other pages fill some fields: {to: "fill", values}. */
document.addEventListener("vitrine-send", async ({ detail }) => {
  if (detail?.to !== "fill") return;
  await sent;
  await form.loaded;
  form.fill(detail.values);
});

/** The gallery opens the timeline of a picture: {job, image}. */
document.addEventListener("vitrine-open-job", async ({ detail }) => {
  await sent;
  try {
    const job = await asked(`/api/jobs/${detail.job}`);
    const image = job.images.find((one) => one.index === detail.image);
    if (!image) throw new Error("that picture's run is no longer recorded");
    session.showImage({ job: detail.job, ...image });
  } catch (error) {
    session.status.problem(error.message);
  }
});

/** From the step on show to what can be seen inside it, and to another end. */
function lookingInside(root) {
  for (const [name, view] of [["look-inside", "guidance"], ["branch-here", "branch"]]) {
    part(name, root)?.addEventListener("click", () => {
      const { reel, index } = session.timeline;
      if (!reel) session.status.say("Make a picture first.");
      else go("explain", { view, job: reel.job, image: reel.image, step: index });
    });
  }
}

/** The prompt waits for words, where that opens no keyboard; buttons name their keys. */
async function inviting() {
  const box = await present("#txt2img_prompt textarea");
  if (matchMedia("(hover: hover) and (pointer: fine)").matches) box.focus();
  const command = navigator.platform.startsWith("Mac") ? "⌘" : "Ctrl";
  const keys = { generate: `${command}+Enter`, interrupt: "Esc", skip: "Alt+Enter" };
  for (const [name, key] of Object.entries(keys)) {
    const button = document.getElementById(`txt2img_${name}`);
    if (button) button.title = key;
  }
  (await present("#txt2img_generate")).addEventListener("click", handing);
  for (const id of ["txt2img_seed", "txt2img_width", "txt2img_height"]) {
    const digits = control(id);
    if (digits) digits.inputMode = "numeric";
  }
}

/** Generate was pressed: gradio carries the form to the server, and says nothing if that fails. */
function handing() {
  session.status.say("Handing it to the engine…", { kind: "busy", spoken: false });
  waiting();
}

/** Asks what is wrong if no answer comes. */
function waiting() {
  clearTimeout(patience);
  patience = setTimeout(async () => {
    try {
      await asked("/api/session");
      session.status.problem("The server did not take it. Reload the page and try again.");
    } catch (error) {
      session.status.problem(error.message);
    }
  }, PATIENCE_MS);
}

async function folding() {
  const button = await present('[data-v="fold"]');
  const settings = document.querySelector("#v-settings");
  button.addEventListener("click", () => {
    const open = settings.classList.toggle("is-open");
    button.setAttribute("aria-expanded", String(open));
  });
}
