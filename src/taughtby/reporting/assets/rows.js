// The ranked rows: score, source, components and texts of each.
import { button, byId, display, count, download, el, plural, number, pValue, announce, visible } from "./text.js";
import { aroundTop, maxScore, isLong, toPieces, renderText, textPiece, markTopWord } from "./words.js";
import { saveLocation, idOf, nearDuplicates, view } from "./view.js";

const CHANCE = "Probability of a score this high for an unrelated row.";
const STABLE = "Share of resampled queries in which the row is flagged again.";

export function bar(value, max) {
  const node = el("span.bar", { "aria-hidden": "true" }, el("span"));
  node.classList.toggle("negative", value < 0);
  node.style.setProperty("--w", max ? Math.abs(value ?? 0) / max : 0);
  return node;
}

// What the components of the method lesson measure; those of others keep their names.
function componentName(name) {
  if (name.startsWith("grads_")) return "same tokens";
  return name.startsWith("shift_") ? "same behaviour" : visible(name);
}

let allFlagged = []; // ids of all flagged rows of the query, shown or not

const chip = (text, kind = "") => el(`span.chip${kind}`, {}, text);

function drawComponents(blocks) {
  const entries = Object.entries(blocks ?? {});
  const max = entries.reduce((most, [, value]) => Math.max(most, Math.abs(value ?? 0)), 1);
  const parts = entries.map(([name, value]) =>
    el("div", {}, el("dt", { title: visible(name) }, componentName(name)), el("dd", {}, bar(value, max), number(value))));
  return parts.length ? el("div.components", {}, el("p", {}, "Components"), el("dl", {}, parts)) : null;
}

function drawTexts(row, max, open) {
  const messages = row.messages ?? [];
  const answer = messages.at(-1);
  const shown = open ? (list) => list : aroundTop;
  const turns = messages.slice(0, -1).map((message) => [message.role, shown(textPiece(message.content))]);
  const list = (row.tokens ?? []).length ? markTopWord(toPieces(row.tokens, "score")) : textPiece(answer?.content);
  turns.push([answer?.role ?? "answer", shown(list)]);
  return turns.map(([role, body]) => el("div.turn", {}, el("h4", {}, visible(role)), renderText(body, max)));
}

// A button that shows the whole text of a long row, or the part around its top-scoring word.
function drawMore(row, texts, max) {
  const long = (row.messages ?? []).map((message) => String(message.content ?? ""));
  if (!long.some(isLong)) return null;
  const all = `Show all ${count(long.reduce((sum, text) => sum + text.length, 0))} characters`;
  const more = button(all, () => {
    const open = more.getAttribute("aria-expanded") === "false";
    more.setAttribute("aria-expanded", open);
    more.textContent = open ? "Show less" : all;
    texts.replaceChildren(...drawTexts(row, max, open));
  }, { "aria-expanded": "false" });
  more.classList.add("more");
  return more;
}

export function drawSelect(row) {
  const box = el("input", { type: "checkbox", "data-id": idOf(row) });
  box.checked = view.selected.has(idOf(row));
  box.addEventListener("change", () => select(row, box.checked));
  return el("label.select", {}, box, "Select");
}

function drawHead(row, topScore) {
  const flagged = row.flagged === true;
  return el("div.head", {},
    el("h3", {}, el("span.visually-hidden", {}, "Row "), display(row.rank)),
    row.score == null ? null : el("span.score", {}, bar(row.score, topScore), el("span", {}, number(row.score))),
    el("span.about", {},
      flagged ? chip("flagged", ".flagged") : null,
      row.flagged_number ? chip(`${row.flagged_number} of ${count(allFlagged.length)} flagged rows`) : null,
      row.flagged_for ? chip(`for ${row.flagged_for} of ${row.of} answers`) : null,
      row.label == null ? null : chip(visible(row.label)),
      row.p_value == null ? null : el("span", { title: `${CHANCE} ${number(row.p_value)}` }, pValue(row.p_value)),
      flagged && row.stability != null ? el("span", { title: STABLE }, `stable ${(100 * row.stability).toFixed(0)} %`) : null,
      row.source ? el("span.source", {}, visible(row.source)) : null),
    idOf(row) ? drawSelect(row) : null);
}

function drawRow(row, at, topScore, max) {
  const texts = el("div.texts", {}, drawTexts(row, max, false));
  const name = `Row ${display(row.rank)}${row.flagged === true ? ", flagged" : ""}, score ${number(row.score)}`;
  const node = el("li", { tabindex: at ? -1 : 0, "aria-label": name },
    drawHead(row, topScore), texts, drawMore(row, texts, max), drawComponents(row.score_components), view.rowControls(row));
  node.row = row;
  return node;
}

// Fold near-duplicates of an earlier row under it.
function fold(nodes, rows) {
  const first = nearDuplicates(rows);
  nodes.forEach((node, at) => {
    const copies = nodes.filter((_, other) => other !== at && first[other] === at);
    if (first[at] !== at || !copies.length) return;
    const ranks = copies.map((copy) => display(copy.row.rank)).join(", ");
    const label = `${plural(copies.length, "row")} nearly the same: ${ranks}`;
    const more = button(label, () => {
      const open = more.getAttribute("aria-expanded") === "false";
      more.setAttribute("aria-expanded", open);
      more.textContent = open ? "Hide near-duplicates" : label;
      for (const copy of copies) copy.hidden = !open;
    }, { "aria-expanded": "false" });
    more.classList.add("copies");
    node.append(more);
    for (const copy of copies) copy.hidden = true;
  });
}

