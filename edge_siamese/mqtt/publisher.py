"""Publishes events, states and Home Assistant discovery, in its own thread."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from edge_siamese.daemon.api import DaemonApi
from edge_siamese.errors import EdgeSiameseError
from edge_siamese.events import Event, problem_event
from edge_siamese.mqtt.client import ONLINE, MqttClient, ReceivedMessage
from edge_siamese.mqtt.discovery import (
    DeviceDescription,
    discovery_message,
    fit_message,
    removal_messages,
)
from edge_siamese.mqtt.ownership import TopicOwnership
from edge_siamese.mqtt.topics import Topics, to_json
from edge_siamese.recognition.tracking import Sighting
from edge_siamese.store import StoredObject
from edge_siamese.system import board, wall_clock
from edge_siamese.validation import SchemaError, parse_json

STATE_SECONDS = 30.0
"""Interval at which the device's state is read and, if it changed, published."""
MIN_STATE_SECONDS = 1.0
"""Minimum interval between two states when there are many events."""
RETRY_SECONDS = 5.0
"""Delay before the objects are read again after the daemon could not list them."""
REMOVAL_SECONDS = 2.0
"""Delay between the removal of an object's entities and the removal of its state, whose empty message they cannot parse."""
BATCH_SECONDS = 0.5
"""Delay between batches of objects when all at the same time would leave no room for events in the outbox."""
REPUBLISH_SECONDS = 60.0
"""Delay before messages that the broker rejected are published again."""
MAX_EVENTS = 1000
"""Events that may wait for this thread."""
MAX_DISCOVERY_BYTES = 4_000_000
"""Largest retained discovery message that is read; the device's own are a tenth of that size."""
MAX_RETAINED_OBJECTS, MAX_UID_LENGTH = 2000, 64
"""Retained objects recorded at a time, and the length of their uids. Others are received again after the next connect."""
BIRTH_TOPIC = "homeassistant/status"
"""Topic on which Home Assistant announces that it has started, whatever its discovery prefix."""
PRESENCE_EVENTS = ("appeared", "seen", "left")
CATALOG_EVENTS = (
    "started",
    "registered",
    "view added",
    "view removed",
    "negative added",
    "forgotten",
    "merged",
    "renamed",
    "undone",
    "imported",
    "model",
    "store",
    "settings",
    "fleet",
)
"""Events after which the objects, their views or the regions may differ."""

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class RegionPresence:
    """The published presence of an object in a region."""

    present: bool = False
    probability: float | None = None
    """Of the latest sighting there."""


@dataclass(frozen=True, kw_only=True)
class ObjectState:
    """The published state of an object."""

    uid: str
    name: str
    present: bool = False
    probability: float | None = None
    """Probability of the latest sighting."""
    last_seen: str | None = None
    """UTC, ISO 8601."""
    views: int
    negatives: int
    created: str
    regions: Mapping[str, RegionPresence] = field(default_factory=dict)
    """By name; empty if the whole picture is watched."""

    @classmethod
    def from_stored(cls, stored: StoredObject, former: ObjectState | None = None) -> ObjectState:
        """Return the state of a stored object; presence is that of its `former` state."""
        return cls(
            uid=stored.uid,
            name=stored.name,
            present=former is not None and former.present,
            probability=former.probability if former else None,
            last_seen=former.last_seen if former else None,
            views=stored.views,
            negatives=stored.negatives,
            created=stored.created,
            regions=former.regions if former else {},
        )

    def after_event(self, event: Event) -> ObjectState:
        """Return the state after one of `PRESENCE_EVENTS`."""
        value, region = event.data.get("probability"), str(event.data.get("region", ""))
        probability = value if isinstance(value, float) else None
        present, regions = event.kind != "left", self.regions
        if region in regions:
            regions = {**regions, region: RegionPresence(present, probability or regions[region].probability)}
            present = any(presence.present for presence in regions.values())
        return replace(
            self,
            name=str(event.data.get("name", self.name)),
            present=present,
            probability=self.probability if probability is None else probability,
            last_seen=self.last_seen if event.kind == "left" and self.last_seen else event.time,
            regions=regions,
        )

    def with_sightings(
        self, sightings: Sequence[Sighting], regions: Sequence[str], last_seen: str | None
    ) -> ObjectState:
        """Return the state with the current sightings.

        Args:
            sightings: sightings of this object.
            regions: the names of all regions.
            last_seen: the daemon's time of the last sighting, if it has one.
        """
        probabilities = {sighting.region: round(sighting.probability, 4) for sighting in sightings}
        former = {name: self.regions.get(name, RegionPresence()).probability for name in regions}
        return replace(
            self,
            present=bool(sightings),
            probability=next(reversed(probabilities.values()), self.probability),
            last_seen=last_seen or self.last_seen,
            regions={
                name: RegionPresence(name in probabilities, probabilities.get(name, former[name]))
                for name in regions
            },
        )


