// The session's images, newest first; one of them is on the stage.

import { made, part } from "./dom.js";

const MOST = 200;

export class Gallery {
  constructor(root, { chosen, reuseSeed, reuseAll }) {
    this.root = part("gallery", root);
    this.list = part("images", root);
    this.save = part("save", root);
    this.chosen = chosen;
    this.images = new Map();
    this.selected = null;
    part("reuse", root).addEventListener("click", () => this.selected && reuseSeed(this.selected));
    part("again", root).addEventListener("click", () => this.selected && reuseAll(this.selected));
  }

  add(image, { older = false } = {}) {
    const name = `${image.job}/${image.index}`;
    if (this.images.has(name)) return;
    // Oldest first, as a Map keeps its order.
    this.images = new Map(
      older ? [[name, image], ...this.images] : [...this.images, [name, image]],
    );
    this.root.hidden = false;
    const picture = made("img", {
      src: `/images/${image.job}/${image.index}/thumbnail.jpg`,
      alt: image.request.prompt,
      width: 72,
      height: 72,
      decoding: "async",
    });
    const title = `${image.request.prompt} (seed ${image.request.seed}${image.finished ? "" : ", unfinished"})`;
    const button = made("button", { type: "button", className: "v-image", title }, picture);
    button.dataset.name = name;
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => this.chosen(image));
    const item = made("li", {}, button);
    if (older) this.list.append(item);
    else this.list.prepend(item);
    while (this.images.size > MOST) {
      this.images.delete(this.images.keys().next().value);
      this.list.lastElementChild.remove();
    }
  }

  newest() {
    return [...this.images.values()].at(-1) || null;
  }

  select(job, index) {
    this.selected = this.images.get(`${job}/${index}`) || null;
    for (const button of this.list.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.name === `${job}/${index}`));
    }
    if (this.selected) {
      this.save.href = `/images/${job}/${index}.png?download=1`;
      this.save.download = this.selected.name || "picture.png";
    }
  }
}
