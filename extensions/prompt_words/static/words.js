// A list of words below the prompt while one is typed. Names are only ever set as text.

const BOXES = "#txt2img_prompt textarea, #txt2img_neg_prompt textarea";
const WORD = /[^\s,()[\]{}|<>:]{2,}$/;
const TYPING_MS = 120;

let box = null;
let offered = [];
let chosen = 0;
let timer = 0;
let turn = 0;

const list = document.createElement("ul");
list.className = "v-words";
list.hidden = true;
list.setAttribute("role", "listbox");
list.setAttribute("aria-label", "Words that could be meant");
(document.querySelector(".gradio-container") || document.body).append(list);

const begun = () => WORD.exec(box.value.slice(0, box.selectionStart))?.[0] || "";

function close() {
  turn += 1;
  list.hidden = true;
  offered = [];
}

async function look() {
  const word = begun();
  if (!word) return close();
  const mine = (turn += 1);
  const answer = await fetch(`/ext/prompt_words/words?begun=${encodeURIComponent(word)}`).catch(() => null);
  if (!answer?.ok || mine !== turn) return;
  offered = (await answer.json()).words;
  chosen = 0;
  draw();
}

function draw() {
  list.hidden = !offered.length;
  list.replaceChildren(
    ...offered.map(({ name, kind }, index) => {
      const row = document.createElement("li");
      const tail = document.createElement("small");
      tail.textContent = kind;
      row.append(name, tail);
      row.setAttribute("role", "option");
      row.setAttribute("aria-selected", String(index === chosen));
      row.addEventListener("pointerdown", (event) => {
        event.preventDefault();
        put(index);
      });
      return row;
    }),
  );
  const place = box.getBoundingClientRect();
  list.style.left = `${place.left + scrollX}px`;
  list.style.top = `${place.bottom + scrollY}px`;
}

function put(index) {
  const end = box.selectionStart;
  const start = end - begun().length;
  box.setRangeText(offered[index].text, start, end, "end");
  box.dispatchEvent(new Event("input", { bubbles: true }));
  close();
}

document.addEventListener("input", (event) => {
  if (!event.isTrusted || !event.target.matches?.(BOXES)) return;
  box = event.target;
  clearTimeout(timer);
  timer = setTimeout(look, TYPING_MS);
});

document.addEventListener(
  "keydown",
  (event) => {
    if (list.hidden || event.target !== box || event.ctrlKey || event.metaKey) return;
    const steps = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (steps) {
      chosen = (chosen + steps + offered.length) % offered.length;
      draw();
    } else if (event.key === "Enter" || event.key === "Tab") put(chosen);
    else if (event.key === "Escape") close();
    else return;
    event.preventDefault();
    event.stopImmediatePropagation();
  },
  true,
);

document.addEventListener("focusout", (event) => event.target === box && close());
