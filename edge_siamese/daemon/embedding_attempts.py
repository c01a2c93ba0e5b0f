"""Remembers over the end of the process which view was being embedded, so that one that ends it is not tried for ever."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edge_siamese import __version__
from edge_siamese.system.files import write_text_atomically

LOG = logging.getLogger(__name__)

FILE = "learning.json"
MOST = 2
"""Attempts that may end the process: the first time it may have been the power."""
_MAX_BYTES = 1_000_000


class Attempts:
    """The views that one model of one release was embedding when the process ended, and how often."""

    def __init__(self, directory: Path, model_id: str) -> None:
        """What the file cannot tell is taken for none: another model or release may do better as well."""
        self._path = directory / FILE
        self._head = {"version": __version__, "model_id": model_id}
        self._counts = self._read()

    def of(self, view: int) -> int:
        """How often the process ended while this view was embedded."""
        return self._counts.get(view, 0)

    def is_hopeless(self, view: int) -> bool:
        """Whether it is not to be tried again."""
        return self.of(view) >= MOST

    @contextmanager
    def at(self, view: int) -> Iterator[None]:
        """Embed this view within. What says that it cannot be, or a daemon that is told to end, takes the note back;
        what nobody foresaw, such as memory that is used up, leaves it."""
        before = self.of(view)
        self._counts[view] = before + 1
        self._write()
        try:
            yield
        except (GeneratorExit, OSError, ValueError):
            self._counts[view] = before
            self._write()
            raise
        del self._counts[view]  # the next note, or `close`, tells the file

    def close(self) -> None:
        """All views were tried."""
        if any(self._counts.values()):
            self._write()
        else:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _read(self) -> dict[int, int]:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            with self._path.open("rb") as file:
                said = json.loads(file.read(_MAX_BYTES))
            if {key: said[key] for key in self._head} == self._head:
                return {int(view): int(count) for view, count in said["views"].items()}
        return {}

    def _write(self) -> None:
        try:
            views = {str(view): count for view, count in self._counts.items() if count}
            write_text_atomically(self._path, json.dumps({**self._head, "views": views}) + "\n")
        except OSError as error:  # such as a full disk: it is learned all the same
            LOG.debug("%s cannot be written: %s", self._path, error)
