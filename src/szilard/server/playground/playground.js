// The page: its theme, the request, and what sends it.

import { show, Run } from "./answers.js";
import { reply } from "./connection.js";
import { $, make, say } from "./elements.js";
import { Picker } from "./pickers.js";

const root = document.documentElement;
if (localStorage.getItem("szilard-theme")) root.style.colorScheme = localStorage.getItem("szilard-theme");

let server = { model: "", methods: [], default: null, vision: false, chat: true };
let images = []; // {name, url}: data URLs
let running = null; // the AbortController of the answers that are being made
const pickers = [new Picker("Method"), new Picker("Second method")];

async function loadMethods() {
  try {
    server = await (await reply("v1/szilard/methods")).json();
  } catch (error) {
    $("model").textContent = "not connected";
    return say(error.message);
  }
  say("");
  $("model").textContent = server.model;
  document.title = `${server.model} · szilard`;
  $("images").hidden = !server.vision;
  $("chat").hidden = !server.chat;
  $("plain").hidden = server.chat;
  if (!server.vision) images = [];
  $("max_tokens").max = server.max_new_tokens;
  for (const picker of pickers) picker.fill(server);
}

// ---- images

async function addImages(files) {
  for (const file of files) {
    if (!file.type.startsWith("image/")) say(`${file.name} is no image.`);
    else images.push({ name: file.name, url: await dataUrl(file) });
  }
  showImages();
}

const dataUrl = (file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result);
  reader.onerror = () => reject(reader.error);
  reader.readAsDataURL(file);
});

function showImages() {
  $("previews").replaceChildren(...images.map((image) => {
    const item = make("li");
    const picture = item.appendChild(make("img"));
    const remove = item.appendChild(make("button", "", "×"));
    Object.assign(picture, { src: image.url, alt: image.name });
    Object.assign(remove, { type: "button", ariaLabel: `Remove ${image.name}` });
    remove.addEventListener("click", () => {
      images = images.filter((one) => one !== image);
      showImages();
      $("files").focus();
    });
    return item;
  }));
}

// ---- asking

function requestBody() {
  const number = (id) => ($(id).value === "" ? undefined : Number($(id).value));
  const text = $("prompt").value;
  const limits = {
    temperature: number("temperature"), top_p: number("top_p"), seed: number("seed"), max_tokens: number("max_tokens"),
  };
  if (!server.chat) return { model: server.model, prompt: text, stream: true, ...limits };
  const parts = images.map(({ url }) => ({ type: "image_url", image_url: { url } }));
  const messages = [{ role: "user", content: parts.length ? [...parts, { type: "text", text }] : text }];
  if ($("system").value.trim()) messages.unshift({ role: "system", content: $("system").value });
  return { model: server.model, messages, stream: true, ...limits };
}

async function send(event) {
  event.preventDefault();
  if (running) return;
  if (!server.model) await loadMethods(); // there was no server, or no key, when the page opened
  if (!server.model) return;
  say("");
  if (!$("prompt").value.trim()) return say("write a prompt first.");
  running = new AbortController();
  $("send").disabled = true;
  $("stop").disabled = false;
  $("said").textContent = "The answer is on its way.";
  const runs = pickers.filter((picker) => !picker.node.hidden).map((picker) => new Run(picker.title, picker.request));
  show(runs);
  if (matchMedia("(max-width: 820px)").matches) $("legend").scrollIntoView();
  const body = requestBody();
  await Promise.all(runs.map((run) => run.ask(body, running.signal)));
  running = null;
  $("send").disabled = false;
  $("stop").disabled = true;
}

function compare() {
  const [first, second] = pickers;
  second.on = $("compare").checked;
  if (first.select.value !== second.select.value) return;
  const other = server.methods.find((one) => !["greedy", "sampling", "beam-search", first.select.value].includes(one.name));
  if (other) second.select.value = other.name;
  second.show();
}

function switchTheme() {
  const set = root.style.colorScheme;
  const dark = set ? set === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  localStorage.setItem("szilard-theme", (root.style.colorScheme = dark ? "light" : "dark"));
}

$("pickers").append(...pickers.map((picker) => picker.node));
pickers[1].on = false;
$("ask").addEventListener("submit", send);
$("ask").addEventListener("invalid", (event) => { // shown in our line: a browser's own cannot point into closed parts
  event.preventDefault();
  event.target.closest("details")?.setAttribute("open", "");
  const label = event.target.closest("label")?.textContent.trim() ?? event.target.ariaLabel;
  say(`${label}: ${event.target.validationMessage}`);
}, true);
$("stop").addEventListener("click", () => running?.abort());
$("compare").addEventListener("change", compare);
$("files").addEventListener("change", async () => { await addImages([...$("files").files]); $("files").value = ""; });
$("prompt").addEventListener("paste", (event) => { if (server.vision) addImages([...event.clipboardData.files]); });
$("key").value = sessionStorage.getItem("szilard-key") ?? "";
$("key").addEventListener("input", () => sessionStorage.setItem("szilard-key", $("key").value.trim()));
$("key").addEventListener("change", loadMethods);
$("theme").addEventListener("click", switchTheme);
addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
  if (event.key === "Escape") { $("tip").hidden = true; running?.abort(); }
});
addEventListener("scroll", () => { $("tip").hidden = true; }, { passive: true });
for (let cell = 0; cell < 20; cell++) {
  const part = $("ramp").appendChild(make("i", "t"));
  part.style.setProperty("--e", `calc(var(--max) * ${cell / 19})`);
}
loadMethods();
