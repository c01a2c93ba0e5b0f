"""A program for `test_durability.py`: starts processes that change a store until they are killed.

For each line on its standard input, `WHAT PLACE FIRST`, it forks a process that opens the store there and registers the
objects FIRST, FIRST + 1, ..., or also removes views of them and merges them. Numpy is imported once. What is
acknowledged is written to the standard output.
"""

import os
import sys
from pathlib import Path

from tests.edge_siamese.store.samples import open_store, view


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


def tidy(place: Path, number: int) -> None:
    """Each object gets a second view, loses the first, becomes part of the shelf, and every other one is itself again."""
    with open_store(place) as store:
        while True:
            name = f"thing {number}"
            views = [store.register(name, view(number)).last_view]
            os.write(1, f"registered {number}\n".encode())
            views.append(store.add_view(name, view(-number % 100_000)).last_view)
            os.write(1, f"viewed {number}\n".encode())
            store.remove_view(name, views[0])
            os.write(1, f"removed {number}\n".encode())
            store.merge(name, "shelf")
            os.write(1, f"merged {number}\n".encode())
            if number % 2:
                store.undo()
                os.write(1, f"undone {number}\n".encode())
            number += 1


LIVES = {"live": live, "tidy": tidy}
for line in sys.stdin:
    what, place, first = line.split()
    child = os.fork()
    if child == 0:
        LIVES[what](Path(place), int(first))
    os.write(1, f"born {child}\n".encode())
    os.waitpid(child, 0)
    os.write(1, b"dead\n")
