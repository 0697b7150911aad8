// Parts of the document, and text as elements in which nothing is invisible.

export const $ = (id) => document.getElementById(id);
export const make = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};
export const copyOf = (id) => $(id).content.firstElementChild.cloneNode(true);
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/u;

// An error, in the page's one line for them.
export const say = (message) => { $("error").textContent = message; };

// Text in which nothing is invisible: a break has a mark, hidden characters their code.
export function visible(text) {
  if (!text) return [make("span", "mark", "·")];
  const parts = [""];
  for (const one of text) {
    if (one === "\n") parts.push(make("span", "mark", "⏎"), "\n");
    else if (HIDDEN.test(one)) parts.push(make("span", "code", `U+${one.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`), "");
    else parts[parts.length - 1] += one;
  }
  return parts;
}
