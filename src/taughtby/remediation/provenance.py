"""The provenance of a result: code, libraries and machine. It is stored with the result."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from taughtby.data.files import file_hash

PACKAGES = ("taughtby", "torch", "transformers", "peft", "trl", "scikit-learn")
Provenance = dict[str, Any]


def provenance() -> Provenance:
    """Return the provenance of a result computed now in this process."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: release for name in PACKAGES if (release := package_version(name))},
        "commit": _commit(),
        "machine": _machine(),
    }


def merge_provenance(parts: Sequence[Provenance | None]) -> Provenance:
    """Merge the provenance of several results: each value if all agree, otherwise the list of distinct values.

    A result without provenance counts as commit None. `at` is the first and the last time.
    """
    records = [part or {"commit": None} for part in parts]
    times = sorted({time for part in records if (time := part.get("at"))})
    merged = _merge([{key: value for key, value in part.items() if key != "at"} for part in records])
    return {**({"at": [times[0], times[-1]]} if times else {}), **merged}


def name_and_hash(name: str | None) -> list[str | None]:
    """Return the name of a model or adapter, and the hash of its files; None instead if it has no local files."""
    return [name, file_hash(Path(name)) if name and Path(name).exists() else None]


def _merge(dicts: Sequence[Provenance]) -> Provenance:
    merged: Provenance = {}
    for key in dict.fromkeys(key for part in dicts for key in part):
        values = [part[key] for part in dicts if key in part]
        distinct = list({json.dumps(value): value for value in values}.values())
        nested = all(isinstance(value, dict) for value in distinct)
        merged[key] = _merge(distinct) if nested else distinct[0] if len(distinct) == 1 else distinct
    return merged


def package_version(name: str) -> str | None:
    """Return the version of an installed distribution; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache  # the checkout may change while the process runs
def _commit() -> str | None:
    """The git commit of this code, with `+` if files differ from it; None outside a checkout."""
    try:
        return _git("rev-parse", "HEAD") + ("+" if _git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    result = subprocess.run(
        ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
    )
    return result.stdout.strip()


def _machine() -> Provenance:
    import torch  # imported here, since cleaning needs no torch

    accelerators = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count(),
            "threads": torch.get_num_threads(), "accelerators": accelerators}  # fmt: skip


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
