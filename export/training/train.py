"""Trains an encoder: one loop, read from top to bottom.

Each batch and each distortion is a function of (seed, step), so a run that is interrupted and resumed ends with the
same weights as one that was not, and a run over several workers sees the same images, equally distorted, as one over a
single worker.
"""

from __future__ import annotations

import copy
import json
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edge_siamese.errors import SettingsError
from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.system.files import write_text_atomically
from export.data import same_source
from export.data.augment import AUGMENTATIONS, augment
from export.data.glyphs import with_invented
from export.data.images import ImageSet, Splits
from export.encoders import EncoderNetwork, KochHead, build_encoder
from export.progress import TrainingProgress
from export.provenance import data_fingerprint, versions
from export.training import checkpoint
from export.training.checkpoint import HISTORY, History
from export.training.distributed import Workers, check_divides, join_workers
from export.training.network import BEST, DATA, TorchEncoder, load_run
from export.training.objectives import Objective, build_objective
from export.training.retention import Memory
from export.training.settings import RUN, TrainingSettings
from export.training.validation import one_shot_accuracy

CHECKPOINT, SETTINGS = "checkpoint.pt", "settings.json"
CHECKPOINT_SECONDS = 120.0
# Ranks by distance alone: what validation needs before a head is fitted.
NEAREST = SigmoidDistanceHead(scale=1.0, bias=0.0)


@dataclass(frozen=True)
class TrainingResult:
    """What a finished run kept."""

    run: Path
    step: int
    """The step whose weights were kept, counted from 1."""
    validation_accuracy: float
    """One-shot accuracy on the validation classes, of the kept weights."""
    seconds: float
    """Spent in training, over all sittings."""


