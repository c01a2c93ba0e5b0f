"""Measures what the dashboard, MQTT and metrics cost the daemon: frame rate, processor time and memory, on against off.

.venv/bin/python -m benchmarks.integrations.measure                measure; ten minutes
.venv/bin/python -m benchmarks.integrations.measure --markdown     print the tables of the last measurement

Two daemons, one with all integrations on and one with none, run side by side at the default rate. At full speed they
take turns of a second (off, on, on, off) while the other one is paused. Each round gives a ratio. A client in a process
of its own requests the live picture, follows the event stream, and scrapes the metrics every five seconds.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from benchmarks.daemon.process import ROOT
from benchmarks.integrations.process import Daemon, Interval, Setup, client, free_port, mosquitto
from edge_siamese.models import shipped
from edge_siamese.system.files import write_text_atomically
from export.provenance import machine
from export.reporting.tables import markdown_table

COMMAND = "python -m benchmarks.integrations.measure"
FIGURES = ROOT / "benchmarks" / "integrations" / "figures.json"
BUNDLES = ("glyphs", "objects")
TARGETS = {"min_ratio": 0.95, "memory_mb": 140.0}
"""Frame rate with all integrations on, relative to none; resident memory in megabytes (10^6 bytes)."""
OBJECTS = 3
SETTLE_SECONDS, RESUME_SECONDS = 5.0, 0.1
ROUND_SECONDS = 4.0
"""A quarter of it has to be shorter than a camera's time limit for a frame."""
ROUNDS = {False: 12, True: 40}
"""Rounds at the default rate (False) and at full speed (True)."""
SCRAPES, SCRAPE_INTERVAL_SECONDS = 20, 1.1
"""Timed scrapes; the interval is longer than the daemon caches its metrics."""


def main() -> int:
    """Measure or print the tables; returns 1 if a target is missed."""
    options = _parser().parse_args()
    if options.markdown:
        print(tables(json.loads(options.out.read_text(encoding="utf-8"))))
        return 0
    python = Path(options.device_python)
    if not python.exists():
        raise SystemExit(f"{python} does not exist; `make setup` creates it")
    with tempfile.TemporaryDirectory(prefix="integrations-") as directory:
        figures = measure(python, options, Path(directory))
    write_text_atomically(options.out, json.dumps(figures, indent=1) + "\n")
    print(tables(figures))
    return 0 if all(reached for *_, reached in verdicts(figures)) else 1


