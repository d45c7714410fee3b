// Figures that follow the focused row: ranks by layer, and the map of the rows.
import { byId, count, plural, announce, svg, visible } from "./text.js";
import { idOf, view } from "./view.js";
import { rowNodes } from "./rows.js";

// — ranks by layer: a line for each row, that of the focused row in front

export function drawLayerRanks() {
  const { query = {}, members } = view.entry ?? {};
  const ranking = query.layer_ranks;
  const button = byId("compute-layers");
  byId("layer-ranks").hidden = !ranking && (!button || Boolean(members) || !query.rows?.some((row) => row.position != null));
  if (button) button.hidden = Boolean(ranking);
  byId("layer-ranks").querySelector("figure").hidden = byId("layer-ranks-text").hidden = !ranking;
  if (!ranking) return;
  const rows = query.rows.filter((row) => ranking.ranks[row.position]);
  const [left, right, top, bottom] = [38, 350, 20, 150];
  const { layers } = ranking;
  const x = (at) => left + (at / Math.max(1, layers.length - 1)) * (right - left);
  const y = (rank) => top + ((rank - 1) / Math.max(1, rows.length - 1)) * (bottom - top);
  const line = (row, kind) => svg("polyline", { class: kind, points: ranking.ranks[row.position].map((rank, at) => `${x(at)},${y(rank)}`).join(" ") });
  const text = (at, height, anchor, words) => svg("text", { x: at, y: height, "text-anchor": anchor }, words);
  const row = rows.find((one) => one.rank === view.rank) ?? rows[0];
  const chart = svg("svg", { viewBox: "0 0 360 190", role: "img", "aria-label": `Ranks of ${rows.length} rows at ${layers.length} layers` },
    text(0, 10, "start", "rank among these rows"), text(left - 8, top + 4, "end", "1"), text(left - 8, bottom + 4, "end", String(rows.length)),
    ...layers.map((layer, at) => text(x(at), bottom + 18, "middle", String(layer))), text((left + right) / 2, 186, "middle", "layer"),
    ...rows.map((one) => line(one, "faint")), line(row, "front"));
  byId("layer-ranks").querySelector("figure").replaceChildren(chart);
  byId("layer-ranks-text").textContent = `Row ${row.rank}: ${layers.map((layer, at) =>
    `rank ${ranking.ranks[row.position][at]} at layer ${layer}${layer === ranking.used ? " (the method’s)" : ""}`).join(", ")}.`;
}

// — the map: grey points are rows, filled ones flagged rows, a ring marks the focused row

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// The projection of the map to pixels, with one scale for both axes.
function project(canvas, map) {
  const { clientWidth: wide, clientHeight: high } = canvas;
  const most = (axis) => map.points.reduce((far, point) => Math.max(far, Math.abs(point[axis])), 1e-6);
  const scale = 0.47 * Math.min(wide / most(0), high / most(1));
  return ([x, y]) => [wide / 2 + x * scale, high / 2 - y * scale];
}

export function drawMap() {
  const { trace = {}, query = {} } = view.entry ?? {};
  const map = mapOf(view.entry);
  byId("map").hidden = !map;
  const canvas = byId("map").querySelector("canvas");
  if (!map) return;
  describeMap(map, query, trace);
  if (!canvas.clientWidth) return; // another tab is on show
  const sharp = window.devicePixelRatio || 1;
  [canvas.width, canvas.height] = [canvas.clientWidth * sharp, canvas.clientHeight * sharp];
  const pen = canvas.getContext("2d");
  pen.scale(sharp, sharp);
  const at = project(canvas, map);
  const dot = (point, size) => {
    pen.beginPath();
    pen.arc(...at(point), size, 0, 2 * Math.PI);
  };
  pen.fillStyle = colour("--dot");
  for (const point of map.points) {
    dot(point, 2);
    pen.fill();
  }
  [pen.fillStyle, pen.strokeStyle] = [colour("--accent"), colour("--paper")];
  for (const point of flaggedPoints(map, query)) {
    dot(point, 4);
    pen.fill();
    pen.stroke();
  }
  const row = pointOf(map, rowNodes()[view.row]?.row);
  if (row) {
    [pen.strokeStyle, pen.lineWidth] = [colour("--ink"), 2];
    dot(row, 8);
    pen.stroke();
  }
}

const mapOf = (entry) => view.map ?? entry?.trace.map ?? null;

// The point of a row: its own, or that of the map.
const pointOf = (map, row) => row?.at ?? map?.rows?.[idOf(row ?? {})] ?? null;

const flaggedPoints = (map, query) => query.lit
  ?? (query.rows ?? []).filter((row) => row.flagged === true).map((row) => pointOf(map, row)).filter(Boolean);

// The root mean square distance of points from their mean: the figure in numbers.
function spread(points) {
  const middle = [0, 1].map((axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length);
  return Math.sqrt(points.reduce((sum, point) => sum + (point[0] - middle[0]) ** 2 + (point[1] - middle[1]) ** 2, 0) / points.length);
}

function describeMap(map, query, trace) {
  const flagged = flaggedPoints(map, query);
  const share = map.share.map((part) => `${(100 * part).toFixed(0)} %`).join(" and ");
  const size = map.points.length < (trace.num_rows ?? 0) ? `${count(map.points.length)} of ${count(trace.num_rows)} rows, drawn at random` : plural(map.points.length, "row");
  const all = spread(map.points);
  const close = flagged.length > 1 && all
    ? ` The ${count(flagged.length)} filled points, flagged for this answer, lie ${(spread(flagged) / all).toFixed(2)} times as far apart as all rows do.`
    : flagged.length ? " The filled point is its flagged row." : query.num_flagged === null ? "" : " No row is flagged for this answer.";
  const text = `${size}, along the first two principal components of their features (${visible(map.block)}): ${share} of the variance.${close}`;
  byId("map-text").textContent = text;
  byId("map").querySelector("canvas").setAttribute("aria-label", `Map of the training set. ${text}`);
}

export function wireMap(showRow) {
  const canvas = byId("map").querySelector("canvas");
  canvas.addEventListener("click", (event) => {
    const map = mapOf(view.entry);
    const at = project(canvas, map);
    let [best, near] = [-1, 14]; // pixels
    rowNodes().forEach((node, number) => {
      const point = pointOf(map, node.row);
      if (!point) return;
      const [x, y] = at(point);
      const distance = Math.hypot(x - event.offsetX, y - event.offsetY);
      if (distance < near) [best, near] = [number, distance];
    });
    if (best >= 0) showRow(rowNodes()[best].row.rank);
    else announce("No ranked row is there");
  });
  byId("rows").addEventListener("focusin", () => {
    drawMap();
    drawLayerRanks();
  });
  document.addEventListener("tabchange", drawMap);
  new ResizeObserver(drawMap).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawMap);
}
