"""The optional integrations, dashboard, MQTT and metrics: opened on a thread of their own, so recognition never waits."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from edge_siamese.daemon.api import DaemonApi
from edge_siamese.daemon.sinks import FILE_NAME, read_events
from edge_siamese.errors import EdgeSiameseError, describe_error
from edge_siamese.events import Event, Kind, problem_event
from edge_siamese.settings import Settings

LOG = logging.getLogger(__name__)

RETRY_SECONDS, MAX_RETRY_SECONDS = 5.0, 300.0
"""Pause between two attempts to open a failed integration; doubled each time."""
CLOSE_SECONDS = 2.0
"""Time limit for closing an integration that new settings turn off or change."""
MAX_PAST_EVENTS = 5000
"""Maximum number of past events to read from the event file, to restore when each object was last seen."""


class Integration(Protocol):
    """An optional service of the daemon; works in its own threads."""

    def start(self) -> None:
        """Start it.

        Raises:
            EdgeSiameseError: why it cannot start.
        """

    def report(self) -> dict[str, Any]:
        """Describe its state as JSON values: `state` is a human-readable line, `works` is False if it is not working."""

    def close(self, timeout: float) -> None:
        """Stop it within `timeout` seconds; a thread that does not stop is abandoned."""


class Factory(Protocol):
    """Creates an integration from its table of the settings and the daemon's API."""

    def __call__(self, settings: Any, api: DaemonApi) -> Integration:
        """Raises `EdgeSiameseError`: the settings forbid it."""

    def check(self, settings: Any, state_directory: Path, *, listen: bool) -> None:
        """Raise the error with which `start` would fail; `listen`: whether to try the port as well."""


@dataclass(frozen=True)
class IntegrationSpec:
    """An entry of the registry of integrations."""

    kind: Kind
    """Its name, that of its table in the settings, and the kind of its events."""
    factory: str
    """Its `Factory` as MODULE:NAME, imported only when it is turned on."""
    is_on: Callable[[Settings], bool]
    """Whether the settings turn it on."""

    def table(self, settings: Settings) -> Any:
        """Return its settings; when they change, it is reopened."""
        return getattr(settings, self.kind)

    def load(self) -> Factory:
        """Import its factory; raises ImportError."""
        module, _, name = self.factory.partition(":")
        factory: Factory = getattr(import_module(module), name)
        return factory

    def make(self, settings: Settings, api: DaemonApi) -> Integration:
        """Import and create it; raises `EdgeSiameseError` or ImportError."""
        return self.load()(self.table(settings), api)


INTEGRATIONS = (
    IntegrationSpec("dashboard", "edge_siamese.dashboard.server:Dashboard", lambda s: s.dashboard.enabled),
    IntegrationSpec("mqtt", "edge_siamese.mqtt.bridge:Bridge", lambda s: bool(s.mqtt.broker)),
    IntegrationSpec("metrics", "edge_siamese.metrics.exposition:Metrics", lambda s: s.metrics.enabled),
)


class _Slot:
    """An integration of the registry: its settings and its instance, if it is open."""

    def __init__(self, spec: IntegrationSpec) -> None:
        self.spec = spec
        self.settings: Settings | None = None
        """The settings with which it was opened or tried."""
        self.instance: Integration | None = None
        self.fault = ""
        self.retry_at = 0.0
        self.retry_s = RETRY_SECONDS


