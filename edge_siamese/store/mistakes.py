"""Pictures of wrong recognitions that are kept for training, one file each, with the owner's consent.

    mistakes/00000012-0f3c….json    a `Mistake`

The store has a small picture of each negative too. This one is larger, and says which model was wrong and what the picture
really shows. Nothing is kept unless the setting `training.collect_pictures` is on.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edge_siamese.errors import EdgeSiameseError, NoSuchObject, PictureError, StoreError, SupportError
from edge_siamese.pictures import decode_png, encode_png
from edge_siamese.recognition.imaging import Bytes
from edge_siamese.store.errors import require_free_space, store_error
from edge_siamese.store.names import checked_name
from edge_siamese.store.records import StoreQueries
from edge_siamese.system.files import write_atomically
from edge_siamese.validation import Record, SchemaError, convert, parse_json, require_time

LOG = logging.getLogger(__name__)

DIRECTORY = "mistakes"
"""Below the state directory."""
MAX_MISTAKES = 200
MAX_BYTES = 32 * 1024 * 1024
"""Size of all files together. Beyond these limits the oldest are deleted."""
PICTURE_SIDE = 256
"""Longer side of a kept picture in pixels."""

_FILE_NAME = re.compile(r"([0-9]{8,18})-([0-9a-f]{32})\.json")


class Mistake(Record, frozen=True):
    """A wrong recognition."""

    uid: str
    """The uid of the negative in the store: 32 hexadecimal digits."""
    actual: str | None
    """Name of what the picture really shows; None if it is unknown."""
    actual_uid: str | None
    """The uid of the registered object of that name, which may be renamed later; None if there was none."""
    created: str
    """UTC, ISO 8601."""
    model_id: str
    """The model that was wrong."""
    picture: bytes
    """PNG, uint8 (h, w) or (h, w, 3); base64 in the file."""


@dataclass(frozen=True)
class Actual:
    """The true label of a picture that was recognized wrongly."""

    name: str | None
    """None if it is unknown."""
    uid: str | None
    """Uid of the registered object of that name; None if there is none."""

    @classmethod
    def of(cls, store: StoreQueries, recognized: str, name: str | None) -> Actual:
        """Check a name.

        Args:
            store: has the registered objects.
            recognized: uid of the object that was recognized.
            name: None if it is unknown.

        Raises:
            SupportError: the name is not valid, or that of the object that was recognized.
        """
        if name is None:
            return cls(None, None)
        name = checked_name(name)
        try:
            known = store.object(name)
        except NoSuchObject:
            return cls(name, None)
        if known.uid == recognized:
            raise SupportError(f'"{known.name}" is what was recognized; name what it really was')
        return cls(known.name, known.uid)


class KeptMistakes:
    """The mistakes in a state directory. One thread changes them; any thread may read them."""

    def __init__(self, state: Path | None) -> None:
        """Read nothing yet; `state` is the state directory, None to keep nothing."""
        self.directory = None if state is None else state / DIRECTORY
        self._allowed = False

    def allow(self, allowed: bool) -> None:
        """Apply the owner's consent: without it, all are deleted; raises `StoreError` if that fails."""
        self._allowed = allowed
        if not allowed and self.directory is not None:
            try:
                shutil.rmtree(self.directory)
            except FileNotFoundError:
                return
            except OSError as error:
                raise StoreError(f"{self.directory} cannot be deleted: {error.strerror or error}") from error

    def keep(self, store: StoreQueries, recognized: str, picture: Bytes, actual: Actual) -> str:
        """Keep the picture of an object's newest negative, and delete the oldest beyond the limits.

        Nothing happens without consent. The negative is in the store already, so an error is not raised.

        Args:
            store: has the negative.
            recognized: uid of the object that was recognized.
            picture: uint8 (h, w) or (h, w, 3).
            actual: what it really shows.

        Returns:
            Why it could not be kept, in one line; empty without a problem.
        """
        if self.directory is None or not self._allowed:
            return ""
        try:
            negative = store.views(recognized)[-1]
            mistake = Mistake(
                negative.uid, actual.name, actual.uid, negative.created, store.model_id, encode_png(picture)
            )
            self._write(self.directory, mistake)
        except EdgeSiameseError as error:
            return f"the picture of a wrong recognition is not kept for training: {error}"
        return ""

    def _write(self, directory: Path, mistake: Mistake) -> None:
        require_free_space(directory.parent)
        files = self._files()
        number = int(files[-1].name.partition("-")[0]) + 1 if files else 1
        path = directory / f"{number:08d}-{mistake.uid}.json"
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(path, lambda file: file.write(msgspec.json.encode(mistake)), mode=0o600)
            _delete_oldest([*files, path])
        except OSError as error:
            raise store_error(error, path) from error

    def all(self) -> Iterator[Mistake]:
        """Read all, oldest first; files that are damaged or deleted meanwhile are skipped."""
        for path in self._files():
            try:
                yield _read(path)
            except FileNotFoundError:
                continue
            except (OSError, SchemaError, PictureError) as error:
                LOG.warning("%s cannot be read and is skipped: %s", path, error)

    def prune(self, store: StoreQueries) -> None:
        """Delete the mistakes whose negatives are no longer in the store, not even to be restored by an undo.

        The next call repeats what fails, so an error is only logged.
        """
        files = {path.stem.partition("-")[2]: path for path in self._files()}
        if not files:
            return
        try:
            for uid in files.keys() - store.existing_views(list(files)):
                files[uid].unlink(missing_ok=True)
        except OSError as error:  # of the store, too
            LOG.warning("pictures of former negatives are not deleted: %s", error)

    def _files(self) -> list[Path]:
        """The files, oldest first; none without consent."""
        if self.directory is None or not self._allowed:
            return []
        try:
            names = os.listdir(self.directory)
        except OSError:
            return []
        found = [match for match in map(_FILE_NAME.fullmatch, names) if match]
        return [self.directory / match[0] for match in sorted(found, key=lambda match: int(match[1]))]


def _delete_oldest(files: list[Path]) -> None:
    """Delete files beyond the limits; the last one stays."""
    sizes = [path.stat().st_size for path in files]
    total = sum(sizes)
    for place, path in enumerate(files[:-1]):
        if len(files) - place <= MAX_MISTAKES and total <= MAX_BYTES:
            break
        path.unlink(missing_ok=True)
        total -= sizes[place]


def _read(path: Path) -> Mistake:
    mistake = convert(parse_json(path.read_bytes()), Mistake)
    require_time("created", mistake.created)
    decode_png(mistake.picture)
    return mistake
