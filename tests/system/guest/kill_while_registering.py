"""Registers objects one after another while the daemon is killed at random moments.

python3 kill_while_registering.py KILLS SEED LOG: each line of LOG is a name that was asked for, or a name and the uid
that the daemon acknowledged.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import IO, Any

SOCKET = "/run/edge-siamese/control.sock"
GIVE_UP_SECONDS = 20.0
LATEST_SECONDS = 0.4


class Registrar:
    """Registers without a pause; `begun` is set when a daemon recognizes frames and the first request goes to it."""

    def __init__(self, log: IO[str]) -> None:
        self.begun = threading.Event()
        self.done = threading.Event()
        self.problem = ""
        self.acknowledged = 0
        self._log = log
        self._number = 0

    def run(self) -> None:
        last = time.monotonic()
        while not self.done.is_set():
            try:
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.settimeout(20)
                    connection.connect(SOCKET)
                    with connection.makefile("rw", encoding="utf-8") as stream:
                        while not self._ask(stream, {"command": "status"})["result"]["frames"]:
                            time.sleep(0.01)
                        self.begun.set()
                        while not self.done.is_set():
                            self._register(stream)
                            last = time.monotonic()
            except (OSError, EOFError) as error:
                # The daemon is gone; systemd brings it back.
                if time.monotonic() - last > GIVE_UP_SECONDS:
                    self.problem = f"nothing was registered for {GIVE_UP_SECONDS:g} s: {error}"
                    return
                time.sleep(0.01)

    def _register(self, stream: IO[str]) -> None:
        self._number += 1
        name = f"thing {self._number}"
        self._note({"name": name})
        reply = self._ask(stream, {"command": "register", "name": name})
        if not reply["ok"]:
            raise EOFError(reply["error"])
        self._note({"name": name, "uid": reply["result"]["object"]["uid"]})
        self.acknowledged += 1

    def _ask(self, stream: IO[str], request: dict[str, str]) -> dict[str, Any]:
        stream.write(json.dumps(request) + "\n")
        stream.flush()
        while line := stream.readline():
            reply: dict[str, Any] = json.loads(line)
            if "ok" in reply:
                return reply
        raise EOFError("the daemon has closed the connection")

    def _note(self, line: dict[str, str]) -> None:
        self._log.write(json.dumps(line) + "\n")
        self._log.flush()


def main(kills: int, seed: int, path: str) -> int:
    chance = random.Random(seed)
    started = time.monotonic()
    with open(path, "w", encoding="utf-8") as log:
        registrar = Registrar(log)
        thread = threading.Thread(target=registrar.run)
        thread.start()
        for number in range(kills):
            registrar.begun.clear()
            if not registrar.begun.wait(GIVE_UP_SECONDS):
                registrar.problem = registrar.problem or f"nothing was registered after kill {number}"
                break
            time.sleep(chance.uniform(0.0, LATEST_SECONDS))
            os.kill(main_pid(), signal.SIGKILL)
        registrar.done.set()
        thread.join()
    seconds = time.monotonic() - started
    print(
        json.dumps({"acknowledged": registrar.acknowledged, "problem": registrar.problem, "seconds": seconds})
    )
    return 1 if registrar.problem else 0


def main_pid() -> int:
    """The daemon's process; waits while systemd starts the next one."""
    while True:
        show = ["systemctl", "show", "--value", "--property=MainPID", "edge-siamese"]
        pid = int(subprocess.run(show, capture_output=True, text=True, check=True).stdout)
        if pid:
            return pid
        time.sleep(0.005)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
