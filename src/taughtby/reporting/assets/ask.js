// What only the served page can do: ask the model, trace a phrase, read the whole training set, save.
import { brief, byId, count, download, el, many, say, visible } from "./text.js";
import { codePoints, pieces } from "./words.js";
import { savedLocation, view } from "./view.js";
import { drawDepths, drawMap } from "./figures.js";
import { add, choose, start } from "./page.js";

// — the server: an answer, or its mistake in words

async function call(method, path, body) {
  let answer;
  try {
    answer = await fetch(path, {
      method, headers: body ? { "content-type": "application/json" } : {}, body: body && JSON.stringify(body),
    });
  } catch {
    throw new Error("The server does not respond. Is `taughtby serve` still running?");
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({ what: `The server answered ${answer.status}`, do: "try again" }));
  throw new Error(inWords(told));
}

const get = async (path) => (await call("GET", path)).json();
const inWords = ({ what, got, do: mend }) => `${what}${got ? ` (${got})` : ""}. To fix it: ${mend}.`;

function fail(fault) {
  byId("fault").textContent = fault ? visible(fault.message) : "";
  byId("fault").hidden = !fault;
  if (fault) byId("fault").scrollIntoView({ block: "nearest" });
}

// — jobs

let running = null; // the job that this page waits for

function drawJob(job) {
  byId("job").hidden = !job;
  if (!job) return;
  const [told, bar] = [byId("job").querySelector("p"), byId("job").querySelector("progress")];
  const far = job.of ? `: ${count(job.done)} of ${count(job.of)}` : "";
  told.textContent = job.state === "waiting" ? `${many(job.ahead, "question")} before yours` : `${job.stage || "beginning"}${far}`;
  if (job.of) [bar.max, bar.value] = [job.of, job.done];
  else bar.removeAttribute("value");
}

const pause = (time) => new Promise((done) => { setTimeout(done, time); });

// Ask, wait, and give what came of it; null where it was cancelled or went wrong, which is said.
async function ask(path, question) {
  fail(null);
  if (running) return null;
  try {
    let job = await (await call("POST", path, question)).json();
    running = job.id;
    say("Tracing");
    for (let wait = 100; job.state === "waiting" || job.state === "running"; wait = Math.min(1000, wait * 1.3)) {
      drawJob(job);
      await pause(wait);
      job = await get(`api/jobs/${job.id}`);
    }
    if (job.state === "failed") throw new Error(inWords(job.error));
    return job.state === "done" ? job : null;
  } catch (fault) {
    fail(fault);
    return null;
  } finally {
    running = null;
    drawJob(null);
  }
}

async function onDeepen() {
  const entry = view.chosen;
  const job = await ask(`api/jobs/${entry.key}/depths`);
  if (!job) return;
  entry.query.depths = job.result.queries[0].depths;
  drawDepths();
}

// Trace a question about the answer on show, and set both side by side.
async function askAnother(path, question) {
  const before = view.chosen;
  const job = await ask(path, { ...question, ...settings() });
  if (!job) return;
  const [entry] = add(job.result, job.id);
  const same = before && !before.members && before.query.prompt === entry.query.prompt;
  view.beside = same ? before : null;
  choose(entry);
}

const settings = () => ({ method: byId("method").value || null, top: byId("top").valueAsNumber || 20 });
const around = ({ before = [], after = [] }) => {
  const turns = (list) => list.map(({ role, content }) => ({ role, content }));
  return { before: turns(before), after: turns(after) };
};

function onAsk(event) {
  event.preventDefault();
  const [prompt, response, desired] = ["prompt", "response", "desired"].map((name) => byId(name).value);
  if (!response.trim()) return askAnother("api/ask", { prompt });
  const kept = edited && edited.query.prompt === prompt ? around(edited.query) : {};
  return askAnother("api/trace", { prompt, response, desired: desired.trim() ? desired : null, ...kept });
}

// — the answer on show: edit it, trace a phrase of it, save its trace

let edited = null; // the entry whose answer is in the form

function onEdit() {
  edited = view.chosen;
  for (const name of ["prompt", "response", "desired"]) byId(name).value = edited.query[name] ?? "";
  byId("ask").scrollIntoView({ block: "start" });
  byId("response").focus();
  say("The answer can be edited");
}

// The characters of the answer that are selected, [begin, end) in code points; null where none are.
function selected() {
  const selection = document.getSelection();
  const answer = byId("said")?.querySelector(".said");
  const { query } = view.chosen ?? {};
  if (!answer || !selection.rangeCount || selection.isCollapsed || query?.answer_begin == null) return null;
  if (!answer.contains(selection.anchorNode) || !answer.contains(selection.focusNode)) return null;
  const [range, before] = [selection.getRangeAt(0), document.createRange()];
  before.setStart(answer, 0);
  before.setEnd(range.startContainer, range.startOffset);
  const shown = before.toString().length;
  const list = pieces(query.answer, "weight");
  const places = [shown, shown + range.toString().length].map((place) => codePoints(list, place) + query.answer_begin);
  const letters = [...query.response];
  const [begin, end] = places.map((place) => Math.max(0, Math.min(letters.length, place)));
  return letters.slice(begin, end).join("").trim() ? [begin, end] : null;
}

let pointed = null; // what is selected

function onSelect() {
  pointed = selected();
  byId("phrase").hidden = !pointed;
  const text = pointed ? [...view.chosen.query.response].slice(...pointed).join("") : "";
  byId("phrase").textContent = `Trace “${brief(text, 40)}” alone`;
}

