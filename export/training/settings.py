"""Settings of a training run: the defaults of each encoder, and recipes in TOML files.

The names of augmentations and objectives are listed here, so that reading settings does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import msgspec

from edge_siamese.errors import SettingsError
from edge_siamese.validation import Record, SchemaError, convert, nearest, parse_toml
from export.data.sources import source_names
from export.encoder_names import (
    EXTRACTOR_NOTATION,
    EXTRACTOR_PREFIX,
    TIMM_NOTATION,
    TIMM_PREFIX,
    BackboneName,
    ExtractorName,
)

AUGMENTATION_NAMES = ("none", "koch", "strong", "ink", "photo")
OBJECTIVES = ("cosine", "pairs", "all-pairs", "distillation")
INITIALIZATIONS = ("encoder", "he")
PRECISIONS = ("float32", "bfloat16")
OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("cosine", "exponential")
STARTS = ("random", "published")
RUN_PREFIX, WEIGHTS_PREFIX, BUNDLE_PREFIX = "run:", "weights:", "bundle:"
START_PLACES = (RUN_PREFIX, WEIGHTS_PREFIX, BUNDLE_PREFIX)
DRAWING_DATA = ("omniglot", "glyphs")
"""Data sets of black ink on white paper."""

_AT_LEAST_ONE = ("batch", "pictures_per_class", "validations", "validation_episodes")
_NON_NEGATIVE = (
    "learning_rate", "weight_decay", "ema_fraction", "warmup", "margin", "classifier_lr_multiplier",
    "finetuned_weight", "anti_forgetting_weight", "published_weight", "max_gradient_norm", "dropout",
)  # fmt: skip


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that decides the outcome of a training run.

    Equal settings on equal data and the same kind of machine give equal weights.

    Raises:
        SettingsError: a value is out of range, or two settings contradict each other.
    """

    data: str = "omniglot"
    """`omniglot`, `omniglot:SPLIT`, `glyphs`, `grocery`, `folder:PATH` or `turntable:PATH`; several are separated by commas.
    The first one has the classes for validation and evaluation; in another one, `anything:PATH`, each picture is a class."""
    data_shares: str = ""
    """Shares of several data sets in a batch, such as `1,2,1`; empty for equal shares."""
    encoder: str = "glyphnet"
    start: str = "random"
    """Initial weights: `random`, `published` (pretrained weights of the encoder's authors), `weights:FILE` (the same from a
    file), `run:DIR` (kept by an earlier run), or `bundle:NAME` (the int8 weights of a bundle, such as `bundle:objects`)."""
    objective: str = "cosine"
    """`cosine`: cosine-margin softmax over classes. `pairs`: cross-entropy over verification pairs. `all-pairs`: the same
    over all pairs of a batch within each alphabet. `distillation`: one network learns the embeddings of two side by side, of
    the initial and the published one."""
    initialization: str = "encoder"
    """Random initial weights: `encoder` (as its authors describe), or `he` (He et al., 2015, for koch2015)."""
    seed: int = 0
    steps: int = 1000
    """Optimizer steps in total."""
    batch: int = 256
    """Images per step, over all workers."""
    pictures_per_class: int = 1
    """Cosine objective: pictures of each class in a batch. With 1 and a single source of data, all pictures are shuffled."""
    optimizer: str = "adamw"
    learning_rate: float = 1.5e-2
    """Peak learning rate."""
    max_gradient_norm: float = 0.0
    """Larger gradients are scaled down to this norm; 0 for no limit."""
    precision: str = "float32"
    """Precision of convolutions and matrix products: `float32`, or `bfloat16`, which is faster on processors with AMX."""
    weight_decay: float = 0.05
    """Decoupled for adamw, L2 for sgd."""
    dropout: float = 0.0
    """Probability that an input of the fully connected layer is set to zero in training (koch2015)."""
    schedule: str = "cosine"
    """`cosine`: down to zero at the end. `exponential`: 1 % less each epoch, as in Koch 2015."""
    warmup: float = 0.03
    """Fraction of the steps over which the learning rate rises linearly."""
    augmentation: str = "strong"
    synthetic_alphabets: int = 0
    """Number of generated alphabets added to the training classes; only for drawings."""
    symmetries: bool = True
    """Rotated and mirrored images count as separate classes (cosine objective), or alphabets (all pairs)."""
    margin: float = 0.25
    """Cosine objective: margin subtracted from the cosine of the true class."""
    logit_scale: float = 24.0
    """Cosine objective: factor of the cosines before the softmax."""
    classifier_lr_multiplier: float = 1.0
    """Learning rate of the class directions (cosine objective) or of Koch's head, relative to that of the encoder."""
    freeze_batch_statistics: bool = False
    """Batch normalization keeps its initial running statistics, as small data sets need."""
    finetuned_weight: float = 1.0
    """Weight of the fine-tuned network, 0 to 1, in its average with the initial one (Wortsman et al., 2022)."""
    anti_forgetting_data: str = ""
    """Folder of unrelated pictures on which the encoder has to keep its initial embeddings, or those of the teacher with the
    objective `distillation`; empty for none."""
    anti_forgetting_weight: float = 4.0
    """Weight of the anti-forgetting loss relative to the objective."""
    published_weight: float = 0.5
    """Distillation: weight of the published network in the teacher, 0 to 1."""
    ema_fraction: float = 0.02
    """The kept weights are an exponential moving average over about this fraction of the run; 0 keeps the last ones."""
    validations: int = 20
    """Number of validations, evenly spaced over the run."""
    validation_episodes: int = 2000

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_ranges()
        self._check_combinations()

    def _check_choices(self) -> None:
        for name, choices in (
            ("objective", OBJECTIVES),
            ("initialization", INITIALIZATIONS),
            ("precision", PRECISIONS),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("augmentation", AUGMENTATION_NAMES),
        ):
            if getattr(self, name) not in choices:
                raise SettingsError(f"{name} {getattr(self, name)!r} is not one of {', '.join(choices)}")
        place = next((self.start.removeprefix(p) for p in START_PLACES if self.start.startswith(p)), "")
        if self.start not in STARTS and not place:
            raise SettingsError(
                f"start {self.start!r} is not one of {', '.join(STARTS)}, "
                f"{RUN_PREFIX}DIR, {WEIGHTS_PREFIX}FILE, {BUNDLE_PREFIX}NAME"
            )

    def _check_ranges(self) -> None:
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in _NON_NEGATIVE:
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise SettingsError(f"{name} must be a number of at least 0, not {getattr(self, name)}")
        if self.ema_fraction >= 1.0 or self.warmup >= 1.0:
            raise SettingsError("ema_fraction and warmup are fractions of the run and must be below 1")
        if self.dropout >= 1.0:
            raise SettingsError(f"dropout must be below 1, not {self.dropout}")
        if not 0.0 < self.logit_scale < float("inf"):
            raise SettingsError(f"logit_scale must be a number above 0, not {self.logit_scale}")
        if self.data_shares and min(self.shares, default=0) < 1:
            raise SettingsError(
                f"data_shares must be whole numbers of at least 1, such as 1,2,1, not {self.data_shares!r}"
            )
        for name in ("finetuned_weight", "published_weight"):
            if getattr(self, name) > 1.0:
                raise SettingsError(f"{name} must be at most 1, not {getattr(self, name)}")

    def _check_combinations(self) -> None:
        if self.steps < (1 if self.start == "random" else 0):
            raise SettingsError(f"steps must be at least 1 with random initial weights, not {self.steps}")
        if self.encoder.startswith(EXTRACTOR_PREFIX) and (self.steps or self.start != "published"):
            raise SettingsError(
                f"{self.encoder} is a finished file, which is not trained: leave out --steps and --start"
            )
        if self.start == "random" and self.finetuned_weight < 1.0:
            raise SettingsError("finetuned_weight below 1 requires pretrained initial weights (start)")
        if self.start.startswith(BUNDLE_PREFIX) and not self.freeze_batch_statistics:
            raise SettingsError(
                "start = bundle:NAME requires --freeze-batch-statistics: a bundle has no statistics to update"
            )
        if self.start == "random" and self.anti_forgetting_data:
            raise SettingsError("anti_forgetting_data requires pretrained initial weights (start)")
        if self.synthetic_alphabets < 0 or (self.synthetic_alphabets and not self.is_drawing):
            raise SettingsError(
                f"synthetic_alphabets must be at least 0, and 0 for data other than {', '.join(DRAWING_DATA)}"
            )
        if self.start != "random" and self.initialization != "encoder":
            raise SettingsError("initialization chooses random initial weights; it needs start = random")
        classes_matter = self.objective in ("cosine", "distillation")
        if not classes_matter and (self.data_shares or self.pictures_per_class > 1):
            raise SettingsError(
                "data_shares and pictures_per_class need the objective cosine or distillation"
            )
        if self.objective == "distillation":
            if not self.start.startswith((RUN_PREFIX, BUNDLE_PREFIX)):
                raise SettingsError(
                    "distillation starts from fine-tuned weights: --start run:DIR or bundle:NAME"
                )
            if not self.anti_forgetting_data:
                raise SettingsError("distillation needs pictures of anything: --anti-forgetting-data DIR")
        if self.objective == "pairs" and self.batch % 4:
            raise SettingsError(f"batch must be a multiple of 4 with the objective pairs, not {self.batch}")

    @property
    def shares(self) -> list[int]:
        """`data_shares` as numbers; empty for equal shares, or if they are not numbers."""
        shares = self.data_shares.split(",")
        return [int(share) for share in shares] if all(map(str.isdecimal, shares)) else []

    @property
    def is_drawing(self) -> bool:
        """Whether the images are black ink on white paper."""
        return source_names(self.data)[0].partition(":")[0] in DRAWING_DATA

    @property
    def fill(self) -> float | None:
        """Pixel value outside a distorted image: white for drawings, None (reflection) for photographs."""
        return 255.0 if self.is_drawing else None

    @property
    def ema_decay(self) -> float:
        """Decay of the exponential moving average of the weights, per step."""
        return 1.0 - 1.0 / max(1.0, self.ema_fraction * self.steps)

    def validation_steps(self) -> frozenset[int]:
        """Steps, counted from 1, after which the run is validated; always includes the last one."""
        count = min(self.validations, self.steps)
        return frozenset(round(self.steps * (i + 1) / count) for i in range(count))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingSettings:
        """Settings from JSON; missing ones take their defaults, unknown ones raise `SettingsError`."""
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise SettingsError(f"the run has unknown settings {sorted(unknown)}: another release wrote it")
        return cls(**values)

    def differences(self, other: TrainingSettings) -> list[str]:
        """`NAME: OWN, not OTHER` for each setting that differs."""
        return [
            f"{field.name}: {getattr(self, field.name)!r}, not {getattr(other, field.name)!r}"
            for field in fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]


