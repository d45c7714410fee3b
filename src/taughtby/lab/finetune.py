"""Fine-tune a model on Examples: LoRA by PEFT or whole, the loop by TRL's SFTTrainer, loss on what is to be learned.

.OUT.draft   while it lasts: what the training is (plan.json), and the Trainer's last checkpoint
OUT          the adapter or model; taughtby.json: on which model, by what recipe; curve.json: step, loss, learning rate,
             seconds; of an adapter, Adam's moments. Nothing in it is a pickle
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from taughtby.data.example import Example
from taughtby.data.tokenize import Encoding, TokenizedExample, tokenize_all
from taughtby.errors import LabError, TaughtbyError, machine_fault
from taughtby.models.model import Model

Progress = Callable[[int, int], Any]  # (steps done, steps in all)
EVERY = 60.0  # seconds between two checkpoints: what a kill can cost
FULL_RATE = 5e-5  # a rate for all weights: a LoRA's would break them


@dataclass(frozen=True)
class TrainingOptions:
    """How to train: LoRA of `rank` on every linear layer (alpha = 4 · rank), AdamW, a cosine from `rate`.

    `full`: all weights instead, in float32, which asks for a rate some twenty times lower.
    """

    rank: int = 8
    learning_rate: float = 1e-3
    epochs: int = 3
    batch_size: int = 8
    max_length: int = 512
    seed: int = 0
    full: bool = False


def finetune(
    model: Model,
    rows: Sequence[Example],
    out: str | Path,
    recipe: TrainingOptions | None = None,
    *,
    progress: Progress | None = None,
) -> Path:
    """Train an adapter, or with `full` the model, on `rows` and write it to the folder `out`, whole or not at all.

    Stopped, the same call goes on from the last checkpoint, and ends with what it would have ended with; another call
    is refused. It trains on the device that `model` is on, in this process alone: one of several, as torchrun starts
    them, is refused. `model` is spent: its weights are the trained ones afterwards. `taughtby.json` in the folder
    names the model's fingerprint, so that an adapter is never put on another one. Returns `out`.
    """
    recipe, out = recipe or TrainingOptions(), Path(out)
    _check(model, rows, out, recipe)
    made = {"model": model.fingerprint["model"], "base": model.name, **asdict(recipe)}
    draft, learned = _draft(out), _encoded(model, rows, recipe)
    try:
        _begin(draft, {**made, "data": _digest(rows)}, out)
        trainer = _trainer(model, learned, draft, recipe, progress)
        trainer.train(resume_from_checkpoint=_checkpoint(draft))
        whole = draft.absolute() / "whole"  # of a relative path, Transformers reads a home into `~`
        trainer.save_model(str(whole))
        (whole / "training_args.bin").unlink(missing_ok=True)  # a pickle, which nobody should have to open
        count = {"rows": len(learned), "unusable": len(rows) - len(learned)}
        home = {"home": str(out.resolve())}  # by which the base is found again where both have moved
        (whole / "taughtby.json").write_text(json.dumps({**made, **home, **count}, indent=1))
        (whole / "curve.json").write_text(_curve(trainer.state.log_history))
        if not recipe.full:
            _save_moments(trainer, whole)
        whole.replace(out)
        shutil.rmtree(draft)
    except TaughtbyError:
        raise
    except Exception as fault:
        if told := _told(fault, f"the {'model' if recipe.full else 'adapter'} cannot be written to {out}"):
            raise told from fault
        raise
    finally:
        if not reached(out):
            shutil.rmtree(draft, ignore_errors=True)
    return out


def reached(out: str | Path) -> int:
    """At which step an unfinished training to `out` has its last checkpoint; 0 where there is none."""
    kept = _checkpoint(_draft(Path(out)))
    return int(kept.rpartition("-")[2]) if kept else 0


def unusable(out: str | Path) -> int:
    """How many rows a finished training left out, because nothing in them could be learned."""
    return int(json.loads((Path(out) / "taughtby.json").read_text())["unusable"])


def refuse_several() -> None:
    """Refuse to be one of several processes, each of which would train, by itself, and write to the same folder."""
    many = torch.distributed.is_available() and torch.distributed.is_initialized()
    said = os.environ.get("WORLD_SIZE", "1")
    count = torch.distributed.get_world_size() if many else int(said) if said.isdecimal() else 1
    if count > 1:
        raise LabError(
            "taughtby trains in one process", got=f"{count} processes, as torchrun or accelerate start them",
            do="start it without them: --device cuda:1 chooses a GPU, --device map spreads a large model over all",
        )  # fmt: skip


def _told(fault: Exception, what: str) -> LabError | None:
    """What to say of a fault of the machine while it trains, or while it writes; None for any other fault."""
    lack, do = machine_fault(fault), "check the folder and the disk's room"
    if not isinstance(fault, OSError):
        what = "the training stopped"
        if lack is None:
            return None
    if lack:
        what, do = f"{what}: {lack[0]}", lack[1]
    return LabError(what, got=str(fault)[:300], do=do)


def _draft(out: Path) -> Path:
    return out.with_name(f".{out.name}.draft")


def _check(model: Model, rows: Sequence[Example], out: Path, recipe: TrainingOptions) -> None:
    refuse_several()
    if any(weight.is_meta for weight in model.lm.parameters()):
        raise LabError("a model that does not fit onto its devices cannot be trained",
                       got="weights put off to the CPU or the disk", do="use more or larger devices")  # fmt: skip
    if model.peft is not None:
        raise LabError("this model carries an adapter already", got=str(model.adapter), do="give the base model alone")
    if recipe.full and getattr(model.lm, "is_quantized", False):
        raise LabError("weights that are rounded cannot be trained whole", do="load the model without --quantize")
    if (out / "adapter_config.json").exists():
        raise LabError(f"{out} holds an adapter already", do="give another folder, or remove this one")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise LabError(f"{out} is a file, or holds files", do="give a folder that is empty or not there yet")
    if not rows:
        raise LabError("there is no row to train on", do="give at least one")


def _begin(draft: Path, plan: dict[str, Any], out: Path) -> None:
    """Write what the training is; refuse a draft with a checkpoint of another."""
    file = draft / "plan.json"
    if _checkpoint(draft):
        known = json.loads(file.read_text())
        if differ := [key for key in plan if key != "base" and known.get(key) != plan[key]]:
            other = ", ".join(f"{key}: {known.get(key)}, asked {plan[key]}" for key in differ)
            do = f"ask for the same, give another folder than {out}, or remove {draft}"
            raise LabError(f"{draft} holds an unfinished training of another kind", got=other, do=do)
        return
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    file.write_text(json.dumps(plan))


def _digest(rows: Sequence[Example]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for row in rows:
        digest.update(repr((row.messages, row.tools, row.masked)).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def _checkpoint(draft: Path) -> str | None:
    """The last checkpoint that was written to its end, which is its trainer_state.json."""
    for folder in sorted(draft.glob("checkpoint-*"), key=lambda one: -int(one.name.rpartition("-")[2])):
        try:
            json.loads((folder / "trainer_state.json").read_text())
        except (OSError, ValueError):  # killed while it was written
            continue
        return str(folder)
    return None


def _encoded(model: Model, rows: Sequence[Example], recipe: TrainingOptions) -> list[dict[str, Any]]:
    """The rows as `taughtby index` reads them, for TRL to take as they are, without those with nothing to learn."""
    made = tokenize_all(model.tokenizer, rows, Encoding(recipe.max_length))
    usable = [row for row in made if isinstance(row, TokenizedExample)]
    if not usable:
        why = next(row.reason for row in made if not isinstance(row, TokenizedExample))
        raise LabError("no row has anything to learn", got=why, do="give rows that fit, whose answers are not masked")
    return [{"input_ids": list(row.ids), "completion_mask": list(map(int, row.loss_mask))} for row in usable]


def _curve(history: Sequence[dict[str, Any]]) -> str:
    """The learning curve, a step a line."""
    names = {"step": "step", "loss": "loss", "rate": "learning_rate", "seconds": "seconds"}
    steps = [json.dumps({name: said[key] for name, key in names.items()}) for said in history if "loss" in said]
    return "[\n" + ",\n".join(steps) + "\n]\n"


def _hold(config: Any, device: torch.device) -> None:
    """Let the Trainer, and Accelerate beneath it, use that device alone.

    They would take the first GPU whichever was chosen; and all of them, each with a batch of its own, of which none
    but the first would do anything here, since the loss is computed by the model itself and not by its replicas.
    """
    config.__dict__["_setup_devices"] = config.distributed_state.device = device  # the former is a cached property
    config._n_gpu = min(config.n_gpu, 1)
    if device.type == "cuda":
        torch.cuda.set_device(device)


def _save_moments(trainer: Any, out: Path) -> None:
    """Adam's moments by weight, for the method `less`; as safetensors, since a Trainer's `optimizer.pt` is a pickle."""
    from safetensors.torch import save_file

    group, stored = trainer.optimizer.param_groups[0], {}
    steps = 0
    for name, weight in trainer.model.named_parameters():
        if moments := trainer.optimizer.state.get(weight):
            name = name.removeprefix("base_model.model.").removesuffix(".weight").removesuffix(".default")
            stored |= {f"{name}.{kind}": moments[kind].contiguous() for kind in ("exp_avg", "exp_avg_sq")}
            steps = int(moments["step"])
    said = {"step": steps, "beta1": group["betas"][0], "beta2": group["betas"][1], "eps": group["eps"]}
    save_file(stored, out / "optimizer.safetensors", {key: str(value) for key, value in said.items()})


class _Orders(torch.utils.data.Sampler[int]):
    """The orders that a sampler draws one after the other, each by its epoch: a resumed run has its own again."""

    def __init__(self, sampler: Any, state: Any) -> None:
        self.sampler, self.state, self.begun = sampler, state, torch.get_rng_state()
        self.steps = -(-len(sampler) // sampler.batch_size)  # an epoch

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[int]:
        draws = self.sampler.generator = torch.Generator()
        draws.set_state(self.begun)
        order: list[int] = []
        for _ in range(self.state().global_step // self.steps + 1):
            torch.empty((), dtype=torch.int64).random_(generator=draws)  # a DataLoader draws one number an epoch itself
            order = list(self.sampler)
        return iter(order)


def _trainer(
    base: Model, rows: Sequence[dict[str, Any]], draft: Path, recipe: TrainingOptions, progress: Progress | None
) -> Any:
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import datasets
    from peft import LoraConfig
    from transformers import PrinterCallback, TrainerCallback

    try:
        from trl.trainer.sft_config import SFTConfig
        from trl.trainer.sft_trainer import SFTTrainer
    except ImportError as fault:
        raise LabError("fine-tuning needs TRL", got=str(fault), do="pip install 'taughtby[train]'") from fault

    class Answers(SFTTrainer):
        """TRL's loss with the head at learned tokens only: over every token, the head is a third of a step on a CPU."""

        def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> Any:
            learned = inputs["labels"][:, 1:] != -100
            seen = base.decoder(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
            last = seen.last_hidden_state[:, :-1]
            logits = base.head(last[learned.to(last.device)]).float()  # a model may be spread over several devices
            targets = inputs["labels"][:, 1:][learned].to(logits.device)
            return torch.nn.functional.cross_entropy(logits, targets).to(learned.device)

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return _Orders(super()._get_train_sampler(train_dataset), lambda: self.state)

        def create_model_card(self, *_: Any, **__: Any) -> None:
            pass  # with every checkpoint, it would ask the hub

    class Tell(TrainerCallback):
        """Progress, checkpoints by the clock, and the seconds of the curve."""

        def __init__(self) -> None:
            self.begun = self.saved = time.monotonic()

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.saved = time.monotonic()
            self.begun = self.saved - (state.log_history[-1]["seconds"] if state.log_history else 0.0)

        def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            state.log_history[-1]["seconds"] = round(time.monotonic() - self.begun, 3)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if time.monotonic() - self.saved >= EVERY and state.global_step < state.max_steps:
                control.should_save, self.saved = True, time.monotonic()
            if progress:
                progress(state.global_step, state.max_steps)

    datasets.disable_progress_bars()
    config = SFTConfig(
        output_dir=str(draft.absolute()), num_train_epochs=recipe.epochs, per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate, lr_scheduler_type="cosine", warmup_steps=0.05, max_length=recipe.max_length,
        seed=recipe.seed, data_seed=recipe.seed, use_cpu=base.device.type == "cpu", bf16=False,
        gradient_checkpointing=False, save_strategy="no", save_total_limit=1, logging_strategy="steps",
        logging_steps=1, report_to=[], disable_tqdm=True, completion_only_loss=True,
        train_sampling_strategy="group_by_length",
    )  # fmt: skip
    _hold(config, base.device)
    lora = LoraConfig(r=recipe.rank, lora_alpha=4 * recipe.rank, target_modules="all-linear", task_type="CAUSAL_LM")
    lm = base.lm.float().requires_grad_(True) if recipe.full else base.lm
    trainer = Answers(
        model=lm.train(), args=config, train_dataset=datasets.Dataset.from_list(list(rows)),
        processing_class=base.tokenizer, peft_config=None if recipe.full else lora, callbacks=[Tell()],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer
