"""What an evaluation says: its results as frozen dataclasses that go to JSON and come back."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image


@dataclass(frozen=True)
class EncoderUsed:
    """What made the embeddings."""

    model_id: str
    runtime: str
    precision: str
    reason: str

    @property
    def title(self) -> str:
        return f"{self.precision} · {self.runtime}"


@dataclass(frozen=True)
class DataUsed:
    """What was embedded."""

    name: str
    split: str
    classes: int
    groups: int
    images: int


@dataclass(frozen=True)
class RunResult:
    """One official run of 20 queries."""

    name: str
    correct: int
    trials: int


@dataclass(frozen=True)
class OfficialTrials:
    """Lake's within-alphabet 20-way one-shot trials; each query takes its nearest support, on its own."""

    correct: int
    trials: int
    accuracy: float
    low: float
    """95 % Wilson interval of the accuracy."""
    high: float
    runs: tuple[RunResult, ...]


def scope(within_group: bool) -> str:
    """Where the classes of an episode are from."""
    return "within a group" if within_group else "across groups"


@dataclass(frozen=True)
class EpisodesResult:
    """N-way K-shot accuracy over episodes drawn at random."""

    way: int
    shot: int
    within_group: bool
    """All classes of an episode from one group (alphabet), or from anywhere."""
    episodes: int
    queries: int
    """A class and an episode."""
    rule: str
    """How the scores of several shots become one score of a class."""
    accuracy: float
    low: float
    """95 % Student interval over the episodes' accuracies."""
    high: float
    iconic: bool = False
    """The supports are pictures of a catalog, the queries photographs."""

    @property
    def title(self) -> str:
        return f"{self.way}-way {self.shot}-shot"

    @property
    def scope(self) -> str:
        """Where classes and supports are from, and how several shots are scored if it is not by the nearest."""
        place = scope(self.within_group)
        iconic = ", iconic supports" if self.iconic else ""
        return place + iconic + (f", {self.rule}" if self.shot > 1 and self.rule != "nearest" else "")


@dataclass(frozen=True)
class Identification:
    """What a threshold makes of queries of registered objects and of unknown ones."""

    false_accept_rate: float
    """Asked for, of unknown queries; of a stated threshold, what it was stated for: pairs of validation classes."""
    probability: float
    """A query is accepted when p(same) of its nearest support is at least this."""
    observed_far: float
    """Share of the unknown queries that are accepted."""
    rate: float
    """Detection and identification rate: share of the known queries that are accepted and whose nearest support is right."""
    low: float
    """95 % bootstrap interval of the rate, over episodes; a threshold that was not stated is found anew each time."""
    high: float


@dataclass(frozen=True)
class OpenSet:
    """Open-set identification: some objects are registered from one picture each; others come by that nobody registered."""

    registered: int
    """Objects an episode."""
    unknown: int
    """Classes an episode that are not registered, at most as many as there are."""
    episodes: int
    known_queries: int
    """In all episodes."""
    unknown_queries: int
    """In all episodes."""
    closed_rate: float
    """Share of the known queries whose nearest support is right, accepted or not."""
    points: tuple[Identification, ...]
    """At the threshold at which the unknown queries have the false-accept rate that is asked for."""
    not_stated: tuple[float, ...]
    """False-accept rates that the unknown queries are too few for."""
    stated: tuple[Identification, ...]
    """At the thresholds of the bundle."""

    @property
    def title(self) -> str:
        return f"{self.registered} registered"


@dataclass(frozen=True)
class ReliabilityBin:
    """Pairs whose stated probability falls in one bin of equal width."""

    center: float
    predicted: float | None
    """Mean stated probability; None in an empty bin."""
    observed: float | None
    """Share of genuine pairs; None in an empty bin."""
    count: int


@dataclass(frozen=True)
class Histogram:
    """How the scores of the verification pairs are spread, over log-odds of p(same)."""

    edges: tuple[float, ...]
    """B + 1 log-odds; the first and the last bin also hold what lies beyond."""
    genuine: tuple[float, ...]
    """B shares of the genuine pairs."""
    impostor: tuple[float, ...]
    """B shares of the impostor pairs."""


