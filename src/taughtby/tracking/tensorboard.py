"""Log to TensorBoard: numbers and tables as event files. It cannot store files, so their paths are listed."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from taughtby.text import markdown_code, markdown_text
from taughtby.tracking.run_record import Log, RunRecord, Table


@contextmanager
def open_run(name: str, folder: Path) -> Generator[Log]:
    """Yield a function that writes event files to `TENSORBOARD_LOGGING_DIR`, or to `folder/tensorboard`."""
    module: Any = import_module("torch.utils.tensorboard")
    place = Path(os.environ.get("TENSORBOARD_LOGGING_DIR") or folder / "tensorboard") / name
    with module.SummaryWriter(log_dir=str(place)) as writer:
        yield lambda record: _log(writer, record)


def _log(writer: Any, record: RunRecord) -> None:
    for name, value in record.metrics.items():
        writer.add_scalar(name, value)
    if record.settings:
        settings = Table(("setting", "value"), tuple(record.settings.items()))
        writer.add_text("taughtby/settings", _markdown(settings))
    for name, table in record.tables.items():
        writer.add_text(name, _markdown(table))
    if files := [file for file in (record.page, *record.files) if file]:
        writer.add_text("taughtby/files", "\n".join(f"- {markdown_code(file)}" for file in files))


def _markdown(table: Table) -> str:
    head, *rows = (
        [markdown_text("" if cell is None else cell) for cell in line] for line in [table.columns, *table.rows]
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])
