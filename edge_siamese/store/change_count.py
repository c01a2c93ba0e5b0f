"""The number of changes to a store, also kept in a small file next to it, so that lost changes are noticed.

SQLite opens a database whose log is missing or cut off, or an older copy, without an error: each is a valid earlier state.
This file says how many changes there were. It is replaced after a change is on disk. If the power fails between the two,
the number in the file is lower than that of the database, and nothing is reported.
"""

from __future__ import annotations

import re
import sqlite3
import zlib
from dataclasses import dataclass
from pathlib import Path

from edge_siamese.system.files import write_text_atomically

_LINE = re.compile(r"([0-9a-f]{32}) ([0-9]{1,18}) ([0-9a-f]{8})\n")


@dataclass(frozen=True)
class ChangeCount:
    """Number of changes to a store; embeddings computed from its pictures do not count."""

    store: str
    """32 hexadecimal digits, which identify the store and its copies."""
    changes: int
    """Changes since it was created."""

    def missing(self, later: ChangeCount | None) -> int:
        """Number of changes of a later state that this one lacks; 0 for the state of another store."""
        return max(0, later.changes - self.changes) if later and later.store == self.store else 0


def count_changes(connection: sqlite3.Connection) -> ChangeCount | None:
    """The count in a database; None if it has none, as databases of older releases. Raises `sqlite3.Error`."""
    facts = dict(connection.execute("SELECT name, value FROM facts WHERE name IN ('store', 'changes')"))
    try:
        return ChangeCount(str(facts["store"]), int(facts["changes"]))
    except (KeyError, TypeError, ValueError):
        return None


def read_count(path: Path) -> ChangeCount | None:
    """The count in a file; None if it does not exist, or is damaged."""
    try:
        match = _LINE.fullmatch(path.read_bytes()[:100].decode("ascii", "replace"))
    except OSError:
        return None
    if match is None or _checksum(match[1], match[2]) != match[3]:
        return None
    return ChangeCount(match[1], int(match[2]))


def write_count(path: Path, count: ChangeCount) -> None:
    """Replace the file, atomically; raises `OSError`."""
    changes = str(count.changes)
    write_text_atomically(path, f"{count.store} {changes} {_checksum(count.store, changes)}\n", 0o600)


def _checksum(store: str, changes: str) -> str:
    return f"{zlib.crc32(f'{store} {changes}'.encode()):08x}"
