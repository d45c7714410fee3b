"""Tokenization: the answer is masked exactly, no token is lost, and batches stay within their budget."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example as example_of
from hypothesis import given
from hypothesis import strategies as st

from conftest import PAIRS, TEMPLATE
from taughtby.data import tokenize as tokens
from taughtby.data.batching import collate, make_batches, split_in_two
from taughtby.data.example import Example, make_example
from taughtby.data.tokenize import (
    Encoding,
    SkippedRow,
    TokenizedExample,
    prompt_ids,
    token_texts,
    tokenize,
    tokenize_all,
)
from taughtby.errors import DataError, ModelError, OptionError

BOS = 1


def encoded(tokenizer: Any, row: Example, max_length: int = 512, **more: Any) -> TokenizedExample:
    got = tokenize(tokenizer, row, Encoding(max_length, **more))
    assert isinstance(got, TokenizedExample), got
    return got


def adds_bos(tokenizer: Any, template: str | None = TEMPLATE) -> Any:
    """The tokenizer as Llama's is: it puts <s> before every text by itself."""
    from tokenizers.processors import TemplateProcessing

    result = copy.deepcopy(tokenizer)
    result.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    result.chat_template = template
    assert result("a")["input_ids"][0] == BOS
    return result


def other(tokenizer: Any, template: str | None) -> Any:
    result = copy.deepcopy(tokenizer)
    result.chat_template = template
    return result


# -- beginning and end of the answer


@pytest.mark.parametrize(("prompt", "response"), [*PAIRS, ("é 😀", "漢字 ok"), ("", "x"), ("a\n\nb  ", "  c\n")])
def test_ids_are_the_prompt_then_the_answer_and_its_end(tokenizer: Any, prompt: str, response: str) -> None:
    row = encoded(tokenizer, make_example(prompt, response))
    assert tokenizer.decode(row.ids[: row.n_prompt]) == f"<|user|>{prompt}<|end|>\n<|assistant|>"
    assert tokenizer.decode(row.response) == f"{response}<|end|>\n"
    assert list(row.ids[: row.n_prompt]) == prompt_ids(tokenizer, prompt)
    assert row.n_response == len(row.response) == len(row.ids) - row.n_prompt


def test_conversation_prompt_ends_before_the_last_answer(tokenizer: Any) -> None:
    turns = [("system", "be kind"), ("user", "one"), ("assistant", "1"), ("user", "two"), ("assistant", "2")]
    row = encoded(tokenizer, Example(tuple({"role": role, "content": text} for role, text in turns)))
    assert tokenizer.decode(row.ids[: row.n_prompt]) == (
        "<|system|>be kind<|end|>\n<|user|>one<|end|>\n<|assistant|>1<|end|>\n<|user|>two<|end|>\n<|assistant|>"
    )
    assert tokenizer.decode(row.response) == "2<|end|>\n"


def test_template_with_bos_gets_no_second_bos(tokenizer: Any) -> None:
    result = adds_bos(tokenizer, "{{ bos_token }}" + TEMPLATE)
    row = encoded(result, make_example("why", "a b c"))
    assert row.ids[0] == BOS
    assert row.ids.count(BOS) == 1
    assert prompt_ids(result, "why").count(BOS) == 1
    assert result.decode(row.response) == "a b c<|end|>\n"


def test_template_without_bos_gets_no_bos(tokenizer: Any) -> None:
    assert BOS not in encoded(adds_bos(tokenizer), make_example("why", "a b c")).ids


def test_texts_without_a_template_are_joined_with_tokenizer_bos(tokenizer: Any) -> None:
    plain, bos = other(tokenizer, None), adds_bos(tokenizer, None)
    assert plain.decode(encoded(plain, make_example("why", "a b c")).ids) == "why\na b c</s>"
    row = encoded(bos, make_example("why", "a b c"))
    assert bos.decode(row.ids) == "<s>why\na b c</s>"
    assert row.ids.count(BOS) == 1
    assert bos.decode(row.response) == "a b c</s>"
    assert prompt_ids(bos, "why") == list(row.ids[: row.n_prompt])


def test_answer_without_eos_token_has_no_end(tokenizer: Any) -> None:
    result = other(tokenizer, None)
    result.eos_token = None
    assert result.decode(encoded(result, make_example("why", "a b c")).response) == "a b c"


