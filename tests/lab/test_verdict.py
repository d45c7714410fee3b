"""Lists of verdicts: failures keep their position and are never counted; rates and intervals match known values."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import pytest

from taughtby.errors import LabError, OptionError
from taughtby.lab.judges import JudgeFailure, Verdict, get_judge, judge_all, undesirable_rate, wilson_interval

BAD, FINE = Verdict(True, "bad", "bad"), Verdict(False, "fine", None)
PAIRS = [("p", str(n)) for n in range(4)]


def kinds(result: list[Any]) -> list[str]:
    return [one.kind if isinstance(one, JudgeFailure) else str(one.undesirable) for one in result]


def test_undesirable_rate_ignores_failures() -> None:
    assert undesirable_rate([BAD, FINE, BAD, FINE, JudgeFailure("threw", "x"), JudgeFailure("hung", "y")]) == 0.5
    assert undesirable_rate(iter([BAD])) == 1.0
    for nothing in ([], [JudgeFailure("threw", "x")]):
        with pytest.raises(LabError, match="no rate"):
            undesirable_rate(nothing)
        with pytest.raises(LabError, match="no rate"):
            wilson_interval(nothing)


@pytest.mark.parametrize(("bad", "count"), [(0, 10), (3, 10), (10, 10), (1, 2), (40, 400)])
def test_wilson_interval_matches_formula(bad: int, count: int) -> None:
    """By the formula as Wilson wrote it."""
    z, p = 1.959963984540054, bad / count
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    result = [BAD] * bad + [FINE] * (count - bad) + [JudgeFailure("nonsense", "")] * 5
    assert wilson_interval(result) == pytest.approx((max(0.0, middle - half), min(1.0, middle + half)), abs=1e-12)
    narrow, wide = wilson_interval(result, 0.5), wilson_interval(result)
    assert wide[0] <= narrow[0] <= p <= narrow[1] <= wide[1]


def test_failures_keep_their_position() -> None:
    done, waited = threading.Event(), list[bool]()

    def fickle(prompt: str, answer: str) -> Any:
        if answer == "0":
            return BAD
        if answer == "1":
            raise ZeroDivisionError("by nought")
        if answer == "2":
            waited.append(done.wait(300))
        return "yes"

    calls: list[tuple[int, int]] = []
    result = judge_all(fickle, PAIRS, limit=1, progress=lambda *at: calls.append(at))
    assert not waited  # nobody waited for it
    done.set()
    assert kinds(result) == ["True", "threw", "hung", "nonsense"]
    assert [one.reason for one in result[1:]] == [
        "ZeroDivisionError: by nought",
        "more than 1 s",
        "it returned 'yes', not a Verdict",
    ]
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert undesirable_rate(result) == 1.0
    assert judge_all(fickle, []) == []


def test_judge_failing_on_every_answer_raises() -> None:
    def broken(prompt: str, answer: str) -> Verdict:
        raise SystemExit(3)

    with pytest.raises(LabError, match=r"failed on every answer, 4 of 4\n  got: threw: SystemExit: 3"):
        judge_all(broken, PAIRS)


def test_three_unreachable_failures_in_a_row_raise() -> None:
    asked: list[str] = []

    def gone(prompt: str, answer: str) -> Verdict:
        asked.append(answer)
        if answer == "0":
            return FINE
        raise JudgeFailure("unreachable", "no route")

    with pytest.raises(LabError, match=r"cannot be reached\n  got: 3 times in a row: no route"):
        judge_all(gone, [*PAIRS, *PAIRS])
    assert asked == ["0", "1", "2", "3"]


def test_option_error_of_judge_propagates() -> None:
    def wrong(prompt: str, answer: str) -> Verdict:
        raise OptionError("no such thing", do="fix it")

    with pytest.raises(OptionError, match="no such thing"):
        judge_all(wrong, PAIRS)


def test_regex_timeout_fails_one_answer_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taughtby.lab.judges.rules.PATIENCE", 0.5)
    result = judge_all(get_judge(r"regex:(a|aa|a)+$"), [("", "aa"), ("", "a" * 3000 + "?"), ("", "b")])
    assert kinds(result) == ["True", "hung", "False"]


# — user functions

WRITTEN = """
import os, subprocess, sys, time
import numpy
import beside
print("loading")

def fickle(prompt, answer):
    print("YES", flush=True)
    os.write(1, b'{"said": true}\\n')
    if answer == "throws": raise ValueError(prompt)
    if answer == "hangs": time.sleep(600)
    if answer == "hangs with a child": subprocess.run(["sleep", "617.531"])
    if answer == "leaves": sys.exit(0)
    if answer == "crashes": os._exit(7)
    if answer == "reads": return sys.stdin.read() == ""
    if answer == "none": return None
    if answer == "number": return 1
    if answer == "object": return object()
    if answer == "numpy": return numpy.float64(2) > 1
    if answer == "text": return "too short"
    if answer == "no text": return ""
    if answer == "pair": return False, "fine"
    if answer == "a span here": return True, "found", "span"
    if answer == "spans, a span": return True, "found", "span"
    if answer == "a place": return True, "found", (2, 7)
    if answer == "no place": return True, "found", (2, 70)
    if answer == "elsewhere": return True, "found", "span"
    return beside.bad(answer)

