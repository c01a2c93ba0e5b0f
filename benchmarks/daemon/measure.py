"""Measures the daemon against its targets and prints the tables of docs/results/daemon.md.

.venv/bin/python -m benchmarks.daemon.measure                        measure; about eight minutes
.venv/bin/python -m benchmarks.daemon.measure --only comparisons     measure regions and surroundings; two minutes
.venv/bin/python -m benchmarks.daemon.measure --markdown             print the tables of the last measurement
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.daemon.frames import NOTHING_NEW
from benchmarks.daemon.process import ROOT, environment, fill_store, measure_memory, measure_start
from benchmarks.daemon.soak import measure_soak
from edge_siamese.models import shipped
from edge_siamese.models.bundle import load_bundle
from edge_siamese.system.files import write_text_atomically
from export.provenance import machine
from export.reporting.tables import markdown_table

FIGURES = ROOT / "benchmarks" / "daemon" / "figures.json"
COMMAND = "python -m benchmarks.daemon.measure"
BUNDLE = "glyphs"
"""The shipped bundle with which memory and start-up time are measured; frames are measured with `objects` too."""
RUNTIMES = ("ai-edge-litert", "tflite-runtime", "onnxruntime")
TARGETS = {
    "overhead_ms": 1.0,
    "imaging_ms": 0.5,
    "focus_ms": 0.5,
    "unchanged_ratio": 0.1,
    "scoring_ms": 1.0,
    "memory_mb": 80.0,
    "start_s": 1.0,
    "growth_mb": 1.0,
}
"""Upper limits. Memory is that of the TFLite runtimes; 1 MB is 10^6 bytes."""
OBJECTS = (0, 1000)
"""Numbers of registered objects with which memory and start-up time are measured."""
MEMORY_FRAMES, START_RUNS = 300, 15
SOAK_FRAMES, SETTLED_FRAME, REGISTER_EVERY = 100_000, 5_000, 1_000


def main() -> int:
    """Measure or print the tables; returns 1 if a target is missed."""
    options = _parser().parse_args()
    if options.markdown:
        print(tables(json.loads(options.out.read_text(encoding="utf-8"))))
        return 0
    pythons = _interpreters(options)
    with tempfile.TemporaryDirectory(prefix="daemon-") as directory:
        if options.only:
            figures = json.loads(options.out.read_text(encoding="utf-8"))
            figures["comparisons"] = measure_comparisons(pythons, Path(directory))
        else:
            figures = measure(shipped(BUNDLE), pythons, Path(directory))
    write_text_atomically(options.out, json.dumps(figures, indent=1) + "\n")
    print(tables(figures))
    return 0 if all(reached for *_, reached in verdicts(figures)) else 1


def measure(bundle: Path, pythons: dict[str, Path], directory: Path) -> dict[str, Any]:
    """Measure everything that `figures.json` contains.

    Args:
        bundle: the model for memory and start-up time.
        pythons: the interpreter that has each runtime.
        directory: for stores, sockets and compiled modules.
    """
    rows = []
    for runtime, python in pythons.items():
        _log(f"{runtime}: overhead and scoring")
        row = {"runtime": runtime, **_run("benchmarks.daemon.frames", python, runtime, directory)}
        for objects in OBJECTS:
            _log(f"{runtime}: start-up time and memory with {objects} objects")
            home = directory / f"{runtime}-{objects}"
            (home / "state").mkdir(parents=True)
            if objects:
                fill_store(home / "state" / "objects.db", bundle, objects)
            row[f"with {objects} objects"] = {
                "start": start_figures(measure_start(python, bundle, runtime, home, START_RUNS)),
                "memory": measure_memory(python, bundle, runtime, home, MEMORY_FRAMES),
            }
        rows.append(row)
    runtime, python = next(iter(pythons.items()))
    _log(f"{runtime}: {SOAK_FRAMES:,} frames")
    soak = measure_soak(
        python,
        bundle,
        runtime,
        directory / "soak",
        frames=SOAK_FRAMES,
        settled_frame=SETTLED_FRAME,
        register_every=REGISTER_EVERY,
    )
    return {
        "command": COMMAND,
        "measured": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "model_id": load_bundle(bundle, verify_checksums=False).manifest.model_id,
        "frame": "640 x 480",
        "threads": 1,
        "targets": TARGETS,
        "runtimes": rows,
        "soak": {"runtime": runtime, **soak},
        "comparisons": measure_comparisons(pythons, directory),
    }


def measure_comparisons(pythons: dict[str, Path], directory: Path) -> dict[str, Any]:
    """Compare one region with three, and surroundings that are off with full ones, with the first runtime."""
    runtime, python = next(iter(pythons.items()))
    _log(f"{runtime}: regions and surroundings")
    load = os.getloadavg()[0]
    return {
        "measured": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "load_before": round(load, 2),
        **_run("benchmarks.daemon.comparisons", python, runtime, directory),
    }


def _run(module: str, python: Path, runtime: str, directory: Path) -> dict[str, Any]:
    """Run a module in an interpreter and return its figures."""
    command = [str(python), "-m", module, "--runtime", runtime]
    done = subprocess.run(command, cwd=ROOT, env=environment(directory), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    result = json.loads(done.stdout)
    assert isinstance(result, dict)
    return result


def start_figures(seconds: list[float]) -> dict[str, Any]:
    """Median, best and worst start-up time."""
    return {
        "runs": len(seconds),
        "median_s": round(statistics.median(seconds), 3),
        "best_s": round(min(seconds), 3),
        "worst_s": round(max(seconds), 3),
    }


def verdicts(figures: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """(target, limit, worst measured value, whether the target is reached) of each target."""
    rows, targets, soak = figures["runtimes"], figures["targets"], figures["soak"]
    tflite = [row for row in rows if row["runtime"] != "onnxruntime"]

    def worst(of: list[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> float:
        return max(value(row) for row in of)

    def frame(model: str, case: str, stage: str, name: str = "p50_ms") -> Callable[[dict[str, Any]], float]:
        return lambda row: float(row["frame"][model]["cases"][case][stage][name])

    def unchanged(row: dict[str, Any]) -> float:
        still, usual = (frame("objects", case, "total")(row) for case in (NOTHING_NEW, "color"))
        return still / usual

    def with_objects(part: str, name: str) -> Callable[[dict[str, Any]], float]:
        return lambda row: max(float(row[f"with {count} objects"][part][name]) for count in OBJECTS)

    def scoring(row: dict[str, Any]) -> float:
        return max(float(kind["p50_ms"]) for kind in row["scoring"]["objects"].values())

    measured = [
        (
            "daemon overhead for a color frame, `objects`, 1,000 views: p50",
            "overhead_ms",
            worst(rows, frame("objects", "color", "overhead")),
        ),
        ("imaging of it: p50", "imaging_ms", worst(rows, frame("objects", "color", "imaging"))),
        (
            "what the focus `foreground` adds: p50",
            "focus_ms",
            worst(rows, frame("objects", "foreground", "focus")),
        ),
        (
            "a frame without anything new, relative to one with the focus `center`: p50",
            "unchanged_ratio",
            worst(rows, unchanged),
        ),
        (
            "daemon overhead for a gray frame, `glyphs`, 1,000 views: p50",
            "overhead_ms",
            worst(rows, frame("glyphs", "gray", "overhead")),
        ),
        (
            "daemon overhead for a gray frame: p95",
            "overhead_ms",
            worst(rows, frame("glyphs", "gray", "overhead", "p95_ms")),
        ),
        ("scoring 10,000 views of 128 numbers: p50", "scoring_ms", worst(rows, scoring)),
        (
            "resident memory with a TFLite runtime, 1,000 objects",
            "memory_mb",
            worst(tflite, with_objects("memory", "rss_mb")),
        ),
        ("from exec to READY=1: median", "start_s", worst(rows, with_objects("start", "median_s"))),
        ("from exec to READY=1: worst run", "start_s", worst(rows, with_objects("start", "worst_s"))),
        (
            f"growth of resident memory from frame {soak['settled_at']:,} to {soak['frames']:,}",
            "growth_mb",
            soak["growth_mb"],
        ),
    ]
    return [
        (target, _with_unit(f"{targets[key]:g}", key), _with_unit(_number(value, key), key), value <= targets[key])
        for target, key, value in measured
    ]  # fmt: skip


def tables(figures: dict[str, Any]) -> str:
    """The tables of docs/results/daemon.md, in Markdown."""
    return "\n".join(
        (
            targets_table(figures),
            _frames_table(figures),
            _scoring_table(figures),
            _processes_table(figures),
            _soak_table(figures["soak"]),
            _regions_table(figures["comparisons"]),
            _surroundings_table(figures["comparisons"]),
            _conditions(figures["comparisons"]),
        )
    )


def targets_table(figures: dict[str, Any]) -> str:
    """The targets and what was measured, in Markdown."""
    return markdown_table(
        ("target", "limit", "measured, worst runtime", ""),
        [(*row[:3], "reached" if row[3] else "not reached") for row in verdicts(figures)],
        "lrrl",
    )


def _frames_table(figures: dict[str, Any]) -> str:
    def with_range(part: dict[str, float], percentile: str) -> str:
        middle, low, high = (part[f"{percentile}{end}_ms"] for end in ("", "_from", "_to"))
        return f"{middle:.2f} ({low:.2f} to {high:.2f})"

    return markdown_table(
        ("frame of 640 x 480, 1,000 views, ms", "encoder", "overhead: p50", "p95", "focus", "imaging", "deciding"),
        [
            (
                f"`{model}`, {case}, {row['runtime']} {measured['version']}",
                f"{parts['encoder']['p50_ms']:.2f}",
                with_range(parts["overhead"], "p50"),
                with_range(parts["overhead"], "p95"),
                *(f"{parts[stage]['p50_ms']:.2f}" for stage in ("focus", "imaging", "deciding")),
            )
            for model in figures["runtimes"][0]["frame"]
            for row in figures["runtimes"]
            for measured in (row["frame"][model],)
            for case, parts in measured["cases"].items()
        ],
    )  # fmt: skip


def _scoring_table(figures: dict[str, Any]) -> str:
    return markdown_table(
        ("10,000 views, ms", "objects", "p50", "p95"),
        [
            (f"numpy {row['numpy']}", objects, f"{times['p50_ms']:.2f}", f"{times['p95_ms']:.2f}")
            for row in figures["runtimes"]
            if row["runtime"] != "onnxruntime"
            for objects, times in row["scoring"]["objects"].items()
        ],
        "llrr",
    )


def _processes_table(figures: dict[str, Any]) -> str:
    return markdown_table(
        ("process", "objects", "resident (RSS)", "proportional (PSS)", "start: median", "best to worst"),
        [
            (
                _runtime(row),
                f"{objects:,}",
                f"{memory['rss_mb']:.1f} MB",
                f"{memory['pss_mb']:.1f} MB",
                f"{start['median_s']:.2f} s",
                f"{start['best_s']:.2f} to {start['worst_s']:.2f} s",
            )
            for row in figures["runtimes"]
            for objects in OBJECTS
            for memory, start in (
                (row[f"with {objects} objects"]["memory"], row[f"with {objects} objects"]["start"]),
            )
        ],
    )


def _soak_table(soak: dict[str, Any]) -> str:
    return markdown_table(
        ("frames", "a second", "events", "registered", f"at frame {soak['settled_at']:,}", "maximum", "at the end"),
        [
            (
                f"{soak['frames']:,}",
                f"{soak['frames'] / soak['seconds']:.0f}",
                str(soak["events"]),
                f"{soak['registered']} ({soak['undone']} undone, {soak['forgotten']} forgotten)",
                f"{soak['settled_mb']:.2f} MB",
                f"{soak['max_mb']:.2f} MB",
                f"{soak['end_mb']:.2f} MB",
            )
        ],
        "rrrrrrr",
    )  # fmt: skip


def _regions_table(comparisons: dict[str, Any]) -> str:
    regions = comparisons["regions"]
    return markdown_table(
        (
            f"regions of `{comparisons['bundle']}`, {_version(comparisons, regions)}",
            "`regions_per_frame`",
            "frames a second: one",
            "three",
            "three relative to one",
            "encoder runs a frame",
            "looks a second at each that changes",
        ),
        [
            (
                case["case"],
                str(case["regions_per_frame"]),
                f"{case['one']['per_second']['median']:.0f}",
                f"{case['three']['per_second']['median']:.0f}",
                _with_range(case["ratio"], 2),
                f"{case['three']['encoder_runs']:.2f}",
                f"{_looks(case):.0f}",
            )
            for case in regions["cases"]
        ],
    )


def _looks(case: dict[str, Any]) -> float:
    """How often a second each changing region is recognized."""
    three = case["three"]
    return float(three["per_second"]["median"] * three["encoder_runs"] / case["changing"])


def _surroundings_table(comparisons: dict[str, Any]) -> str:
    found = comparisons["surroundings"]
    return markdown_table(
        (
            f"surroundings of `{comparisons['bundle']}`, {_version(comparisons, found)}, {found['views']:,} views, ms",
            "off",
            f"{found['scenes']} scenes, {found['places']} places",
            "added",
            "relative",
        ),
        [
            (
                "daemon overhead for a frame: p50",
                _with_range(found["off_ms"], 2),
                _with_range(found["full_ms"], 2),
                _with_range(found["added_ms"], 3),
                _with_range(found["ratio"], 2),
            ),
            (
                "limits of all objects",
                "",
                _with_range(found["limits_ms"], 0),
                "",
                "",
            ),
        ],
    )


def _conditions(comparisons: dict[str, Any]) -> str:
    cores = ", ".join(map(str, comparisons["cores"]))
    return (
        f"The last two tables were measured on {comparisons['measured']}: {comparisons['machine']}; on "
        f"core{'' if len(comparisons['cores']) == 1 else 's'} {cores}, with a load average of "
        f"{comparisons['load_before']:.1f} before."
    )


def _with_range(values: dict[str, float], digits: int) -> str:
    median, low, high = (f"{values[name]:.{digits}f}" for name in ("median", "from", "to"))
    return f"{median} ({low} to {high})"


def _version(comparisons: dict[str, Any], part: dict[str, Any]) -> str:
    return f"{comparisons['runtime']} {part['version']}"


def _runtime(row: dict[str, Any]) -> str:
    return f"{row['runtime']} {row['frame'][BUNDLE]['version']}"


def _number(value: float, key: str) -> str:
    return f"{value:.1f}" if key == "memory_mb" else f"{value:.2f}"


def _with_unit(number: str, key: str) -> str:
    if key.endswith("_ratio"):
        return number
    return f"{number} {key.rpartition('_')[2].replace('mb', 'MB')}"


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _interpreters(options: argparse.Namespace) -> dict[str, Path]:
    """The interpreter of each runtime to measure."""
    pythons = {}
    for runtime in options.runtime or RUNTIMES:
        python = Path(options.device_python if runtime == "tflite-runtime" else options.python)
        if not python.exists():
            raise SystemExit(f"{python} does not exist; `make setup` creates it")
        pythons[runtime] = python
    return pythons


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=FIGURES, help="JSON file of the figures")
    parser.add_argument(
        "--markdown", action="store_true", help="print the tables of that file without measuring"
    )
    parser.add_argument(
        "--only", choices=("comparisons",), help="measure only this part again; keep the other figures"
    )
    parser.add_argument("--runtime", action="append", choices=RUNTIMES, help="may be repeated (default: all)")
    parser.add_argument(
        "--python",
        default=str(ROOT / ".venv" / "bin" / "python"),
        help="interpreter of ai-edge-litert and onnxruntime (default: .venv)",
    )
    parser.add_argument(
        "--device-python",
        default=str(ROOT / ".venv-device" / "bin" / "python"),
        help="interpreter of tflite-runtime (default: .venv-device)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
