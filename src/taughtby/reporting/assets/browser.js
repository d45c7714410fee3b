// The training set, page by page, and the flagged rows beyond the first ones.
import { byId, count, el, plural, shorten, visible } from "./text.js";
import { view } from "./view.js";
import { appendRows, drawSelect, unlistedFlagged } from "./rows.js";
import { call, get, showError } from "./requests.js";

const SIZE = 20; // rows of a page
let rowPage = { start: 0, count: 0, find: "" };

function rowItem(row) {
  return el("li", {},
    el("p.about", {}, row.label == null ? null : el("span.chip", {}, visible(row.label)), el("span.source", {}, visible(row.source))),
    drawSelect(row),
    (row.messages ?? []).map((message) => el("p.text", { dir: "auto" }, shorten(message.content, 300))),
    view.rowControls(row));
}

function drawRowPage(page) {
  rowPage = { ...rowPage, start: page.start, count: page.count };
  const last = Math.min(page.start + SIZE, page.count);
  const needle = shorten(rowPage.find, 40);
  byId("search-status").textContent = page.count
    ? `${count(page.start + 1)} to ${count(last)} of ${plural(page.count, "row")}${needle ? ` with “${needle}”` : ""}.`
    : `No row has “${needle}”.`;
  byId("previous-page").disabled = page.start === 0;
  byId("next-page").disabled = last >= page.count;
  byId("browser-rows").replaceChildren(...page.rows.map(rowItem));
}

async function loadRowPage(start) {
  try {
    const parameters = new URLSearchParams({ start: Math.max(0, start), size: SIZE, find: rowPage.find });
    drawRowPage(await get(`api/rows?${parameters}`));
  } catch (error) {
    showError(error);
  }
}

function drawMoreFlagged() {
  const left = unlistedFlagged().length;
  byId("more-flagged").hidden = !left;
  byId("more-flagged").textContent = `Show ${count(Math.min(SIZE, left))} more of ${plural(left, "further flagged row")}`;
}

async function onMoreFlagged() {
  const next = unlistedFlagged().slice(0, SIZE);
  try {
    const rows = await (await call("POST", "api/rows/lookup", { rows: next.map(({ id }) => id) })).json();
    const numbers = new Map(next.map(({ id, flagged_number }) => [id, flagged_number]));
    appendRows(rows.map((row) => ({ ...row, flagged_number: numbers.get(row.id) })));
    drawMoreFlagged();
    if (!rows.length) byId("more-flagged").hidden = true; // the index changed since the trace
  } catch (error) {
    showError(error);
  }
}

async function readRow(id) {
  const [row] = await (await call("POST", "api/rows/lookup", { rows: [id] })).json();
  return row ?? null;
}

export function wireBrowser() {
  view.readRow = readRow;
  document.addEventListener("tabchange", () => view.tab === "data" && (byId("browser-rows").hasChildNodes() || loadRowPage(0)));
  document.addEventListener("entrychange", drawMoreFlagged);
  byId("more-flagged").addEventListener("click", onMoreFlagged);
  byId("row-browser").addEventListener("submit", (event) => {
    event.preventDefault();
    rowPage = { ...rowPage, find: byId("search").value.trim() };
    loadRowPage(0);
  });
  byId("previous-page").addEventListener("click", () => loadRowPage(rowPage.start - SIZE));
  byId("next-page").addEventListener("click", () => loadRowPage(rowPage.start + SIZE));
}
