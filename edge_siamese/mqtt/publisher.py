"""Tells a broker what the daemon sees and how it is, and Home Assistant what there is: on a thread of its own."""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from edge_siamese.daemon.api import DaemonApi
from edge_siamese.errors import EdgeSiameseError
from edge_siamese.events import Event, utc_now
from edge_siamese.mqtt.client import Connection
from edge_siamese.mqtt.discovery import Described, discovery, encoded, without
from edge_siamese.mqtt.inbound import InboundBuffer
from edge_siamese.mqtt.payloads import (
    BEING_THERE,
    CATALOG,
    ObjectState,
    event_payload,
    lost_payload,
    state_payload,
)
from edge_siamese.mqtt.subscriptions import Incoming
from edge_siamese.mqtt.topics import Topics
from edge_siamese.system import board

STATE_SECONDS = 30.0
"""How often the device's state is told where nothing happens, if it has changed."""
MIN_SECONDS = 1.0
"""Between two of them where much happens."""
RETRY_SECONDS = 5.0
"""Until the objects are asked for again, where the daemon could not say."""
GOODBYE_SECONDS = 2.0
"""Between the removal of an object's entities and that of its state, which they would not understand."""
PORTION_SECONDS = 0.5
"""Until more is said of the objects, where there are so many that all of them at once would leave no room for events."""
AGAIN_SECONDS = 60.0
"""Until what the broker refused is said once more."""
EVENTS = 1000
"""That may wait for this thread."""
BIRTH = "homeassistant/status"
"""Where Home Assistant says that it has started, whatever its prefix for discovery."""

LOG = logging.getLogger(__name__)


