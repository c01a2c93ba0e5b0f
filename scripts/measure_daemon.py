"""Measures the daemon against its targets: what it adds to the encoder, its memory, its start, and 100,000 frames.

python scripts/measure_daemon.py --out benchmarks/daemon/figures.json   measure, about five minutes
python scripts/measure_daemon.py --markdown                             print the tables of docs/results.md
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from edge_siamese.models.bundle import load_bundle  # noqa: E402
from edge_siamese.system.files import write_atomically  # noqa: E402
from scripts.daemon_process import environment, fill_store, measure_memory, measure_start  # noqa: E402
from scripts.daemon_steady import measure_steady  # noqa: E402
from scripts.daemon_tables import OBJECTS, TARGETS, tables, verdicts  # noqa: E402

FIGURES = ROOT / "benchmarks" / "daemon" / "figures.json"
BUNDLE, WEIGHTS = ROOT / "build" / "omniglot" / "bundle", "benchmarks/omniglot-glyphnet/train"
RUNTIMES = ("ai-edge-litert", "tflite-runtime", "onnxruntime")
MEMORY_FRAMES, START_RUNS = 300, 15
STEADY_FRAMES, SETTLED, REGISTER_EVERY = 100_000, 5_000, 1_000


def main() -> int:
    """Measure, or print the tables; 1 if a target is not reached."""
    options = _parser().parse_args()
    if options.markdown:
        print(tables(json.loads(options.out.read_text(encoding="utf-8"))))
        return 0
    if not (options.bundle / "manifest.json").is_file():
        raise SystemExit(
            f"there is no bundle at {options.bundle}; make one of the kept weights: .venv/bin/python -m export bundle "
            f"{WEIGHTS} --out {options.bundle}"
        )
    with tempfile.TemporaryDirectory(prefix="daemon-") as place:
        figures = measure(options.bundle.absolute(), _interpreters(options), Path(place))
    text = json.dumps(figures, indent=1) + "\n"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out, lambda file: file.write(text.encode()))
    print(tables(figures))
    return 0 if all(met for _, _, _, met in verdicts(figures)) else 1


def measure(bundle: Path, pythons: dict[str, Path], place: Path) -> dict[str, Any]:
    """All figures, as `figures.json` has them.

    Args:
        bundle: of the model.
        pythons: the interpreter that has each runtime.
        place: a directory for stores, sockets and compiled modules.
    """
    stores = {}
    for objects in OBJECTS:
        stores[objects] = place / f"objects-{objects}.db"
        if objects:
            fill_store(stores[objects], bundle, objects)
    rows = []
    for runtime, python in pythons.items():
        _say(f"{runtime}: what it adds to the encoder, and scoring")
        row = {"runtime": runtime, **measure_inside(python, bundle, runtime, place)}
        for objects, store in stores.items():
            own = place / f"{runtime}-{objects}"
            (own / "state").mkdir(parents=True)
            if objects:
                (own / "state" / "objects.db").write_bytes(store.read_bytes())
            _say(f"{runtime}: start and memory with {objects} objects")
            starts = measure_start(python, bundle, runtime, own, START_RUNS)
            row[f"with {objects} objects"] = {
                "start": start_figures(starts),
                "memory": measure_memory(python, bundle, runtime, own, MEMORY_FRAMES),
            }
        rows.append(row)
    first = next(iter(pythons))
    _say(f"{first}: {STEADY_FRAMES:,} frames")
    steady = measure_steady(
        pythons[first],
        bundle,
        first,
        place / "steady",
        frames=STEADY_FRAMES,
        settled=SETTLED,
        register_every=REGISTER_EVERY,
    )
    return {
        "command": "python scripts/measure_daemon.py --out benchmarks/daemon/figures.json",
        "measured": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "model_id": load_bundle(bundle, verify_checksums=False).manifest.model_id,
        "frame": "640 x 480",
        "threads": 1,
        "targets": TARGETS,
        "runtimes": rows,
        "steady": {"runtime": first, **steady},
    }


def measure_inside(
    python: Path, bundle: Path, runtime: str, place: Path, options: Iterable[str] = ()
) -> dict[str, Any]:
    """What scripts/daemon_frames.py prints in that interpreter."""
    command = [str(python), "-m", "scripts.daemon_frames", "--bundle", str(bundle), "--runtime", runtime]
    done = subprocess.run(
        [*command, *options], cwd=ROOT, env=environment(place), capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    result = json.loads(done.stdout)
    assert isinstance(result, dict)
    return result


def start_figures(seconds: list[float]) -> dict[str, Any]:
    """Median and worst of some starts."""
    return {
        "runs": len(seconds),
        "median_s": round(statistics.median(seconds), 3),
        "best_s": round(min(seconds), 3),
        "worst_s": round(max(seconds), 3),
    }


def machine() -> str:
    """Processor, cores, system, without a name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    cores = sum(line.startswith("processor") for line in lines)
    return f"{name or platform.processor()}, {cores} cores, {platform.system()} {platform.machine()}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _interpreters(options: argparse.Namespace) -> dict[str, Path]:
    """The interpreter of each runtime that was asked for."""
    found = {}
    for runtime in options.runtime or RUNTIMES:
        python = Path(options.device_python if runtime == "tflite-runtime" else options.python)
        if not python.exists():
            raise SystemExit(f"{python} is not there; make setup makes it")
        found[runtime] = python
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=FIGURES, help="the JSON file of figures")
    parser.add_argument(
        "--markdown", action="store_true", help="print the tables of that file, measure nothing"
    )
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="default: build/omniglot/bundle")
    parser.add_argument("--runtime", action="append", choices=RUNTIMES, help="may be repeated; default: all")
    parser.add_argument("--python", default=str(ROOT / ".venv" / "bin" / "python"), help="has the other two")
    parser.add_argument(
        "--device-python", default=str(ROOT / ".venv-device" / "bin" / "python"), help="has tflite-runtime"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
