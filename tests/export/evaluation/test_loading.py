"""Targets of `evaluate`: bundles and runs, with their heads and data."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_siamese import models
from edge_siamese.errors import BundleNotFound, DataError, SettingsError
from edge_siamese.models.bundle import Bundle
from edge_siamese.recognition.imaging import Preprocessing
from export.__main__ import main
from export.data import same_source
from export.data.images import ImageSet, OneShotRun, Splits
from export.encoders import build_encoder
from export.evaluation import loading
from export.evaluation.head_calibration import fit_head
from export.evaluation.loading import data_for, frames_for, head_for, open_bundle, open_model, splits_of
from export.evaluation.one_shot import official_trials
from export.evaluation.remote_runtime import CHECKOUT, open_encoder
from export.provenance import data_fingerprint
from export.training import checkpoint
from export.training.network import TorchEncoder


def drawn(preprocessing: Preprocessing, seed: int) -> ImageSet:
    """Two groups of six classes: blocks of ink that differ much between classes and little within."""
    rng = np.random.default_rng(seed)
    labels = np.arange(12).repeat(5)
    coarse = rng.integers(0, 2, (12, 4, 4))[labels] * 200
    height, width, channels = preprocessing.shape
    pictures = (
        coarse.repeat(height // 4, axis=1).repeat(width // 4, axis=2)[..., None].repeat(channels, axis=3)
    )
    return ImageSet(
        name=f"blocks {seed}",
        images=(pictures + rng.integers(0, 55, pictures.shape)).astype(np.uint8),
        labels=labels,
        class_names=tuple(f"class{c}" for c in range(12)),
        class_groups=np.arange(2).repeat(6),
        group_names=("first", "second"),
        drawers=np.tile(np.arange(5), 12),
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, Path | None]]:
    """What was asked of `load_splits`, which gives blocks."""
    calls: list[tuple[str, int, Path | None]] = []

    def load(data: str, preprocessing: Preprocessing, data_root: Path | None = None, seed: int = 0) -> Splits:
        calls.append((data, seed, data_root))
        train, validation, evaluation = (drawn(preprocessing, seed) for seed in range(3))
        firsts = evaluation.images[::5]
        run = OneShotRun("run01", firsts[:6], evaluation.images[1:31:5], np.arange(6))
        return Splits(train, validation, evaluation, (run,))

    monkeypatch.setattr(loading, "load_splits", load)
    return calls


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a training run that has not trained at all."""
    directory = tmp_path_factory.mktemp("run") / "train"
    weights = build_encoder("glyphnet").state_dict()
    provenance = {"settings": {"data": "folder:photos", "seed": 7}}
    checkpoint.save(
        directory / "best.pt", {"encoder": "glyphnet", "weights": weights, "provenance": provenance}
    )
    return directory


def test_a_bundle_brings_its_head_its_thresholds_and_its_data(onnx_bundle: Bundle) -> None:
    for path in (onnx_bundle.path, onnx_bundle.path.parent):
        found = open_model(path, "onnxruntime", "fp32")
        assert (found.encoder.runtime, found.encoder.precision) == ("onnxruntime", "fp32")
        assert found.head is not None
        assert (found.head.scale, found.head.bias) == (8.0, 6.0)
        assert [t.false_accept_rate for t in found.thresholds] == [0.01]
        assert (found.data, found.seed) == ("glyphs", 3)


def test_a_shipped_bundle_is_opened_by_its_name(nothing_shipped: Path, onnx_bundle: Bundle) -> None:
    shutil.copytree(onnx_bundle.path, nothing_shipped / "objects")
    assert open_model(Path("objects")).encoder.model_id == onnx_bundle.manifest.model_id
    with pytest.raises(SettingsError, match=r"^glyphs does not exist; name a bundle"):
        open_model(Path("glyphs"))


def test_a_run_is_the_network_itself(run: Path) -> None:
    for path in (run, run.parent):
        found = open_model(path)
        assert isinstance(found.encoder, TorchEncoder)
        assert (found.head, found.thresholds, found.data, found.seed) == (None, (), "folder:photos", 7)


