"""Topics of a device, the device id in them, and the JSON encoding of payloads."""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_siamese.errors import MqttError
from edge_siamese.system.files import write_text_atomically

MACHINE_ID = Path("/etc/machine-id")
FLEET = "fleet"
"""The topic level of fleets, in place of a device id."""
_HASH_KEY = b"edge-siamese device id"


def to_json(value: Mapping[str, Any]) -> bytes:
    """Encode a payload."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


class Topics:
    """The topics of one device."""

    def __init__(self, prefix: str, device: str) -> None:
        self.prefix, self.device = prefix, device
        self.base = f"{prefix}/{device}"
        self.availability = f"{self.base}/availability"
        self.state = f"{self.base}/state"
        self.event = f"{self.base}/event"
        self.snapshot = f"{self.base}/snapshot"
        self.reply = f"{self.base}/reply"
        self.objects = self.object("+")
        """Pattern of the states of all objects."""
        self.commands = self.command("+")
        """Pattern of all commands."""
        self.discovery_id = f"edge-siamese-{device}"
        """The device's id in Home Assistant."""

    def object(self, uid: str) -> str:
        """Return the topic of an object's state."""
        return f"{self.base}/objects/{uid}"

    def region_event(self, region: str) -> str:
        """Return the topic of the events of a region, which are published to `event` too."""
        return f"{self.event}/{region}"

    def command(self, name: str) -> str:
        """Return the topic of requests to run a command."""
        return f"{self.base}/command/{name}"

    def discovery(self, prefix: str) -> str:
        """Return the topic of Home Assistant's discovery message."""
        return f"{prefix}/device/{self.discovery_id}/config"


def device_id(configured: str, state: Path, machine_id: Path = MACHINE_ID) -> str:
    """Return the id of this device in topics.

    Args:
        configured: the id of the settings; empty to derive one.
        state: state directory, where an id is kept for a machine that has none.
        machine_id: file with the machine's id. The network must not learn it; a keyed hash of it may be published.

    Raises:
        MqttError: the id is reserved for fleets, or none can be kept.
    """
    if configured == FLEET:
        raise MqttError(
            f'[mqtt] device_id: "{FLEET}" is reserved for the topics of fleets; choose another id'
        )
    if configured:
        return configured
    try:
        machine = machine_id.read_bytes().strip()
    except OSError:
        machine = b""
    if len(machine) == 32:  # not "uninitialized", as on a first boot
        return hmac.new(_HASH_KEY, machine, "sha256").hexdigest()[:12]
    path = state / "device-id"
    try:
        saved = path.read_text(encoding="ascii").strip() if path.is_file() else ""
        if len(saved) != 12 or set(saved) - set("0123456789abcdef"):
            saved = secrets.token_hex(6)
            write_text_atomically(path, f"{saved}\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is damaged"
        raise MqttError(f"{path}: the device's id cannot be kept there: {reason}") from error
    return saved