@dataclass(frozen=True)
class ErrorCurve:
    """FAR and FRR over thresholds, from all pairs of the evaluated images."""

    log_odds: tuple[float, ...]
    """Thresholds on p(same), as log-odds, rising."""
    far: tuple[float, ...]
    frr: tuple[float, ...]
    impostors: str
    """What the impostor pairs are."""
    impostor_pairs: int
    genuine_pairs: int
    eer: float
    """Equal error rate over all pairs."""


@dataclass(frozen=True)
class ThresholdCheck:
    """A threshold that was stated on validation classes, tried on the evaluated ones."""

    false_accept_rate: float
    """As stated."""
    probability: float
    """Accept when p(same) is at least this."""
    observed_far: float
    observed_frr: float


@dataclass(frozen=True)
class Verification:
    """Same or different, on pairs: half genuine, half impostors of the same group, by different drawers."""

    pairs: int
    accuracy: float
    """At p(same) >= 0.5, where the head was fitted on validation pairs: nothing is chosen on these pairs."""
    low: float
    high: float
    best_accuracy: float
    """At the threshold that is best on these very pairs: optimistic, for papers that choose it so."""
    best_threshold: float
    """That threshold, on p(same)."""
    eer: float
    ece: float
    """Expected calibration error, 15 bins of equal width of p(same)."""
    brier: float
    reliability: tuple[ReliabilityBin, ...]
    histogram: Histogram
    curve: ErrorCurve
    thresholds: tuple[ThresholdCheck, ...]


@dataclass(frozen=True)
class Mistake:
    """One trial that went wrong, with its pictures as data URIs."""

    where: str
    query: str
    truth: str
    """The support of the query's class."""
    choice: str
    """The support that was chosen."""
    truth_name: str
    choice_name: str
    truth_probability: float
    choice_probability: float


@dataclass(frozen=True)
class Evaluation:
    """All that `evaluate` finds out about one encoder on one set of classes."""

    encoder: EncoderUsed
    data: DataUsed
    official: OfficialTrials | None
    episodes: tuple[EpisodesResult, ...]
    skipped: tuple[str, ...]
    """Episodes and pairs that the data do not suffice for, and why."""
    verification: Verification | None
    mistakes: tuple[Mistake, ...]
    """The worst first."""
    mistakes_of: str
    """Which trials the mistakes were made in."""
    seconds: float
    seed: int
    command: str
    machine: str
    created: str
    """UTC, ISO 8601."""
    open_set: tuple[OpenSet, ...] = ()
    supports: str = "plain"
    """How supports were embedded: `plain`, or `augmented` as the device does at registration."""

    @property
    def title(self) -> str:
        """Precision and runtime, and how supports were embedded if not in one pass."""
        augmented = "" if self.supports == "plain" else f", {self.supports} supports"
        return f"{self.encoder.precision}, {self.encoder.runtime}{augmented}"

    @property
    def one_shot(self) -> tuple[str, float, float, float] | None:
        """(what, accuracy, low, high) of the headline: the official trials, or else the hardest episodes."""
        if self.official:
            title = f"{self.official.trials} official trials, within alphabet"
            return title, self.official.accuracy, self.official.low, self.official.high
        ranked = sorted(
            (e for e in self.episodes if e.shot == 1 and not e.iconic), key=lambda e: (e.within_group, e.way)
        )
        if not ranked:
            return None
        best = ranked[-1]
        place = "within group" if best.within_group else "across groups"
        return f"{best.title} episodes, {place}", best.accuracy, best.low, best.high


@dataclass(frozen=True)
class VerifiedFile:
    """How one exported file, in one runtime, compares with the trained network."""

    format: str
    precision: str
    runtime: str
    worst_cosine: float
    mean_cosine: float
    largest_score_difference: float
    accuracy: float | None
    """One-shot accuracy."""
    loss_points: float | None
    """Accuracy of the network less that of the file, in points."""


def as_data_uri(image: npt.NDArray[np.uint8]) -> str:
    """A prepared image (H, W, 1 or 3) as a data URI: PNG for gray, JPEG for color."""
    buffer = io.BytesIO()
    if image.shape[2] == 1:
        Image.fromarray(image[..., 0]).save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        Image.fromarray(image).save(buffer, "JPEG", quality=88)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
