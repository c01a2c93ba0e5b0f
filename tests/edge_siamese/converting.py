"""A process whose threads convert values to records that are used for the first time."""

from __future__ import annotations

import sys
import threading
from typing import Annotated

import msgspec

from edge_siamese.validation import Record, convert

THREADS, ROUNDS = 4, 40
FIRST = {"limits": {"low": 1}, "parts": {"a": {"low": 2}}, "more": [{"low": 3}]}


def main() -> None:
    """Print how many records were converted."""
    sys.setswitchinterval(1e-6)
    converted: list[object] = []
    for _ in range(ROUNDS):

        class Limits(Record, frozen=True):
            low: Annotated[int, msgspec.Meta(ge=0)]
            note: str = ""
            pairs: tuple[tuple[int, str], ...] = ()

        class Whole(Record, frozen=True):
            limits: Limits
            parts: dict[str, Limits]
            more: tuple[Limits, ...] = ()

        # Annotations are looked up in the module.
        globals().update(Limits=Limits)
        start = threading.Barrier(THREADS)

        def work(start: threading.Barrier = start, record: type[Record] = Whole) -> None:
            start.wait()
            converted.append(convert(FIRST, record))

        threads = [threading.Thread(target=work) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(len(converted))


if __name__ == "__main__":
    main()
