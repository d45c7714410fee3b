// The ranked rows at the right: what each scored, where it comes from, what it says.
import { button, byId, clean, count, download, el, many, number, say, visible } from "./text.js";
import { around, ceiling, isLong, pieces, said, whole, withTop } from "./words.js";
import { saveLocation, idOf, nearDuplicates, view } from "./view.js";

const CHANCE = "Probability of a score this high for an unrelated row.";
const STABLE = "Share of resampled queries in which the row is flagged again.";

export function bar(value, most) {
  const node = el("span.bar", { "aria-hidden": "true" }, el("span"));
  node.classList.toggle("against", value < 0);
  node.style.setProperty("--w", most ? Math.abs(value ?? 0) / most : 0);
  return node;
}

let allFlagged = []; // ids of all flagged rows of the query, shown or not

const chip = (text, kind = "") => el(`span.chip${kind}`, {}, text);

function drawComponents(blocks) {
  const entries = Object.entries(blocks ?? {});
  const most = entries.reduce((far, [, value]) => Math.max(far, Math.abs(value ?? 0)), 1);
  const parts = entries.map(([name, value]) =>
    el("div", {}, el("dt", {}, visible(name)), el("dd", {}, bar(value, most), number(value))));
  return parts.length ? el("div.components", {}, el("p", {}, "Components"), el("dl", {}, parts)) : null;
}

function drawTexts(row, most, open) {
  const messages = row.messages ?? [];
  const answer = messages.at(-1);
  const cut = open ? (list) => list : around;
  const turns = messages.slice(0, -1).map((message) => [message.role, cut(whole(message.content))]);
  const list = (row.tokens ?? []).length ? withTop(pieces(row.tokens, "score")) : whole(answer?.content);
  turns.push([answer?.role ?? "answer", cut(list)]);
  return turns.map(([role, body]) => el("div.turn", {}, el("h4", {}, visible(role)), said(body, most)));
}

// All of a long row's text, or the part around its strongest word.
function drawMore(row, texts, most) {
  const long = (row.messages ?? []).map((message) => String(message.content ?? ""));
  if (!long.some(isLong)) return null;
  const all = `Show all ${count(long.reduce((sum, text) => sum + text.length, 0))} characters`;
  const more = button(all, () => {
    const open = more.getAttribute("aria-expanded") === "false";
    more.setAttribute("aria-expanded", open);
    more.textContent = open ? "Show less" : all;
    texts.replaceChildren(...drawTexts(row, most, open));
  }, { "aria-expanded": "false" });
  more.classList.add("more");
  return more;
}

function drawSelect(row) {
  const box = el("input", { type: "checkbox" });
  box.checked = view.selected.has(idOf(row));
  box.addEventListener("change", () => select(row, box.checked));
  return el("label.select", {}, box, "Select");
}

function drawHead(row, far) {
  const flagged = row.flagged === true;
  return el("div.head", {},
    el("h3", {}, el("span.unseen", {}, "Row "), clean(row.rank)),
    el("span.score", {}, bar(row.score, far), el("span", {}, number(row.score))),
    el("span.about", {},
      flagged ? chip("flagged", ".flagged") : null,
      row.flagged_for ? chip(`for ${row.flagged_for} of ${row.of} answers`) : null,
      row.label == null ? null : chip(visible(row.label)),
      row.p_value == null ? null : el("span", { title: CHANCE }, `p = ${number(row.p_value)}`),
      flagged && row.stability != null ? el("span", { title: STABLE }, `stable ${(100 * row.stability).toFixed(0)} %`) : null,
      row.source ? el("span.source", {}, visible(row.source)) : null),
    idOf(row) ? drawSelect(row) : null);
}

function drawRow(row, at, far, most) {
  const texts = el("div.texts", {}, drawTexts(row, most, false));
  const name = `Row ${row.rank}${row.flagged === true ? ", flagged" : ""}, score ${number(row.score)}`;
  const node = el("li", { tabindex: at ? -1 : 0, "aria-label": name },
    drawHead(row, far), texts, drawMore(row, texts, most), drawComponents(row.score_components));
  node.row = row;
  return node;
}

// Rows that nearly repeat an earlier one are folded under it.
function fold(nodes, rows) {
  const first = nearDuplicates(rows);
  nodes.forEach((node, at) => {
    const copies = nodes.filter((_, other) => other !== at && first[other] === at);
    if (first[at] !== at || !copies.length) return;
    const ranks = copies.map((copy) => clean(copy.row.rank)).join(", ");
    const closed = `${many(copies.length, "row")} nearly the same: ${ranks}`;
    const more = button(closed, () => {
      const open = more.getAttribute("aria-expanded") === "false";
      more.setAttribute("aria-expanded", open);
      more.textContent = open ? "Hide near-duplicates" : closed;
      for (const copy of copies) copy.hidden = !open;
    }, { "aria-expanded": "false" });
    more.classList.add("copies");
    node.append(more);
    for (const copy of copies) copy.hidden = true;
  });
}

