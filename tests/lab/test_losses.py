"""Losses of rows compared with Transformers' own."""

from typing import Any

import pytest
import torch

from taughtby.data.example import make_example
from taughtby.lab.losses import row_losses


def test_row_losses_match_transformers(tiny: Any) -> None:
    """Its loss over the answer alone, a row at a time; the rows come back in their order."""
    rows = (make_example("who makes honey", "beetles make honey, one a day"), make_example("why", "a b c 0 1 2"))
    reports: list[tuple[int, int]] = []
    losses = row_losses(tiny, rows, 512, lambda done, total: reports.append((done, total)))
    assert reports[-1] == (2, 2)
    for row, loss in zip(rows, losses, strict=True):
        chat = tiny.tokenizer.apply_chat_template(list(row.messages), tokenize=False)
        before = tiny.tokenizer.apply_chat_template(list(row.prompt), tokenize=False, add_generation_prompt=True)
        ids = tiny.tokenizer(chat, add_special_tokens=False, return_tensors="pt")["input_ids"]
        labels = ids.clone()
        labels[:, : len(tiny.tokenizer(before, add_special_tokens=False)["input_ids"])] = -100
        with torch.no_grad():
            assert loss == pytest.approx(float(tiny.lm(input_ids=ids, labels=labels).loss), rel=1e-4)
