"""Names: the topics of a device, and the id under which it stands in them."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from pathlib import Path

from edge_siamese.errors import MqttError
from edge_siamese.system.files import write_text_atomically

MACHINE_ID = Path("/etc/machine-id")
FLEET = "fleet"
"""Beside the devices' ids: what devices teach each other."""
_KEY = b"edge-siamese device id"


@dataclass(frozen=True)
class Topics:
    """Where a device publishes, and where it listens."""

    prefix: str
    device: str

    @property
    def base(self) -> str:
        """What they all begin with."""
        return f"{self.prefix}/{self.device}"

    @property
    def availability(self) -> str:
        """`online` or `offline`."""
        return f"{self.base}/availability"

    @property
    def state(self) -> str:
        """How the device is."""
        return f"{self.base}/state"

    @property
    def event(self) -> str:
        """What happens."""
        return f"{self.base}/event"

    @property
    def snapshot(self) -> str:
        """What the camera saw."""
        return f"{self.base}/snapshot"

    @property
    def reply(self) -> str:
        """What became of a command."""
        return f"{self.base}/reply"

    @property
    def objects(self) -> str:
        """The pattern of all objects."""
        return self.object("+")

    def object(self, uid: str) -> str:
        """How an object is."""
        return f"{self.base}/objects/{uid}"

    @property
    def commands(self) -> str:
        """The pattern of all commands."""
        return self.command("+")

    def command(self, name: str) -> str:
        """Where a command comes in."""
        return f"{self.base}/command/{name}"

    def discovery(self, prefix: str) -> str:
        """Where Home Assistant finds the device."""
        return f"{prefix}/device/{self.discovery_id}/config"

    @property
    def discovery_id(self) -> str:
        """The device's id among all of Home Assistant's."""
        return f"edge-siamese-{self.device}"


def device_id(given: str, state: Path, machine_id: Path = MACHINE_ID) -> str:
    """The id of this device in topics.

    Args:
        given: the one of the settings.
        state: the state directory; where the machine has no id, one is made and kept there.
        machine_id: the file of the machine's id, which must not be told to a network; a keyed hash of it may.

    Raises:
        MqttError: none can be kept, or it is the one that stands for all devices of a fleet.
    """
    if given == FLEET:
        raise MqttError(
            f'[mqtt] device: "{FLEET}" is where fleets have their topics; call this device otherwise'
        )
    if given:
        return given
    try:
        machine = machine_id.read_bytes().strip()
    except OSError:
        machine = b""
    if len(machine) == 32:  # not "uninitialized", as a first boot has it
        return hmac.new(_KEY, machine, "sha256").hexdigest()[:12]
    path = state / "device-id"
    try:
        kept = path.read_text(encoding="ascii").strip() if path.is_file() else ""
        if len(kept) != 12 or set(kept) - set("0123456789abcdef"):
            kept = secrets.token_hex(6)
            write_text_atomically(path, f"{kept}\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is damaged"
        raise MqttError(f"{path}: the device's id cannot be kept there: {reason}") from error
    return kept
