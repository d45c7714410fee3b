// Texts and DOM nodes. All texts are treated as hostile: they become text nodes, never markup.

export const byId = (id) => document.getElementById(id);

// Characters that control the text around them, or are invisible; taughtby.text replaces the same ones.
const HIDDEN = new RegExp("[\\0-\\x08\\x0b-\\x1f\\x7f-\\x9f\\xad\\u061c\\u180e\\u200b\\u200e\\u200f\\u2028-\\u202e"
  + "\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb\\u{e0000}-\\u{e007f}\\p{Cs}]", "gu");
const codePoint = (character) => `⟨U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
export const visible = (text) => String(text ?? "").replaceAll("\r\n", "\n").replace(HIDDEN, codePoint);
export const display = (value) => (typeof value === "string" ? visible(value) : String(value ?? "–"));

// A text on one line, shortened to `max` characters.
export function shorten(text, max = 120) {
  const line = [...visible(text).replace(/\s+/g, " ").trim()];
  return line.length > max ? `${line.slice(0, max - 1).join("")}…` : line.join("");
}

export function number(value) {
  if (typeof value !== "number") return "–";
  const magnitude = Math.abs(value);
  return value === 0 || (magnitude >= 1e-3 && magnitude < 1e4) ? value.toFixed(3) : value.toExponential(2);
}

// A p-value as journals print it: .02, or < .001.
export function pValue(value) {
  return value < 0.001 ? "p < .001" : `p = ${String(Number(value.toPrecision(2))).replace(/^0/, "")}`;
}

// A text as one argument of a shell command.
export const shellQuote = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${visible(text).replaceAll("'", "'\\''")}'`);

export const count = (value) => Number(value).toLocaleString("en");
export const plural = (value, singular, pluralForm = `${singular}s`) => `${count(value)} ${value === 1 ? singular : pluralForm}`;

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

export function button(text, onClick, attributes = {}) {
  const node = el("button", { type: "button", ...attributes }, text);
  node.addEventListener("click", onClick);
  return node;
}

export const pair = (name, value) => el("div", {}, el("dt", {}, display(name)), el("dd", {}, display(value)));

// Announce a text to screen readers.
export const announce = (text) => { byId("announcement").textContent = text; };

// Download a file.
export function download(name, content) {
  const url = URL.createObjectURL(content);
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
