// The map of the training rows: hover to read a row's beginning, click or draw a lasso to select rows.
import { announce, button, byId, count, el, plural, shorten, svg, visible } from "./text.js";
import { idOf, view } from "./view.js";
import { drawSelect, rowNodes, select, selectRows } from "./rows.js";
import { SHAPES, colourings, groupItems, isInside, itemToward, mapItems, mapOf } from "./points.js";

const NEAR = { mouse: 9, touch: 20 }; // pixels within which a point is hit
const DRAG = 5; // from this many pixels on, a drag is a lasso

let current = null; // the item that was hit, or that the keys moved to
let lasso = null; // the pixels of the lasso that is being drawn
let legend = {}; // the current legend: {items, by, groups}
let goToRow = () => {}; // shows a ranked row in the list

const canvasNode = () => byId("map").querySelector("canvas");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const itemsNow = () => {
  const map = mapOf(view.entry);
  return map ? mapItems(map, view.entry?.query ?? {}) : [];
};

// The projection of the map to pixels, with one scale for both axes.
function project(canvas, map) {
  const { clientWidth: wide, clientHeight: high } = canvas;
  const most = (axis) => map.points.reduce((far, point) => Math.max(far, Math.abs(point[axis])), 1e-6);
  const scale = 0.47 * Math.min(wide / most(0), high / most(1));
  return ([x, y]) => [wide / 2 + x * scale, high / 2 - y * scale];
}

// — drawing

const SHAPE_PATHS = SHAPES.map((shape) => new Path2D(shape));

function drawGroup(pen, at, { items, style }, sharp) {
  pen.fillStyle = colour(style === null ? "--dot" : `--c${style + 1}`);
  for (const item of [...items].sort((a, b) => a.flagged - b.flagged)) {
    const [x, y] = at(item.at);
    if (style === null && !item.flagged) {
      pen.fillRect(x - 1.5, y - 1.5, 3, 3);
      continue;
    }
    pen.save();
    pen.translate(x, y);
    const size = item.flagged ? 4.5 : 3;
    pen.scale(size, size);
    pen.fill(SHAPE_PATHS[style ?? 0]);
    [pen.strokeStyle, pen.lineWidth] = [colour("--paper"), 1 / size / sharp];
    pen.stroke(SHAPE_PATHS[style ?? 0]);
    pen.restore();
  }
}

function drawRing(pen, [x, y], size, width) {
  [pen.strokeStyle, pen.lineWidth] = [colour("--ink"), width];
  pen.beginPath();
  pen.arc(x, y, size, 0, 2 * Math.PI);
  pen.stroke();
}

function drawLasso(pen) {
  if (!lasso) return;
  pen.beginPath();
  for (const point of lasso) pen.lineTo(...point);
  pen.closePath();
  [pen.strokeStyle, pen.lineWidth] = [colour("--ink"), 1.5];
  pen.setLineDash([4, 3]);
  pen.stroke();
}

export function drawMap() {
  const { trace = {}, query = {} } = view.entry ?? {};
  const map = mapOf(view.entry);
  byId("map").hidden = !map;
  if (!map) return;
  describeMap(map, query, trace);
  const canvas = canvasNode();
  const items = mapItems(map, query);
  if (!items.includes(current)) current = null;
  const groups = drawLegend(items);
  drawCurrent();
  if (!canvas.clientWidth) return; // another tab is shown
  const sharp = window.devicePixelRatio || 1;
  [canvas.width, canvas.height] = [canvas.clientWidth * sharp, canvas.clientHeight * sharp];
  const pen = canvas.getContext("2d");
  pen.scale(sharp, sharp);
  const at = project(canvas, map);
  for (const group of groups.toReversed()) drawGroup(pen, at, group, sharp);
  for (const item of items) if (view.selected.has(item.id)) drawRing(pen, at(item.at), 6, 1.5);
  const focused = current ?? items.find((item) => item.row && item.row === rowNodes()[view.row]?.row);
  if (focused) drawRing(pen, at(focused.at), 9, 2.5);
  drawLasso(pen);
}

