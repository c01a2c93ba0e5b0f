"""From a training run to a proved bundle: all four files, one head, and nothing half-written."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_siamese.bundle import Bundle, load_bundle
from edge_siamese.errors import ExportError, SettingsError, VerificationFailed
from edge_siamese.runtimes import load_encoder
from edge_siamese.selftest import self_test
from export import bundle as bundle_module
from export.bundle import BuiltBundle, build_bundle
from export.commands.verify import require
from export.evaluate import embed_all
from export.flatbuffer import read_tflite
from export.network import TorchEncoder, TrainedNetwork, load_run
from export.one_shot import one_shot_accuracy
from export.train import train
from export.verify import verify
from tests.export.test_train import SHORT, drawn_splits

ROOT = Path(__file__).parents[2]
SPLITS = drawn_splits(classes=8, each=12)
FILES = {("onnx", "fp32"), ("onnx", "int8"), ("tflite", "fp32"), ("tflite", "int8")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few seconds that tells bars apart."""
    out = tmp_path_factory.mktemp("pipeline") / "train"
    train(dataclasses.replace(SHORT, steps=60, batch=32, learning_rate=3e-3), SPLITS, out)
    return out


@pytest.fixture(scope="module")
def network(run: Path) -> TrainedNetwork:
    return load_run(run)


@pytest.fixture(scope="module")
def built(run: Path, network: TrainedNetwork) -> BuiltBundle:
    return build_bundle(network, SPLITS, run.parent / "bundle", int8_budget=5.0)


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
    assert sorted(path.name for path in built.bundle.path.parent.iterdir()) == ["bundle", "train"]


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


def test_verify_passes_the_bundle_and_compares_every_file(
    built: BuiltBundle, network: TrainedNetwork
) -> None:
    found = verify(built.bundle, network, SPLITS.validation, SPLITS.train.images[:16], int8_budget=5.0)
    require(found)
    assert {(file.format, file.precision) for file in found.files} == FILES
    for file in found.files:
        assert file.worst_cosine > (0.9999 if file.precision == "fp32" else 0.95)
        assert file.loss_points == pytest.approx(100 * (found.network_accuracy - (file.accuracy or 0)))


def test_verify_fails_and_names_the_worst_layer(built: BuiltBundle, network: TrainedNetwork) -> None:
    found = verify(built.bundle, network, SPLITS.validation, SPLITS.train.images[:16], int8_budget=-200.0)
    with pytest.raises(
        VerificationFailed, match=r"within -200 points; worst layer of onnx: \S+ .*; of tflite: \S+ "
    ):
        require(found)


def test_verify_refuses_a_network_that_the_bundle_was_not_made_from(
    built: BuiltBundle, network: TrainedNetwork
) -> None:
    other = dataclasses.replace(network, model_id="glyphnet-000000000000")
    with pytest.raises(SettingsError, match=r"is glyphnet-000000000000; name its run with --run"):
        verify(built.bundle, other, SPLITS.validation, SPLITS.train.images[:16])


def test_an_interrupted_export_leaves_the_former_bundle_whole(
    built: BuiltBundle, network: TrainedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (built.bundle.path / "manifest.json").read_bytes()

    def stop(*_: object) -> Bundle:
        raise KeyboardInterrupt

    killed = built.bundle.path.with_name(".bundle.part") / "bundle"
    killed.mkdir(parents=True)
    (killed / "encoder.fp32.onnx").write_bytes(b"what an export that was killed had begun")
    monkeypatch.setattr(bundle_module, "_with_golden_vectors", stop)
    with pytest.raises(KeyboardInterrupt):
        build_bundle(network, SPLITS, built.bundle.path, int8_budget=100.0)
    assert (built.bundle.path / "manifest.json").read_bytes() == before
    assert load_bundle(built.bundle.path).manifest == built.bundle.manifest
    assert sorted(path.name for path in built.bundle.path.parent.iterdir()) == ["bundle", "train"]


def test_a_directory_that_is_no_bundle_is_not_replaced(network: TrainedNetwork, tmp_path: Path) -> None:
    kept = tmp_path / "photos"
    kept.mkdir()
    (kept / "cat.jpg").write_bytes(b"precious")
    with pytest.raises(ExportError, match="photos exists and is no bundle"):
        build_bundle(network, SPLITS, kept)
    assert (kept / "cat.jpg").read_bytes() == b"precious"


def test_provenance_says_how_it_was_made(built: BuiltBundle) -> None:
    provenance = json.loads((built.bundle.path / "manifest.json").read_text())["provenance"]
    assert provenance["settings"]["steps"] == 60 and provenance["data"] == {"source": "bars"}
    assert [record["format"] for record in provenance["quantization"]] == ["onnx", "tflite"]
    assert {"torch", "onnxruntime", "ai-edge-litert"} <= set(provenance["versions"])
