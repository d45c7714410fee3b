// The served page: ask the model, trace a phrase, browse the training set, save.
import { shorten, button, byId, count, download, el, plural, announce, visible } from "./text.js";
import { codePoints, toPieces } from "./words.js";
import { savedLocation, view } from "./view.js";
import { drawLayerRanks } from "./figures.js";
import { drawMap } from "./map.js";
import { wireBrowser } from "./browser.js";
import { call, errorText, get, showError } from "./requests.js";
import { showTab } from "./tabs.js";
import { wireVerdicts } from "./verdicts.js";
import { addTraces, choose, start } from "./page.js";

// — jobs

let running = null; // {id, cancel}: the job that this page waits for

function drawJob(job) {
  byId("job").hidden = !job;
  if (!job) return;
  const [label, bar] = [byId("job").querySelector("p"), byId("job").querySelector("progress")];
  const steps = job.of ? `: ${count(job.done)} of ${count(job.of)}` : "";
  label.textContent = job.state === "waiting" ? `${plural(job.ahead, "question")} before yours` : `${job.stage || "starting"}${steps}`;
  if (job.of) [bar.max, bar.value] = [job.of, job.done];
  else bar.removeAttribute("value");
}

const delay = (time) => new Promise((done) => { setTimeout(done, time); });

// Submit a job and wait for it; null if it was cancelled or failed, which is shown.
async function ask(path, body) {
  showError(null);
  if (running) return null;
  try {
    let job = await (await call("POST", path, body)).json();
    const cancelled = new Promise((resolve) => { running = { id: job.id, cancel: () => resolve({ state: "cancelled" }) }; });
    announce("Tracing");
    for (let wait = 100; job.state === "waiting" || job.state === "running"; wait = Math.min(1000, wait * 1.3)) {
      drawJob(job);
      const { id } = job;
      const next = delay(wait).then(() => (running?.id === id ? get(`api/jobs/${id}`) : null)); // none once cancelled
      next.catch(() => {}); // its error is shown unless the job was cancelled
      job = await Promise.race([next, cancelled]);
    }
    if (job.state === "failed") throw new Error(errorText(job.error));
    return job.state === "done" ? job : null;
  } catch (error) {
    showError(error);
    return null;
  } finally {
    running = null;
    drawJob(null);
  }
}

// The page stops waiting at once; the work ends when it next reports its progress.
function onCancel() {
  if (!running) return;
  call("DELETE", `api/jobs/${running.id}`).catch(showError);
  running.cancel();
  announce("Cancelled");
}

async function onComputeLayers() {
  const entry = view.entry;
  const job = await ask(`api/jobs/${entry.key}/layers`);
  if (!job) return;
  entry.query.layer_ranks = job.result.queries[0].layer_ranks;
  drawLayerRanks();
}

// Trace, and compare the result with the answer on show if both have the same prompt.
async function traceAndShow(path, body) {
  const before = view.entry;
  const job = await ask(path, { ...body, ...settings() });
  if (!job) return;
  const [entry] = addTraces([[job.result, job.id]]);
  const samePrompt = before && !before.members && before.query.prompt === entry.query.prompt;
  view.compared = samePrompt ? before : null;
  view.tab = samePrompt ? "compare" : "rows";
  byId("ask").open = false;
  choose(entry);
}

const settings = () => ({ method: byId("method").value || null, top: byId("top").valueAsNumber || 20 });
const contextOf = ({ before = [], after = [] }) => {
  const turns = (list) => list.map(({ role, content }) => ({ role, content }));
  return { before: turns(before), after: turns(after) };
};

function onAsk(event) {
  event.preventDefault();
  const [prompt, response, desired] = ["prompt", "response", "desired"].map((name) => byId(name).value);
  if (!response.trim()) return traceAndShow("api/ask", { prompt });
  const context = edited && edited.query.prompt === prompt ? contextOf(edited.query) : {};
  return traceAndShow("api/trace", { prompt, response, desired: desired.trim() ? desired : null, ...context });
}

// — the answer on show: edit it, trace a phrase of it, save its trace

let edited = null; // the entry whose answer is in the form

function onEdit() {
  edited = view.entry;
  for (const name of ["prompt", "response", "desired"]) byId(name).value = edited.query[name] ?? "";
  byId("ask").open = true;
  byId("ask").scrollIntoView({ block: "start" });
  byId("response").focus();
  announce("The answer can be edited");
}

// The characters of the answer that are selected, [begin, end) in code points; null if none are.
function selectionRange() {
  const selection = document.getSelection();
  const answer = byId("answer-text")?.querySelector(".text");
  const { query } = view.entry ?? {};
  if (!answer || !selection.rangeCount || selection.isCollapsed || query?.answer_begin == null) return null;
  if (!answer.contains(selection.anchorNode) || !answer.contains(selection.focusNode)) return null;
  const [range, before] = [selection.getRangeAt(0), document.createRange()];
  before.setStart(answer, 0);
  before.setEnd(range.startContainer, range.startOffset);
  const offset = before.toString().length;
  const list = toPieces(query.answer, "weight");
  const ends = [offset, offset + range.toString().length].map((end) => codePoints(list, end) + query.answer_begin);
  const letters = [...query.response];
  const [begin, end] = ends.map((at) => Math.max(0, Math.min(letters.length, at)));
  return letters.slice(begin, end).join("").trim() ? [begin, end] : null;
}

