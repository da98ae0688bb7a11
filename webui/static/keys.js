// The keyboard: Ctrl/Cmd+Enter generates, Esc stops, Alt+Enter goes on to the next image,
// Ctrl/Cmd+Up and Down change the weight of the selected words.

import { typed } from "./dom.js";

const PROMPTS = "#txt2img_prompt textarea, #txt2img_neg_prompt textarea";

export function keys(session) {
  document.addEventListener("keydown", (event) => {
    if ((document.documentElement.dataset.tab || "create") !== "create") return;
    const command = event.ctrlKey || event.metaKey;
    if (event.key === "Enter" && command) {
      event.preventDefault();
      if (!session.isRunning) document.querySelector("#txt2img_generate").click();
    } else if (event.key === "Enter" && event.altKey) {
      event.preventDefault();
      session.steer("skip");
    } else if (event.key === "Escape" && session.isRunning) {
      // An open list closes first.
      if (document.querySelector('[aria-expanded="true"][role="listbox"]')) return;
      session.steer("interrupt");
    } else if (command && ["ArrowUp", "ArrowDown"].includes(event.key)) {
      const box = event.target;
      if (!box.matches?.(PROMPTS)) return;
      event.preventDefault();
      const change = weighed(box.value, box.selectionStart, box.selectionEnd,
        event.key === "ArrowUp" ? 1 : -1);
      typed(box, change.text);
      box.setSelectionRange(change.start, change.end);
    }
  }, true);
}

/** The text with the weight of the words from `start` to `end` one notch up or down. */
export function weighed(text, start, end, direction) {
  if (start === end) [start, end] = wordAt(text, start);
  if (start === end) return { text, start, end };
  const lora = /<[a-z]+:[^<>:]*:$/.exec(text.slice(0, start));
  if (lora && text[end] === ">") {
    const now = Number(text.slice(start, end));
    const weight = rounded((Number.isFinite(now) ? now : 1) + 0.05 * direction);
    return spliced(text, start, end, weight, 0, weight.length);
  }
  const tail = /^:(-?[\d.]+)\)/.exec(text.slice(end));
  if (text[start - 1] === "(" && tail) {
    const weight = rounded(Number(tail[1]) + 0.1 * direction);
    const words = text.slice(start, end);
    if (Number(weight) === 1) {
      return spliced(text, start - 1, end + tail[0].length, words, 0, words.length);
    }
    const whole = `(${words}:${weight})`;
    return spliced(text, start - 1, end + tail[0].length, whole, 1, words.length);
  }
  const words = text.slice(start, end);
  const whole = `(${words}:${rounded(1 + 0.1 * direction)})`;
  return spliced(text, start, end, whole, 1, words.length);
}

function spliced(text, start, end, put, offset, length) {
  return {
    text: text.slice(0, start) + put + text.slice(end),
    start: start + offset,
    end: start + offset + length,
  };
}

const rounded = (weight) => String(Math.round(Math.max(0, weight) * 100) / 100);

function wordAt(text, at) {
  let [start, end] = [at, at];
  while (start > 0 && /[^\s,.()[\]<>:|]/.test(text[start - 1])) start--;
  while (end < text.length && /[^\s,.()[\]<>:|]/.test(text[end])) end++;
  return [start, end];
}
