"""Measures what dashboard, MQTT and metrics cost the daemon: frames a second, processor time and memory, on against off.

python scripts/measure_extras.py --out benchmarks/extras/figures.json   measure, ten minutes
python scripts/measure_extras.py --markdown                             print the tables of docs/results.md

Two daemons, one with everything on and one with nothing on: at the default rate side by side, and as fast as they can by
turns, a second each (off, on, on, off), while the other one is stopped. Each round gives a ratio. A process of its own
watches the dashboard's picture and its stream, and reads the metrics each five seconds.
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

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from edge_siamese.models import shipped  # noqa: E402
from edge_siamese.system.files import write_atomically  # noqa: E402
from scripts.extras_process import Daemon, Slice, Subject, free_port, mosquitto, watcher  # noqa: E402
from scripts.measure_daemon import machine  # noqa: E402

FIGURES = ROOT / "benchmarks" / "extras" / "figures.json"
BUNDLES = ("glyphs", "objects")
TARGETS = {"least_ratio": 0.95, "memory_mb": 140.0}
"""Frames a second with everything on, of those with everything off; resident memory, in MB of a million bytes."""
OBJECTS = 3
SETTLE_SECONDS, RESUME_SECONDS = 5.0, 0.1
ROUND_SECONDS = 4.0
"""Of a round, in seconds; a quarter of it has to be less than a camera may take for a frame."""
ROUNDS = {False: 12, True: 40}
"""At the default rate, and as fast as it can."""
SCRAPES, STALE_SECONDS = 20, 1.1
"""Readings of the metrics that are timed, each after so long that the answer before is not given again."""


def main() -> int:
    """Measure, or print the tables; 1 if a target is not reached."""
    options = _parser().parse_args()
    if options.markdown:
        print(tables(json.loads(options.out.read_text(encoding="utf-8"))))
        return 0
    python = Path(options.device_python)
    if not python.exists():
        raise SystemExit(f"{python} is not there; make setup makes it")
    with tempfile.TemporaryDirectory(prefix="extras-") as place:
        figures = measure(python, options, Path(place))
    text = json.dumps(figures, indent=1) + "\n"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out, lambda file: file.write(text.encode()))
    print(tables(figures))
    return 0 if all(met for *_, met in verdicts(figures)) else 1


def measure(python: Path, options: argparse.Namespace, place: Path) -> dict[str, Any]:
    """All figures, as `figures.json` has them."""
    runs = []
    with mosquitto(place) as broker:
        if broker is None:
            _say("there is no mosquitto: MQTT stays off (sh scripts/system_packages.sh installs it)")
        for name in options.bundle or BUNDLES:
            bundle = shipped(name)
            fast = Subject(python, bundle, options.runtime, True)
            home = place / name
            home.mkdir()
            store = learned(fast, home)
            for subject in (Subject(python, bundle, options.runtime, False), fast):
                if options.rate and subject.fast != (options.rate == "fast"):
                    continue
                rounds = options.rounds or ROUNDS[subject.fast]
                runs.append(
                    {"bundle": name, **compare(subject, home, store, broker, rounds, options.seconds)}
                )
        scrape = scrapes(Subject(python, shipped(BUNDLES[0]), options.runtime, False), place)
    return {
        "command": "python scripts/measure_extras.py --out benchmarks/extras/figures.json",
        "measured": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "load_before": round(_LOAD, 2),
        "runtime": options.runtime,
        "mqtt": broker is not None,
        "frame": "640 x 480",
        "objects": OBJECTS,
        "targets": TARGETS,
        "runs": runs,
        "scrape": scrape,
    }


def learned(subject: Subject, home: Path) -> Path:
    """A database of the objects that the camera shows."""
    with Daemon(subject, home, None, {}) as daemon:
        daemon.wait_until_ready()
        daemon.learn(OBJECTS)
    path = home / "objects.db"
    (home / "state" / "objects.db").rename(path)
    return path


def compare(
    subject: Subject, home: Path, store: Path, broker: int | None, rounds: int, seconds: float
) -> dict[str, Any]:
    """Two daemons, one with everything on and one with nothing; what each did, and the ratio of each round."""
    ports = {"dashboard": free_port(), "metrics": free_port()}
    if broker is not None:
        ports["mqtt"] = broker
    off_home, on_home = home / f"{subject.fast}-off", home / f"{subject.fast}-on"
    off_home.mkdir()
    on_home.mkdir()
    found: list[tuple[Slice, Slice]] = []
    with Daemon(subject, off_home, store, {}) as off, Daemon(subject, on_home, store, ports) as on:
        for daemon in (off, on):
            daemon.wait_until_ready()
            daemon.wait_until_open()
        with watcher(ports) as end:
            began = time.monotonic()
            time.sleep(SETTLE_SECONDS)
            for number in range(rounds):
                found.append((by_turns if subject.fast else at_once)(off, on, seconds))
                ratio = found[-1][1].rate / found[-1][0].rate
                _say(
                    f"{subject.bundle.name}, {rate_name(subject.fast)}, {number + 1} of {rounds}: {ratio:.3f}"
                )
            memory = {"off": off.memory(), "on": on.memory()}
            watched, lasted = end(), time.monotonic() - began
    ratios = [on.rate / off.rate for off, on in found]
    return {
        "rate": rate_name(subject.fast),
        "rounds": rounds,
        "seconds": seconds,
        "off": {**summary([off for off, _ in found]), **memory["off"]},
        "on": {**summary([on for _, on in found]), **memory["on"]},
        "ratio": spread(ratios, 4),
        "ratios": [round(ratio, 4) for ratio in ratios],
        "watched_each_second": {name: round(count / lasted, 2) for name, count in watched.items()},
    }


def by_turns(off: Daemon, on: Daemon, seconds: float) -> tuple[Slice, Slice]:
    """Off, on, on, off, while the other one is stopped: a machine that gets slower or faster hits both alike."""
    slices: dict[Daemon, list[Slice]] = {off: [], on: []}
    for daemon in (off, on, on, off):
        other = on if daemon is off else off
        other.pause()
        daemon.go_on()
        time.sleep(RESUME_SECONDS)
        before = daemon.look()
        time.sleep(seconds / 4)
        slices[daemon].append(Slice.between(before, daemon.look()))
    on.go_on()
    return slices[off][0] + slices[off][1], slices[on][0] + slices[on][1]


def at_once(off: Daemon, on: Daemon, seconds: float) -> tuple[Slice, Slice]:
    """Both at the same time, so that whatever else the machine does hits both alike."""
    before = off.look(), on.look()
    time.sleep(seconds)
    return Slice.between(before[0], off.look()), Slice.between(before[1], on.look())


def scrapes(subject: Subject, place: Path) -> dict[str, Any]:
    """How long one reading of the metrics takes, and what they take of memory alone."""
    home = place / "scrape"
    home.mkdir()
    with Daemon(subject, home, None, {}) as daemon:
        daemon.wait_until_ready()
        time.sleep(SETTLE_SECONDS)
        before = daemon.memory()["rss_mb"]
    ports = {"metrics": free_port()}
    with Daemon(subject, home, None, ports) as daemon:
        daemon.wait_until_ready()
        daemon.wait_until_open()

        def ask() -> int:
            with urlopen(f"http://127.0.0.1:{ports['metrics']}/metrics", timeout=10) as response:
                return len(response.read())

        size, times = ask(), []
        for _ in range(SCRAPES):
            time.sleep(STALE_SECONDS)
            began = time.perf_counter()
            ask()
            times.append(1000 * (time.perf_counter() - began))
        after = daemon.memory()["rss_mb"]
    return {
        "times": SCRAPES,
        "answer_ms": spread(times, 2),
        "bytes": size,
        "added_rss_mb": round(after - before, 1),
    }


def summary(slices: list[Slice]) -> dict[str, Any]:
    """What one daemon did in all rounds."""
    total = sum(slices[1:], slices[0])
    return {
        "frames": total.frames,
        "frames_per_second": spread([found.rate for found in slices], 2),
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


def rate_name(fast: bool) -> str:
    """How figures and tables call it."""
    return "as fast as it can" if fast else "10 a second"


# --- tables ---


def verdicts(figures: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Target, limit, the worst of what was measured, and whether it is met."""
    targets, runs = figures["targets"], figures["runs"]
    found = []
    for rate in dict.fromkeys(run["rate"] for run in runs):
        ratio = min(run["ratio"]["median"] for run in runs if run["rate"] == rate)
        what = f"frames a second, everything on to everything off, {rate}: median of rounds"
        found.append(
            (what, f"at least {targets['least_ratio']:g}", f"{ratio:.3f}", ratio >= targets["least_ratio"])
        )
    # As fast as it can, the process holds the pictures that its camera shows.
    taken = [run["on"]["rss_mb"] for run in runs if run["rate"] == rate_name(False)]
    if taken:
        memory, most = max(taken), targets["memory_mb"]
        what = "resident memory with everything on, one watching"
        found.append((what, f"below {most:g} MB", f"{memory:.1f} MB", memory < most))
    return found


