"""Reads the files of a zip archive or of the same archive unpacked, in one way."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edge_siamese.errors import DataError

CHUNK = 1 << 20


@dataclass(frozen=True)
class Archive:
    """A zip file or a folder that holds what the zip file would."""

    path: Path
    below: str = "*"
    """Of a folder, only what is below the entries that this pattern fits."""

    def fingerprint(self) -> dict[str, str | int]:
        """Bytes and sha256: of the zip file, or of all names and contents of the folder.

        Raises:
            DataError: it cannot be read.
        """
        digest = hashlib.sha256()
        size = 0
        try:
            if self.path.is_dir():
                for name, content in self.files():
                    digest.update(f"{name}\0{len(content)}\0".encode())
                    digest.update(content)
                    size += len(content)
            else:
                with self.path.open("rb") as file:
                    while chunk := file.read(CHUNK):
                        digest.update(chunk)
                        size += len(chunk)
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror or error}") from error
        return {"name": self.path.name, "bytes": size, "sha256": digest.hexdigest()}

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Every file as (name, content) in the order of the names, which use forward slashes and start below
        the archive.

        Hidden files and the resource forks of macOS are left out.

        Raises:
            DataError: the archive is missing, truncated or corrupt.
        """
        if self.path.is_dir():
            yield from self._from_folder()
        else:
            yield from self._from_zip()

    def _from_folder(self) -> Iterator[tuple[str, bytes]]:
        names = {
            str(PurePosixPath(p.relative_to(self.path))): p
            for p in self.path.glob(f"{self.below}/**/*")
            if p.is_file()
        }
        for name in sorted(names):
            if not _hidden(name):
                try:
                    content = names[name].read_bytes()
                except OSError as error:
                    raise DataError(f"cannot read {names[name]}: {error.strerror or error}") from error
                yield name, content

    def _from_zip(self) -> Iterator[tuple[str, bytes]]:
        damaged = f"{self.path} is truncated or corrupt; delete it and fetch or copy it again"
        try:
            with zipfile.ZipFile(self.path) as archive:
                for name in sorted(archive.namelist()):
                    if not name.endswith("/") and not _hidden(name):
                        yield name, archive.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise DataError(f"{damaged} ({error})") from error
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror or error}") from error
        except RuntimeError as error:  # what zipfile says to encrypted or exotic members
            raise DataError(f"{damaged} ({error})") from error


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)
