"""The benchmark of an encoder and of the stages of a frame, and the command `bench`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_siamese import benchmark
from edge_siamese.benchmark import (
    STAGES,
    WARM_UP_FRAMES,
    FrameReport,
    measure_encoder,
    measure_stages,
    peak_memory_bytes,
    random_support,
)
from edge_siamese.cameras.camera import FakeCamera
from edge_siamese.cli.main import main
from edge_siamese.errors import SettingsError
from edge_siamese.models.bundle import Bundle
from edge_siamese.runtimes.encoder import GraphEncoder
from edge_siamese.runtimes.selection import load_encoder
from edge_siamese.system import board
from edge_siamese.system.board import Board

GRAY = np.random.default_rng(0).integers(0, 256, (48, 64), dtype=np.uint8)
BOARD = Board(
    "Raspberry Pi 5 Model B Rev 1.0", 4040, 4, "aarch64", "Debian GNU/Linux 12 (bookworm)", "6.6.62"
)


# --- the encoder alone ---


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_encoder_is_measured(bundle: Bundle, runtime: str, precision: str) -> None:
    found = measure_encoder(bundle, runtime, precision, threads=1, runs=30)
    assert (found.runtime, found.precision, found.threads, found.runs) == (runtime, precision, 1, 30)
    assert 0 < found.p50_ms <= found.p95_ms
    assert found.first_ms > 0
    assert found.load_ms > 0
    assert 10 < found.peak_memory_mb < 100_000
    form = "onnx" if runtime == "onnxruntime" else "tflite"
    assert found.file_bytes == bundle.model_path(form, precision).stat().st_size
    assert found.reason == f"{runtime} {found.version}: requested"
    assert found.python == sys.version.split()[0].rstrip("+")


def test_at_least_one_run(bundle: Bundle) -> None:
    with pytest.raises(SettingsError, match=r"^at least one run is needed, not 0$"):
        measure_encoder(bundle, runs=0)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux alone counts a program's own peak")
def test_the_memory_of_the_parent_does_not_count() -> None:
    """Linux hands `ru_maxrss` of a large parent down to its child."""
    script = """if True:
        import subprocess, sys
        large = bytearray(400_000_000)
        large[::4096] = b"x" * len(large[::4096])
        subprocess.run([sys.executable, "-c",
            "from edge_siamese.benchmark import peak_memory_bytes; print(peak_memory_bytes())"], check=True)
    """
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert 5_000_000 < int(done.stdout) < 300_000_000


def test_memory_that_is_used_counts() -> None:
    before = peak_memory_bytes()
    large = bytearray(b"x" * max(200_000_000, before))
    assert peak_memory_bytes() >= len(large)


@pytest.fixture
def encoder(bundle: Bundle, runtime: str) -> GraphEncoder:
    return load_encoder(bundle, runtime, "int8", 1)


class Clock:
    """A clock that advances by the given times, one after the other, with each reading after the first of a frame."""

    def __init__(self, *milliseconds: float) -> None:
        self._steps = (0.0, *milliseconds)
        self._readings = 0
        self._now = 0

    def perf_counter_ns(self) -> int:
        self._now += round(self._steps[self._readings % len(self._steps)] * 1e6)
        self._readings += 1
        return self._now


# --- stages ---


def test_each_stage_has_its_own_time(
    bundle: Bundle, encoder: GraphEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Capture, imaging, encode, score, and decide, which scores, too.
    monkeypatch.setattr(benchmark, "time", Clock(5.0, 0.3, 2.0, 0.1, 0.25))
    found = measure_stages(bundle, encoder, FakeCamera(lambda _: GRAY), frames=4)
    times = {stage.name: (stage.p50_ms, stage.p95_ms) for stage in found.stages}
    assert times == {
        "capture": (5.0, 5.0),
        "imaging": (0.3, 0.3),
        "encode": (2.0, 2.0),
        "score": (0.1, 0.1),
        "decide": (0.15, 0.15),
    }
    assert found.overhead_ms == 0.55  # imaging, score, decide
    assert (
        found.frames_per_second == 392.2
    )  # 1000 / 2.55: a camera that has its own time to wait does not count


def test_a_decision_that_was_faster_than_the_scoring_before_takes_no_negative_time(
    bundle: Bundle, encoder: GraphEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "time", Clock(1.0, 1.0, 1.0, 0.5, 0.4))
    found = measure_stages(bundle, encoder, FakeCamera(lambda _: GRAY), frames=3)
    assert [stage.p50_ms for stage in found.stages] == [1.0, 1.0, 1.0, 0.5, 0.0]


def test_what_was_measured_is_said(bundle: Bundle, encoder: GraphEncoder) -> None:
    shots: list[int] = []
    camera = FakeCamera(lambda number: shots.append(number) or GRAY)  # type: ignore[func-returns-value]
    found = measure_stages(bundle, encoder, camera, frames=7, views=30)
    assert shots == list(range(1, WARM_UP_FRAMES + 7 + 1))
    assert (found.model_id, found.runtime, found.precision) == ("tiny-0123456789ab", encoder.runtime, "int8")
    assert (found.threads, found.frames, found.views, found.frame) == (1, 7, 30, "64x48 gray")
    assert tuple(stage.name for stage in found.stages) == STAGES
    assert all(0 <= stage.p50_ms <= stage.p95_ms for stage in found.stages)
    assert 10 < found.peak_memory_mb < 100_000
    assert found.frames_per_second > 0


def test_a_frame_in_colors_is_said_to_be_one(bundle: Bundle, encoder: GraphEncoder) -> None:
    camera = FakeCamera(lambda _: np.repeat(GRAY[..., np.newaxis], 3, axis=2))
    assert measure_stages(bundle, encoder, camera, frames=1).frame == "64x48 rgb"


def test_a_head_of_another_distance_is_measured_as_well(weighted_bundle: Bundle, runtime: str) -> None:
    encoder = load_encoder(weighted_bundle, runtime, "int8", 1)
    found = measure_stages(weighted_bundle, encoder, FakeCamera(lambda _: GRAY), frames=2, views=5)
    assert found.views == 5


def test_the_views_are_of_unit_length_and_the_same_every_time() -> None:
    support = random_support(50, 16)
    assert (len(support), support.views[:3], support.dimensions) == (50, (1, 1, 1), 16)
    assert np.linalg.norm(support.embeddings, axis=1) == pytest.approx(np.ones(50), abs=1e-6)
    assert np.array_equal(support.embeddings, random_support(50, 16).embeddings)
    assert not np.array_equal(support.embeddings, random_support(50, 16, seed=1).embeddings)
    assert len({tuple(row) for row in support.embeddings.tolist()}) == 50


# --- the command ---


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine, and one that knows how warm it is."""
    monkeypatch.setattr(board, "read_board", lambda: BOARD)
    monkeypatch.setattr(board, "temperature", lambda: 48.25)


