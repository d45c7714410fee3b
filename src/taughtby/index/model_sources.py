"""From where the model of an index is loaded again, and the address by which an index is remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taughtby.errors import StoreError
from taughtby.index.storage import StoragePath
from taughtby.models.paths import EMBEDDED, candidate_paths, is_hub_id


def address(place: StoragePath) -> str:
    """An index's folder as an absolute path, or its URL."""
    return str(place.resolve()) if isinstance(place, Path) else str(place)


@dataclass(frozen=True)
class Sources:
    """What a model is loaded from."""

    model: str
    adapters: tuple[str, ...]
    base: str | None

    @property
    def parts(self) -> list[tuple[str, str]]:
        """Each name, and the option that gives another."""
        base = [] if self.base is None else [("base", self.base)]
        return [("model", self.model), *(("adapter", one) for one in self.adapters), *base]


def sources(
    manifest: Mapping[str, Any],
    here: StoragePath,
    model: str | None = None,
    adapters: Sequence[str] | None = None,
    base: str | None = None,
) -> list[Sources]:
    """From where the model of the index `here` may be loaded, the likeliest first; what is given replaces what it says.

    There are several only where files lie both beside the index and where they were: a fingerprint tells which.
    """
    settings, home = manifest["settings"], manifest.get("home")
    said = settings["adapter"]
    known = Sources(settings["model"], (said,) if isinstance(said, str) else tuple(said or ()), settings["base"])
    given = {"model": model, "adapter": adapters, "base": base}
    if adapters:
        known = Sources(known.model, tuple(adapters), known.base)
    options: list[list[str]] = []
    for part, name in Sources(model or known.model, known.adapters, base or known.base).parts:
        found = [name] if given[part] else candidate_paths(name, home, here)
        if not found and not is_hub_id(name) and name != EMBEDDED:
            do = f"give it with --{part}, where it lies now"
            raise StoreError(f"the {part} that {here} was made with is not where it was", got=name, do=do)
        options.append(found or [name])
    made: dict[Sources, None] = {}
    for at in range(max(map(len, options))):
        first, *others = (found[min(at, len(found) - 1)] for found in options)
        last = others.pop() if base or known.base else None
        made[Sources(first, tuple(others), last)] = None
    return list(made)