def tables(figures: dict[str, Any]) -> str:
    """The tables of docs/results.md, in Markdown."""
    first = _table(
        ("target", "limit", "measured, worst", ""),
        [(*row[:3], "reached" if row[3] else "not reached") for row in verdicts(figures)],
    )
    rows = []
    for run in figures["runs"]:
        off, on = run["off"], run["on"]
        rows.append(
            (
                f"`{run['bundle']}`, {run['rate']}",
                _range(off["frames_per_second"], 1),
                _range(on["frames_per_second"], 1),
                _range(run["ratio"], 3),
                f"{off['cpu_ms_per_frame']:.2f}",
                f"{on['cpu_ms_per_frame']:.2f}",
                f"{off['rss_mb']:.1f} ({off['pss_mb']:.1f})",
                f"{on['rss_mb']:.1f} ({on['pss_mb']:.1f})",
            )
        )
    heads = (
        "model, rate",
        "off: frames/s",
        "on: frames/s",
        "ratio of rounds",
        "off: CPU ms a frame",
        "on",
        "off: RSS (PSS), MB",
        "on",
    )
    return f"{first}\n\n{_table(heads, rows)}"


def _range(values: dict[str, float], digits: int) -> str:
    return f"{values['median']:.{digits}f} ({values['q1']:.{digits}f} to {values['q3']:.{digits}f})"


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, tuple(rule), *rows))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


_LOAD = os.getloadavg()[0]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=FIGURES, help="the JSON file of figures")
    parser.add_argument(
        "--markdown", action="store_true", help="print the tables of that file, measure nothing"
    )
    parser.add_argument("--bundle", action="append", choices=BUNDLES, help="may be repeated; default: both")
    parser.add_argument("--runtime", default="tflite-runtime", help="default: tflite-runtime, a device's")
    parser.add_argument(
        "--device-python", default=str(ROOT / ".venv-device" / "bin" / "python"), help="has the runtime"
    )
    parser.add_argument("--rate", choices=("default", "fast"), help="only this one; default: both")
    parser.add_argument("--rounds", type=int, help="at each rate")
    parser.add_argument("--seconds", type=float, default=ROUND_SECONDS, help="of each round")
    return parser


if __name__ == "__main__":
    sys.exit(main())
