"""Provenance of results: commit, versions, data and machine."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import edge_siamese
from export.data.images import Splits

PACKAGES = ("torch", "onnx", "onnxruntime", "litert-torch", "ai-edge-litert", "ai-edge-quantizer", "numpy")


def versions() -> dict[str, object]:
    """The commit, and the versions of the packages that affect results."""
    return {
        "commit": commit(),
        "versions": {"edge-siamese": edge_siamese.__version__, "python": platform.python_version()}
        | {name: version for name in PACKAGES if (version := _version(name))},
    }


DID_NOT_HELP = "training did not help; the starting weights were kept"


def outcome(step: int, steps: int) -> str:
    """Describe in one line which weights a training run kept."""
    if step:
        return f"the weights of step {step:,} of {steps:,} were kept"
    return DID_NOT_HELP if steps else "no training; these are the starting weights"


def outcome_of(provenance: Mapping[str, Any]) -> str:
    """The outcome that a manifest or a checkpoint records; empty if it is unknown."""
    settings = provenance.get("settings")
    step, steps = provenance.get("step"), settings.get("steps") if isinstance(settings, Mapping) else None
    return outcome(step, steps) if isinstance(step, int) and isinstance(steps, int) else ""


def commit() -> str:
    """The checkout's commit, with `+changes` when files differ from it; `unknown` outside of git."""
    try:
        here = Path(__file__).resolve().parent
        run = {"cwd": here, "capture_output": True, "text": True, "timeout": 10, "check": True}
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], **run).stdout.strip()  # type: ignore[call-overload]
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], **run).stdout.strip()  # type: ignore[call-overload]
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{head}+changes" if changed else str(head)


def data_fingerprint(splits: Splits) -> str:
    """A hash of the classes of each split and their numbers of pictures."""
    digest = hashlib.sha256()
    for images in (splits.train, splits.validation, splits.evaluation):
        for name, group, count in zip(images.class_names, images.class_groups, images.counts, strict=True):
            line = f"{images.group_names[group]}\t{name}\t{count}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
        digest.update(b"\n")
    return digest.hexdigest()[:16]


def machine() -> str:
    """Processor, number of cores and system."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{name}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
