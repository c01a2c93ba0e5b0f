"""The command `edge-siamese`: what it prints, what it returns, and how it fails."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from edge_siamese import __version__
from edge_siamese.cli.main import build_parser, main
from edge_siamese.errors import EncoderError
from edge_siamese.models.bundle import GOLDEN, Bundle
from edge_siamese.models.manifest import Threshold
from edge_siamese.runtimes.selection import load_encoder
from tests.edge_siamese.runtimes.damage import relist
from tests.tiny_bundle import golden_vectors, write_tiny_bundle
from tests.tiny_network import pictures

ROOT = Path(__file__).parents[3]
COMMANDS = (
    "init", "config", "config check", "config show", "config diff", "completion",
    "run", "status", "events", "reload", "doctor", "quarantine", "quarantine restore",
    "objects", "objects collect", "objects export", "objects import", "objects views", "objects remove-view",
    "register", "rename", "forget", "merge", "undo", "wrong", "score", "explain",
    "model", "model install", "model list", "model rollback",
    "dashboard", "dashboard address", "dashboard password", "dashboard token", "dashboard tokens", "dashboard revoke",
    "info", "selftest", "compare", "recognize", "embed", "bench", "regions",
    "surroundings", "surroundings clear",
)  # fmt: skip


@pytest.fixture
def onnxruntime() -> str:
    pytest.importorskip("onnxruntime")
    return "onnxruntime"


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_info(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(bundle.path)]) == 0
    lines = printed(capsys).splitlines()
    assert lines[0] == "model      tiny-0123456789ab"
    assert "head       p = sigmoid(6.000 - 12.000 x euclidean distance)" in lines
    assert "encoder.fp32.tflite  6,720  tflite  fp32" in lines
    assert "        0.001         0.1100     0.9000" in lines
    assert "one_shot.accuracy  0.9600" in lines


def test_info_as_json(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(bundle.path), "--json"]) == 0
    result = json.loads(printed(capsys))
    assert result["manifest"] == json.loads(bundle.manifest.to_json())
    assert set(result["runtimes"]) == {"ai-edge-litert", "tflite-runtime", "onnxruntime"}


def test_selftest(bundle: Bundle, onnxruntime: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", str(bundle.path)]) == 0
    out = printed(capsys)
    (row,) = [line.split() for line in out.splitlines() if line.startswith("onnxruntime     int8")]
    assert row[2:] == ["1.00000", "0.0000", "exact", "exact", "passed"]
    assert max(map(len, out.splitlines())) <= 80
    assert "FAILED" not in out
    assert (
        main(["selftest", str(bundle.path), "--runtime", onnxruntime, "--precision", "fp32", "--json"]) == 0
    )
    result = json.loads(printed(capsys))
    assert result["passed"] is True
    assert [(r["runtime"], r["precision"], r["passed"]) for r in result["reports"]] == [
        ("onnxruntime", "fp32", True)
    ]


def test_selftest_of_one_runtime_covers_both_precisions(
    bundle: Bundle, onnxruntime: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["selftest", str(bundle.path), "--runtime", onnxruntime, "--json"]) == 0
    reports = json.loads(printed(capsys))["reports"]
    assert [report["precision"] for report in reports] == ["fp32", "int8"]


def test_a_failed_selftest_returns_1(
    writable_bundle: Path, onnxruntime: str, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = golden_vectors()
    turned = {name: np.roll(values, 1, axis=1) for name, values in golden.embeddings.items()}
    dataclasses.replace(golden, embeddings=turned).save(writable_bundle / GOLDEN)
    relist(writable_bundle, GOLDEN)
    assert main(["selftest", str(writable_bundle), "--runtime", onnxruntime]) == 1
    out = printed(capsys)
    assert out.count("FAILED") == 2
    assert (
        "onnxruntime int8: imaging: the same bytes; head: the same scores; embeddings against onnx-int8: "
        in out
    )
    assert out.count(", BELOW 0.98") == 1
    assert main(["selftest", str(writable_bundle), "--runtime", onnxruntime, "--json"]) == 1
    assert json.loads(printed(capsys))["passed"] is False


def test_compare(
    bundle: Bundle, onnxruntime: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = pytest.importorskip("PIL.Image")
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    for path, pixels in zip((first, second), pictures(2)[..., 0], strict=True):
        image.fromarray(pixels).save(path)
    same = ["compare", str(bundle.path), str(first), str(first), "--runtime", onnxruntime]
    assert main(same) == 0
    lines = printed(capsys).splitlines()
    assert lines[0] == "p(same)   0.9975"
    assert lines[1] == "verdict   the same (threshold 0.7500: 1 in 100 different pairs passes)"
    assert (
        main(["compare", str(bundle.path), str(first), str(second), "--runtime", onnxruntime, "--json"]) == 0
    )
    result = json.loads(printed(capsys))
    encoder = load_encoder(bundle, onnxruntime)
    a, b = encoder.embed(pictures(2))
    assert result["distance"] == pytest.approx(float(np.linalg.norm(a - b)), abs=1e-5)
    assert result["same"] is False
    assert result["threshold"] == 0.75


@pytest.fixture
def two_pictures(tmp_path: Path) -> tuple[str, str]:
    """Files of two different things."""
    image = pytest.importorskip("PIL.Image")
    paths = tmp_path / "first.png", tmp_path / "second.png"
    for path, pixels in zip(paths, pictures(2)[..., 0], strict=True):
        image.fromarray(pixels).save(path)
    return str(paths[0]), str(paths[1])


@pytest.fixture
def unsure_bundle(tmp_path: Path) -> Path:
    """A bundle that states no threshold."""
    return write_tiny_bundle(tmp_path / "unsure", thresholds=())


def test_compare_without_a_threshold_gives_no_verdict(
    unsure_bundle: Path, onnxruntime: str, two_pictures: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    first, _ = two_pictures
    words = ["compare", str(unsure_bundle), first, first, "--runtime", onnxruntime]
    assert main(words) == 0
    assert printed(capsys).splitlines()[:2] == [
        "p(same)   0.9975",
        "verdict   none, since the bundle states no threshold; choose one with --threshold P",
    ]
    assert main([*words, "--json"]) == 0
    result = json.loads(printed(capsys))
    assert (result["threshold"], result["threshold_source"], result["same"]) == (None, None, None)


def test_compare_with_an_explicit_threshold(
    bundle: Bundle,
    unsure_bundle: Path,
    onnxruntime: str,
    two_pictures: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, _ = two_pictures
    for path in (bundle.path, unsure_bundle):
        words = ["compare", str(path), first, first, "--runtime", onnxruntime, "--threshold"]
        assert main([*words, "0.999"]) == 0
        assert printed(capsys).splitlines()[1] == "verdict   different (threshold 0.9990: given)"
        assert main([*words, "0", "--json"]) == 0
        result = json.loads(printed(capsys))
        assert (result["threshold"], result["threshold_source"], result["same"]) == (0.0, "given", True)


def test_compare_falls_back_to_the_strictest_threshold(
    tmp_path: Path, onnxruntime: str, two_pictures: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    strict = (Threshold(1e-3, 0.9, 0.1, 20_000), Threshold(1e-4, 0.95, 0.2, 20_000))
    path = write_tiny_bundle(tmp_path / "strict", thresholds=strict)
    assert main(["compare", str(path), *two_pictures, "--runtime", onnxruntime]) == 0
    assert printed(capsys).splitlines()[1] == (
        "verdict   different (threshold 0.9500: 0.01 in 100 different pairs passes)"
    )


def test_recognize_prints_the_threshold(
    bundle: Bundle, onnxruntime: str, two_pictures: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = two_pictures
    words = ["recognize", str(bundle.path), first, second, "--object", f"thing={first}"]
    words += ["--runtime", onnxruntime]
    assert main(words) == 0
    lines = printed(capsys).splitlines()
    # The forty impostors of this random network are too few for the rate; the nearest one makes the threshold stricter.
    assert lines[0] == f"{first}: unknown (nearest: thing, p = 0.93 < 0.96)"
    assert lines[1].startswith(f"{second}: unknown (nearest: thing, p = 0.")
    assert lines[2] == (
        "threshold: 0.9620 (stated for a false-accept rate of 0.01, or stricter: none of 40 pictures of other things passes)"
    )
    assert main([*words, "--threshold", "0.9"]) == 0
    assert printed(capsys).splitlines()[0] == f"{first}: thing (p = 0.93)"
    assert main([*words, "--threshold", "0.999", "--json"]) == 0
    result = json.loads(printed(capsys))
    assert (result["threshold"], result["threshold_source"]) == (0.999, "given")
    assert [found["name"] for found in result["recognitions"]] == [None, None]


def test_recognize_without_a_bundle_threshold_notes_the_default_on_stderr(
    unsure_bundle: Path, onnxruntime: str, two_pictures: tuple[str, str]
) -> None:
    first, second = two_pictures
    words = ["recognize", str(unsure_bundle), second, "--object", f"thing={first}", "--runtime", onnxruntime]
    command = [sys.executable, "-m", "edge_siamese", *words]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True, cwd=ROOT)
    result = json.loads(done.stdout)
    assert result["threshold"] == 0.5
    assert result["threshold_source"] == "assumed, since the bundle states none"
    assert done.stderr == (
        "tiny-0123456789ab states no threshold; using p = 0.5. Pass a threshold to choose another\n"
    )
    done = subprocess.run(
        [*command, "--threshold", "0.4"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stderr == ""


@pytest.mark.parametrize("threshold", ["1.5", "-0.1", "nan", "high"])
@pytest.mark.parametrize("words", ["compare b a.png b.png", "recognize b a.png --object a=a.png"])
def test_an_invalid_threshold_is_wrong_usage(
    words: str, threshold: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*words.split(), f"--threshold={threshold}"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith(
        f"argument --threshold: must be a probability from 0 to 1, not {threshold!r}\n"
    )


@pytest.mark.parametrize("size", [12, 30])
def test_embed(
    bundle: Bundle, onnxruntime: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], size: int
) -> None:
    images = np.repeat(np.repeat(pictures(5), 3, 1), 3, 2)[:, :size, :size]
    np.save(tmp_path / "images.npy", images)
    out = tmp_path / "made" / "embeddings.npy"
    arguments = ["embed", str(bundle.path), str(tmp_path / "images.npy"), "--out", str(out)]
    assert main([*arguments, "--runtime", onnxruntime, "--precision", "fp32", "--json"]) == 0
    assert json.loads(printed(capsys))["images"] == 5
    embeddings = np.load(out)
    assert embeddings.dtype == np.float32
    np.testing.assert_array_equal(embeddings, load_encoder(bundle, onnxruntime, "fp32").embed(images))


def test_invalid_image_arrays_are_reported(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "embeddings.npy"
    (tmp_path / "text.npy").write_text("no numbers")
    np.save(tmp_path / "flat.npy", np.zeros(3, np.uint8))
    np.save(tmp_path / "float.npy", np.zeros((2, 12, 12)))
    for name, problem in (
        ("none", "there is no such file"),
        ("text", "is not a .npy file of numbers"),
        ("flat", "does not hold one array of images"),
        ("float", "must be uint8 with values 0 to 255, not float64"),
    ):
        assert main(["embed", str(bundle.path), str(tmp_path / f"{name}.npy"), "--out", str(out)]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("edge-siamese: ")
        assert problem in error
    assert not out.exists()


def test_bench_of_the_stages(bundle: Bundle, onnxruntime: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", str(bundle.path), "--runtime", onnxruntime, "--threads", "1", "--runs", "5"]
    assert main(arguments) == 0
    lines = printed(capsys).splitlines()
    assert lines[0].startswith("board   ")
    assert lines[1] == "model   tiny-0123456789ab, int8 on onnxruntime, 1 thread"
    assert lines[5].split() == ["stage", "p50", "ms", "p95", "ms"]
    assert main([*arguments, "--views", "7", "--json"]) == 0
    result = json.loads(printed(capsys))
    assert (result["model_id"], result["views"], result["threads"]) == ("tiny-0123456789ab", 7, 1)
    assert "encode" in {stage["name"].split()[0] for stage in result["stages"]}
    assert result["camera"].startswith("a synthetic scene of drawn symbols")


def test_bench_of_the_encoder_alone(
    bundle: Bundle, onnxruntime: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["bench", str(bundle.path), "--encoder", "--runtime", onnxruntime, "--threads", "1"]
    arguments += ["--runs", "5"]
    assert main(arguments) == 0
    assert "latency p50  " in printed(capsys)
    assert main([*arguments, "--json"]) == 0
    result = json.loads(printed(capsys))
    assert result["runs"] == 5
    assert result["model_id"] == "tiny-0123456789ab"
    assert {"version", "p50_ms", "p95_ms", "import_ms", "peak_memory_mb", "file_bytes"} <= set(result)


def test_a_fresh_process_measures_the_import(bundle: Bundle, onnxruntime: str) -> None:
    command = [sys.executable, "-m", "edge_siamese", "bench", str(bundle.path), "--encoder", "--json"]
    done = subprocess.run(
        [*command, "--runs", "5", "--runtime", onnxruntime],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert json.loads(done.stdout)["import_ms"] > 1


def test_an_error_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(tmp_path / "none")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"edge-siamese: no bundle at {tmp_path}/none: no such directory\n"


def test_debug_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(tmp_path / "none"), "--debug"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Traceback (most recent call last):")
    assert error.endswith(f"BundleNotFound: no bundle at {tmp_path}/none: no such directory\n")


def test_errors_of_all_kinds(
    bundle: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, status, line in (
        (EncoderError("two\n  lines"), 1, "edge-siamese: two lines\n"),
        (
            PermissionError(13, "Permission denied", "x"),
            1,
            "edge-siamese: x: Permission denied\n",
        ),
        (KeyError("x"), 1, "edge-siamese: unexpected KeyError: 'x' (--debug shows where)\n"),
        (KeyboardInterrupt(), 130, ""),
    ):

        def fail(path: str, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr("edge_siamese.cli.models.load_bundle", fail)
        assert main(["info", "./bundle"]) == status
        assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["register", "mug", "pen"],
        ["register", "mug", "--picture"],
        ["rename", "mug"],
        ["merge", "mug"],
        ["objects", "remove-view", "mug"],
        ["objects", "remove-view", "mug", "last"],
        ["objects", "fly"],
        ["objects", "import", "a.zip", "--on-conflict", "burn"],
        ["model", "install"],
        ["events", "--count", "501"],
        ["events", "--count", "some"],
        ["score"],
        ["bench", "b", "--runs", "0"],
        ["bench", "b", "--threads", "two"],
        ["embed", "b", "images.npy"],
        ["compare", "b", "a.png", "b.png", "--runtime", "torch"],
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: edge-siamese" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_each_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command.split(), "--help"])
    assert caught.value.code == 0
    help_text = printed(capsys)
    assert f"example: edge-siamese {command}" in help_text
    assert {"--json", "--debug", "--config"} <= set(help_text.replace(",", " ").split())


def test_every_command_runs_an_existing_function() -> None:
    found = dict(commands_of(build_parser()))
    assert set(found) == {*COMMANDS}
    for run in found.values():
        module, _, function = run.partition(":")
        assert callable(getattr(import_module(f"edge_siamese.cli.{module}"), function))


def commands_of(parser: argparse.ArgumentParser, before: str = "") -> Iterator[tuple[str, str]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield f"{before}{name}", inner.get_default("run")
                yield from commands_of(inner, f"{before}{name} ")


@pytest.mark.parametrize(
    "words", ["--json objects", "objects --json", "objects views a --json", "objects --json views a"]
)
def test_options_may_precede_or_follow_a_nested_command(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if words.startswith("--"):
        with pytest.raises(SystemExit):
            main(words.split())
        return
    monkeypatch.setattr("edge_siamese.cli.objects.stream", lambda *_, **__: [{"result": {"objects": []}}])
    assert main(words.split()) == 0
    assert json.loads(printed(capsys)) == {"objects": []}


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert printed(capsys) == f"edge-siamese {__version__}\n"


def test_a_closed_pipe_prints_no_error(bundle: Bundle) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "edge_siamese", "info", str(bundle.path)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")
