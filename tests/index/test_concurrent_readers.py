"""Readers of an index that others change see it as it was before or after a change, never in between."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from test_build import REPT, Calls, add

import taughtby.index.build
from taughtby.data.tokenize import Encoding
from taughtby.index.build import build_index
from taughtby.index.maintenance import add_features, compact, delete_rows
from taughtby.index.reader import Index
from taughtby.index.verify import verify
from taughtby.methods.rept import RepT

TESTS = [str(folder) for folder in Path(__file__).parents[:2]]  # where other processes find these modules


def seen(path: str | Path) -> str:
    """All that one opening of an index shows, as a hash: ids, blocks, a query's products. Its parts have to agree."""
    index = Index.open(path)
    ids = [row.id for row in index.examples()]
    query = torch.ones(32) / 32**0.5
    scores = torch.cat([batch["h_2"] @ query for batch in index.scan(["h_2"], 3)])
    assert len(ids) == len(scores) == len(index)
    places = [len(ids) - 1, 0, len(ids) // 2]
    assert [one.example.id for one in index.take(places)] == [ids[place] for place in places]
    return hashlib.blake2b(json.dumps([ids, index.features, scores.tolist()]).encode(), digest_size=8).hexdigest()


READER = """
    import json, sys; sys.path[:0] = {tests!r}
    from pathlib import Path
    from test_concurrent_readers import seen
    path, stop, found, count = {path!r}, Path({stop!r}), set(), 0
    print("ready", flush=True)
    while not stop.exists():
        found.add(seen(path))
        count += 1
    print(json.dumps([sorted(found), count]), flush=True)
"""


def test_concurrent_reader_sees_only_committed_states(
    tuned: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taughtby.index.build, "WINDOW", 2)
    idx, stop = tmp_path / "idx", tmp_path / "stop"

    def build(append: bool = False, methods: Any = (REPT,)) -> None:
        build_index(tuned, data, idx, methods, encoding=Encoding(128), append=append)

    build()
    states = [seen(idx)]
    code = textwrap.dedent(READER).format(tests=TESTS, path=str(idx), stop=str(stop))
    reader = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert reader.stdout is not None
    assert reader.stdout.readline() == "ready\n"
    methods = [REPT]
    for round in range(3):
        add(data, *((f"why {round} {at}", f"because {at} " * (1 + at % 3)) for at in range(9)))
        with monkeypatch.context() as patch:
            Calls(patch, at=3, fault=RuntimeError("the power went"))
            with pytest.raises(RuntimeError, match="the power went"):
                build(append=True, methods=methods)
        assert seen(idx) == states[-1]  # half appended is not appended
        build(append=True, methods=methods)
        states.append(seen(idx))
        methods.append(RepT(layer=(3, 1, 4)[round]))
        add_features(tuned, idx, methods[-1:])
        states.append(seen(idx))
        delete_rows(idx, [one.example.id for one in Index.open(idx).take([1, 5, 9])])
        states.append(seen(idx))
        compact(idx)
        assert seen(idx) == states[-1]
        assert verify(idx).faults == ()
    stop.touch()
    message, wrong = reader.communicate(timeout=300)
    assert reader.returncode == 0, wrong
    result, count = json.loads(message)
    print(f"{count} openings saw {len(result)} of {len(set(states))} states")
    assert set(result) <= set(states)
    assert len(set(states)) == 10
    assert len(result) > 1
    assert states[-1] != states[0]
