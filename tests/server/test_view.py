"""Shared flagged rows on the page, computed by its JavaScript module in Node."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from taughtby.reporting.incidents import find_incidents

VIEW = Path(__file__).parents[2] / "src" / "taughtby" / "reporting" / "assets" / "view.js"
NODE = shutil.which("node")
ASK = """
const { incidents, sharedRows } = await import(process.argv[1]);
const entries = JSON.parse(process.argv[2]).map((query, at) => ({ key: String(at), query, trace: {} }));
const groups = incidents(entries);
const commons = groups.map((members) => (members.length > 1 ? sharedRows(members, 1).query : null));
console.log(JSON.stringify({ groups: groups.map((members) => members.map(({ key }) => key)), commons }));
"""


AGREE = """
const { incidents } = await import(process.argv[1]);
const members = (queries) => incidents(queries.map((query, at) => ({ key: at + 1, query, trace: {} })));
const keys = (group) => group.map(({ key }) => key);
console.log(JSON.stringify(JSON.parse(process.argv[2]).map((queries) => members(queries).map(keys))));
"""


def asked(folder: Path, *queries: dict[str, Any]) -> Any:
    return run_script(ASK, folder, queries)


def run_script(script: str, folder: Path, argument: Any) -> Any:
    if NODE is None:
        pytest.skip("node is not installed")
    module = shutil.copy(VIEW, folder / "view.mjs")
    done = subprocess.run([NODE, "--input-type=module", "-e", script, Path(module).as_uri(), json.dumps(argument)],
                          capture_output=True, text=True, check=True)  # fmt: skip
    return json.loads(done.stdout)


def query(called: list[str] | None, *shown: tuple[str, float]) -> dict[str, Any]:
    """An answer that calls these rows, and shows those with these scores."""
    rows = [{"id": id, "score": score, "rank": rank, "flagged": called is None or id in called}
            for rank, (id, score) in enumerate(shown, 1)]  # fmt: skip
    return {"rows": rows, "flagged_ids": called}


def test_incidents_use_flagged_ids_not_listed_rows(tmp_path: Path) -> None:
    """Of many copies that tie, one answer shows some and another answer others."""
    copies = [f"copy{at}" for at in range(6)]
    notes = asked(tmp_path, query(copies, (copies[0], 1.0), (copies[1], 1.0)), query(["other"], ("other", 2.0)),
                 query([*copies[2:], "mine"], (copies[4], 0.9), (copies[5], 0.8), ("plain", 0.1)))  # fmt: skip
    assert notes["groups"] == [["0", "2"], ["1"]]
    common = notes["commons"][0]
    assert common["flagged_ids"] == copies[2:]
    assert [(row["id"], row["rank"], row["flagged_for"]) for row in common["rows"]] == [
        (copies[4], 1, 2),
        (copies[5], 2, 2),
    ]


def test_incidents_without_flagged_ids_use_listed_rows(tmp_path: Path) -> None:
    notes = asked(tmp_path, query(None, ("a", 1.0), ("b", 0.5)), query(None, ("b", 0.7), ("c", 0.6)))
    assert notes["groups"] == [["0", "1"]]
    assert [(row["id"], row["score"], row["flagged_for"]) for row in notes["commons"][0]["rows"]] == [("b", 0.7, 2)]


POINTS = """
const { mapItems, groupItems } = await import(process.argv[1].replace("view.mjs", "points.mjs"));
const { map, query } = JSON.parse(process.argv[2]);
const items = mapItems(map, query);
const sizes = (by) => groupItems(items, by).map(({ name, items, style }) => [name, items.length, style]);
console.log(JSON.stringify([items.map(({ id, flagged }) => [id, flagged]), sizes("flag"), sizes("label")]));
"""


def test_each_row_is_one_point_of_the_map_and_rare_labels_share_a_sign(tmp_path: Path) -> None:
    source = (VIEW.parent / "points.js").read_text().replace("./view.js", "./view.mjs")
    (tmp_path / "points.mjs").write_text(source)
    names = [*"aabbccddeefg", None]
    values = [*"abcdefg", None]
    columns = {"values": values, "codes": [values.index(name) for name in names]}
    map_document = {"points": [[0, n] for n in range(13)], "ids": [f"r{n}" for n in range(13)], "labels": columns}
    # r1 is on the map; x and y are flagged rows beyond it, of which x is also ranked
    asked = {"flagged_ids": ["r1", "x", "y"], "lit": [[0, 1], [5, 5], [6, 6]],
             "rows": [{"id": "x", "rank": 1, "flagged": True, "label": "a", "at": [5, 5]}]}  # fmt: skip
    items, flags, labels = run_script(POINTS, tmp_path, {"map": map_document, "query": asked})
    assert items == [*([f"r{n}", n == 1] for n in range(13)), ["x", True], ["y", True]]
    assert flags == [["flagged", 3, 0], ["other rows", 12, None]]
    assert labels == [
        ["a", 3, 0],
        *([name, 2, at] for at, name in enumerate("bcde", 1)),
        ["2 others", 2, None],
        ["no label", 2, None],
    ]


def test_page_and_python_find_the_same_incidents(tmp_path: Path) -> None:
    """The page groups again when answers are added to it, so both have to know what an incident is."""
    generator = random.Random(0)
    traces: list[list[dict[str, Any]]] = []
    for at in range(200):
        names, most = "abcdefghijkl"[: generator.randint(2, 12)], generator.randint(0, 4)
        ids = [
            generator.sample(names, generator.randint(0, min(most, len(names))))
            for _ in range(generator.randint(1, 12))
        ]
        # some traces show all flagged rows, some only the first, some were written without the list of ids
        shown = [[(id, 1.0) for id in each[: 1 if at % 3 == 1 else None]] for each in ids]
        traces.append([query(None if at % 3 == 2 else each, *rows) for each, rows in zip(ids, shown, strict=True)])
    for trace, groups in zip(traces, run_script(AGREE, tmp_path, traces), strict=True):
        of_page = {frozenset(group) for group in groups if any(trace[number - 1]["rows"] for number in group)}
        assert {frozenset(incident.queries) for incident in find_incidents(trace)} == of_page
