"""The demo on the device's side: what a process without torch recognizes, and the scene that the daemon plays."""

from __future__ import annotations

import dataclasses
import json
import socket
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_siamese import Recognizer
from edge_siamese.cameras.camera import Frame
from edge_siamese.cameras.synthetic.scene import demo_scene
from edge_siamese.cameras.synthetic.script import Press
from edge_siamese.daemon.engine import Engine
from edge_siamese.errors import EncoderError, VerificationFailed
from edge_siamese.events import Event
from edge_siamese.models.bundle import Bundle, load_bundle
from edge_siamese.panel.press_grammar import Gesture
from edge_siamese.recognition.imaging import Preprocessing, prepare
from edge_siamese.runtimes.selection import load_encoder
from edge_siamese.settings import Settings
from edge_siamese.settings_file import parse_settings
from edge_siamese.store import SupportStore
from export import demo, records
from export.__main__ import main
from export.cli import demo as command
from export.data.images import ImageSet, Splits
from export.demo import (
    NAMES,
    SCENE_PICTURES,
    DashboardProbe,
    SceneResult,
    check_events,
    free_port,
    recognize,
    require_device,
    settings,
)
from export.evaluation import remote_runtime
from export.evaluation.remote_runtime import DEVICE_PYTHON_VARIABLE
from export.reporting.report import Demo
from export.training.settings import settings_for

PICTURES = [
    *(f"{name}-{role}" for name in NAMES for role in ("support", "query", "query-2")),
    "unknown-1", "unknown-2", "unknown-3",
]  # fmt: skip


CHOSEN = [0, 2, 3, 4, 5, 6, 7, 8]
"""The first five objects and three strangers of the first group, to which class 1 does not belong."""


