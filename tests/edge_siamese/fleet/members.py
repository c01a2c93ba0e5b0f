"""Devices of a fleet for tests: a real store on its own thread, without a camera."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from edge_siamese.daemon.event_bus import EventBus
from edge_siamese.errors import SupportError
from edge_siamese.events import Event
from edge_siamese.fleet import Fleet
from edge_siamese.fleet.fake_broker import FakeBroker, FakeTransport
from edge_siamese.store import SupportStore
from edge_siamese.store.replication import revision
from tests.edge_siamese.store.samples import DIMENSIONS, MODEL, view

COLLECTION = "home"
CurrentView = dict[str, tuple[str, tuple[str, ...]]]


def until(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Wait for what another thread does; what the condition gave."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
    return found


class Member:
    """One device: what the daemon is to the fleet."""

    def __init__(
        self,
        home: Path,
        device: str,
        broker: FakeBroker,
        *,
        model_id: str = MODEL,
        keep_crops: bool = True,
    ) -> None:
        self.home, self.device, self.broker = home, device, broker
        self.model_id, self.keep_crops = model_id, keep_crops
        self.bus = EventBus()
        self.settings = SimpleNamespace(state_directory=home)
        self.reloaded: list[list[str]] = []
        """The objects that were passed to the engine, by batch."""
        self.relearned = 0
        self.transport: FakeTransport
        self.fleet: Fleet
        self._thread: ThreadPoolExecutor
        self._engine: Any = None

    # --- what the fleet asks of `Actions` ---

    def with_engine(self, function: Callable[[Any], Any]) -> Any:
        return self._thread.submit(lambda: function(self._engine)).result(20)

    def reembed(self) -> None:
        self.relearned += 1

    # --- what tests do ---

    def start(self) -> Member:
        """Turn the device on."""
        self._thread = ThreadPoolExecutor(1)
        self._thread.submit(self._open).result(20)
        self.transport = self.broker.transport()
        actions: Any = self
        self.fleet = Fleet(COLLECTION, "edge-siamese", self.device, actions, self.transport)
        self.fleet.start()
        return self

    def _open(self) -> None:
        store = SupportStore(self.home / "objects.db", self.model_id, DIMENSIONS, keep_crops=self.keep_crops)
        self._engine = SimpleNamespace(store=store, reload_objects=self.reloaded.append)

    def stop(self) -> None:
        """Turn it off."""
        self.fleet.close(5)
        self.transport.disconnect()
        self._thread.submit(self._engine.store.close).result(20)
        self._thread.shutdown()

    def do(self, function: Callable[[SupportStore], Any], kind: Any = "registered") -> Any:
        """Change the store, and publish an event as the engine does."""
        found = self.with_engine(lambda engine: function(engine.store))
        self.bus.publish(Event(kind, "changed"))
        return found

    def learn(self, name: str, number: int, crops: int = 1) -> str:
        """Register an object; its uid."""
        uid: str = self.do(lambda store: store.register(name, view(number, crops))).uid
        return uid

    def shown(self) -> CurrentView:
        """uid: name and views of all objects."""

        def read(engine: Any) -> CurrentView:
            store = engine.store
            return {
                item.uid: (item.name, tuple(sorted(f"{v.kind} {v.uid}" for v in store.views(item.uid))))
                for item in store.objects()
            }

        found: CurrentView = self.with_engine(read)
        return found

    @property
    def names(self) -> list[str]:
        return sorted(name for name, _ in self.shown().values())

    def events(self) -> list[Event]:
        return [event for event in self.bus.latest(500) if event.kind == "fleet"]

    def idle(self) -> bool:
        """Whether all changes were read, and nothing is left to publish or to fetch."""
        if self.with_engine(lambda engine: revision(engine.store)) != self.fleet._ledger.revision:
            return False
        report = self.fleet.report()
        return report["state"] == "connected" and not (report["to_publish"] or report["to_fetch"])


@contextmanager
def members(
    tmp_path: Path, count: int = 2, broker: FakeBroker | None = None, **options: Any
) -> Iterator[list[Member]]:
    """Devices that are on and have read all that the broker keeps."""
    broker = broker or FakeBroker()
    found = []
    for number in range(count):
        home = tmp_path / f"device-{number}"
        home.mkdir(parents=True)
        found.append(Member(home, f"device-{number}", broker, **options).start())
    try:
        until(lambda: all(member.idle() for member in found))
        yield found
    finally:
        for member in found:
            if member.fleet._thread.is_alive():
                member.stop()


def alike(found: list[Member]) -> bool:
    """Whether all are at rest and show the same."""
    if not all(member.idle() for member in found):
        return False
    first, *others = (member.shown() for member in found)
    return all(other == first for other in others)


def act(member: Member, chance: random.Random, number: int) -> str:
    """Something that a person might do at a device; what it was. Nothing where it cannot be."""

    def change(store: SupportStore) -> str:
        objects = store.objects()
        what = chance.choice(
            [
                "register",
                "register",
                "view",
                "view",
                "negative",
                "rename",
                "forget",
                "undo",
                "merge",
                "remove",
            ]
        )
        if what == "register" or not objects:
            store.register(chance.choice([None, f"thing {number % 7}"]), view(number, 1))
            return "registered"
        one, other = chance.choice(objects), chance.choice(objects)
        if what == "view":
            store.add_view(one.uid, view(number, 1))
        elif what == "negative":
            store.add_negative(one.uid, view(number, 0))
        elif what == "rename":
            store.rename(one.uid, f"thing {chance.randrange(7)}")
        elif what == "forget":
            store.forget(one.uid)
        elif what == "undo":
            store.undo(chance.random() < 0.5)
        elif what == "merge":
            store.merge(one.uid, other.uid)
        else:
            store.remove_view(one.uid, chance.choice(store.views(one.uid)).id)
        return what

    try:
        found: str = member.do(change)
    except SupportError as error:  # the name is taken, the view is the only one
        return str(error)
    return found
