"""From a training run to a verified bundle: all four files, one head, and nothing half-written."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import interpreter as litert
from msgspec import structs

from edge_siamese.errors import ExportError, SettingsError, VerificationFailed
from edge_siamese.models.bundle import Bundle, load_bundle
from edge_siamese.models.selftest import self_test
from edge_siamese.recognition.embedding import Encoder
from edge_siamese.recognition.imaging import Floats
from edge_siamese.runtimes.selection import load_encoder
from edge_siamese.runtimes.tflite import TfliteGraph as DeviceGraph
from edge_siamese.system.files import staging_directory
from export.__main__ import main
from export.cli.verify import require, show
from export.conversion import bundle as bundle_module
from export.conversion import verify as verify_module
from export.conversion.bundle import FIGURES, BuiltBundle, build_bundle, impostor_images, model_card
from export.conversion.graph import exported_encoder
from export.conversion.quantize import QuantizationMethod, choose_ranges, collect_statistics
from export.conversion.tflite import TfliteGraph, read_tflite
from export.conversion.verification import Verification
from export.conversion.verify import verify
from export.data.images import ImageSet
from export.evaluation.embeddings import embed_all
from export.evaluation.remote_runtime import encoders_for, installed_runtimes
from export.provenance import outcome_of
from export.training.network import TorchEncoder, TrainedNetwork, load_run
from export.training.train import train
from export.training.validation import default_ways, one_shot_accuracy
from tests.export.training.test_train import SHORT, drawn_splits

ROOT = Path(__file__).parents[3]
SPLITS = drawn_splits(classes=8, each=12)
FILES = {("onnx", "fp32"), ("onnx", "int8"), ("tflite", "fp32"), ("tflite", "int8")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few seconds that distinguishes bars."""
    out = tmp_path_factory.mktemp("pipeline") / "train"
    train(dataclasses.replace(SHORT, steps=60, batch=32, learning_rate=3e-3), SPLITS, out)
    return out


@pytest.fixture(scope="module")
def network(run: Path) -> TrainedNetwork:
    return load_run(run)


@pytest.fixture(scope="module")
def built(run: Path, network: TrainedNetwork) -> BuiltBundle:
    return build_bundle(network, SPLITS, run.parent / "bundle", int8_budget=5.0)


@pytest.fixture(scope="module")
def verified(built: BuiltBundle, network: TrainedNetwork) -> Verification:
    return verify(built.bundle, network, SPLITS.validation, SPLITS.train.images[:16], int8_budget=5.0)


