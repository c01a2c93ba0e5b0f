"""The stored figures of the integrations are complete, and a short measurement finds no regression."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.integrations.measure import (
    BUNDLES,
    COMMAND,
    FIGURES,
    OBJECTS,
    ROUNDS,
    TARGETS,
    rate_name,
    run_together,
    spread,
    take_turns,
    targets_table,
    verdicts,
)
from benchmarks.integrations.process import (
    Daemon,
    Interval,
    Sample,
    Setup,
    client,
    free_port,
    mosquitto,
)
from edge_siamese.models.bundle import Bundle
from edge_siamese.runtimes.selection import available_runtimes

ROOT = Path(__file__).parents[2]
PYTHON = Path(sys.executable)


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    result = json.loads(FIGURES.read_text(encoding="utf-8"))
    assert isinstance(result, dict)
    return result


@pytest.fixture(scope="module")
def setup(bundle: Bundle) -> Setup:
    """The tiny bundle with whatever runtime works here."""
    return Setup(PYTHON, bundle.path, available_runtimes()[0], False)


# --- stored figures ---


def test_the_page_on_metrics_states_what_a_scrape_costs(figures: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    scrape = figures["scrape"]
    assert f"{scrape['answer_ms']['median']:.1f} ms" in page and f"{scrape['added_rss_mb']:.1f} MB" in page


def test_all_of_it_was_measured(figures: dict[str, Any]) -> None:
    assert figures["targets"] == TARGETS == {"min_ratio": 0.95, "memory_mb": 140.0}
    assert figures["mqtt"] and figures["objects"] == OBJECTS and figures["runtime"] == "tflite-runtime"
    measured = [(run["bundle"], run["rate"]) for run in figures["runs"]]
    assert measured == [(name, rate_name(fast)) for name in BUNDLES for fast in (False, True)]
    for run in figures["runs"]:
        assert run["rounds"] == len(run["ratios"]) == ROUNDS[run["rate"] != rate_name(False)]
        watched = run["client_per_second"]
        assert watched["errors"] == 0 and watched["pictures"] > 1 and watched["scrapes"] > 0.1
        assert watched["messages"] > 0


def test_the_targets_table_says_which_targets_were_reached(figures: dict[str, Any]) -> None:
    table = targets_table(figures)
    for target, limit, value, reached in verdicts(figures):
        assert f"| {target} | {limit} | {value} | {'reached' if reached else 'not reached'} |" in table
    assert figures["command"] == COMMAND


def test_a_target_that_is_missed_is_called_so(figures: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(figures))
    changed["runs"][1]["ratio"]["median"] = 0.949
    changed["runs"][0]["on"]["rss_mb"] = 140.0
    missed = [row[2] for row in verdicts(changed) if not row[3]]
    assert missed == ["0.949", "140.0 MB"]
    # As fast as it can, it holds the pictures that its camera shows: that is no figure of a device's memory.
    changed["runs"][0]["on"]["rss_mb"], changed["runs"][1]["on"]["rss_mb"] = 100.0, 400.0
    assert [row[3] for row in verdicts(changed)][-1]


def test_intervals_add_up() -> None:
    first = Interval.between(Sample(10.0, 100, 1.0), Sample(12.0, 120, 1.5))
    both = first + Interval.between(Sample(20.0, 200, 3.0), Sample(21.0, 240, 3.5))
    assert (first.rate, first.cpu_ms) == (10.0, 25.0)
    assert (both.frames, both.seconds, both.rate) == (60, 3.0, 20.0)
    with pytest.raises(SystemExit, match=r"no frames for 2\.0 s"):
        Interval.between(Sample(10.0, 100, 1.0), Sample(12.0, 100, 1.5))
    assert spread([3.0, 1.0, 2.0], 1) == {"median": 2.0, "q1": 1.5, "q3": 2.5, "from": 1.0, "to": 3.0}


# --- a short measurement ---


def test_all_integrations_serve_a_client_and_take_little_memory(setup: Setup, tmp_path: Path) -> None:
    for name in ("off", "on"):
        (tmp_path / name).mkdir()
    with mosquitto(tmp_path) as broker:
        ports = {"dashboard": free_port(), "metrics": free_port(), **({"mqtt": broker} if broker else {})}
        with (
            Daemon(setup, tmp_path / "off", None, {}) as off,
            Daemon(setup, tmp_path / "on", None, ports) as on,
        ):
            for daemon in (off, on):
                daemon.wait_until_ready()
                daemon.wait_until_open()
            assert off.status()["integrations"] == {}
            # On a busy machine it takes a while until the client has received something of everything.
            for seconds in (3, 10, 30, 60):
                with client(ports) as stop_client:
                    intervals = run_together(off, on, seconds)
                    memory, counts = on.memory(), stop_client()
                if counts["pictures"] >= 2 and counts["scrapes"] and counts["messages"]:
                    break
            assert set(on.status()["integrations"]) == set(ports)
    assert all(interval.frames > 0 and interval.cpu_s >= 0 for interval in intervals)
    assert 20 < memory["rss_mb"] < TARGETS["memory_mb"]
    assert counts["pictures"] >= 2 and counts["scrapes"] >= 1 and counts["messages"] >= 1
    assert counts["errors"] == 0


def test_daemons_that_take_turns_do_not_run_at_the_same_time(setup: Setup, tmp_path: Path) -> None:
    fast = Setup(setup.python, setup.bundle, setup.runtime, True)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    with (
        Daemon(fast, tmp_path / "first", None, {}) as first,
        Daemon(fast, tmp_path / "second", None, {}) as second,
    ):
        for daemon in (first, second):
            daemon.wait_until_ready()
            daemon.wait_until_open()
        intervals = take_turns(first, second, 1.2)
        assert all(interval.seconds >= 0.6 and interval.frames > 0 for interval in intervals)
        first.pause()
        before = first.cpu_seconds()
        time.sleep(0.3)
        assert first.cpu_seconds() == before
        first.resume()
        later = first.sample()
        assert later.frames > 0 and first.status()["camera"]["restarts"] == 0
