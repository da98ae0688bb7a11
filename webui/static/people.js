// Who is here, and the links that let others in: made, shown once, taken back.

import { asked, copied, json, made, part } from "./dom.js";

const LOOK_MS = 5000;
const ROLES = { house: "this machine's own user", guest: "guest", viewer: "watching only" };

export class People {
  /** `page`: {tried(work), say(text)}. */
  constructor(root, page) {
    this.root = root;
    this.page = page;
    part("invite", root).addEventListener("submit", (event) => {
      event.preventDefault();
      page.tried(() => this.invite(event.target));
    });
    setInterval(() => this.look(), LOOK_MS);
  }

  /** People come and go while somebody looks. */
  look() {
    if (document.hidden || !part("people", this.root).offsetParent) return;
    this.here().catch(() => {});
  }

  /** `house`: whether the caller may hand out links. */
  async draw(house) {
    part("links", this.root).hidden = !house;
    await Promise.all([this.here(), house ? this.list() : null]);
  }

  async here() {
    const people = await asked("/api/people");
    const rows = people.map(({ name, role, you, address, seconds }) => {
      const called = name || (you ? "You" : role === "house" ? "Another browser at this machine" : "Somebody without a name");
      const about = [you && !name ? ROLES[role] : name ? ROLES[role] + (you ? ", you" : "") : role === "house" ? "" : ROLES[role],
        you ? "" : address, seconds > 9 ? `heard ${seconds} s ago` : ""].filter(Boolean);
      return made("li", {}, made("b", { textContent: called }), made("small", { textContent: about.join(" · ") }));
    });
    part("people", this.root).replaceChildren(...rows);
  }

  async invite(form) {
    const { name, role } = Object.fromEntries(new FormData(form));
    const link = await asked("/api/links", json({ name, role }));
    this.show(link);
    form.reset();
    await this.list();
    this.page.say("");
  }

  /** The new link: this once, as it is not kept in words. */
  show({ id, name, role, urls, qr }) {
    const box = part("token", this.root);
    const fields = urls.map((url, i) => {
      const field = made("input", { value: url, readOnly: true });
      field.setAttribute("aria-label", `Link for ${name}`);
      field.addEventListener("focus", () => field.select());
      const copy = made("button", { type: "button", className: "v-quiet", textContent: "Copy" });
      copy.addEventListener("click", () =>
        this.page.tried(async () => {
          await copied(url);
          this.page.say("The link is on the clipboard.");
        }),
      );
      return made("div", { className: "v-invited-link" }, field, copy);
    });
    const done = made("button", { type: "button", className: "v-quiet", textContent: "Done" });
    done.addEventListener("click", () => this.hide());
    const may = role === "viewer" ? "watches what you make in this browser" : "makes pictures here";
    box.dataset.link = id;
    box.replaceChildren(
      made("p", {}, made("b", { textContent: `For ${name}` }), `, who ${may}. It is shown this once.`),
      ...fields,
      made("img", { src: qr, alt: `The link for ${name} as a QR code`, width: 220, height: 220 }),
      done,
    );
    box.hidden = false;
    box.scrollIntoView({ block: "nearest" });
  }

  hide() {
    const box = part("token", this.root);
    box.hidden = true;
    box.replaceChildren();
  }

  async list() {
    const { needed, links } = await asked("/api/links");
    part("needed", this.root).hidden = needed;
    part("invite", this.root).hidden = !needed;
    const rows = links.map(({ id, name, role, created, here }) => {
      const button = made("button", { type: "button", className: "v-quiet", textContent: "Revoke" });
      button.setAttribute("aria-label", `Revoke the link for ${name}`);
      button.addEventListener("click", () => this.page.tried(() => this.revoke(id, name)));
      const what = role === "viewer" ? "may watch" : "may make pictures";
      const since = new Date(created * 1000).toLocaleDateString([], { dateStyle: "medium" });
      const about = [what, `since ${since}`, here ? "here now" : ""].filter(Boolean).join(" · ");
      return made("li", {}, made("b", { textContent: name }), made("small", { textContent: about }), button);
    });
    part("list", this.root).replaceChildren(...rows);
  }

  async revoke(id, name) {
    if (!confirm(`Take the link for ${name} back? It opens nothing any more, and whoever came by it is out.`)) return;
    await asked(`/api/links/${id}`, { method: "DELETE" });
    if (part("token", this.root).dataset.link === id) this.hide();
    await Promise.all([this.list(), this.here()]);
    this.page.say(`The link for ${name} opens nothing any more.`);
  }
}
