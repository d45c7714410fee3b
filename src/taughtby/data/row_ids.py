"""Ids of rows: hashes of what they say, the same wherever the file is."""

from __future__ import annotations

import hashlib
import json
from array import array
from typing import Any

from taughtby.data.example import Example
from taughtby.errors import DataError


class IdAssigner:
    """How often each content was read before: 8 bytes of its hash in an open table, 12 to 36 bytes a row.

    A dict would take 94 to 130. Two contents in 10^9 rows may share their 8 bytes: the later is then named as the
    earlier's second, a name no other row has.
    """

    def __init__(self) -> None:
        self.table = array("Q", bytes(8 << 10))
        self.count = 0
        self.again: dict[int, int] = {}  # of what was read more than once

    def assign(self, row: Example) -> str:
        """The id of a row: a hash of its content and of how often that content has been read."""
        found = content_hash(row)
        return row_id(found, self._times(int.from_bytes(found[:8], "little") or 1))

    def _times(self, key: int) -> int:
        if not self._added(key):
            self.again[key] = self.again.get(key, 1) + 1
            return self.again[key]
        self.count += 1
        if 3 * self.count > 2 * len(self.table):
            known, self.table = self.table, array("Q", bytes(16 * len(self.table)))
            for one in known:
                if one:
                    self._added(one)
        return 1

    def _added(self, key: int) -> bool:
        """Put the key where its search ends, unless it is found on the way."""
        size, table = len(self.table), self.table
        at = key % size
        while table[at] not in (0, key):
            at = (at + 1) % size
        added = not table[at]
        table[at] = key
        return added


def content_hash(row: Example) -> bytes:
    """A hash of what a row says."""
    said: Any = list(row.messages)
    if row.tools or row.rejected is not None:
        said = [said, list(row.tools), row.rejected]
    try:
        text = json.dumps(said, sort_keys=True, ensure_ascii=False)
    except TypeError as fault:  # bytes, which a table may hold
        do = "take out of the messages what is no text, number or list"
        raise DataError(f"{row.source}: the row cannot be written as JSON", got=str(fault), do=do) from None
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()


def row_id(found: bytes, times: int) -> str:
    """The id of the row that says this for the so manieth time."""
    return hashlib.blake2b(found + times.to_bytes(8, "big"), digest_size=8).hexdigest()
