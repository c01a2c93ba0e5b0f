"""Keeps this device's objects and those of its fleet alike, on a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from edge_siamese.errors import ControlError, EdgeSiameseError
from edge_siamese.events import Event, trouble, utc_now
from edge_siamese.fleet.broker_mirror import Key, Mirror
from edge_siamese.fleet.clock import Clock, wall_ms
from edge_siamese.fleet.content_fetch import Fetching
from edge_siamese.fleet.engine_changes import Seen, applied, content_of, snapshot_of
from edge_siamese.fleet.inbox import Connected, Inbox, Item, Message, Overflow, Subscribed
from edge_siamese.fleet.ledger import FILE, Ledger
from edge_siamese.fleet.messages import Topics, decode_wanted
from edge_siamese.fleet.publisher import Sending
from edge_siamese.fleet.reconciliation import (
    Changes,
    Missing,
    after,
    local_changes,
    restamped,
    shown_by,
    store_changes,
)
from edge_siamese.fleet.state import Resolved, resolve
from edge_siamese.fleet.transport import Transport
from edge_siamese.store.replication import Snapshot, StoreChangedError, ViewContent
from edge_siamese.system.files import is_nearly_full
from edge_siamese.validation import SchemaError

if TYPE_CHECKING:
    from edge_siamese.daemon.api import DaemonApi

LOG = logging.getLogger(__name__)

CHANGES = frozenset(
    {
        "registered",
        "view added",
        "negative added",
        "view removed",
        "renamed",
        "forgotten",
        "merged",
        "undone",
        "imported",
        "started",
        "model",
    }
)
"""Events after which the store may be another one."""
LOOK_SECONDS = 60.0
"""The store is looked at so often, whatever is told."""
FULL = "the disk is nearly full, so nothing that others register is taken: make room first"
CLOCK_SET_SECONDS = 60.0
"""A time of day that moves by more on its own was set."""
RETRY_SECONDS = 2.0
"""After something failed, such as a store that is being repaired."""
BATCH_SECONDS = 0.3
"""The shortest time between two batches that are applied: each costs the engine a moment."""


class Fleet:
    """One device's part in a fleet; `start` and `close` it once each."""

    def __init__(
        self, collection: str, prefix: str, device: str, actions: DaemonApi, transport: Transport
    ) -> None:
        """Nothing is opened before `start`.

        Args:
            collection: what is shared; devices with the same one teach each other.
            prefix: of all topics.
            device: the id of this one: a-z, 0-9, _ and -.
            actions: of the daemon.
            transport: the connection to the broker.

        Raises:
            ValueError: `collection` or `device` cannot be part of a topic.
        """
        self.collection = collection
        self._topics = Topics(prefix, collection)
        self._actions, self._transport = actions, transport
        self._clock = Clock(device)
        self._inbox = Inbox()
        self._mirror = Mirror(self._topics, device, transport, self._clock.is_late)
        self._fetching = Fetching(self._topics, transport, self._mirror.complain)
        for part in (self._mirror, self._fetching):
            part.heard = lambda topic, payload: self._inbox.put(Message(topic, payload))
        self._mirror.subscribed = lambda pattern: self._inbox.put(Subscribed(pattern))
        self._ledger: Ledger
        self._sending: Sending
        self._thread = threading.Thread(target=self._run, name="fleet", daemon=True)
        self._closing = False
        self._resolved = Resolved({}, {})
        self._stale = True
        self._seen: Seen | None = None
        self._restored = False
        self._seen_all = False
        self._changed = threading.Event()
        self._look_at = self._batch_at = 0.0
        self._again_at = float("inf")
        self._offset = 0.0
        self._complaint = ""
        self._full = False
        self._last_sync: str | None = None
        self._lacking = 0

    def start(self) -> None:
        """Begin; raises `StoreError` if nothing can be kept in the state directory."""
        path = self._actions.settings.state_directory / FILE
        self._ledger = Ledger(path, f"{self._topics.base}")
        self._observe(Changes(self._ledger.known.objects, self._ledger.known.views))
        self._sending = Sending(self._topics, self._transport, self._mirror, self._ledger, self._content)
        self._transport.on_connected(lambda: self._inbox.put(Connected()))
        self._actions.bus.listen(self._hear)
        if self._transport.connected:
            self._inbox.put(Connected())
        self._thread.start()

    def close(self, timeout: float) -> None:
        """End, within so many seconds; what was not told yet is told after the next start."""
        self._closing = True
        self._actions.bus.unlisten(self._hear)
        self._inbox.wake()
        if self._thread.ident is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():  # it waits for an engine that is ending too
                LOG.debug("the fleet is left to itself")

    def report(self) -> dict[str, Any]:
        """How it is, as JSON values."""
        complete = self._mirror.complete and self._transport.connected
        return {
            "collection": self.collection,
            "state": "connected" if complete else "reading" if self._transport.connected else "away",
            "objects": len(self._resolved.objects),
            "to_tell": len(self._sending) if self._thread.ident is not None else 0,
            "to_fetch": self._lacking,
            "last_sync": self._last_sync,
            "trouble": self._complaint or (FULL if self._full else None),
        }

    # --- from other threads ---

    def _hear(self, event: Event) -> None:
        if event.kind in CHANGES and not self._closing:
            self._changed.set()
            self._inbox.wake()

    # --- the fleet's thread ---

    def _run(self) -> None:
        following = 0.0
        while True:
            items = self._inbox.take(max(0.0, min(following - time.monotonic(), LOOK_SECONDS)))
            if self._closing:
                break
            now = time.monotonic()
            try:
                following = self._turn(items, now)
            except EdgeSiameseError as error:
                # A daemon that is starting or learning anew has no engine for a while; that is no trouble.
                self._say(str(error), logging.INFO if isinstance(error, ControlError) else logging.WARNING)
                following = now + RETRY_SECONDS
            except Exception:
                LOG.exception("the fleet failed; it goes on")
                following = now + 5 * RETRY_SECONDS
            else:
                self._say("")
        self._ledger.close()

    def _turn(self, items: list[Item], now: float) -> float:
        """Take what came, and do what is due; the time of the next turn."""
        self._mind_the_time(now)
        try:
            self._take(items, now)
        except Exception:
            # The rest of what came is lost with it: before anything is sent again, all is read again.
            self._mirror.lost()
            self._again_at = now + RETRY_SECONDS
            raise
        if not self._transport.connected and self._mirror.complete:
            self._mirror.lost()
        self._mirror.tick(now)
        if self._mirror.complete and not self._seen_all:
            self._seen_all = self._stale = True
        if now >= self._batch_at and (self._changed.is_set() or self._stale or now >= self._look_at):
            self._make_alike(now)
        following = self._look_at
        if self._changed.is_set() or self._stale:
            following = max(now, self._batch_at)
        if self._mirror.complete:
            following = min(following, self._sending.tick(self._resolved, now), self._fetching.tick(now))
            if not len(self._sending) and not self._lacking:
                self._last_sync = utc_now()
        elif self._transport.connected:
            following = min(following, now + 1.0)
        return min(following, self._again_at)

    def _mind_the_time(self, now: float) -> None:
        """Read all again once the clock was set: what was passed over, or taken, may have been so wrongly."""
        offset = wall_ms() / 1000 - now
        if abs(offset - self._offset) > CLOCK_SET_SECONDS:
            self._offset = offset
            if self._transport.connected and self._mirror.complete:
                self._again_at = now

    def _read_all(self, now: float) -> None:
        """Read from the beginning what the broker keeps."""
        self._again_at = float("inf")
        self._sending.restart()
        self._fetching.restart(now)
        self._mirror.begin(now)

    def _take(self, items: list[Item], now: float) -> None:
        if now >= self._again_at:
            self._read_all(now)
        complete = self._mirror.complete
        states: list[Message] = []
        for item in items:
            if isinstance(item, Connected | Overflow):
                states.clear()
                self._read_all(now)
                complete = False
            elif isinstance(item, Subscribed):
                self._mirror.acknowledged(item.pattern)
            elif item.topic == self._mirror.own_marks:
                self._mirror.marked(item.payload, now)
                self._sending.marked(item.payload)
            else:
                self._take_message(item, states, now)
        if states:
            self._read(states, now)
        if self._mirror.complete and not complete:
            self._sending.heal(self._mirror.lacks(self._ledger.known), now)
            self._stale = True

    def _take_message(self, message: Message, states: list[Message], now: float) -> None:
        kind = message.topic.removeprefix(self._topics.base + "/").split("/", 1)[0]
        uid = self._topics.uid(message.topic)
        if kind == "content":
            self._stale |= self._fetching.take(message, now)
        elif kind == "wanted" and uid is not None:
            try:
                self._sending.asked(uid, decode_wanted(message.payload), now)
            except SchemaError as error:
                self._mirror.complain(message.topic, error)
        elif kind in ("objects", "views"):
            states.append(message)

    def _read(self, messages: list[Message], now: float) -> None:
        read = self._mirror.read(messages, self._ledger.known, now)
        self._observe(read.changes)
        if len(read.changes):
            self._ledger.save(read.changes.objects, read.changes.views)
            self._stale = True
        self._sending.alike(read.alike)
        if self._mirror.complete:
            self._sending.heal(read.behind, now)

    def _observe(self, states: Changes) -> None:
        """See the stamps of others."""
        for known in (states.objects, states.views):
            for state in known.values():
                self._clock.observe(state.latest)

    def _make_alike(self, now: float) -> None:
        """Find what was changed here, and change here what the fleet wants; sets `_changed` if that is not all yet."""
        stale, self._stale = self._stale, True  # until it is done
        self._changed.clear()
        store = self._look()
        self._look_at = now + LOOK_SECONDS
        if self._mirror.complete:
            anew = restamped(self._ledger.known, self._clock.next, self._clock.is_late)
            if len(anew):
                self._ledger.save(anew.objects, anew.views)
                self._sending.changed(_keys(anew), now)
        changes = local_changes(
            store, self._ledger.known, self._clock.next, restored=self._restored, complete=self._seen_all
        )
        if len(changes):
            self._ledger.save(changes.objects, changes.views)
            self._sending.changed(_keys(changes), now)
        if len(changes) or stale:
            self._resolved = resolve(self._ledger.known.objects, self._ledger.known.views)
            self._sending.resolved(self._resolved, now)
        # Until all was seen, some objects of the store may be unknown here: names could collide with theirs.
        if self._seen_all:
            full = self._is_full()
            came = {} if full else self._fetching.some()
            missing = store_changes(store, self._ledger.known, self._resolved, came)
            self._lacking = len(missing.contents)
            self._fetching.need([] if full else missing.contents, now)
            if len(missing.batch):
                if not self._apply(missing, store, now):
                    self._changed.set()
                    return
                store = after(store, missing.batch)
            self._fetching.keep(missing.contents)
            if self._fetching.found and not full:
                self._changed.set()
        self._ledger.show(*shown_by(store, self._ledger.known), store.revision)
        self._restored = self._stale = False

    def _look(self) -> Snapshot:
        """The store as it is; read only if it has changed."""
        before = self._seen
        seen = self._actions.with_engine(lambda engine: snapshot_of(engine, before))
        if before is None or before.opened is not seen.opened:
            self._restored |= seen.opened.repair is not None
        self._restored |= seen.snapshot.revision < self._ledger.revision
        self._seen = seen
        return seen.snapshot

    def _is_full(self) -> bool:
        """Whether what others have cannot come for now; told once, until there is room again."""
        full = is_nearly_full(self._actions.settings.state_directory)
        if full and not self._full:
            self._actions.bus.publish(trouble("fleet", f"fleet {self.collection}: {FULL}"))
        self._full = full
        return full

    def _apply(self, missing: Missing, store: Snapshot, now: float) -> bool:
        """Change the store; False if it was changed by somebody else just now."""
        try:
            event, unembedded = self._actions.with_engine(
                lambda engine: applied(engine, missing.batch, store, self.collection)
            )
        except StoreChangedError:
            return False
        self._batch_at = now + BATCH_SECONDS
        if self._seen is not None:
            self._seen = Seen(after(store, missing.batch), self._seen.opened)
        if event is not None:
            self._actions.bus.publish(event)
        if unembedded:
            self._actions.reembed()
        return True

    def _content(self, view: str) -> ViewContent | None:
        return self._actions.with_engine(lambda engine: content_of(engine, view))

    def _say(self, text: str, level: int = logging.WARNING) -> None:
        if text and text != self._complaint:
            LOG.log(level, "the fleet waits: %s", text)
        self._complaint = text


def _keys(changes: Changes) -> list[Key]:
    return [*(("objects", uid) for uid in changes.objects), *(("views", uid) for uid in changes.views)]
