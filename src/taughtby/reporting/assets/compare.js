// Two rankings side by side: that of the answer on show, and another.
import { shorten, byId, display, el, number, visible } from "./text.js";
import { aroundTop, toPieces, renderText, markTopWord } from "./words.js";
import { saveLocation, idOf, view } from "./view.js";

const title = (entry) => (entry.members ? "Shared flagged rows" : shorten(entry.query.response, 60));

// The change of a row's rank, in words rather than by colour.
function change(rank, other, size) {
  if (other === undefined) return `not among its first ${size}`;
  if (other === rank) return "same rank";
  return `there ${other} (${other > rank ? "▲" : "▼"}\u2009${Math.abs(other - rank)})`;
}

function column(entry, other) {
  const ranks = new Map((other.query.rows ?? []).map((row) => [idOf(row), row.rank]));
  const rows = (entry.query.rows ?? []).map((row) => {
    const list = markTopWord(toPieces(row.tokens, "score")).map((piece) => ({ ...piece, score: piece.top ? 1 : null }));
    const text = list.length ? renderText(aroundTop(list), 1) : el("p.text", { dir: "auto" }, shorten(row.messages?.at(-1)?.content, 300));
    const node = el("li", {},
      el("p.head", {}, el("strong", {}, display(row.rank)), number(row.score),
        el("span.about", {}, change(row.rank, ranks.get(idOf(row)), ranks.size),
          row.flagged === true ? el("span.chip.flagged", {}, "flagged") : null,
          row.label == null ? null : el("span.chip", {}, visible(row.label)))),
      text);
    node.row = row;
    return node;
  });
  const name = entry === view.entry ? "This answer" : "The other";
  const detail = entry.query.desired ? `, less “${shorten(entry.query.desired, 60)}”` : entry.query.span ? `, its words “${shorten(entry.query.span, 60)}”` : "";
  return el("section", { "aria-label": name }, el("h3", {}, `${name}: `, el("q", {}, title(entry)), detail), el("ol", {}, rows));
}

export function drawCompare(choose) {
  const others = view.entries.filter((entry) => entry !== view.entry && !entry.members);
  const select = byId("compare-select");
  byId("compare-with").hidden = !others.length || Boolean(view.entry?.members);
  select.replaceChildren(el("option", { value: "" }, "nothing"),
    ...others.map((entry) => el("option", { value: entry.key }, `${title(entry)}${entry.query.span ? ` · ${shorten(entry.query.span, 30)}` : ""}`)));
  if (view.compared === view.entry || !view.entries.includes(view.compared)) view.compared = null;
  select.value = view.compared?.key ?? "";
  const on = Boolean(view.compared) && !byId("compare-with").hidden;
  byId("compare").hidden = !on;
  byId("ranked").hidden = on;
  if (!on) return;
  byId("comparison").replaceChildren(column(view.entry, view.compared), column(view.compared, view.entry));
  for (const [at, list] of [...byId("comparison").querySelectorAll("ol")].entries()) {
    list.addEventListener("click", (event) => {
      const rank = event.target.closest("li")?.row.rank;
      const entry = at ? view.compared : view.entry;
      view.compared = null;
      if (rank) choose(entry, rank);
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
