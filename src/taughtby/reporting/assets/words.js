// Tokens as shaded words. A piece is {text, score, at, top, inSpan}; `at` is its position among the tokens.
import { el, number, visible } from "./text.js";

const WINDOW = 420; // characters of a long text that are shown at first

export const toPieces = (tokens, key) =>
  (tokens ?? []).map((token, at) => ({ text: String(token.text ?? ""), score: token[key] ?? null, at }));
export const textPiece = (text) => [{ text: String(text ?? ""), score: null }];
export const maxScore = (list) => list.reduce((max, piece) => Math.max(max, Math.abs(piece.score ?? 0)), 0);
// A letter of a script that separates words by spaces, as in phrases.py.
const LETTER = "(?![\\u0e00-\\u0eff\\u1000-\\u109f\\u1780-\\u17ff\\u2e80-\\u{10ffff}])[\\p{L}\\p{M}\\p{N}_]";
const [endsInLetter, beginsWithLetter] = [new RegExp(`${LETTER}$`, "u"), new RegExp(`^${LETTER}`, "u")];
const isSameWord = (left, right) => endsInLetter.test(left) && beginsWithLetter.test(right);

// The first and the last piece of the word that contains a piece.
export function wordRange(list, at) {
  let [first, last] = [at, at];
  while (first > 0 && isSameWord(list[first - 1].text, list[first].text)) first -= 1;
  while (last + 1 < list.length && isSameWord(list[last].text, list[last + 1].text)) last += 1;
  return [first, last];
}

// Mark the piece with the highest score and the other pieces of its word.
export function markTopWord(list) {
  let best = -1;
  list.forEach((piece, at) => {
    if (piece.score > 0 && piece.text.trim() && (best < 0 || piece.score > list[best].score)) best = at;
  });
  if (best < 0) return list;
  const [first, last] = wordRange(list, best);
  return list.map((piece, at) => ({ ...piece, top: first <= at && at <= last }));
}

const size = (list) => list.reduce((sum, piece) => sum + piece.text.length, 0);

// The text between two characters, without half a surrogate pair at its ends.
export function slice(list, from, to) {
  let begin = 0;
  return list.flatMap((piece) => {
    const text = piece.text.slice(Math.max(0, from - begin), Math.max(0, to - begin));
    begin += piece.text.length;
    return text ? [{ ...piece, text: text.replace(/^[\udc00-\udfff]|[\ud800-\udbff]$/g, "") }] : [];
  });
}

// The pieces, with those of the characters [begin, end) marked `inSpan`. Both count code points, as Python does.
export function markSpan(list, begin, end) {
  let at = 0;
  return list.flatMap((piece) => {
    const letters = [...piece.text];
    const [from, to] = [begin, end].map((position) => Math.max(0, Math.min(letters.length, position - at)));
    at += letters.length;
    const parts = [[0, from, false], [from, to, true], [to, letters.length, false]];
    return parts.flatMap(([start, stop, inSpan]) =>
      (start < stop ? [{ ...piece, text: letters.slice(start, stop).join(""), ...(inSpan ? { inSpan } : {}) }] : []));
  });
}

// The number of code points before an offset in the text as displayed, where hidden characters are written out.
export function codePoints(list, offset) {
  let [displayed, at] = [0, 0];
  for (const { text } of list) {
    for (const [unit] of text.matchAll(/\r\n|./gsu)) {
      if (displayed >= offset) return at;
      displayed += visible(unit).length;
      at += [...unit].length;
    }
  }
  return at;
}

export const isLong = (text) => text.length > WINDOW;

// The part of a long text around its top-scoring word.
export function aroundTop(list) {
  const total = size(list);
  if (total <= WINDOW) return list;
  const top = Math.max(0, list.findIndex((piece) => piece.top));
  let start = Math.max(0, Math.min(size(list.slice(0, top)) - WINDOW / 3, total - WINDOW));
  const gap = slice(list, start, start + 20).map((piece) => piece.text).join("").search(/\s/);
  if (start > 0 && gap > 0) start += gap; // begin with a whole word if one is near
  const dots = { text: "…", score: null };
  return [...(start > 0 ? [dots] : []), ...slice(list, start, start + WINDOW), ...(start + WINDOW < total ? [dots] : [])];
}

const share = (score, max) => (max ? ((score / max) ** 2).toFixed(3) : 0);

function word(piece, max) {
  const text = visible(piece.text);
  const core = text.trim();
  if (!core || piece.score === null) return piece.inSpan ? el("span.span", {}, text) : text;
  const at = text.indexOf(core);
  const attributes = { "data-score": number(piece.score), "data-at": piece.at, "data-share": share(piece.score, max) };
  const node = el(piece.top ? "strong.w.top" : "span.w", attributes, core);
  node.classList.toggle("negative", piece.score < 0);
  node.style.setProperty("--w", attributes["data-share"]);
  const before = text.slice(0, at), after = text.slice(at + core.length);
  return piece.inSpan ? el("span.span", {}, before, node, after) : [before, node, after];
}

export const renderText = (list, max) => el("p.text", { dir: "auto" }, list.map((piece) => word(piece, max)).flat());

// Shade the words of a text by other `values`, by position; null restores the scores.
export function shade(root, values, max) {
  for (const node of root.querySelectorAll(".w")) {
    const value = values?.get(Number(node.dataset.at)) ?? 0;
    node.style.setProperty("--w", values ? share(value, max) : node.dataset.share);
    node.classList.toggle("matches", Boolean(values) && value >= max / 2);
    if (values && value) node.dataset.link = number(value);
    else delete node.dataset.link;
  }
  root.classList.toggle("linked", Boolean(values));
}
