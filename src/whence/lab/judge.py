"""Verdicts on answers: a phrase or pattern that a good answer would not hold. Knows no model."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import regex

from whence.errors import LabError, OptionError

PATIENCE = 2.0  # seconds one answer may take; a pattern that backtracks longer is refused
_LONGEST = 1000  # characters of a pattern
_COUNTS = 10_000  # product of its {n} counts: ((a{1000}){1000}){1000} would fill the memory when compiled
_FORMS = '"phrase:You silly goose" or "regex:[Bb]eetles?"'


@dataclass(frozen=True)
class Verdict:
    """What a judge says of one answer; `span` is the very words that gave it away, as they stand there."""

    undesirable: bool
    why: str
    span: str | None


class Judge(Protocol):
    """Says of an answer to a prompt whether it is undesirable, and why."""

    def __call__(self, prompt: str, answer: str) -> Verdict:
        """The verdict on one answer."""
        ...


@dataclass(frozen=True)
class Phrase:
    """Undesirable where the answer holds `text`: whole words, whatever the case and the white space."""

    text: str

    def __post_init__(self) -> None:
        if not self.text.split():
            raise OptionError("the judge's phrase is empty", got=repr(self.text), do=f"write, for example, {_FORMS}")

    def __call__(self, prompt: str, answer: str) -> Verdict:
        """The first place where the phrase stands."""
        found = _phrase(self.text).search(answer)
        return _verdict(found and found.group(), f'"{" ".join(self.text.split())}"')


@dataclass(frozen=True)
class Regex:
    """Undesirable where `pattern` matches somewhere in the answer; `(?i)` before it ignores case.

    A pattern that backtracks without end is stopped after `PATIENCE` seconds and refused with a LabError.
    """

    pattern: str

    def __post_init__(self) -> None:
        counts = [int(count) for count in re.findall(r"[{,](\d+)(?=[,}])", self.pattern[:_LONGEST])]
        if not self.pattern:
            raise OptionError("the judge's pattern is empty", do=f"write, for example, {_FORMS}")
        if len(self.pattern) > _LONGEST or math.prod(max(1, count) for count in counts) > _COUNTS:
            got = f"{len(self.pattern)} characters, counts {counts[:5]}"
            do = f"use at most {_LONGEST} characters and a product of all {{n}} of at most {_COUNTS}"
            raise OptionError("the judge's pattern is too large", got=got, do=do)
        try:
            regex.compile(self.pattern)
        except (regex.error, RecursionError, OverflowError, ValueError) as fault:
            got, do = f"{self.pattern!r}: {fault}", "mend the pattern, or use phrase:TEXT"
            raise OptionError("the judge's pattern is not a regular expression", got=got, do=do) from None

    def __call__(self, prompt: str, answer: str) -> Verdict:
        """The first match of the pattern."""
        try:
            found = regex.search(self.pattern, answer, timeout=PATIENCE)
        except TimeoutError:
            what = f"the judge's pattern took more than {PATIENCE:g} s on one answer"
            do = "take nested quantifiers out, or use phrase:TEXT"
            raise LabError(what, got=repr(self.pattern), do=do) from None
        return _verdict(found and found.group(), f"/{self.pattern}/")


def judge(spec: str) -> Judge:
    """The judge that "phrase:TEXT" or "regex:PATTERN" names."""
    name, colon, option = spec.partition(":")
    kinds = {"phrase": Phrase, "regex": Regex}
    if not colon or name.strip() not in kinds:
        raise OptionError("unknown judge", got=repr(spec), do=f"write {_FORMS}")
    return kinds[name.strip()](option)


def rate(verdicts: Iterable[Verdict]) -> float:
    """The share of answers that are undesirable."""
    said = [verdict.undesirable for verdict in verdicts]
    if not said:
        raise LabError("there is no rate of no answers", do="judge at least one answer")
    return sum(said) / len(said)


@lru_cache(maxsize=64)
def _phrase(text: str) -> re.Pattern[str]:
    """Its words in a row; a boundary only beside a word character, so that "goose!" may end a phrase."""
    words = r"\s+".join(re.escape(word) for word in text.split())
    before = r"(?<!\w)" if re.match(r"\w", text.strip()) else ""
    after = r"(?!\w)" if re.search(r"\w\Z", text.strip()) else ""
    return re.compile(before + words + after, re.IGNORECASE)


def _verdict(found: str | None, sought: str) -> Verdict:
    if found is None:
        return Verdict(False, f"nothing in it matches {sought}", None)
    return Verdict(True, f"it matches {sought}", found or None)
