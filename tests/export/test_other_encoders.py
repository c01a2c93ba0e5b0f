"""The pipeline with networks of timm and with a finished ONNX file, as docs/encoders.md shows it."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from edge_siamese import Recognizer
from edge_siamese.models.bundle import load_bundle
from export import pipeline, records
from export.__main__ import main
from export.cli.encoders import cost_of
from export.conversion.verification import Verification
from export.data import cache
from export.encoders import build_encoder
from export.evaluation.evaluate import Evaluation
from tests.export.encoders.test_onnx_extractor import write

GUIDE = Path(__file__).parents[2] / "docs" / "encoders.md"
FULL = [f"timm:{name}@65" for name in ("mobilenetv4_conv_small", "fastvit_t8", "resnet18")]
slow = pytest.mark.skipif(
    not os.environ.get("EDGE_SIAMESE_SYSTEM_TESTS"),
    reason="two minutes a network: set EDGE_SIAMESE_SYSTEM_TESTS=1",
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr("export.pipeline.benchmark", one_round)
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for number in range(8):
        place = tmp_path / "photos" / f"class-{number}"
        place.mkdir(parents=True)
        blocks = rng.integers(0, 200, (6, 6, 3)).repeat(12, axis=0).repeat(12, axis=1)
        for view in range(6):
            pixels = blocks + rng.integers(0, 55, blocks.shape)
            Image.fromarray(pixels.astype(np.uint8)).save(place / f"{view}.png")


def one_round(*arguments: object, **options: object) -> object:
    bundle, splits, _ = arguments
    return benchmark(bundle, splits, 1, runs=5, **options)  # type: ignore[arg-type]


benchmark = pipeline.benchmark


def weights_file(name: str, path: Path) -> Path:
    """Random weights of a network of timm, in timm's naming."""
    from export.encoders.timm_import import import_timm

    torch.manual_seed(1)
    network = import_timm().create_model(name.removeprefix("timm:").partition("@")[0], pretrained=False)
    save_file(network.state_dict(), path)
    return path


def commands() -> list[list[str]]:
    """The pipelines of the guide, split into words."""
    lines = re.findall(r"^\.venv/bin/python -m export (pipeline .*)$", GUIDE.read_text(), re.MULTILINE)
    return [shlex.split(line) for line in lines]


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    status = main(words)
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return printed.err


def test_the_guide_on_a_network_of_timm_works_as_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = next(words for words in commands() if "--weights" in words)
    encoder = words[words.index("--encoder") + 1]
    weights_file(encoder, tmp_path / words[words.index("--weights") + 1])
    # The same network on small pictures, cut early and trained for two steps.
    words[words.index(encoder)] = f"{encoder.partition('@')[0]}@33:stage2"
    run([*words, "--steps", "2", "--batch", "8", "--int8-budget", "20"], capsys)
    out = Path(words[words.index("--out") + 1])
    bundle = load_bundle(out / "bundle")
    assert {(m.format, m.precision) for m in bundle.manifest.models} == {
        ("onnx", "fp32"), ("onnx", "int8"), ("tflite", "fp32"), ("tflite", "int8"),
    }  # fmt: skip
    assert records.read(Verification, out / "verification.json").passed
    card = (out / "bundle" / "MODEL_CARD.md").read_text()
    assert "- Initial weights: those of the file mobilenetv4.safetensors, under its own license." in card
    assert bundle.manifest.encoder.name == words[words.index("--encoder") + 1]
    assert bundle.manifest.model_id.startswith("timm-mobilenetv4_conv_small-33-stage2-")


