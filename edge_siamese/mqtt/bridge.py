"""The MQTT integration: client, publisher, commands, cleanup and fleet."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from edge_siamese import __version__
from edge_siamese.daemon.api import DaemonApi
from edge_siamese.errors import ControlError, EdgeSiameseError
from edge_siamese.events import Event, problem_event
from edge_siamese.fleet import Fleet
from edge_siamese.mqtt.cleanup import PublishedTopics, RetainedCleanup
from edge_siamese.mqtt.client import OFFLINE, MqttClient, ReconnectPolicy, check_client
from edge_siamese.mqtt.commands import COMMANDS, CommandRunner
from edge_siamese.mqtt.discovery import DeviceDescription
from edge_siamese.mqtt.publisher import StatePublisher
from edge_siamese.mqtt.topics import Topics, device_id, to_json
from edge_siamese.pictures import encode_jpeg
from edge_siamese.recognition.imaging import Bytes
from edge_siamese.settings import MqttSettings
from edge_siamese.system import board
from edge_siamese.system.network import device_name

SNAPSHOT_SIDE, SNAPSHOT_QUALITY = 960, 80
"""Pixels of a snapshot's longer side, and JPEG quality."""
SMALLER_SNAPSHOTS = ((640, 70), (480, 60), (320, 50), (160, 40))
"""Sizes and qualities for brokers that do not accept messages of that size."""
FLEET_RETRY_SECONDS, MAX_FLEET_RETRY_SECONDS = 5.0, 300.0
"""Delay before a fleet that could not start is started again; doubled each time."""


def encode_snapshot(pixels: Bytes, max_bytes: int | None = None) -> bytes:
    """Encode a frame, uint8 (h, w) or (h, w, 3) RGB, as JPEG of at most `max_bytes`; None: any size.

    Raises:
        ControlError: not even a small one has so few bytes.
    """
    for side, quality in ((SNAPSHOT_SIDE, SNAPSHOT_QUALITY), *SMALLER_SNAPSHOTS):
        picture = encode_jpeg(pixels, quality, side)
        if max_bytes is None or len(picture) <= max_bytes:
            return picture
    raise ControlError(f"the broker accepts messages of at most {max_bytes} bytes, too few for a picture")


class FleetSupervisor:
    """Starts the fleet, and retries while its file cannot be opened; the rest of MQTT does not wait for it."""

    def __init__(
        self, collection: str, make_fleet: Callable[[], Fleet], notify: Callable[[str], object]
    ) -> None:
        """Prepare it; `start` begins the work.

        Args:
            collection: collection of the fleet.
            make_fleet: returns a new fleet, not yet started.
            notify: receives, once, why it cannot start.
        """
        self._collection, self._make_fleet, self._notify = collection, make_fleet, notify
        self._fleet: Fleet | None = None
        self._problem = ""
        self._delay = FLEET_RETRY_SECONDS
        self._timer: threading.Timer | None = None
        self._closed = False
        self._lock = threading.Lock()

    @staticmethod
    def check(settings: MqttSettings, state_directory: Path, *, listen: bool) -> None:
        """Raise the error with which `start` would fail; the broker is not contacted."""
        check_client(settings)

    def start(self) -> None:
        """Start the fleet, now or, after a failure, later."""
        with self._lock:
            if self._closed:
                return
            fleet = self._make_fleet()
            try:
                fleet.start()
            except EdgeSiameseError as error:
                if str(error) != self._problem:
                    self._problem = str(error)
                    self._notify(self._problem)
                self._timer = threading.Timer(self._delay, self.start)
                self._timer.name, self._timer.daemon = "mqtt-fleet", True
                self._timer.start()
                self._delay = min(2 * self._delay, MAX_FLEET_RETRY_SECONDS)
            else:
                self._fleet, self._problem = fleet, ""

    def report(self) -> dict[str, Any]:
        """Return the status as JSON values."""
        if self._fleet is not None:
            return self._fleet.report()
        return {
            "collection": self._collection,
            "state": "not started",
            "objects": 0,
            "to_publish": 0,
            "to_fetch": 0,
            "last_sync": None,
            "problem": self._problem or None,
        }

    def close(self, timeout: float) -> None:
        """End within `timeout` seconds."""
        with self._lock:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
        if self._fleet is not None:
            self._fleet.close(timeout)


