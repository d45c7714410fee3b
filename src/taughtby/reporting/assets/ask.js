// The served page: ask the model, trace a phrase, browse the training set, save.
import { shorten, button, byId, download, el, plural, announce, visible } from "./text.js";
import { codePoints, toPieces } from "./words.js";
import { savedLocation, view } from "./view.js";
import { drawLayerRanks } from "./figures.js";
import { drawMap } from "./map.js";
import { wireBrowser } from "./browser.js";
import { call, errorText, get, showError } from "./requests.js";
import { showTab } from "./tabs.js";
import { delay, runJob, wireJobs } from "./jobs.js";
import { wireCleaning } from "./cleaning.js";
import { wireRetraining } from "./retraining.js";
import { wireVerdicts } from "./verdicts.js";
import { addTraces, choose, start } from "./page.js";

async function onComputeLayers() {
  const entry = view.entry;
  const job = await runJob(`api/jobs/${entry.key}/layers`);
  if (!job) return;
  entry.query.layer_ranks = job.result.queries[0].layer_ranks;
  drawLayerRanks();
}

// Trace, and compare the result with the current answer if both have the same prompt.
async function traceAndShow(path, body) {
  const before = view.entry;
  const job = await runJob(path, { ...body, ...settings() });
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

// — the current answer: edit it, trace a phrase of it, save its trace

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

// The links between the tokens of a saved trace; null if they could not be computed.
async function linkTokens(documents, trace) {
  const number = documents.indexOf(trace);
  const job = number < 0 ? null : await runJob(`api/documents/${number}/links`, undefined, "Linking words");
  job?.result.links.forEach((lists, q) => lists.forEach((links, at) => { trace.queries[q].rows[at].links = links; }));
  return job;
}

// — start of the page

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

// The traces that the URL names, if the server still has them.
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
  wireJobs();
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

// The actions on the current answer.
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
  wireCleaning(state, documents);
  view.linkTokens = (trace) => linkTokens(documents, trace);
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
  if (tab === "map" && view.tab === "rows") showTab("map"); // the tab that the URL names exists only now
  for (let current = state; ["waiting", "running"].includes(current.loading.state);) {
    await delay(1000);
    current = await get("api/state");
    drawIndexInfo(current);
  }
  wireRetraining(); // reads the recipe, which would slow the first view down
}

begin().catch(showError);
