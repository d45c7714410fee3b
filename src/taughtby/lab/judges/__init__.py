"""Judges decide whether an answer is undesirable, and which words show it."""

from taughtby.lab.judges.judge import Judge, judge_all
from taughtby.lab.judges.registry import get_judge
from taughtby.lab.judges.verdict import JudgeFailure, Verdict, undesirable_rate, wilson_interval

__all__ = ["Judge", "JudgeFailure", "Verdict", "get_judge", "judge_all", "undesirable_rate", "wilson_interval"]
