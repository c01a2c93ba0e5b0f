"""Transfers between device and broker: publishes registers and contents, and fetches contents.

A view's content is published before the register that shows the view, and removed once the broker has the register that
hides it, so that a broker that loses its latest messages never shows a view without content. Contents to be removed are
recorded in the ledger until the broker has removed them: pictures of forgotten objects must not stay there.
"""

from __future__ import annotations

import random
import secrets
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from edge_siamese.fleet.broker_mirror import BrokerMirror, Handler, Message, Transport
from edge_siamese.fleet.clock import device_of
from edge_siamese.fleet.ledger import Ledger
from edge_siamese.fleet.messages import Topics, decode_content, encode_content, encode_request, encode_state
from edge_siamese.fleet.state import Key, Resolved
from edge_siamese.store.replication import ViewContent
from edge_siamese.validation import SchemaError

ECHO_SECONDS = 5.0
"""A register that has not come back from the broker for this long is published again."""
BUSY_RETRY_SECONDS = 0.25
"""Delay before the next attempt when the transport accepts no more messages."""
MAX_REGISTERS_PER_TICK = 50
CONTENT_REPEAT_SECONDS = 30.0
"""Minimum interval between two publications of a view's content; `ANSWER_REPEAT_SECONDS` for answers to requests."""
ANSWER_REPEAT_SECONDS = 3.0
ANSWER_SPREAD_SECONDS = 2.0
"""Devices answer after a random delay of up to this, so that one answer serves all."""
NO_CONTENT_SECONDS = 10.0
"""How long a register waits for other devices when this device lacks the view's content."""
MIN_REPAIR_SECONDS, REPAIR_SECONDS_EACH, MAX_REPAIR_SECONDS = 0.3, 0.01, 5.0
"""Every device detects what the broker lacks and publishes it after a random delay; usually only the first one needs to."""

MAX_FETCHES = 4
"""Contents requested at the same time; each may have 2 MB."""
MAX_RECEIVED_BYTES = 8_000_000
"""Fetched contents that are not in the store yet, beyond which no more are requested."""
MAX_BATCH_BYTES = 1_000_000
"""Contents stored in one step, during which the engine waits."""
RETAINED_SECONDS = 1.5
"""How long retained content may take to arrive; then other devices are asked."""
ANSWER_SECONDS = 4.0
MAX_REQUESTS = 3
PAUSE_SECONDS, MAX_PAUSE_SECONDS = 20.0, 900.0
"""Delay before content that no device had is fetched again; doubled each time."""