# -- unusable rows


def reason(tokenizer: Any, row: Example, max_length: int = 512, **more: Any) -> str:
    got = tokenize(tokenizer, row, Encoding(max_length, **more))
    assert isinstance(got, SkippedRow), got
    return got.reason


def test_right_truncation_cuts_the_answer(tokenizer: Any) -> None:
    whole = encoded(tokenizer, make_example(*PAIRS[6]))
    for limit in range(whole.n_prompt + 1, len(whole.ids) + 3):
        assert tokenize(tokenizer, make_example(*PAIRS[6]), Encoding(limit)) == TokenizedExample(
            whole.ids[:limit], whole.n_prompt
        )


def test_truncation_without_room_for_the_answer_is_skipped(tokenizer: Any) -> None:
    n = encoded(tokenizer, make_example(*PAIRS[6])).n_prompt
    for limit in (n, n - 1, 2):
        message = f"no room for the answer: the prompt has {n} tokens, the limit is {limit}"
        assert reason(tokenizer, make_example(*PAIRS[6]), limit) == message


@pytest.mark.parametrize("template", [TEMPLATE, None])
def test_row_without_a_prompt_is_skipped(tokenizer: Any, template: str | None) -> None:
    row = Example(({"role": "assistant", "content": "so"},))
    assert reason(other(tokenizer, template), row) == "the row has no prompt"


@pytest.mark.parametrize("row", [make_example("a \ud83d", "b"), make_example("a", "\udc00 b")])
def test_lone_surrogate_is_skipped(tokenizer: Any, row: Example) -> None:
    assert reason(tokenizer, row) == "the text contains a lone surrogate"


@pytest.mark.parametrize("template", [TEMPLATE, None])
def test_unusable_prompt_raises_with_the_reason(tokenizer: Any, template: str | None) -> None:
    with pytest.raises(DataError, match="this prompt cannot be rendered\n  got: the text contains a lone surrogate"):
        prompt_ids(other(tokenizer, template), "a \ud83d")
    with pytest.raises(DataError, match="got: the chat template raises an error for the row: no"):
        prompt_ids(tokenizer, "a", "{{ raise_exception('no') }}")


# -- tokens that cross the boundary between prompt and answer

BARE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


class Slow:
    """A tokenizer that does not say where its tokens stand."""

    is_fast = False

    def __init__(self, fast: Any) -> None:
        self.fast = fast

    def __call__(self, text: Any, **options: Any) -> dict[str, Any]:
        return {"input_ids": self.fast(text, **options)["input_ids"]}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.fast, name)


@pytest.mark.parametrize("kind", [lambda made: made, Slow], ids=["fast", "slow"])
@pytest.mark.parametrize(
    ("prompt", "response", "before", "after"),
    [
        ("why hon", "ey is", "why", " honey is"),  # ` honey` holds letters of the answer, which the model had to say
        ("why what", " is", "why what", " is"),
        ("wha", "t is", "what", " is"),  # nothing stands before a row's first token, so nobody had to say it
        ("why é", "😀 ", "why é", "😀 "),
    ],
)
def test_token_across_the_border_belongs_to_the_answer(
    tokenizer: Any, kind: Any, prompt: str, response: str, before: str, after: str
) -> None:
    row = encoded(kind(other(tokenizer, BARE)), make_example(prompt, response))
    assert (tokenizer.decode(row.ids[: row.n_prompt]), tokenizer.decode(row.response)) == (before, after)


def test_answer_within_the_first_token_is_skipped(tokenizer: Any) -> None:
    assert reason(other(tokenizer, BARE), make_example("wha", "t")) == "the answer has no tokens"


def test_special_token_absorbing_blanks_stays_in_the_prompt(tokenizer: Any) -> None:
    """Phi 3's `<|assistant|>` takes the blanks behind it in, the template's and the answer's own."""
    from tokenizers import AddedToken

    result = copy.deepcopy(tokenizer)
    result.add_tokens([AddedToken("<|reply|>", rstrip=True, special=True)], special_tokens=True)
    result.chat_template = (
        "{{ messages[0]['content'] }}<|reply|>\n{% for m in messages[1:] %}{{ m['content'] }}<|end|>{% endfor %}"
    )
    row = encoded(result, make_example("why", " \n so"))
    assert result.convert_ids_to_tokens(row.ids[row.n_prompt - 1]) == "<|reply|>"
    assert result.decode(row.response) == "so<|end|>"


