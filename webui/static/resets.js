// Beside the label of every field that was changed: a button that takes it back to what it was.

import { made } from "./dom.js";

const KEPT = ["mode", "prompt", "negative_prompt", "checkpoint", "controls"];

/** Follows the form's values. */
export function resets(form) {
  form.hear((values) => {
    const beginnings = { ...form.models.beginnings, ...form.model?.defaults };
    for (const [name, id] of Object.entries(form.models.fields || {})) {
      if (KEPT.includes(name) || !(name in beginnings) || !(name in values)) continue;
      show(document.getElementById(id), name, beginnings[name], values[name], form);
    }
  });
}

function show(field, name, beginning, value, form) {
  const label = field?.querySelector('[data-testid="block-info"], label > span');
  if (!label) return;
  const isChanged = String(value ?? "") !== String(beginning ?? "");
  let button = label.querySelector(".v-reset");
  if (!button) {
    if (!isChanged) return;
    button = made("button", { type: "button", className: "v-reset", textContent: "↺" });
    button.title = "Back to what it was";
    button.ariaLabel = `Reset ${label.textContent.trim()}`;
    button.addEventListener("click", (event) => {
      event.preventDefault();
      const now = { ...form.models.beginnings, ...form.model?.defaults };
      form.fill({ [name]: now[name] ?? "" });
    });
    label.append(button);
  }
  button.hidden = !isChanged;
}