@dataclass
class RunState:
    """Where a run stands; kept in its checkpoint."""

    step: int = 0
    best_step: int = 0
    best_accuracy: float = 0.0
    seconds: float = 0.0


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop and has saved where it was."""


def train(settings: TrainingSettings, splits: Splits, out: Path, fresh: bool = False) -> TrainingResult:
    """Train until `settings.steps`, or go on with the run in `out` from its last checkpoint.

    Args:
        settings: what to train and how.
        splits: training and validation classes.
        out: the directory of the run.
        fresh: start anew even if there is a run in `out`.

    Raises:
        SettingsError: `out` has a run with other settings or other data, or the settings do not fit the data.
        Interrupted: SIGINT or SIGTERM came; the same call goes on from there.
    """
    with join_workers() as workers, _until_signal() as stop_asked:
        device = workers.device
        check_divides(settings.batch, workers.world, settings.objective == "pairs")
        torch.manual_seed(settings.seed)
        encoder = build_encoder(settings.encoder).to(device)
        encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        origin = take_start(settings, splits, encoder)
        training = splits.train
        if settings.invented:
            training = with_invented(training, encoder.preprocessing, settings.invented, settings.seed)
        objective = build_objective(
            settings.objective, encoder, training.classes, settings.symmetries,
            settings.sharpness, settings.margin,
        ).to(device)  # fmt: skip
        average = copy.deepcopy(encoder).requires_grad_(False)
        start = None if settings.start == "random" else copy.deepcopy(average).eval()
        encoder = workers.with_shared_statistics(encoder)
        optimizer = build_optimizer(settings, encoder, objective)
        scaler = torch.amp.GradScaler(enabled=device.type == "cuda")
        state = RunState()

        settle_directory(out, settings, splits, fresh, workers)
        if (out / CHECKPOINT).exists():
            saved = checkpoint.load(out / CHECKPOINT, device)
            try:
                for name, part in _parts(encoder, objective, average, optimizer, scaler).items():
                    part.load_state_dict(saved[name])
                state = RunState(**saved["state"])
            except (KeyError, RuntimeError, TypeError, ValueError) as error:
                raise SettingsError(
                    f"{out / CHECKPOINT} is no checkpoint of this release; train again with --fresh"
                ) from error
        workers.check_agreement(state.step, out)
        if start is not None and not (out / BEST).exists() and workers.leads:
            state.best_accuracy = validate(start, splits.validation, settings)
            checkpoint.save(out / BEST, _kept(start, settings, splits, state, origin))
        if state.step >= settings.steps:
            return TrainingResult(out, state.best_step, state.best_accuracy, state.seconds)

        memory = None
        if settings.remember and start is not None:
            finer = encoder.training_preprocessing or encoder.preprocessing
            memory = Memory(start, Path(settings.remember), finer, settings.seed + workers.rank)
        step_module = workers.parallel(TrainingStep(encoder, objective, memory, settings.remembering).train())
        if settings.frozen_statistics:
            freeze_statistics(encoder)
        images = torch.from_numpy((splits.finer or training).images).to(device)
        size = (encoder.preprocessing.height, encoder.preprocessing.width)
        epoch_steps = max(1, objective.epoch(training) // settings.batch)
        log = History(out, state.step, silent=not workers.leads)
        progress = TrainingProgress(settings.steps, state.step, settings.batch, visible=workers.leads)
        validate_after = settings.validation_steps()
        started = saved_at = time.monotonic()
        spent_before = state.seconds

        with progress, log:
            while state.step < settings.steps:
                batch = objective.batch(training, settings.batch, settings.seed, state.step)
                share = batch.share(workers.rank, workers.world)
                generator = torch.Generator().manual_seed(_step_seed(settings.seed, state.step))
                pixels = images[torch.from_numpy(share.images).to(device)].permute(0, 3, 1, 2).float()
                symmetry = None if share.symmetry is None else torch.from_numpy(share.symmetry)
                pixels = augment(
                    pixels, AUGMENTATIONS[settings.augmentation], generator, symmetry, settings.paper,
                    part=(workers.rank, workers.world), size=size,
                )  # fmt: skip
                pixels = pixels.contiguous(memory_format=torch.channels_last)

                rate = learning_rate(settings, state.step, epoch_steps)
                for group in optimizer.param_groups:
                    group["lr"] = rate * group["rate"]
                with _mixed_precision(device):
                    loss = step_module(pixels, torch.from_numpy(share.labels).to(device), state.step)
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                update_average(average, encoder, settings, state.step)

                state.step += 1
                state.seconds = spent_before + time.monotonic() - started
                loss_value = float(loss.detach())
                if not math.isfinite(loss_value):
                    raise SettingsError(
                        f"the loss became {loss_value} at step {state.step}: lower --learning-rate"
                    )
                progress.advance(loss_value, state.best_accuracy)
                log.step(loss_value)
                if state.step in validate_after and workers.leads:
                    kept = blended(start, average, settings.blend)
                    accuracy = validate(kept, splits.validation, settings)
                    if accuracy >= state.best_accuracy:  # of equals the later one, which has seen more
                        state.best_accuracy, state.best_step = accuracy, state.step
                        checkpoint.save(out / BEST, _kept(kept, settings, splits, state, origin))
                    log.validation(state.step, accuracy, rate, state.seconds)
                    progress.validated(state.step, log.mean_loss, accuracy)
                stopping = workers.any(stop_asked.is_set())
                due = state.step in validate_after or time.monotonic() - saved_at > CHECKPOINT_SECONDS
                if workers.leads and (due or stopping):
                    parts = _parts(encoder, objective, average, optimizer, scaler)
                    states = {name: part.state_dict() for name, part in parts.items()}
                    checkpoint.save(out / CHECKPOINT, {**states, "state": asdict(state)})
                    saved_at = time.monotonic()
                if stopping:
                    raise Interrupted(
                        f"stopped at step {state.step} of {settings.steps}; the same command goes on from there"
                    )
            workers.wait()
        return TrainingResult(out, state.best_step, state.best_accuracy, state.seconds)


def take_start(settings: TrainingSettings, splits: Splits, encoder: EncoderNetwork) -> str:
    """Give an encoder the weights that it starts from; random ones it has already.

    Returns:
        where the weights came from in the first place, also by way of earlier runs: `random`, `published`, or `unknown`.

    Raises:
        SettingsError: there are no such weights, they are another encoder's, or they were trained on other classes of these
            data, so that held-out ones would be known.
    """
    if settings.start == "published":
        encoder.load_published_weights()
    if not settings.start.startswith(RUN):
        return settings.start
    # What is drawn later does not depend on where the weights came from.
    with torch.random.fork_rng(devices=[]):
        former = load_run(settings.start.removeprefix(RUN))
    if former.module.name != encoder.name:
        raise SettingsError(f"{settings.start} is a run of {former.module.name}, not of {encoder.name}")
    before = former.provenance.get("settings", {})
    shared = same_source(str(before.get("data")), settings.data)
    if shared and former.provenance.get("data_fingerprint") != data_fingerprint(splits):
        raise SettingsError(
            f"{settings.start} was trained on other classes of {settings.data}, so held-out ones could be known to it; "
            "use its seed, or start elsewhere"
        )
    encoder.load_state_dict(former.module.state_dict())
    started = str(before.get("start", "random"))
    return str(former.provenance.get("origin", "unknown" if started.startswith(RUN) else started))


def validate(encoder: EncoderNetwork, images: ImageSet, settings: TrainingSettings) -> float:
    """One-shot accuracy on the validation classes: as many ways as they allow, up to 20, always the same episodes."""
    own = getattr(encoder, "head", None)
    head = own.as_device_head() if isinstance(own, KochHead) else NEAREST
    embeddings = TorchEncoder(encoder).embed_prepared(images.images)
    return one_shot_accuracy(embeddings, images, head, settings.validation_episodes, seed=settings.seed)


def learning_rate(settings: TrainingSettings, step: int, epoch_steps: int) -> float:
    """The learning rate of a step (counted from 0)."""
    rise = min(1.0, (step + 1) / max(1.0, settings.warmup * settings.steps))
    if settings.schedule == "exponential":
        return settings.learning_rate * rise * 0.99 ** (step // epoch_steps)
    return settings.learning_rate * rise * 0.5 * (1.0 + math.cos(math.pi * step / settings.steps))


def settle_directory(
    out: Path, settings: TrainingSettings, splits: Splits, fresh: bool, workers: Workers
) -> None:
    """Make the run's directory, empty it of a former run when `fresh`, and refuse one of other settings or data."""
    if workers.leads:
        out.mkdir(parents=True, exist_ok=True)
        if fresh:
            for name in (CHECKPOINT, BEST, HISTORY, DATA, SETTINGS):
                (out / name).unlink(missing_ok=True)
    workers.wait()
    if (out / SETTINGS).exists():
        former = TrainingSettings.from_dict(_read_object(out / SETTINGS))
        if differences := settings.differences(former):
            raise SettingsError(
                f"{out} holds a run with other settings ({'; '.join(differences)}); choose another --out, or --fresh"
            )
    if (out / DATA).exists():
        if _read_object(out / DATA).get("fingerprint") != data_fingerprint(splits):
            raise SettingsError(
                f"{out} holds a run on other classes or pictures of {settings.data}; choose another --out, or --fresh"
            )
    elif workers.leads:
        found = {"fingerprint": data_fingerprint(splits), **splits.provenance}
        write_text_atomically(out / DATA, json.dumps(found, indent=2) + "\n")
    if workers.leads and not (out / SETTINGS).exists():
        write_text_atomically(out / SETTINGS, json.dumps(asdict(settings), indent=2) + "\n")
    workers.wait()


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict):
            return value
        problem = "it is no object"
    except ValueError as error:
        problem = str(error)
    raise SettingsError(f"{path} is damaged ({problem}); choose another --out, or --fresh")


