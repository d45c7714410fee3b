// Charts of an answer and its trace: score by rank, and similarity of the layers.
import { byId, count, el, number, plural, svg } from "./text.js";

const MIN_POINTS = 8; // of a curve
const SIZE = { left: 4, right: 236, top: 16, bottom: 76 };

// The scores of all rows, or of the listed rows where the trace has no more; a line after the last flagged row.
export function drawCurve({ score_curve: scores, rows = [], num_flagged: flagged }) {
  const all = scores ?? rows.map(({ rank, score }) => [rank, score]);
  const points = all.filter(([rank, score]) => rank > 0 && typeof score === "number");
  byId("curve").hidden = points.length < MIN_POINTS;
  if (points.length < MIN_POINTS) return;
  const { left, right, top, bottom } = SIZE;
  const lastRank = points.at(-1)[0];
  const values = points.map(([, score]) => score);
  const [low, high] = [Math.min(0, ...values), Math.max(...values, 1e-9)];
  const x = (rank) => left + (Math.log(Math.max(1, rank)) / Math.log(lastRank)) * (right - left);
  const y = (score) => bottom - ((score - low) / (high - low)) * (bottom - top);
  const text = (at, height, anchor, words, kind = "") => svg("text", { x: at, y: height, "text-anchor": anchor, class: kind }, words);
  const label = `Score by rank, from ${number(values[0])} at rank 1 to ${number(values.at(-1))} at rank ${count(lastRank)}`;
  const cut = flagged > 0 && flagged < lastRank ? x(flagged + 0.5) : null; // otherwise the line would be beyond the listed rows
  const cutLabel = cut && cut > (left + right) / 2 ? [cut - 4, "end"] : [cut + 4, "start"];
  const chart = svg("svg", { viewBox: "0 0 240 92", role: "img",
    "aria-label": `${label}.${cut ? ` ${plural(flagged, "row")} flagged.` : ""}` },
  svg("line", { x1: left, y1: bottom, x2: right, y2: bottom, class: "axis" }),
  svg("polyline", { points: points.map(([rank, score]) => `${x(rank).toFixed(1)},${y(score).toFixed(1)}`).join(" ") }),
  text(left, bottom + 13, "start", "rank 1"), text(right, bottom + 13, "end", count(lastRank)));
  if (cut) {
    chart.append(svg("line", { x1: cut, y1: top - 10, x2: cut, y2: bottom, class: "cut" }),
      text(cutLabel[0], top - 2, cutLabel[1], `${count(flagged)} flagged`, "strong"));
  }
  byId("curve").querySelector("figure").replaceChildren(chart);
}

export function drawLayers(layers) {
  const curve = (layers?.similarity ?? []).map((value) => value ?? 0);
  byId("layer-similarity").hidden = curve.length < 2;
  if (curve.length < 2) return;
  const [left, right, top, bottom] = [38, 350, 22, 132];
  const low = Math.min(...curve), high = Math.max(...curve, low + 1e-6);
  const x = (layer) => left + 6 + ((layer - 2) / (curve.length - 1)) * (right - left - 12);
  const y = (value) => bottom - 6 - ((value - low) / (high - low)) * (bottom - top - 12);
  const heightAt = (layer) => y(curve[Math.min(curve.length - 1, Math.max(0, layer - 2))]);
  const line = (...[x1, y1, x2, y2, kind]) => svg("line", { x1, y1, x2, y2, class: kind });
  const text = (at, height, anchor, words, kind = "") =>
    svg("text", { x: at, y: height, "text-anchor": anchor, class: kind }, words);
  const step = Math.round(curve.length / 30) * 5 || 2;
  const used = layers.used ?? [];
  const about = `Layer ${layers.chosen} was chosen`
    + (used.length ? `; layers ${used.join(" and ")} were used.` : ".");
  const chart = svg("svg", { viewBox: "0 0 360 172", role: "img" });
  chart.setAttribute("aria-label", `Similarity of neighbouring layers, from ${number(low)} to ${number(high)}. ${about}`);
  for (const value of [low, (low + high) / 2, high]) {
    chart.append(line(left, y(value), right, y(value), "grid"), text(left - 5, y(value) + 3.5, "end", value.toFixed(2)));
  }
  for (let layer = step; layer <= curve.length + 1; layer += step) {
    chart.append(line(x(layer), bottom, x(layer), bottom + 4, "axis"), text(x(layer), bottom + 16, "middle", String(layer)));
  }
  chart.append(line(left, bottom, right, bottom, "axis"), text((left + right) / 2, 168, "middle", "layer"),
    text(0, 10, "start", "likeness to the layer before (cosine)"),
    svg("polyline", { points: curve.map((value, at) => `${x(at + 2)},${y(value)}`).join(" ") }));
  if (layers.chosen) chart.append(line(x(layers.chosen), top, x(layers.chosen), bottom, "chosen"));
  for (const layer of used) chart.append(svg("circle", { cx: x(layer), cy: heightAt(layer), r: 5, class: "used" }));
  if (layers.chosen) {
    const end = layers.chosen > curve.length * 0.7;
    chart.append(svg("circle", { cx: x(layers.chosen), cy: heightAt(layers.chosen), r: 3.5, class: "chosen" }),
      text(x(layers.chosen) + (end ? -5 : 5), top + 4, end ? "end" : "start", `chosen: ${layers.chosen}`, "strong"));
  }
  byId("layer-similarity").querySelector("figure").replaceChildren(chart, el("figcaption", {},
    el("span.dot", { "aria-hidden": "true" }), `chosen: ${layers.chosen ?? "–"}`,
    ...(used.length ? [el("span.ring", { "aria-hidden": "true" }), `used: ${used.join(", ")}`] : [])));
}
