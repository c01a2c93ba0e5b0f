"""Calls from other threads on the thread that owns engine and store."""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from edge_siamese.errors import NotReady

T = TypeVar("T")


class CallQueue:
    """Functions that other threads have called on the thread that owns engine and store."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._closed = False

    def call(self, function: Callable[[], T], timeout: float) -> T:
        """Call a function on the owner's thread and return its result; from any other thread.

        Raises:
            NotReady: the daemon is stopping or too busy.
            Any error of the function.
        """
        future: Future[T] = Future()
        self._waiting.put((function, future))
        if self._closed:  # closed meanwhile: it would never run
            future.cancel()
        try:
            return future.result(timeout)
        except CancelledError:
            raise NotReady("the daemon is stopping") from None
        except TimeoutError as error:
            if future.done():  # the function's own TimeoutError, such as that of a camera
                return future.result()
            # A call that has timed out must not run later.
            if not future.cancel():
                raise NotReady("the daemon is still working on it; check the result later") from error
            raise NotReady(f"the daemon was too busy for {timeout:g} s") from error

    def run_pending(self) -> None:
        """Run the calls that are waiting now; later ones wait for the next iteration."""
        for _ in range(self._waiting.qsize()):
            function, future = self._waiting.get_nowait()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

    def close(self) -> None:
        """Run no further call; waiting callers get `NotReady`."""
        self._closed = True
        while not self._waiting.empty():
            self._waiting.get_nowait()[1].cancel()
