"""Real training of the tiny model: the likelihood of its rows increases, and the adapter fits only its base model."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from conftest import PAIRS, Run
from taughtby.capture.capture import capture
from taughtby.data.batching import collate
from taughtby.data.example import Example, make_example
from taughtby.data.tokenize import Encoding, TokenizedExample, tokenize
from taughtby.errors import LabError, ModelError, OptionError
from taughtby.lab import finetune as lab
from taughtby.lab.finetune import TrainingOptions, finetune
from taughtby.methods.less import LESS
from taughtby.models.model import Model, load_model

ROWS = [make_example(prompt, response) for prompt, response in PAIRS]
RECIPE = TrainingOptions(rank=4, learning_rate=1e-2, epochs=4, batch_size=4, max_length=128)


def fresh(folder: Path) -> Model:
    return load_model(str(folder), dtype="float32")


def loss(model: Any) -> float:
    rows = [tokenize(model.tokenizer, row, Encoding(128)) for row in ROWS]
    assert all(isinstance(row, TokenizedExample) for row in rows)
    return float(capture(model, collate(rows, range(len(rows))), [-1]).loss.mean())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def told() -> list[tuple[int, int]]:
    return []


@pytest.fixture(scope="module")
def adapter(model_folder: Path, tmp_path_factory: pytest.TempPathFactory, told: list[tuple[int, int]]) -> Path:
    """Eight steps of TRL."""
    out = tmp_path_factory.mktemp("lab") / "adapter"
    assert finetune(fresh(model_folder), ROWS, out, RECIPE, progress=lambda *at: told.append(at)) == out
    return out


def test_training_lowers_loss_of_its_rows(
    model_folder: Path, adapter: Path, tiny: Any, told: list[tuple[int, int]]
) -> None:  # fmt: skip
    trained = load_model(str(model_folder), str(adapter), dtype="float32")
    assert loss(trained) < 0.8 * loss(tiny)
    with trained.base_model():
        assert loss(trained) == pytest.approx(loss(tiny), rel=1e-5)
    assert told == [(step, 8) for step in range(1, 9)]


def test_a_link_to_an_empty_folder_is_kept(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    finetune(fresh(model_folder), ROWS[:4], tmp_path / "link", replace(RECIPE, epochs=1))
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "adapter_config.json").exists()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(LabError, match="the working directory"):
        finetune(fresh(model_folder), ROWS[:4], Path(), replace(RECIPE, epochs=1))


def test_single_training_step_changes_weights(model_folder: Path, tmp_path: Path) -> None:
    """The rate of the first step of a warm-up is 0."""
    finetune(fresh(model_folder), ROWS[:4], tmp_path / "one", replace(RECIPE, epochs=1))
    weights = load_file(tmp_path / "one" / "adapter_model.safetensors")
    assert all(bool(weight.any()) for name, weight in weights.items() if "lora_B" in name)


def test_num_blocks_limits_adapter_to_last_layers(model_folder: Path, tmp_path: Path) -> None:
    options = replace(RECIPE, epochs=1, num_blocks=1)
    finetune(fresh(model_folder), ROWS, tmp_path / "last", options)
    names = load_file(tmp_path / "last" / "adapter_model.safetensors")
    last = fresh(model_folder).depth - 1
    assert names and all(f".layers.{last}." in name for name in names)
    modules = {name.rpartition(".lora_")[0].rpartition(".")[2] for name in names}
    assert modules == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_adapter_folder_is_complete_without_pickles(adapter: Path, tiny: Any) -> None:
    names = {file.name for file in adapter.rglob("*")}
    assert {"adapter_config.json", "adapter_model.safetensors", "taughtby.json", "curve.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert [file.name for file in adapter.parent.iterdir()] == ["adapter"]
    document = json.loads((adapter / "taughtby.json").read_text())
    assert document["model"] == tiny.fingerprint["model"]
    assert document["base"] == tiny.name
    assert {key: document[key] for key in ("rank", "learning_rate", "epochs", "batch_size", "seed")} == {
        "rank": 4, "learning_rate": 1e-2, "epochs": 4, "batch_size": 4, "seed": 0,
    }  # fmt: skip
    assert (document["rows"], document["unusable"]) == (8, 0)


def test_the_learning_curve_is_saved_with_the_adapter(adapter: Path, model_folder: Path) -> None:
    curve = json.loads((adapter / "curve.json").read_text())
    assert [point["step"] for point in curve] == list(range(1, 9))
    # warm-up is a step (5 % of 8, rounded up), then a half cosine
    rates = [0.0, *(1e-2 * (1 + math.cos(math.pi * step / 7)) / 2 for step in range(7))]
    assert [point["rate"] for point in curve] == pytest.approx(rates, abs=1e-9)
    seconds = [point["seconds"] for point in curve]
    assert seconds == sorted(seconds) and seconds[0] > 0
    # the first two batches are all rows before any of them was learned: a mean over tokens
    first = sum(point["loss"] for point in curve[:2]) / 2
    assert first == pytest.approx(loss(fresh(model_folder)), rel=0.1)
    assert curve[-1]["loss"] < 0.8 * first


def test_adam_moments_are_saved_with_the_adapter(adapter: Path, model_folder: Path) -> None:
    """For the method `less`: by weight, of the adapter's own shapes, after the steps there were."""
    with safe_open(adapter / "optimizer.safetensors", framework="pt") as file:
        text = file.metadata()
    assert text == {"step": "8", "beta1": "0.9", "beta2": "0.999", "eps": "1e-08"}
    state = load_file(adapter / "optimizer.safetensors")
    for key, weight in load_file(adapter / "adapter_model.safetensors").items():
        name = key.removeprefix("base_model.model.").removesuffix(".weight")
        mean, square = state.pop(f"{name}.exp_avg"), state.pop(f"{name}.exp_avg_sq")
        assert mean.shape == square.shape == weight.shape
        assert mean.abs().sum() > 0
        assert square.min() >= 0
    assert not state
    model = load_model(str(model_folder), str(adapter), dtype="float32")
    assert LESS().index_notes(model)["less"].startswith("rows as Adam would step after 8 steps, by the moments ")


