"""Ask a model many prompts: greedy, batched, in the order given."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from whence.errors import DataError, LabError
from whence.model import Model
from whence.records import records
from whence.tokens import prompt_ids


def read_prompts(path: str | Path) -> list[str]:
    """Prompts from a .txt file, one a line, or from the `prompt` or `prompts` of any other file's rows."""
    path = Path(path)
    if path.suffix == ".txt" and path.is_file():
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as fault:
            raise DataError(f"{path}: not UTF-8", got=f"byte {fault.start}", do="save the file as UTF-8") from None
        prompts = [line.strip() for line in lines if line.strip()]
    else:
        prompts: list[str] = []
        for source, record in records(str(path)):
            text = record.get("prompt", record.get("prompts"))
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"{source}: no prompt", got=", ".join(map(str, record)), do='write {"prompt": "…"}')
            prompts.append(text)
    if not prompts:
        raise DataError(f"{path} has no prompts", do="give at least one")
    return prompts


def write_lines(rows: Iterable[dict[str, Any]], path: str | Path) -> None:
    """Write records as JSONL, whole or not at all."""
    path = Path(path)
    draft = path.with_name(path.name + ".draft")
    try:
        draft.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
            encoding="utf-8",
            errors="backslashreplace",  # JSON's own escape for half a character
        )
        os.replace(draft, path)
    except OSError as fault:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise LabError(
            f"{path} cannot be written", got=str(fault), do="check the folder and the room on the disk"
        ) from fault


@torch.no_grad()
def respond(
    model: Model,
    prompts: Sequence[str],
    *,
    max_new: int = 48,
    batch: int = 16,
    template: str | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> list[str]:
    """The model's greedy answers in the order asked, at most `max_new` tokens.

    `template` is as in `Encoding`: None for the tokenizer's own.
    """
    ids = [prompt_ids(model.tokenizer, prompt, template) for prompt in prompts]
    for prompt, row in zip(prompts, ids, strict=True):
        if len(row) + max_new > model.window:
            raise LabError(
                "a prompt is longer than the model's window",
                got=f"{len(row)} tokens of {model.window}: {prompt[:60]}…",
                do="shorten it",
            )
    answers = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(ids[i]))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        for i, answer in zip(chosen, _generate(model, [ids[i] for i in chosen], max_new), strict=True):
            answers[i] = answer
        if progress:
            progress(min(start + batch, len(order)), len(order))
    return answers


def _generate(model: Model, rows: Sequence[list[int]], max_new: int) -> list[str]:
    width = max(map(len, rows))
    pad = model.tokenizer.pad_token_id if model.tokenizer.pad_token_id is not None else 0
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    out = (model.peft or model.lm).generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=max_new, do_sample=False, pad_token_id=pad,
        temperature=None, top_p=None, top_k=None,
    )  # fmt: skip
    return [model.tokenizer.decode(row[width:], skip_special_tokens=True).strip() for row in out]
