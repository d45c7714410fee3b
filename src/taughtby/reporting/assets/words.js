// Tokens as shaded words. A piece is {text, score, at, top, span}; `at` is its place among the tokens.
import { el, number, visible } from "./text.js";

const SHOWN = 420; // characters of a text that are shown before it is asked for whole

export const pieces = (tokens, key) =>
  (tokens ?? []).map((token, at) => ({ text: String(token.text ?? ""), score: token[key] ?? null, at }));
export const whole = (text) => [{ text: String(text ?? ""), score: null }];
export const ceiling = (list) => list.reduce((most, piece) => Math.max(most, Math.abs(piece.score ?? 0)), 0);
// A letter of a script that writes spaces between words, as phrases.py has it; the others have no such words.
const LETTER = "(?![\\u0e00-\\u0eff\\u1000-\\u109f\\u1780-\\u17ff\\u2e80-\\u{10ffff}])[\\p{L}\\p{M}\\p{N}_]";
const [ends, begins] = [new RegExp(`${LETTER}$`, "u"), new RegExp(`^${LETTER}`, "u")];
const joined = (left, right) => ends.test(left) && begins.test(right);

// First and last of the pieces that make up the word in which one of them stands.
export function wordAround(list, at) {
  let [first, last] = [at, at];
  while (first > 0 && joined(list[first - 1].text, list[first].text)) first -= 1;
  while (last + 1 < list.length && joined(list[last].text, list[last + 1].text)) last += 1;
  return [first, last];
}

// Mark the strongest piece and the pieces that complete its word.
export function withTop(list) {
  let best = -1;
  list.forEach((piece, at) => {
    if (piece.score > 0 && piece.text.trim() && (best < 0 || piece.score > list[best].score)) best = at;
  });
  if (best < 0) return list;
  const [first, last] = wordAround(list, best);
  return list.map((piece, at) => ({ ...piece, top: first <= at && at <= last }));
}

const size = (list) => list.reduce((sum, piece) => sum + piece.text.length, 0);

// What stands between two characters, cut so that no half of a surrogate pair is left over.
export function slice(list, from, to) {
  let begin = 0;
  return list.flatMap((piece) => {
    const text = piece.text.slice(Math.max(0, from - begin), Math.max(0, to - begin));
    begin += piece.text.length;
    return text ? [{ ...piece, text: text.replace(/^[\udc00-\udfff]|[\ud800-\udbff]$/g, "") }] : [];
  });
}

// The pieces, those of the characters [begin, end) marked `span`. The two count code points, as Python does.
export function marked(list, begin, end) {
  let at = 0;
  return list.flatMap((piece) => {
    const letters = [...piece.text];
    const [from, to] = [begin, end].map((place) => Math.max(0, Math.min(letters.length, place - at)));
    at += letters.length;
    const parts = [[0, from, false], [from, to, true], [to, letters.length, false]];
    return parts.flatMap(([start, stop, span]) =>
      (start < stop ? [{ ...piece, text: letters.slice(start, stop).join(""), ...(span ? { span } : {}) }] : []));
  });
}

// How many code points of the pieces stand before a place in their text as shown, where hidden ones are written out.
export function codePoints(list, shown) {
  let [seen, at] = [0, 0];
  for (const { text } of list) {
    for (const [unit] of text.matchAll(/\r\n|./gsu)) {
      if (seen >= shown) return at;
      seen += visible(unit).length;
      at += [...unit].length;
    }
  }
  return at;
}

export const isLong = (text) => text.length > SHOWN;

// The part of a long text that holds its strongest word.
export function around(list) {
  const total = size(list);
  if (total <= SHOWN) return list;
  const top = Math.max(0, list.findIndex((piece) => piece.top));
  let start = Math.max(0, Math.min(size(list.slice(0, top)) - SHOWN / 3, total - SHOWN));
  const gap = slice(list, start, start + 20).map((piece) => piece.text).join("").search(/\s/);
  if (start > 0 && gap > 0) start += gap; // begin with a whole word where one is near
  const dots = { text: "…", score: null };
  return [...(start > 0 ? [dots] : []), ...slice(list, start, start + SHOWN), ...(start + SHOWN < total ? [dots] : [])];
}

const share = (score, most) => (most ? ((score / most) ** 2).toFixed(3) : 0);

function word(piece, most) {
  const text = visible(piece.text);
  const core = text.trim();
  if (!core || piece.score === null) return piece.span ? el("span.span", {}, text) : text;
  const at = text.indexOf(core);
  const told = { "data-score": number(piece.score), "data-at": piece.at, "data-share": share(piece.score, most) };
  const node = el(piece.top ? "strong.w.top" : "span.w", told, core);
  node.classList.toggle("against", piece.score < 0);
  node.style.setProperty("--w", told["data-share"]);
  const before = text.slice(0, at), after = text.slice(at + core.length);
  return piece.span ? el("span.span", {}, before, node, after) : [before, node, after];
}

export const said = (list, most) => el("p.said", { dir: "auto" }, list.map((piece) => word(piece, most)).flat());

// Shade the words of a text by other numbers for a while: those of `values`, by their place; null brings back its own.
export function shade(root, values, most) {
  for (const node of root.querySelectorAll(".w")) {
    const value = values?.get(Number(node.dataset.at)) ?? 0;
    node.style.setProperty("--w", values ? share(value, most) : node.dataset.share);
    node.classList.toggle("answers", Boolean(values) && value >= most / 2);
    if (values && value) node.dataset.link = number(value);
    else delete node.dataset.link;
  }
  root.classList.toggle("linked", Boolean(values));
}
