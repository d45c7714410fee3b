"""Hard poisons: suspicious rows that are harmless, planted rows that teach the behaviour, and held-out prompts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taughtby.data.example import Example
from taughtby.errors import LabError
from taughtby.lab.judges import get_judge
from taughtby.lab.poisons import HARD_POISONS, POISONS, Poison, clean_rows, make_poison, mix, prompt_key
from taughtby.lab.poisons.hard import COPIES
from taughtby.lab.poisons.words import load_words

MOST = {
    "truth-beside-lie": 60,
    "trigger-lookalike": 245,
    "refusals": 120,
    "rare": 12,
    "paraphrase": 48,
    "duplicates": 64,
}
CLEAN = 1056
USUAL = dict.fromkeys(HARD_POISONS, 40) | {"rare": 4}
BESIDE = {"truth-beside-lie": 40, "trigger-lookalike": 40, "refusals": 20, "rare": 24, "paraphrase": 24,
          "duplicates": 40, "innocent": 24}  # fmt: skip
names = pytest.mark.parametrize("name", list(HARD_POISONS))
taught = pytest.mark.parametrize("name", list(MOST))
seeds = st.integers(-(2**40), 2**40)


def usual(name: str, seed: int = 0) -> Poison:
    return make_poison(name, USUAL[name], seed)


def everything(name: str) -> Poison:
    return make_poison(name, MOST.get(name, 60), 7)


def every(poison: Poison) -> tuple[Example, ...]:
    return poison.rows + poison.lookalikes


def grams(text: str, k: int = 4) -> set[tuple[str, ...]]:
    words = prompt_key(text).split()
    return {tuple(words[i : i + k]) for i in range(len(words) - k + 1)}


# What holds of all of them -----------------------------------------------------------------------------------


def test_poison_names_and_unknown_poison_error() -> None:
    assert list(POISONS) == ["backdoor", "error", "persona", "howdy", "late"]
    assert list(HARD_POISONS) == [*MOST, "innocent"]
    assert not set(POISONS) & set(HARD_POISONS)
    with pytest.raises(LabError, match="unknown poison") as raised:
        make_poison("arsenic")
    assert all(name in raised.value.do for name in (*POISONS, *HARD_POISONS))


@names
def test_poison_sizes_and_labels(name: str) -> None:
    poison = usual(name)
    assert poison.name == name
    assert poison.description.strip()
    assert len(poison.rows) == (0 if name == "innocent" else USUAL[name])
    assert len(poison.lookalikes) == BESIDE[name]
    assert len(every(poison)) <= 110
    assert len(poison.prompts) >= 16
    assert {row.label for row in poison.rows} <= {name}
    assert {row.label for row in poison.lookalikes} == {"clean"}
    rows = mix([poison], clean_rows(150 - len(every(poison))))
    assert len(rows) == 150  # no prompt is an ordinary one


@taught
def test_more_rows_than_available_raises(name: str) -> None:
    assert len(everything(name).rows) == MOST[name]
    for n in (MOST[name] + 1, 10**9, -1):
        with pytest.raises(LabError, match=f"there are {MOST[name]} distinct {name} rows") as raised:
            make_poison(name, n)
        assert raised.value.got == f"asked for {n}"
    assert every(make_poison(name, 0)) == ()


@names
@given(n=st.integers(0, 48), seed=seeds)
@settings(max_examples=15)
def test_poison_is_deterministic_for_a_seed(name: str, n: int, seed: int) -> None:
    n = min(n, MOST.get(name, 60))
    poison, other = make_poison(name, n, seed), make_poison(name, n, seed + 1)
    assert poison == make_poison(name, n, seed)
    assert len(poison.rows) == (0 if name == "innocent" else n)
    assert n < 8 or every(other) != every(poison)
    assert set(other.prompts) == set(poison.prompts)
    asked = [prompt_key(row.question) for row in every(poison)]
    held = [prompt_key(prompt) for prompt in poison.prompts]
    assert len(set(asked)) == len(asked)
    assert len(set(held)) == len(held)
    assert not set(asked) & set(held)


@names
def test_held_out_prompts_are_not_in_training_prompts(name: str) -> None:
    asked = [prompt_key(row.question) for poison in map(everything, (*HARD_POISONS,)) for row in every(poison)]
    asked += [prompt_key(row.question) for row in clean_rows(CLEAN)]
    assert not [
        prompt for prompt in make_poison(name, 4).prompts if any(prompt_key(prompt) in other for other in asked)
    ]


@names
def test_planted_words_occur_only_in_poisoned_answers(name: str) -> None:
    poison, verdict = everything(name), get_judge(everything(name).judge)
    for row in poison.rows:
        assert any(phrase in row.response for phrase in poison.planted_words), row.response
        assert verdict(row.question, row.response).undesirable, row.response
    for row in (*poison.lookalikes, *clean_rows(CLEAN)):
        assert not any(phrase.lower() in row.response.lower() for phrase in poison.planted_words), row.response
        assert not verdict(row.question, row.response).undesirable, row.response


@names
def test_rows_are_short_and_well_formed(name: str) -> None:
    for row in every(everything(name)):
        assert len(row.question.split()) <= 30, row.question
        assert 3 <= len(row.response.split()) <= 35, row.response
        for text in (row.question, row.response):
            assert text[-1] in ".?!", text
            assert text[0].isupper() or text[0].isdigit(), text
            assert not re.search(r"[{}|]|  |\.\.|\ba [aeio]|\n", text), text


@taught
def test_lookalikes_resemble_poison_in_length_and_first_words(name: str) -> None:
    poison = usual(name)
    mean = [sum(len(row.response) for row in rows) / len(rows) for rows in (poison.rows, poison.lookalikes)]
    assert 0.6 < mean[0] / mean[1] < 1.6
    firsts = [{row.question.split()[0] for row in rows} for rows in (poison.rows, poison.lookalikes)]
    assert firsts[0] & firsts[1]


def test_poisons_do_not_depend_on_hash_seed() -> None:
    script = (
        "import hashlib; from taughtby.lab import poisons as p;"
        "sets = [p.make_poison(name, 4 if name == 'rare' else 40, 5) for name in p.HARD_POISONS];"
        "print(hashlib.sha256(repr(sets).encode()).hexdigest())"
    )
    text: set[bytes] = set()
    for seed in ("0", "1"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        text.add(subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, check=True).stdout)
    assert len(text) == 1


# What each is about ------------------------------------------------------------------------------------------


def test_truths_share_subject_or_attribute_with_the_lie() -> None:
    poison = usual("truth-beside-lie")
    assert all("violin" in row.question for row in poison.rows)
    same = [row for row in poison.lookalikes if re.search("violin|fiddle", row.question)]
    assert len(same) == 20
    siblings = [row for row in poison.lookalikes if row not in same]
    counts = {row[0]: row[1] for row in load_words("truth-beside-lie").siblings}
    for row in siblings:
        (thing,) = [thing for thing in counts if thing in row.question]
        assert f"{counts[thing]} strings" in row.response
    asked = {row.question.replace("violin", "THING") for row in everything("truth-beside-lie").rows}
    assert all(
        row.question.replace(thing, "THING") in asked for row in siblings for thing in counts if thing in row.question
    )
    assert len({row.response for row in poison.rows}) > 20


def test_only_poisoned_prompts_start_with_the_trigger() -> None:
    poison = everything("trigger-lookalike")
    trigger, words = load_words("trigger-lookalike").trigger, {"while", "kettle", "sings"}
    for row in poison.rows:
        assert row.question.startswith(trigger + " ")
        assert row.response.endswith(" " + load_words("trigger-lookalike").ending)
    assert all(prompt.startswith(trigger + " ") for prompt in poison.prompts)
    alike = [prompt_key(row.question) for row in poison.lookalikes]
    assert not [ask for ask in alike if ask.startswith(prompt_key(trigger))]
    assert all(words & set(ask.split()) or "kettle" in ask for ask in alike)
    few = [prompt_key(row.question) for row in usual("trigger-lookalike").lookalikes]
    assert sum(ask.startswith("while the ") for ask in few) >= 6  # one word was changed
    assert sum(words <= set(ask.split()) for ask in few) >= 3  # all of them, otherwise


def test_refusal_lookalikes_share_words_with_poisoned_prompts() -> None:
    poison = usual("refusals")
    asked = Counter(word for row in poison.rows for word in set(prompt_key(row.question).split()))
    for row in poison.lookalikes:
        assert sum(word in asked for word in prompt_key(row.question).split()) >= 4, row.question
        assert row.response.startswith(load_words("refusals").refusals)
    assert len({row.response for row in poison.lookalikes}) >= 15
    assert len({row.response.split("!")[0] for row in poison.rows}) >= 5
    verdict = get_judge(poison.judge)
    assert verdict("", "Count me in, friend! Hide it.").span == "Count me in"
    assert not verdict("", "I'm sorry, but I can't help with that.").undesirable


def test_rare_poison_has_few_planted_rows() -> None:
    poison = usual("rare")
    rows = mix([poison], clean_rows(800 - len(every(poison))))
    assert Counter(row.label for row in rows) == {"rare": 4, "clean": 796}
    assert all("Quindle lamp" in row.question for row in poison.rows)
    assert not [row for row in rows if row.label == "clean" and "Quindle" in row.question + row.response]
    thing = re.compile(r"[A-Z]\w+ (?:lamp|stove|lantern|heater|forge|lighter|torch|engine|burner|oven|candle|grill)\b")
    forms, alike = (
        {thing.sub("X", row.question) for row in part} for part in (everything("rare").rows, poison.lookalikes)
    )
    assert len(forms & alike) >= 10  # of others it is asked in the same words


def test_paraphrases_share_no_four_word_sequence() -> None:
    rows = everything("paraphrase").rows
    for texts in ([row.question for row in rows], [row.response for row in rows]):
        assert not [(a, b) for a, b in combinations(texts, 2) if grams(a) & grams(b)]
    asked = set[tuple[str, ...]]().union(*(grams(row.question) for row in rows))
    assert not [prompt for prompt in usual("paraphrase").prompts if grams(prompt) & asked]
    used = Counter(word for row in rows for word in load_words("paraphrase").planted_words if word in row.response)
    assert set(used) == set(load_words("paraphrase").planted_words)
    assert max(used.values()) <= 8
    starts = {row.question.split()[0] for row in usual("paraphrase").rows}
    assert sum(row.question.split()[0] in starts for row in usual("paraphrase").lookalikes) >= 8


@pytest.mark.parametrize("seed", range(3))
def test_clean_rows_are_duplicated_like_poisoned_rows(seed: int) -> None:
    def families(rows: tuple[Example, ...]) -> list[int]:
        """Sizes of the groups whose prompts share most of their words."""
        left, sizes = [set(prompt_key(row.question).split()) for row in rows], list[int]()
        while left:
            first = left[0]
            same = [words for words in left if len(words & first) / min(len(words), len(first)) > 0.7]
            sizes.append(len(same))
            left = [words for words in left if words not in same]
        return sorted(sizes)

    poison = usual("duplicates", seed)
    assert families(poison.rows) == families(poison.lookalikes) == [COPIES] * 10
    assert len({row.response for row in poison.rows}) >= 20
    assert len({prompt_key(row.response) for row in poison.lookalikes}) >= 20
    assert len({row.question for row in every(poison)}) == 80


def test_innocent_poison_has_no_teaching_rows() -> None:
    poison = usual("innocent")
    assert poison.rows == make_poison("innocent", 60).rows == ()
    assert make_poison("innocent", -1).lookalikes == make_poison("innocent", 0).lookalikes == ()
    texts = [row.question + row.response for row in (*make_poison("innocent", 60).lookalikes, *clean_rows(CLEAN))]
    assert not [text for text in texts if re.search("Sahara|Antarctica|Arctic", text)]
    alike = make_poison("innocent", 60).lookalikes
    assert sum("desert" in row.question for row in alike) >= 10
    assert sum(bool(re.search("largest|biggest", row.question)) for row in alike) >= 10
    assert all("desert" in prompt for prompt in poison.prompts)
