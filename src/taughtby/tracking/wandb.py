"""Log to Weights & Biases: to the run of this process, or to a new run if there is none."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

from taughtby.tracking.run_record import Log, RunRecord

PROJECT = "taughtby"  # default of WANDB_PROJECT


@contextmanager
def open_run(name: str, folder: Path) -> Generator[Log]:
    """Yield a function that logs to the run. A new run is in the project `WANDB_PROJECT`, with files in `folder`."""
    wandb: Any = import_module("wandb")
    project = os.environ.get("WANDB_PROJECT") or PROJECT
    new_run = None if wandb.run else wandb.init(project=project, name=name, job_type="taughtby", dir=str(folder))
    with new_run or nullcontext(wandb.run) as run:
        yield lambda record: _log(wandb, run, record)


def _log(wandb: Any, run: Any, record: RunRecord) -> None:
    run.config.update(dict(record.settings), allow_val_change=True)
    tables = {name: wandb.Table(columns=list(table.columns), data=[list(row) for row in table.rows],
                                allow_mixed_types=True) for name, table in record.tables.items()}  # fmt: skip
    page = {"taughtby/page": wandb.Html(str(record.page), inject=False)} if record.page else {}
    run.log({**record.metrics, **tables, **page})
    if not record.files:
        return
    artifact = wandb.Artifact(re.sub(r"[^\w.-]+", "-", f"taughtby-{run.id}")[:128], type="taughtby")
    for file in record.files:
        if file.is_dir():
            artifact.add_dir(str(file), name=file.name)
        else:
            artifact.add_file(str(file), name=file.name)
    run.log_artifact(artifact)
