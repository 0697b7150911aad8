// The server: its replies, its errors as one sentence, and its streams.

import { $ } from "./elements.js";

const headers = () => {
  const found = { "Content-Type": "application/json" };
  const key = sessionStorage.getItem("szilard-key");
  if (key) found.Authorization = `Bearer ${key}`;
  return found;
};

export async function reply(path, init) {
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
export async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let held = "", end = false; !end; ) {
      const { value, done } = await reader.read();
      const parts = (held + (value ?? "")).split(/\r?\n\r?\n/);
      held = parts.pop();
      end = done;
      for (const part of parts) {
        const lines = part.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        const data = lines.map((line) => line.slice(5).trim()).join("\n");
        if (data === "[DONE]") return;
        if (data) yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // of a broken connection: told already
  }
  throw new Error("the server ended the answer early.");
}