class FleetPublisher:
    """Publishes what the broker lacks, and repeats each register until the broker returns it. Not thread-safe."""

    def __init__(
        self,
        topics: Topics,
        transport: Transport,
        mirror: BrokerMirror,
        ledger: Ledger,
        read_content: Callable[[str], ViewContent | None],
        rng: random.Random | None = None,
    ) -> None:
        """Start without a connection.

        Args:
            topics: topics of the collection.
            transport: connection to the broker.
            mirror: what the broker retains.
            ledger: registers of this device.
            read_content: reads a view's content from the store; None if it lacks the content.
            rng: source of random delays.
        """
        self._topics, self._transport, self._mirror, self._ledger = topics, transport, mirror, ledger
        self._read_content = read_content
        self._rng = rng or random.Random()
        self._due: dict[Key, float] = {}
        """When to publish registers."""
        self._answers: dict[str, float] = {}
        """When to publish contents that were requested, by view."""
        self._content_published: dict[str, float] = {}
        self._removed: set[str] = set()
        """Views whose content was removed on this connection."""
        self._ever_removed: set[str] = set()
        self._unconfirmed: list[str] = []
        """Views that were removed after the latest marker."""
        self._markers: dict[bytes, list[str]] = {}
        """Views whose removal a marker confirms when it comes back."""
        self._without_content: dict[Key, bool] = {}
        """Views whose content this device lacks, and whether their registers have waited for other devices."""
        self._to_remove: set[str] = set()
        """Hidden views whose content may be at the broker."""

    def __len__(self) -> int:
        """Return the number of registers that the broker lacks and of contents that it must not keep."""
        return len(self._due) + len(self._to_remove)

    def restart(self) -> None:
        """Start over after a connect."""
        self._due.clear()
        self._answers.clear()
        self._content_published.clear()
        self._removed.clear()
        self._unconfirmed.clear()
        self._markers.clear()
        self._without_content.clear()

    def marker_received(self, payload: bytes) -> None:
        """Note that the broker has everything published before a marker."""
        if (views := self._markers.pop(payload, None)) is not None:
            self._ledger.note_content((view for view in views if view in self._removed), published=False)

    def publish_soon(self, keys: Iterable[Key], now: float) -> None:
        """Publish registers that were changed on this device."""
        self._due.update(dict.fromkeys(keys, now))

    def repair(self, keys: Iterable[Key], now: float) -> None:
        """Publish what the broker lacks, unless another device does so first."""
        keys = [key for key in keys if key not in self._due]
        spread = min(MAX_REPAIR_SECONDS, MIN_REPAIR_SECONDS + REPAIR_SECONDS_EACH * len(keys))
        for key in keys:
            self._due[key] = now + spread * self._rng.random()

    def confirm(self, keys: Iterable[Key]) -> None:
        """Note registers that the broker has."""
        for key in keys:
            self._due.pop(key, None)

    def answer(self, view: str, attempt: int, now: float) -> None:
        """Publish content that another device requests, if this device is to answer."""
        state = self._ledger.known.views.get(view)
        published = self._content_published.get(view, -ANSWER_REPEAT_SECONDS)
        if state is None or view in self._answers or now - published < ANSWER_REPEAT_SECONDS:
            return
        if device_of(state.place.stamp) == self._mirror.device:
            self._answers[view] = now
        elif attempt > 1:
            self._answers[view] = now + ANSWER_SPREAD_SECONDS * self._rng.random()

    def update_resolved(self, resolved: Resolved, now: float) -> None:
        """Follow changes of the existing views."""
        for view in self._ever_removed.intersection(resolved.views):
            # Another device brought it back, perhaps before the removal arrived.
            self._answers.setdefault(view, now + ANSWER_SPREAD_SECONDS * self._rng.random())
        self._content_published = {
            view: then for view, then in self._content_published.items() if view in resolved.views
        }
        self._removed = {view for view in self._removed if view not in resolved.views}
        # Published here, and hidden by another device, perhaps before it arrived.
        self._to_remove = self._ledger.published_content - self._removed - resolved.views.keys()

    def tick(self, resolved: Resolved, now: float) -> float:
        """Publish what is due, at most the content of one view; return the time of the next step.

        Raises:
            EdgeSiameseError: a view's content cannot be read now.
        """
        try:
            next_step = self._publish_registers(resolved, now)
            return self._publish_answers(resolved, now) if next_step is None else next_step
        finally:
            marker = secrets.token_hex(8).encode()
            if self._unconfirmed and self._transport.publish(self._mirror.markers, marker):
                self._markers[marker] = self._unconfirmed
                self._unconfirmed = []

    def _publish_registers(self, resolved: Resolved, now: float) -> float | None:
        """Publish registers, each after the contents that it shows; return when to continue, None if all is done."""
        due = sorted((key for key, then in self._due.items() if then <= now), reverse=True)  # views first
        views = self._views_of({uid for part, uid in due if part == "objects"})
        for key in due[:MAX_REGISTERS_PER_TICK]:
            for view in views.get(key[1], ()) if key[0] == "objects" else (key[1],):
                if view not in resolved.views:
                    self._note_hidden(view)
                elif self._lacks_content(view, now):
                    return now if self._publish_content(view, now) else now + BUSY_RETRY_SECONDS
            if self._without_content.get(key) is False:
                self._without_content[key] = True
                self._due[key] = now + NO_CONTENT_SECONDS
                continue
            if not self._publish_register(key):
                return now + BUSY_RETRY_SECONDS
            self._due[key] = now + ECHO_SECONDS
        for view in [view for view in self._to_remove if not self._mirror.shows(view)]:
            if not self._remove_content(view):
                return now + BUSY_RETRY_SECONDS
        return None

    def _publish_answers(self, resolved: Resolved, now: float) -> float:
        for view in [view for view, then in self._answers.items() if then <= now]:
            if view in resolved.views:
                if not self._publish_content(view, now):
                    return now + BUSY_RETRY_SECONDS
                del self._answers[view]
                return now
            del self._answers[view]
        return min((*self._due.values(), *self._answers.values()), default=float("inf"))

    def _lacks_content(self, view: str, now: float) -> bool:
        """Return whether a view is new at the broker, and its content was not published recently."""
        published = self._content_published.get(view, -CONTENT_REPEAT_SECONDS)
        return not self._mirror.shows(view) and now - published >= CONTENT_REPEAT_SECONDS

    def _note_hidden(self, view: str) -> None:
        """Note that a view's content is to be removed once the broker has the register that hides it."""
        if view not in self._removed and self._mirror.shows(view):
            self._ledger.note_content([view])
            self._to_remove.add(view)

    def _publish_content(self, view: str, now: float) -> bool:
        content = self._read_content(view)
        if content is None:
            self._without_content.setdefault(("views", view), False)
        else:
            self._without_content.pop(("views", view), None)
            # Recorded first: after a power cut, an unneeded removal is better than none.
            self._ledger.note_content([view])
            topic = self._topics.of("content", view)
            if not self._transport.publish(topic, encode_content(content), retain=True):
                return False
        self._content_published[view] = now
        self._removed.discard(view)
        self._ever_removed.discard(view)
        return True

    def _remove_content(self, view: str) -> bool:
        if not self._transport.publish(self._topics.of("content", view), b"", retain=True):
            return False
        self._to_remove.discard(view)
        self._removed.add(view)
        self._ever_removed.add(view)
        self._unconfirmed.append(view)
        return True

    def _publish_register(self, key: Key) -> bool:
        part, uid = key
        payload = encode_state(self._ledger.known.part(part)[uid])
        return self._transport.publish(self._topics.of(part, uid), payload, retain=True)

    def _views_of(self, objects: set[str]) -> dict[str, list[str]]:
        views: dict[str, list[str]] = defaultdict(list)
        for uid, view in self._ledger.known.views.items() if objects else ():
            if view.place.object in objects:
                views[view.place.object].append(uid)
        return views


