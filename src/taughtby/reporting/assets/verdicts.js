// The user's verdicts on rows, with notes. The server has written each to disk when it answers.
import { announce, button, byId, el, plural } from "./text.js";
import { view } from "./view.js";
import { rowNodes, selectRows } from "./rows.js";
import { call, get, showError } from "./requests.js";

const VERDICTS = ["cause", "not the cause", "unsure"];

let verdicts = new Map(); // {verdict, note} by row id

function drawSummary() {
  const counts = VERDICTS.map((name) => [name, [...verdicts.values()].filter(({ verdict }) => verdict === name).length]);
  view.causes = [...verdicts].filter(([, { verdict }]) => verdict === "cause").map(([id]) => id);
  byId("verdicts").hidden = !verdicts.size;
  byId("verdict-counts").textContent = `Your verdicts: ${counts.filter(([, size]) => size).map(([name, size]) => `${size} ${name}`).join(", ") || plural(verdicts.size, "note")}.`;
  document.dispatchEvent(new Event("rowselection"));
}

// Show the verdict of a row wherever the row is listed.
function update(id) {
  const { verdict, note } = verdicts.get(id) ?? {};
  for (const group of document.querySelectorAll(".row-verdict")) {
    if (group.dataset.id !== id) continue;
    for (const one of group.querySelectorAll("button")) one.setAttribute("aria-pressed", one.textContent === verdict);
    const input = group.querySelector("input");
    if (document.activeElement !== input) input.value = note ?? "";
  }
  drawSummary();
}

let lastSave = Promise.resolve();

// Save a change after all earlier ones, so that a note and a verdict given in quick succession are both kept.
// The change is computed from the verdict and note at that time.
function save(id, change) {
  lastSave = lastSave.then(() => saveNow(id, change));
  return lastSave;
}

async function saveNow(id, change) {
  const earlier = verdicts.get(id) ?? { verdict: null, note: "" };
  const next = { ...earlier, ...change(earlier) };
  try {
    await call("PUT", `api/verdicts/${id}`, { verdict: next.verdict, note: next.note });
    if (next.verdict || next.note) verdicts.set(id, next);
    else verdicts.delete(id);
    announce(next.verdict ? `Verdict: ${next.verdict}` : "No verdict");
    showError(null);
  } catch (error) {
    showError(error);
  }
  update(id);
}

function toggle(id, name) {
  return save(id, ({ verdict }) => ({ verdict: verdict === name ? null : name }));
}

function rowControls(row) {
  if (!/^[0-9a-f]{16}$/.test(row.id ?? "")) return null;
  const { verdict, note } = verdicts.get(row.id) ?? {};
  const input = el("input", { type: "text", maxlength: 10_000, placeholder: "Note", "aria-label": "Note on this row", autocomplete: "off" });
  input.value = note ?? "";
  input.addEventListener("change", () => {
    const note = input.value.trim();
    save(row.id, () => ({ note }));
  });
  return el("div.row-verdict", { role: "group", "aria-label": "Your verdict", "data-id": row.id },
    VERDICTS.map((name) => button(name, () => toggle(row.id, name), { "aria-pressed": name === verdict })), input);
}

export async function wireVerdicts() {
  view.rowControls = rowControls;
  byId("select-causes").addEventListener("click", () => {
    selectRows(view.causes.map((id) => ({ id })));
  });
  document.addEventListener("keydown", (event) => {
    const row = rowNodes()[view.row]?.row;
    const isTyping = document.activeElement?.matches("input:not([type=checkbox]), textarea, select");
    const name = VERDICTS[Number(event.key) - 1];
    if (row && name && !isTyping && byId("rows").contains(document.activeElement)) toggle(row.id, name);
  });
  verdicts = new Map((await get("api/verdicts")).map(({ id, verdict, note }) => [id, { verdict, note }]));
  drawSummary();
}
