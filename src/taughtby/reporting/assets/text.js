// Texts and nodes. All texts are hostile: they enter as text nodes, never as markup.

export const byId = (id) => document.getElementById(id);

// The characters that words.py writes out too: they act on a reader, or hide from one.
const HIDDEN = new RegExp("[\\0-\\x08\\x0b-\\x1f\\x7f-\\x9f\\xad\\u061c\\u180e\\u200b\\u200e\\u200f\\u2028-\\u202e"
  + "\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb\\u{e0000}-\\u{e007f}\\p{Cs}]", "gu");
const code = (mark) => `⟨U+${mark.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
export const visible = (text) => String(text ?? "").replaceAll("\r\n", "\n").replace(HIDDEN, code);
export const clean = (value) => (typeof value === "string" ? visible(value) : String(value ?? "–"));

// A text as it stands in a sentence or a list: one line, and no longer than that.
export function brief(text, most = 120) {
  const line = [...visible(text).replace(/\s+/g, " ").trim()];
  return line.length > most ? `${line.slice(0, most - 1).join("")}…` : line.join("");
}

export function number(value) {
  if (typeof value !== "number") return "–";
  const size = Math.abs(value);
  return value === 0 || (size >= 1e-3 && size < 1e4) ? value.toFixed(3) : value.toExponential(2);
}

export const count = (value) => Number(value).toLocaleString("en");
export const many = (value, one, more = `${one}s`) => `${count(value)} ${value === 1 ? one : more}`;

// A node of `tag` ("p" or "p.class") with attributes, and children that are nodes or plain text.
export function el(tag, attributes = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const node = document.createElement(name);
  node.classList.add(...classes);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children.flat().filter((child) => child != null));
  return node;
}

export function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

export function button(text, act, attributes = {}) {
  const node = el("button", { type: "button", ...attributes }, text);
  node.addEventListener("click", act);
  return node;
}

export const pair = (name, value) => el("div", {}, el("dt", {}, clean(name)), el("dd", {}, clean(value)));

// What is said once, to who listens rather than looks.
export const say = (text) => { byId("say").textContent = text; };

// Hand a file to the browser's downloads.
export function download(name, content) {
  const address = URL.createObjectURL(content);
  el("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
