// What is on show. An entry is one answer with its rows: {key, query, trace}; `trace` is the document it came in.

export const view = {
  entries: [],
  chosen: null, // the entry on show
  beside: null, // the entry whose ranking stands beside it
  row: -1, // the row that the keys move from, counted among those on show
  rank: null, // and its rank
  ticked: new Map(), // rows by id
  map: null, // the training set as points, where it does not stand in the trace
};

export const entryOf = (key) => view.entries.find((entry) => entry.key === key) ?? null;

// A link restores the view: which answer, which row, what is compared.
export function keep() {
  const parts = new URLSearchParams();
  if (view.chosen) parts.set("answer", view.chosen.key);
  if (view.rank) parts.set("row", view.rank);
  if (view.beside) parts.set("with", view.beside.key);
  history.replaceState(null, "", `#${parts}`);
}

export const kept = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));

// Answers that share a culprit are one incident; the rows called for several of its answers are its common culprits.
export function incidents(entries) {
  const groups = entries.map((entry) => ({ members: [entry], called: new Set(calledIn(entry)) }));
  for (let at = 0; at < groups.length; at += 1) {
    for (let other = at + 1; other < groups.length; other += 1) {
      if ([...groups[other].called].some((id) => groups[at].called.has(id))) {
        groups[at].members.push(...groups[other].members);
        groups[other].called.forEach((id) => groups[at].called.add(id));
        groups.splice(other, 1);
        other = at; // what has grown may share a culprit with one passed over
      }
    }
  }
  return groups.map((group) => group.members);
}

export const nameOf = (row) => row.id ?? row.source;

// The ids of all culprits of an answer, also of those that are not among the rows shown.
function calledIn({ query }) {
  const shown = (query.rows ?? []).filter((row) => row.flagged === true).map(nameOf).filter(Boolean);
  return [...new Set([...(query.flagged_ids ?? []), ...shown])];
}

// Of a row that several answers show: whether this one calls it and the other does not, or scores it higher.
const outranks = (row, other) => !other || ((row.flagged === true) - (other.flagged === true) || row.score - other.score) > 0;

// The common culprits as an entry of their own: first those that are called for the most answers. Only those that
// some answer shows have a text, and stand among its rows; `called` has the ids of all.
export function together(members, number) {
  const calls = new Map();
  const best = new Map();
  for (const entry of members) {
    for (const id of calledIn(entry)) calls.set(id, (calls.get(id) ?? 0) + 1);
    for (const row of entry.query.rows ?? []) {
      if (outranks(row, best.get(nameOf(row)))) best.set(nameOf(row), row);
    }
  }
  const called = [...calls].filter(([, count]) => count > 1).map(([id]) => id);
  const rows = called.filter((id) => best.has(id)).map((id) => ({ row: best.get(id), count: calls.get(id) }))
    .sort((a, b) => b.count - a.count || b.row.score - a.row.score)
    .map(({ row, count }, at) => ({ ...row, flagged: true, rank: at + 1, calls: count, of: members.length, links: [] }));
  return { key: `incident-${number}`, members, trace: members[0].trace, query: { rows, flagged_ids: called, prompt: "", response: "" } };
}

// For each row the earlier one that it nearly repeats, if any: four fifths of their words in common.
export function repeats(rows) {
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