not_callable = 3
"""
SAID = {
    "bad": Verdict(True, "the function returned True", None),
    "throws": "threw: ValueError: p",
    "hangs": "hung: more than 2 s",
    "hangs with a child": "hung: more than 2 s",
    "fine ü \ud83d": Verdict(False, "the function returned False", None),
    "leaves": "threw: SystemExit: 0",
    "crashes": "threw: its process ended (exit code 7)",
    "reads": Verdict(True, "the function returned True", None),
    "none": "nonsense: it returned null, not a bool, text or (bool, reason)",
    "number": "nonsense: it returned 1, not a bool, text or (bool, reason)",
    "object": "nonsense: it returned <object object at",
    "numpy": Verdict(True, "the function returned True", None),
    "text": Verdict(True, "too short", None),
    "no text": Verdict(False, "the function returned an empty reason", None),
    "pair": Verdict(False, "fine", None),
    "a span here": Verdict(True, "found", "span", (2, 6)),
    "spans, a span": Verdict(True, "found", "span", (9, 13)),
    "a place": Verdict(True, "found", "place", (2, 7)),
    "no place": "nonsense: its span is not in the answer: [2, 70]",
    "elsewhere": 'nonsense: its span is not in the answer: "span"',
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("def bad(answer): return answer == 'bad'\n")
    (tmp_path / "mine.py").write_text(WRITTEN)
    return tmp_path / "mine.py"


def test_a_failing_function_does_not_stop_the_other_answers(file: Path) -> None:
    result = judge_all(get_judge(f"python:{file}:fickle"), [("p", answer) for answer in SAID], limit=2)
    for one, (answer, wanted) in zip(result, SAID.items(), strict=True):
        if isinstance(one, JudgeFailure):
            assert isinstance(wanted, str), (answer, one.reason)
            assert f"{one.kind}: {one.reason}".startswith(wanted), answer
        else:
            assert one == wanted, answer


def test_timed_out_judges_leave_no_process(file: Path) -> None:
    import psutil

    with pytest.raises(LabError, match="failed on every answer"):
        judge_all(get_judge(f"python:{file}:fickle"), [("p", "hangs with a child"), ("p", "hangs")], limit=0.3)
    lines = [one.info["cmdline"] or [] for one in psutil.process_iter(["cmdline"])]
    assert [line for line in lines if str(file) in line or "617.531" in line] == []


def test_python_judge_on_a_single_answer(file: Path) -> None:
    assert get_judge(f"python:{file}:fickle")("p", "bad").undesirable
    with pytest.raises(JudgeFailure, match="raised an error\n  got: ValueError: p"):
        get_judge(f"python:{file}:fickle")("p", "throws")


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        ("def f(:", "f", "cannot be loaded\n  got: .*SyntaxError"),
        ("import nothing_of_that_name", "f", "cannot be loaded\n  got: .*ModuleNotFoundError"),
        ("x = 1", "f", "cannot be loaded\n  got: .*AttributeError"),
        ("f = 3", "f", "cannot be loaded\n  got: .*f is not a function"),
        ("import sys; sys.exit(1)", "f", "cannot be loaded\n  got: .*SystemExit: 1"),
        ("import os; os._exit(1)", "f", "cannot be loaded\n  got: .*its process ended"),
        ("import rules\ndef f(p, a): return True", "f", "No module named 'rules'"),  # a module of this package
    ],
)
def test_unloadable_python_judge_raises(tmp_path: Path, source: str, name: str, message: str) -> None:
    (tmp_path / "mine.py").write_text(source)
    with pytest.raises(LabError, match=message):
        judge_all(get_judge(f"python:{tmp_path}/mine.py:{name}"), PAIRS)


def test_python_judge_load_timeout_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taughtby.lab.judges.python_function.LOAD", 0.3)
    (tmp_path / "mine.py").write_text("import time; time.sleep(600)")
    with pytest.raises(LabError, match=r"cannot be loaded\n  got: .*more than 0.3 s"):
        judge_all(get_judge(f"python:{tmp_path}/mine.py:f"), PAIRS)


@pytest.mark.parametrize("spec", ["python:", "python:mine.py", "python:none.py:f", "python:{}:", "python:{}:f()"])
def test_missing_python_judge_function_raises(file: Path, spec: str) -> None:
    with pytest.raises(OptionError, match="cannot be found"):
        get_judge(spec.format(file))
