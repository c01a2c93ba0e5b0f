"""Ends a Python process that opens the object store, as an unforeseen fault in a library would."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any


def die(event: str, arguments: tuple[Any, ...]) -> None:
    """End the process; an audit hook."""
    if event == "sqlite3.connect" and str(arguments[0]).endswith("/objects.db"):
        os.kill(os.getpid(), signal.SIGKILL)


sys.addaudithook(die)
