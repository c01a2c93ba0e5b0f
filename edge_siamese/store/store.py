"""The support store: registered objects on the disk, where every change that returned stays and can be undone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from sqlite3 import Connection
from types import TracebackType
from typing import TYPE_CHECKING
from uuid import uuid4

from edge_siamese.errors import NoSuchObject, StoreError, SupportError
from edge_siamese.events import utc_now
from edge_siamese.recognition.imaging import Floats
from edge_siamese.store.archive import OnConflict, write_collection
from edge_siamese.store.archive_import import Imported, read_into
from edge_siamese.store.database import Database
from edge_siamese.store.names import checked_name, name_key
from edge_siamese.store.records import Records, StoredObject, ViewKind
from edge_siamese.store.recovery import Repair
from edge_siamese.store.undo_log import ChangeKind, Undone, record, undo_last
from edge_siamese.store.writes import (
    embedding_bytes,
    insert_crops,
    insert_embedding,
    insert_object,
    insert_view,
    numbered_name,
    picture_files,
    refuse_taken,
)

if TYPE_CHECKING:
    from edge_siamese.recognition.registration import NewView


class SupportStore(Records):
    """Objects, their views and pictures, in one SQLite file; used from one thread, by one process at a time.

    A changing call that returned is on the disk; one that raised has changed nothing. Errors: `StoreError` for the
    file and the disk, `SupportError` for names and arrays.

    with SupportStore("objects.db", encoder.model_id, encoder.dimensions) as store:
        store.register("mug", view)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        model_id: str,
        dimensions: int,
        *,
        keep_crops: bool = True,
        now: Callable[[], str] = utc_now,
    ) -> None:
        """Open the store, make it if there is none, repair it if it is damaged.

        Args:
            path: of the database file.
            model_id: whose embeddings are written and seen; those of other models are kept beside them.
            dimensions: of its embeddings.
            keep_crops: whether pictures of new views are kept.
            now: the time of day, as text.
        """
        super().__init__(Database(Path(path), now), model_id, dimensions)
        self.keep_crops = keep_crops
        """Whether pictures of new views are kept."""
        self._now = now
        self._in_use, self._dropped_for = model_id, ""
        with suppress(StoreError):  # a full disk keeps nobody from recognizing
            if self._remembered_model() != model_id:
                with self._database.change() as connection:
                    self._remember_model(connection)

    def __enter__(self) -> SupportStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._database.close()

    @property
    def path(self) -> Path:
        """The database file."""
        return self._database.path

    @property
    def repair(self) -> Repair | None:
        """What had to be repaired at the opening."""
        return self._database.repair

    @property
    def damaged(self) -> bool:
        """Whether damage was met since the opening; closing the store and opening it again repairs it."""
        return self._database.places.suspicion.exists()

    def use(self, model_id: str, dimensions: int) -> None:
        """See the store with another model from now on, and write its embeddings."""
        self.model_id, self.dimensions = model_id, dimensions
        self._in_use = model_id
        if self._remembered_model() != model_id:
            with self._database.change() as connection:
                self._remember_model(connection)
                self._drop_others(connection)

    @contextmanager
    def seen_with(self, model_id: str, dimensions: int) -> Iterator[None]:
        """See the store with another model for a moment, as to embed with it what the present one still serves."""
        before = self.model_id, self.dimensions
        self.model_id, self.dimensions = model_id, dimensions
        try:
            yield
        finally:
            self.model_id, self.dimensions = before

    def require_free(self, name: str) -> None:
        """Raise `SupportError` if an object cannot get this name: it is none, or taken."""
        refuse_taken(self._database.connection, checked_name(name))

    def register(self, name: str | None, view: NewView, template: str = "object {number}") -> StoredObject:
        """Register an object.

        Args:
            name: or None for `template` with the next number. A number is never given twice, not even after its object
                was forgotten or undone: what listens to events would take the new object for the old one.
            view: its first view.
            template: has `{number}` in it.

        Raises:
            SupportError: the name is taken or is none, or the view does not fit the model.
        """
        if name is not None:
            name = checked_name(name)
        elif "{number}" not in template:
            raise SupportError(f'a name with "{{number}}" in it is needed, not "{template}"')
        vector, pictures = self._checked(view)
        with self._database.change() as connection:
            if name is None:
                name = numbered_name(connection, template)
            else:
                refuse_taken(connection, name)
            number = insert_object(connection, uuid4().hex, name, self._now())
            view_id = self._insert(connection, number, "view", view.source, vector, pictures)
            record(connection, "registered", number, view_id)
        return self._objects("o.id = ?", number)[0]

    def add_view(self, uid_or_name: str, view: NewView) -> StoredObject:
        """Add a view to an object."""
        return self._add(uid_or_name, view, "view", "view added")

    def add_negative(self, uid_or_name: str, view: NewView) -> StoredObject:
        """Add an example of what the object is not."""
        return self._add(uid_or_name, view, "negative", "negative added")

    def rename(self, uid_or_name: str, name: str) -> StoredObject:
        """Give an object another name.

        Raises:
            SupportError: there is no such object, or the name is taken or is none.
        """
        found, name = self.object(uid_or_name), checked_name(name)
        if name == found.name:
            return found
        with self._database.change() as connection:
            if name_key(name) != name_key(found.name):  # "mug" may become "Mug"
                refuse_taken(connection, name)
            connection.execute(
                "UPDATE objects SET name = ?, key = ? WHERE id = ?", (name, name_key(name), found.id)
            )
            record(connection, "renamed", found.id, data={"former": found.name})
        return self._objects("o.id = ?", found.id)[0]

    def forget(self, uid_or_name: str) -> StoredObject:
        """Forget an object; it is kept for an undo until 200 changes later. The object as it was."""
        found = self.object(uid_or_name)
        with self._database.change() as connection:
            number = record(connection, "forgotten", found.id)
            connection.execute("UPDATE objects SET deleted = ? WHERE id = ?", (number, found.id))
        return found

    def remove_view(self, uid_or_name: str, view_id: int) -> StoredObject:
        """Take one view, or one negative, from an object; the object as it is now.

        Raises:
            SupportError: there is no such object, the view is not one of its own, or it is its only one.
        """
        found = self.object(uid_or_name)
        kinds = {view.id: view.kind for view in self.views(found.uid)}
        if view_id not in kinds:
            known = ", ".join(map(str, list(kinds)[:10])) + (", …" if len(kinds) > 10 else "")
            raise NoSuchObject(f'"{found.name}" has no view {view_id}; it has {known}')
        if kinds[view_id] == "view" and found.views == 1:
            raise SupportError(
                f'view {view_id} is the only view of "{found.name}"; forget the object instead, or add a view first'
            )
        with self._database.change() as connection:
            number = record(connection, "view removed", found.id, view_id)
            connection.execute("UPDATE views SET deleted = ? WHERE id = ?", (number, view_id))
        return self._objects("o.id = ?", found.id)[0]

    def merge(self, uid_or_name: str, into: str) -> StoredObject:
        """Make two objects one: all views and negatives of the first become those of `into`, and the first is gone.

        Returns:
            The object `into`, which keeps its name and its uid.

        Raises:
            SupportError: one of them does not exist, or they are the same.
        """
        found, target = self.object(uid_or_name), self.object(into)
        if found.id == target.id:
            raise SupportError(f'"{found.name}" cannot be merged with itself; name another object')
        with self._database.change() as connection:
            query = "SELECT id FROM views WHERE object_id = ? AND deleted IS NULL ORDER BY id"
            moved = [number for (number,) in connection.execute(query, (found.id,))]
            number = record(connection, "merged", found.id, data={"into": target.id, "views": moved})
            connection.execute(
                "UPDATE views SET object_id = ? WHERE object_id = ? AND deleted IS NULL",
                (target.id, found.id),
            )
            connection.execute("UPDATE objects SET deleted = ? WHERE id = ?", (number, found.id))
        return self._objects("o.id = ?", target.id)[0]

    def undo(self, registrations_only: bool = False) -> Undone | None:
        """Take the last change back; again, and it is the one before.

        Args:
            registrations_only: pass over all but registrations, added views and negatives. What was merged since is
                passed over too: it is part of another object.

        Returns:
            What was undone; None if there is nothing to undo. What came back may lack an embedding of the current
            model: see `unembedded`.
        """
        with self._database.change() as connection:
            return undo_last(connection, registrations_only)

    def adopt(self, embeddings: Mapping[int, Floats]) -> None:
        """Write embeddings of the current model, all or none; the first time, drop those of models before the former.

        While the store is only `seen_with` this model nothing is dropped: another one is in use.

        Args:
            embeddings: of views by their numbers, each (D,). A view that is gone meanwhile is passed over.
        """
        rows = [
            (self.model_id, embedding_bytes(vector, self.dimensions), number)
            for number, vector in embeddings.items()
        ]
        with self._database.change() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO embeddings (view_id, model_id, vector) SELECT id, ?, ? FROM views WHERE id = ?",
                rows,
            )
            if self.model_id == self._in_use != self._dropped_for:
                self._drop_others(connection)
                self._dropped_for = self.model_id

    def export(self, path: str | os.PathLike[str]) -> int:
        """Write all objects to one .zip file, whole or not at all; how many objects."""
        return write_collection(Path(path), self._database, self.model_id, self.dimensions, self._now())

    def import_(self, path: str | os.PathLike[str], on_conflict: OnConflict = "rename") -> Imported:
        """Take objects from a file that `export` wrote, all or none.

        An object that is known here by its uid gets the views that it lacks. If it was merged into another here, that
        one gets them. One that is new, but whose name is taken, gets another name (`rename`), stays out (`skip`), or
        gives its views to that of its name (`merge`). Without embeddings of the current model, views come with their
        pictures (`unembedded`), or not at all.

        Raises:
            StoreError: the file cannot be read, is no such file, or is damaged; nothing is changed.
        """
        with self._database.change() as connection:
            imported, log = read_into(
                connection,
                Path(path),
                model_id=self.model_id,
                dimensions=self.dimensions,
                keep_crops=self.keep_crops,
                on_conflict=on_conflict,
            )
            if any(log.values()):
                record(connection, "imported", data=log)
        return imported

    def backup(self, limit_s: float | None = None) -> bool:
        """Copy the store to `objects.backup.db` if it has changed; False if that took longer than `limit_s`."""
        return self._database.backup(limit_s)

    def _add(self, uid_or_name: str, view: NewView, kind: ViewKind, change: ChangeKind) -> StoredObject:
        found = self.object(uid_or_name)
        vector, pictures = self._checked(view)
        with self._database.change() as connection:
            view_id = self._insert(connection, found.id, kind, view.source, vector, pictures)
            record(connection, change, found.id, view_id)
        return self._objects("o.id = ?", found.id)[0]

    def _checked(self, view: NewView) -> tuple[bytes, list[bytes]]:
        """An embedding and pictures as they are kept; all that takes time is done before the transaction."""
        vector, pictures = embedding_bytes(view.embedding, self.dimensions), picture_files(view.crops)
        return vector, pictures if self.keep_crops else []

    def _insert(
        self,
        connection: Connection,
        owner: int,
        kind: ViewKind,
        source: str,
        vector: bytes,
        crops: list[bytes],
    ) -> int:
        view_id = insert_view(connection, owner, uuid4().hex, kind, self._now(), source)
        insert_embedding(connection, view_id, self.model_id, vector)
        insert_crops(connection, view_id, crops)
        return view_id

    def _remembered_model(self) -> str | None:
        found = self._database.read("SELECT value FROM facts WHERE name = 'model'")
        return found[0][0] if found else None

    def _remember_model(self, connection: Connection) -> None:
        """Note the model and the one before it, whose embeddings are kept for the way back."""
        former = self._remembered_model()
        if former != self.model_id:
            rows = [("model", self.model_id)] + ([("former model", former)] if former else [])
            connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)

    def _drop_others(self, connection: Connection) -> None:
        """Drop what neither the model nor the one before it made: it is read through once, not with each view."""
        connection.execute(
            "DELETE FROM embeddings WHERE model_id NOT IN "
            "(SELECT value FROM facts WHERE name IN ('model', 'former model'))"
        )
