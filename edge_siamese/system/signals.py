"""Signals that end a command."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP)


class _Ended(BaseException):
    """A signal that ends the program; the argument is its number."""


@contextmanager
def cleaning_up_when_ended() -> Iterator[None]:
    """Unwind the body when a signal ends the program, so that temporary files are removed; then end by that signal.

    Ignored signals stay ignored, as under `nohup`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    for number, handler in before.items():
        if handler is signal.SIG_DFL:
            signal.signal(number, _end)
    try:
        yield
    except _Ended as ended:
        signal.signal(ended.args[0], signal.SIG_DFL)
        os.kill(os.getpid(), ended.args[0])
        raise  # the signal is blocked
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is _end:
                signal.signal(number, handler)


def _end(number: int, _: FrameType | None) -> None:
    raise _Ended(number)
