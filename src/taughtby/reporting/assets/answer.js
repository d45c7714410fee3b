// The conversation: the prompt, and the answer with its tokens shaded by weight.
import { shorten, button, byId, el, plural, visible } from "./text.js";
import { maxScore, markSpan, toPieces, renderText, textPiece } from "./words.js";

const turn = (name, body) => el("div.turn", {}, el("h3", {}, name), body);
const plainText = (text) => el("p.text", { dir: "auto" }, visible(text));
const turns = (list) => (list ?? []).map((message) => turn(visible(message.role), plainText(message.content)));

function answerPieces(query) {
  const list = (query.answer ?? []).length ? toPieces(query.answer, "weight") : textPiece(query.response);
  if (!query.span_range || query.answer_begin == null) return list;
  return markSpan(list, ...query.span_range.map((position) => position - query.answer_begin));
}

export function drawAnswer({ query, members }, choose) {
  if (members) {
    const list = members.map((entry) => el("li", {}, button(shorten(entry.query.response), () => choose(entry))));
    byId("answer").replaceChildren(turn(`${plural(members.length, "answer")} of one incident`, el("ul.members", {}, list)));
    return;
  }
  const list = answerPieces(query);
  const answer = turn("Answer", renderText(list, maxScore(list)));
  answer.id = "answer-text";
  byId("answer").replaceChildren(
    ...turns(query.before),
    turn("Prompt", plainText(query.prompt)),
    ...turns(query.after),
    answer,
    ...(query.span ? [turn("Span, marked above", plainText(query.span))] : []),
    ...(query.desired ? [turn("Desired answer", plainText(query.desired))] : []),
  );
}
