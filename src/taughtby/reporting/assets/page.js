// The page: entries, keys and the URL. The trace is part of a saved page; ask.js adds those of a served one.
import { byId, announce } from "./text.js";
import { entryOf, saveLocation, savedLocation, view } from "./view.js";
import { drawAbout, drawSummary } from "./about.js";
import { drawAnswer } from "./answer.js";
import { activate, drawRows, filter, goTo, rowNodes, select, wireRows } from "./rows.js";
import { clearLinks, hideTooltip, focusNextToken, wireLinks } from "./links.js";
import { drawCurve, drawLayers } from "./charts.js";
import { drawLayerRanks } from "./figures.js";
import { drawMap, wireMap } from "./map.js";
import { drawCompare, wireCompare } from "./compare.js";
import { drawAnswers, groupAnswers, listedEntries, markCurrent, sharedEntry, wireAnswers } from "./answers.js";
import { showTab, wireTabs } from "./tabs.js";
import { wireCommands } from "./commands.js";

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
  drawCurve(entry.query);
  drawMap();
  drawLayerRanks();
  byId("tab-map").hidden = byId("map").hidden && byId("layer-ranks").hidden;
  markCurrent();
  const at = listedEntries().indexOf(entry);
  if (view.entries.length > 1) announce(at < 0 ? "Shared flagged rows" : `Query ${at + 1} of ${view.entries.length}`);
  if (rank) showRow(rank);
  else showTab(view.tab);
  document.dispatchEvent(new Event("entrychange"));
}

export function showRow(rank) {
  showTab("rows");
  goTo(rank);
}

function step(by) {
  const entries = listedEntries();
  choose(entries[entries.indexOf(view.entry) + by]);
}

// Append the answers of traces, given as [trace, key] pairs.
export function addTraces(traces) {
  const added = traces.flatMap(([trace, key]) => (trace.queries ?? []).map((query) => {
    const entry = { key: key ?? String(view.entries.length + 1), query, trace };
    view.entries.push(entry);
    return entry;
  }));
  document.body.classList.toggle("empty", !view.entries.length);
  groupAnswers();
  drawAnswers(choose);
  return added;
}

// — keys

function moveFocus(by) {
  showTab("rows");
  activate(view.row + by);
}

const KEYS = {
  j: () => moveFocus(1),
  k: () => moveFocus(-1),
  "]": () => step(1),
  "[": () => step(-1),
  x: () => rowNodes()[view.row] && select(rowNodes()[view.row].row),
  "/": () => { showTab("rows"); byId("find").focus(); },
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

// — the URL restores the view

export function restore() {
  const saved = savedLocation();
  const entry = entryOf(saved.answer) ?? sharedEntry(saved.answer);
  view.compared = entryOf(saved.with);
  view.tab = saved.tab ?? (view.compared ? "compare" : "rows");
  choose(entry ?? view.entries[0], entry && view.tab === "rows" ? Number(saved.row) : null);
}

// Draw a trace, and others with the keys that the URL has for them.
export function start(trace, others = []) {
  wireRows();
  wireLinks();
  byId("rows").addEventListener("focusin", drawLayerRanks);
  wireMap(showRow);
  wireCompare(choose, entryOf);
  wireAnswers(choose);
  wireTabs();
  wireCommands();
  byId("keys").addEventListener("click", () => byId("help").showModal());
  document.addEventListener("keydown", onKey);
  drawSummary(trace.summary);
  drawAbout(trace);
  drawLayers(trace.layers);
  addTraces([[trace], ...others]);
  window.addEventListener("hashchange", restore);
  if (view.entries.length) restore();
  else {
    byId("verdict").textContent = "The trace has no queries.";
    byId("tab-map").hidden = true;
    showTab("rows");
  }
}

const data = byId("trace");
if (data) start(JSON.parse(data.textContent));
