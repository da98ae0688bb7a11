// Small words for the document: finding our elements and making new ones. Text is only ever set as
// text, so nothing a file or a prompt says can become markup.

/** The first element that carries data-v="name", below `root`. */
export const part = (name, root = document) => root.querySelector(`[data-v="${name}"]`);

/** A new element with properties and children; strings become text nodes. */
export function made(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** The element once it is there; gradio draws in its own time. */
export function present(selector) {
  const found = document.querySelector(selector);
  if (found) return Promise.resolve(found);
  return new Promise((resolve) => {
    const watcher = new MutationObserver(() => {
      const there = document.querySelector(selector);
      if (there) {
        watcher.disconnect();
        resolve(there);
      }
    });
    watcher.observe(document.body, { childList: true, subtree: true });
  });
}

/** A gradio field's own input element, by the id of its component. */
export const control = (id) => document.querySelector(`#${id} textarea, #${id} input`);

/** Sets a native input and lets whoever owns it know. */
export function typed(input, value) {
  const kind = input.tagName === "TEXTAREA" ? HTMLTextAreaElement : HTMLInputElement;
  Object.getOwnPropertyDescriptor(kind.prototype, "value").set.call(input, value);
  input.dispatchEvent(new Event("input", { bubbles: true }));
}

/** Something kept in this browser; a browser that keeps nothing is fine too. */
export function kept(key, value) {
  try {
    if (value === undefined) return JSON.parse(localStorage.getItem(key));
    localStorage.setItem(key, JSON.stringify(value));
  } catch {
    // Private windows and full disks: then nothing is remembered.
  }
  return null;
}

/** JSON from our own routes. Throws an Error whose message is a sentence. */
export async function asked(url, options = {}) {
  let answer;
  try {
    answer = await fetch(url, options);
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const error = new Error(sentence(body.error || `The server answered ${answer.status}`));
    error.status = answer.status;
    throw error;
  }
  return body;
}

/** JSON to send with `asked`. */
export const json = (body, method = "POST") => ({
  method,
  headers: { "content-type": "application/json" },
  body: JSON.stringify(body),
});

/** Text onto the clipboard; also where a page without https may not use it directly. */
export async function copied(text) {
  if (navigator.clipboard && window.isSecureContext) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const box = made("textarea", { value: text });
  (document.querySelector("dialog[open]") || document.body).append(box);
  box.select();
  const done = document.execCommand("copy");
  box.remove();
  if (!done) throw new Error("the browser does not let this page use the clipboard");
}

/** Begins with a capital and ends with a full stop. */
export function sentence(text) {
  const said = String(text).trim();
  if (!said) return said;
  const begun = said[0].toUpperCase() + said.slice(1);
  return /[.!?]$/.test(begun) ? begun : begun + ".";
}
