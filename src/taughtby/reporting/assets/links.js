// A word chosen in the answer shades the words of the rows that answer to it, and the other way round.
import { brief, byId, say } from "./text.js";
import { pieces, shade, wordAround } from "./words.js";
import { view } from "./view.js";

let read = null; // the word whose score is on show
let pinned = false; // it was chosen, so the pointer's leaving does not hide it

const rowOf = (node) => node.closest("#rows > li");

function strongest(links, chosen, here, there) {
  const found = new Map();
  for (const link of links ?? []) {
    if (chosen(link[here])) found.set(link[there], Math.max(found.get(link[there]) ?? 0, link[2]));
  }
  return found;
}

const top = (values) => values.reduce((most, found) => Math.max(most, ...found.values()), 0);

function within(tokens, at) {
  const [first, last] = wordAround(pieces(tokens, "score"), at);
  return { has: (place) => first <= place && place <= last, text: tokens.slice(first, last + 1).map(({ text }) => text).join("") };
}

// Show what the chosen word has to do with the other side; nothing where the trace has no links.
function light(node) {
  const query = view.chosen?.query ?? {};
  const at = Number(node.dataset.at);
  const row = rowOf(node);
  if (row ? !row.row.links?.length : !(query.rows ?? []).some((one) => one.links?.length)) return;
  const { has, text } = within(row ? row.row.tokens : query.answer, at);
  dim();
  if (row) {
    const values = strongest(row.row.links, has, 0, 1);
    shade(byId("answer"), values, top([values]));
  } else {
    const nodes = [...byId("rows").children];
    const values = nodes.map((one) => strongest(one.row.links, has, 1, 0));
    nodes.forEach((one, place) => shade(one, values[place], top(values)));
  }
  byId("lit-text").textContent = row
    ? `Shaded in the answer: the words that match “${brief(text, 40)}” in row ${row.row.rank}.`
    : `Shaded in the rows: the words that match “${brief(text, 40)}”.`;
  byId("lit").hidden = false;
}

export function dim() {
  for (const root of [byId("answer"), ...byId("rows").children]) if (root.classList.contains("linked")) shade(root, null);
  byId("lit").hidden = true;
}

export function hideTip() {
  read?.classList.remove("read");
  read = null;
  byId("tip").hidden = true;
}

export function showTip(node, pin) {
  hideTip();
  [read, pinned] = [node, pin];
  node.classList.add("read");
  const link = node.dataset.link ? `  matches by ${node.dataset.link}` : "";
  byId("tip").textContent = `${node.textContent.slice(0, 40)}  ${node.dataset.score}${link}`;
  byId("tip").hidden = false;
  placeTip();
  if (!pin) return;
  say(byId("tip").textContent);
  light(node);
}

function placeTip() {
  if (!read?.isConnected) return hideTip();
  const tip = byId("tip");
  const place = read.getClientRects()[0];
  if (!place) return hideTip();
  const across = Math.min(place.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
  const above = place.top - tip.offsetHeight - 6;
  tip.style.left = `${Math.max(8, across)}px`;
  tip.style.top = `${above > 4 ? above : place.bottom + 6}px`;
}

// The next word of the row or answer in which the focus is.
export function readNext(step) {
  const root = document.activeElement?.closest("#rows > li, #said") ?? byId("said");
  const list = [...(root?.querySelectorAll(".w") ?? [])];
  if (!list.length) return;
  const at = list.indexOf(read);
  const begin = list.findIndex((node) => node.classList.contains("top"));
  const next = (at < 0 ? list[Math.max(0, begin)] : list[at + step]) ?? list[0];
  next.scrollIntoView({ block: "nearest" });
  showTip(next, true);
}

export function wireLinks() {
  const wordOf = (event) => (event.target instanceof Element ? event.target.closest(".w[data-score]") : null);
  document.addEventListener("pointerover", (event) => {
    const node = wordOf(event);
    if (node) {
      if (!pinned || node !== read) showTip(node, false);
    } else if (!pinned) hideTip();
  });
  document.addEventListener("click", (event) => {
    const node = wordOf(event);
    if (node) showTip(node, true);
    else hideTip();
  });
  document.addEventListener("scroll", placeTip, { passive: true, capture: true });
  byId("dim").addEventListener("click", dim);
}
