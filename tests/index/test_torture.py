"""kill -9 at random moments: the index is completed, equals an uninterrupted one, and few rows are computed twice.

Six kills in `make test`, a hundred in `make torture`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_build import columns, said

from taughtby.index.reader import Index
from taughtby.index.verify import verify

KILLED = """
import os, random, select, signal, sys, time
import torch
torch.set_num_threads(1)
import transformers.models.llama, peft
import taughtby.index.build
from taughtby.index.build import build_index
from taughtby.methods import get_method
from taughtby.models.model import load_model
from taughtby.data.tokenize import Encoding
from taughtby.index.pipeline import CapturePipeline, WindowProgress
from taughtby.index.writer import Writer

model, data, out, rows, window, kills = *sys.argv[1:4], *map(int, sys.argv[4:])
taughtby.index.build.WINDOW = window
# what has no thread yet may be forked: the children load nothing, and a kill costs little
loaded = load_model(model, dtype="float32", device="cpu")
whole, begin, finish = CapturePipeline.capture_window, Writer._begin, Writer.finish

def life(place, tell):
    "One process that indexes: tells b and how many rows it finds, how many each batch takes on, and f as it finishes."
    def captured(work, rows):
        for told in whole(work, rows):
            if isinstance(told, WindowProgress):
                os.write(tell, f"{len(told.next_rows)} ".encode())
            yield told
    def begun(writer):
        begin(writer)
        os.write(tell, f"b{len(writer.row_ids)} ".encode())
    def finished(writer, *given):
        os.write(tell, b"f ")
        return finish(writer, *given)
    CapturePipeline.capture_window, Writer._begin, Writer.finish = captured, begun, finished
    torch.set_num_threads(1)  # a fork's thread pool is made anew at its first use, and not by several threads at once
    build_index(loaded, data, place, [get_method("lesson:layer=2,state_layer=3,sketch_dim=16")], encoding=Encoding(128))
    os._exit(0)

def born(place):
    ear, mouth = os.pipe()
    if not (child := os.fork()):
        try:
            life(place, mouth)
        finally:
            os._exit(1)
    os.close(mouth)
    return child, ear

def heard(ear, wait, word=None):
    "What a child says in so many seconds, or until it says that word; all it ever says where it ends before."
    text, until = b"", time.monotonic() + wait
    while (left := until - time.monotonic()) > 0 and select.select([ear], [], [], left)[0]:
        if not (more := os.read(ear, 65536)):
            break
        text += more
        if word and word in text:
            break
    return text

start = time.monotonic()
child, ear = born(out + "-whole")
heard(ear, 600, b"b0")
opened = time.monotonic()
heard(ear, 600, b"f")
filled = time.monotonic()
heard(ear, 600)
assert os.waitpid(child, 0)[1] == 0
end = time.monotonic()
dice, killed, there, lives = random.Random(7), 0, 0, []
while True:
    child, ear = born(out)
    text = b""
    if killed < kills:
        last = killed >= 0.9 * kills
        if last:  # as it finishes
            text, room = heard(ear, 600, b"f"), 0.2 * (end - filled)
        elif dice.random() < 0.2:  # as it begins
            room = opened - start
        else:  # at a pace that leaves something to do for the kills to come
            text, room = heard(ear, 600, b"b"), (filled - opened) * (1 - there / rows) / (0.9 * kills - killed)
        text += heard(ear, dice.uniform(0, room))
        os.kill(child, signal.SIGKILL)
    text += heard(ear, 600)
    os.close(ear)
    status = os.waitpid(child, 0)[1]
    told = text.decode().split()
    found = [int(word[1:]) for word in told if word[0] == "b"]
    if found:
        if lives:
            lives[-1][1] = found[0] - there
        there = found[0]
        lives.append([sum(int(word) for word in told if word.isdigit()), 0])
    if os.WIFSIGNALED(status):
        killed += 1
        continue
    assert status == 0, status
    if lives:
        lives[-1][1] = rows - there
    break
lost = [computed - kept for computed, kept in lives]
print(f"{killed} kills, {len(lives)} lives that came to the rows, "
      f"{sum(one for one, _ in lives):,} rows computed for {rows:,}: "
      f"{sum(lost)} twice, in no life more than {max(lost)} (a window has {window}); {end - start:.1f} s undisturbed, "
      f"{time.monotonic() - end:.0f} s so")
# one window is written while the next is captured
assert killed >= 0.8 * kills and 0 <= min(lost) and max(lost) <= 2 * window, (killed, lives)
"""


@pytest.mark.parametrize(
    ("rows", "window", "kills"), [(300, 32, 6), pytest.param(2000, 64, 100, marks=pytest.mark.torture)]
)
def test_build_killed_at_random_equals_undisturbed_build(
    model_folder: Path, tmp_path: Path, rows: int, window: int, kills: int
) -> None:
    data = tmp_path / "data.jsonl"
    with data.open("w") as out:
        for at in range(rows):
            answer = f"answer {at} " * (1 + at % 7)
            out.write(json.dumps({"prompt": f"why {at} days in a week", "response": answer}) + "\n")
    items = [str(model_folder), str(data), str(tmp_path / "idx"), *map(str, (rows, window, kills))]
    done = subprocess.run([sys.executable, "-c", KILLED, *items], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout.strip())
    equal(Index.open(tmp_path / "idx"), Index.open(tmp_path / "idx-whole"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["data.jsonl", "idx", "idx-whole"]


def equal(index: Index, whole: Index) -> None:
    """Assert that all features are equal bit by bit and in order, and that no index is damaged."""
    assert [row.id for row in index.examples()] == [row.id for row in whole.examples()]
    assert list(index.examples()) == list(whole.examples())
    one, two = columns(index), columns(whole)
    assert one.keys() == two.keys()
    for name in two:
        assert one[name].equal(two[name]), name
    assert said(index) == said(whole)
    assert verify(index.path).faults == ()


def test_index_comparison_detects_differences(tmp_path: Path, tuned: Any, data: Path) -> None:
    """The comparison can fail."""
    from test_build import REPT

    from taughtby.data.tokenize import Encoding
    from taughtby.index.build import build_index
    from taughtby.methods.rept import RepT

    one, two = (
        build_index(tuned, data, tmp_path / how.name / str(how.layer), [how], encoding=Encoding(128))
        for how in (REPT, RepT(layer=3))
    )
    equal(one, one)
    with pytest.raises(AssertionError):
        equal(one, two)
