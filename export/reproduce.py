"""Measures the shipped bundles, and the weights to compare them with, in every runtime of this machine.

A `Check` is one table: an encoder on one data set, with a column for each way to run it. `measure` evaluates any model
on any data.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edge_siamese import models
from edge_siamese.errors import EdgeSiameseError
from edge_siamese.models.bundle import MANIFEST, load_bundle
from export import records
from export.data.grocery import OFFICIAL_URL
from export.data.sources import source_names
from export.evaluation.embeddings import Supports
from export.evaluation.evaluate import Evaluation, default_size, evaluate
from export.evaluation.loading import TORCH, Model, data_for, frames_for, head_for, open_model
from export.evaluation.remote_runtime import CHECKOUT, available_variants
from export.reporting.report import EVALUATION, read_inputs
from export.reporting.tables import full_tables
from export.training.network import load_run

BENCHMARKS = CHECKOUT / "benchmarks"
BUILD = CHECKOUT / "build"
OUT = BUILD / "reproduce"
WEIGHTS = Path("train") / "best.pt"
BASELINE = "imagenet"
"""A training run without steps in `build/`: the published weights from which `objects` was trained."""
PHOTO_EPISODES, GLYPH_EPISODES = 1_000, 10_000
INSTRUCTIONS = {
    "omniglot": "without --data-root and EDGE_SIAMESE_DATA it is fetched: "
    "env -u EDGE_SIAMESE_DATA .venv/bin/python -m export reproduce glyphs",
    "grocery": f"git clone --depth 1 {OFFICIAL_URL} DIR/grocery, and then "
    ".venv/bin/python -m export reproduce objects --data-root DIR",
}


@dataclass(frozen=True)
class Check:
    """One table of figures."""

    name: str
    """Name of the check and of the directory of its figures."""
    path: Path
    """A bundle, or a training run."""
    data: str
    episodes: int
    """Number of episodes of each kind."""
    weights: tuple[Path, ...] = ()
    """Folders of training runs, of which one may have the float weights that the bundle was made of."""
    thorough: bool = True
    """Whether to measure in all runtimes instead of one."""


@dataclass(frozen=True)
class Column:
    """A way to run the encoder of a check."""

    path: Path
    runtime: str
    supports: Supports = "plain"

    def command(self, check: Check) -> str:
        """The command that measures only this column."""
        path = self.path.relative_to(CHECKOUT) if self.path.is_relative_to(CHECKOUT) else self.path
        arguments = ["evaluate", str(path), "--data", check.data, "--runtime", self.runtime]
        arguments += ["--episodes", str(check.episodes)]
        arguments += [] if self.supports == "plain" else ["--supports", self.supports]
        return shlex.join([".venv/bin/python", "-m", "export", *arguments])


def standard_checks() -> list[Check]:
    """The shipped bundles, and the published weights on the same photographs, if `make reproduce` created them."""
    runs = [file.parent.parent for root in (BENCHMARKS, BUILD) for file in sorted(root.glob(f"*/{WEIGHTS}"))]
    checks = [
        Check(name, models.DIRECTORY / name, data, episodes, tuple(runs))
        for name, data, episodes in (
            ("glyphs", "omniglot", GLYPH_EPISODES),
            ("objects", "grocery", PHOTO_EPISODES),
        )
    ]
    baseline = BUILD / BASELINE
    if (baseline / WEIGHTS).is_file():
        checks.append(Check(BASELINE, baseline, "grocery", PHOTO_EPISODES))
    return checks


def further_checks(name: str, data: str) -> list[Check]:
    """The bundle for photographs on other data, and the published weights, if they exist."""
    return [
        replace(check, name=f"{check.name}-{name}", data=data, weights=(), thorough=False)
        for check in standard_checks()
        if check.data == "grocery"
    ]


def reproduce(
    checks: Sequence[Check],
    out: Path,
    data_root: Path | None = None,
    episodes: int | None = None,
    progress: Callable[[str], object] = print,
) -> Iterator[tuple[Check, str | EdgeSiameseError]]:
    """Measure one check after the other, and write each one's evaluations to `out/NAME/evaluation.json`.

    Args:
        checks: the checks.
        out: directory with a subdirectory for each check.
        data_root: a folder with `omniglot/` and `grocery/`; default: the environment variable `EDGE_SIAMESE_DATA`.
        episodes: number of episodes, instead of each check's own.
        progress: called with a line about each step.

    Returns:
        Each check with its section in Markdown, or the error that prevented it.
    """
    for check in checks:
        if episodes is not None:
            check = replace(check, episodes=episodes)
        try:
            yield check, _section(check, out / check.name, data_root, progress)
        except EdgeSiameseError as error:
            yield check, error


def measure(
    model: Model,
    data: str,
    *,
    episodes: int,
    supports: Supports = "plain",
    data_root: Path | None = None,
    command: str = "",
) -> Evaluation:
    """Evaluate a model on some data, to the extent that its size allows.

    Args:
        model: a bundle or a run, see `open_model`. A run's head is fitted on the validation classes of its own data.
        data: name of the data set.
        episodes: number of episodes of each kind.
        supports: how supports are embedded.
        data_root: directory with a subdirectory for each data set.
        command: command line, for the record.

    Raises:
        DataError: the data are missing, or too few.
        SettingsError: they have changed since the network was trained.
    """
    data, splits = data_for(model, data, _root(data_root, data))
    frames = frames_for(model, data, _root(data_root, data)) if supports == "augmented" else None
    head, thresholds = head_for(model, data, splits, _root(data_root, model.data))
    size = default_size(model.macs)
    return evaluate(
        model.encoder,
        splits,
        head,
        thresholds=thresholds,
        shapes=size.shapes,
        episode_count=episodes,
        supports=supports,
        frames=frames,
        per_class=size.per_class,
        command=command,
    )


def columns(check: Check) -> tuple[list[Column], list[str]]:
    """The ways to run the encoder of a check on this machine, and a line for each missing runtime.

    The float weights come first, then int8 in each runtime, last augmented supports in one of them.

    Raises:
        BundleError: there is neither a bundle nor a run, or it is damaged.
    """
    if not (check.path / MANIFEST).is_file() and (check.path / WEIGHTS).is_file():
        return [Column(check.path, TORCH)], []
    available, missing = available_variants(load_bundle(check.path))
    runtimes = [variant.runtime for variant in available if variant.precision == "int8"]
    if not check.thorough:
        runtimes, missing = runtimes[:1], []
    model_id = load_bundle(check.path).manifest.model_id
    runs = (run for run in check.weights if (run / WEIGHTS).is_file())
    float_weights = next((run for run in runs if load_run(run).model_id == model_id), None)
    result = [Column(float_weights, TORCH)] if float_weights else []
    result += [Column(check.path, runtime) for runtime in runtimes]
    # Augmented supports, as at registration: only once, because they are equal in every runtime and take five times as long.
    result += [Column(check.path, runtimes[0], "augmented")] if check.thorough and runtimes else []
    return result, missing


def _section(check: Check, directory: Path, data_root: Path | None, progress: Callable[[str], object]) -> str:
    selected, missing = columns(check)
    for line in missing:
        progress(f"{check.name}: skipped: {line}")
    evaluations, commands = list[Evaluation](), list[str]()
    for column in selected:
        progress(f"{check.name} on {check.data}: {column.runtime}, {column.supports} supports")
        model = open_model(column.path, column.runtime)
        commands.append(column.command(check))
        evaluations.append(
            measure(
                model,
                check.data,
                episodes=check.episodes,
                supports=column.supports,
                data_root=data_root,
                command=commands[-1],
            )
        )
    records.write(directory / EVALUATION, [_record(evaluation) for evaluation in evaluations])
    data = evaluations[0].data
    models_of = ", ".join(sorted({f"`{e.encoder.model_id}`" for e in evaluations}))
    return (
        f"## {check.name} on {check.data}\n\n"
        f"{models_of}: {data.images:,} images of {data.classes} classes in {data.groups} groups; "
        f"{evaluations[0].machine}\n\n"
        f"{full_tables(read_inputs(directory))}\n```sh\n" + "".join(f"{c}\n" for c in commands) + "```\n"
    )


def _record(evaluation: Evaluation) -> Evaluation:
    """The stored part of an evaluation: no pictures of mistakes and no path of this machine."""
    reason = evaluation.encoder.reason.replace(f"{CHECKOUT}/", "")
    return replace(evaluation, mistakes=(), encoder=replace(evaluation.encoder, reason=reason))


def advice(check: Check) -> str:
    """How to get the data of a check."""
    return INSTRUCTIONS.get(check.data, f"{check.data} has to exist")


def _root(data_root: Path | None, data: str | None) -> Path | None:
    """Directory of one data set below the directory of all."""
    kind = source_names(data or "")[0].partition(":")[0]
    return data_root / kind if data_root and kind in INSTRUCTIONS else None
