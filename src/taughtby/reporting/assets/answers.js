// The list of answers: grouped by incident, or sorted; filtered by words and by verdict.
import { byId, count, el, plural, shorten, visible } from "./text.js";
import { incidentNames, incidents, sharedRows, view } from "./view.js";

const FEWEST = 4; // from this many answers on, the list can be sorted and filtered

let groups = []; // the answers of each incident
let names = []; // of the incidents
let shared = []; // the shared flagged rows of each incident with several answers, as an entry
let listed = []; // the answers in the order of the list

export const sharedEntry = (key) => shared.find((entry) => entry?.key === key) ?? null;
export const listedEntries = () => listed;

const methodOf = ({ trace }) => (typeof trace.method === "string" ? trace.method : trace.method?.name) ?? "";

function shortVerdict({ increased_by_finetuning: increased, num_flagged: flagged }) {
  if (increased === false) return "not from fine-tuning";
  if (flagged == null) return "no flags";
  return flagged ? `${count(flagged)} flagged` : "none flagged";
}

const FILTERS = {
  "all answers": () => true,
  "flagged": ({ query }) => query.num_flagged > 0,
  "none flagged": ({ query }) => query.num_flagged === 0,
  "no flags": ({ query }) => query.num_flagged == null,
};
const textOf = ({ query }) => `${query.prompt ?? ""}\n${query.response ?? ""}\n${query.span ?? ""}`.toLowerCase();
const byText = (get) => (a, b) => get(a).localeCompare(get(b));
const ORDERS = {
  "by incident": null,
  "most flagged first": (a, b) => (b.query.num_flagged ?? -1) - (a.query.num_flagged ?? -1),
  "by verdict": byText(({ query }) => shortVerdict(query).replace(/^[\d,]+ /, "")),
  "by answer": byText(({ query }) => query.response ?? ""),
  "by prompt": byText(({ query }) => query.prompt ?? ""),
  "by method": byText(methodOf),
  "by span": byText(({ query }) => query.span ?? ""),
};

function item(entry, title, detail, chips, choose) {
  const node = el("button", { type: "button", "data-key": entry.key }, el("span", {}, title), el("small", {}, detail),
    chips.length ? el("span.chips", {}, chips) : null);
  node.addEventListener("click", () => choose(entry));
  return el("li", {}, node);
}

function answerItem(entry, choose) {
  const { query } = entry;
  const verdict = el(query.num_flagged ? "span.chip.flagged" : "span.chip", {}, shortVerdict(query));
  const chips = [verdict, el("span", {}, visible(methodOf(entry))), query.span ? el("span", {}, `span “${shorten(query.span, 40)}”`) : null];
  return item(entry, shorten(query.response, 200), shorten(query.prompt, 200), chips.filter(Boolean), choose);
}

function incidentItems(members, at, choose) {
  const entry = shared[at];
  const several = groups.length > 1 && groups.some((group) => group.length > 1);
  const name = names[at];
  const heading = `${name ? `“${shorten(name, 60)}”` : `Incident ${at + 1}`}: ${plural(members.length, "answer")}`;
  return [
    several ? el("li.incident", {}, heading) : null,
    entry ? item(entry, "Shared flagged rows",
      `${plural(entry.query.flagged_ids.length, "row")} flagged for several of ${members.length} answers`, [], choose) : null,
    ...members.map((member) => answerItem(member, choose)),
  ].filter(Boolean);
}

// Group the answers; called when answers are added.
export function groupAnswers() {
  groups = incidents(view.entries);
  names = incidentNames(groups, view.entries);
  shared = groups.map((members, at) => {
    const entry = members.length > 1 ? sharedRows(members, at + 1) : null;
    return entry?.query.flagged_ids.length ? entry : null;
  });
}

export function drawAnswers(choose) {
  const needle = byId("filter-answers").value.trim().toLowerCase();
  const accepts = FILTERS[byId("filter-verdict").value] ?? FILTERS["all answers"];
  const order = ORDERS[byId("sort-answers").value];
  const matches = (entry) => accepts(entry) && textOf(entry).includes(needle);
  const isAll = !needle && accepts === FILTERS["all answers"];
  listed = (order ? [...view.entries].sort(order) : groups.flat()).filter(matches);
  const items = order || !isAll ? listed.map((entry) => answerItem(entry, choose))
    : groups.flatMap((members, at) => incidentItems(members, at, choose));
  byId("queries").hidden = view.entries.length < 2;
  byId("queries").querySelector(".tools").hidden = view.entries.length < FEWEST;
  byId("queries").querySelector("ol").replaceChildren(...items);
  byId("num-answers").textContent = isAll ? String(view.entries.length) : `${listed.length} of ${view.entries.length}`;
  markCurrent();
}

export function markCurrent() {
  for (const node of byId("queries").querySelectorAll("button[data-key]")) {
    if (node.dataset.key === view.entry?.key) node.setAttribute("aria-current", "true");
    else node.removeAttribute("aria-current");
  }
}

export function wireAnswers(choose) {
  byId("queries").open = byId("curve").open = matchMedia("(min-width: 60rem)").matches;
  byId("sort-answers").replaceChildren(...Object.keys(ORDERS).map((name) => el("option", {}, name)));
  byId("filter-verdict").replaceChildren(...Object.keys(FILTERS).map((name) => el("option", {}, name)));
  for (const id of ["filter-answers", "sort-answers", "filter-verdict"]) {
    byId(id).addEventListener("input", () => drawAnswers(choose));
  }
}
