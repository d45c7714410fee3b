"""Trackers: each gets the record's content, in a run that is opened before the work and ended after it."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_trackers import Calls, FakeRun, fake_mlflow, fake_tensorboard, fake_wandb
from taughtby.cli import options
from taughtby.errors import OptionError, TaughtbyError
from taughtby.tracking import registry
from taughtby.tracking.registry import TRACKERS, open_runs
from taughtby.tracking.run_record import MAX_VALUE, PREFIX, Log, RunRecord, make_record

TRAINERS_RUN = SimpleNamespace(info=SimpleNamespace(run_id="r1"))  # as MLflow tells of one


@pytest.fixture
def calls() -> Calls:
    return []


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch, calls: Calls) -> ModuleType:
    return fake_wandb(monkeypatch, calls)


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch, calls: Calls) -> ModuleType:
    return fake_mlflow(monkeypatch, calls)


@pytest.fixture
def tensorboard(monkeypatch: pytest.MonkeyPatch, calls: Calls) -> ModuleType:
    return fake_tensorboard(monkeypatch, calls)


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    page, file, folder = tmp_path / "report.html", tmp_path / "trace.json", tmp_path / "cleaned"
    page.write_text("<p>page</p>")
    file.write_text("{}")
    folder.mkdir()
    return make_record(
        {"model": "m\x1b[31m", "base": None}, {"rows/flagged": 12, "loss": math.nan, "top 5/bad_rate": None},
        {"trace": (["row", "score"], [["a|b<i>", 0.5], [None, math.inf]])}, page,
        [file, folder, tmp_path / "missing"],
    )  # fmt: skip


def test_run_record_is_sanitized(record: RunRecord, tmp_path: Path) -> None:
    assert record.settings == {"taughtby/model": "m⟨U+001B⟩[31m"}
    assert record.metrics == {"taughtby/rows/flagged": 12.0}
    assert record.tables["taughtby/trace"].rows == (("a|b<i>", 0.5), (None, None))
    assert [file.name for file in record.files] == ["trace.json", "cleaned"]


@given(
    st.dictionaries(st.text(min_size=1), st.one_of(st.text(st.characters()), st.none())),
    st.dictionaries(st.text(), st.floats()),
)
def test_run_record_accepts_arbitrary_names_and_values(
    settings: dict[str, str | None], metrics: dict[str, float]
) -> None:
    made = make_record(settings, metrics)
    names = [*made.settings, *made.metrics]
    assert all(name.startswith(PREFIX) and name.isascii() and " " not in name for name in names)
    assert all(len(text) <= MAX_VALUE and text == text.encode().decode() for text in made.settings.values())
    assert all(math.isfinite(value) for value in made.metrics.values())


def test_wandb_receives_the_record(wandb: ModuleType, calls: Calls, record: RunRecord, tmp_path: Path) -> None:
    with open_runs(["wandb"], "incident", tmp_path) as log:
        assert calls == [
            ("init", {"project": "taughtby", "name": "incident", "job_type": "taughtby", "dir": str(tmp_path)})
        ]
        log(record)
    assert calls[1:] == [
        ("config", {"taughtby/model": "m⟨U+001B⟩[31m"}, True),
        ("log", {"taughtby/rows/flagged": 12.0, "taughtby/page": ("html", "<p>page</p>", False),
                 "taughtby/trace": ("table", ["row", "score"], [["a|b<i>", 0.5], [None, None]], True)}),
        ("artifact", "taughtby-abc", "taughtby", [("file", "trace.json"), ("dir", "cleaned")]),
        ("finish", 0),
    ]  # fmt: skip


def test_wandb_run_of_the_trainer_stays_open(wandb: Any, calls: Calls, record: RunRecord, tmp_path: Path) -> None:
    """The run stays open: it is the trainer's."""
    wandb.run = FakeRun(calls, "own")
    with open_runs(["wandb"], "incident", tmp_path) as log:
        log(record)
    assert [name for name, *_ in calls] == ["config", "log", "artifact"]


def test_mlflow_receives_the_record(mlflow: ModuleType, calls: Calls, record: RunRecord, tmp_path: Path) -> None:
    with open_runs(["mlflow"], "incident", tmp_path) as log:
        log(record)
    assert calls == [
        ("start", None, "incident"),
        ("log_params", {"taughtby/model": "m⟨U+001B⟩[31m"}),
        ("log_metrics", {"taughtby/rows/flagged": 12.0}),
        ("log_table", {"row": ["a|b<i>", None], "score": [0.5, None]}, ("artifact_file", "taughtby/trace.table.json")),
        ("log_artifact", str(tmp_path / "report.html"), ("artifact_path", "taughtby")),
        ("log_artifact", str(tmp_path / "trace.json"), ("artifact_path", "taughtby")),
        ("log_artifacts", str(tmp_path / "cleaned"), ("artifact_path", "taughtby/cleaned")),
        ("end", "FINISHED"),
    ]


