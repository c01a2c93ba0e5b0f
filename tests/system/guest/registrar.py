"""Runs in the virtual machine: registers one object after another and says what was acknowledged, until the power goes."""

from __future__ import annotations

import itertools
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

SOCKET = "/run/edge-siamese/control.sock"
UNFLUSHED = Path("/var/lib/unflushed")


def register_on(say: Callable[..., None], prefix: str, timeout: float = 90) -> None:
    """Say first what is registered, then {"asked": name} before and {"saved": uid, "name": name} after each registration.

    A file that nobody flushes grows along with it: a cut that loses none of that would not be one.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(60)
            connection.connect(SOCKET)
            break
        except OSError:
            connection.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    stream = connection.makefile("rw", encoding="utf-8")

    def ask(**request: object) -> dict[str, object]:
        stream.write(json.dumps(request) + "\n")
        stream.flush()
        while line := stream.readline():
            reply: dict[str, object] = json.loads(line)
            if "ok" in reply:
                return reply
        raise EOFError("the daemon has closed the connection")

    while not (reply := ask(command="objects"))["ok"]:
        time.sleep(0.05)
    say(found=reply["result"])
    with UNFLUSHED.open("a") as file:
        for number in itertools.count(1):
            name = f"{prefix} {number}"
            say(asked=name)
            file.write(name + "\n")
            file.flush()
            reply = ask(command="register", name=name)
            if not reply["ok"]:
                say(refused=reply["error"])
                time.sleep(0.2)
                continue
            say(saved=reply["result"]["object"]["uid"], name=name)  # type: ignore[index]
