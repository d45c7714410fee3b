"""Finds the model of an index, which may have moved since the index was built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taughtby.errors import StoreError
from taughtby.index.storage import StoragePath
from taughtby.models.paths import EMBEDDED, candidate_paths, is_hub_id


def resolved_address(path: StoragePath) -> str:
    """Return the absolute path of an index with symbolic links resolved, or its URL."""
    return str(path.resolve()) if isinstance(path, Path) else str(path)


@dataclass(frozen=True)
class ModelSource:
    """The names of a model, its adapters and its base model, as `load_model` takes them."""

    model: str
    adapters: tuple[str, ...]
    base: str | None

    @property
    def parts(self) -> list[tuple[str, str]]:
        """Pairs of option and name."""
        base = [] if self.base is None else [("base", self.base)]
        return [("model", self.model), *(("adapter", name) for name in self.adapters), *base]


def model_sources(
    manifest: Mapping[str, Any],
    here: StoragePath,
    model: str | None = None,
    adapters: Sequence[str] | None = None,
    base: str | None = None,
) -> list[ModelSource]:
    """Return the sources that the model of an index may be loaded from, the most likely first.

    There are several only if files exist both next to the index and at their old paths; the caller has to compare
    fingerprints.

    Args:
        manifest: The manifest as JSON.
        here: The current path of the index.
        model: Replaces the name in the manifest, as do `adapters` and `base`.
    """
    settings, home = manifest["settings"], manifest.get("home")
    adapter = settings["adapter"]
    stored = (adapter,) if isinstance(adapter, str) else tuple(adapter or ())
    source = ModelSource(model or settings["model"], tuple(adapters or stored), base or settings["base"])
    replacements = {"model": model, "adapter": adapters, "base": base}
    options: list[list[str]] = []
    for part, name in source.parts:
        names = [name] if replacements[part] else candidate_paths(name, home, here)
        if not names and not is_hub_id(name) and name != EMBEDDED:
            do = f"give its new path with --{part}"
            raise StoreError(f"the {part} that {here} was built with was not found", got=name, do=do)
        options.append(names or [name])
    sources: dict[ModelSource, None] = {}
    for number in range(max(map(len, options))):
        first, *others = (names[min(number, len(names) - 1)] for names in options)
        last = others.pop() if source.base else None
        sources[ModelSource(first, tuple(others), last)] = None
    return list(sources)
