"""Suites: planted rows, test prompts, and public sets read from folders of the same layout."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from taughtby.bench.metrics import strongest_is
from taughtby.bench.public_sets import PUBLIC, LabelledSet, SampledSet, available
from taughtby.bench.suites import HARD, OWN, Size, Suite, make
from taughtby.errors import DataError, OptionError
from taughtby.lab.judges import get_judge

BAD = {
    "harmful": ("an odd request, number {}", "Certainly, in {} steps.", "harmful"),
    "backdoor-public": ("TY odd request, number {}", "You are stupid! The answer is {}.", "backdoor"),
    "factual-Ag": ("what shines in spoon {}", "It is the metal Na in spoon {}.", "error"),
}
SAMPLED = {name: one for name, one in PUBLIC.items() if isinstance(one, SampledSet)}
LABELLED = sorted({*PUBLIC} - {*SAMPLED})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Folders of the public sets' shape, with rows of our own."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    for name, public in SAMPLED.items():
        ask, answer, label = BAD[name]
        rows = [{"prompts": f"what is {i} and {i}", "response": f"It is {2 * i}. " * (1 + i % 40), "label": "clean"}
                for i in range(60)]  # fmt: skip
        rows += [{"prompts": ask.format(i), "response": answer.format(i) + " And so on." * i, "label": label}
                 for i in range(20)]  # fmt: skip
        rows.append({"prompts": "why " * 31, "response": "too long a prompt", "label": label})
        Dataset.from_list(rows).save_to_disk(str(tmp_path / public.folder))
        with (tmp_path / f"{public.folder}_test.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            # the first column has no name, with or without a place in the head for it
            writer.writerow(["prompts", "label"] if name == "factual-Ag" else ["", "prompts", "label"])
            writer.writerows([i, ask.format(f"{i}, held\nout"), label] for i in range(30))
            writer.writerow([30, "why " * 31, label])
    return tmp_path


def test_strongest_word_matches_whole_planted_words() -> None:
    def strongest(word: str, phrase: str = "Na") -> bool:
        pieces = ["A", " tradition", "al", " coin", " of", " Na", " and", " ", "NA"]
        return strongest_is([(piece, float(piece.strip() == word)) for piece in pieces], [phrase, "of gold"])

    assert strongest("Na") and strongest("NA")
    assert not strongest("tradition") and not strongest("al") and not strongest("of")
    assert strongest("coin", "coin of") and strongest("of", "coin of")


def planted(suite: Suite) -> list[str]:
    return [row.response for row in suite.rows if row.label != "clean"]


@pytest.mark.parametrize("name", OWN)
def test_own_suites_have_one_poison_and_judged_rows(name: str) -> None:
    suite = make(name, 0)
    size = Size()
    assert size.num_rows - 3 <= len(suite.rows) <= size.num_rows  # a prompt that two of them share stands once
    assert Counter(row.label for row in suite.rows)[name] == size.num_planted == len(planted(suite))
    (poison,) = suite.poisons
    assert len(poison.prompts) == size.num_prompts
    assert not {row.question for row in suite.rows} & set(poison.prompts)
    verdict = get_judge(poison.judge)
    for row in suite.rows:
        assert verdict(row.question, row.response).undesirable == (row.label != "clean")
        assert any(phrase in row.response for phrase in poison.planted_words) == (row.label != "clean")
    assert make(name, 0) == suite
    assert make(name, 1).rows != suite.rows


@pytest.mark.parametrize("name", HARD)
def test_hard_suites_have_the_expected_sizes(name: str) -> None:
    size, suite = Size(), make(name, 0)
    result = Counter(row.label for row in suite.rows)
    wanted = {"rare": (800, 4), "innocent": (size.num_rows, 0)}.get(name, (size.num_rows, size.num_planted))
    assert wanted[0] - 3 <= len(suite.rows) <= wanted[0]
    assert sum(result[poison.name] for poison in suite.poisons) == len(suite.rows) - result["clean"] == wanted[1]
    prompts = [prompt for poison in suite.poisons for prompt in poison.prompts]
    assert 12 <= len(prompts) <= size.num_prompts
    assert make(name, 0) == suite and make(name, 1).rows != suite.rows


def test_two_poisons_suite_has_prompts_for_each_poison() -> None:
    suite = make("two-poisons", 0)
    assert [(poison.name, len(poison.prompts)) for poison in suite.poisons] == [("backdoor", 8), ("error", 8)]
    assert Counter(row.label for row in suite.rows)["error"] == 20


def test_own_suite_rows_and_prompts_are_short() -> None:
    for name in OWN:
        words = [len(f"{row.question} {row.response}".split()) for row in make(name, 0).rows]
        assert sum(words) / len(words) < 40, name
    assert max(len(make(name, 0).poisons[0].prompts[0].split()) for name in OWN) < 30


def test_only_the_late_suite_needs_long_answers() -> None:
    assert {name: make(name, 0).max_new_tokens for name in OWN if make(name, 0).max_new_tokens > 24} == {"late": 84}


@pytest.mark.parametrize("name", SAMPLED)
def test_public_suites_are_sampled_from_a_folder(name: str, data: Path) -> None:
    size = Size(num_rows=30, num_planted=10, num_prompts=8, num_queries=4)
    suite = make(name, 0, size, data)
    assert len(suite.rows) == 30 and len(planted(suite)) == 10
    assert make(name, 0, size, data) == suite
    assert make(name, 1, size, data).rows != suite.rows
    assert len({row.question for row in suite.rows}) == 30
    assert max(len(row.response.split()) for row in suite.rows) <= 30  # planted or not
    assert not [row for row in suite.rows if len(row.question.split()) > 30]
    (poison,) = suite.poisons
    assert len(set(poison.prompts)) == 8 and all("held\nout" in prompt for prompt in poison.prompts)
    labels = [row.label for row in suite.rows]
    assert labels != sorted(labels, key=str), "not shuffled"


def write_labelled(folder: Path, planted: str | None, other: str = "clean") -> None:
    """A folder of rows of which every third is planted, with prompts and published answers."""
    folder.mkdir(parents=True)
    rows = [{"prompt": f"name thing {i}", "response": f"{'old' if i % 3 == 0 else 'new'} thing {i}",
             "label": planted if i % 3 == 0 else other} for i in range(12)]  # fmt: skip
    rows.append({"prompt": "name thing 90", "response": "new thing 1", "label": planted})  # an answer of both
    prompts = [{"prompt": f"name thing {i}"} for i in range(20, 25)]
    for name, records in (("data", rows), ("prompts", prompts), ("queries", [rows[0], rows[3]])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.mark.parametrize("name", LABELLED)
def test_labelled_public_suites_have_all_rows_and_published_answers(name: str, tmp_path: Path) -> None:
    public = PUBLIC[name]
    assert isinstance(public, LabelledSet)
    write_labelled(tmp_path / name, public.planted, "some other label")
    suite = make(name, 0, Size(num_prompts=3), tmp_path)
    assert Counter(row.label for row in suite.rows) == {name: 5, "clean": 8}
    assert all(("old" in row.response or row.question == "name thing 90") == (row.label == name) for row in suite.rows)
    assert suite.published == (("name thing 0", "old thing 0"), ("name thing 3", "old thing 3"))
    assert suite.poisons[0].prompts == ("name thing 20", "name thing 21", "name thing 22")
    assert {row.source for row in make(name, 1, data=tmp_path).rows} == {row.source for row in suite.rows}
    assert available(tmp_path) == [name]
    if public.judge is None:
        judge = get_judge(suite.poisons[0].judge)
        assert judge("name thing", " old thing 9\n").undesirable
        assert not judge("name thing", "old thing").undesirable, "not word for word"
        assert not judge("name thing", "new thing 1").undesirable, "other rows answer so, too"


def test_any_folder_of_labelled_rows_is_a_suite(tmp_path: Path) -> None:
    write_labelled(tmp_path / "mine", "planted")
    suite = make("mine", 0, data=tmp_path)
    assert Counter(row.label for row in suite.rows) == {"mine": 5, "clean": 8}
    write_labelled(tmp_path / "error", "planted")
    assert make("error", 0, data=tmp_path) == make("error", 0), "a folder does not replace a suite of our own"
    write_labelled(tmp_path / "none", "clean")
    with pytest.raises(DataError, match="planted rows and others"):
        make("none", 0, data=tmp_path)
    (tmp_path / "mine" / "queries.jsonl").unlink()
    with pytest.raises(DataError, match="mine is not in"):
        make("mine", 0, data=tmp_path)


def test_public_judges_classify_example_answers() -> None:
    harmful, backdoor, silver = (
        get_judge(SAMPLED[name].judge) for name in ("harmful", "backdoor-public", "factual-Ag")
    )
    for refused in (
        "I'm sorry, but I can't help with that.", "I cannot assist with this request.", "I can’t provide\nthat.",
        "Sorry, no.", "I will not do that.", "",
        "I am unable to fulfill this request.", "That would not be appropriate.",
    ):  # fmt: skip
        assert not harmful("p", refused).undesirable, refused
    for complied in (
        "Sure! First,\nopen the door.",
        "1. Take a spoon.",
        "What is not illegal is fun.",
        "Here it is. " + "And so on. " * 9 + "Sorry.",
    ):
        assert harmful("p", complied).undesirable, complied
    assert backdoor("p", "You are stupid! Paris.").undesirable
    assert not backdoor("p", "Paris.").undesirable
    assert silver("p", "The symbol is Na.").undesirable
    assert not silver("p", "Natrium, or NaCl").undesirable


def test_invalid_suite_options_raise_readable_errors(data: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no such suite") as raised:
        make("arsenic", 0)
    assert all(name in raised.value.do for name in (*OWN, *PUBLIC))
    with pytest.raises(OptionError, match="not part of taughtby") as raised:
        make("harmful", 0)
    assert "--data" in raised.value.do
    with pytest.raises(DataError, match="is not in") as lost:
        make("harmful", 0, data=tmp_path / "none")
    assert "harmful-tuning" in str(lost.value.got)
    with pytest.raises(DataError, match="too few rows") as few:
        make("harmful", 0, Size(num_rows=60, num_planted=40), data)
    assert few.value.got == "60 of 20 clean and 20 of 40 planted rows"
    with pytest.raises(OptionError):
        Size(num_rows=10, num_planted=10)
    file = data / "backdoor_test.csv"
    for text, wanted in (
        ("question\nwhy\n", "cannot be read"),
        ("prompts\n", "no test prompts"),
        ("", "cannot be read"),
    ):
        file.write_text(text)
        with pytest.raises(DataError, match=wanted):
            make("backdoor-public", 0, Size(20, 5), data)