def test_the_data_are_those_of_the_training_unless_others_are_named(
    onnx_bundle: Bundle, asked: list[tuple[str, int, Path | None]]
) -> None:
    found = open_model(onnx_bundle.path)
    assert data_for(found)[0] == "glyphs"
    assert data_for(found, "omniglot", Path("archives"))[0] == "omniglot"
    assert asked == [("glyphs", 3, None), ("omniglot", 3, Path("archives"))]


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("omniglot", "omniglot:characters", True),
        ("omniglot:Greek,Latin", "omniglot:characters", True),
        ("omniglot", "glyphs", False),
        ("folder:photos", "folder:./photos", True),
        ("folder:photos", "folder:others", False),
        ("grocery", "grocery", True),
    ],
)
def test_data_that_share_classes(one: str, other: str, shared: bool) -> None:
    assert same_source(one, other) is same_source(other, one) is shared


def test_another_split_of_omniglot_is_refused_where_classes_were_trained_on(
    asked: list[tuple[str, int, Path | None]],
) -> None:
    provenance = {"settings": {"data": "omniglot:characters"}, "data_fingerprint": "of 1,100 characters"}
    with pytest.raises(SettingsError, match="omniglot has changed since the network was trained"):
        splits_of(provenance, Preprocessing(8, 8), "omniglot")


def test_frames_are_the_same_data_at_twice_the_size(
    onnx_bundle: Bundle, asked: list[tuple[str, int, Path | None]]
) -> None:
    found = open_model(onnx_bundle.path)
    _, splits = data_for(found, "omniglot", Path("archives"))
    frames = frames_for(found, "omniglot", Path("archives"))
    assert asked == [("omniglot", 3, Path("archives"))] * 2
    (_, height, width, channels) = splits.evaluation.images.shape
    assert frames.evaluation.images.shape[1:] == (2 * height, 2 * width, channels)
    assert frames.evaluation.class_names == splits.evaluation.class_names


def test_data_that_have_changed_since_the_training_are_refused(
    asked: list[tuple[str, int, Path | None]],
) -> None:
    size = Preprocessing(8, 8)
    settings = {"data": "folder:photos", "seed": 7}
    fingerprint = data_fingerprint(splits_of({"settings": settings}, size)[1])
    same = {"settings": settings, "data_fingerprint": fingerprint}
    assert splits_of(same, size)[0] == "folder:photos"
    other = {**same, "data_fingerprint": "0" * 16}
    with pytest.raises(SettingsError, match=r"^folder:photos has changed since"):
        splits_of(other, size)
    # Other data have nothing to agree with.
    assert splits_of(other, size, "folder:kitchen")[0] == "folder:kitchen"
    with pytest.raises(SettingsError, match="does not record its training data; choose data with --data"):
        splits_of({}, size)


def test_the_head_of_a_run_is_fitted_on_the_validation_classes_of_its_own_data(
    run: Path, asked: list[tuple[str, int, Path | None]]
) -> None:
    found = open_model(run)
    data, splits = data_for(found, "glyphs")
    head, _ = head_for(found, data, splits)
    assert head.scale > 0.0
    assert [name for name, _, _ in asked] == ["glyphs", "folder:photos"]
    data, splits = data_for(found)
    assert head_for(found, data, splits)[0].scale == head.scale
    assert [name for name, _, _ in asked] == ["glyphs", "folder:photos", "folder:photos"]


