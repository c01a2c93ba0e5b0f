"""Functions that `test_sandbox.py` runs in a confined child: each tries one thing that a child may not do."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from edge_siamese.errors import BundleError
from edge_siamese.system.sandbox import Steps


def echo(**arguments: Any) -> Steps:
    yield "the echo"
    return arguments


def account() -> Steps:
    yield "the account"
    return {
        "user": os.getresuid(),
        "groups": [*os.getresgid(), *os.getgroups()],
        "no_new_privileges": "NoNewPrivs:\t1" in Path("/proc/self/status").read_text(),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "file": resource.getrlimit(resource.RLIMIT_FSIZE),
        "session": os.getsid(0) == os.getpid(),
        "environment": sorted(os.environ),
        "directory": os.getcwd(),
        "filter": "Seccomp:\t2" in Path("/proc/self/status").read_text(),
    }


def attempt(what: str, path: str) -> Steps:
    """Return the error of a forbidden operation, or "done"."""
    file = Path(path)
    operations: dict[str, Callable[[], Any]] = {
        "connect": lambda: socket.socket().connect(("127.0.0.1", 9)),
        "local socket": lambda: socket.socket(socket.AF_UNIX),
        "program": lambda: subprocess.run(["/bin/true"], check=True),
        "fork": os.fork,
        "kill the parent": lambda: os.kill(os.getppid(), 0),
        "create": lambda: file.with_name("new").write_bytes(b"x"),
        "change": lambda: file.open("r+b").write(b"x"),
        "append": lambda: os.write(os.open(file, os.O_WRONLY | os.O_APPEND), b"x"),
        "empty": lambda: os.truncate(file, 0),
        "remove": file.unlink,
        "rename": lambda: file.rename(file.with_name("renamed")),
        "mode": lambda: file.chmod(0o777),
        "directory": lambda: file.with_name("made").mkdir(),
        "link": lambda: file.with_name("link").symlink_to(file),
    }
    yield what
    try:
        operations[what]()
    except (OSError, subprocess.SubprocessError) as error:
        return type(error).__name__
    return "done"


def works() -> Steps:
    """What libraries do: threads, and reading files."""
    yield "libraries"
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(len(Path(__file__).read_bytes()) > 0))
    thread.start()
    thread.join()
    return results


def crash(number: int) -> Steps:
    yield "the library 1.0"
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


def segmentation_fault() -> Steps:
    yield "the library 1.0"
    ctypes.string_at(8)


def refuse(confined: bool) -> Steps:
    if not confined:
        raise BundleError("the bundle is damaged")
    yield "the bundle"
    raise BundleError("the bundle\x1b[31m is damaged")


def fail() -> Steps:
    yield "the library 1.0"
    raise KeyError("scale")


def allocate(mib: int) -> Steps:
    yield "the library 1.0"
    return len(bytearray(mib << 20))


def compute() -> Steps:
    yield "the library 1.0"
    while True:
        pass


def wait() -> Steps:
    yield "the library 1.0"
    time.sleep(600)


def chatter() -> Steps:
    """Close nothing, say much: the parent keeps a part."""
    yield "the library 1.0"
    with suppress(OSError):
        for _ in range(100):
            os.write(2, b"x" * 65536)
    return "x" * (4 << 20)


def leave(status: int) -> Steps:
    yield "the library 1.0"
    print("it\x07 went wrong", file=sys.stderr, flush=True)
    os._exit(status)


def reply(text: str) -> Steps:
    """Write to the pipe in place of a result."""
    yield "the library 1.0"
    os.write(int(sys.argv[1]), text.encode("latin-1") + b"\n")
    os._exit(0)


def no_start() -> Steps:
    raise ImportError("no such library")
    yield "unreachable"
