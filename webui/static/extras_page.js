// Pictures made larger, one after another: dropped, chosen, or a whole folder's.

import { asked, kept, made } from "./dom.js";
import { go, onTab, receives } from "./shell.js";
import { styled } from "./styled.js";
import { problem } from "./toast.js";

const KINDS = ["image/png", "image/jpeg", "image/webp"];

export async function mount(root) {
  await Promise.all([styled("gallery.css"), styled("info.css")]);
  new Page(root);
}

class Page {
  constructor(root) {
    this.parts = {};
    for (const element of root.querySelectorAll("[data-v]")) this.parts[element.dataset.v] = element;
    this.queue = [];
    const { files, folder, begin, stop, split, upscaler, scale } = this.parts;
    for (const input of [files, folder]) input.addEventListener("change", () => this.put([...input.files]));
    begin.addEventListener("click", () => this.begin());
    stop.addEventListener("click", () => (this.going = false));
    split.addEventListener("input", () => this.splitAt(split.value));
    upscaler.addEventListener("change", () => kept("vitrine.extras.upscaler", upscaler.value));
    scale.value = kept("vitrine.extras.scale") || 2;
    scale.addEventListener("change", () => kept("vitrine.extras.scale", Number(scale.value)));
    onTab(({ tab, changed }) => {
      this.isHere = tab === "extras";
      if (this.isHere && changed) this.upscalers();
    });
    receives("extras", (detail) => this.fetched(detail));
    this.catches();
  }

  async upscalers() {
    const { upscalers } = await asked("/api/extras").catch((error) => (problem(error), { upscalers: [] }));
    const { upscaler } = this.parts;
    const before = upscaler.value || kept("vitrine.extras.upscaler");
    upscaler.replaceChildren(...upscalers.map((name) => made("option", { value: name, textContent: name })));
    if (upscalers.includes(before)) upscaler.value = before;
  }

  /** While this page is on show, pictures dropped or pasted anywhere are meant for it. */
  catches() {
    const mine = (event, files) => {
      if (!this.isHere || !files) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      return true;
    };
    for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
      const heard = (event) => {
        if (!mine(event, [...(event.dataTransfer?.types || [])].includes("Files"))) return;
        this.parts.zone.classList.toggle("is-over", name === "dragenter" || name === "dragover");
        if (name === "drop") this.put([...event.dataTransfer.files]);
      };
      addEventListener(name, heard, true);
    }
    const pasted = (event) => {
      const files = [...(event.clipboardData?.files || [])];
      if (mine(event, files.length)) this.put(files);
    };
    addEventListener("paste", pasted, true);
  }

  async fetched({ url, name, file }) {
    try {
      const blob = file || (await (await fetch(url)).blob());
      this.put([file || new File([blob], name || "picture.png", { type: blob.type })]);
    } catch {
      this.lead("The picture could not be fetched.", "problem");
    }
  }

  put(files) {
    const pictures = files.filter((file) => KINDS.includes(file.type));
    this.queue.push(...pictures);
    const others = files.length - pictures.length;
    this.lead(others ? `${others} file${others === 1 ? " is" : "s are"} no PNG, JPEG or WebP picture.` : "");
    this.counted();
  }

  counted() {
    const many = this.queue.length;
    this.parts.queued.textContent = many ? `${many} picture${many === 1 ? "" : "s"} to make larger` : "";
    this.parts.begin.disabled = !many || this.going;
  }

  lead(text, kind = "") {
    this.parts.lead.textContent = text;
    this.parts.lead.dataset.kind = kind;
  }

  async begin() {
    const { progress, stop, upscaler, scale } = this.parts;
    const [all, query] = [this.queue.length, new URLSearchParams({ upscaler: upscaler.value, scale: scale.value })];
    this.going = true;
    stop.hidden = progress.hidden = false;
    let done = 0;
    let failed = 0;
    while (this.going && this.queue.length) {
      const file = this.queue[0];
      this.lead(`${file.name}: ${done + 1} of ${all}…`);
      if (done) progress.value = done / all;
      else progress.removeAttribute("value");
      this.counted();
      try {
        this.add(file, await asked(`/api/extras?${query}`, { method: "POST", body: file }));
      } catch (error) {
        failed += 1;
        problem(new Error(`${file.name}: ${error.message}`));
      }
      this.queue.shift();
      done += 1;
    }
    this.going = false;
    stop.hidden = progress.hidden = true;
    const made = done - failed;
    this.lead(`${made} of ${all} made larger.`, failed ? "problem" : "");
    this.counted();
  }

  add(file, result) {
    const { results, hint } = this.parts;
    hint.hidden = true;
    const before = URL.createObjectURL(file);
    const show = made("button", { type: "button", className: "v-quiet", textContent: "Compare" });
    const open = made("button", { type: "button", className: "v-quiet", textContent: "In the gallery" });
    show.addEventListener("click", () => this.compare(before, result));
    open.addEventListener("click", () => go("gallery", { picture: result.id }));
    results.prepend(
      made(
        "li",
        {},
        made("img", { src: `/gallery/${result.id}/128.webp`, alt: "" }),
        made("span", {}, made("strong", { textContent: file.name }), made("br"), `${result.width} × ${result.height}`),
        show,
        open,
        made("a", { className: "v-quiet", href: `${result.url}&download=1`, download: result.name, textContent: "Download" }),
      ),
    );
    this.compare(before, result);
  }

  compare(before, result) {
    const { slider, split } = this.parts;
    slider.hidden = false;
    slider.style.aspectRatio = `${result.width} / ${result.height}`;
    this.parts.before.src = before;
    this.parts.after.src = result.url;
    this.splitAt(split.value);
  }

  splitAt(share) {
    this.parts.slider.style.setProperty("--v-split", `${share}%`);
  }
}
