// The page: entries, keys and the address. The trace is part of a saved page; ask.js adds those of a served one.
import { shorten, byId, display, el, plural, number, pair, announce, visible } from "./text.js";
import { entryOf, incidents, saveLocation, savedLocation, sharedRows, view } from "./view.js";
import { drawAnswer } from "./answer.js";
import { activate, drawRows, filter, goTo, rowNodes, select, wireRows } from "./rows.js";
import { clearLinks, hideTooltip, focusNextToken, wireLinks } from "./links.js";
import { drawLayerRanks, drawLayers, drawMap, wireMap } from "./figures.js";
import { drawCompare, wireCompare } from "./compare.js";

// — summary and origin

function drawTable({ title, columns = [], rows = [], note }) {
  const digits = columns.map((_, at) => rows.length && rows.every((row) => /^\s*[-+−–—]?[\d.,]*\s*%?$/.test(row[at])));
  const cell = (tag, text, at) => el(digits[at] ? `${tag}.digits` : tag, tag === "th" ? { scope: "col" } : {}, display(text));
  const body = rows.map((row) => el("tr", {}, row.map((text, at) => cell("td", text, at))));
  const name = visible(title ?? "Table");
  return el("div.table-block", {}, el("h2", {}, name), note ? el("p.hint", {}, visible(note)) : null,
    el("div.scroll-x", { role: "region", tabindex: 0, "aria-label": name }, el("table", {},
      el("thead", {}, el("tr", {}, columns.map((text, at) => cell("th", text, at)))), el("tbody", {}, body))));
}

function drawSummary(summary) {
  if (!summary) return;
  if (summary.title) document.querySelector("h1").textContent = visible(summary.title);
  const facts = (summary.facts ?? []).map(({ name, value }) => pair(name, value));
  byId("summary").append(...[
    summary.lead ? el("p.lead", {}, visible(summary.lead)) : null,
    facts.length ? el("dl.facts", {}, facts) : null,
  ].filter(Boolean));
  byId("summary").hidden = false;
  byId("tables").append(...(summary.tables ?? []).map(drawTable));
  byId("tables").hidden = !summary.tables?.length;
}

// lesson (layer 27, state_layer 15, …), from {name, options}.
function methodName(method) {
  if (!method || typeof method === "string") return method ?? "";
  const options = Object.entries(method.options ?? {}).map(([name, value]) => `${name} ${value}`).join(", ");
  return options ? `${method.name} (${options})` : method.name;
}

function drawAbout(trace) {
  const facts = { Method: methodName(trace.method), Model: trace.model, Adapter: trace.adapter ?? "none", Index: trace.index,
    "Rows in the index": trace.num_rows, "taughtby": trace.taughtby };
  byId("about-trace").replaceChildren(...Object.entries(facts).map(([name, value]) => pair(name, value)));
  byId("warnings").replaceChildren(...(trace.warnings ?? []).map((text) => el("p.note", {}, `Warning: ${visible(text)}`)));
}

// — list of answers

let sharedEntries = []; // the shared flagged rows of each incident of several answers, as an entry

function answerItem(entry, name, detail) {
  const node = el("button", { type: "button", "data-key": entry.key }, el("span", {}, name), el("small", {}, detail));
  node.addEventListener("click", () => choose(entry));
  return el("li", {}, node);
}

function drawQueries() {
  const groups = incidents(view.entries);
  const several = groups.length > 1 && groups.some((members) => members.length > 1);
  sharedEntries = groups.flatMap((members, at) => {
    const entry = members.length > 1 ? sharedRows(members, at + 1) : null;
    return entry?.query.flagged_ids.length ? [entry] : [];
  });
  byId("queries").hidden = view.entries.length < 2;
  byId("queries").querySelector("ol").replaceChildren(...groups.flatMap((members, at) => {
    const entry = sharedEntries.find((one) => one.key === `incident-${at + 1}`);
    return [
      several ? el("li.incident", {}, `Incident ${at + 1}: ${plural(members.length, "answer")}`) : null,
      entry ? answerItem(entry, "Shared flagged rows", `${plural(entry.query.flagged_ids.length, "row")} flagged for several of ${members.length} answers`) : null,
      ...members.map((one) => answerItem(one, shorten(one.query.prompt, 200), shorten(one.query.response, 200))),
    ].filter(Boolean);
  }));
}