@pytest.mark.parametrize(
    ("name", "runtime", "message"),
    [
        ("absent", "auto", "absent does not exist"),
        ("", "auto", "is not a training run"),
        ("", "onnxruntime", "is not a bundle, and onnxruntime runs only bundles"),
    ],
)
def test_neither_a_bundle_nor_a_run(tmp_path: Path, name: str, runtime: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        open_model(tmp_path / name, runtime)


def test_evaluate_prints_json_alone(
    onnx_bundle: Bundle,
    asked: list[tuple[str, int, Path | None]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "evaluation.json"
    words = [
        "evaluate",
        str(onnx_bundle.path),
        "--runtime",
        "onnxruntime",
        "--shapes",
        "5x1",
        "6x2",
        "--episodes",
        "20",
    ]
    assert main([*words, "--pairs", "200", "--json", "--out", str(out)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["official"]["correct"] == 6
    assert [(e["way"], e["shot"], e["within_group"]) for e in printed["episodes"]] == [
        (5, 1, True),
        (6, 2, True),
        (5, 1, False),
        (6, 2, False),
    ]
    assert printed["encoder"] == {
        "model_id": "projection-0123456789ab",
        "runtime": "onnxruntime",
        "precision": "int8",
        "reason": printed["encoder"]["reason"],
    }
    assert printed["verification"]["thresholds"][0]["probability"] == 0.8
    assert json.loads(out.read_text()) == [printed]


def test_evaluate_prints_tables(
    onnx_bundle: Bundle, asked: list[tuple[str, int, Path | None]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "evaluate",
        str(onnx_bundle.path),
        "--runtime",
        "onnxruntime",
        "--shapes",
        "5x1",
        "9x1",
        "--episodes",
        "20",
    ]
    assert main([*words, "--pairs", "200"]) == 0
    printed = capsys.readouterr()
    assert "official 6-way 1-shot" in printed.out
    assert "6 of 6 trials" in printed.out
    assert "skipped: 9-way 1-shot within groups" in printed.out
    assert "calibration error (ECE)" in printed.out
    assert "onnxruntime" in printed.err


@pytest.mark.parametrize("shape", ["20", "1x1", "5x0", "ax1"])
def test_evaluate_refuses_a_shape_that_is_none(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "x", "--shapes", shape])
    assert stop.value.code == 2
    assert f"'{shape}' is not of the form NxK" in capsys.readouterr().err


def test_evaluate_of_nothing_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path / "absent")]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines == [
        f"error: {tmp_path / 'absent'} does not exist; name a bundle or the directory of a training run"
    ]


def test_data_that_cannot_be_loaded_is_one_line(
    onnx_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> Splits:
        raise DataError("there is no data set 'birds'")

    monkeypatch.setattr(loading, "load_splits", refuse)
    assert main(["evaluate", str(onnx_bundle.path), "--data", "birds"]) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1] == "error: there is no data set 'birds'"


def test_the_figures_are_those_of_a_process_without_torch(
    onnx_bundle: Bundle, asked: list[tuple[str, int, Path | None]], tmp_path: Path
) -> None:
    _, splits = data_for(open_model(onnx_bundle.path))
    (trials,) = splits.official_runs
    np.savez(tmp_path / "run.npz", supports=trials.supports, queries=trials.queries, answers=trials.answers)
    script = f"""
import sys
for name in ("torch", "onnx", "PIL", "export"):
    sys.modules[name] = None
import json
import numpy as np
from edge_siamese.models.bundle import load_bundle
from edge_siamese.runtimes.selection import load_encoder
bundle = load_bundle({str(onnx_bundle.path)!r})
encoder = load_encoder(bundle, "onnxruntime", "int8", threads=1)
run = np.load({str(tmp_path / "run.npz")!r})
scores = bundle.head.score(encoder.embed(run["queries"]), encoder.embed(run["supports"]))
print(json.dumps([scores.tolist(), int((scores.argmax(axis=1) == run["answers"]).sum())]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    scores, correct = json.loads(done.stdout)
    encoder = open_encoder(onnx_bundle, "onnxruntime", "int8", threads=1)
    result, _ = official_trials(encoder, splits.official_runs, onnx_bundle.head)
    assert result.correct == correct == 6
    here = onnx_bundle.head.score(encoder.embed(trials.queries), encoder.embed(trials.supports))
    np.testing.assert_array_equal(np.array(scores, dtype=np.float32), here)


def test_a_folder_is_the_same_however_its_path_is_spelled(
    asked: list[tuple[str, int, Path | None]],
) -> None:
    other = {"settings": {"data": "folder:photos", "seed": 7}, "data_fingerprint": "0" * 16}
    for spelled in ("folder:photos/", "folder:./photos", f"folder:{Path('photos').absolute()}"):
        with pytest.raises(SettingsError, match="has changed since the network was trained"):
            splits_of(other, Preprocessing(8, 8), spelled)


def test_a_run_and_its_bundle_have_the_same_head_whatever_the_seed(
    run: Path, asked: list[tuple[str, int, Path | None]]
) -> None:
    found = open_model(run)
    assert found.seed == 7
    data, splits = data_for(found)
    head, thresholds = head_for(found, data, splits)
    fitted = fit_head(
        found.encoder.embed(splits.validation.images), splits.validation
    )  # as build_bundle does
    assert (head.scale, head.bias, thresholds) == (fitted.head.scale, fitted.head.bias, fitted.thresholds)


def test_a_bundle_is_found_by_directory_pipeline_and_shipped_name(
    onnx_bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "bundle").symlink_to(onnx_bundle.path)
    for path in (onnx_bundle.path, tmp_path / "pipeline"):
        assert open_bundle(path).manifest == onnx_bundle.manifest
    assert open_bundle(Path("glyphs")).path == models.shipped("glyphs")
    with pytest.raises(
        BundleNotFound, match="no bundle at birds: no such directory; shipped bundles: glyphs"
    ):
        open_bundle(Path("birds"))
