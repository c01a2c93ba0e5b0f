"""The commands of the workstation: one-line errors for bad input, and the output of bundle, verify and report."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edge_siamese.errors import VerificationFailed
from export.__main__ import main
from export.cli import bundle as bundle_command
from export.cli.verify import require
from export.conversion.quantize import Attempt, QuantizationRecord
from export.conversion.silence import DEBUG_VARIABLE
from export.conversion.verification import Verification
from export.data import cache
from export.encoders import ENCODERS
from export.evaluation import loading
from export.training import checkpoint
from export.training.settings import ENCODER_DEFAULTS, TrainingSettings
from tests.export.conversion.test_onnx import Tiny, tiny
from tests.tiny_bundle import write_tiny_bundle


def surround(monkeypatch: pytest.MonkeyPatch, at: Path) -> None:
    """An encoder that trains in no time, a cache of the test's own, and nothing left of --debug."""
    torch.set_num_threads(1)
    monkeypatch.setitem(ENCODERS, "tiny", Tiny)
    short = TrainingSettings(
        encoder="tiny", steps=6, batch=8, validations=3, validation_episodes=40, symmetries=False
    )
    monkeypatch.setitem(ENCODER_DEFAULTS, "tiny", short)
    monkeypatch.setenv(cache.VARIABLE, str(at / "cache"))
    monkeypatch.setenv(DEBUG_VARIABLE, "")


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    surround(monkeypatch, tmp_path_factory.getbasetemp())


def write_photos(folder: Path, classes: int, each: int = 4) -> Path:
    rng = np.random.default_rng(classes)
    for number in range(classes):
        (folder / f"class{number}").mkdir(parents=True)
        blocks = (rng.integers(0, 2, (4, 4)) * 180).repeat(4, axis=0).repeat(4, axis=1)
        for view in range(each):
            pixels = (blocks + rng.integers(0, 75, blocks.shape)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"class{number}" / f"{view}.png")
    return folder


