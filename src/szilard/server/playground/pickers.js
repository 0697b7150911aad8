// The choice of a method, and fields for its hyperparameters as the server describes them.

import { copyOf, make } from "./elements.js";

export class Picker {
  constructor(title) {
    this.server = { methods: [], default: null };
    this.node = copyOf("picker");
    this.select = this.node.querySelector("select");
    this.node.querySelector("legend").textContent = title;
    this.select.setAttribute("aria-label", title);
    this.select.addEventListener("change", () => this.show());
    this.options = [];
  }

  set on(value) {
    this.node.hidden = this.node.disabled = !value; // disabled fields are not checked
  }

  fill(server) {
    this.server = server;
    const before = this.select.value;
    const first = server.default ? `${server.default} (as the server is set)` : "plain decoding";
    this.select.replaceChildren(new Option(first, ""), ...server.methods.map((one) => new Option(one.name, one.name)));
    this.select.value = server.methods.some((one) => one.name === before) ? before : "";
    this.show();
  }

  show() {
    const chosen = this.server.methods.find((one) => one.name === this.select.value);
    const plain = this.server.default ? "What a request gets that names no method." : "The likeliest token; a draw where a temperature is set.";
    const about = this.node.querySelector(".about");
    about.textContent = chosen ? `${chosen.about.replaceAll("`", "")} ` : plain;
    if (chosen?.paper) about.append(paper(chosen.paper));
    this.options = (chosen?.options ?? []).map((option) => new Field(option));
    this.node.querySelector(".options").replaceChildren(...this.options.map((field) => field.node));
    this.node.querySelector("summary").textContent = `Hyperparameters (${this.options.length})`;
    this.node.querySelector("details").hidden = !this.options.length;
  }

  get request() {
    const options = {};
    for (const field of this.options) if (field.value !== undefined) options[field.name] = field.value;
    return this.select.value ? { method: this.select.value, options, trace: true } : { trace: true };
  }

  get title() {
    const set = Object.entries(this.request.options ?? {}).map(([name, value]) => `${name}=${value ?? "none"}`);
    return [this.select.value || this.server.default || "plain", ...set].join(" ");
  }
}

function paper(text) {
  const number = /arXiv[: ](\d{4}\.\d{4,5})/.exec(text);
  if (!number) return make("cite", "", text);
  const link = make("a", "", text);
  Object.assign(link, { href: `https://arxiv.org/abs/${number[1]}`, target: "_blank", rel: "noreferrer" });
  return link;
}

// A hyperparameter: what is left empty keeps its default.
class Field {
  constructor(option) {
    this.option = option;
    this.name = option.name;
    this.node = make("label", "", option.name.replaceAll("_", " "));
    this.input = this.node.appendChild(make("input"));
    this.input.name = option.name;
    if (option.type === "boolean") {
      this.node.className = "check";
      this.node.prepend(this.input);
      Object.assign(this.input, { type: "checkbox", checked: option.default === true });
      return;
    }
    const numeric = option.type === "number" && !option.optional && typeof option.default !== "string";
    Object.assign(this.input, numeric ? { type: "number", step: option.whole ? "1" : "any" } : { type: "text", spellcheck: false });
    if (option.type === "number") this.input.inputMode = "decimal";
    this.input.placeholder = option.default ?? (option.optional ? "none" : "as set");
  }

  // What was set; undefined: nothing, so the default holds.
  get value() {
    if (this.option.type === "boolean") return this.input.checked === (this.option.default === true) ? undefined : this.input.checked;
    const text = this.input.value.trim();
    if (!text) return undefined;
    if (text.toLowerCase() === "none" && this.option.optional) return null;
    return this.option.type === "number" && Number.isFinite(Number(text)) ? Number(text) : text;
  }
}