@dataclass
class _Fetch:
    due: float
    """When the next step is due."""
    step: int = 0
    """0: not started; 1: subscribed to the retained content; above: requested from other devices step - 1 times."""
    pause: float = PAUSE_SECONDS


class ContentFetcher:
    """Fetches contents that this device lacks: a few at a time, from broker or other devices. Not thread-safe."""

    def __init__(
        self, topics: Topics, transport: Transport, warn: Callable[[str, SchemaError], object]
    ) -> None:
        """Start without fetches.

        Args:
            topics: topics of the collection.
            transport: connection to the broker.
            warn: receives topic and error of unusable content.
        """
        self._topics, self._transport, self._warn = topics, transport, warn
        self.on_message: Handler = lambda topic, payload: None
        self._fetches: dict[str, _Fetch] = {}
        self.received: dict[str, ViewContent] = {}
        """Contents that are not in the store yet."""

    def __len__(self) -> int:
        """Return the number of contents being fetched."""
        return len(self._fetches)

    def fetch(self, views: Collection[str], now: float) -> None:
        """Fetch the contents of these views, and of no others."""
        for uid in self._fetches.keys() - set(views):
            self._end(uid)
        for uid in views:
            if uid not in self._fetches and uid not in self.received:
                self._fetches[uid] = _Fetch(now)

    def discard_except(self, views: Collection[str]) -> None:
        """Discard received contents of other views: they are in the store, or no longer needed."""
        for uid in self.received.keys() - set(views):
            del self.received[uid]

    def next_batch(self) -> dict[str, ViewContent]:
        """Return received contents, at least one and at most `MAX_BATCH_BYTES`."""
        batch: dict[str, ViewContent] = {}
        size = 0
        for uid, content in self.received.items():
            size += _size(content)
            if batch and size > MAX_BATCH_BYTES:
                break
            batch[uid] = content
        return batch

    def restart(self, now: float) -> None:
        """Start over after a connect: the broker may have what it lacked before."""
        for fetch in self._fetches.values():
            fetch.step, fetch.due, fetch.pause = 0, now, PAUSE_SECONDS

    def receive(self, message: Message, now: float) -> bool:
        """Accept content; return whether it was needed."""
        uid = self._topics.uid(message.topic)
        fetch = self._fetches.get(uid or "")
        if uid is None or fetch is None or not message.payload:
            return False
        try:
            self.received[uid] = decode_content(message.payload)
        except SchemaError as error:
            self._warn(message.topic, error)
            self._postpone(uid, fetch, now)
            return False
        self._end(uid)
        return True

    def tick(self, now: float) -> float:
        """Advance the fetches; return the time of the next step."""
        active = sum(1 for fetch in self._fetches.values() if fetch.step > 0)
        received = sum(_size(content) for content in self.received.values())
        next_step = float("inf")
        for uid, fetch in list(self._fetches.items()):
            if fetch.due <= now:
                if fetch.step == 0 and (active >= MAX_FETCHES or received > MAX_RECEIVED_BYTES):
                    continue  # until another fetch ends
                active += self._advance(uid, fetch, now)
            next_step = min(next_step, fetch.due)
        return next_step

    def _advance(self, uid: str, fetch: _Fetch, now: float) -> int:
        """Take the next step of a fetch; return 1 if it started, -1 if it paused, else 0."""
        if fetch.step == 0:
            self._transport.subscribe(self._topics.of("content", uid), self.on_message)
            fetch.step, fetch.due = 1, now + RETAINED_SECONDS
            return 1
        if fetch.step > MAX_REQUESTS:
            self._postpone(uid, fetch, now)
            return -1
        self._transport.publish(self._topics.of("requests", uid), encode_request(fetch.step))
        fetch.step, fetch.due = fetch.step + 1, now + ANSWER_SECONDS
        return 0

    def _postpone(self, uid: str, fetch: _Fetch, now: float) -> None:
        """Pause a fetch, so that others can start."""
        self._transport.unsubscribe(self._topics.of("content", uid))
        fetch.step, fetch.due = 0, now + fetch.pause
        fetch.pause = min(2 * fetch.pause, MAX_PAUSE_SECONDS)

    def _end(self, uid: str) -> None:
        if self._fetches.pop(uid).step > 0:
            self._transport.unsubscribe(self._topics.of("content", uid))


def _size(content: ViewContent) -> int:
    return len(content.vector or b"") + sum(map(len, content.crops))
