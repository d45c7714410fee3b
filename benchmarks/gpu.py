"""Benchmark one GPU in eight minutes: throughput, utilization, memory. Random weights, no download.

`python benchmarks/gpu.py` prints a table and writes gpu.json; `--tiny` runs every part on the CPU within a minute,
and `--host` the host's part, which needs no GPU, with 4,096 rows.
Parts for which no time is left are listed in the table. Utilization is a share of wall-clock time, by torch.profiler.
"""

from __future__ import annotations

import contextlib
import time
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich import box
from rich.table import Table

import speed_capture
import speed_query
from common import command, print_table
from random_models import random_model, write_rows
from simulated_card import SimulatedCard, SimulatedLesson, accelerator_windows
from taughtby.bench.cost import measure_cost
from taughtby.capture.budget import MOST_PER_TOKEN, token_budget
from taughtby.data.dataset import read_examples
from taughtby.data.tokenize import Encoding
from taughtby.index.build import build_index
from taughtby.lab.finetune import TrainingOptions, finetune
from taughtby.lab.generate import generate
from taughtby.methods import Method, get_method
from taughtby.methods.repsim import RepSim
from taughtby.models.model import Model
from taughtby.progress import Terminal
from taughtby.reporting.html import save_json

PARTS = ("host", "index", "capture", "trace", "generate", "large", "finetune")  # the host's part needs no GPU
METHODS = ("lesson", "lesson", "rept", "rept:layer=-1", "repsim", "rise", "tracin", "less")  # the first is cold
CARD_SECONDS = 1e-5  # per token: `lesson` at 1 B parameters on an H100
Lines = Iterator[dict[str, Any]]


@dataclass(frozen=True)
class Plan:
    """What to measure: shapes of models, numbers of rows, device and number format.

    Attributes:
        small: The model's shape in most parts.
        large: The model's shape in the part `large`.
        rows: Rows to index; a quarter of them with `large`.
        indexed: Rows of the index that is traced.
        minutes: No part begins later than this.
    """

    small: str
    large: str
    rows: int
    indexed: int
    minutes: float
    device: torch.device
    dtype: torch.dtype
    start: float = field(default_factory=time.monotonic)

    @property
    def over(self) -> bool:
        """Whether no time is left."""
        return time.monotonic() - self.start > 60 * self.minutes


def main() -> None:
    """Measure all parts, and print and save the results."""
    arguments = ArgumentParser(description=__doc__.splitlines()[0], formatter_class=ArgumentDefaultsHelpFormatter)
    arguments.add_argument("--tiny", action="store_true", help="tiny models on the CPU")
    arguments.add_argument("--host", action="store_true", help="only the host's work, without a GPU, on 4,096 rows")
    arguments.add_argument("--minutes", type=float, default=7.0, help="no part begins later")
    arguments.add_argument("--out", "-o", type=Path, default=Path("taughtby-bench"), help="folder of the results")
    options = arguments.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    plan = tiny_plan(4096) if options.host else tiny_plan() if options.tiny else card_plan(options.minutes)
    results: dict[str, Any] = {"command": command(), "device": device_name(plan.device), "torch": torch.__version__,
                               "lines": []}  # fmt: skip
    console = Terminal(stderr=True)
    for line in measure(plan, ("host",) if options.host else PARTS):
        results["lines"].append(line)
        console.print(line_text(line), markup=False)
        save_json(results, options.out / "gpu.json")
    print_table(table(results))


def tiny_plan(rows: int = 96) -> Plan:
    """Every part with tiny models on the CPU."""
    return Plan("tiny", "tiny", rows, 2048, 10.0, torch.device("cpu"), torch.float32)


def card_plan(minutes: float) -> Plan:
    """Models of real shapes on a GPU."""
    return Plan("llama-3.2-1b", "llama-3.1-8b", 4096, 100_000, minutes, torch.device("cuda", 0), torch.bfloat16)


