"""The notebook in examples/ runs, reproduces the numbers it shows, and contains nothing specific to a machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples" / "incident.ipynb"
RUN = """
import json, sys
names = {}
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), "cell", "exec"), names)
print(names["trace"]._repr_html_().count("●"))
"""


@pytest.fixture(scope="module")
def cells() -> list[dict[str, Any]]:
    return json.loads(NOTEBOOK.read_text())["cells"]


def shown(cells: list[dict[str, Any]]) -> str:
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output["output_type"] == "error"]
    return "".join("".join(output["text"]) for output in outputs if output["output_type"] == "stream")


def test_notebook_was_executed_and_shows_no_local_paths(cells: list[dict[str, Any]]) -> None:
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    text = json.dumps([cell.get("outputs") for cell in cells], ensure_ascii=False)
    assert not re.search(r"/(tmp|home|root|Users|usr|opt|mnt|var|work)/|site-packages|Warning", text)
    assert "text/html" in text and "●" in text
    assert re.findall(r"^(.+?): +(\d of 8)", shown(cells), re.MULTILINE) == [
        ("all rows", "8 of 8"), ("without the flagged rows", "0 of 8"), ("without random rows", "8 of 8"),
    ]  # fmt: skip


def test_notebook_runs_and_reproduces_its_output(cells: list[dict[str, Any]], tmp_path: Path) -> None:
    """On any processor: the first wrong token is far behind, as in tests/remediation/test_audit.py."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(NOTEBOOK)], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith(shown(cells)), done.stdout
    assert int(done.stdout.split()[-1]) > 0
    manifest = json.loads((tmp_path / "cleaned.manifest.json").read_text())
    kept = (tmp_path / "cleaned.jsonl").read_text().splitlines()
    assert len(kept) == manifest["output"]["records"] == 18
    every = Path(manifest["input"]["data"]).read_text().splitlines()
    removed = [every[int(row["source"].rpartition(":")[2]) - 1] for row in manifest["rows"]]
    assert sorted(kept + removed) == sorted(every) and len(removed) == len(every) - 18 > 0
