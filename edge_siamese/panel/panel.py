"""What every panel offers: the raw edges of one button, and one light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Edge:
    """The button's contact closed or opened; bounces and glitches included."""

    time: float
    """`time.monotonic()` of the edge, in seconds."""
    pressed: bool
    """True when the contact closed."""


class Panel(Protocol):
    """A button and an LED; used from one thread."""

    @property
    def description(self) -> str:
        """One line for people: which button, which light."""

    def wait(self, timeout: float) -> list[Edge]:
        """The edges since the last call, waiting for the first one at most `timeout` seconds; empty if none came.

        Raises:
            PanelError: the button is gone.
        """

    def light(self, on: bool) -> None:
        """Switch the LED; nothing where there is none.

        Raises:
            PanelError: it cannot be switched.
        """

    def close(self) -> None:
        """Switch the LED off and let both go; may be called twice."""
