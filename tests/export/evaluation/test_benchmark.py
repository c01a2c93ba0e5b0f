"""The benchmark's table: measured in fresh processes, compared within rounds, honest about what is slower."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs
from rich.console import Console

from edge_siamese.errors import EncoderError
from edge_siamese.models.bundle import Bundle
from export import records
from export.__main__ import main
from export.cli.benchmark import show
from export.data.images import ImageSet, OneShotRun, Splits
from export.evaluation import benchmark as module
from export.evaluation.benchmark import Benchmark, benchmark, measure, ratios
from export.evaluation.remote_runtime import EncoderVariant

HERE = Path(sys.executable)
VARIANTS = [EncoderVariant("onnx", precision, "onnxruntime", HERE) for precision in ("fp32", "int8")]


SLOWER = "int8 is not faster than fp32 here: 0.50 times as fast; "
NO_KERNELS = "tflite-runtime has accelerated int8 kernels on Arm, but not on x86"


def cost(runtime: str, method: str) -> str:
    return (
        f"this is the cost of the int8 operations of {runtime} on this processor for a file quantized by {method}; "
        "provenance.quantization in the manifest lists the alternatives tried"
    )


def said(p50: float, memory: float = 50.0) -> str:
    return json.dumps(
        {
            "version": "1.0",
            "python": "3.11.2",
            "p50_ms": p50,
            "p95_ms": 2 * p50,
            "import_ms": 7.5,
            "peak_memory_mb": memory,
        }
    )


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Processes that say prepared figures, and what they were asked."""
    asked: list[tuple[str, ...]] = []
    latencies = {"fp32": iter([2.0, 4.0, 3.0]), "int8": iter([1.0, 1.0, 2.0])}

    def answer(python: Path, arguments: Sequence[str]) -> str:
        asked.append(tuple(arguments))
        return said(next(latencies[arguments[arguments.index("--precision") + 1]]))

    monkeypatch.setattr(module, "run_device", answer)
    monkeypatch.setattr(
        module, "available_variants", lambda bundle: (VARIANTS, ["tflite-runtime works nowhere here"])
    )
    return asked


