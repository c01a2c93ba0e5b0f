"""What this device left at brokers, so that it can be removed when the settings call it otherwise."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edge_siamese.mqtt.topics import Topics
from edge_siamese.system.files import write_text_atomically
from edge_siamese.validation import SchemaError, parse_json, read_object

FILE_NAME = "mqtt.json"

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedTopics:
    """Retained messages are there, and under these names."""

    broker: str
    """With its port."""
    prefix: str
    device: str
    discovery: str
    """Home Assistant's prefix; empty if it was not told."""

    @property
    def names(self) -> Topics:
        """Where the device had its topics."""
        return Topics(self.prefix, self.device)

    @property
    def kept(self) -> tuple[str, ...]:
        """Topics of what the broker keeps, but for the objects."""
        found = (self.names.state, self.names.availability)
        return (self.names.discovery(self.discovery), *found) if self.discovery else found


@dataclass(frozen=True)
class _File(PublishedTopics):
    """The present one, as it was always kept, and former ones."""

    former: tuple[PublishedTopics, ...] = ()


def read_footprints(state: Path) -> tuple[PublishedTopics, ...]:
    """The latest one, and then those of which something may still be there; empty if nothing is known of any."""
    try:
        value = parse_json((state / FILE_NAME).read_text(encoding="utf-8"))
        kept = read_object(value, _File, optional=True)
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError, SchemaError) as error:
        LOG.warning("%s cannot be read: %s", state / FILE_NAME, error)
        return ()
    return (PublishedTopics(kept.broker, kept.prefix, kept.device, kept.discovery), *kept.former)


def keep_footprints(state: Path, footprints: Sequence[PublishedTopics]) -> None:
    """Remember them; without success, a change of names leaves the old ones behind, which is logged."""
    present, *former = footprints
    value = {**asdict(present), "former": [asdict(footprint) for footprint in former]}
    try:
        write_text_atomically(state / FILE_NAME, json.dumps(value) + "\n")
    except OSError as error:
        LOG.warning("%s cannot be written: %s", state / FILE_NAME, error.strerror)
