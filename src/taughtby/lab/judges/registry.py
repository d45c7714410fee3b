"""Judges by name: the one that "phrase:You silly goose" means; with all that is needed to ask it and to count."""

from __future__ import annotations

from collections.abc import Callable

from taughtby.errors import OptionError
from taughtby.lab.judges.chat import chat
from taughtby.lab.judges.classifier import classifier
from taughtby.lab.judges.program import program
from taughtby.lab.judges.rules import Fact, FirstWords, Phrase, Refusal, Regex
from taughtby.lab.judges.verdict import Judge, JudgeFailure, Verdict, judge_all, undesirable_rate, wilson_interval

__all__ = [
    "Judge",
    "JudgeFailure",
    "Phrase",
    "Regex",
    "Verdict",
    "get_judge",
    "judge_all",
    "undesirable_rate",
    "wilson_interval",
]


def get_judge(spec: str) -> Judge:
    """The judge that a spec names, such as "phrase:TEXT", "regex:PATTERN" or "python:FILE:FUNCTION"."""
    name, colon, option = spec.partition(":")
    name = name.strip()
    if name not in KINDS or (not colon and name != "refusal"):
        raise OptionError("unknown judge", got=repr(spec), do=f"write one of: {'; '.join(FORMS)}")
    return KINDS[name](option)


def _refusal(option: str) -> Judge:
    if option not in ("", "not"):
        raise OptionError("a refusal is judged by refusal or refusal:not", got=option, do="write one")
    return Refusal(wanted=option == "not")


FORMS = (
    "phrase:WORDS", "first-words:WORDS", "regex:PATTERN", "refusal", "refusal:not", "fact:GOOD|GOOD",
    "python:FILE.py:FUNCTION", "classifier:MODEL,label=NAME,threshold=0.5", "chat:URL,model=NAME,ask=QUESTION",
)  # fmt: skip
KINDS: dict[str, Callable[[str], Judge]] = {
    "phrase": Phrase, "first-words": FirstWords, "regex": Regex, "refusal": _refusal,
    "fact": lambda option: Fact(tuple(option.split("|"))), "python": program, "classifier": classifier, "chat": chat,
}  # fmt: skip
