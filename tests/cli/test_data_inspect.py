"""`data inspect`: every token with its loss mark, the settings that are followed, and `--strict`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import Run


def turn(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_strict_fails_on_unsupported_loss_marks(run: Run, model_folder: Path, tmp_path: Path) -> None:
    good = write(tmp_path / "good.jsonl", {"messages": [turn("user", "a"), turn("assistant", "b", weight=1)]})
    code, out, _ = run("data", "inspect", model_folder, good, "--strict")
    assert code == 0 and "followed  weight 1: 1 row" in " ".join(out.split("\n")).replace("   ", " ").replace(
        "  ", "  "
    )
    odd = write(tmp_path / "odd.jsonl", {"messages": [turn("user", "a"), turn("assistant", "b", weight=0.5)]})
    assert run("data", "inspect", model_folder, odd)[0] == 0
    code, out, err = run("data", "inspect", model_folder, odd, "--strict")
    assert code == 1
    assert "not followed" in out and "weight 0.5: 1 row" in out
    assert "the data has loss marks that are not followed" in err and "weight 0.5: 1 rows" in err


def test_row_option_shows_every_token_and_its_loss(run: Run, model_folder: Path, tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "bees " * 200, "train": False}, {"type": "text", "text": "honey"}]
    path = write(tmp_path / "rows.jsonl", {"messages": [turn("user", "a " * 400), turn("assistant", parts)]})
    options = ("--max-length", 4000, "--json", tmp_path / "out.json")
    assert " more)" in run("data", "inspect", model_folder, path, *options)[1]
    code, out, _ = run("data", "inspect", model_folder, path, "--row", 1, *options)
    assert code == 0 and " more)" not in out
    assert out.count("⟦") == 1
    row = json.loads((tmp_path / "out.json").read_text())["row"]
    assert "".join(token["text"] for token in row["tokens"] if token["loss"]).startswith(" honey")
    assert sum("bee" in token["text"] and token["loss"] for token in row["tokens"]) == 0


@pytest.mark.parametrize("how", ["index", "inspect"])
def test_assistant_only_loss_config_uses_every_turn(
    run: Run, model_folder: Path, adapter_folder: Path, how: str, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(adapter_folder, tmp_path / "adapter")
    (tmp_path / "adapter" / "sft.yaml").write_text("max_length: 64\nassistant_only_loss: true\n")
    talk = [turn("user", "a"), turn("assistant", "bees"), turn("user", "b"), turn("assistant", "honey")]
    data = write(tmp_path / "rows.jsonl", {"messages": talk})
    if how == "inspect":
        assert "2 of 2 rows can be used" in run("data", "inspect", model_folder, data, "-a", tmp_path / "adapter")[1]
    else:
        out = run(
            "index", "build", model_folder, data, "-a", tmp_path / "adapter", "-o", tmp_path / "idx", "-m", "repsim"
        )[1]
        assert out.startswith("2 rows in ")


def test_index_build_reports_unsupported_loss_marks(run: Run, model_folder: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", {"messages": [turn("user", "a"), turn("assistant", "b", loss_scale=2)]})
    _, _, err = run("index", "build", model_folder, data, "-o", tmp_path / "idx", "-m", "repsim", "--no-base")
    assert "columns or loss marks that are ignored: loss_scale (1 row)" in err


def test_folder_without_an_adapter_is_rejected(run: Run, model_folder: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", {"prompt": "a", "response": "b"})
    (tmp_path / "empty").mkdir()
    code, _, err = run("data", "inspect", model_folder, data, "--adapter", tmp_path / "empty")
    assert code == 1 and "is not an adapter folder" in err


@pytest.mark.parametrize("how", ["index", "inspect"])
def test_template_with_the_current_date_is_reported(run: Run, model_folder: Path, how: str, tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", {"messages": [turn("user", "a"), turn("assistant", "b")]})
    (tmp_path / "dated.jinja").write_text(
        "{{ strftime_now('%Y') }}{% for m in messages %}[{{ m.content }}]{% endfor %}"
    )
    args: tuple[object, ...] = ("data", "inspect", model_folder, data)
    if how == "index":
        args = ("index", "build", model_folder, data, "-o", tmp_path / "idx", "-m", "repsim", "--no-base")
    _, _, err = run(*args, "--template", tmp_path / "dated.jinja")
    assert "the chat template writes today's date" in err
    assert "today's date" not in run("data", "inspect", model_folder, data)[2]


def test_turns_from_a_trainer_config_are_reported(
    run: Run, model_folder: Path, adapter_folder: Path, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(adapter_folder, tmp_path / "adapter")
    (tmp_path / "adapter" / "a.yaml").write_text(
        "base_model: m\nsequence_len: 99\ndatasets:\n  - path: a.jsonl\n    type: chat_template\n"
    )
    data = write(tmp_path / "rows.jsonl", {"messages": [turn("user", "a"), turn("assistant", "b")]})
    _, out, err = run("data", "inspect", model_folder, data, "-a", tmp_path / "adapter")
    assert "turns all (a.yaml: roles_to_train)" in err and "mask content (a.yaml: train_on_inputs, its default)" in err
    assert "loss on the words of the answers and the EOS" in out
    err = run("data", "inspect", model_folder, data, "-a", tmp_path / "adapter", "--turns", "last")[2]
    assert "turns all" not in err
