"""The manifest: a round trip, and one message for each violation."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from msgspec import structs

from edge_siamese.errors import (
    BundleError,
    BundleNotFound,
    BundleVersionError,
    ManifestError,
    SettingsError,
    UnsafePathError,
)
from edge_siamese.models.bundle import Bundle
from edge_siamese.models.manifest import FORMAT, VERSION, Manifest

WHERE = "b/manifest.json"
REMOVED = object()


def changed(bundle: Bundle, key: str, value: Any) -> str:
    """The manifest's text with another value at a dotted key such as `models.0.path`."""
    content: Any = json.loads(bundle.manifest.to_json())
    *parents, last = [int(part) if part.isdecimal() else part for part in key.split(".")]
    place = content
    for part in parents:
        place = place[part]
    if value is REMOVED:
        del place[last]
    else:
        place[last] = copy.deepcopy(value)
    return json.dumps(content)


def test_a_manifest_survives_being_written_and_read(bundle: Bundle) -> None:
    text = bundle.manifest.to_json()
    assert Manifest.from_json(text, WHERE) == bundle.manifest
    assert json.loads(text)["format"] == FORMAT
    assert json.loads(text)["version"] == VERSION == 2
    assert text.endswith("}\n")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("head.scale", REMOVED, "head.scale: missing"),
        ("head.scale", "12", 'head.scale: must be a number above 0, not "12"'),
        ("head.scale", 0, "head.scale: must be a number above 0, not 0"),
        ("head.scala", 1, 'head.scala: unknown key; did you mean "scale"?'),
        ("head.weights", "w.npy", "head.weights: must be null for a euclidean head"),
        ("head.distance", "weighted_l1", "head.weights: a weighted_l1 head needs the path of its weights"),
        ("input.color", "blue", 'input.color: must be one of "gray", "rgb", not "blue"'),
        ("input.height", 0, "input.height: must be an integer of at least 1, not 0"),
        ("input.width", -3, "input.width: must be an integer of at least 1, not -3"),
        ("embedding.dimensions", 0, "embedding.dimensions: must be an integer of at least 1, not 0"),
        ("encoder.name", "", 'encoder.name: must be a string that is not empty, not ""'),
        ("encoder.parameters", -1, "encoder.parameters: must be an integer of at least 0, not -1"),
        ("encoder.macs", 1.5, "encoder.macs: must be an integer of at least 0, not 1.5"),
        ("model_id", "", 'model_id: must be a string that is not empty, not ""'),
        (
            "created",
            "yesterday",
            'created: must be a UTC time in ISO 8601 from 1970 to 2099, not "yesterday"',
        ),
        (
            "created",
            "2026-01-02T03:04:05+02:00",
            'created: must be a UTC time in ISO 8601 from 1970 to 2099, not "2026-01-02T03:04:05+02:00"',
        ),
        (
            "thresholds.1.probability",
            1.01,
            "thresholds[1].probability: must be a number from 0 to 1, not 1.01",
        ),
        (
            "thresholds.0.impostor_pairs",
            0,
            "thresholds[0].impostor_pairs: must be an integer of at least 1, not 0",
        ),
        ("models", [], "models: must be a list that is not empty, not a list of 0"),
        (
            "models.2.sha256",
            "ABC",
            'models[2].sha256: must be a string that matches ^[0-9a-f]{64}$, not "ABC"',
        ),
        ("models.2.bytes", -1, "models[2].bytes: must be an integer of at least 0, not -1"),
        ("models.0.format", "tflite", "models: tflite fp32 is listed twice"),
        ("attachments.0.path", "encoder.int8.onnx", 'attachments: "encoder.int8.onnx" is listed twice'),
        ("metrics.ece", "small", 'metrics.ece: must be a number or an object, not "small"'),
        ("metrics.ece", float("nan"), "metrics.ece: must be a finite number, not nan"),
        ("provenance.deep", [float("inf")], "provenance.deep[0]: must be a finite number, not inf"),
        ("version", "1", 'version: must be an integer, not "1"'),
        ("version", REMOVED, "version: missing"),
        ("format", "zip", f'format: must be "{FORMAT}": this is not the manifest of a bundle'),
        ("format", REMOVED, f'format: must be "{FORMAT}": this is not the manifest of a bundle'),
    ],
)
def test_each_breach_of_the_schema_names_its_key(bundle: Bundle, key: str, value: Any, message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        Manifest.from_json(changed(bundle, key, value), WHERE)
    assert str(caught.value) == f"{WHERE}: {message}"


def test_the_weights_of_a_head_have_to_be_listed(weighted_bundle: Bundle) -> None:
    text = changed(weighted_bundle, "head.weights", "other.npy")
    with pytest.raises(ManifestError, match=r'head\.weights: "other\.npy" is not among the attachments$'):
        Manifest.from_json(text, WHERE)


def test_a_number_beyond_every_float_is_refused(bundle: Bundle) -> None:
    text = bundle.manifest.to_json().replace('"bias": 6.0', '"bias": 1e999')
    with pytest.raises(ManifestError, match=r"head\.bias: must be a finite number, not inf$"):
        Manifest.from_json(text, WHERE)


def test_a_repeated_key_is_refused(bundle: Bundle) -> None:
    text = bundle.manifest.to_json().replace('"bias": 6.0', '"bias": 6.0, "bias": 7.0')
    with pytest.raises(ManifestError, match=r"bias: duplicate key$"):
        Manifest.from_json(text, WHERE)


@pytest.mark.parametrize("text", ["[]", "null", "3"])
def test_other_json_is_not_a_manifest(text: str) -> None:
    with pytest.raises(ManifestError, match=r"this is not the manifest of a bundle$"):
        Manifest.from_json(text, WHERE)


@pytest.mark.parametrize(("version", "advice"), [(3, "update edge-siamese"), (1, "export the bundle again")])
def test_another_version_is_an_error_of_its_own(bundle: Bundle, version: int, advice: str) -> None:
    """Even if the rest of it means nothing to this release."""
    text = json.dumps({"format": FORMAT, "version": version, "brain": {}})
    with pytest.raises(BundleVersionError) as caught:
        Manifest.from_json(text, WHERE)
    assert str(caught.value) == (
        f"{WHERE}: this release reads version 2 of the bundle format, not {version}; {advice}"
    )


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/etc/passwd", '"/etc/passwd" is absolute'),
        ("C:/model.onnx", '"C:/model.onnx" is absolute'),
        ("//host/share", '"//host/share" is absolute'),
        ("../other/encoder.onnx", 'leaves the bundle\'s directory through ".."'),
        ("models/../../encoder.onnx", 'leaves the bundle\'s directory through ".."'),
        ("models\\encoder.onnx", "has a backslash"),
        ("..\\encoder.onnx", "has a backslash"),
        ("", "'' is not the name of a file"),
        ("a\0b", "is not the name of a file"),
        ("models/" + "é" * 128, "has a name of 256 bytes; a file's name has at most 255"),
    ],
)
@pytest.mark.parametrize("key", ["models.1.path", "attachments.0.path"])
def test_a_path_that_leaves_the_bundle_is_refused(bundle: Bundle, key: str, path: str, problem: str) -> None:
    with pytest.raises(UnsafePathError) as caught:
        Manifest.from_json(changed(bundle, key, path), WHERE)
    kind, index, field = key.split(".")
    assert str(caught.value).startswith(f"{WHERE}: {kind}[{index}].{field}: ")
    assert problem in str(caught.value)
    assert isinstance(caught.value, BundleError)


