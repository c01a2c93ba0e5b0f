"""Writes requirements/*.lock from environments that were installed from requirements/*.in (`make lock`)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements"
OLD, NEW = 'python_version < "3.12"', 'python_version >= "3.12"'
# Dependencies of CUDA builds of torch. The locks fit every build: pip installs what the chosen one needs.
CUDA_PACKAGE = re.compile(r"(nvidia|cuda|triton|cupti|cudnn)")

# Packages of a device, in addition to its TFLite runtime.
DEVICE_PACKAGES = (
    "onnxruntime",
    "numpy",
    "pillow",
    "msgspec",
    "gpiod",
    "av",
    "starlette",
    "uvicorn",
    "paho-mqtt",
    "prometheus-client",
)

# Runs in the inspected environment: prints the version and the dependencies of each package.
LIST_PACKAGES = """
import importlib.metadata, json, re
from pip._vendor.packaging.requirements import Requirement
packages = {}
for package in importlib.metadata.distributions():
    needs = [Requirement(text) for text in package.requires or ()]
    needs = [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    packages[package.metadata["Name"]] = [package.version, needs]
print(json.dumps(packages))
"""


def main(host_python: str, device_python: str) -> int:
    """Write both locks; pins of the device for Python 3.12 and newer come from the host's environment."""
    host, device = installed(host_python), installed(device_python)
    if "tflite-runtime" not in device:
        print(
            "error: tflite-runtime exists for Python 3.11 only: make lock PYTHON=python3.11", file=sys.stderr
        )
        return 1
    write("host", [pin(name, host[name][0]) for name in sorted(host)])
    device = needed(device, ("tflite-runtime", *DEVICE_PACKAGES))
    newer = needed(host, ("ai-edge-litert", *DEVICE_PACKAGES))
    lines = []
    for name in sorted({*device, *newer}):
        old, new = device.get(name), newer.get(name)
        if old and new and old[0] == new[0]:
            lines.append(pin(name, old[0]))
            continue
        lines += [f"{pin(name, entry[0])}; {marker}" for entry, marker in ((old, OLD), (new, NEW)) if entry]
    write("device", lines)
    return 0


def installed(python: str) -> dict[str, tuple[str, list[str]]]:
    """Version and dependencies of each package of an interpreter, by normalized name."""
    output = subprocess.run([python, "-c", LIST_PACKAGES], capture_output=True, text=True, check=True).stdout
    packages = {
        normal(name): (version, [normal(need) for need in needs])
        for name, (version, needs) in json.loads(output).items()
    }
    return {
        name: entry
        for name, entry in packages.items()
        if name not in ("pip", "edge-siamese") and not CUDA_PACKAGE.match(name)
    }


def needed(
    packages: dict[str, tuple[str, list[str]]], roots: tuple[str, ...]
) -> dict[str, tuple[str, list[str]]]:
    """These packages and all their dependencies."""
    result: dict[str, tuple[str, list[str]]] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name not in result:
            result[name] = packages[name]
            waiting += packages[name][1]
    return result


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pin(name: str, version: str) -> str:
    # `2.13.0+cpu` is one build of 2.13.0: the lock takes any.
    return f"{name}=={version.partition('+')[0]}"


def write(name: str, lines: list[str]) -> None:
    header = f"# Made from {name}.in by `make lock`: packages that were installed and tested together. Do not edit.\n"
    (REQUIREMENTS / f"{name}.lock").write_text(header + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"requirements/{name}.lock: {len(lines)} pins")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
