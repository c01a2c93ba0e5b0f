"""Measures one encoder in this process: latency, memory, and what it costs to start."""

from __future__ import annotations

import platform
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_siamese.errors import SettingsError
from edge_siamese.models.bundle import Bundle
from edge_siamese.registry import AUTO
from edge_siamese.runtimes.selection import load_encoder

WARM_UP_RUNS = 20


@dataclass(frozen=True)
class Measurement:
    """What one encoder costs on this machine."""

    model_id: str
    runtime: str
    version: str
    """Of the runtime."""
    precision: str
    threads: int
    runs: int
    """Timed runs of one image each."""
    p50_ms: float
    """Median time from a prepared image to its embedding."""
    p95_ms: float
    import_ms: float | None
    """Import of the runtime, numpy not included; None if something in this process had imported it before."""
    load_ms: float
    """From the file to an encoder."""
    first_ms: float
    """The first run, which sets up what later ones use."""
    peak_memory_mb: float
    """Largest resident size of this process so far, in MiB: interpreter, numpy, runtime, encoder."""
    file_bytes: int
    reason: str
    """Why this runtime was measured."""
    python: str
    machine: str


def measure(
    bundle: Bundle, runtime: str = AUTO, precision: str = "int8", threads: int | None = None, runs: int = 300
) -> Measurement:
    """Load an encoder and time it on one image at a time, after a warm-up.

    Call it in a fresh process: the import of a runtime is measured only once, and the peak memory is the
    process's.

    Raises:
        SettingsError: fewer than one run, or what `load_encoder` raises it for.
        RuntimeNotInstalled, BundleError, EncoderError: see `load_encoder`.
    """
    if runs < 1:
        raise SettingsError(f"at least one run is needed, not {runs}")
    encoder = load_encoder(bundle, runtime, precision, threads)
    # Noise: unlike a picture of one color, it lets no kernel skip work.
    image = np.random.default_rng(0).integers(0, 256, (1, *encoder.preprocessing.shape), dtype=np.uint8)
    times = np.empty(1 + min(WARM_UP_RUNS, runs) + runs)
    for index in range(len(times)):
        start = time.perf_counter_ns()
        encoder.embed_prepared(image)
        times[index] = (time.perf_counter_ns() - start) / 1e6
    p50, p95 = np.percentile(times[-runs:], [50, 95])
    return Measurement(
        model_id=encoder.model_id,
        runtime=encoder.runtime,
        version=encoder.version,
        precision=precision,
        threads=encoder.threads,
        runs=runs,
        p50_ms=round(float(p50), 4),
        p95_ms=round(float(p95), 4),
        import_ms=None if encoder.import_seconds is None else round(1e3 * encoder.import_seconds, 2),
        load_ms=round(1e3 * encoder.load_seconds, 2),
        first_ms=round(float(times[0]), 4),
        peak_memory_mb=round(peak_memory_bytes() / 2**20, 1),
        file_bytes=encoder.path.stat().st_size,
        reason=encoder.reason,
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}",
    )


def peak_memory_bytes() -> int:
    """The largest resident size that this process has had.

    Linux carries `ru_maxrss` over from the process that started this one, so that the child of a process that
    imported torch would seem as large as that one; `VmHWM` starts anew with each program.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
