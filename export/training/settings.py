"""Everything that decides what a training run becomes, and the recipe of each encoder."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from edge_siamese.errors import SettingsError
from export.data.augment import AUGMENTATIONS
from export.encoders import ENCODERS
from export.training.objectives import OBJECTIVES

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("cosine", "exponential")
STARTS = ("random", "published")
RUN = "run:"
DRAWINGS = ("omniglot", "glyphs")
"""Data sets of ink on white paper."""


@dataclass(frozen=True)
class TrainingSettings:
    """Two runs with equal settings on equal data and one kind of machine end with equal weights."""

    data: str = "omniglot"
    """`omniglot`, `glyphs`, `grocery`, or `folder:PATH`; other splits of Omniglot after a colon."""
    encoder: str = "glyphnet"
    start: str = "random"
    """`published`: from the weights of somebody's earlier training that come with the encoder. `run:DIR`: from those that
    an earlier run of this program kept."""
    objective: str = "cosine"
    """`cosine`: cosine-margin softmax over classes. `pairs`: cross-entropy over verification pairs."""
    seed: int = 0
    steps: int = 1000
    """Optimizer steps in all."""
    batch: int = 256
    """Images a step, over all workers."""
    optimizer: str = "adamw"
    learning_rate: float = 1.5e-2
    weight_decay: float = 0.05
    """Decoupled for adamw, L2 for sgd."""
    schedule: str = "cosine"
    """`cosine`: to zero at the end. `exponential`: falls by 1 % an epoch, as in the paper."""
    warmup: float = 0.03
    """Share of the steps over which the learning rate rises linearly."""
    augmentation: str = "strong"
    invented: int = 0
    """So many alphabets of characters that the program invents are trained on beside the data's own (drawings)."""
    symmetries: bool = True
    """Turned and mirrored images are classes of their own (cosine objective)."""
    margin: float = 0.25
    """Cosine objective: by how much an image has to be nearer to its own class."""
    sharpness: float = 24.0
    """Cosine objective: what cosines are multiplied with before the softmax."""
    class_rate: float = 1.0
    """Cosine objective: how many times faster the directions of the classes learn than the encoder."""
    frozen_statistics: bool = False
    """Norms keep the statistics that they started with, as small sets of pictures need."""
    blend: float = 1.0
    """The weights kept lie so far on the way from the start's to the trained ones (Wortsman et al., 2022)."""
    remember: str = ""
    """A folder of pictures of anything, in which the encoder is to see what it saw at the start; none if empty."""
    remembering: float = 4.0
    """How much that counts beside the objective."""
    average: float = 0.02
    """The weights kept are an exponential average over about this share of the run; 0 keeps the last ones."""
    validations: int = 20
    """How often the validation accuracy is measured, evenly over the run."""
    validation_episodes: int = 2000

    def __post_init__(self) -> None:
        for field, known in (
            ("encoder", tuple(ENCODERS)),
            ("objective", OBJECTIVES),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("augmentation", tuple(AUGMENTATIONS)),
        ):
            if getattr(self, field) not in known:
                raise SettingsError(f"{field} {getattr(self, field)!r} is not one of {', '.join(known)}")
        if self.start not in STARTS and not (self.start.startswith(RUN) and self.start != RUN):
            raise SettingsError(f"start {self.start!r} is not one of {', '.join(STARTS)}, {RUN}DIR")
        for field in ("batch", "validations", "validation_episodes"):
            if getattr(self, field) < 1:
                raise SettingsError(f"{field} has to be at least 1, not {getattr(self, field)}")
        if self.steps < (1 if self.start == "random" else 0):
            raise SettingsError(f"steps has to be at least 1, not {self.steps}: random weights know nothing")
        for field in (
            "learning_rate",
            "weight_decay",
            "average",
            "warmup",
            "margin",
            "class_rate",
            "blend",
            "remembering",
        ):
            value = getattr(self, field)
            if not 0.0 <= value < float("inf"):
                raise SettingsError(
                    f"{field.replace('_', ' ')} has to be a number of at least 0, not {value}"
                )
        if self.average >= 1.0 or self.warmup >= 1.0:
            raise SettingsError("average and warmup are shares of the run, below 1")
        if not 0.0 < self.sharpness < float("inf"):
            raise SettingsError(f"sharpness has to be a number above 0, not {self.sharpness}")
        if self.blend > 1.0 or (self.blend < 1.0 and self.start == "random"):
            raise SettingsError(
                "blend is a share of the way from earlier weights to the trained ones, up to 1"
            )
        if self.invented < 0 or (self.invented and not self.drawings):
            raise SettingsError(
                f"invented alphabets stand beside drawings ({', '.join(DRAWINGS)}) alone, 0 or more"
            )
        if self.remember and self.start == "random":
            raise SettingsError("there is nothing to remember without earlier weights to start from")
        if self.objective == "pairs" and self.batch % 4:
            raise SettingsError(
                f"a batch of pairs has half of each kind: its size is a multiple of 4, not {self.batch}"
            )

    @property
    def paper(self) -> float | None:
        """The value of what a distorted drawing leaves bare; None for photographs, which are mirrored at their border."""
        return 255.0 if self.drawings else None

    @property
    def drawings(self) -> bool:
        """Whether the pictures are ink on white paper."""
        return self.data.partition(":")[0] in DRAWINGS

    @property
    def average_decay(self) -> float:
        """Per step, of the exponential average of the weights."""
        return 1.0 - 1.0 / max(1.0, self.average * self.steps)

    def validation_steps(self) -> frozenset[int]:
        """The steps (counted from 1) after which the run is validated; the last is one of them."""
        count = min(self.validations, self.steps)
        return frozenset(round(self.steps * (i + 1) / count) for i in range(count))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingSettings:
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise SettingsError(
                f"the run was made by another release: it has the unknown settings {sorted(unknown)}"
            )
        return cls(**values)

    def differences(self, other: TrainingSettings) -> list[str]:
        """`name: mine, not theirs` for each setting in which two runs differ."""
        return [
            f"{field.name}: {getattr(self, field.name)!r}, not {getattr(other, field.name)!r}"
            for field in fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]


PHOTO_STEPS = 2000

RECIPES: dict[str, TrainingSettings] = {
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
        average=0.0,
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
        sharpness=16.0,
        class_rate=10.0,
        frozen_statistics=True,
        blend=0.5,
        average=0.08,
        validations=8,
    ),
}
RECIPES["efficientnet-lite0-small"] = replace(
    RECIPES["efficientnet-lite0"], encoder="efficientnet-lite0-small"
)


def recipe(encoder: str, data: str | None = None, **changes: Any) -> TrainingSettings:
    """The recipe of an encoder for a data set, with some settings changed; None leaves a setting as it is.

    Raises:
        SettingsError: the encoder is unknown, or the settings contradict each other.
    """
    if encoder not in RECIPES:
        raise SettingsError(f"there is no encoder {encoder!r}; known are {', '.join(sorted(RECIPES))}")
    settings = replace(RECIPES[encoder], data=data or RECIPES[encoder].data)
    if settings.paper is None and settings.start == "random":
        # A thing that is turned is still the thing, unlike a character; and there are fewer pictures to learn from.
        settings = replace(
            settings,
            symmetries=False,
            augmentation="photo",
            invented=0,
            steps=min(settings.steps, PHOTO_STEPS),
        )
    return replace(settings, **{name: value for name, value in changes.items() if value is not None})
