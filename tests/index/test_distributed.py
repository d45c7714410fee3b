"""Building on Ray: the index equals one of a single process, whichever workers die, and every window is completed."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")

import psutil
import pyarrow as pa
from ray.exceptions import RayError, RayTaskError
from test_build import BOTH
from test_torture import equal
from typer.core import TyperCommand

import taughtby.index.build
from taughtby.cli.workers import RayCommand
from taughtby.data.example import Example, make_example
from taughtby.data.tokenize import Encoding
from taughtby.errors import DataError, ModelError, OptionError, StoreError
from taughtby.index import distributed as crew
from taughtby.index import scheduler as shift
from taughtby.index.build import build_index
from taughtby.index.distributed import RayPool
from taughtby.index.pipeline import WindowProgress
from taughtby.index.scheduler import Scheduler, WorkerHandle, WorkerProcess, WrittenWindow
from taughtby.methods.rept import RepT

ROWS = 60
TESTS = [str(folder) for folder in Path(__file__).parents[:2]]  # where other processes find these modules


class Told(RepT):
    """RepT that records each batch; the first process to finish two batches kills itself before its third."""

    def features(self, model: Any, batch: Any, weights: Any = None) -> Any:
        folder = Path(os.environ["TAUGHTBY_TEST_DIARY"])
        done = [json.loads(line)[0] for line in (folder / "diary").read_text().splitlines()]
        if done.count(os.getpid()) == 2:
            with suppress(FileExistsError):
                (folder / "killed").touch(exist_ok=False)  # by one process, however many come here at once
                os.kill(os.getpid(), signal.SIGKILL)
        with (folder / "diary").open("a") as diary:
            diary.write(json.dumps([os.getpid(), batch.ids.tolist()]) + "\n")
        return super().features(model, batch, weights)


def filled(data: Path, count: int = ROWS) -> None:
    with data.open("a") as out:
        for i in range(count):
            out.write(json.dumps({"prompt": f"why {i} days", "response": f"answer {i} " * (1 + i % 5)}) + "\n")
        out.write(json.dumps({"prompt": "why " * 200, "response": "too long"}) + "\n")


# — with Ray


def test_ray_build_with_killed_worker_equals_local_build(
    tuned: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(taughtby.index.build, "WINDOW", 8)
    monkeypatch.setenv("TAUGHTBY_TEST_DIARY", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray keeps a folder of its own
    told_at = [
        str(Path(__file__).parent),
        str(Path(__file__).parents[1]),
        os.environ.get("PYTHONPATH", ""),
    ]  # where a worker finds Told
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, told_at)))
    filled(data)
    options: Any = {"encoding": Encoding(128), "token_budget": 64, "layers": False}
    whole = build_index(tuned, data, tmp_path / "whole", BOTH, **options)
    (tmp_path / "diary").touch()
    calls: list[int] = []
    asides: list[str] = []
    how = [Told(layer=2), BOTH[1]]
    with RayPool(num_workers=2, set_note=asides.append) as hired:
        value: Any = {**options, "progress": lambda done, _: calls.append(done), "pool": hired}
        index = build_index(tuned, data, tmp_path / "idx", how, **value)
        diary = [json.loads(line) for line in (tmp_path / "diary").read_text().splitlines()]
        # finished, it is finished: nobody is hired for nothing
        monkeypatch.setattr(hired, "options", None)
        equal(build_index(tuned, data, tmp_path / "idx", how, **value), index)
    equal(index, whole)  # to the bit, where windows and batches are the same
    assert (tmp_path / "killed").exists()
    assert len({pid for pid, _ in diary}) >= 2  # the killed one, and whoever did its window again
    assert os.getpid() not in {pid for pid, _ in diary}
    times = Counter(json.dumps(ids) for _, batch in diary for ids in batch)
    assert set(times.values()) <= {1, 2}
    assert sum(times.values()) - len(times) < 8  # of the open window, those before the kill
    assert calls == sorted(calls)
    assert calls[-1] == len(whole) + 1
    assert "tokens" in asides[-1]
    rows = index.dataset
    tracked = {file["path"] for file in rows.tracked_files(min_version=1).read_all().to_pylist()}
    held = {file.relative_to(tmp_path / "idx" / "rows.lance").as_posix() for file in tmp_path.glob("idx/*/data/*")}
    assert held <= tracked  # what the killed one had written is gone
    assert capfd.readouterr() == ("", "")  # Ray is silent


# — the scheduler, with simulated workers


class Play:
    """A fake of Ray, as far as the scheduler uses it. `act` is what a worker does at the n-th attempt at a window."""

    def __init__(self, act: Callable[[int, int], list[Any]], load: Sequence[Any] = ()) -> None:
        self.act, self.load = act, list(load)
        self.given: list[int] = []
        self.killed = 0
        self.most = 0

    def start(self) -> WorkerHandle:
        word = self.load.pop(0) if self.load else WorkerProcess(2**30, 0.0, "a node")
        return WorkerHandle(Actor(self), Stream([word]))

    def wait(self, refs: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        ready = [ref for ref in refs if ref.events and ref.events[0] != "hangs"]
        if timeout and not ready:
            time.sleep(0.02)
        return ready[:num_returns], []

    def get(self, message: Any) -> Any:
        message = next(message) if isinstance(message, Stream) else message
        if isinstance(message, Exception):
            raise message
        return message

    def kill(self, actor: Any, no_restart: bool) -> None:
        self.killed += 1

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: "another node")


class Stream:
    def __init__(self, events: list[Any]) -> None:
        self.events = events

    def __next__(self) -> Any:
        return self.events.pop(0)


class Actor:
    def __init__(self, play: Play) -> None:
        self.play = play
        self.capture_window = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self.take))

    def take(self, rows: list[Example]) -> Stream:
        at = int(rows[0].source) // SIZE
        self.play.given.append(at)
        return Stream(self.play.act(at, self.play.given.count(at)))


class Book:
    """A writer that records what is committed."""

    path = Path("nowhere")

    def __init__(self, row_ids: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        self.row_ids, self.joined, self.commits = row_ids, [], 0

    def append_fragments(self, fragments: list[Any], schema: Any) -> None:
        self.joined += [fragment.at for fragment in fragments]
        self.commits += 1


SIZE = 4
DIES = RayError("gone")


def make_window(at: int) -> WrittenWindow:
    return WrittenWindow(
        [SimpleNamespace(at=at, files=[])],
        pa.schema([("id", pa.string())]),
        [{"source": str(at), "reason": "none"}],
        10,
    )


def steps(at: int) -> list[Any]:
    return [WindowProgress(0, 0, (0, 1)), WindowProgress(2, 5, (2, 3)), make_window(at)]


def shifted(
    monkeypatch: pytest.MonkeyPatch, play: Play, windows: int = 12, workers: int = 2, book: Book | None = None
) -> tuple[list[dict[str, str]], Book, list[int]]:
    monkeypatch.setattr(shift, "ray", play)
    book = book or Book()
    calls: list[int] = []
    read: list[int] = []

    def rows() -> Iterator[list[Example]]:
        for at in range(windows):
            read.append(at)
            play.most = max(play.most, len(read) - len(book.joined))
            yield [
                replace(make_example("why", "so"), id=str(i), source=str(i)) for i in range(at * SIZE, (at + 1) * SIZE)
            ]

    writer: Any = book
    skipped = Scheduler(play.start, workers, writer, rows(), calls.append, None).run()
    return skipped, book, calls


def test_windows_commit_in_order_with_bounded_lookahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third window takes long: those behind it wait, and are then committed at once."""
    play = Play(lambda at, _: [WindowProgress(0, 0, (0,))] * (30 if at % 3 == 0 else 1) + [make_window(at)])
    skipped, book, notes = shifted(monkeypatch, play, windows=12, workers=3)
    assert book.joined == list(range(12))
    assert [skip["source"] for skip in skipped] == [str(at) for at in range(12)]
    assert book.commits < 12
    assert play.most <= shift.WINDOWS_AHEAD * 3 + 1
    assert notes[-1] == 48
    assert play.killed == 3  # the workers, when nothing is left


