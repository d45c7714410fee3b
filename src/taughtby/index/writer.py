"""Write rows to an index: in atomic commits, under a lock, with settings that may not change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from taughtby.data.example import Example
from taughtby.data.tokenize import TokenizedExample
from taughtby.errors import StoreError
from taughtby.index.arrow import arrange_table
from taughtby.index.manifest import Manifest, Settings, read_finished, read_manifest
from taughtby.index.model_sources import resolved_address
from taughtby.index.reader import Index, has_commits, open_rows
from taughtby.index.storage import StoragePath, empty
from taughtby.index.transaction import IndexTransaction
from taughtby.text import cli_command

if TYPE_CHECKING:
    from torch import Tensor


class Writer(IndexTransaction):
    """Builds or extends an index: each `append` is one atomic commit, and `finish` makes all of them visible.

    Opening a folder with the same settings resumes; different settings raise an error that names them. When a finished
    index is extended, readers see its old state until `finish`.

    Args:
        path: The folder of the index.
        settings: Settings of the index, as in its manifest.
        change: What is appended to a finished index: `did`, `data`, `digest`.
        layers: The layer-similarity curve from which the settings' layers were chosen, stored for resumed runs.

    Attributes:
        row_ids: Ids of the rows that were committed or deleted before this run; not updated during it.
        complete: Whether nothing is left to do.
    """

    def __init__(
        self,
        path: str | StoragePath,
        settings: Settings,
        change: dict[str, Any] | None = None,
        layers: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(path, new=change is None)
        self.settings, self.change = settings, change
        self.row_ids: set[str] = set()
        self.complete = False
        self.manifest = Manifest(settings, home=resolved_address(self.path), layers=layers)
        self.num_rows_before = 0  # before the change

    def _begin(self) -> None:
        manifest = read_manifest(self.path)
        if self.change and (manifest is None or not manifest.complete):
            manifest = read_finished(self.path)  # raises
        if manifest is None:
            if not empty(self.path):
                raise StoreError(
                    f"{self.path} contains other files", do="give a folder that is empty or does not exist"
                )
            self.publish(self.manifest)
        elif manifest.complete:
            self._extend(manifest)
        else:
            self.manifest = manifest
            _refuse_difference(self.path, manifest.settings, self.settings)
            if has_commits(self.path):
                self.rows = open_rows(self.path)
                self.row_ids = self._ids()

    def _extend(self, manifest: Manifest) -> None:
        """Begin to append to a finished index, or set `complete` if it has the data already."""
        digest = (self.change or {}).get("digest") or _data_digest(self.settings)
        # the history lists all data of the index, the settings only the first
        present = any(event.get("digest") == digest for event in manifest.history)
        same_data = self.change or present
        settings = _with_data_of(manifest.settings, self.settings) if same_data else self.settings
        _refuse_difference(self.path, manifest.settings, settings, finished=True)
        if present or self.change is None:
            self.complete = True
            return
        self.manifest = self.begin_change(manifest, self.change)
        self.num_rows_before = self.manifest.num_rows
        self.row_ids = self._ids() | set(self.manifest.deleted)

    def _ids(self) -> set[str]:
        ids = self.rows.to_table(columns=["id"]).column("id").to_pylist()
        if len(unique := set(ids)) < len(ids):
            do = f"revert the last change: {cli_command('index undo', self.path)}; or build the index again"
            raise StoreError(f"{self.path} was written by two processes at once", got="rows with the same id", do=do)
        return unique

    def append(
        self,
        examples: Sequence[Example],
        rows: Sequence[TokenizedExample],
        features: Mapping[str, Tensor | list[Tensor]],
    ) -> None:
        """Commit rows with their features, which have the shapes of `arrange_table`."""
        self.append_table(arrange_table(examples, rows, features))

    def finish(self, skipped: Sequence[dict[str, str]], layers: dict[str, Any] | None) -> Index:
        """Make the commits visible to readers, and open the index."""
        if self.rows is None:
            reasons = "; ".join(f"{skip['source']}: {skip['reason']}" for skip in skipped[:3])
            do = "check the reasons, and raise --max-length if rows are too long"
            raise StoreError(f"no row of {self.settings['data']} can be used", got=reasons, do=do)
        self.tidy()
        data = {"did": "index", "data": self.settings["data"], "digest": _data_digest(self.settings)}
        num_rows = self.rows.count_rows() - self.num_rows_before
        event = {**(self.change or data), "rows": num_rows, "skipped": len(skipped)}
        # a file that was appended to reports its skipped rows again
        unique = {(skip["source"], skip["reason"]): skip for skip in (*self.manifest.skipped, *skipped)}
        before = self.manifest
        if not before.complete and before.layers is None:
            before = replace(before, layers=layers)
        self.publish_version(replace(before, pending=None), event, skipped=list(unique.values()))
        self.complete = True
        return Index.open(self.path)


def _data_digest(settings: Settings) -> Any:
    return settings.get("fingerprint", {}).get("data")


def _with_data_of(stored: Settings, requested: Settings) -> Settings:
    """The requested settings, with those of the data replaced by the stored ones."""
    same = {key: stored[key] for key in ("data", "reading") if key in stored}
    if "fingerprint" in stored:
        same["fingerprint"] = {**requested.get("fingerprint", {}), "data": _data_digest(stored)}
    return {**requested, **same}


def _with_names_of(stored: Settings, requested: Settings) -> Settings:
    """The requested settings, with stored names for parts with equal fingerprints, whose files may have moved."""
    stored_hashes, hashes = stored.get("fingerprint", {}), requested.get("fingerprint", {})
    same = {part: stored[part] for part in stored_hashes if part in stored and stored_hashes[part] == hashes.get(part)}
    return {**requested, **same}


def _refuse_difference(path: StoragePath, stored: Settings, requested: Settings, finished: bool = False) -> None:
    sides = stored, _with_names_of(stored, requested)
    shared = set.intersection(*({*side.get("methods", {})} for side in sides))
    old, new = ({"methods": ", ".join(sorted(side.get("methods", {}))), **dict(_flat(_only(side, shared)))}
                for side in sides)  # fmt: skip
    different = [
        f"{key}: the index has {old.get(key, 'nothing')}, but {new.get(key, 'nothing')} was given"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    ]
    if different:
        do = "use the same settings, or write to another folder"
        if finished and all(text.startswith(("data:", "fingerprint.data:", "reading.")) for text in different):
            do = "add the new rows with `taughtby index append`, or write to another folder"
        elif finished and all(text.startswith("methods:") for text in different):
            do = "add a method with `taughtby index add`, or write to another folder"
        raise StoreError(f"{path} was built with other settings", got="; ".join(different), do=do)


def _only(settings: Settings, methods: set[str]) -> Settings:
    """Return the settings with these methods only."""
    return {
        **settings,
        "methods": {name: spec for name, spec in settings.get("methods", {}).items() if name in methods},
    }


def _flat(settings: Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
