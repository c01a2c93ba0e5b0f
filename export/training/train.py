"""Training of an encoder.

Each batch and each augmentation is a function of (seed, step). A run that is interrupted and resumed therefore ends with
the same weights as an uninterrupted one, and several workers see the same augmented images as a single one.
"""

from __future__ import annotations

import copy
import ctypes
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_siamese.errors import SettingsError
from edge_siamese.models.bundle import load_bundle
from edge_siamese.recognition.head import SigmoidDistanceHead
from export.data import same_source
from export.data.augment import AUGMENTATIONS, augment
from export.data.glyphs import add_synthetic_alphabets
from export.data.images import ImageSet, Splits
from export.data.random_backgrounds import MIN_CROP, RandomBackgrounds
from export.encoders import EncoderNetwork, KochHead, build_encoder
from export.encoders.bundle_weights import load_bundle_weights
from export.progress import TrainingProgress
from export.provenance import data_fingerprint, outcome, versions
from export.training import checkpoint
from export.training.checkpoint import BEST, CHECKPOINT, History, prepare_directory
from export.training.distillation import Distillation, DistillationStep, Teacher, fit_to_teacher
from export.training.distributed import Workers, check_batch_size, join_workers
from export.training.network import TorchEncoder, load_run
from export.training.objectives import (
    CosineMarginSoftmax,
    Draw,
    Objective,
    build_objective,
    by_class,
    shuffled,
)
from export.training.retention import AntiForgettingLoss, UnrelatedPictures
from export.training.settings import BUNDLE_PREFIX, RUN_PREFIX, WEIGHTS_PREFIX, TrainingSettings
from export.training.validation import default_ways, one_shot_accuracy

CHECKPOINT_SECONDS = 120.0
IMPRINTED = 2
"""Pictures of each class whose mean embedding is where the softmax starts."""
# Ranks by distance alone, which is enough for validation: the calibrated head is fitted later.
DISTANCE_RANKING = SigmoidDistanceHead(scale=1.0, bias=0.0)


@dataclass(frozen=True)
class TrainingResult:
    """The result of a finished run."""

    run: Path
    step: int
    """Step of the kept weights, counted from 1; 0 for the starting weights."""
    steps: int
    """Steps of the run."""
    validation_accuracy: float
    """One-shot accuracy of the kept weights on the validation classes."""
    starting_accuracy: float | None
    """One-shot accuracy of the starting weights; None if they were random."""
    classes: int
    """Number of validation classes."""
    ways: int
    """Ways of the one-shot trials; the chance level is 1 / `ways`."""
    seconds: float
    """Training time, over all interruptions."""

    def describe(self) -> str:
        """The outcome with its accuracy, the chance level and the accuracy before."""
        before = (
            "" if self.starting_accuracy is None or not self.step
            else f"starting weights {self.starting_accuracy:.2%}, "
        )  # fmt: skip
        return (
            f"{outcome(self.step, self.steps)}: one-shot {self.validation_accuracy:.2%} on {self.classes} validation "
            f"classes ({before}chance {1 / self.ways:.1%}), {self.seconds / 60:.1f} minutes of training"
        )


@dataclass
class RunState:
    """Progress of a run, saved in its checkpoint."""

    step: int = 0
    best_step: int = 0
    best_accuracy: float = 0.0
    seconds: float = 0.0
    starting_accuracy: float | None = None


class Interrupted(KeyboardInterrupt):
    """Training was interrupted and has saved a checkpoint."""


def train(settings: TrainingSettings, splits: Splits, out: Path, fresh: bool = False) -> TrainingResult:
    """Train until `settings.steps`, resuming the run in `out` from its last checkpoint if there is one.

    Args:
        settings: what to train and how.
        splits: training and validation classes.
        out: directory of the run.
        fresh: start over even if there is a run in `out`.

    Raises:
        SettingsError: `out` holds a run with other settings or other data, or the settings do not fit the data.
        Interrupted: SIGINT or SIGTERM was received; the same call resumes.
    """
    keep_freed_memory()
    with join_workers() as workers, _stop_signal() as stop_requested:
        run = TrainingRun(settings, splits, out, workers)
        prepare_directory(out, settings, splits, fresh, workers)
        run.resume()
        if run.state.step < settings.steps:
            _train_steps(run, stop_requested)
        state, validation = run.state, splits.validation
        return TrainingResult(
            out, state.best_step, settings.steps, state.best_accuracy, state.starting_accuracy,
            validation.classes, default_ways(validation), state.seconds,
        )  # fmt: skip


