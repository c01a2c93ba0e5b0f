"""Lets other threads have something done on the one thread that owns engine and store."""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from edge_siamese.errors import NotReady

T = TypeVar("T")


class Calls:
    """Functions that wait for the owner's next turn; `ask` from any other thread."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._over = False

    def ask(self, function: Callable[[], T], timeout: float) -> T:
        """Let the owner call a function, and wait for what it returns.

        Raises:
            NotReady: the daemon is stopping, or did not come to it in time.
            Whatever the function raises.
        """
        future: Future[T] = Future()
        self._waiting.put((function, future))
        if self._over:  # asked after it was put there: nobody may come to it any more
            future.cancel()
        try:
            return future.result(timeout)
        except CancelledError:
            raise NotReady("the daemon is stopping") from None
        except TimeoutError as error:
            if future.done():  # the function's own error, such as that of a camera
                return future.result()
            # What nobody waits for any more must not be done later, behind the asker's back.
            if not future.cancel():
                raise NotReady("the daemon is still at it; see later what came of it") from error
            raise NotReady(f"the daemon did not come to it in {timeout:g} s") from error

    def answer(self) -> None:
        """Call what waits now; what is asked meanwhile waits for the next turn."""
        for _ in range(self._waiting.qsize()):
            function, future = self._waiting.get_nowait()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

    def end(self) -> None:
        """Nothing is called any more; who waits is told."""
        self._over = True
        while not self._waiting.empty():
            self._waiting.get_nowait()[1].cancel()
