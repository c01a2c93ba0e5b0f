"""The stored figures of the daemon are complete, and a short measurement finds no regression.

No test judges the speed of this machine: `make bench-daemon` compares times with the targets.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.daemon.comparisons import CHANGING, PER_FRAME, measure_regions, measure_surroundings, spread
from benchmarks.daemon.frames import CASES, NOTHING_NEW, measure_frames, measure_scoring, summary
from benchmarks.daemon.measure import (
    COMMAND,
    FIGURES,
    OBJECTS,
    RUNTIMES,
    SETTLED_FRAME,
    SOAK_FRAMES,
    TARGETS,
    start_figures,
    tables,
    targets_table,
    verdicts,
)
from benchmarks.daemon.process import Daemon, measure_start
from benchmarks.daemon.soak import measure_soak
from edge_siamese.benchmark import random_support
from edge_siamese.models.bundle import Bundle
from edge_siamese.recognition.decision import decide
from edge_siamese.recognition.imaging import Preprocessing, _weights, prepare
from edge_siamese.runtimes.selection import available_runtimes

PYTHON = Path(sys.executable)
NOT_AT_THE_START = {"PIL", "av", "gpiod", "picamera2", "torch", "email", "http", "asyncio", "unittest"}
"""What a daemon with a drawn scene has no use for, and would pay for in memory and time."""


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    result = json.loads(FIGURES.read_text(encoding="utf-8"))
    assert isinstance(result, dict)
    return result


@pytest.fixture(scope="module")
def tflite() -> str:
    """A TFLite runtime that works in this interpreter."""
    for name in available_runtimes():
        if name != "onnxruntime":
            return name
    pytest.skip("no TFLite runtime works here")


# --- stored figures ---


def test_all_of_it_was_measured(figures: dict[str, Any]) -> None:
    assert tuple(row["runtime"] for row in figures["runtimes"]) == RUNTIMES
    assert figures["targets"] == TARGETS
    for row in figures["runtimes"]:
        assert {model: set(found["cases"]) for model, found in row["frame"].items()} == {
            model: set(cases) for model, cases in CASES.items()
        }
        assert all(found["views"] == 1000 for found in row["frame"].values())
        assert (row["scoring"]["views"], row["scoring"]["dimensions"]) == (10_000, 128)
        assert all(row[f"with {count} objects"]["memory"]["frames"] >= 300 for count in OBJECTS)
    soak = figures["soak"]
    assert soak["frames"] >= SOAK_FRAMES and SETTLED_FRAME <= soak["settled_at"] <= 1.1 * SETTLED_FRAME
    assert min(soak["registered"], soak["undone"], soak["forgotten"], soak["events"]) > 10


def test_the_targets_table_says_which_targets_were_reached(figures: dict[str, Any]) -> None:
    rows = verdicts(figures)
    assert len(rows) == 11
    verdict_cells = re.findall(r"^\| .+ \| (reached|not reached) \|$", targets_table(figures), re.MULTILINE)
    assert verdict_cells == ["reached" if row[3] else "not reached" for row in rows]
    assert figures["command"] == COMMAND


def test_regions_and_surroundings_were_compared(figures: dict[str, Any]) -> None:
    found = figures["comparisons"]
    regions, surroundings = found["regions"], found["surroundings"]
    assert found["runtime"] == RUNTIMES[0] and regions["model_id"] == surroundings["model_id"]
    assert (regions["views"], surroundings["views"], surroundings["scenes"]) == (1000, 1000, 500)
    assert [(case["case"], case["regions_per_frame"]) for case in regions["cases"]] == [
        (name, per_frame) for name in CHANGING for per_frame in PER_FRAME
    ]
    for case in regions["cases"]:
        assert case["one"]["encoder_runs"] == 1.0
        assert case["three"]["encoder_runs"] == min(case["changing"], case["regions_per_frame"])
        assert case["ratio"]["from"] <= case["ratio"]["median"] <= case["ratio"]["to"]
    text = tables(figures)
    assert f"measured on {found['measured']}: {found['machine']}; on core" in text
    last = regions["cases"][-1]
    looks = last["three"]["per_second"]["median"] * 3 / 3
    assert re.search(
        rf"^\| all three change \| 3 \| .* \({last['ratio']['from']:.2f} to .* \| 3.00 \| {looks:.0f} \|$",
        text,
        re.MULTILINE,
    )


def test_a_target_that_is_missed_is_called_so(figures: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(figures))
    changed["runtimes"][0]["with 1000 objects"]["memory"]["rss_mb"] = 80.04
    changed["soak"]["growth_mb"] = 1.2
    missed = [row for row in verdicts(changed) if not row[3]]
    assert [row[1:3] for row in missed][-2:] == [("80 MB", "80.0 MB"), ("1 MB", "1.20 MB")]
    # onnxruntime's memory is stated, and has no target.
    changed = json.loads(json.dumps(figures))
    changed["runtimes"][2]["with 0 objects"]["memory"]["rss_mb"] = 800.0
    assert verdicts(changed) == verdicts(figures)


def test_summaries_take_the_median_round() -> None:
    rounds = np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [90.0, 90.0, 90.0]])
    found = summary(rounds)
    assert (found["p50_ms"], found["p50_from_ms"], found["p50_to_ms"]) == (2.0, 1.0, 90.0)
    assert (found["p95_ms"], found["p95_from_ms"], found["p95_to_ms"]) == (2.0, 1.0, 90.0)
    assert start_figures([0.5, 0.2, 0.3]) == {"runs": 3, "median_s": 0.3, "best_s": 0.2, "worst_s": 0.5}


# --- a short measurement ---


def interleaved(first: Callable[[], object], second: Callable[[], object], runs: int = 40) -> float:
    """How much longer the first takes than the second, in undisturbed runs by turns."""
    times = np.empty((runs, 2))
    for row in times:
        for column, function in enumerate((first, second)):
            start = time.perf_counter_ns()
            function()
            row[column] = time.perf_counter_ns() - start
    first_ns, second_ns = np.percentile(times, 10, axis=0)
    return float(first_ns / second_ns)


def test_frames_are_timed_in_all_cases(bundle: Bundle, tflite: str) -> None:
    cases = CASES["objects"] | CASES["glyphs"]
    found = measure_frames(bundle, tflite, cases, rounds=4, frames=40, views=50)
    assert set(found["cases"]) == set(cases) and found["events"] > 0
    for name, stages in found["cases"].items():
        assert 0 < stages["overhead"]["p50_from_ms"] <= stages["total"]["p50_from_ms"]
        runs = name != NOTHING_NEW
        assert (stages["encoder"]["p50_ms"] > 0, stages["imaging"]["p50_ms"] > 0) == (runs, runs)


def test_a_region_in_which_nothing_is_new_costs_no_encoder_run(bundle: Bundle, tflite: str) -> None:
    found = measure_regions(bundle, tflite, rounds=2, seconds=0.02, views=50)
    runs = {
        (case["case"], case["regions_per_frame"]): (
            case["one"]["encoder_runs"],
            case["three"]["encoder_runs"],
        )
        for case in found["cases"]
    }
    static, changing = CHANGING
    assert runs == {
        (static, 1): (1.0, 1.0), (static, 3): (1.0, 1.0), (changing, 1): (1.0, 1.0), (changing, 3): (1.0, 3.0),
    }  # fmt: skip
    assert all(0 < case["ratio"]["from"] for case in found["cases"])


def test_surroundings_are_timed_when_they_are_full(bundle: Bundle, tflite: str) -> None:
    found = measure_surroundings(bundle, tflite, rounds=2, frames=12, views=50, limit_runs=2)
    assert (found["scenes"], found["places"], found["frames"]) == (500, 16, 24)
    for part in ("off_ms", "full_ms", "limits_ms"):
        assert 0 < found[part]["from"] <= found[part]["median"] <= found[part]["to"]
    assert spread(np.array([3.0, 1.04, 2.0]), 1) == {"median": 2.0, "from": 1.0, "to": 3.0}


def test_scoring_is_timed_for_both_kinds_of_objects(bundle: Bundle) -> None:
    found = measure_scoring(bundle, rounds=3, runs=30)
    for kind in found["objects"].values():
        assert 0 < kind["p50_from_ms"] <= kind["p50_ms"] <= kind["p50_to_ms"]


def test_scoring_is_not_much_more_than_one_matrix_vector_product(bundle: Bundle) -> None:
    support = random_support(10_000, 128)
    query = support.embeddings[7]
    assert (
        interleaved(lambda: decide(support, bundle.head, query, 0.9), lambda: support.embeddings @ query) < 4
    )  # 1.4 when this was written


def test_a_frame_is_resized_in_less_than_the_whole_matrix_product(bundle: Bundle) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (480, 480), dtype=np.uint8)
    down, across = _weights(480, 56), _weights(480, 56).T
    to = Preprocessing(56, 56)
    ratio = interleaved(lambda: prepare(frame, to), lambda: down @ frame.astype(np.float32) @ across)
    assert ratio < 1  # 0.45 when this was written


def test_a_daemon_is_small_and_imports_nothing_that_it_does_not_use(
    bundle: Bundle, tflite: str, tmp_path: Path
) -> None:
    starts = measure_start(PYTHON, bundle.path, tflite, tmp_path, runs=2)
    assert len(starts) == 2 and min(starts) > 0.05
    with Daemon(PYTHON, bundle.path, tflite, tmp_path, python_options=("-X", "importtime")) as daemon:
        daemon.wait_until_ready()
        assert daemon.wait_for_frames(30) >= 30
        memory = daemon.memory()
        imported = set(re.findall(r"^import time: .* \| +(\S+)$", daemon.log, re.MULTILINE))
    assert 20 < memory["anonymous_mb"] < memory["rss_mb"] <= TARGETS["memory_mb"]
    assert memory["pss_mb"] <= memory["rss_mb"]
    packages = {name.split(".")[0] for name in imported}
    assert "numpy" in packages and "edge_siamese" in packages
    unwanted = NOT_AT_THE_START | {"onnxruntime"}
    assert packages & unwanted == set()
    if int(np.__version__.split(".")[0]) >= 2:  # numpy 1 imports them itself
        assert not any(name.startswith("numpy.ma.") for name in imported)


def test_memory_does_not_grow_over_frames_and_registrations(
    bundle: Bundle, tflite: str, tmp_path: Path
) -> None:
    found = measure_soak(
        PYTHON, bundle.path, tflite, tmp_path, frames=5_000, settled_frame=1_500, register_every=500
    )
    assert found["frames"] >= 5_000
    assert found["registered"] >= 2 and found["undone"] >= 1
    assert found["growth_mb"] <= 2 * TARGETS["growth_mb"]
