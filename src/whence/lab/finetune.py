"""Fine-tune a model on Examples: LoRA by PEFT, the loop by TRL's SFTTrainer, loss on the answers alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from whence.errors import LabError
from whence.example import Example
from whence.model import Model

Progress = Callable[[int, int], Any]  # (steps done, steps in all)


def finetune(
    model: Model,
    rows: Sequence[Example],
    out: str | Path,
    *,
    rank: int = 8,
    rate: float = 1e-3,
    epochs: int = 3,
    batch: int = 8,
    max_length: int = 512,
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Train an adapter on `rows` and write it to the folder `out`, whole or not at all; returns `out`.

    `model` is spent: its weights carry the adapter afterwards. `whence.json` in the folder names the model's
    fingerprint, so that the adapter is never put on another one.
    """
    if model.peft is not None:
        raise LabError(
            "this model carries an adapter already", got=str(model.adapter), do="give the base model alone"
        )
    out = Path(out)
    if (out / "adapter_config.json").exists():
        raise LabError(f"{out} holds an adapter already", do="give another folder, or remove this one")
    trainer = _trainer(
        model, rows, out.with_name(out.name + ".draft"), rank, rate, epochs, batch, max_length, seed, progress
    )
    trainer.train()
    draft = Path(trainer.args.output_dir)
    try:
        trainer.save_model(str(draft))
        (draft / "training_args.bin").unlink(missing_ok=True)  # a pickle
        (draft / "whence.json").write_text(
            json.dumps({"model": model.fingerprint["model"], "max_length": max_length, "seed": seed})
        )
        draft.rename(out)
    except OSError as fault:
        raise LabError(
            f"the adapter cannot be written to {out}",
            got=str(fault),
            do="check the folder and the room on the disk",
        ) from fault
    return out


def _trainer(
    model: Model, rows: Sequence[Example], draft: Path, rank: int, rate: float, epochs: int, batch: int,
    max_length: int, seed: int, progress: Progress | None,
) -> Any:  # fmt: skip
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Tell(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if progress:
                progress(state.global_step, state.max_steps)

    records = [{"prompt": list(row.prompt), "completion": [row.messages[-1]]} for row in rows]
    config = SFTConfig(
        output_dir=str(draft), num_train_epochs=epochs, per_device_train_batch_size=batch, learning_rate=rate, max_length=max_length,
        lr_scheduler_type="cosine", warmup_steps=0.05, seed=seed, data_seed=seed, use_cpu=model.device.type == "cpu",
        bf16=False, gradient_checkpointing=False, save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True,
        completion_only_loss=True, train_sampling_strategy="group_by_length",
    )  # fmt: skip
    lora = LoraConfig(r=rank, lora_alpha=4 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = SFTTrainer(
        model=model.lm.train(),
        args=config,
        train_dataset=Dataset.from_list(records),
        processing_class=model.tokenizer,
        peft_config=lora,
        callbacks=[Tell()],
    )
    return trainer
