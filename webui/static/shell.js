// The shell: which tab is on show, kept in the address, and what one page hands to another.

import { part, present } from "./dom.js";

const mail = new Map(); // page -> the last thing handed to it while it was not there yet
const listeners = new Map();
const places = new Map(); // tab -> how far it was scrolled
let links = [];
let shown = null;

/** The header is drawn: shows the tab that the address names. */
export function mount(root) {
  if (links.length) return;
  links = [...part("tabs", root).querySelectorAll("a")];
  for (const link of links) {
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
      event.preventDefault();
      go(link.dataset.tab);
    });
  }
  addEventListener("popstate", () => show());
  addEventListener("hashchange", () => show());
  history.scrollRestoration = "manual";
  dropped();
  show();
}

/** A picture dropped where no page asks for one is taken to where it can tell its making. */
function dropped() {
  for (const name of ["dragover", "drop"]) {
    const heard = (event) => {
      const isFile = [...(event.dataTransfer?.types || [])].includes("Files");
      if (!isFile || OWN_DROPS.includes(shown) || !hasTab("info")) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      const file = name === "drop" && event.dataTransfer.files[0];
      if (file) send({ to: "info", name: file.name, file });
    };
    addEventListener(name, heard, true);
  }
}

const OWN_DROPS = ["create", "info", "extras", "explain"];

/** The tab the address names, and what else it says. */
export function here() {
  const query = new URLSearchParams(location.search);
  const named = query.get("tab") || location.hash.slice(1);
  const tab = links.some((link) => link.dataset.tab === named) ? named : links[0]?.dataset.tab;
  return { tab, query };
}

/** Opens a tab; `more` is what else the address shall say, as {name: value}. */
export function go(tab, more = {}, { replace = false } = {}) {
  const query = new URLSearchParams({ ...(tab === links[0]?.dataset.tab ? {} : { tab }), ...more });
  const url = query.size ? `?${query}` : location.pathname;
  const now = here();
  if (String(now.query) === String(query) && now.tab === tab) return;
  history[replace ? "replaceState" : "pushState"]({ vitrine: true }, "", url);
  show();
}

/** Whether Back leads to another place on this page. */
export const cameFromHere = () => Boolean(history.state?.vitrine);

async function show() {
  const { tab, query } = here();
  const changed = tab !== shown;
  if (changed) {
    if (shown) places.set(shown, scrollY);
    shown = tab;
    document.documentElement.dataset.tab = tab;
    for (const link of links) {
      if (link.dataset.tab === tab) {
        link.setAttribute("aria-current", "page");
        const bar = link.parentElement;
        bar.scrollLeft = link.offsetLeft - (bar.clientWidth - link.clientWidth) / 2;
      } else link.removeAttribute("aria-current");
    }
    (await present(`#tab_${tab}-button`)).click();
    scrollTo(0, places.get(tab) || 0);
  }
  document.dispatchEvent(new CustomEvent("vitrine-tab", { detail: { tab, query, changed } }));
}

/** `heard({tab, query, changed})` now, and whenever another tab or place is shown. */
export function onTab(heard) {
  document.addEventListener("vitrine-tab", (event) => heard(event.detail));
  heard({ ...here(), changed: true });
}

/** Hands something to a page: {to, url, name, request, values}. The page is shown, unless `stay`. */
export function send(detail, { stay = false } = {}) {
  const tab = PLACES[detail.to] || detail.to;
  document.dispatchEvent(new CustomEvent("vitrine-send", { detail }));
  if (listeners.has(tab)) listeners.get(tab)(detail);
  else if (tab !== "create") mail.set(tab, detail);
  if (!stay) go(tab);
}

const PLACES = { text: "create", image: "create", inpaint: "create" };

/** Whether there is such a tab. */
export const hasTab = (tab) => links.some((link) => link.dataset.tab === tab);

/** What is handed to a page, from now on and just before it was there. */
export function receives(tab, took) {
  listeners.set(tab, took);
  if (mail.has(tab)) took(mail.get(tab));
  mail.delete(tab);
}
