"""Damages stored rows of objects, as a worn memory card or a foreign program would; runs in the system.

damage_store.py STORE OBJECT=KIND...    KIND: huge, flipped (their embedding), or ruined (embedding and picture)
"""

from __future__ import annotations

import sqlite3
import struct
import sys


def damage(store: sqlite3.Connection, name: str, kind: str) -> None:
    """Change the rows of an object's first view, without what the daemon would write along with them."""
    query = "SELECT v.id FROM views v JOIN objects o ON o.id = v.object_id WHERE o.name = ?"
    (view,) = store.execute(query, (name,)).fetchone()
    (vector,) = store.execute("SELECT vector FROM embeddings WHERE view_id = ?", (view,)).fetchone()
    vector = struct.pack("<f", 3e38) * (len(vector) // 4) if kind == "huge" else flipped(vector, 2)
    store.execute("UPDATE embeddings SET vector = ? WHERE view_id = ?", (vector, view))
    if kind == "ruined":
        pictures = store.execute("SELECT place, picture FROM crops WHERE view_id = ?", (view,)).fetchall()
        for place, picture in pictures:
            values = (flipped(picture, len(picture) // 2), view, place)
            store.execute("UPDATE crops SET picture = ? WHERE view_id = ? AND place = ?", values)


def flipped(data: bytes, place: int) -> bytes:
    """Flip one bit of a byte."""
    return data[:place] + bytes((data[place] ^ 0x40,)) + data[place + 1 :]


def main() -> None:
    """Damage the store while nobody has it open."""
    path, *damages = sys.argv[1:]
    store = sqlite3.connect(path)
    with store:
        for item in damages:
            damage(store, *item.split("="))
    store.close()


main()
