// Ranks by layer: a line for each row, that of the focused row in front.
import { byId, svg } from "./text.js";
import { view } from "./view.js";

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
