"""Loads the daemon's engine in steps, between which the main loop continues, and retries failed attempts."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator

from edge_siamese.daemon.engine import Engine
from edge_siamese.daemon.faults import FaultHandler
from edge_siamese.daemon.hardware import Hardware
from edge_siamese.daemon.model_loader import (
    LoadedModel,
    confirm_model,
    loading_current_model,
    loading_shipped_model,
    reembed,
)
from edge_siamese.daemon.store_lifecycle import StoreLifecycle
from edge_siamese.daemon.telemetry import Observations
from edge_siamese.errors import EdgeSiameseError, StoreError, describe_error
from edge_siamese.events import Event, Kind, counted, problem_event
from edge_siamese.models import default
from edge_siamese.models.installed import InstalledModels
from edge_siamese.panel.led_signals import Signal
from edge_siamese.settings import Settings
from edge_siamese.store import SupportStore
from edge_siamese.store.mistakes import KeptMistakes
from edge_siamese.store.surroundings import SurroundingsFile

RETRY_SECONDS, MAX_RETRY_SECONDS = 10.0, 300.0
"""Pause between two attempts to load an engine; doubled each time."""
TRIAL_FRAMES = 10
"""A new model is confirmed after this number of frames, or after `RETRY_SECONDS` without a camera."""


class EngineLoader:
    """The current engine, and the attempt to load another one; used from the service's thread."""

    def __init__(
        self,
        settings: Settings,
        hardware: Hardware,
        store: StoreLifecycle,
        faults: FaultHandler,
        observations: Observations,
        mistakes: KeptMistakes,
        surroundings: SurroundingsFile,
        publish: Callable[[Event], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare the loader; `load` begins the first attempt.

        Args:
            settings: the daemon's settings; replaced when they are read again.
            hardware: its camera is opened for the model's colors.
            store: opened for the model.
            faults: fault handler, which lists the parts that are not used.
            observations: see `Engine`.
            mistakes, surroundings: see `Engine`.
            publish: receives events.
            clock: returns seconds, on the clock of `Frame.time`.
        """
        self.settings = settings
        self._hardware, self._store, self._faults = hardware, store, faults
        self._observations, self._mistakes, self._surroundings = observations, mistakes, surroundings
        self._publish, self._clock = publish, clock
        self.engine: Engine | None = None
        """None until model and store are loaded."""
        self.model: LoadedModel | None = None
        """The model of the latest engine."""
        self.fault = "starting"
        """Why there is no engine; empty when there is one."""
        self.fault_signal = Signal.STARTING
        """The LED signal while there is no engine."""
        self.problem = ""
        """Why the latest attempt failed; empty if it did not."""
        self._steps: Iterator[str] | None = None
        self._retry_at, self._retry_s = 0.0, RETRY_SECONDS
        self._reported_fault = ""
        self._engine_at = clock()

    # --- attempts ---

    @property
    def busy(self) -> bool:
        """Whether an attempt is in progress."""
        return self._steps is not None

    @property
    def due(self) -> bool:
        """Whether `step` has something to do."""
        return self.busy or (self.engine is None and self._clock() >= self._retry_at)

    def load(self) -> None:
        """Begin to load model and engine; `step` does it."""
        self._steps = self._loading()

    def rebuild(self) -> None:
        """Begin to build a new engine with the same model."""
        self._steps = self._loading(self.model)

    def reembed(self) -> None:
        """Begin to embed the views that lack an embedding of the current model."""
        if self._steps is None:
            self.rebuild()

    def step(self) -> str:
        """Take the next step of the attempt; returns a status line, empty at the end of the attempt."""
        if self._steps is None:
            self.load()
        assert self._steps is not None
        try:
            line = next(self._steps)
        except StopIteration:
            self._steps, self.problem = None, ""
            if not self._faults.rebuilt:  # otherwise its frames may fail again
                self._retry_s = RETRY_SECONDS
            self._faults.failures.worked("loading")
            return ""
        except Exception as error:
            self.pause()
            if not isinstance(error, (EdgeSiameseError, OSError)):
                self._faults.failures.failed("loading", error)
            self._report(error)
            return ""
        if self.engine is None and not self._reported_fault:
            self.fault = line
        return line

    def pause(self) -> None:
        """End the attempt, and repeat it later: a failing one may be expensive, such as a repair on a full disk."""
        self.cancel()
        self._retry_at = self._clock() + self._retry_s
        self._retry_s = min(2 * self._retry_s, MAX_RETRY_SECONDS)

    def cancel(self) -> None:
        """End the attempt in progress."""
        self._steps = None  # closes `reembed`, which would count an attempt otherwise

    def drop(self, fault: str, signal: Signal | None = None) -> None:
        """Stop using the engine.

        Args:
            fault: why there is none now.
            signal: LED signal until there is one again; None for the last one.
        """
        if engine := self.engine:
            self._faults.guard("model", "registration", engine.registrations.cancel)
            self._faults.guard("model", "sightings", lambda: engine.camera_lost(self._clock()))
            self._faults.guard("store", "surroundings", engine.close)
        self.engine, self.fault = None, fault
        self.fault_signal = signal or self.fault_signal

    def reopen_store(self) -> None:
        """Close a damaged store; opening it again repairs it."""
        self._publish(problem_event("store", "the store is damaged and is being repaired", "error"))
        self.drop("the store is being repaired", Signal.FAULT_STORE)
        self._store.close()
        self.load()

    def confirm(self) -> None:
        """End the trial of a model that has worked for a while."""
        if self.engine is None or self.model is None or not self.model.installed:
            return
        idle = self.engine.frames == 0 and self._hardware.state is not None
        if self.engine.frames >= TRIAL_FRAMES or (idle and self._clock() - self._engine_at > RETRY_SECONDS):
            self.model = confirm_model(self.model, InstalledModels(self.settings.models))

    def _report(self, error: Exception) -> None:
        """Report why no engine was loaded, once for each reason."""
        text = self.problem = describe_error(error)
        kind: Kind = "store" if isinstance(error, StoreError) else "model"
        if self.engine is not None:
            self._publish(problem_event("model", f"the previous model stays in use: {text}", "error"))
            return
        if text != self._reported_fault:
            self._publish(problem_event(kind, f"cannot recognize: {text}", "error"))
        self.fault = self._reported_fault = text
        self.fault_signal = Signal.FAULT_STORE if kind == "store" else Signal.FAULT_MODEL

    # --- steps ---

    def _loading(self, model: LoadedModel | None = None) -> Iterator[str]:
        """Load the current model, unless one is given, open the store, and build the engine; yields before each step."""
        yield "loading the model"
        if model is None:
            model = yield from self._loading_model()
        encoder = model.encoder
        if self._faults.fallback.store:
            self._store.close()
            store = SupportStore(None, encoder.model_id, encoder.dimensions, unit_length=encoder.unit_length)
        else:
            if self._store.store is None:
                yield "opening the store"
            store = self._store.open(self.settings, encoder)
            failed: dict[int, str] = {}
            yield from reembed(store, model, failed.__setitem__)
            self._store.set_not_embedded(failed)
            while store.busy:
                yield "waiting for the end of an import"
        previous, self.fault, self._reported_fault = self.engine, "", ""
        if previous is not None and model is self.model:
            return previous.reload_objects()  # the same model has more embeddings now; sightings continue
        self.engine = self._new_engine(model, store)
        self.model, self._engine_at = model, self._clock()
        if previous is None or previous.encoder.model_id != encoder.model_id:
            text = f"recognizing {counted(len(self.engine.support), 'object')} with {encoder.model_id}, {encoder.reason}"
            if dormant := store.counts().dormant:
                text += f"; {counted(dormant, 'view')} cannot be re-embedded: their pictures are not stored"
            self._publish(Event("started" if previous is None else "model", text))
        self._hardware.open_camera(encoder.preprocessing.color)

    def _loading_model(self) -> Generator[str, None, LoadedModel]:
        models = InstalledModels(self.settings.models)
        if self._faults.fallback.model and default() is not None:
            return (yield from loading_shipped_model(self.settings, models))
        return (
            yield from loading_current_model(
                self.settings,
                models,
                lambda text: self._publish(problem_event("model", text)),
                lambda path: self._faults.quarantine.has("model", path.name),
            )
        )

    def _new_engine(self, model: LoadedModel, store: SupportStore) -> Engine:
        """Build the engine of another model and switch the store to it; after an error the store stays as it was."""
        encoder, before = model.encoder, (store.model_id, store.dimensions, store.unit_length)
        try:
            if before != (encoder.model_id, encoder.dimensions, encoder.unit_length):
                store.use_model(encoder.model_id, encoder.dimensions, encoder.unit_length)
            if self.engine:
                self.engine.close()
            engine = Engine(
                self._faults.usable(self.settings),
                model.bundle,
                encoder,
                store,
                publish=self._publish,
                signal=self._hardware.show,
                hold_exposure=self._hardware.hold_exposure,
                observations=self._observations,
                quarantine=self._faults.quarantine,
                mistakes=self._mistakes,
                surroundings=self._surroundings,
            )
        except Exception:
            # The previous engine must not score or write its embeddings as those of this model.
            store.use_model(*before)
            raise
        if self.engine:
            self.engine.registrations.cancel()
            self.engine.camera_lost(self._clock())
        return engine
