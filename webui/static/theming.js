// Light or dark: as the system has it, until somebody chooses.

import { kept, present } from "./dom.js";

/** Brings the header's button to life. `ownPage`: gradio has not chosen before. */
export async function theming({ ownPage = false } = {}) {
  const button = await present('[data-v="theme"]');
  const shown = () => {
    const dark = document.body.classList.contains("dark");
    button.setAttribute("aria-pressed", String(dark));
    button.textContent = dark ? "Light" : "Dark";
  };
  const chosen = kept("vitrine.theme");
  const dark = chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  if (chosen || ownPage) document.body.classList.toggle("dark", dark);
  shown();
  new MutationObserver(shown).observe(document.body, { attributeFilter: ["class"] });
  button.addEventListener("click", () => {
    document.body.classList.toggle("dark");
    kept("vitrine.theme", document.body.classList.contains("dark") ? "dark" : "light");
    window.dispatchEvent(new Event("resize"));
  });
}
