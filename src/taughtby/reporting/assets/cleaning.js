// The training data without the rows of the answer: as a file on the server, or as a download.
import { announce, byId, count, download, plural, visible } from "./text.js";
import { view } from "./view.js";
import { call, showError } from "./requests.js";
import { runJob } from "./jobs.js";
import { removedRows } from "./commands.js";

let documents = []; // the saved traces of the server

// The trace that the manifest names: a saved one by its number, or the job that computed it.
function traceOf({ key, trace }) {
  const number = documents.indexOf(trace);
  return number >= 0 ? { document: number } : { job: key };
}

function drawCleaning() {
  const { ids, name } = removedRows(view.entry);
  byId("run-clean").disabled = !ids.length;
  byId("run-clean").textContent = ids.length ? `Clean now: remove ${name}` : "Clean now: no row is selected or flagged";
}

async function onRunClean() {
  const { ids } = removedRows(view.entry);
  byId("cleaned").hidden = true;
  const job = await runJob("api/jobs/clean", { rows: ids, ...traceOf(view.entry) }, "Cleaning");
  if (!job) return;
  const { data, manifest, records, removed } = job.result;
  byId("cleaned").textContent = `${plural(removed, "row")} removed, ${count(records)} left in ${visible(data)}. What was removed and why: ${visible(manifest)}`;
  byId("cleaned").hidden = false;
  announce("The cleaned data is written");
}

async function onDownload() {
  showError(null);
  try {
    const response = await call("POST", "api/clean", { rows: [...view.selected.keys()] });
    const filename = /filename(?:\*=utf-8''|=")([^";]+)/.exec(response.headers.get("content-disposition") ?? "");
    download(filename ? decodeURIComponent(filename[1]) : "cleaned", await response.blob());
  } catch (error) {
    showError(error);
  }
}

export function wireCleaning({ can_clean: canClean }, traces) {
  documents = traces;
  byId("clean").hidden = byId("run-clean").hidden = !canClean;
  byId("clean").addEventListener("click", onDownload);
  byId("run-clean").addEventListener("click", onRunClean);
  document.addEventListener("commandschange", drawCleaning);
  document.addEventListener("entrychange", () => { byId("cleaned").hidden = true; });
}
