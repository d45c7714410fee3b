"""Names of models, adapters and data as they are remembered, and where they are found again.

A path is remembered as an absolute one, together with the `home` of what remembers it: the folder of an index, an
adapter, or a trace. So it is found from any working directory, whether the two have moved together or not. A hub id,
`smollm2` and an object store's URL are remembered as they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whence.errors import StoreError
from whence.place import Place

EMBEDDED = "smollm2"  # the model that comes as a package


def absolute(name: str) -> str:
    """The absolute path of a file or folder that is there; any other name as it is."""
    path = Path(name)
    if name == EMBEDDED or "://" in name:
        return name
    if path.is_dir():
        return str(path.resolve())
    # a link to a file keeps its own name: the suffix says what is in it
    return str(path.parent.resolve() / path.name) if path.is_file() else name


def hub_id(name: str) -> bool:
    """Whether the name may be a hub id: owner/name."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith(".gguf")


def address(place: Place) -> str:
    """An index's folder as an absolute path, or its URL."""
    return str(place.resolve()) if isinstance(place, Path) else str(place)


def candidates(name: str, home: str | None, here: Place) -> list[str]:
    """The files and folders that a remembered name may mean, the likeliest first; none for one that is no path here.

    `home` is where `here` was as the name was remembered; None of what an earlier version wrote, which kept a path as
    it was typed. What lies beside `here`, as it lay beside `home`, comes before what lies where it was.
    """
    found = [name]
    if isinstance(here, Path):
        if not Path(name).is_absolute():
            found = [name, str(here.parent / name), str(here / name)]
        elif home is not None and Path(home).is_absolute():
            with suppress(ValueError):  # on another drive
                found = [str(here / os.path.relpath(name, home)), name]
    return list(dict.fromkeys(absolute(one) for one in found if Path(one).exists()))


def located(name: str, home: str | None, here: Place) -> str:
    """The likeliest of them; the name itself where there is none."""
    return next(iter(candidates(name, home, here)), name)


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
    here: Place,
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
        found = [name] if given[part] else candidates(name, home, here)
        if not found and not hub_id(name) and name != EMBEDDED:
            do = f"give it with --{part}, where it lies now"
            raise StoreError(f"the {part} that {here} was made with is not where it was", got=name, do=do)
        options.append(found or [name])
    made: dict[Sources, None] = {}
    for at in range(max(map(len, options))):
        first, *others = (found[min(at, len(found) - 1)] for found in options)
        last = others.pop() if base or known.base else None
        made[Sources(first, tuple(others), last)] = None
    return list(made)