def without_conversions(built: BuiltBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an export take the model files that are made already."""

    def copy(_: object, path: Path) -> None:
        shutil.copyfile(built.bundle.path / path.name, path)

    def quantized(*arguments: object) -> object:
        new = next(argument for argument in arguments if isinstance(argument, Path))
        for name in ("encoder.int8.onnx", "encoder.int8.tflite"):
            shutil.copyfile(built.bundle.path / name, new / name)
        return built.quantization

    monkeypatch.setattr(bundle_module, "export_onnx", copy)
    monkeypatch.setattr(bundle_module, "export_tflite", copy)
    monkeypatch.setattr(bundle_module, "_quantized", quantized)


def beside(place: Path) -> list[str]:
    """What is in the directory of `place`, but for the lock file that stays."""
    return sorted(path.name for path in place.parent.iterdir() if path.name != f".{place.name}.part.lock")


def test_a_bundle_has_all_files_of_the_network_it_was_made_from(
    built: BuiltBundle, network: TrainedNetwork
) -> None:
    manifest = built.bundle.manifest
    assert manifest.model_id == network.model_id
    assert {(model.format, model.precision) for model in manifest.models} == FILES
    assert manifest.encoder.parameters == 366_504
    assert {record.format for record in built.quantization} == {"onnx", "tflite"}
    assert (
        (built.bundle.path / "MODEL_CARD.md")
        .read_text(encoding="utf-8")
        .startswith(f"# {network.model_id}\n")
    )
    assert beside(built.bundle.path) == ["bundle", "train"]


def test_int8_files_hold_no_float_arithmetic(built: BuiltBundle) -> None:
    assert read_tflite(built.bundle.model_path("tflite", "int8")).float_operators() == []
    small, large = (built.bundle.manifest.model("tflite", p).bytes for p in ("int8", "fp32"))
    assert small < 0.35 * large


@pytest.mark.parametrize(("runtime", "precision"), [("onnxruntime", "fp32"), ("onnxruntime", "int8"),
                                                    ("ai-edge-litert", "fp32"), ("ai-edge-litert", "int8")])  # fmt: skip
def test_every_file_is_the_network_and_passes_its_golden_vectors(
    built: BuiltBundle, network: TrainedNetwork, runtime: str, precision: str
) -> None:
    encoder = load_encoder(built.bundle, runtime, precision, threads=1)
    assert self_test(encoder, built.bundle.golden, built.bundle.head).passed
    cosines = np.sum(
        encoder.embed(SPLITS.validation.images)
        * TorchEncoder(network.module).embed(SPLITS.validation.images),
        axis=1,
    )
    assert float(cosines.min()) > (0.9999 if precision == "fp32" else 0.95)


def test_a_process_without_torch_gets_the_same_numbers(built: BuiltBundle, tmp_path: Path) -> None:
    images = SPLITS.evaluation.images[:24]
    here = embed_all(load_encoder(built.bundle, "ai-edge-litert", "int8", threads=1), images)
    np.save(tmp_path / "images.npy", images)
    script = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'PIL', 'export'): sys.modules[name] = None\n"
        "import numpy as np\n"
        "from edge_siamese import load_bundle, load_encoder\n"
        "bundle = load_bundle(sys.argv[1])\n"
        "embeddings = load_encoder(bundle, 'ai-edge-litert', 'int8', threads=1).embed(np.load(sys.argv[2]))\n"
        "np.savez(sys.argv[3], embeddings=embeddings, scores=bundle.head.score(embeddings, embeddings))\n"
    )
    arguments = [str(built.bundle.path), str(tmp_path / "images.npy"), str(tmp_path / "there.npz")]
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, cwd=ROOT, timeout=120)
    there = np.load(tmp_path / "there.npz")
    assert np.array_equal(there["embeddings"], here)
    assert np.array_equal(there["scores"], built.bundle.head.score(here, here))
    head = built.bundle.head
    parts = dataclasses.replace(
        SPLITS.evaluation, images=images, labels=np.repeat([0, 1], 12), drawers=np.tile(np.arange(12), 2),
        class_names=("a", "b"), class_groups=np.array([0, 0]),
    )  # fmt: skip
    assert one_shot_accuracy(there["embeddings"], parts, head, 200, 0) == one_shot_accuracy(
        here, parts, head, 200, 0
    )


def test_verify_passes_the_bundle_and_compares_every_file(verified: Verification) -> None:
    require(verified)
    assert verified.failures == ()
    assert {(file.format, file.precision) for file in verified.files} == FILES
    for file in verified.files:
        assert file.worst_cosine > (0.9999 if file.precision == "fp32" else 0.95)
        assert file.loss_points == pytest.approx(100 * (verified.network_accuracy - (file.accuracy or 0)))


@pytest.mark.system
def test_verify_covers_the_runtime_that_only_the_device_has(
    verified: Verification, device_python: Path
) -> None:
    if "tflite-runtime" not in installed_runtimes(device_python):
        pytest.skip(f"{device_python} has no tflite-runtime")
    here = {file.precision: file for file in verified.files if file.runtime == "tflite-runtime"}
    assert set(here) == {"fp32", "int8"}
    assert {file.format for file in here.values()} == {"tflite"}
    assert not any("tflite-runtime" in line for line in verified.missing)
    assert here["fp32"].worst_cosine > 0.9999 and here["fp32"].largest_score_difference < 1e-3
    assert here["int8"].worst_cosine > 0.95


def test_the_comparison_is_ascii_and_fits_into_80_columns(
    verified: Verification, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    line = "tflite-runtime works neither here nor in [a second] interpreter (/a/long/path/to/an/interpreter/bin/python)"
    int8 = next(file for file in verified.files if file.precision == "int8" and file.format == "tflite")
    slow = dataclasses.replace(int8, runtime="ai-edge-litert", accuracy=0.0, loss_points=100.0)
    show(dataclasses.replace(verified, files=(*verified.files, slow), missing=(line,)))
    printed = capsys.readouterr().out
    assert printed.isascii()
    *table, last = printed.splitlines()
    assert last == f"skipped: {line}"
    assert len(table) == 5 + len(verified.files)
    assert table[0].split() == ["worst", "mean", "diff.", "lost"]
    assert table[1].split() == ["file", "and", "runtime", "cosine", "cosine", "of", "p", "one-shot", "points"]
    assert table[-2].startswith("tflite int8, ai-edge-litert ") and table[-2].endswith("+100.00")
    assert table[-1] == f"{verified.ways}-way one-shot, chance 25.0%, {verified.classes} classes"
    assert all(len(row) <= 80 for row in table)


def test_verify_fails_and_names_the_worst_layer(built: BuiltBundle, network: TrainedNetwork) -> None:
    found = verify(built.bundle, network, SPLITS.validation, SPLITS.train.images[:16], int8_budget=-200.0)
    assert [line for line in found.failures if " on tflite-runtime: " not in line] == [
        f"{file.format} int8 on {file.runtime}: lost {file.loss_points:.2f} points of one-shot accuracy"
        for file in found.files
        if file.precision == "int8" and file.runtime != "tflite-runtime"
    ]
    with pytest.raises(
        VerificationFailed,
        match=r"within -200 points: onnx int8 on onnxruntime: lost \S+ points of one-shot accuracy; "
        r"tflite int8 on ai-edge-litert: lost .*; worst layer of onnx: \S+ .*; of tflite: \S+ ",
    ):
        require(found)


class Altered:
    """An encoder whose embeddings are changed after all."""

    def __init__(self, encoder: Encoder, change: Callable[[Floats], Floats]) -> None:
        self.runtime, self.precision = encoder.runtime, encoder.precision
        self._encoder, self._change = encoder, change

    def embed_prepared(self, images: np.ndarray) -> Floats:
        return self._change(self._encoder.embed_prepared(images))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (np.zeros_like, "worst cosine 0.0000, below 0.999"),
        (lambda embeddings: embeddings * np.float32(np.nan), "worst cosine nan, below 0.999"),
        (lambda embeddings: embeddings * np.float32(2.0), r"p differs by [01]\.\d+, more than 0\.01"),
    ],
)
def test_verify_names_a_float_file_that_is_not_the_network(
    built: BuiltBundle,
    network: TrainedNetwork,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Floats], Floats],
    why: str,
) -> None:
    encoders = [
        Altered(e, change) if (e.runtime, e.precision) == ("onnxruntime", "fp32") else e
        for e in encoders_for(built.bundle)[0]
        if e.runtime != "tflite-runtime"
    ]
    monkeypatch.setattr(verify_module, "encoders_for", lambda bundle: (encoders, []))
    found = verify(built.bundle, network, SPLITS.validation, SPLITS.train.images[:16], int8_budget=5.0)
    with pytest.raises(VerificationFailed, match=f"points: onnx fp32 on onnxruntime: {why}$"):
        require(found)


def test_verify_fails_when_nothing_ran_a_file(
    built: BuiltBundle, network: TrainedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = [e for e in encoders_for(built.bundle)[0] if (e.runtime, e.precision) == ("onnxruntime", "fp32")]
    for encoders, unrun in (
        (only, ["onnx int8", "tflite fp32", "tflite int8"]),
        ([], ["onnx fp32", "onnx int8", "tflite fp32", "tflite int8"]),
    ):
        monkeypatch.setattr(
            verify_module, "encoders_for", lambda bundle, e=encoders: (e, ["litert is missing"])
        )
        found = verify(built.bundle, network, SPLITS.validation, SPLITS.train.images[:16])
        assert not found.passed and found.missing == ("litert is missing",)
        assert found.failures == tuple(f"{file}: no runtime on this machine can run it" for file in unrun)
        with pytest.raises(VerificationFailed, match=r"tflite int8: no runtime on this machine can run it$"):
            require(found)


@pytest.mark.parametrize("budget", [math.nan, math.inf])
def test_a_budget_that_is_no_number_is_refused(
    built: BuiltBundle, network: TrainedNetwork, tmp_path: Path, budget: float
) -> None:
    with pytest.raises(SettingsError, match=f"^the int8 budget must be a number of points, not {budget}$"):
        verify(built.bundle, network, SPLITS.validation, SPLITS.train.images[:16], budget)
    with pytest.raises(SettingsError, match=f"^the int8 budget must be a number of points, not {budget}$"):
        build_bundle(network, SPLITS, tmp_path / "bundle", budget)


@pytest.mark.parametrize("budget", ["nan", "-0.5", "inf"])
@pytest.mark.parametrize("words", [["bundle", "run", "--out", "x"], ["verify", "x"]])
def test_the_command_line_refuses_budgets_that_mean_nothing(
    words: list[str], budget: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*words, f"--int8-budget={budget}"])
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith(f"error: argument --int8-budget: '{budget}' is not a number of at least 0")
    )


def test_verify_refuses_a_network_that_the_bundle_was_not_made_from(
    built: BuiltBundle, network: TrainedNetwork
) -> None:
    other = dataclasses.replace(network, model_id="glyphnet-000000000000")
    with pytest.raises(SettingsError, match=r"contains glyphnet-000000000000; name its run with --run"):
        verify(built.bundle, other, SPLITS.validation, SPLITS.train.images[:16])


def test_an_interrupted_export_leaves_the_former_bundle_whole(
    built: BuiltBundle, network: TrainedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (built.bundle.path / "manifest.json").read_bytes()

    def stop(*_: object) -> Bundle:
        raise KeyboardInterrupt

    without_conversions(built, monkeypatch)
    killed = built.bundle.path.with_name(".bundle.part") / "bundle"
    killed.mkdir(parents=True)
    (killed / "encoder.fp32.onnx").write_bytes(b"what an export that was killed had begun")
    monkeypatch.setattr(bundle_module, "_with_golden_vectors", stop)
    with pytest.raises(KeyboardInterrupt):
        build_bundle(network, SPLITS, built.bundle.path, int8_budget=100.0)
    assert (built.bundle.path / "manifest.json").read_bytes() == before
    assert load_bundle(built.bundle.path).manifest == built.bundle.manifest
    assert beside(built.bundle.path) == ["bundle", "train"]


def test_a_bundle_that_lost_its_name_to_a_power_cut_is_given_it_back_before_anything_else(
    built: BuiltBundle, network: TrainedNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle_module, "fit_head", stop)
    shutil.copytree(built.bundle.path, tmp_path / ".bundle.former")
    (tmp_path / ".bundle.part" / "bundle").mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        build_bundle(network, SPLITS, tmp_path / "bundle")
    assert beside(tmp_path / "bundle") == ["bundle"]
    assert load_bundle(tmp_path / "bundle").manifest == built.bundle.manifest


def test_a_second_export_to_the_same_place_is_refused(network: TrainedNetwork, tmp_path: Path) -> None:
    with staging_directory(tmp_path / ".bundle.part") as first:
        (first / "bundle").mkdir()
        with pytest.raises(
            ExportError,
            match=f"^another export is writing {tmp_path}/bundle; wait for it, or choose another directory$",
        ):
            build_bundle(network, SPLITS, tmp_path / "bundle")
        assert (first / "bundle").is_dir()


def test_of_a_linked_bundle_the_target_is_replaced(
    built: BuiltBundle, network: TrainedNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_conversions(built, monkeypatch)
    target, link = tmp_path / "disk" / "first", tmp_path / "bundle"
    target.parent.mkdir()
    shutil.copytree(built.bundle.path, target)
    (target / "left over").touch()
    link.symlink_to(target)
    again = build_bundle(network, SPLITS, link, int8_budget=5.0)
    assert again.bundle.path == link and link.is_symlink() and link.resolve() == target
    assert not (target / "left over").exists()
    assert load_bundle(target).manifest.models == built.bundle.manifest.models
    assert beside(target) == ["first"] and beside(link) == ["bundle", "disk"]


def test_the_manifest_says_what_each_tflite_file_reads(
    built: BuiltBundle, network: TrainedNetwork, tmp_path: Path
) -> None:
    """Also with the first layer left in float32, and with pixels in float32; the device runs both."""
    manifest = built.bundle.manifest
    assert {(m.format, m.precision): m.input_dtype for m in manifest.models} == {
        ("onnx", "fp32"): "uint8", ("onnx", "int8"): "uint8",
        ("tflite", "fp32"): "uint8", ("tflite", "int8"): "int8",
    }  # fmt: skip
    graph = TfliteGraph(exported_encoder(network.module, quantizable=True), tmp_path)
    images = SPLITS.validation.images[:4]
    mixed = tmp_path / "mixed.tflite"
    graph.quantize(
        mixed, choose_ranges(graph, collect_statistics(graph, images), "min-max"), [graph.steps[0].name]
    )
    assert any(name.startswith(("CONV_2D", "DEPTHWISE")) for name in read_tflite(mixed).float_operators())
    expected = TorchEncoder(network.module).embed_prepared(images)
    for path in (mixed, graph.path):
        device = DeviceGraph(litert, path, threads=1)
        found = device.run(images)
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        assert float(np.sum(found * expected, axis=1).min()) > 0.95
        (reads,) = litert.Interpreter(model_path=str(path)).get_input_details()
        listed = bundle_module._model_file(path, "tflite", "int8", "tried")
        assert listed.input_dtype == np.dtype(reads["dtype"]).name
    assert bundle_module._model_file(graph.path, "tflite", "int8", "tried").input_dtype == "float32"


def test_training_for_int8_happens_once_for_both_formats(
    built: BuiltBundle, network: TrainedNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, graphs = [], []

    class Graph:
        def __init__(self, student: object, place: Path) -> None:
            self.format = "onnx"
            self.student = student
            assert place.is_dir()

    def train_for_int8(module: object, images: np.ndarray) -> str:
        trained.append(len(images))
        return "student"

    def methods(
        graph: Graph, _: object, retrained: Callable[[], Graph], seen: object
    ) -> list[QuantizationMethod]:
        def make(out: Path, _: object) -> str:
            graphs.append(retrained().student)
            shutil.copyfile(built.bundle.model_path("onnx", "int8"), out)
            return ""

        return [QuantizationMethod("quantization-aware training", make)]

    for format in ("onnx", "tflite"):
        monkeypatch.setitem(bundle_module.GRAPHS, format, Graph)
    monkeypatch.setattr(bundle_module, "exported_encoder", lambda module, quantizable: "plain")
    monkeypatch.setattr(bundle_module, "train_for_int8", train_for_int8)
    monkeypatch.setattr(bundle_module, "standard_methods", methods)
    monkeypatch.setattr(
        bundle_module, "_encoder_of", lambda *_: load_encoder(built.bundle, "onnxruntime", "int8", threads=1)
    )
    embeddings = TorchEncoder(network.module).embed_prepared(SPLITS.validation.images)
    bundle_module._quantized(
        network, SPLITS, built.calibration, embeddings, tmp_path, 100.0, lambda line: None
    )
    assert trained == [len(SPLITS.train)]
    assert graphs == ["student", "student"]


def test_figures_say_on_which_pairs_they_were_measured(built: BuiltBundle) -> None:
    found, metrics = built.calibration, built.bundle.manifest.metrics
    assert set(metrics) == set(FIGURES)
    assert metrics["validation_ece"] == found.ece
    assert found.left_out_ece is not None and metrics["validation_left_out_ece"] == found.left_out_ece
    card = (built.bundle.path / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert (
        f"- validation ece: {found.ece:.4f}, expected calibration error (ECE) of p(same), on the pairs"
        in card
    )
    assert (
        f"- validation left out ece: {found.left_out_ece:.4f}, expected calibration error (ECE) of each group"
        in card
    )
    assert found.not_stated == (1e-3, 1e-4)
    assert "\nToo few pairs to state a threshold at: 0.001, 0.0001.\n" in card
    enough = dataclasses.replace(found, not_stated=())
    assert "Too few pairs" not in model_card(built.bundle.manifest, SPLITS, enough)


@pytest.mark.parametrize(
    ("provenance", "stated"),
    [
        ({"settings": {"start": "random"}}, "- Initial weights: random.\n"),
        (
            {"settings": {"start": "run:x"}, "origin": "random"},
            "- Initial weights: those of an earlier run of this program.\n",
        ),
        (
            {"settings": {"start": "run:x"}, "origin": "published"},
            "an earlier run of this program, which started from published weights.\n",
        ),
        (
            {
                "settings": {
                    "start": "bundle:objects",
                    "anti_forgetting_data": "build/varied",
                    "anti_forgetting_weight": 4.0,
                    "objective": "distillation",
                    "published_weight": 0.45,
                },
                "origin": "published",
            },
            "an earlier bundle of this program, which started from published weights.\n"
            "- Distillation: the embeddings of the initial network and, with weight 0.45, of the published one; also of "
            "unrelated pictures (`varied`).\n",
        ),
        (
            {
                "settings": {
                    "start": "published",
                    "anti_forgetting_data": "build/varied",
                    "anti_forgetting_weight": 8.0,
                }
            },
            "- Initial weights: published weights.\n"
            "- Anti-forgetting loss: on unrelated pictures (`varied`), with weight 8.\n",
        ),
    ],
)
def test_the_card_says_where_the_weights_come_from(
    built: BuiltBundle, provenance: dict[str, Any], stated: str
) -> None:
    manifest = structs.replace(built.bundle.manifest, provenance=provenance)
    assert stated in model_card(manifest, SPLITS, built.calibration)


def test_the_card_names_all_sources_of_the_training_data(built: BuiltBundle) -> None:
    sources = [
        {"data": "turntable:build/objects/training", "images": 9952, "classes": 622, "groups": 1},
        {"data": "grocery", "images": 12, "classes": 3, "groups": 1},
    ]
    provenance = {**built.bundle.manifest.provenance, "data": {"further_sources": sources}}
    card = model_card(
        structs.replace(built.bundle.manifest, provenance=provenance), SPLITS, built.calibration
    )
    assert (
        f"images of {SPLITS.train.classes} classes; turntable training, 9,952 images of 622 classes; "
        "grocery, 12 images of 3 classes, under their own license.\n"
    ) in card


def test_the_card_does_not_call_it_training_if_the_starting_weights_were_kept(built: BuiltBundle) -> None:
    settings = {
        "start": "published",
        "steps": 400,
        "anti_forgetting_data": "x",
        "anti_forgetting_weight": 8.0,
    }
    provenance = {"settings": settings, "step": 0}
    card = model_card(
        structs.replace(built.bundle.manifest, provenance=provenance), SPLITS, built.calibration
    )
    data = SPLITS.train
    assert (
        f"- Training: training did not help; the starting weights were kept. Tried on: {data.name}, {len(data)} images of "
        f"{data.classes} classes, under their own license.\n- Initial weights: published weights.\n- Input"
    ) in card
    assert "Training data:" not in card and "similar to the training data" not in card
    untrained = {"settings": {**settings, "steps": 0}, "step": 0}
    card = model_card(structs.replace(built.bundle.manifest, provenance=untrained), SPLITS, built.calibration)
    assert "- Training: no training; these are the starting weights.\n" in card
    assert built.bundle.manifest.provenance["outcome"] == outcome_of(built.bundle.manifest.provenance)


def test_the_card_says_how_often_guessing_is_right(built: BuiltBundle) -> None:
    card = model_card(built.bundle.manifest, SPLITS, built.calibration)
    assert f"was not trained on these {SPLITS.validation.classes} classes" in card
    assert f"Guessing is right one time in {default_ways(SPLITS.validation)} in the one-shot trials" in card


def test_a_set_of_one_group_has_no_figure_of_left_out_groups(
    built: BuiltBundle, network: TrainedNetwork, tmp_path: Path
) -> None:
    alone = dataclasses.replace(built.calibration, left_out_ece=None)
    for path in built.bundle.path.glob("encoder.*"):
        shutil.copyfile(path, tmp_path / path.name)
    manifest = bundle_module._manifest(network, SPLITS, alone, built.quantization, tmp_path)
    assert set(manifest.metrics) == set(FIGURES) - {"validation_left_out_ece"}
    assert "left out ece" not in (tmp_path / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_golden_images_are_pairs_of_both_kinds(built: BuiltBundle) -> None:
    golden = built.bundle.golden
    assert golden.images.shape == (8, 56, 56, 1)
    same = np.array([[a // 2 == b // 2 for b in range(8)] for a in range(8)])
    assert golden.scores[same].min() > golden.scores[~same].max()


def test_impostors_are_embeddings_of_validation_images_by_the_network(
    built: BuiltBundle, network: TrainedNetwork
) -> None:
    """Of few images, all of them; int8 rounds to half a 127th of the largest component, and lengths change as much."""
    validation = SPLITS.validation
    assert len(validation) <= 512
    np.testing.assert_array_equal(impostor_images(validation), np.arange(len(validation)))
    expected = TorchEncoder(network.module).embed_prepared(validation.images)
    assert built.bundle.impostors is not None
    bound = 1.0 / 127 * np.abs(expected).max(axis=1, keepdims=True)
    assert (np.abs(built.bundle.impostors - expected) <= bound).all()
    assert np.load(built.bundle.path / "impostors.npy").dtype == np.int8
    assert [item.path for item in built.bundle.manifest.attachments] == [
        "MODEL_CARD.md",
        "impostors.npy",
        "golden.npz",
    ]


def of_counts(*counts: int) -> ImageSet:
    """Pictures of classes that have so many each, in the order of the classes."""
    labels = np.repeat(np.arange(len(counts)), counts)
    return ImageSet(
        "some",
        np.zeros((len(labels), 1, 1, 1), np.uint8),
        labels,
        tuple(f"class {number}" for number in range(len(counts))),
        np.zeros(len(counts), np.int64),
        ("group",),
        np.full(len(labels), -1),
    )


@pytest.mark.parametrize(
    ("counts", "most", "shares"),
    [
        ((5, 5, 5), 15, [5, 5, 5]),
        ((5, 5, 5), 100, [5, 5, 5]),
        ((5, 5, 5), 9, [3, 3, 3]),
        ((5, 5, 5), 8, [3, 2, 3]),
        ((20, 1, 20), 9, [4, 1, 4]),
        ((3,) * 9, 3, [1, 0, 0, 0, 1, 0, 0, 0, 1]),
        ((3, 0, 3, 0), 4, [2, 0, 2, 0]),
    ],
)
def test_impostors_are_of_as_many_classes_as_possible(
    counts: tuple[int, ...], most: int, shares: list[int]
) -> None:
    images = of_counts(*counts)
    chosen = impostor_images(images, most)
    assert len(np.unique(chosen)) == len(chosen) == min(most, sum(counts))
    assert np.bincount(images.labels[chosen], minlength=len(counts)).tolist() == shares
    np.testing.assert_array_equal(chosen, impostor_images(images, most))


def test_impostors_of_a_class_lie_evenly_among_its_images() -> None:
    assert impostor_images(of_counts(9, 9), 6).tolist() == [0, 4, 8, 9, 13, 17]


def test_numbers_that_float16_cannot_hold_are_no_impostors(built: BuiltBundle, tmp_path: Path) -> None:
    embeddings = np.full((len(SPLITS.validation), 128), 7e4, np.float32)
    embedding = structs.replace(built.bundle.manifest.embedding, normalization="none")
    manifest = structs.replace(built.bundle.manifest, embedding=embedding)
    found = bundle_module._with_impostors(manifest, embeddings, SPLITS.validation, tmp_path)
    assert found is manifest
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_no_bundle_is_not_replaced(network: TrainedNetwork, tmp_path: Path) -> None:
    kept = tmp_path / "photos"
    kept.mkdir()
    (kept / "cat.jpg").write_bytes(b"precious")
    with pytest.raises(ExportError, match="photos exists and is not a bundle"):
        build_bundle(network, SPLITS, kept)
    assert (kept / "cat.jpg").read_bytes() == b"precious"


def test_provenance_says_how_it_was_made(built: BuiltBundle) -> None:
    provenance = json.loads((built.bundle.path / "manifest.json").read_text())["provenance"]
    assert provenance["settings"]["steps"] == 60 and provenance["data"] == {"source": "bars"}
    assert [record["format"] for record in provenance["quantization"]] == ["onnx", "tflite"]
    assert {"torch", "onnxruntime", "ai-edge-litert"} <= set(provenance["versions"])
