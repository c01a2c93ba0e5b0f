"""`reproduce`: a column for each runtime, the written files, messages on missing data, and the measured rest."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from edge_siamese import models
from edge_siamese.errors import SettingsError
from export import records
from export import reproduce as module
from export.__main__ import main
from export.cli import reproduce as command
from export.data import cache
from export.encoders import ENCODERS
from export.evaluation.evaluate import Evaluation
from export.evaluation.loading import open_model
from export.reproduce import Check, Column, columns, further_checks, measure, reproduce, standard_checks
from export.training import checkpoint
from tests.export.conversion.test_onnx import Tiny, tiny
from tests.export.test_commands import write_photos
from tests.tiny_bundle import MODEL_ID, write_tiny_bundle


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose shipped bundles are tiny, with photographs to evaluate on, and no second interpreter."""
    torch.set_num_threads(1)
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr("export.evaluation.remote_runtime.CHECKOUT_DEVICE_PYTHON", tmp_path / "nowhere")
    monkeypatch.delenv("EDGE_SIAMESE_DEVICE_PYTHON", raising=False)
    monkeypatch.setitem(ENCODERS, "tiny", Tiny)
    monkeypatch.setattr(module, "BENCHMARKS", tmp_path / "benchmarks")
    monkeypatch.setattr(module, "BUILD", tmp_path / "build")
    monkeypatch.setattr(command, "BENCHMARKS", tmp_path / "benchmarks")
    monkeypatch.setattr(models, "DIRECTORY", tmp_path / "models")
    for name in ("glyphs", "objects"):
        write_tiny_bundle(tmp_path / "models" / name)
    write_photos(tmp_path / "photos" / "evaluation", 6)
    return tmp_path


def keep_weights(at: Path, data: Path) -> None:
    provenance = {"settings": {"data": f"folder:{data}", "seed": 4}, "validation_accuracy": 0.5}
    state = {"encoder": "tiny", "weights": tiny().state_dict(), "provenance": provenance}
    checkpoint.save(at / "train" / "best.pt", state)


def photos(place: Path, **changes: object) -> Check:
    values = {
        "name": "shop",
        "path": place / "models/objects",
        "data": f"folder:{place / 'photos'}",
        "episodes": 20,
    }
    return Check(**{**values, **changes})  # type: ignore[arg-type]


