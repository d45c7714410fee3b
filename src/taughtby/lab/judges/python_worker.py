"""The process of its own in which a user's judge runs: a pair a line in, what the function said a line out.

Started by `program` as a script; knows no module of this house, and whatever the function does ends here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main(path: str, name: str) -> None:
    """Load the function, say so, then answer until there are no more lines."""
    asked, told = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the function prints is for people, and may not pass for an answer
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)

    def tell(line: str) -> None:
        told.write(line + "\n")
        told.flush()

    try:
        function = _load(path, name)
    except BaseException as fault:  # sys.exit in the file too
        tell(json.dumps({"broken": _fault(fault)}))
        return
    tell(json.dumps({"ready": True}))
    for line in asked:
        tell(_said(function, *json.loads(line)))


def _load(path: str, name: str) -> Callable[[str, str], Any]:
    sys.path.insert(0, str(Path(path).parent))  # for what lies beside it
    spec = importlib.util.spec_from_file_location("judge_of_a_user", path)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # as an import would: dataclasses look there
    spec.loader.exec_module(module)
    function = getattr(module, name)
    if not callable(function):
        raise TypeError(f"{name} is no function")
    return function


def _said(function: Callable[[str, str], Any], prompt: str, answer: str) -> str:
    try:
        said = function(prompt, answer)
    except BaseException as fault:
        return json.dumps({"threw": _fault(fault)})
    try:
        return json.dumps({"said": said}, default=lambda value: value.item())  # of a number of numpy or torch
    except Exception:
        return json.dumps({"nonsense": repr(said)[:200]})


def _fault(fault: BaseException) -> str:
    return f"{type(fault).__name__}: {fault}"[:500]


if __name__ == "__main__":
    main(*sys.argv[1:])
