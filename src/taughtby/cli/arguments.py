"""Guess what an argument is from its name and the disk, so that swapped arguments are reported before torch loads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from taughtby.errors import DataError, OptionError, StoreError

NOUNS = {"MODEL": "a model", "DATA": "training data", "INDEX": "an index", "TRACE": "a trace"}
WANTED = {
    "MODEL": "a model's or adapter's folder, a hub id, a .gguf file, or smollm2",
    "DATA": "a JSONL, JSON, CSV, Parquet or Arrow file, a data set's folder, or a hub id",
    "INDEX": "a folder that `taughtby index build` wrote",
    "TRACE": "a file that `taughtby trace … --json FILE` wrote",
}
TABLES = {".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".feather"}
SAVED = ("state.json", "dataset_info.json", "dataset_dict.json")  # what `datasets` writes beside a saved data set
_TRACE = re.compile(rb'\s*\{\s*"version":\s*2\b')


def kind_of(name: str) -> str | None:
    """Return MODEL, DATA, INDEX or TRACE; None if the name is ambiguous, such as a hub id."""
    path = Path(name)
    if name == "smollm2" or path.suffix == ".gguf":
        return "MODEL"
    try:
        return _kind_of_folder(path) if path.is_dir() else _kind_of_file(path)
    except (OSError, ValueError):
        return None


def _kind_of_folder(path: Path) -> str | None:
    if (path / "manifest.json").is_file() and (path / "rows.lance").is_dir():
        return "INDEX"
    if any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
        return "MODEL"
    return "DATA" if any((path / name).is_file() for name in SAVED) else None


def _kind_of_file(path: Path) -> str | None:
    suffixes = {suffix.lower() for suffix in path.suffixes[-2:]}
    if suffixes & TABLES:
        return "DATA"
    if ".json" not in suffixes or not path.is_file():
        return None
    with path.open("rb") as file:
        return "TRACE" if _TRACE.match(file.read(200)) else "DATA"


def check_arguments(command: str, **arguments: str) -> None:
    """Refuse swapped arguments, and an argument of the wrong kind."""
    from taughtby.text import cli_command

    if arguments.get("DATA") == "-" and command != "data inspect":
        do = "write it to a file first; `taughtby data inspect` reads pipes"
        raise DataError("standard input cannot be read more than once", got="DATA -", do=do)
    kinds = {name: kind_of(value) for name, value in arguments.items()}
    wrong = [name for name, kind in kinds.items() if kind not in (None, name)]
    if not wrong:
        return
    if len(arguments) == 2:
        first, second = arguments
        if kinds[first] in (None, second) and kinds[second] in (None, first):
            correct = cli_command(command, arguments[second], arguments[first])
            raise OptionError(f"{first} and {second} are swapped", got=f"{first} {arguments[first]}, {second} "
                              f"{arguments[second]}", do=f"run: {correct} …")  # fmt: skip
    name = wrong[0]
    what = f"{name} is {NOUNS[str(kinds[name])]}, not {NOUNS[name]}"
    raise OptionError(what, got=arguments[name], do=f"give {WANTED[name]}")


def check_index(name: str) -> None:
    """Refuse a folder that is not an index."""
    from taughtby.text import shell_quote

    check_arguments("trace", INDEX=name)
    if "://" not in name and not (Path(name) / "manifest.json").is_file():
        do = f"give the folder of an index, or build one: taughtby index build MODEL DATA -o {shell_quote(name)}"
        raise StoreError(f"{name} is not an index", do=do)


def check_file(file: str | Path | None, what: str) -> None:
    """Refuse a path that does not exist."""
    if file is not None and str(file) != "-" and not Path(file).exists():
        raise DataError(f"there is no file {file}", do=f"give {what}")


def check_outputs(*files: Path | None, inputs: Iterable[str | Path | None] = ()) -> None:
    """Refuse to write into a folder that does not exist, or over an input, before anything is computed."""
    present = [Path(one) for one in inputs if one is not None and Path(one).is_file()]
    for file in files:
        if file is not None and not file.parent.is_dir():
            raise OptionError(
                f"{file} cannot be written", got=f"no folder {file.parent}", do=f"make {file.parent} first"
            )
        if file is not None and file.exists() and any(file.samefile(one) for one in present):
            raise OptionError(f"{file} is an input of this command", do="give another file: an input is never changed")


def trace_index(file: str) -> str:
    """Return the index that a trace's file names."""
    check_file(file, WANTED["TRACE"])
    try:
        return str(json.loads(Path(file).read_text(encoding="utf-8"))["index"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{file} is not a trace", got=str(error), do=f"give {WANTED['TRACE']}") from None