@pytest.mark.parametrize("key", ["models.1.path", "attachments.0.path", "model_id", "provenance.data"])
def test_half_a_character_is_refused_wherever_it_stands(bundle: Bundle, key: str) -> None:
    with pytest.raises(ManifestError) as caught:
        Manifest.from_json(changed(bundle, key, "a\udc80"), WHERE)
    shown = key.replace(".1.", "[1].").replace(".0.", "[0].")
    assert str(caught.value) == f"{WHERE}: {shown}: 'a\\udc80' contains a lone surrogate"
    with pytest.raises(ManifestError, match="contains a lone surrogate"):
        structs.replace(bundle.manifest, model_id="\ud800").to_json()


def test_paths_in_folders_of_the_bundle_are_fine(bundle: Bundle) -> None:
    longest = "models/" + "x" * 255
    assert Manifest.from_json(changed(bundle, "models.1.path", longest), WHERE).models[1].path == longest
    manifest = Manifest.from_json(changed(bundle, "models.1.path", "models/..encoder.onnx"), WHERE)
    assert manifest.models[1].path == "models/..encoder.onnx"


def test_a_model_is_found_by_format_and_precision(bundle: Bundle) -> None:
    assert bundle.manifest.model("tflite", "int8").path == "encoder.int8.tflite"
    only_float = structs.replace(bundle.manifest, models=bundle.manifest.models[:1])
    with pytest.raises(
        BundleNotFound, match=r"^tiny-0123456789ab has no tflite int8 encoder; it has onnx fp32$"
    ):
        only_float.model("tflite", "int8")


