"""Encoders of exported files in this interpreter, or in a second one that has the runtime.

tflite-runtime needs numpy below 2 and CPython 3.11, the workstation's packages need numpy 2, so the two cannot
be in one process. A second interpreter with the device's packages runs `python -m edge_siamese embed …`, so the device's
figures come from the device's code alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import EncoderError, RuntimeNotInstalled, SettingsError
from edge_siamese.models.bundle import Bundle, load_bundle
from edge_siamese.recognition.embedding import Encoder
from edge_siamese.recognition.imaging import Frames, prepare_batch
from edge_siamese.registry import RUNTIMES
from edge_siamese.runtimes.confined_self_test import try_encoder
from edge_siamese.runtimes.selection import available_runtimes, load_encoder, runtime_format

CHECKOUT = Path(__file__).resolve().parents[2]
DEVICE_PYTHON_VARIABLE = "EDGE_SIAMESE_DEVICE_PYTHON"
CHECKOUT_DEVICE_PYTHON = CHECKOUT / ".venv-device" / "bin" / "python"


class RemoteEncoder:
    """An exported file run by another interpreter, behind the device's `Encoder` interface.

    Images are prepared here and embedded there: `edge_siamese.recognition.imaging` returns the same bytes on both sides.
    """

    def __init__(self, bundle: Bundle, runtime: str, precision: str, python: Path, threads: int = 1) -> None:
        self.bundle, self.python, self.threads = bundle, python, threads
        self.runtime, self.precision = runtime, precision
        self.reason = f"{runtime}: requested; it does not work in this interpreter, so {python} runs it"
        self.preprocessing = bundle.manifest.input
        self.dimensions = bundle.manifest.embedding.dimensions
        self.unit_length = bundle.manifest.embedding.unit_length
        self.model_id = bundle.manifest.model_id

    def embed(self, images: Frames) -> npt.NDArray[np.float32]:
        """Frames of any size to float32 (N, D)."""
        return self.embed_prepared(prepare_batch(images, self.preprocessing))

    def embed_prepared(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 (N, H, W, C) to float32 (N, D).

        Raises:
            EncoderError: the other interpreter failed; the message is its last line.
        """
        with tempfile.TemporaryDirectory(prefix="edge-siamese-") as folder:
            frames, embeddings = Path(folder) / "images.npy", Path(folder) / "embeddings.npy"
            np.save(frames, images, allow_pickle=False)
            options = [
                "--runtime",
                self.runtime,
                "--precision",
                self.precision,
                "--threads",
                str(self.threads),
            ]
            bundle = str(self.bundle.path.resolve())
            run_device(self.python, ["embed", bundle, str(frames), "--out", str(embeddings), *options])
            result = np.load(embeddings, allow_pickle=False)
        if result.shape != (len(images), self.dimensions) or result.dtype != np.float32:
            raise EncoderError(f"{self.python} returned {result.dtype} embeddings of shape {result.shape}")
        return np.asarray(result)


def open_encoder(
    bundle: Bundle | str | Path, runtime: str = "auto", precision: str = "int8", threads: int | None = None
) -> Encoder:
    """An encoder for one file of a bundle: in this process if its runtime is installed, else in the device interpreter.

    The encoder's `reason` says which one, and why.

    Raises:
        RuntimeNotInstalled: neither interpreter has the runtime; the message says how to install it.
        ModelCrashed: the file crashes the runtime, or exceeds a limit, in a confined child that tries it first.
    """
    opened = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    try:
        try_encoder(opened, runtime, precision, threads)
        return load_encoder(opened, runtime=runtime, precision=precision, threads=threads)
    except RuntimeNotInstalled as error:
        python = device_python()
        if runtime != "auto" and python and runtime in installed_runtimes(python):
            return RemoteEncoder(opened, runtime, precision, python, threads or 1)
        second = (
            f"{python} has none either"
            if python
            else f"and there is no second interpreter ({_how_to_get_one()})"
        )
        raise RuntimeNotInstalled(f"{error}; {second}") from error


