"""A callback for Trainers (Transformers, TRL, or a subclass) that indexes the training data after training.

The trained adapter or model is saved next to the index, so that the index can be traced later from disk.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import distributed
from transformers import TrainerCallback

from taughtby.data.dataset import ReadOptions, detect_format
from taughtby.data.tokenize import Encoding, default_options
from taughtby.errors import ModelError, OptionError, StoreError, TaughtbyError
from taughtby.index.api import Data, Methods, data_file, parse_methods, with_reading
from taughtby.index.build import build_index
from taughtby.index.model_sources import resolved_address
from taughtby.index.reader import Index
from taughtby.index.storage import storage_path
from taughtby.methods import DEFAULT_METHOD
from taughtby.models.live_model import borrow_model, match_saved
from taughtby.models.model import Model
from taughtby.models.paths import absolute_name
from taughtby.models.training_metadata import MetadataEntry, TrainingMetadata
from taughtby.progress import progress_bar
from taughtby.text import make_visible
from taughtby.tracking.registry import check_tracker, open_runs
from taughtby.tracking.run_record import make_record

UNLIMITED = 1 << 20  # tokens per row if the Trainer does not truncate: the model's context length is the limit
PATIENCE = timedelta(days=30)  # timeout of the processes that wait for the one that indexes
IGNORED = -100  # label of a token without loss


class IndexCallback(TrainerCallback):
    """Build an index of `data` when training ends, and save the trained weights next to it.

    The active adapter is saved to `OUT-adapter` (to a subfolder if its name is not `default`), the weights of a full
    fine-tune to `OUT-model`. Rows are tokenized as in the Trainer: its maximum length, its loss mask, its tokenizer's
    chat template. Invalid arguments raise an error before training. An error during indexing becomes a warning, so that
    the training is not lost. The model is not changed. What was saved is loaded once, on the CPU, to make sure that
    traces will load the model that was trained. With several processes, as under torchrun, the main one indexes on its
    own device while the others wait.

    Args:
        data: The training set: a file, a folder or a hub id; or rows in memory, which are saved as JSONL next to the
            index (`OUT-data-….jsonl`).
        out: The folder of the index.
        methods: The methods whose features are stored: one, or a list.
        read_options: How rows are read. By default, from the Trainer's settings.
        encoding: How rows are tokenized. By default, as in the Trainer.
        token_budget: Padded tokens per batch.
        report_to: Trackers (`wandb`, `mlflow`, `tensorboard`) to log the index's row counts and manifest to, in the
            Trainer's run if it has one there.

    Attributes:
        index: The finished index; None until it is built.
        error: The error that stopped indexing, if any.
    """

    def __init__(
        self,
        data: Data,
        out: str | Path,
        methods: Methods = DEFAULT_METHOD,
        *,
        read_options: ReadOptions | None = None,
        encoding: Encoding | None = None,
        token_budget: int | None = None,
        report_to: str | Sequence[str] = (),
    ) -> None:
        # a script may change its working directory before training ends
        self.out = Path(resolved_address(storage_path(out)))
        self._require_new()
        self.methods = parse_methods(methods)
        data, self.read_options = with_reading(data, read_options)
        self.data = absolute_name(data_file(data, self.out))
        self.encoding, self.token_budget = encoding, token_budget
        self.report_to = [report_to] if isinstance(report_to, str) else list(report_to)
        for name in self.report_to:
            check_tracker(name)
        detect_format(self.data, self.read_options or ReadOptions())  # raises if the data cannot be read
        self.index: Index | None = None
        self.error: BaseException | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Refuse a Trainer whose model could not be indexed after training."""
        _base_name(args, objects["model"])
        if objects.get("processing_class") is None:
            do = "pass processing_class=tokenizer to the Trainer, since traces need the model's tokenizer"
            raise OptionError("the Trainer has no tokenizer", got="processing_class=None", do=do)

    def on_train_end(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        """Build the index on the main process."""
        with _all_processes():
            if state.is_world_process_zero:
                self._index(args, objects)

    def _index(self, args: Any, objects: dict[str, Any]) -> None:
        self.index = self.error = None
        outcome = "its data was not indexed"
        try:
            with (
                progress_bar(Console(stderr=True), f"index {self.data}") as progress,
                self._borrow(args, objects["model"], objects["processing_class"]) as borrowed,
            ):
                metadata = TrainingMetadata(tuple(_metadata_entries(args, objects.get("train_dataloader"))))
                model = replace(borrowed, metadata=metadata)
                read_options = self.read_options or ReadOptions(turns=metadata.turns or "last")
                encoding = self.encoding or default_options(
                    metadata, model.context_length, raw=detect_format(self.data, read_options).raw
                )
                self.index = build_index(
                    model, self.data, self.out, self.methods, read_options=read_options, encoding=encoding,
                    token_budget=self.token_budget, progress=progress,
                )  # fmt: skip
            outcome = "its data is indexed, but not reported"
            self._report(self.index, Path(args.output_dir))
        except (Exception, KeyboardInterrupt) as error:  # a finished training must not fail
            self.error = error
            text = str(error) if isinstance(error, TaughtbyError) else f"{type(error).__name__}: {error}"
            warnings.warn(f"training is done, but {outcome}: {make_visible(text)}", stacklevel=3)

    def _report(self, index: Index, folder: Path) -> None:
        settings = index.manifest["settings"]
        names = {"index": index.path, "methods": ", ".join(settings["methods"]),
                 **{name: settings[name] for name in ("model", "adapter")}}  # fmt: skip
        numbers = {"rows/all": len(index), "rows/skipped": len(index.manifest["skipped"])}
        with open_runs(self.report_to, self.out.name, folder) as log:
            log(make_record(names, numbers, files=[Path(str(index.path)) / "manifest.json"]))

    @contextmanager
    def _borrow(self, args: Any, lm: Any, tokenizer: Any) -> Generator[Model]:
        """Save what was trained, and yield the model under the names to load it from."""
        self._require_new()
        peft, base = _is_peft(lm), _base_name(args, lm)
        folder = str(_save(lm, self._beside("adapter" if peft else "model").resolve()))
        tokenizer.save_pretrained(folder)
        name, adapter = (base, folder) if peft else (folder, None)
        needs_base = not peft and any(method.name == "lesson" for method in self.methods)
        with borrow_model(lm, tokenizer, name=name, adapter=adapter) as live:
            yield match_saved(live, base if needs_base else None)

    def _beside(self, kind: str) -> Path:
        return self.out.with_name(f"{self.out.name}-{kind}")

    def _require_new(self) -> None:
        """Refuse to overwrite an earlier index or the model saved next to it."""
        for path in (self.out, self._beside("adapter"), self._beside("model")):
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise StoreError(f"{path} already exists", do="give another folder for the index, or remove it")


def _is_peft(lm: Any) -> bool:
    return hasattr(lm, "get_base_model")


def _save(lm: Any, folder: Path) -> Path:
    """Save the model, or its active adapter; return the folder, a subfolder for an adapter that is not `default`."""
    if not _is_peft(lm):
        lm.save_pretrained(str(folder))
        return folder
    lm.save_pretrained(str(folder), selected_adapters=[lm.active_adapter])
    return folder if lm.active_adapter == "default" else folder / lm.active_adapter


def _base_name(args: Any, lm: Any) -> str:
    """Return the name of the base model; raise if the model could not be loaded again."""
    peft = _is_peft(lm)
    if getattr(args, "deepspeed", None) or getattr(args, "fsdp", None) or _sharded(lm):
        do = "save it, and index afterwards with `taughtby index build`"
        raise ModelError("the model is sharded over several processes", got="DeepSpeed, FSDP or similar", do=do)
    if not peft and getattr(lm, "_hf_peft_config_loaded", False):
        raise ModelError("adapters from add_adapter are not supported", do="use peft.get_peft_model")
    if peft and len(lm.active_adapters) > 1:
        do = "make one of them active with set_adapter, and train that one"
        raise ModelError("several adapters are active", got=", ".join(lm.active_adapters), do=do)
    name = str(lm.get_base_model().name_or_path if peft else lm.name_or_path)
    if not name:
        do = "load the model with from_pretrained from a folder or a hub id, so that a trace can find it again"
        raise ModelError("the trained model has no name_or_path", do=do)
    return str(Path(name).resolve()) if Path(name).is_dir() else name


@contextmanager
def _all_processes() -> Generator[None]:
    """Make all processes of a distributed training wait until each has finished.

    Otherwise the idle ones time out in the next collective operation. They wait in a separate gloo group, because NCCL
    aborts them after ten minutes regardless of its timeout.
    """
    group: Any = None
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        group = distributed.new_group(backend="gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        if group is not None:
            distributed.barrier(group=group)
            distributed.destroy_process_group(group)


def _sharded(lm: Any) -> bool:
    """Whether this process holds only shards of the weights (DeepSpeed, DTensor, or FSDP 1)."""
    marks = ("ds_id", "device_mesh", "_is_flat_param")
    return any(hasattr(weight, mark) for weight in lm.parameters() for mark in marks)


def _metadata_entries(args: Any, loader: Any) -> Iterator[MetadataEntry]:
    """Yield how the Trainer tokenized rows, from its settings and one batch."""
    source = type(args).__name__
    if hasattr(args, "max_length"):
        yield MetadataEntry("max_length", args.max_length or UNLIMITED, source, "max_length")
    if getattr(args, "truncation_mode", None) == "keep_end":
        yield MetadataEntry("truncate", "left", source, "truncation_mode")
    if getattr(args, "assistant_only_loss", False):
        yield MetadataEntry("turns", "all", source, "assistant_only_loss")
    # the loader inside Accelerate's: iterating over the outer one is a collective operation, and this is one process
    batch = next(iter(getattr(loader, "base_dataloader", loader) or ()), None)
    if batch is not None and "labels" in batch:
        labels = batch["labels"]
        mask = batch["attention_mask"] if "attention_mask" in batch else torch.ones_like(labels)
        first = labels.gather(1, mask.int().argmax(1, keepdim=True))  # the first token after padding is a prompt's
        yield MetadataEntry("mask", "all" if bool((first != IGNORED).all()) else "response", "a batch", "labels")
