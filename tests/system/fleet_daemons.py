"""Several daemons of one collection in this process, each with a camera that the test controls."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_siamese.cameras.camera import Camera
from edge_siamese.daemon.api import Change
from edge_siamese.errors import EdgeSiameseError
from edge_siamese.mqtt.client import ReconnectPolicy
from edge_siamese.recognition.imaging import Bytes
from tests.edge_siamese.daemon.running import Daemon, Stage, until
from tests.system.broker import HOST, Broker
from tests.tiny_network import pictures

THINGS: list[Bytes] = [np.kron(shape, np.ones((8, 8), np.uint8)) for shape in pictures(80)[..., 0]]
"""Pictures of things; some of them look alike to the tiny network."""

MQTT = """
[mqtt]
broker = "{host}"
port = {port}
device_id = "{device}"
collection = "{collection}"
discovery_prefix = ""
snapshots = false
"""

CurrentView = dict[str, tuple[str, tuple[str, ...]]]


class Device:
    """One daemon, which can be turned off and on again."""

    def __init__(self, home: Path, name: str, stages: dict[str, Stage]) -> None:
        (home / "run").mkdir(parents=True)
        self.name, self.stage = name, Stage()
        stages[name] = self.stage
        self.daemon = Daemon(home, self.stage)
        self.on = False

    def configure(self, bundle: Path, broker: Broker, collection: str = "home", **changes: str) -> Device:
        self.daemon.configure(bundle, frame_rate="frame_rate = 20.0", **changes)
        text = self.daemon.config.read_text().replace("[camera]", f'[camera]\ndevice = "{self.name}"')
        text += MQTT.format(host=HOST, port=broker.port, device=self.name, collection=collection)
        self.daemon.config.write_text(text)
        return self

    def start(self) -> Device:
        self.daemon.start().up()
        self.on = True
        return self

    def stop(self) -> None:
        if self.on:
            self.daemon.stop()
        self.on = False

    @property
    def actions(self) -> Any:
        return self.daemon.service.api

    @property
    def fleet(self) -> dict[str, Any]:
        """What the fleet reports; empty before it was opened."""
        found: dict[str, Any] = self.daemon.service.integrations.report().get("mqtt", {}).get("fleet", {})
        return found

    def idle(self) -> bool:
        """Whether nothing is left to publish or to fetch."""
        report = self.fleet
        return report.get("state") == "connected" and not (report["to_publish"] or report["to_fetch"])

    def learn(self, picture: Bytes, name: str | None = None, target: str | None = None) -> Change:
        """Register a picture, or add it to an object."""
        return self.actions.register(target or name, target is not None, True, [picture])

    def shown(self) -> CurrentView:
        """uid: name and views of all objects."""

        def read(engine: Any) -> CurrentView:
            store = engine.store
            return {
                item.uid: (
                    item.name,
                    tuple(sorted(f"{view.kind} {view.uid}" for view in store.views(item.uid))),
                )
                for item in store.objects()
            }

        found: CurrentView = self.actions.with_engine(read)
        return found

    def sees(self, *names: str) -> bool:
        """Whether just these objects are before its camera, as far as it knows."""
        engine = self.daemon.service.engine
        return engine is not None and engine.present == names

    def recognized(self, picture: Bytes) -> str | None:
        """What the picture is to this device."""
        name: str | None = self.actions.recognize(picture).name
        return name

    def act(self, chance: random.Random) -> str:
        """Something that a person might do; what it was, or why it could not be."""
        try:
            return self._act(chance)
        except EdgeSiameseError as error:
            return f"refused: {error}"

    def _act(self, chance: random.Random) -> str:
        objects = self.actions.objects()
        kinds = ("register", "register", "view", "view", "rename", "forget", "undo", "merge", "remove view")
        what = chance.choice(kinds) if objects else "register"
        if what == "register":
            name = chance.choice([None, f"thing {chance.randrange(9)}"])
            self.learn(chance.choice(THINGS), name)
            return what
        if what == "undo":
            self.actions.undo()
            return what
        one = chance.choice(objects).uid
        if what == "view":
            self.learn(chance.choice(THINGS), target=one)
        elif what == "rename":
            self.actions.rename(one, f"thing {chance.randrange(9)}")
        elif what == "forget":
            self.actions.forget(one)
        elif what == "merge":
            self.actions.merge(one, chance.choice(objects).uid)
        else:
            self.actions.remove_view(one, chance.choice(self.actions.views(one)).id)
        return what


@contextmanager
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> Iterator[list[Device]]:
    """Devices that are not configured and not started yet; they are stopped at the end."""
    stages: dict[str, Stage] = {}

    def open_stage(settings: Any, color: str, press: Any = None) -> Camera:
        return stages[Path(settings.device).name].open(settings, color, press)

    monkeypatch.setattr("edge_siamese.daemon.hardware.open_camera", open_stage)
    # A broker that is stopped again and again would be left alone for minutes.
    monkeypatch.setattr(
        "edge_siamese.mqtt.client.ReconnectPolicy", partial(ReconnectPolicy, initial=0.2, maximum=1.0)
    )
    made = [Device(tmp_path / f"device-{number}", f"device-{number}", stages) for number in range(count)]
    try:
        yield made
    finally:
        for device in made:
            device.stop()
            device.stage.free.set()
            device.daemon.systemd.close()


def all_idle(found: list[Device]) -> None:
    until(lambda: all(device.idle() for device in found), 30)


def alike(found: list[Device]) -> bool:
    """Whether all are at rest and show the same."""
    if not all(device.idle() for device in found):
        return False
    first, *others = (device.shown() for device in found)
    return all(other == first for other in others)