def test_thresholds_are_found_by_their_rate(bundle: Bundle) -> None:
    assert bundle.manifest.threshold_at(0.01).probability == 0.75
    assert bundle.manifest.threshold_at(1e-3).false_reject_rate == 0.11
    with pytest.raises(
        SettingsError, match=r"no threshold for a false-accept rate of 0\.05 \(it has: 0\.01, 0\.001\)"
    ):
        bundle.manifest.threshold_at(0.05)


def test_what_could_not_be_read_back_is_not_written(bundle: Bundle) -> None:
    with pytest.raises(
        ManifestError, match=r"^the manifest of tiny-0123456789ab: metrics\.ece: must be a finite number"
    ):
        structs.replace(bundle.manifest, metrics={"ece": float("nan")}).to_json()
    with pytest.raises(ManifestError, match=r"metrics\.data: must be a number or an object"):
        structs.replace(bundle.manifest, metrics={"data": "omniglot"}).to_json()  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model_id", "x" * 201, "model_id: exceeds the limit of 200"),
        ("encoder.parameters", 2**60, "encoder.parameters: exceeds the limit of 9,007,199,254,740,992"),
        ("encoder.macs", 2**60, "encoder.macs: exceeds the limit of 9,007,199,254,740,992"),
        ("input.height", 1025, "input.height: exceeds the limit of 1,024"),
        ("input.width", 10**9, "input.width: exceeds the limit of 1,024"),
        ("embedding.dimensions", 16_385, "embedding.dimensions: exceeds the limit of 16,384"),
        ("head.scale", 1e9, "head.scale: exceeds the limit of 1,000,000"),
        ("head.bias", -1e9, "head.bias: exceeds the limit of 1,000,000"),
        ("models.0.bytes", 2**40, "models[0].bytes: exceeds the limit of 268,435,456"),
        ("attachments.1.bytes", 2**40, "attachments[1].bytes: exceeds the limit of 268,435,456"),
        ("thresholds.1.impostor_pairs", 2**60, "thresholds[1].impostor_pairs: exceeds the limit of 9,007,199,254,740,992"),
        ("thresholds.1.false_accept_rate", 1e-2, "thresholds: the rate 0.01 is listed twice"),
        ("thresholds.1.probability", 0.7, "thresholds: probability at the rate 0.001 is lower than at 0.01"),
        ("thresholds.1.false_reject_rate", 0.01, "thresholds: false_reject_rate at the rate 0.001 is lower than at 0.01"),
    ],
)  # fmt: skip
def test_limits_of_a_manifest(bundle: Bundle, key: str, value: Any, message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        Manifest.from_json(changed(bundle, key, value), WHERE)
    assert str(caught.value) == f"{WHERE}: {message}"
