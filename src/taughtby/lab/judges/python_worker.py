"""The process that runs a user's judge function: it reads a JSON pair per line, and writes a JSON result per line.

`python_function` starts it as a script. It imports nothing from this package, so that the user's file cannot break it.
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
    """Load the function, report that it is ready, then reply to every line of input."""
    requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the function's prints go to stderr, so that they are not read as replies
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)

    def reply(line: str) -> None:
        replies.write(line + "\n")
        replies.flush()

    try:
        function = _load(path, name)
    except BaseException as fault:  # the file may also call sys.exit
        reply(json.dumps({"broken": _describe(fault)}))
        return
    reply(json.dumps({"ready": True}))
    for line in requests:
        reply(_call(function, *json.loads(line)))


def _load(path: str, name: str) -> Callable[[str, str], Any]:
    sys.path.insert(0, str(Path(path).parent))  # to import modules next to the file
    spec = importlib.util.spec_from_file_location("judge_of_a_user", path)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up there
    spec.loader.exec_module(module)
    function = getattr(module, name)
    if not callable(function):
        raise TypeError(f"{name} is not a function")
    return function


def _call(function: Callable[[str, str], Any], prompt: str, answer: str) -> str:
    try:
        result = function(prompt, answer)
    except BaseException as fault:
        return json.dumps({"threw": _describe(fault)})
    try:
        return json.dumps({"result": result}, default=lambda value: value.item())  # NumPy and torch scalars
    except Exception:
        return json.dumps({"nonsense": repr(result)[:200]})


def _describe(fault: BaseException) -> str:
    return f"{type(fault).__name__}: {fault}"[:500]


if __name__ == "__main__":
    main(*sys.argv[1:])
