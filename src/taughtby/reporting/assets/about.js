// The tab About: summary, tables, and where the trace comes from.
import { byId, display, el, pair, plural, visible } from "./text.js";

export function drawTable({ title, columns = [], rows = [], note }) {
  const digits = columns.map((_, at) => rows.length && rows.every((row) => /^\s*[-+−–—]?[\d.,]*\s*%?$/.test(row[at])));
  const cell = (tag, text, at) => el(digits[at] ? `${tag}.digits` : tag, tag === "th" ? { scope: "col" } : {}, display(text));
  const body = rows.map((row) => el("tr", {}, row.map((text, at) => cell("td", text, at))));
  const name = visible(title ?? "Table");
  return el("div.table-block", {}, el("h3", {}, name), note ? el("p.hint", {}, visible(note)) : null,
    el("div.scroll-x", { role: "region", tabindex: 0, "aria-label": name }, el("table", {},
      el("thead", {}, el("tr", {}, columns.map((text, at) => cell("th", text, at)))), el("tbody", {}, body))));
}

export function drawSummary(summary) {
  if (!summary) return;
  if (summary.title) document.querySelector("h1").textContent = visible(summary.title);
  byId("lead").textContent = visible(summary.lead);
  byId("lead").hidden = !summary.lead;
  const facts = (summary.facts ?? []).map(({ name, value }) => pair(name, value));
  byId("facts").replaceChildren(...(facts.length ? [el("dl.facts", {}, facts)] : []));
  byId("tables").replaceChildren(...(summary.tables ?? []).map(drawTable));
}

// lesson (layer 27, state_layer 15, …), from {name, options}.
export function methodName(method) {
  if (!method || typeof method === "string") return method ?? "";
  const options = Object.entries(method.options ?? {}).map(([name, value]) => `${name} ${value}`).join(", ");
  return options ? `${method.name} (${options})` : method.name;
}

export function drawAbout(trace) {
  const facts = { Method: methodName(trace.method), Model: trace.model, Adapter: trace.adapter ?? "none", Index: trace.index,
    "Rows in the index": trace.num_rows, "taughtby": trace.taughtby };
  const hashes = Object.entries(trace.fingerprint ?? {}).filter(([, hash]) => hash);
  if (hashes.length) facts["Built from (hashes)"] = hashes.map(([name, hash]) => `${name} ${hash}`).join(", ");
  byId("about-trace").replaceChildren(...Object.entries(facts).map(([name, value]) => pair(name, value)));
  const warnings = trace.warnings ?? [];
  byId("warnings").hidden = !warnings.length;
  byId("warnings").replaceChildren(el("summary", {}, plural(warnings.length, "warning")),
    ...warnings.map((text) => el("p", {}, `Warning: ${visible(text)}`)));
}
