// The state of the page. An entry is one query with its rows: {key, query, trace}; `trace` is its document.

export const view = {
  entries: [],
  entry: null, // the current entry
  compared: null, // the entry it is compared with
  row: -1, // the position of the focused row among those shown
  rank: null, // its rank
  selected: new Map(), // rows by id
  causes: [], // ids of the rows that the user judged to be the cause
  tab: "rows", // the current tab
  rowControls: () => null, // what a served page adds to a row
  linkTokens: async () => false, // computes the links that a saved trace lacks; null if that fails
  readRow: async () => null, // requests a row by its id; a file has the rows of its trace only
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

// How many texts there are, and in how many of them each word is.
function countWords(texts, cache) {
  const counts = new Map();
  for (const text of texts) {
    if (!cache.has(text)) cache.set(text, wordsOf(text));
    for (const word of cache.get(text)) counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  return { size: texts.length, of: (word) => counts.get(word) ?? 0 };
}

const ratio = (counted, size) => (size ? counted / size : 0);

// The words that name each incident: common in its answers and flagged rows, and rarer in all other texts; "" if there are none.
// The words of all texts are counted once; those of an incident are then subtracted.
export function incidentNames(groups, entries) {
  const cache = new Map();
  const responsesOf = (list, accepts = () => true) =>
    list.flatMap(({ query }) => (query.rows ?? []).filter(accepts).map((row) => row.messages?.at(-1)?.content));
  const answersOf = (list) => list.map(({ query }) => query.response);
  const all = countWords([...responsesOf(entries), ...answersOf(entries)], cache);
  return groups.map((members) => {
    const rows = countWords(responsesOf(members, (row) => row.flagged === true), cache);
    const answers = countWords(answersOf(members), cache);
    const score = (word) => ratio(rows.of(word), rows.size) * ratio(answers.of(word), answers.size)
      - ratio(all.of(word) - rows.of(word) - answers.of(word), all.size - rows.size - answers.size);
    const first = [...wordsOf(members[0].query.response)];
    const scores = first.map((word) => [word, score(word)]);
    const most = Math.max(0.2, ...scores.map(([, value]) => value));
    const best = scores.filter(([, value]) => value >= 0.7 * most).sort((a, b) => b[1] - a[1]).slice(0, 3).map(([word]) => word);
    return first.filter((word) => best.includes(word)).join(" ");
  });
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