export function drawRows({ query, trace, members }) {
  const rows = query.rows ?? [];
  const topScore = rows.reduce((max, row) => Math.max(max, Math.abs(row.score ?? 0)), 0);
  const max = rows.reduce((max, row) => Math.max(max, maxScore(toPieces(row.tokens, "score"))), 0);
  byId("shading-hint").hidden = !max;
  const numFlagged = query.flagged_ids?.length ?? rows.length;
  byId("verdict").textContent = members
    ? `${plural(numFlagged, "row is", "rows are")} flagged for more than one of these ${members.length} answers.${rows.length < numFlagged ? ` ${rows.length} of them are shown.` : ""}`
    : query.verdict ?? "";
  byId("num-shown").textContent = members ? "Rows flagged for the most answers come first."
    : rows.length ? `The first ${rows.length}${trace.num_rows ? ` of ${count(trace.num_rows)}` : ""} are shown.`
      : "No training row was ranked.";
  allFlagged = query.flagged_ids ?? [];
  const nodes = rows.map((row, at) => drawRow(row, at, topScore, max));
  fold(nodes, rows);
  byId("rows").replaceChildren(...nodes);
  byId("find").value = byId("find-status").textContent = "";
  byId("select-flagged").hidden = !rows.some((row) => row.flagged === true && idOf(row));
  drawSelected();
}

// The flagged rows that are not listed: their ids and their numbers among all flagged rows.
export function unlistedFlagged() {
  const listed = new Set([...byId("rows").children].map(({ row }) => idOf(row)));
  return allFlagged.map((id, at) => ({ id, flagged_number: at + 1 })).filter(({ id }) => !listed.has(id));
}

// Append flagged rows that the trace has only by their ids.
export function appendRows(rows) {
  byId("rows").append(...rows.map((row) => drawRow({ ...row, flagged: true }, byId("rows").children.length, 0, 0)));
}

export const rowNodes = () => [...byId("rows").children].filter((node) => !node.hidden);

export function activate(at) {
  const nodes = rowNodes();
  if (!nodes.length) return;
  const node = nodes[Math.max(0, Math.min(nodes.length - 1, at))];
  node.focus();
  node.scrollIntoView({ block: "nearest" });
}

// Focus the row of a rank, folded or not.
export function goTo(rank) {
  const node = [...byId("rows").children].find((one) => one.row.rank === rank);
  if (!node) return;
  node.hidden = false;
  activate(rowNodes().indexOf(node));
}

// — search in these rows

export function filter(words) {
  const needle = words.trim().toLowerCase();
  const firsts = nearDuplicates([...byId("rows").children].map((node) => node.row));
  [...byId("rows").children].forEach((node, at) => {
    const texts = [...(node.row.messages ?? []).map((message) => message.content), node.row.source, node.row.label];
    const matches = texts.some((text) => String(text ?? "").toLowerCase().includes(needle));
    node.hidden = needle ? !matches : firsts[at] !== at;
  });
  const numShown = rowNodes().length;
  byId("find-status").textContent = needle ? `${plural(numShown, "row")} with these words` : "";
}

// — selection

export function select(row, on = !view.selected.has(idOf(row))) {
  if (on) view.selected.set(idOf(row), row);
  else view.selected.delete(idOf(row));
  drawSelected();
  announce(`${plural(view.selected.size, "row")} selected`);
}

export function selectRows(rows) {
  for (const row of rows) if (!view.selected.has(idOf(row))) view.selected.set(idOf(row), row);
  drawSelected();
  announce(`${plural(view.selected.size, "row")} selected`);
}

export function drawSelected() {
  const size = view.selected.size;
  byId("selected").hidden = !size;
  byId("selected-count").textContent = `${plural(size, "row")} selected.`;
  for (const box of document.querySelectorAll(".select input")) box.checked = view.selected.has(box.dataset.id);
  document.dispatchEvent(new Event("rowselection"));
}

export function wireRows() {
  byId("find").addEventListener("input", (event) => filter(event.target.value));
  byId("select-flagged").addEventListener("click", () => {
    const rows = [...byId("rows").children].map((node) => node.row).filter((row) => row.flagged === true && idOf(row));
    selectRows([...rows, ...allFlagged.map((id) => ({ id }))]);
  });
  byId("clear-selection").addEventListener("click", () => {
    view.selected.clear();
    drawSelected();
    announce("No row is selected");
  });
  byId("download-ids").addEventListener("click", () =>
    download("rows.txt", new Blob([[...view.selected.keys()].map((id) => `${id}\n`).join("")], { type: "text/plain" })));
  byId("rows").addEventListener("focusin", (event) => {
    const nodes = rowNodes();
    view.row = nodes.indexOf(event.target.closest("#rows > li"));
    view.rank = nodes[view.row]?.row.rank ?? null;
    for (const [at, node] of nodes.entries()) node.tabIndex = at === view.row ? 0 : -1;
    saveLocation();
  });
}
