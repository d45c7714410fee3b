// A selected word of the answer shades the matching words of the rows, and the reverse.
import { shorten, byId, announce } from "./text.js";
import { toPieces, shade, wordRange } from "./words.js";
import { view } from "./view.js";

let focused = null; // the word whose score is shown
let pinned = false; // selected by click or key: the tooltip stays when the pointer leaves

const HOVER = 150; // ms that the pointer rests on a word before its matches are shaded
const rowOf = (node) => node.closest("#rows > li");

function strongestLinks(links, isSelected, from, to) {
  const scores = new Map();
  for (const link of links ?? []) {
    if (isSelected(link[from])) scores.set(link[to], Math.max(scores.get(link[to]) ?? 0, link[2]));
  }
  return scores;
}

const top = (values) => values.reduce((max, scores) => Math.max(max, ...scores.values()), 0);

function selectedWord(tokens, at) {
  const [first, last] = wordRange(toPieces(tokens, "score"), at);
  return { has: (position) => first <= position && position <= last, text: tokens.slice(first, last + 1).map(({ text }) => text).join("") };
}

// The row of a word, or null for a word of the answer; and the rows whose links give its matches.
function placeOf(node) {
  const row = rowOf(node);
  return { row, rows: row ? [row.row] : view.entry?.query.rows ?? [] };
}

// Shade the words on the other side that match this one; whether the trace has links for it.
function shadeMatches(node) {
  const { row, rows } = placeOf(node);
  if (!rows.some(({ links }) => links?.length)) return false;
  const { has } = selectedWord(row ? row.row.tokens : view.entry.query.answer, Number(node.dataset.at));
  clearLinks();
  if (row) {
    const values = strongestLinks(row.row.links, has, 0, 1);
    shade(byId("answer"), values, top([values]));
  } else {
    const nodes = [...byId("rows").children];
    const values = nodes.map((one) => strongestLinks(one.row.links, has, 1, 0));
    nodes.forEach((one, position) => shade(one, values[position], top(values)));
  }
  return true;
}

function showNote(text) {
  byId("links-text").textContent = text;
  byId("links-note").hidden = !text;
}

// Show what matches a selected word. A saved trace has no links until the server computes them.
async function showLinks(node) {
  const [{ row, rows }, entry] = [placeOf(node), view.entry];
  const isSaved = rows.some(({ tokens, links }) => tokens?.length && !links);
  if (isSaved) {
    showNote("Linking the words of the answers and rows…");
    const linked = await view.linkTokens(entry.trace);
    if (view.entry !== entry || !node.isConnected) return;
    showNote(linked === false ? "This file has no links between words. The page of `taughtby serve` computes them." : "");
    if (!linked) return;
  }
  if (!shadeMatches(node)) {
    if (isSaved) showNote("The method of this trace does not link words.");
    return;
  }
  const { text } = selectedWord(row ? row.row.tokens : entry.query.answer, Number(node.dataset.at));
  showNote(row
    ? `Shaded in the answer: the words that match “${shorten(text, 40)}” in row ${row.row.rank}.`
    : `Shaded in the rows: the words that match “${shorten(text, 40)}”.`);
}

let hover = 0; // the timer of the word under the pointer

// The words that match the one under the pointer, unless those of a selected word are on show.
function hoverLinks(node) {
  clearTimeout(hover);
  if (!byId("links-note").hidden) return; // those of a selected word stay
  clearLinks();
  if (node) hover = setTimeout(() => node.isConnected && byId("links-note").hidden && shadeMatches(node), HOVER);
}

export function clearLinks() {
  clearTimeout(hover);
  for (const root of [byId("answer"), ...byId("rows").children]) if (root.classList.contains("linked")) shade(root, null);
  byId("links-note").hidden = true;
}

export function hideTooltip() {
  focused?.classList.remove("current");
  focused = null;
  byId("tooltip").hidden = true;
}

export function showTooltip(node, pin) {
  hideTooltip();
  [focused, pinned] = [node, pin];
  node.classList.add("current");
  const link = node.dataset.link ? `  matches by ${node.dataset.link}` : "";
  byId("tooltip").textContent = `${node.textContent.slice(0, 40)}  ${node.dataset.score}${link}`;
  byId("tooltip").hidden = false;
  placeTooltip();
  if (!pin) return;
  announce(byId("tooltip").textContent);
  showLinks(node);
}

function placeTooltip() {
  if (!focused?.isConnected) return hideTooltip();
  const tooltip = byId("tooltip");
  const position = focused.getClientRects()[0];
  if (!position) return hideTooltip();
  const across = Math.min(position.left, document.documentElement.clientWidth - tooltip.offsetWidth - 8);
  const above = position.top - tooltip.offsetHeight - 6;
  tooltip.style.left = `${Math.max(8, across)}px`;
  tooltip.style.top = `${above > 4 ? above : position.bottom + 6}px`;
}

// The next word of the row or answer in which the focus is.
export function focusNextToken(step) {
  const root = document.activeElement?.closest("#rows > li, #answer-text") ?? byId("answer-text");
  const list = [...(root?.querySelectorAll(".w") ?? [])];
  if (!list.length) return;
  const at = list.indexOf(focused);
  const begin = list.findIndex((node) => node.classList.contains("top"));
  const next = (at < 0 ? list[Math.max(0, begin)] : list[at + step]) ?? list[0];
  next.scrollIntoView({ block: "nearest" });
  showTooltip(next, true);
}

export function wireLinks() {
  const wordOf = (event) => (event.target instanceof Element ? event.target.closest(".w[data-score]") : null);
  document.addEventListener("pointerover", (event) => {
    const node = wordOf(event);
    if (event.pointerType === "mouse") hoverLinks(node);
    if (node) {
      if (!pinned || node !== focused) showTooltip(node, false);
    } else if (!pinned) hideTooltip();
  });
  document.addEventListener("click", (event) => {
    const node = wordOf(event);
    if (node) showTooltip(node, true);
    else hideTooltip();
  });
  document.addEventListener("scroll", placeTooltip, { passive: true, capture: true });
  byId("clear-links").addEventListener("click", clearLinks);
}
