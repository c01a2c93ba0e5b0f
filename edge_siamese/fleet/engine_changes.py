"""What the fleet has done on the engine's thread: read the store, change it, let the engine see it, tell people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_siamese.events import Event
from edge_siamese.store.replication import (
    Batch,
    ObjectRow,
    Snapshot,
    ViewContent,
    apply_batch,
    read_content,
    read_snapshot,
    revision,
)

if TYPE_CHECKING:
    from edge_siamese.daemon.engine import Engine
    from edge_siamese.store import SupportStore

_TOLD = 5
"""Names in one line for people."""


@dataclass(frozen=True)
class Seen:
    """A store as it is."""

    snapshot: Snapshot
    opened: SupportStore
    """The store; another one after it was opened anew."""


def snapshot_of(engine: Engine, before: Seen | None) -> Seen:
    """The store, read only if it is not as before."""
    store = engine.store
    if before is not None and before.opened is store and before.snapshot.revision == revision(store):
        return before
    return Seen(read_snapshot(store), store)


def content_of(engine: Engine, view: str) -> ViewContent | None:
    """Embedding and pictures of a view; None if it is not there."""
    return read_content(engine.store, view)


def applied(engine: Engine, batch: Batch, before: Snapshot, collection: str) -> tuple[Event | None, int]:
    """Apply a batch and let the engine see it.

    Returns:
        What is to be told of it, if it shows, and how many views the model has to learn from their pictures now.

    Raises:
        StoreChangedError: the store is not as before any more; nothing is changed.
        StoreError: it cannot be written; nothing is changed.
    """
    unembedded = apply_batch(engine.store, batch, before.revision)
    engine.follow([item.uid for item in batch.objects])
    return _event(batch, before, collection), unembedded


def _event(batch: Batch, before: Snapshot, collection: str) -> Event | None:
    """One line for people, and for programs what became of which objects."""
    came: list[ObjectRow] = []
    renamed: list[ObjectRow] = []
    gone: list[ObjectRow] = []
    for item in batch.objects:
        former = before.objects.get(item.uid)
        if item.deleted:
            gone.append(item)
        elif former is None or former.deleted:
            came.append(item)
        else:
            renamed.append(item)
    named = {item.uid: item.name for item in (*before.objects.values(), *batch.objects)}
    touched = {row.owner for row in batch.views} | {arrival.row.owner for arrival in batch.new_views}
    views = sorted(touched - {item.uid for item in (*came, *gone)})
    parts = [
        *_line("learned", [item.name for item in came]),
        *_line("renamed", [f'{before.objects[item.uid].name}" to "{item.name}' for item in renamed]),
        *_line("forgot", [item.name for item in gone]),
        *_line("other views of", [named[uid] for uid in views if uid in named]),
    ]
    if not parts:
        return None
    data: dict[str, Any] = {
        "collection": collection,
        "came": [{"uid": item.uid, "name": item.name} for item in came],
        "renamed": [{"uid": item.uid, "name": item.name} for item in renamed],
        "gone": [{"uid": item.uid, "name": item.name} for item in gone],
        "changed": [{"uid": uid, "name": named[uid]} for uid in views if uid in named],
    }
    return Event("fleet", f"fleet {collection}: {'; '.join(parts)}", data=data)


def _line(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return [f"{what} " + ", ".join(f'"{name}"' for name in names[:_TOLD]) + more]
