// Draws one trace from the JSON in this page. Its texts are hostile: they enter as text nodes, never as markup.
"use strict";
(() => {
  const trace = JSON.parse(document.getElementById("trace").textContent);
  const queries = trace.queries ?? [];
  const byId = (id) => document.getElementById(id);
  const LONG = 420; // characters of a text that are shown before it is asked for whole
  const CHANCE = "The chance of such a score in a row that taught nothing of this.";
  const STABLE = "In this share of draws from the queries asked, the row is called a culprit again.";
  let chosen = 0; // the query on show
  let active = -1; // the row that the keys move from

  // — text

  // The characters that report.py writes out too: they act on a reader, or hide from one.
  const HIDDEN = new RegExp("[\\0-\\x08\\x0b-\\x1f\\x7f-\\x9f\\xad\\u061c\\u180e\\u200b\\u200e\\u200f\\u2028-\\u202e"
    + "\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb\\u{e0000}-\\u{e007f}\\p{Cs}]", "gu");
  const code = (mark) => `⟨U+${mark.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
  const visible = (text) => String(text ?? "").replaceAll("\r\n", "\n").replace(HIDDEN, code);

  function number(value) {
    if (typeof value !== "number") return "–";
    const size = Math.abs(value);
    return value === 0 || (size >= 1e-3 && size < 1e4) ? value.toFixed(3) : value.toExponential(2);
  }

  // A node of `tag` ("p" or "p.class") with attributes, and children that are nodes or plain text.
  function el(tag, attributes = {}, ...children) {
    const [name, ...classes] = tag.split(".");
    const node = document.createElement(name);
    node.classList.add(...classes);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children.flat().filter((child) => child != null));
    return node;
  }

  const clean = (value) => (typeof value === "string" ? visible(value) : String(value ?? "–"));
  const pair = (name, value) => el("div", {}, el("dt", {}, clean(name)), el("dd", {}, clean(value)));

  // — words: pieces are {text, score, top, span}

  const pieces = (tokens, key) =>
    (tokens ?? []).map((token) => ({ text: String(token.text ?? ""), score: token[key] ?? null }));
  const ceiling = (list) => list.reduce((most, piece) => Math.max(most, Math.abs(piece.score ?? 0)), 0);
  const joined = (left, right) => /[\p{L}\p{N}]$/u.test(left) && /^[\p{L}\p{N}]/u.test(right)
    && left.at(-1) < "\u2e80" && right[0] < "\u2e80"; // scripts without spaces have no such word

  // Mark the strongest piece and the pieces that complete its word.
  function withTop(list) {
    let first = -1;
    list.forEach((piece, at) => {
      if (piece.score > 0 && piece.text.trim() && (first < 0 || piece.score > list[first].score)) first = at;
    });
    if (first < 0) return list;
    let last = first;
    while (first > 0 && joined(list[first - 1].text, list[first].text)) first -= 1;
    while (last + 1 < list.length && joined(list[last].text, list[last + 1].text)) last += 1;
    return list.map((piece, at) => ({ ...piece, top: first <= at && at <= last }));
  }

  const size = (list) => list.reduce((sum, piece) => sum + piece.text.length, 0);

  // What stands between two characters, cut so that no half of a surrogate pair is left over.
  function slice(list, from, to) {
    let begin = 0;
    return list.flatMap((piece) => {
      const text = piece.text.slice(Math.max(0, from - begin), Math.max(0, to - begin));
      begin += piece.text.length;
      return text ? [{ ...piece, text: text.replace(/^[\udc00-\udfff]|[\ud800-\udbff]$/g, "") }] : [];
    });
  }

  // The part of a long text that holds its strongest word.
  function around(list) {
    const total = size(list);
    if (total <= LONG) return list;
    const top = Math.max(0, list.findIndex((piece) => piece.top));
    let start = Math.max(0, Math.min(size(list.slice(0, top)) - LONG / 3, total - LONG));
    const gap = slice(list, start, start + 20).map((piece) => piece.text).join("").search(/\s/);
    if (start > 0 && gap > 0) start += gap; // begin with a whole word where one is near
    const dots = { text: "…", score: null };
    return [...(start > 0 ? [dots] : []), ...slice(list, start, start + LONG), ...(start + LONG < total ? [dots] : [])];
  }

  function word(piece, most) {
    const text = visible(piece.text);
    const core = text.trim();
    if (!core || piece.score === null) return piece.span ? el("span.span", {}, text) : text;
    const at = text.indexOf(core);
    const node = el(piece.top ? "strong.w.top" : "span.w", { "data-score": number(piece.score) }, core);
    node.classList.toggle("against", piece.score < 0);
    node.style.setProperty("--w", most ? ((piece.score / most) ** 2).toFixed(3) : 0);
    const before = text.slice(0, at), after = text.slice(at + core.length);
    return piece.span ? el("span.span", {}, before, node, after) : [before, node, after];
  }

  const said = (list, most) => el("p.said", { dir: "auto" }, list.map((piece) => word(piece, most)).flat());

  // — the answer

  function drawAnswer(query) {
    let list = pieces(query.answer, "weight");
    byId("answer-hint").hidden = !list.length;
    if (!list.length) list = [{ text: String(query.response ?? ""), score: null }];
    const from = query.span ? list.map((piece) => piece.text).join("").indexOf(query.span) : -1;
    if (from >= 0) {
      const to = from + query.span.length;
      const inside = slice(list, from, to).map((piece) => ({ ...piece, span: true }));
      list = [...slice(list, 0, from), ...inside, ...slice(list, to, Infinity)];
    }
    const turn = (name, body) => el("div.turn", {}, el("h3", {}, name), body);
    const plain = (text) => el("p.said", { dir: "auto" }, visible(text));
    const around = (list) => (list ?? []).map((message) => turn(visible(message.role), plain(message.content)));
    byId("answer").replaceChildren(
      ...around(query.before),
      turn("Prompt", plain(query.prompt)),
      ...around(query.after),
      turn("Answer", said(list, ceiling(list))),
      ...(query.span ? [turn("Pointed at, marked above", plain(query.span))] : []),
      ...(query.desired ? [turn("Wanted instead", plain(query.desired))] : []),
    );
  }

  // — the rows

  // What the trace calls the culprits, in the words of words.py.
  function verdict({ taught, culprits, rows }) {
    if (taught === false) return "Fine-tuning made these words no likelier: no row in this data taught them.";
    if (!Number.isInteger(culprits)) return "";
    if (!culprits) return "No row in this data explains this answer.";
    const wrong = trace.rate > 0 ? ` (about 1 in ${Math.floor(1 / trace.rate + 0.5)} is called wrongly)` : "";
    const found = culprits === 1 ? "1 culprit: a row that answers"
      : `${culprits.toLocaleString("en")} culprits: rows that answer`;
    const shown = (rows ?? []).filter((row) => row.culprit === true).length;
    const some = shown && shown < culprits ? ` ${shown} of them ${shown === 1 ? "is" : "are"} shown.` : "";
    return `${found} to this more than rows answer to each other by chance${wrong}.${some}`;
  }

  function bar(value, most) {
    const node = el("span.bar", { "aria-hidden": "true" }, el("span"));
    node.classList.toggle("against", value < 0);
    node.style.setProperty("--w", most ? Math.abs(value ?? 0) / most : 0);
    return node;
  }

  const chip = (text, kind = "") => el(`span.chip${kind}`, {}, text);

  function drawBlocks(blocks) {
    const entries = Object.entries(blocks ?? {});
    const most = entries.reduce((far, [, value]) => Math.max(far, Math.abs(value ?? 0)), 1);
    const parts = entries.map(([name, value]) =>
      el("div", {}, el("dt", {}, visible(name)), el("dd", {}, bar(value, most), number(value))));
    return parts.length ? el("div.blocks", {}, el("p", {}, "Score by part"), el("dl", {}, parts)) : null;
  }

  function drawTexts(row, most, open) {
    const messages = row.messages ?? [];
    const answer = messages.at(-1);
    const turns = messages.slice(0, -1).map((message) => {
      const list = [{ text: String(message.content ?? ""), score: null }];
      return [message.role, open ? list : around(list)];
    });
    let list = withTop(pieces(row.tokens, "score"));
    const content = String(answer?.content ?? "");
    if (!list.length) list = [{ text: content, score: null }];
    turns.push([answer?.role ?? "answer", open ? list : around(list)]);
    return turns.map(([role, body]) => el("div.turn", {}, el("h4", {}, visible(role)), said(body, most)));
  }

  function drawRow(row, at, far, most) {
    const long = [...(row.messages ?? []).map((message) => String(message.content ?? "").length), 0];
    const texts = el("div.texts", {}, drawTexts(row, most, false));
    const called = row.culprit === true;
    const name = `Row ${row.rank}${called ? ", culprit" : ""}, score ${number(row.score)}`;
    const node = el("li", { tabindex: at ? -1 : 0, "aria-label": name },
      el("div.head", {},
        el("h3", {}, el("span.unseen", {}, "Row "), clean(row.rank)),
        el("span.score", {}, bar(row.score, far), el("span", {}, number(row.score))),
        el("span.about", {},
          called ? chip("culprit", ".culprit") : null,
          row.label == null ? null : chip(visible(row.label)),
          row.p_value == null ? null : el("span", { title: CHANCE }, `p = ${number(row.p_value)}`),
          called && row.stability != null ? el("span", { title: STABLE }, `stable ${(100 * row.stability).toFixed(0)} %`) : null,
          row.source ? el("span.source", {}, visible(row.source)) : null)),
      texts, drawBlocks(row.blocks));
    if (Math.max(...long) > LONG) {
      const all = `Show all ${long.reduce((sum, length) => sum + length).toLocaleString("en")} characters`;
      const more = el("button.more", { type: "button", "aria-expanded": "false" }, all);
      more.addEventListener("click", () => {
        const open = more.getAttribute("aria-expanded") === "false";
        more.setAttribute("aria-expanded", open);
        more.textContent = open ? "Show less" : all;
        texts.replaceChildren(...drawTexts(row, most, open));
      });
      texts.after(more);
    }
    return node;
  }

  function drawRows(query) {
    const rows = query.rows ?? [];
    const far = rows.reduce((most, row) => Math.max(most, Math.abs(row.score ?? 0)), 0);
    const most = rows.reduce((most, row) => Math.max(most, ceiling(pieces(row.tokens, "score"))), 0);
    byId("words-hint").hidden = !most;
    byId("verdict").textContent = verdict(query);
    byId("shown").textContent = rows.length
      ? `The first ${rows.length}${trace.count ? ` of ${trace.count.toLocaleString("en")}` : ""} are shown.`
      : "No training row was ranked.";
    byId("rows").replaceChildren(...rows.map((row, at) => drawRow(row, at, far, most)));
  }

  // — summary, layers, footer

  function drawTable({ title, columns = [], rows = [], note }) {
    const digits = columns.map((_, at) => rows.length && rows.every((row) => /^\s*[-+−–—]?[\d.,]*\s*%?$/.test(row[at])));
    const cell = (tag, text, at) => el(digits[at] ? `${tag}.digits` : tag, tag === "th" ? { scope: "col" } : {}, clean(text));
    const body = rows.map((row) => el("tr", {}, row.map((text, at) => cell("td", text, at))));
    const name = visible(title ?? "Table");
    return el("div.tabled", {}, el("h2", {}, name), note ? el("p.hint", {}, visible(note)) : null,
      el("div.wide", { role: "region", tabindex: 0, "aria-label": name }, el("table", {},
        el("thead", {}, el("tr", {}, columns.map((text, at) => cell("th", text, at)))), el("tbody", {}, body))));
  }

  function drawSummary(summary) {
    if (!summary) return;
    if (summary.title) document.querySelector("h1").textContent = visible(summary.title);
    const facts = (summary.facts ?? []).map(({ name, value }) => pair(name, value));
    byId("summary").append(...[
      summary.lead ? el("p.lead", {}, visible(summary.lead)) : null,
      facts.length ? el("dl.facts", {}, facts) : null,
      el("div.tables", {}, (summary.tables ?? []).map(drawTable)),
    ].filter(Boolean));
    byId("summary").hidden = false;
  }

  function svg(tag, attributes, ...children) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }

  function drawLayers(layers) {
    const curve = (layers?.similarity ?? []).map((value) => value ?? 0);
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
    chart.setAttribute("aria-label", `Likeness of neighbouring layers, from ${number(low)} to ${number(high)}. ${about}`);
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
    byId("layers").hidden = false;
    byId("layers").querySelector("figure").replaceChildren(chart, el("figcaption", {},
      el("span.dot", { "aria-hidden": "true" }), `chosen: ${layers.chosen ?? "–"}`,
      ...(used.length ? [el("span.ring", { "aria-hidden": "true" }), `used: ${used.join(", ")}`] : [])));
  }

  function drawMade() {
    const facts = { Method: trace.method, Model: trace.model, Adapter: trace.adapter ?? "none", Index: trace.index,
      "Rows in the index": trace.count, "whence": trace.whence };
    byId("made").append(...Object.entries(facts).map(([name, value]) => pair(name, value)));
  }

  // — choosing

  function drawQueries() {
    byId("queries").hidden = queries.length < 2;
    byId("queries").querySelector("ol").append(...queries.map((query, at) => {
      const button = el("button", { type: "button" },
        el("span", {}, visible(query.prompt).slice(0, 200)), el("small", {}, visible(query.response).slice(0, 200)));
      button.addEventListener("click", () => choose(at));
      return el("li", {}, button);
    }));
  }

  function choose(at) {
    if (!queries[at]) return;
    [chosen, active] = [at, -1];
    hideTip();
    drawAnswer(queries[at]);
    drawRows(queries[at]);
    byId("queries").querySelectorAll("button").forEach((button, here) => {
      if (here === at) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    });
    if (queries.length > 1) byId("say").textContent = `Query ${at + 1} of ${queries.length}`;
  }

  const rowNodes = () => byId("rows").children;

  function activate(at) {
    const nodes = rowNodes();
    if (!nodes.length) return;
    active = Math.max(0, Math.min(nodes.length - 1, at));
    nodes[active].focus();
    nodes[active].scrollIntoView({ block: "nearest" });
  }

  // — a word's score, beside the word

  let read = null; // the word whose score is on show
  let pinned = false; // it was chosen, so the pointer's leaving does not hide it

  function hideTip() {
    read?.classList.remove("read");
    read = null;
    byId("tip").hidden = true;
  }

  function showTip(node, pin) {
    hideTip();
    [read, pinned] = [node, pin];
    node.classList.add("read");
    byId("tip").textContent = `${node.textContent.slice(0, 40)}  ${node.dataset.score}`;
    byId("tip").hidden = false;
    placeTip();
    if (pin) byId("say").textContent = byId("tip").textContent;
  }

  function placeTip() {
    if (!read?.isConnected) return hideTip();
    const tip = byId("tip");
    const place = read.getClientRects()[0];
    const across = Math.min(place.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
    const above = place.top - tip.offsetHeight - 6;
    tip.style.left = `${Math.max(8, across)}px`;
    tip.style.top = `${above > 4 ? above : place.bottom + 6}px`;
  }

  function readNext(step) {
    const list = [...(rowNodes()[active]?.querySelectorAll(".w") ?? [])];
    if (!list.length) return;
    const at = list.indexOf(read);
    const next = list[at < 0 ? list.findIndex((node) => node.classList.contains("top")) : at + step] ?? list[0];
    next.scrollIntoView({ block: "nearest" });
    showTip(next, true);
  }

  const wordOf = (event) => (event.target instanceof Element ? event.target.closest(".w[data-score]") : null);
  document.addEventListener("pointerover", (event) => {
    const node = wordOf(event);
    if (node) showTip(node, false);
    else if (!pinned) hideTip();
  });
  document.addEventListener("click", (event) => {
    const node = wordOf(event);
    if (node) showTip(node, true);
    else hideTip();
  });
  document.addEventListener("scroll", placeTip, { passive: true, capture: true });

  byId("rows").addEventListener("focusin", (event) => {
    active = [...rowNodes()].indexOf(event.target.closest("#rows > li"));
    for (const [at, node] of [...rowNodes()].entries()) node.tabIndex = at === active ? 0 : -1;
  });

  const help = byId("help");
  byId("keys").addEventListener("click", () => help.showModal());
  const inRows = () => byId("rows").contains(document.activeElement);
  const KEYS = {
    j: () => activate(active + 1),
    k: () => activate(active - 1),
    "]": () => choose(chosen + 1),
    "[": () => choose(chosen - 1),
    "?": () => help.showModal(),
  };
  // Outside the rows these keys keep what they do everywhere: scroll, and press what has the focus.
  const ROW_KEYS = {
    ArrowDown: KEYS.j,
    ArrowUp: KEYS.k,
    ArrowRight: () => readNext(1),
    ArrowLeft: () => readNext(-1),
    Enter: () => rowNodes()[active]?.querySelector(".more")?.click(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    if (event.key === "Escape") hideTip();
    if (event.key === "Enter" && document.activeElement instanceof HTMLButtonElement) return;
    const act = KEYS[event.key] ?? (inRows() ? ROW_KEYS[event.key] : undefined);
    if (!act) return;
    event.preventDefault();
    act();
  });

  drawSummary(trace.summary);
  drawLayers(trace.layers);
  drawMade();
  byId("warnings").append(...(trace.warnings ?? []).map((text) => el("p.note", {}, `Warning: ${visible(text)}`)));
  drawQueries();
  if (queries.length) choose(0);
  else byId("shown").textContent = "The trace has no queries.";
})();
