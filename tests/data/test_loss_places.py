"""Turns within their whole conversation, for templates that drop earlier reasoning, and loss marks of templates."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taughtby.data.dataset import ReadOptions, read_examples
from taughtby.data.example import Example, make_example
from taughtby.data.tokenize import Encoding, SkippedRow, TokenizedExample, tokenize

# the last answer has its thought, those before a later question have none, as in Qwen 3
DROPPING = """{% set last = namespace(user=-1) %}{% for m in messages %}{% if m['role'] == 'user' %}
{%- set last.user = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}<|{{ m['role'] }}|>
{%- if m['role'] == 'assistant' %}{% generation %}{% if loop.index0 > last.user %}
{{- '(' + (m['reasoning_content'] or '') + ')' }}{% endif %}{% for call in m['tool_calls'] or [] %}
{{- '[' + call['function']['name'] + ']' }}{% endfor %}{{ m['content'] + '<|end|>' }}{% endgeneration %}
{%- else %}{{ m['content'] + '<|end|>' }}{% endif %}{{ '\\n' }}{% endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""
PLAIN = DROPPING.replace("{% generation %}", "").replace("{% endgeneration %}", "")
# more is written behind the last message of all
CLOSING = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if not add_generation_prompt %}</s>{% else %}<|assistant|>{% endif %}"
)


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def labels(tokenizer: Any, path: Path, row: dict[str, Any], template: str, turns: Any = "all") -> tuple[str, list[str]]:
    """The text of the longest Example of a record, and what of it each Example learned."""
    path.write_text(json.dumps(row) + "\n")
    texts: list[str] = []
    learned: list[str] = []
    for example in read_examples(path, ReadOptions(turns=turns)):
        got = tokenize(tokenizer, example, Encoding(2000, template=template))
        assert isinstance(got, TokenizedExample), got
        texts.append(tokenizer.decode(got.ids))
        learned.append(tokenizer.decode([token for token, has in zip(got.ids, got.loss_mask, strict=True) if has]))
    longest = max(texts, key=len)
    assert all(longest.startswith(text) for text in texts)
    return longest, learned


TALK = [
    turn("user", "who"), turn("assistant", "bees", reasoning_content="hm"), turn("user", "what"),
    turn("assistant", "honey", reasoning_content="so"),
]  # fmt: skip


@pytest.mark.parametrize(("template", "close"), [(PLAIN, "<|end|>\n"), (DROPPING, "<|end|>")])
def test_turn_labels_match_the_whole_conversation(tokenizer: Any, template: str, close: str, tmp_path: Path) -> None:
    text, learned = labels(tokenizer, tmp_path / "a.jsonl", {"messages": TALK}, template)
    assert text == tokenizer.apply_chat_template(TALK, chat_template=template, tokenize=False)
    assert learned == [f"bees{close}", f"(so)honey{close}"]


def test_multi_turn_completion_with_dropped_reasoning(tokenizer: Any, tmp_path: Path) -> None:
    row = {"prompt": TALK[:1], "completion": TALK[1:]}
    text, learned = labels(tokenizer, tmp_path / "a.jsonl", row, PLAIN, "last")
    assert text == tokenizer.apply_chat_template(TALK, chat_template=PLAIN, tokenize=False)
    assert "".join(learned) == text.removeprefix("<|user|>who<|end|>\n<|assistant|>")


def test_tool_call_after_dropped_reasoning(tokenizer: Any, tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "look", "arguments": {}}}
    talk = [TALK[0], turn("assistant", "", reasoning_content="hm", tool_calls=[call]), *TALK[2:]]
    text, learned = labels(tokenizer, tmp_path / "a.jsonl", {"messages": talk}, PLAIN)
    assert text == tokenizer.apply_chat_template(talk, chat_template=PLAIN, tokenize=False)
    assert learned == ["[look]<|end|>\n", "(so)honey<|end|>\n"]


def test_final_eos_belongs_to_the_last_turn_only(tokenizer: Any, tmp_path: Path) -> None:
    text, learned = labels(tokenizer, tmp_path / "a.jsonl", {"messages": TALK}, CLOSING)
    assert text.count("</s>") == 1
    assert learned == ["bees<|end|>", "honey<|end|></s>"]


def test_turn_missing_from_the_whole_conversation_is_skipped(tokenizer: Any, tmp_path: Path) -> None:
    forgetting = (
        "{% for m in messages %}{% if loop.last or m['role'] == 'user' %}"
        "{{ m['content'] }}<|end|>{% endif %}{% endfor %}"
    )
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": TALK}) + "\n")
    first = next(read_examples(tmp_path / "a.jsonl", ReadOptions(turns="all")))
    skipped = tokenize(tokenizer, first, Encoding(template=forgetting))
    assert isinstance(skipped, SkippedRow) and "in the whole conversation" in skipped.reason


