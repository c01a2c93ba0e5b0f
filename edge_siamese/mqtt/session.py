"""One connection to a broker, from its beginning to its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edge_siamese.mqtt.outbox import IN_FLIGHT

if TYPE_CHECKING:
    from paho.mqtt.client import Client


@dataclass
class Session:
    """One connection, from its beginning to its end; of the network thread."""

    client: Client
    began: float
    up: bool = False
    reason: str = ""
    """Why it ended."""
    refused: bool = False
    """Whether the broker refused it."""
    in_flight: int = IN_FLIGHT
    numbers: dict[int, int] = field(default_factory=dict)
    """Of messages in the outbox, by paho's number of what is on its way."""
    unwanted: set[str] = field(default_factory=set)
    """Topics of which the broker refused a message."""
    asked: dict[int, str] = field(default_factory=dict)
    """Patterns, by paho's number of a subscription that is not acknowledged."""
