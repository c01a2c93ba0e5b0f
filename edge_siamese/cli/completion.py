"""The command `edge-siamese completion`: prints the completion script of a shell, which scripts/completions.py generated."""

from __future__ import annotations

import argparse
from pathlib import Path

FOLDER = Path(__file__).parent / "completions"
FILES = {"bash": "edge-siamese.bash", "zsh": "_edge-siamese", "fish": "edge-siamese.fish"}
"""Shells, and the file names under which their packages look for completions."""


def completion(options: argparse.Namespace) -> int:
    """Print the script."""
    print((FOLDER / FILES[options.shell]).read_text(encoding="utf-8"), end="")
    return 0