// The colourings that this map has, and a legend whose entries select their rows.
function drawLegend(items) {
  const choice = byId("map-colour");
  if (legend.items === items && legend.by === choice.value) return legend.groups; // not redrawn, so that its buttons keep the focus
  const names = colourings(items);
  const by = names.includes(choice.value) ? choice.value : "flag";
  choice.replaceChildren(...names.map((name) => el("option", {}, name)));
  choice.value = by;
  const groups = groupItems(items, by);
  legend = { items, by, groups };
  byId("map-legend").replaceChildren(...groups.map(({ name, items: members, style }) => {
    const sign = svg("svg", { viewBox: "-2 -2 4 4", class: `c${style === null ? 0 : style + 1}`, "aria-hidden": "true" },
      svg("path", { d: style === null ? "M-.8-.8H.8V.8H-.8Z" : SHAPES[style] }));
    const text = `${shorten(name, 40)} (${count(members.length)})`;
    const rows = members.filter(({ id }) => id);
    const select = button(`Select ${text}`, () => selectRows(rows.map(selectable)));
    return el("li", {}, sign, style === null || !rows.length ? text : select);
  }));
  return groups;
}

const selectable = (item) => item.row ?? { id: item.id, source: item.source, label: item.label };
const kindOf = (item) => [item.flagged ? "flagged" : null, item.label, item.source].filter((part) => part != null).map(visible).join(", ");
const beginningOf = (row) => shorten(row?.messages?.at(-1)?.content, 300);

// The row of the current point; the text of an unranked one is requested.
function drawCurrent() {
  byId("map-row").hidden = !current;
  if (!current || byId("map-row").item === current) return;
  const item = current;
  byId("map-row").item = item;
  const text = el("p.text", { dir: "auto" }, beginningOf(item.row));
  const rank = item.row?.rank;
  byId("map-row").replaceChildren(
    el("p.about", {}, item.flagged ? el("span.chip.flagged", {}, "flagged") : null, item.label == null ? null : el("span.chip", {}, visible(item.label)),
      item.source ? el("span.source", {}, visible(item.row?.source ?? item.source)) : null, el("span.source", {}, item.id ?? "")),
    item.id ? drawSelect(selectable(item)) : "", text, rank ? button(`Go to row ${rank}`, () => goToRow(rank)) : "");
  readBeginning(item).then((beginning) => { text.textContent = beginning; });
}

// The beginning of a row's text, as far as the page has it.
async function readBeginning(item) {
  if (!item.row && item.id) item.text ??= beginningOf(await view.readRow(item.id).catch(() => null));
  return (item.row ? beginningOf(item.row) : item.text) || "The text of this row is not in this file.";
}

