"""Stand-ins for the packages of trackers: they record each call, and take only what the real ones take."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

Calls = list[tuple[Any, ...]]


class FakeRun:
    """A run of W&B."""

    def __init__(self, calls: Calls, id: str = "abc") -> None:
        self.calls, self.id, self.config = calls, id, self

    def update(self, settings: dict[str, str], allow_val_change: bool) -> None:
        self.calls.append(("config", settings, allow_val_change))

    def log(self, values: dict[str, Any]) -> None:
        self.calls.append(("log", values))

    def log_artifact(self, artifact: Any) -> None:
        self.calls.append(("artifact", artifact.name, artifact.type, artifact.entries))

    def __enter__(self) -> FakeRun:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.calls.append(("finish", 1 if kind else 0))


class FakeArtifact:
    def __init__(self, name: str, type: str) -> None:
        self.name, self.type, self.entries = name, type, list[tuple[str, str]]()

    def add_file(self, path: str, name: str) -> None:
        assert Path(path).is_file()
        self.entries.append(("file", name))

    def add_dir(self, path: str, name: str) -> None:
        assert Path(path).is_dir()
        self.entries.append(("dir", name))


def install(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> ModuleType:
    """Put a module where `import` and `find_spec` look for it."""
    module = ModuleType(name)
    module.__dict__.update(content, __spec__=ModuleSpec(name, None))
    monkeypatch.setitem(sys.modules, name, module)
    return module


def fake_wandb(monkeypatch: pytest.MonkeyPatch, calls: Calls) -> ModuleType:
    """W&B without a run in this process."""

    def init(**options: Any) -> FakeRun:
        calls.append(("init", options))
        return FakeRun(calls)

    def table(columns: list[str], data: list[list[Any]], allow_mixed_types: bool) -> Any:
        assert all(len(row) == len(columns) for row in data)
        return ("table", columns, data, allow_mixed_types)

    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return install(monkeypatch, "wandb", run=None, init=init, Table=table, Artifact=FakeArtifact,
                   Html=lambda path, inject: ("html", Path(path).read_text(), inject))  # fmt: skip


def fake_mlflow(monkeypatch: pytest.MonkeyPatch, calls: Calls) -> ModuleType:
    """MLflow without a run in this process."""

    @contextmanager
    def start_run(run_id: str | None, run_name: str) -> Iterator[None]:
        calls.append(("start", run_id, run_name))
        try:
            yield
        except BaseException:
            calls.append(("end", "FAILED"))
            raise
        calls.append(("end", "FINISHED"))

    def note(name: str) -> Any:
        return lambda *values, **options: calls.append((name, *values, *options.items()))

    return install(
        monkeypatch, "mlflow", active_run=lambda: None, last_active_run=lambda: None, start_run=start_run,
        **{name: note(name) for name in ("log_params", "log_metrics", "log_table", "log_artifact", "log_artifacts")},
    )  # fmt: skip


def fake_tensorboard(monkeypatch: pytest.MonkeyPatch, calls: Calls) -> ModuleType:
    """TensorBoard, as torch gives it."""

    class SummaryWriter:
        def __init__(self, log_dir: str) -> None:
            calls.append(("open", log_dir))

        def add_scalar(self, name: str, value: float) -> None:
            calls.append(("scalar", name, value))

        def add_text(self, name: str, text: str) -> None:
            calls.append(("text", name, text))

        def __enter__(self) -> SummaryWriter:
            return self

        def __exit__(self, *error: Any) -> None:
            calls.append(("close",))

    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    install(monkeypatch, "tensorboard")
    return install(monkeypatch, "torch.utils.tensorboard", SummaryWriter=SummaryWriter)
