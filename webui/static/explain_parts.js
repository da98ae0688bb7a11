// What the views of the Explain page are made of.

import { made, sentence } from "./dom.js";

/** Three digits that matter. */
export function figure(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 100) return String(Math.round(value));
  if (size >= 10) return value.toFixed(1);
  return size >= 0.1 || value === 0 ? value.toFixed(2) : String(Number(value.toPrecision(2)));
}

/** A number as a person would write it. */
export const plain = (value) => String(Number(value.toFixed(3)));

/** A canvas with words under it. */
export function pane(title, words = "") {
  const canvas = made("canvas", { width: 8, height: 8 });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", title);
  const told = made("span", { textContent: words });
  const caption = made("figcaption", {}, made("b", { textContent: title }), told);
  const figureElement = made("figure", { className: "v-ex-pane" }, canvas, caption);
  return { figure: figureElement, canvas, caption, title: caption.firstElementChild, told };
}

/** A line that says what is being waited for, or what went wrong; empty it is not there. */
export function line() {
  const element = made("p", { className: "v-ex-line", hidden: true });
  element.setAttribute("role", "status");
  return {
    element,
    say(text, kind = "") {
      element.textContent = text.endsWith("…") ? text : text && sentence(text);
      element.dataset.kind = kind;
      element.hidden = !text;
    },
  };
}

/** Buttons of which one is pressed. `items`: [value, title]. */
export function choice(name, items, chosen) {
  const element = made("div", { className: "v-ex-choice" });
  element.setAttribute("role", "group");
  element.setAttribute("aria-label", name);
  const set = (value) => {
    for (const button of element.children) {
      button.setAttribute("aria-pressed", String(button.dataset.value === String(value)));
    }
  };
  const fill = (list, value) => {
    element.replaceChildren(
      ...list.map(([each, title]) => {
        const button = made("button", { type: "button", textContent: title });
        button.dataset.value = each;
        button.addEventListener("click", () => {
          set(each);
          chosen(each);
        });
        return button;
      }),
    );
    set(value);
  };
  fill(items, items[0]?.[0]);
  return { element, set, fill };
}
