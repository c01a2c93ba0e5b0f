"""What a pipeline leaves in its directory, gathered for the report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from edge_siamese.errors import BundleError, DataError
from edge_siamese.models.manifest import Manifest
from edge_siamese.validation import SchemaError, parse_json, read_object
from export import records
from export.evaluation.benchmark import Benchmark
from export.evaluation.results import Evaluation, VerifiedFile
from export.reporting.plots import TrainingPoint

# The files of a pipeline's directory; each may be missing.
HISTORY, SETTINGS = "train/history.jsonl", "train/settings.json"
EVALUATION, VERIFICATION, BENCHMARK = "evaluation.json", "verification.json", "benchmark.json"
MANIFEST, DEMO = "bundle/manifest.json", "demo.json"


@dataclass(frozen=True)
class DemoSupport:
    """An object as it was registered: from one picture."""

    name: str
    picture: str
    """A data URI, see `evaluation.as_data_uri`."""


@dataclass(frozen=True)
class DemoQuery:
    """A picture that was recognized, or not."""

    picture: str
    truth: str | None
    """The object's name; None for something that was never registered."""
    answer: str | None
    """The name that the device gave; None for "I do not know this"."""
    probability: float
    """p(same) with the nearest support."""

    @property
    def right(self) -> bool:
        return self.truth == self.answer


@dataclass(frozen=True)
class Demo:
    """What a process without torch recognized after one look."""

    supports: tuple[DemoSupport, ...]
    queries: tuple[DemoQuery, ...]
    runtime: str
    precision: str
    threshold: float
    """Below this p(same) the answer is "unknown"."""
    command: str
    machine: str

    @property
    def right(self) -> int:
        return sum(query.right for query in self.queries)


@dataclass(frozen=True)
class Verified:
    """What `verify` found."""

    passed: bool
    files: tuple[VerifiedFile, ...]
    command: str
    machine: str


@dataclass(frozen=True)
class ReportInputs:
    """All that a report can show; what is None or empty is left out."""

    name: str
    """Of the directory."""
    history: tuple[TrainingPoint, ...] = ()
    settings: dict[str, Any] | None = None
    evaluations: tuple[Evaluation, ...] = ()
    benchmark: Benchmark | None = None
    verification: Verified | None = None
    manifest: Manifest | None = None
    demo: Demo | None = None

    @cached_property
    def int8(self) -> Evaluation | None:
        return next((e for e in self.evaluations if e.encoder.precision == "int8"), None)

    @cached_property
    def fp32(self) -> Evaluation | None:
        return next((e for e in self.evaluations if e.encoder.precision == "fp32"), None)

    @property
    def main(self) -> Evaluation | None:
        """The evaluation whose figures are drawn: that of what a device runs."""
        return self.int8 or self.fp32


def read_inputs(directory: Path) -> ReportInputs:
    """Read what a pipeline has left in its directory so far.

    Raises:
        DataError: there is no such directory, nothing to show in it, or a damaged file.
    """
    if not directory.is_dir():
        raise DataError(f"{directory} is not a directory; name the --out of a pipeline")
    demo, benchmark = directory / DEMO, directory / BENCHMARK
    inputs = ReportInputs(
        name=directory.resolve().name,
        history=_history(directory / HISTORY),
        settings=_json(directory / SETTINGS),
        evaluations=records.read_all(Evaluation, directory / EVALUATION)
        if (directory / EVALUATION).exists()
        else (),
        benchmark=records.read(Benchmark, benchmark) if benchmark.exists() else None,
        verification=_verified(directory / VERIFICATION),
        manifest=_manifest(directory / MANIFEST),
        demo=records.read(Demo, demo) if demo.exists() else None,
    )
    if inputs == ReportInputs(name=inputs.name):
        raise DataError(
            f"{directory} has nothing to report: "
            f"neither {HISTORY}, nor {EVALUATION}, nor {BENCHMARK}, nor {MANIFEST}"
        )
    return inputs


def _history(path: Path) -> tuple[TrainingPoint, ...]:
    if not path.exists():
        return ()
    names = tuple(TrainingPoint.__dataclass_fields__)
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return tuple(TrainingPoint(**{name: line[name] for name in names}) for line in lines)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no history of a training run ({error})") from error


def _json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except SchemaError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return value if isinstance(value, dict) else None


def _verified(path: Path) -> Verified | None:
    """The part of `verification.json` that the report shows."""
    content = _json(path)
    if content is None:
        return None
    names = tuple(VerifiedFile.__dataclass_fields__)
    try:
        files = tuple(
            read_object({name: entry.get(name) for name in names}, VerifiedFile, f"files[{index}]")
            for index, entry in enumerate(content.get("files", []))
        )
    except (AttributeError, SchemaError) as error:
        raise DataError(f"{path} was not written by this release ({error}); make it again") from error
    command, machine = (str(content.get(name, "")) for name in ("command", "machine"))
    return Verified(content.get("passed") is True, files, command, machine)


def _manifest(path: Path) -> Manifest | None:
    if not path.exists():
        return None
    try:
        return Manifest.from_json(path.read_text(encoding="utf-8"), str(path))
    except BundleError as error:
        raise DataError(str(error)) from error
