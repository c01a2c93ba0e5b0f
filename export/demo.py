"""Last part of the demo: a process without torch recognizes pictures, then the daemon watches a scene of turning objects."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edge_siamese.errors import EncoderError, VerificationFailed
from edge_siamese.models.bundle import Bundle
from edge_siamese.system.files import write_text_atomically
from export import records
from export.data.embedded_pictures import as_data_uri
from export.data.images import ImageSet, Splits
from export.evaluation.remote_runtime import CHECKOUT, device_environment, device_python, run_device
from export.provenance import machine
from export.reporting.report import Demo, DemoQuery, DemoSupport

NAMES = ("ama", "beko", "duri", "felu", "gona")
"""Names of the registered characters; their alphabet is invented, too."""
UNKNOWN = 3
"""Number of characters that are not registered."""
SCENE_BUNDLE = "objects"
SCENE_PICTURES = CHECKOUT / "examples" / "turning"
SCENE_OBJECTS = 3
"""Objects that the scene registers and does not undo."""
DAEMON_STOP_SECONDS = 180.0
RUN_SETTINGS, SCENE_SETTINGS = "run.toml", "scene.toml"
PORT = 8765
"""The dashboard's default port; the demo takes another one if it is in use."""
DASHBOARD_SECONDS = 30.0


@dataclass(frozen=True)
class SceneResult:
    """The outcome of the scene, from the daemon's events."""

    recognized: tuple[str, ...]
    """Objects that were registered at the button and recognized when they returned, in order."""
    undone: str
    """The object that was registered and undone."""
    events: int
    """Number of events."""
    dashboard: str
    """Address of the dashboard; empty if only events were read."""


def recognize(bundle: Bundle, splits: Splits, out: Path) -> Demo:
    """Save pictures of characters that were not trained on, and recognize them with the device's code.

    Args:
        bundle: the bundle that the device loads.
        splits: the evaluation classes provide the pictures.
        out: receives `pictures/` and `demo.json`.

    Raises:
        EncoderError: there is no interpreter without torch.
    """
    python = require_device()
    pictures = out / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    images = splits.evaluation
    group = np.flatnonzero(images.class_groups == images.class_groups[0])
    classes = group[: len(NAMES) + UNKNOWN]
    supports = {
        name: _save(images, classes[i], 0, pictures / f"{name}-support.png") for i, name in enumerate(NAMES)
    }
    queries: list[tuple[Path, str | None]] = [
        (_save(images, classes[i], view, pictures / f"{name}-{label}.png"), name)
        for i, name in enumerate(NAMES)
        for view, label in ((1, "query"), (2, "query-2"))
    ]
    queries += [
        (_save(images, c, 0, pictures / f"unknown-{i + 1}.png"), None)
        for i, c in enumerate(classes[len(NAMES) :])
    ]
    options = [part for name, path in supports.items() for part in ("--object", f"{name}={path.resolve()}")]
    files = [str(path.resolve()) for path, _ in queries]
    arguments = ["recognize", str(bundle.path.resolve()), *files, *options, "--json"]
    output = json.loads(run_device(python, arguments))
    demo = Demo(
        supports=tuple(DemoSupport(name, _picture(path)) for name, path in supports.items()),
        queries=tuple(
            DemoQuery(_picture(path), truth, answer["name"], answer["probability"])
            for (path, truth), answer in zip(queries, output["recognitions"], strict=True)
        ),
        runtime=output["runtime"],
        precision=output["precision"],
        threshold=output["threshold"],
        command="make demo",
        machine=machine(),
    )
    records.write(out / "demo.json", demo)
    return demo


def require_device() -> Path:
    """The interpreter with the device's packages, without torch.

    Raises:
        EncoderError: there is none.
    """
    python = device_python()
    if python is None:
        raise EncoderError("there is no interpreter without torch; `make setup` creates .venv-device")
    return python


def _save(images: ImageSet, of: int, view: int, path: Path) -> Path:
    Image.fromarray(images.images[images.images_of(int(of))[view], ..., 0]).save(path)
    return path


def _picture(path: Path) -> str:
    with Image.open(path) as picture:
        return as_data_uri(np.asarray(picture)[..., None])


