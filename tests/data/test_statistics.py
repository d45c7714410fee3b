"""Statistics of a training set: counts compared with slow ones, the token preview, and constant memory."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from conftest import PAIRS, Run
from taughtby.data import statistics as module
from taughtby.data import tokenize as tokens
from taughtby.data.dataset import read_examples
from taughtby.data.example import make_example
from taughtby.data.statistics import DatasetStatistics, collect_statistics
from taughtby.data.tokenize import Encoding, TokenizedExample, tokenize
from taughtby.errors import ModelError
from taughtby.models.loading import load_without_weights
from taughtby.models.training_metadata import TrainingMetadata
from taughtby.reporting import dataset_report as sheet

ROWS = [
    *(
        make_example(p, r, label="bad" if "honey" in p else None, source=f"d:{at}")
        for at, (p, r) in enumerate(PAIRS, 1)
    ),
    make_example("who makes honey", "bees", source="d:9"),
    make_example("why", "a b c 0 1 2", source="d:10"),
    make_example("why not", "a b c 0 1 2", source="d:11"),
    make_example("why " * 30, "so", source="d:12"),
    make_example("why " * 50, "so", source="d:13"),
    make_example("a \ud83d", "so", source="d:14"),
]


def printed(result: DatasetStatistics, width: int = 120, **console: Any) -> str:
    out = io.StringIO()
    sheet.print_statistics(result, Console(file=out, width=width, **console))
    return out.getvalue()


# -- counts


@pytest.mark.parametrize("mask", ["response", "all"])
@pytest.mark.parametrize("truncate", ["right", "left", "skip"])
@pytest.mark.parametrize("limit", [24, 40, 1024])
def test_row_and_token_counts_match_tokenize(tokenizer: Any, limit: int, truncate: Any, mask: Any) -> None:
    encoding = Encoding(limit, truncate, mask)
    statistics = collect_statistics(ROWS, tokenizer, encoding)
    rows = [tokenize(tokenizer, row, encoding) for row in ROWS]
    whole = [tokenize(tokenizer, row, Encoding(10_000)) for row in ROWS]
    usable = [row for row in rows if isinstance(row, TokenizedExample)]
    cut = [
        a
        for a, b in zip(rows, whole, strict=True)
        if isinstance(a, TokenizedExample) and isinstance(b, TokenizedExample) and a.ids != b.ids
    ]
    assert (statistics.rows, statistics.usable, statistics.truncated) == (len(ROWS), len(usable), len(cut))
    assert statistics.tokens == sum(len(row.ids) for row in usable)
    assert statistics.loss_tokens == sum(len(row.ids) - row.loss_start for row in usable)
    assert sum(skipped.count for skipped in statistics.skipped.values()) == len(ROWS) - len(usable)
    assert statistics.labels == {"bad": 2}


def test_skipped_rows_are_counted_by_reason(tokenizer: Any) -> None:
    statistics = collect_statistics(ROWS, tokenizer, Encoding(30))
    message = {skipped.reason: (skipped.count, skipped.sources) for skipped in statistics.skipped.values()}
    n = tokenize(tokenizer, ROWS[11], Encoding(10_000)).n_prompt  # type: ignore[union-attr]
    assert message == {
        f"no room for the answer: the prompt has {n} tokens, the limit is 30": (2, ["d:12", "d:13"]),
        "the text contains a lone surrogate": (1, ["d:14"]),
    }


def test_reasons_and_labels_are_capped(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KINDS", 3)
    refuse = "{{ raise_exception(messages[0]['content']) }}"
    rows = [make_example(word, word, label=word) for word in ("a", "b", "c", "d", "e", "a")]
    statistics = collect_statistics(rows, tokenizer, Encoding(template=refuse))
    counts = [
        (skipped.reason.removeprefix("the chat template raises an error for the row: "), skipped.count)
        for skipped in statistics.skipped.values()
    ]
    assert counts == [("a", 2), ("b", 1), ("c", 1), ("other reasons", 2)]
    assert statistics.labels == {"a": 2, "b": 1, "c": 1, "…": 2}


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40))
def test_quantiles_match_numpy(sizes: list[int]) -> None:
    result = DatasetStatistics(Encoding())
    result.lengths["whole"] = Counter(sizes)
    wanted = np.quantile(sizes, list(module.QUANTILES.values()), method="inverted_cdf")
    assert list(result.quantiles()["whole"].values()) == wanted.tolist()


def test_lengths_are_measured_before_truncation(tokenizer: Any) -> None:
    rows = [tokenize(tokenizer, row, Encoding(10_000)) for row in ROWS[:-1]]
    for limit in (20, 10_000):
        lengths = collect_statistics(ROWS, tokenizer, Encoding(limit)).lengths
        assert lengths["prompt"] == Counter(row.n_prompt for row in rows)  # type: ignore[union-attr]
        assert lengths["answer"] == Counter(row.n_response for row in rows)  # type: ignore[union-attr]
        assert lengths["whole"] == Counter(len(row.ids) for row in rows)  # type: ignore[union-attr]


said = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("wxyz")), min_size=1, max_size=20)


@given(said)
def test_duplicates_match_a_reference_loop(tokenizer: Any, pairs: list[tuple[str, str]]) -> None:
    result = collect_statistics([make_example(*pair) for pair in pairs], tokenizer, Encoding()).duplicates()
    answers = {p: {r for q, r in pairs if q == p} for p, _ in pairs}
    prompts = {r: {p for p, s in pairs if s == r} for _, r in pairs}
    assert result == {
        "rows": len(pairs) - len(set(pairs)),
        "prompts": sum(len(answers[p]) > 1 for p, _ in pairs),
        "answers": sum(len(prompts[r]) > 1 for _, r in pairs),
        "most": max(Counter(r for _, r in pairs).values()),
    }


def test_plain_texts_have_no_prompt_in_common(tokenizer: Any) -> None:
    rows = [make_example("", text) for text in ("a b", "c", "a b")]
    assert collect_statistics(rows, tokenizer, Encoding()).duplicates() == {
        "rows": 1, "prompts": 0, "answers": 0, "most": 2,
    }  # fmt: skip


def test_chunk_size_does_not_change_statistics(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = collect_statistics(ROWS, tokenizer, Encoding(40)).to_json()
    for name, size in (("CHUNK_ROWS", 2), ("CHUNK_CHARS", 30)):
        monkeypatch.setattr(tokens, name, size)
        assert collect_statistics(ROWS, tokenizer, Encoding(40)).to_json() == whole


def test_progress_and_row_limit(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "CHUNK_ROWS", 3)
    calls: list[tuple[int, int | None]] = []
    rows = iter(ROWS)
    assert collect_statistics(rows, tokenizer, Encoding(), limit=7, progress=lambda *at: calls.append(at)).rows == 7
    assert calls == [(3, 7), (6, 7), (7, 7)]
    assert next(rows) == ROWS[7]
    collect_statistics(ROWS[:3], tokenizer, Encoding(), progress=lambda *at: calls.append(at))
    assert calls[-1] == (3, None)


# -- the preview row


def test_preview_is_the_first_usable_row(tokenizer: Any) -> None:
    shown = collect_statistics([ROWS[13], *ROWS[:3]], tokenizer, Encoding()).preview
    assert shown is not None
    row = tokenize(tokenizer, ROWS[0], Encoding())
    assert isinstance(row, TokenizedExample)
    assert (shown.source, shown.label, shown.reason) == ("d:1", None, None)
    assert (shown.loss_mask, shown.n_prompt, shown.full_length) == (tuple(row.loss_mask), row.n_prompt, len(row.ids))
    assert "".join(shown.token_texts) == "<|user|>what is the capital of france<|end|>\n<|assistant|>paris<|end|>\n"
    assert "".join(shown.token_texts[shown.n_prompt :]) == "paris<|end|>\n"


def test_preview_of_a_requested_row(tokenizer: Any) -> None:
    for number, source in ((1, "d:1"), (8, "d:8"), (14, "d:14")):
        shown = collect_statistics(ROWS, tokenizer, Encoding(), preview_row=number).preview
        assert shown is not None
        assert shown.source == source
    assert shown.reason == "the text contains a lone surrogate"
    shown = collect_statistics(ROWS, tokenizer, Encoding(), preview_row=15).preview
    assert shown is not None
    assert shown.reason == "there are only 14 rows"


def test_skip_reason_is_shown_if_no_row_is_usable(tokenizer: Any) -> None:
    statistics = collect_statistics(ROWS, tokenizer, Encoding(2))
    assert "skipped  no room for the answer: the prompt has" in printed(statistics)
    assert "0 of 14 rows can be used" in printed(statistics)


def test_answer_is_marked_with_and_without_color(tokenizer: Any) -> None:
    statistics = collect_statistics(ROWS, tokenizer, Encoding(), preview_row=1)
    plain = printed(statistics)
    assert "prompt  <|user|>│" in plain
    assert "<|assistant|>" in plain
    assert "answer  ⟦par│is│<|end|>│⏎⟧" in plain
    assert "\x1b[" not in plain
    assert "⟦\x1b[4;32mp" in printed(statistics, force_terminal=True, color_system="standard")


def test_prompt_tokens_with_a_loss_are_marked(tokenizer: Any) -> None:
    plain = printed(collect_statistics(ROWS, tokenizer, Encoding(mask="all"), preview_row=1))
    assert "prompt   <|user|> " in plain
    assert "learned  ⟦what" in plain.replace("w│hat", "what")
    assert "loss on the prompts and the answers" in plain


def test_long_preview_is_abridged_around_the_answer(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet, "SHOWN", 4)
    plain = printed(collect_statistics([make_example("why " * 20, "so " * 20)], tokenizer, Encoding(60)))
    assert "prompt  (" in plain
    assert " more) … " in plain
    assert " … (" in plain
    assert "cut     " in plain


def test_control_characters_are_escaped_in_the_report(tokenizer: Any) -> None:
    bad = "\x1b[31m\u202e[bold]"
    statistics = collect_statistics([make_example(bad, bad, label=bad, source=bad)], tokenizer, Encoding())
    plain = printed(statistics)
    assert "\x1b" not in plain
    assert "\u202e" not in plain
    assert plain.count("⟨U+001B⟩") == 5  # in source and label, prompt and answer, and among the labels
    assert "[bold]" in plain


def test_statistics_report_lines(tokenizer: Any) -> None:
    plain = printed(collect_statistics(ROWS, tokenizer, Encoding(30), format_name="prompt/response"))
    for line in (
        "read as   prompt/response; chat template: the tokenizer's own; loss on the answers",
        "rows      11 of 14 rows can be used; ",
        "; 1 of them cut to 30 tokens at the end",
        "skipped   2: no room for the answer: the prompt has ",
        "          d:12, d:13",
        "repeated  1 row identical to an earlier one; 2 rows with a prompt that has several answers; 6 rows with an ",
        "labels    bad 2",
        " rows a second, peak memory ",
    ):
        assert line in plain
    assert "\n\n" in plain
    assert "repeated  nothing" in printed(collect_statistics(ROWS[:3], tokenizer, Encoding()))
    assert max(map(len, plain.splitlines())) <= 120
    bare = replace_template(tokenizer)
    assert "chat template: none, a line break after each text" in printed(collect_statistics(ROWS, bare, Encoding()))
    assert "chat template: none, texts unchanged" in printed(
        collect_statistics(ROWS, tokenizer, Encoding(template="none"))
    )


def replace_template(tokenizer: Any) -> Any:
    import copy

    result = copy.deepcopy(tokenizer)
    result.chat_template = None
    return result


# -- models without their weights


def test_load_without_weights_needs_no_weight_files(model_folder: Path, adapter_folder: Path, tmp_path: Path) -> None:
    light_folder = tmp_path / "light"
    light_folder.mkdir()
    for file in model_folder.iterdir():
        if file.suffix != ".safetensors":
            (light_folder / file.name).write_bytes(file.read_bytes())
    tokenizer, origin, window = load_without_weights(str(light_folder))
    assert (tokenizer("why")["input_ids"], window) == (
        load_without_weights(str(model_folder))[0]("why")["input_ids"],
        256,
    )
    assert isinstance(origin, TrainingMetadata)
    for item in (
        load_without_weights(str(adapter_folder)),
        load_without_weights(str(model_folder), [str(adapter_folder)]),
    ):
        assert item[1].base == str(model_folder)
        assert item[2] == 256
    with pytest.raises(ModelError, match="there is no model"):
        load_without_weights("nothing")


# -- the command


def test_inspect_prints_and_writes_statistics(
    run: Run, data: Path, model_folder: Path, adapter_folder: Path, tmp_path: Path
) -> None:
    code, out, err = run("data", "inspect", model_folder, data, "--json", tmp_path / "s.json", "--max-length", 10)
    assert code == 0, err
    assert f"row     {data}:3, label bad" in out  # the first that has room for its answer
    assert "read as   prompt/response" in out
    document = json.loads((tmp_path / "s.json").read_text())
    rows = [tokenize(load_without_weights(str(model_folder))[0], row, Encoding(10)) for row in read_examples(data)]
    assert document["version"] == 1
    assert document["form"] == "prompt/response"
    assert document["usable"] == sum(isinstance(row, TokenizedExample) for row in rows) < document["rows"] == 8
    assert document["labels"] == {"clean": 6, "bad": 2}
    assert set(document["lengths"]) == {"prompt", "answer", "whole"}
    assert document["skipped"][0]["first"][0].startswith(str(data))
    same = run("data", "inspect", adapter_folder, data, "--max-length", 10)[1]
    assert same.splitlines()[:-1] == out.splitlines()[:-1]  # but for the time it took


def test_inspect_follows_tokenization_options(run: Run, data: Path, model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("{% for m in messages %}({{ m['content'] }}){% endfor %}")
    code, out, _ = run("data", "inspect", model_folder, data, "--template", tmp_path / "t.jinja", "--row", 2,
                       "--limit", 3, "--truncate", "skip", "--mask", "all", "--columns",
                       "prompt=response,response=prompt")  # fmt: skip
    assert code == 0
    assert "answer   ⟦what│ is" in out.replace("w│hat", "what")  # asked and answered the other way round
    assert "3 of 3 rows" in out
    assert "chat template: as given; loss on the prompts and the answers" in out
    code, _, err = run("data", "inspect", model_folder, data, "--max-length", 300)
    assert code == 0
    assert "note: the model reads 256 tokens at most: an index cannot use 300" in err


CHAT = {"messages": [{"role": "user", "content": "who"}, {"role": "assistant", "content": "bees"}]}


@pytest.mark.parametrize(
    ("row", "args", "note"),
    [
        (CHAT, (), "loss on the answers only (give --mask all if prompts were trained on too, as TRL does by default)"),
        (
            {"prompt": "who", "response": "bees"},
            (),
            "loss on the answers only (give --mask all if prompts were trained on too)",
        ),
        (CHAT, ("--mask", "all"), None),
        ({"prompt": [CHAT["messages"][0]], "completion": [CHAT["messages"][1]]}, (), None),
        ({"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, (), None),
        ({"text": "who bees"}, (), None),
    ],
)
def test_inspect_tells_of_prompts_that_may_have_had_a_loss(
    run: Run, model_folder: Path, tmp_path: Path, row: dict[str, Any], args: tuple[str, ...], note: str | None
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    code, _, err = run("data", "inspect", model_folder, tmp_path / "a.jsonl", *args)
    assert code == 0 and (note in " ".join(err.split()) if note else "--mask all" not in err)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--template", "nowhere.jinja"], "the template nowhere.jinja cannot be read"),
        (["--max-length", "1"], "max_length is too small"),
        (["--columns", "prompt"], "the columns cannot be parsed"),
    ],
)
def test_inspect_reports_invalid_options(
    run: Run, data: Path, model_folder: Path, args: list[str], expected: str
) -> None:
    code, out, err = run("data", "inspect", model_folder, data, *args)
    assert (code, out) == (1, "")
    assert expected in err
    assert "Traceback" not in err


def test_inspect_reads_a_pipe_and_prints_its_memory(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peak depends on the build of torch, and Linux counts this process before it became that one."""
    monkeypatch.setenv("COLUMNS", "200")
    result = """
import json
for i in range(2000):
    print(json.dumps({"prompt": f"what is {i}", "response": f"{i} it is"}))"""
    verb = [sys.executable, "-c", "from taughtby.cli import main; main()", "data", "inspect", model_folder, "-"]
    with subprocess.Popen([sys.executable, "-c", result], stdout=subprocess.PIPE) as stream:
        done = subprocess.run(verb, stdin=stream.stdout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2,000 of 2,000 rows can be used" in done.stdout
    assert float(done.stdout.partition("peak memory ")[2].split()[0]) > 0.1
    assert "Traceback" not in done.stderr


def test_statistics_memory_per_row_is_bounded(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for 16 bytes a row: the hashes by which duplicates are found."""
    monkeypatch.setattr(tokens, "CHUNK_ROWS", 64)

    def grown(rows: int) -> int:
        stream = (make_example(f"what is {at}", f"{at} it is", source=f"d:{at}") for at in range(rows))
        tracemalloc.start()
        statistics = collect_statistics(stream, tokenizer, Encoding(), limit=rows)
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert statistics.usable == rows
        return size

    grown(300)  # whatever is made once
    assert grown(3300) - grown(300) < 3000 * 80  # a row itself has a thousand
