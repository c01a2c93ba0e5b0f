"""Running a bundle in another interpreter: the same numbers, and a clear error if it is not possible."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_siamese.errors import EncoderError, RuntimeNotInstalled, SettingsError
from edge_siamese.models.bundle import Bundle
from export.evaluation import remote_runtime
from export.evaluation.embeddings import embed_all
from export.evaluation.remote_runtime import (
    DEVICE_PYTHON_VARIABLE,
    RemoteEncoder,
    available_variants,
    device_python,
    encoders_for,
    installed_runtimes,
    open_encoder,
    run_device,
)

HERE = Path(sys.executable)
SECOND = device_python()


@pytest.fixture(autouse=True)
def no_second_interpreter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever this machine has, a test says itself which interpreter there is."""
    monkeypatch.delenv(DEVICE_PYTHON_VARIABLE, raising=False)
    monkeypatch.setattr(remote_runtime, "CHECKOUT_DEVICE_PYTHON", tmp_path / "none")


def pretend(monkeypatch: pytest.MonkeyPatch, *runtimes: str) -> None:
    """Make the second interpreter be this one, and say that it has these runtimes."""
    monkeypatch.setenv(DEVICE_PYTHON_VARIABLE, str(HERE))
    monkeypatch.setattr(remote_runtime, "installed_runtimes", lambda python: frozenset(runtimes))


def pictures(count: int = 5) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_another_process_gives_the_same_embeddings(onnx_bundle: Bundle) -> None:
    distant = RemoteEncoder(onnx_bundle, "onnxruntime", "int8", HERE)
    near = open_encoder(onnx_bundle, "onnxruntime", "int8", threads=1)
    assert (distant.model_id, distant.dimensions, distant.preprocessing) == (
        near.model_id,
        near.dimensions,
        near.preprocessing,
    )
    embeddings = distant.embed_prepared(pictures())
    assert embeddings.shape == (5, 16)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, near.embed_prepared(pictures()), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, atol=1e-6)


def test_frames_of_other_sizes_are_prepared_first(onnx_bundle: Bundle) -> None:
    distant = RemoteEncoder(onnx_bundle, "onnxruntime", "fp32", HERE)
    frames = [np.full((20, 30, 3), 90, dtype=np.uint8), np.full((9, 9), 200, dtype=np.uint8)]
    np.testing.assert_allclose(
        distant.embed(frames), open_encoder(onnx_bundle, "onnxruntime", "fp32").embed(frames), atol=1e-6
    )


