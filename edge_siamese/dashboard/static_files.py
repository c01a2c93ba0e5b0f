"""The page's files, read once: whoever asks for one costs neither a thread nor the card."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class PageFile:
    """One of them, as it is sent."""

    data: bytes
    type: str
    tag: str
    """Its ETag."""

    def is_known(self, given: str) -> bool:
        """Whether a header If-None-Match says that the client has it."""
        return self.tag in (tag.strip().removeprefix("W/") for tag in given.split(","))


def page_files(folder: Path) -> dict[str, PageFile]:
    """Those in a folder, by their names; of other types than a page has, none."""
    found: dict[str, PageFile] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in TYPES and path.is_file():
            data = path.read_bytes()
            tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
            found[path.name] = PageFile(data, TYPES[path.suffix], tag)
    return found
