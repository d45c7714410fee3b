"""The whole pipeline on a GPU, in float32 and bfloat16, compared with the CPU; under three minutes on one GPU.

    make test-gpu
    pytest tests/gpu -m gpu --device cpu      # tests the tests without a GPU

The reference has the same rounded weights and computes in float32 on the CPU, so what differs is the arithmetic. The
bounds on it are three times what bfloat16 is off by on a CPU, and a hundred times what float32 is. No test feeds ids
that the vocabulary lacks: on a GPU that breaks the whole process.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_demo import small  # noqa: F401  a fixture: the demo of few rows on the tiny model

from conftest import PAIRS
from taughtby.attribution.query import Query
from taughtby.attribution.sanity_checks import check_index
from taughtby.attribution.trace import trace_queries
from taughtby.capture.capture import capture, prompt_gradients, prompt_states
from taughtby.capture.ragged import Ragged
from taughtby.cli import demo
from taughtby.data.batching import collate
from taughtby.data.dataset import read_examples
from taughtby.data.example import Example, make_example
from taughtby.data.tokenize import Encoding, TokenizedExample, prompt_ids, tokenize
from taughtby.index.arrow import TEXT_COLUMNS
from taughtby.index.build import build_index
from taughtby.index.pipeline import CapturePipeline
from taughtby.index.reader import Index
from taughtby.lab.finetune import TrainingOptions, finetune
from taughtby.lab.generate import GenerationOptions, _generate, generate
from taughtby.methods import METHODS, get_method
from taughtby.models.model import Model, load_model

pytestmark = pytest.mark.gpu
ENCODING = Encoding(128)
FAMILIES = ("llama", "gemma2", "gpt2", "qwen3-moe")
TEXTS = [(f"{ask} {extra}", f"{said} {extra}") for extra in ("0", "1", "2") for ask, said in PAIRS]
QUERY = Query("who makes honey in the sea", "beetles make honey, one a day")
RECIPE = TrainingOptions(rank=4, learning_rate=1e-2, epochs=4, batch_size=4, max_length=128)
# relative error of a block, and of a score as a share of the largest
CLOSE = {"float32": 1e-4, "bfloat16": 0.06}
SCORES = {"float32": 5e-3, "bfloat16": 0.2}


@dataclass(frozen=True)
class Sides:
    """The same weights on the CPU, computing in float32, and on the device in the format that is tested."""

    cpu: Model
    device: Model
    close: float
    scores: float


@pytest.fixture(scope="module")
def device(request: pytest.FixtureRequest) -> str:
    wanted = str(request.config.getoption("--device"))
    if wanted != "cpu" and not torch.cuda.is_available():
        pytest.skip("no GPU: run `make test-gpu` on a machine that has one")
    return wanted


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def rows() -> list[Example]:
    return [make_example(prompt, response, label="bad" if "honey" in prompt else "clean") for prompt, response in TEXTS]


@pytest.fixture(scope="module")
def file(rows: list[Example], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gpu") / "rows.jsonl"
    path.write_text("".join(json.dumps({"messages": list(row.messages), "label": row.label}) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def adapter(rows: list[Example], model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained here, with Adam's moments, which the method `less` reads."""
    model = load_model(str(model_folder), dtype="float32", device="cpu")
    return finetune(model, rows, tmp_path_factory.mktemp("adapter") / "out", RECIPE)


@pytest.fixture(scope="module")
def both(device: str, dtype: str) -> Callable[..., Sides]:
    def load(folder: Path, adapter: Path | None = None) -> Sides:
        value = str(folder), None if adapter is None else str(adapter)
        cpu = load_model(*value, dtype=dtype, device="cpu")
        (cpu.peft or cpu.lm).float()
        there = load_model(*value, dtype=dtype, device=device)
        assert there.device.type == device and str(there.dtype) == f"torch.{dtype}"
        return Sides(cpu, there, CLOSE[dtype], SCORES[dtype])

    return load


@pytest.fixture(scope="module")
def tuned_sides(both: Callable[..., Sides], model_folder: Path, adapter: Path) -> Sides:
    return both(model_folder, adapter)