def test_a_remote_encoder_starts_one_process_for_all_images(
    onnx_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []
    original = remote_runtime.run_device
    monkeypatch.setattr(
        remote_runtime, "run_device", lambda python, words: calls.append(words) or original(python, words)
    )
    embeddings = embed_all(RemoteEncoder(onnx_bundle, "onnxruntime", "int8", HERE), pictures(40), block=8)
    assert embeddings.shape == (40, 16)
    assert len(calls) == 1


def test_a_runtime_that_works_here_runs_here(onnx_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "onnxruntime", "tflite-runtime")
    encoder = open_encoder(onnx_bundle, "onnxruntime", "int8")
    assert not isinstance(encoder, RemoteEncoder)
    assert encoder.reason.startswith("onnxruntime")


def test_a_runtime_that_does_not_work_here_runs_in_the_second_interpreter(
    onnx_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, "onnxruntime")

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeNotInstalled("onnxruntime is not installed; to get it: pip install onnxruntime")

    monkeypatch.setattr(remote_runtime, "load_encoder", refuse)
    encoder = open_encoder(onnx_bundle, "onnxruntime", "int8")
    assert isinstance(encoder, RemoteEncoder)
    assert (
        encoder.reason == f"onnxruntime: requested; it does not work in this interpreter, so {HERE} runs it"
    )
    assert encoder.embed_prepared(pictures()).shape == (5, 16)


def test_a_runtime_that_is_nowhere_says_how_to_get_it(
    onnx_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeNotInstalled("tflite-runtime is not installed; to get it: pip install tflite-runtime")

    monkeypatch.setattr(remote_runtime, "try_encoder", refuse)
    with pytest.raises(
        RuntimeNotInstalled, match=r"pip install tflite-runtime; and there is no second interpreter"
    ):
        open_encoder(onnx_bundle, "tflite-runtime", "int8")
    pretend(monkeypatch)
    with pytest.raises(RuntimeNotInstalled, match="has none either"):
        open_encoder(onnx_bundle, "tflite-runtime", "int8")


def test_places_follow_the_files_and_the_runtimes(
    onnx_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_runtime, "available_runtimes", lambda: ("onnxruntime",))
    found, missing = available_variants(onnx_bundle)
    assert [(p.format, p.precision, p.runtime, p.python) for p in found] == [
        ("onnx", "fp32", "onnxruntime", HERE),
        ("onnx", "int8", "onnxruntime", HERE),
    ]
    assert [line.split()[0] for line in missing] == ["ai-edge-litert", "tflite-runtime"]
    assert remote_runtime.DEVICE_PYTHON_VARIABLE in missing[0]
    pretend(monkeypatch, "tflite-runtime")
    _, missing = available_variants(onnx_bundle)
    assert [line.split()[0] for line in missing] == ["ai-edge-litert"]


def test_encoders_for_all_places(onnx_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_runtime, "available_runtimes", lambda: ("onnxruntime",))
    encoders, _ = encoders_for(onnx_bundle)
    assert [(e.runtime, e.precision) for e in encoders] == [("onnxruntime", "fp32"), ("onnxruntime", "int8")]


def test_the_second_interpreter_is_named_by_the_environment_or_made_in_the_checkout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert device_python() is None
    made = script(tmp_path / "made", "exit 0")
    monkeypatch.setattr(remote_runtime, "CHECKOUT_DEVICE_PYTHON", made)
    assert device_python() == made
    monkeypatch.setenv(DEVICE_PYTHON_VARIABLE, str(HERE))
    assert device_python() == HERE
    monkeypatch.setenv(DEVICE_PYTHON_VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(
        SettingsError, match=f"{DEVICE_PYTHON_VARIABLE} names .*absent, which cannot be executed"
    ):
        device_python()


def test_an_interpreter_says_itself_what_it_has() -> None:
    assert "onnxruntime" in installed_runtimes(HERE)


def test_an_interpreter_that_does_not_run_is_named(tmp_path: Path) -> None:
    broken = script(tmp_path / "python", "echo 'no module named numpy' >&2; exit 3")
    with pytest.raises(EncoderError, match="python cannot run edge_siamese: no module named numpy"):
        installed_runtimes(broken)


def test_a_failure_over_there_is_told_in_one_line(tmp_path: Path) -> None:
    broken = script(tmp_path / "python", "echo 'first'; echo 'error: the file is damaged' >&2; exit 1")
    with pytest.raises(
        EncoderError, match=r"-m edge_siamese embed failed with 1: error: the file is damaged$"
    ):
        run_device(broken, ["embed"])


def test_embeddings_of_another_shape_are_refused(onnx_bundle: Bundle, tmp_path: Path) -> None:
    np.save(tmp_path / "wrong.npy", np.zeros((1, 3), dtype=np.float32))
    # Arguments: -m edge_siamese embed BUNDLE IMAGES --out FILE ...
    lying = script(tmp_path / "python", f'cp "{tmp_path}/wrong.npy" "$7"')
    with pytest.raises(EncoderError, match=r"returned float32 embeddings of shape \(1, 3\)"):
        RemoteEncoder(onnx_bundle, "onnxruntime", "int8", lying).embed_prepared(pictures())


@pytest.mark.system
@pytest.mark.skipif(SECOND is None, reason="there is no second interpreter with the device's packages")
def test_the_second_interpreter_of_this_machine_gives_the_same_embeddings(onnx_bundle: Bundle) -> None:
    assert SECOND is not None
    if "onnxruntime" not in installed_runtimes(SECOND):
        pytest.skip(f"{SECOND} has no onnxruntime")
    distant = RemoteEncoder(onnx_bundle, "onnxruntime", "fp32", SECOND).embed_prepared(pictures())
    near = open_encoder(onnx_bundle, "onnxruntime", "fp32").embed_prepared(pictures())
    np.testing.assert_allclose(distant, near, atol=1e-5)
