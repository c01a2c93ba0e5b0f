"""Reading a bundle: an intact one is read, and each kind of damage has its own error."""

from __future__ import annotations

import dataclasses
import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from edge_siamese.errors import (
    BundleError,
    BundleNotFound,
    ChecksumError,
    ManifestError,
    TruncatedFileError,
    UnsafePathError,
)
from edge_siamese.models.bundle import GOLDEN, IMPOSTORS, Bundle, GoldenVectors, load_bundle, sha256
from tests.edge_siamese.runtimes.damage import relist
from tests.tiny_bundle import (
    HEAD_WEIGHTS,
    MODEL_ID,
    golden_vectors,
    impostors,
    write_tiny_bundle,
)

MODEL = "encoder.int8.onnx"


def test_a_whole_bundle_is_read(bundle: Bundle) -> None:
    assert bundle.manifest.model_id == MODEL_ID
    assert (bundle.head.scale, bundle.head.bias, bundle.head.distance) == (12.0, 6.0, "euclidean")
    assert bundle.head.weights is None
    assert bundle.model_path("onnx", "int8") == bundle.path / MODEL
    assert bundle.golden is bundle.golden
    assert bundle.golden.images.shape == (6, 12, 12, 1)


def test_the_weights_of_the_head_are_read(weighted_bundle: Bundle) -> None:
    assert weighted_bundle.head.distance == "weighted_l1"
    assert weighted_bundle.head.weights is not None
    np.testing.assert_array_equal(weighted_bundle.head.weights, HEAD_WEIGHTS)


