"""Real training of the tiny model: its rows get likelier, and the adapter belongs to its base alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from conftest import PAIRS
from whence.capture import capture
from whence.errors import LabError, ModelError
from whence.example import Example, example
from whence.lab import finetune as lab
from whence.lab.finetune import Recipe, finetune
from whence.methods.less import LESS
from whence.model import Model, load_model
from whence.tokens import Encoding, Row, encode, pad

ROWS = [example(prompt, response) for prompt, response in PAIRS]
RECIPE = Recipe(rank=4, rate=1e-2, epochs=4, batch=4, max_length=128)


def fresh(folder: Path) -> Model:
    return load_model(str(folder), dtype="float32")


def loss(model: Any) -> float:
    rows = [encode(model.tokenizer, row, Encoding(128)) for row in ROWS]
    assert all(isinstance(row, Row) for row in rows)
    return float(capture(model, pad(rows, range(len(rows))), [-1]).loss.mean())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def told() -> list[tuple[int, int]]:
    return []


@pytest.fixture(scope="module")
def adapter(model_folder: Path, tmp_path_factory: pytest.TempPathFactory, told: list[tuple[int, int]]) -> Path:
    """Eight steps of TRL."""
    out = tmp_path_factory.mktemp("lab") / "adapter"
    assert finetune(fresh(model_folder), ROWS, out, RECIPE, progress=lambda *at: told.append(at)) == out
    return out


def test_training_makes_its_rows_likelier(
    model_folder: Path, adapter: Path, tiny: Any, told: list[tuple[int, int]]
) -> None:  # fmt: skip
    trained = load_model(str(model_folder), str(adapter), dtype="float32")
    assert loss(trained) < 0.8 * loss(tiny)
    with trained.untuned():
        assert loss(trained) == pytest.approx(loss(tiny), rel=1e-5)
    assert told == [(step, 8) for step in range(1, 9)]


def test_the_folder_is_whole_and_without_a_pickle(adapter: Path, tiny: Any) -> None:
    names = {file.name for file in adapter.rglob("*")}
    assert {"adapter_config.json", "adapter_model.safetensors", "whence.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert [file.name for file in adapter.parent.iterdir()] == ["adapter"]
    made = json.loads((adapter / "whence.json").read_text())
    assert made["model"] == tiny.fingerprint["model"]
    assert made["base"] == tiny.name
    assert {key: made[key] for key in ("rank", "rate", "epochs", "batch", "seed")} == {
        "rank": 4, "rate": 1e-2, "epochs": 4, "batch": 4, "seed": 0,
    }  # fmt: skip


def test_adams_moments_lie_beside_the_adapter(adapter: Path, model_folder: Path) -> None:
    """For the method `less`: by weight, of the adapter's own shapes, after the steps there were."""
    with safe_open(adapter / "optimizer.safetensors", framework="pt") as file:
        said = file.metadata()
    assert said == {"step": "8", "beta1": "0.9", "beta2": "0.999", "eps": "1e-08"}
    state = load_file(adapter / "optimizer.safetensors")
    for key, weight in load_file(adapter / "adapter_model.safetensors").items():
        name = key.removeprefix("base_model.model.").removesuffix(".weight")
        mean, square = state.pop(f"{name}.exp_avg"), state.pop(f"{name}.exp_avg_sq")
        assert mean.shape == square.shape == weight.shape
        assert mean.abs().sum() > 0
        assert square.min() >= 0
    assert not state
    model = load_model(str(model_folder), str(adapter), dtype="float32")
    assert LESS().notes(model)["less"] == "rows as Adam would step after 8 steps"


def test_another_base_is_refused(adapter: Path, model_folder: Path, tmp_path: Path) -> None:
    """The same shapes, other weights: only the fingerprint can tell."""
    other = fresh(model_folder)
    with torch.no_grad():
        other.lm.get_input_embeddings().weight.mul_(1.1)
    other.lm.save_pretrained(tmp_path / "other")
    other.tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match="was trained on another model"):
        load_model(str(tmp_path / "other"), str(adapter), dtype="float32")


def test_the_same_seed_gives_the_same_adapter(adapter: Path, model_folder: Path, tmp_path: Path) -> None:
    again = finetune(fresh(model_folder), ROWS, tmp_path / "again", RECIPE)
    weights = "adapter_model.safetensors"
    assert (again / weights).read_bytes() == (adapter / weights).read_bytes()


