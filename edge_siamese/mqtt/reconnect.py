"""How long a broker is left alone between attempts to connect."""

from __future__ import annotations

import random
from dataclasses import dataclass

from edge_siamese.system.retry import Backoff


@dataclass(frozen=True)
class ReconnectPolicy:
    """Seconds between attempts."""

    first: float = 1.0
    """After the first failure; doubled with each one that follows."""
    most: float = 120.0
    """Never longer than so."""
    refused: float = 60.0
    """At least so long where the broker refuses the user: a wrong password does not mend itself, and tries are logged."""
    stable: float = 10.0
    """A connection that lasted for so long makes the next wait a short one again."""

    def backoff(self) -> Backoff:
        """The waits, one after the other, never in step with other devices."""
        return Backoff(self.first, self.most, chance=random.random)
