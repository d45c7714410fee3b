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
  const groups = entries.map((entry) => ({ members: [entry], called: new Set(calledIn(entry).map(nameOf)) }));
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

const calledIn = (entry) => (entry.query.rows ?? []).filter((row) => row.culprit === true && nameOf(row));
export const nameOf = (row) => row.id ?? row.source;

// The common culprits as an entry of their own: first those that are called for the most answers.
export function together(members, number) {
  const found = new Map();
  for (const entry of members) {
    for (const row of calledIn(entry)) {
      const known = found.get(nameOf(row)) ?? { row, calls: 0, best: -Infinity };
      found.set(nameOf(row), {
        row: row.score > known.best ? row : known.row, calls: known.calls + 1, best: Math.max(known.best, row.score),
      });
    }
  }
  const rows = [...found.values()].filter(({ calls }) => calls > 1).sort((a, b) => b.calls - a.calls || b.best - a.best)
    .map(({ row, calls }, at) => ({ ...row, rank: at + 1, calls, of: members.length, links: [] }));
  return { key: `incident-${number}`, members, trace: members[0].trace, query: { rows, prompt: "", response: "" } };
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
