"""Compare the cost of queries: taughtby, a NumPy product over a memory map, faiss-cpu (flat), a loop over pairs.

All rank the same random rows for the same queries, by cosine similarity in float32, and take turns. The loop is the one
that RepT's authors released; it is timed on some pairs and scaled.
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

from taughtby.attribution.controls import ControlSample
from taughtby.attribution.significance import assess
from taughtby.bench.cost import Cost, measure_cost
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

WINDOW = 256  # rows per commit, as in `taughtby index build`
NUM_CENTRES = 512  # cluster centres of the rows
NUM_PAIRS = 4096  # pairs on which the loop is timed
TILE = 4096  # rows per NumPy product
METHOD, FEATURE, DEPTH = RepSim(layer=1), "h_1", 2

Answer = Callable[[], Any]  # (Q, K): the indices of each query's top rows


@dataclass(frozen=True)
class Contender:
    """A way to answer queries.

    Attributes:
        name: The name in the table.
        open: Prepares, and returns the function that answers the queries.
        bytes: Bytes per row, on disk or in memory.
        share: The share of the work that is timed; times are scaled to the whole.
    """

    name: str
    open: Callable[[], Answer]
    bytes: float
    share: float = 1.0


def race(
    num_rows: int = 1_000_000, width: int = 1152, num_queries: int = 100, repeats: int = 5, top_k: int = 100,
    folder: Path | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """A line for each way to rank `num_rows` of `width` numbers for `num_queries` queries; the first is taughtby's.

    `seconds` and `cpu` (over all cores) are medians over `repeats`; `times` is the ratio to taughtby's seconds;
    `memory` is the additional memory in MB, including what is held between queries, None if the system does not report
    it; `bytes` is per row; `same` is the share of taughtby's `top_k` rows that are found too; `scaled` says whether
    only a part was timed. Files are written to a temporary folder in `folder`. faiss has no line if it is missing.
    """
    with TemporaryDirectory(dir=folder) as place:
        index = random_index(Path(place), num_rows, width)
        vectors = torch.nn.functional.normalize(torch.randn(num_queries, width, generator=_seed(0)), dim=1)
        return _raced(list(_contenders(index, Path(place), vectors, top_k)), repeats)


def random_index(folder: Path, num_rows: int, width: int) -> Index:
    """An index of random rows around cluster centres, in commits of the same size as in `taughtby index build`."""
    centres = torch.randn(NUM_CENTRES, width, generator=_seed(1))
    with Writer(folder / "idx", {"data": "random", "methods": {}}) as writer:
        for at in range(0, num_rows, WINDOW):
            count, draw = min(WINDOW, num_rows - at), _seed(2 + at)
            near = centres[torch.randint(0, NUM_CENTRES, (count,), generator=draw)]
            vectors = torch.randn(count, width, generator=draw) + 0.7 * near
            examples = [replace(make_example("which", str(at + n)), id=f"{at + n:024x}") for n in range(count)]
            writer.append(examples, [TokenizedExample((0, 0), 1)] * count, {FEATURE: vectors})
        return writer.finish([], None)


def _contenders(index: Index, folder: Path, vectors: Float[Tensor, "Q d"], top_k: int) -> Iterator[Contender]:
    count, width, file = len(index), vectors.shape[1], folder / "rows.npy"
    queries = QueryFeatures(("",) * len(vectors), ("",) * len(vectors), {FEATURE: vectors})
    halves = np.lib.format.open_memmap(file, "w+", np.float16, (count, width))
    at = 0
    for batch in index.scan([FEATURE]):
        halves[at : at + len(batch[FEATURE])] = batch[FEATURE].numpy()
        at += len(batch[FEATURE])

    def flagged() -> Any:
        scores = METHOD.scores(queries, index)
        sample = ControlSample.draw(METHOD, index, DEPTH)
        assert sample is not None
        null = sample.score()
        assert null is not None
        assess(scores, [null] * len(scores), torch.ones(len(scores), dtype=torch.bool))
        return scores.topk(top_k).indices.numpy()

    size = sum(part.stat().st_size for part in (folder / "idx").rglob("*") if part.is_file()) / count
    yield Contender("taughtby", lambda: lambda: METHOD.scores(queries, index).topk(top_k).indices.numpy(), size)
    yield Contender("taughtby, and which rows are flagged", lambda: flagged, size)
    yield Contender("NumPy over a memory map", lambda: lambda: _mapped(file, vectors.numpy(), top_k), 2 * width)
    if importlib.util.find_spec("faiss"):
        yield Contender("faiss-cpu, flat", lambda: _faiss(file, vectors.numpy(), top_k), 4 * width)
    pairs = min(NUM_PAIRS, count)
    some = torch.from_numpy(halves[:pairs].astype(np.float32))
    yield Contender("a loop over pairs", lambda: lambda: _loop(vectors[0], some), 4 * width,
                    pairs / (count * len(vectors)))  # fmt: skip


def _raced(contenders: list[Contender], repeats: int) -> list[dict[str, Any]]:
    device = torch.device("cpu")
    opened: list[Answer] = []
    costs: list[list[Cost]] = []
    answers: list[Any] = [None] * len(contenders)
    for contender in contenders:
        with measure_cost(device) as spent:
            opened.append(contender.open())
        costs.append([spent])
    for _ in range(repeats):
        for at, answer in enumerate(opened):
            with measure_cost(device) as spent:
                answers[at] = answer()
            costs[at].append(spent)
    lines = [_line(*item) for item in zip(contenders, costs, strict=True)]
    for line, item in zip(lines, answers, strict=True):
        line["times"] = line["seconds"] / lines[0]["seconds"]
        line["same"] = None if item is None else float(np.mean(
            [len(np.intersect1d(*pair)) / len(pair[0]) for pair in zip(answers[0], item, strict=True)]))  # fmt: skip
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


def _mapped(file: Path, vectors: NDArray[np.float32], top_k: int) -> NDArray[np.int64]:
    """The top rows by a tiled product over a memory map."""
    rows = np.load(file, mmap_mode="r")
    scores = np.empty((len(vectors), len(rows)), np.float32)
    for at in range(0, len(rows), TILE):
        scores[:, at : at + TILE] = vectors @ rows[at : at + TILE].astype(np.float32).T
    return np.argpartition(-scores, min(top_k, len(rows)) - 1, axis=1)[:, :top_k]


def _faiss(file: Path, vectors: NDArray[np.float32], top_k: int) -> Answer:
    """Load all rows as float32 into faiss, which is not timed, and return the search function."""
    faiss, rows = importlib.import_module("faiss"), np.load(file, mmap_mode="r")
    flat = faiss.IndexFlatIP(rows.shape[1])
    for at in range(0, len(rows), TILE):
        flat.add(rows[at : at + TILE].astype(np.float32))
    return lambda: flat.search(vectors, min(top_k, len(rows)))[1]


def _loop(query: Float[Tensor, " d"], rows: Float[Tensor, "N d"]) -> None:
    """Compute one cosine similarity at a time."""
    for row in rows:
        torch.nn.functional.cosine_similarity(query, row, dim=0).item()


def _seed(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
