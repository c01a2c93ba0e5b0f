"""The support store: registered objects on disk, where every change is durable and can be undone."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from sqlite3 import Connection
from types import TracebackType
from typing import TYPE_CHECKING, get_args
from uuid import uuid4

from edge_siamese.errors import NoSuchObject, StoreBusy, StoreError, SupportError
from edge_siamese.recognition.imaging import Floats
from edge_siamese.store.archive import (
    ImportResult,
    OnConflict,
    import_archive,
    open_archive,
    write_archive,
)
from edge_siamese.store.database import Database, MemoryDatabase
from edge_siamese.store.errors import FAILURES
from edge_siamese.store.integrity import UNKNOWN_TIME, find_damage, repair_damage
from edge_siamese.store.mistakes import Mistake
from edge_siamese.store.names import checked_name, name_key
from edge_siamese.store.picture_archive import PictureManifest, write_pictures
from edge_siamese.store.records import StoredObject, StoreQueries, ViewKind
from edge_siamese.store.recovery import Repair
from edge_siamese.store.tables import (
    encode_crops,
    encode_embedding,
    insert_crops,
    insert_embedding,
    insert_object,
    insert_view,
    is_name_taken,
)
from edge_siamese.store.undo_log import ChangeKind, Undone, log_change, undo_last
from edge_siamese.system.wall_clock import utc_now
from edge_siamese.validation import is_time

if TYPE_CHECKING:
    from edge_siamese.recognition.registration import NewView


class SupportStore(StoreQueries):
    """Objects, their views and pictures in one SQLite file; used by one process at a time.

    Used from one thread, except for `export_archive`, `export_pictures` and `import_archive`, which take a long time: any
    thread may call them. During an import, changes raise `StoreBusy` while `busy` is true.

    When a call returns, its change is on disk; when it raises, nothing has changed. Errors: `StoreError` for the file and
    the disk, `SupportError` for names and arrays.

    with SupportStore("objects.db", encoder.model_id, encoder.dimensions) as store:
        store.register("mug", view)
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        model_id: str,
        dimensions: int,
        *,
        unit_length: bool = False,
        keep_crops: bool = True,
        now: Callable[[], str] = utc_now,
    ) -> None:
        """Open the store; create it if it does not exist, repair it if it is damaged.

        Args:
            path: the database file. None: in memory, for several threads that take turns.
            model_id: the model whose embeddings are read and written. Those of other models are kept.
            dimensions: D, the length of its embeddings.
            unit_length: whether its embeddings are unit vectors.
            keep_crops: whether pictures of new views are stored.
            now: the current time, UTC, ISO 8601.
        """
        database = MemoryDatabase() if path is None else Database(Path(path), now)
        super().__init__(database, model_id, dimensions, unit_length)
        self.keep_crops = keep_crops
        """Whether pictures of new views are stored."""
        self._clock = now
        self._importing = threading.Lock()
        self._model = model_id, dimensions, unit_length
        """The model in use, also within `with_model`."""
        self._pruned_for = ""
        self.findings: tuple[str, ...] = ()
        """The damage that was found and repaired on opening, each as a human-readable line."""
        if database.repair is not None:
            self.findings += (database.repair.text,)
        if lost := database.lost_changes:
            changes = f"the last {lost} changes are" if lost > 1 else "the last change is"
            self.findings += (f"{changes} missing in {self.path}: the file or its log was lost or replaced",)
        self.findings += self.check()
        with suppress(StoreError):  # a full disk does not prevent recognition
            if self._saved_model() != model_id:
                with self._database.change(counted=False) as connection:
                    self._save_model(connection)

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
        """The repair on opening; None if none was needed."""
        return self._database.repair

    @property
    def damaged(self) -> bool:
        """Whether damage was found since the store was opened; opening it again repairs it."""
        return self._database.damaged

    @property
    def busy(self) -> bool:
        """Whether a change is in progress, such as an import on another thread."""
        return self._database.busy

    @property
    def lost_changes(self) -> int:
        """Number of changes that were missing when the store was opened."""
        return self._database.lost_changes

    def check(self) -> tuple[str, ...]:
        """Look for damaged rows and repair them; returns a human-readable line if there were any.

        Damaged embeddings are restored from the backup, or computed again from pictures (see `unembedded`). If neither is
        possible, their views are kept but not used (see `unusable_views`).
        """
        self.suspect = False
        try:
            damage = find_damage(self._database.connection, self.model_id, self.usable_rows)
        except FAILURES as error:
            raise self._database.map_error(error) from error
        if not damage:
            return ()
        try:
            with self._database.change(counted=False) as connection:
                repair_damage(connection, damage, self.model_id, self._database.read_backup)
        except StoreError as error:  # a full disk does not prevent recognition
            self._unrepaired.update(view for view, _ in damage.embeddings)
            return (f"{damage.text}; this cannot be repaired now: {error}",)
        return (damage.text,)

    def use_model(self, model_id: str, dimensions: int, unit_length: bool = False) -> None:
        """Read and write embeddings of another model from now on."""
        self.model_id, self.dimensions, self.unit_length = model_id, dimensions, unit_length
        self._model = model_id, dimensions, unit_length
        if self._saved_model() != model_id:
            with self._database.change(counted=False) as connection:
                self._save_model(connection)
                self._drop_old_embeddings(connection)

    @contextmanager
    def with_model(self, model_id: str, dimensions: int, unit_length: bool = False) -> Iterator[None]:
        """Read and write embeddings of another model within a block, such as to prepare a change of the model."""
        before = self.model_id, self.dimensions, self.unit_length
        self.model_id, self.dimensions, self.unit_length = model_id, dimensions, unit_length
        try:
            yield
        finally:
            self.model_id, self.dimensions, self.unit_length = before

    def require_free_name(self, name: str) -> None:
        """Raise `SupportError` if a name is not valid or is taken."""
        _require_free(self._database.connection, checked_name(name))

    def register(self, name: str | None, view: NewView, template: str = "object {number}") -> StoredObject:
        """Register an object.

        Args:
            name: None for `template` with the next number. A number is never used twice, not even after its object was
                forgotten or undone: programs that listen to events would confuse the two objects.
            view: its first view.
            template: contains `{number}`.

        Raises:
            SupportError: the name is taken or not valid, or the view does not fit the model.
        """
        if name is not None:
            name = checked_name(name)
        elif "{number}" not in template:
            raise SupportError(f'the template of a name must contain "{{number}}", not be "{template}"')
        vector, crops = self._encode(view)
        with self._database.change() as connection:
            if name is None:
                name = _next_numbered_name(connection, template)
            else:
                _require_free(connection, name)
            object_id = insert_object(connection, uuid4().hex, name, self._now())
            view_id = self._insert(connection, object_id, "view", view.source, vector, crops)
            log_change(connection, "registered", object_id, view_id)
        return self._get(object_id)

    def add_view(self, uid_or_name: str, view: NewView) -> StoredObject:
        """Add a view to an object; raises `SupportError` as `register` does."""
        return self._add(uid_or_name, view, "view", "view added")

    def add_negative(self, uid_or_name: str, view: NewView) -> StoredObject:
        """Add a negative, an example of what the object is not; raises `SupportError` as `register` does."""
        return self._add(uid_or_name, view, "negative", "negative added")

    def rename(self, uid_or_name: str, name: str) -> StoredObject:
        """Rename an object.

        Raises:
            SupportError: there is no such object, or the name is taken or not valid.
        """
        item, name = self.object(uid_or_name), checked_name(name)
        if name == item.name:
            return item
        with self._database.change() as connection:
            if name_key(name) != name_key(item.name):  # "mug" may become "Mug"
                _require_free(connection, name)
            connection.execute(
                "UPDATE objects SET name = ?, key = ? WHERE id = ?", (name, name_key(name), item.id)
            )
            log_change(connection, "renamed", item.id, data={"former": item.name})
        return self._get(item.id)

    def forget(self, uid_or_name: str) -> StoredObject:
        """Forget an object; an undo can restore it until 200 changes later. Returns the object as it was."""
        item = self.object(uid_or_name)
        with self._database.change() as connection:
            number = log_change(connection, "forgotten", item.id)
            connection.execute("UPDATE objects SET deleted = ? WHERE id = ?", (number, item.id))
        return item

    def remove_view(self, uid_or_name: str, view_id: int) -> StoredObject:
        """Remove a view or negative from an object; returns the object as it is now.

        Raises:
            SupportError: there is no such object, it has no such view, or it is its only view.
        """
        item = self.object(uid_or_name)
        kinds = {view.id: view.kind for view in self.views(item.uid)}
        if view_id not in kinds:
            known = ", ".join(map(str, list(kinds)[:10])) + (", …" if len(kinds) > 10 else "")
            raise NoSuchObject(f'"{item.name}" has no view {view_id}; it has {known}')
        if kinds[view_id] == "view" and item.views == 1:
            raise SupportError(
                f'view {view_id} is the only view of "{item.name}"; forget the object instead, or add a view first'
            )
        with self._database.change() as connection:
            number = log_change(connection, "view removed", item.id, view_id)
            connection.execute("UPDATE views SET deleted = ? WHERE id = ?", (number, view_id))
        return self._get(item.id)

    def merge(self, uid_or_name: str, into: str) -> StoredObject:
        """Move all views and negatives of one object to another, and delete the first.

        Returns:
            The object `into`, which keeps its name and its uid.

        Raises:
            SupportError: one of them does not exist, or they are the same.
        """
        item, target = self.object(uid_or_name), self.object(into)
        if item.id == target.id:
            raise SupportError(f'"{item.name}" cannot be merged with itself; name another object')
        with self._database.change() as connection:
            query = "SELECT id FROM views WHERE object_id = ? AND deleted IS NULL ORDER BY id"
            views = [view_id for (view_id,) in connection.execute(query, (item.id,))]
            number = log_change(connection, "merged", item.id, data={"into": target.id, "views": views})
            connection.execute(
                "UPDATE views SET object_id = ? WHERE object_id = ? AND deleted IS NULL", (target.id, item.id)
            )
            connection.execute("UPDATE objects SET deleted = ? WHERE id = ?", (number, item.id))
        return self._get(target.id)

    def undo(self, registrations_only: bool = False) -> Undone | None:
        """Undo the last change; another call undoes the one before it.

        Args:
            registrations_only: consider only registrations, added views and added negatives. Those of an object that
                has since been merged are skipped: they belong to another object.

        Returns:
            What was undone; None if there is nothing to undo. Restored views may lack an embedding of the current
            model: see `unembedded`.
        """
        with self._database.change() as connection:
            return undo_last(connection, registrations_only)

    def set_embeddings(self, embeddings: Mapping[int, Floats]) -> None:
        """Write embeddings of the current model, all or none.

        The first time, embeddings of models before the previous one are dropped. Within `with_model` nothing is
        dropped: another model is in use.

        Args:
            embeddings: by view id, each (D,). Views that no longer exist are skipped.
        """
        rows = [
            (self.model_id, encode_embedding(vector, self.dimensions, self.unit_length), view_id)
            for view_id, vector in embeddings.items()
        ]
        with self._database.change(counted=False) as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO embeddings (view_id, model_id, vector, checksum) "
                "SELECT id, ?1, ?2, row_checksum(id, ?1, ?2) FROM views WHERE id = ?3",
                rows,
            )
            if self.model_id == self._model[0] != self._pruned_for:
                self._drop_old_embeddings(connection)
                self._pruned_for = self.model_id

    def export_archive(self, path: str | os.PathLike[str]) -> int:
        """Write all objects to an archive, completely or not at all; returns the number of objects.

        The archive has the state of one moment; later changes are not in it.
        """
        return write_archive(Path(path), self._database, *self._model[:2], self._now())

    def export_pictures(self, path: str | os.PathLike[str], mistakes: Iterable[Mistake]) -> PictureManifest:
        """Write an archive of the pictures for training, completely or not at all; any thread may call it.

        Args:
            path: the archive.
            mistakes: they replace the stored pictures of their negatives.
        """
        return write_pictures(Path(path), self._database, mistakes, self._model[0], self._now())

    def import_archive(
        self, path: str | os.PathLike[str], on_conflict: OnConflict = "rename"
    ) -> ImportResult:
        """Add the objects of an archive, all or none.

        An object known here by its uid gets the views that it lacks; if it was merged into another object here, that
        one gets them. A new object whose name is taken gets another name (`rename`), is skipped (`skip`), or adds its
        views to the object of that name (`merge`). Views without an embedding of the current model are imported with
        their pictures (`unembedded`); without pictures, they are skipped.

        Raises:
            StoreError: the file cannot be read, is not an archive, or is damaged, or the store was closed; nothing is
                changed.
            StoreBusy: another import is running.
            SupportError: there is no such policy.
        """
        if on_conflict not in get_args(OnConflict):
            raise SupportError(
                f'on_conflict must be one of {", ".join(get_args(OnConflict))}, not "{on_conflict}"'
            )
        if not self._importing.acquire(blocking=False):
            raise StoreBusy("an archive is being imported; try again when it is finished")
        model_id, dimensions, unit_length = self._model
        try:
            with open_archive(Path(path), lambda: self._database.connection) as archive:
                archive.check_pictures()  # before the transaction, which keeps others from changing the store
                with self._database.long_change() as connection:
                    result, log = import_archive(
                        connection,
                        archive,
                        model_id=model_id,
                        dimensions=dimensions,
                        unit_length=unit_length,
                        keep_crops=self.keep_crops,
                        on_conflict=on_conflict,
                    )
                    if any(log.values()):
                        log_change(connection, "imported", data=log)
        finally:
            self._importing.release()
        return result

    def backup(self, limit_s: float | None = None) -> bool:
        """Copy the store to `objects.backup.db` if it has changed; False if that took longer than `limit_s`."""
        return self._database.backup(limit_s)

    def _get(self, object_id: int) -> StoredObject:
        return self._select_objects("o.id = ?", object_id)[0]

    def _add(self, uid_or_name: str, view: NewView, kind: ViewKind, change: ChangeKind) -> StoredObject:
        item = self.object(uid_or_name)
        vector, crops = self._encode(view)
        with self._database.change() as connection:
            view_id = self._insert(connection, item.id, kind, view.source, vector, crops)
            log_change(connection, change, item.id, view_id)
        return self._get(item.id)

    def _encode(self, view: NewView) -> tuple[bytes, list[bytes]]:
        """The embedding and the pictures as they are stored; what takes time is done before the transaction."""
        vector = encode_embedding(view.embedding, self.dimensions, self.unit_length)
        crops = encode_crops(view.crops)
        return vector, crops if self.keep_crops else []

    def _insert(
        self,
        connection: Connection,
        object_id: int,
        kind: ViewKind,
        source: str,
        vector: bytes,
        crops: list[bytes],
    ) -> int:
        view_id = insert_view(connection, object_id, uuid4().hex, kind, self._now(), source)
        insert_embedding(connection, view_id, self.model_id, vector)
        insert_crops(connection, view_id, crops)
        return view_id

    def _now(self) -> str:
        """The current time; 1970 if the device's clock is set to a year that other devices refuse."""
        now = self._clock()
        return now if is_time(now) else UNKNOWN_TIME

    def _saved_model(self) -> str | None:
        rows = self._database.read("SELECT value FROM facts WHERE name = 'model'")
        return rows[0][0] if rows else None

    def _save_model(self, connection: Connection) -> None:
        """Save the model and the previous one, whose embeddings are kept for a change back."""
        former = self._saved_model()
        if former != self.model_id:
            rows = [("model", self.model_id)] + ([("former model", former)] if former else [])
            connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)

    def _drop_old_embeddings(self, connection: Connection) -> None:
        """Drop embeddings of all models but the current and the previous one; this reads the whole table."""
        connection.execute(
            "DELETE FROM embeddings WHERE model_id NOT IN "
            "(SELECT value FROM facts WHERE name IN ('model', 'former model'))"
        )


def _require_free(connection: Connection, name: str) -> None:
    if is_name_taken(connection, name_key(name)):
        raise SupportError(f'there is already an object "{name}"; choose another name, or add a view to it')


def _next_numbered_name(connection: Connection, template: str) -> str:
    """The template with the next number that gives a free name; raises `SupportError` if that is not a valid name."""
    (last,) = connection.execute("SELECT value FROM facts WHERE name = 'last number'").fetchone()
    number = int(last) + 1
    while is_name_taken(
        connection, name_key(name := checked_name(template.replace("{number}", str(number))))
    ):
        number += 1
    connection.execute("UPDATE facts SET value = ? WHERE name = 'last number'", (str(number),))
    return name