@dataclass(frozen=True)
class EncoderVariant:
    """One file of a bundle, in one runtime and interpreter."""

    format: str
    precision: str
    runtime: str
    python: Path
    """The interpreter that has the runtime."""


def available_variants(bundle: Bundle) -> tuple[list[EncoderVariant], list[str]]:
    """All ways to run a bundle's files on this machine, float first, and a line for each missing runtime."""
    available: list[EncoderVariant] = []
    missing: list[str] = []
    here, second = Path(sys.executable), device_python()
    for runtime in sorted(RUNTIMES, key=lambda name: (runtime_format(name), name)):
        form = runtime_format(runtime)
        files = [model for model in bundle.manifest.models if model.format == form]
        if runtime in available_runtimes():
            python = here
        elif second and runtime in installed_runtimes(second):
            python = second
        else:
            missing.append(
                f"{runtime} works neither here nor in a second interpreter ({second or _how_to_get_one()})"
            )
            continue
        available += [
            EncoderVariant(form, precision, runtime, python)
            for precision in sorted(model.precision for model in files)
        ]
    return available, missing


def encoders_for(bundle: Bundle) -> tuple[list[Encoder], list[str]]:
    """An encoder for each file in each runtime that is on this machine, and a line for each one missing."""
    available, missing = available_variants(bundle)
    return [open_encoder(bundle, variant.runtime, variant.precision) for variant in available], missing


def device_python() -> Path | None:
    """The interpreter with the device's packages: named by the environment, or the checkout's `.venv-device`.

    Raises:
        SettingsError: the environment names one that does not exist.
    """
    named = os.environ.get(DEVICE_PYTHON_VARIABLE)
    if named:
        if not os.access(named, os.X_OK):
            raise SettingsError(f"{DEVICE_PYTHON_VARIABLE} names {named}, which cannot be executed")
        return Path(named)
    return CHECKOUT_DEVICE_PYTHON if os.access(CHECKOUT_DEVICE_PYTHON, os.X_OK) else None


@lru_cache(maxsize=8)
def installed_runtimes(python: Path) -> frozenset[str]:
    """The runtimes that work in another interpreter.

    Raises:
        EncoderError: the interpreter does not run, or lacks what `edge_siamese` needs.
    """
    script = "import json; from edge_siamese.runtimes.selection import available_runtimes as a; print(json.dumps(a()))"
    try:
        done = subprocess.run(
            [str(python), "-c", script],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=device_environment(),
            timeout=120,
            check=False,
        )
        if done.returncode == 0:
            return frozenset(json.loads(done.stdout.strip().splitlines()[-1]))
        problem = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        problem = str(error)
    raise EncoderError(f"{python} cannot run edge_siamese: {problem}")


def run_device(python: Path, arguments: Sequence[str]) -> str:
    """Run `python -m edge_siamese ARGUMENTS` of this checkout in another interpreter; its standard output.

    Raises:
        EncoderError: it failed; the message is the last line that it wrote.
    """
    try:
        done = subprocess.run(
            [str(python), "-m", "edge_siamese", *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=device_environment(),
            check=False,
        )
    except OSError as error:
        raise EncoderError(f"{python} cannot be run: {error}") from error
    if done.returncode:
        last = ((done.stderr or done.stdout).strip().splitlines() or ["no message"])[-1]
        raise EncoderError(f"{python} -m edge_siamese {arguments[0]} failed with {done.returncode}: {last}")
    return done.stdout


def device_environment() -> dict[str, str]:
    """Environment of a process of the device's interpreter, with this checkout on its path."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONSTARTUP")}
    # Its output is read as UTF-8, line by line, whatever the locale of this terminal.
    return {**kept, "PYTHONPATH": str(CHECKOUT), "PYTHONIOENCODING": "utf-8:replace", "PYTHONUNBUFFERED": "1"}


def _how_to_get_one() -> str:
    return f"`make setup` makes one; {DEVICE_PYTHON_VARIABLE} names another"