# — what is refused, before any training


def refused(monkeypatch: pytest.MonkeyPatch, model: Any, rows: list[Example], out: Path, what: str) -> None:
    monkeypatch.setattr(lab, "_trainer", lambda *_: pytest.fail("it trained first"))
    with pytest.raises(LabError, match=what):
        finetune(model, rows, out)


def test_a_folder_that_is_taken(adapter: Path, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (adapter / "adapter_model.safetensors").read_bytes()
    refused(monkeypatch, tiny, ROWS, adapter, "holds an adapter already")
    assert (adapter / "adapter_model.safetensors").read_bytes() == before
    (tmp_path / "thesis.tex").write_text("")
    refused(monkeypatch, tiny, ROWS, tmp_path, "is a file, or holds files")
    refused(monkeypatch, tiny, ROWS, tmp_path / "thesis.tex", "is a file, or holds files")
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_model_with_an_adapter_or_no_rows(
    tuned: Any, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(monkeypatch, tuned, ROWS, tmp_path / "out", "carries an adapter already")
    refused(monkeypatch, tiny, [], tmp_path / "out", "no row to train on")
    assert not (tmp_path / "out").exists()


def test_a_failure_leaves_nothing(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Trainer:
        def train(self) -> None:
            (tmp_path / ".out.draft").mkdir()
            (tmp_path / ".out.draft" / "half").write_text("")
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(lab, "_trainer", lambda *_: Trainer())
    with pytest.raises(LabError, match=r"cannot be written to .*out\n  got: .*No space left"):
        finetune(tiny, ROWS, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# — the loss


@pytest.fixture(scope="module")
def trainer(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Any]:
    model = fresh(model_folder)
    return model, lab._trainer(model, ROWS, tmp_path_factory.mktemp("draft"), RECIPE, None)


def collated(trainer: Any, rows: list[int]) -> dict[str, torch.Tensor]:
    return trainer.data_collator([trainer.train_dataset[i] for i in rows])


def test_only_answers_are_learned(trainer: tuple[Model, Any]) -> None:
    """The labels that TRL makes are the response tokens that whence traces."""
    model, made = trainer
    for i, row in enumerate(ROWS):
        labels = collated(made, [i])["labels"][0]
        known = encode(model.tokenizer, row, Encoding(128))
        assert isinstance(known, Row)
        assert tuple(labels[labels != -100].tolist()) == known.response


def test_the_loss_is_the_models_own(trainer: tuple[Model, Any]) -> None:
    _, made = trainer
    inputs = collated(made, list(range(8)))
    wrapped = made.model.eval()
    truth = wrapped(**inputs).loss
    found = made.compute_loss(wrapped, inputs)
    torch.testing.assert_close(found, truth)
    names = [name for name, weight in wrapped.named_parameters() if weight.requires_grad]
    assert names
    assert all("lora" in name for name in names)
    weights = [weight for weight in wrapped.parameters() if weight.requires_grad]
    ours, theirs = torch.autograd.grad(found, weights), torch.autograd.grad(truth, weights)
    assert any(bool(grad.any()) for grad in theirs)
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-4)


def test_a_batch_cut_before_its_answers_teaches_nothing(trainer: tuple[Model, Any]) -> None:
    _, made = trainer
    inputs = collated(made, [0, 1])
    inputs["labels"] = torch.full_like(inputs["labels"], -100)
    nothing = made.compute_loss(made.model, inputs)
    assert nothing.item() == 0
    nothing.backward()
    assert not any(bool(weight.grad.any()) for weight in made.model.parameters() if weight.grad is not None)


def test_rows_too_long_to_learn_from_do_not_end_the_training(model_folder: Path, tmp_path: Path) -> None:
    """Batches are grouped by length, so that too long rows stand together."""
    long = [example("why " * 100, f"a {i}") for i in range(8)]
    recipe = Recipe(rank=4, rate=1e-2, epochs=4, batch=4, max_length=64)
    out = finetune(fresh(model_folder), [*ROWS, *long], tmp_path / "out", recipe)
    trained = load_model(str(model_folder), str(out), dtype="float32")
    assert loss(trained) < loss(fresh(model_folder))


def test_without_trl_it_says_what_to_install(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trl.trainer.sft_config", None)
    with pytest.raises(LabError, match=r"pip install 'whence\[train\]'"):
        finetune(load_model(str(model_folder), dtype="float32"), [example("why", "a b c")], tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
