// What scripts written for AUTOMATIC1111's page find in the browser. Their own files are run as plain
// scripts after this, in the order of their names.

const calls = { update: [], after: [], loaded: [], tab: [] };
const guarded = (list, ...args) => list.forEach((call) => {
  try {
    call(...args);
  } catch (error) {
    console.error(error);
  }
});

window.gradioApp = () => document;
window.get_uiCurrentTab = () => document.querySelector('#tabs [role="tab"][aria-selected="true"]');
window.get_uiCurrentTabContent = () => document.querySelector('#tabs [role="tabpanel"]:not([hidden])');
window.onUiUpdate = (call) => calls.update.push(call);
window.onAfterUiUpdate = (call) => calls.after.push(call);
window.onUiLoaded = (call) => (isLoaded ? call() : calls.loaded.push(call));
window.onUiTabChange = (call) => calls.tab.push(call);
window.onOptionsChanged = () => {};
window.updateInput = (input) => input.dispatchEvent(new Event("input", { bubbles: true }));
window.opts = {};
window.localization = {};

let isLoaded = false;
let tab = null;
let later = 0;
new MutationObserver((changes) => {
  if (!isLoaded && document.querySelector("#txt2img_prompt")) {
    isLoaded = true;
    guarded(calls.loaded);
  }
  guarded(calls.update, changes);
  clearTimeout(later);
  later = setTimeout(() => guarded(calls.after), 200);
  const now = window.get_uiCurrentTab();
  if (now !== tab) {
    tab = now;
    guarded(calls.tab);
  }
}).observe(document, { childList: true, subtree: true });

// Their routes lie below /ext/NAME/; their scripts ask for them where AUTOMATIC1111 has them.
const bridged = await fetch("/ext/a1111_bridge/bridged").then((answer) => answer.json());
const plain = window.fetch;
window.fetch = (what, options) => {
  if (typeof what === "string") {
    const path = new URL(what, location).pathname;
    const found = bridged.routes.find(([pattern]) => new RegExp(pattern).test(path));
    if (found && new URL(what, location).origin === location.origin) what = `/ext/${found[1]}${what.replace(location.origin, "")}`;
  }
  return plain(what, options);
};
for (const url of bridged.styles) document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href: url }));
for (const url of bridged.scripts) {
  await new Promise((resolve) => {
    const script = Object.assign(document.createElement("script"), { src: url });
    script.onload = script.onerror = resolve;
    document.head.append(script);
  });
}
