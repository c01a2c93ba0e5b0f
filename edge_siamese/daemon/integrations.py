"""Opens what people can do without, dashboard, MQTT and metrics, on a thread of its own; recognition never waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from edge_siamese.daemon.api import DaemonApi
from edge_siamese.daemon.sinks import FILE_NAME, read_events
from edge_siamese.errors import EdgeSiameseError
from edge_siamese.events import Event, Kind, trouble
from edge_siamese.settings import Settings

LOG = logging.getLogger(__name__)

RETRY_SECONDS, MAX_RETRY_SECONDS = 5.0, 300.0
"""Between two attempts to open one that failed; doubled each time."""
CLOSE_SECONDS = 2.0
"""For one that new settings turn off, or change."""
REMEMBERED = 5000
"""Events of former daemons that are read, to know when each object was seen last."""


class Integration(Protocol):
    """Something that the daemon offers besides recognizing; all of its work is done on threads of its own."""

    def start(self) -> None:
        """Open it.

        Raises:
            EdgeSiameseError: it cannot be, and why.
        """

    def report(self) -> dict[str, Any]:
        """How it is, as JSON values; `state` is one line for people, and `works` False where it cannot do its work."""

    def close(self, timeout: float) -> None:
        """End it within so many seconds; what does not end is left."""


class Factory(Protocol):
    """Makes an integration from its table of the settings and the daemon's API."""

    def __call__(self, settings: Any, api: DaemonApi) -> Integration:
        """Raises `EdgeSiameseError`: the settings forbid it."""


@dataclass(frozen=True)
class IntegrationSpec:
    """An entry of the registry of integrations."""

    kind: Kind
    """Its name, that of its table in the settings, and the kind of its events."""
    factory: str
    """Where its `Factory` is: MODULE:NAME, imported only when it is turned on."""
    is_on: Callable[[Settings], bool]
    """Whether the settings turn it on."""

    def table(self, settings: Settings) -> Any:
        """Its settings; it is opened again when they change."""
        return getattr(settings, self.kind)

    def make(self, settings: Settings, api: DaemonApi) -> Integration:
        """Import and make it; raises `EdgeSiameseError` or ImportError."""
        module, _, name = self.factory.partition(":")
        factory: Factory = getattr(import_module(module), name)
        return factory(self.table(settings), api)


INTEGRATIONS = (
    IntegrationSpec("dashboard", "edge_siamese.dashboard.server:Dashboard", lambda s: s.dashboard.enabled),
    IntegrationSpec("mqtt", "edge_siamese.mqtt.bridge:Bridge", lambda s: bool(s.mqtt.broker)),
    IntegrationSpec("metrics", "edge_siamese.metrics.exposition:Metrics", lambda s: s.metrics.enabled),
)


class _Slot:
    """The place of one extra: what is wanted of it, and what is there."""

    def __init__(self, offer: IntegrationSpec) -> None:
        self.offer = offer
        self.settings: Settings | None = None
        """With which it is open, or was tried."""
        self.extra: Integration | None = None
        self.fault = ""
        self.retry_at = 0.0
        self.retry_s = RETRY_SECONDS


