"""The thread that synchronizes this device's objects with its fleet."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_siamese.errors import ControlError, EdgeSiameseError
from edge_siamese.events import Event, problem_event
from edge_siamese.fleet.broker_mirror import (
    BrokerMirror,
    Connected,
    Inbox,
    Item,
    Message,
    Overflow,
    Subscribed,
    Transport,
)
from edge_siamese.fleet.clock import Clock
from edge_siamese.fleet.ledger import FILE_NAME, Ledger
from edge_siamese.fleet.messages import Topics, decode_request
from edge_siamese.fleet.reconciliation import (
    StorePlan,
    local_changes,
    new_observations,
    plan_store_changes,
    restamp,
    snapshot_after,
)
from edge_siamese.fleet.state import Registers, Resolved, resolve
from edge_siamese.fleet.transfer import ContentFetcher, FleetPublisher
from edge_siamese.store.replication import (
    Batch,
    ObjectRow,
    Snapshot,
    StoreChangedError,
    ViewContent,
    apply_batch,
    read_content,
    read_snapshot,
    revision,
)
from edge_siamese.system import wall_clock
from edge_siamese.system.files import is_nearly_full
from edge_siamese.validation import SchemaError

if TYPE_CHECKING:
    from edge_siamese.daemon.api import DaemonApi
    from edge_siamese.daemon.engine import Engine
    from edge_siamese.store import SupportStore

STORE_EVENTS = frozenset(
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
"""Events after which the store may have changed."""
CHECK_SECONDS = 60.0
"""The store is read at least this often, without any event."""
RETRY_SECONDS = 2.0
"""Delay after a failure, such as a store that is being repaired."""
MIN_BATCH_SECONDS = 0.3
"""Minimum interval between two batches: each takes engine time."""
DISK_FULL = "the disk is nearly full: objects of other devices are not added until there is room"
_MAX_NAMES = 5
"""Maximum number of names in the text of an event."""

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoreView:
    """The contents of a store, and the store instance, which changes when it is reopened."""

    snapshot: Snapshot
    store: SupportStore


class Fleet:
    """A device's membership in a fleet; call `start` and `close` once each."""

    def __init__(
        self, collection: str, prefix: str, device: str, api: DaemonApi, transport: Transport
    ) -> None:
        """Configure the fleet; `start` opens its file and starts the thread.

        Args:
            collection: devices with the same collection share their objects.
            prefix: prefix of all topics.
            device: id of this device, of a-z, 0-9, _ and -.
            api: the daemon.
            transport: the connection to the broker.

        Raises:
            ValueError: `collection` or `device` cannot be part of a topic.
        """
        self.collection = collection
        self._topics = Topics(prefix, collection)
        self._api, self._transport = api, transport
        self._clock = Clock(device)
        self._inbox = Inbox()
        self._mirror = BrokerMirror(self._topics, device, transport, self._clock.is_ahead)
        self._fetcher = ContentFetcher(self._topics, transport, self._mirror.warn_once)
        for part in (self._mirror, self._fetcher):
            part.on_message = lambda topic, payload: self._inbox.put(Message(topic, payload))
        self._mirror.on_subscribed = lambda pattern: self._inbox.put(Subscribed(pattern))
        self._ledger: Ledger
        self._publisher: FleetPublisher
        self._thread = threading.Thread(target=self._run, name="fleet", daemon=True)
        self._closing = False
        self._resolved = Resolved({}, {})
        self._stale = True
        """Whether registers or contents have changed since the store was reconciled."""
        self._store_changed = threading.Event()
        self._store_view: StoreView | None = None
        self._restored = False
        """Whether the store was restored from a copy since it was reconciled."""
        self._was_complete = False
        """Whether everything that the broker retains was read at least once."""
        self._check_at = self._batch_at = 0.0
        self._read_again_at = float("inf")
        self._clock_offset = 0.0
        self._problem = ""
        self._disk_full = False
        self._synced_at: float | None = None
        self._missing = 0

    def start(self) -> None:
        """Start the thread; raises `StoreError` if the state directory cannot be written."""
        path = self._api.settings.state_directory / FILE_NAME
        self._ledger = Ledger(path, self._topics.base)
        self._observe_stamps(self._ledger.known)
        self._publisher = FleetPublisher(
            self._topics, self._transport, self._mirror, self._ledger, self._read_content
        )
        self._transport.on_connected(lambda: self._inbox.put(Connected()))
        self._api.bus.listen(self._on_event)
        if self._transport.connected:
            self._inbox.put(Connected())
        self._thread.start()

    def close(self, timeout: float) -> None:
        """End within `timeout` seconds; unpublished changes are published after the next start."""
        self._closing = True
        self._api.bus.unlisten(self._on_event)
        self._inbox.wake()
        if self._thread.ident is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():  # it waits for an engine that is also closing
                LOG.debug("the fleet's thread has not ended in time")

    def report(self) -> dict[str, Any]:
        """Return the status as JSON values."""
        state, synced_at = "disconnected", self._synced_at
        if self._transport.connected:
            state = "connected" if self._mirror.complete else "reading"
        return {
            "collection": self.collection,
            "state": state,
            "objects": len(self._resolved.objects),
            "to_publish": len(self._publisher) if self._thread.ident is not None else 0,
            "to_fetch": self._missing,
            "last_sync": None if synced_at is None else wall_clock.utc_ago(time.monotonic() - synced_at),
            "problem": self._problem or (DISK_FULL if self._disk_full else None),
        }

    def _on_event(self, event: Event) -> None:
        """Note that the store may have changed. Runs on any thread."""
        if event.kind in STORE_EVENTS and not self._closing:
            self._store_changed.set()
            self._inbox.wake()

    # --- the fleet's thread ---

    def _run(self) -> None:
        next_step = 0.0
        while True:
            items = self._inbox.take(max(0.0, min(next_step - time.monotonic(), CHECK_SECONDS)))
            if self._closing:
                break
            now = time.monotonic()
            try:
                next_step = self._step(items, now)
            except EdgeSiameseError as error:
                # A daemon that is starting or embedding views again has no engine for a while, which is normal.
                level = logging.INFO if isinstance(error, ControlError) else logging.WARNING
                self._set_problem(str(error), level)
                next_step = now + RETRY_SECONDS
            except Exception:
                LOG.exception("the fleet failed; retrying")
                next_step = now + 5 * RETRY_SECONDS
            else:
                self._set_problem("")
        self._ledger.close()

    def _step(self, items: list[Item], now: float) -> float:
        """Handle received items and run due work; return the time of the next step."""
        self._check_clock(now)
        try:
            self._handle(items, now)
        except Exception:
            # The remaining items are lost: read everything again before anything is published.
            self._mirror.disconnected()
            self._read_again_at = now + RETRY_SECONDS
            raise
        if not self._transport.connected and self._mirror.complete:
            self._mirror.disconnected()
        self._mirror.tick(now)
        if self._mirror.complete and not self._was_complete:
            self._was_complete = self._stale = True
        is_due = self._store_changed.is_set() or self._stale or now >= self._check_at
        if is_due and now >= self._batch_at:
            self._reconcile(now)
        return min(self._next_step(now), self._read_again_at)

    def _next_step(self, now: float) -> float:
        """Run due work of publisher and fetcher; return the time of the next step."""
        next_step = self._check_at
        if self._store_changed.is_set() or self._stale:
            next_step = max(now, self._batch_at)
        if self._mirror.complete:
            next_step = min(next_step, self._publisher.tick(self._resolved, now), self._fetcher.tick(now))
            if not len(self._publisher) and not self._missing:
                self._synced_at = now
        elif self._transport.connected:
            next_step = min(next_step, now + 1.0)
        return next_step

    def _check_clock(self, now: float) -> None:
        """Read everything again if the clock was set: stamps may have been checked against the wrong time."""
        offset = wall_clock.unix_ms() / 1000 - now
        if abs(offset - self._clock_offset) > wall_clock.SET_SECONDS:
            self._clock_offset = offset
            if self._transport.connected and self._mirror.complete:
                self._read_again_at = now

    def _read_all(self, now: float) -> None:
        """Read everything that the broker retains."""
        self._read_again_at = float("inf")
        self._publisher.restart()
        self._fetcher.restart(now)
        self._mirror.start_reading(now)

    def _handle(self, items: list[Item], now: float) -> None:
        if now >= self._read_again_at:
            self._read_all(now)
        was_complete = self._mirror.complete
        registers: list[Message] = []
        for item in items:
            if isinstance(item, Connected | Overflow):
                registers.clear()
                self._read_all(now)
                was_complete = False
            elif isinstance(item, Subscribed):
                self._mirror.subscription_acknowledged(item.pattern)
            elif item.topic == self._mirror.markers:
                self._mirror.marker_received(item.payload, now)
                self._publisher.marker_received(item.payload)
            elif self._topics.kind(item.topic) in ("objects", "views"):
                registers.append(item)
            else:
                self._handle_message(item, now)
        if registers:
            self._read_registers(registers, now)
        if self._mirror.complete and not was_complete:
            self._publisher.repair(self._mirror.outdated(self._ledger.known), now)
            self._stale = True

    def _handle_message(self, message: Message, now: float) -> None:
        """Handle content or a request."""
        kind, uid = self._topics.kind(message.topic), self._topics.uid(message.topic)
        if kind == "content":
            self._stale |= self._fetcher.receive(message, now)
        elif kind == "requests" and uid is not None:
            try:
                self._publisher.answer(uid, decode_request(message.payload), now)
            except SchemaError as error:
                self._mirror.warn_once(message.topic, error)

    def _read_registers(self, messages: list[Message], now: float) -> None:
        result = self._mirror.read(messages, self._ledger.known, now)
        self._observe_stamps(result.changes)
        if len(result.changes):
            self._ledger.save(result.changes)
            self._stale = True
        self._publisher.confirm(result.in_sync)
        if self._mirror.complete:
            self._publisher.repair(result.outdated, now)

    def _observe_stamps(self, registers: Registers) -> None:
        for part in (registers.objects, registers.views):
            for state in part.values():
                self._clock.observe(state.latest)

    def _reconcile(self, now: float) -> None:
        """Publish local changes, and bring the store in line with the registers.

        Sets `_store_changed` if more work remains.
        """
        was_stale, self._stale = self._stale, True  # until done
        self._store_changed.clear()
        store = self._read_store()
        self._check_at = now + CHECK_SECONDS
        if self._mirror.complete:
            self._save_and_publish(restamp(self._ledger.known, self._clock.next, self._clock.is_ahead), now)
        changes = local_changes(
            store,
            self._ledger.known,
            self._clock.next,
            restored=self._restored,
            complete=self._was_complete,
        )
        self._save_and_publish(changes, now)
        if len(changes) or was_stale:
            self._resolved = resolve(self._ledger.known.objects, self._ledger.known.views)
            self._publisher.update_resolved(self._resolved, now)
        # Before everything was read, objects of the store may be unknown, and names could collide with theirs.
        if self._was_complete:
            updated = self._update_store(store, now)
            if updated is None:
                self._store_changed.set()
                return
            store = updated
        self._ledger.save_observations(*new_observations(store, self._ledger.known), store.revision)
        self._restored = self._stale = False

    def _save_and_publish(self, changes: Registers, now: float) -> None:
        if len(changes):
            self._ledger.save(changes)
            self._publisher.publish_soon(changes.all_keys(), now)

    def _update_store(self, store: Snapshot, now: float) -> Snapshot | None:
        """Bring the store in line with the registers; return its contents, or None if it was changed meanwhile."""
        disk_full = self._check_disk()
        contents = {} if disk_full else self._fetcher.next_batch()
        plan = plan_store_changes(store, self._ledger.known, self._resolved, contents)
        self._missing = len(plan.missing)
        self._fetcher.fetch([] if disk_full else plan.missing, now)
        if len(plan.batch):
            if not self._apply(plan, store, now):
                return None
            store = snapshot_after(store, plan.batch)
        self._fetcher.discard_except(plan.missing)
        if self._fetcher.received and not disk_full:
            self._store_changed.set()
        return store

    def _read_store(self) -> Snapshot:
        """Return the store's contents, which are read only if they have changed."""
        before = self._store_view
        view = self._api.with_engine(lambda engine: _store_view(engine, before))
        if before is None or before.store is not view.store:
            self._restored |= view.store.repair is not None or view.store.lost_changes > 0
        self._restored |= view.snapshot.revision < self._ledger.revision
        self._store_view = view
        return view.snapshot

    def _check_disk(self) -> bool:
        """Return whether the disk is too full for objects of others; publish an event when it becomes full."""
        disk_full = is_nearly_full(self._api.settings.state_directory)
        if disk_full and not self._disk_full:
            self._api.bus.publish(problem_event("fleet", f"fleet {self.collection}: {DISK_FULL}"))
        self._disk_full = disk_full
        return disk_full

    def _apply(self, plan: StorePlan, store: Snapshot, now: float) -> bool:
        """Change the store; return False if it was changed meanwhile."""
        try:
            unembedded = self._api.with_engine(lambda engine: _apply(engine, plan.batch, store))
        except StoreChangedError:
            return False
        self._batch_at = now + MIN_BATCH_SECONDS
        if self._store_view is not None:
            self._store_view = StoreView(snapshot_after(store, plan.batch), self._store_view.store)
        event = change_event(plan.batch, store, self.collection)
        if event is not None:
            self._api.bus.publish(event)
        if unembedded:
            self._api.reembed()
        return True

    def _read_content(self, view: str) -> ViewContent | None:
        return self._api.with_engine(lambda engine: read_content(engine.store, view))

    def _set_problem(self, text: str, level: int = logging.WARNING) -> None:
        if text and text != self._problem:
            LOG.log(level, "the fleet waits: %s", text)
        self._problem = text