function onPhrase() {
  const { query } = view.chosen ?? {};
  if (!pointed || byId("phrase").hidden) return undefined;
  return askAnother("api/trace", { prompt: query.prompt, response: query.response, span_range: pointed, ...around(query) });
}

async function onSave() {
  try {
    download("taughtby.html", await (await call("GET", `api/jobs/${view.chosen.key}/page`)).blob());
  } catch (fault) {
    fail(fault);
  }
}

async function onClean() {
  fail(null);
  try {
    const answer = await call("POST", "api/clean", { rows: [...view.selected.keys()] });
    const named = /filename(?:\*=utf-8''|=")([^";]+)/.exec(answer.headers.get("content-disposition") ?? "");
    download(named ? decodeURIComponent(named[1]) : "cleaned", await answer.blob());
  } catch (fault) {
    fail(fault);
  }
}

// — the training set, a page at a time

const SIZE = 20;
let leaf = { start: 0, count: 0, find: "" };

function drawLeaf(found) {
  leaf = { ...leaf, start: found.start, count: found.count };
  const last = Math.min(found.start + SIZE, found.count);
  byId("sought").textContent = found.count
    ? `${count(found.start + 1)} to ${count(last)} of ${many(found.count, "row")}${leaf.find ? ` with “${brief(leaf.find, 40)}”` : ""}.`
    : `No row has “${brief(leaf.find, 40)}”.`;
  byId("back").disabled = found.start === 0;
  byId("on").disabled = last >= found.count;
  byId("leaf").replaceChildren(...found.rows.map((row) => el("li", {},
    el("p.about", {}, row.label == null ? null : el("span.chip", {}, visible(row.label)), el("span.source", {}, visible(row.source))),
    ...(row.messages ?? []).map((message) => el("p.said", { dir: "auto" }, brief(message.content, 300))))));
}

async function turnTo(at) {
  try {
    const asked = new URLSearchParams({ start: Math.max(0, at), size: SIZE, find: leaf.find });
    drawLeaf(await get(`api/rows?${asked}`));
  } catch (fault) {
    fail(fault);
  }
}

// — begin

function about({ count: rows, model, adapter, loading }) {
  byId("about").textContent = `${many(rows, "training row")} by ${visible(model)}${adapter ? ` with ${[adapter].flat().map(visible).join(", ")}` : ""}.`
    + (loading.state === "done" || loading.error ? "" : " The model is being loaded; a question waits for it.");
  if (loading.error) fail(new Error(`The model could not be loaded: ${inWords(loading.error)}`));
}

// The traces that a link names, as long as the server remembers them.
async function recalled() {
  const { answer, with: beside } = savedLocation();
  const keys = [...new Set([answer, beside])].filter((key) => key && !/^(\d+|incident-\d+)$/.test(key));
  const jobs = await Promise.all(keys.map((key) => get(`api/jobs/${encodeURIComponent(key)}`).catch(fail)));
  return jobs.filter((job) => job?.result).map((job) => [job.result, job.id]);
}

function wire() {
  byId("ask").querySelector("form").addEventListener("submit", onAsk);
  byId("edit").addEventListener("click", onEdit);
  byId("phrase").addEventListener("click", onPhrase);
  byId("deepen").addEventListener("click", onDeepen);
  byId("save").addEventListener("click", onSave);
  byId("clean").addEventListener("click", onClean);
  byId("job").querySelector("button").addEventListener("click", () => running && call("DELETE", `api/jobs/${running}`).catch(fail));
  document.addEventListener("selectionchange", onSelect);
  document.addEventListener("keydown", (event) => {
    if (event.key === "t" && !event.ctrlKey && !event.metaKey && !event.altKey
      && !document.activeElement?.matches("input, textarea, select")) onPhrase();
  });
  document.addEventListener("chosen", drawActs);
  byId("shelf").addEventListener("toggle", () => byId("leaf").hasChildNodes() || turnTo(0));
  byId("shelf").querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    leaf = { ...leaf, find: byId("seek").value.trim() };
    turnTo(0);
  });
  byId("back").addEventListener("click", () => turnTo(leaf.start - SIZE));
  byId("on").addEventListener("click", () => turnTo(leaf.start + SIZE));
}

// What can be done with the answer on show.
function drawActs() {
  const single = Boolean(view.chosen) && !view.chosen.members;
  byId("edit").hidden = !single;
  byId("save").hidden = !single || /^\d+$/.test(view.chosen.key); // that one is a file already
  onSelect();
}

async function begin() {
  const [state, documents, traces] = await Promise.all([get("api/state"), get("api/documents"), recalled()]);
  about(state);
  byId("method").replaceChildren(...state.methods.map((name) => el("option", { value: name }, visible(name))));
  const [first = { model: state.model, adapter: state.adapter, num_rows: state.num_rows }, ...more] = documents;
  byId("clean").hidden = !state.cleans;
  wire();
  start(first, [...more.map((trace) => [trace]), ...traces]);
  if (!view.chosen) byId("shown").textContent = "Enter a prompt above; the rows attributed to the answer appear here.";
  drawActs();
  view.map = await get("api/map");
  drawMap();
  for (let seen = state; ["waiting", "running"].includes(seen.loading.state);) {
    await pause(1000);
    seen = await get("api/state");
    about(seen);
  }
}

begin().catch(fail);
