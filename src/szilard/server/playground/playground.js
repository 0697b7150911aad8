"use strict";
// The page's theme is set before the first paint; the rest waits for the document.
const root = document.documentElement;
if (localStorage.getItem("szilard-theme")) root.style.colorScheme = localStorage.getItem("szilard-theme");

const $ = (id) => document.getElementById(id);
const make = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};
const copyOf = (id) => $(id).content.firstElementChild.cloneNode(true);
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/u;

let server = { model: "", methods: [], default: null, vision: false };
let images = []; // data URLs
let running = null; // the AbortController of the answers that are being made
const pickers = [];
let runs = [];

// ---- the server

const headers = () => {
  const found = { "Content-Type": "application/json" };
  const key = sessionStorage.getItem("szilard-key");
  if (key) found.Authorization = `Bearer ${key}`;
  return found;
};

async function reply(path, init) {
  let answer;
  try {
    answer = await fetch(path, { ...init, headers: headers() });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server cannot be reached.");
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => null);
  if (answer.status === 401) $("access").open = true;
  throw new Error(body?.error?.message ?? `the server answered ${answer.status}.`);
}

// The values of a stream of server-sent events, parsed.
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let held = "", end = false; !end; ) {
    const { value, done } = await reader.read();
    const parts = (held + (value ?? "")).split(/\r?\n\r?\n/);
    held = parts.pop();
    end = done;
    for (const part of parts) {
      const data = part.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
  }
  throw new Error("the server ended the answer early.");
}

async function loadMethods() {
  say("");
  try {
    server = await (await reply("v1/szilard/methods")).json();
  } catch (error) {
    $("model").textContent = "not connected";
    return say(error.message);
  }
  $("model").textContent = server.model;
  document.title = `${server.model} · szilard`;
  $("images").hidden = !server.vision;
  $("max_tokens").max = server.max_new_tokens;
  for (const picker of pickers) picker.fill();
}

const say = (message) => { $("error").textContent = message; };

// ---- methods and their hyperparameters

class Picker {
  constructor(place) {
    this.node = copyOf("picker");
    this.select = this.node.querySelector("select");
    this.node.querySelector("legend").textContent = place ? "Second method" : "Method";
    this.select.setAttribute("aria-label", place ? "Second method" : "Method");
    this.select.addEventListener("change", () => this.show());
    this.options = [];
    pickers.push(this);
    $("pickers").append(this.node);
  }

  fill() {
    const before = this.select.value;
    const first = server.default ? `${server.default} (as the server is set)` : "plain: greedy, or drawn";
    this.select.replaceChildren(new Option(first, ""), ...server.methods.map((one) => new Option(one.name, one.name)));
    this.select.value = server.methods.some((one) => one.name === before) ? before : "";
    this.show();
  }

  show() {
    const chosen = server.methods.find((one) => one.name === this.select.value);
    const about = this.node.querySelector(".about");
    about.textContent = chosen ? `${chosen.about} ` : "The likeliest token, or a draw where a temperature is set.";
    if (chosen?.paper) about.append(paper(chosen.paper));
    this.options = (chosen?.options ?? []).map((option) => new Field(option));
    this.node.querySelector(".options").replaceChildren(...this.options.map((field) => field.node));
    this.node.querySelector("details").hidden = !this.options.length;
  }

  get request() {
    const options = {};
    for (const field of this.options) if (field.value !== undefined) options[field.name] = field.value;
    return this.select.value ? { method: this.select.value, options, trace: true } : { trace: true };
  }

  get title() {
    const set = Object.entries(this.request.options ?? {}).map(([name, value]) => `${name}=${value ?? "none"}`);
    return [this.select.value || server.default || "plain", ...set].join(" ");
  }
}

function paper(text) {
  const number = /arXiv[: ](\d{4}\.\d{4,5})/.exec(text);
  if (!number) return make("cite", "", text);
  const link = make("a", "", text);
  Object.assign(link, { href: `https://arxiv.org/abs/${number[1]}`, target: "_blank", rel: "noreferrer" });
  return link;
}

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

// ---- an answer

class Run {
  constructor(picker) {
    this.picker = picker;
    this.node = copyOf("run");
    this.text = this.node.querySelector(".text");
    this.node.querySelector("h2").textContent = picker.title;
    this.text.setAttribute("aria-label", `Answer of ${picker.title}`);
    this.steps = [];
    this.state("waiting");
  }

  state(text, wrong = false) {
    const node = this.node.querySelector(".state");
    node.textContent = text;
    node.classList.toggle("wrong", wrong);
  }