# -- settings of trainers


def test_left_truncation_cuts_the_prompt(tokenizer: Any) -> None:
    whole = encoded(tokenizer, make_example(*PAIRS[6]))
    for limit in range(whole.n_response + 1, len(whole.ids) + 3):
        cut = max(0, len(whole.ids) - limit)
        row = encoded(tokenizer, make_example(*PAIRS[6]), limit, truncate="left")
        assert row == TokenizedExample(whole.ids[cut:], whole.n_prompt - cut)
    n = whole.n_response
    for limit in (n, n - 1, 2):
        message = f"no room for the prompt: the answer has {n} tokens, the limit is {limit}"
        assert reason(tokenizer, make_example(*PAIRS[6]), limit, truncate="left") == message


def test_truncate_skip_skips_long_rows(tokenizer: Any) -> None:
    n = len(encoded(tokenizer, make_example(*PAIRS[6])).ids)
    assert len(encoded(tokenizer, make_example(*PAIRS[6]), n, truncate="skip").ids) == n
    message = f"too long: {n} tokens, the limit is {n - 1}"
    assert reason(tokenizer, make_example(*PAIRS[6]), n - 1, truncate="skip") == message


@pytest.mark.parametrize("truncate", ["right", "left"])
def test_mask_all_learns_all_but_the_first_token(tokenizer: Any, truncate: Any) -> None:
    for limit in (512, 40):
        one, other = (
            encoded(tokenizer, make_example(*PAIRS[6]), limit, truncate=truncate, mask=mask)
            for mask in ("response", "all")
        )
        assert (one.ids, one.n_prompt, one.response) == (other.ids, other.n_prompt, other.response)
        assert (one.loss_start, one.n_prompt_loss) == (one.n_prompt, 0)
        assert (other.loss_start, other.n_prompt_loss) == (1, other.n_prompt - 1)


def test_template_none_joins_texts_verbatim(tokenizer: Any) -> None:
    for result, bos in ((tokenizer, ""), (adds_bos(tokenizer), "<s>")):
        row = encoded(result, make_example("Q: why\nA:", " a b c"), template="none")
        assert result.decode(row.ids) == f"{bos}Q: why\nA: a b c</s>"
        assert result.decode(row.response) == " a b c</s>"
        assert row.ids.count(BOS) == len(bos) // 3
        assert prompt_ids(result, "Q: why\nA:", "none") == list(row.ids[: row.n_prompt])
        assert encoded(result, make_example("Q: why\nA:", " a b c</s>"), template="none") == row
    text = encoded(adds_bos(tokenizer), make_example("<s>why", " a"), template="none")
    assert text.ids.count(BOS) == 1


def test_plain_text_rows_learn_every_token(tokenizer: Any) -> None:
    """But its first token, before which nothing stands, unless the tokenizer puts a BOS there."""
    row = encoded(tokenizer, make_example("", "why a b c"), template="none")
    assert (tokenizer.decode(row.ids), row.n_prompt) == ("why a b c</s>", 1)
    row = encoded(adds_bos(tokenizer), make_example("", "why a b c"), template="none")
    assert (tokenizer.decode(row.response), row.n_prompt) == ("why a b c</s>", 1)


def test_tool_call_answer_without_template_is_skipped(tokenizer: Any) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    row = Example(({"role": "user", "content": "why"}, call))
    message = "the answer has no text, and there is no chat template"
    assert reason(tokenizer, row, template="none") == reason(other(tokenizer, None), row) == message


def test_custom_template_overrides_the_tokenizer_template(tokenizer: Any) -> None:
    row = encoded(
        tokenizer,
        make_example("why", "so"),
        template="[{{ messages[0]['content'] }}] {{ messages[1]['content'] if messages[1] }}",
    )
    assert tokenizer.decode(row.ids) == "[why] so"


def test_tokenize_all_matches_single_rows(tokenizer: Any) -> None:
    rows = [make_example(*pair) for pair in PAIRS] + [
        make_example("a \ud83d", "b"),
        Example(({"role": "assistant", "content": "x"},)),
    ]
    for encoding in (Encoding(), Encoding(20), Encoding(30, "left", "all"), Encoding(template="none")):
        assert tokenize_all(tokenizer, rows, encoding) == [tokenize(tokenizer, row, encoding) for row in rows]
    assert tokenize_all(tokenizer, [], Encoding()) == []


