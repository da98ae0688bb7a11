// Styles: wording kept under a name. A click puts one on the prompts, another takes it off again
// as long as nothing else was typed; what is in the prompts can be kept as a new one.

import { asked, control, made, part, typed } from "./dom.js";

const PROMPTS = { prompt: "txt2img_prompt", negative_prompt: "txt2img_neg_prompt" };

let on = null; // what was put on last: { name, before, after }

/** Fills the list when it is opened for the first time. */
export function startWordings() {
  const details = part("wordings");
  if (!details) return;
  details.addEventListener("toggle", () => details.open && refresh(), { once: true });
  part("wording-keep").addEventListener("click", keep);
  for (const id of Object.values(PROMPTS)) {
    control(id)?.addEventListener("input", () => on && !isOn(on.name) && forgetPressed());
  }
}

async function refresh() {
  await answer(() => asked("/api/styles"));
}

async function answer(request) {
  const told = await request().catch((error) => {
    part("wording-said").textContent = error.message;
    return null;
  });
  if (!told) return;
  part("wording-said").textContent = told.problems.join(" ");
  part("wording-list").replaceChildren(...told.styles.map(shown));
  if (!told.styles.length) {
    part("wording-said").textContent ||= "None yet. Write a prompt, name it and keep it.";
  }
}

function shown(style) {
  const put = made("button", {
    type: "button",
    className: "v-chip",
    textContent: style.name,
    title: [style.prompt, style.negative_prompt].filter(Boolean).join("\nnot: "),
    ariaPressed: "false",
  });
  put.addEventListener("click", () => toggle(style.name, put));
  const drop = made("button", {
    type: "button",
    className: "v-chip-drop",
    textContent: "×",
    ariaLabel: `Delete the style ${style.name}`,
  });
  drop.addEventListener("click", () => {
    if (!confirm(`Delete the style “${style.name}” from styles.csv?`)) return;
    answer(() => asked(`/api/styles/${encodeURIComponent(style.name)}`, { method: "DELETE" }));
  });
  return made("span", { className: "v-wording" }, put, drop);
}

const written = () =>
  Object.fromEntries(
    Object.entries(PROMPTS).map(([name, id]) => [name, control(id)?.value ?? ""]),
  );

function write(texts) {
  for (const [name, id] of Object.entries(PROMPTS)) {
    if (control(id) && control(id).value !== texts[name]) typed(control(id), texts[name]);
  }
}

function isOn(name) {
  if (on?.name !== name) return false;
  const now = written();
  return Object.keys(PROMPTS).every((key) => now[key] === on.after[key]);
}

function forgetPressed() {
  on = null;
  for (const chip of part("wording-list").querySelectorAll(".v-chip")) chip.ariaPressed = "false";
}

async function toggle(name, chip) {
  if (isOn(name)) {
    const before = on.before;
    forgetPressed();
    write(before);
    return;
  }
  const before = written();
  const after = await asked("/api/styles/applied", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...before, names: [name] }),
  }).catch((error) => {
    part("wording-said").textContent = error.message;
    return null;
  });
  if (!after) return;
  forgetPressed();
  on = { name, before, after };
  write(after);
  chip.ariaPressed = "true";
}

async function keep() {
  const field = part("wording-name");
  const texts = written();
  if (!texts.prompt && !texts.negative_prompt) {
    part("wording-said").textContent = "Write a prompt first.";
    return;
  }
  await answer(() =>
    asked("/api/styles", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ name: field.value, ...texts }),
    }),
  );
  field.value = "";
}