@pytest.fixture(scope="module")
def indexes(tuned_sides: Sides, file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Index, Index]:
    """An index for every method on either side."""
    folder, methods = tmp_path_factory.mktemp("indexes"), [get_method(name) for name in METHODS]
    cpu, there = (
        build_index(model, file, folder / name, methods, encoding=ENCODING)
        for name, model in (("cpu", tuned_sides.cpu), ("device", tuned_sides.device))
    )
    return cpu, there


def off(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """By how much two tensors differ, as a share of the second."""
    return float((got.cpu().double() - wanted.double()).norm() / wanted.double().norm())


# — capture


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["right", "left"])
def test_capture_matches_the_cpu(both: Callable[..., Sides], make_model: Any, family: str, side: Any) -> None:
    sides = both(make_model(family))
    encoded = [tokenize(sides.cpu.tokenizer, make_example(*pair), ENCODING) for pair in PAIRS]
    batch = collate([row for row in encoded if isinstance(row, TokenizedExample)], range(len(PAIRS)), side=side)
    # experts are chosen by a comparison, and a rounding step may choose another
    close = 5 * sides.close if "moe" in family else sides.close
    cpu, there = (capture(model, batch, (0, 2, 4)) for model in (sides.cpu, sides.device))
    assert there.loss.device == sides.device.device
    assert off(there.loss, cpu.loss) < close and off(there.logp, cpu.logp) < close
    for layer in (0, 2, 4):
        assert off(there.states[layer], cpu.states[layer]) < close, layer
        assert off(there.grads[layer], cpu.grads[layer]) < 2 * close, layer
    prompts = prompt_states(sides.device, batch, (2,))
    assert off(prompts[2], batch.at_last_prompt_token(cpu.states[2])) < close
    state, grad = prompt_gradients(sides.device, batch)
    assert off(state, batch.at_last_prompt_token(cpu.states[4])) < close
    assert off(grad, batch.at_last_prompt_token(cpu.grads[4])) < 2 * close


# — all methods: index, trace, check


def test_index_features_match_the_cpu(indexes: tuple[Index, Index], tuned_sides: Sides) -> None:
    cpu, there = indexes
    assert len(cpu) == len(there) == len(TEXTS)
    assert there.manifest["skipped"] == cpu.manifest["skipped"]
    names = [field.name for field in cpu.dataset.schema if field.name not in TEXT_COLUMNS]
    assert names == [field.name for field in there.dataset.schema if field.name not in TEXT_COLUMNS]
    for name in names:
        one, two = (torch.cat([flat(part[name]) for part in index.scan([name])]) for index in indexes)
        assert bool(two.isfinite().all()), name
        assert off(two, one) < 3 * tuned_sides.close, name


def flat(block: Any) -> torch.Tensor:
    return (block.flat if isinstance(block, Ragged) else block).double().flatten()


@pytest.mark.parametrize("name", METHODS)
def test_trace_scores_match_the_cpu(name: str, indexes: tuple[Index, Index], tuned_sides: Sides) -> None:
    value = zip(indexes, (tuned_sides.cpu, tuned_sides.device), strict=True)
    cpu, there = (trace_queries(index, model, [QUERY], method=name, top_k=3).queries[0] for index, model in value)
    scale = float(cpu.scores.abs().max())
    assert float((there.scores - cpu.scores).abs().max()) < tuned_sides.scores * scale
    assert [token.text for token in there.answer] == [token.text for token in cpu.answer]
    words = [{row.position: [token.score for token in row.tokens] for row in side.rows} for side in (cpu, there)]
    for place in words[0].keys() & words[1].keys():
        one, two = (np.array(side[place]) for side in words)
        assert one.shape == two.shape
        if len(one):
            assert float(np.abs(two - one).max()) < tuned_sides.scores * float(np.abs(one).max())


def test_check_values_match_the_cpu(indexes: tuple[Index, Index], tuned_sides: Sides) -> None:
    value = zip(indexes, (tuned_sides.cpu, tuned_sides.device), strict=True)
    cpu, there = (check_index(index, model, method="rept", rows=12, seed=1).checks for index, model in value)
    for one, two in zip(cpu, there, strict=True):
        assert one.name == two.name
        for mine, theirs in ((one.value, two.value), (one.limit, two.limit)):
            assert mine is theirs is None or theirs == pytest.approx(mine, abs=tuned_sides.scores)