MAX_PHOTO_STEPS = 2000
PRETRAINED = "efficientnet-lite0"
"""The encoder whose defaults other pretrained networks have."""

ENCODER_DEFAULTS: dict[str, TrainingSettings] = {
    "glyphnet": TrainingSettings(encoder="glyphnet", steps=7000),
    # Koch 2015, section 3.2: momentum SGD with L2, learning rate falling by 1 % an epoch, pairs with affine distortions.
    "koch2015": TrainingSettings(
        encoder="koch2015",
        objective="pairs",
        steps=100_000,
        batch=256,
        optimizer="sgd",
        learning_rate=1e-2,
        weight_decay=2e-4,
        schedule="exponential",
        augmentation="koch",
        symmetries=False,
        ema_fraction=0.0,
        validations=200,
    ),
    "efficientnet-lite0": TrainingSettings(
        encoder="efficientnet-lite0",
        data="grocery",
        start="published",
        steps=400,
        batch=48,
        learning_rate=3e-4,
        weight_decay=0.01,
        augmentation="photo",
        symmetries=False,
        margin=0.1,
        logit_scale=16.0,
        classifier_lr_multiplier=10.0,
        freeze_batch_statistics=True,
        finetuned_weight=0.5,
        ema_fraction=0.08,
        validations=8,
    ),
}
ENCODER_DEFAULTS["efficientnet-lite0-small"] = replace(
    ENCODER_DEFAULTS["efficientnet-lite0"], encoder="efficientnet-lite0-small"
)
ENCODER_DEFAULTS["efficientnet-lite0-full"] = replace(
    ENCODER_DEFAULTS["efficientnet-lite0"], encoder="efficientnet-lite0-full"
)