def test_windows_commit_once_when_workers_die(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(3)
    play = Play(lambda at, n: steps(at) if dice.random() < 0.6 or n > 2 else [*steps(at)[: dice.randint(0, 2)], DIES])
    _, book, _ = shifted(monkeypatch, play, windows=40)
    assert book.joined == list(range(40))
    assert len(play.given) > 50
    assert play.killed == len(play.given) - 40 + 2


def test_hung_worker_is_killed_and_its_window_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shift, "MIN_PATIENCE", 0.1)
    play = Play(lambda at, n: [*steps(at)[:1], "hangs"] if (at, n) == (5, 1) else steps(at))
    _, book, _ = shifted(monkeypatch, play)
    assert book.joined == list(range(12))
    assert play.given.count(5) == 2
    assert play.killed == 1 + 2


def test_rows_that_crash_workers_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other windows before them are kept."""
    play = Play(
        lambda at, _: [WindowProgress(0, 0, (0, 1)), WindowProgress(2, 5, (2, 3)), DIES] if at == 6 else steps(at)
    )
    book = Book()
    with pytest.raises(DataError, match="workers died or hung 5 times on the same rows\n  got: 26, 27: gone") as caught:
        shifted(monkeypatch, play, book=book)
    assert "remove them" in caught.value.do
    assert book.joined == list(range(6))
    # the next run computes none of them again
    done = {str(i) for i in range(6 * SIZE)}
    again = Play(lambda at, _: steps(at))
    _, book, notes = shifted(monkeypatch, again, book=Book(done))
    assert (sorted(again.given), notes[-1]) == (list(range(6, 12)), 48)
    assert book.joined == list(range(6, 12))


def test_crashes_at_varying_rows_of_a_window_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(lambda at, n: [WindowProgress(0, 0, (n % 4,)), DIES] if at == 6 else steps(at))
    with pytest.raises(DataError, match="died or hung 10 times on the same rows\n  got: 24, 27: gone"):
        shifted(monkeypatch, play)


def test_workers_lost_before_first_batch_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="12 workers in a row died or hung without finishing a batch\n  got: gone"):
        shifted(monkeypatch, Play(lambda at, _: steps(at), load=[DIES] * 20))
    _, book, _ = shifted(monkeypatch, Play(lambda at, _: steps(at), load=[DIES] * 8))
    assert book.joined == list(range(12))


def test_worker_error_is_reraised_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    fault = pickle.loads(pickle.dumps(ModelError("no such thing", got="a", do="b")))
    play = Play(lambda at, _: [RayTaskError("window", "text", fault)])
    with pytest.raises(ModelError, match="no such thing\n  got: a\n  do:  b") as caught:
        shifted(monkeypatch, play)
    assert (caught.value.got, caught.value.do, play.killed) == ("a", "b", 2)


def test_missing_fragment_files_are_not_committed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = [SimpleNamespace(path="one.lance")]
    play = Play(lambda at, _: [WrittenWindow([SimpleNamespace(at=at, files=files)], pa.schema([("id", pa.string())]))])
    book = Book()
    book.path = tmp_path
    with pytest.raises(StoreError, match=r"a worker's output is not visible in .*\n  got: no one.lance"):
        shifted(monkeypatch, play, book=book)
    assert book.commits == 0


@pytest.mark.parametrize("whose", ["the worker's", "another's", "another node's"])
def test_only_the_worker_process_is_killed(whose: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system reuses a process id once its process has ended; the new process must not be killed."""
    monkeypatch.setattr(shift, "ray", Play(lambda *_: []))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        began = psutil.Process(other.pid).create_time() - (60 if whose == "another's" else 0)
        node = "a third node" if whose == "another node's" else "another node"
        hand = WorkerHandle(None, None, process=WorkerProcess(other.pid, began, node).local())
        hand.end()
        if whose == "the worker's":
            assert other.wait(60) == -signal.SIGKILL
            hand.end()  # once more, when its number may be anybody's
        else:
            assert other.poll() is None
            other.kill()


