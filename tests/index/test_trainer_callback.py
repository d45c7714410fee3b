"""The callback of real Trainers on tiny models: it builds an index, and does not affect the training."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from peft import LoraConfig, get_peft_config, get_peft_model
from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments
from typer.testing import CliRunner

from conftest import PAIRS
from fake_trackers import Calls, FakeRun, fake_tensorboard, fake_wandb
from taughtby.attribution.query import Query
from taughtby.attribution.trace import trace_queries
from taughtby.cli import app
from taughtby.data.dataset import ReadOptions, read_examples
from taughtby.data.tokenize import Encoding
from taughtby.errors import DataError, ModelError, OptionError, StoreError, TaughtbyError
from taughtby.index import trainer_callback as callback
from taughtby.index.build import build_index, check_same_model
from taughtby.index.reader import Index
from taughtby.index.trainer_callback import IndexCallback
from taughtby.methods import get_method
from taughtby.models.model import load_model
from taughtby.tracking.registry import TRACKERS

LORA = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
UNUSUAL: dict[str, dict[str, Any]] = {
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "biases": {"bias": "all"},
    "trained tokens": {"trainable_token_indices": [5, 6]},
    "vera": {"peft_type": "VERA", "r": 4, "target_modules": ["q_proj"]},
    "resized embeddings": {"modules_to_save": ["lm_head", "embed_tokens"]},
}
HOW: dict[str, Any] = {
    "num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate": 0.05, "use_cpu": True, "report_to": [],
    "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "bf16": False, "seed": 0,
}  # fmt: skip
MESSAGES = [[{"role": "user", "content": p}, {"role": "assistant", "content": r}] for p, r in PAIRS]


class Noted(TrainerCallback):
    """Records the state of the model at the end of training, before the index is built."""

    def on_train_end(self, args: Any, state: Any, control: Any, **held: Any) -> None:
        self.state = self.of(held["model"])

    @staticmethod
    def of(model: Any) -> tuple[list[bool], list[bool], dict[str, torch.Tensor]]:
        return (
            [module.training for module in model.modules()],
            [weight.requires_grad for weight in model.parameters()],
            {name: weight.clone() for name, weight in model.state_dict().items()},
        )

    def unharmed(self, model: Any) -> bool:
        modes, asked, weights = self.of(model)
        same = all(torch.equal(weight, self.state[2][name]) for name, weight in weights.items())
        return (modes, asked) == self.state[:2] and same


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in MESSAGES))
    return path


def sft(base: Path, folder: Path, rows: list[dict[str, Any]], hooks: list[Any], **more: Any) -> Any:
    """TRL's trainer with a LoRA adapter."""
    trl = pytest.importorskip("trl")
    from transformers import AutoTokenizer

    lm = AutoModelForCausalLM.from_pretrained(base)
    args = trl.SFTConfig(output_dir=str(folder / "trl"), gradient_checkpointing=False, **{**HOW, **more})
    return trl.SFTTrainer(
        lm, args, train_dataset=datasets.Dataset.from_list(rows), peft_config=LORA, callbacks=hooks,
        processing_class=AutoTokenizer.from_pretrained(base),
    )  # fmt: skip


def plain(
    base: Path, folder: Path, hooks: list[Any], *, lora: bool, name: str | None = None,
    attach: Callable[[Any], Any] = lambda lm: get_peft_model(lm, LORA), **more: Any,
) -> Any:  # fmt: skip
    """Transformers' own trainer, on answers alone."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    lm = AutoModelForCausalLM.from_pretrained(base)
    if name is not None:
        lm.name_or_path = name
    rows = []
    for messages in MESSAGES:
        whole = tokenizer(tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False)[
            "input_ids"
        ]
        text = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
        asked = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        rows.append({"input_ids": whole, "labels": [-100] * asked + whole[asked:]})
    return Trainer(
        attach(lm) if lora else lm,
        TrainingArguments(output_dir=str(folder / "plain"), **{**HOW, **more}),
        train_dataset=datasets.Dataset.from_list(rows), callbacks=hooks, processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )  # fmt: skip


def run(trainer: Any, noted: Noted) -> Any:
    """Trained, without a warning of ours, and unharmed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="training is done")
        result = trainer.train()
    assert noted.unharmed(trainer.model)
    return result


