"""The examples: scripts and notebooks run, their pictures are small and credited, and the pages show them."""

from __future__ import annotations

import functools
import importlib
import json
import re
import shlex
import socket
import threading
from pathlib import Path
from types import ModuleType

import nbclient
import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

from edge_siamese.errors import DataError
from export import pipeline
from export.data import cache
from export.encoders import ENCODERS
from export.training.settings import ENCODER_DEFAULTS, TrainingSettings
from scripts import draw_example_pictures, draw_turning_objects
from tests.edge_siamese.mqtt.scripted_broker import ACCEPTED_5, ScriptedBroker, refused_5
from tests.export.conversion.test_onnx import Tiny

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
PICTURES, TURNING = EXAMPLES / "pictures", EXAMPLES / "turning"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
CACTUS, MILK = PICTURES / "cactus", PICTURES / "milk"
MAX_PICTURES_BYTES, MAX_TURNING_BYTES = 250_000, 350_000
FAST = {
    "teach_and_recognize": "REGISTERED = 3",
    "train_and_read_the_verdict": 'ENCODER, STEPS, OUT = "glyphnet", 2, Path("{folder}")',
}
"""What the cell with the tag `parameters` is followed by."""


def example(name: str) -> ModuleType:
    return importlib.import_module(f"examples.{name}")


