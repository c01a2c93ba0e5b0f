"""A fuzz target that ends its process at some inputs, for the test of the runner."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fuzz.__main__ import main
from tests.fuzz.running import Feed, Target


def make(chance: random.Random) -> bytes:
    return b"%d" % chance.randrange(8)


@contextmanager
def open_crashing(directory: Path) -> Iterator[Feed]:
    def feed(data: bytes) -> None:
        if data == b"3":
            os.abort()
        if data == b"5":
            os._exit(0)

    yield feed


CRASHING = Target("crashing", 20, 20, make, open_crashing)

if __name__ == "__main__":
    sys.exit(main(targets={"crashing": CRASHING}))
