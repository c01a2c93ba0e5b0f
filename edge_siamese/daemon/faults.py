"""Error handling of the daemon: logs and reports each error once, and quarantines what makes frames fail repeatedly."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from edge_siamese.cameras.camera import Frame
from edge_siamese.daemon.engine import Engine
from edge_siamese.daemon.failure_cause import find_cause
from edge_siamese.daemon.model_loader import LoadedModel
from edge_siamese.daemon.quarantine import (
    Fallback,
    Part,
    Quarantine,
    StartCounter,
    model_part,
    settings_part,
)
from edge_siamese.errors import EdgeSiameseError, describe_error
from edge_siamese.events import Event, Kind, problem_event
from edge_siamese.models import default
from edge_siamese.models.installed import InstalledModels
from edge_siamese.settings import Settings, without_recognition_settings

LOG = logging.getLogger(__name__)
T = TypeVar("T")

FAILED_FRAMES, FAILED_SECONDS = 5, 2.0
"""After this many failed frames in a row, over at least this time, the failing part is searched for."""
HEALTHY_FRAMES, HEALTHY_SECONDS = 1, 60.0
"""A start did not end early after this many processed frames, or after this time without failing frames."""
MAX_ERRORS, REPEAT_SECONDS = 200, 600.0
"""Maximum number of different errors to log; and the time after which a recurring error is reported again."""

Remedy = Literal["reload", "rebuild", "load", "pause"]
"""What to do when frames keep failing: read the objects again, build an engine with the same model (rebuild) or with another
one (load), or try again later."""


class FaultHandler:
    """Handler of errors in the parts of the daemon: counts failed frames, and keeps track of the parts that are not used."""

    def __init__(
        self, directory: Path, publish: Callable[[Event], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Read the files in the state directory.

        Args:
            directory: the state directory.
            publish: receives events.
            clock: returns seconds; only differences matter.
        """
        self._publish, self._clock = publish, clock
        self._created = clock()
        self.quarantine = Quarantine(directory, self._report_part)
        """The parts that failed and are not used."""
        self.fallback = Fallback()
        """The parts that this start does not use, because earlier ones ended early."""
        self.failures = FailureLog(clock)
        self._starts = StartCounter(directory)
        self._settings_digest = ""
        self._processed = 0
        self._failing: tuple[int, float] | None = None
        """Number and start of the frames that failed since one was processed."""
        self.rebuilt = False
        """Whether a new engine was built without a known cause, and no frame has been processed since."""

    # --- start and end ---

    def begin(self, models: InstalledModels) -> None:
        """Count this start, and decide which parts it does not use."""
        if self.guard("model", "model on trial", models.rejects_trial):
            self._starts.clear()  # the model on trial ended those starts, and is replaced now
        self.fallback = self._starts.begin()
        for part in self.parts:
            self._report_part(part)

    def end(self) -> None:
        """Note that the daemon was stopped: this start did not end early."""
        self._starts.ended()

    def tick(self) -> None:
        """Note that this start is healthy, if it has lasted for a while without failing frames."""
        if self._failing is None and self._clock() - self._created > HEALTHY_SECONDS:
            self._starts.healthy()

    # --- errors ---

    def guard(self, kind: Kind, part: str, function: Callable[[], T]) -> T | None:
        """Call a function of a part of the daemon; an error is reported once by an event, and None is returned."""
        try:
            result = function()
        except Exception as error:
            if self.failures.failed(part, error):
                self._publish(problem_event(kind, f"{part}: {describe_error(error)}", "error"))
            return None
        self.failures.worked(part)
        return result

    def frame_processed(self) -> None:
        """Note that a frame was processed."""
        self._failing, self.rebuilt = None, False
        self.failures.worked("recognition")
        self._processed += 1
        if self._processed == HEALTHY_FRAMES:
            self._starts.healthy()

    def frame_failed(self, error: Exception) -> bool:
        """Note that a frame failed, and is skipped; returns whether to call `remedy`, since frames keep failing."""
        if self.failures.failed("recognition", error):
            self._publish(problem_event("model", f"a frame could not be processed: {describe_error(error)}"))
        now = self._clock()
        count, since = self._failing or (0, now)
        self._failing = count + 1, since
        if count + 1 < FAILED_FRAMES or now - since < FAILED_SECONDS:
            return False
        self._failing = None
        return True

    def remedy(
        self, engine: Engine, frame: Frame, error: Exception, model: LoadedModel, settings: Settings
    ) -> Remedy:
        """Look for the part that fails on a frame, and put it into quarantine; returns what to do now.

        Args:
            engine: the engine that fails on the frame.
            frame: the latest frame.
            error: the error that the frame raised.
            model: the engine's model.
            settings: the daemon's settings.
        """
        reason = describe_error(error)
        cause = self.guard("store", "search for the cause", lambda: find_cause(engine, frame)) or ""
        if cause == "objects":
            return "reload"
        if cause == "settings":
            self.quarantine.add(settings_part(self._settings_digest, reason))
            self.rebuilt = False
            return "rebuild"
        if cause == "model" and self._replace_model(model, settings, reason):
            self.rebuilt = False
            return "load"
        if cause == "model" or self.rebuilt:
            self.rebuilt = True
            return "pause"
        self.rebuilt = True  # it may have been the engine's state, which a new engine does not have
        return "rebuild"

    def _replace_model(self, model: LoadedModel, settings: Settings, reason: str) -> bool:
        """Reject the model, or put it into quarantine in favor of the shipped one; False if there is no other."""
        path, shipped = model.bundle.path, default()
        if path == shipped:
            return False
        if not settings.model.bundle:
            with suppress(EdgeSiameseError):  # there is no previous model
                line = InstalledModels(settings.models).reject(reason, path)
                self._publish(problem_event("model", line, "error"))
                return True
        if shipped is None:
            return False
        self.quarantine.add(model_part(path.name, reason))
        return True

    # --- parts that are not used ---

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts that are not used."""
        return (*self.fallback.parts(), *self.quarantine.parts)

    def report(self) -> list[dict[str, Any]]:
        """Describe the parts that are not used, as JSON values."""
        return [part.report() for part in self.parts]

    def restore(self, part_id: str) -> Part:
        """Use a part again, and return it; raises `ControlError` if there is none with this id."""
        for part in self.fallback.parts():
            if part.id == part_id:
                self.fallback = replace(self.fallback, **{part.kind: False})
                self._starts.clear()
                return part
        return self.quarantine.restore(part_id)

    def use_settings(self, digest: str) -> None:
        """Forget the quarantine of other settings than those with this digest."""
        self._settings_digest = digest
        self.quarantine.drop("settings", keep=digest)

    def usable(self, settings: Settings) -> Settings:
        """Return the settings, with the default values of the tables that are in quarantine."""
        if not self.quarantine.has("settings", self._settings_digest):
            return settings
        return without_recognition_settings(settings)

    def _report_part(self, part: Part) -> None:
        kind: Kind = part.kind if part.kind in ("model", "settings") else "store"
        self._publish(problem_event(kind, part.text, "error", part=part.id))


class FailureLog:
    """Errors by the part that they concern: each is logged once, with a traceback if it is unexpected."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[tuple[str, str], float] = {}
        self.current: dict[str, str] = {}
        """The error of each part that failed at its last use, in one line."""

    def failed(self, part: str, error: Exception) -> bool:
        """Note an error, and log it if it is new; returns whether to report it: it is new, or returned after a while."""
        self.current[part] = describe_error(error)
        place = traceback.extract_tb(error.__traceback__)[-1:]
        key = part, f"{type(error).__name__} {place}"
        now, before = self._clock(), self._seen.get(key)
        if before is None:
            if len(self._seen) >= MAX_ERRORS:
                return False
            LOG.error(
                "%s: %s",
                part,
                describe_error(error),
                exc_info=None if isinstance(error, EdgeSiameseError) else error,
            )
        self._seen[key] = now
        return before is None or now - before > REPEAT_SECONDS

    def worked(self, part: str) -> None:
        """Note that a part works."""
        self.current.pop(part, None)

    def report(self) -> list[dict[str, str]]:
        """Return the parts that fail, as JSON values."""
        return [{"part": part, "text": text} for part, text in list(self.current.items())]