def test_every_runtime_has_a_column_and_the_float_weights_and_registration_have_theirs(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = photos(place, weights=(place / "benchmarks/objects", place / "build/objects"))
    found, missing = columns(check)
    assert [(c.runtime, c.supports) for c in found] == [
        ("onnxruntime", "plain"), ("ai-edge-litert", "plain"), ("onnxruntime", "augmented"),
    ]  # fmt: skip
    assert len(missing) == 1 and missing[0].startswith("tflite-runtime works neither here nor")
    keep_weights(place / "build/objects", place / "photos")
    assert columns(check)[0] == found  # weights of another network than the bundle's
    monkeypatch.setattr(module, "load_run", lambda path: SimpleNamespace(model_id=MODEL_ID))
    assert columns(check)[0] == [Column(place / "build/objects", "torch"), *found]
    quick, missing = columns(photos(place, thorough=False))
    assert [(c.runtime, c.supports) for c in quick] == [("onnxruntime", "plain")]
    assert missing == []


def test_a_check_writes_its_figures_and_prints_tables_and_commands(place: Path) -> None:
    told = list[str]()
    ((check, text),) = reproduce([photos(place)], place / "out", progress=told.append)
    assert isinstance(text, str)
    found = records.read_all(Evaluation, place / "out/shop/evaluation.json")
    assert [(e.encoder.runtime, e.supports) for e in found] == [
        ("onnxruntime", "plain"), ("ai-edge-litert", "plain"), ("onnxruntime", "augmented"),
    ]  # fmt: skip
    assert {(e.encoder.model_id, e.data.classes, e.episodes[0].episodes) for e in found} == {
        (MODEL_ID, 6, 20)
    }
    assert text.startswith(f"## shop on {check.data}\n\n`{MODEL_ID}`: 24 images of 6 classes")
    header = "|  | ONNX int8, onnxruntime | TFLite int8, ai-edge-litert |"
    assert text.count(header) == 3  # accuracy, unknown objects, verification
    commands = re.search(r"```sh\n(.*)```", text, re.DOTALL)
    assert commands and commands[1].splitlines() == [e.command for e in found]
    assert found[1].command == (
        f".venv/bin/python -m export evaluate {place}/models/objects --data folder:{place}/photos"
        " --runtime ai-edge-litert --episodes 20"
    )
    assert told[-1] == f"shop on {check.data}: onnxruntime, augmented supports"


def test_what_is_missing_is_said_and_the_rest_is_measured(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checks = [
        Check("glyphs", place / "models/glyphs", "omniglot", 20),
        Check("objects", place / "models/objects", "grocery", 20),
        photos(place),
    ]
    monkeypatch.setattr(command, "standard_checks", lambda: checks)
    words = ["reproduce", "--out", str(place / "out"), "--data-root", str(place / "data"), "--episodes", "10"]
    assert main(words) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("## shop on folder:") and printed.out.count("\n## ") == 0
    assert printed.err.splitlines()[-1] == "error: not measured: glyphs, objects"
    assert "glyphs was not measured: there is no folder" in printed.err
    assert "env -u EDGE_SIAMESE_DATA .venv/bin/python -m export reproduce glyphs" in printed.err
    assert (
        "git clone --depth 1 https://github.com/marcusklasson/GroceryStoreDataset DIR/grocery" in printed.err
    )
    assert sorted(path.name for path in (place / "out").iterdir()) == ["shop"]
    assert json.loads((place / "out/shop/evaluation.json").read_text())[0]["episodes"][0]["episodes"] == 10
    assert main([*words, "shop"]) == 0


def test_figures_to_be_stated_go_into_benchmarks(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "standard_checks", lambda: [photos(place, thorough=False)])
    assert main(["reproduce", "--write"]) == 0
    assert (place / "benchmarks/shop/evaluation.json").is_file()


def test_a_bundle_that_does_not_ship_is_said(place: Path) -> None:
    ((_, error),) = reproduce([photos(place, path=place / "models/birds")], place / "out", progress=print)
    assert "birds" in str(error) and not isinstance(error, str)


def test_further_photographs_are_for_what_knows_photographs(place: Path) -> None:
    assert [(c.name, c.data, c.episodes) for c in standard_checks()] == [
        ("glyphs", "omniglot", 10_000), ("objects", "grocery", 1_000),
    ]  # fmt: skip
    assert [c.name for c in further_checks("shop", "folder:x")] == ["objects-shop"]
    keep_weights(place / "build/imagenet", place / "photos")
    assert [(c.name, c.data) for c in standard_checks()][2:] == [("imagenet", "grocery")]
    assert [(c.name, c.data, c.thorough) for c in further_checks("shop", "folder:x")] == [
        ("objects-shop", "folder:x", False), ("imagenet-shop", "folder:x", False),
    ]  # fmt: skip


def test_a_run_is_measured_with_a_head_fitted_on_its_own_data(place: Path) -> None:
    own = write_photos(place / "own", 9)
    keep_weights(place / "build/imagenet", own)
    baseline = photos(place, path=place / "build/imagenet")
    found, _ = columns(baseline)
    assert [(c.runtime, c.supports) for c in found] == [("torch", "plain")]
    result = measure(open_model(baseline.path, "torch"), baseline.data, episodes=10, supports="augmented")
    assert (result.encoder.runtime, result.supports, result.data.classes) == ("torch", "augmented", 6)


@pytest.mark.parametrize("text", ["folder:x", "=folder:x", "a b=folder:x", "../a=folder:x", "a="])
def test_further_data_need_a_name(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["reproduce", "--also", text])
    assert left.value.code == 2
    assert "is not of the form NAME=DATA, such as market=folder:photos" in capsys.readouterr().err


def test_a_name_that_nothing_has_is_an_error() -> None:
    with pytest.raises(SettingsError, match="there is no check named 'birds'; choose from glyphs, objects"):
        command.chosen(["birds"])


def test_the_directory_of_the_data_is_that_of_their_first_source() -> None:
    assert module._root(Path("data"), "grocery,turntable:build/x") == Path("data/grocery")
    assert module._root(Path("data"), "folder:x") is None