# --- scripts ---


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_help_of_a_script_has_examples_that_parse(
    script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = example(script.stem)
    with pytest.raises(SystemExit) as left:
        module.main(["--help"])
    assert left.value.code == 0
    calls = re.findall(
        rf"^  \.venv/bin/python examples/{script.name} (.*)$", joined(capsys.readouterr().out), re.MULTILINE
    )
    assert calls
    readme = joined((EXAMPLES / "README.md").read_text(encoding="utf-8"))
    shown = re.findall(rf"^\.venv/bin/python examples/{script.name} (.*)$", readme, re.MULTILINE)
    assert shown, f"examples/README.md does not show {script.name}"
    for call in calls + shown:
        module.build_parser().parse_args(shlex.split(call, comments=True))


def joined(text: str) -> str:
    """A text whose lines do not continue after a backslash."""
    return re.sub(r"\\\n\s*", "", text)


def test_a_folder_is_recognized(capsys: pytest.CaptureFixture[str]) -> None:
    objects = ["--object", f"cactus={CACTUS / '1.webp'}", "--object", f"milk={MILK / '1.webp'}"]
    assert example("recognize_video").main([str(CACTUS), *objects]) == 0
    assert re.fullmatch(r"frame 1: cactus \(p = [\d.]+; next: milk, [\d.]+\)\n", capsys.readouterr().out)


def test_a_video_that_does_not_exist_is_an_error_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["nowhere.mp4", "--object", f"cactus={CACTUS / '1.webp'}"]
    assert example("recognize_video").main(words) == 1
    assert (
        capsys.readouterr().err
        == "error: nowhere.mp4: there is no such file or folder; correct camera.path\n"
    )


def test_an_object_without_a_picture_is_an_error_of_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        example("recognize_video").main([str(CACTUS), "--object", "cactus"])
    assert left.value.code == 2
    assert "--object takes NAME=PICTURE, not cactus" in capsys.readouterr().err


def test_a_bundle_is_evaluated(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["objects", str(PICTURES), "--registered", "4", "--draws", "2"]
    assert example("evaluate_bundle").main(words) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "4 of 12 classes registered from one picture each, 2 draws"
    found = [
        re.fullmatch(r"  (.*?): +(.*?) +([\d.]+)%  \(([\d.]+)% to ([\d.]+)%(.*)\)", line) for line in lines
    ]
    assert [row and row[2] for row in found] == [
        "nearest object is right", "recognized", "wrong name", "passes for an object",
    ]  # fmt: skip
    right, recognized, wrong, passed = (float(row[3]) for row in found if row)
    assert right >= 90 and recognized >= 70 and wrong <= 5 and passed <= 10
    assert found[0] and found[0][6] == "; chance 25%"


def test_more_classes_than_the_folder_has_cannot_be_registered(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        example("evaluate_bundle").main(["objects", str(PICTURES), "--registered", "12"])
    assert "--registered must be from 2 to 11: there are 12 classes" in capsys.readouterr().err


def event(kind: str, identity: str) -> bytes:
    return json.dumps({"kind": kind, "text": f"mug {kind}", "id": identity, "device": "hall"}).encode()


def test_events_are_printed_once_and_by_their_kind(capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedBroker(ACCEPTED_5) as broker:

        def publish() -> None:
            while not broker.subscribed:
                threading.Event().wait(0.01)
            for payload in (
                event("appeared", "1"),
                event("appeared", "1"),
                event("settings", "2"),
                b"[]",
                event("left", "3"),
            ):
                broker.send("edge-siamese/hall/event", payload)

        publisher = threading.Thread(target=publish)
        publisher.start()
        words = ["127.0.0.1", "--port", str(broker.port), "--device", "hall", "--count", "2"]
        assert example("mqtt_events").main([*words, "--kind", "appeared", "--kind", "left"]) == 0
        publisher.join()
    assert broker.subscribed == ["edge-siamese/hall/event"]
    printed = capsys.readouterr()
    assert printed.out == "  hall  appeared: mug appeared\n  hall  left: mug left\n"
    assert printed.err == "edge-siamese/hall/event: not an event\n"


def test_a_broker_that_refuses_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedBroker(refused_5(0x87)) as broker:
        assert example("mqtt_events").main(["127.0.0.1", "--port", str(broker.port)]) == 1
    assert capsys.readouterr().err == "error: the broker refuses the connection: Not authorized\n"


def test_a_broker_that_cannot_be_reached_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and nothing listens there
        port = closed.getsockname()[1]
        assert example("mqtt_events").main(["127.0.0.1", "--port", str(port)]) == 1
    assert capsys.readouterr().err == f"error: 127.0.0.1:{port}: Connection refused\n"


def test_an_encoder_is_trained_on_a_folder_and_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setitem(ENCODERS, "tiny", Tiny)
    short = TrainingSettings(
        encoder="tiny", steps=2, batch=12, validations=1, validation_episodes=60, symmetries=False
    )
    monkeypatch.setitem(ENCODER_DEFAULTS, "tiny", short)
    script = example("train_on_folder")
    monkeypatch.setattr(
        script, "run_pipeline", functools.partial(pipeline.run_pipeline, rounds=1, int8_budget=100)
    )
    torch.set_num_threads(1)
    assert script.main([str(PICTURES), "--encoder", "tiny", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "2 classes that were not trained on; chance is 50%\n" in printed
    assert "Use the shipped bundle objects: no improvement over it is shown" in printed
    assert "Training is not advised: 8 training classes are fewer than 10." in printed
    assert printed.endswith(f'in Python: Recognizer("{tmp_path / "out" / "bundle"}")\n')
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert f"python examples/train_on_folder.py {PICTURES} --encoder tiny" in report
    assert f"python -m export {PICTURES}" not in report


# --- notebooks ---


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = nbformat.read(path, as_version=4)
    (place,) = (
        number for number, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ())
    )
    fast = FAST[path.stem].format(folder=tmp_path)
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(fast))
    client = nbclient.NotebookClient(
        notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(EXAMPLES)}}
    )
    client.execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    if path.stem == "teach_and_recognize":
        assert "to register: basketball, biplane, briefcase\n" in printed
        strangers = re.search(r"strangers: (\d+) of 45 pictures pass for a registered thing", printed)
        assert strangers and int(strangers[1]) <= 4
        assert "imported: objects 3, views" in printed
    else:
        assert re.search(r"^train +48 pictures of 8 classes: ", printed, re.MULTILINE)
        assert "Use the shipped bundle objects: no improvement over it is shown" in printed
        assert "Training is not advised" in printed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


# --- pictures and pages ---


def test_the_pictures_are_small_and_each_thing_is_credited() -> None:
    paths = sorted(PICTURES.rglob("*.*"))
    assert {path.suffix for path in paths} == {".webp"}
    assert sum(path.stat().st_size for path in paths) <= MAX_PICTURES_BYTES
    for path in paths:
        with Image.open(path) as picture:
            assert picture.size == (160, 160)
    assert credited_in("Pictures") == {path.parent.name for path in paths}


def credited_in(section: str) -> set[str]:
    """The folder names of the CC0 models that a section of the README credits; it credits no others."""
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    text = readme.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    models = [
        re.fullmatch(r"\| \S.* \| \[CC0-1\.0\]\(\S+\) \| BlendSwap-CC-0 \| (.*) \|", row) for row in rows
    ]
    assert rows and all(models)
    return {model[1].lower().replace(" ", "-") for model in models if model}


def test_the_views_of_turning_objects_are_cut_out_and_each_object_is_credited() -> None:
    paths = sorted(path for path in TURNING.rglob("*") if path.is_file())
    assert sum(path.stat().st_size for path in paths) <= MAX_TURNING_BYTES
    objects = {path.parent.name.partition("-")[2]: 0 for path in paths}
    for path in paths:
        objects[path.parent.name.partition("-")[2]] += 1
        with Image.open(path) as picture:
            assert (picture.size, picture.mode, picture.format) == ((160, 160), "RGBA", "WEBP")
            low, high = picture.getchannel("A").getextrema()
            assert (low, high) == (0, 255)
    assert set(objects.values()) == {len(draw_turning_objects.AZIMUTHS)}
    assert credited_in("Turning objects") == set(objects)
    assert {name.lower().replace(" ", "-") for name in draw_turning_objects.OBJECTS} == set(objects)


def test_views_of_a_turning_object_are_cropped_alike() -> None:
    views = [np.zeros((64, 64, 4), np.uint8) for _ in range(2)]
    views[0][16:48, 20:28] = (250, 0, 0, 255)
    views[1][16:48, 36:44] = (0, 250, 0, 255)
    left, right = (np.asarray(picture) for picture in draw_turning_objects.cropped(views))
    assert left.shape == right.shape == (160, 160, 4)
    # 35 rows of 64 become 160; the object of 32 rows is in the middle of them.
    for picture, columns in ((left, (25, 61)), (right, (98, 134))):
        y, x = np.nonzero(picture[..., 3] > 127)
        assert abs(y.min() - 7) <= 1 and abs(y.max() - 152) <= 1
        assert abs(x.min() - columns[0]) <= 1 and abs(x.max() - columns[1]) <= 1
    assert left[80, 43].tolist() == [250, 0, 0, 255] and right[80, 116].tolist() == [0, 250, 0, 255]


def test_a_picture_shows_its_thing_in_front_of_a_background() -> None:
    cut_out = np.zeros((64, 64, 4), np.uint8)
    cut_out[16:48, 16:48] = (250, 0, 0, 255)
    plain, table, again = (
        draw_example_pictures.draw(cut_out, np.random.default_rng(1), is_plain)
        for is_plain in (True, False, True)
    )
    assert plain.shape == table.shape == (160, 160, 3)
    assert np.array_equal(plain, again)
    middle = plain[70:90, 70:90].reshape(-1, 3).mean(axis=0)
    assert middle[0] > 200 and max(middle[1:]) < 20
    corners = [picture[:12, :12].std(axis=(0, 1)).max() for picture in (plain, table[-12:, :12])]
    assert corners[0] < 3 < corners[1]


def test_pictures_are_not_drawn_without_the_models(tmp_path: Path) -> None:
    words = ["--models", str(tmp_path / "none.sh3f"), "--out", str(tmp_path)]
    for script in (draw_example_pictures, draw_turning_objects):
        with pytest.raises(DataError, match=r"none\.sh3f"):
            script.main(script.parser.parse_args(words))


def test_each_example_is_shown_on_a_page() -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    for path in (*SCRIPTS, *NOTEBOOKS):
        assert f"(../examples/{path.name})" in pages, f"no page shows {path.name}"
