"""The MQTT of one daemon: connection, what it tells, what it is told, and the fleet, put together from the settings."""

from __future__ import annotations

import json
import time
from typing import Any, Literal

from edge_siamese import __version__
from edge_siamese.daemon.api import DaemonApi
from edge_siamese.errors import ControlError
from edge_siamese.events import Event, trouble
from edge_siamese.mqtt.cleanup import RetainedCleanup
from edge_siamese.mqtt.client import OFFLINE, Connection
from edge_siamese.mqtt.commands import Commands
from edge_siamese.mqtt.discovery import Described
from edge_siamese.mqtt.fleet_supervisor import FleetSupervisor
from edge_siamese.mqtt.published_topics import PublishedTopics
from edge_siamese.mqtt.publisher import StatePublisher
from edge_siamese.mqtt.reconnect import ReconnectPolicy
from edge_siamese.mqtt.snapshot import encode_snapshot
from edge_siamese.mqtt.topics import Topics, device_id
from edge_siamese.settings import MqttSettings
from edge_siamese.system import board
from edge_siamese.system.network import device_name


class Bridge:
    """What the daemon offers over MQTT. All of it happens on threads of its own."""

    def __init__(
        self, settings: MqttSettings, actions: DaemonApi, pace: ReconnectPolicy | None = None
    ) -> None:
        """Nothing is opened before `start`.

        Args:
            settings: with a broker.
            actions: of the daemon.
            pace: how long to wait between attempts to connect.

        Raises:
            MqttError: the device has no id, and none can be kept.
        """
        self._settings, self._actions = settings, actions
        self._state = actions.settings.state_directory
        self.topics = Topics(settings.topic_prefix, device_id(settings.device_id, self._state))
        self._connection = Connection(
            settings, f"es-{self.topics.device}", self.topics.availability, told=self._told, pace=pace
        )
        present = PublishedTopics(
            f"{settings.broker}:{settings.port}",
            self.topics.prefix,
            self.topics.device,
            settings.discovery_prefix,
        )
        self._leftovers = RetainedCleanup(self._state, self._connection, present)
        self._commands = Commands(actions, self._reply, self._snapshot)
        self._telling = StatePublisher(
            actions,
            self.topics,
            self._connection,
            device=Described(
                device_name(settings.device_name),
                board.read_board().model,
                __version__,
                settings.snapshots,
            ),
            prefix=settings.discovery_prefix,
            snapshot=self._snapshot if settings.snapshots else None,
        )
        self._fleet: FleetSupervisor | None = None

    def start(self) -> None:
        """Begin to connect; raises `EdgeSiameseError` if the settings or what is installed forbid it."""
        try:
            self._leftovers.begin()
            self._connection.listen(self.topics.commands, self._commands.take)
            self._start_fleet()
            self._commands.start()
            self._telling.start()
            self._connection.start()
        except BaseException:
            self.close(0.5)
            raise

    def _start_fleet(self) -> None:
        if not self._settings.collection:
            return
        from edge_siamese.fleet import Fleet

        names = (self._settings.collection, self.topics.prefix, self.topics.device)
        self._fleet = FleetSupervisor(
            self._settings.collection,
            lambda: Fleet(*names, self._actions, self._connection),
            lambda text: self._actions.bus.publish(trouble("fleet", f"the fleet cannot start: {text}")),
        )
        self._fleet.start()

    def report(self) -> dict[str, Any]:
        """How it is, as JSON values."""
        found = {
            **self._connection.report(),
            "device": self.topics.device,
            "prefix": self.topics.prefix,
            "discovery": self._settings.discovery_prefix,
        }
        if self._fleet is not None:
            found["fleet"] = self._fleet.report()
        return found

    def close(self, timeout: float) -> None:
        """Say `offline` and end, within so many seconds."""
        deadline = time.monotonic() + timeout
        if self._fleet is not None:
            self._fleet.close(timeout / 4)
        self._commands.close(timeout / 4)
        # Turned off for good, it leaves nothing behind; a daemon that only ends comes back.
        withdraw = not self._actions.settings.mqtt.broker
        self._telling.close(timeout / 4, withdraw=withdraw)
        goodbye = b"" if withdraw else OFFLINE
        self._connection.close(max(0.1, deadline - time.monotonic()), goodbye=goodbye)

    def _told(self, text: str, level: Literal["info", "warning"]) -> None:
        self._actions.bus.publish(Event("mqtt", text) if level == "info" else trouble("mqtt", text))

    def _reply(self, said: dict[str, Any]) -> None:
        payload = json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
        self._connection.publish(self.topics.reply, payload)

    def _snapshot(self) -> str:
        """Publish a picture of what the camera sees; what to say of it."""
        if not self._settings.snapshots:
            raise ControlError("snapshots are turned off; [mqtt] snapshots = true turns them on")
        shown = self._actions.current_view()
        if shown is None:
            raise ControlError(f"there is no picture: {self._actions.line}")
        picture = encode_snapshot(shown.frame.pixels)
        if not self._connection.publish(self.topics.snapshot, picture, qos=0):
            raise ControlError("there is no connection for a picture just now")
        return f"a picture of {len(picture)} bytes was sent"