class Integrations:
    """All integrations. If none is turned on, no thread runs and nothing is imported."""

    def __init__(
        self,
        api: DaemonApi,
        publish: Callable[[Event], object],
        *,
        specs: tuple[IntegrationSpec, ...] = INTEGRATIONS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with all integrations closed; `apply` opens them."""
        self._api, self._publish, self._clock = api, publish, clock
        self._slots = [_Slot(spec) for spec in specs]
        self._settings: Settings | None = None
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    def apply(self, settings: Settings) -> None:
        """Open what settings turn on, close what they turn off, and reopen what they change; does not block."""
        on = {slot.spec.kind for slot in self._slots if slot.spec.is_on(settings)}
        # Dashboard and MQTT show decisions; the dashboard alone shows the frames of a registration.
        self._api.decisions.enabled = bool(on & {"dashboard", "mqtt"})
        self._api.registrations.enabled = "dashboard" in on
        with self._changed:
            self._settings = settings
            if self._thread is None and on:
                self._thread = threading.Thread(target=self._run, name="integrations", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def report(self) -> dict[str, Any]:
        """Describe the state of each integration that is turned on."""
        reports: dict[str, Any] = {}
        for slot in self._slots:
            if (instance := slot.instance) is not None:
                reports[slot.spec.kind] = {"works": True, **_report(instance)}
            elif self._settings is not None and slot.spec.is_on(self._settings):
                reports[slot.spec.kind] = {"state": slot.fault or "starting", "works": False}
        return reports

    def close(self, timeout: float) -> None:
        """Close all of them at the same time, within about `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            # An integration that is being opened delays the others for at most this long.
            self._thread.join(timeout / 2)
        ends = [
            threading.Thread(target=_close, args=(slot, deadline - time.monotonic()), daemon=True)
            for slot in self._slots
            if slot.instance is not None
        ]
        for end in ends:
            end.start()
        for end in ends:
            end.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        self._restore_last_seen()
        while not self._closing:
            settings = self._settings
            assert settings is not None
            for slot in self._slots:
                self._update(slot, settings)
            with self._changed:
                # New settings arrived meanwhile: continue immediately.
                if not self._closing and self._settings is settings:
                    self._changed.wait(self._pause())

    def _pause(self) -> float | None:
        """Return the seconds until the next attempt, or None if there is none to make."""
        failed = [slot.retry_at for slot in self._slots if slot.fault]
        return max(0.0, min(failed) - self._clock()) if failed else None

    def _update(self, slot: _Slot, settings: Settings) -> None:
        """Open or close an integration as the settings say."""
        spec, before = slot.spec, slot.settings
        same = before is not None and spec.table(before) == spec.table(settings)
        if slot.instance is not None and not (same and spec.is_on(settings)):
            _close(slot, CLOSE_SECONDS)
        if not same:
            slot.fault, slot.retry_s, slot.retry_at = "", RETRY_SECONDS, 0.0
        slot.settings = settings
        if not spec.is_on(settings):
            slot.fault = ""
        elif slot.instance is None and self._clock() >= slot.retry_at and not self._closing:
            self._open(slot, settings)

    def _open(self, slot: _Slot, settings: Settings) -> None:
        kind, problem = slot.spec.kind, ""
        instance: Integration | None = None
        try:
            instance = slot.spec.make(settings, self._api)
            instance.start()
        except Exception as error:
            if not isinstance(error, (EdgeSiameseError, OSError, ImportError)):
                LOG.exception("the %s cannot be opened", kind)
            problem = problem_of(kind, error)
        if problem:
            if problem != slot.fault:
                self._publish(problem_event(kind, f"no {kind}: {problem}", "error"))
            slot.fault = problem
            slot.retry_at = self._clock() + slot.retry_s
            slot.retry_s = min(2 * slot.retry_s, MAX_RETRY_SECONDS)
            return
        assert instance is not None
        slot.instance, slot.fault, slot.retry_s = instance, "", RETRY_SECONDS
        self._publish(Event(kind, f"{kind}: {_report(instance).get('state', 'on')}"))

    def _restore_last_seen(self) -> None:
        """Restore when objects were seen last, from the event file."""
        path = self._api.settings.state_directory / FILE_NAME
        try:
            for event in reversed(read_events(path, MAX_PAST_EVENTS)):
                if event["kind"] in ("appeared", "seen", "left") and isinstance(event.get("uid"), str):
                    self._api.telemetry.remember_seen(event["uid"], str(event.get("time", "")))
        except Exception as error:
            LOG.debug("%s cannot be read: %s", path, error)


def _report(instance: Integration) -> dict[str, Any]:
    """Return the report of an integration; one that cannot report does not work."""
    try:
        return instance.report()
    except Exception as error:
        LOG.debug("no report", exc_info=True)
        return {"works": False, "state": describe_error(error)}


def problem_of(kind: Kind, error: Exception) -> str:
    """Describe why an integration cannot be opened."""
    if isinstance(error, ImportError) and not isinstance(error, EdgeSiameseError):
        return (
            f"it needs the package {error.name}, which is not installed: reinstall edge-siamese, or in your own "
            f"environment: pip install 'edge-siamese[{kind}]'"
        )
    return str(error) if isinstance(error, OSError) else describe_error(error)


def _close(slot: _Slot, timeout: float) -> None:
    instance, slot.instance = slot.instance, None
    if instance is None:
        return
    try:
        instance.close(max(0.1, timeout))
    except Exception:
        LOG.exception("the %s failed to close", slot.spec.kind)
