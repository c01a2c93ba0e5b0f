"""A whole daemon on a thread of the test, with a camera that does what the test says."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_siamese.cameras.camera import Camera, Frame
from edge_siamese.daemon import engine_loader
from edge_siamese.daemon.client import request
from edge_siamese.daemon.model_loader import LoadedModel, loading_current_model
from edge_siamese.daemon.service import Service
from edge_siamese.daemon.systemd import Notifier
from edge_siamese.errors import CameraError
from edge_siamese.events import KINDS
from edge_siamese.models.bundle import Bundle
from edge_siamese.models.installed import InstalledModels
from edge_siamese.recognition.imaging import Bytes
from edge_siamese.runtimes.confined_self_test import finish
from edge_siamese.settings import Settings
from edge_siamese.settings_file import load_settings
from tests.tiny_network import pictures

CONFIG = """
[model]
bundle = "{bundle}"
runtime = "onnxruntime"
[camera]
frame_rate = 240.0
timeout_s = 0.2
[recognition]
threshold = 0.6
window_frames = 3
appear_frames = 2
leave_frames = 0
[registration]
frames = 2
timeout_s = 1.0
crops_per_view = 1
[panel]
kind = "simulated"
debounce_s = 0.002
double_press_s = 0.05
hold_s = 0.2
[paths]
state = "{state}"
runtime = "{runtime}"
"""

_SHAPES = pictures(12)[..., 0]
MUG, PEN, KEY, CUP = (np.kron(_SHAPES[number], np.ones((8, 8), np.uint8)) for number in (1, 2, 5, 9))
"""Four things that the tiny network distinguishes."""
TABLE = np.full((96, 96), 255, np.uint8)


def until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Wait for something that another thread does; returns what the condition returned."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.003)
    return found


def returns(function: Callable[[], Any], seconds: float = 30.0) -> None:
    """Call a function that must return although something else hangs for good."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it waits for what hangs"


class Stage:
    """What is before the camera, and how the camera is."""

    def __init__(self) -> None:
        self.picture: Bytes = TABLE
        self.error: Exception | None = None
        """Raised by captures."""
        self.absent = False
        """Whether the camera cannot be opened."""
        self.hangs = False
        """Whether captures never return."""
        self.stuck = False
        """Whether one does not return now."""
        self.opened: list[str] = []
        """The color of each opening."""
        self.holds: list[bool] = []
        self.free = threading.Event()
        """Lets what hangs go on, at the end."""

    def open(self, settings: Any, color: str, press: Any = None) -> Camera:
        if self.absent:
            raise CameraError("there is no camera")
        self.opened.append(color)
        return _StageCamera(self)


class _StageCamera:
    description = "a stage"

    def __init__(self, stage: Stage) -> None:
        self._stage, self._number = stage, 0

    def capture(self) -> Frame:
        time.sleep(0.004)
        if self._stage.hangs:
            self._stage.stuck = True
            self._stage.free.wait()
            self._stage.stuck = False
        if self._stage.error is not None:
            raise self._stage.error
        self._number += 1
        return Frame(self._stage.picture, time.monotonic(), self._number)

    def hold_exposure(self, held: bool) -> None:
        self._stage.holds.append(held)

    def close(self) -> None:
        """There is nothing to let go."""


class Systemd:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.heard: list[str] = []
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        try:
            while message := self._socket.recv(4096):
                self.heard.append(message.decode())
        except OSError:
            pass  # closed at the end of the test

    def count(self, word: str) -> int:
        return sum(message.split("\n")[0] == word for message in self.heard)

    def close(self) -> None:
        self._socket.close()


