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
    if name not in names():
        raise BundleNotFound(f'no bundle called "{name}" is shipped; {_listed()}')
    return DIRECTORY / name


def default() -> Path | None:
    """The directory of the default bundle; None if it is not shipped."""
    return DIRECTORY / DEFAULT if DEFAULT in names() else None


def resolve(bundle: str | os.PathLike[str]) -> Path:
    """The directory of a bundle, by its path or by the name of a shipped bundle.

    Text that names an existing file or contains a separator is a path; `load_bundle` checks whether it is a bundle.

    Raises:
        BundleNotFound: it is neither a path nor the name of a shipped bundle.
    """
    text = os.fspath(bundle)
    if os.sep in text or (os.altsep and os.altsep in text) or os.path.exists(text):
        return Path(text)
    if text in names():
        return DIRECTORY / text
    raise BundleNotFound(f"no bundle at {text}: no such directory; {_listed()}")


def is_shipped(directory: Path) -> bool:
    """Whether a directory is that of a shipped bundle: by its name, not through links, which others might change."""
    return directory.parent == DIRECTORY and directory.name in names()


def describe_shipped(path: Path) -> str:
    """`objects, shipped with edge-siamese` for the directory of that bundle; empty for other directories."""
    real = Path(os.path.realpath(path))
    if real.parent != Path(os.path.realpath(DIRECTORY)) or real.name not in names():
        return ""
    return f"{real.name}, shipped with edge-siamese"


def _listed() -> str:
    return f"shipped bundles: {', '.join(names())}" if names() else "no bundle is shipped here"
