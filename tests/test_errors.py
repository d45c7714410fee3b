"""The error classes: one message format, one base class, and the tree in the docstring matches the code."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from taughtby import errors
from taughtby.data import chat_template as template
from taughtby.data.example import make_example
from taughtby.data.readers import read_records
from taughtby.errors import (
    DataError,
    LabError,
    ModelError,
    OptionError,
    StoreError,
    TaughtbyError,
    machine_fault,
    out_of_memory,
)
from taughtby.index.reader import read_errors
from taughtby.server import jobs

LEAVES = (DataError, ModelError, OptionError, StoreError, LabError)


def test_message_has_what_got_and_do() -> None:
    fault = DataError("rows.jsonl:3: invalid JSON", got="{", do="fix that line")
    assert str(fault) == "rows.jsonl:3: invalid JSON\n  got: {\n  do:  fix that line"
    assert (fault.what, fault.got, fault.do) == ("rows.jsonl:3: invalid JSON", "{", "fix that line")


def test_message_omits_missing_got() -> None:
    assert str(StoreError("no index", do="build one")) == "no index\n  do:  build one"
    assert str(StoreError("no index", got="", do="build one")) == "no index\n  got: \n  do:  build one"


def test_error_requires_do() -> None:
    with pytest.raises(TypeError, match="do"):
        TaughtbyError("something is wrong")  # type: ignore[call-arg]


@pytest.mark.parametrize("leaf", LEAVES)
def test_error_classes_are_disjoint_taughtby_errors(leaf: type[TaughtbyError]) -> None:
    with pytest.raises(TaughtbyError) as caught:
        raise leaf("w", do="d")
    assert [kind for kind in LEAVES if isinstance(caught.value, kind)] == [leaf]


def test_documented_error_tree_matches_classes() -> None:
    sample = {line.split()[1] for line in (errors.__doc__ or "").splitlines() if "──" in line}
    assert sample == {leaf.__name__ for leaf in LEAVES}
    assert sample == {kind.__name__ for kind in TaughtbyError.__subclasses__()}


# — errors of the operating system

LACKS = [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "there is not enough memory"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "there is not enough memory"),
    (MemoryError(), "there is not enough memory"),
    (pa.ArrowMemoryError("malloc of size 9 failed"), "there is not enough memory"),
    (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
    (OSError("LanceError(IO): No space left on device (os error 28)"), "the disk is full"),
    (PermissionError(errno.EACCES, "Permission denied"), "permission is denied"),
    (OSError(errno.EMFILE, "Too many open files"), "too many files are open"),
    (RuntimeError("CUDA error: device-side assert triggered"), "the GPU reports an error"),
    (ImportError("requires the sentencepiece library"), "a package is missing"),
]


@pytest.mark.parametrize(("fault", "lack"), LACKS, ids=lambda one: type(one).__name__)
def test_machine_faults_are_recognized(fault: Exception, lack: str) -> None:
    notes = machine_fault(fault)
    assert notes is not None and notes[0] == lack
    assert out_of_memory(fault) == (lack == "there is not enough memory")


def test_machine_fault_is_found_in_exception_chain() -> None:
    def load() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise ValueError("unrecognised configuration")  # noqa: B904 as libraries do

    with pytest.raises(ValueError) as caught:
        load()
    assert machine_fault(caught.value) is not None


@pytest.mark.parametrize("fault", [
    ValueError("bad"), OSError("there is no config.json"), FileNotFoundError(errno.ENOENT, "No such file"),
    RuntimeError("size mismatch"), DataError("row 3: the text 'out of memory' is no list", do="fix it"),
])  # fmt: skip
def test_other_errors_are_not_machine_faults(fault: Exception) -> None:
    assert machine_fault(fault) is None


@pytest.mark.parametrize(("fault", "lack"), LACKS[1:3], ids=lambda one: type(one).__name__)
def test_readers_report_machine_faults_not_damage(
    fault: Exception, lack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreError, match=f"rows of idx cannot be read: {lack}") as caught, read_errors(Path("idx")):
        raise fault
    assert "compacted" not in caught.value.do
    file = tmp_path / "a.parquet"
    file.write_bytes(b"PAR1")

    def full(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pyarrow.parquet.ParquetFile", full)
    with pytest.raises(DataError, match=r"a\.parquet: the file cannot be read: permission is denied"):
        next(read_records(str(file)))


def test_memory_error_in_template_propagates(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(template, "_render_with_template", full)
    with pytest.raises(MemoryError):
        template.render(tokenizer, make_example("why", "so"))


def test_job_error_names_the_machine_fault(capsys: pytest.CaptureFixture[str]) -> None:
    def work(_: jobs.ReportProgress) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    job = jobs.Job("1", work)
    jobs._run(job)
    assert job.state == "failed" and job.error is not None
    assert job.error["what"] == "there is not enough memory"
    assert "OutOfMemoryError" in capsys.readouterr().err
