"""Keeps what is slow to build, such as a tree of an operating system, under the hash of its recipe."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path


def cached(cache: Path, name: str, recipe: str, build: Callable[[Path], None]) -> Path:
    """A directory that `build` fills; built once for each recipe, and whole or not at all.

    Args:
        cache: where such directories are kept.
        name: what it holds.
        recipe: all that the result depends on; another recipe gives another directory, and the old one goes.
        build: fills an empty directory.
    """
    cache.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    place = cache / f"{name}-{key}"
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two processes of pytest may want the same
        if place.is_dir():
            return place
        for old in cache.glob(f"{name}-*"):
            remove_tree(old)
        print(f"\n{name}: building it, once", flush=True)
        started = time.monotonic()
        part = Path(tempfile.mkdtemp(prefix=f"{name}-", suffix=".part", dir=cache))
        build(part)
        part.chmod(0o755)
        os.rename(part, place)
        print(f"{name}: built in {time.monotonic() - started:.0f} s", flush=True)
    return place


def remove_tree(tree: Path) -> None:
    """Remove the tree of an operating system; what a killed build has left mounted in it, such as /dev, is spared."""
    subprocess.run(["rm", "-rf", "--one-file-system", "--", str(tree)], check=True)
