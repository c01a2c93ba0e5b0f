"""The measurement of an encoder: it counts what it says it counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge_siamese.benchmark import measure, peak_memory_bytes
from edge_siamese.errors import SettingsError
from edge_siamese.models.bundle import Bundle


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_encoder_is_measured(bundle: Bundle, runtime: str, precision: str) -> None:
    found = measure(bundle, runtime, precision, threads=1, runs=30)
    assert (found.runtime, found.precision, found.threads, found.runs) == (runtime, precision, 1, 30)
    assert 0 < found.p50_ms <= found.p95_ms < 1000
    assert found.first_ms > 0
    assert found.load_ms > 0
    assert 10 < found.peak_memory_mb < 100_000
    form = "onnx" if runtime == "onnxruntime" else "tflite"
    assert found.file_bytes == bundle.model_path(form, precision).stat().st_size
    assert found.reason == f"{runtime} {found.version}: requested"
    assert found.python == sys.version.split()[0].rstrip("+")


def test_at_least_one_run(bundle: Bundle) -> None:
    with pytest.raises(SettingsError, match=r"^at least one run is needed, not 0$"):
        measure(bundle, runs=0)


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
