"""A run's history: a line of JSON for each validation, and curves for TensorBoard."""

from __future__ import annotations

import json
import math
from pathlib import Path

from edge_siamese.system.files import write_text_atomically

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