  async ask(body, signal) {
    this.began = performance.now();
    try {
      const request = { ...body, szilard: this.picker.request };
      const answer = await reply("v1/chat/completions", { method: "POST", body: JSON.stringify(request), signal });
      for await (const chunk of events(answer)) this.take(chunk);
      this.state(this.reason === "length" ? "cut at its length" : "done");
    } catch (error) {
      if (error.name === "AbortError") this.state("stopped");
      else {
        this.state("failed", true);
        say(error.message);
      }
    }
  }

  take(chunk) {
    if (chunk.error) throw new Error(chunk.error.message);
    if (chunk.usage) this.usage = chunk.usage;
    const choice = chunk.choices[0];
    if (!choice) return;
    const record = choice.szilard;
    if (record && "token" in record) this.add(record);
    else if (choice.delta.content) this.text.append(choice.delta.content);
    if (choice.finish_reason) this.reason = choice.finish_reason;
    if (record && "cost" in record) this.cost = record.cost;
  }

  add(record) {
    const before = this.steps.at(-1);
    this.steps.push(record);
    const latent = record.mode === "latent";
    if (record.switched ?? (before && before.mode !== record.mode)) this.text.append(make("i", "turn", latent ? "↘" : "↗"));
    const node = make("span", `t${latent ? " latent" : ""}${record.drafted ? " drafted" : ""}`);
    node.style.setProperty("--e", Number.isFinite(record.entropy) ? Math.max(0, record.entropy) : 0);
    node.append(...visible(record.text));
    this.text.append(node);
    this.state(`${this.steps.length} steps`);
  }
}

// Text in which nothing is invisible: a break has a mark, hidden characters their code.
function visible(text) {
  if (!text) return [make("span", "mark", "·")];
  const parts = [""];
  for (const one of text) {
    if (one === "\n") parts.push(make("span", "mark", "⏎"), "\n");
    else if (HIDDEN.test(one)) parts.push(make("span", "code", `U+${one.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`), "");
    else parts[parts.length - 1] += one;
  }
  return parts;
}

// ---- asking

function requestBody() {
  const number = (id) => ($(id).value === "" ? undefined : Number($(id).value));
  const text = $("prompt").value;
  const parts = images.map((url) => ({ type: "image_url", image_url: { url } }));
  const messages = [{ role: "user", content: parts.length ? [...parts, { type: "text", text }] : text }];
  if ($("system").value.trim()) messages.unshift({ role: "system", content: $("system").value });
  return {
    model: server.model, messages, stream: true, stream_options: { include_usage: true },
    temperature: number("temperature"), top_p: number("top_p"), seed: number("seed"), max_tokens: number("max_tokens"),
  };
}

async function send(event) {
  event?.preventDefault();
  if (running) return;
  say("");
  if (!$("prompt").value.trim()) return say("write a prompt first.");
  running = new AbortController();
  $("send").disabled = true;
  $("stop").disabled = false;
  runs = pickers.slice(0, $("compare").checked ? 2 : 1).map((picker) => new Run(picker));
  $("runs").replaceChildren(...runs.map((run) => run.node));
  const body = requestBody();
  await Promise.all(runs.map((run) => run.ask(body, running.signal)));
  running = null;
  $("send").disabled = false;
  $("stop").disabled = true;
}

addEventListener("DOMContentLoaded", () => {
  new Picker(0);
  new Picker(1).node.hidden = true;
  $("ask").addEventListener("submit", send);
  $("stop").addEventListener("click", () => running?.abort());
  $("compare").addEventListener("change", () => { pickers[1].node.hidden = !$("compare").checked; });
  addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send(event);
    if (event.key === "Escape") running?.abort();
  });
  $("key").value = sessionStorage.getItem("szilard-key") ?? "";
  $("key").addEventListener("change", () => { sessionStorage.setItem("szilard-key", $("key").value.trim()); loadMethods(); });
  $("theme").addEventListener("click", () => {
    const dark = getComputedStyle(root).colorScheme === "dark" || (!root.style.colorScheme && matchMedia("(prefers-color-scheme: dark)").matches);
    localStorage.setItem("szilard-theme", (root.style.colorScheme = dark ? "light" : "dark"));
  });
  for (let cell = 0; cell < 20; cell++) {
    $("ramp").append(make("i", "t"));
    $("ramp").lastChild.style.setProperty("--e", `calc(var(--max) * ${cell / 19})`);
  }
  loadMethods();
});
