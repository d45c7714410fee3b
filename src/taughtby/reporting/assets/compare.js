// Two rankings side by side: the answer on show, and another.
import { brief, byId, clean, el, number, visible } from "./text.js";
import { around, pieces, said, withTop } from "./words.js";
import { saveLocation, idOf, view } from "./view.js";

const title = (entry) => (entry.members ? "Shared flagged rows" : brief(entry.query.response, 60));

// What became of a row's place, in words and not by colour.
function change(rank, other, size) {
  if (other === undefined) return `not among its first ${size}`;
  if (other === rank) return "same place";
  return `there ${other} (${other > rank ? "▲" : "▼"}\u2009${Math.abs(other - rank)})`;
}

function column(entry, other) {
  const ranks = new Map((other.query.rows ?? []).map((row) => [idOf(row), row.rank]));
  const rows = (entry.query.rows ?? []).map((row) => {
    const list = withTop(pieces(row.tokens, "score")).map((piece) => ({ ...piece, score: piece.top ? 1 : null }));
    const text = list.length ? said(around(list), 1) : el("p.said", { dir: "auto" }, brief(row.messages?.at(-1)?.content, 300));
    const node = el("li", {},
      el("p.head", {}, el("strong", {}, clean(row.rank)), number(row.score),
        el("span.about", {}, change(row.rank, ranks.get(idOf(row)), ranks.size),
          row.flagged === true ? el("span.chip.flagged", {}, "flagged") : null,
          row.label == null ? null : el("span.chip", {}, visible(row.label)))),
      text);
    node.row = row;
    return node;
  });
  const name = entry === view.chosen ? "This answer" : "The other";
  const asked = entry.query.desired ? `, less “${brief(entry.query.desired, 60)}”` : entry.query.span ? `, its words “${brief(entry.query.span, 60)}”` : "";
  return el("section", { "aria-label": name }, el("h3", {}, `${name}: `, el("q", {}, title(entry)), asked), el("ol", {}, rows));
}

export function drawCompare(choose) {
  const others = view.entries.filter((entry) => entry !== view.chosen && !entry.members);
  const select = byId("with");
  byId("beside").hidden = !others.length || Boolean(view.chosen?.members);
  select.replaceChildren(el("option", { value: "" }, "nothing"),
    ...others.map((entry) => el("option", { value: entry.key }, `${title(entry)}${entry.query.span ? ` · ${brief(entry.query.span, 30)}` : ""}`)));
  if (view.beside === view.chosen || !view.entries.includes(view.beside)) view.beside = null;
  select.value = view.beside?.key ?? "";
  const on = Boolean(view.beside) && !byId("beside").hidden;
  byId("compare").hidden = !on;
  byId("ranked").hidden = on;
  if (!on) return;
  byId("pair").replaceChildren(column(view.chosen, view.beside), column(view.beside, view.chosen));
  for (const [at, list] of [...byId("pair").querySelectorAll("ol")].entries()) {
    list.addEventListener("click", (event) => {
      const rank = event.target.closest("li")?.row.rank;
      const entry = at ? view.beside : view.chosen;
      view.beside = null;
      if (rank) choose(entry, rank);
    });
  }
}

export function wireCompare(choose, find) {
  byId("with").addEventListener("change", (event) => {
    view.beside = find(event.target.value);
    drawCompare(choose);
    saveLocation();
  });
}