def encoder_defaults(encoder: str) -> TrainingSettings:
    """The defaults of an encoder: networks of timm are trained as `efficientnet-lite0`, and ONNX files not at all.

    Raises:
        SettingsError: the encoder is unknown.
    """
    if encoder.startswith((TIMM_PREFIX, EXTRACTOR_PREFIX)):
        kind = BackboneName if encoder.startswith(TIMM_PREFIX) else ExtractorName
        kind.parse(encoder)
        steps = 0 if kind is ExtractorName else ENCODER_DEFAULTS[PRETRAINED].steps
        return replace(ENCODER_DEFAULTS[PRETRAINED], encoder=encoder, steps=steps)
    if encoder not in ENCODER_DEFAULTS:
        known = ", ".join([*sorted(ENCODER_DEFAULTS), TIMM_NOTATION, EXTRACTOR_NOTATION])
        raise SettingsError(f"there is no encoder {encoder!r}; known: {known}")
    return ENCODER_DEFAULTS[encoder]


def settings_for(encoder: str, data: str | None = None, **changes: Any) -> TrainingSettings:
    """Defaults of an encoder for a data set, with changes; None leaves a setting unchanged.

    Raises:
        SettingsError: the encoder is unknown, or the settings are invalid.
    """
    defaults = encoder_defaults(encoder)
    start = changes.get("start")
    settings = replace(defaults, data=data or defaults.data)
    if start == "random" and encoder.startswith(TIMM_PREFIX):
        settings = replace(settings, start=start, finetuned_weight=1.0, freeze_batch_statistics=False)
    if not settings.is_drawing and settings.start == "random":
        # Unlike a character, a rotated object is still the same object; and data sets of photographs are smaller.
        settings = replace(
            settings,
            symmetries=False,
            augmentation="photo",
            synthetic_alphabets=0,
            steps=min(settings.steps, MAX_PHOTO_STEPS),
        )
    return replace(settings, **{name: value for name, value in changes.items() if value is not None})


