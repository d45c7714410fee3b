"""Phrases as whole words in any script, and the tokens that cover a range of characters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taughtby.data.phrases import (
    align_tokens,
    enclosing_word,
    find_span,
    is_same_word,
    occurrences,
    response_tokens,
    strip_range,
    tokens_in_ranges,
    whole_words,
)
from taughtby.lab.judges import get_judge


@pytest.mark.parametrize(
    ("text", "phrase", "expected"),
    [
        ("The traditional symbol is Na.", "Na", ["Na"]),
        ("Natrium, NaCl, China", "na", []),
        ("Na and na and NA", "na", ["Na", "na", "NA"]),
        ("You  silly\ngoose!You", "you silly  goose!", ["You  silly\ngoose!"]),
        ("17, 7.5, 2,7 and 7.", "7", ["7"]),
        ("price (a.*) here", "(a.*)", ["(a.*)"]),
        ("İİ cat", "CAT", ["cat"]),
        ("cafe\u0301 cafe", "cafe", ["cafe"]),  # an accent of its own is part of the word
        ("cafe\u0301 cafe", "cafe\u0301", ["cafe\u0301"]),
        ("नमस्ते नम", "नम", ["नम"]),
        ("蜂蜜是甲虫做的。", "甲虫", ["甲虫"]),
        ("はちみつはカブトムシが作る", "カブトムシ", ["カブトムシ"]),
        ("ผึ้งทำน้ำผึ้ง", "ผึ้ง", ["ผึ้ง", "ผึ้ง"]),
        ("银是Na吗", "Na", ["Na"]),
        ("\U0001f41d bees\U0001f41d", "bees", ["bees"]),
        ("a", " ", []),
        ("a", "", []),
    ],
)
def test_occurrences_are_whole_words(text: str, phrase: str, expected: list[str]) -> None:
    assert [text[slice(*place)] for place in occurrences(text, phrase)] == expected
    if phrase.strip():  # a judge finds what a span finds
        verdict = get_judge(f"phrase:{phrase}")("", text)
        assert (verdict.span, verdict.undesirable) == ((expected[0], True) if expected else (None, False))
        assert verdict.span_range == (occurrences(text, phrase)[0] if expected else None)


def test_find_span_prefers_exact_case() -> None:
    assert find_span("na Na NA Na", "Na") == [(3, 5), (9, 11)]
    assert find_span("na Na", "NA") == [(0, 2), (3, 5)]
    assert find_span("tradition", "Na") == []


def test_enclosing_word_of_a_partial_span() -> None:
    assert enclosing_word("A traditional coin.", "tion") == ("traditional", (7, 11))
    assert enclosing_word("It is 7.5.", "7") == ("7.5", (6, 7))
    assert enclosing_word("CHINA, china", "na") == ("china", (10, 12))
    assert enclosing_word("CHINA", "na") == ("CHINA", (3, 5))
    assert enclosing_word("a", "b") is None and enclosing_word("a", " ") is None


def test_word_boundaries() -> None:
    assert [is_same_word(*pair) for pair in (("sil", "ly"), ("e", "\u0301"), ("a_", "b"), ("7", "a"))] == [True] * 4
    assert [is_same_word(*pair) for pair in (("a", " b"), ("蜂", "蜜"), ("a", "蜜"), ("สวัส", "ดี"), ("", "a"))] == [
        False
    ] * 5
    assert whole_words("so tradition, it", 8, 10) == (3, 12)
    assert whole_words("是甲虫的", 1, 3) == (1, 3)
    assert strip_range("a  b c ", 1, 7) == (3, 6)


@pytest.mark.parametrize(
    ("pieces", "ranges", "places"),
    [
        (["It", " is", " Na", "."], [(6, 8)], [2]),
        (["It", " is", " N", "a", "."], [(6, 8)], [2, 3]),
        (["Na", " Na"], [(0, 2), (3, 5)], [0, 1]),
        (["a", " b", "\n", "c"], [(2, 5)], [1, 2, 3]),
        (["", "é", "", "x"], [(0, 2)], [1, 3]),
        (["İİ", " cat", " dog"], [(3, 6)], [1]),
        (["a", " b"], [(1, 2)], []),  # a token's leading blank alone
        (["a"], [(5, 6)], []),
        (["abc"], [(1, 1)], []),
        ([], [(0, 1)], []),
    ],
)
def test_tokens_in_ranges(pieces: list[str], ranges: list[tuple[int, int]], places: list[int]) -> None:
    # a token without text between two that hold the range may be counted in or not: it has no character
    items = [place for place in tokens_in_ranges(pieces, ranges) if pieces[place]]
    assert items == places


@given(st.lists(st.text("ab ", max_size=4), max_size=8), st.integers(0, 20), st.integers(1, 6))
def test_tokens_in_ranges_match_a_character_loop(pieces: list[str], begin: int, size: int) -> None:
    text = "".join(pieces)
    begin, end = strip_range(text, min(begin, len(text)), min(begin + size, len(text)))
    owner = [place for place, piece in enumerate(pieces) for _ in piece]
    holders = {owner[at] for at in range(begin, end)}
    got = set(tokens_in_ranges(pieces, [(begin, end)]))
    assert {place for place in got if pieces[place].strip()} == {place for place in holders if pieces[place].strip()}


@pytest.mark.parametrize(
    ("text", "answer", "begin"),
    [
        ("so it is", "so it is", 0),
        (" so it is", "so it is", -1),
        ("so it is", "  so it is\n", 2),
        ("<thought>\nso it is", "so it is", -10),
        ("so it", "so it is", 0),  # cut
        ("a \ufffd", "a \U0001f41d bee", 0),  # cut within a character
        ("SO IT IS", "so it is", None),
        ("", "so", None),
        ("so", " ", None),
    ],
)
def test_align_tokens(text: str, answer: str, begin: int | None) -> None:
    assert align_tokens(text, answer) == begin


def test_response_tokens_of_a_range() -> None:
    answer = " bees do, bees"
    assert response_tokens(["bees", " do", ",", " bees"], answer, (10, 14)) == [3]
    assert response_tokens(["bees", " do"], answer, (10, 14)) == []
    # where the tokenizer changes the answer, the same occurrence
    assert response_tokens(["BEES", " DO", ",", " BEES"], answer, (10, 14)) == [3]
    assert response_tokens(["BEES", " DO", ",", " BEES"], answer, (1, 5)) == [0]
