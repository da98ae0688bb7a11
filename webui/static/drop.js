// A picture dropped or pasted on the page fills the form with what it says of itself.

import { asked, part, sentence } from "./dom.js";

export function drops(form, status) {
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
    if (carries(event)) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    depth = 0;
    veil.hidden = true;
    const file = event.dataTransfer.files[0];
    if (file) read(file, form, status);
  });
  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files || [])].find((one) => one.type.startsWith("image/"));
    if (file) read(file, form, status);
  });
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
