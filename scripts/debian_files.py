"""Files of Debian packages, without installing them."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def unpacked(names: Sequence[str], packages: Sequence[Path] = ()) -> Iterator[Path]:
    """Download packages with apt-get and unpack them; yields their `/usr/share`, which is removed afterward.

    Args:
        names: of packages, such as `sweethome3d-furniture`.
        packages: .deb files to unpack instead of downloading these.

    Raises:
        CalledProcessError: a package cannot be downloaded or unpacked.
    """
    with tempfile.TemporaryDirectory() as directory:
        if not packages:
            subprocess.run(["apt-get", "download", "-qq", *names], cwd=directory, check=True)
            packages = sorted(Path(directory).glob("*.deb"))
        for package in packages:
            subprocess.run(["dpkg-deb", "-x", package, f"{directory}/x"], check=True)
        yield Path(directory, "x/usr/share")
