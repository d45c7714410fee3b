"""Fine-tune a model with TRL's SFTTrainer: a LoRA adapter with PEFT, or all weights.

.OUT.draft   during training: the plan (plan.json), and the Trainer's last checkpoint
OUT          the adapter or model; taughtby.json, the training record: base model, options, row counts; curve.json:
             step, loss, learning rate, seconds; for an adapter, Adam's moments. None of the files is a pickle
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch

from taughtby.data.example import Example
from taughtby.data.row_ids import content_hash
from taughtby.data.tokenize import Encoding, SkippedRow, TokenizedExample, tokenize_all
from taughtby.errors import LabError, TaughtbyError, machine_fault
from taughtby.lab.training_options import FULL_RATE, TrainingOptions
from taughtby.models.model import Model

__all__ = [
    "FULL_RATE", "TrainingOptions", "checkpoint_step", "finetune", "loss_places", "num_unusable_rows",
    "read_training_record", "refuse_distributed",
]  # fmt: skip

Progress = Callable[[int, int], Any]  # (steps done, total steps)
_OLD_KEYS = {"rate": "learning_rate", "batch": "batch_size"}  # in records written by earlier versions


def finetune(
    model: Model, rows: Sequence[Example], out: str | Path, options: TrainingOptions | None = None, *,
    progress: Progress | None = None,
) -> Path:  # fmt: skip
    """Train an adapter, or with `full` the model, and write it to a folder atomically.

    Repeat the same call to resume an interrupted one from its last checkpoint, with the same result. Training runs in
    this process on the device of `model`, and changes the weights of `model`. The training record stores the model's
    fingerprint, so that the adapter is never loaded on another model.

    Args:
        model: A model without an adapter.
        rows: The training rows; those with too long a prompt or without tokens with loss are skipped.
        out: The folder to write; it must be empty or not exist.
        options: How to train.
        progress: Called with (steps done, total steps).

    Returns:
        `out`.

    Raises:
        LabError: The model, the rows or the folder cannot be used, or the machine lacks memory or disk space.
    """
    options, out = options or TrainingOptions(), Path(out)
    _check(model, rows, out, options)
    record = {"model": model.fingerprint["model"], "base": model.name, **asdict(options)}
    draft, tokenized = _draft_folder(out), _tokenized(model, rows, options)
    try:
        _begin(draft, {**record, "data": _digest(rows)}, out)
        trainer = _make_trainer(model, tokenized, draft, options, progress)
        trainer.train(resume_from_checkpoint=_last_checkpoint(draft))
        result = draft.absolute() / "whole"  # Transformers expands `~` in a relative path
        # `home` locates the base model if both folders have moved
        facts = {"home": str(out.resolve()), "rows": len(tokenized), "unusable": len(rows) - len(tokenized)}
        _write(trainer, result, {**record, **facts})
        result.replace(out.resolve())  # keeps a symbolic link to an empty folder
        shutil.rmtree(draft)
    except TaughtbyError:
        raise
    except Exception as fault:
        if error := _machine_error(fault, f"the {'model' if options.full else 'adapter'} cannot be written to {out}"):
            raise error from fault
        raise
    finally:
        if not checkpoint_step(out):
            shutil.rmtree(draft, ignore_errors=True)
    return out


def checkpoint_step(out: str | Path) -> int:
    """Return the step of the last checkpoint of an unfinished training to `out`; 0 if there is none."""
    checkpoint = _last_checkpoint(_draft_folder(Path(out)))
    return int(checkpoint.rpartition("-")[2]) if checkpoint else 0


def read_training_record(folder: str | Path) -> dict[str, Any]:
    """Return the training record that `finetune` wrote to a folder, with the current key names.

    Raises:
        OSError: There is no record.
        ValueError: The record is not a JSON object.
    """
    record = json.loads((Path(folder) / "taughtby.json").read_text(encoding="utf-8"))
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    return _with_current_keys(cast("dict[str, Any]", record))


def num_unusable_rows(out: str | Path) -> int:
    """Return the number of rows that a finished training skipped."""
    return int(read_training_record(out)["unusable"])


def loss_places(row: Example) -> list[Any]:
    """Return what decides where a row has a loss besides its content and masked characters; empty if nothing does."""
    return [row.no_loss, row.loss_from, row.after] if row.no_loss or row.loss_from is not None or row.after else []


def refuse_distributed() -> None:
    """Raise a LabError in a distributed launch: each process would train alone and write to the same folder."""
    initialized = torch.distributed.is_available() and torch.distributed.is_initialized()
    size = os.environ.get("WORLD_SIZE", "1")
    count = torch.distributed.get_world_size() if initialized else int(size) if size.isdecimal() else 1
    if count > 1:
        raise LabError(
            "taughtby trains in one process", got=f"{count} processes, as torchrun or accelerate starts them",
            do="start it without them: --device cuda:1 chooses a GPU, --device map spreads a large model over all",
        )  # fmt: skip


def _with_current_keys(record: dict[str, Any]) -> dict[str, Any]:
    return {_OLD_KEYS.get(key, key): value for key, value in record.items()}


def _machine_error(fault: Exception, what: str) -> LabError | None:
    """The error to raise for a machine fault during training or for a failed write; None for other errors."""
    problem, do = machine_fault(fault), "check the folder and the free space of the disk"
    if not isinstance(fault, OSError):
        what = "the training stopped"
        if problem is None:
            return None
    if problem:
        what, do = f"{what}: {problem[0]}", problem[1]
    return LabError(what, got=str(fault)[:300], do=do)


def _draft_folder(out: Path) -> Path:
    out = out.resolve()  # on the disk of the result
    return out.with_name(f".{out.name}.draft")


def _check(model: Model, rows: Sequence[Example], out: Path, options: TrainingOptions) -> None:
    refuse_distributed()
    if any(weight.is_meta for weight in model.lm.parameters()):
        raise LabError("a model that does not fit onto its devices cannot be trained",
                       got="weights offloaded to the CPU or the disk", do="use more or larger devices")  # fmt: skip
    if model.peft is not None:
        raise LabError("this model already has an adapter", got=str(model.adapter), do="give the base model without it")
    if options.full and getattr(model.lm, "is_quantized", False):
        raise LabError("quantized weights cannot be trained", do="load the model without --quantize")
    if out.resolve() == Path.cwd():
        raise LabError("the working directory cannot be replaced", got=str(out), do="give a folder in it")
    if (out / "adapter_config.json").exists():
        raise LabError(f"{out} already contains an adapter", do="give another folder, or remove this one")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise LabError(f"{out} is not an empty folder", do="give a folder that is empty or does not exist")
    if not rows:
        raise LabError("there is no row to train on", do="give at least one")


def _begin(draft: Path, plan: dict[str, Any], out: Path) -> None:
    """Write the plan; raise if the draft has a checkpoint of another training."""
    file = draft / "plan.json"
    if _last_checkpoint(draft):
        stored = _with_current_keys(json.loads(file.read_text()))
        if changes := [key for key in plan if key != "base" and stored.get(key) != plan[key]]:
            got = ", ".join(f"{key}: the draft has {stored.get(key)}, but {plan[key]} was given" for key in changes)
            do = f"use the same options and rows, give another folder than {out}, or remove {draft}"
            raise LabError(f"{draft} contains an unfinished training with other options or rows", got=got, do=do)
        return
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    file.write_text(json.dumps(plan))


def _digest(rows: Sequence[Example]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for row in rows:
        digest.update(repr((content_hash(row), row.masked, loss_places(row))).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def _last_checkpoint(draft: Path) -> str | None:
    """The last complete checkpoint; trainer_state.json is written last."""
    for folder in sorted(draft.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2])):
        try:
            json.loads((folder / "trainer_state.json").read_text())
        except (OSError, ValueError):  # killed while it was written
            continue
        return str(folder)
    return None


def _tokenized(model: Model, rows: Sequence[Example], options: TrainingOptions) -> list[dict[str, Any]]:
    """The usable rows, tokenized as by `taughtby index build`, in TRL's format for tokenized rows."""
    results = tokenize_all(model.tokenizer, rows, Encoding(options.max_length))
    usable = [row for row in results if isinstance(row, TokenizedExample)]
    if not usable:
        source, reason = next((row.source, skip.reason) for row, skip in zip(rows, results, strict=True)
                              if isinstance(skip, SkippedRow))  # fmt: skip
        got = f"{source}: {reason}" if source else reason
        raise LabError("no row can be trained on", got=got, do="raise --max-length, or give rows with unmasked answers")
    return [{"input_ids": list(row.ids), "completion_mask": list(map(int, row.loss_mask))} for row in usable]