def train_words(photos: Path, out: Path, *options: str) -> list[str]:
    return ["train", "--encoder", "tiny", "--data", f"folder:{photos}", "--out", str(out), *options]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Everything that a command may be pointed at, good and bad; not to be changed."""
    root = tmp_path_factory.mktemp("places")
    found = {
        "tmp": root,
        "photos": write_photos(root / "photos", 9),
        "one": write_photos(root / "one", 1),
        "empty": root / "empty",
        "file": root / "file",
        "run": root / "run",
        "bundle": write_tiny_bundle(root / "tiny" / "bundle"),
        "short": root / "short",
        "flipped": root / "flipped",
        "strange": root / "strange",
    }
    found["empty"].mkdir()
    found["file"].write_text("a file")
    provenance = {
        "settings": {"data": f"folder:{found['photos']}", "seed": 4},
        "validation_accuracy": 0.5,
    }
    state = {"encoder": "tiny", "weights": tiny().state_dict(), "provenance": provenance}
    checkpoint.save(found["run"] / "best.pt", state)
    checkpoint.save(found["strange"] / "best.pt", {**state, "encoder": "vgg"})
    for name in ("short", "flipped"):
        shutil.copytree(found["bundle"], found[name])
    (found["short"] / "encoder.int8.onnx").write_bytes(b"x")
    damaged = bytearray((found["flipped"] / "encoder.fp32.tflite").read_bytes())
    damaged[-1] ^= 1
    (found["flipped"] / "encoder.fp32.tflite").write_bytes(bytes(damaged))
    return found


TRAIN = "train --encoder tiny --data folder:{photos} --out {tmp}/never"

FAILURES = [
    ("train --data folder:{one} --out {tmp}/never", "{one} has 1 usable classes; it needs at least 2 subfolders"),
    ("train --data folder:{empty} --out {tmp}/never", "{empty} has 0 usable classes; it needs at least 2 subfolders"),
    ("train --data folder:{tmp}/absent --out {tmp}/never", "there is no folder {tmp}/absent; --data folder:PATH requires"),
    ("train --data birds --out {tmp}/never", "there is no data set 'birds'; choose omniglot, glyphs, grocery, folder:"),
    ("train --data folder: --out {tmp}/never", "there is no data set 'folder:'; choose omniglot, glyphs,"),
    (f"{TRAIN} --objective pairs --batch 3", "batch must be a multiple of 4 with the objective pairs, not 3"),
    ("train --encoder tiny --data folder:{photos} --out {file}", "[Errno 17] File exists: '{file}'"),
    ("pipeline --encoder tiny --data birds --out {tmp}/never", "there is no data set 'birds'; choose omniglot,"),
    ("pipeline --encoder tiny --data folder:{photos} --folds 1 --out {tmp}/never", "--folds 1 does not suit 9 classes, of"),
    ("bundle {tmp}/absent --out {tmp}/never", "{tmp}/absent is not a training run: it contains neither best.pt nor"),
    ("bundle {strange} --out {tmp}/never", "{strange}/best.pt holds no weights of an encoder of this release (there is no"),
    ("bundle {run} --data birds --out {tmp}/never", "there is no data set 'birds'; choose omniglot, glyphs,"),
    ("bundle {run} --out {photos}", "{photos} exists and is not a bundle; choose another directory or remove it"),
    ("verify {tmp}/absent", "no bundle at {tmp}/absent: no such directory"),
    ("verify {bundle}", "{tmp}/tiny/train is not a training run: it contains neither best.pt nor train/best.pt"),
    ("verify {bundle} --run {run}", "{bundle} contains tiny-0123456789ab, but {run} contains tiny-"),
    ("verify {short}", "{short}/encoder.int8.onnx has 1 bytes; the manifest says"),
    ("verify {flipped} --run {run}", "{flipped}/encoder.fp32.tflite"),
    ("evaluate {short}", "{short}/encoder.int8.onnx has 1 bytes; the manifest says"),
    ("evaluate {tmp}/absent", "{tmp}/absent does not exist; name a bundle or the directory of a training run"),
    ("evaluate {bundle} --runtime torch", "{bundle} is not a training run: it contains neither best.pt nor"),
    ("evaluate {run} --runtime onnxruntime", "{run} is not a bundle, and onnxruntime runs only bundles"),
    ("evaluate {bundle}", "the network does not record its training data; choose data with --data"),
    ("evaluate {run} --data folder:{one}", "{one} has 1 usable classes; it needs at least 2 subfolders"),
    ("benchmark {tmp}/absent", "no bundle at {tmp}/absent: no such directory"),
    ("benchmark {flipped} --no-accuracy", "{flipped}/encoder.fp32.tflite"),
    ("benchmark {bundle}", "the network does not record its training data; choose data with --data"),
    ("report {tmp}/absent", "{tmp}/absent is not a directory; name the --out of a pipeline"),
    ("report {empty}", "{empty} has nothing to report: neither train/history.jsonl, nor evaluation.json,"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), FAILURES, ids=[words for words, _ in FAILURES])
def test_bad_input_is_status_1_and_one_line(
    words: str, message: str, places: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word.format(**places) for word in words.split()]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    last = printed.err.splitlines()[-1]
    assert last.startswith(f"error: {message.format(**places)}")
    assert printed.err.count("error: ") == 1 and "Traceback" not in printed.err
    assert not (places["tmp"] / "never").exists()
    assert sorted(path.name for path in places["photos"].iterdir()) == [f"class{c}" for c in range(9)]


def test_bundle_uses_the_data_and_the_seed_of_the_run_and_says_how_it_quantized(
    places: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[Any] = []
    kept = Attempt("post-training, percentile ranges", 0.25, 1.0, True)
    lost = Attempt("post-training, min-max ranges", 1.5, 1.0, False)
    broken = Attempt("quantization-aware training", None, 1.0, False, "it diverged")
    results = (
        QuantizationRecord("onnx", (lost, kept), kept.method, 0.3),
        QuantizationRecord("tflite", (lost, broken), lost.method, 0.3),
    )

    def load(name: str, preprocessing: Any, data_root: Any = None, seed: int = 0) -> Any:
        asked.append((name, preprocessing.shape, data_root, seed))
        return "splits"

    def build(network: Any, splits: Any, out: Path, budget: float, progress: Any) -> Any:
        asked.append((network.name, splits, out, budget))
        progress("quantizing")
        manifest = SimpleNamespace(
            model_id="tiny-000000000000", models=[SimpleNamespace(format=name) for name in ("onnx", "tflite")]
        )
        return SimpleNamespace(bundle=SimpleNamespace(manifest=manifest), quantization=results)

    monkeypatch.setattr(loading, "load_splits", load)
    monkeypatch.setattr(bundle_command, "build_bundle", build)
    words = ["bundle", str(places["run"]), "--out", str(tmp_path / "b"), "--int8-budget", "0.3"]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines() == [
        "onnx: kept post-training, percentile ranges (tried: post-training, min-max ranges lost +1.50, "
        "post-training, percentile ranges lost +0.25)",
        "tflite: kept post-training, min-max ranges, over the budget of 0.3 points; a higher --int8-budget accepts it "
        "(tried: post-training, "
        "min-max ranges lost +1.50, quantization-aware training failed)",
        f"tiny-000000000000 is in {tmp_path / 'b'}",
    ]
    assert main([*words, "--data", "glyphs", "--data-root", "archives"]) == 0
    assert asked == [
        (f"folder:{places['photos']}", (16, 16, 1), None, 4),
        ("tiny", "splits", tmp_path / "b", 0.3),
        ("glyphs", (16, 16, 1), Path("archives"), 4),
        ("tiny", "splits", tmp_path / "b", 0.3),
    ]


@pytest.mark.parametrize(
    ("failures", "worst", "end"),
    [
        (("onnx fp32 on onnxruntime: worst cosine 0.5",), (), ": onnx fp32 on onnxruntime: worst cosine 0.5"),
        (
            (
                "onnx int8 on onnxruntime: lost 3.00 points",
                "tflite int8: no runtime on this machine can run it",
            ),
            ("onnx: pool (Conv, signal-to-noise 3.0 dB)", "tflite: stem (CONV_2D, signal-to-noise 4.0 dB)"),
            ": onnx int8 on onnxruntime: lost 3.00 points; tflite int8: no runtime on this machine can run it; worst layer "
            "of onnx: pool (Conv, signal-to-noise 3.0 dB); of tflite: stem (CONV_2D, signal-to-noise 4.0 dB)",
        ),
    ],
)
def test_a_verification_that_failed_names_each_file_and_the_worst_layer_of_each_format(
    failures: tuple[str, ...], worst: tuple[str, ...], end: str
) -> None:
    found = Verification(False, "tiny-000000000000", 0.9, 0.5, (), (), worst, "", "", failures)
    with pytest.raises(VerificationFailed) as raised:
        require(found)
    assert str(raised.value) == (
        f"tiny-000000000000: a file does not behave like the network within 0.5 points{end}"
    )
    require(Verification(True, "tiny-000000000000", 0.9, 0.5, (), (), (), "", ""))


def test_report_needs_no_more_than_a_history(
    tmp_path: Path, places: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "pipeline" / "train"
    assert main(train_words(places["photos"], run)) == 0
    capsys.readouterr()
    assert main(["report", str(run.parent)]) == 0
    assert capsys.readouterr().out == f"{run.parent / 'report.html'}\n"
    (run / "history.jsonl").write_text('{"step": 2}\n')
    assert main(["report", str(run.parent)]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: {run / 'history.jsonl'} is not a history of a training run (")
