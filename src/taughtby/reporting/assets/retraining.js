// Training without the rows of the answer and without as many random ones, to test whether they are the cause.
import { announce, byId, el, visible } from "./text.js";
import { view } from "./view.js";
import { drawTable } from "./about.js";
import { errorText, get, showError } from "./requests.js";
import { resumeJob, runJob } from "./jobs.js";
import { judgedWords, removedRows } from "./commands.js";

const field = (name) => byId(`retrain-${name}`);
let isEdited = false; // the user's own prompts and words stay when another answer is chosen

// The prompts of the current answer and of those that share a flagged row with it.
function promptsOf(entry) {
  const ids = new Set(entry.query.flagged_ids);
  const alike = view.entries.filter(({ query, trace }) => trace === entry.trace && query.flagged_ids?.some((id) => ids.has(id)));
  return [...new Set([entry, ...alike].map(({ query }) => query.prompt.replace(/\s+/g, " ").trim()))];
}

function drawForm() {
  const entry = view.entry;
  if (!entry || entry.members) return;
  const { ids, name } = removedRows(entry);
  field("run").disabled = !ids.length;
  field("run").textContent = ids.length ? `Retrain without ${name}` : "No row is selected or flagged";
  if (isEdited) return;
  field("prompts").value = promptsOf(entry).join("\n");
  field("words").value = judgedWords(entry.query);
}

function drawRecipe({ recipe, notes, refusal }) {
  byId("retrain").querySelector("form").hidden = Boolean(refusal);
  field("why").textContent = refusal ? errorText(refusal)
    : `Three trainings, of minutes to hours each: on all rows, without these, and without as many random ones. Questions wait until they are done.${notes.map((text) => ` ${visible(text)}.`).join("")}`;
  if (refusal) return;
  field("epochs").placeholder = recipe.epochs;
  field("rate").placeholder = recipe.learning_rate;
}

function drawResult(result) {
  if (!result) return;
  byId("retrained").replaceChildren(
    ...result.claims.map(({ verdict, finding }) => el("p", {}, el("strong", {}, visible(verdict)), `: ${visible(finding)}`)),
    ...result.tables.map(drawTable),
    el("p.hint", {}, `Models and answers are in ${visible(result.folder)}. `, el("a", { href: "api/retraining.json", download: "proof.json" }, "Download proof.json")));
  byId("retrain").open = true;
}

function finish(job) {
  if (!job) return;
  drawResult(job.result);
  announce("The retraining is done");
  byId("retrained").scrollIntoView({ block: "nearest" });
}

const numberOf = (name) => (field(name).value ? field(name).valueAsNumber : null);

async function onRetrain(event) {
  event.preventDefault();
  const prompts = field("prompts").value.split("\n").map((line) => line.trim()).filter(Boolean);
  const body = { rows: removedRows(view.entry).ids, prompts, words: field("words").value };
  finish(await runJob("api/retraining", { ...body, epochs: numberOf("epochs"), learning_rate: numberOf("rate") }, "Retraining"));
}

export async function wireRetraining() {
  byId("retrain").querySelector("form").addEventListener("submit", onRetrain);
  byId("retrain").addEventListener("input", () => { isEdited = true; });
  document.addEventListener("commandschange", drawForm);
  drawForm();
  try {
    const state = await get("api/retraining");
    drawRecipe(state);
    drawResult(state.result);
    byId("retrain").hidden = false;
    if (state.job) finish(await resumeJob(state.job, "Retraining"));
  } catch (error) {
    showError(error);
  }
}