def device_name(device: torch.device) -> str:
    """The name of the GPU, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def measure(plan: Plan, names: Sequence[str] = PARTS) -> Lines:
    """A line for each measurement of these parts."""
    parts: dict[str, Callable[[Plan, Path], Lines]] = {
        "host": host_lines, "index": index_lines, "capture": capture_lines, "trace": trace_lines,
        "generate": generate_lines, "large": large_lines, "finetune": finetune_lines,
    }  # fmt: skip
    for name in names:
        part = parts[name]
        with TemporaryDirectory() as folder:
            if plan.over:
                yield {"part": name, "name": "not run: no time was left"}
                continue
            try:
                for line in part(plan, Path(folder)):
                    yield {"part": name, **line}
            except torch.OutOfMemoryError as error:
                yield {"part": name, "name": f"out of memory: {str(error)[:80]}"}
        if plan.device.type == "cuda":
            torch.cuda.empty_cache()


def host_lines(plan: Plan, folder: Path) -> Lines:
    """CPU time per row with a tiny model, in a CPU's batches and in a GPU's; how much a simulated card works."""
    rows = max(256, plan.rows)
    short, data = folder / "short.jsonl", folder / "rows.jsonl"
    write_rows(short, rows, tokens=30)
    words = write_rows(data, 2 * rows)
    sizes = (("", None, contextlib.nullcontext), (", a GPU's batches", MOST_PER_TOKEN, accelerator_windows))
    with random_model("tiny", torch.device("cpu"), torch.float32) as model:
        for spec in ("repsim", "lesson"):
            for number, (name, budget, windows) in enumerate(sizes):
                with windows():
                    cpu = min(_built(model, short, folder / f"{spec}{number}{turn}", get_method(spec),
                                     budget=budget)["cpu"] for turn in range(2))  # fmt: skip
                yield {"name": f"CPU µs a row, {spec}{name}", "value": cpu / rows * 1e6}
        card = SimulatedCard(CARD_SECONDS)
        with accelerator_windows():
            line = _built(model, data, folder / "simulated", SimulatedLesson(card=card), words)
        yield {**line, "name": "lesson on a simulated card", "busy": card.share}


def index_lines(plan: Plan, folder: Path) -> Lines:
    """Build an index from a JSONL file with each method. The first one is cold.

    The share of peak counts one plain forward pass over all tokens, whatever the method computes.
    """
    words = write_rows(folder / "rows.jsonl", plan.rows)
    with random_model(plan.small, plan.device, plan.dtype) as model:
        forward = 2 * words * sum(weight.numel() for weight in model.lm.parameters()) / speed_capture.peak_rate(model)
        for number, spec in enumerate(METHODS):
            line = _built(model, folder / "rows.jsonl", folder / str(number), get_method(spec), words)
            yield {**line, "name": f"index, {spec}, {plan.small}{', cold' if not number else ''}",
                   "peak": forward / line["seconds"]}  # fmt: skip
        for spec in ("lesson", "repsim"):
            busy = _busy(plan, lambda spec=spec: _built(model, folder / "rows.jsonl", folder / f"busy-{spec}",
                                                        get_method(spec)))  # fmt: skip
            yield {"name": f"index, {spec}, profiled", "busy": busy}


def capture_lines(plan: Plan, _: Path) -> Lines:
    """Capture alone, a plain forward pass, and the reference's loops."""
    with random_model(plan.small, plan.device, plan.dtype) as model:
        yield from _raced(model, max(24, plan.rows // 4))


def large_lines(plan: Plan, folder: Path) -> Lines:
    """Build an index with `lesson` and the large model, cold and warm; capture alone and a plain forward pass."""
    words = write_rows(folder / "rows.jsonl", max(24, plan.rows // 4))
    with random_model(plan.large, plan.device, plan.dtype) as model:
        for turn in ("cold", "warm"):
            line = _built(model, folder / "rows.jsonl", folder / turn, get_method("lesson"), words)
            yield {**line, "name": f"index, lesson, {plan.large}, {turn}"}
        for line in _raced(model, max(24, plan.rows // 16)):
            yield {**line, "name": f"{line['name']}, {plan.large}"}


def _raced(model: Model, count: int) -> Lines:
    rows = speed_capture.random_rows(count, 200)
    for line in speed_capture.race(model, rows, budget=token_budget(model, model.depth), turns=2):
        yield {"name": f"capture, {line['side']}", "seconds": line["seconds"], "tokens_s": line["tokens_a_second"],
               "times": line["times"], "floor": line["floor_times"], "peak": line["share_of_peak"],
               "mb": line["peak_mb"]}  # fmt: skip


def trace_lines(plan: Plan, folder: Path) -> Lines:
    """100 queries over an index of random vectors."""
    index = speed_query.random_index(folder, plan.indexed, 256)
    vectors = torch.nn.functional.normalize(torch.randn(100, 256), dim=1)
    queries = speed_query.QueryFeatures(("",) * 100, ("",) * 100, {speed_query.FEATURE: vectors})
    with measure_cost(plan.device) as spent:
        RepSim(layer=1).scores(queries, index).topk(100)
    yield {"name": f"100 queries, {plan.indexed:,} rows", "seconds": spent.seconds}


def generate_lines(plan: Plan, _: Path) -> Lines:
    """Generate answers of 48 tokens."""
    with random_model(plan.small, plan.device, plan.dtype) as model:
        prompts = [f"w{number} w{number + 1}" for number in range(min(200, plan.rows // 8))]
        with measure_cost(plan.device) as spent:
            generate(model, prompts)
        yield {"name": f"{len(prompts)} answers", "seconds": spent.seconds, "mb": spent.more,
               "tokens_s": 48 * len(prompts) / spent.seconds}  # fmt: skip


def finetune_lines(plan: Plan, folder: Path) -> Lines:
    """Train a LoRA adapter for one epoch."""
    words = write_rows(folder / "rows.jsonl", min(282, plan.rows // 2), tokens=40)
    with random_model(plan.small, plan.device, plan.dtype, adapter=False) as model:
        rows = list(read_examples(folder / "rows.jsonl"))
        with measure_cost(plan.device) as spent:
            finetune(model, rows, folder / "adapter", TrainingOptions(epochs=1))
        yield {"name": f"fine-tune, {len(rows)} rows, 1 epoch", "seconds": spent.seconds, "mb": spent.more,
               "tokens_s": words / spent.seconds}  # fmt: skip


def _built(
    model: Model, data: Path, out: Path, method: Method, words: int = 0, budget: int | None = None
) -> dict[str, Any]:
    """Build an index, and measure its cost."""
    with measure_cost(model.device) as spent:
        build_index(model, data, out, [method], encoding=Encoding(512), token_budget=budget, layers=False)
    return {"seconds": spent.seconds, "cpu": spent.cpu, "mb": spent.more, "tokens_s": words / spent.seconds}


def _busy(plan: Plan, work: Callable[[], Any]) -> float | None:
    """The share of time in which a kernel runs; None on a CPU."""
    if plan.device.type != "cuda":
        work()
        return None
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler, measure_cost(plan.device) as spent:
        work()
    spans = sorted((event.time_range.start, event.time_range.end) for event in profiler.events() or ()
                   if "CUDA" in str(event.device_type))  # fmt: skip
    busy, reached = 0.0, 0.0
    for start, end in spans:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return busy / 1e6 / spent.seconds


def line_text(line: dict[str, Any]) -> str:
    """A line as plain text, for progress."""
    values = (f"{key} {value:,.3g}" for key, value in line.items() if isinstance(value, float))
    return f"{line['part']}: {line['name']}  {'  '.join(values)}"


def table(results: dict[str, Any]) -> Table:
    """All lines as a table."""
    grid = Table(title=f"taughtby on {results['device']}", title_justify="left", box=box.SIMPLE)
    columns = {"seconds": "{:,.2f}", "tokens_s": "{:,.0f}", "times": "{:.2f}", "floor": "{:.2f}", "peak": "{:.0%}",
               "busy": "{:.0%}", "mb": "{:,.0f}", "value": "{:,.0f}"}  # fmt: skip
    heads = ("seconds", "tokens/s", "× forward", "floor ×", "of peak", "card works", "MB", "value")
    for name in ("", *heads):
        grid.add_column(name, justify="right" if name else "left", no_wrap=True)
    for line in results["lines"]:
        grid.add_row(line["name"], *("" if line.get(key) is None else form.format(line[key])
                                     for key, form in columns.items()))  # fmt: skip
    return grid


if __name__ == "__main__":
    main()