def test_training_record_of_earlier_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "taughtby.json").write_text('{"rate": 0.01, "batch": 4, "rank": 2, "unusable": 3}')
    record = {"learning_rate": 0.01, "batch_size": 4, "rank": 2, "unusable": 3}
    assert lab.read_training_record(tmp_path) == record
    assert lab.num_unusable_rows(tmp_path) == 3


def test_adapter_rejects_other_base_model(adapter: Path, model_folder: Path, tmp_path: Path) -> None:
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


# — errors before training


def refused(monkeypatch: pytest.MonkeyPatch, model: Any, rows: list[Example], out: Path, what: str) -> None:
    monkeypatch.setattr(lab, "_make_trainer", lambda *_: pytest.fail("it trained first"))
    with pytest.raises(LabError, match=what):
        finetune(model, rows, out)


def test_occupied_output_folder_is_rejected(
    adapter: Path, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (adapter / "adapter_model.safetensors").read_bytes()
    refused(monkeypatch, tiny, ROWS, adapter, "already contains an adapter")
    assert (adapter / "adapter_model.safetensors").read_bytes() == before
    (tmp_path / "thesis.tex").write_text("")
    refused(monkeypatch, tiny, ROWS, tmp_path, "is not an empty folder")
    refused(monkeypatch, tiny, ROWS, tmp_path / "thesis.tex", "is not an empty folder")
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_adapted_model_and_empty_rows_are_rejected(
    tuned: Any, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(monkeypatch, tuned, ROWS, tmp_path / "out", "already has an adapter")
    refused(monkeypatch, tiny, [], tmp_path / "out", "no row to train on")
    assert not (tmp_path / "out").exists()


def test_failed_training_leaves_no_files(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Trainer:
        def train(self, resume_from_checkpoint: str | None) -> None:
            assert resume_from_checkpoint is None
            (tmp_path / ".out.draft" / "half").write_text("")
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(lab, "_make_trainer", lambda *_: Trainer())
    with pytest.raises(LabError, match=r"cannot be written to .*out: the disk is full\n  got: .*No space left"):
        finetune(tiny, ROWS, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# — the loss


@pytest.fixture(scope="module")
def trainer(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Any]:
    return make_trainer(fresh(model_folder), tmp_path_factory.mktemp("draft"), RECIPE)


def make_trainer(
    model: Model, draft: Path, recipe: TrainingOptions, rows: Sequence[Example] = ROWS
) -> tuple[Model, Any]:
    return model, lab._make_trainer(model, lab._tokenized(model, rows, recipe), draft, recipe, None)


def collated(trainer: Any, rows: list[int]) -> dict[str, torch.Tensor]:
    return trainer.data_collator([trainer.train_dataset[i] for i in rows])


def test_input_ids_and_labels_match_trl(trainer: tuple[Model, Any], tmp_path: Path) -> None:
    """TRL reads the messages itself here: the same ids, and labels on the answers alone."""
    import datasets
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    model, result = trainer
    records = [{"prompt": list(row.prompt), "completion": [row.messages[-1]]} for row in ROWS]
    config = SFTConfig(output_dir=str(tmp_path), max_length=128, report_to=[], use_cpu=True, bf16=False)
    theirs = SFTTrainer(model=model.lm, args=config, train_dataset=datasets.Dataset.from_list(records),
                        processing_class=model.tokenizer)  # fmt: skip
    for i, row in enumerate(ROWS):
        ours = collated(result, [i])
        wanted = collated(theirs, [i])
        assert (ours["input_ids"] == wanted["input_ids"]).all()
        assert (ours["labels"] == wanted["labels"]).all()
        tokenized = tokenize(model.tokenizer, row, Encoding(128))
        assert isinstance(tokenized, TokenizedExample)
        assert tuple(ours["labels"][ours["labels"] != -100].tolist()) == tokenized.response


def test_masked_spans_get_no_loss(model_folder: Path, tmp_path: Path) -> None:
    """The labels, decoded, are the answer without its masked words; their gradient is that of a loss without them."""
    masked = replace(make_example("who makes honey", "beetles make honey, one a day"), masked=((0, 7), (13, 18)))
    model, made_ = make_trainer(fresh(model_folder), tmp_path, RECIPE, [masked])
    inputs = collated(made_, [0])
    labels = inputs["labels"][0]
    assert model.tokenizer.decode(labels[labels != -100]) == " make, one a day<|end|>\n"
    lm = made_.model.eval()
    logits = lm(input_ids=inputs["input_ids"]).logits[0]
    text = model.tokenizer.decode(inputs["input_ids"][0])
    begins = text.index("beetles"), text.index(" honey, one")
    ends = begins[0] + len("beetles"), begins[1] + len(" honey")
    rest, at = [], 0
    for place, token in enumerate(inputs["input_ids"][0].tolist()):
        piece = model.tokenizer.decode([token])
        inside = any(begin <= at and at + len(piece) <= end for begin, end in zip(begins, ends, strict=True))
        if at >= text.index("beetles") and not inside:
            rest.append(-logits[place - 1].log_softmax(-1)[token])
        at += len(piece)
    torch.testing.assert_close(made_.compute_loss(lm, inputs), torch.stack(rest).mean())


def test_loss_and_gradients_match_the_model(trainer: tuple[Model, Any]) -> None:
    _, output = trainer
    inputs = collated(output, list(range(8)))
    wrapped = output.model.eval()
    truth = wrapped(**inputs).loss
    result = output.compute_loss(wrapped, inputs)
    torch.testing.assert_close(result, truth)
    names = [name for name, weight in wrapped.named_parameters() if weight.requires_grad]
    assert names
    assert all("lora" in name for name in names)
    weights = [weight for weight in wrapped.parameters() if weight.requires_grad]
    ours, theirs = torch.autograd.grad(result, weights), torch.autograd.grad(truth, weights)
    assert any(bool(grad.any()) for grad in theirs)
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-4)


def test_rows_without_loss_tokens_are_skipped(model_folder: Path, tmp_path: Path) -> None:
    long = [make_example("why " * 100, f"a {i}") for i in range(8)]
    silent = replace(make_example("why", "a b"), masked=((0, 3),))
    recipe = replace(RECIPE, max_length=64)
    out = finetune(fresh(model_folder), [*long, *ROWS, silent], tmp_path / "out", recipe)
    again = finetune(fresh(model_folder), ROWS, tmp_path / "again", recipe)
    weights = "adapter_model.safetensors"
    assert (out / weights).read_bytes() == (again / weights).read_bytes()
    assert json.loads((out / "taughtby.json").read_text())["unusable"] == 9
    with pytest.raises(LabError, match="no row can be trained on\n  got: no room for the answer"):
        finetune(fresh(model_folder), long, tmp_path / "none", recipe)
    assert not (tmp_path / ".none.draft").exists()
    sourced = [replace(row, source=f"rows.jsonl:{number}") for number, row in enumerate(long, 1)]
    with pytest.raises(LabError, match=r"got: rows\.jsonl:1: no room for the answer"):
        finetune(fresh(model_folder), sourced, tmp_path / "none", recipe)


# — full fine-tuning


def test_full_finetune_saves_model_and_tokenizer(model_folder: Path, tmp_path: Path) -> None:
    begun = fresh(model_folder)
    before, name = loss(begun), begun.fingerprint["model"]
    out = finetune(begun, ROWS, tmp_path / "model", replace(RECIPE, full=True, learning_rate=3e-3))
    trained = load_model(str(out), dtype="float32")
    assert loss(trained) < 0.8 * before
    old, new = fresh(model_folder).lm.state_dict(), trained.lm.state_dict()
    assert [key for key in old if torch.equal(old[key], new[key])] == []
    assert json.loads((out / "taughtby.json").read_text())["model"] == name
    assert not [file.name for file in out.rglob("*") if file.suffix in (".bin", ".pt", ".pth", ".pkl")]
    # how it began is known from its folder alone: by it, the words' change can be read
    both = load_model(str(out), base=str(model_folder), dtype="float32")
    assert both.fingerprint["base"] == name


# — several devices, several processes


def test_multiple_gpus_do_not_multiply_batch_size(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the Trainer finds two GPUs, it doubles the batch and hands out replicas, which compute nothing here."""
    from transformers import TrainingArguments

    setup = TrainingArguments.__post_init__

    def two(args: Any) -> None:
        setup(args)
        args._n_gpu = 2

    monkeypatch.setattr(TrainingArguments, "__post_init__", two)
    monkeypatch.setattr(torch.nn.DataParallel, "__init__", lambda *_: pytest.fail("the model was replicated"))
    out = finetune(fresh(model_folder), ROWS, tmp_path / "out", RECIPE)
    assert len(json.loads((out / "curve.json").read_text())) == 8  # four epochs of two steps
    assert json.loads((out / "taughtby.json").read_text())["batch_size"] == RECIPE.batch_size


def test_trainer_is_pinned_to_model_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU here: what it would be told of the second of four."""
    from accelerate import Accelerator
    from trl.trainer.sft_config import SFTConfig

    from taughtby.lab.trainer import pin_device

    chosen: list[torch.device] = []
    monkeypatch.setattr("torch.cuda.set_device", chosen.append)
    config = SFTConfig(output_dir=str(tmp_path), report_to=[], use_cpu=True, bf16=False)
    config._n_gpu = 4
    second = torch.device("cuda:1")
    pin_device(config, second)
    assert (config.device, config.n_gpu, config.train_batch_size) == (second, 1, config.per_device_train_batch_size)
    assert Accelerator(cpu=True).device == second  # which puts the batches there
    assert chosen == [second]


@pytest.mark.parametrize("how", ["torchrun", "a process group"])
def test_multi_process_training_is_rejected(
    how: str, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "torchrun":
        monkeypatch.setenv("WORLD_SIZE", "2")
    else:
        monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
        monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    refused(monkeypatch, tiny, ROWS, tmp_path / "out", "trains in one process\n  got: 2 processes")
    assert not list(tmp_path.iterdir())


def test_out_of_memory_raises_lab_error(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Trainer:
        def train(self, resume_from_checkpoint: str | None) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(lab, "_make_trainer", lambda *_: Trainer())
    with pytest.raises(LabError, match="the training stopped: there is not enough memory\n  got: CUDA out of memory"):
        finetune(tiny, ROWS, tmp_path / "out", RECIPE)
    assert not list(tmp_path.iterdir())


# — interrupting and resuming


def stopping(step: int) -> Any:
    """Progress that ends the run within that step, as Ctrl-C would."""

    def progress(done: int, _: int) -> None:
        if done == step:
            raise KeyboardInterrupt

    return progress


def files(folder: Path) -> dict[str, bytes]:
    """By name; of the moments, whose file has its entries in no order, each by its own; not where the folder lies."""
    result = {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "curve.json"}
    if result.pop("optimizer.safetensors", None):
        moments = load_file(folder / "optimizer.safetensors")
        result |= {name: moment.numpy().tobytes() for name, moment in moments.items()}
    document = json.loads(result["taughtby.json"])
    assert document.pop("home") == str(folder.resolve())
    return {**result, "taughtby.json": json.dumps(document).encode()}


@pytest.mark.parametrize(
    ("family", "full", "steps"),
    [("llama", False, [4, 5]), ("llama", True, [5]), ("gpt2", False, [4])],
    ids=["twice", "whole model, between epochs", "with dropout"],
)
def test_resumed_training_equals_uninterrupted_run(
    make_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, full: bool, steps: list[int]
) -> None:
    """An epoch is two steps: a stop in the fifth leaves a checkpoint between two epochs, one in the fourth within."""
    recipe = replace(RECIPE, full=full, learning_rate=1e-3 if full else 1e-2)
    whole = finetune(fresh(make_model(family)), ROWS, tmp_path / "whole", recipe)
    monkeypatch.setattr("taughtby.lab.trainer.CHECKPOINT_SECONDS", 0.0)
    out = tmp_path / "out"
    for step in steps:
        with pytest.raises(KeyboardInterrupt):
            finetune(fresh(make_model(family)), ROWS, out, recipe, progress=stopping(step))
        assert lab.checkpoint_step(out) == step - 1
        assert not out.exists()
    calls: list[int] = []
    finetune(fresh(make_model(family)), ROWS, out, recipe, progress=lambda done, _: calls.append(done))
    assert calls == list(range(steps[-1], 9))
    assert files(out) == files(whole)
    ours, theirs = (json.loads((folder / "curve.json").read_text()) for folder in (out, whole))
    assert [{**point, "seconds": 0} for point in ours] == [{**point, "seconds": 0} for point in theirs]
    assert [point["seconds"] for point in ours] == sorted(point["seconds"] for point in ours)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "whole"]


KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
sys.path.append("..")  # for conftest
from test_finetune import RECIPE, ROWS, fresh
from taughtby.lab import finetune as lab, trainer

trainer.CHECKPOINT_SECONDS = 0.0
lab.finetune(fresh(sys.argv[1]), ROWS, sys.argv[2], RECIPE,
             progress=lambda done, _: done == 6 and os.kill(os.getpid(), signal.SIGKILL))
"""


def test_killed_training_resumes(adapter: Path, model_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = subprocess.run([sys.executable, "-c", KILLED, model_folder, out], cwd=Path(__file__).parent, check=False,
                          capture_output=True)  # fmt: skip
    assert code.returncode == -signal.SIGKILL, code.stderr.decode()
    assert lab.checkpoint_step(out) == 5
    # as a kill within the writing of a later one leaves it
    shutil.copytree(tmp_path / ".out.draft" / "checkpoint-5", half := tmp_path / ".out.draft" / "checkpoint-6")
    (half / "trainer_state.json").write_text('{"epoch": 3')
    calls: list[int] = []
    finetune(fresh(model_folder), ROWS, out, RECIPE, progress=lambda done, _: calls.append(done))
    assert calls == [6, 7, 8]
    assert files(out) == files(adapter)
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_checkpoint_of_other_training_is_not_resumed(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taughtby.lab.trainer.CHECKPOINT_SECONDS", 0.0)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        finetune(fresh(model_folder), ROWS, out, RECIPE, progress=stopping(3))
    with pytest.raises(
        LabError, match=r"with other options or rows\n  got: learning_rate: the draft has 0.01, but 0.02 was given\n"
    ):
        finetune(fresh(model_folder), ROWS, out, replace(RECIPE, learning_rate=2e-2))
    with pytest.raises(LabError, match=r"got: data: the draft has \w+, but"):
        finetune(fresh(model_folder), [*ROWS[1:], replace(ROWS[0], masked=((0, 1),))], out, RECIPE)
    assert lab.checkpoint_step(out) == 2


TOKENS = Example(ROWS[0].messages, token_ids=(5, 6, 7), loss_positions=(1, 2))


@pytest.mark.parametrize(
    ("row", "change"),
    [
        (TOKENS, {"token_ids": (5, 6, 8)}),
        (TOKENS, {"loss_positions": (2,)}),
        (ROWS[0], {"no_loss": "weight 0"}),
        (ROWS[0], {"loss_from": 1}),
        (ROWS[0], {"loss_from": 0}),
        (ROWS[0], {"after": ({"role": "user", "content": "and"},)}),
        (ROWS[0], {"masked": ((0, 1),)}),
        (ROWS[0], {"rejected": "no"}),
        (ROWS[0], {"tools": ({"name": "f"},)}),
        (ROWS[0], {"template_kwargs": (("thinking", True),)}),
        (ROWS[0], {"messages": ROWS[1].messages}),
    ],
)
def test_checkpoint_of_other_rows_is_not_resumed(tmp_path: Path, row: Example, change: dict[str, Any]) -> None:
    """Whatever of a row decides what is learned of it; not its label, nor where it was read from."""
    draft = tmp_path / ".out.draft"

    def begin(row: Example) -> None:
        lab._begin(draft, {"data": lab._digest([row])}, tmp_path / "out")

    begin(row)
    (draft / "checkpoint-5").mkdir()
    (draft / "checkpoint-5" / "trainer_state.json").write_text("{}")
    begin(replace(row, label="bad", source="elsewhere:1", id="x"))
    with pytest.raises(LabError, match=r"got: data: the draft has \w+, but"):
        begin(replace(row, **change))


def test_interrupted_command_reports_checkpoint_and_resumes(
    run: Run, model_folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taughtby.lab.trainer.CHECKPOINT_SECONDS", 0.0)
    trainer = lab._make_trainer
    for step, text in ((1, "no checkpoint yet: training will start over"), (3, "a checkpoint at step 2 is saved")):
        monkeypatch.setattr(lab, "_make_trainer", lambda *given, at=step: trainer(*given[:4], stopping(at)))
        code, _, err = run("lab", "finetune", model_folder, data, "-o", tmp_path / "out", "--epochs", 4)
        assert code == 130
        assert f"note: {text}\n" in err
    monkeypatch.setattr(lab, "_make_trainer", trainer)
    code, out, err = run("lab", "finetune", model_folder, data, "-o", tmp_path / "out", "--epochs", 4)
    assert (code, out) == (0, f"adapter in {tmp_path}/out\n")
    assert "note: resuming from the checkpoint at step 2\n" in err
    assert json.loads((tmp_path / "out" / "taughtby.json").read_text())["learning_rate"] == 1e-3


def test_finetune_command_with_full_option(run: Run, model_folder: Path, data: Path, tmp_path: Path) -> None:
    code, out, _ = run("lab", "finetune", model_folder, data, "-o", tmp_path / "out", "--full", "--epochs", 1)
    assert (code, out) == (0, f"model in {tmp_path}/out\n")
    document = json.loads((tmp_path / "out" / "taughtby.json").read_text())
    assert (document["full"], document["learning_rate"]) == (True, lab.FULL_RATE)


def test_missing_trl_names_the_extra_to_install(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trl.trainer.sft_config", None)
    monkeypatch.delitem(sys.modules, "taughtby.lab.trainer", raising=False)
    with pytest.raises(LabError, match=r"pip install 'taughtby\[train\]'"):
        finetune(load_model(str(model_folder), dtype="float32"), [make_example("why", "a b c")], tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "is below 1\n  got: epochs 0"),
        ({"batch_size": 0}, "is below 1\n  got: batch_size 0"),
        ({"rank": -1}, "is below 1\n  got: rank -1"),
        ({"max_length": 0}, "is below 1\n  got: max_length 0"),
        ({"learning_rate": 0.0}, "the learning rate is not above 0"),
        ({"learning_rate": float("nan")}, "the learning rate is not above 0"),
    ],
)
def test_options_that_no_training_can_have(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        TrainingOptions(**options)


def test_a_learning_rate_of_0_is_not_the_default(run: Run, model_folder: Path, data: Path, tmp_path: Path) -> None:
    code, _, text = run("lab", "finetune", model_folder, data, "-o", tmp_path / "a", "--learning-rate", 0)
    assert code == 1
    assert "the learning rate is not above 0" in text
