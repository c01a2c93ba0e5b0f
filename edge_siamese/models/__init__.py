"""The bundles that are shipped with the program, by name: `objects` for photographs of things, `glyphs` for handwriting.

Each is a directory beside this file. A device on which no model was installed recognizes with `DEFAULT`.
"""

from __future__ import annotations

import os
from pathlib import Path

from edge_siamese.errors import BundleNotFound

DIRECTORY = Path(__file__).parent
"""Where the shipped bundles are."""
DEFAULT = "objects"
"""The name of the bundle that is used where none was chosen."""
_MANIFEST = "manifest.json"


def names() -> tuple[str, ...]:
    """The names of the shipped bundles, sorted; empty where the program came without them."""
    return tuple(sorted(path.parent.name for path in DIRECTORY.glob(f"[!._]*/{_MANIFEST}")))


def shipped(name: str) -> Path:
    """The directory of a shipped bundle.

    Raises:
        BundleNotFound: none of this name is shipped.
    """
    found = names()
    if name not in found:
        raise BundleNotFound(f'no bundle called "{name}" is shipped; {_listed(found)}')
    return DIRECTORY / name


def default() -> Path | None:
    """The directory of the bundle that is used where none was chosen; None if it is not shipped."""
    return DIRECTORY / DEFAULT if DEFAULT in names() else None


def resolve(given: str | os.PathLike[str]) -> Path:
    """The directory that somebody means who writes a path, or the name of a shipped bundle.

    What exists, or has a separator in it, is a path; whether a bundle is there is the business of `load_bundle`.

    Raises:
        BundleNotFound: it is neither a path nor the name of a shipped bundle.
    """
    text = os.fspath(given)
    if os.sep in text or (os.altsep and os.altsep in text) or os.path.exists(text):
        return Path(text)
    found = names()
    if text in found:
        return DIRECTORY / text
    raise BundleNotFound(f"no bundle at {text}: no such directory; {_listed(found)}")


def described(path: Path) -> str:
    """`objects, shipped with edge-siamese`, for the directory of that bundle; empty for any other directory."""
    real = Path(os.path.realpath(path))
    if real.parent != Path(os.path.realpath(DIRECTORY)) or real.name not in names():
        return ""
    return f"{real.name}, shipped with edge-siamese"


def _listed(found: tuple[str, ...]) -> str:
    return f"shipped ones are called: {', '.join(found)}" if found else "no bundle is shipped here"
