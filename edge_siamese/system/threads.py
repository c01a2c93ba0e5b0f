"""Daemon threads for work that may take a long time: the process can exit without waiting for them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

T = TypeVar("T")


class DaemonThreadPool(Executor):
    """An executor like `ThreadPoolExecutor`, but its threads do not keep the process from ending.

    The interpreter joins the threads of `ThreadPoolExecutor` when it ends, even after `shutdown(wait=False)`.
    """

    def __init__(self, max_threads: int, name: str) -> None:
        """Create a pool without threads. `name` is the prefix of the threads' names."""
        self._max_threads, self._name = max_threads, name
        self._waiting: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Call a function on one of the threads; raises `RuntimeError` after the shutdown."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError(f"the threads {self._name} are shut down")
            self._waiting.put((lambda: fn(*args, **kwargs), future))
            if not self._idle.acquire(blocking=False) and len(self._threads) < self._max_threads:
                name = f"{self._name}_{len(self._threads)}"
                self._threads.append(threading.Thread(target=self._work, name=name, daemon=True))
                self._threads[-1].start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls, and end the threads when the waiting calls are done or canceled."""
        with self._lock:
            self._closed = True
            while cancel_futures and not self._waiting.empty():
                if (call := self._waiting.get_nowait()) is not None:
                    call[1].cancel()
            for _ in self._threads:
                self._waiting.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def _work(self) -> None:
        while (call := self._waiting.get()) is not None:
            _run(*call)
            del call  # its result may be large
            self._idle.release()


def _run(function: Callable[[], T], future: Future[T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)
