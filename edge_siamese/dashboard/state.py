"""What all operations of the dashboard share: the daemon's actions, the guard, and what is kept between requests."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from edge_siamese.daemon.actions import Actions
from edge_siamese.dashboard.auth import Authenticator
from edge_siamese.dashboard.credentials import CredentialsFile
from edge_siamese.dashboard.doctor_run import Examination
from edge_siamese.dashboard.event_feed import Feed
from edge_siamese.dashboard.event_stream import Reports
from edge_siamese.dashboard.exchange import Problem, to_json
from edge_siamese.dashboard.live_picture import Live
from edge_siamese.dashboard.notifier import Notifier
from edge_siamese.dashboard.uploads import Uploads
from edge_siamese.errors import (
    ControlError,
    EdgeSiameseError,
    ImageError,
    NoSuchObject,
    NotReady,
    Refused,
    StoreError,
    SupportError,
)
from edge_siamese.settings import DashboardSettings
from edge_siamese.store import StoredObject
from edge_siamese.system.hostname import device_name
from edge_siamese.validation import SchemaError

T = TypeVar("T")

THREADS = 4
STATIC = Path(__file__).parent / "static"


class AppState:
    """One dashboard; handlers on any thread use it."""

    def __init__(
        self, settings: DashboardSettings, actions: Actions, *, guard: Authenticator | None = None
    ) -> None:
        """Nothing is opened.

        Args:
            settings: of the dashboard.
            actions: of the daemon.
            guard: another one than the settings make.
        """
        self.settings, self.actions = settings, actions
        self.guard = guard or Authenticator(settings, CredentialsFile(actions.settings.state_directory))
        self.uploads = Uploads()
        self.feed = Feed(actions)
        self.pulse = Notifier()
        self.live = Live(settings, actions, self.pulse)
        self.examination = Examination(actions.config)
        self.selftests: dict[tuple[str, str, str], dict[str, Any]] = {}
        """What the model's self-test found, by model, runtime and precision; for the engine's thread."""
        self.reports = Reports(actions)
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="dashboard")
        """Where handlers run: what they ask of the daemon takes as long as it takes."""
        self.porter = ThreadPoolExecutor(1, thread_name_prefix="dashboard-door")
        """Where those run that need no login: strangers have one thread, and nobody else waits for it."""
        self.painter = ThreadPoolExecutor(1, thread_name_prefix="dashboard-picture")
        """Where live pictures are made, so that nothing else delays them."""
        self.exporting = threading.Lock()
        """Held from when a collection is written until it is sent."""
        self.streams = 0
        """How many are open; for the loop's thread alone."""

    @property
    def device(self) -> str:
        """What people call this machine."""
        return device_name(self.actions.settings.mqtt.device_name)

    @cached_property
    def description(self) -> bytes:
        """The operations, as OpenAPI describes them; made once, for it takes a while and anybody may ask for it."""
        from edge_siamese.dashboard.openapi import describe

        return to_json(describe(self.device, self.guard.cookie_name))

    def open(self) -> None:
        """Begin to listen."""
        self.feed.open()

    def close(self) -> None:
        """End all that waits; from any thread."""
        self.pulse.close()
        self.feed.close()
        self.examination.close()
        self.pool.shutdown(wait=False, cancel_futures=True)
        self.porter.shutdown(wait=False, cancel_futures=True)
        self.painter.shutdown(wait=False, cancel_futures=True)

    def object_data(self, known: StoredObject) -> dict[str, Any]:
        """An object, as JSON values."""
        shown = self.actions.shown()
        present = () if shown is None else tuple(sighting.uid for sighting in shown.present)
        return {
            "uid": known.uid,
            "name": known.name,
            "created": known.created,
            "views": known.views,
            "negatives": known.negatives,
            "embedded": known.embedded,
            "last_view": known.last_view,
            "last_seen": self.actions.telemetry.last_seen().get(known.uid),
            "present": known.uid in present,
        }


def asked(function: Callable[[], T], *, missing: bool = False) -> T:
    """Do what was asked for, with errors as answers.

    Args:
        function: asks the daemon.
        missing: whether a name or number that is not there is the address itself: 404, not 422.

    Raises:
        Problem: what was wrong.
    """
    try:
        return function()
    except Problem:
        raise
    except EdgeSiameseError as error:
        raise problem(error, missing=missing) from error


def problem(error: EdgeSiameseError, *, missing: bool = False) -> Problem:
    """The answer to an error."""
    kind, status = type(error).__name__, 500
    if isinstance(error, Refused):
        status = 409
    elif isinstance(error, ControlError):
        # That it cannot recognize now, or ends, is nothing that a request could do about.
        status = 503 if isinstance(error, NotReady) else 409
    elif isinstance(error, SupportError):
        status = 404 if missing and isinstance(error, NoSuchObject) else 409
    elif isinstance(error, (ImageError, SchemaError)):
        status = 422
    elif isinstance(error, StoreError):
        status = 503
    headers = {"Retry-After": "2"} if status == 503 else {}
    return Problem(status, str(error), kind, headers=headers)
