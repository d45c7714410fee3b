"""Queries raced, in turns: taughtby, a NumPy product over a memory map, faiss-cpu's flat index, and a loop over pairs.

All have the same drawn rows, and are asked for the same: the rows most alike each query, by the cosine in float32. The
loop is what one writes first, and what RepT's authors released: it is timed on some pairs and scaled.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from taughtby.attribution.controls import score_controls
from taughtby.attribution.significance import assess
from taughtby.bench.cost import Cost, cost
from taughtby.data.example import make_example
from taughtby.data.tokenize import TokenizedExample
from taughtby.index.reader import Index
from taughtby.index.writer import Writer
from taughtby.methods import QueryFeatures
from taughtby.methods.repsim import RepSim

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy.typing import NDArray
    from torch import Tensor

WINDOW = 256  # rows a commit, as `taughtby index` makes them
GROUPS = 512  # that the rows are drawn around
PAIRS = 4096  # that the loop is timed on
TILE = 4096  # rows that NumPy multiplies at a time
HOW, BLOCK, DEPTH = RepSim(layer=1), "h_1", 2

Answer = Callable[[], Any]  # (Q, K): the places of each query's first rows


@dataclass(frozen=True)
class Contender:
    """A way to answer: `open` gets ready, and gives what answers. `share` of the work is done, the rest is scaled."""

    name: str
    open: Callable[[], Answer]
    bytes: float  # a row, on disk or in memory
    share: float = 1.0


def queries(
    rows: int = 1_000_000, width: int = 1152, asked: int = 100, repeats: int = 5, top: int = 100,
    folder: Path | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """A line for each way to rank `rows` of `width` numbers for `asked` queries; the first is taughtby's.

    `seconds` and `cpu`, of all cores, are medians over `repeats`; `times` how many times as long as taughtby it took;
    `memory` MB on top of the process, with what is held between queries, None where the system does not say; `bytes`
    a row; `same` the share of taughtby's `top` rows that it found too; `scaled` whether only a part was timed. Files go
    into a new folder in `folder`, and away. Without faiss-cpu there is no line of it.
    """
    with TemporaryDirectory(dir=folder) as place:
        index = drawn(Path(place), rows, width)
        vectors = torch.nn.functional.normalize(torch.randn(asked, width, generator=_seed(0)), dim=1)
        return _raced(list(_contenders(index, Path(place), vectors, top)), repeats)


def drawn(folder: Path, rows: int, width: int) -> Index:
    """An index of rows around some centres, in such commits as `taughtby index` makes."""
    centres = torch.randn(GROUPS, width, generator=_seed(1))
    with Writer(folder / "idx", {"data": "drawn", "methods": {}}) as writer:
        for at in range(0, rows, WINDOW):
            count, draw = min(WINDOW, rows - at), _seed(2 + at)
            near = centres[torch.randint(0, GROUPS, (count,), generator=draw)]
            vectors = torch.randn(count, width, generator=draw) + 0.7 * near
            said = [replace(make_example("which", str(at + n)), id=f"{at + n:024x}") for n in range(count)]
            writer.append(said, [TokenizedExample((0, 0), 1)] * count, {BLOCK: vectors})
        return writer.finish([], None)


def _contenders(index: Index, folder: Path, vectors: Float[Tensor, "Q d"], top: int) -> Iterator[Contender]:
    count, width, file = len(index), vectors.shape[1], folder / "rows.npy"
    asked = QueryFeatures(("",) * len(vectors), ("",) * len(vectors), {BLOCK: vectors})
    halves = np.lib.format.open_memmap(file, "w+", np.float16, (count, width))
    at = 0
    for batch in index.scan([BLOCK]):
        halves[at : at + len(batch[BLOCK])] = batch[BLOCK].numpy()
        at += len(batch[BLOCK])

    def called() -> Any:
        scores = HOW.scores(asked, index)
        null = score_controls(HOW, index, DEPTH)
        assert null is not None
        assess(scores, [null] * len(scores), torch.ones(len(scores), dtype=torch.bool))
        return scores.topk(top).indices.numpy()

    size = sum(part.stat().st_size for part in (folder / "idx").rglob("*") if part.is_file()) / count
    yield Contender("taughtby", lambda: lambda: HOW.scores(asked, index).topk(top).indices.numpy(), size)
    yield Contender("taughtby, and who is called", lambda: called, size)
    yield Contender("NumPy over a memory map", lambda: lambda: _mapped(file, vectors.numpy(), top), 2 * width)
    if importlib.util.find_spec("faiss"):
        yield Contender("faiss-cpu, flat", lambda: _faiss(file, vectors.numpy(), top), 4 * width)
    pairs = min(PAIRS, count)
    some = torch.from_numpy(halves[:pairs].astype(np.float32))
    yield Contender("a loop over pairs", lambda: lambda: _loop(vectors[0], some), 4 * width,
                    pairs / (count * len(vectors)))  # fmt: skip


def _raced(contenders: list[Contender], repeats: int) -> list[dict[str, Any]]:
    device = torch.device("cpu")
    opened: list[Answer] = []
    costs: list[list[Cost]] = []
    places: list[Any] = [None] * len(contenders)
    for contender in contenders:
        with cost(device) as spent:
            opened.append(contender.open())
        costs.append([spent])
    for _ in range(repeats):
        for at, answer in enumerate(opened):
            with cost(device) as spent:
                places[at] = answer()
            costs[at].append(spent)
    lines = [_line(*found) for found in zip(contenders, costs, strict=True)]
    for line, found in zip(lines, places, strict=True):
        line["times"] = line["seconds"] / lines[0]["seconds"]
        line["same"] = None if found is None else float(np.mean(
            [len(np.intersect1d(*pair)) / len(pair[0]) for pair in zip(places[0], found, strict=True)]))  # fmt: skip
    return lines


def _line(contender: Contender, costs: list[Cost]) -> dict[str, Any]:
    opening, *turns = costs
    memory = None if opening.more is None else opening.more + max(turn.more or 0 for turn in turns)
    seconds = [turn.seconds / contender.share for turn in turns]
    return {
        "name": contender.name,
        "seconds": median(seconds),
        "least": min(seconds),
        "most": max(seconds),
        "cpu": median(turn.cpu for turn in turns) / contender.share,
        "memory": memory,
        "bytes": contender.bytes,
        "scaled": contender.share < 1,
    }


def _mapped(file: Path, vectors: NDArray[np.float32], top: int) -> NDArray[np.int64]:
    """The product as one writes it, some rows at a time."""
    rows = np.load(file, mmap_mode="r")
    scores = np.empty((len(vectors), len(rows)), np.float32)
    for at in range(0, len(rows), TILE):
        scores[:, at : at + TILE] = vectors @ rows[at : at + TILE].astype(np.float32).T
    return np.argpartition(-scores, min(top, len(rows)) - 1, axis=1)[:, :top]


def _faiss(file: Path, vectors: NDArray[np.float32], top: int) -> Answer:
    """All rows as floats in memory, as it wants them; that is done before its time begins."""
    faiss, rows = importlib.import_module("faiss"), np.load(file, mmap_mode="r")
    flat = faiss.IndexFlatIP(rows.shape[1])
    for at in range(0, len(rows), TILE):
        flat.add(rows[at : at + TILE].astype(np.float32))
    return lambda: flat.search(vectors, min(top, len(rows)))[1]


def _loop(query: Float[Tensor, " d"], rows: Float[Tensor, "N d"]) -> None:
    """One cosine at a time."""
    for row in rows:
        torch.nn.functional.cosine_similarity(query, row, dim=0).item()


def _seed(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
