"""The event bus: keeps recent events, and passes them to listeners, subscribers and sinks. Publishing never blocks."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from edge_siamese.events import Event

MAX_RECENT_EVENTS = 500
SUBSCRIBER_QUEUE = 200
SINK_QUEUE = 1000
CLOSE_SECONDS = 1.0

LOG = logging.getLogger(__name__)


class Sink(Protocol):
    """A destination of events. Called from one thread, except for `interrupt`."""

    name: str
    queue: int
    """Events that may wait; beyond that the oldest are dropped, which is logged."""

    def take(self, event: Event) -> None:
        """Process an event; may block.

        Raises:
            OSError: it failed, which is logged; the next event is tried.
        """

    def interrupt(self) -> None:
        """Make a blocked `take` return; from another thread."""

    def close(self) -> None:
        """Flush, and release all resources."""


class ProblemLog:
    """Logs a problem once, until it changes or is resolved."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._reported = ""

    def report(self, text: str) -> None:
        """Log a problem, unless it is the last one logged."""
        if text != self._reported:
            self._log.warning("%s", text)
        self._reported = text

    def resolve(self, text: str) -> None:
        """Log that the problem is resolved, if there was one."""
        if self._reported:
            self._log.info("%s", text)
        self._reported = ""


class Subscription:
    """A queue of events for one reader. A slow reader loses the oldest events, and `get` reports their number."""

    def __init__(self, size: int) -> None:
        self._events: deque[Event] = deque(maxlen=size)
        self._changed = threading.Condition()
        self._lost = 0
        self._closed = self._woken = False

    @property
    def closed(self) -> bool:
        """Whether no more events will come."""
        return self._closed

    def get(self, timeout: float) -> tuple[list[Event], int]:
        """Return the events since the last call and the number lost before them; waits up to `timeout` seconds for one."""
        with self._changed:
            self._changed.wait_for(lambda: self._events or self._closed or self._woken, timeout)
            events, lost = list(self._events), self._lost
            self._events.clear()
            self._lost, self._woken = 0, False
            return events, lost

    def wake(self) -> None:
        """Make the current or next `get` return without an event."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def put(self, event: Event) -> None:
        """Add an event; never blocks."""
        with self._changed:
            self._lost += len(self._events) == self._events.maxlen
            self._events.append(event)
            self._changed.notify_all()

    def close(self) -> None:
        """Accept no more events; those in the queue can still be read."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class _SinkThread:
    """The thread and the queue of a sink."""

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
        """Process what is queued, until `deadline` on the monotonic clock."""
        self._deadline = deadline
        self._waiting.close()

    def join(self) -> None:
        """Wait until the deadline, then interrupt the sink."""
        if self._thread.ident is None:  # not started: the previous sinks are still closing
            return
        self._thread.join(max(0.0, self._deadline - time.monotonic()))
        if self._thread.is_alive():
            self.sink.interrupt()
            self._thread.join(0.2)
        if self._thread.is_alive():
            LOG.warning("the %s does not stop in time; abandoning it", self.sink.name)

    def _run(self) -> None:
        while not self._waiting.closed:
            self._take(*self._waiting.get(60))
        self._take(*self._waiting.get(0))
        try:
            self.sink.close()
        except Exception:
            LOG.exception("the %s failed to close", self.sink.name)

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
    """The bus on which the daemon publishes events; used from any thread."""

    def __init__(self, sinks: Iterable[Sink] = (), *, ring: int = MAX_RECENT_EVENTS) -> None:
        self._ring: deque[Event] = deque(maxlen=ring)
        self._subscribers: list[Subscription] = []
        self._listeners: list[Callable[[Event], object]] = []
        self._changing = threading.Lock()
        self._closed = False
        self._switch: threading.Thread | None = None
        self._sink_threads = _started([_SinkThread(sink) for sink in sinks])

    def publish(self, event: Event) -> None:
        """Publish an event; never blocks. After `close` it is dropped."""
        with self._changing:
            if self._closed:
                return
            self._ring.append(event)
            for listener in self._listeners:
                try:
                    listener(event)
                except Exception:
                    LOG.exception("an event could not be passed on")
            for subscriber in self._subscribers:
                subscriber.put(event)
            for thread in self._sink_threads:
                thread.put(event)

    def listen(self, listener: Callable[[Event], object]) -> None:
        """Call a function with each event, inside `publish`: it must be quick, and neither raise nor publish."""
        with self._changing:
            self._listeners.append(listener)

    def unlisten(self, listener: Callable[[Event], object]) -> None:
        """Stop calling a listener."""
        with self._changing:
            if listener in self._listeners:
                self._listeners.remove(listener)

    def latest(self, count: int) -> list[Event]:
        """Return the last `count` events, oldest first."""
        with self._changing:
            return list(self._ring)[-count:] if count > 0 else []

    def subscribe(self, replay: int = 0, size: int = SUBSCRIBER_QUEUE) -> Subscription:
        """Subscribe to events from now on, preceded by the last `replay` ones."""
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
        """End a subscription."""
        with self._changing:
            if subscriber in self._subscribers:
                self._subscribers.remove(subscriber)

    def set_sinks(self, sinks: Iterable[Sink], timeout: float = CLOSE_SECONDS) -> None:
        """Replace the sinks without blocking. The previous ones are closed first; new events wait for the new sinks."""
        new = [_SinkThread(sink) for sink in sinks]
        with self._changing:
            old, self._sink_threads = self._sink_threads, new
            before = self._switch
            self._switch = threading.Thread(target=_switch, args=(before, old, timeout, new), daemon=True)
            self._switch.start()

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """Let sinks process their queues for about `timeout` seconds, then close them and all subscriptions."""
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