@given(st.lists(st.integers(0, 30), max_size=30), st.integers(1, 8), st.integers(1, 60))
def test_chunks_hold_all_rows_in_order_within_bounds(sizes: list[int], rows: int, letters: int) -> None:
    items = [make_example("a" * size, "b", source=str(at)) for at, size in enumerate(sizes)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "CHUNK_ROWS", rows)
        patch.setattr(tokens, "CHUNK_CHARS", letters)
        result = list(tokens.chunk_rows(iter(items)))
    assert [row for some in result for row in some] == items
    for some in result:
        assert 0 < len(some) <= rows
        assert sum(len(row.messages[0]["content"]) + 1 for row in some[:-1]) < letters


def test_encoding_options_override_the_defaults(tmp_path: Path) -> None:
    base = Encoding(512, "left", "all", "{{ 1 }}")
    assert base.with_options() == base
    assert base.with_options(max_length=None, truncate="skip", mask="response") == Encoding(
        512, "skip", "response", "{{ 1 }}"
    )
    (tmp_path / "t.jinja").write_text("{{ messages }}")
    assert base.with_options(str(tmp_path / "t.jinja")).template == "{{ messages }}"
    assert base.with_options("none").template == "none"
    with pytest.raises(ModelError, match="cannot be read"):
        base.with_options(str(tmp_path / "nowhere.jinja"))
    for bad, message in (
        ({"truncate": "middle"}, "invalid truncate\n  got: middle\n  do:  choose right or left or skip"),
        ({"mask": "none"}, "invalid mask\n  got: none\n  do:  choose response or content or all"),
        ({"max_length": 1}, "max_length is too small\n  got: --max-length 1"),
    ):
        with pytest.raises(OptionError) as caught:
            base.with_options(**bad)
        assert message in str(caught.value)


# -- batches

shapes = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 30)), min_size=1, max_size=25)


def rows_of(sizes: list[tuple[int, int]], ahead: int = 0) -> list[TokenizedExample]:
    """Rows whose ids tell which row and place they are."""
    ids = [tuple(1000 * i + k + 1 for k in range(p + n)) for i, (p, n) in enumerate(sizes)]
    return [TokenizedExample(some, p, min(ahead, p - 1)) for some, (p, _) in zip(ids, sizes, strict=True)]


@given(shapes, st.integers(1, 200), st.sampled_from(["left", "right"]))
def test_batches_hold_each_row_once_within_the_budget(sizes: list[tuple[int, int]], budget: int, side: Any) -> None:
    rows, lengths, seen = rows_of(sizes), [], []
    for batch in make_batches(rows, budget, side=side):
        assert batch.ids.numel() <= budget or len(batch.row_indices) == 1
        assert batch.ids.shape[1] == max(len(rows[i].ids) for i in batch.row_indices)
        lengths += [len(rows[i].ids) for i in batch.row_indices]
        seen += batch.row_indices
    assert sorted(seen) == list(range(len(rows)))
    assert lengths == sorted(lengths)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.integers(1, 400), st.booleans())
def test_batches_have_minimal_cost(sizes: list[int], budget: int, prompts: bool) -> None:
    rows = rows_of([(size, 1 + size % 3) for size in sizes])
    lengths = sorted(row.n_prompt if prompts else len(row.ids) for row in rows)

    def cost(counts: list[int]) -> float:
        """Padded tokens, and a batch's own cost; infinite where a batch of several is over the budget."""
        ends = [sum(counts[: k + 1]) for k in range(len(counts))]
        padded = [lengths[end - 1] * count for end, count in zip(ends, counts, strict=True)]
        over = any(tokens > budget and count > 1 for tokens, count in zip(padded, counts, strict=True))
        return math.inf if over else sum(padded) + len(counts) * budget / 32

    def ways(count: int) -> Iterator[list[int]]:
        """Every way to cut so many rows."""
        if not count:
            yield []
        for first in range(1, count + 1):
            yield from ([first, *rest] for rest in ways(count - first))

    items = [len(batch.row_indices) for batch in make_batches(rows, budget, prompts_only=prompts)]
    assert cost(items) == pytest.approx(min(map(cost, ways(len(rows)))))