let selectedRange = null; // the selected characters of the answer

function onSelect() {
  selectedRange = selectionRange();
  byId("trace-phrase").hidden = !selectedRange;
  const text = selectedRange ? [...view.entry.query.response].slice(...selectedRange).join("") : "";
  byId("trace-phrase").textContent = `Trace “${shorten(text, 40)}” alone`;
}

function onPhrase() {
  const { query } = view.entry ?? {};
  if (!selectedRange || byId("trace-phrase").hidden) return undefined;
  return traceAndShow("api/trace", { prompt: query.prompt, response: query.response, span_range: selectedRange, ...contextOf(query) });
}

async function onSave() {
  try {
    download("taughtby.html", await (await call("GET", `api/jobs/${view.entry.key}/page`)).blob());
  } catch (error) {
    showError(error);
  }
}

async function onClean() {
  showError(null);
  try {
    const response = await call("POST", "api/clean", { rows: [...view.selected.keys()] });
    const filename = /filename(?:\*=utf-8''|=")([^";]+)/.exec(response.headers.get("content-disposition") ?? "");
    download(filename ? decodeURIComponent(filename[1]) : "cleaned", await response.blob());
  } catch (error) {
    showError(error);
  }
}

// — begin

function drawIndexInfo({ num_rows: rows, model, adapter, loading }) {
  byId("index-info").textContent = `${plural(rows, "training row")} by ${visible(model)}${adapter ? ` with ${[adapter].flat().map(visible).join(", ")}` : ""}.`
    + (loading.state === "done" || loading.error ? "" : " The model is being loaded; a question waits for it.");
  if (loading.error) showError(new Error(`The model could not be loaded: ${errorText(loading.error)}`));
}

// Prompts of a few rows, to start with on a page without a trace.
function drawExamples(prompts) {
  const use = (prompt) => {
    byId("prompt").value = prompt;
    byId("prompt").focus();
  };
  byId("examples").hidden = Boolean(view.entry) || !prompts.length;
  byId("examples").append(...prompts.map((prompt) => button(shorten(prompt, 80), () => use(prompt))));
}

// The traces that the address names, while the server keeps them.
async function linkedTraces() {
  const { answer, with: compared } = savedLocation();
  const keys = [...new Set([answer, compared])].filter((key) => key && !/^(\d+|incident-\d+)$/.test(key));
  const jobs = await Promise.all(keys.map((key) => get(`api/jobs/${encodeURIComponent(key)}`).catch(showError)));
  return jobs.filter((job) => job?.result).map((job) => [job.result, job.id]);
}

function wire() {
  byId("ask").querySelector("form").addEventListener("submit", onAsk);
  byId("edit").addEventListener("click", onEdit);
  byId("trace-phrase").addEventListener("click", onPhrase);
  byId("compute-layers").addEventListener("click", onComputeLayers);
  byId("save-page").addEventListener("click", onSave);
  byId("clean").addEventListener("click", onClean);
  byId("job").querySelector("button").addEventListener("click", onCancel);
  byId("ask").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("ask").querySelector("form").requestSubmit();
  });
  document.addEventListener("selectionchange", onSelect);
  document.addEventListener("keydown", (event) => {
    if (event.key === "t" && !event.ctrlKey && !event.metaKey && !event.altKey
      && !document.activeElement?.matches("input, textarea, select")) onPhrase();
  });
  document.addEventListener("entrychange", drawActions);
}

// The actions on the answer on show.
function drawActions() {
  const single = Boolean(view.entry) && !view.entry.members;
  byId("edit").hidden = !single;
  byId("save-page").hidden = !single || /^\d+$/.test(view.entry.key); // a saved trace is a file already
  onSelect();
}

async function begin() {
  const { tab } = savedLocation();
  const requests = [get("api/state"), get("api/documents"), linkedTraces(), wireVerdicts()];
  const [state, documents, traces] = await Promise.all(requests);
  drawIndexInfo(state);
  byId("method").replaceChildren(...state.methods.map((name) => el("option", { value: name }, visible(name))));
  const [first = { model: state.model, adapter: state.adapter, num_rows: state.num_rows }, ...more] = documents;
  byId("clean").hidden = !state.can_clean;
  wire();
  wireBrowser();
  start(first, [...more.map((trace) => [trace]), ...traces]);
  byId("ask").open = !view.entry;
  drawExamples(state.example_prompts);
  if (!view.entry) byId("verdict").textContent = "Enter a prompt above; the rows attributed to the answer appear here.";
  drawActions();
  view.map = await get("api/map");
  drawMap();
  byId("tab-map").hidden = byId("map").hidden && byId("layer-ranks").hidden;
  if (tab === "map" && view.tab === "rows") showTab("map"); // the address names it, and it is there from now on
  for (let current = state; ["waiting", "running"].includes(current.loading.state);) {
    await delay(1000);
    current = await get("api/state");
    drawIndexInfo(current);
  }
}

begin().catch(showError);
