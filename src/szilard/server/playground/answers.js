// Answers while they are made: coloured text, the curve of entropies, the cost, and the record of every step.

import { $, copyOf, make, say, visible } from "./elements.js";
import { events, reply } from "./connection.js";

const LEAST_SCALE = 3; // nats at the hot end of the colours, while no step has more
const LEAST_WIDTH = 48; // steps that the curve has room for
let most = LEAST_SCALE;
let runs = [];

// Show these answers, and no others.
export function show(made) {
  runs = made;
  $("runs").replaceChildren(...runs.map((run) => run.node));
  draw();
}

export class Run {
  constructor(title, szilard) {
    this.title = title;
    this.szilard = szilard;
    this.steps = [];
    this.tokens = [];
    this.node = copyOf("run");
    this.text = this.node.querySelector(".text");
    this.plot = this.node.querySelector(".plot");
    this.node.querySelector("h2").textContent = this.title;
    this.text.setAttribute("aria-label", `Answer of ${this.title}`);
    this.listen();
    this.state("waiting for its turn");
  }

  state(text, wrong = false) {
    const node = this.node.querySelector(".state");
    node.textContent = text;
    node.classList.toggle("wrong", wrong);
  }

  async ask(body, signal) {
    this.asked = performance.now();
    let end;
    try {
      const request = { ...body, szilard: this.szilard };
      const path = body.messages ? "v1/chat/completions" : "v1/completions"; // of a model without a chat template
      const answer = await reply(path, { method: "POST", body: JSON.stringify(request), signal });
      for await (const chunk of events(answer)) this.take(chunk);
      end = this.reason === "length" ? "cut at its length" : "done";
    } catch (error) {
      end = error.name === "AbortError" ? "stopped" : error instanceof TypeError ? "the connection to the server broke." : error.message;
      if (error.name !== "AbortError") {
        this.state(end, true);
        say(end);
        return draw();
      }
    }
    this.state([end, ...this.facts()].join(" · "));
    $("said").textContent = `${this.title}: ${end}.`;
    draw();
  }

  take(chunk) {
    if (chunk.error) throw new Error(chunk.error.message);
    const choice = chunk.choices[0];
    if (!choice) return;
    const record = choice.szilard;
    if (record && "token" in record) this.add(record);
    else this.text.append(choice.delta?.content ?? choice.text ?? "");
    if (choice.finish_reason) this.reason = choice.finish_reason;
    if (record && "cost" in record) this.cost = record.cost;
  }

  add(record) {
    const before = this.steps.at(-1);
    const latent = record.mode === "latent";
    this.first ??= performance.now();
    record.turned = record.switched ?? Boolean(before && before.mode !== record.mode);
    if (record.turned) this.text.append(make("i", "turn", latent ? "↘" : "↗"));
    const node = make("span", `t${latent ? " latent" : ""}${record.drafted ? " drafted" : ""}`);
    node.style.setProperty("--e", Math.max(0, record.entropy ?? 0));
    node.tabIndex = this.steps.length ? -1 : 0; // one tab stop; the arrows walk along the tokens
    node.append(...visible(record.text));
    this.steps.push(record);
    this.tokens.push(node);
    this.text.append(node);
    this.last = performance.now();
    this.state(this.facts().join(" · "));
    draw();
  }

  facts() {
    const count = (test) => this.steps.filter(test).length;
    const found = [[this.steps.length, this.steps.length === 1 ? "step" : "steps"], [count((one) => one.mode === "latent"), "latent"],
      [count((one) => one.turned), "switched"], [count((one) => one.drafted), "drafted"]];
    const told = found.filter(([number], place) => number || !place).map(([number, name]) => `${number} ${name}`);
    if (this.cost?.batch_size > 1) told.push(`cost of a batch of ${this.cost.batch_size}`);
    return told;
  }

  // [name, value, how it is shown]; while the answer is made, what the page itself can tell.
  costs() {
    const sum = (counts) => counts && Object.values(counts).reduce((left, right) => left + right, 0);
    const { cost } = this;
    const said = cost?.generated_tokens ?? this.steps.filter((one) => one.token !== null).length;
    const seconds = cost?.wall_seconds ?? (this.last - this.first) / 1000;
    return [
      ["tokens", said, whole],
      ["forward passes", sum(cost?.forward_passes), whole],
      ["tokens read", sum(cost?.tokens), whole],
      ["KV cache", cost?.kv_bytes_held, bytes],
      ["KV read", cost?.kv_bytes_read, bytes],
      ["wall time", seconds, (value) => `${value.toFixed(2)} s`],
      ["tokens/s", cost?.tokens_per_second ?? (said - 1) / seconds, (value) => value.toFixed(2)],
    ];
  }