class Integrations:
    """All of them. With everything off there is no thread, and nothing is imported."""

    def __init__(
        self,
        actions: DaemonApi,
        publish: Callable[[Event], object],
        *,
        offers: tuple[IntegrationSpec, ...] = INTEGRATIONS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is opened before `apply`."""
        self._actions, self._publish, self._clock = actions, publish, clock
        self._slots = [_Slot(offer) for offer in offers]
        self._settings: Settings | None = None
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    def apply(self, settings: Settings) -> None:
        """Open what these settings turn on, close what they turn off, and open anew what they change; does not wait."""
        on = {slot.offer.kind for slot in self._slots if slot.offer.is_on(settings)}
        # People look at decisions on the page, and are sent them; at the frames of a registration on the page alone.
        self._actions.decisions.wanted = bool(on & {"dashboard", "mqtt"})
        self._actions.registrations.wanted = "dashboard" in on
        with self._changed:
            self._settings = settings
            if self._thread is None and on:
                self._thread = threading.Thread(target=self._run, name="extras", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def report(self) -> dict[str, Any]:
        """How each one is that is turned on."""
        found: dict[str, Any] = {}
        for slot in self._slots:
            if (extra := slot.extra) is not None:
                found[slot.offer.kind] = {"works": True, **extra.report()}
            elif self._settings is not None and slot.offer.is_on(self._settings):
                found[slot.offer.kind] = {"state": slot.fault or "starting", "works": False}
        return found

    def close(self, timeout: float) -> None:
        """End all of them at the same time, within about so many seconds."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            # One that is being opened just now holds the others up for no longer than this.
            self._thread.join(timeout / 2)
        ends = [
            threading.Thread(target=_close, args=(slot, deadline - time.monotonic()), daemon=True)
            for slot in self._slots
            if slot.extra is not None
        ]
        for end in ends:
            end.start()
        for end in ends:
            end.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        self._remember()
        while not self._closing:
            settings = self._settings
            assert settings is not None
            for slot in self._slots:
                self._attend(slot, settings)
            with self._changed:
                # Told again while it was at work, it goes on at once.
                if not self._closing and self._settings is settings:
                    self._changed.wait(self._pause())

    def _pause(self) -> float | None:
        """Seconds until the next attempt; None if nothing is to be attempted."""
        failed = [slot.retry_at for slot in self._slots if slot.fault]
        return max(0.0, min(failed) - self._clock()) if failed else None

    def _attend(self, slot: _Slot, settings: Settings) -> None:
        """Bring one extra to where the settings want it."""
        offer, before = slot.offer, slot.settings
        same = before is not None and offer.table(before) == offer.table(settings)
        if slot.extra is not None and not (same and offer.is_on(settings)):
            _close(slot, CLOSE_SECONDS)
        if not same:
            slot.fault, slot.retry_s, slot.retry_at = "", RETRY_SECONDS, 0.0
        slot.settings = settings
        if not offer.is_on(settings):
            slot.fault = ""
        elif slot.extra is None and self._clock() >= slot.retry_at and not self._closing:
            self._open(slot, settings)

    def _open(self, slot: _Slot, settings: Settings) -> None:
        kind, problem = slot.offer.kind, ""
        extra: Integration | None = None
        try:
            extra = slot.offer.make(settings, self._actions)
            extra.start()
        except ImportError as error:
            problem = (
                f"it needs the package {error.name}, which is not installed: install edge-siamese anew, or in an "
                f"environment of your own: pip install 'edge-siamese[{kind}]'"
            )
        except (EdgeSiameseError, OSError) as error:
            problem = str(error)
        except Exception as error:
            LOG.exception("the %s cannot be opened", kind)
            problem = f"{type(error).__name__}: {error}"
        if problem:
            if problem != slot.fault:
                self._publish(trouble(kind, f"no {kind}: {problem}", "error"))
            slot.fault = problem
            slot.retry_at = self._clock() + slot.retry_s
            slot.retry_s = min(2 * slot.retry_s, MAX_RETRY_SECONDS)
            return
        assert extra is not None
        slot.extra, slot.fault, slot.retry_s = extra, "", RETRY_SECONDS
        self._publish(Event(kind, f"{kind}: {extra.report().get('state', 'on')}"))

    def _remember(self) -> None:
        """When objects were seen, as far as the file of events tells."""
        path = self._actions.settings.state_directory / FILE_NAME
        try:
            for event in reversed(read_events(path, REMEMBERED)):
                if event["kind"] in ("appeared", "seen", "left") and isinstance(event.get("uid"), str):
                    self._actions.telemetry.remember_seen(event["uid"], str(event.get("time", "")))
        except OSError as error:
            LOG.debug("%s cannot be read: %s", path, error)


def _close(slot: _Slot, timeout: float) -> None:
    extra, slot.extra = slot.extra, None
    if extra is None:
        return
    try:
        extra.close(max(0.1, timeout))
    except Exception:
        LOG.exception("the %s did not end as it should", slot.offer.kind)