def event_payload(event: Event, event_id: str, device: str) -> dict[str, Any]:
    """Return the published JSON of an event; its id identifies duplicates."""
    return {**event.to_dict(), "id": event_id, "device": device}


def lost_payload(count: int, event_id: str, device: str, time: str) -> dict[str, Any]:
    """Return the published JSON that replaces events that arrived too fast."""
    text = f"{count} events were lost: they arrived faster than they could be published"
    return {"kind": "lost", "time": time, "text": text, "count": count, "id": event_id, "device": device}


def problem_of(status: dict[str, Any]) -> str:
    """Return the most important problem in the daemon's status, in one line; empty if there is none."""
    if fault := status.get("fault"):
        return str(fault)
    camera = status.get("camera") or {}
    if camera.get("status") in ("stalled", "absent"):
        return f"no frames: {camera.get('reason')}"
    if (panel := status.get("panel") or {}).get("stuck"):
        return "the button is stuck"
    if panel.get("problem"):
        return f"the button: {panel['problem']}"
    if parts := status.get("quarantine"):
        return str(parts[0]["text"]) + (f" (and {len(parts) - 1} more)" if len(parts) > 1 else "")
    if repair := (status.get("store") or {}).get("repair"):
        return str(repair)
    return ""


def state_payload(
    status: dict[str, Any], *, started: str, temperature_c: float | None, memory_mb: float | None
) -> dict[str, Any]:
    """Return the published JSON of the device's state.

    Args:
        status: the daemon's status.
        started: UTC, ISO 8601.
        temperature_c: temperature of the processor; None if unknown.
        memory_mb: memory of the daemon, in megabytes (10^6 bytes); None if unknown.
    """
    model, camera = status.get("model") or {}, status.get("camera") or {}
    return {
        "version": status["version"],
        "line": status["line"],
        "problem": problem_of(status),
        "model": model.get("model_id"),
        "runtime": model.get("runtime"),
        "threshold": model.get("threshold"),
        "objects": status["objects"],
        "views": status["views"],
        "present": status["present"],
        "regions": status["regions"],
        "registering": status["registering"],
        "frames_per_second": camera.get("fps") and round(camera["fps"], 1),
        "temperature_c": None if temperature_c is None else round(temperature_c, 1),
        "memory_mb": None if memory_mb is None else round(memory_mb),
        "started": started,
    }


@dataclass
class BrokerNews:
    """Information from the network thread for the publisher's thread; bounded."""

    connected: bool = False
    """A connection was established, perhaps to a broker without retained messages."""
    home_assistant_started: bool = False
    discovery: bytes | None = None
    """The retained discovery message."""
    uids: set[str] = field(default_factory=set)
    """Objects with a retained state."""


