"""The shipped bundles: how they are found, and whether they are intact and work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_siamese import models
from edge_siamese.errors import BundleError, BundleNotFound
from edge_siamese.models import default, describe_shipped, names, resolve, shipped
from edge_siamese.models.bundle import load_bundle
from edge_siamese.models.selftest import self_test
from edge_siamese.runtimes.selection import load_encoder
from tests.tiny_bundle import write_tiny_bundle

MAX_BYTES = 12_000_000
HERE = names()


def test_nothing_is_shipped(nothing_shipped: Path) -> None:
    assert names() == ()
    assert default() is None
    with pytest.raises(
        BundleNotFound, match=r'^no bundle called "objects" is shipped; no bundle is shipped here$'
    ):
        shipped("objects")
    with pytest.raises(
        BundleNotFound, match=r"^no bundle at glyphs: no such directory; no bundle is shipped here$"
    ):
        resolve("glyphs")


def test_names_are_of_whole_directories_alone(nothing_shipped: Path) -> None:
    for name in ("objects", "glyphs", ".glyphs.part", "_half"):
        write_tiny_bundle(nothing_shipped / name)
    (nothing_shipped / "__pycache__").mkdir()
    (nothing_shipped / "empty").mkdir()
    assert names() == ("glyphs", "objects")
    assert shipped("glyphs") == nothing_shipped / "glyphs"
    assert default() == nothing_shipped / "objects"
    with pytest.raises(BundleError, match=r'"flowers" is shipped; shipped bundles: glyphs, objects$'):
        shipped("flowers")


def test_a_path_comes_before_a_name(
    objects_shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve("objects") == objects_shipped
    assert resolve(Path("objects")) == objects_shipped
    assert resolve("./objects") == Path("objects")
    assert resolve("build/objects") == Path("build/objects")
    assert resolve("/none") == Path("/none")
    (tmp_path / "objects").mkdir()
    assert resolve("objects") == Path("objects")


@pytest.mark.parametrize("given", ["flowers", "x" * 5000, "ob\0jects"])
def test_what_is_neither_is_an_error(objects_shipped: Path, given: str) -> None:
    with pytest.raises(BundleNotFound, match=r": no such directory; shipped bundles: objects$"):
        resolve(given)


def test_a_directory_is_described_by_what_it_is(objects_shipped: Path, tmp_path: Path) -> None:
    assert describe_shipped(objects_shipped) == "objects, shipped with edge-siamese"
    (tmp_path / "link").symlink_to(objects_shipped.parent)
    assert describe_shipped(tmp_path / "link" / "objects") == "objects, shipped with edge-siamese"
    other = write_tiny_bundle(tmp_path / "objects")
    assert describe_shipped(other) == describe_shipped(objects_shipped.parent / "flowers") == ""


# --- those that are here ---


def test_they_are_small_enough_for_a_package() -> None:
    files = [
        path for path in models.DIRECTORY.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")
    ]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES


@pytest.mark.parametrize("name", HERE)
def test_a_shipped_bundle_is_whole_and_of_the_device_alone(name: str) -> None:
    bundle = load_bundle(shipped(name))
    listed = {item.path for _, item in bundle.manifest.files()}
    assert {path.name for path in bundle.path.iterdir()} == {"manifest.json", *listed}
    assert {(model.format, model.precision) for model in bundle.manifest.models} == {
        ("onnx", "int8"),
        ("tflite", "int8"),
    }
    assert {"MODEL_CARD.md", "golden.npz", "impostors.npy"} <= listed
    assert (bundle.path / "golden.npz").stat().st_size <= 500_000
    assert set(bundle.golden.embeddings) == {"network", "onnx-int8", "tflite-int8"}
    assert bundle.impostors is not None
    assert bundle.manifest.thresholds


@pytest.mark.parametrize("name", HERE)
def test_a_shipped_bundle_tells_nothing_of_the_machine_that_made_it(name: str) -> None:
    for path in (shipped(name) / "manifest.json", shipped(name) / "MODEL_CARD.md"):
        text = path.read_text(encoding="utf-8")
        assert not [
            word for word in ('"/', ":/home", "/work/", "/tmp/", "/root", '"command"') if word in text
        ]


@pytest.mark.parametrize("name", HERE)
def test_the_golden_vectors_of_a_shipped_bundle_have_pairs_of_both_kinds(name: str) -> None:
    scores = load_bundle(shipped(name)).golden.scores
    assert len(scores) >= 3
    classes = np.arange(len(scores)) // 2
    same, other = classes[:, None] == classes, ~np.eye(len(scores), dtype=bool)
    assert scores[same & other].mean() > scores[~same].mean()


@pytest.mark.parametrize("name", HERE)
def test_a_shipped_bundle_passes_its_self_test(name: str, runtime: str) -> None:
    bundle = load_bundle(shipped(name))
    encoder = load_encoder(bundle, runtime, "int8", threads=1)
    self_test(encoder, bundle.golden, bundle.head).require()
