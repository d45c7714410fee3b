"""Compare the cost of indexing with a plain forward pass: every method takes turns on the same rows in one process.

Each method has a floor: the operations that its result requires, at the rate of a large matrix product in the same
number format on the same machine. Gradients are with respect to hidden states, so a backward pass costs as much as a
forward pass.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rowwise import gradient_rows
from taughtby.bench.cost import measure_cost
from taughtby.bench.reference import reference_feature
from taughtby.capture.capture import capture, prompt_gradients
from taughtby.data.batching import Batch, make_batches
from taughtby.data.tokenize import TokenizedExample
from taughtby.models.model import Model

PROMPT_SHARE = 0.25  # of a row's tokens
NUM_SHARED = 30  # tokens that a chat template puts at the start of every row
NUM_SLOW_ROWS = 8  # rows per turn that a slow method runs; its time is scaled by the tokens


@dataclass(frozen=True)
class Contender:
    """A way to process rows.

    Attributes:
        name: The name in the table.
        run: Processes rows and their batches.
        flops: The multiplications and additions that its result requires.
        slow: Whether it processes one row at a time.
        prompts_only: Whether it reads only prompts, and gets batches of similar prompt lengths.
    """

    name: str
    run: Callable[[Sequence[TokenizedExample], Sequence[Batch]], object]
    flops: Callable[[Sequence[TokenizedExample]], float]
    slow: bool = False
    prompts_only: bool = False


def random_rows(count: int, vocabulary: int, *, num_shared: int = 0, seed: int = 0) -> list[TokenizedExample]:
    """Rows of 16 to 400 random tokens, about a quarter of them prompt, after a common prefix."""
    rng = random.Random(seed)
    begin, rows = tuple(rng.randrange(vocabulary) for _ in range(num_shared)), list[TokenizedExample]()
    for _ in range(count):
        length = min(400, max(16, int(rng.lognormvariate(4.3, 0.6))))
        prompt = max(4, int(length * rng.uniform(PROMPT_SHARE - 0.15, PROMPT_SHARE + 0.15)))
        rows.append(
            TokenizedExample((*begin, *(rng.randrange(vocabulary) for _ in range(length))), num_shared + prompt)
        )
    return rows


def race(
    model: Model, rows: Sequence[TokenizedExample], *, budget: int, turns: int = 8,
    progress: Callable[[int, int], object] | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """A line for each contender: seconds, ratios to the forward pass, floor, memory.

    Each contender's batches are made from all rows together, as in a window of an index, and distributed over the
    turns; a turn runs every contender, so that other load on the machine affects all alike. `times` is a ratio of sums
    over all turns; `from` and `to` are the lowest and highest ratio of single turns, per token, since two contenders'
    shares of a turn may hold different rows.
    """
    contenders = _contenders(model)
    batches = {one.name: list(make_batches(rows, budget, prompts_only=one.prompts_only)) for one in contenders}
    turns = min(turns, *map(len, batches.values()))
    per_token: dict[str, list[float]] = {one.name: [] for one in contenders}  # seconds, by turn
    seconds: dict[str, float] = dict.fromkeys(per_token, 0.0)
    peaks: dict[str, list[float]] = {one.name: [] for one in contenders}
    best_rate = peak_rate(model)
    for one in contenders:
        _timed(model, one, rows, batches[one.name][:1])  # warm up
    for turn in range(turns):
        for one in contenders:
            share = batches[one.name][turn::turns]
            elapsed, peak = _timed(model, one, rows, share)
            tokens = sum(len(rows[index].ids) for batch in share for index in batch.row_indices)
            per_token[one.name].append(elapsed / tokens)
            seconds[one.name] += elapsed
            peaks[one.name] += [peak] if peak is not None else []
        if progress:
            progress(turn + 1, turns)
    forward, lines = contenders[0], list[dict[str, Any]]()
    for one in contenders:
        ratios = [mine / plain for mine, plain in zip(per_token[one.name], per_token[forward.name], strict=True)]
        lines.append({
            "side": one.name, "tokens_a_second": _tokens(rows) / seconds[one.name], "seconds": seconds[one.name],
            "times": seconds[one.name] / seconds[forward.name], "from": min(ratios), "to": max(ratios),
            "floor_times": one.flops(rows) / forward.flops(rows),
            "share_of_peak": one.flops(rows) / best_rate / seconds[one.name],
            "peak_mb": max(peaks[one.name], default=None),
        })  # fmt: skip
    return lines


def _timed(
    model: Model, contender: Contender, rows: Sequence[TokenizedExample], share: list[Batch]
) -> tuple[float, float | None]:
    """The seconds for these batches, extrapolated from a few rows for a slow contender, and the memory in MB."""
    own = [rows[index] for batch in share for index in batch.row_indices]
    some = own[:: max(1, len(own) // NUM_SLOW_ROWS)] if contender.slow else own
    with measure_cost(model.device) as spent:
        contender.run(some, share)
    return spent.seconds * _tokens(own) / _tokens(some), spent.more


def _contenders(model: Model) -> list[Contender]:
    middle, deep = model.depth // 2, round(0.9 * model.depth)
    blocks = float(sum(weight.numel() for weight in model.blocks.parameters()))
    head = float(model.lm.get_output_embeddings().weight.numel())

    def forward(_: Sequence[TokenizedExample], batches: Sequence[Batch]) -> None:
        with torch.no_grad():
            for batch in batches:
                model.lm(input_ids=batch.ids.to(model.device), use_cache=False)

    def features(_: Sequence[TokenizedExample], batches: Sequence[Batch]) -> None:
        for batch in batches:
            prompt_gradients(model, batch)[1].cpu()

    def all_tokens(layer: int) -> Callable[[Sequence[TokenizedExample], Sequence[Batch]], None]:
        def run(_: Sequence[TokenizedExample], batches: Sequence[Batch]) -> None:
            for batch in batches:
                capture(model, batch, [layer]).loss.cpu()

        return run

    def prompt_flops(rows: Sequence[TokenizedExample]) -> float:
        return 2 * (blocks * (_own(rows) - _num_responses(rows)) + 2 * head * len(rows))

    def token_flops(layer: int) -> Callable[[Sequence[TokenizedExample]], float]:
        above = (model.depth - layer) / model.depth
        return lambda rows: 2 * (blocks * (_own(rows) + above * _num_responses(rows)) + 2 * head * _num_responses(rows))

    def rept(rows: Sequence[TokenizedExample], _: Sequence[Batch]) -> None:
        for row in rows:
            reference_feature(model, row, model.depth)

    def tracin(rows: Sequence[TokenizedExample], _: Sequence[Batch]) -> None:
        deque(gradient_rows(model, rows), maxlen=0)

    def passes(rows: Sequence[TokenizedExample], *, both: bool) -> float:
        return 2 * (blocks + head) * (2 * _tokens(rows) + both * sum(row.n_prompt for row in rows))

    contenders = [
        Contender("a plain forward pass", forward, lambda rows: 2 * (blocks + head) * _tokens(rows)),
        Contender("last layer, one feature per row", features, prompt_flops, prompts_only=True),
        Contender("last layer, every token", all_tokens(-1), token_flops(model.depth)),
        Contender("90 % of the depth, every token", all_tokens(deep), token_flops(deep)),
        Contender("middle layer, every token", all_tokens(middle), token_flops(middle)),
        Contender("RepT, a row at a time", rept, lambda rows: passes(rows, both=True), slow=True),
    ]
    if model.peft is not None:
        contenders.append(
            Contender("TracIn, a row at a time", tracin, lambda rows: passes(rows, both=False), slow=True)
        )
    return contenders


def _tokens(rows: Sequence[TokenizedExample]) -> int:
    return sum(len(row.ids) for row in rows)


def _num_responses(rows: Sequence[TokenizedExample]) -> int:
    return sum(row.n_response for row in rows)


def _own(rows: Sequence[TokenizedExample]) -> int:
    """The number of tokens to process: the common prefix once, and each row's other tokens except the last."""
    common = 0
    while common < min(row.n_prompt for row in rows) - 1 and len({row.ids[common] for row in rows}) == 1:
        common += 1
    return sum(len(row.ids) - 1 - common for row in rows) + common


def peak_rate(model: Model, size: int = 2048) -> float:
    """Multiplications and additions per second in a large matrix product, the best of several."""
    if model.device.type != "cpu":
        size *= 4
    a, b = (torch.randn(size, size, device=model.device).to(model.dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        with measure_cost(model.device) as spent:
            _ = a @ b
        best = min(best, spent.seconds)
    return 2 * size**3 / best