def test_local_handle_of_ended_worker_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shift, "ray", Play(lambda *_: []))
    assert WorkerProcess(2**22 + 1, 0.0, "another node").local() is None
    assert WorkerProcess.current().local() == psutil.Process()


# — options


def test_cpu_share_per_worker() -> None:
    assert [crew._share(8, 2), crew._share(8, 8), crew._share(3, 2), crew._share(1, 2), crew._share(1, 3)] == [
        4, 1, 1, 0.5, 0.3333]  # fmt: skip


def test_ray_client_address_raises() -> None:
    with pytest.raises(OptionError, match="ray job submit"):
        RayPool("ray://head:10001")


@pytest.mark.parametrize("address", ["auto", "127.0.0.1:9", "there:port"])
def test_unreachable_ray_cluster_raises(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # `auto` would find one that another program runs on this machine
    monkeypatch.setattr("ray._private.services.find_bootstrap_address", lambda *_: None)
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", lru_cache(set))
    with pytest.raises(OptionError, match=f"no Ray cluster at {address}"), RayPool(address):
        pass


def test_ray_option_without_ray_installed_fails(
    monkeypatch: pytest.MonkeyPatch, run: Any, model_folder: Path, data: Path
) -> None:
    for name in [
        name for name in sys.modules if name.partition(".")[0] == "ray" or name.startswith("taughtby.index.distributed")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "taughtby.index.scheduler")
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, message = run("index", "build", model_folder, data, "-o", "idx", "--no-base", "--ray")
    assert (code, message.strip()) == (1, "error: --ray needs Ray\n  got: no ray\n  do:  pip install 'taughtby[ray]'")


def test_workers_option_without_ray_option_fails(run: Any, model_folder: Path, data: Path) -> None:
    code, _, message = run("index", "build", model_folder, data, "-o", "idx", "--no-base", "--workers", 2)
    assert (code, "--workers requires --ray" in message) == (1, True)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (["--ray"], ["--ray", "local"]),
        (["--ray", "model", "data"], ["--ray", "local", "model", "data"]),
        (["--ray", "auto", "model"], ["--ray", "auto", "model"]),
        (["--ray", "head:6379"], ["--ray", "head:6379"]),
        (["--ray", "-o", "s3://bucket/idx"], ["--ray", "local", "-o", "s3://bucket/idx"]),
        (["model", "--ray=auto"], ["model", "--ray=auto"]),
    ],
)
def test_ray_address_defaults_to_local(value: list[str], read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(TyperCommand, "parse_args", lambda *args: seen.append(args[2]))
    RayCommand("build").parse_args(None, value)
    assert seen == [read]
