"""Looks into the disk of a machine whose power was cut, from outside: the journal is replayed, and the store read."""

from __future__ import annotations

import sqlite3
import subprocess
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from edge_siamese.models.bundle import Bundle
from edge_siamese.store import SupportStore

STATE = "/var/lib/edge-siamese"
REPAIRED_BY_ITSELF = 1
"""What e2fsck returns when it has replayed the journal and put right what that leaves."""


@dataclass(frozen=True)
class Found:
    """A store as the power cut left it."""

    objects: dict[str, str]
    """uid -> name."""
    integrity: str
    """What SQLite says; "ok" if all is well."""
    repair: str | None
    """What the store had to repair when it was opened; None if nothing."""
    incomplete: list[str]
    """Objects that lack a view, its embedding or its picture."""
    lost_changes: int = 0
    """Changes that were on disk, by the count beside the store, and are missing."""


def replay_journal(disk: Path) -> None:
    """What the kernel does at the next boot, and a thorough check; fails if the file system is damaged."""
    ran = subprocess.run(["/sbin/e2fsck", "-f", "-p", str(disk)], capture_output=True, text=True)
    assert ran.returncode in (0, REPAIRED_BY_ITSELF), ran.stdout + ran.stderr


def read_store(disk: Path, bundle: Bundle, work: Path) -> Found:
    """The store of the device, copied out of its disk and opened by the code that the device runs.

    Args:
        disk: whose journal was replayed.
        bundle: of the device.
        work: is made; the copies go there.
    """
    work.mkdir()
    for name in ("objects.db", "objects.db-wal", "objects.db.changes"):
        copy_out(disk, f"{STATE}/{name}", work / name)
    path = work / "objects.db"
    if not path.exists():
        return Found({}, "ok", None, [])
    with closing(sqlite3.connect(path)) as database:
        integrity = str(database.execute("pragma integrity_check").fetchone()[0])
    incomplete = []
    with SupportStore(path, bundle.manifest.model_id, bundle.manifest.embedding.dimensions) as store:
        objects = store.objects()
        embedded = {entry.uid: len(entry.embeddings) for entry in store.entries()}
        for item in objects:
            views = store.views(item.uid)
            pictures = [store.crop(view.id, index) for view in views for index in range(view.crops)]
            if len(views) != 1 or embedded.get(item.uid) != 1 or not pictures or min(map(len, pictures)) == 0:
                incomplete.append(item.name)
        repair, lost = store.repair.text if store.repair else None, store.lost_changes
    return Found({item.uid: item.name for item in objects}, integrity, repair, incomplete, lost)


def copy_out(disk: Path, path: str, target: Path) -> None:
    """Copy a file out of an ext4 disk that nobody uses; nothing if it is not there."""
    ran = subprocess.run(
        ["/sbin/debugfs", "-R", f"dump {path} {target}", str(disk)], capture_output=True, text=True
    )
    if "File not found" in ran.stderr:
        target.unlink(missing_ok=True)
