"""A cache of stages: each result is written atomically to a file named by a hash of what it depends on.

An interrupted run resumes from the stored results. Changed settings rerun only the stages that depend on them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from taughtby.errors import LabError
from taughtby.progress import ProgressCallback
from taughtby.remediation.provenance import Provenance, merge_provenance, provenance

Show = Callable[[str], AbstractContextManager[ProgressCallback]]  # shows a title and progress while a stage runs
JOURNAL, STAGES = "journal.jsonl", "stages"  # the cache's log; the cache's folder within a result's


@contextmanager
def quiet(title: str) -> Generator[ProgressCallback]:
    """Show nothing."""
    yield lambda done, total: None


def key(dependencies: Any) -> str:
    """Return a short hash of a result's dependencies; equal for equal JSON."""
    return blake2b(json.dumps(dependencies, sort_keys=True, default=str).encode(), digest_size=6).hexdigest()


def run_once(file: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the result in `file`, or run `work` and store its result there with its provenance (`made`)."""
    result = _read(file)
    if result is None:
        with _write_errors(file.parent):
            file.parent.mkdir(parents=True, exist_ok=True)
        result = {**work(), "provenance": provenance()}
        with _write_errors(file.parent):
            _write(file, json.dumps(result))
    return result


@dataclass(frozen=True)
class StageCache:
    """A folder of finished stages.

    Attributes:
        folder: Where results are stored. Its `journal.jsonl` records the provenance and duration of each file.
        show: Shows a stage's title and progress.
    """

    folder: Path
    show: Show = quiet
    _used: dict[str, None] = field(default_factory=dict[str, None], repr=False, compare=False)  # in order

    def path(self, stage: str, dependencies: Any) -> Path:
        """Return the absolute path for other output of a stage, such as a model; nothing is created."""
        return self.folder.resolve() / f"{stage}-{key(dependencies)}"

    def stored(self, stage: str, dependencies: Any) -> Any:
        """Return the stored JSON for these dependencies; None if there is none.

        Raises:
            LabError: If the stored result is damaged.
        """
        return _read(self.folder / f"{stage}-{key(dependencies)}.json")

    def get_or_run(
        self, stage: str, dependencies: Any, title: str, make: Callable[[ProgressCallback], Any],
        is_complete: Callable[[Any], bool] = lambda result: True,
    ) -> Any:  # fmt: skip
        """Return the stored JSON for these dependencies, or run `make` and store the JSON that it returns.

        An incomplete result is returned only in the run that stored it; the next run computes it again.

        Raises:
            LabError: If the stored result is damaged or the folder cannot be written.
        """
        path = self.folder / f"{stage}-{key(dependencies)}.json"
        result, used = _read(path), path.name in self._used
        self._used[path.name] = None
        if result is not None and (used or is_complete(result)):
            return result
        with _write_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        with self.show(title) as progress:
            result = make(progress)
            entry = {"stage": stage, "title": title, "seconds": round(time.monotonic() - start, 2), "file": path.name}
            # inside the context, so that the stage is shown as done only after it is stored
            with _write_errors(self.folder):
                _write(path, json.dumps(result, indent=1) + "\n")
                with (self.folder / JOURNAL).open("a", encoding="utf-8") as journal:
                    journal.write(json.dumps({**entry, **provenance()}) + "\n")
        return _read(path)

    def provenance(self) -> Provenance:
        """Return the merged provenance of the stages used so far, whether they ran now or earlier."""
        entries: dict[str, Any] = {}
        with suppress(OSError):
            for line in (self.folder / JOURNAL).read_text(encoding="utf-8").splitlines():
                with suppress(ValueError, KeyError, TypeError):  # a line cut off when the process was killed
                    entry = json.loads(line)
                    entries[entry["file"]] = entry
        parts = ("python", "packages", "commit", "machine")
        used = [entries.get(name) for name in self._used]
        return merge_provenance([entry and {part: entry.get(part) for part in parts} for entry in used])


def _read(path: Path) -> Any:
    """The JSON in the file; None if there is no file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except NotADirectoryError as fault:
        do = "give a folder that is empty or does not exist"
        raise LabError(f"{path.parent} cannot be a folder", got=fault.strerror, do=do) from None
    except (OSError, ValueError) as fault:
        do = "remove it, and run the same command again"
        raise LabError(f"the stage's result {path} cannot be read", got=str(fault)[:200], do=do) from None


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


@contextmanager
def _write_errors(folder: Path) -> Generator[None]:
    try:
        yield
    except OSError as fault:
        do = "free disk space or give another folder, and run the same command again: it resumes"
        raise LabError(f"{folder} cannot be written", got=fault.strerror or str(fault), do=do) from fault
