"""What becomes of an index after it is made: blocks added, rows deleted, fragments merged, a copy taken.

Readers see an index as it was until a change is whole. (Rows are appended by `build_index`.)
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from taughtby.capture.layer_similarity import read_layer_similarity
from taughtby.data.tokenize import Encoding
from taughtby.errors import DataError, OptionError, StoreError
from taughtby.index.build import (
    ACCELERATOR_FACTOR,
    TOKEN_BUDGET,
    Progress,
    capture_into,
    check_notes,
    check_same_model,
    method_specs,
)
from taughtby.index.reader import Index, open_rows, read_manifest, storage_errors
from taughtby.index.storage import StoragePath, copy, empty, file_digest, remove, storage_path
from taughtby.index.transaction import IndexTransaction, Manifest, same_change, told, tracked
from taughtby.index.writer import Settings, Writer
from taughtby.methods import Method, get_method
from taughtby.models.model import Model
from taughtby.models.paths import absolute_name, locate
from taughtby.text import cli_command

ASIDE = "more"  # where added blocks are gathered until all are there
MERGED = 2**20  # rows of a fragment after `compact`


@dataclass(frozen=True)
class Compacted:
    """What was merged, and how many bytes the versions took that are gone."""

    before: int
    after: int
    freed: int


def settled(out: str | StoragePath, why: str) -> Settings:
    """The settings of the finished index that is to grow."""
    known = read_manifest(here := storage_path(out))
    if known is None or not known["complete"]:
        raise StoreError(f"there is no finished index at {out}", do=f"make it first, without {why}")
    settings: Settings = known["settings"]
    return {**settings, "base": settings["base"] and locate(settings["base"], known.get("home"), here)}


def add_features(
    model: Model,
    out: str | StoragePath,
    methods: Sequence[Method],
    *,
    budget: int | None = None,
    progress: Progress | None = None,
) -> Index:
    """Add the blocks of `methods` to a finished index, for each row it holds; what it has is neither read nor written.

    They are gathered beside it, so that a run that is killed goes on where it stopped, and become columns of it all at
    once. A row for which they are not finite leaves the index. Of a method whose blocks are all there, no row is read:
    it is noted down, or nothing is done where the index has it already.
    """
    with IndexTransaction(out) as claim:
        known = read_manifest(claim.path)
        if known is None or not known["complete"]:
            known = claim.finished()  # which says what is missing
        methods = [how.resolve_layers(model.depth, read_layer_similarity(known["layers"])) for how in methods]
        settings = _with(known["settings"], methods, model, claim.path)
        specs = {key: spec for key, spec in settings["methods"].items() if key not in known["settings"]["methods"]}
        if not specs and not known.get("pending"):
            return Index.open(claim.path)
        change = {"did": "add", "methods": specs, "base": settings["base"]}
        absent = [how for how in methods if not set(how.feature_names(model.depth)) <= set(known["blocks"])]
        if not absent:
            known = claim.finished()
            claim.named(known, {**change, "methods": list(specs), "rows": known["count"]}, settings=settings)
            return Index.open(claim.path)
        if not same_change(known.get("pending"), change):
            claim.finished()  # which refuses while another change is pending, whose blocks may lie aside
            remove(claim.path / ASIDE)
        known = claim.begun(known, change)
        old = Index.open(claim.path)
        made = {"data": f"version {known['version']}", "methods": specs, "fingerprint": settings["fingerprint"]}
        with Writer(claim.path / ASIDE, made) as aside:
            if not aside.complete:
                encoding, most = (
                    Encoding(**settings["encoding"]),
                    ACCELERATOR_FACTOR if model.device.type != "cpu" else 1,
                )
                budget = budget or TOKEN_BUDGET * most
                skipped = capture_into(aside, model, old.examples(), absent, encoding, budget, len(old), progress)
                aside.finish(skipped, None)
        _joined(claim, known, settings, Index.open(claim.path / ASIDE), change)
        remove(claim.path / ASIDE)
    return Index.open(out)


def _with(has: Settings, methods: Sequence[Method], model: Model, path: StoragePath) -> Settings:
    """The settings of an index with these methods too; a model that is not the one it was made with is refused."""
    fingerprint = dict(model.fingerprint)
    if has["fingerprint"]["base"] is None:
        has = {
            **has,
            "base": model.base_name and absolute_name(model.base_name),
            "fingerprint": {**has["fingerprint"], "base": fingerprint["base"]},
        }
    check_same_model(has, model, path)
    if (dtype := str(model.dtype).removeprefix("torch.")) != has["dtype"]:
        raise StoreError(f"{path} was made in another precision", got=f"dtype: index has {has['dtype']}, asked {dtype}",
                         do=f"give --dtype {has['dtype']}")  # fmt: skip
    specs = method_specs([*map(get_method, has["methods"].values()), *methods])
    return {**has, "methods": specs, "notes": {**check_notes(has, methods, model, path), **has["notes"]}}


def _joined(claim: IndexTransaction, known: Manifest, settings: Settings, more: Index, change: dict[str, Any]) -> None:
    """Make the blocks gathered aside columns of the index."""
    new = [
        name for name in more.dataset.schema.names if name not in open_rows(claim.path, known["version"]).schema.names
    ]
    there = set(new) <= set(claim.rows.schema.names)  # where a kill came after the last commit
    if not there and claim.rows.version != known["version"]:
        known = claim.restored(known)
    lost: list[str] = []
    if not there:
        held, ids = _ids(claim.rows), _ids(more.dataset)
        kept = set(ids)
        lost = [id for id in held if id not in kept]
        claim.drop(lost)
        if [id for id in held if id in kept] != ids:
            raise StoreError(f"{claim.path} does not hold the rows any more that blocks were made for",
                             do=f"give it up: {cli_command('index undo', claim.path)}; and add them again")  # fmt: skip
        if new:
            schema = pa.schema([more.dataset.schema.field(name) for name in new])
            claim.widen(
                pa.RecordBatchReader.from_batches(schema, more.dataset.to_batches(columns=new, batch_size=1024))
            )
    else:
        kept = set(_ids(claim.rows))
        lost = [id for id in _ids(open_rows(claim.path, known["version"])) if id not in kept]
    event = {**change, "methods": list(change["methods"]), "rows": more.manifest["count"]}
    known = {key: value for key, value in known.items() if key != "pending"}
    known["skipped"] = [*known["skipped"], *more.manifest["skipped"]]
    claim.named(known, event, settings=settings, deleted=[*known.get("deleted", ()), *lost])


def _ids(rows: Any) -> list[str]:
    return rows.to_table(columns=["id"]).column("id").to_pylist()


def delete_rows(out: str | StoragePath, chosen: Iterable[str]) -> int:
    """Take the rows with these ids or sources out of an index; how many went. All of them, or none."""
    wanted = dict.fromkeys(chosen)
    with IndexTransaction(out) as claim:
        known = claim.finished()
        said = claim.rows.to_table(columns=["id", "source"]).to_pydict()
        pairs = list(zip(said["id"], said["source"], strict=True))
        ids = [id for id, source in pairs if id in wanted or source in wanted]
        found = Counter(name for pair in pairs for name in pair)
        if several := [name for name in wanted if found[name] > 1]:
            got = f"{several[0]}: {', '.join(id for id, source in pairs if source == several[0])}"
            do = "give the ids of those that are to go; nothing was deleted"
            raise DataError(f"a source names several rows of {claim.path}", got=got, do=do)
        if missing := [name for name in wanted if name not in found]:
            got = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            do = "give ids or sources as a trace shows them; nothing was deleted"
            raise DataError(f"{claim.path} does not hold these rows", got=got, do=do)
        if len(ids) == len(pairs):
            raise OptionError("no row would be left", got=f"{len(ids)} of {len(pairs)}", do="remove the folder instead")
        if ids:
            claim.drop(ids)
            claim.named(known, {"did": "delete", "rows": len(ids)}, deleted=[*known.get("deleted", ()), *ids])
    return len(ids)


def removed(manifest: str | Path) -> list[str]:
    """The ids of the rows that `taughtby clean` took out, as the manifest beside its output has them."""
    try:
        said = json.loads(Path(manifest).read_text(encoding="utf-8"))
        did, ids = said["did"], [row["id"] for row in said["rows"]]
    except (OSError, ValueError, KeyError, TypeError) as fault:
        do = "give the .manifest.json that `taughtby clean` wrote beside its output"
        raise DataError(
            f"{manifest} is no manifest of cleaned data", got=f"{type(fault).__name__}: {fault}", do=do
        ) from None
    if did != "removed rows":
        raise DataError(
            f"{manifest} took no rows out", got=did, do="index the cleaned data anew: its rows were learned otherwise"
        )
    return ids


def compact(out: str | StoragePath, keep: timedelta = timedelta(hours=1)) -> Compacted:
    """Merge fragments, write rows without those deleted, and remove what no manifest newer than `keep` tells of.

    Whoever opened the index longer ago than that has to open it again; with `keep` 0, whoever has it open.
    """
    with IndexTransaction(out) as claim:
        known = claim.finished()
        before = len(claim.rows.get_fragments())
        claim.merge(MERGED)
        if claim.rows.version != known["version"]:
            claim.named(known, {"did": "compact"})
        remove(claim.path / ASIDE)
        with storage_errors(claim.path):
            # by number where it can be: Lance's ages are by the clock, and clocks jump
            which: dict[str, Any] = (
                {"older_than": keep} if keep else {"versions": list(range(1, claim.rows.version + 1))}
            )
            gone = claim.rows.cleanup_old_versions(**which, delete_unverified=claim.lock is not None and not keep)
        return Compacted(before, len(claim.rows.get_fragments()), gone.bytes_removed)


def copy_index(source: str | StoragePath, to: str | StoragePath) -> Index:
    """The index as it is now, whole, at another place; others may go on writing to it. Files arrive as they were."""
    old, place = Index.open(source), storage_path(to)
    with IndexTransaction(place, new=True) as claim:
        if not empty(place):
            raise StoreError(f"{place} holds other files", do="give a folder that is empty or not there yet")
        try:
            _copied(old, place)
        except BaseException:
            remove(place / "rows.lance")  # else the same command would be refused the next time
            raise
        claim.publish({key: value for key, value in old.manifest.items() if key != "pending"})
    return Index.open(place)


def _copied(old: Index, place: StoragePath) -> None:
    """Copy the files of the rows, and compare each with its hash where it arrived."""
    with storage_errors(place):
        for name in tracked(old.dataset, transactions=True):
            copy(old.path / "rows.lance" / name, place / "rows.lance" / name)
            asked = old.manifest["files"].get(name)
            if asked and file_digest(place / "rows.lance" / name) != asked:
                raise StoreError(
                    f"{old.path} is damaged",
                    got=f"rows.lance/{name}",
                    do=f"see what else: {cli_command('index verify', old.path)}",
                )


def undo(out: str | StoragePath) -> str | None:
    """Give up what was begun and not finished: the index is as it was. What that was, in words; None for nothing."""
    with IndexTransaction(out) as claim:
        known = read_manifest(claim.path)
        if known is None or not known["complete"]:
            claim.finished()  # which says what is missing
            return None
        pending = known.pop("pending", None)
        known = claim.settled(known)
        if pending:
            claim.publish(known)
        remove(claim.path / ASIDE)
        return told(pending) if pending else next(iter(claim.notes), None)
