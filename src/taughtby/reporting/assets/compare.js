// Two rankings side by side: that of the current answer, and another.
import { shorten, byId, display, el, number, visible } from "./text.js";
import { aroundTop, toPieces, renderText, markTopWord } from "./words.js";
import { saveLocation, idOf, view } from "./view.js";

// The change of a row's rank, in words rather than by colour.
function change(rank, other, size) {
  if (other === undefined) return `not among its first ${size}`;
  if (other === rank) return "same rank";
  return `there ${other} (${other > rank ? "▲" : "▼"}\u2009${Math.abs(other - rank)})`;
}

function rowItem(row, otherRanks) {
  const list = markTopWord(toPieces(row.tokens, "score")).map((piece) => ({ ...piece, score: piece.top ? 1 : null }));
  const text = list.length ? renderText(aroundTop(list), 1) : el("p.text", { dir: "auto" }, shorten(row.messages?.at(-1)?.content, 300));
  const node = el("li", {},
    el("p.head", {}, el("strong", {}, display(row.rank)), number(row.score),
      el("span.about", {}, change(row.rank, otherRanks.get(idOf(row)), otherRanks.size),
        row.flagged === true ? el("span.chip.flagged", {}, "flagged") : null,
        row.label == null ? null : el("span.chip", {}, visible(row.label)))),
    text);
  node.row = row;
  return node;
}

function column(entry, other) {
  const ranks = new Map((other.query.rows ?? []).map((row) => [idOf(row), row.rank]));
  const name = entry === view.entry ? "This answer" : "The other";
  const { desired, span, response } = entry.query;
  const detail = desired ? `, less “${shorten(desired, 60)}”` : span ? `, its words “${shorten(span, 60)}”` : "";
  return el("section", { "aria-label": name }, el("h3", {}, `${name}: `, el("q", {}, shorten(response, 60)), detail),
    el("ol", {}, (entry.query.rows ?? []).map((row) => rowItem(row, ranks))));
}

export function drawCompare(choose) {
  const isIncident = Boolean(view.entry?.members);
  const others = view.entries.filter((entry) => entry !== view.entry && !entry.members);
  if (view.compared === view.entry || !view.entries.includes(view.compared)) view.compared = null;
  const select = byId("compare-select");
  select.replaceChildren(el("option", { value: "" }, "nothing"), ...others.map(({ key, query }) =>
    el("option", { value: key }, `${shorten(query.response, 60)}${query.span ? ` · ${shorten(query.span, 30)}` : ""}`)));
  select.value = view.compared?.key ?? "";
  byId("compare-with").hidden = !others.length || isIncident;
  byId("compare-empty").textContent = isIncident ? "Choose one answer of the incident to compare its ranking."
    : !others.length ? "There is no other answer to compare with." : view.compared ? "" : "Choose another answer.";
  byId("comparison").replaceChildren();
  if (!view.compared || isIncident) return;
  byId("comparison").append(column(view.entry, view.compared), column(view.compared, view.entry));
  for (const [number, list] of [...byId("comparison").querySelectorAll("ol")].entries()) {
    list.addEventListener("click", (event) => {
      const rank = event.target.closest("li")?.row.rank;
      if (rank) choose(number ? view.compared : view.entry, rank);
    });
  }
}

export function wireCompare(choose, find) {
  byId("compare-select").addEventListener("change", (event) => {
    view.compared = find(event.target.value);
    drawCompare(choose);
    saveLocation();
  });
}