def play_scene(out: Path, log: Callable[[str], object]) -> SceneResult:
    """Let the daemon watch the scene once, with the shipped bundle for objects.

    It runs in this environment, where a runtime is fast on the workstation's processor.

    Args:
        out: receives `daemon/`: settings, objects and events.
        log: called with each line that the daemon prints.

    Raises:
        VerificationFailed: the daemon failed, or the scene went differently than scripted.
    """
    home = out / "daemon"
    state = home / "scene"
    shutil.rmtree(state, ignore_errors=True)
    # The path of a socket is limited to about 100 bytes; that of a checkout may be longer.
    with tempfile.TemporaryDirectory(prefix="edge-siamese-") as runtime:
        port = free_port()
        config = home / SCENE_SETTINGS
        write_text_atomically(config, settings(state, Path(runtime), port, loop=False))
        write_text_atomically(home / RUN_SETTINGS, settings(home / "run", home / "run", PORT, loop=True))
        probe = DashboardProbe(f"http://127.0.0.1:{port}")
        command = [sys.executable, "-m", "edge_siamese", "run", "--config", str(config)]
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            env=device_environment(),
        ) as process:
            assert process.stdout is not None
            probe.start()
            last = ""
            for line in process.stdout:
                last = line.rstrip()
                log(last)
            if process.wait(DAEMON_STOP_SECONDS):
                raise VerificationFailed(f"the daemon exited with {process.returncode}: {last}")
    probe.require()
    lines = (state / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return replace(check_events([json.loads(line) for line in lines]), dashboard=probe.address)


class DashboardProbe(threading.Thread):
    """Requests the dashboard's page and status while the scene is played."""

    def __init__(self, address: str) -> None:
        super().__init__(name="dashboard-probe", daemon=True)
        self.address = address
        self._served = threading.Event()

    def run(self) -> None:
        deadline = time.monotonic() + DASHBOARD_SECONDS
        while not self._served.is_set() and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.address}/", timeout=2) as page:
                    complete = page.status == 200 and b"<html" in page.read()
                with urllib.request.urlopen(f"{self.address}/api/v1/status", timeout=2) as response:
                    status = json.load(response)
                if complete and status["frames"]:
                    self._served.set()
            except (OSError, ValueError, KeyError):
                pass  # not served yet
            time.sleep(0.2)

    def require(self) -> None:
        """Raise `VerificationFailed` if the dashboard was not served."""
        self.join(DASHBOARD_SECONDS)
        if not self._served.is_set():
            raise VerificationFailed(f"the dashboard was not served at {self.address} during the scene")


def free_port() -> int:
    """The dashboard's default port, or another one if it is in use."""
    for port in (PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise VerificationFailed("there is no free port for the dashboard at 127.0.0.1")


def settings(state: Path, runtime: Path, port: int, *, loop: bool) -> str:
    """The `config.toml` of the scene, with the dashboard on a port of loopback."""
    quoted = {
        name: json.dumps(str(path.resolve()))
        for name, path in (("pictures", SCENE_PICTURES), ("state", state), ("runtime", runtime))
    }
    return f"""\
[model]
bundle = "{SCENE_BUNDLE}"

[camera]
kind = "synthetic"
path = {quoted["pictures"]}
loop = {str(loop).lower()}
frame_rate = 15.0

[dashboard]
enabled = true
port = {port}

[paths]
state = {quoted["state"]}
runtime = {quoted["runtime"]}
"""


def check_events(events: Sequence[dict[str, Any]]) -> SceneResult:
    """Compare the daemon's events with the script of the scene.

    Raises:
        VerificationFailed: they differ. The script: three objects are registered and recognized when they return, an
            unknown one is rejected, a fourth one is registered, undone, and unknown again.
    """
    registered = tuple(event["name"] for event in events if event["kind"] == "registered")
    undone = [event["name"] for event in events if event["kind"] == "undone"]
    if len(registered) != SCENE_OBJECTS + 1 or undone != [registered[-1]]:
        raise VerificationFailed(
            f"the scene registers {SCENE_OBJECTS + 1} objects and undoes the last one, but the daemon registered "
            f"{', '.join(registered) or 'none'} and undid {', '.join(undone) or 'none'}"
        )
    for name in registered[:SCENE_OBJECTS]:
        _require_return(events, name)
    gone = max(_last(events, "left", name) for name in registered[:SCENE_OBJECTS])
    mistake, undo = _last(events, "registered", registered[-1]), _last(events, "undone", registered[-1])
    false_accepts = [
        event["text"]
        for index, event in enumerate(events)
        if event["kind"] == "appeared" and (gone < index < mistake or index > undo)
    ]
    if false_accepts:
        raise VerificationFailed(f"an unknown object was recognized: {'; '.join(false_accepts)}")
    return SceneResult(registered[:SCENE_OBJECTS], undone[0], len(events), dashboard="")


def _require_return(events: Sequence[dict[str, Any]], name: str) -> None:
    """Raise `VerificationFailed` unless an object appeared and left once after its registration.

    It may still be in view after registration; then it appears and leaves twice.
    """
    sightings = [
        event["kind"]
        for event in events[_last(events, "registered", name) :]
        if event["kind"] in ("appeared", "left") and event["name"] == name
    ]
    if sightings not in (["appeared", "left"], ["appeared", "left"] * 2):
        raise VerificationFailed(
            f'"{name}" was registered and returned once, but after that it {", ".join(sightings) or "never appeared"}'
        )


def _last(events: Sequence[dict[str, Any]], kind: str, name: str) -> int:
    """Index of an object's last event of a kind; -1 if there is none."""
    indices = [
        index for index, event in enumerate(events) if (event["kind"], event.get("name")) == (kind, name)
    ]
    return indices[-1] if indices else -1