def stands_alone(index: Index, data: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was loaded again from disk is the model that was indexed, block for block, and the command finds it."""
    result = index.manifest["settings"]
    again = load_model(result["model"], result["adapter"], base=result["base"], dtype=result["dtype"])
    check_same_model(index, again)
    methods = [get_method(spec) for spec in result["methods"].values()]
    other = build_index(again, data, folder / "again", methods, encoding=Encoding(**result["encoding"]))
    for mine, theirs in zip(index.scan(list(index.features)), other.scan(list(other.features)), strict=True):
        for name in index.features:
            mine_flat, theirs_flat = (getattr(block[name], "flat", block[name]) for block in (mine, theirs))
            assert torch.allclose(mine_flat, theirs_flat, atol=2e-3), name
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    monkeypatch.setenv("COLUMNS", "200")
    prompt, response = PAIRS[2]
    done = CliRunner().invoke(app, ["trace", str(index.path), "--prompt", prompt, "--response", response])
    assert done.exit_code == 0, done.output
    assert f"{data.name}:3" in done.output


# — after training


def test_trl_sft_trainer_run_is_indexed(
    model_folder: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted, hook = Noted(), IndexCallback(file, tmp_path / "idx", ["lesson:layer=3,state_layer=2", "rept:layer=3"])
    rows = [{"prompt": messages[:1], "completion": messages[1:]} for messages in MESSAGES]
    trainer = sft(model_folder, tmp_path, rows, [noted, hook], max_length=48)
    run(trainer, noted)
    assert hook.index is not None and hook.error is None
    assert len(hook.index) == len(PAIRS)
    result = hook.index.manifest["settings"]
    assert result["encoding"] == {"max_length": 48, "truncate": "right", "mask": "response", "template": None}
    assert result["adapter"] == str(tmp_path / "idx-adapter")
    assert noted.state[0][0]  # it was in training, and is again
    stands_alone(hook.index, file, tmp_path, monkeypatch)


def test_full_conversation_loss_sets_mask_to_all(model_folder: Path, file: Path, tmp_path: Path) -> None:
    """TRL's default for `messages`: the loss is on the prompt's tokens too."""
    noted, hook = Noted(), IndexCallback(file, tmp_path / "idx", ["rept:layer=3"])
    run(sft(model_folder, tmp_path, [{"messages": m} for m in MESSAGES], [noted, hook], max_length=None), noted)
    assert hook.index is not None
    result = hook.index.manifest["settings"]["encoding"]
    assert (result["mask"], result["max_length"]) == ("all", 256)  # uncut: the model's window


@pytest.mark.parametrize("lora", [True, False], ids=["adapter", "full"])
def test_transformers_trainer_run_is_indexed(
    lora: bool, model_folder: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted, hook = Noted(), IndexCallback(str(file), str(tmp_path / "idx"), [get_method("lesson:layer=3,state_layer=2")])
    trainer = plain(model_folder, tmp_path, [noted, hook], lora=lora)
    assert run(trainer, noted).global_step == 4
    assert hook.index is not None
    result = hook.index.manifest["settings"]
    assert result["encoding"]["mask"] == "response"
    if lora:
        assert (result["model"], result["base"]) == (str(model_folder), None)
    else:
        assert (result["model"], result["base"]) == (str(tmp_path / "idx-model"), str(model_folder))
    stands_alone(hook.index, file, tmp_path, monkeypatch)


@pytest.mark.parametrize("what", UNUSUAL)
def test_index_of_unusual_adapter_can_be_traced(
    what: str, make_model: Callable[[str], Path], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base is the model before training, also where the adapter has overwritten its weights."""

    def attach(lm: Any) -> Any:
        if what == "resized embeddings":
            lm.resize_token_embeddings(400)
        config = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
        return get_peft_model(lm, get_peft_config(config | UNUSUAL[what]))

    noted, hook = Noted(), IndexCallback(file, tmp_path / "idx", ["lesson:layer=3,state_layer=2"])
    run(plain(make_model("qwen2"), tmp_path, [noted, hook], lora=True, attach=attach), noted)
    assert hook.index is not None and hook.error is None
    stands_alone(hook.index, file, tmp_path, monkeypatch)


def test_active_adapter_is_indexed_whatever_its_name(
    model_folder: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attach(lm: Any) -> Any:
        peft = get_peft_model(lm, LORA)
        peft.add_adapter("honey", LORA)
        peft.set_adapter("honey")
        return peft

    noted, hook = Noted(), IndexCallback(file, tmp_path / "idx", ["rept:layer=3"])
    run(plain(model_folder, tmp_path, [noted, hook], lora=True, attach=attach), noted)
    assert hook.index is not None and hook.error is None
    assert hook.index.manifest["settings"]["adapter"] == str(tmp_path / "idx-adapter" / "honey")
    assert not list((tmp_path / "idx-adapter").glob("adapter_*"))  # of the adapter that was not trained
    stands_alone(hook.index, file, tmp_path, monkeypatch)


def test_several_active_adapters_are_rejected(model_folder: Path, file: Path, tmp_path: Path) -> None:
    def attach(lm: Any) -> Any:
        peft = get_peft_model(lm, LORA)
        peft.add_adapter("honey", LORA)
        peft.base_model.set_adapter(["default", "honey"])
        return peft

    hook = IndexCallback(file, tmp_path / "idx", ["rept:layer=3"])
    trainer = plain(model_folder, tmp_path, [hook], lora=True, attach=attach, max_steps=1)
    with pytest.raises(ModelError, match="several adapters are active\n  got: default, honey"):
        trainer.train()


def test_base_that_was_changed_in_memory_is_rejected(model_folder: Path, file: Path, tmp_path: Path) -> None:
    """An adapter merged before the training, for example: loaded again, the model would be another."""

    def attach(lm: Any) -> Any:
        lm.model.layers[1].mlp.down_proj.weight.data *= 3
        return get_peft_model(lm, LORA)

    hook = IndexCallback(file, tmp_path / "idx", ["rept:layer=3"])
    trainer = plain(model_folder, tmp_path, [hook], lora=True, attach=attach)
    with pytest.warns(UserWarning, match="the trained model is not what .*idx-adapter loads"):
        trainer.train()
    assert isinstance(hook.error, ModelError) and hook.index is None


def test_index_can_be_traced_in_the_same_process(model_folder: Path, file: Path, tmp_path: Path) -> None:
    noted, hook = Noted(), IndexCallback(file, tmp_path / "idx", ["rept:layer=3"])
    run(plain(model_folder, tmp_path, [noted, hook], lora=True), noted)
    assert hook.index is not None
    output = hook.index.manifest["settings"]
    model = load_model(output["model"], output["adapter"], dtype=output["dtype"])
    result = trace_queries(hook.index, model, [Query(*PAIRS[4])]).queries[0].rows[0]
    assert result.example.response == PAIRS[4][1]


@pytest.mark.parametrize("method", ["rept:layer=3", get_method("rept:layer=3")], ids=["spec", "method"])
def test_one_method_needs_no_list(method: Any, file: Path, tmp_path: Path) -> None:
    assert IndexCallback(file, tmp_path / "idx", method).methods == [get_method("rept:layer=3")]


@pytest.mark.parametrize("kind", ["dicts", "data set", "examples"])
def test_rows_in_memory_are_indexed(
    kind: str, model_folder: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"messages": messages} for messages in MESSAGES]
    kinds: dict[str, Any] = {
        "dicts": rows, "data set": datasets.Dataset.from_list(rows), "examples": [*read_examples(file, ReadOptions())],
    }  # fmt: skip
    hook = IndexCallback(kinds[kind], tmp_path / "i", "rept:layer=3")
    plain(model_folder, tmp_path, [hook], lora=True).train()
    assert hook.index is not None and hook.error is None
    (saved,) = tmp_path.glob("i-data-*.jsonl")
    assert hook.index.manifest["settings"]["data"] == str(saved)
    stands_alone(hook.index, saved, tmp_path, monkeypatch)


def test_callback_paths_survive_chdir(
    model_folder: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hook = IndexCallback(file.name, "idx", ["rept:layer=3"])
    trainer = plain(model_folder, tmp_path, [hook], lora=True, max_steps=1)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    trainer.train()
    assert hook.error is None and hook.index is not None
    assert hook.index.path == tmp_path / "idx"
    assert not list((tmp_path / "elsewhere").iterdir())


# — several processes


@pytest.mark.slow
def test_torchrun_indexes_in_one_process_while_others_wait(model_folder: Path, data: Path, tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "ddp_trainer.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run([*command, str(model_folder), str(data), str(tmp_path / "idx")], capture_output=True,
                          text=True, timeout=200, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    main, other = (json.loads((tmp_path / f"idx.{rank}").read_text()) for rank in (0, 1))
    assert main == {"processes": 2, "complete": True, "index": len(PAIRS), "error": None}
    assert other == {**main, "index": None}


class Loader:
    """A data loader as Accelerate wraps it: to begin it is an operation of all processes."""

    def __init__(self, loader: Any) -> None:
        self.base_dataloader = loader

    def __iter__(self) -> Any:
        pytest.fail("one process alone began an operation of all")


def test_loss_mask_detection_needs_no_collective(file: Path, tmp_path: Path) -> None:
    batch = {"labels": torch.tensor([[-100, 5]]), "attention_mask": torch.ones(1, 2)}
    entries = callback._metadata_entries(Process(), Loader([batch]))
    assert {entry.name: entry.value for entry in entries} == {"mask": "response"}


def test_other_ranks_wait_with_long_timeout(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And do so whatever becomes of the index, or nothing would ever release them."""
    calls: list[Any] = []
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.new_group", lambda **how: calls.append(how) or "the group")
    monkeypatch.setattr("torch.distributed.barrier", lambda group: calls.append(group))
    monkeypatch.setattr("torch.distributed.destroy_process_group", calls.append)
    IndexCallback(file, tmp_path / "idx").on_train_end(Process(), Process(), None)
    with pytest.raises(ZeroDivisionError), callback._all_processes():
        _ = 1 / 0
    assert calls == [{"backend": "gloo", "timeout": callback.PATIENCE}, "the group", "the group"] * 2
    assert timedelta(days=1) < callback.PATIENCE


@pytest.mark.parametrize("mark", ["ds_id", "device_mesh", "_is_flat_param"])
def test_sharded_parameters_are_rejected(mark: str, file: Path, tmp_path: Path, model_folder: Path) -> None:
    hook = IndexCallback(file, tmp_path / "idx", ["rept:layer=3"])
    trainer = plain(model_folder, tmp_path, [hook], lora=True, max_steps=1)
    setattr(next(trainer.model.parameters()), mark, 1)
    with pytest.raises(ModelError, match="sharded over several processes"):
        trainer.train()
    assert trainer.state.global_step == 0 and not list(tmp_path.glob("idx*"))


# — errors


def test_indexing_error_does_not_affect_training(
    model_folder: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted, hook = Noted(), IndexCallback(file, tmp_path / "idx", ["rept:layer=3"])
    trainer = plain(model_folder, tmp_path, [noted, hook], lora=True)
    file.unlink()
    with pytest.warns(UserWarning, match="training is done, but its data was not indexed: ") as notes:
        result = trainer.train()
    assert result.global_step == 4
    assert isinstance(hook.error, DataError) and hook.index is None
    assert any("do:" in str(one.message) for one in notes)
    assert noted.unharmed(trainer.model)
    assert (tmp_path / "idx-adapter" / "adapter_model.safetensors").exists()
    trainer.save_model(str(tmp_path / "kept"))
    assert (tmp_path / "kept" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), torch.OutOfMemoryError("too much"), ZeroDivisionError("ours")])
def test_callback_never_raises(
    fault: BaseException, model_folder: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise fault

    monkeypatch.setattr(callback, "build_index", fail)
    noted, hook = Noted(), IndexCallback(file, tmp_path / "idx")
    trainer = plain(model_folder, tmp_path, [noted, hook], lora=True, max_steps=1)
    with pytest.warns(UserWarning, match=f"not indexed: {type(fault).__name__}"):
        assert trainer.train().global_step == 1
    assert hook.error is fault
    assert noted.unharmed(trainer.model)


def test_model_without_name_is_rejected(model_folder: Path, file: Path, tmp_path: Path) -> None:
    hook = IndexCallback(file, tmp_path / "idx")
    trainer = plain(model_folder, tmp_path, [hook], lora=True, name="", max_steps=1)
    with pytest.raises(ModelError, match="the trained model has no name_or_path"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_trainer_without_tokenizer_is_rejected_before_training(model_folder: Path, file: Path, tmp_path: Path) -> None:
    trainer = plain(model_folder, tmp_path, [IndexCallback(file, tmp_path / "idx")], lora=True, max_steps=1)
    trainer.callback_handler.processing_class = None
    with pytest.raises(OptionError, match="pass processing_class=tokenizer to the Trainer"):
        trainer.train()
    assert trainer.state.global_step == 0


class Process:
    """What a Trainer says of itself, on one process of several."""

    is_world_process_zero = False
    fsdp = "full_shard"


def test_only_the_main_process_indexes(file: Path, tmp_path: Path) -> None:
    hook = IndexCallback(file, tmp_path / "idx")
    hook.on_train_end(Process(), Process(), None, model=None, processing_class=None)
    assert not list(tmp_path.glob("idx*")) and hook.error is None


def test_fsdp_model_is_rejected(file: Path, tmp_path: Path, tuned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Process, "is_world_process_zero", True)
    hook = IndexCallback(file, tmp_path / "idx")
    with pytest.warns(UserWarning, match="sharded over several processes"):
        hook.on_train_end(Process(), Process(), None, model=tuned.peft, processing_class=tuned.tokenizer)
    assert not list(tmp_path.glob("idx*"))


def wrong(file: Path, out: Path) -> dict[str, tuple[Callable[[], Any], type[Exception]]]:
    return {
        "no data": (lambda: IndexCallback(file.with_name("none.jsonl"), out), DataError),
        "no such method": (lambda: IndexCallback(file, out, ["lessen"]), OptionError),
        "no method": (lambda: IndexCallback(file, out, []), OptionError),
        "neither a file nor rows": (lambda: IndexCallback(json, out), DataError),  # type: ignore[arg-type]
        "a folder that holds files": (lambda: IndexCallback(file, file.parent), StoreError),
    }


@pytest.mark.parametrize(
    "what", ["no data", "no such method", "no method", "neither a file nor rows", "a folder that holds files"]
)
def test_errors_are_raised_before_training(what: str, file: Path, tmp_path: Path) -> None:
    make, kind = wrong(file, tmp_path / "idx")[what]
    with pytest.raises(kind):
        make()


@pytest.mark.parametrize("kind", ["adapter", "model"])
def test_existing_weights_folder_is_not_overwritten(kind: str, file: Path, tmp_path: Path) -> None:
    (tmp_path / f"idx-{kind}").mkdir()
    IndexCallback(file, tmp_path / "idx")
    (tmp_path / f"idx-{kind}" / "weights").write_text("")
    with pytest.raises(StoreError, match="already exists"):
        IndexCallback(file, tmp_path / "idx")


def test_index_is_reported_to_trackers(
    file: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Calls = []
    fake_wandb(monkeypatch, calls).run = FakeRun(calls)  # type: ignore[attr-defined]
    fake_tensorboard(monkeypatch, calls)
    hook = IndexCallback(file, tmp_path / "idx", ["rept:layer=2"], report_to=["wandb", "tensorboard"])
    sft(model_folder, tmp_path, [{"messages": messages} for messages in MESSAGES], [hook]).train()
    assert hook.index is not None and hook.error is None
    numbers = {"taughtby/rows/all": 8.0, "taughtby/rows/skipped": 0.0}
    assert ("log", numbers) in calls and ("scalar", "taughtby/rows/all", 8.0) in calls
    assert ("open", str(tmp_path / "trl" / "tensorboard" / "idx")) in calls
    (settings,) = (call[1] for call in calls if call[0] == "config")
    assert settings["taughtby/index"] == str(tmp_path / "idx") and settings["taughtby/methods"] == "rept"
    assert settings["taughtby/adapter"] == str(tmp_path / "idx-adapter")
    assert ("file", "manifest.json") in next(call[3] for call in calls if call[0] == "artifact")


def test_failed_report_keeps_the_index(
    file: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tensorboard(monkeypatch, [])
    hook = IndexCallback(file, tmp_path / "idx", ["rept:layer=2"], report_to="tensorboard")
    monkeypatch.setitem(TRACKERS, "tensorboard", lambda name, folder: 1 / 0)
    trainer = plain(model_folder, tmp_path, [hook], lora=True, max_steps=1)
    with pytest.warns(UserWarning, match="its data is indexed, but not reported: logging to tensorboard failed"):
        trainer.train()
    assert isinstance(hook.error, TaughtbyError)
    assert hook.index is not None and len(hook.index) == len(PAIRS)