// The root mean square distance of points from their mean.
function spread(points) {
  const middle = [0, 1].map((axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length);
  return Math.sqrt(points.reduce((sum, point) => sum + (point[0] - middle[0]) ** 2 + (point[1] - middle[1]) ** 2, 0) / points.length);
}

function describeMap(map, query, trace) {
  const flagged = mapItems(map, query).filter((item) => item.flagged).map((item) => item.at);
  const shares = map.share.map((part) => `${(100 * part).toFixed(0)} %`).join(" and ");
  const size = map.points.length < (trace.num_rows ?? 0) ? `${count(map.points.length)} of ${count(trace.num_rows)} rows, drawn at random` : plural(map.points.length, "row");
  const all = spread(map.points);
  const close = flagged.length > 1 && all
    ? ` The ${count(flagged.length)} large points, flagged for this answer, lie ${(spread(flagged) / all).toFixed(2)} times as far apart as all rows do.`
    : flagged.length ? " The large point is its flagged row." : query.num_flagged === null ? "" : " No row is flagged for this answer.";
  const text = `${size}, along the first two principal components of their features (${visible(map.block)}): ${shares} of the variance.${close}`;
  byId("map-text").textContent = text;
  canvasNode().setAttribute("aria-label", `Map of the training set. ${text}`);
}

// — pointer and keys

function itemAt(event) {
  const at = project(canvasNode(), mapOf(view.entry));
  let [best, near] = [null, NEAR[event.pointerType] ?? NEAR.mouse];
  for (const item of itemsNow()) {
    const [x, y] = at(item.at);
    const distance = Math.hypot(x - event.offsetX, y - event.offsetY) - (item.flagged ? 2 : 0);
    if (distance < near) [best, near] = [item, distance];
  }
  return best;
}

function hideHover() {
  byId("tooltip").item = null;
  byId("tooltip").hidden = true;
}

async function showHover(event) {
  const item = itemAt(event);
  const tooltip = byId("tooltip");
  if (!item) return hideHover();
  tooltip.item = item;
  const { clientX, clientY } = event;
  const beginning = shorten(await readBeginning(item), 38);
  if (tooltip.item !== item) return undefined; // the pointer has moved on
  tooltip.textContent = [beginning, item.id, kindOf(item)].filter(Boolean).join("\n");
  tooltip.hidden = false;
  tooltip.style.left = `${Math.max(8, Math.min(clientX + 14, document.documentElement.clientWidth - tooltip.offsetWidth - 8))}px`;
  tooltip.style.top = `${clientY + 16}px`;
  return undefined;
}

function toggleItem(item) {
  if (item?.id) select(selectable(item));
  else announce(item ? "The trace has no id for this row" : "No row is there");
}

function endLasso() {
  const at = project(canvasNode(), mapOf(view.entry));
  const inside = itemsNow().filter((item) => item.id && isInside(at(item.at), lasso));
  lasso = null;
  if (inside.length) selectRows(inside.map(selectable));
  else announce("No row is there");
  drawMap();
}

function wirePointer(canvas) {
  let start = null;
  canvas.addEventListener("pointerdown", (event) => {
    start = event.button ? null : [event.offsetX, event.offsetY];
    if (!start) return;
    canvas.setPointerCapture(event.pointerId);
    hideHover();
  });
  canvas.addEventListener("pointermove", (event) => {
    const point = [event.offsetX, event.offsetY];
    const canDraw = event.pointerType !== "touch" || canvas.classList.contains("lasso");
    if (!start) showHover(event);
    else if (lasso) lasso.push(point);
    else if (canDraw && Math.hypot(point[0] - start[0], point[1] - start[1]) >= DRAG) lasso = [start, point];
    if (lasso) requestAnimationFrame(drawMap);
  });
  canvas.addEventListener("pointerup", (event) => {
    if (lasso) endLasso();
    else if (start) {
      current = itemAt(event);
      toggleItem(current);
      drawMap();
    }
    start = null;
  });
  canvas.addEventListener("pointercancel", () => {
    start = lasso = null;
    drawMap();
  });
  canvas.addEventListener("pointerleave", hideHover);
}

const ARROWS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

// Arrows move to the next point in their direction, j and k through the ranked and flagged rows, x and Enter select.
async function onMapKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const items = itemsNow();
  const listed = items.filter((item) => item.row || item.flagged).sort((a, b) => (a.row?.rank ?? 1e9) - (b.row?.rank ?? 1e9));
  const first = listed[0] ?? items[0];
  const step = { j: 1, k: -1 }[event.key];
  if (["x", "Enter", " "].includes(event.key)) toggleItem(current);
  else if (ARROWS[event.key]) current = current ? itemToward(items, current, ARROWS[event.key]) ?? current : first;
  else if (step) current = listed[listed.indexOf(current) + step] ?? current ?? first;
  else return;
  event.preventDefault();
  event.stopPropagation();
  drawMap();
  const item = current;
  if (item && (step || ARROWS[event.key])) announce(`${item.row ? `Row ${item.row.rank}: ` : ""}${shorten(await readBeginning(item), 80)} ${kindOf(item)}`);
}

export function wireMap(show) {
  goToRow = show;
  const canvas = canvasNode();
  wirePointer(canvas);
  canvas.addEventListener("keydown", onMapKey);
  byId("map-colour").addEventListener("input", drawMap);
  byId("map-lasso").addEventListener("click", () =>
    byId("map-lasso").setAttribute("aria-pressed", canvas.classList.toggle("lasso")));
  byId("rows").addEventListener("focusin", () => {
    current = itemsNow().find((item) => item.id && item.id === idOf(rowNodes()[view.row]?.row ?? {})) ?? null;
    drawMap();
  });
  document.addEventListener("tabchange", drawMap);
  document.addEventListener("rowselection", drawMap);
  new ResizeObserver(drawMap).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawMap);
}