def measure(python: Path, options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Measure everything that `figures.json` contains."""
    load = os.getloadavg()[0]
    runs = []
    with mosquitto(directory) as broker:
        if broker is None:
            _log("Mosquitto is not installed, so MQTT stays off; scripts/system_packages.sh installs it")
        for name in options.bundle or BUNDLES:
            bundle = shipped(name)
            full_speed = Setup(python, bundle, options.runtime, True)
            home = directory / name
            home.mkdir()
            store = register_objects(full_speed, home)
            for setup in (Setup(python, bundle, options.runtime, False), full_speed):
                if options.rate and setup.full_speed != (options.rate == "full-speed"):
                    continue
                rounds = options.rounds or ROUNDS[setup.full_speed]
                runs.append({"bundle": name, **compare(setup, home, store, broker, rounds, options.seconds)})
        scrape = measure_scrapes(Setup(python, shipped(BUNDLES[0]), options.runtime, False), directory)
    return {
        "command": COMMAND,
        "measured": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "load_before": round(load, 2),
        "runtime": options.runtime,
        "mqtt": broker is not None,
        "frame": "640 x 480",
        "objects": OBJECTS,
        "targets": TARGETS,
        "runs": runs,
        "scrape": scrape,
    }


def register_objects(setup: Setup, home: Path) -> Path:
    """Register the objects that the camera shows; returns the database."""
    with Daemon(setup, home, None, {}) as daemon:
        daemon.wait_until_ready()
        daemon.register(OBJECTS)
    path = home / "objects.db"
    (home / "state" / "objects.db").rename(path)
    return path


def compare(
    setup: Setup, home: Path, store: Path, broker: int | None, rounds: int, seconds: float
) -> dict[str, Any]:
    """Run two daemons, one with all integrations and one with none; returns what each did and the ratio of each round."""
    ports = {"dashboard": free_port(), "metrics": free_port()}
    if broker is not None:
        ports["mqtt"] = broker
    off_home, on_home = home / f"{setup.full_speed}-off", home / f"{setup.full_speed}-on"
    off_home.mkdir()
    on_home.mkdir()
    intervals: list[tuple[Interval, Interval]] = []
    with Daemon(setup, off_home, store, {}) as off, Daemon(setup, on_home, store, ports) as on:
        for daemon in (off, on):
            daemon.wait_until_ready()
            daemon.wait_until_open()
        with client(ports) as stop_client:
            started = time.monotonic()
            time.sleep(SETTLE_SECONDS)
            for number in range(rounds):
                intervals.append((take_turns if setup.full_speed else run_together)(off, on, seconds))
                ratio = intervals[-1][1].rate / intervals[-1][0].rate
                _log(
                    f"{setup.bundle.name}, {rate_name(setup.full_speed)}, {number + 1} of {rounds}: {ratio:.3f}"
                )
            memory = {"off": off.memory(), "on": on.memory()}
            received, lasted = stop_client(), time.monotonic() - started
    ratios = [on.rate / off.rate for off, on in intervals]
    return {
        "rate": rate_name(setup.full_speed),
        "rounds": rounds,
        "seconds": seconds,
        "off": {**summary([off for off, _ in intervals]), **memory["off"]},
        "on": {**summary([on for _, on in intervals]), **memory["on"]},
        "ratio": spread(ratios, 4),
        "ratios": [round(ratio, 4) for ratio in ratios],
        "client_per_second": {name: round(count / lasted, 2) for name, count in received.items()},
    }


def take_turns(off: Daemon, on: Daemon, seconds: float) -> tuple[Interval, Interval]:
    """Run off, on, on, off, with the other daemon paused: a change of the machine's speed affects both alike."""
    intervals: dict[Daemon, list[Interval]] = {off: [], on: []}
    for daemon in (off, on, on, off):
        other = on if daemon is off else off
        other.pause()
        daemon.resume()
        time.sleep(RESUME_SECONDS)
        before = daemon.sample()
        time.sleep(seconds / 4)
        intervals[daemon].append(Interval.between(before, daemon.sample()))
    on.resume()
    return intervals[off][0] + intervals[off][1], intervals[on][0] + intervals[on][1]


def run_together(off: Daemon, on: Daemon, seconds: float) -> tuple[Interval, Interval]:
    """Run both at the same time, so that other load on the machine affects both alike."""
    before = off.sample(), on.sample()
    time.sleep(seconds)
    return Interval.between(before[0], off.sample()), Interval.between(before[1], on.sample())


def measure_scrapes(setup: Setup, directory: Path) -> dict[str, Any]:
    """Time single scrapes, and measure the memory that the metrics add."""
    home = directory / "scrape"
    home.mkdir()
    with Daemon(setup, home, None, {}) as daemon:
        daemon.wait_until_ready()
        time.sleep(SETTLE_SECONDS)
        before = daemon.memory()["rss_mb"]
    ports = {"metrics": free_port()}
    with Daemon(setup, home, None, ports) as daemon:
        daemon.wait_until_ready()
        daemon.wait_until_open()

        def scrape() -> int:
            with urlopen(f"http://127.0.0.1:{ports['metrics']}/metrics", timeout=10) as response:
                return len(response.read())

        size, times = scrape(), []
        for _ in range(SCRAPES):
            time.sleep(SCRAPE_INTERVAL_SECONDS)
            start = time.perf_counter()
            scrape()
            times.append(1000 * (time.perf_counter() - start))
        after = daemon.memory()["rss_mb"]
    return {
        "times": SCRAPES,
        "answer_ms": spread(times, 2),
        "bytes": size,
        "added_rss_mb": round(after - before, 1),
    }


def summary(intervals: list[Interval]) -> dict[str, Any]:
    """Totals of one daemon over all rounds."""
    total = sum(intervals[1:], intervals[0])
    return {
        "frames": total.frames,
        "frames_per_second": spread([interval.rate for interval in intervals], 2),
        "cpu_ms_per_frame": round(total.cpu_ms, 3),
        "processors": round(total.cpu_s / total.seconds, 4),
    }


def spread(values: list[float], digits: int) -> dict[str, float]:
    """Median, quartiles and extremes."""
    low, _, high = (
        statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    )
    found = {
        "median": statistics.median(values),
        "q1": low,
        "q3": high,
        "from": min(values),
        "to": max(values),
    }
    return {name: round(value, digits) for name, value in found.items()}


def rate_name(full_speed: bool) -> str:
    """The name of a frame rate in figures and tables."""
    return "full speed" if full_speed else "10 a second"


def verdicts(figures: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """(target, limit, worst measured value, whether the target is reached) of each target."""
    targets, runs = figures["targets"], figures["runs"]
    rows = []
    for rate in dict.fromkeys(run["rate"] for run in runs):
        ratio = min(run["ratio"]["median"] for run in runs if run["rate"] == rate)
        target = f"frame rate with all integrations relative to none, {rate}: median of rounds"
        rows.append(
            (target, f"at least {targets['min_ratio']:g}", f"{ratio:.3f}", ratio >= targets["min_ratio"])
        )
    # At full speed the process holds the pictures that its camera shows.
    memory = [run["on"]["rss_mb"] for run in runs if run["rate"] == rate_name(False)]
    if memory:
        limit = targets["memory_mb"]
        target = "resident memory with all integrations and one client"
        rows.append((target, f"below {limit:g} MB", f"{max(memory):.1f} MB", max(memory) < limit))
    return rows


def tables(figures: dict[str, Any]) -> str:
    """The tables of docs/results/integrations.md, in Markdown."""
    header = (
        "model, rate",
        "off: frames/s",
        "on: frames/s",
        "ratio of rounds",
        "off: CPU ms per frame",
        "on",
        "off: RSS (PSS), MB",
        "on",
    )
    rows = [
        (
            f"`{run['bundle']}`, {run['rate']}",
            _range(run["off"]["frames_per_second"], 1),
            _range(run["on"]["frames_per_second"], 1),
            _range(run["ratio"], 3),
            *(f"{run[state]['cpu_ms_per_frame']:.2f}" for state in ("off", "on")),
            *(f"{run[state]['rss_mb']:.1f} ({run[state]['pss_mb']:.1f})" for state in ("off", "on")),
        )
        for run in figures["runs"]
    ]
    return f"{targets_table(figures)}\n{markdown_table(header, rows)}"


def targets_table(figures: dict[str, Any]) -> str:
    """The targets and what was measured, in Markdown."""
    return markdown_table(
        ("target", "limit", "measured, worst", ""),
        [(*row[:3], "reached" if row[3] else "not reached") for row in verdicts(figures)],
        "lrrl",
    )


def _range(values: dict[str, float], digits: int) -> str:
    return f"{values['median']:.{digits}f} ({values['q1']:.{digits}f} to {values['q3']:.{digits}f})"


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=FIGURES, help="JSON file of the figures")
    parser.add_argument(
        "--markdown", action="store_true", help="print the tables of that file without measuring"
    )
    parser.add_argument("--bundle", action="append", choices=BUNDLES, help="may be repeated (default: both)")
    parser.add_argument("--runtime", default="tflite-runtime", help="(default: tflite-runtime)")
    parser.add_argument(
        "--device-python",
        default=str(ROOT / ".venv-device" / "bin" / "python"),
        help="interpreter of the runtime (default: .venv-device)",
    )
    parser.add_argument("--rate", choices=("default", "full-speed"), help="(default: both)")
    parser.add_argument("--rounds", type=int, help="number of rounds at each rate")
    parser.add_argument("--seconds", type=float, default=ROUND_SECONDS, help="length of a round (default: 4)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
