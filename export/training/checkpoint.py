"""Writes and reads the checkpoints of a training run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from edge_siamese.errors import SettingsError
from edge_siamese.system.files import write_atomically, write_text_atomically


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


HISTORY = "history.jsonl"


class History:
    """Of the run in the directory `out`, of which so many steps were done in former sittings."""

    def __init__(self, out: Path, steps_done: int, silent: bool) -> None:
        self.out, self.steps_done, self.silent = out, steps_done, silent
        self.losses: list[float] = []
        self.mean_loss = math.nan

    def __enter__(self) -> History:
        if self.silent:
            return self
        # What an interrupted sitting wrote after its last checkpoint will be written again.
        path = self.out / HISTORY
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= self.steps_done]
        write_text_atomically(path, "".join(line + "\n" for line in kept))
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(self.out / "tensorboard"), purge_step=self.steps_done)
        return self

    def __exit__(self, *_: object) -> None:
        if not self.silent:
            self.writer.close()

    def step(self, loss: float) -> None:
        self.losses.append(loss)

    def validation(self, step: int, accuracy: float, rate: float, seconds: float) -> None:
        self.mean_loss = sum(self.losses) / len(self.losses)
        self.losses.clear()
        entry = {
            "step": step,
            "loss": self.mean_loss,
            "validation_accuracy": accuracy,
            "learning_rate": rate,
            "seconds": round(seconds, 1),
        }
        with (self.out / HISTORY).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        for name in ("loss", "validation_accuracy", "learning_rate"):
            self.writer.add_scalar(name, entry[name], step)


def _step_of(line: str) -> float:
    """The step that a line of the history is of; none can be later than a line that a power cut left half-written."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
