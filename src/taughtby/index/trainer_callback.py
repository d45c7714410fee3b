"""An index made as a Trainer finishes, from the model it still holds: Transformers' Trainer, TRL's, and their kin.

The index can be traced afterwards by what is on disk alone: beside it lies what was trained.
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
from taughtby.errors import ModelError, StoreError, TaughtbyError
from taughtby.index.build import build_index
from taughtby.index.model_sources import address
from taughtby.index.reader import Index
from taughtby.index.storage import storage_path
from taughtby.methods import DEFAULT_METHOD, Method, get_method
from taughtby.models.model import Model, borrow_model, load_model
from taughtby.models.paths import absolute_name
from taughtby.models.training_metadata import MetadataEntry, TrainingMetadata
from taughtby.progress import progress_bar
from taughtby.text import make_visible

UNCUT = 1 << 20  # tokens of a row, where the Trainer cuts none; the model's window is the limit then
PATIENCE = timedelta(days=30)  # of the processes that wait for the one that indexes
IGNORED = -100  # the label of a token that no loss is taken on


class IndexCallback(TrainerCallback):
    """Index `data` into the folder `out` once training has ended; what was trained is saved to `OUT-adapter`.

    (A full fine-tune's weights go to `OUT-model`.) Rows become ids as the Trainer made them: its length, its mask and
    its tokenizer's template, unless `encoding` says otherwise. What is wrong with the arguments is said at once, and
    not after hours of training. A fault in indexing never costs the training: it becomes a warning and `error`; else
    `index` is the index, open. The model is given back as it was. Of several processes, as under torchrun, the main
    one indexes, on its own device, while the others wait.
    """

    def __init__(
        self,
        data: str | Path,
        out: str | Path,
        methods: Sequence[Method | str] = (DEFAULT_METHOD,),
        *,
        reading: ReadOptions | None = None,
        encoding: Encoding | None = None,
        budget: int | None = None,
    ) -> None:
        # a script may change its working directory before training ends
        self.data, self.out = absolute_name(str(data)), Path(address(storage_path(out)))
        self.methods = [get_method(how) if isinstance(how, str) else how for how in methods]
        self.reading, self.encoding, self.budget = reading, encoding, budget
        detect_format(data, reading or ReadOptions())  # refuses what cannot be read
        self.index: Index | None = None
        self.error: BaseException | None = None
        self._check()

    def on_train_end(self, args: Any, state: Any, control: Any, **held: Any) -> None:
        """Index, on the main process alone."""
        with _together():
            if state.is_world_process_zero:
                self._index(args, held)

    def _index(self, args: Any, held: dict[str, Any]) -> None:
        self.index = self.error = None
        try:
            with (
                progress_bar(Console(stderr=True), f"index {self.data}") as tell,
                self._lent(args, held["model"], held["processing_class"]) as lent,
            ):
                model = replace(lent, metadata=TrainingMetadata(tuple(_facts(args, held.get("train_dataloader")))))
                reading = self.reading or ReadOptions(turns=model.metadata.turns or "last")
                encoding = self.encoding or default_options(
                    model.metadata, model.context_length, raw=detect_format(self.data, reading).raw
                )
                self.index = build_index(
                    model, self.data, self.out, self.methods, reading=reading, encoding=encoding, budget=self.budget,
                    progress=tell,
                )  # fmt: skip
        except (Exception, KeyboardInterrupt) as fault:  # the training is done, whatever happens here
            self.error = fault
            told = str(fault) if isinstance(fault, TaughtbyError) else f"{type(fault).__name__}: {fault}"
            warnings.warn(f"training is done, but its data are not indexed: {make_visible(told)}", stacklevel=3)

    @contextmanager
    def _lent(self, args: Any, lm: Any, tokenizer: Any) -> Generator[Model]:
        """The Trainer's model as one that can be loaded again: what was trained is saved first."""
        self._check()
        peft = hasattr(lm, "get_base_model")
        if getattr(args, "deepspeed", None) or getattr(args, "fsdp", None) or _sharded(lm):
            do = "save it, and index afterwards with `taughtby index build`"
            raise ModelError("the model is spread over several processes", got="DeepSpeed, FSDP or the like", do=do)
        if not peft and getattr(lm, "_hf_peft_config_loaded", False):
            raise ModelError("an adapter sits in the model itself", got="add_adapter", do="use peft.get_peft_model")
        base = str(lm.get_base_model().name_or_path if peft else lm.name_or_path)
        if not base:
            do = "load the model with from_pretrained from a folder or a hub id, so that a trace can find it again"
            raise ModelError("the model that is trained has no name", do=do)
        if Path(base).is_dir():
            base = str(Path(base).resolve())
        saved = str(self._beside("adapter" if peft else "model").resolve())
        lm.save_pretrained(saved)
        tokenizer.save_pretrained(saved)
        if peft:
            lending = borrow_model(lm, tokenizer, name=base, adapter=saved)
        else:
            compared = any(how.name == "lesson" for how in self.methods)  # the one that reads the model from before
            dtype, device = str(lm.dtype).removeprefix("torch."), str(lm.device)
            before = load_model(base, dtype=dtype, device=device) if compared else None
            lending = borrow_model(lm, tokenizer, name=saved, base=before)
        with lending as model:
            yield model

    def _beside(self, kind: str) -> Path:
        return self.out.with_name(f"{self.out.name}-{kind}")

    def _check(self) -> None:
        """Nothing is written over: an earlier index needs the model beside it."""
        for place in (self.out, self._beside("adapter"), self._beside("model")):
            if place.exists() and (not place.is_dir() or any(place.iterdir())):
                raise StoreError(f"{place} is there already", do="give another folder for the index, or remove it")


@contextmanager
def _together() -> Generator[None]:
    """Hold all processes of a distributed training until each is through.

    Without that, those that have nothing to do would go on to the next collective operation, and time out in it. They
    wait by way of gloo, in a group of its own: NCCL would end them after ten minutes, whatever they were told.
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
    """Whether this process holds parts of the weights alone: those of DeepSpeed, of a DTensor, or of old FSDP."""
    marks = ("ds_id", "device_mesh", "_is_flat_param")
    return any(hasattr(weight, mark) for weight in lm.parameters() for mark in marks)


def _facts(args: Any, loader: Any) -> Iterator[MetadataEntry]:
    """What the Trainer's settings, and a batch as the model got it, say of how rows became ids."""
    where = type(args).__name__
    if hasattr(args, "max_length"):
        yield MetadataEntry("max_length", args.max_length or UNCUT, where, "max_length")
    if getattr(args, "truncation_mode", None) == "keep_end":
        yield MetadataEntry("truncate", "left", where, "truncation_mode")
    if getattr(args, "assistant_only_loss", False):
        yield MetadataEntry("turns", "all", where, "assistant_only_loss")
    # by the loader beneath Accelerate's: to begin that one is an operation of all processes, and this is one of them
    batch = next(iter(getattr(loader, "base_dataloader", loader) or ()), None)
    if batch is not None and "labels" in batch:
        labels = batch["labels"]
        mask = batch["attention_mask"] if "attention_mask" in batch else torch.ones_like(labels)
        first = labels.gather(1, mask.int().argmax(1, keepdim=True))  # prompts come first, after padding if any
        yield MetadataEntry("mask", "all" if bool((first != IGNORED).all()) else "response", "a batch", "labels")