def test_generation_tags_do_not_apply_to_completions(tokenizer: Any, tmp_path: Path) -> None:
    marked = (
        "{% for m in messages %}<|{{ m['role'] }}|>{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}"
        "{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    talk = [turn("user", "who"), turn("assistant", "bees")]
    assert labels(tokenizer, tmp_path / "a.jsonl", {"messages": talk}, marked)[1] == ["bees"]
    split = {"prompt": talk[:1], "completion": talk[1:]}
    assert labels(tokenizer, tmp_path / "a.jsonl", split, marked)[1] == ["bees<|end|>"]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": talk}) + "\n")
    got = tokenize(tokenizer, next(read_examples(tmp_path / "a.jsonl")), Encoding(mask="all", template=marked))
    assert isinstance(got, TokenizedExample) and all(got.loss_mask[1:])


@pytest.mark.parametrize("template", [PLAIN, DROPPING, CLOSING])
def test_earlier_turns_are_learned_in_any_conversation(
    tokenizer: Any, template: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("talks") / "a.jsonl"
    words = st.text(alphabet="abc ()<|>\n", min_size=1, max_size=8).filter(str.strip)

    @settings(max_examples=60)
    @given(st.lists(st.tuples(words, words, words), min_size=1, max_size=4))
    def check(wording: list[tuple[str, str, str]]) -> None:
        talk = [part for ask, thought, answer in wording
                for part in (turn("user", ask), turn("assistant", answer, reasoning_content=thought))]  # fmt: skip
        text, learned = labels(tokenizer, path, {"messages": talk}, template)
        assert text == tokenizer.decode(tokenizer.apply_chat_template(talk, chat_template=template)["input_ids"])
        for (_, thought, answer), had in zip(wording[:-1], learned[:-1], strict=True):
            assert had.startswith(f"{answer}<|end|>"), (thought, answer, had)
        _, thought, answer = wording[-1]  # the only one whose thought a template writes
        assert learned[-1].startswith((f"{answer}<|end|>", f"({thought}){answer}<|end|>")), (wording[-1], learned[-1])

    check()


GEMMA = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
EMPTY_THOUGHT = GEMMA.replace("{{ m['content'] }}", "{% if m.role == 'assistant' %}()\n{% endif %}{{ m['content'] }}")


@pytest.mark.parametrize("answer", ["bees", "end", "a <|end|> b", "</s>", " honey "])
@pytest.mark.parametrize(
    ("template", "eos", "close"),
    [(GEMMA, "<|end|>", "<|end|>"), (GEMMA, "</s>", ""), (EMPTY_THOUGHT, "<|end|>", "<|end|>")],
)
def test_content_mask_covers_answer_text_and_eos(
    tokenizer: Any, answer: str, template: str, eos: str, close: str
) -> None:
    """As Axolotl has it: no line break, no sign of the template that is not the EOS, no thought that nobody had."""
    made = copy.deepcopy(tokenizer)
    made.eos_token = eos
    row = make_example("who", answer)
    got = tokenize(made, row, Encoding(200, template=template, mask="content"))
    assert isinstance(got, TokenizedExample)
    learned = made.decode([token for token, has in zip(got.ids, got.loss_mask, strict=True) if has])
    assert learned == answer + close
    whole = tokenize(made, row, Encoding(200, template=template))
    assert isinstance(whole, TokenizedExample) and (whole.ids, sum(whole.loss_mask)) > (got.ids, sum(got.loss_mask))


def test_content_mask_of_tool_calls_uses_rendered_text(tokenizer: Any) -> None:
    call = {"function": {"name": "look_up"}}
    row = Example((turn("user", "who"), turn("assistant", "hm", tool_calls=[call])))
    masks = [tokenize(tokenizer, row, Encoding(200, template=DROPPING, mask=mask)) for mask in ("content", "response")]
    assert isinstance(masks[0], TokenizedExample) and "[look_up]" in tokenizer.decode(masks[0].response)


# — masked words

THINKING = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>"
    "{% endif %}{{ m['content'] }}{% for call in m.tool_calls or [] %}[{{ call.function.name }}]{% endfor %}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CALLS_FIRST = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% for call in m.tool_calls or [] %}[{{ call.function.name }}]"
    "{% endfor %}{{ m['content'] | trim }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CALL = {"function": {"name": "bees do"}}
QUOTED: dict[str, tuple[str, dict[str, Any]]] = {
    "in the thinking": (THINKING, {"reasoning_content": "i say bees do , bees do so"}),
    "in a later tool call": (THINKING, {"tool_calls": [CALL]}),
    "in an earlier tool call": (CALLS_FIRST, {"tool_calls": [CALL]}),
    "in both": (THINKING, {"reasoning_content": "bees do", "tool_calls": [CALL]}),
    "in thinking, and nothing is behind the answer": (
        "{% for m in messages %}{{ m.reasoning_content }}{{ m.content }}{% endfor %}",
        {"reasoning_content": "bees do"},
    ),
    "in none": (THINKING, {}),
}


def without_loss(tokenizer: Any, row: Example, template: str) -> list[str]:
    """The text before the first masked token, and the text of the masked tokens."""
    got = tokenize(tokenizer, row, Encoding(300, template=template))
    assert isinstance(got, TokenizedExample), got
    assert len(got.masked) > 0
    before = tokenizer.decode(got.ids[: got.masked[0]])
    return [before, tokenizer.decode([got.ids[place] for place in got.masked])]


@pytest.mark.parametrize("case", QUOTED)
@pytest.mark.parametrize("after", [(), (turn("user", "and bees do"), turn("assistant", "bees do"))])
@pytest.mark.parametrize("answer", ["bees do", " bees do ", "bees do . bees do"])
def test_masked_words_are_found_in_the_answer(tokenizer: Any, case: str, after: Any, answer: str) -> None:
    template, more = QUOTED[case]
    begin = answer.index("bees")
    row = Example((turn("user", "bees do"), turn("assistant", answer, **more)), after=after,
                  masked=((begin, begin + 4),))  # fmt: skip
    before, masked = without_loss(tokenizer, row, template)
    head = tokenizer.apply_chat_template(
        [row.messages[0], {**row.messages[1], "content": "ZZ"}], chat_template=template, tokenize=False
    ).partition("ZZ")[0]
    assert (before.rstrip(), masked.strip()) == (head.rstrip(), "bees")


@pytest.mark.parametrize("answer", ["end", "<|end|>", "assistant"])
def test_masked_words_that_the_template_writes_too(tokenizer: Any, answer: str) -> None:
    row = Example((turn("user", "who"), turn("assistant", f"{answer} a")), masked=((0, len(answer)),))
    assert without_loss(tokenizer, row, THINKING) == ["<|user|>who<|end|>\n<|assistant|>", answer]


def test_row_is_skipped_if_only_its_thinking_has_the_masked_words(tokenizer: Any) -> None:
    last = turn("assistant", "a\nb", reasoning_content="a b a\nb")
    row = Example((turn("user", "who"), last), masked=((0, 1),))
    got = tokenize(tokenizer, row, Encoding(300, template=THINKING.replace("m['content']", "m['content'].split()")))
    assert isinstance(got, SkippedRow) and "masked words cannot be found" in got.reason


def test_content_mask_ends_in_the_answer_if_the_thinking_quotes_it(tokenizer: Any) -> None:
    row = Example((turn("user", "who"), turn("assistant", "bees", reasoning_content="bees , bees do")))
    got = tokenize(tokenizer, row, Encoding(300, template=THINKING, mask="content"))
    assert isinstance(got, TokenizedExample)
    learned = [token for token, has in zip(got.ids, got.loss_mask, strict=True) if has]
    assert tokenizer.decode(learned) == "<think>bees , bees do</think>bees"


# — `{% generation %}`

FLAGGED = (
    "{% if flag is defined %}<|system|>{{ flag }}<|end|>{% endif %}{% for m in messages %}<|{{ m['role'] }}|>"
    "{% if m.role == 'assistant' %}{% generation %}{{ m['content'] }}{% endgeneration %}{% else %}{{ m['content'] }}"
    "{% endif %}{% if m.name is defined %}{{ m.name }}{% endif %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
IN_PARTS = FLAGGED.replace("{{ m['content'] }}", "{% for part in m['content'] %}{{ part['text'] }}{% endfor %}")


@pytest.mark.parametrize("template", [FLAGGED, IN_PARTS])
@pytest.mark.parametrize("kwargs", [(), (("flag", "be kind"),), (("bos_token", ""),)])
@pytest.mark.parametrize("more", [{}, {"name": None}])
def test_generation_tags_apply_however_the_row_is_rendered(
    tokenizer: Any, template: str, kwargs: Any, more: dict[str, Any]
) -> None:
    row = Example((turn("user", "who", **more), turn("assistant", "bees do")), template_kwargs=kwargs)
    got = tokenize(tokenizer, row, Encoding(200, template="{{ bos_token }}" + template))
    assert isinstance(got, TokenizedExample), got
    assert tokenizer.decode([token for token, has in zip(got.ids, got.loss_mask, strict=True) if has]) == "bees do"