class StatePublisher:
    """The thread that publishes events, states and the discovery message."""

    def __init__(
        self,
        api: DaemonApi,
        topics: Topics,
        client: MqttClient,
        *,
        device: DeviceDescription,
        prefix: str,
        snapshot: Callable[[], str] | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare the publisher; `start` starts its thread.

        Args:
            api: the daemon.
            topics: topics of the device.
            client: the connection.
            device: its description for discovery.
            prefix: Home Assistant's discovery prefix; empty turns discovery off.
            snapshot: publishes a picture; None turns pictures off.
            clock: seconds.
        """
        self._api, self._topics, self._client = api, topics, client
        self._device, self._prefix, self._snapshot, self._clock = device, prefix, snapshot, clock
        self._events = api.bus.subscribe(size=MAX_EVENTS)
        self._lock = threading.Lock()
        self._news = BrokerNews()
        self._closing = False
        self._run_id, self._last_event = secrets.token_hex(4), 0
        self._objects: dict[str, ObjectState] | None = None
        """By uid; None until the daemon has listed them."""
        self._regions: tuple[str, ...] = ()
        """Names of the regions, read with the objects."""
        self._published: dict[str, bytes] = {}
        """Retained payloads that the broker has or will have, by topic."""
        self._failed: set[str] = set()
        """Topics of retained payloads that were rejected or dropped; added to by any thread."""
        self._republish_at = 0.0
        self._ownership = TopicOwnership(clock)
        self._conflict = ""
        self._connections = 0
        """Number of connections so far."""
        self._entities_left_out = 0
        """Entities without discovery, because the broker does not accept messages of that size."""
        self._throttled = False
        """Whether objects wait for room in the outbox."""
        self._removals: dict[str, float] = {}
        """When to empty the topics of forgotten objects."""
        self._retained_uids: set[str] = set()
        """Objects at the broker that may be forgotten ones."""
        self._discovery: dict[str, Any] = {}
        """The discovery message as published, merged with the retained one from an earlier run."""
        self._started_at = ""
        self._objects_due: float | None = 0.0
        """When to read the objects; None while they are current."""
        self._state_due = 0.0
        self._state_published = -MIN_STATE_SECONDS
        self._thread = threading.Thread(target=self._run, name="mqtt-publisher", daemon=True)

    def start(self) -> None:
        """Publish from now on, and everything again after each connect."""
        for topic in (self._topics.availability, self._topics.state, self._topics.objects):
            self._client.listen(topic, self._on_message)
        if self._prefix:
            self._client.listen(self._topics.discovery(self._prefix), self._on_message)
            for topic in {BIRTH_TOPIC, f"{self._prefix}/status"}:
                self._client.listen(topic, self._on_message)
        self._client.on_connected(self._on_connected)
        self._thread.start()

    def report(self) -> dict[str, Any]:
        """Return the status as JSON values."""
        return {"entities_left_out": self._entities_left_out, "conflict": self._conflict}

    def close(self, timeout: float, *, withdraw: bool) -> None:
        """Publish pending messages and stop; `withdraw` removes everything that the broker retains for this device."""
        self._closing = True
        self._events.wake()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        self._api.bus.unsubscribe(self._events)
        topics = set(self._removals)
        if withdraw:
            topics |= set(self._published) | {self._topics.state}
            topics |= {self._topics.object(uid) for uid in self._objects or ()}
            if self._prefix:
                topics.add(self._topics.discovery(self._prefix))
        deadline = time.monotonic() + timeout
        for topic in topics:
            while not self._client.has_room and self._client.connected and time.monotonic() < deadline:
                time.sleep(0.01)
            self._client.enqueue(topic, b"", retain=True)

    # --- network thread ---

    def _on_message(self, message: ReceivedMessage) -> None:
        """Note a retained message, one of another client, or an announcement of Home Assistant."""
        topic, payload = message.topic, message.payload
        is_discovery = bool(self._prefix) and topic == self._topics.discovery(self._prefix)
        if not is_discovery and not topic.startswith(f"{self._topics.base}/"):
            if payload == ONLINE:
                with self._lock:
                    self._news.home_assistant_started = True
        elif topic == self._topics.availability:
            if payload != ONLINE:
                # Perhaps the last will of an earlier connection.
                self._ownership.note_foreign(topic, counts=False)
        elif message.retain:
            self._note_retained(topic, payload, is_discovery)
        elif self._is_foreign(topic, payload, is_discovery):
            self._ownership.note_foreign(topic)
        self._events.wake()

    def _is_foreign(self, topic: str, payload: bytes, is_discovery: bool) -> bool:
        """Return whether another client published a message to a topic of this device."""
        if is_discovery and not payload:
            return False  # Home Assistant empties the topic of a device that the user removes
        if not is_discovery and len(topic) > len(self._topics.object("")) + MAX_UID_LENGTH:
            return False
        return not self._ownership.is_own(topic, payload)

    def _note_retained(self, topic: str, payload: bytes, is_discovery: bool) -> None:
        """Note a message that the broker had retained: perhaps from an earlier run, or from another device."""
        with self._lock:
            if is_discovery:
                if 0 < len(payload) <= MAX_DISCOVERY_BYTES:
                    self._news.discovery = payload
            elif topic == self._topics.state:
                if payload and self._connections > 1 and not self._ownership.is_own(topic, payload):
                    self._ownership.note_foreign(topic)
            else:
                uid = topic.removeprefix(self._topics.object(""))
                fits = len(uid) <= MAX_UID_LENGTH and len(self._news.uids) < MAX_RETAINED_OBJECTS
                if payload and fits:
                    self._news.uids.add(uid)

    def _on_connected(self) -> None:
        with self._lock:
            self._connections += 1
            self._news.connected = True
        self._events.wake()

    # --- publisher's thread ---

    def _run(self) -> None:
        while not (self._closing or self._events.closed):
            try:
                self._step(*self._events.get(self._timeout()))
            except Exception:
                LOG.exception("publishing by MQTT failed")
                time.sleep(MIN_STATE_SECONDS)  # a failure that repeats must not keep the processor busy
        self._publish_events(*self._events.get(0))

    def _timeout(self) -> float:
        """Return the seconds until something is due."""
        now = self._clock()
        due = [self._state_due]
        if self._objects_due is not None:
            due.append(self._objects_due)
        if self._client.connected and (reassert := self._ownership.due) is not None:
            due.append(reassert)
        if not self._throttled:
            due += self._removals.values()
        elif self._client.connected:  # otherwise there will be no room, and a connect wakes the thread
            due.append(now + BATCH_SECONDS)
        return max(0.0, min(due) - now)

    def _step(self, events: list[Event], lost: int) -> None:
        """Handle messages of the broker and events of the daemon, and publish what is due."""
        now = self._clock()
        self._handle_news()
        self._reassert()
        if now >= self._republish_at:
            self._republish_failed(now)
        appeared = self._publish_events(events, lost)
        if lost or any(event.kind in CATALOG_EVENTS for event in events):
            self._objects_due = now
        if self._objects_due is not None and now >= self._objects_due:
            self._read_objects(now)
        self._publish_objects(now)
        if events:
            self._state_due = min(self._state_due, self._state_published + MIN_STATE_SECONDS)
        if now >= self._state_due:
            self._publish_state(now)
        if appeared and self._snapshot is not None and self._client.connected:
            try:
                self._snapshot()
            except EdgeSiameseError as error:
                LOG.info("no snapshot: %s", error)

    def _publish_events(self, events: list[Event], lost: int) -> bool:
        """Publish events and update the objects they concern; return whether an object appeared."""
        device = self._topics.device
        if lost:
            self._publish_event(lost_payload(lost, self._next_event_id(), device, wall_clock.utc_now()))
        for event in events:
            self._publish_event(event_payload(event, self._next_event_id(), device))
            uid = event.data.get("uid")
            if event.kind in PRESENCE_EVENTS and self._objects is not None and uid in self._objects:
                self._objects[uid] = self._objects[uid].after_event(event)
        return any(event.kind == "appeared" for event in events)

    def _next_event_id(self) -> str:
        self._last_event += 1
        return f"{self._run_id}-{self._last_event}"

    def _publish_event(self, payload: dict[str, Any]) -> None:
        self._client.enqueue(self._topics.event, to_json(payload))
        if region := payload.get("region"):
            self._client.enqueue(self._topics.region_event(region), to_json(payload))

    def _read_objects(self, now: float) -> None:
        try:
            stored = self._api.objects()
        except EdgeSiameseError as error:
            LOG.debug("the objects are not available yet: %s", error)
            self._objects_due = now + RETRY_SECONDS
            return
        view = self._api.current_view()
        sightings: dict[str, list[Sighting]] = {}
        for sighting in view.present if view else ():
            sightings.setdefault(sighting.uid, []).append(sighting)
        self._regions = self._api.region_names
        last_seen, former = self._api.telemetry.last_seen(), self._objects or {}
        self._objects = {}
        for item in stored:
            state = ObjectState.from_stored(item, former.get(item.uid))
            self._objects[item.uid] = state.with_sightings(
                sightings.get(item.uid, []), self._regions, last_seen.get(item.uid)
            )
        self._retained_uids |= former.keys() - self._objects.keys()
        self._objects_due = None

    def _publish_objects(self, now: float) -> None:
        """Publish changed objects and, if the set of objects changed, discovery; remove forgotten objects."""
        if self._objects is None:
            return
        self._throttled = False
        for uid, state in self._objects.items():
            topic, payload = self._topics.object(uid), to_json(asdict(state))
            if self._published.get(topic) != payload and not self._has_room():
                break
            self._retain(topic, payload)
        if self._prefix:
            self._publish_discovery([(uid, state.name) for uid, state in self._objects.items()])
        current = {self._topics.object(uid) for uid in self._objects}
        at_broker = {topic for topic in self._published if topic.startswith(self._topics.object(""))}
        at_broker |= {self._topics.object(uid) for uid in self._retained_uids}
        self._retained_uids.clear()
        self._removals = {topic: due for topic, due in self._removals.items() if topic not in current}
        for topic in at_broker - current:
            self._published.pop(topic, None)
            self._removals.setdefault(topic, now + REMOVAL_SECONDS)
        for topic in [topic for topic, due in self._removals.items() if due <= now]:
            if not self._has_room():
                break
            del self._removals[topic]
            self._enqueue_retained(topic, b"")

    def _publish_discovery(self, objects: list[tuple[str, str]]) -> None:
        topic = self._topics.discovery(self._prefix)
        max_bytes = self._client.max_payload(topic)
        whole = discovery_message(self._topics, self._device, objects, self._regions)
        message = fit_message(whole, max_bytes)
        left_out = len(whole["components"]) - len(message["components"])
        if left_out and left_out != self._entities_left_out:
            LOG.warning(
                "Home Assistant shows %d fewer entities: the broker does not accept a message with all %d",
                left_out,
                len(whole["components"]),
            )
        self._entities_left_out = left_out
        for removal in removal_messages(self._discovery, message, max_bytes):
            # Not retained: entities are removed once, and the message that follows is the one to keep.
            payload = to_json(removal)
            self._ownership.published(topic, payload)
            self._client.enqueue(topic, payload)
            self._published.pop(topic, None)
        self._discovery = message
        if message["components"]:
            self._retain(topic, to_json(message))

    def _publish_state(self, now: float) -> None:
        self._state_published, self._state_due = now, now + STATE_SECONDS
        try:
            status = self._api.status()
        except EdgeSiameseError as error:
            LOG.debug("the status is not available: %s", error)
            return
        self._started_at = wall_clock.steady(self._started_at, wall_clock.utc_ago(status["uptime_s"]))
        memory = board.memory()
        payload = state_payload(
            status,
            started=self._started_at,
            temperature_c=board.temperature(),
            memory_mb=None if memory is None else memory.resident_mb,
        )
        self._retain(self._topics.state, to_json(payload))

    def _retain(self, topic: str, payload: bytes) -> None:
        """Publish a retained payload unless the broker has it."""
        if self._published.get(topic) != payload:
            self._published[topic] = payload
            self._enqueue_retained(topic, payload)

    def _enqueue_retained(self, topic: str, payload: bytes) -> None:
        self._ownership.published(topic, payload)
        self._client.enqueue(topic, payload, retain=True, on_done=partial(self._on_done, topic))

    def _on_done(self, topic: str, accepted: bool) -> None:
        """Note a failure. Runs on any thread."""
        if not accepted:
            self._failed.add(topic)

    def _has_room(self) -> bool:
        """Return whether the outbox has room for bulk messages; once False, until the next step."""
        self._throttled = self._throttled or not self._client.has_room
        return not self._throttled

    def _republish_failed(self, now: float) -> None:
        """Schedule rejected messages again, at intervals, as the broker may always reject them."""
        self._republish_at = now + REPUBLISH_SECONDS
        while self._failed:
            topic = self._failed.pop()
            if self._published.pop(topic, None) is None and topic.startswith(self._topics.object("")):
                self._retained_uids.add(topic.removeprefix(self._topics.object("")))  # a failed removal

    def _reassert(self) -> None:
        """Publish again what another client has replaced, and report a client that keeps replacing it."""
        topics = self._ownership.take() if self._client.connected else set()
        for topic in topics:
            uid = topic.removeprefix(self._topics.object(""))
            if topic == self._topics.availability:
                self._client.announce()
            elif topic == self._topics.state:
                self._state_due = 0.0
            elif uid != topic and uid not in (self._objects or {}):
                self._retained_uids.add(uid)
            self._published.pop(topic, None)
        if (conflict := self._ownership.conflict) and not self._conflict:
            self._api.bus.publish(problem_event("mqtt", conflict))
        self._conflict = conflict

    def _handle_news(self) -> None:
        with self._lock:
            news, self._news = self._news, BrokerNews()
        if news.connected:
            self._published.clear()
            self._state_due = 0.0
        if news.home_assistant_started:
            self._published.pop(self._topics.discovery(self._prefix), None)
            if not self._client.limits.retain:  # Home Assistant has seen none of the earlier messages
                self._published.clear()
                self._state_due = 0.0
                self._client.announce()
        if news.discovery is not None:
            self._merge_discovery(news.discovery)
        self._retained_uids |= news.uids

    def _merge_discovery(self, payload: bytes) -> None:
        """Add the components of a retained discovery message, so that those no longer needed are removed."""
        try:
            message = parse_json(payload)
        except SchemaError:
            return
        components = message.get("components") if isinstance(message, dict) else None
        if isinstance(components, dict):
            self._discovery = {"components": {**components, **self._discovery.get("components", {})}}
