"""The targets of the daemon, and the tables that set what was measured beside them.

A part of scripts/measure_daemon.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TARGETS = {"overhead_ms": 1.0, "scoring_ms": 1.0, "memory_mb": 80.0, "start_s": 1.0, "growth_mb": 1.0}
"""At most. Memory is that of the TFLite runtimes, in MB of a million bytes."""
OBJECTS = (0, 1000)
"""How many are registered when memory and start are measured."""


def verdicts(figures: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Target, limit, the worst of what was measured, and whether it is met."""
    rows, targets = figures["runtimes"], figures["targets"]
    tflite = [row for row in rows if row["runtime"] != "onnxruntime"]

    def worst(of: list[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> float:
        return max(value(row) for row in of)

    def of_objects(part: str, name: str) -> Callable[[dict[str, Any]], float]:
        return lambda row: max(float(row[f"with {count} objects"][part][name]) for count in OBJECTS)

    overhead, overhead_95 = (
        worst(rows, lambda row, name=name: row["frame"]["colors"]["gray"]["overhead"][name])  # type: ignore[misc]
        for name in ("p50_ms", "p95_ms")
    )
    scoring = worst(rows, lambda row: max(kind["p50_ms"] for kind in row["scoring"]["objects"].values()))
    memory, start = (
        worst(tflite, of_objects("memory", "rss_mb")),
        worst(rows, of_objects("start", "median_s")),
    )
    slowest = worst(rows, of_objects("start", "worst_s"))
    steady = figures["steady"]
    span = f"from frame {steady['settled_at']:,} to {steady['frames']:,}"
    found = [
        (
            "what the daemon adds to the encoder's run of a gray frame, 1,000 views: p50",
            "overhead_ms",
            overhead,
        ),
        ("the same: p95", "overhead_ms", overhead_95),
        ("scoring 10,000 views of 128 numbers: p50", "scoring_ms", scoring),
        ("resident memory with a TFLite runtime, 1,000 objects", "memory_mb", memory),
        ("from exec to READY=1: median", "start_s", start),
        ("the same: worst run", "start_s", slowest),
        (f"growth of resident memory {span}", "growth_mb", steady["growth_mb"]),
    ]
    return [
        (
            what,
            f"{targets[key]:g} {key.rpartition('_')[2].replace('mb', 'MB')}",
            _number(value, key),
            value <= targets[key],
        )
        for what, key, value in found
    ]


def tables(figures: dict[str, Any]) -> str:
    """The tables of docs/results.md, in Markdown."""
    first = _table(
        ("target", "at most", "measured, worst", ""),
        [(*row[:3], "reached" if row[3] else "not reached") for row in verdicts(figures)],
        "lrrl",
    )
    frames = _table(
        ("frame of 640 x 480, 1,000 views, ms", "encoder", "daemon adds: p50", "p95", "imaging", "deciding"),
        [
            (
                f"{_runtime(row)}, {color}",
                _ms(parts["encoder"]["p50_ms"]),
                f"{_ms(parts['overhead']['p50_ms'])} ({_ms(parts['overhead']['p50_from_ms'])} to "
                f"{_ms(parts['overhead']['p50_to_ms'])})",
                f"{_ms(parts['overhead']['p95_ms'])} ({_ms(parts['overhead']['p95_from_ms'])} to "
                f"{_ms(parts['overhead']['p95_to_ms'])})",
                _ms(parts["imaging"]["p50_ms"]),
                _ms(parts["deciding"]["p50_ms"]),
            )
            for row in figures["runtimes"]
            for color, parts in row["frame"]["colors"].items()
        ],
        "lrrrrr",
    )
    scoring = _table(
        ("10,000 views, ms", "objects", "p50", "p95"),
        [
            (f"numpy {row['numpy']}", kind, _ms(found["p50_ms"]), _ms(found["p95_ms"]))
            for row in figures["runtimes"]
            if row["runtime"] != "onnxruntime"
            for kind, found in row["scoring"]["objects"].items()
        ],
        "llrr",
    )
    processes = _table(
        ("process", "objects", "resident", "its share (PSS)", "start: median", "best to worst"),
        [
            (
                _runtime(row),
                f"{objects:,}",
                f"{found['memory']['rss_mb']:.1f} MB",
                f"{found['memory']['pss_mb']:.1f} MB",
                f"{found['start']['median_s']:.2f} s",
                f"{found['start']['best_s']:.2f} to {found['start']['worst_s']:.2f} s",
            )
            for row in figures["runtimes"]
            for objects in OBJECTS
            for found in (row[f"with {objects} objects"],)
        ],
        "lrrrrr",
    )
    return "\n\n".join((first, frames, scoring, processes, _steady_table(figures["steady"])))


def _steady_table(steady: dict[str, Any]) -> str:
    registered = f"{steady['registered']} ({steady['undone']} undone, {steady['forgotten']} forgotten)"
    return _table(
        (
            "frames",
            "a second",
            "events",
            "registered",
            f"at frame {steady['settled_at']:,}",
            "most",
            "at the end",
        ),
        [
            (
                f"{steady['frames']:,}",
                f"{steady['frames'] / steady['seconds']:.0f}",
                str(steady["events"]),
                registered,
                f"{steady['settled_mb']:.2f} MB",
                f"{steady['most_mb']:.2f} MB",
                f"{steady['end_mb']:.2f} MB",
            )
        ],
        "rrrrrrr",
    )


def _runtime(row: dict[str, Any]) -> str:
    return f"{row['runtime']} {row['frame']['version']}"


def _ms(value: float) -> str:
    return f"{value:.2f}"


def _number(value: float, key: str) -> str:
    unit = key.rpartition("_")[2].replace("mb", "MB")
    return f"{value:.1f} {unit}" if key == "memory_mb" else f"{value:.2f} {unit}"


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]], align: str) -> str:
    marks = ["---" if side == "l" else "---:" for side in align]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, marks, *rows))
