"""Judges: (prompt, answer) -> whether it is undesirable, where and why."""
