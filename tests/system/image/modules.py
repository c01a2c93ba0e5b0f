"""Picks kernel modules and all that they need: modules.py KERNEL VERSION OUT NAME... prints them in loading order."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def pick(kernel: Path, version: str, out: Path, names: list[str]) -> list[str]:
    """Copy the modules to `out`; their paths below lib/modules/VERSION, each after what it needs.

    A name that is in no list is built into the kernel, or unknown, which is an error.
    """
    place = Path("lib", "modules", version)
    needs = {}
    for line in (kernel / place / "modules.dep").read_text().splitlines():
        module, _, others = line.partition(":")
        needs[module] = others.split()
    paths = {_name(module): module for module in needs}
    built_in = {_name(line) for line in (kernel / place / "modules.builtin").read_text().splitlines()}
    order: list[str] = []

    def add(module: str) -> None:
        if module not in order:
            for other in needs[module]:
                add(other)
            order.append(module)

    for name in names:
        if _name(name) not in built_in:
            add(paths[_name(name)])
    for module in order:
        (out / place / module).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(kernel / place / module, out / place / module)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy(kernel / place / name, out / place / name)
    return order


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1].split(".ko")[0].replace("-", "_")


if __name__ == "__main__":
    print("\n".join(pick(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4:])))