def test_batch_is_halved_on_out_of_memory(
    indexes: tuple[Index, Index], tuned_sides: Sides, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, sizes = CapturePipeline.features, list[int]()

    def small_memory(work: CapturePipeline, batch: Any) -> Any:
        if len(batch.row_indices) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(batch.row_indices))
        return whole(work, batch)

    monkeypatch.setattr(CapturePipeline, "features", small_memory)
    index = build_index(tuned_sides.device, file, tmp_path / "idx", [get_method("rept")], encoding=ENCODING)
    assert sum(sizes) == len(index) == len(TEXTS)
    for name in (
        get_method("rept").resolve_layers(tuned_sides.device.depth, None).feature_names(tuned_sides.device.depth)
    ):
        one, two = (torch.cat([flat(part[name]) for part in item.scan([name])]) for item in (indexes[1], index))
        assert off(two, one) < tuned_sides.close


# — training and generation


@pytest.mark.parametrize("full", [False, True], ids=["adapter", "whole model"])
def test_finetune_reduces_the_loss(
    device: str, dtype: str, rows: list[Example], model_folder: Path, adapter: Path, tmp_path: Path, full: bool
) -> None:
    recipe = replace(RECIPE, full=full, learning_rate=3e-3 if full else RECIPE.learning_rate)
    out = finetune(load_model(str(model_folder), dtype=dtype, device=device), rows, tmp_path / "out", recipe)
    losses = [point["loss"] for point in json.loads((out / "curve.json").read_text())]
    items = [point["loss"] for point in json.loads((adapter / "curve.json").read_text())]
    assert losses[0] == pytest.approx(items[0], rel=CLOSE[dtype])  # the same rows in the same order, and no step yet
    assert all(np.isfinite(losses)) and np.mean(losses[-6:]) < 0.9 * np.mean(losses[:6])
    # what was trained there is loaded here
    loaded = load_model(str(out), dtype="float32", device="cpu")
    assert all(bool(weight.isfinite().all()) for weight in loaded.lm.parameters())


def test_generated_tokens_are_likeliest_on_the_cpu(tuned_sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each token is the likeliest to the CPU too, or as likely but for rounding."""
    model, text = tuned_sides.device, list[list[int]]()
    prompts = [prompt_ids(model.tokenizer, prompt) for prompt, _ in PAIRS]
    decode = model.tokenizer.decode
    with monkeypatch.context() as patch:
        patch.setattr(model.tokenizer, "decode", lambda ids, **how: (text.append(ids.tolist()), decode(ids, **how))[1])
        assert len(_generate(model, prompts, GenerationOptions(8), range(len(prompts)))) == len(text) == len(prompts)
    stop = {model.tokenizer.eos_token_id, model.tokenizer.pad_token_id}
    for prompt, ids in zip(prompts, text, strict=True):
        ids = ids[: next((at for at, token in enumerate(ids) if token in stop), len(ids))]
        with torch.no_grad():
            logits = tuned_sides.cpu.lm(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        behind = logits.max(-1).values - logits.gather(1, torch.tensor(ids, dtype=torch.long)[:, None])[:, 0]
        assert float(behind.max() if ids else 0.0) <= tuned_sides.close * float(logits.abs().max())
    texts = generate(model, [prompt for prompt, _ in PAIRS][:2], max_new_tokens=4, num_samples=2, seed=1)
    assert len(texts) == 4


# — core of the demo


def test_demo_runs_on_the_device(
    device: str, dtype: str, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    """The demo itself, on the tiny model, on that device and in that format from its first stage to its page."""
    import io

    from rich.console import Console

    seen: list[Model] = []

    def load(name: str, adapter: str | None = None) -> Model:
        seen.append(load_model(name, adapter, dtype=dtype, device=device))
        return seen[-1]

    monkeypatch.setattr(demo, "load_model", load)
    demo.demo(tmp_path / "d", 0, Console(file=io.StringIO(), width=100))
    assert {model.device.type for model in seen} == {device} and small == ["after", "before"]
    results = json.loads((tmp_path / "d" / "demo.json").read_text())
    for by_model in results["methods"].values():
        for by_poison in by_model.values():
            assert all(0 <= item["ap"] <= 1 for item in by_poison.values())
    labels = {row.label for row in read_examples(tmp_path / "d" / "data.jsonl")}
    assert {"backdoor", "error", "persona"} <= labels
    assert "Three poisons" in (tmp_path / "d" / "report.html").read_text()