def _train_steps(run: TrainingRun, stop_requested: threading.Event) -> None:
    settings, workers, state = run.settings, run.workers, run.state
    forward_loss = workers.wrap(run.training_step().train())
    if settings.freeze_batch_statistics:
        freeze_batch_statistics(run.encoder)
    images = torch.from_numpy(run.images.images).to(workers.device)
    steps_per_epoch = max(1, run.objective.images_per_epoch(run.images) // settings.batch)
    validation_steps = settings.validation_steps()
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    history = History(run.out, state.step, enabled=workers.is_leader)
    progress = TrainingProgress(settings.steps, state.step, settings.batch, visible=workers.is_leader)
    started = saved_at = time.monotonic()
    seconds_before = state.seconds

    with progress, history:
        if state.step == 0 and state.starting_accuracy is not None:
            history.add_start(state.starting_accuracy)
        while state.step < settings.steps:
            # One step: draw a batch, augment it, update the weights and their moving average.
            pixels, labels = run.draw_batch(images, state.step)
            rate = learning_rate(settings, state.step, steps_per_epoch)
            for group in run.optimizer.param_groups:
                group["lr"] = rate * group["lr_multiplier"]
            torch.manual_seed(run.step_seed(state.step) + workers.rank + 1)  # for dropout
            with run.autocast():
                loss = forward_loss(pixels, labels, state.step)
            run.optimizer.zero_grad(set_to_none=True)
            run.scaler.scale(loss).backward()
            if settings.max_gradient_norm:
                run.scaler.unscale_(run.optimizer)
                nn.utils.clip_grad_norm_(parameters, settings.max_gradient_norm)
            run.scaler.step(run.optimizer)
            run.scaler.update()
            update_ema(run.ema, run.encoder, settings, state.step)

            state.step += 1
            state.seconds = seconds_before + time.monotonic() - started
            loss_value = float(loss.detach())
            if not math.isfinite(loss_value):
                raise SettingsError(
                    f"the loss became {loss_value} at step {state.step}: lower --learning-rate"
                )
            progress.advance(loss_value, state.best_accuracy)
            history.add_loss(loss_value)

            # At intervals: validate, keep the best weights, save a checkpoint.
            validating = state.step in validation_steps
            if validating and workers.is_leader:
                accuracy = run.validate()
                history.add_validation(state.step, accuracy, rate, state.seconds)
                progress.validated(state.step, history.mean_loss, accuracy)
            stopping = workers.any(stop_requested.is_set())
            due = validating or time.monotonic() - saved_at > CHECKPOINT_SECONDS
            if workers.is_leader and (due or stopping):
                run.save()
                saved_at = time.monotonic()
            if stopping:
                raise Interrupted(
                    f"stopped at step {state.step} of {settings.steps}; the same command resumes from there"
                )
        workers.barrier()


class TrainingRun:
    """Networks, optimizer and progress of a run: everything that its checkpoint restores.

    Args:
        settings, splits, out: as in `train`.
        workers: the process group.

    Raises:
        SettingsError: the initial weights are missing or unsuitable, or the settings do not fit the data.
    """

    def __init__(self, settings: TrainingSettings, splits: Splits, out: Path, workers: Workers) -> None:
        self.settings, self.splits, self.out, self.workers = settings, splits, out, workers
        torch.manual_seed(settings.seed)
        encoder = build_encoder(settings.encoder).to(workers.device)
        if settings.initialization != "encoder":
            encoder.initialize(settings.initialization)
        if settings.dropout:
            encoder.set_dropout(settings.dropout)
        encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.origin = load_initial_weights(settings, splits, encoder)
        self.unrelated = self.teacher = None
        if settings.anti_forgetting_data:
            self.unrelated = UnrelatedPictures(
                Path(settings.anti_forgetting_data), encoder.training_preprocessing or encoder.preprocessing,
                encoder.cropped_size, settings.seed, workers.rank,
            )  # fmt: skip
        if settings.objective == "distillation" and self.unrelated is not None:
            published = build_encoder(settings.encoder).to(workers.device)
            published.load_published_weights()
            finetuned = copy.deepcopy(encoder).eval()
            self.teacher = Teacher(finetuned, published, settings.published_weight, self.unrelated)
            fit_to_teacher(encoder, self.teacher, self.unrelated)
        self.images = splits.training_pictures or splits.train
        if settings.synthetic_alphabets:
            self.images = add_synthetic_alphabets(
                splits.train, encoder.preprocessing, settings.synthetic_alphabets, settings.seed
            )
        self.objective = self._build_objective(encoder).to(workers.device)
        check_batch_size(settings.batch, workers.count, self.objective.unit)
        self.ema = copy.deepcopy(encoder).requires_grad_(False)
        self.initial = None if settings.start == "random" else copy.deepcopy(self.ema).eval()
        self.encoder = workers.synchronize_batch_norm(encoder)
        self.optimizer = build_optimizer(settings, self.encoder, self.objective)
        self.scaler = torch.amp.GradScaler(enabled=workers.device.type == "cuda")
        self.state = RunState()

    def autocast(self) -> torch.autocast:
        """The context of a forward pass: bfloat16 if the settings say so, float16 on a GPU otherwise."""
        kind = self.workers.device.type
        if self.settings.precision == "bfloat16":
            return torch.autocast(kind, torch.bfloat16)
        return torch.autocast(kind, torch.float16, enabled=kind == "cuda")

    @property
    def _parts(self) -> dict[str, Any]:
        """Everything with a `state_dict`, by its key in the checkpoint."""
        return {
            "encoder": self.encoder,
            "objective": self.objective,
            "ema": self.ema,
            "optimizer": self.optimizer,
            "scaler": self.scaler,
        }

    def save(self) -> None:
        """Write the checkpoint."""
        states = {name: part.state_dict() for name, part in self._parts.items()}
        checkpoint.save(self.out / CHECKPOINT, {**states, "state": asdict(self.state)})

    def resume(self) -> None:
        """Load the checkpoint if there is one; pretrained initial weights are the first candidate to keep.

        Raises:
            SettingsError: the checkpoint cannot be loaded, or the workers have different ones.
        """
        path = self.out / CHECKPOINT
        if path.exists():
            saved = checkpoint.load(path, self.workers.device)
            try:
                for name, part in self._parts.items():
                    part.load_state_dict(saved[name])
                self.state = RunState(**saved["state"])
            except (KeyError, RuntimeError, TypeError, ValueError) as error:
                raise SettingsError(
                    f"{path} is not a checkpoint of this release; train again with --fresh"
                ) from error
        elif self.settings.start.startswith((RUN_PREFIX, BUNDLE_PREFIX)):
            self._imprint_classes()
        self.workers.check_agreement(self.state.step, self.out)
        if self.initial is not None and self.state.starting_accuracy is None and self.workers.is_leader:
            starting = validation_accuracy(self.initial, self.splits.validation, self.settings)
            self.state.starting_accuracy = starting
            # The starting weights are not a candidate in distillation: its benefit does not show on the validation classes.
            if self.state.step == 0 and self.teacher is None:
                self.state.best_accuracy = starting
                self._keep(self.initial)

    def _build_objective(self, encoder: EncoderNetwork) -> Objective:
        settings = self.settings
        if settings.objective == "distillation":
            return Distillation(self._draw())
        return build_objective(
            settings.objective, encoder, self.images.classes, settings.symmetries,
            settings.logit_scale, settings.margin, self._draw(),
        )  # fmt: skip

    @torch.no_grad()
    def _imprint_classes(self) -> None:
        """Start each class of the softmax at the mean initial embedding of two of its pictures."""
        if not isinstance(self.objective, CosineMarginSoftmax) or self.settings.symmetries:
            return
        chosen = np.concatenate(
            [np.resize(self.images.images_of(label), IMPRINTED) for label in range(self.images.classes)]
        )
        generator = torch.Generator().manual_seed(self.settings.seed)
        embeddings = []
        for part in torch.split(torch.from_numpy(chosen), 60):
            pixels = torch.from_numpy(self.images.images[part.numpy()]).permute(0, 3, 1, 2).float()
            if self.backgrounds is not None:
                pixels, _ = self.backgrounds.compose(pixels, generator)
            resized = F.interpolate(pixels, self.encoder.cropped_size, mode="bilinear", antialias=True)
            embeddings.append(self.ema.eval()(resized.to(self.workers.device)))
        labels = torch.from_numpy(self.images.labels[chosen]).to(self.workers.device)
        self.objective.imprint(torch.cat(embeddings), labels)

    def training_step(self) -> nn.Module:
        """The module from pixels to the loss."""
        anti_forgetting = None
        if self.unrelated is not None and self.initial is not None:
            if self.teacher is not None and isinstance(self.objective, Distillation):
                return DistillationStep(self.encoder, self.objective, self.teacher, self.unrelated)
            anti_forgetting = AntiForgettingLoss(self.initial, self.unrelated)
        return TrainingStep(
            self.encoder, self.objective, anti_forgetting, self.settings.anti_forgetting_weight
        )

    def _draw(self) -> Draw:
        """The function that draws the images of a batch."""
        settings = self.settings
        if self.images.class_sources is None and settings.pictures_per_class == 1:
            return shuffled
        return by_class(settings.shares, settings.pictures_per_class)

    @cached_property
    def backgrounds(self) -> RandomBackgrounds | None:
        """For cut-outs among the training images; None if there are none."""
        if self.images.images.shape[3] < 4:
            return None
        sources = self.images.class_sources
        of_images = np.zeros(len(self.images), np.int64) if sources is None else sources[self.images.labels]
        return RandomBackgrounds(torch.from_numpy(self.images.images), of_images, self.settings.seed)

    def draw_batch(self, images: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """This worker's share of the batch of a step.

        Args:
            images: all training images, uint8 (N, H, W, C), on the worker's device.
            step: counted from 0.

        Returns:
            Augmented pixels float32 (B, C, H, W) in 0..255, and the labels that the objective takes.
        """
        settings, workers = self.settings, self.workers
        batch = self.objective.batch(self.images, settings.batch, settings.seed, step)
        share = batch.share(workers.rank, workers.count)
        pixels = images[torch.from_numpy(share.images).to(workers.device)].permute(0, 3, 1, 2).float()
        generator = torch.Generator().manual_seed(self.step_seed(step))
        part = (workers.rank, workers.count)
        augmentation, min_crop = AUGMENTATIONS[settings.augmentation], None
        if self.backgrounds is not None:
            pixels, composed = self.backgrounds.compose(pixels, generator, part)
            least = augmentation.crop[0]
            min_crop = torch.where(composed.cpu(), max(MIN_CROP, least), least)
        pixels = augment(
            pixels,
            augmentation,
            generator,
            symmetry=None if share.symmetry is None else torch.from_numpy(share.symmetry),
            fill=settings.fill,
            part=part,
            size=self.encoder.cropped_size,
            min_crop=min_crop,
        )
        labels = torch.from_numpy(share.labels).to(workers.device)
        return pixels.contiguous(memory_format=torch.channels_last), labels

    def step_seed(self, step: int) -> int:
        """Seed of the augmentation of a step, counted from 0; other draws of the step add a number below 4096."""
        # These seeds reproduce the runs in benchmarks/.
        return (self.settings.seed * 1_000_003 + step) * 4096

    def validate(self) -> float:
        """Validation accuracy of the averaged weights, which are kept if they are the best so far."""
        candidate = interpolate_weights(self.initial, self.ema, self.settings.finetuned_weight)
        with self.autocast():
            accuracy = validation_accuracy(candidate, self.splits.validation, self.settings)
        best = self.state.best_accuracy
        # On a tie the later weights, which have seen more images; but pretrained weights are kept until some are better.
        is_start_best = self.initial is not None and self.state.best_step == 0
        if accuracy > best or (accuracy == best and not is_start_best):
            self.state.best_accuracy, self.state.best_step = accuracy, self.state.step
            self._keep(candidate)
        return accuracy

    def _keep(self, encoder: EncoderNetwork) -> None:
        provenance = {
            "origin": self.origin,
            "settings": asdict(self.settings),
            "data": self.splits.provenance,
            "data_fingerprint": data_fingerprint(self.splits),
            "seed": self.settings.seed,
            "step": self.state.step,
            "validation_accuracy": self.state.best_accuracy,
            "starting_accuracy": self.state.starting_accuracy,
            **versions(),
        }
        kept = {"encoder": encoder.name, "weights": encoder.state_dict(), "provenance": provenance}
        checkpoint.save(self.out / BEST, kept)


class TrainingStep(nn.Module):
    """Computes the loss from pixels; the module that distributed training wraps.

    Args:
        encoder: the network that is trained.
        objective: its loss.
        anti_forgetting: a second loss on unrelated pictures, half as many as in the batch; None for none.
        weight: weight of the second loss.
    """

    def __init__(
        self,
        encoder: EncoderNetwork,
        objective: Objective,
        anti_forgetting: AntiForgettingLoss | None = None,
        weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder, self.objective = encoder, objective
        self.anti_forgetting, self.weight = anti_forgetting, weight

    def forward(self, pixels: Tensor, labels: Tensor, step: int) -> Tensor:
        """Pixels float32 (B, C, H, W) in 0..255 and labels of the objective to the loss, a scalar."""
        if self.anti_forgetting is None:
            loss: Tensor = self.objective(self.encoder(pixels), labels)
            return loss
        unrelated, targets = self.anti_forgetting.batch(len(pixels) // 2, step)
        embeddings = self.encoder(torch.cat([pixels, unrelated]))
        own, others = embeddings[: len(pixels)], embeddings[len(pixels) :]
        return self.objective(own, labels) + self.weight * self.anti_forgetting.loss(others, targets)


def load_initial_weights(settings: TrainingSettings, splits: Splits, encoder: EncoderNetwork) -> str:
    """Load pretrained weights into a randomly initialized encoder, if the settings say so.

    Returns:
        The original source of the weights, also through earlier runs: `random`, `published`, `weights:FILE` or `unknown`.

    Raises:
        SettingsError: the weights do not exist or belong to another encoder, or they were trained on other classes of the
            same data, possibly on those that are held out now.
    """
    if settings.start == "published" or settings.start.startswith(WEIGHTS_PREFIX):
        if settings.start == "published":
            encoder.load_published_weights()
        else:
            encoder.load_weights(Path(settings.start.removeprefix(WEIGHTS_PREFIX)))
        encoder.fit_projection(splits.train.images)
    if settings.start.startswith(BUNDLE_PREFIX):
        bundle = load_bundle(settings.start.removeprefix(BUNDLE_PREFIX))
        _require_same_split(settings, splits, bundle.manifest.provenance)
        if encoder.published_weights:
            encoder.load_published_weights()
        load_bundle_weights(encoder, bundle)
        return str(bundle.manifest.provenance.get("origin", "unknown"))
    if not settings.start.startswith(RUN_PREFIX):
        return settings.start
    with torch.random.fork_rng(devices=[]):  # later random draws do not depend on the initial weights
        earlier = load_run(settings.start.removeprefix(RUN_PREFIX))
    if earlier.module.name != encoder.name:
        raise SettingsError(f"{settings.start} is a run of {earlier.module.name}, not of {encoder.name}")
    _require_same_split(settings, splits, earlier.provenance)
    encoder.load_state_dict(earlier.module.state_dict())
    return str(earlier.provenance.get("origin", "unknown"))


def _require_same_split(settings: TrainingSettings, splits: Splits, earlier: Mapping[str, Any]) -> None:
    """Raise `SettingsError` if earlier weights were trained on other classes of the same data."""
    data = str(earlier.get("settings", {}).get("data"))
    if same_source(data, settings.data) and earlier.get("data_fingerprint") != data_fingerprint(splits):
        raise SettingsError(
            f"{settings.start} was trained on other classes of {settings.data}, perhaps on those that are held out now; "
            "use its seed, or other initial weights"
        )


def build_optimizer(
    settings: TrainingSettings, encoder: EncoderNetwork, objective: Objective
) -> torch.optim.Optimizer:
    """Optimizer of encoder and objective; weight decay applies to matrices and convolutions only.

    Each parameter group has an `lr_multiplier`, which is not 1 for the class directions of the objective.
    """
    own = {id(p): p for p in encoder.parameters()}
    further = {id(p): p for p in objective.parameters() if id(p) not in own}.values()
    directions = [p for p in further if p.ndim > 1]
    head = getattr(encoder, "head", None)
    weighted = list(head.parameters()) if isinstance(head, KochHead) else []
    parameters = [p for p in own.values() if all(p is not q for q in weighted)]
    parameters += [p for p in further if p.ndim <= 1]
    decay, multiplier = settings.weight_decay, settings.classifier_lr_multiplier
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay, "lr_multiplier": 1.0},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, "lr_multiplier": 1.0},
        {"params": directions, "weight_decay": decay, "lr_multiplier": multiplier},
        {"params": weighted, "weight_decay": decay, "lr_multiplier": multiplier},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def learning_rate(settings: TrainingSettings, step: int, steps_per_epoch: int) -> float:
    """Learning rate of a step, counted from 0."""
    warmup = min(1.0, (step + 1) / max(1.0, settings.warmup * settings.steps))
    if settings.schedule == "exponential":
        return settings.learning_rate * warmup * 0.99 ** (step // steps_per_epoch)
    return settings.learning_rate * warmup * 0.5 * (1.0 + math.cos(math.pi * step / settings.steps))


def freeze_batch_statistics(encoder: nn.Module) -> None:
    """Let batch normalization use its running statistics; its scale and shift are still trained."""
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


@torch.no_grad()
def update_ema(ema: EncoderNetwork, encoder: EncoderNetwork, settings: TrainingSettings, step: int) -> None:
    """Update the exponential moving average of weights and running statistics (Polyak and Juditsky, 1992)."""
    # The minimum keeps random initial weights out of the average.
    decay = min(settings.ema_decay, (1.0 + step) / (10.0 + step)) if settings.ema_fraction else 0.0
    for kept, new in zip(ema.state_dict().values(), encoder.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1.0 - decay)
        else:
            kept.copy_(new)


@torch.no_grad()
def interpolate_weights(
    initial: EncoderNetwork | None, finetuned: EncoderNetwork, weight: float
) -> EncoderNetwork:
    """Network with the weights `(1 - weight) * initial + weight * finetuned`.

    Wortsman et al., "Robust fine-tuning of zero-shot models" (2022): the average keeps more of what the initial network
    knew about other kinds of images.
    """
    if initial is None or weight >= 1.0:
        return finetuned
    result = copy.deepcopy(finetuned)
    start = initial.state_dict()
    for name, value in result.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.lerp(start[name], value, weight))
    return result


def validation_accuracy(encoder: EncoderNetwork, images: ImageSet, settings: TrainingSettings) -> float:
    """One-shot accuracy on validation classes, always on the same trials; up to 20 ways."""
    koch = getattr(encoder, "head", None)
    head = koch.as_device_head() if isinstance(koch, KochHead) else DISTANCE_RANKING
    embeddings = TorchEncoder(encoder).embed_prepared(images.images)
    return one_shot_accuracy(embeddings, images, head, settings.validation_episodes, seed=settings.seed)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory instead of returning it to the system: training steps allocate the same sizes again.

    This avoids page faults, which slow down training on large feature maps. Does nothing with other C libraries.
    """
    # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-4, 0)
        mallopt(-1, 2**31 - 1)


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, so that training stops between two steps."""
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return
    handlers = {
        number: signal.signal(number, lambda *_: requested.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield requested
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
