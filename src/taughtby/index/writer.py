"""Fill an index: rows in atomic commits, behind a lock, under settings that may not change."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from taughtby.data.example import Example
from taughtby.data.tokenize import TokenizedExample
from taughtby.errors import StoreError
from taughtby.index.arrow import to_arrow
from taughtby.index.model_sources import address
from taughtby.index.reader import Index, committed, open_rows, plain, read_manifest
from taughtby.index.storage import StoragePath, empty
from taughtby.index.transaction import IndexTransaction
from taughtby.text import cli_command

if TYPE_CHECKING:
    from torch import Tensor

Settings = dict[str, Any]


class Writer(IndexTransaction):
    """An index being filled. Each `append` is one atomic commit; `finish` makes them what readers see.

    Opening a folder that holds the same settings goes on with it: `done` has the ids that were there already, and
    does not grow. Settings that differ are refused by name. One writer at a time. With `change`, which says what is
    appended (`did`, `data`, `digest`), a finished index grows; readers see it as it was until `finish`. `layers` is
    the layer curve that the settings' layers were chosen by, kept for a run that goes on.
    """

    def __init__(
        self,
        path: str | StoragePath,
        settings: Settings,
        change: dict[str, Any] | None = None,
        layers: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(path, new=change is None)
        self.settings, self.change, self.layers = settings, change, layers
        self.done: set[str] = set()
        self.complete = False
        self.known: dict[str, Any] = {}
        self.before = 0  # rows that were there when the change began

    def _begin(self) -> None:
        known = read_manifest(self.path)
        if known is None and self.change is None:
            if not empty(self.path):
                raise StoreError(f"{self.path} holds other files", do="give a folder that is empty or not there yet")
            self.known = {"settings": self.settings, "home": address(self.path), "complete": False}
            if self.layers:
                self.known["layers"] = self.layers
            self.publish(self.known)
        elif known is None or not known["complete"]:
            if known is None or self.change:
                self.finished()  # which says what is missing
                return
            self.known = known
            _refuse_difference(self.path, known["settings"], self.settings)
            if committed(self.path):
                self.rows = open_rows(self.path)
                self.done = self._ids()
        else:
            self._again(known)

    def _again(self, known: dict[str, Any]) -> None:
        """An index that was finished before: whether there is anything left to do."""
        data = (self.change or {}).get("digest") or _digest(self.settings)
        # what it was made from is told by its history; the settings name the first of it
        there = any(event.get("digest") == data for event in known["history"])
        settings = _of_data(self.settings, known["settings"]) if self.change or there else self.settings
        _refuse_difference(self.path, known["settings"], settings, grows=True)
        if there or self.change is None:
            self.complete = True
            return
        self.known = self.begun(known, self.change)
        self.before = self.known["count"]
        self.done = self._ids() | set(self.known.get("deleted", ()))

    def _ids(self) -> set[str]:
        ids = self.rows.to_table(columns=["id"]).column("id").to_pylist()
        if len(found := set(ids)) < len(ids):
            do = f"revert the last change: {cli_command('index undo', self.path)}; or build the index again"
            raise StoreError(
                f"{self.path} was written by two processes at once", got="rows that are twice there", do=do
            )
        return found

    def append(
        self, examples: Sequence[Example], rows: Sequence[TokenizedExample], blocks: Mapping[str, Tensor | list[Tensor]]
    ) -> None:
        """Commit these rows: a block is (B, d), (B,) for a number a row, or a list of (n, k) for a vector a token."""
        self.add(arrange_table(examples, rows, blocks))

    def finish(self, skipped: Sequence[dict[str, str]], layers: dict[str, Any] | None) -> Index:
        """Make what was committed the index, and open it."""
        if self.rows is None:
            reasons = "; ".join(f"{skip['source']}: {skip['reason']}" for skip in skipped[:3])
            do = "look at the reasons, and raise --max-length where rows are too long"
            raise StoreError(f"no row of {self.settings['data']} can be used", got=reasons, do=do)
        self.tidy()
        event = self.change or {"did": "index", "data": self.settings["data"], "digest": _digest(self.settings)}
        event = {**event, "rows": self.rows.count_rows() - self.before, "skipped": len(skipped)}
        known = {key: value for key, value in self.known.items() if key != "pending"}
        # a file that grew has the rows once more that were skipped before
        told = {(skip["source"], skip["reason"]): skip for skip in (*known.get("skipped", ()), *skipped)}
        self.named(known, event, skipped=list(told.values()), layers=known.get("layers", layers))
        self.complete = True
        return Index.open(self.path)


def arrange_table(
    examples: Sequence[Example], rows: Sequence[TokenizedExample], blocks: Mapping[str, Tensor | list[Tensor]]
) -> pa.Table:
    """Rows with their blocks as the index holds them."""
    columns: dict[str, Any] = {
        "id": [row.id for row in examples],
        "source": [plain(row.source) for row in examples],
        "label": pa.array([row.label and plain(row.label) for row in examples], pa.string()),
        "messages": [json.dumps(list(row.messages)) for row in examples],
        "more": pa.array([_more(row) for row in examples], pa.string()),
        "n_prompt": pa.array([row.n_prompt for row in rows], pa.int32()),
        "n_response": pa.array([row.n_response for row in rows], pa.int32()),
    }
    for name, block in blocks.items():
        columns |= to_arrow(name, block)
    return pa.table(columns)


def _digest(settings: Settings) -> Any:
    return settings.get("fingerprint", {}).get("data")


def _of_data(asked: Settings, has: Settings) -> Settings:
    """The settings asked, with what belongs to the data as the index has it."""
    same = {key: has[key] for key in ("data", "reading") if key in has}
    if "fingerprint" in has:
        same["fingerprint"] = {**asked.get("fingerprint", {}), "data": _digest(has)}
    return {**asked, **same}


def _named_alike(asked: Settings, has: Settings) -> Settings:
    """The settings asked, with the names that the index has for what is the same by its fingerprint: files may move."""
    known, wanted = has.get("fingerprint", {}), asked.get("fingerprint", {})
    return {**asked, **{part: has[part] for part in known if part in has and known[part] == wanted.get(part)}}


def _refuse_difference(path: StoragePath, has: Settings, asked: Settings, grows: bool = False) -> None:
    asked = _named_alike(asked, has)
    have, want = dict(_flat(has)), dict(_flat(asked))
    different = [f"{key}: index has {have.get(key, 'nothing')}, asked {want.get(key, 'nothing')}"
                 for key in dict.fromkeys([*have, *want]) if have.get(key) != want.get(key)]  # fmt: skip
    if different:
        do = "ask for the same, or write to another folder"
        if grows and all(text.startswith(("data:", "fingerprint.data:", "reading.")) for text in different):
            do = "add the new rows with `taughtby index append`, or write to another folder"
        raise StoreError(f"{path} was made with other settings", got="; ".join(different), do=do)


def _flat(settings: Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _more(row: Example) -> str | None:
    more = {"tools": row.tools, "rejected": row.rejected, "masked": row.masked}
    return json.dumps(more) if row.tools or row.masked or row.rejected is not None else None