def printed(bundle: Bundle, runtime: str, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    arguments = ["bench", str(bundle.path), "--runtime", runtime, "--threads", "1", "--runs", "5", *more]
    assert main(arguments) == 0
    return capsys.readouterr().out


@pytest.mark.usefixtures("here")
def test_bench_prints_board_runtime_stages_and_heat(
    bundle: Bundle, runtime: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(bundle, runtime, capsys, "--views", "1000").splitlines()
    assert lines[0] == f"board   {BOARD}"
    assert lines[1] == f"model   tiny-0123456789ab, int8 on {runtime}, 1 thread"
    assert lines[2] == "camera  a synthetic scene of drawn symbols, 640 x 480; frames 640x480 gray"
    assert lines[3] == "views   1,000"
    assert lines[5].split() == ["stage", "p50", "ms", "p95", "ms"]
    rows = [line.split() for line in lines[7:12]]
    assert [row[0] for row in rows] == list(STAGES)
    assert all(re.fullmatch(r"\d+\.\d{3}", number) for row in rows for number in row[1:])
    rest = dict(re.split(r" {2,}", line, maxsplit=1) for line in lines[13:])
    assert list(rest) == ["beyond encoder", "frames", "peak memory", "temperature"]
    assert re.fullmatch(r"\d+\.\d{3} ms per frame", rest["beyond encoder"])
    assert re.fullmatch(r"at most \d+ per second", rest["frames"])
    assert re.fullmatch(r"\d+\.\d MiB", rest["peak memory"])
    assert rest["temperature"] == "48.2 °C"


@pytest.mark.usefixtures("here")
def test_bench_for_machines(bundle: Bundle, runtime: str, capsys: pytest.CaptureFixture[str]) -> None:
    found: dict[str, Any] = json.loads(printed(bundle, runtime, capsys, "--json"))
    assert found["board"] == {
        "model": "Raspberry Pi 5 Model B Rev 1.0",
        "memory_mib": 4040,
        "processors": 4,
        "architecture": "aarch64",
        "system": "Debian GNU/Linux 12 (bookworm)",
        "kernel": "6.6.62",
    }
    assert found["temperature_c"] == 48.25
    assert found["camera"] == "a synthetic scene of drawn symbols, 640 x 480"
    assert (found["frames"], found["views"], found["frame"]) == (5, 100, "640x480 gray")
    assert [stage["name"] for stage in found["stages"]] == list(STAGES)
    assert {field for stage in found["stages"] for field in stage} == {"name", "p50_ms", "p95_ms"}
    assert set(FrameReport.__dataclass_fields__) | {"camera", "board", "temperature_c"} == set(found)


def test_bench_on_a_machine_that_does_not_know_how_warm_it_is(
    bundle: Bundle, runtime: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "temperature", lambda: None)
    assert printed(bundle, runtime, capsys).splitlines()[-1] == "temperature     unknown"


def test_bench_takes_frames_of_the_configured_camera(
    bundle: Bundle, runtime: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[camera]\nkind = "synthetic"\nwidth = 320\nheight = 240\nframe_rate = 240\n')
    out = printed(bundle, runtime, capsys, "--camera", "--config", str(config))
    assert out.splitlines()[2] == "camera  a synthetic scene of drawn symbols, 320 x 240; frames 320x240 gray"
