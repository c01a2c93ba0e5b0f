"""An engine with a fake encoder, a real store and no hardware, that tests show pictures and whose button they press."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from msgspec import structs

from edge_siamese.cameras.camera import Frame
from edge_siamese.daemon.engine import Engine
from edge_siamese.daemon.registration_session import RegistrationRequest, RegistrationResult
from edge_siamese.daemon.telemetry import Observations
from edge_siamese.events import KINDS, Event
from edge_siamese.models.bundle import Bundle
from edge_siamese.panel.led_signals import Signal
from edge_siamese.panel.press_grammar import Gesture
from edge_siamese.recognition.imaging import Bytes
from edge_siamese.runtimes.fake import FAKE_HEAD, FakeEncoder
from edge_siamese.settings import RecognitionSettings, RegistrationSettings, Settings
from edge_siamese.store import SupportStore
from tests.edge_siamese.recognition.test_quality import blurred, camera, drawing

RING = camera(drawing(256), 1.0)
DISC = camera(drawing(256, size=0.2, stroke=0.25), 1.0)
SOFT = camera(blurred(drawing(256), 10), 1.0)
NIGHT = camera(drawing(256) * 0.05, 1.0)
GLARE = camera(drawing(256, paper=300, ink=240), 1.0)
PAGE = camera(drawing(256, paper=200, ink=200), 2.0)

SETTINGS = Settings(
    recognition=RecognitionSettings(
        threshold=0.5, window_frames=4, appear_frames=2, leave_frames=1, seen_interval_s=5.0
    ),
    registration=RegistrationSettings(frames=3, timeout_s=2.0, crops_per_view=1),
)


class Rig:
    """What a service is to an engine: frames in, events and signals out; time is what the test makes of it."""

    def __init__(self, directory: Path, bundle: Bundle, settings: Settings = SETTINGS, **registration: Any):
        self.settings = structs.replace(
            settings, registration=structs.replace(settings.registration, **registration)
        )
        self.encoder = FakeEncoder()
        self.store = SupportStore(directory / "objects.db", self.encoder.model_id, self.encoder.dimensions)
        self.events: list[Event] = []
        self.signals: list[Signal] = []
        self.holds: list[bool] = []
        self.log: list[str] = []
        """Everything in its order, as words."""
        self.now = 100.0
        self.number = 0
        self.observations = Observations()
        model: Any = SimpleNamespace(head=FAKE_HEAD, manifest=bundle.manifest, impostors=None)
        self.engine = Engine(
            self.settings,
            model,
            self.encoder,
            self.store,
            publish=self.hear,
            signal=self.shine,
            hold_exposure=self.holds.append,
            observations=self.observations,
        )

    def hear(self, event: Event) -> None:
        assert event.kind in KINDS
        told = json.loads(json.dumps(event.to_dict(), allow_nan=False))
        assert (told["kind"], told["text"], told["time"]) == (event.kind, event.text, event.time)
        self.events.append(event)
        self.log.append(f"event {event.kind}")

    def shine(self, signal: Signal) -> None:
        self.signals.append(signal)
        self.log.append(f"signal {signal.name}")

    def show(self, *pictures: Bytes, every: float = 0.1) -> None:
        """Frames, one after the other."""
        for picture in pictures:
            self.now += every
            self.number += 1
            self.engine.process_frame(Frame(picture, self.now, self.number))

    def wait(self, seconds: float) -> None:
        """Time passes without frames."""
        self.now += seconds
        self.engine.tick(self.now)

    def do(self, gesture: Gesture) -> None:
        self.engine.gesture(gesture, self.now)

    def press(self, *pictures: Bytes) -> None:
        """Press, and show so much afterward."""
        self.do(Gesture.PRESS)
        self.show(*pictures)

    def learn(self, name: str, picture: Bytes, **request: Any) -> RegistrationResult:
        """As the command `register` does."""
        said: list[RegistrationResult] = []
        self.engine.registrations.begin(RegistrationRequest(name, **request), self.now, said.append)
        self.show(*[picture] * 3)
        (learned,) = said
        return learned

    def take(self) -> list[tuple[str, str]]:
        """(kind, text) of the events since the last call."""
        found = [(event.kind, event.text) for event in self.events]
        self.events.clear()
        return found

    def lit(self) -> list[Signal]:
        """The signals since the last call."""
        found, self.signals[:] = list(self.signals), []
        return found

    @property
    def names(self) -> list[str]:
        return [known.name for known in self.store.objects()]