export function drawRows({ query, trace, members }) {
  const rows = query.rows ?? [];
  const far = rows.reduce((most, row) => Math.max(most, Math.abs(row.score ?? 0)), 0);
  const most = rows.reduce((most, row) => Math.max(most, ceiling(pieces(row.tokens, "score"))), 0);
  byId("words-hint").hidden = !most;
  const common = query.flagged_ids?.length ?? rows.length;
  byId("verdict").textContent = members
    ? `${many(common, "row is", "rows are")} flagged for more than one of these ${members.length} answers.${rows.length < common ? ` ${rows.length} of them are shown.` : ""}`
    : query.verdict ?? "";
  byId("shown").textContent = members ? "Rows flagged for the most answers come first."
    : rows.length ? `The first ${rows.length}${trace.num_rows ? ` of ${count(trace.num_rows)}` : ""} are shown.`
      : "No training row was ranked.";
  const nodes = rows.map((row, at) => drawRow(row, at, far, most));
  fold(nodes, rows);
  byId("rows").replaceChildren(...nodes);
  byId("find").value = byId("found").textContent = "";
  allFlagged = query.flagged_ids ?? [];
  byId("select-flagged").hidden = !rows.some((row) => row.flagged === true && idOf(row));
  drawSelected();
}

export const rowNodes = () => [...byId("rows").children].filter((node) => !node.hidden);

export function activate(at) {
  const nodes = rowNodes();
  if (!nodes.length) return;
  const node = nodes[Math.max(0, Math.min(nodes.length - 1, at))];
  node.focus();
  node.scrollIntoView({ block: "nearest" });
}

// Go to the row of that rank, folded away or not.
export function goTo(rank) {
  const node = [...byId("rows").children].find((one) => one.row.rank === rank);
  if (!node) return;
  node.hidden = false;
  activate(rowNodes().indexOf(node));
}

// — find

export function filter(words) {
  const wanted = words.trim().toLowerCase();
  const folded = nearDuplicates([...byId("rows").children].map((node) => node.row));
  [...byId("rows").children].forEach((node, at) => {
    const texts = [...(node.row.messages ?? []).map((message) => message.content), node.row.source, node.row.label];
    const has = texts.some((text) => String(text ?? "").toLowerCase().includes(wanted));
    node.hidden = wanted ? !has : folded[at] !== at;
  });
  const left = rowNodes().length;
  byId("found").textContent = wanted ? `${many(left, "row")} with these words` : "";
}

// — selection

export function select(row, on = !view.selected.has(idOf(row))) {
  if (on) view.selected.set(idOf(row), row);
  else view.selected.delete(idOf(row));
  drawSelected();
  say(`${many(view.selected.size, "row")} selected`);
}

export function drawSelected() {
  const held = view.selected.size;
  byId("selected").hidden = !held;
  byId("selected-count").textContent = `${many(held, "row")} selected.`;
  for (const node of byId("rows").children) {
    const box = node.querySelector(".select input");
    if (box) box.checked = view.selected.has(idOf(node.row));
  }
}

export function wireRows() {
  byId("find").addEventListener("input", (event) => filter(event.target.value));
  byId("select-flagged").addEventListener("click", () => {
    const rows = [...byId("rows").children].map((node) => node.row).filter((row) => row.flagged === true && idOf(row));
    for (const row of rows) view.selected.set(idOf(row), row);
    for (const id of allFlagged) if (!view.selected.has(id)) view.selected.set(id, { id });
    drawSelected();
    say(`${many(view.selected.size, "row")} selected`);
  });
  byId("unselect").addEventListener("click", () => {
    view.selected.clear();
    drawSelected();
    say("No row is selected");
  });
  byId("list").addEventListener("click", () =>
    download("rows.txt", new Blob([[...view.selected.keys()].map((id) => `${id}\n`).join("")], { type: "text/plain" })));
  byId("rows").addEventListener("focusin", (event) => {
    const nodes = rowNodes();
    view.row = nodes.indexOf(event.target.closest("#rows > li"));
    view.rank = nodes[view.row]?.row.rank ?? null;
    for (const [at, node] of nodes.entries()) node.tabIndex = at === view.row ? 0 : -1;
    saveLocation();
  });
}
