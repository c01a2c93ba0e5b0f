"""The pipeline from images to a report: its files, its output, resuming, and the commands on its results."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from msgspec import structs
from onnx import numpy_helper
from PIL import Image

from edge_siamese.models.bundle import MANIFEST, load_bundle, sha256
from export import pipeline, records
from export.__main__ import main
from export.conversion.verification import Verification
from export.data import cache
from export.data.data_card import DataCard
from export.encoders import ENCODERS
from export.evaluation.benchmark import Benchmark
from export.evaluation.evaluate import Evaluation
from export.evaluation.verdict import SHIPPED, TRAINED, Verdict
from export.training import train as training
from export.training.network import load_run
from export.training.settings import ENCODER_DEFAULTS, TrainingSettings
from export.training.train import learning_rate
from tests.export.conversion.test_onnx import Tiny

SPLITS = ("train", "validation", "evaluation")
CLASSES, EACH = 6, 6
LEFT = {
    ".bundle.part.lock", "benchmark.json", "classes.json", "data_card.json", "evaluation.json", "report.html",
    "verdict.json", "verification.json",
    "train/best.pt", "train/checkpoint.pt", "train/data.json", "train/history.jsonl", "train/settings.json",
    "bundle/MODEL_CARD.md", "bundle/golden.npz", "bundle/impostors.npy", "bundle/manifest.json",
    "bundle/encoder.fp32.onnx", "bundle/encoder.fp32.tflite", "bundle/encoder.int8.onnx", "bundle/encoder.int8.tflite",
}  # fmt: skip


def write_photos(folder: Path) -> None:
    """Blocks of ink in three splits: alike within a class, unlike between classes."""
    rng = np.random.default_rng(0)
    for split in SPLITS:
        for number in range(CLASSES):
            place = folder / split / f"{split}-{number}"
            place.mkdir(parents=True)
            blocks = (rng.integers(0, 2, (4, 4)) * 180).repeat(4, axis=0).repeat(4, axis=1)
            for view in range(EACH):
                pixels = blocks + rng.integers(0, 75, blocks.shape)
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{view}.png")


@dataclass(frozen=True)
class Made:
    """A pipeline that was interrupted once and then went on to its end."""

    words: list[str]
    out: Path
    statuses: list[int]
    printed: str
    stopped: str

    @property
    def command(self) -> str:
        return shlex.join(["python", "-m", "export", *self.words])

    def files(self) -> dict[str, int]:
        """Name to time of change, the curves for TensorBoard excepted."""
        found = {
            path.relative_to(self.out).as_posix(): path for path in self.out.rglob("*") if path.is_file()
        }
        return {n: p.stat().st_mtime_ns for n, p in found.items() if not n.startswith("train/tensorboard/")}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("pipeline")
    write_photos(folder / "photos")
    words = [
        "pipeline",
        "--data",
        f"folder:{folder / 'photos'}",
        "--encoder",
        "tiny",
        "--out",
        str(folder / "out"),
    ]
    words += ["--int8-budget", "5"]

    def stop_at_third_step(settings: TrainingSettings, step: int, epoch_steps: int) -> float:
        if step == 2:
            signal.raise_signal(signal.SIGINT)
        return learning_rate(settings, step, epoch_steps)

    with pytest.MonkeyPatch.context() as patch:
        torch.set_num_threads(1)
        patch.setenv(cache.VARIABLE, str(folder / "cache"))
        patch.setitem(ENCODERS, "tiny", Tiny)
        short = TrainingSettings(
            encoder="tiny", steps=6, batch=12, validations=3, validation_episodes=60, symmetries=False
        )
        patch.setitem(ENCODER_DEFAULTS, "tiny", short)
        once = functools.partial(pipeline.run_pipeline, rounds=1)
        patch.setattr("export.cli.pipeline.run_pipeline", once)
        patch.setattr(sys, "argv", ["export", *words])
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            with pytest.MonkeyPatch.context() as interruption:
                interruption.setattr(training, "learning_rate", stop_at_third_step)
                first = main(words)
            stopped = err.getvalue()
            second = main(words)
        yield Made(words, folder / "out", [first, second], out.getvalue(), stopped)


def history(out: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (out / "train" / "history.jsonl").read_text().splitlines()]


def test_an_interrupted_pipeline_says_so_and_the_same_command_goes_on(made: Made) -> None:
    assert made.statuses == [130, 0]
    assert made.stopped.splitlines()[-1] == "stopped at step 3 of 6; the same command resumes from there"
    assert history(made.out) == [2, 4, 6]


def test_it_leaves_the_run_the_bundle_the_figures_and_the_report_and_nothing_else(made: Made) -> None:
    assert set(made.files()) == LEFT
    assert sorted(path.name for path in made.out.iterdir()) == [
        ".bundle.part.lock", "benchmark.json", "bundle", "classes.json", "data_card.json", "evaluation.json", "report.html",
        "train", "verdict.json", "verification.json",
    ]  # fmt: skip


def test_the_data_card_is_in_the_run(made: Made) -> None:
    card = records.read(DataCard, made.out / "data_card.json")
    assert (card.pictures, len(card.classes), card.findings, card.caution) == (108, 18, (), "")
    assert "108 pictures of 18 classes (subfolders)\n" in made.stopped
    assert "No duplicates, and no damaged or unsuitable pictures." in (made.out / "report.html").read_text()


def test_it_ends_with_the_place_of_the_report(made: Made) -> None:
    assert made.printed.splitlines()[-1] == f"report: {made.out / 'report.html'}"
    assert "network, torch" in made.printed and "5-way 1-shot" in made.printed


def test_the_network_and_both_int8_files_are_evaluated_on_the_same_classes(made: Made) -> None:
    found = records.read_all(Evaluation, made.out / "evaluation.json")
    bundle = load_bundle(made.out / "bundle")
    assert [(e.encoder.runtime, e.encoder.precision) for e in found] == [
        ("torch", "fp32"),
        ("ai-edge-litert", "int8"),
        ("onnxruntime", "int8"),
    ]
    for evaluation in found:
        assert evaluation.encoder.model_id == bundle.manifest.model_id
        assert dataclasses.asdict(evaluation.data) == {
            "name": "evaluation", "split": "evaluation", "classes": 6, "groups": 1, "images": 36,
        }  # fmt: skip
        assert [(e.way, e.shot, e.within_group, e.episodes) for e in evaluation.episodes] == [
            (5, 1, False, 2000), (5, 5, False, 2000),
        ]  # fmt: skip
        assert len(evaluation.skipped) == 2
        assert evaluation.command == made.command
        checks = evaluation.verification.thresholds if evaluation.verification else ()
        assert [c.probability for c in checks] == [t.probability for t in bundle.manifest.thresholds]
    exact, *rounded = (evaluation.episodes[0].accuracy for evaluation in found)
    assert rounded == pytest.approx([exact, exact], abs=0.02)


def test_the_verdict_is_on_screen_and_in_the_report(made: Made) -> None:
    found = records.read(Verdict, made.out / "verdict.json")
    assert [candidate.name for candidate in found.candidates] == [SHIPPED, TRAINED]
    assert (found.way, found.classes, found.training_classes, found.skipped) == (6, 6, 6, ())
    assert found.sentence.startswith(f"Use {found.choice}") and found.advice.startswith(
        "Training is not advised: 6 "
    )
    assert f"\n{found.sentence}\n{found.advice}\n" in made.printed
    assert found.advice in made.stopped
    page = (made.out / "report.html").read_text(encoding="utf-8")
    assert found.sentence in page and found.advice in page and "16.7 %" in page


def test_every_file_was_verified(made: Made) -> None:
    found = records.read(Verification, made.out / "verification.json")
    assert (found.passed, found.int8_budget, found.worst_layers, found.failures) == (True, 5.0, (), ())
    assert found.command == made.command
    here = {(f.format, f.precision) for f in found.files if f.runtime in ("onnxruntime", "ai-edge-litert")}
    assert here == {("onnx", "fp32"), ("onnx", "int8"), ("tflite", "fp32"), ("tflite", "int8")}
    for file in found.files:
        assert file.worst_cosine > (0.99999 if file.precision == "fp32" else 0.98)
        assert file.accuracy is not None
        assert file.loss_points == pytest.approx(100 * (found.network_accuracy - file.accuracy))


def test_every_file_was_measured_for_one_round(made: Made) -> None:
    found = records.read(Benchmark, made.out / "benchmark.json")
    assert (found.rounds, found.runs, found.command) == (1, 300, made.command)
    assert found.model_id == load_bundle(made.out / "bundle").manifest.model_id
    assert {(row.format, row.precision) for row in found.rows} >= {("onnx", "int8"), ("tflite", "int8")}
    for row in found.rows:
        size = (made.out / "bundle" / f"encoder.{row.precision}.{row.format}").stat().st_size
        assert (row.file_bytes, row.threads, len(row.round_p50_ms)) == (size, 1, 1)
        assert row.accuracy is not None


def test_the_report_is_of_this_network(made: Made) -> None:
    text = (made.out / "report.html").read_text(encoding="utf-8")
    assert load_bundle(made.out / "bundle").manifest.model_id in text
    assert "--encoder tiny" in text


def test_the_model_card_says_what_it_is_made_of(made: Made) -> None:
    manifest = load_bundle(made.out / "bundle").manifest
    card = (made.out / "bundle" / "MODEL_CARD.md").read_text(encoding="utf-8")
    lines = card.splitlines()
    assert lines[0] == f"# {manifest.model_id}"
    assert "- Training data: train, 36 images of 6 classes, under their own license." in lines
    step = manifest.provenance["step"]
    assert f"- Training: the weights of step {step} of 6 were kept; seed 0, objective `cosine`." in lines
    assert "- Input: 16 x 16, gray, uint8." in lines
    assert "## Figures on held-out classes (validation)" in lines
    sizes = {(m.format, m.precision): f"{m.bytes:,}" for m in manifest.models}
    assert f"| onnx fp32 | {sizes['onnx', 'fp32']} | float |" in lines
    how = manifest.model("tflite", "int8").quantization
    assert f"| tflite int8 | {sizes['tflite', 'int8']} | {how} |" in lines
    assert sum(line.startswith(("| onnx", "| tflite")) for line in lines) == 4


def test_the_same_command_again_trains_nothing_and_makes_the_same_files(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made.out, tmp_path / "before")
    before, bundle = made.files(), load_bundle(made.out / "bundle").manifest
    assert main(made.words) == 0
    after = made.files()
    assert set(after) == LEFT
    assert {name for name in LEFT if after[name] == before[name]} == {
        n for n in LEFT if n.startswith(("train/", ".bundle"))
    }
    again = load_bundle(made.out / "bundle").manifest
    assert (again.model_id, again.models, again.head, again.thresholds) == (
        bundle.model_id,
        bundle.models,
        bundle.head,
        bundle.thresholds,
    )
    printed = capsys.readouterr()
    assert "\nstep " not in printed.err and "were kept: one-shot" in printed.err


def test_other_settings_are_refused_before_anything_is_touched(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    before = made.files()
    assert main([*made.words, "--batch", "16"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: {made.out / 'train'} holds a run with other settings (batch: 16, not 12); "
        "choose another --out, or --fresh"
    )
    assert made.files() == before


def test_a_pipeline_whose_files_are_not_the_network_ends_with_1_after_its_report(
    made: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = records.read(Verification, made.out / "verification.json")
    failed = dataclasses.replace(found, passed=False, worst_layers=("onnx: pool (Conv, bad)",))
    result = pipeline.PipelineResult(
        load_bundle(made.out / "bundle"),
        failed,
        records.read_all(Evaluation, made.out / "evaluation.json"),
        records.read(Benchmark, made.out / "benchmark.json"),
        made.out / "report.html",
    )
    monkeypatch.setattr("export.cli.pipeline.run_pipeline", lambda *_, **__: result)
    assert main(made.words) == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == f"report: {made.out / 'report.html'}"
    assert printed.err.endswith(
        f"\nerror: {found.model_id}: a file does not behave like the network within 5 points; "
        "worst layer of onnx: pool (Conv, bad)\n"
    )


def test_verify_of_the_directory_prints_json_alone(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(made.out), "--json", "--int8-budget", "5"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["passed"] is True and printed["worst_layers"] == printed["failures"] == []
    before = json.loads((made.out / "verification.json").read_text())
    assert printed["network_accuracy"] == before["network_accuracy"]


def damaged_copy(made: Made, to: Path) -> Path:
    """The pipeline's directory with an int8 ONNX file that sees a single point of a single channel, and says so in
    its manifest: whole, but not the network."""
    shutil.copytree(made.out, to)
    bundle = load_bundle(to / "bundle")
    path = bundle.model_path("onnx", "int8")
    model = onnx.load(str(path))
    (weight,) = (t for t in model.graph.initializer if t.name == "encoder.pool.weight_quantized")
    values = np.zeros_like(numpy_helper.to_array(weight))
    values[0, 0, 3, 3] = 127
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, str(path))
    models = tuple(
        structs.replace(m, bytes=path.stat().st_size, sha256=sha256(path)) if m.path == path.name else m
        for m in bundle.manifest.models
    )
    changed = structs.replace(bundle.manifest, models=models)
    (to / "bundle" / MANIFEST).write_text(changed.to_json(), encoding="utf-8")
    return to


def test_verify_of_a_file_that_is_not_the_network_exits_with_1_and_names_the_worst_layer(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = damaged_copy(made, tmp_path / "damaged")
    out = tmp_path / "found.json"
    assert main(["verify", str(damaged), "--json", "--out", str(out)]) == 1
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert json.loads(out.read_text()) == found
    assert found["passed"] is False
    (worst,) = found["worst_layers"]
    assert worst.startswith("onnx: pool (Conv, signal-to-noise ")
    (why,) = found["failures"]
    lost = {(f["format"], f["precision"]): f["loss_points"] for f in found["files"]}
    assert why == f"onnx int8 on onnxruntime: lost {lost['onnx', 'int8']:.2f} points of one-shot accuracy"
    assert printed.err.splitlines()[-1] == (
        f"error: {found['model_id']}: a file does not behave like the network within 0.5 points: {why}; "
        f"worst layer of {worst}"
    )
    assert lost["onnx", "int8"] > 5.0 and abs(lost["onnx", "fp32"]) < 0.1


def test_verify_with_another_run_is_refused(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(made.out / "train", other)
    state = torch.load(other / "best.pt", weights_only=True)
    state["weights"]["embedding.bias"] += 1.0
    torch.save(state, other / "best.pt")
    ours, theirs = load_run(made.out).model_id, load_run(other).model_id
    assert ours != theirs
    assert main(["verify", str(made.out), "--run", str(other)]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: {made.out / 'bundle'} contains {ours}, but {other} contains {theirs}; name its run with --run"
    )


def test_evaluate_and_benchmark_take_the_directory_and_print_json_alone(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--shapes", "5x1", "--episodes", "50", "--pairs", "100", "--json"]
    assert main(["evaluate", str(made.out), "--runtime", "torch", *few]) == 0
    torch_said = json.loads(capsys.readouterr().out)
    assert torch_said["encoder"]["runtime"] == "torch" and torch_said["episodes"][0]["episodes"] == 50
    assert main(["benchmark", str(made.out), "--no-accuracy", "--rounds", "1", "--runs", "3", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["rounds"], said["runs"], said["accuracy_of"]) == (1, 3, "")
    assert {row["accuracy"] for row in said["rows"]} == {None}


def test_report_writes_the_page_again(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert main(["report", str(made.out), "--out", str(page)]) == 0
    assert capsys.readouterr().out == f"{page}\n"
    assert "<html" in page.read_text(encoding="utf-8")