def _make_trainer(*arguments: Any) -> Any:
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        from taughtby.lab.trainer import make_trainer
    except ImportError as fault:
        raise LabError("fine-tuning needs TRL", got=str(fault), do="pip install 'taughtby[train]'") from fault
    return make_trainer(*arguments)


def _write(trainer: Any, folder: Path, record: dict[str, Any]) -> None:
    trainer.save_model(str(folder))
    (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle
    (folder / "taughtby.json").write_text(json.dumps(record, indent=1))
    (folder / "curve.json").write_text(_curve(trainer.state.log_history))
    if not record["full"]:
        _save_moments(trainer, folder)


def _curve(history: Sequence[dict[str, Any]]) -> str:
    """The learning curve as JSON, with one step per line."""
    keys = {"step": "step", "loss": "loss", "rate": "learning_rate", "seconds": "seconds"}
    steps = [json.dumps({name: entry[key] for name, key in keys.items()}) for entry in history if "loss" in entry]
    return "[\n" + ",\n".join(steps) + "\n]\n"


def _save_moments(trainer: Any, out: Path) -> None:
    """Save Adam's moments for the method `less`, as safetensors, since a Trainer's `optimizer.pt` is a pickle."""
    from safetensors.torch import save_file

    group, stored, steps = trainer.optimizer.param_groups[0], {}, 0
    for name, weight in trainer.model.named_parameters():
        if moments := trainer.optimizer.state.get(weight):
            name = name.removeprefix("base_model.model.").removesuffix(".weight").removesuffix(".default")
            stored |= {f"{name}.{kind}": moments[kind].contiguous() for kind in ("exp_avg", "exp_avg_sq")}
            steps = int(moments["step"])
    settings = {"step": steps, "beta1": group["betas"][0], "beta2": group["betas"][1], "eps": group["eps"]}
    save_file(stored, out / "optimizer.safetensors", {key: str(value) for key, value in settings.items()})
