"""Files and options that the scripts of all peers share: rows and queries as input, a file of scores as output.

Imports only the standard library, since each peer runs in its own environment.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

IGNORED = -100  # the label of a token without loss


def make_parser(description: str, methods: Sequence[str]) -> ArgumentParser:
    """A parser with the options that all peers share."""
    result = ArgumentParser(description=description, formatter_class=ArgumentDefaultsHelpFormatter)
    result.add_argument("--method", required=True, choices=methods)
    result.add_argument("--model", required=True, type=Path, help="folder of the base model")
    result.add_argument("--adapter", required=True, type=Path, help="folder of the PEFT adapter")
    result.add_argument("--rows", required=True, type=Path, help="JSON lines of input_ids and labels")
    result.add_argument("--queries", required=True, type=Path, help="JSON lines of input_ids and labels")
    result.add_argument("--out", required=True, type=Path, help="file of the scores")
    result.add_argument("--tokens", action="store_true", help="score the tokens of the rows, too")
    result.add_argument("--work", type=Path, help="folder of what the peer stores; default: one that is deleted")
    return result


def read_examples(path: Path) -> list[dict[str, list[int]]]:
    """Read token ids and labels, and ignore other columns.

    Args:
        path: A file of JSON lines, `{"input_ids": [...], "labels": [...]}` each.

    Returns:
        The examples in the file's order.

    Raises:
        ValueError: If a line lacks a column, its columns differ in length, or no token has a loss.
    """
    examples = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        row = json.loads(line)
        ids, labels = row.get("input_ids"), row.get("labels")
        if not ids or not labels or len(ids) != len(labels):
            raise ValueError(f"{path}, line {number}: needs input_ids and labels of one length")
        if all(label == IGNORED for label in labels[1:]):  # no model predicts the first token
            raise ValueError(f"{path}, line {number}: no token has a loss")
        examples.append({"input_ids": ids, "labels": labels})
    if not examples:
        raise ValueError(f"{path} has no lines")
    return examples


def write_examples(path: Path, examples: Sequence[dict[str, list[int]]]) -> Path:
    """Write examples as JSON lines and return the file's path."""
    path.write_text("".join(json.dumps(example) + "\n" for example in examples), encoding="utf-8")
    return path


def align_tokens(predictions: Sequence[float], length: int) -> list[float]:
    """Move each prediction's score to the token that it predicts.

    Args:
        predictions: A score of each position, which predicts the token after it.
        length: The number of tokens.

    Returns:
        A score of each token; 0 for the first, which nothing predicts.

    Raises:
        ValueError: If there are fewer predictions than tokens after the first.
    """
    if len(predictions) < length - 1:
        raise ValueError(f"{len(predictions)} predictions for {length} tokens")
    return [0.0, *predictions[: length - 1]]


def folder_bytes(*folders: Path) -> int:
    """The total size of all files in the folders, in bytes."""
    return sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())


def copy_adapter(adapter: Path, model: Path, target: Path) -> Path:
    """Copy an adapter, and name `model` as the copy's base, which is how bergson finds the base."""
    shutil.copytree(adapter, target, ignore=shutil.ignore_patterns("checkpoint-*", "*.pt", "*.pth", "*.bin"))
    file = target / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, "base_model_name_or_path": str(model.resolve())}), encoding="utf-8")
    return target


def write_scores(
    path: Path, *, tool: str, version: str, method: str, options: dict[str, Any], rows: list[list[float]],
    tokens: list[list[list[float]]] | None, seconds: dict[str, float], stored: int,
) -> None:  # fmt: skip
    """Write one method's scores; higher is more responsible.

    Args:
        path: The JSON file.
        tool: The peer's name.
        version: The peer's version.
        method: The method's name.
        options: The options of the method.
        rows: A score of each row for each query, (queries, rows).
        tokens: A score of each token of each row for each query, None if the method has none.
        seconds: Time by step; `index` does not depend on the queries. CPU time is added as `processor`.
        stored: Bytes that the peer wrote.

    Raises:
        ValueError: If a score is not a finite number.
    """
    values = [value for query in rows for value in query]
    values += [value for query in tokens or () for row in query for value in row]
    if bad := sum(not math.isfinite(value) for value in values):
        raise ValueError(f"{tool} {method}: {bad} of {len(values)} scores are not finite")
    processor = os.times()  # CPU time of this process and its children, which other load changes less
    seconds = {**seconds, "processor": sum((processor.user, processor.system, processor.children_user,
                                            processor.children_system))}  # fmt: skip
    result = {"tool": tool, "version": version, "method": method, "options": options, "row_scores": rows,
              "token_scores": tokens, "seconds": {step: round(value, 2) for step, value in seconds.items()},
              "bytes": stored}  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result), encoding="utf-8")
    times = ", ".join(f"{step} {value:.1f} s" for step, value in seconds.items())
    print(f"{tool} {version}, {method}: {len(rows)} queries, {len(rows[0])} rows; {times}; {stored / 1e6:.1f} MB")