def test_the_guide_on_an_onnx_file_works_as_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = next(words for words in commands() if any(word.startswith("onnx:") for word in words))
    (program,) = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    torch.manual_seed(0)
    exec(compile(program, str(GUIDE), "exec"), {})
    said = run([*words, "--int8-budget", "20"], capsys)
    out = Path(words[words.index("--out") + 1])
    bundle = load_bundle(out / "bundle")
    assert {(m.format, m.precision) for m in bundle.manifest.models} == {("onnx", "fp32"), ("onnx", "int8")}
    alone = "the bundle holds only ONNX files: devices need onnxruntime"
    assert f"\n{alone}\n" in said and "no training; these are the starting weights" in said
    assert f"- Formats: {alone}.\n" in (out / "bundle" / "MODEL_CARD.md").read_text()
    found = records.read_all(Evaluation, out / "evaluation.json")
    assert [(e.encoder.runtime, e.encoder.precision) for e in found] == [
        ("torch", "fp32"), ("onnxruntime", "int8"),
    ]  # fmt: skip
    assert (bundle.manifest.encoder.name, bundle.manifest.embedding.dimensions) == ("onnx:features.onnx", 64)
    recognizer = Recognizer(out / "bundle")
    recognizer.register("one", tmp_path / "photos/class-1/0.png")
    recognizer.register("two", tmp_path / "photos/class-2/0.png")
    assert recognizer.recognize(tmp_path / "photos/class-2/3.png").name == "two"


def test_the_guide_states_the_cost_of_its_choices() -> None:
    rows = re.findall(r"^\| [^|]+ \| `([^`]+)` \| ([\d.]+) \| ([\d,]+) \|$", GUIDE.read_text(), re.MULTILINE)
    assert len(rows) == 4
    for name, macs, weights in rows:
        cost = cost_of(name)
        assert (f"{cost.macs / 1e6:.1f}", f"{cost.parameters:,}", cost.problem) == (macs, weights, "")


def test_encoders_lists_costs_and_exits_with_1_for_what_does_not_convert(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["encoders", "glyphnet"]) == 0
    assert capsys.readouterr().out.split() == [
        *("encoder", "pixels", "MMAC", "parameters", "embedding", "formats"),
        *("glyphnet", "56x56", "24.4", "366,504", "128", "onnx,", "tflite"),
    ]
    assert main(["encoders", "timm:convnextv2_atto@65:stage1"]) == 1
    assert "cannot be converted to int8: " in capsys.readouterr().out


def test_an_onnx_file_is_not_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "features.onnx")
    words = ["pipeline", "--data", "folder:photos", "--encoder", "onnx:features.onnx", "--out", "out"]
    assert main([*words, "--steps", "10"]) == 1
    assert capsys.readouterr().err == (
        "error: onnx:features.onnx is a finished file, which is not trained: leave out --steps and --start\n"
    )
    assert not Path("out").exists()


def test_operations_that_do_not_convert_are_named_before_the_training(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["pipeline", "--data", "folder:photos", "--encoder", "timm:convnextv2_atto@65:stage2"]
    assert main([*words, "--out", "out"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: timm:convnextv2_atto@65:stage2 cannot be converted to int8: ")
    assert "norm (4 times, first after stages.0.blocks.0.mlp.fc1)" in message
    assert not Path("out").exists()


def test_weights_that_do_not_exist_are_named_before_the_data_are_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["pipeline", "--data", "folder:nowhere", "--encoder", "timm:resnet18", "--out", "out"]
    assert main([*words, "--weights", "missing.safetensors"]) == 1
    assert capsys.readouterr().err == "error: --weights missing.safetensors: there is no such file\n"


@slow
@pytest.mark.parametrize("name", FULL)
def test_whole_networks_go_through_export_and_verification(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = weights_file(name, tmp_path / "weights.safetensors")
    words = ["pipeline", "--data", "folder:photos", "--encoder", name, "--weights", str(weights)]
    run([*words, "--steps", "0", "--int8-budget", "20", "--out", "out"], capsys)
    verification = records.read(Verification, Path("out/verification.json"))
    assert verification.passed and len(verification.files) >= 4
    assert min(file.worst_cosine for file in verification.files) > 0.9
    assert load_bundle(Path("out/bundle")).manifest.encoder.macs == pytest.approx(
        build_encoder_macs(name), rel=1e-9
    )


def build_encoder_macs(name: str) -> int:
    from export.training.network import count_macs

    return count_macs(build_encoder(name))
