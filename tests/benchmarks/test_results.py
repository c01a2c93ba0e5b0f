"""The stored runs render as reports, reach what the pages claim, and their weights still give the stored figures."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
import torch

from benchmarks.pages import scenes_of, strangers_of
from export.conversion.bundle import build_bundle
from export.data import load_splits
from export.data.images import Splits
from export.evaluation.evaluate import Evaluation, evaluate
from export.evaluation.remote_runtime import open_encoder
from export.evaluation.strangers import Identified, StrangersResult
from export.reporting.report import read_inputs, render
from export.training.network import TorchEncoder, TrainedNetwork, load_run

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
GLYPHNET, KOCH = BENCHMARKS / "omniglot-glyphnet", BENCHMARKS / "omniglot-koch2015"
FILES = (("torch", "fp32"), ("ai-edge-litert", "int8"), ("onnxruntime", "int8"))


def measured(directory: Path) -> tuple[Evaluation, ...]:
    return read_inputs(directory).evaluations


@pytest.mark.parametrize(
    "directory", sorted(path.parent for path in BENCHMARKS.glob("*/train")), ids=lambda path: path.name
)
def test_what_was_kept_of_a_run_makes_its_report(directory: Path) -> None:
    inputs = read_inputs(directory)
    page = render(inputs)
    assert inputs.main and inputs.main.encoder.model_id.startswith(
        ("glyphnet-", "koch2015-", "efficientnet-")
    )
    assert f"{100 * inputs.main.one_shot[1]:.1f}" in page if inputs.main.one_shot else False


def test_int8_keeps_the_accuracy_and_p_is_a_probability() -> None:
    found = measured(GLYPHNET)
    assert [(e.encoder.runtime, e.encoder.precision) for e in found] == list(FILES)
    official = [e.official.accuracy for e in found if e.official]
    assert official[0] >= 0.95
    assert max(official[0] - accuracy for accuracy in official[1:]) <= 0.005
    assert all(e.verification and e.verification.ece <= 0.03 for e in found)


def test_both_encoders_are_faster_in_int8() -> None:
    for directory in (GLYPHNET, KOCH):
        table = read_inputs(directory).benchmark
        assert table
        for runtime in ("ai-edge-litert", "onnxruntime"):
            (row,) = (r for r in table.rows if (r.runtime, r.precision) == (runtime, "int8"))
            assert row.speed_up and row.speed_up > 1.0, (directory.name, runtime)


def test_koch2015_reaches_88_percent_in_each_file() -> None:
    found = measured(KOCH)
    assert [(e.encoder.runtime, e.encoder.precision) for e in found] == list(FILES)
    for evaluation in found:
        assert evaluation.verification and evaluation.verification.low > 0.89  # chance is 0.5
        assert evaluation.official and evaluation.official.correct >= 352  # of 400


# --- what the weights give ---


@pytest.fixture(scope="module")
def splits(network: TrainedNetwork) -> Splits:
    """Omniglot; without a copy of it there is nothing to measure on."""
    folder = os.environ.get("EDGE_SIAMESE_DATA")
    if not folder or not (Path(folder) / "omniglot").is_dir():
        pytest.skip("EDGE_SIAMESE_DATA names no folder with omniglot/ in it")
    return load_splits("omniglot", network.preprocessing)


@pytest.fixture(scope="module")
def network() -> TrainedNetwork:
    torch.set_num_threads(1)
    return load_run(GLYPHNET)


def test_the_weights_are_those_that_were_measured(network: TrainedNetwork) -> None:
    assert {e.encoder.model_id for e in measured(GLYPHNET)} == {network.model_id}


def test_a_bundle_of_the_weights_gives_the_figures_again(
    network: TrainedNetwork, splits: Splits, tmp_path: Path
) -> None:
    built = build_bundle(network, splits, tmp_path / "bundle")
    encoders = [
        TorchEncoder(network.module, network.model_id),
        *(open_encoder(built.bundle, runtime, precision, threads=1) for runtime, precision in FILES[1:]),
    ]
    for encoder, before in zip(encoders, measured(GLYPHNET), strict=True):
        again = evaluate(encoder, splits, built.bundle.head, shapes=((20, 1),), episode_count=500)
        assert again.official and before.official and again.verification and before.verification
        # Kernels of other processors round otherwise: a trial or two of 400 may fall to the other side.
        assert abs(again.official.correct - before.official.correct) <= 2, encoder.runtime
        assert again.official.accuracy >= 0.95
        assert again.verification.ece == pytest.approx(before.verification.ece, abs=0.003)
        assert again.verification.accuracy == pytest.approx(before.verification.accuracy, abs=0.003)
        assert dataclasses.asdict(again.data) == dataclasses.asdict(before.data)


def test_the_readme_states_what_was_measured_in_scenes() -> None:
    rows = {
        (result.focus, result.backgrounds): row
        for result in scenes_of("objects")
        for row in result.results
        if not result.is_baseline and (row.registered, row.presses) == (5, 1)
    }
    recognized, wrong = (
        [getattr(rows["center", where].returns[0], kind).value for where in ("drawn", "photographs")]
        for kind in ("recognized", "misnamed")
    )
    strangers = {
        focus: sorted(row.strangers_per_hour.value for (chosen, _), row in rows.items() if chosen == focus)
        for focus in ("center", "foreground")
    }
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    for stated in (
        f"recognizes {100 * recognized[0]:.0f} % of them on drawn tables and {100 * recognized[1]:.0f} % in front of "
        "photographs",
        "of 360 strangers an hour, one every ten seconds, {:.0f} to {:.0f} pass for an object".format(
            *strangers["center"]
        ),
        "or {:.0f} to {:.0f} with `focus".format(*strangers["foreground"]),
    ):
        assert stated in text
    assert wrong == [0.0, 0.0]  # "and none under a wrong name"


def at_default(result: StrangersResult, pictures: int, rate: float = 0.01) -> Identified:
    """Five objects, registered from so many pictures each, at the default rate of 1 % or another one."""
    kind = (5, pictures, rate)
    return next(
        row for row in result.results if (row.registered, row.pictures, row.false_accept_rate) == kind
    )


def test_the_readme_states_what_was_measured_among_strangers() -> None:
    strangers, others = strangers_of("objects")
    one, three, look_alikes = at_default(strangers, 1), at_default(strangers, 3), at_default(others, 1)
    strict, strict_look_alikes = at_default(strangers, 1, 0.001), at_default(others, 1, 0.001)
    paper, characters = strangers_of("glyphs")
    drawn, drawn_look_alikes = at_default(paper, 1), at_default(characters, 1)
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    for stated in (
        f"it recognizes {100 * one.identified.value:.1f} % of their other photos",
        f"{100 * one.strangers.value:.1f} % of {strangers.strangers:,} pictures of anything else pass",
        f"With three photos each it recognizes {100 * three.identified.value:.1f} %",
        f"{100 * look_alikes.strangers.value:.0f} % of the photos of other groceries pass",
        f"With `false_accept_rate = 0.001`, it recognizes {100 * strict.identified.value:.1f} %, and "
        f"{100 * strict.strangers.value:.1f} % of anything else and {100 * strict_look_alikes.strangers.value:.0f} % of "
        "other groceries pass",
        f"it recognizes {100 * drawn.identified.value:.1f} % of their other drawings",
        f"{100 * drawn.strangers.value:.1f} % of {paper.strangers:,} scribbles",
        f"pass for one of them, and {100 * drawn_look_alikes.strangers.value:.1f} % of other handwritten characters",
    ):
        assert stated in text
    # The stated rate holds within a factor of two on strangers that were not used to set the threshold. The rarest
    # ones are fewer than two of the 2,048 pictures of paper.
    for result in (strangers, paper):
        for row in result.results:
            if row.false_accept_rate * result.strangers > 10 or result is strangers:
                assert 0.5 <= row.strangers.value / row.false_accept_rate <= 2.0