# --- the engine's thread ---


def _store_view(engine: Engine, before: StoreView | None) -> StoreView:
    store = engine.store
    if before is not None and before.store is store and before.snapshot.revision == revision(store):
        return before
    return StoreView(read_snapshot(store), store)


def _apply(engine: Engine, batch: Batch, before: Snapshot) -> int:
    """Apply a batch to the store and the engine.

    Returns:
        How many views the model has to embed now.

    Raises:
        StoreChangedError: the store has changed since `before`; nothing was applied.
        StoreError: it cannot be written; nothing was applied.
    """
    unembedded = apply_batch(engine.store, batch, before.revision)
    engine.reload_objects([item.uid for item in batch.objects])
    return unembedded


def change_event(batch: Batch, before: Snapshot, collection: str) -> Event | None:
    """Return an event about the objects that a batch changed; None without a visible change."""
    added: list[ObjectRow] = []
    renamed: list[ObjectRow] = []
    removed: list[ObjectRow] = []
    for item in batch.objects:
        former = before.objects.get(item.uid)
        if item.deleted:
            removed.append(item)
        elif former is None or former.deleted:
            added.append(item)
        else:
            renamed.append(item)
    names = {item.uid: item.name for item in (*before.objects.values(), *batch.objects)}
    touched = {row.owner for row in batch.views} | {new.row.owner for new in batch.new_views}
    touched -= {item.uid for item in (*added, *removed)}
    changed = [uid for uid in sorted(touched) if uid in names]
    parts = [
        *_phrase("added", [item.name for item in added]),
        *_phrase("renamed", [f'{before.objects[item.uid].name}" to "{item.name}' for item in renamed]),
        *_phrase("forgot", [item.name for item in removed]),
        *_phrase("changed views of", [names[uid] for uid in changed]),
    ]
    if not parts:
        return None
    data: dict[str, Any] = {
        "collection": collection,
        "added": [{"uid": item.uid, "name": item.name} for item in added],
        "renamed": [{"uid": item.uid, "name": item.name} for item in renamed],
        "removed": [{"uid": item.uid, "name": item.name} for item in removed],
        "changed": [{"uid": uid, "name": names[uid]} for uid in changed],
    }
    return Event("fleet", f"fleet {collection}: {'; '.join(parts)}", data=data)


def _phrase(verb: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return [f"{verb} " + ", ".join(f'"{name}"' for name in names[:_MAX_NAMES]) + more]