def splits() -> Splits:
    """Six classes of random pictures, and one official run that a projection of the pixels gets right."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 200, (6, 8, 8, 1)).repeat(4, axis=0) + rng.integers(0, 20, (24, 8, 8, 1))
    images = ImageSet(
        name="noise",
        images=pictures.astype(np.uint8),
        labels=np.arange(6).repeat(4),
        class_names=tuple("abcdef"),
        class_groups=np.zeros(6, dtype=np.int64),
        group_names=("all",),
        drawers=np.tile(np.arange(4), 6),
    )
    run = OneShotRun("run01", images.images[[0, 4, 8]], images.images[[1, 5, 9]], np.arange(3))
    return Splits(images, images, images, (run,))


def test_rows_are_measured_in_turn_and_compared_within_rounds(
    onnx_bundle: Bundle, scripted: list[tuple[str, ...]]
) -> None:
    result = benchmark(onnx_bundle, rounds=3, runs=10, command="python -m export benchmark x")
    assert [words[words.index("--precision") + 1] for words in scripted] == ["fp32", "int8"] * 3
    assert all(words[0] == "bench" and "--json" in words for words in scripted)
    assert all(words[words.index("--threads") + 1] == "1" for words in scripted)
    fp32, int8 = result.rows
    assert (fp32.p50_ms, fp32.round_p50_ms, fp32.speed_up) == (3.0, (2.0, 4.0, 3.0), None)
    assert (int8.p50_ms, int8.p95_ms) == (1.0, 2.0)
    # Ratios 2/1, 4/1 and 3/2.
    assert (int8.speed_up, int8.speed_up_low, int8.speed_up_high) == (2.0, 1.5, 4.0)
    assert (int8.macs, int8.file_bytes) == (1024, onnx_bundle.manifest.model("onnx", "int8").bytes)
    assert (int8.import_ms, int8.peak_memory_mb, int8.note) == (7.5, 50.0, "")
    assert result.missing == ("tflite-runtime works nowhere here",)


def test_ratios() -> None:
    assert ratios([2.0, 4.0, 3.0], [1.0, 1.0, 2.0]) == (2.0, 1.5, 4.0)
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("runtime", "machine", "method", "note"),
    [
        ("onnxruntime", "x86_64", None, cost("onnxruntime", "an unknown method")),
        (
            "onnxruntime",
            "x86_64",
            "mixed precision; stem in float32, so not full-integer",
            cost("onnxruntime", "mixed precision; stem in float32, so not full-integer"),
        ),
        ("ai-edge-litert", "x86_64", "post-training", cost("ai-edge-litert", "post-training")),
        ("tflite-runtime", "x86_64", "post-training", NO_KERNELS),
        ("tflite-runtime", "aarch64", "post-training", cost("tflite-runtime", "post-training")),
    ],
)
def test_a_slower_int8_is_said(
    onnx_bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    runtime: str,
    machine: str,
    method: str | None,
    note: str,
) -> None:
    manifest = onnx_bundle.manifest
    models = tuple(
        structs.replace(m, quantization=method if m.precision == "int8" else None) for m in manifest.models
    )
    quantized = dataclasses.replace(onnx_bundle, manifest=structs.replace(manifest, models=models))
    found = [EncoderVariant("onnx", precision, runtime, HERE) for precision in ("fp32", "int8")]
    monkeypatch.setattr(module, "available_variants", lambda bundle: (found, []))
    monkeypatch.setattr(module, "machine", lambda: f"a chip, Linux {machine}")
    monkeypatch.setattr(module, "run_device", lambda python, words: said(1.0 if "fp32" in words else 2.0))
    fp32, int8 = benchmark(quantized, rounds=1, runs=1).rows
    assert (fp32.note, int8.note) == ("", SLOWER + note)


SLOW = (
    "error: onnx int8 on onnxruntime is {} times as fast as fp32; "
    "at least 1.4 is expected of a processor with int8 dot products"
)
NO_DOT_PRODUCTS = "the speed of int8 is not judged: this processor has no int8 dot products"
NO_X86_KERNELS = "the speed of int8 is not judged: tflite-runtime has no accelerated int8 kernels on x86"


@pytest.mark.parametrize(
    ("runtime", "int8", "dot_products", "line"),
    [
        ("onnxruntime", [2.4, 2.2, 2.3], True, SLOW.format("0.87")),
        ("onnxruntime", [1.65, 1.6, 1.7], True, SLOW.format("1.21")),  # the kernels without dot products
        ("onnxruntime", [1.9, 1.0, 1.9], True, SLOW.format("1.05")),  # one round was faster
        ("onnxruntime", [0.8, 0.8, 2.4], True, ""),  # one round was slower
        ("onnxruntime", [1.4, 1.4, 1.4], True, ""),
        ("onnxruntime", [2.4, 2.2, 2.3], False, NO_DOT_PRODUCTS),
        ("onnxruntime", [0.8, 0.8, 0.8], False, NO_DOT_PRODUCTS),
        (
            "ai-edge-litert",
            [4.0, 4.0, 4.0],
            True,
            SLOW.format("0.50").replace("onnxruntime", "ai-edge-litert"),
        ),
        ("tflite-runtime", [4.0, 4.0, 4.0], True, NO_X86_KERNELS),
    ],
)
def test_int8_has_to_be_faster_where_the_processor_has_dot_products(
    onnx_bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    runtime: str,
    int8: list[float],
    dot_products: bool,
    line: str,
) -> None:
    latencies = {"fp32": iter([2.0, 2.0, 2.0]), "int8": iter(int8)}
    monkeypatch.setattr(module, "machine", lambda: "a chip, Linux x86_64")
    monkeypatch.setattr(module, "has_int8_dot_products", lambda: dot_products)
    monkeypatch.setattr(
        module, "run_device", lambda _, words: said(next(latencies[words[words.index("--precision") + 1]]))
    )
    found = [EncoderVariant("onnx", precision, runtime, HERE) for precision in ("fp32", "int8")]
    monkeypatch.setattr(module, "available_variants", lambda bundle: (found, []))
    arguments = ["benchmark", str(onnx_bundle.path), "--no-accuracy", "--rounds", "3", "--runs", "1"]
    assert main(arguments) == (1 if line.startswith("error: ") else 0)
    said_lines = capsys.readouterr().err.splitlines()
    assert [text for text in said_lines if "judged" in text or "error" in text] == ([line] if line else [])


def test_int8_without_fp32_is_not_judged(
    onnx_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "has_int8_dot_products", lambda: True)
    monkeypatch.setattr(module, "run_device", lambda *_: said(1.0))
    monkeypatch.setattr(module, "available_variants", lambda bundle: ([VARIANTS[1]], []))
    assert VARIANTS[1].precision == "int8"
    assert main(["benchmark", str(onnx_bundle.path), "--no-accuracy", "--rounds", "1", "--runs", "1"]) == 0
    assert (
        "the speed of int8 is not judged: there is no fp32 file to compare with\n" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("rounds", "fp32_ms", "line"),
    [
        (2, 2.0, "the speed of int8 is not judged: fewer than 3 rounds"),
        (3, 0.19, "the speed of int8 is not judged: the fp32 files take less than 0.2 ms"),
        (
            3,
            0.21,
            "error: onnx int8 on onnxruntime is 0.07 times as fast as fp32; at least 1.4 is expected of",
        ),
    ],
)
def test_int8_is_judged_on_enough_rounds_of_networks_of_some_size(
    onnx_bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rounds: int,
    fp32_ms: float,
    line: str,
) -> None:
    monkeypatch.setattr(module, "has_int8_dot_products", lambda: True)
    monkeypatch.setattr(module, "run_device", lambda _, words: said(fp32_ms if "fp32" in words else 3.0))
    found = [EncoderVariant("onnx", precision, "onnxruntime", HERE) for precision in ("fp32", "int8")]
    monkeypatch.setattr(module, "available_variants", lambda bundle: (found, []))
    arguments = ["benchmark", str(onnx_bundle.path), "--no-accuracy", "--rounds", str(rounds), "--runs", "1"]
    assert main(arguments) == int(line.startswith("error"))
    assert line in capsys.readouterr().err


def test_real_processes_measure_and_score(onnx_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_variants", lambda bundle: (VARIANTS, []))
    lines: list[str] = []
    result = benchmark(onnx_bundle, splits(), rounds=1, runs=3, progress=lines.append)
    for row in result.rows:
        assert 0.0 < row.p50_ms <= row.p95_ms < 1000.0
        # A process with numpy and a runtime, without torch.
        assert 10.0 < row.peak_memory_mb < 400.0
        assert row.import_ms > 1.0
        assert row.version[0].isdigit()
        assert row.accuracy is not None
        assert row.accuracy.value == 1.0
    assert result.accuracy_of == "3 official 3-way one-shot trials (chance 33.3 %)"
    assert lines[0] == "round 1 of 1: onnx fp32 on onnxruntime"
    assert lines[-1] == "accuracy of onnx int8 on onnxruntime"


def test_without_official_trials_episodes_are_scored(onnx_bundle: Bundle) -> None:
    data = splits()
    plain = Splits(data.train, data.validation, data.evaluation)
    found, what = module.accuracy(onnx_bundle, VARIANTS[0], plain)
    assert what == "500 6-way 1-shot episodes within groups (chance 16.7 %, 6 classes)"
    assert found.value == 1.0


def test_a_bundle_that_nothing_can_run_is_an_error(
    onnx_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "available_variants", lambda bundle: ([], ["onnxruntime works nowhere"]))
    with pytest.raises(EncoderError, match="no runtime can run this bundle here: onnxruntime works nowhere"):
        benchmark(onnx_bundle)


def test_a_process_that_says_something_else_is_an_error(
    onnx_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "run_device", lambda python, words: "hello")
    with pytest.raises(EncoderError, match="did not print its figures"):
        measure(onnx_bundle, VARIANTS[0], runs=1)


def test_heavy_encoders_are_timed_on_fewer_images(
    onnx_bundle: Bundle, scripted: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.evaluation.evaluate.HEAVY_MACS", 1000)
    assert benchmark(onnx_bundle, rounds=1).runs == 40
    assert scripted[0][scripted[0].index("--runs") + 1] == "40"


def test_the_table_survives_json_and_is_printed(
    onnx_bundle: Bundle, scripted: list[tuple[str, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = benchmark(onnx_bundle, rounds=3, runs=10)
    records.write(tmp_path / "benchmark.json", result)
    assert records.read(Benchmark, tmp_path / "benchmark.json") == result
    show(result, Console(width=80, highlight=False))
    printed = capsys.readouterr().out
    assert "onnxruntime 1.0" in printed
    assert "2.00x" in printed
    assert "1.50-4.00" in printed
    assert "skipped: tflite-runtime works nowhere here" in printed