// Show an answer with its rows, and go to the row of that rank.
export function choose(entry, rank = null) {
  if (!entry) return;
  [view.entry, view.row, view.rank] = [entry, -1, null];
  hideTooltip();
  drawAnswer(entry, choose);
  drawRows(entry);
  clearLinks();
  drawCompare(choose);
  drawAbout(entry.trace);
  drawLayers(entry.trace.layers);
  drawMap();
  drawLayerRanks();
  for (const node of byId("queries").querySelectorAll("button")) {
    if (node.dataset.key === entry.key) node.setAttribute("aria-current", "true");
    else node.removeAttribute("aria-current");
  }
  const at = view.entries.indexOf(entry);
  if (view.entries.length > 1) announce(at < 0 ? "Shared flagged rows" : `Query ${at + 1} of ${view.entries.length}`);
  saveLocation();
  if (rank) goTo(rank);
  document.dispatchEvent(new Event("entrychange"));
}

const step = (by) => choose(view.entries[view.entries.indexOf(view.entry) + by]);

// Append the answers of a trace.
export function addTrace(trace, key) {
  const entries = (trace.queries ?? []).map((query, at) => ({ key: key ?? String(view.entries.length + at + 1), query, trace }));
  view.entries.push(...entries);
  drawQueries();
  return entries;
}

// — keys

const KEYS = {
  j: () => activate(view.row + 1),
  k: () => activate(view.row - 1),
  "]": () => step(1),
  "[": () => step(-1),
  x: () => rowNodes()[view.row] && select(rowNodes()[view.row].row),
  "/": () => byId("find").focus(),
  "?": () => byId("help").showModal(),
};
// Outside the rows these keys keep their usual effect.
const ROW_KEYS = {
  ArrowDown: KEYS.j,
  ArrowUp: KEYS.k,
  ArrowRight: () => focusNextToken(1),
  ArrowLeft: () => focusNextToken(-1),
  Enter: () => rowNodes()[view.row]?.querySelector(".more")?.click(),
};
const ANSWER_KEYS = { ArrowRight: ROW_KEYS.ArrowRight, ArrowLeft: ROW_KEYS.ArrowLeft };

function onKey(event) {
  const focus = document.activeElement;
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  if (event.key === "Escape") {
    hideTooltip();
    clearLinks();
    if (focus === byId("find")) {
      focus.value = "";
      filter("");
      focus.blur();
    }
  }
  if (focus?.matches("input:not([type=checkbox]), textarea, select")) return;
  if (event.key === "Enter" && focus?.matches("button, a, input")) return;
  const action = KEYS[event.key] ?? (byId("rows").contains(focus) ? ROW_KEYS[event.key]
    : byId("answer").contains(focus) ? ANSWER_KEYS[event.key] : undefined);
  if (!action) return;
  event.preventDefault();
  action();
}

// — the address restores the view

export function restore() {
  const saved = savedLocation();
  const entry = entryOf(saved.answer) ?? sharedEntries.find(({ key }) => key === saved.answer);
  view.compared = entryOf(saved.with);
  choose(entry ?? view.entries[0], entry ? Number(saved.row) : null);
}

// Draw a trace, and others with the keys that the address names them by.
export function start(trace, others = []) {
  wireRows();
  wireLinks();
  wireMap();
  wireCompare(choose, entryOf);
  byId("keys").addEventListener("click", () => byId("help").showModal());
  document.addEventListener("keydown", onKey);
  drawSummary(trace.summary);
  drawAbout(trace);
  drawLayers(trace.layers);
  addTrace(trace);
  for (const [document, key] of others) addTrace(document, key);
  window.addEventListener("hashchange", restore);
  if (view.entries.length) restore();
  else byId("num-shown").textContent = "The trace has no queries.";
}

const data = byId("trace");
if (data) start(JSON.parse(data.textContent));
