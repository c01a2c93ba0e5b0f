"""A folder of pictures that were collected from devices, which `folder:PATH` trains on.

    PATH/mug/door.local-3f5a….png           registered views, and labeled wrong recognitions
    PATH/collected.json                     where each picture comes from: a list of `Entry`
    PATH-strangers/door.local-9b1c….png     unlabeled wrong recognitions, for `anything:PATH-strangers`

A picture is collected once. One that the user deletes or moves stays deleted or moved.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from edge_siamese.errors import DataError
from edge_siamese.store.names import checked_name, name_key
from edge_siamese.store.picture_archive import ArchivedPicture, PictureArchive
from edge_siamese.system.files import write_atomically
from export import records
from export.data.folders import (
    COLLECTED_FILE,
    HELD_OUT_FRACTION,
    MIN_CLASSES,
    MIN_IMAGES,
    SUFFIXES,
    SYSTEM_NAMES,
)

MAX_FOLDER_BYTES = 160
"""Bytes of the name of an object's folder; file systems allow 255."""
MAX_HOST_LENGTH = 60
_NOT_IN_NAMES = re.compile(r'[/\\:*?"<>|]')
"""Characters that a file system of some workstation does not allow."""


@dataclass(frozen=True)
class Entry:
    """A collected picture."""

    file: str
    """`FOLDER/FILE` below the folder; of a stranger `FILE` below the folder of strangers."""
    picture: str
    """Its name in the archives of devices: the uid of the view, and a number."""
    digest: str
    """The start of the SHA-256 of the file, hexadecimal."""
    host: str
    """The device, as it was named on the command line."""
    time: str
    """When the picture was taken, UTC, ISO 8601, by the clock of the device."""
    kind: Literal["view", "wrong"]
    """Whether it is a registered view, or was recognized wrongly."""
    name: str | None
    """The object that it shows; None for a stranger."""
    recognized: str | None
    """The object as which it was recognized wrongly."""
    model_id: str
    """Of a view, the model in use; otherwise the model that was wrong, empty if that is not known."""


@dataclass(frozen=True)
class Fetched:
    """Counts of the pictures of one device."""

    views: int = 0
    """New pictures of registered views."""
    named: int = 0
    """New wrong recognitions with a label."""
    strangers: int = 0
    """New wrong recognitions without a label."""
    moved: int = 0
    """Pictures that moved to another folder, because their object was renamed or they were labeled."""
    known: int = 0
    """Pictures that were collected before."""
    equal: int = 0
    """Pictures of other views that are equal to a collected one, and are left out."""
    without_pictures: int = 0
    """Views of which the device has no picture."""


@dataclass(frozen=True)
class Contents:
    """Counts of a collected folder."""

    objects: int
    """Folders with pictures."""
    pictures: int
    """Pictures in them."""
    usable: int
    """Folders with enough pictures for a class."""
    one_view: int
    """Folders all of whose pictures were taken within one registration, and so are very similar."""
    strangers: int
    """Pictures of strangers."""

    @property
    def needed(self) -> int:
        """Number of usable classes that `folder:PATH` needs."""
        return 3 * MIN_CLASSES

    @property
    def training_classes(self) -> int:
        """Classes that remain for training when the others are held out."""
        return max(0, self.usable - 2 * max(MIN_CLASSES, round(HELD_OUT_FRACTION * self.usable)))


