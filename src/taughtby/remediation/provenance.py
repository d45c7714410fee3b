"""What made a result: the code, the libraries and the machine. Kept with the result, which may be read much later."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from taughtby.data.files import file_hash
from taughtby.errors import LabError

PACKAGES = ("taughtby", "torch", "transformers", "peft", "trl", "scikit-learn")
Provenance = dict[str, Any]


def provenance() -> Provenance:
    """Of a result that is made now, in this process."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "commit": _commit(),
        "machine": _machine(),
    }


def merged(all_made: Sequence[Provenance | None]) -> Provenance:
    """One for several results: for each part its value where all agree, else a list of the different values.

    A result of which it is not known what made it counts as one of commit None. The times are the first and the last.
    """
    each = [made or {"commit": None} for made in all_made]
    times = sorted({time for made in each if (time := made.get("at"))})
    parts = _merged([{key: part for key, part in made.items() if key != "at"} for made in each])
    return {**({"at": [times[0], times[-1]]} if times else {}), **parts}


def contents(name: str | None) -> list[str | None]:
    """A model's or adapter's name, and a hash of its files where it names some: these may be written anew."""
    return [name, file_hash(Path(name)) if name and Path(name).exists() else None]


def once(file: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the stage told when it was done before; else it is done, and its file is written last.

    `made` in it says what made it, which need not be the code and the machine that read it.
    """
    try:
        if file.exists():
            return json.loads(file.read_text(encoding="utf-8"))
        file.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as fault:
        do = "check the folder; remove the file if it is torn: its stage is then done again"
        raise LabError(f"{file} cannot be read", got=str(fault)[:200], do=do) from fault
    told = {**work(), "made": provenance()}
    try:
        draft = file.with_name(file.name + ".draft")
        draft.write_text(json.dumps(told), encoding="utf-8")
        os.replace(draft, file)
    except OSError as fault:
        raise LabError(
            f"{file} cannot be written", got=str(fault), do="check the folder and the disk's room"
        ) from fault
    return told


def _merged(dicts: Sequence[Provenance]) -> Provenance:
    found: Provenance = {}
    for key in dict.fromkeys(key for one in dicts for key in one):
        values = [one[key] for one in dicts if key in one]
        distinct = list({json.dumps(value): value for value in values}.values())
        inner = all(isinstance(value, dict) for value in distinct)
        found[key] = _merged(distinct) if inner else distinct[0] if len(distinct) == 1 else distinct
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def _commit() -> str | None:
    """The commit that this process runs, where its code lies in a git checkout; `+` where files differ from it.

    Read once: the checkout may move on while the process runs.
    """
    try:
        return _git("rev-parse", "HEAD") + ("+" if _git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*words: str) -> str:
    here = Path(__file__).parent
    done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def _machine() -> Provenance:
    cards = [torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count())]
    return {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count(),
            "threads": torch.get_num_threads(), "accelerators": cards}  # fmt: skip


def _processor() -> str:
    """The processor's name, as Linux tells it, or as Python does."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