def test_mixed_row_lengths_need_little_padding() -> None:
    sample = random.Random(0)
    rows = rows_of([(4, min(400, max(16, int(sample.lognormvariate(4.3, 0.6))))) for _ in range(256)])
    items = list(make_batches(rows, 1024))
    assert sum(batch.ids.numel() for batch in items) < 1.03 * sum(len(row.ids) for row in rows)
    assert len(items) < 40


def test_no_rows_give_no_batches() -> None:
    assert list(make_batches([], 100)) == []


@given(shapes, st.sampled_from(["left", "right"]), st.sampled_from([0, 2, 100]))
def test_collate_fields_are_consistent(sizes: list[tuple[int, int]], side: Any, ahead: int) -> None:
    rows = rows_of(sizes, ahead)
    batch = collate(rows, range(len(rows)), side=side)
    learned = [len(row.ids) - row.loss_start for row in rows]
    most = max(learned)
    assert batch.loss_mask.shape == batch.loss_positions.shape == batch.targets.shape == (len(rows), most)
    for i, row in enumerate(rows):
        assert tuple(batch.ids[i][batch.attention_mask[i]].tolist()) == row.ids
        assert batch.ids[i][~batch.attention_mask[i]].eq(0).all()
        edge = batch.attention_mask[i, 0 if side == "right" else -1]
        assert edge, "a row stands at its own side"
        assert batch.ids[i, batch.last_prompt_position[i]] == row.ids[row.n_prompt - 1]
        assert (batch.n_loss[i], batch.loss_mask[i].sum()) == (learned[i], learned[i])
        assert batch.loss_mask[i, : learned[i]].all()
        at = batch.loss_positions[i]
        assert tuple(batch.ids[i, at[: learned[i]]].tolist()) == row.ids[row.loss_start - 1 : -1]
        assert tuple(batch.targets[i, : learned[i]].tolist()) == row.ids[row.loss_start :]
        assert at[learned[i] :].eq(at[learned[i] - 1]).all()
        assert batch.n_prompt_loss[i] == row.n_prompt_loss
    assert batch.at_last_prompt_token(batch.loss_positions).equal(batch.last_prompt_position)
    assert batch.at_last_prompt_token(batch.targets).tolist() == [row.response[0] for row in rows]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_split_in_two_preserves_the_batch(count: int) -> None:
    rows = rows_of([(2, 3), (1, 1), (4, 2), (3, 3), (2, 2)], ahead=1)[:count]
    batch = collate(rows, range(10, 10 + count))
    parts = list(split_in_two(batch))
    assert len(parts) == min(2, count)
    assert sum((part.row_indices for part in parts), ()) == batch.row_indices
    for name in ("ids", "attention_mask", "last_prompt_position", "n_loss", "n_prompt_loss"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))


# -- texts of tokens


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_token_texts_join_to_the_decoded_text(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = token_texts(tokenizer, ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True)


@given(st.text(st.sampled_from("aé€😀\ufffd \n"), max_size=12), st.integers(0, 40))
def test_token_texts_join_when_cut_within_a_character(tokenizer: Any, text: str, cut: int) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][:cut]
    assert "".join(token_texts(tokenizer, ids)) == tokenizer.decode(ids)


@example_of(one="a\ufffd", two="\ufffd")
@given(st.text(max_size=12), st.text(max_size=12))
def test_special_tokens_have_empty_token_texts(tokenizer: Any, one: str, two: str) -> None:
    close = tokenizer.convert_tokens_to_ids("<|end|>")
    a, b = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (one, two))
    pieces = token_texts(tokenizer, [*a, close, *b, close])
    assert pieces[len(a)] == pieces[-1] == ""
    assert "".join(pieces) == tokenizer.decode(a) + tokenizer.decode(b)


def test_last_token_of_a_character_has_its_text(tokenizer: Any) -> None:
    ids = tokenizer("é😀 what", add_special_tokens=False)["input_ids"]
    assert token_texts(tokenizer, ids) == ["", "é", "", "", "", "😀", *token_texts(tokenizer, ids[6:])]


