"""Zip files with pictures that others made.

They are not trusted. All sizes are bounded before anything is unpacked, pictures are decoded before anything is used, in
bounded time, and no name in the file is used as a file name.
"""

from __future__ import annotations

import io
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_siamese.errors import PictureError, StoreError
from edge_siamese.pictures import MAX_PNG_BYTES, decode_png, png_size
from edge_siamese.store.tables import MAX_CROP_SIDE
from edge_siamese.validation import parse_json

MAX_MEMBERS = 500_000
MAX_DIRECTORY_BYTES = 32 * 1024 * 1024
MAX_TOTAL_BYTES = 8 * 1024**3
MAX_TOTAL_PIXELS = 10 * 10**9
MAX_SECONDS = 900.0
"""Time limit of reading a file."""

# A fixed time for all members: equal content gives equal files.
_EPOCH = (1980, 1, 1, 0, 0, 0)


def new_member(name: str) -> zipfile.ZipInfo:
    """A member to write, with a fixed time and mode."""
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr = 0o644 << 16
    return info


class BoundedZip:
    """A zip file that is open for reading; see `open_zip`."""

    def __init__(
        self, path: Path, archive: zipfile.ZipFile, consequence: str, keep_reading: Callable[[], object]
    ) -> None:
        """Check the list of members; raises `StoreError`."""
        self._path, self._archive = path, archive
        self._consequence, self._keep_reading = consequence, keep_reading
        self._end = time.monotonic() + MAX_SECONDS
        self._members = self._check_members()

    def refusal(self, problem: str) -> StoreError:
        """The error for a file that is not used because of a problem."""
        return StoreError(f"{self._path}: {problem}; {self._consequence}")

    def read(self, name: str, max_bytes: int) -> bytes:
        """Read a member. Its declared size is checked first, and no more than that is unpacked.

        Raises:
            StoreError: it is missing, too large, encrypted or damaged, or the time is over.
        """
        self._keep_reading()
        if time.monotonic() > self._end:
            raise self.refusal(f"reading it takes more than {MAX_SECONDS / 60:g} minutes")
        info = self._members.get(name)
        label = f"the member {ascii(name)[:80]}"
        if info is None:
            raise self.refusal(f"{label} is missing")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
            raise self.refusal(f"{label} is encrypted, or compressed by another method than deflate")
        if info.file_size > max_bytes:
            raise self.refusal(f"{label} has {info.file_size} bytes; at most {max_bytes} are read")
        with self._archive.open(info) as file:
            data = file.read(max_bytes + 1)
        if len(data) != info.file_size:
            raise self.refusal(f"{label} does not have the size that the file states")
        return data

    def read_manifest(self, name: str, max_bytes: int, version: int) -> Any:
        """Read a member as JSON; raises `SchemaError`, or `StoreError` if its `version` is a newer one than `version`."""
        value = parse_json(self.read(name, max_bytes))
        found = value.get("version") if isinstance(value, dict) else None
        if isinstance(found, int) and found > version:
            raise self.refusal(
                f"it has version {found} of the format, and this release reads version {version}"
            )
        return value

    def read_picture(self, name: str) -> bytes:
        """Read a picture as PNG."""
        return self.read(name, MAX_PNG_BYTES)

    def check_pictures(self, names: Iterable[str]) -> None:
        """Decode pictures; one at a time is in memory, at most 13 MB of pixels. Takes minutes for a large file.

        Raises:
            StoreError: one is damaged or too large, or there are too many.
        """
        pixels = 0
        for name in names:
            data = self.read_picture(name)
            try:
                width, height = png_size(data)
                if max(width, height) > MAX_CROP_SIDE:
                    raise PictureError(f"sides of {MAX_CROP_SIDE} pixels at most, not {width} x {height}")
                pixels += width * height
                if pixels > MAX_TOTAL_PIXELS:
                    raise self.refusal(f"its pictures have more than {MAX_TOTAL_PIXELS:,} pixels")
                decode_png(data)
            except PictureError as error:
                raise self.refusal(f"the picture {ascii(name)[:80]}: {error}") from error

    def _check_members(self) -> dict[str, zipfile.ZipInfo]:
        infos = self._archive.infolist()
        members = {info.filename: info for info in infos}
        if len(infos) > MAX_MEMBERS or len(members) != len(infos):
            raise self.refusal("it has duplicate members, or too many")
        if sum(info.file_size for info in infos) > MAX_TOTAL_BYTES:
            raise self.refusal(f"it unpacks to more than {MAX_TOTAL_BYTES >> 30} GiB")
        return members


class _BoundedFile(io.BufferedReader):
    """A file that bounds the list of members, which zipfile reads into memory before it can be counted."""

    max_read_bytes: int | None = MAX_DIRECTORY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        if self.max_read_bytes is not None and size is not None and size > self.max_read_bytes:
            raise zipfile.BadZipFile(f"its list of members has {size} bytes")
        return super().read(size)


@contextmanager
def open_zip(
    path: Path, consequence: str, keep_reading: Callable[[], object] = lambda: None
) -> Iterator[BoundedZip]:
    """Open a zip file and check its list of members.

    Args:
        path: the file.
        consequence: ends the message of an error, such as "nothing was imported".
        keep_reading: called before each member is read; raises an error to stop.

    Raises:
        StoreError: the file cannot be read, or is damaged; also while the block reads members.
    """
    try:
        with _BoundedFile(io.FileIO(path)) as file, zipfile.ZipFile(file) as archive:
            file.max_read_bytes = None
            yield BoundedZip(path, archive, consequence, keep_reading)
    except StoreError:
        raise
    except FileNotFoundError as error:
        raise StoreError(f"{path}: there is no such file") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}; {consequence}") from error
    # zipfile does not document which exceptions malformed files raise.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise StoreError(f"{path} is damaged, or not an archive: {error}; {consequence}") from error