class Daemon:
    """A service that runs on a thread."""

    def __init__(self, home: Path, stage: Stage) -> None:
        self.home, self.stage = home, stage
        self.config = home / "config.toml"
        self.state = home / "state"
        self.socket = home / "run" / "control.sock"
        self.models = InstalledModels(self.state / "models")
        self.systemd = Systemd(home / "notify")
        self.status: int | None = None
        self.error: Exception | None = None
        self.service: Service
        self.thread: threading.Thread

    def configure(self, bundle: Path | str, **changes: str) -> None:
        """Write the settings; `changes` replace lines, such as `frame_rate="frame_rate = 5.0"`."""
        text = CONFIG.format(bundle=bundle, state=self.state, runtime=self.home / "run")
        for key, line in changes.items():
            (former,) = [found for found in text.splitlines() if found.startswith(f"{key} = ")]
            text = text.replace(former, line)
        self.config.write_text(text)

    def start(self) -> Daemon:
        self.service = Service(
            load_settings(self.config),
            self.config,
            notifier=Notifier({"NOTIFY_SOCKET": str(self.systemd.path)}),
        )
        self.thread = threading.Thread(target=self._run, args=(self.service,), daemon=True)
        self.thread.start()
        return self

    def _run(self, service: Service) -> None:
        try:
            self.status = service.run()
        except Exception as error:
            self.error = error

    def up(self) -> Daemon:
        """Wait until it recognizes frames."""
        until(lambda: self.service.engine and self.service.engine.frames > 2)
        return self

    def stop(self) -> None:
        """Stop it, whatever hangs."""
        self.service.stop()
        self.thread.join(30)
        assert not self.thread.is_alive()

    def ask(self, command: str, **words: Any) -> Any:
        return request(self.socket, command, **words)

    def events(self, *kinds: str) -> list[str]:
        """The texts of the latest events of these kinds."""
        assert set(kinds) <= set(KINDS)
        return [event.text for event in self.service.bus.latest(500) if event.kind in kinds]

    def told(self, *kinds: str) -> str:
        """Wait for an event of one of these kinds; the text of the latest."""
        found: list[str] = until(lambda: self.events(*kinds))
        return found[-1]

    def press(self, seconds: float = 0.01) -> None:
        """Press the simulated button, once it is watched: one that is down before counts as stuck."""
        console, panel = self.service.hardware.console, self.service.hardware._simulated
        until(lambda: console is not None and "not opened yet" not in console.description)
        assert panel is not None
        panel.press(True)
        time.sleep(seconds)
        panel.press(False)

    def show(self, picture: Bytes, name: str | None) -> None:
        """Put something before the camera, and wait until the daemon takes it for what it is."""
        self.stage.picture = picture
        wanted = () if name is None else (name,)
        until(lambda: self.service.engine is not None and self.service.engine.present == wanted)

    def learn(self, name: str, picture: Bytes) -> dict[str, Any]:
        self.stage.picture = picture
        found: dict[str, Any] = self.ask("register", name=name)
        return found


@contextmanager
def daemon_in(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """A daemon that is not started yet; it is stopped at the end."""
    stage = Stage()
    monkeypatch.setattr("edge_siamese.daemon.hardware.open_camera", stage.open)
    # The child that tests a model takes a third of a second; `test_untrusted_model.py` runs it.
    monkeypatch.setattr("edge_siamese.daemon.model_loader.is_untrusted", lambda _: False)
    (home / "run").mkdir(parents=True)
    made = Daemon(home, stage)
    try:
        yield made
    finally:
        if hasattr(made, "thread"):
            made.stop()
        stage.free.set()
        made.systemd.close()


def accept(_: Bundle) -> None:
    """The check of a device on which every model works."""


def load_current_model(
    settings: Settings, models: InstalledModels, report: Callable[[str], object]
) -> LoadedModel:
    """As `loading_current_model`, without other work meanwhile."""
    return finish(loading_current_model(settings, models, report))


def model_of(daemon: Daemon) -> str:
    """The id of the model that the daemon recognizes with; empty while it has none."""
    engine = daemon.service.engine
    return "" if engine is None else engine.encoder.model_id


@contextmanager
def daemon_without_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """A daemon whose settings name no model and which tries again at once; not started."""
    with daemon_in(tmp_path, monkeypatch) as made:
        made.configure("")
        monkeypatch.setattr(engine_loader, "RETRY_SECONDS", 0.1)
        yield made
