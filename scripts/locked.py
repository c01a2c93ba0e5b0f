"""Prints packages of requirements/device.lock with their hashes, in the format of pip (used by scripts/wheels.sh).

python scripts/locked.py 3.13 msgspec gpiod     for Python 3.13 on Linux, whatever Python runs this
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement

LOCK = Path(__file__).resolve().parent.parent / "requirements" / "device.lock"


def locked(python: str) -> dict[str, list[str]]:
    """Pin and hashes by package, for a Python version such as 3.13."""
    environment = {"python_version": python, "python_full_version": f"{python}.2", "sys_platform": "linux"}
    found = {}
    for line in LOCK.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        text = re.sub(r"(^|\s)#.*", "", line).strip()
        if not text:
            continue
        requirement = Requirement(re.sub(r"--hash=\S+", "", text))
        if requirement.marker is None or requirement.marker.evaluate(environment):
            pin = f"{requirement.name}{requirement.specifier}"
            found[requirement.name] = [pin, *re.findall(r"--hash=\S+", text)]
    return found


def main(python: str, *names: str) -> int:
    packages = locked(python)
    for name in names:
        if name not in packages:
            print(f"error: requirements/device.lock has no {name} for Python {python}", file=sys.stderr)
            return 1
        print(" \\\n    ".join(packages[name]))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
