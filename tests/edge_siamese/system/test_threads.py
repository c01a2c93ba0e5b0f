"""Daemon threads and their pool."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError

import pytest

from edge_siamese.system.threads import DaemonThreadPool


def test_a_result_and_an_error_reach_the_caller() -> None:
    pool = DaemonThreadPool(2, "pool")
    assert pool.submit(divmod, 7, 2).result(10) == (3, 1)
    with pytest.raises(MemoryError):
        pool.submit(_raise, MemoryError()).result(10)
    assert pool.submit(int, "11", base=2).result(10) == 3
    pool.shutdown()


def _raise(error: BaseException) -> None:
    raise error


def test_a_pool_uses_as_many_threads_as_it_needs_and_may() -> None:
    pool, free = DaemonThreadPool(2, "pool"), threading.Event()
    for _ in range(3):
        name = pool.submit(lambda: threading.current_thread().name).result(10)
        assert name == "pool_0"
        assert pool._idle.acquire(timeout=10)
        pool._idle.release()
    blocked = [pool.submit(free.wait, 30) for _ in range(2)]
    waiting = pool.submit(int)
    assert len(pool._threads) == 2
    assert not waiting.done()
    free.set()
    assert [call.result(10) for call in blocked] == [True, True]
    assert waiting.result(10) == 0
    pool.shutdown()
    assert not any(thread.is_alive() for thread in pool._threads)


def test_a_shutdown_cancels_what_waits_and_leaves_what_hangs() -> None:
    pool, free = DaemonThreadPool(1, "pool"), threading.Event()
    running, waiting = pool.submit(free.wait, 30), pool.submit(int)
    while not running.running():
        time.sleep(0.001)
    pool.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(CancelledError):
        waiting.result(10)
    with pytest.raises(RuntimeError, match="the threads pool are shut down"):
        pool.submit(int)
    free.set()
    assert running.result(10)
    pool._threads[0].join(10)
    assert not pool._threads[0].is_alive()


def test_the_process_ends_although_a_call_hangs() -> None:
    program = """
import threading
from edge_siamese.system.threads import DaemonThreadPool
pool, begun = DaemonThreadPool(1, "pool"), threading.Event()
pool.submit(lambda: (begun.set(), threading.Event().wait()))
begun.wait()
pool.shutdown(wait=False)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=30, check=False).returncode == 0
