// The state of the page. An entry is one query with its rows: {key, query, trace}; `trace` is its document.

export const view = {
  entries: [],
  entry: null, // the entry on show
  compared: null, // the entry it is compared with
  row: -1, // the position of the focused row among those shown
  rank: null, // its rank
  selected: new Map(), // rows by id
  tab: "rows", // the tab on show
  rowControls: () => null, // what a served page adds to a row
  onSelection: () => {}, // called when rows are selected
  map: null, // the map of the training set, if the trace has none
};

export const entryOf = (key) => view.entries.find((entry) => entry.key === key) ?? null;

// A link restores the view: which answer, which row, what is compared.
export function saveLocation() {
  const parts = new URLSearchParams();
  if (view.entry) parts.set("answer", view.entry.key);
  if (view.rank) parts.set("row", view.rank);
  if (view.compared) parts.set("with", view.compared.key);
  if (view.tab !== "rows") parts.set("tab", view.tab);
  history.replaceState(null, "", `#${parts}`);
}

export const savedLocation = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));

// Queries that share a flagged row are one incident, as in reporting/incidents.py. Rows flagged for several of its queries are its shared rows.
export function incidents(entries) {
  const groups = entries.map((entry) => ({ members: [entry], flagged: new Set(flaggedIds(entry)) }));
  for (let at = 0; at < groups.length; at += 1) {
    for (let other = at + 1; other < groups.length; other += 1) {
      if ([...groups[other].flagged].some((id) => groups[at].flagged.has(id))) {
        groups[at].members.push(...groups[other].members);
        groups[other].flagged.forEach((id) => groups[at].flagged.add(id));
        groups.splice(other, 1);
        other = at; // the merged group may share a row with one that was compared before
      }
    }
  }
  return groups.map((group) => group.members);
}

const wordsOf = (text) => new Set(String(text ?? "").toLowerCase().match(/[\p{L}\p{M}\p{N}]{3,}/gu) ?? []);
const responseOf = (row) => row.messages?.at(-1)?.content;
const shareOf = (sets, word) => (sets.length ? sets.filter((words) => words.has(word)).length / sets.length : 0);

// The words that name an incident: common in its answers and flagged rows, and rarer in all other texts; "" if there are none.
export function incidentName(members, entries) {
  const rowsOf = (list, flagged) => list.flatMap(({ query }) => (query.rows ?? []).filter((row) => (row.flagged === true) === flagged));
  const others = entries.filter((entry) => !members.includes(entry));
  const rows = rowsOf(members, true).map((row) => wordsOf(responseOf(row)));
  const answers = members.map(({ query }) => wordsOf(query.response));
  const outside = [...rowsOf(entries, false), ...rowsOf(others, true)].map(responseOf)
    .concat(others.map(({ query }) => query.response)).map(wordsOf);
  const first = [...answers[0]];
  const scores = first.map((word) => [word, shareOf(rows, word) * shareOf(answers, word) - shareOf(outside, word)]);
  const most = Math.max(0.2, ...scores.map(([, score]) => score));
  const best = scores.filter(([, score]) => score >= 0.7 * most).sort((a, b) => b[1] - a[1]).slice(0, 3).map(([word]) => word);
  return first.filter((word) => best.includes(word)).join(" ");
}

export const idOf = (row) => row.id ?? row.source;

// The ids of all flagged rows of a query, shown or not.
function flaggedIds({ query }) {
  const shown = (query.rows ?? []).filter((row) => row.flagged === true).map(idOf).filter(Boolean);
  return [...new Set([...(query.flagged_ids ?? []), ...shown])];
}

// Of one row in two rankings: whether this one flags it and the other does not, or scores it higher.
const outranks = (row, other) => !other || ((row.flagged === true) - (other.flagged === true) || row.score - other.score) > 0;

// The shared rows of an incident as an entry, those flagged for the most queries first. `flagged_ids` has all of them;
// `rows` has those whose text some query shows.
export function sharedRows(members, number) {
  const counts = new Map();
  const best = new Map();
  for (const entry of members) {
    for (const id of flaggedIds(entry)) counts.set(id, (counts.get(id) ?? 0) + 1);
    for (const row of entry.query.rows ?? []) {
      if (outranks(row, best.get(idOf(row)))) best.set(idOf(row), row);
    }
  }
  const flagged_ids = [...counts].filter(([, count]) => count > 1).map(([id]) => id);
  const rows = flagged_ids.filter((id) => best.has(id)).map((id) => ({ row: best.get(id), count: counts.get(id) }))
    .sort((a, b) => b.count - a.count || b.row.score - a.row.score)
    .map(({ row, count }, at) => ({ ...row, flagged: true, rank: at + 1, flagged_for: count, of: members.length, links: [] }));
  return { key: `incident-${number}`, members, trace: members[0].trace, query: { rows, flagged_ids, prompt: "", response: "" } };
}

// For each row the position of the first row with at least four fifths of the same words.
export function nearDuplicates(rows) {
  const sets = rows.map((row) => new Set((row.messages ?? []).map((message) => String(message.content ?? "").slice(0, 5000))
    .join(" ").toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? []));
  const first = rows.map((_, at) => at);
  for (let at = 1; at < rows.length; at += 1) {
    for (let before = 0; before < at; before += 1) {
      if (first[before] !== before) continue;
      const both = [...sets[at]].filter((word) => sets[before].has(word)).length;
      const all = sets[at].size + sets[before].size - both;
      if (all && both / all >= 0.8) {
        first[at] = before;
        break;
      }
    }
  }
  return first;
}
