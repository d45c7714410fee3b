// The next commands, with their options filled in, to copy; and the trace as the file that they read.
import { announce, button, byId, download, el, plural, shellQuote } from "./text.js";
import { markTopWord, toPieces } from "./words.js";
import { view } from "./view.js";

// The data file: the common part of the rows' sources.
function dataFile(rows) {
  const files = new Set(rows.map((row) => String(row.source ?? "").replace(/:\d+$/, "")).filter(Boolean));
  return files.size === 1 ? [...files][0] : "DATA";
}

function cleanedFile(data) {
  const [, stem, suffix] = /^(.*?)((?:\.\w+){0,2})$/.exec(data.split("/").at(-1));
  return `${stem}-cleaned${suffix}`;
}

// The words to judge by: the span, or the top-scoring word of the first row.
export function judgedWords({ span, rows = [] }) {
  if (span) return span;
  const tokens = rows.length ? markTopWord(toPieces(rows[0].tokens, "score")) : [];
  return tokens.filter(({ top }) => top).map(({ text }) => text).join("").trim();
}

function commands({ query }) {
  const data = dataFile(query.rows ?? []);
  const rows = view.selected.size ? " --rows rows.txt" : view.causes.length ? " --rows verdicts.csv" : "";
  const words = judgedWords(query);
  const judge = words ? shellQuote(`phrase:${words}`) : "JUDGE";
  return [
    `taughtby clean trace.json ${shellQuote(data)}${rows} -o ${shellQuote(cleanedFile(data))}`,
    `taughtby retrain trace.json ${shellQuote(data)}${rows} --prompts prompts.txt --judge ${judge} -o retrained`,
  ];
}

// What the commands remove: the selected rows, else those judged to be the cause, else the flagged ones.
export function removedRows(entry) {
  const [ids, kind] = view.selected.size ? [[...view.selected.keys()], "selected row"]
    : view.causes.length ? [view.causes, "cause"] : [entry?.query.flagged_ids ?? [], "flagged row"];
  return { ids, name: ids.length === 1 ? `the ${kind}` : `the ${plural(ids.length, kind)}` };
}

function commandItem(command) {
  const copy = button("Copy", async () => {
    try {
      await navigator.clipboard.writeText(command);
      announce("Copied");
      copy.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(copy.previousSibling);
      announce("Selected; copy it with Ctrl+C");
    }
  });
  return el("li", {}, el("code", {}, command), copy);
}

export function drawCommands() {
  const entry = view.entry;
  byId("next").hidden = !entry || Boolean(entry.members);
  if (byId("next").hidden) return;
  const files = ["trace.json", ...(view.selected.size ? ["rows.txt (the ids)"] : view.causes.length ? ["verdicts.csv"] : [])];
  byId("next-files").textContent = `Save first: ${files.join(" and ")}. prompts.txt has prompts that elicit the behaviour, one a line.`;
  byId("commands").replaceChildren(...commands(entry).map(commandItem));
  document.dispatchEvent(new Event("commandschange"));
}

export function wireCommands() {
  byId("save-trace").addEventListener("click", () =>
    download("trace.json", new Blob([JSON.stringify(view.entry.trace)], { type: "application/json" })));
  document.addEventListener("entrychange", drawCommands);
  document.addEventListener("rowselection", drawCommands);
}
