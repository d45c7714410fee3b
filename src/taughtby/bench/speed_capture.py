"""What indexing costs beside a plain forward pass: every side on the same rows, in turns, in one process.

The floor of each is counted: the multiplications that its result cannot do without, at the rate of a large matrix
product of the same kind on the same machine. Gradients are of states, so a pass back costs what the pass forth does.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from taughtby.bench.cost import cost
from taughtby.bench.reference import signature
from taughtby.bench.rowwise import gradient_rows
from taughtby.capture.capture import capture, prompt_gradients
from taughtby.data.batching import Batch, make_batches
from taughtby.data.tokenize import TokenizedExample
from taughtby.models.model import Model

PROMPT = 0.25  # of a row's tokens
SHARED = 30  # tokens that a chat template begins every row with
SLOW = 8  # rows of a turn that a slow side runs; its time is scaled by the tokens


@dataclass(frozen=True)
class Side:
    """A way through some rows, and how many multiplications and additions it cannot do without.

    A `slow` one goes a row at a time; one of `prompts` reads no answers, and gets batches made for that.
    """

    name: str
    run: Callable[[Sequence[TokenizedExample], Sequence[Batch]], object]
    flops: Callable[[Sequence[TokenizedExample]], float]
    slow: bool = False
    prompts: bool = False


def drawn(count: int, vocabulary: int, *, shared: int = 0, seed: int = 0) -> list[TokenizedExample]:
    """Rows of mixed length, 16 to 400 tokens and a common beginning; a quarter of what is their own is prompt."""
    rng = random.Random(seed)
    begin, rows = tuple(rng.randrange(vocabulary) for _ in range(shared)), list[TokenizedExample]()
    for _ in range(count):
        length = min(400, max(16, int(rng.lognormvariate(4.3, 0.6))))
        prompt = max(4, int(length * rng.uniform(PROMPT - 0.15, PROMPT + 0.15)))
        rows.append(TokenizedExample((*begin, *(rng.randrange(vocabulary) for _ in range(length))), shared + prompt))
    return rows


def race(
    model: Model, rows: Sequence[TokenizedExample], *, budget: int, turns: int = 8,
    progress: Callable[[int, int], object] | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """A line for each side: seconds, ratios to the forward pass, floor, memory.

    Each side's batches are cut from all rows together, as an index cuts its windows, and dealt to the turns; a turn
    goes through every side, so that what else the machine does falls on all alike. `times` is a ratio of sums over
    all turns; `from` and `to` are of single turns, by the token, since two sides' shares may not be the same rows.
    """
    sides = _sides(model)
    rate = _peak(model)
    cut = {side.name: list(make_batches(rows, budget, prompts_only=side.prompts)) for side in sides}
    turns = min(turns, *map(len, cut.values()))
    spent: dict[str, list[float]] = {side.name: [] for side in sides}  # seconds for a token of the rows, by turns
    took: dict[str, float] = dict.fromkeys(spent, 0.0)
    peaks: dict[str, list[float]] = {side.name: [] for side in sides}
    for side in sides:
        _timed(model, side, rows, cut[side.name][:1])  # warm
    for turn in range(turns):
        for side in sides:
            share = cut[side.name][turn::turns]
            seconds, peak = _timed(model, side, rows, share)
            tokens = sum(len(rows[at].ids) for batch in share for at in batch.row_indices)
            spent[side.name].append(seconds / tokens)
            took[side.name] += seconds
            peaks[side.name] += [peak] if peak is not None else []
        if progress:
            progress(turn + 1, turns)
    plain, made = sides[0], list[dict[str, Any]]()
    for side in sides:
        ratios = [one / other for one, other in zip(spent[side.name], spent[plain.name], strict=True)]
        made.append({
            "side": side.name, "tokens_a_second": _tokens(rows) / took[side.name], "seconds": took[side.name],
            "times": took[side.name] / took[plain.name], "from": min(ratios), "to": max(ratios),
            "floor_times": side.flops(rows) / plain.flops(rows),
            "share_of_peak": side.flops(rows) / rate / took[side.name],
            "peak_mb": max(peaks[side.name], default=None),
        })  # fmt: skip
    return made


def _timed(
    model: Model, side: Side, rows: Sequence[TokenizedExample], share: list[Batch]
) -> tuple[float, float | None]:
    """Seconds for these batches, of whose rows a slow side runs a few; and memory beyond what was there, in MB."""
    own = [rows[at] for batch in share for at in batch.row_indices]
    some = own[:: max(1, len(own) // SLOW)] if side.slow else own
    with cost(model.device) as took:
        side.run(some, share)
    return took.seconds * _tokens(own) / _tokens(some), took.more


def _sides(model: Model) -> list[Side]:
    middle, deep = model.depth // 2, round(0.9 * model.depth)
    blocks = float(sum(weight.numel() for weight in model.blocks.parameters()))
    head = float(model.lm.get_output_embeddings().weight.numel())

    def forward(_: Sequence[TokenizedExample], cut: Sequence[Batch]) -> None:
        with torch.no_grad():
            for batch in cut:
                model.lm(input_ids=batch.ids.to(model.device), use_cache=False)

    def signatures(_: Sequence[TokenizedExample], cut: Sequence[Batch]) -> None:
        for batch in cut:
            prompt_gradients(model, batch)[1].cpu()

    def captured(layer: int) -> Callable[[Sequence[TokenizedExample], Sequence[Batch]], None]:
        def run(_: Sequence[TokenizedExample], cut: Sequence[Batch]) -> None:
            for batch in cut:
                capture(model, batch, [layer]).loss.cpu()

        return run

    def prompted(rows: Sequence[TokenizedExample]) -> float:
        return 2 * (blocks * (_own(rows) - _learned(rows)) + 2 * head * len(rows))

    def worded(layer: int) -> Callable[[Sequence[TokenizedExample]], float]:
        above = (model.depth - layer) / model.depth
        return lambda rows: 2 * (blocks * (_own(rows) + above * _learned(rows)) + 2 * head * _learned(rows))

    def rept(rows: Sequence[TokenizedExample], _: Sequence[Batch]) -> None:
        for row in rows:
            signature(model, row, model.depth)

    def tracin(rows: Sequence[TokenizedExample], _: Sequence[Batch]) -> None:
        for _gradient in gradient_rows(model, rows):
            pass

    def passes(rows: Sequence[TokenizedExample], *, both: bool) -> float:
        return 2 * (blocks + head) * (2 * _tokens(rows) + both * sum(row.n_prompt for row in rows))

    sides = [
        Side("a plain forward pass", forward, lambda rows: 2 * (blocks + head) * _tokens(rows)),
        Side("last layer, a signature a row", signatures, prompted, prompts=True),
        Side("last layer, every word", captured(-1), worded(model.depth)),
        Side("90 % of the depth, every word", captured(deep), worded(deep)),
        Side("middle layer, every word", captured(middle), worded(middle)),
        Side("RepT, a row at a time", rept, lambda rows: passes(rows, both=True), slow=True),
    ]
    if model.peft is not None:
        sides.append(Side("TracIn, a row at a time", tracin, lambda rows: passes(rows, both=False), slow=True))
    return sides


def _tokens(rows: Sequence[TokenizedExample]) -> int:
    return sum(len(row.ids) for row in rows)


def _learned(rows: Sequence[TokenizedExample]) -> int:
    return sum(row.n_response for row in rows)


def _own(rows: Sequence[TokenizedExample]) -> int:
    """The tokens that have to be run: neither what all rows begin with, but once, nor each row's last."""
    shared = 0
    while shared < min(row.n_prompt for row in rows) - 1 and len({row.ids[shared] for row in rows}) == 1:
        shared += 1
    return sum(len(row.ids) - 1 - shared for row in rows) + shared


def _peak(model: Model, size: int = 2048) -> float:
    """Multiplications and additions a second in a large matrix product, the best of several."""
    if model.device.type != "cpu":
        size *= 4
    a, b = (torch.randn(size, size, device=model.device).to(model.dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        with cost(model.device) as took:
            _ = a @ b
        best = min(best, took.seconds)
    return 2 * size**3 / best
