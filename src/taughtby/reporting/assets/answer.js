// The conversation at the left: what was asked, and the answer with the words that count.
import { brief, button, byId, el, many, visible } from "./text.js";
import { ceiling, marked, pieces, said, whole } from "./words.js";

const turn = (name, body) => el("div.turn", {}, el("h3", {}, name), body);
const plain = (text) => el("p.said", { dir: "auto" }, visible(text));
const turns = (list) => (list ?? []).map((message) => turn(visible(message.role), plain(message.content)));

function spoken(query) {
  const list = (query.answer ?? []).length ? pieces(query.answer, "weight") : whole(query.response);
  if (!query.span_range || query.answer_begin == null) return list;
  return marked(list, ...query.span_range.map((place) => place - query.answer_begin));
}

export function drawAnswer({ query, members }, choose) {
  byId("answer-hint").hidden = Boolean(members) || !(query.answer ?? []).length;
  if (members) {
    const list = members.map((entry) => el("li", {}, button(brief(entry.query.response), () => choose(entry))));
    byId("answer").replaceChildren(turn(`${many(members.length, "answer")} of one incident`, el("ul.members", {}, list)));
    return;
  }
  const list = spoken(query);
  const answer = turn("Answer", said(list, ceiling(list)));
  answer.id = "said";
  byId("answer").replaceChildren(
    ...turns(query.before),
    turn("Prompt", plain(query.prompt)),
    ...turns(query.after),
    answer,
    ...(query.span ? [turn("Span, marked above", plain(query.span))] : []),
    ...(query.desired ? [turn("Desired answer", plain(query.desired))] : []),
  );
}
