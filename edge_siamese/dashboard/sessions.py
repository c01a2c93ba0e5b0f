"""Who is logged in: random ids, known only as hashes, that end after a while, and all of them with the process."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

IDLE_SECONDS = 12 * 3600.0
"""A session that is not used for so long ends."""
MAX_SECONDS = 7 * 24 * 3600.0
"""No session is longer."""
MOST = 100
"""With one more, the one that was used longest ago ends."""


@dataclass
class Session:
    """One browser that has logged in."""

    csrf: str
    """What a request that changes something has to show."""
    mark: str
    """Of the credentials by which it was let in."""
    began: float
    used: float


class Sessions:
    """Those that are open; any thread may ask."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """None is open; `clock` counts seconds."""
        self._clock = clock
        self._open: OrderedDict[bytes, Session] = OrderedDict()
        self._changing = threading.Lock()

    def open(self, mark: str) -> tuple[str, Session]:
        """Begin one; its id, which goes into the cookie and is kept nowhere else."""
        number, now = secrets.token_urlsafe(32), self._clock()
        session = Session(secrets.token_urlsafe(32), mark, now, now)
        with self._changing:
            self._open[_digest(number)] = session
            while len(self._open) > MOST:
                self._open.popitem(last=False)
        return number, session

    def find(self, number: str, mark: str) -> Session | None:
        """The session of this id, which is used now; None if there is none, or its credentials are not those of now."""
        if not number:
            return None
        key, now = _digest(number), self._clock()
        with self._changing:
            session = self._open.get(key)
            if session is None:
                return None
            if session.mark != mark or now - session.used > IDLE_SECONDS or now - session.began > MAX_SECONDS:
                del self._open[key]
                return None
            session.used = now
            self._open.move_to_end(key)
            return session

    def close(self, number: str) -> None:
        """End one, if there is one of this id."""
        with self._changing:
            self._open.pop(_digest(number), None)


def _digest(number: str) -> bytes:
    return hashlib.sha256(number.encode("utf-8", "replace")).digest()
