"""Links between words in a notebook's cell: style rules that mark what matches the word under the pointer.

There is no script: a rule applies while the pointer is on a word. Rules contain only numbers and names from here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

STRONG = 0.5  # share of a word's strongest match at which others are marked too, as on the page
MARK = "outline: 2px solid rgb(217 119 6); border-radius: 3px"


def cell_scope(number: int, query: Mapping[str, Any]) -> str:
    """Return a class for a query's part of the cell: other cells of the notebook have the same classes of words."""
    rows = [(row.get("id"), row.get("score")) for row in query.get("rows") or []]
    content = repr((number, query.get("prompt"), query.get("response"), rows))
    return f"taughtby-{sha256(content.encode('utf-8', 'backslashreplace')).hexdigest()[:12]}"


def link_rules(scope: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rules for the rows of a query, in the order of the cell; empty if none has links.

    Token `t` of the answer has the class `a-t`, token `u` of row `r` the class `r-u`, all counted from 0.
    """
    rows_of: dict[int, dict[str, float]] = defaultdict(dict)  # by token of the answer
    answer_of: dict[str, dict[str, float]] = defaultdict(dict)  # by token of a row
    for r, row in enumerate(rows):
        for link in row.get("links") or []:
            u, t, score = int(link[0]), int(link[1]), float(link[2])
            rows_of[t][f"{r}-{u}"] = score
            answer_of[f"{r}-{u}"][f"a-{t}"] = score
    all_matches = {f"a-{t}": matches for t, matches in rows_of.items()} | answer_of
    return "\n".join(_rule(scope, word, _strong(matches)) for word, matches in all_matches.items())


def _strong(matches: Mapping[str, float]) -> list[str]:
    limit = STRONG * max(matches.values())
    return [word for word, score in matches.items() if score >= limit]


def _rule(scope: str, word: str, matches: Iterable[str]) -> str:
    targets = ", ".join(f'[data-w="{match}"]' for match in matches)
    return f'.{scope}:has([data-w="{word}"]:hover) :is({targets}) {{ {MARK} }}'
