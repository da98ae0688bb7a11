// A picture dropped or pasted on the page: to begin with, or to fill the form with what it says of
// itself. While it is held over the page, two fields offer both.

import { asked, part, sentence } from "./dom.js";

export function drops(form, status, start) {
  const begins = () => (form.values.mode || "text") !== "text";
  const veil = part("drop");
  let depth = 0;
  const carries = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
  document.addEventListener("dragenter", (event) => {
    if (!carries(event)) return;
    depth += 1;
    veil.hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (!carries(event)) return;
    depth = Math.max(0, depth - 1);
    veil.hidden = depth === 0;
  });
  document.addEventListener("dragover", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    const over = wish(event);
    for (const half of veil.children) half.classList.toggle("is-over", half.dataset.drop === over);
  });
  document.addEventListener("drop", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    depth = 0;
    veil.hidden = true;
    const file = event.dataTransfer.files[0];
    if (!file) return;
    if (wish(event) === "start") start.putAll([...event.dataTransfer.files]);
    else read(file, form, status);
  });
  document.addEventListener("paste", (event) => {
    if ((document.documentElement.dataset.tab || "create") !== "create") return;
    const file = [...(event.clipboardData?.files || [])].find((one) => one.type.startsWith("image/"));
    if (!file) return;
    if (begins()) start.put(file);
    else read(file, form, status);
  });

  /** What a drop here means: the half it falls on says it, else what the page begins with. */
  function wish(event) {
    const half = event.target.closest?.("[data-drop]")?.dataset.drop;
    return half || (begins() ? "start" : "read");
  }
}

async function read(file, form, status) {
  status.say("Reading the picture…");
  try {
    const { values, notes } = await asked("/api/read", { method: "POST", body: file });
    form.fill(values);
    const more = notes.map(sentence).join(" ");
    status.say(`The settings of ${file.name} are in the form. ${more}`.trim());
  } catch (error) {
    status.problem(error.message);
  }
}
