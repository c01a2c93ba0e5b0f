"""Writes and reads the checkpoints of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from edge_siamese.errors import SettingsError
from edge_siamese.system.files import write_atomically


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint: an interruption leaves the old one or the new one."""
    write_atomically(path, lambda file: torch.save(state, file))


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint; only tensors and plain values, never code.

    Raises:
        SettingsError: the file is missing or is no checkpoint.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise SettingsError(f"{path} does not exist: train first, or name the directory of a run") from None
    except Exception as error:  # torch raises a dozen kinds for a damaged file
        raise SettingsError(
            f"{path} is not a readable checkpoint ({type(error).__name__}); train again with --fresh"
        ) from error
    if not isinstance(state, dict):
        raise SettingsError(f"{path} is not a checkpoint of this project")
    return state