def test_a_place_without_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFound, match=f"^no bundle at {tmp_path}/none: no such directory$"):
        load_bundle(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"there is no manifest\.json in it$"):
        load_bundle(str(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(BundleNotFound, match=r"it is a file; give the directory that holds manifest\.json$"):
        load_bundle(tmp_path / "file")


def test_a_changed_file(writable_bundle: Path) -> None:
    content = bytearray((writable_bundle / MODEL).read_bytes())
    content[100] ^= 1
    (writable_bundle / MODEL).write_bytes(content)
    with pytest.raises(ChecksumError) as caught:
        load_bundle(writable_bundle)
    assert str(caught.value) == (
        f"{writable_bundle / MODEL} is not the file in the manifest: its SHA-256 differs; "
        "copy or export the bundle again"
    )
    assert load_bundle(writable_bundle, verify_checksums=False).manifest.model_id == MODEL_ID


@pytest.mark.parametrize("verify_checksums", [True, False])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_of_another_length(writable_bundle: Path, verify_checksums: bool, change: int) -> None:
    whole = (writable_bundle / MODEL).read_bytes()
    (writable_bundle / MODEL).write_bytes(whole[:change] if change < 0 else whole + b"\0")
    with pytest.raises(TruncatedFileError) as caught:
        load_bundle(writable_bundle, verify_checksums)
    assert str(caught.value) == (
        f"{writable_bundle / MODEL} has {len(whole) + change} bytes; the manifest says {len(whole)}; "
        "copy or export the bundle again"
    )


@pytest.mark.parametrize("name", [MODEL, GOLDEN, IMPOSTORS, "MODEL_CARD.md"])
def test_a_missing_file(writable_bundle: Path, name: str) -> None:
    (writable_bundle / name).unlink()
    with pytest.raises(BundleNotFound, match="is missing, though the manifest lists it; copy or export"):
        load_bundle(writable_bundle)


def test_a_directory_in_place_of_a_file(writable_bundle: Path) -> None:
    (writable_bundle / MODEL).unlink()
    (writable_bundle / MODEL).mkdir()
    with pytest.raises(BundleNotFound, match="is missing"):
        load_bundle(writable_bundle)


def test_a_link_that_leaves_the_directory(writable_bundle: Path, tmp_path: Path) -> None:
    (writable_bundle / MODEL).rename(tmp_path / "outside.onnx")
    (writable_bundle / MODEL).symlink_to(tmp_path / "outside.onnx")
    with pytest.raises(UnsafePathError, match=f"{MODEL} is a link that leaves the bundle's directory$"):
        load_bundle(writable_bundle)


def test_a_link_that_stays_inside(writable_bundle: Path, tmp_path: Path) -> None:
    (writable_bundle / MODEL).rename(writable_bundle / "kept.onnx")
    (writable_bundle / MODEL).symlink_to("kept.onnx")
    assert load_bundle(writable_bundle).manifest.model_id == MODEL_ID
    (tmp_path / "link").symlink_to(writable_bundle)
    assert load_bundle(tmp_path / "link").manifest.model_id == MODEL_ID


def test_a_link_to_itself(writable_bundle: Path) -> None:
    (writable_bundle / MODEL).unlink()
    (writable_bundle / MODEL).symlink_to(MODEL)
    with pytest.raises(BundleError, match=r"cannot be read: Too many levels of symbolic links$"):
        load_bundle(writable_bundle)


def test_paths_that_no_file_system_has(writable_bundle: Path, tmp_path: Path) -> None:
    path = writable_bundle / "manifest.json"
    whole = path.read_text()
    for name, error, problem in (
        ("x" * 300, UnsafePathError, r"models\[1\]\.path: .* has a name of 300 bytes"),
        (
            "\\udc80.onnx",
            ManifestError,
            r"models\[1\]\.path: .* contains a lone surrogate$",
        ),
        ("x/" * 3000 + "x", BundleError, r"/x cannot be read: File name too long$"),
    ):
        path.write_text(whole.replace(f'"{MODEL}"', f'"{name}"'))
        with pytest.raises(error, match=problem):
            load_bundle(writable_bundle)
    with pytest.raises(BundleError, match=r" cannot be read: File name too long$"):
        load_bundle(tmp_path / ("x" * 300))


def test_a_manifest_that_is_not_text(writable_bundle: Path) -> None:
    (writable_bundle / "manifest.json").write_bytes(b'{"format": "\xff"}')
    with pytest.raises(ManifestError, match=r"manifest\.json: not UTF-8 text \(byte 12\)$"):
        load_bundle(writable_bundle)


def test_an_error_names_the_manifest(writable_bundle: Path) -> None:
    (writable_bundle / "manifest.json").write_text("{")
    with pytest.raises(ManifestError, match=f"^{writable_bundle}/manifest.json: not valid JSON: "):
        load_bundle(writable_bundle)


@pytest.mark.parametrize(
    ("weights", "problem"),
    [
        (np.full(8, np.nan, np.float32), "the array has numbers that are not finite"),
        (np.zeros(7, np.float32), "one weight for each of 8 dimensions is needed"),
        (np.zeros(8, np.float64), "the array must be float32, not float64"),
        (np.array([None] * 8), "is not a file of numpy arrays"),
    ],
)
def test_weights_of_a_head_that_are_none(tmp_path: Path, weights: Any, problem: str) -> None:
    directory = write_tiny_bundle(tmp_path / "bundle", weighted=True)
    np.save(directory / "head_weights.npy", weights)
    relist(directory, "head_weights.npy")
    with pytest.raises(BundleError, match=problem) as caught:
        load_bundle(directory)
    assert str(directory / "head_weights.npy") in str(caught.value)


def test_golden_vectors_survive_being_written_and_read(tmp_path: Path) -> None:
    golden = golden_vectors()
    golden.save(tmp_path / "golden.npz")
    read = GoldenVectors.load(tmp_path / "golden.npz")
    for name in ("frame", "prepared_frame", "images", "scores"):
        np.testing.assert_array_equal(getattr(read, name), getattr(golden, name))
    assert list(read.embeddings) == list(golden.embeddings)
    for name, values in golden.embeddings.items():
        np.testing.assert_array_equal(read.embeddings[name], values)


def altered(name: str, values: Any) -> GoldenVectors:
    golden = golden_vectors()
    if name in golden.embeddings:
        return dataclasses.replace(golden, embeddings={**golden.embeddings, name: values})
    return dataclasses.replace(golden, **{name: values})


@pytest.mark.parametrize(
    ("golden", "problem"),
    [
        (
            altered("onnx-int8", np.full((6, 8), np.inf, np.float32)),
            "embeddings.onnx-int8 has numbers that are not",
        ),
        (altered("scores", np.full((6, 6), np.nan, np.float32)), "scores has numbers that are not finite"),
        (altered("images", np.zeros((6, 12, 12, 1), np.float32)), "images must be uint8, not float32"),
        (altered("tflite-int8", np.zeros((6, 9), np.float32)), "the shapes of the golden vectors disagree"),
        (altered("scores", np.zeros((6, 5), np.float32)), "the shapes of the golden vectors disagree"),
        (altered("images", np.uint8(3)), "the shapes of the golden vectors disagree"),
        (altered("network", np.zeros(8, np.float32)), "the shapes of the golden vectors disagree"),
        (altered("frame", np.zeros((4, 4), np.uint8)), "the shapes of the golden vectors disagree"),
        (
            altered("prepared_frame", np.zeros((9, 9, 1), np.uint8)),
            "the shapes of the golden vectors disagree",
        ),
        (dataclasses.replace(golden_vectors(), embeddings={}), "the array embeddings.network is missing"),
    ],
)
def test_golden_vectors_that_are_none(tmp_path: Path, golden: GoldenVectors, problem: str) -> None:
    golden.save(tmp_path / "golden.npz")
    with pytest.raises(BundleError, match=f"^{tmp_path}/golden.npz: {problem}"):
        GoldenVectors.load(tmp_path / "golden.npz")


def test_files_that_are_not_golden_vectors(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no numbers")
    with pytest.raises(BundleError, match=r"text\.npz is not a file of numpy arrays \("):
        GoldenVectors.load(tmp_path / "text.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(BundleError, match=r"one\.npy is one array, not several$"):
        GoldenVectors.load(tmp_path / "one.npy")
    with pytest.raises(BundleNotFound, match=r"none\.npz is missing"):
        GoldenVectors.load(tmp_path / "none.npz")
    golden = golden_vectors()
    np.savez(tmp_path / "less.npz", prepared_frame=golden.prepared_frame)
    with pytest.raises(BundleError, match=r"the array frame is missing$"):
        GoldenVectors.load(tmp_path / "less.npz")


def test_damaged_golden_vectors_are_refused_without_checksums(writable_bundle: Path) -> None:
    path = writable_bundle / GOLDEN
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"golden\.npz"):
        load_bundle(writable_bundle, verify_checksums=False).golden  # noqa: B018


def test_golden_vectors_of_another_encoder(writable_bundle: Path) -> None:
    golden = golden_vectors()
    wrong = dataclasses.replace(
        golden, images=golden.images[:, :9, :9], prepared_frame=golden.prepared_frame[:9, :9]
    )
    wrong.save(writable_bundle / GOLDEN)
    relist(writable_bundle, GOLDEN)
    with pytest.raises(BundleError, match=r"these golden vectors belong to another encoder$"):
        load_bundle(writable_bundle).golden  # noqa: B018


def test_a_bundle_without_golden_vectors(bundle: Bundle) -> None:
    without = dataclasses.replace(bundle, manifest=structs.replace(bundle.manifest, attachments=()))
    with pytest.raises(BundleNotFound, match=r"the manifest lists no golden\.npz$"):
        without.golden  # noqa: B018


def test_impostors_are_read_once_as_float32(bundle: Bundle, weighted_bundle: Bundle) -> None:
    found = bundle.impostors
    assert found is not None and found is bundle.impostors
    assert (found.shape, found.dtype) == ((40, 8), np.float32)
    np.testing.assert_allclose(found, impostors(), atol=5e-4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-3)
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 0
    assert weighted_bundle.impostors is not None
    assert np.linalg.norm(weighted_bundle.impostors, axis=1).std() > 0.1


def test_a_bundle_of_a_former_release_has_no_impostors(writable_bundle: Path) -> None:
    path = writable_bundle / "manifest.json"
    content = json.loads(path.read_text())
    content["attachments"] = [item for item in content["attachments"] if item["path"] != IMPOSTORS]
    path.write_text(json.dumps(content))
    (writable_bundle / IMPOSTORS).unlink()
    assert load_bundle(writable_bundle).impostors is None


@pytest.mark.parametrize(
    ("stored", "problem"),
    [
        (np.zeros((4, 7), np.float16), r"1 to 4096 embeddings of 8 numbers are needed, not \(4, 7\)$"),
        (np.zeros((0, 8), np.float16), r"1 to 4096 embeddings of 8 numbers are needed, not \(0, 8\)$"),
        (np.zeros((4097, 8), np.float16), r"1 to 4096 embeddings of 8 numbers are needed, not \(4097, 8\)$"),
        (np.zeros(8, np.float16), r"1 to 4096 embeddings of 8 numbers are needed, not \(8,\)$"),
        (np.zeros((4, 8), np.float32), "the array must be int8, not float32$"),
        (np.zeros((4, 8), np.int8), "the array has embeddings that are not of unit length$"),
        (np.full((4, 8), np.inf, np.float16), "the array has numbers that are not finite$"),
    ],
)
def test_impostors_of_another_encoder(writable_bundle: Path, stored: np.ndarray, problem: str) -> None:
    np.save(writable_bundle / IMPOSTORS, stored)
    relist(writable_bundle, IMPOSTORS)
    with pytest.raises(BundleError, match=f"^{writable_bundle}/impostors.npy: {problem}"):
        load_bundle(writable_bundle).impostors  # noqa: B018


def test_impostors_of_unit_length_are_directions_in_8_bits(writable_bundle: Path) -> None:
    stored = np.array([[127, 0, 0, 0, 0, 0, 0, 0], [-127, 127, 127, 127, 0, 0, 0, 0]], np.int8)
    np.save(writable_bundle / IMPOSTORS, stored)
    relist(writable_bundle, IMPOSTORS)
    read = load_bundle(writable_bundle).impostors
    assert read is not None and read.dtype == np.float32 and not read.flags.writeable
    np.testing.assert_allclose(read, [[1] + [0] * 7, [-0.5, 0.5, 0.5, 0.5] + [0] * 4], atol=1e-7)


def test_impostors_without_unit_length_are_never_8_bits(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "weighted", weighted=True)
    np.save(bundle / IMPOSTORS, np.full((4, 8), 100, np.int8))
    relist(bundle, IMPOSTORS)
    with pytest.raises(BundleError, match=r"the array must be float16, not int8$"):
        load_bundle(bundle).impostors  # noqa: B018


def test_impostors_that_are_no_array(writable_bundle: Path) -> None:
    with (writable_bundle / IMPOSTORS).open("wb") as file:
        np.savez(file, a=np.zeros(3), b=np.zeros(3))
    relist(writable_bundle, IMPOSTORS)
    with pytest.raises(BundleError, match=r"impostors\.npy holds several arrays, not one$"):
        load_bundle(writable_bundle).impostors  # noqa: B018
    (writable_bundle / IMPOSTORS).write_bytes(b"nothing")
    relist(writable_bundle, IMPOSTORS)
    with pytest.raises(BundleError, match=r"impostors\.npy is not a file of numpy arrays"):
        load_bundle(writable_bundle).impostors  # noqa: B018
    (writable_bundle / IMPOSTORS).unlink()
    with pytest.raises(BundleNotFound, match=r"impostors\.npy is missing"):
        load_bundle(writable_bundle)


def test_the_checksum_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# --- what a bundle may not cost ---


def save_archive(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def header(shape: str, dtype: str = "|u1") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (10 + len(text)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def test_golden_vectors_that_unpack_to_gigabytes_are_not_unpacked(
    writable_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = header("(6, 4096, 4096)") + bytes(6 << 24)
    save_archive(writable_bundle / GOLDEN, {"frame.npy": bomb})
    relist(writable_bundle, GOLDEN)
    assert (writable_bundle / GOLDEN).stat().st_size < 200_000
    monkeypatch.setattr(zipfile.ZipFile, "open", pytest.fail)
    with pytest.raises(BundleError, match=r"golden\.npz .*: its arrays have more than 67108864 bytes\)$"):
        load_bundle(writable_bundle).golden  # noqa: B018


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        (
            {"frame.npy": header("(100000, 60000)") + bytes(99)},
            r"\(100000, 60000\) has 6000000000 bytes, which are",
        ),
        ({"frame.npy": header("(-1, 4)") + bytes(99)}, r"which are not there|negative|shape"),
        ({"frame.npy": header("(1" + "0" * 400 + ",)")}, "which are not there"),
        ({"frame.npy": header("(3,)") + bytes(2)}, r"shape \(3,\) has 3 bytes, which are not there"),
        ({"frame.npy": header("(1,)", "|O") + bytes(8)}, "holds object, not numbers"),
        ({"frame.npy": header("(1,)", "|S4") + bytes(4)}, r"holds \|S4, not numbers"),
        ({"frame.npy": b"\x93NUMPY\x09\x00" + bytes(90)}, "unknown version|version"),
        ({"frame.npy": b"no array"}, "magic"),
        ({f"{number}.npy": b"" for number in range(17)}, "more than 16 arrays"),
        ({str(number): b"" for number in range(70_000)}, "more than 16 arrays"),
    ],
)
def test_archives_that_are_no_golden_vectors(tmp_path: Path, members: dict[str, bytes], problem: str) -> None:
    path = tmp_path / "golden.npz"
    save_archive(path, members, zipfile.ZIP_STORED)
    with pytest.raises(BundleError, match=problem) as caught:
        GoldenVectors.load(path)
    assert str(caught.value).startswith(f"{path} is not a file of numpy arrays (")


def test_pickles_are_not_loaded(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return pytest.fail, ("a pickle was loaded",)

    golden = golden_vectors()
    with (tmp_path / "golden.npz").open("wb") as file:
        np.savez(file, frame=np.array([Evil()]), images=golden.images)
    with pytest.raises(BundleError, match="holds object, not numbers"):
        GoldenVectors.load(tmp_path / "golden.npz")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"images": np.zeros((0, 12, 12, 1), np.uint8)}, "the shapes of the golden vectors disagree"),
        (
            {"embeddings": {"network": np.zeros((6, 8), np.float32)}},
            "embeddings.network has embeddings that are not",
        ),
        (
            {"embeddings": {"network": np.full((6, 8), 3e38, np.float32)}},
            "embeddings.network has embeddings that",
        ),
    ],
)
def test_golden_vectors_that_prove_nothing(
    writable_bundle: Path, changes: dict[str, Any], problem: str
) -> None:
    dataclasses.replace(golden_vectors(), **changes).save(writable_bundle / GOLDEN)
    relist(writable_bundle, GOLDEN)
    with pytest.raises(BundleError, match=problem):
        load_bundle(writable_bundle).check()


def test_weights_that_overflow_are_refused(tmp_path: Path) -> None:
    directory = write_tiny_bundle(tmp_path / "bundle", weighted=True)
    np.save(directory / "head_weights.npy", np.full(8, 3e38, np.float32))
    relist(directory, "head_weights.npy")
    with pytest.raises(BundleError, match=r"head_weights\.npy: a weight exceeds 1e\+06$"):
        load_bundle(directory)


@pytest.mark.parametrize("name", ["encoder.int8.onnx", "golden.npz", "manifest.json"])
def test_pipes_and_devices_are_not_opened(writable_bundle: Path, name: str) -> None:
    (writable_bundle / name).unlink()
    os.mkfifo(writable_bundle / name)
    with pytest.raises(
        BundleError, match=r"is a pipe, a socket or a device, not a file$|no manifest\.json in it$"
    ):
        load_bundle(writable_bundle)
    (writable_bundle / name).unlink()
    (writable_bundle / name).symlink_to("/dev/zero")
    with pytest.raises(
        BundleError, match=r"a link that leaves the bundle's directory$|no manifest\.json in it$"
    ):
        load_bundle(writable_bundle)


def test_a_manifest_elsewhere_is_not_read(writable_bundle: Path, tmp_path: Path) -> None:
    (writable_bundle / "manifest.json").rename(tmp_path / "secret")
    (writable_bundle / "manifest.json").symlink_to(tmp_path / "secret")
    with pytest.raises(
        UnsafePathError, match=r"manifest\.json is a link that leaves the bundle's directory$"
    ):
        load_bundle(writable_bundle)


def test_a_huge_manifest_is_not_parsed(writable_bundle: Path) -> None:
    path = writable_bundle / "manifest.json"
    path.write_text(path.read_text() + " " * (1 << 20))
    with pytest.raises(ManifestError, match=r"manifest\.json has more than 1048576 bytes"):
        load_bundle(writable_bundle)


def test_a_deep_manifest_is_an_error(writable_bundle: Path) -> None:
    path = writable_bundle / "manifest.json"
    for depth in (101, 100_000):
        path.write_text('{"provenance": ' + "[" * depth + "]" * depth + "}")
        with pytest.raises(ManifestError, match=r"manifest\.json: .*nested"):
            load_bundle(writable_bundle)


def test_forty_thousand_attachments_are_refused_at_once(
    writable_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = json.loads((writable_bundle / "manifest.json").read_text())
    item = content["attachments"][0]
    content["attachments"] = [{**item, "path": f"{number}"} for number in range(40_000)]
    (writable_bundle / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ManifestError, match="has more than 1048576 bytes"):
        load_bundle(writable_bundle)
    content["attachments"] = content["attachments"][:7000]
    (writable_bundle / "manifest.json").write_text(json.dumps(content))
    monkeypatch.setattr("edge_siamese.models.manifest._require_distinct", pytest.fail)
    with pytest.raises(
        ManifestError, match=r"manifest\.json: attachments: has 7000 items; at most 32 are allowed$"
    ):
        load_bundle(writable_bundle)