class StatePublisher:
    """The thread that publishes events, states and the discovery message."""

    def __init__(
        self,
        actions: DaemonApi,
        topics: Topics,
        connection: Connection,
        *,
        device: Described,
        prefix: str,
        snapshot: Callable[[], str] | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing runs before `start`.

        Args:
            actions: of the daemon.
            topics: where to publish.
            connection: how.
            device: what Home Assistant is told of it.
            prefix: under which Home Assistant looks for devices; empty: it is not told.
            snapshot: publishes a picture; None: none are to be sent.
            clock: in seconds.
        """
        self._actions, self._topics, self._connection = actions, topics, connection
        self._device, self._prefix, self._snapshot, self._clock = device, prefix, snapshot, clock
        self._news = actions.bus.subscribe(size=EVENTS)
        self._ear = InboundBuffer(topics, topics.discovery(prefix) if prefix else "")
        self._closing = False
        self._session, self._number = secrets.token_hex(4), 0
        self._objects: dict[str, ObjectState] | None = None
        """By their uids; None until the daemon has said which there are."""
        self._told: dict[str, bytes] = {}
        """Retained payloads as the broker has them, or will have, by their topics."""
        self._unkept: set[str] = set()
        """Topics of retained payloads that were refused, or lost before they went out; from any thread."""
        self._again_at = 0.0
        self._held = False
        """Whether more was to be told of the objects than there was room for."""
        self._gone: dict[str, float] = {}
        """Topics of objects that are forgotten, and from when on they are to be removed."""
        self._strays: set[str] = set()
        """Uids of objects that the broker has, and that may be forgotten ones."""
        self._message: dict[str, Any] = {}
        """The discovery message as it was sent, or as the broker had it."""
        self._began = ""
        self._stale_at: float | None = 0.0
        """From when on the objects are to be asked for; None: they are known."""
        self._state_at = 0.0
        self._state_told = -MIN_SECONDS
        self._thread = threading.Thread(target=self._run, name="mqtt-telling", daemon=True)

    def start(self) -> None:
        """Tell from now on, and with each connection all of it anew."""
        self._connection.listen(self._topics.objects, self._hear)
        if self._prefix:
            self._connection.listen(self._topics.discovery(self._prefix), self._hear)
            for topic in {BIRTH, f"{self._prefix}/status"}:
                self._connection.listen(topic, self._hear)
        self._connection.on_connected(self._begin_anew)
        self._thread.start()

    def close(self, timeout: float, *, withdraw: bool) -> None:
        """Tell what is still to be told, and end; `withdraw` removes all that the broker keeps of this device."""
        self._closing = True
        self._news.wake()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        self._actions.bus.unsubscribe(self._news)
        leaving = set(self._gone)
        if withdraw:
            leaving |= set(self._told) | {self._topics.state}
            leaving |= {self._topics.object(uid) for uid in self._objects or ()}
            if self._prefix:
                leaving.add(self._topics.discovery(self._prefix))
        deadline = time.monotonic() + timeout
        for topic in leaving:
            while (
                not self._connection.has_room and self._connection.connected and time.monotonic() < deadline
            ):
                time.sleep(0.01)
            self._connection.send(topic, b"", retain=True)

    def _hear(self, message: Incoming) -> None:
        """What came from the broker. On the network's thread."""
        self._ear.hear(message)
        self._news.wake()

    def _begin_anew(self) -> None:
        """The connection was made. On the network's thread."""
        self._ear.connected()
        self._news.wake()

    # --- its own thread ---

    def _run(self) -> None:
        while not (self._closing or self._news.closed):
            try:
                self._turn(*self._news.get(self._pause()))
            except Exception:
                LOG.exception("what happens could not be told by MQTT")
                time.sleep(MIN_SECONDS)  # if it is due still, it must not keep a processor busy
        events, lost = self._news.get(0)
        self._tell_events(events, lost)

    def _pause(self) -> float:
        now = self._clock()
        due = [self._state_at]
        if self._stale_at is not None:
            due.append(self._stale_at)
        if not self._held:
            due += self._gone.values()
        elif self._connection.connected:  # else nothing makes room, and a new connection wakes the thread
            due.append(now + PORTION_SECONDS)
        return max(0.0, min(due) - now)

    def _turn(self, events: list[Event], lost: int) -> None:
        now = self._clock()
        self._take_what_came()
        if now >= self._again_at:
            self._tell_again(now)
        appeared = self._tell_events(events, lost)
        if lost or any(event.kind in CATALOG for event in events):
            self._stale_at = now
        if self._stale_at is not None and now >= self._stale_at:
            self._ask_for_objects(now)
        self._tell_objects(now)
        if events:
            self._state_at = min(self._state_at, self._state_told + MIN_SECONDS)
        if now >= self._state_at:
            self._tell_state(now)
        if appeared and self._snapshot is not None and self._connection.connected:
            try:
                self._snapshot()
            except EdgeSiameseError as error:
                LOG.info("no snapshot: %s", error)

    def _tell_events(self, events: list[Event], lost: int) -> bool:
        """Publish them, and see what they say of objects; whether one appeared."""
        if lost:
            self._publish_event(lost_payload(lost, self._next(), self._topics.device, utc_now()))
        appeared = False
        for event in events:
            self._publish_event(event_payload(event, self._next(), self._topics.device))
            uid = event.data.get("uid")
            if event.kind in BEING_THERE and self._objects is not None and uid in self._objects:
                self._objects[uid] = self._objects[uid].after(event)
            appeared = appeared or event.kind == "appeared"
        return appeared

    def _next(self) -> str:
        """The id of one more event: of this run of the bridge, and a number."""
        self._number += 1
        return f"{self._session}-{self._number}"

    def _publish_event(self, payload: dict[str, Any]) -> None:
        self._connection.send(self._topics.event, _json(payload))

    def _ask_for_objects(self, now: float) -> None:
        try:
            known = self._actions.objects()
        except EdgeSiameseError as error:
            LOG.debug("the objects are not known yet: %s", error)
            self._stale_at = now + RETRY_SECONDS
            return
        shown = self._actions.current_view()
        there = {sighting.uid: sighting for sighting in shown.present} if shown else {}
        seen, former = self._actions.telemetry.last_seen(), self._objects or {}
        self._objects = {}
        for found in known:
            state = ObjectState.of(found, former.get(found.uid))
            self._objects[found.uid] = state.seen(there.get(found.uid), seen.get(found.uid))
        self._strays |= former.keys() - self._objects.keys()
        self._stale_at = None

    def _tell_objects(self, now: float) -> None:
        """Publish those that changed, remove those that are gone, and tell Home Assistant if there are others."""
        if self._objects is None:
            return
        self._held = False
        for uid, state in self._objects.items():
            topic, payload = self._topics.object(uid), _json(state.payload())
            if self._told.get(topic) != payload and not self._has_room():
                break
            self._keep(topic, payload)
        if self._prefix:
            self._discover([(uid, state.name) for uid, state in self._objects.items()])
        there = {self._topics.object(uid) for uid in self._objects}
        known = {topic for topic in self._told if topic.startswith(self._topics.object(""))}
        known |= {self._topics.object(uid) for uid in self._strays}
        self._strays.clear()
        self._gone = {topic: due for topic, due in self._gone.items() if topic not in there}
        for topic in known - there:
            self._told.pop(topic, None)
            self._gone.setdefault(topic, now + GOODBYE_SECONDS)
        for topic in [topic for topic, due in self._gone.items() if due <= now]:
            if not self._has_room():
                break
            del self._gone[topic]
            self._send_kept(topic, b"")

    def _discover(self, objects: list[tuple[str, str]]) -> None:
        topic = self._topics.discovery(self._prefix)
        message = discovery(self._topics, self._device, objects)
        if (removing := without(self._message, message)) is not None:
            # Not retained: it says goodbye to entities, once, and the message after it is what is to stay.
            self._connection.send(topic, encoded(removing))
            self._told.pop(topic, None)
        self._message = message
        self._keep(topic, encoded(message))

    def _tell_state(self, now: float) -> None:
        self._state_told, self._state_at = now, now + STATE_SECONDS
        try:
            status = self._actions.status()
        except EdgeSiameseError as error:
            LOG.debug("there is no status: %s", error)
            return
        memory = board.memory()
        payload = state_payload(
            status,
            started=self._started(status["uptime_s"]),
            temperature_c=board.temperature(),
            memory_mb=None if memory is None else memory.resident_mb,
        )
        self._keep(self._topics.state, _json(payload))

    def _started(self, uptime_s: float) -> str:
        """When the daemon was started; said once, or it would tremble with the clock."""
        if not self._began:
            began = datetime.now(UTC) - timedelta(seconds=uptime_s)
            self._began = began.isoformat(timespec="seconds")
        return self._began

    def _keep(self, topic: str, payload: bytes) -> None:
        """Have the broker keep a payload, if it has not."""
        if self._told.get(topic) != payload:
            self._told[topic] = payload
            self._send_kept(topic, payload)

    def _send_kept(self, topic: str, payload: bytes) -> None:
        self._connection.send(topic, payload, retain=True, ended=partial(self._ended, topic))

    def _ended(self, topic: str, taken: bool) -> None:
        """The broker has a payload, or has not. On any thread."""
        if not taken:
            self._unkept.add(topic)

    def _has_room(self) -> bool:
        self._held = self._held or not self._connection.has_room
        return not self._held

    def _tell_again(self, now: float) -> None:
        """What the broker did not take is not told: say it anew, but not at once, for it may refuse it for ever."""
        self._again_at = now + AGAIN_SECONDS
        while self._unkept:
            topic = self._unkept.pop()
            if self._told.pop(topic, None) is None and topic.startswith(self._topics.object("")):
                self._strays.add(topic.removeprefix(self._topics.object("")))  # it was to be removed

    def _take_what_came(self) -> None:
        heard = self._ear.take()
        if heard.connected:
            self._told.clear()
            self._state_at = 0.0
        if heard.started:
            self._told.pop(self._topics.discovery(self._prefix), None)
        if heard.discovery is not None:
            self._had(heard.discovery)
        self._strays |= heard.uids

    def _had(self, message: bytes) -> None:
        """What the broker kept of an earlier run: what is there no more has to be removed from Home Assistant."""
        try:
            former = json.loads(message)
        except (ValueError, RecursionError):
            return
        if isinstance(former, dict):
            components = former.get("components")
            ours = self._message.get("components", {})
            if isinstance(components, dict):
                self._message = {"components": {**components, **ours}}


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