def _kept(
    average: EncoderNetwork, settings: TrainingSettings, splits: Splits, state: RunState, origin: str
) -> dict[str, Any]:
    """What `best.pt` holds."""
    provenance = {
        "origin": origin,
        "settings": asdict(settings),
        "data": splits.provenance,
        "data_fingerprint": data_fingerprint(splits),
        "seed": settings.seed,
        "step": state.step,
        "validation_accuracy": state.best_accuracy,
        **versions(),
    }
    return {"encoder": settings.encoder, "weights": average.state_dict(), "provenance": provenance}


def _parts(
    encoder: EncoderNetwork,
    objective: Objective,
    average: EncoderNetwork,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> dict[str, Any]:
    """All that changes as a run goes on, by its name in the checkpoint."""
    return {
        "encoder": encoder,
        "objective": objective,
        "average": average,
        "optimizer": optimizer,
        "scaler": scaler,
    }


def _mixed_precision(device: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, dtype=torch.float16, enabled=device.type == "cuda")


def _step_seed(seed: int, step: int) -> int:
    return (seed * 1_000_003 + step) * 4096  # as it was when the runs in benchmarks/ were made


@contextmanager
def _until_signal() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, so that training ends between two steps."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    former = {
        number: signal.signal(number, lambda *_: asked.set()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield asked
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


class TrainingStep(nn.Module):
    """From pixels to the loss: what gradients flow through, and what distributed training wraps."""

    def __init__(
        self, encoder: EncoderNetwork, objective: Objective, memory: Memory | None = None, weight: float = 0.0
    ) -> None:
        super().__init__()
        self.encoder, self.objective = encoder, objective
        self.memory, self.weight = memory, weight

    def forward(self, pixels: Tensor, labels: Tensor, step: int) -> Tensor:
        if self.memory is None:
            loss: Tensor = self.objective(self.encoder(pixels), labels)
            return loss
        others, known = self.memory.batch(len(pixels) // 2, step)
        embeddings = self.encoder(torch.cat([pixels, others]))
        own, remembered = embeddings[: len(pixels)], embeddings[len(pixels) :]
        return self.objective(own, labels) + self.weight * self.memory.forgotten(remembered, known)


def build_optimizer(
    settings: TrainingSettings, encoder: EncoderNetwork, objective: Objective
) -> torch.optim.Optimizer:
    """Weight decay acts on matrices and convolutions, not on biases, norms and the few numbers of a head."""
    own = {id(p): p for p in encoder.parameters()}
    further = {id(p): p for p in objective.parameters() if id(p) not in own}.values()
    directions = [p for p in further if p.ndim > 1]
    parameters = [*own.values(), *(p for p in further if p.ndim <= 1)]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay, "rate": 1.0},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, "rate": 1.0},
        {"params": directions, "weight_decay": settings.weight_decay, "rate": settings.class_rate},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def freeze_statistics(encoder: nn.Module) -> None:
    """Let every norm use the statistics that it has, whatever the batch; what it scales and shifts by still learns."""
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


@torch.no_grad()
def blended(start: EncoderNetwork | None, trained: EncoderNetwork, share: float) -> EncoderNetwork:
    """The network so far on the straight way from the start's weights to the trained ones.

    Wortsman et al., "Robust fine-tuning of zero-shot models" (2022): what lies between keeps more of what the start knew
    about things that were not in the training pictures.
    """
    if start is None or share >= 1.0:
        return trained
    between = copy.deepcopy(trained)
    known = start.state_dict()
    for name, value in between.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.lerp(known[name], value, share))
    return between


@torch.no_grad()
def update_average(
    average: EncoderNetwork, encoder: EncoderNetwork, settings: TrainingSettings, step: int
) -> None:
    """Exponential average of the weights, running statistics of the norms included (Polyak and Juditsky, 1992)."""
    # Early in a run the average must not remember the random start.
    decay = min(settings.average_decay, (1.0 + step) / (10.0 + step)) if settings.average else 0.0
    for kept, new in zip(average.state_dict().values(), encoder.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1.0 - decay)
        else:
            kept.copy_(new)
