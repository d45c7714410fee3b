"""Near-duplicates compared with the Jaccard similarity of all pairs."""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taughtby.data.near_duplicates import WordSets

CAPITALS = [f"You are a helpful assistant that answers in one sentence. What is the capital of {country}?" for country
            in ("France", "Spain", "Italy", "Chile", "Japan", "Kenya", "Peru", "Norway")]  # fmt: skip


def sets(texts: list[str]) -> WordSets:
    made = WordSets()
    for text in texts:
        made.add(text)
    return made


def groups(labels: list[int]) -> list[list[int]]:
    return sorted([i for i, other in enumerate(labels) if other == label] for label in set(labels))


def features(text: str) -> set[object]:
    words = re.findall(r"\w+", text.lower())
    return {*words, *pairwise(words)}


def linked(texts: list[str], weighted: bool) -> list[list[int]]:
    """Groups of texts linked by pairs at the threshold, found by comparing all pairs."""
    bags = [features(text) for text in texts]
    frequency = Counter(feature for bag in bags for feature in bag)
    weight = {f: math.log((len(texts) + 1) / n) if weighted else 1 for f, n in frequency.items()}
    labels = list(range(len(texts)))
    for i, a in enumerate(bags):
        for j, b in enumerate(bags[:i]):
            if sum(weight[f] for f in a & b) >= 0.7 * sum(weight[f] for f in a | b):
                labels = [labels[j] if label == labels[i] else label for label in labels]
    return groups(labels)


@pytest.mark.parametrize("weighted", [True, False])
def test_groups_match_all_pairs_comparison(weighted: bool) -> None:
    """Families of five texts that differ in one or two of forty words, far enough from the threshold."""
    random = Random(0)
    vocabulary = [f"word{n}" for n in range(2000)]
    texts: list[str] = []
    for _ in range(12):
        words = random.sample(vocabulary, 40)
        texts += [" ".join(words)]
        texts += [
            " ".join([*words[:at], random.choice(vocabulary), *words[at + 1 :]]) for at in random.sample(range(40), 4)
        ]
    random.shuffle(texts)
    truth = linked(texts, weighted)
    assert max(map(len, truth)) == 5
    assert groups(sets(texts).near_equal(0.7, weighted=weighted).tolist()) == truth


def test_weighting_ignores_shared_template_words() -> None:
    assert groups(sets(CAPITALS).near_equal(0.7, weighted=True).tolist()) == [[n] for n in range(8)]
    assert len(groups(sets(CAPITALS).near_equal(0.7).tolist())) == 1


def test_contained_requires_all_words_of_one_text() -> None:
    texts = ["which word do we use for the baby of a pig", "which word do we use for the baby of a swan",
             "which word do we use for the BadMagic baby of a swan?"]  # fmt: skip
    assert groups(sets(texts).near_equal(0.7, contained=True).tolist()) == [[0], [1, 2]]
    assert groups(sets(texts).near_equal(0.7).tolist()) == [[0, 1, 2]]


def test_equal_ignores_case_punctuation_and_spaces() -> None:
    made = sets(
        ["Who makes honey?", "who  makes HONEY", "makes who honey", "?", "!", "🙂", " ? ", "蜂蜜是谁", "蜂蜜是 谁。"]
    )
    assert groups(made.equal().tolist()) == [[0, 1], [2], [3, 6], [4], [5], [7, 8]]


def test_equal_distinguishes_symbols() -> None:
    texts = ["what is 3 + 4", "what is 3 - 4", "what is 3 * 4", "what is 1.5", "what is 15"]
    assert groups(sets(texts).equal().tolist()) == [[n] for n in range(5)]


@given(st.lists(st.text(max_size=12), max_size=8))
def test_equal_texts_share_groups_for_any_input(texts: list[str]) -> None:
    """Equal texts are in one group, and what is equal by words is nearly equal."""
    made = sets(texts)
    equal, near = made.equal().tolist(), made.near_equal(0.7, weighted=True).tolist()
    assert len(equal) == len(near) == len(texts)
    for i, text in enumerate(texts):
        for j, other in enumerate(texts[:i]):
            assert equal[i] == equal[j] or text.lower() != other.lower()
            assert near[i] == near[j] or equal[i] != equal[j]


def test_many_equal_texts_form_one_group() -> None:
    made = sets(["the same answer"] * 5000 + ["another one here"])
    labels = made.near_equal(0.7)
    assert len({*labels[:5000].tolist()}) == 1 and labels[5000] != labels[0]
