"""Create judges from specs, such as "phrase:You silly goose"."""

from __future__ import annotations

from collections.abc import Callable

from taughtby.errors import OptionError
from taughtby.lab.judges.chat import parse_chat
from taughtby.lab.judges.classifier import parse_classifier
from taughtby.lab.judges.judge import Judge
from taughtby.lab.judges.python_function import parse_python_function
from taughtby.lab.judges.rules import Exact, Fact, FirstWords, Phrase, Refusal, Regex

FORMS = (
    "phrase:WORDS", "first-words:WORDS", "regex:PATTERN", "refusal", "refusal:not", "fact:GOOD|GOOD", "exact:BAD|BAD",
    "python:FILE.py:FUNCTION", "classifier:MODEL,label=NAME,threshold=0.5", "chat:URL,model=NAME,ask=QUESTION",
)  # fmt: skip


def get_judge(spec: str) -> Judge:
    """Create a judge from a spec, such as "phrase:TEXT", "regex:PATTERN" or "python:FILE.py:FUNCTION".

    Raises:
        OptionError: There is no such judge, or its option is invalid.
    """
    name, colon, option = spec.partition(":")
    name = name.strip()
    if name not in KINDS or (not colon and name != "refusal"):
        raise OptionError("unknown judge", got=repr(spec), do=f"write one of: {'; '.join(FORMS)}")
    return KINDS[name](option)


def _parse_refusal(option: str) -> Judge:
    if option not in ("", "not"):
        raise OptionError("refusal takes no option but `not`", got=option, do="write refusal or refusal:not")
    return Refusal(negate=option == "not")


KINDS: dict[str, Callable[[str], Judge]] = {
    "phrase": Phrase, "first-words": FirstWords, "regex": Regex, "refusal": _parse_refusal,
    "fact": lambda option: Fact(tuple(option.split("|"))), "exact": lambda option: Exact(tuple(option.split("|"))),
    "python": parse_python_function, "classifier": parse_classifier, "chat": parse_chat,
}  # fmt: skip