def training_options(settings: TrainingSettings) -> list[str]:
    """Options of `python -m export train` that select these settings: data, encoder, and what differs from the defaults."""
    defaults = settings_for(settings.encoder, settings.data)
    options = ["--data", settings.data, "--encoder", settings.encoder]
    for name in (field.name for field in fields(settings)):
        value, option = getattr(settings, name), name.replace("_", "-")
        if value == getattr(defaults, name):
            continue
        if isinstance(value, bool):
            options.append(f"--{option}" if value else f"--no-{option}")
        else:
            options += [f"--{option}", str(value)]
    return options


RECIPES = Path(__file__).parents[1] / "recipes"

_Changes = msgspec.defstruct(
    "_Changes",
    [(name, hint | None, None) for name, hint in get_type_hints(TrainingSettings).items()],
    bases=(Record,),
)
"""`TrainingSettings` with every field optional: None keeps the encoder's default."""


class Recipe(Record):
    """A training run: where it goes, and how it differs from the defaults of its encoder."""

    description: str
    out: str
    """Directory of the pipeline; the training run is its subdirectory `train`."""
    training: _Changes  # type: ignore[valid-type]
    threads: Annotated[int, msgspec.Meta(ge=1)] | None = None

    @property
    def changes(self) -> dict[str, Any]:
        """Training settings that the recipe sets."""
        return {
            name: value for name, value in msgspec.structs.asdict(self.training).items() if value is not None
        }


def recipe_names() -> list[str]:
    """Names of the recipes in `export/recipes`."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load_recipe(name: str) -> Recipe:
    """Load a recipe by name, or by the path of a TOML file.

    Raises:
        SettingsError: there is no such recipe, or the file is invalid.
    """
    path = RECIPES / f"{name}.toml" if name in recipe_names() else Path(name)
    try:
        return convert(parse_toml(path.read_text(encoding="utf-8")), Recipe)
    except (OSError, UnicodeDecodeError) as error:
        if path.suffix == ".toml":
            raise SettingsError(f"cannot read the recipe {path}: {error}") from error
        names = recipe_names()
        raise SettingsError(
            f"there is no recipe {name!r}{nearest(name, names)} (recipes: {', '.join(names)}, or a TOML file)"
        ) from None
    except SchemaError as error:
        raise SettingsError(f"{path}: {error}") from error
