"""Fine-tune a model on Examples: LoRA by PEFT, the loop by TRL's SFTTrainer, loss on the answers alone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from whence.errors import LabError
from whence.example import Example
from whence.model import Model

Progress = Callable[[int, int], Any]  # (steps done, steps in all)


@dataclass(frozen=True)
class Recipe:
    """How to train: LoRA of `rank` on every linear layer (alpha = 4 · rank), AdamW, a cosine from `rate`."""

    rank: int = 8
    rate: float = 1e-3
    epochs: int = 3
    batch: int = 8
    max_length: int = 512
    seed: int = 0


def finetune(
    model: Model,
    rows: Sequence[Example],
    out: str | Path,
    recipe: Recipe | None = None,
    *,
    progress: Progress | None = None,
) -> Path:
    """Train an adapter on `rows` and write it to the folder `out`, whole or not at all; returns `out`.

    `model` is spent: its weights carry the adapter afterwards. `whence.json` in the folder names the model's
    fingerprint, so that the adapter is never put on another one.
    """
    recipe, out = recipe or Recipe(), Path(out)
    if model.peft is not None:
        raise LabError("this model carries an adapter already", got=str(model.adapter), do="give the base model alone")
    if (out / "adapter_config.json").exists():
        raise LabError(f"{out} holds an adapter already", do="give another folder, or remove this one")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise LabError(f"{out} is a file, or holds files", do="give a folder that is empty or not there yet")
    if not rows:
        raise LabError("there is no row to train on", do="give at least one")
    draft = out.with_name(f".{out.name}.draft")
    try:
        trainer = _trainer(model, rows, draft, recipe, progress)
        trainer.train()
        trainer.save_model(str(draft))
        (draft / "training_args.bin").unlink(missing_ok=True)  # a pickle, which nobody should have to open
        made = {"model": model.fingerprint["model"], "base": model.name, **asdict(recipe)}
        (draft / "whence.json").write_text(json.dumps(made, indent=1))
        _save_moments(trainer, draft)
        draft.rename(out)
    except OSError as fault:
        raise LabError(
            f"the adapter cannot be written to {out}",
            got=str(fault),
            do="check the folder and the disk's room",
        ) from fault
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return out


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


def _trainer(base: Model, rows: Sequence[Example], draft: Path, recipe: Recipe, progress: Progress | None) -> Any:
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import datasets
    from peft import LoraConfig
    from transformers import PrinterCallback, TrainerCallback

    try:
        from trl.trainer.sft_config import SFTConfig
        from trl.trainer.sft_trainer import SFTTrainer
    except ImportError as fault:
        raise LabError("fine-tuning needs TRL", got=str(fault), do="pip install 'whence[train]'") from fault

    class Answers(SFTTrainer):
        """TRL's loss with the head at answer tokens only: over every token, the head is a third of a step on a CPU."""

        def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> Any:
            learned = inputs["labels"][:, 1:] != -100
            seen = base.decoder(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
            if not learned.any():  # all rows of the batch were cut before their answers
                return seen.last_hidden_state.sum() * 0
            logits = base.head(seen.last_hidden_state[:, :-1][learned]).float()
            return torch.nn.functional.cross_entropy(logits, inputs["labels"][:, 1:][learned])

    class Tell(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if progress:
                progress(state.global_step, state.max_steps)

    datasets.disable_progress_bars()
    records = [{"prompt": list(row.prompt), "completion": [row.messages[-1]]} for row in rows]
    config = SFTConfig(
        output_dir=str(draft), num_train_epochs=recipe.epochs, per_device_train_batch_size=recipe.batch,
        learning_rate=recipe.rate, lr_scheduler_type="cosine", warmup_steps=0.05, max_length=recipe.max_length,
        seed=recipe.seed, data_seed=recipe.seed, use_cpu=base.device.type == "cpu", bf16=False,
        gradient_checkpointing=False, save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True,
        completion_only_loss=True, train_sampling_strategy="group_by_length",
    )  # fmt: skip
    lora = LoraConfig(r=recipe.rank, lora_alpha=4 * recipe.rank, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = Answers(
        model=base.lm.train(), args=config, train_dataset=datasets.Dataset.from_list(records),
        processing_class=base.tokenizer, peft_config=lora, callbacks=[Tell()],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer
