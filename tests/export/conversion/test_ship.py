"""The shipping copy of a bundle: what is in it, that it passes its self-test, and what is not shipped."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from edge_siamese import models as shipped_models
from edge_siamese.errors import BundleError, DataError, EdgeSiameseError, ExportError, SelfTestFailed
from edge_siamese.models.bundle import GOLDEN, MANIFEST, Bundle, GoldenVectors, load_bundle
from edge_siamese.models.manifest import Manifest
from edge_siamese.recognition.imaging import Preprocessing, prepare
from edge_siamese.system.files import staging_directory
from export.__main__ import main
from export.conversion import ship as ship_module
from export.conversion.ship import remove_local_paths, ship, write_golden
from tests.tiny_bundle import MODEL_ID, describe, write_tiny_bundle

pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")

CARD = """# Tiny

| file | bytes | quantization |
|---|---|---|
| onnx fp32 | 1 | float |
| onnx int8 | 2 | per channel |
| tflite fp32 | 3 | float |
| tflite int8 | 4 | per channel |
"""
VERIFICATION = {
    "passed": True, "model_id": MODEL_ID, "network_accuracy": 0.9, "int8_budget": 0.5, "files": [], "missing": [],
    "worst_layers": [], "command": "python -m export verify", "machine": "a machine", "failures": [],
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A pipeline's directory."""
    place = tmp_path / "run"
    provenance = {
        "settings": {"data": "folder:/home/me/photos", "seed": 3},
        "command": "python -m export pipeline --out /home/me/run",
        "data": {
            "root": "/home/me/photos",
            "url": "https://example.org/a/b",
            "warnings": ["no /home/me/x here"],
        },
    }
    write_tiny_bundle(place / "bundle", provenance=provenance)
    replace_file(place / "bundle", "MODEL_CARD.md", CARD.encode())
    verified(place)
    return place


def verified(place: Path, **changes: Any) -> None:
    (place / "verification.json").write_text(json.dumps({**VERIFICATION, **changes}))


def change_manifest(bundle: Path, **changes: Any) -> None:
    path = bundle / MANIFEST
    manifest = Manifest.from_json(path.read_text(), str(path))
    path.write_text(structs.replace(manifest, **changes).to_json())


def replace_file(bundle: Path, name: str, data: bytes) -> None:
    """Another attachment, with its checksum."""
    (bundle / name).write_bytes(data)
    path = bundle / MANIFEST
    manifest = Manifest.from_json(path.read_text(), str(path))
    change_manifest(
        bundle,
        attachments=tuple(
            describe(bundle / name) if item.path == name else item for item in manifest.attachments
        ),
    )


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_the_copy_has_what_a_device_needs(run: Path, tmp_path: Path) -> None:
    before = content(run / "bundle")
    done = ship(run, "objects", tmp_path / "models")
    bundle = load_bundle(tmp_path / "models" / "objects")
    assert set(content(bundle.path)) == {
        "MODEL_CARD.md", "encoder.int8.onnx", "encoder.int8.tflite", "golden.npz", "impostors.npy", "manifest.json",
    }  # fmt: skip
    source = load_bundle(run / "bundle")
    for field in structs.fields(Manifest):
        if field.name not in ("models", "attachments", "provenance"):
            assert getattr(bundle.manifest, field.name) == getattr(source.manifest, field.name), field.name
    assert [model.path for model in bundle.manifest.models] == ["encoder.int8.onnx", "encoder.int8.tflite"]
    np.testing.assert_array_equal(bundle.impostors, source.impostors)
    assert done.golden_images == 6
    assert sum(done.files.values()) < done.original_bytes
    assert content(run / "bundle") == before
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == [".objects.part.lock", "objects"]


def test_golden_vectors_keep_the_network_and_what_is_shipped(run: Path, tmp_path: Path) -> None:
    ship(run, "objects", tmp_path)
    found, source = load_bundle(tmp_path / "objects").golden, load_bundle(run / "bundle").golden
    assert set(found.embeddings) == {"network", "onnx-int8", "tflite-int8"}
    for key, values in found.embeddings.items():
        np.testing.assert_array_equal(values, source.embeddings[key])
    np.testing.assert_array_equal(found.images, source.images)
    np.testing.assert_array_equal(found.scores, source.scores)


def test_golden_vectors_that_are_too_large_lose_their_last_images(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = ship(run, "objects", tmp_path).files[GOLDEN]
    monkeypatch.setattr(ship_module, "MAX_GOLDEN_BYTES", size - 1)
    done = ship(run, "objects", tmp_path)
    assert (done.golden_images, done.files[GOLDEN] < size) == (5, True)
    source, golden = load_bundle(run / "bundle").golden, done.bundle.golden
    np.testing.assert_array_equal(golden.images, source.images[:5])
    np.testing.assert_array_equal(golden.scores, source.scores[:5, :5])
    np.testing.assert_array_equal(golden.embeddings["onnx-int8"], source.embeddings["onnx-int8"][:5])
    monkeypatch.setattr(ship_module, "MAX_GOLDEN_BYTES", 1)
    assert ship(run, "objects", tmp_path).golden_images == 3  # pairs of both kinds are needed


def test_photographs_of_the_largest_encoder_have_room(tmp_path: Path) -> None:
    """Whatever they show: noise is what compresses worst."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 187, 187, 3), dtype=np.uint8)
    embeddings = dict.fromkeys(("network", "onnx-int8"), np.ones((8, 192), np.float32))
    rows, columns = np.mgrid[0:120, 0:160]
    frame = np.stack([rows * 2, columns, (rows * columns) % 256], axis=2).astype(np.uint8)
    prepared = prepare(frame, Preprocessing(187, 187, "rgb"))
    golden = GoldenVectors(frame, prepared, noise, embeddings, np.ones((8, 8), np.float32))
    path = tmp_path / GOLDEN
    assert write_golden(golden, tuple(embeddings), path) == 3
    assert path.stat().st_size <= 500_000


def test_the_same_bundle_gives_the_same_bytes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ship(run, "objects", tmp_path / "models")
    first = content(tmp_path / "models" / "objects")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 10.0)  # times in a zip file have steps of two seconds
    ship(run, "objects", tmp_path / "models")
    assert content(tmp_path / "models" / "objects") == first
    shutil.copytree(run, tmp_path / "elsewhere")
    ship(tmp_path / "elsewhere", "objects", tmp_path / "others")
    assert content(tmp_path / "others" / "objects") == first


def test_nothing_tells_of_the_machine(run: Path, tmp_path: Path) -> None:
    provenance = ship(run, "objects", tmp_path).bundle.manifest.provenance
    assert provenance == {
        "settings": {"data": "folder:photos", "seed": 3},
        "data": {"root": "photos", "url": "https://example.org/a/b", "warnings": ["no x here"]},
    }


@pytest.mark.parametrize(
    ("value", "left"),
    [
        ("folder:/home/me/my photos", "folder:my photos"),
        ("~/photos", "photos"),
        ("file:///home/me/x", "file:x"),
        ("read from /srv/a.zip, and ~/b", "read from a.zip, and b"),
        ("https://example.org/a", "https://example.org/a"),
        ("1/2 of 3 / 4, and/or build/photos", "1/2 of 3 / 4, and/or build/photos"),
        ([1, None, True, 0.5, {"argv": ["x"], "a": "/b"}], [1, None, True, 0.5, {"a": "b"}]),
    ],
)
def test_of_a_local_path_its_last_name_is_left(value: Any, left: Any) -> None:
    assert remove_local_paths(value) == left


def test_the_model_card_lists_the_files_that_are_there(run: Path, tmp_path: Path) -> None:
    ship(run, "objects", tmp_path)
    card = (tmp_path / "objects" / "MODEL_CARD.md").read_text()
    assert card == "".join(line for line in CARD.splitlines(keepends=True) if "fp32" not in line)


def test_the_weights_of_a_head_are_shipped(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "run" / "bundle", weighted=True)
    verified(tmp_path / "run")
    done = ship(tmp_path / "run", "objects", tmp_path / "models")
    assert "head_weights.npy" in done.files
    assert done.bundle.head.distance == "weighted_l1"


def refused(
    run: Path, tmp_path: Path, error: type[EdgeSiameseError], match: str, name: str = "objects"
) -> None:
    """It is, and what was shipped before stays."""
    kept = content(tmp_path / "models" / "objects")
    with pytest.raises(error, match=match):
        ship(run, name, tmp_path / "models")
    assert content(tmp_path / "models" / "objects") == kept
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == [".objects.part.lock", "objects"]


@pytest.fixture
def earlier(run: Path, tmp_path: Path) -> Bundle:
    """What was shipped before."""
    return ship(run, "objects", tmp_path / "models").bundle


@pytest.mark.usefixtures("earlier")
class TestRefused:
    def test_what_was_not_verified(self, run: Path, tmp_path: Path) -> None:
        verified(run, passed=False)
        refused(run, tmp_path, ExportError, "did not pass verification")
        verified(run, model_id="another")
        refused(run, tmp_path, ExportError, "belongs to another model, another: verify the bundle again")
        (run / "verification.json").unlink()
        refused(run, tmp_path, DataError, r"verification\.json does not exist")

    def test_what_lacks_an_int8_file_of_a_format(self, run: Path, tmp_path: Path) -> None:
        models = load_bundle(run / "bundle").manifest.models
        change_manifest(run / "bundle", models=tuple(m for m in models if m.path != "encoder.int8.onnx"))
        refused(run, tmp_path, ExportError, "has no int8 file for onnx; both are required")

    def test_what_has_no_impostors(self, run: Path, tmp_path: Path) -> None:
        attachments = load_bundle(run / "bundle").manifest.attachments
        kept = tuple(item for item in attachments if item.path != "impostors.npy")
        change_manifest(run / "bundle", attachments=kept)
        refused(run, tmp_path, ExportError, r"has no impostors\.npy: build the bundle again")

    def test_what_is_damaged_or_no_bundle(self, run: Path, tmp_path: Path) -> None:
        (run / "bundle" / "encoder.fp32.onnx").write_bytes(b"")
        refused(run, tmp_path, BundleError, r"encoder\.fp32\.onnx has 0 bytes")
        shutil.rmtree(run / "bundle")
        refused(run, tmp_path, BundleError, "no bundle at")

    def test_what_does_not_reproduce_its_golden_vectors(self, run: Path, tmp_path: Path) -> None:
        bundle = load_bundle(run / "bundle")
        golden = bundle.golden
        golden.embeddings["tflite-int8"] *= -1
        golden.save(run / "bundle" / GOLDEN)
        replace_file(run / "bundle", GOLDEN, (run / "bundle" / GOLDEN).read_bytes())
        refused(run, tmp_path, SelfTestFailed, "int8 on ai-edge-litert")

    @pytest.mark.parametrize("name", ["", "Objects", "../objects", ".objects", "a/b", "1st"])
    def test_a_name_that_is_none(self, run: Path, tmp_path: Path, name: str) -> None:
        refused(
            run, tmp_path, ExportError, "the name must consist of lowercase letters, digits and dashes", name
        )


def test_a_directory_that_is_no_bundle_is_not_replaced(run: Path, tmp_path: Path) -> None:
    (tmp_path / "models" / "objects").mkdir(parents=True)
    with pytest.raises(ExportError, match="exists and is not a bundle; remove it"):
        ship(run, "objects", tmp_path / "models")


def test_two_do_not_write_at_once(run: Path, tmp_path: Path) -> None:
    with (
        staging_directory(tmp_path / "models" / ".objects.part"),
        pytest.raises(ExportError, match="another process is writing"),
    ):
        ship(run, "objects", tmp_path / "models")


def test_the_command_prints_sizes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shipped_models, "DIRECTORY", tmp_path / "models")
    assert main(["ship", str(run), "--as", "objects"]) == 0
    out = capsys.readouterr().out
    size = (tmp_path / "models" / "objects" / "encoder.int8.onnx").stat().st_size
    assert f"encoder.int8.onnx    {size:>11,}\n" in out
    assert f"{MODEL_ID} is in {tmp_path / 'models' / 'objects'}: " in out
    assert shipped_models.names() == ("objects",)
    assert main(["ship", str(tmp_path), "--as", "objects"]) == 1
    assert "error: no bundle at" in capsys.readouterr().err
