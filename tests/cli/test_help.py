"""The help text of every command and group."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from conftest import Run
from taughtby.cli.app import app


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command and group, the program itself as ()."""
    group = group or typer.main.get_command(app)
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_help_names_arguments_and_no_python_types(run: Run, words: tuple[str, ...]) -> None:
    code, text, errors = run(*words, "--help")
    assert (code, errors) == (0, "") and " ".join([*words, "[OPTIONS]"]) in text
    assert not re.search(r"<(bool|str|int|float|path|list)|\[\[|Path", text)


@pytest.mark.parametrize("words", [("index", "append"), ("clean",), ("retrain",)], ids=" ".join)
def test_rows_are_read_as_for_the_index_by_default(run: Run, words: tuple[str, ...]) -> None:
    _, text, _ = run(*words, "--help")
    panel = text[text.index("How rows are read") :].split("╰")[0]
    assert set(re.findall(r"default: +\((.*?)\)", panel)) == {"the index's"}
    assert "(the index's)" not in run("index", "build", "--help")[1]