class Bridge:
    """The MQTT integration of one daemon. It runs in its own threads."""

    def __init__(
        self, settings: MqttSettings, api: DaemonApi, reconnect: ReconnectPolicy | None = None
    ) -> None:
        """Prepare it; `start` begins the work.

        Args:
            settings: the MQTT settings, with a broker.
            api: the daemon.
            reconnect: delays between attempts to connect.

        Raises:
            MqttError: the device has no usable id.
        """
        self._settings, self._api = settings, api
        state = api.settings.state_directory
        self.topics = Topics(settings.topic_prefix, device_id(settings.device_id, state))
        self._client = MqttClient(
            settings,
            f"es-{self.topics.device}",
            self.topics.availability,
            notify=self._notify,
            reconnect=reconnect,
        )
        published = PublishedTopics(
            settings.server.netloc,
            self.topics.prefix,
            self.topics.device,
            settings.discovery_prefix,
        )
        self._cleanup = RetainedCleanup(state, self._client, published)
        self._commands = CommandRunner(api, self._reply, self._publish_snapshot)
        self._publisher = StatePublisher(
            api,
            self.topics,
            self._client,
            device=DeviceDescription(
                device_name(settings.device_name), board.read_board().model, __version__, settings.snapshots
            ),
            prefix=settings.discovery_prefix,
            snapshot=self._publish_snapshot if settings.snapshots else None,
        )
        self._fleet: FleetSupervisor | None = None
        if settings.collection:
            names = (settings.collection, self.topics.prefix, self.topics.device)
            self._fleet = FleetSupervisor(
                settings.collection,
                lambda: Fleet(*names, self._api, self._client),
                lambda text: api.bus.publish(problem_event("fleet", f"the fleet cannot start: {text}")),
            )

    @staticmethod
    def check(settings: MqttSettings, state_directory: Path, *, listen: bool) -> None:
        """Raise the error with which `start` would fail; the broker is not contacted."""
        check_client(settings)

    def start(self) -> None:
        """Connect in the background; raises `EdgeSiameseError` if the settings or missing packages prevent it."""
        try:
            self._cleanup.start()
            commands = tuple(self.topics.command(name) for name in COMMANDS)
            self._client.listen(self.topics.commands, self._commands.submit, topics=commands)
            if self._fleet is not None:
                self._fleet.start()
            self._commands.start()
            self._publisher.start()
            self._client.start()
        except BaseException:
            self.close(0.5)
            raise

    def report(self) -> dict[str, Any]:
        """Return the status as JSON values."""
        report = {
            **self._client.report(),
            **self._publisher.report(),
            "device": self.topics.device,
            "prefix": self.topics.prefix,
            "discovery": self._settings.discovery_prefix,
        }
        if self._client.connected:
            limits = f"the broker accepts {report['limits']}" if report["limits"] else ""
            report["state"] = "; ".join(filter(None, (report["state"], limits, report["conflict"])))
        if self._fleet is not None:
            report["fleet"] = self._fleet.report()
        return report

    def close(self, timeout: float) -> None:
        """Publish `offline` and end, within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        if self._fleet is not None:
            self._fleet.close(timeout / 4)
        self._commands.close(timeout / 4)
        # If MQTT was turned off, remove everything; a daemon that only stops will return.
        withdraw = not self._api.settings.mqtt.broker
        self._publisher.close(timeout / 4, withdraw=withdraw)
        final_availability = b"" if withdraw else OFFLINE
        self._client.close(max(0.1, deadline - time.monotonic()), final_availability=final_availability)

    def _notify(self, text: str, level: Literal["info", "warning"]) -> None:
        self._api.bus.publish(Event("mqtt", text) if level == "info" else problem_event("mqtt", text))

    def _reply(self, reply: dict[str, Any]) -> None:
        self._client.publish(self.topics.reply, to_json(reply))

    def _publish_snapshot(self) -> str:
        """Publish the current camera picture; return the text of the reply."""
        if not self._settings.snapshots:
            raise ControlError("snapshots are off; [mqtt] snapshots = true turns them on")
        view = self._api.current_view()
        if view is None:
            raise ControlError(f"there is no picture: {self._api.line}")
        picture = encode_snapshot(view.frame.pixels, self._client.max_payload(self.topics.snapshot, qos=0))
        if not self._client.publish(self.topics.snapshot, picture, qos=0):
            raise ControlError("not connected, or too many messages are queued for a picture")
        return f"published a picture of {len(picture)} bytes"
