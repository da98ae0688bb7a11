// What a picture was made with, and whether it can be made again, bit for bit.

import { asked, made, sentence } from "./dom.js";
import { onTab, receives, send } from "./shell.js";
import { styled } from "./styled.js";
import { Watch } from "./watch.js";

export async function mount(root) {
  await Promise.all([styled("gallery.css"), styled("info.css")]);
  new Page(root);
}

class Page {
  constructor(root) {
    this.root = root;
    this.parts = {};
    for (const element of root.querySelectorAll("[data-v]")) this.parts[element.dataset.v] = element;
    const { file, fill, reproduce, cancel } = this.parts;
    this.parts.picture.addEventListener("error", () => (this.parts.picture.hidden = true));
    file.addEventListener("change", () => file.files[0] && this.read(file.files[0]));
    fill.addEventListener("click", () => this.fill());
    reproduce.addEventListener("click", () => this.reproduce());
    cancel.addEventListener("click", () => this.steer("cancel"));
    onTab(({ tab }) => (this.isHere = tab === "info"));
    receives("info", (detail) => this.fetched(detail));
    this.catches();
  }

  /** While this page is on show, pictures dropped or pasted anywhere are meant for it: it listens
   * ahead of Create, which fills its form with them. */
  catches() {
    const carries = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
    for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
      const heard = (event) => {
        if (!this.isHere || !carries(event)) return;
        event.preventDefault();
        event.stopImmediatePropagation();
        this.parts.zone.classList.toggle("is-over", name === "dragenter" || name === "dragover");
        if (name === "drop" && event.dataTransfer.files[0]) this.read(event.dataTransfer.files[0]);
      };
      addEventListener(name, heard, true);
    }
    const pasted = (event) => {
      const file = [...(event.clipboardData?.files || [])].find((one) => one.type.startsWith("image/"));
      if (!this.isHere || !file) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      this.read(file);
    };
    addEventListener("paste", pasted, true);
  }

  /** A picture that another page hands over, whole or by its address. */
  async fetched({ url, name, file }) {
    if (file) {
      await this.read(file);
      return;
    }
    try {
      const blob = await (await fetch(url)).blob();
      await this.read(new File([blob], name || "picture.png", { type: blob.type }));
    } catch {
      this.lead("The picture could not be fetched.", "problem");
    }
  }

  async read(file) {
    const { picture, invite, name, does, verdict } = this.parts;
    this.watch?.close();
    this.file = file;
    if (this.address) URL.revokeObjectURL(this.address);
    picture.src = this.address = URL.createObjectURL(file);
    picture.alt = file.name;
    picture.hidden = false;
    invite.hidden = true;
    name.textContent = file.name;
    does.hidden = verdict.hidden = true;
    this.lead("Reading the picture…");
    this.told = null;
    try {
      const told = await asked("/api/info", { method: "POST", body: file });
      if (this.file !== file) return;
      this.told = told;
      this.show();
    } catch (error) {
      if (this.file !== file) return;
      this.clear();
      this.lead(error.message, "problem");
    }
  }

  lead(text, kind = "") {
    this.parts.lead.textContent = text;
    this.parts.lead.dataset.kind = kind;
  }

  clear() {
    const { sentences, prompt, negative, table, raw } = this.parts;
    sentences.replaceChildren();
    table.replaceChildren();
    prompt.hidden = negative.hidden = raw.hidden = true;
  }

  show() {
    const { made_by, made_on, request, sentences, text, titles } = this.told;
    const { does, prompt, negative, table, raw } = this.parts;
    this.clear();
    this.lead(made_by ? `Made with ${made_by}.` : "");
    if (!request && !sentences.length) this.lead("The picture does not say how it was made.");
    this.parts.sentences.replaceChildren(
      ...sentences.map((one) => made("li", { textContent: sentence(one) })),
    );
    does.hidden = !request;
    raw.hidden = !text;
    this.parts.text.textContent = text;
    if (!request) return;
    prompt.hidden = false;
    prompt.textContent = request.prompt || "(no words)";
    negative.hidden = !request.negative_prompt;
    negative.replaceChildren(made("span", { textContent: "Without " }), request.negative_prompt);
    const facts = [
      ["Model", request.checkpoint],
      ["Seed", request.seed],
      ["Size", request.width && `${request.width} × ${request.height}`],
      ["Steps", request.steps],
      ["Guidance", request.cfg_scale],
      ["Sampler", titles?.sampler],
      ["Schedule", titles?.schedule],
      ["VAE", request.vae],
      ["Clip skip", request.clip_skip > 1 ? request.clip_skip : null],
      ["From a picture", request.start && `strength ${request.start.strength}`],
      ["LoRAs", request.loras?.map((one) => `${one.name} ${one.weight}`).join(", ")],
      ["Made on", made_on && `${made_on.device}, ${made_on.precision}`],
      ["Weights", made_on && `SHA-256 ${made_on.fingerprint.slice(0, 10)}`],
      ["Versions", made_on && Object.entries(made_on.versions).map((one) => one.join(" ")).join(", ")],
    ].filter(([, value]) => value !== undefined && value !== null && value !== "");
    table.replaceChildren(
      ...facts.map(([name, value]) =>
        made("div", {}, made("dt", { textContent: name }), made("dd", { textContent: String(value) })),
      ),
    );
  }

  fill() {
    const { request, values } = this.told;
    send({ to: "text", url: this.address, name: this.file.name, request, values });
  }

  /** Runs it again, follows the run, and compares. */
  async reproduce() {
    const { verdict, pair } = this.parts;
    const file = this.file;
    verdict.hidden = false;
    verdict.dataset.kind = "";
    pair.hidden = true;
    this.parts.reasons.replaceChildren();
    this.running(true, "Handing it to the engine…");
    try {
      const { id } = await asked("/api/info/reproduce", { method: "POST", body: file });
      this.job = id;
      await this.finished(id);
      if (this.file !== file) return;
      this.running(true, "Comparing…", 1);
      const found = await asked(`/api/info/compare/${id}`, { method: "POST", body: file });
      if (this.file === file) this.verdict(found, id);
    } catch (error) {
      if (this.file !== file) return;
      verdict.dataset.kind = "problem";
      this.running(false, error.message);
    }
  }

  running(is, words, share = null) {
    const { progress, reproduce, cancel } = this.parts;
    this.parts["verdict-line"].textContent = words;
    progress.hidden = !is;
    if (share === null) progress.removeAttribute("value");
    else progress.value = share;
    reproduce.disabled = is;
    cancel.hidden = !is;
  }

  finished(id) {
    return new Promise((resolve, reject) => {
      this.watch = new Watch(id, {
        message: (message) => {
          if (message.type === "place" && message.place) this.running(true, `Waiting: ${message.place} before this one…`);
          if (message.type === "loading") this.running(true, `Loading ${message.part}…`);
          if (message.type === "step") {
            this.running(true, `Step ${message.index} of ${message.total}`, message.index / message.total);
          }
          if (message.type === "finished") resolve();
          if (message.type === "failed") reject(new Error(sentence(message.text)));
          if (message.type === "cancelled") reject(new Error("Stopped."));
        },
        frame: () => {},
        lost: () => this.running(true, "The connection is lost; trying again…"),
        gone: () => reject(new Error("This job is no longer there.")),
      });
    });
  }

  async steer(how) {
    if (this.job) await asked(`/api/jobs/${this.job}/${how}`, { method: "POST" }).catch(() => {});
  }

  verdict(found, job) {
    const { verdict, reasons, pair, first, again } = this.parts;
    verdict.dataset.kind = found.identical ? "same" : "other";
    let words = "Identical: every pixel is the same.";
    if (found.sizes) words = `Not comparable: the pictures have ${found.sizes} pixels.`;
    else if (!found.identical) {
      const share = found.changed * 100;
      words =
        `Not identical: levels differ by ${found.most} of 255 at most and ${tidy(found.mean)} on average, ` +
        `in ${share < 0.1 ? "less than 0.1" : share.toFixed(1)} % of the pixels (PSNR ${found.psnr.toFixed(1)} dB).`;
    }
    this.running(false, words);
    const why = found.identical || found.reasons.length ? found.reasons : ["Nothing that it says of its making differs here."];
    reasons.replaceChildren(...why.map((one) => made("li", { textContent: sentence(one) })));
    pair.hidden = false;
    first.src = this.address;
    again.src = `/images/${job}/0.png`;
  }
}

const tidy = (number) => (number < 0.01 ? "less than 0.01" : number.toFixed(2));