  draw() {
    const wide = Math.max(LEAST_WIDTH, this.steps.length);
    const y = (value) => (100 - 100 * Math.min(1, Math.max(0, value / most))).toFixed(1);
    const paths = { latents: "", turns: "", area: "", curve: "", reference: "" };
    this.steps.forEach((step, i) => {
      if (step.mode === "latent") paths.latents += `M${i} 100V0H${i + 1}V100Z`;
      if (step.turned) paths.turns += `M${i} 0V100`;
      if (Number.isFinite(step.reference)) paths.reference += `M${i} ${y(step.reference)}H${i + 1}`;
      if (Number.isFinite(step.entropy)) paths.curve += `${paths.curve ? "L" : "M"}${i + 0.5} ${y(step.entropy)}`;
    });
    if (paths.curve) paths.area = `${paths.curve}V100H0.5Z`;
    this.plot.querySelector("svg").setAttribute("viewBox", `0 0 ${wide} 100`);
    for (const [name, path] of Object.entries(paths)) this.plot.querySelector(`.${name}`).setAttribute("d", path);
    const others = runs.map((run) => run.costs());
    const rows = this.costs().map(([name, value, shown], place) => {
      const row = make("div");
      const known = Number.isFinite(value);
      row.append(make("dt", "", name), make("dd", "", known ? shown(value) : "–"));
      if (runs.length > 1) {
        const bar = row.appendChild(make("dd", "bar")).appendChild(make("i"));
        const largest = Math.max(...others.map((own) => own[place][1]).filter(Number.isFinite));
        bar.style.width = known && largest > 0 ? `${100 * value / largest}%` : "0";
      }
      return row;
    });
    const list = this.node.querySelector(".cost");
    list.classList.toggle("bars", runs.length > 1);
    list.replaceChildren(...rows);
  }

  // ---- the record of a step, on hover and focus

  listen() {
    const placeOf = (event) => this.tokens.indexOf(event.target.closest?.(".t"));
    const over = (event) => {
      const place = placeOf(event);
      if (place < 0) return this.leave();
      const boxes = [...this.tokens[place].getClientRects()]; // of a token broken over lines: the part under the pointer
      const under = (box) => event.clientX >= box.left && event.clientX <= box.right && event.clientY >= box.top && event.clientY <= box.bottom;
      this.enter(place, boxes.find(under) ?? boxes[0]);
    };
    this.text.addEventListener("pointerover", over);
    this.text.addEventListener("focusin", over);
    this.text.addEventListener("pointerleave", () => this.leave());
    this.text.addEventListener("focusout", () => this.leave());
    this.text.addEventListener("keydown", (event) => {
      const place = placeOf(event);
      const end = this.tokens.length - 1;
      const moves = { ArrowRight: place + 1, ArrowDown: place + 1, ArrowLeft: place - 1, ArrowUp: place - 1, Home: 0, End: end };
      if (place < 0 || !(event.key in moves)) return;
      event.preventDefault();
      const next = this.tokens[Math.min(Math.max(moves[event.key], 0), end)];
      this.tokens[place].tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
    this.plot.addEventListener("pointermove", (event) => {
      const frame = this.plot.getBoundingClientRect();
      const wide = Math.max(LEAST_WIDTH, this.steps.length);
      const place = Math.floor((event.clientX - frame.left) / frame.width * wide);
      if (!this.steps[place]) return this.leave();
      this.enter(place, { left: event.clientX + 10, top: frame.top, bottom: frame.bottom });
    });
    this.plot.addEventListener("pointerleave", () => this.leave());
  }

  enter(place, box) {
    this.leave();
    this.shown = this.tokens[place];
    this.shown.classList.add("on");
    this.shown.setAttribute("aria-describedby", "tip");
    this.plot.querySelector(".here").setAttribute("d", `M${place + 0.5} 0V100`);
    showTip(this.steps[place], place, box);
  }

  leave() {
    this.shown?.classList.remove("on");
    this.shown?.removeAttribute("aria-describedby");
    this.plot.querySelector(".here").setAttribute("d", "");
    $("tip").hidden = true;
  }
}

const whole = (value) => value.toLocaleString("en");
const bytes = (value) => {
  const unit = value >= 1e9 ? [1e9, "GB"] : value >= 1e6 ? [1e6, "MB"] : [1e3, "kB"];
  return `${(value / unit[0]).toFixed(value / unit[0] < 100 ? 1 : 0)} ${unit[1]}`;
};

// Draw all answers once in the next frame, on one scale.
let due = false;
function draw() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    const found = runs.flatMap((run) => run.steps.map((step) => step.entropy ?? 0));
    most = found.reduce((left, right) => Math.max(left, Math.ceil(right * 2) / 2), LEAST_SCALE);
    document.documentElement.style.setProperty("--max", most);
    $("most").textContent = most;
    for (const run of runs) run.draw();
  });
}

const NATS = ["entropy", "reference", "tempered_entropy"];
function shown(name, value) {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value !== "number" || (Number.isInteger(value) && !NATS.includes(name))) return String(value);
  const digits = value === 0 || Math.abs(value) >= 1e-3 ? value.toFixed(3) : value.toExponential(2);
  return NATS.includes(name) ? `${digits} nats` : digits;
}

function showTip(record, place, box) {
  const tip = $("tip");
  const list = make("dl");
  const { text, token, entropy, mode, turned, ...others } = record;
  for (const [name, value] of Object.entries({ step: place + 1, token, entropy, mode, ...others })) {
    if (value === null || value === undefined) continue;
    list.append(make("dt", "", name === "token" ? "token id" : name.replaceAll("_", " ")), make("dd", "", shown(name, value)));
  }
  const what = make("div", "what");
  what.append(...visible(text));
  tip.replaceChildren(what, list);
  tip.hidden = false;
  const size = tip.getBoundingClientRect();
  const below = box.bottom + 8;
  const above = box.top - size.height - 8;
  tip.style.left = `${Math.max(8, Math.min(box.left, document.documentElement.clientWidth - size.width - 8))}px`;
  tip.style.top = `${below + size.height <= innerHeight - 8 || above < 8 ? below : above}px`;
}
