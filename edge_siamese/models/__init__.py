"""The shipped bundles: `objects` for everyday objects and `glyphs` for handwriting.

Each is a directory in this package. A device without an installed model uses `DEFAULT`.
"""

from __future__ import annotations

import os
from pathlib import Path

from edge_siamese.errors import BundleNotFound

DIRECTORY = Path(__file__).parent
"""The directory of the shipped bundles."""
DEFAULT = "objects"
"""The name of the default bundle."""
_MANIFEST = "manifest.json"


def names() -> tuple[str, ...]:
    """Sorted names of the shipped bundles; empty if the program was packaged without them."""
    return tuple(sorted(path.parent.name for path in DIRECTORY.glob(f"[!._]*/{_MANIFEST}")))


def shipped(name: str) -> Path:
    """The directory of a shipped bundle.

    Raises:
        BundleNotFound: there is none of this name.
    """
    found = names()
    if name not in found:
        raise BundleNotFound(f'no bundle called "{name}" is shipped; {_listed(found)}')
    return DIRECTORY / name


def default() -> Path | None:
    """The directory of the default bundle; None if it is not shipped."""
    return DIRECTORY / DEFAULT if DEFAULT in names() else None


def resolve(given: str | os.PathLike[str]) -> Path:
    """The directory of a bundle that is given as a path or by the name of a shipped bundle.

    Whatever exists or contains a separator is a path; `load_bundle` checks whether there is a bundle.

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
    """`objects, shipped with edge-siamese` for the directory of that bundle; empty for other directories."""
    real = Path(os.path.realpath(path))
    if real.parent != Path(os.path.realpath(DIRECTORY)) or real.name not in names():
        return ""
    return f"{real.name}, shipped with edge-siamese"


def _listed(found: tuple[str, ...]) -> str:
    return f"shipped bundles: {', '.join(found)}" if found else "no bundle is shipped here"
