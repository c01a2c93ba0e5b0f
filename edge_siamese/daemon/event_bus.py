"""Hands events on: to a ring of the last ones, to subscribers, and to sinks; who publishes never waits."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from edge_siamese.events import Event

RING = 500
SUBSCRIBER_QUEUE = 200
SINK_QUEUE = 1000
CLOSE_SECONDS = 1.0

LOG = logging.getLogger(__name__)


class Sink(Protocol):
    """Where events go; called from one thread, but for `interrupt`."""

    name: str
    queue: int
    """Events that may wait for it; beyond that the oldest are lost, which is logged."""

    def take(self, event: Event) -> None:
        """Do something with an event; may take a while.

        Raises:
            OSError: it cannot now; it is logged, and the next event is tried.
        """

    def interrupt(self) -> None:
        """End a `take` that takes a while; from another thread."""

    def close(self) -> None:
        """Keep what was taken, and let everything go."""


class ProblemLog:
    """Says a trouble once, until it is another one or over."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._reported = ""

    def report(self, text: str) -> None:
        """There is trouble."""
        if text != self._reported:
            self._log.warning("%s", text)
        self._reported = text

    def resolve(self, text: str) -> None:
        """There is none now; said if there was one."""
        if self._reported:
            self._log.info("%s", text)
        self._reported = ""


class Subscription:
    """Events for one listener; a slow one loses the oldest, and learns how many."""

    def __init__(self, size: int) -> None:
        self._events: deque[Event] = deque(maxlen=size)
        self._changed = threading.Condition()
        self._lost = 0
        self._closed = self._woken = False

    @property
    def closed(self) -> bool:
        """Whether no more will come."""
        return self._closed

    def get(self, timeout: float) -> tuple[list[Event], int]:
        """The events since the last call, waiting for the first one at most `timeout` seconds, and how many were lost
        before them."""
        with self._changed:
            self._changed.wait_for(lambda: self._events or self._closed or self._woken, timeout)
            events, lost = list(self._events), self._lost
            self._events.clear()
            self._lost, self._woken = 0, False
            return events, lost

    def wake(self) -> None:
        """Have `get` return, now or when it is called next, though no event came: its listener has other things to do."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def put(self, event: Event) -> None:
        """One more; never waits."""
        with self._changed:
            self._lost += len(self._events) == self._events.maxlen
            self._events.append(event)
            self._changed.notify_all()

    def close(self) -> None:
        """No more will come; what is there can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class _SinkThread:
    """A sink's thread, and the events that wait for it."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self._waiting = Subscription(sink.queue)
        self._problems = ProblemLog(LOG)
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._run, name=f"sink-{sink.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, event: Event) -> None:
        self._waiting.put(event)

    def end(self, deadline: float) -> None:
        """Take what waits, until `deadline` of the monotonic clock."""
        self._deadline = deadline
        self._waiting.close()

    def join(self) -> None:
        """Wait for the deadline at most, and a moment for a sink that is interrupted then."""
        if self._thread.ident is None:  # the sinks before do not end
            return
        self._thread.join(max(0.0, self._deadline - time.monotonic()))
        if self._thread.is_alive():
            self.sink.interrupt()
            self._thread.join(0.2)
        if self._thread.is_alive():
            LOG.warning("the %s takes too long, and is left", self.sink.name)

    def _run(self) -> None:
        while not self._waiting.closed:
            self._take(*self._waiting.get(60))
        self._take(*self._waiting.get(0))
        self.sink.close()

    def _take(self, events: list[Event], lost: int) -> None:
        if lost:
            LOG.warning("the %s is too slow: %d events were lost", self.sink.name, lost)
        for number, event in enumerate(events):
            if time.monotonic() > self._deadline:
                LOG.warning(
                    "the %s is too slow: %d events were lost at the end", self.sink.name, len(events) - number
                )
                return
            try:
                self.sink.take(event)
            except OSError as error:
                self._problems.report(f"the {self.sink.name} fails: {error.strerror or error}")
            except Exception:
                LOG.exception("the %s failed", self.sink.name)
            else:
                self._problems.resolve(f"the {self.sink.name} works again")


class EventBus:
    """Where the daemon publishes what happens; used from any thread."""

    def __init__(self, sinks: Iterable[Sink] = (), *, ring: int = RING) -> None:
        self._ring: deque[Event] = deque(maxlen=ring)
        self._subscribers: list[Subscription] = []
        self._listeners: list[Callable[[Event], object]] = []
        self._changing = threading.Lock()
        self._closed = False
        self._switch: threading.Thread | None = None
        self._sink_threads = _started([_SinkThread(sink) for sink in sinks])

    def publish(self, event: Event) -> None:
        """Hand an event on; never waits for anyone. After `close` it goes nowhere."""
        with self._changing:
            if self._closed:
                return
            self._ring.append(event)
            for listener in self._listeners:
                listener(event)
            for subscriber in self._subscribers:
                subscriber.put(event)
            for thread in self._sink_threads:
                thread.put(event)

    def listen(self, listener: Callable[[Event], object]) -> None:
        """Call a function with each event, amid `publish`: it has to be quick, must not raise, and may not publish."""
        with self._changing:
            self._listeners.append(listener)

    def unlisten(self, listener: Callable[[Event], object]) -> None:
        """Call it no more."""
        with self._changing:
            if listener in self._listeners:
                self._listeners.remove(listener)

    def latest(self, count: int) -> list[Event]:
        """The last events, at most `count` of them, the oldest first."""
        with self._changing:
            return list(self._ring)[-count:] if count > 0 else []

    def subscribe(self, replay: int = 0, size: int = SUBSCRIBER_QUEUE) -> Subscription:
        """Events from now on, after the last `replay` ones."""
        subscriber = Subscription(size)
        with self._changing:
            for event in list(self._ring)[-replay:] if replay > 0 else []:
                subscriber.put(event)
            if self._closed:
                subscriber.close()
            else:
                self._subscribers.append(subscriber)
        return subscriber

    def unsubscribe(self, subscriber: Subscription) -> None:
        """The listener has gone."""
        with self._changing:
            if subscriber in self._subscribers:
                self._subscribers.remove(subscriber)

    def set_sinks(self, sinks: Iterable[Sink], timeout: float = CLOSE_SECONDS) -> None:
        """Hand events to these sinks from now on; does not wait for those before, which are closed first.

        What is published meanwhile waits for the new ones.
        """
        new = [_SinkThread(sink) for sink in sinks]
        with self._changing:
            old, self._sink_threads = self._sink_threads, new
            before = self._switch
            self._switch = threading.Thread(target=_switch, args=(before, old, timeout, new), daemon=True)
            self._switch.start()

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """Let sinks take what waits, for at most about `timeout` seconds, and close them; subscribers see the end."""
        deadline = time.monotonic() + timeout
        with self._changing:
            self._closed = True
            subscribers, self._subscribers = self._subscribers, []
            threads, self._sink_threads = self._sink_threads, []
        for subscriber in subscribers:
            subscriber.close()
        if self._switch is not None:
            self._switch.join(timeout)
        _end(threads, deadline)


def _switch(
    before: threading.Thread | None, old: list[_SinkThread], timeout: float, new: list[_SinkThread]
) -> None:
    if before is not None:
        before.join()
    _end(old, time.monotonic() + timeout)
    _started(new)


def _started(threads: list[_SinkThread]) -> list[_SinkThread]:
    for thread in threads:
        thread.start()
    return threads


def _end(threads: list[_SinkThread], deadline: float) -> None:
    for thread in threads:
        thread.end(deadline)
    for thread in threads:
        thread.join()
