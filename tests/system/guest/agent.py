"""Runs in the virtual machine, as root: does what the tests ask for over a serial port, one line of JSON each way."""

from __future__ import annotations

import glob
import importlib
import json
import os
import sys
import threading
import traceback
from typing import Any

PORT = "/dev/vport*p1"


class Line:
    """The serial port; several threads may say something."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR)
        self._writing = threading.Lock()

    def requests(self) -> Any:
        """Yield what is asked for."""
        pending = b""
        while True:
            pending += os.read(self._file, 4096)
            *lines, pending = pending.split(b"\n")
            yield from (json.loads(line) for line in lines)

    def say(self, **value: Any) -> None:
        """Send one line."""
        text = json.dumps(value).encode() + b"\n"
        with self._writing:
            while text:
                text = text[os.write(self._file, text) :]


def answer(line: Line, request: dict[str, Any]) -> None:
    """Call MODULE:FUNCTION of this directory, and say what it returned or raised."""
    try:
        module, _, function = request["call"].partition(":")
        called = getattr(importlib.import_module(module), function)
        arguments = request["arguments"]
        if request.get("streams"):
            arguments["say"] = line.say
        line.say(id=request["id"], result=called(**arguments))
    except Exception:
        line.say(id=request["id"], error=traceback.format_exc())


def main() -> None:
    (port,) = glob.glob(PORT)
    line = Line(port)
    line.say(ready=True)
    for request in line.requests():
        threading.Thread(target=answer, args=(line, request), daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