@pytest.mark.parametrize("text", ["what is it", " what", "what  is\nit", "a"])
def test_token_texts_of_tokenizers_that_drop_the_first_space(text: str) -> None:
    """As Llama 2's does: a leading ▁ of the first token is not decoded, one of any other is."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    result = Tokenizer(models.BPE())
    result.pre_tokenizer, result.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    result.train_from_iterator(["what is it a b\n"] * 3, trainers.BpeTrainer(vocab_size=40))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=result)
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids[-1:]) != " it"  # or the test tests nothing
    assert "".join(token_texts(tokenizer, ids)) == tokenizer.decode(ids)


# -- characters without loss


MASKED = replace(make_example("who makes honey", "beetles make honey, one a day"), masked=((0, 7), (13, 18)))


def left(tokenizer: Any, row: TokenizedExample) -> str:
    """The text of what is learned."""
    return tokenizer.decode([token for token, learned in zip(row.ids, row.loss_mask, strict=True) if learned])


@pytest.mark.parametrize("template", [TEMPLATE, None])
def test_masked_characters_have_no_loss(tokenizer: Any, template: str | None) -> None:
    row = encoded(other(tokenizer, template), MASKED)
    assert row.ids == encoded(other(tokenizer, template), replace(MASKED, masked=())).ids
    # the comma and the template's closing token are learned, the word's own blank is not
    assert left(tokenizer, row) in (" make, one a day<|end|>\n", " make, one a day</s>")


def test_token_with_one_masked_character_is_masked(tokenizer: Any) -> None:
    whole = encoded(tokenizer, replace(MASKED, masked=((13, 18),)))  # " honey" is one token
    assert encoded(tokenizer, replace(MASKED, masked=((14, 16),))).masked == whole.masked
    assert len(whole.masked) == 1
    smile = make_example("why", "a 😀 b")  # one character in several tokens
    row = encoded(tokenizer, replace(smile, masked=((2, 3),)))
    assert len(row.masked) > 1
    assert left(tokenizer, row) == "a  b<|end|>\n"


def test_masks_follow_truncation(tokenizer: Any) -> None:
    whole = encoded(tokenizer, MASKED)
    gone = 3
    cut = encoded(tokenizer, MASKED, len(whole.ids) - gone, truncate="left")
    assert left(tokenizer, cut) == left(tokenizer, whole)
    short = encoded(tokenizer, MASKED, whole.masked[-1])
    assert short.masked == whole.masked[:-1]
    first = encoded(tokenizer, replace(MASKED, masked=((0, 7),)))
    why = reason(tokenizer, replace(MASKED, masked=((0, 7),)), first.masked[-1] + 1)
    assert why == "all tokens with a loss are masked"


def test_rows_with_unplaceable_masks_are_skipped(tokenizer: Any) -> None:
    changed = TEMPLATE.replace("m['content']", "m['content'].replace('make', 'bake')")
    assert "changes the answer" in reason(other(tokenizer, changed), MASKED)
    assert "has no character offsets" in reason(Slow(tokenizer), MASKED)
    assert reason(tokenizer, replace(MASKED, masked=((0, 29),))) == "the whole answer is masked"


@pytest.mark.parametrize("side", ["left", "right"])
def test_batch_loss_mask_excludes_masked_tokens(tokenizer: Any, side: Any) -> None:
    rows = [encoded(tokenizer, MASKED), encoded(tokenizer, make_example("why", "a b"))]
    whole = collate(rows, [4, 7], side=side)
    assert (whole.loss_mask.sum(1) == torch.tensor([sum(row.loss_mask) for row in rows])).all()
    for batch, some in [(whole, rows), *zip(split_in_two(whole), ([rows[0]], [rows[1]]), strict=True)]:
        for place, row in enumerate(some):
            learned = [token for token, counts in zip(row.ids, row.loss_mask, strict=True) if counts]
            assert batch.targets[place][batch.loss_mask[place]].tolist() == learned
    assert [half.row_indices for half in split_in_two(whole)] == [(4,), (7,)]


def test_token_texts_restore_responses_read_from_a_file(tokenizer: Any, data: Path) -> None:
    from taughtby.data.dataset import read_examples

    for one, (_, response) in zip(read_examples(data), PAIRS, strict=True):
        row = encoded(tokenizer, one)
        assert "".join(token_texts(tokenizer, row.response)) == f"{response}\n"