def drawn(alike: bool = True, classes: int = 10, views: int = 3) -> Splits:
    """Bars at other places for each class; all views of a class are alike, or differ in a corner."""
    pictures = np.full((classes * views, 12, 12, 1), 255, dtype=np.uint8)
    for index, picture in enumerate(pictures):
        row, column = divmod(index // views, 4)
        picture[1 + 3 * row : 5 + 3 * row, column * 3 : column * 3 + 3] = 20 * (index // views)
        picture[11, 11] = 255 if alike else 50 * (index % views)
    images = ImageSet(
        name="bars evaluation",
        images=pictures,
        labels=np.arange(classes).repeat(views),
        class_names=tuple(f"bar{c}" for c in range(classes)),
        class_groups=np.array([0, 1] + [0] * (classes - 2)),
        group_names=("first", "second"),
        drawers=np.tile(np.arange(views), classes),
    )
    return Splits(images, images, images)


@pytest.fixture(autouse=True)
def no_interpreter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever this machine has, a test says itself which interpreter there is."""
    monkeypatch.delenv(DEVICE_PYTHON_VARIABLE, raising=False)
    monkeypatch.setattr(remote_runtime, "CHECKOUT_DEVICE_PYTHON", tmp_path / "none")


def pretend(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> Path:
    """A device that keeps what it was asked in `asked` and then runs a line of shell."""
    python = folder / "python"
    python.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" > '{folder}/asked'\n{script}\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv(DEVICE_PYTHON_VARIABLE, str(python))
    return python


def said(answers: list[tuple[str | None, float]]) -> dict[str, Any]:
    return {
        "recognitions": [{"name": name, "probability": p, "runner_up": None} for name, p in answers],
        "threshold": 0.75,
        "runtime": "tflite-runtime",
        "precision": "int8",
    }


@pytest.mark.system
def test_a_process_without_torch_decides_as_the_recognizer_does(
    bundle: Bundle, device_python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DEVICE_PYTHON_VARIABLE, str(device_python))
    without = subprocess.run([str(device_python), "-c", "import torch"], capture_output=True, text=True)
    assert "No module named 'torch'" in without.stderr
    splits = drawn()
    found = recognize(bundle, splits, tmp_path)
    assert (found.runtime, found.precision) == ("tflite-runtime", "int8")
    assert [q.truth for q in found.queries] == [name for name in NAMES for _ in range(2)] + [None] * 3
    # Another runtime, in this process, decides the same by the same rules.
    here = Recognizer(bundle, runtime="ai-edge-litert", threads=1)
    images = splits.evaluation.images[::3][CHOSEN]
    for name, image in zip(NAMES, images[:5], strict=True):
        here.register(name, image)
    assert found.threshold == pytest.approx(here.threshold, abs=0.05)
    assert found.threshold >= bundle.manifest.threshold_at(1e-2).probability == 0.75
    shown = [*np.repeat(images[:5], 2, axis=0), *images[5:]]
    for query, image in zip(found.queries, shown, strict=True):
        decision = here.recognize(image)
        assert query.answer == decision.name
        assert query.probability == pytest.approx(decision.probability, abs=0.1)


def test_the_device_is_asked_with_files_alone(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "said.json").write_text(json.dumps(said([("ama", 0.9)] * 13)))
    pretend(monkeypatch, tmp_path, f"cat '{tmp_path}/said.json'")
    monkeypatch.chdir(tmp_path)
    recognize(bundle, drawn(), Path("out"))
    asked = (tmp_path / "asked").read_text().splitlines()
    pictures = tmp_path / "out" / "pictures"
    assert asked[:4] == ["-m", "edge_siamese", "recognize", str(bundle.path.resolve())]
    queries = [str(pictures / f"{name}.png") for name in PICTURES if not name.endswith("-support")]
    assert asked[4:17] == queries
    options = [word for name in NAMES for word in ("--object", f"{name}={pictures}/{name}-support.png")]
    assert asked[17:] == [*options, "--json"]


def test_pictures_are_of_one_group_each_object_once_for_support_and_twice_to_ask(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "said.json").write_text(json.dumps(said([("ama", 0.9)] * 13)))
    pretend(monkeypatch, tmp_path, f"cat '{tmp_path}/said.json'")
    splits = drawn(alike=False)
    recognize(bundle, splits, tmp_path)
    assert sorted(p.stem for p in (tmp_path / "pictures").iterdir()) == sorted(PICTURES)
    images = splits.evaluation
    shown = [(c, view) for c in CHOSEN[:5] for view in range(3)] + [(c, 0) for c in CHOSEN[5:]]
    for name, (of, view) in zip(PICTURES, shown, strict=True):
        with Image.open(tmp_path / "pictures" / f"{name}.png") as picture:
            assert picture.mode == "L"
            pixels = np.asarray(picture)
        np.testing.assert_array_equal(pixels, images.images[images.images_of(of)[view], ..., 0])
        # The device prepares the picture to the very bytes that it was drawn from.
        np.testing.assert_array_equal(prepare(pixels, Preprocessing(12, 12))[..., 0], pixels)


def test_answers_are_put_down_beside_the_truth(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[tuple[str | None, float]] = [(name, 0.9) for name in NAMES for _ in range(2)]
    answers[3] = ("duri", 0.8)  # beko taken for duri
    answers[9] = (None, 0.3)  # gona not recognized
    answers += [(None, 0.1), ("felu", 0.76), (None, 0.2)]
    (tmp_path / "said.json").write_text(json.dumps(said(answers)))
    pretend(monkeypatch, tmp_path, f"cat '{tmp_path}/said.json'")
    found = recognize(bundle, drawn(), tmp_path)
    assert [(q.answer, q.probability) for q in found.queries] == answers
    assert [i for i, q in enumerate(found.queries) if not q.right] == [3, 9, 11]
    assert found.right == 10
    assert (found.threshold, found.runtime, found.command) == (0.75, "tflite-runtime", "make demo")
    assert [s.name for s in found.supports] == list(NAMES)
    assert all(
        item.picture.startswith("data:image/png;base64,") for item in (*found.supports, *found.queries)
    )
    # All views of a class are the same picture here, so those of an object are those of its support.
    assert [q.picture for q in found.queries[:10]] == [s.picture for s in found.supports for _ in range(2)]
    assert records.read(Demo, tmp_path / "demo.json") == found


def test_without_an_interpreter_nothing_is_drawn(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(EncoderError) as raised:
        recognize(bundle, drawn(), tmp_path / "out")
    assert str(raised.value) == "there is no interpreter without torch; `make setup` creates .venv-device"
    assert not (tmp_path / "out").exists()


def test_a_device_that_fails_is_one_line_and_leaves_no_record(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = pretend(monkeypatch, tmp_path, "echo noise; echo 'error: no runtime is installed' >&2; exit 1")
    with pytest.raises(EncoderError) as raised:
        recognize(bundle, drawn(), tmp_path)
    assert (
        str(raised.value)
        == f"{python} -m edge_siamese recognize failed with 1: error: no runtime is installed"
    )
    assert not (tmp_path / "demo.json").exists()


@dataclasses.dataclass
class Asked:
    """What the demo command asked of its parts."""

    pipeline: list[tuple[Any, Any, dict[str, Any]]] = dataclasses.field(default_factory=list)
    passed: bool = True


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Asked:
    """The demo command over parts that only remember; verification fails where a test says so."""
    asked = Asked()
    monkeypatch.setattr(command, "splits_for", lambda settings, encoder, root: drawn())

    def run_pipeline(settings: Any, splits: Any, out: Any, **options: Any) -> Any:
        asked.pipeline.append((settings, out, options))
        return SimpleNamespace(bundle=None, evaluations=(), verification=None, benchmark=None)

    def require(_: Any) -> None:
        if not asked.passed:
            raise VerificationFailed("a file does not behave like the network")

    demo = SimpleNamespace(
        runtime="tflite-runtime",
        precision="int8",
        right=12,
        chance=13 / 6,
        queries=[0] * 13,
        supports=[0] * 5,
    )
    monkeypatch.setattr(command, "require_device", lambda: Path(sys.executable))
    monkeypatch.setattr(command, "run_pipeline", run_pipeline)
    monkeypatch.setattr(command, "recognize", lambda bundle, splits, out: demo)

    def play_scene(out: Path, tell: Any) -> SceneResult:
        tell('"object 1" is registered')
        return SceneResult(("object 1", "object 2", "object 3"), "object 4", 22, "http://127.0.0.1:8765")

    monkeypatch.setattr(command, "play_scene", play_scene)
    monkeypatch.setattr(command, "write_report", lambda out: out / "report.html")
    monkeypatch.setattr(command.verify, "show", lambda found: None)
    monkeypatch.setattr(command.verify, "require", require)
    monkeypatch.setattr(command.benchmark, "show", lambda found: None)
    return asked


def test_the_demo_is_a_short_pipeline_on_drawn_glyphs(
    parts: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--out", str(tmp_path)]) == 0
    ((settings, out, options),) = parts.pipeline
    assert settings == settings_for(
        "glyphnet", data="glyphs", steps=command.STEPS, batch=command.BATCH, validations=6
    )
    assert settings.steps < 0.1 * settings_for("glyphnet").steps
    assert options["int8_budget"] == 1.0
    assert (out, options["fresh"], options["command"]) == (tmp_path, False, "make demo")
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "Without torch, on tflite-runtime int8: 12 of 13 pictures named correctly, after one picture of each of 5 objects; "
        "guessing gives 2.2." in printed
    )
    assert (
        'dashboard: "object 1" is registered object 1, object 2, object 3: registered at the button'
        in printed
    )
    assert "The dashboard was at http://127.0.0.1:8765. `make run` runs the scene" in printed
    assert f"Report: {tmp_path}/report.html" in printed
    assert main(["demo", "--out", str(tmp_path), "--fresh"]) == 0
    assert parts.pipeline[1][2]["fresh"] is True


def test_the_demo_asks_for_the_device_before_it_trains(
    parts: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "require_device", require_device)
    assert main(["demo", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        "error: there is no interpreter without torch; `make setup` creates .venv-device\n"
    )
    assert parts.pipeline == []


def test_the_demo_shows_everything_and_then_fails_if_a_file_is_not_the_network(
    parts: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts.passed = False
    assert main(["demo", "--out", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "12 of 13 pictures named correctly" in " ".join(printed.out.split())
    assert printed.err == "error: a file does not behave like the network\n"


@pytest.mark.parametrize(
    ("former", "fresh"),
    [
        (None, False),
        ({}, False),
        ({"steps": 7}, True),
        ({"momentum": 0.9}, True),
        ("{half a fi", True),
        ("[]", True),
    ],
)
def test_a_run_that_this_demo_cannot_continue_is_trained_again(
    parts: Asked, tmp_path: Path, former: dict[str, Any] | str | None, fresh: bool
) -> None:
    if former is not None:
        assert main(["demo", "--out", str(tmp_path)]) == 0
        settings = dataclasses.asdict(parts.pipeline.pop()[0])
        (tmp_path / "train").mkdir()
        text = former if isinstance(former, str) else json.dumps({**settings, **former})
        (tmp_path / "train" / "settings.json").write_text(text)
    assert main(["demo", "--out", str(tmp_path)]) == 0
    assert parts.pipeline[0][2]["fresh"] is fresh


def test_there_are_names_for_five_objects_and_three_strangers() -> None:
    assert (NAMES, demo.UNKNOWN) == (("ama", "beko", "duri", "felu", "gona"), 3)


# --- the scene ---


def event(kind: str, name: str = "", sighting: str = "") -> dict[str, Any]:
    return {"kind": kind, "name": name, "sighting": sighting, "text": f"{name} {kind}"}


def scene() -> list[dict[str, Any]]:
    """All as it should be: while an object is learned it lies there still, so it appears twice."""
    events = [event("started")]
    for number in (1, 2, 3):
        name = f"object {number}"
        events += [event(kind, name) for kind in ("registered", "appeared", "left", "appeared", "left")]
    events += [event(kind, "object 4") for kind in ("registered", "appeared", "left", "undone")]
    return [*events, event("stopping")]


def place(events: list[dict[str, Any]], kind: str, name: str) -> int:
    return next(i for i, found in enumerate(events) if (found["kind"], found["name"]) == (kind, name))


def test_the_story_as_it_should_be() -> None:
    assert check_events(scene()) == SceneResult(("object 1", "object 2", "object 3"), "object 4", 21, "")


def test_an_object_that_was_not_seen_while_it_was_learned_need_not_appear_twice() -> None:
    events = scene()
    first = place(events, "registered", "object 2")
    del events[first + 1 : first + 3]
    assert check_events(events).recognized[1] == "object 2"


def test_an_object_that_is_not_recognized_when_it_comes_back() -> None:
    events = scene()
    first = place(events, "registered", "object 2")
    del events[first + 1 : first + 5]
    with pytest.raises(
        VerificationFailed, match='"object 2" was registered and returned once, but after that it never'
    ):
        check_events(events)


def test_an_object_that_flickers() -> None:
    events = scene()
    first = place(events, "registered", "object 1")
    events[first + 5 : first + 5] = [event("appeared", "object 1"), event("left", "object 1")]
    with pytest.raises(VerificationFailed, match="appeared, left, appeared, left, appeared, left"):
        check_events(events)


@pytest.mark.parametrize("where", ["before the mistake", "after the undo"])
def test_a_stranger_that_is_taken_for_an_object(where: str) -> None:
    events = scene()
    index = place(events, "registered", "object 4") if where == "before the mistake" else len(events) - 1
    events[index:index] = [event("appeared", "object 4")]
    with pytest.raises(VerificationFailed, match="an unknown object was recognized: object 4 appeared"):
        check_events(events)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("registered", "object 3", "registered object 1, object 2, object 4 and undid object 4"),
        ("undone", "object 4", "undid none"),
    ],
)
def test_a_registration_or_an_undo_that_is_missing(kind: str, name: str, message: str) -> None:
    events = scene()
    del events[place(events, kind, name)]
    with pytest.raises(VerificationFailed, match=message):
        check_events(events)


def test_the_settings_are_those_of_the_daemon(tmp_path: Path) -> None:
    place = tmp_path / 'a "quoted" place'
    found = parse_settings(settings(place, tmp_path / "run", 9000, loop=False))
    assert found.model.bundle == "objects"
    assert found.state_directory == place
    # Nothing is made easier for the scene.
    assert (found.recognition, found.registration) == (Settings().recognition, Settings().registration)
    assert (found.dashboard.enabled, found.dashboard.listen, found.dashboard.port) == (
        True,
        "127.0.0.1",
        9000,
    )
    assert (found.camera.kind, found.camera.path, found.camera.loop) == (
        "synthetic",
        str(SCENE_PICTURES),
        False,
    )


def test_the_shipped_bundle_recognizes_the_things_of_the_scene(tmp_path: Path) -> None:
    """The engine watches the scene on a clock of its own, so that a slow machine sees the same."""
    found = parse_settings(settings(tmp_path, tmp_path, 9000, loop=False))
    bundle = load_bundle(found.model.bundle)
    encoder = load_encoder(bundle, threads=1)
    scene = demo_scene(found.camera, "rgb")
    events: list[Event] = []
    store = SupportStore(None, encoder.model_id, encoder.dimensions)
    engine = Engine(found, bundle, encoder, store, publish=events.append)
    gestures = [
        (step.start + 0.5, Gesture.PRESS if step.duration < found.panel.hold_s else Gesture.HOLD)
        for step in sorted(scene.steps, key=lambda step: step.start)
        if isinstance(step, Press)
    ]
    assert [gesture for _, gesture in gestures] == [Gesture.PRESS] * 4 + [Gesture.HOLD]
    for number in range(1, round(8 * scene.script.end)):
        now = number / 8
        while gestures and gestures[0][0] <= now:
            engine.gesture(gestures.pop(0)[1], 1000 + now)
        engine.process_frame(Frame(scene.frame(now), 1000 + now, number))
        engine.tick(1000 + now)
    store.close()
    result = check_events(
        [{"kind": event.kind, "name": event.data.get("name", ""), "text": event.text} for event in events]
    )
    assert (result.recognized, result.undone) == (("object 1", "object 2", "object 3"), "object 4")


def test_a_port_that_is_taken_is_left_to_who_has_it() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(demo, "PORT", taken)
            assert free_port() not in (taken, 0)
            other.close()
            assert free_port() == taken


def test_a_dashboard_that_is_not_served_fails_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "DASHBOARD_SECONDS", 0.5)
    probe = DashboardProbe(f"http://127.0.0.1:{free_port()}")
    probe.start()
    with pytest.raises(VerificationFailed, match="the dashboard was not served at"):
        probe.require()
