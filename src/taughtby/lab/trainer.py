"""TRL's SFTTrainer with time-based checkpoints, logits only at tokens with loss, and on one device.

Imports TRL, which is an optional dependency.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from peft import LoraConfig
from transformers import PrinterCallback, TrainerCallback
from transformers.pytorch_utils import Conv1D
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from taughtby.lab.training_options import TrainingOptions
from taughtby.models.model import Model

CHECKPOINT_SECONDS = 60.0  # between two checkpoints: an interruption loses no more


def make_trainer(
    base: Model, rows: Sequence[dict[str, Any]], draft: Path, options: TrainingOptions,
    progress: Callable[[int, int], Any] | None,
) -> SFTTrainer:  # fmt: skip
    """Return a trainer that writes its checkpoints to `draft`; `rows` have token ids and a completion mask."""
    datasets.disable_progress_bars()
    # the first warm-up step has learning rate 0, so a training of one step would have no effect
    warmup = 0 if len(rows) <= options.batch_size and options.epochs == 1 else 0.05
    config = SFTConfig(
        output_dir=str(draft.absolute()), num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size, learning_rate=options.learning_rate,
        lr_scheduler_type="cosine", warmup_steps=warmup, max_length=options.max_length, seed=options.seed,
        data_seed=options.seed, use_cpu=base.device.type == "cpu", bf16=False, gradient_checkpointing=False,
        save_strategy="no", save_total_limit=1, logging_strategy="steps", logging_steps=1, report_to=[],
        disable_tqdm=True, completion_only_loss=True, train_sampling_strategy="group_by_length",
    )  # fmt: skip
    pin_device(config, base.device)
    lora = LoraConfig(
        r=options.rank, lora_alpha=4 * options.rank, target_modules=_adapted_modules(base, options.num_blocks),
        task_type="CAUSAL_LM",
    )  # fmt: skip
    lm = base.lm.float().requires_grad_(True) if options.full else base.lm
    trainer = _AnswerTrainer(
        base, model=lm.train(), args=config, train_dataset=datasets.Dataset.from_list(list(rows)),
        processing_class=base.tokenizer, peft_config=None if options.full else lora, callbacks=[_Reporter(progress)],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer


def _adapted_modules(base: Model, num_blocks: int | None) -> str | list[str]:
    """The keyword for all linear layers, or the names of those in the last blocks."""
    if num_blocks is None:
        return "all-linear"
    names = {module: name for name, module in base.lm.named_modules()}
    return [names[module] for block in base.blocks[-num_blocks:] for module in block.modules()
            if isinstance(module, torch.nn.Linear | Conv1D)]  # fmt: skip


def pin_device(config: Any, device: torch.device) -> None:
    """Make the Trainer and Accelerate use this device only.

    By default they use the first GPU regardless of the model's device. With several GPUs they use data parallelism,
    where only the first GPU's batch would count, since `compute_loss` runs the model itself and not its replicas.
    """
    config.__dict__["_setup_devices"] = config.distributed_state.device = device  # the former is a cached property
    config._n_gpu = min(config.n_gpu, 1)
    if device.type == "cuda":
        torch.cuda.set_device(device)


class _AnswerTrainer(SFTTrainer):
    """Computes TRL's loss, with logits only at tokens with loss. On a CPU, all logits take a third of a step."""

    def __init__(self, base: Model, **settings: Any) -> None:
        self.base = base
        super().__init__(**settings)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> Any:
        learned = inputs["labels"][:, 1:] != -100
        output = self.base.decoder(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
        )
        states = output.last_hidden_state[:, :-1]
        logits = self.base.head(states[learned.to(states.device)]).float()  # a model may be on several devices
        targets = inputs["labels"][:, 1:][learned].to(logits.device)
        return torch.nn.functional.cross_entropy(logits, targets).to(learned.device)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return _ResumableOrder(super()._get_train_sampler(train_dataset), lambda: self.state)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        pass  # it would query the hub at every checkpoint


class _ResumableOrder(torch.utils.data.Sampler[int]):
    """A sampler whose order depends only on the epoch, so that a resumed run sees the rows in the same order."""

    def __init__(self, sampler: Any, state: Callable[[], Any]) -> None:
        self.sampler, self.state, self.initial_state = sampler, state, torch.get_rng_state()
        self.steps_per_epoch = -(-len(sampler) // sampler.batch_size)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[int]:
        generator = self.sampler.generator = torch.Generator()
        generator.set_state(self.initial_state)
        order: list[int] = []
        for _ in range(self.state().global_step // self.steps_per_epoch + 1):
            torch.empty((), dtype=torch.int64).random_(generator=generator)  # as DataLoader does per epoch
            order = list(self.sampler)
        return iter(order)


class _Reporter(TrainerCallback):
    """Reports progress, triggers checkpoints by time, and adds seconds to the learning curve."""

    def __init__(self, progress: Callable[[int, int], Any] | None) -> None:
        self.progress, self.start_time = progress, time.monotonic()
        self.checkpoint_time = self.start_time

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.checkpoint_time = time.monotonic()
        self.start_time = self.checkpoint_time - (state.log_history[-1]["seconds"] if state.log_history else 0.0)

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        state.log_history[-1]["seconds"] = round(time.monotonic() - self.start_time, 3)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if time.monotonic() - self.checkpoint_time >= CHECKPOINT_SECONDS and state.global_step < state.max_steps:
            control.should_save, self.checkpoint_time = True, time.monotonic()
        if self.progress:
            self.progress(state.global_step, state.max_steps)
