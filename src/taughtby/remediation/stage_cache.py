"""Work in stages: each leaves its result in a folder under what it depends on, whole or not at all.

Killed, the same work goes on: what is there is read and what is not is made. Asked with other settings, it makes what
depends on them and no more. Knows nothing of what the stages do.
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
from taughtby.remediation.provenance import Provenance, merged, provenance

Show = Callable[[str], AbstractContextManager[ProgressCallback]]  # shows a title while a stage runs, and how far it is
JOURNAL, STAGES = "journal.jsonl", "stages"  # what a Ledger calls its diary, and its own folder within a result's


@contextmanager
def quiet(title: str) -> Generator[ProgressCallback]:
    """Shows nothing."""
    yield lambda done, of: None


def key(needs: Any) -> str:
    """A short name for what a result depends on, the same for the same JSON."""
    return blake2b(json.dumps(needs, sort_keys=True, default=str).encode(), digest_size=6).hexdigest()


@dataclass(frozen=True)
class StageCache:
    """A folder of finished stages. `journal.jsonl` in it says what made which and when, and how long each took."""

    folder: Path
    show: Show = quiet
    _used: dict[str, None] = field(default_factory=dict[str, None], repr=False, compare=False)  # in order

    def path(self, stage: str, needs: Any) -> Path:
        """Where the stage keeps what is not JSON, such as a model, as an absolute path; nothing is made here."""
        return self.folder.resolve() / f"{stage}-{key(needs)}"

    def get_or_run(self, stage: str, needs: Any, title: str, make: Callable[[ProgressCallback], Any]) -> Any:
        """The JSON that `make` returns, made once for these `needs`."""
        path = self.folder / f"{stage}-{key(needs)}.json"
        self._used[path.name] = None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            pass
        except ValueError as fault:
            do = "remove it, and run the same command again"
            raise LabError(f"{path} is broken", got=str(fault), do=do) from None
        with _explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        with self.show(title) as tell:
            made = make(tell)
            self._keep(path, made, {"stage": stage, "title": title, "seconds": round(time.monotonic() - begun, 2)})
        return json.loads(path.read_text(encoding="utf-8"))

    def _keep(self, path: Path, made: Any, line: dict[str, Any]) -> None:
        """Write a stage's result, and what the journal says of it, before anything more is shown."""
        line = {**line, "file": path.name, **provenance()}
        with _explained(self.folder):
            draft = path.with_name(f".{path.name}.draft")
            draft.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
            os.replace(draft, path)
            with (self.folder / JOURNAL).open("a", encoding="utf-8") as journal:
                journal.write(json.dumps(line) + "\n")

    def made(self) -> Provenance:
        """What made the stages that were asked for, now or long ago; the journal says that, and when."""
        lines: dict[str, Any] = {}
        with suppress(OSError):
            for text in (self.folder / JOURNAL).read_text(encoding="utf-8").splitlines():
                with suppress(ValueError, KeyError, TypeError):  # a line that was cut when its process was killed
                    line = json.loads(text)
                    lines[line["file"]] = line
        parts = ("python", "packages", "commit", "machine")
        known = [lines.get(name) for name in self._used]
        return merged([line and {part: line.get(part) for part in parts} for line in known])


@contextmanager
def _explained(folder: Path) -> Generator[None]:
    try:
        yield
    except OSError as fault:
        do = "make room, or give another folder, and run the same command again: it goes on"
        raise LabError(f"{folder} cannot be written", got=fault.strerror or str(fault), do=do) from fault
