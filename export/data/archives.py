"""Data set archives: download of the official Omniglot files, and one reader for a zip file and its unpacked folder."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from edge_siamese.errors import DataError
from edge_siamese.system.files import sync_directory
from export.progress import stderr_console

CHUNK = 1 << 20
OFFICIAL_URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
URL_VARIABLE = "EDGE_SIAMESE_OMNIGLOT_URL"
"""Environment variable with the URL of a mirror of the official repository's `python` folder."""
TIMEOUT_SECONDS = 30.0
STALE_SECONDS = 3600.0
"""Age at which a partial download counts as abandoned."""
DOWNLOAD_CHUNK = 1 << 16


@dataclass(frozen=True)
class Archive:
    """A zip file, or a folder with the contents of one."""

    path: Path
    pattern: str = "*"
    """Glob pattern of the entries of a folder that belong to the archive."""

    def fingerprint(self) -> dict[str, str | int]:
        """Name, size and SHA-256 of the zip file, or of all names and contents of the folder.

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
        """All files as (name, content), sorted by name; names are relative and use forward slashes.

        Hidden files and the resource forks of macOS are skipped.

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
            for p in self.path.glob(f"{self.pattern}/**/*")
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
        except RuntimeError as error:  # raised for encrypted members and unknown compression
            raise DataError(f"{damaged} ({error})") from error


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


@dataclass(frozen=True)
class RemoteFile:
    """A file of the official repository."""

    path: str
    bytes: int
    sha256: str

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]


# The checksums of the image archives are those of TensorFlow Datasets. That of all_runs.zip is of a copy with the MD5
# e8996daecdf12afeeb4a53a179f06b19, which published loaders of these runs check.
OMNIGLOT = (
    RemoteFile(
        "images_background.zip", 9464212, "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640"
    ),
    RemoteFile(
        "images_evaluation.zip", 6462886, "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee"
    ),
    RemoteFile(
        "one-shot-classification/all_runs.zip",
        352787,
        "437c1eeab0af8484112e1b4cc0f3d541ec727f7c47b9b202da738af9dfd6c325",
    ),
)


def fetch_omniglot(into: Path, base_url: str | None = None, files: Sequence[RemoteFile] = OMNIGLOT) -> Path:
    """Download the archives that are missing in the folder `into`, and return it.

    A file gets its name only when it is complete and its checksum is right, so existing files are not checked again.

    Raises:
        DataError: the download failed, a checksum is wrong, or the folder cannot be written.
    """
    base_url = (base_url or os.environ.get(URL_VARIABLE) or OFFICIAL_URL).rstrip("/")
    missing = [file for file in files if not (into / file.name).is_file()]
    if not missing:
        return into
    try:
        into.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot create {into} for the Omniglot archives ({error.strerror or error})"
        ) from error
    _remove_stale_downloads(into, missing)
    console = stderr_console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(24),
        DownloadColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        for file in missing:
            if not console.is_terminal:
                console.print(f"fetching {file.name} ({file.bytes / 1e6:.1f} MB) into {into}", soft_wrap=True)
            task = progress.add_task(f"fetching {file.name}", total=file.bytes)
            _fetch(f"{base_url}/{file.path}", file, into, progress, task)
    return into


def _remove_stale_downloads(into: Path, files: Sequence[RemoteFile]) -> None:
    """Delete abandoned partial downloads; a recent one may belong to another process."""
    for file in files:
        for partial in into.glob(f".{file.name}.*"):
            if time.time() - partial.stat().st_mtime > STALE_SECONDS:
                partial.unlink(missing_ok=True)


def _fetch(url: str, file: RemoteFile, into: Path, progress: Progress, task: object) -> None:
    advice = f"put {file.name} into {into}, or pass --data-root with a folder that holds the archives"
    handle, temporary = tempfile.mkstemp(dir=into, prefix=f".{file.name}.")
    try:
        digest = hashlib.sha256()
        size = 0
        with os.fdopen(handle, "wb") as out, urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
            # Reading stops after the expected size, so that a wrong server cannot fill the disk.
            while size <= file.bytes and (chunk := response.read(DOWNLOAD_CHUNK)):
                out.write(chunk)
                digest.update(chunk)
                size += len(chunk)
                progress.update(task, completed=size)  # type: ignore[arg-type]
            out.flush()
            os.fsync(out.fileno())
        if size < file.bytes:
            raise DataError(
                f"cannot fetch {url}: the connection ended after {size} of {file.bytes} bytes; try again, or {advice}"
            )
        if digest.hexdigest() != file.sha256:
            raise DataError(f"cannot use {url}: its sha256 is not that of the official archive; {advice}")
        os.chmod(temporary, 0o644)
        os.replace(temporary, into / file.name)
        sync_directory(into)
    except urllib.error.HTTPError as error:
        raise DataError(f"cannot fetch {url} (HTTP {error.code} {error.reason}); {advice}") from error
    except (urllib.error.URLError, HTTPException, OSError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise DataError(f"cannot fetch {url} ({reason}); {advice}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)
