"""Log to MLflow: to this process's active run, to its last run if a Trainer has ended that, or to a new run."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

from taughtby.tracking.run_record import Log, RunRecord


@contextmanager
def open_run(name: str, folder: Path) -> Generator[Log]:
    """Yield a function that logs to the run. `MLFLOW_TRACKING_URI` and similar variables set server and experiment."""
    del folder  # MLflow has its own store
    mlflow: Any = import_module("mlflow")
    active, last = mlflow.active_run(), mlflow.last_active_run()
    with nullcontext() if active else mlflow.start_run(run_id=last and last.info.run_id, run_name=name):
        yield lambda record: _log(mlflow, record)


def _log(mlflow: Any, record: RunRecord) -> None:
    mlflow.log_params(dict(record.settings))
    mlflow.log_metrics(dict(record.metrics))
    for name, table in record.tables.items():
        columns = {column: [row[place] for row in table.rows] for place, column in enumerate(table.columns)}
        mlflow.log_table(columns, artifact_file=f"{name}.table.json")  # NAME.json may be a file of the run
    for file in filter(None, (record.page, *record.files)):
        if file.is_dir():
            mlflow.log_artifacts(str(file), artifact_path=f"taughtby/{file.name}")
        else:
            mlflow.log_artifact(str(file), artifact_path="taughtby")
