"""docs/how-to/trainers.md: its YAML is read from an adapter's folder, and names the fields of masked rows."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import PAIRS, Run
from taughtby.models.training_metadata import read_training_metadata

PAGE = (Path(__file__).parents[1] / "docs" / "how-to" / "trainers.md").read_text()
CONFIGS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
CARD = "---\ntags:\n- axolotl\n---\n<details><summary>See axolotl config</summary>\n\n```yaml\n{}\n```\n\n</details>\n"


@pytest.fixture
def trained(tmp_path: Path, adapter_folder: Path) -> Path:
    """An adapter's folder with the model card that Axolotl writes for the page's YAML."""
    shutil.copytree(adapter_folder, tmp_path / "adapter")
    (tmp_path / "adapter" / "taughtby.json").unlink(missing_ok=True)
    (tmp_path / "adapter" / "README.md").write_text(CARD.format(CONFIGS[0]))
    turns = ("user", "assistant")
    rows = [[{"role": role, "content": text} for role, text in zip(turns, pair, strict=True)] for pair in PAIRS]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return tmp_path


def test_the_yaml_of_axolotl_says_how_rows_are_read(trained: Path) -> None:
    metadata = read_training_metadata(trained / "adapter")
    assert (metadata.max_length, metadata.truncate, metadata.mask, metadata.turns) == (256, "skip", "content", "all")
    assert metadata.unfollowed == []


def test_inspect_follows_it_without_an_option(run: Run, trained: Path, model_folder: Path) -> None:
    args = "data", "inspect", model_folder, trained / "chats.jsonl", "--adapter", trained / "adapter"
    code, out, err = run(*args, "--json", trained / "report.json")
    assert code == 0, err
    assert "max_length 256 (README.md: sequence_len)" in err and "mask content" in err and "--mask all" not in err
    assert f"{len(PAIRS)} of {len(PAIRS)} rows" in out


def test_masked_rows_have_the_fields_that_the_yaml_names(run: Run, trained: Path, model_folder: Path) -> None:
    idx, trace, masked = (trained / name for name in ("idx", "trace.json", "masked.jsonl"))
    question, answer = PAIRS[0]
    chats = trained / "chats.jsonl"
    for args in (
        ("index", "build", model_folder, chats, "--adapter", trained / "adapter", "-o", idx),
        ("trace", idx, "-p", question, "-r", answer, "--json", trace),
        ("clean", trace, chats, "--top-k", 2, "--mask-words", "--for", "axolotl", "-o", masked),
    ):
        code, _, err = run(*args)
        assert code == 0, err
    named: dict[str, Any] = yaml.safe_load(CONFIGS[1])["datasets"][0]
    turns = [turn for line in masked.read_text().splitlines() for turn in json.loads(line)["messages"]]
    answers = [turn for turn in turns if turn["role"] == "assistant"]
    assert named["path"] == masked.name
    assert [turn[named["message_field_training"]] for turn in answers] == [True] * len(answers)
    assert 1 <= sum(named["message_field_training_detail"] in turn for turn in answers) <= 2