def test_mlflow_run_of_the_trainer_is_reused(mlflow: Any, calls: Calls, tmp_path: Path) -> None:
    """One that has ended is opened again; one that has not is left open."""
    mlflow.last_active_run = lambda: TRAINERS_RUN
    with open_runs(["mlflow"], "incident", tmp_path):
        assert calls == [("start", "r1", "incident")]
    calls.clear()
    mlflow.active_run = lambda: TRAINERS_RUN
    with open_runs(["mlflow"], "incident", tmp_path):
        assert calls == []


def test_tensorboard_receives_the_record(
    tensorboard: ModuleType, calls: Calls, record: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_runs(["tensorboard"], "incident", tmp_path) as log:
        log(record)
    opened, scalar, settings, table, files, closed = calls
    assert opened == ("open", str(tmp_path / "tensorboard" / "incident"))
    assert scalar == ("scalar", "taughtby/rows/flagged", 12.0)
    assert "| taughtby/model | m⟨U+001B⟩\\[31m |" in settings[2]
    assert table[1:] == ("taughtby/trace", "| row | score |\n| --- | --- |\n| a\\|b\\<i\\> | 0.5 |\n|  |  |")
    assert f"`{tmp_path / 'trace.json'}`" in files[2] and closed == ("close",)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    with open_runs(["tensorboard"], "incident", tmp_path):
        assert calls[-1] == ("open", str(tmp_path / "logs" / "incident"))


def test_error_while_closing_a_run_reports_the_tracker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ended: list[str] = []

    @contextmanager
    def unreachable(name: str, folder: Path) -> Generator[Log]:
        yield lambda record: None
        raise ConnectionError("no route")

    @contextmanager
    def reachable(name: str, folder: Path) -> Generator[Log]:
        try:
            yield lambda record: None
        finally:
            ended.append(name)

    monkeypatch.setattr(registry, "check_tracker", lambda name: None)
    monkeypatch.setattr(registry, "TRACKERS", {"mlflow": reachable, "wandb": unreachable})
    with pytest.raises(TaughtbyError, match="wandb") as caught, open_runs(["mlflow", "wandb"], "run", tmp_path):
        pass
    assert (caught.value.got, ended) == ("ConnectionError: no route", ["run"])
    with pytest.raises(ZeroDivisionError), open_runs(["mlflow"], "run", tmp_path):
        raise ZeroDivisionError


@pytest.mark.parametrize("error", [TaughtbyError("the work failed", do="x"), KeyboardInterrupt()])
def test_error_of_the_work_is_shown_although_its_run_cannot_be_closed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException
) -> None:
    failed: list[type[BaseException]] = []

    @contextmanager
    def unreachable(name: str, folder: Path) -> Generator[Log]:
        try:
            yield lambda record: None
        except BaseException as cause:
            failed.append(type(cause))
            raise ConnectionError("no route") from cause

    monkeypatch.setattr(registry, "check_tracker", lambda name: None)
    monkeypatch.setattr(registry, "TRACKERS", {"mlflow": unreachable, "wandb": unreachable})
    with pytest.raises(type(error)) as caught, open_runs(["mlflow", "wandb"], "run", tmp_path):
        raise error
    assert caught.value is error and failed == [type(error), ConnectionError]


@pytest.mark.usefixtures("wandb", "mlflow", "tensorboard")
def test_error_in_the_body_marks_every_run_as_failed(calls: Calls, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_runs([*TRACKERS, "wandb"], "incident", tmp_path):
        raise ZeroDivisionError
    assert [call[0] for call in calls] == ["init", "start", "open", "close", "end", "finish"]
    assert calls[-2:] == [("end", "FAILED"), ("finish", 1)]


def test_failing_tracker_is_reported(wandb: Any, tmp_path: Path) -> None:
    def init(**options: Any) -> Any:
        raise RuntimeError("api_key not configured (no-tty). call wandb.login(key=[your_api_key])")

    wandb.init = init
    with (
        pytest.raises(TaughtbyError, match="logging to wandb failed") as error,
        open_runs(["wandb"], "incident", tmp_path),
    ):
        raise AssertionError("the work begins")
    assert "api_key not configured" in str(error.value) and "the same command" in error.value.do


def test_missing_or_unknown_tracker_raises_before_the_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    for name in TRACKERS:
        with pytest.raises(OptionError, match=f"{name} is not installed") as error, open_runs([name], "x", tmp_path):
            pass
        assert error.value.do == f"pip install 'taughtby[{name}]'"
    with pytest.raises(OptionError, match="no such tracker"), open_runs(["comet"], "x", tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_no_tracker_writes_nothing(tmp_path: Path) -> None:
    with open_runs([], "incident", tmp_path / "out") as log:
        log(RunRecord())
    assert not (tmp_path / "out").exists()


def test_cli_offers_every_tracker() -> None:
    assert tuple(TRACKERS) == options.TRACKERS
