"""Files of a training run: settings, data fingerprint, checkpoints, kept weights and history."""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch

from edge_siamese.errors import SettingsError
from edge_siamese.system.files import write_atomically, write_text_atomically
from export.data.images import Splits
from export.provenance import data_fingerprint
from export.records import valid_values
from export.training.distributed import Workers
from export.training.settings import TrainingSettings

CHECKPOINT = "checkpoint.pt"
"""State of the training, to resume from."""
BEST = "best.pt"
"""Weights with the best validation accuracy so far."""
LOG = logging.getLogger(__name__)
SETTINGS, DATA, HISTORY = "settings.json", "data.json", "history.jsonl"


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically; raises `OSError` if the disk is full."""

    def write(file: IO[bytes]) -> None:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # of the writer, after an error of the file
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None

    write_atomically(path, write)


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint; tensors and plain values only, never code.

    Raises:
        SettingsError: the file is missing or is not a checkpoint.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise SettingsError(f"{path} does not exist: train first, or name the directory of a run") from None
    except Exception as error:  # torch raises a dozen types for a damaged file
        raise SettingsError(
            f"{path} is not a readable checkpoint ({type(error).__name__}); train again with --fresh"
        ) from error
    if not isinstance(state, dict):
        raise SettingsError(f"{path} is not a checkpoint of this project")
    return state


def prepare_directory(
    out: Path, settings: TrainingSettings, splits: Splits, fresh: bool, workers: Workers
) -> None:
    """Create the directory of a run and write its settings and data fingerprint.

    Args:
        out: the directory.
        settings: the run's settings.
        splits: its data.
        fresh: delete an earlier run in `out` first.
        workers: the leader writes, the others wait.

    Raises:
        SettingsError: `out` contains a run with other settings or other data.
    """
    if workers.is_leader:
        out.mkdir(parents=True, exist_ok=True)
        if fresh:
            for name in (CHECKPOINT, BEST, HISTORY, DATA, SETTINGS):
                (out / name).unlink(missing_ok=True)
    workers.barrier()
    fingerprint = data_fingerprint(splits)
    advice = "choose another --out, or --fresh"
    if (out / SETTINGS).exists():
        earlier = TrainingSettings.from_dict(_read_object(out / SETTINGS))
        if differences := TrainingSettings(**valid_values(asdict(settings))).differences(earlier):
            raise SettingsError(f"{out} holds a run with other settings ({'; '.join(differences)}); {advice}")
    further = splits.provenance.get("further_sources")
    if (out / DATA).exists() and (
        (earlier_data := _read_object(out / DATA)).get("fingerprint") != fingerprint
        or earlier_data.get("further_sources") != further
    ):
        raise SettingsError(f"{out} holds a run on other classes or pictures of {settings.data}; {advice}")
    if workers.is_leader:
        for name, content in (
            (SETTINGS, asdict(settings)),
            (DATA, {"fingerprint": fingerprint, **splits.provenance}),
        ):
            if not (out / name).exists():
                write_text_atomically(out / name, json.dumps(valid_values(content), indent=2) + "\n")
    workers.barrier()


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict):
            return value
        problem = "it is not a JSON object"
    except ValueError as error:
        problem = str(error)
    raise SettingsError(f"{path} is damaged ({problem}); choose another --out, or --fresh")


class History:
    """Loss and validation accuracy over a run, as lines of JSON and as curves for TensorBoard.

    Args:
        out: directory of the run.
        resumed_step: the step that training resumes from; later lines of an interrupted run are removed.
        enabled: False on workers other than the leader, which write nothing.
    """

    def __init__(self, out: Path, resumed_step: int, enabled: bool) -> None:
        self.out, self.resumed_step, self.enabled = out, resumed_step, enabled
        self.losses: list[float] = []
        self.mean_loss = math.nan

    def __enter__(self) -> History:
        if not self.enabled:
            return self
        path = self.out / HISTORY
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= self.resumed_step]
        write_text_atomically(path, "".join(line + "\n" for line in kept))
        self.curves = _Curves(self.out / "tensorboard", self.resumed_step)
        return self

    def __exit__(self, *_: object) -> None:
        if self.enabled:
            self.curves.close()

    def add_start(self, accuracy: float) -> None:
        """Record the validation of the starting weights, as step 0; again after an interruption before the first one."""
        if self.enabled:
            line = {
                "step": 0,
                "loss": None,
                "validation_accuracy": accuracy,
                "learning_rate": 0.0,
                "seconds": 0.0,
            }
            write_text_atomically(self.out / HISTORY, json.dumps(line) + "\n")
            self.curves.add(0, validation_accuracy=accuracy)

    def add_loss(self, loss: float) -> None:
        self.losses.append(loss)

    def add_validation(self, step: int, accuracy: float, learning_rate: float, seconds: float) -> None:
        """Record a validation, with the mean loss since the last one."""
        self.mean_loss = sum(self.losses) / len(self.losses)
        self.losses.clear()
        entry = {
            "step": step,
            "loss": self.mean_loss,
            "validation_accuracy": accuracy,
            "learning_rate": learning_rate,
            "seconds": round(seconds, 1),
        }
        path = self.out / HISTORY
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            error.filename = error.filename or str(path)
            raise
        self.curves.add(step, loss=self.mean_loss, validation_accuracy=accuracy, learning_rate=learning_rate)


class _Curves:
    """Curves for TensorBoard; training continues without them if they cannot be written."""

    def __init__(self, directory: Path, resumed_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._former_hook = threading.excepthook
        threading.excepthook = self._on_error_in_thread
        self._writer: SummaryWriter | None = None
        with self._optional():
            self._writer = SummaryWriter(str(directory), purge_step=resumed_step)

    def add(self, step: int, **values: float) -> None:
        for name, value in values.items():
            with self._optional():
                if self._writer is not None:
                    self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        with self._optional():
            if self._writer is not None:
                self._writer.close()
        threading.excepthook = self._former_hook

    @contextmanager
    def _optional(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._writer = None
            LOG.warning("the curves for TensorBoard are not written: %s", error.strerror or error)

    def _on_error_in_thread(self, error: threading.ExceptHookArgs) -> None:
        # TensorBoard writes in its own thread and raises the error again at the next call.
        if not issubclass(error.exc_type, OSError):
            self._former_hook(error)


def _step_of(line: str) -> float:
    """Step of a history line; infinite for a line that a power cut left incomplete."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
