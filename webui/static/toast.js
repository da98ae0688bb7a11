// Short words that come and go, with at most one thing to press.

import { made, sentence } from "./dom.js";

const STAYS_MS = 9000;

/** `action`: {word, done}. Returns what takes it away. */
export function toast(text, { kind = "", action = null, stays = STAYS_MS } = {}) {
  const words = made("p", { textContent: sentence(text) });
  const one = made("div", { className: "v-toast" }, words);
  one.dataset.kind = kind;
  const away = () => one.remove();
  if (action) {
    const button = made("button", { type: "button", textContent: action.word });
    button.addEventListener("click", () => {
      away();
      action.done();
    });
    one.append(button);
  }
  const list = shelf();
  list.append(one);
  while (list.children.length > 3) list.firstElementChild.remove();
  let timer = setTimeout(away, stays);
  // Whoever points at it or is on its button is still reading.
  for (const name of ["pointerenter", "focusin"]) one.addEventListener(name, () => clearTimeout(timer));
  for (const name of ["pointerleave", "focusout"]) {
    one.addEventListener(name, () => (timer = setTimeout(away, stays / 2)));
  }
  return away;
}

export const problem = (error) => toast(error.message || String(error), { kind: "problem" });

/** Where they stand: in an open dialog if there is one, or they would lie under it. */
function shelf() {
  const place = document.querySelector("dialog[open]") || document.querySelector(".gradio-container");
  let list = place.querySelector(":scope > .v-toasts");
  if (!list) {
    list = made("div", { className: "v-toasts" });
    list.setAttribute("role", "status");
    place.append(list);
  }
  return list;
}
