"""What this device left at a broker, so that it can be removed when the settings call it otherwise."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from edge_siamese.atomic import write_text_atomically
from edge_siamese.schema import SchemaError, parse_json, read_object

FILE_NAME = "mqtt.json"

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Footprint:
    """Retained messages are there, and under these names."""

    broker: str
    """With its port."""
    prefix: str
    device: str
    discovery: str
    """Home Assistant's prefix; empty if it was not told."""


def read_footprint(state: Path) -> Footprint | None:
    """What was left last; None if nothing is known of it."""
    try:
        return read_object(parse_json((state / FILE_NAME).read_text(encoding="utf-8")), Footprint)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, SchemaError) as error:
        LOG.warning("%s cannot be read: %s", state / FILE_NAME, error)
        return None


def keep_footprint(state: Path, footprint: Footprint) -> None:
    """Remember it; without success, a change of names leaves the old ones behind, which is logged."""
    try:
        write_text_atomically(state / FILE_NAME, json.dumps(asdict(footprint)) + "\n")
    except OSError as error:
        LOG.warning("%s cannot be written: %s", state / FILE_NAME, error.strerror)
