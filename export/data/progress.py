"""Says on a terminal what takes the time while data are read or drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from export.progress import stderr_console

Item = TypeVar("Item")

EVERY = 100


def shown(items: Iterable[Item], text: str) -> Iterator[Item]:
    """The items, with a line of progress that goes away at the end; elsewhere than on a terminal, no line at all."""
    console = stderr_console()
    if not console.is_terminal:
        yield from items
        return
    with console.status(text) as status:
        for count, item in enumerate(items):
            if count % EVERY == 0:
                status.update(f"{text} ({count})" if count else text)
            yield item
