// The points of the map as rows, and how they are coloured: by flag, label or source. Shapes differ as well as colours.
import { idOf, view } from "./view.js";

const MAX_GROUPS = 5; // labels or sources with a colour and a shape of their own
// Paths of about radius 1, for the canvas and the legend.
export const SHAPES = ["M0-1.4 1.4 0 0 1.4-1.4 0Z", "M0-1.3 1.25.9H-1.25Z", "M-1-1H1V1H-1Z", "M0 1.3 1.25-.9H-1.25Z",
  "M-.45-1.3H.45V-.45H1.3V.45H.45V1.3H-.45V.45H-1.3V-.45H-.45Z"];

export const mapOf = (entry) => view.map ?? entry?.trace.map ?? null;

const decode = (column, at) => (column ? column.values[column.codes[at]] : undefined);

function collectItems(map, query) {
  const ranked = new Map((query.rows ?? []).map((row) => [idOf(row), row]));
  const flagged = new Set([...(query.flagged_ids ?? []), ...[...ranked.values()].filter((row) => row.flagged === true).map(idOf)]);
  const items = map.points.map((at, number) => {
    const id = map.ids?.[number] ?? null;
    return { id, at, label: decode(map.labels, number), source: decode(map.files, number), row: ranked.get(id), flagged: flagged.has(id) };
  });
  const ids = new Set(map.ids);
  const places = new Set(); // of rows without an id, which older traces have
  const add = (id, at, row) => {
    if (!at || (id ? ids.has(id) : places.has(String(at)))) return;
    ids.add(id);
    places.add(String(at));
    items.push({ id, at, label: row?.label, source: row?.source?.replace(/(:\d+)+$/, ""), row, flagged: !row || row.flagged === true });
  };
  for (const [id, row] of ranked) add(id, row.at ?? map.rows?.[id], row);
  (query.lit ?? []).forEach((at, number) => add(query.flagged_ids?.[number] ?? null, at));
  return items;
}

let last = {}; // the items of the last map and query

// All points: those of the map, and the flagged and ranked rows beyond them. An item is {id, at, label, source, row, flagged}.
export function mapItems(map, query) {
  if (last.map !== map || last.query !== query) last = { map, query, items: collectItems(map, query) };
  return last.items;
}

// What the points can be coloured by.
export function colourings(items) {
  const differs = (name) => new Set(items.map((item) => item[name]).filter((value) => value != null)).size;
  return ["flag", ...(differs("label") ? ["label"] : []), ...(differs("source") > 1 ? ["source"] : [])];
}

// The groups of points: {name, items, style}; the style is the number of a colour and a shape, or null for a grey dot.
export function groupItems(items, by) {
  if (by === "flag") {
    const flagged = items.filter((item) => item.flagged);
    return [{ name: "flagged", items: flagged, style: 0 }, { name: "other rows", items: items.filter((item) => !item.flagged), style: null }]
      .filter((group) => group.items.length);
  }
  const groups = new Map();
  for (const item of items) {
    const name = item[by] ?? null;
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(item);
  }
  const names = [...groups.keys()].filter((name) => name !== null).sort((a, b) => groups.get(b).length - groups.get(a).length);
  const rest = names.slice(MAX_GROUPS).flatMap((name) => groups.get(name));
  return [
    ...names.slice(0, MAX_GROUPS).map((name, style) => ({ name, items: groups.get(name), style })),
    { name: `${names.length - MAX_GROUPS} others`, items: rest, style: null },
    { name: `no ${by}`, items: groups.get(null) ?? [], style: null },
  ].filter((group) => group.items.length);
}

// Whether a point lies within a closed path.
export function isInside([x, y], path) {
  let inside = false;
  path.forEach(([x1, y1], at) => {
    const [x2, y2] = path[(at + 1) % path.length];
    if ((y1 > y) !== (y2 > y) && x < ((x2 - x1) * (y - y1)) / (y2 - y1) + x1) inside = !inside;
  });
  return inside;
}

// The nearest item in the direction of an arrow key, within half a right angle of it; `from` is an item.
export function itemToward(items, from, [right, up]) {
  let [best, near] = [null, Infinity];
  for (const item of items) {
    const [across, along] = [item.at[0] - from.at[0], item.at[1] - from.at[1]];
    const ahead = across * right + along * up;
    const aside = Math.abs(across * up) + Math.abs(along * right);
    if (ahead > 1e-9 && aside <= ahead && ahead + aside < near) [best, near] = [item, ahead + aside];
  }
  return best;
}
