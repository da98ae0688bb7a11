// Settings: each change is sent when it is made, and answered in words.

import { asked, json, made, part } from "./dom.js";
import { People } from "./people.js";
import { onTab } from "./shell.js";
import { styled } from "./styled.js";

export async function mount(root) {
  await styled("settings.css");
  new Page(root);
}

class Page {
  constructor(root) {
    this.root = root;
    this.people = new People(root, this);
    onTab(({ tab }) => tab === "settings" && this.tried(() => this.draw()));
    this.tried(() => this.draw());
  }

  async tried(work) {
    try {
      await work();
    } catch (error) {
      this.say(error.message);
    }
  }

  say(text) {
    part("said", this.root).textContent = text;
  }

  async draw() {
    const told = await asked("/api/settings");
    const personal = told.personal.map((field) => this.field(field, "personal", true));
    part("personal", this.root).replaceChildren(...personal);
    const machine = told.machine.map((field) => this.field(field, "machine", told.house));
    part("machine", this.root).replaceChildren(...machine);
    part("rights", this.root).textContent = told.house
      ? `Kept in ${told.file}; changes hold after the next start.`
      : "Only the machine's own user can change these, at the machine itself.";
    const rows = told.start.flatMap(({ name, value }) => [
      made("dt", { textContent: name }),
      made("dd", { textContent: value || "not told" }),
    ]);
    part("start", this.root).replaceChildren(...rows);
    await this.people.draw(told.house);
  }

  field(field, group, may) {
    const id = `v-setting-${field.name}`;
    const value = field.next ?? field.value;
    const input = field.choices.length
      ? this.choice(field, value)
      : made("input", { type: field.least === null ? "text" : "number", value: value ?? "" });
    if (field.least !== null) input.min = field.least;
    if (field.most !== null) input.max = field.most;
    Object.assign(input, { id, disabled: !may });
    input.addEventListener("change", () => this.tried(() => this.send(group, field, input)));
    const label = made("label", { textContent: field.title });
    label.htmlFor = id;
    const help = made("small", { textContent: field.help });
    const row = made("div", { className: "v-setting" }, label, input, help);
    if (field.next !== undefined && field.next !== null && field.next !== field.value) {
      row.append(made("small", { className: "v-later", textContent: "holds after the next start" }));
    }
    return row;
  }

  choice(field, value) {
    const names = field.name === "checkpoint" ? ["", ...field.choices] : field.choices;
    const options = names.map((name) =>
      made("option", { value: name, textContent: name || "the first one", selected: name === (value ?? "") }),
    );
    return made("select", {}, ...options);
  }

  async send(group, field, input) {
    const typed = input.value.trim();
    const value = typed === "" ? null : field.least === null ? typed : Number(typed);
    const answer = await asked(`/api/settings/${group}`, json({ [field.name]: value }));
    await this.draw();
    this.say(`${field.title}: kept. It holds ${answer.holds}.`);
  }
}
