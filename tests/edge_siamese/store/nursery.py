"""Gives birth to processes that register objects until they are killed: a program for `test_kills.py`.

For each line on its standard input, `PLACE FIRST`, it forks a process that opens the store there and registers the
objects FIRST, FIRST + 1, ... Numpy is imported once. What is acknowledged is written to the standard output.
"""

import os
import sys
from pathlib import Path

from tests.edge_siamese.store.made import open_store, view


def live(place: Path, number: int) -> None:
    """Register, and say so only after the call has returned."""
    with open_store(place) as store:
        while True:
            store.register(f"thing {number}", view(number))
            os.write(1, f"registered {number}\n".encode())
            if number % 2:
                store.add_view(f"thing {number}", view(-number % 100_000))
                os.write(1, f"viewed {number}\n".encode())
            number += 1


for line in sys.stdin:
    place, first = line.split()
    child = os.fork()
    if child == 0:
        live(Path(place), int(first))
    os.write(1, f"born {child}\n".encode())
    os.waitpid(child, 0)
    os.write(1, b"dead\n")
