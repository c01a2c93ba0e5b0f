"""Reads the files of requirements/."""

from __future__ import annotations

import re
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent


def requirements(name: str) -> list[Requirement]:
    """The requirements of a file, without their hashes."""
    return [Requirement(re.sub(r"--hash=\S+", "", line)) for line in logical_lines(name)]


def hashes(name: str) -> dict[str, set[str]]:
    """The SHA-256 sums of the files that pip may install, by pin such as `numpy==2.4.6`."""
    return {
        re.split("[ ;]", line)[0]: set(re.findall(r"--hash=sha256:([0-9a-f]{64})\b", line))
        for line in logical_lines(name)
    }


def logical_lines(name: str) -> list[str]:
    """The lines of a file, continuation lines joined, without comments and options."""
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines()]
    return [line for line in lines if line]


def normal(name: str) -> str:
    """A package's name as indexes spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()