@dataclass
class CollectedFolder:
    """The folder, the folder of strangers next to it, and what was collected before."""

    path: Path
    dry_run: bool = False
    """Whether to write nothing."""
    entries: dict[str, Entry] = field(default_factory=dict)
    """By the name of the picture in archives."""
    _planned: list[tuple[str | None, str]] = field(default_factory=list)
    """Files that a dry run would move or write: their old and their new `Entry.file`."""

    @classmethod
    def open(cls, path: Path, dry_run: bool = False) -> CollectedFolder:
        """Read what was collected before; the folder need not exist.

        Raises:
            DataError: the path cannot be a folder of classes, or its `collected.json` cannot be read.
        """
        path = Path(os.path.abspath(path))
        if not path.name:
            raise DataError(f"{path} cannot be the folder for pictures: name a folder below it")
        if path.exists() and not path.is_dir():
            raise DataError(f"{path} is not a folder")
        folder = cls(path, dry_run)
        file = path / COLLECTED_FILE
        if file.exists():
            found = records.read_all(Entry, file)
            for entry in found:
                parts = PurePosixPath(entry.file).parts
                if len(parts) != 1 + (entry.name is not None) or {"/", ".."} & set(parts):
                    raise DataError(f"{file}: {entry.file!r} is not the file of a collected picture")
            folder.entries = {entry.picture: entry for entry in found}
        return folder

    @property
    def strangers(self) -> Path:
        """The folder of wrong recognitions without a label."""
        return self.path.with_name(f"{self.path.name}-strangers")

    def add(self, host: str, archive: PictureArchive) -> Fetched:
        """Add the pictures of a device, and save the list of what was collected.

        Args:
            host: the device.
            archive: its pictures; all are decoded before any is written.

        Raises:
            StoreError: a picture of the archive is damaged; nothing is written.
            OSError: a file cannot be written; the next run continues.
        """
        archive.check_pictures()
        digests = {entry.digest: entry for entry in self.entries.values()}
        counts: Counter[str] = Counter()
        try:
            for picture in archive.manifest.pictures:
                if before := self.entries.get(picture.member):
                    counts["moved" if self._move(before, picture) else "known"] += 1
                    continue
                data = archive.read(picture)
                digest = hashlib.sha256(data).hexdigest()[:16]
                if before := digests.get(digest):
                    # Two objects with the same picture must not move it back and forth.
                    moved = before.name is None and self._move(self.entries[before.picture], picture)
                    counts["moved" if moved else "equal"] += 1
                    continue
                self._write(self._entry(host, picture, digest), data)
                digests[digest] = self.entries[picture.member]
                kind = "strangers" if picture.name is None else "named"
                counts["views" if picture.kind == "view" else kind] += 1
        finally:
            self._save()
        return Fetched(**counts, without_pictures=archive.manifest.without_pictures)

    def contents(self) -> Contents:
        """Count what is in the folder, including pictures that the user added."""
        files: dict[str, set[str]] = defaultdict(set)
        if self.path.is_dir():
            for place in self.path.iterdir():
                if place.is_dir() and not place.name.startswith("."):
                    files[place.name] = _pictures(place)
        files[""] = _pictures(self.strangers) if self.strangers.is_dir() else set()
        for old, new in self._planned:
            if old is not None:
                files[old.rpartition("/")[0]].discard(PurePosixPath(old).name)
            files[new.rpartition("/")[0]].add(PurePosixPath(new).name)
        strangers = files.pop("")
        view_of = {entry.file: entry.picture.partition("-")[0] for entry in self.entries.values()}
        views = [{view_of.get(f"{folder}/{name}", name) for name in names} for folder, names in files.items()]
        sizes = [len(names) for names in files.values()]
        return Contents(
            objects=sum(size > 0 for size in sizes),
            pictures=sum(sizes),
            usable=sum(size >= MIN_IMAGES for size in sizes),
            one_view=sum(
                size >= MIN_IMAGES and len(own) == 1 for size, own in zip(sizes, views, strict=True)
            ),
            strangers=len(strangers),
        )

    def _entry(self, host: str, picture: ArchivedPicture, digest: str) -> Entry:
        label = re.sub(r"[^A-Za-z0-9.-]+", "-", host.rpartition("@")[2]).strip(".-")[:MAX_HOST_LENGTH]
        file = f"{label or 'device'}-{digest}.png"
        return Entry(
            f"{self._folder_of(picture.name)}/{file}" if picture.name is not None else file,
            picture.member,
            digest,
            host,
            picture.created,
            picture.kind,
            picture.name,
            picture.recognized,
            picture.model_id,
        )

    def _write(self, entry: Entry, data: bytes) -> None:
        if self.dry_run:
            self._planned.append((None, entry.file))
        else:
            write_atomically(self._place(entry), lambda file: file.write(data))
        self.entries[entry.picture] = entry

    def _move(self, before: Entry, picture: ArchivedPicture) -> bool:
        """Move a picture if its object has another name now, or was named now; False if it stays where it is."""
        if picture.name is None or (
            before.name is not None and name_key(before.name) == name_key(picture.name)
        ):
            return False
        file = f"{self._folder_of(picture.name)}/{PurePosixPath(before.file).name}"
        entry = replace(before, file=file, name=picture.name)
        source, target = self._place(before), self._place(entry)
        if not source.exists() and before.file not in {new for _, new in self._planned}:
            return False
        if self.dry_run:
            self._planned.append((before.file, file))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, target)
            with suppress(OSError):  # it holds other files
                source.parent.rmdir()
        self.entries[before.picture] = entry
        return True

    def _place(self, entry: Entry) -> Path:
        return self.strangers / entry.file if entry.name is None else self.path / entry.file

    def _folder_of(self, name: str) -> str:
        """The folder of an object: an existing one whose name differs in case or Unicode form only, or a new one."""
        key = name_key(name)
        for entry in self.entries.values():
            if entry.name is not None and name_key(entry.name) == key:
                return entry.file.partition("/")[0]
        wanted = folder_name(name)
        if self.path.is_dir():
            for place in sorted(self.path.iterdir()):
                if place.is_dir() and name_key(place.name) == name_key(wanted):
                    return place.name
        return wanted

    def _save(self) -> None:
        if self.entries and not self.dry_run:
            self.path.mkdir(parents=True, exist_ok=True)
            records.write(
                self.path / COLLECTED_FILE, sorted(self.entries.values(), key=lambda entry: entry.file)
            )


def folder_name(name: str) -> str:
    """The name of an object as that of a folder, on all common file systems.

    A name that has to be changed gets a hash at its end, so that different objects have different folders.
    """
    name = checked_name(name)
    folder = _NOT_IN_NAMES.sub("-", name).strip(" .")
    folder = folder.encode()[:MAX_FOLDER_BYTES].decode("utf-8", "ignore").rstrip(" .")
    if folder == name and folder.lower() not in SYSTEM_NAMES:
        return folder
    return f"{folder}-{hashlib.sha256(name_key(name).encode()).hexdigest()[:8]}"


def _pictures(folder: Path) -> set[str]:
    """The names of the pictures directly in a folder."""
    return {
        file.name
        for file in folder.iterdir()
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    }
