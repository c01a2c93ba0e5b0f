"""The shipped bundles are as accurate as the stored figures, on the data themselves where available."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_siamese import models
from edge_siamese.models.bundle import MANIFEST, Bundle, load_bundle
from export import records
from export.data import Splits, load_splits
from export.evaluation.embeddings import embed_all
from export.evaluation.evaluate import Evaluation
from export.evaluation.one_shot import EpisodesResult, episode_result, official_trials
from export.evaluation.remote_runtime import open_encoder

ROOT = Path(__file__).parents[2]
VARIABLE = "EDGE_SIAMESE_DATA"
RUNTIMES = ("onnxruntime", "ai-edge-litert")
SAMPLE = 200
"""Episodes of photographs, of each kind."""
SEED = 7


def stated(name: str, runtime: str) -> Evaluation:
    """What is kept of a shipped bundle in one runtime, with supports embedded in one pass."""
    path = ROOT / "benchmarks" / name / "evaluation.json"
    if not path.is_file():
        pytest.skip(f"no figures of {name} are kept in benchmarks")
    found = [
        e
        for e in records.read_all(Evaluation, path)
        if (e.encoder.runtime, e.encoder.precision, e.supports) == (runtime, "int8", "plain")
    ]
    assert len(found) == 1, f"{path} has {len(found)} evaluations of int8 on {runtime}"
    return found[0]


def shipped(name: str) -> Bundle:
    if not (models.DIRECTORY / name / MANIFEST).is_file():
        pytest.skip(f"no bundle called {name} ships yet")
    return load_bundle(models.DIRECTORY / name)


def data(name: str, bundle: Bundle) -> Splits:
    """A data set that is on this machine; nothing is fetched."""
    root = Path(os.environ.get(VARIABLE) or ROOT.parent / "shared" / "data") / name
    if not root.is_dir():
        pytest.skip(f"there is no {root}: {VARIABLE} names a folder with {name}/ in it")
    return load_splits(name, bundle.manifest.input, data_root=root)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_handwriting_is_recognized_as_often_as_stated(runtime: str) -> None:
    bundle = shipped("glyphs")
    before = stated("glyphs", runtime)
    splits = data("omniglot", bundle)
    found, _ = official_trials(open_encoder(bundle, runtime, "int8"), splits.official_runs, bundle.head)
    assert before.encoder.model_id == bundle.manifest.model_id
    assert before.official and (before.official.trials, found.trials) == (400, 400)
    # Kernels of other processors round otherwise: a trial or two of 400 may fall to the other side.
    assert found.accuracy == pytest.approx(before.official.accuracy, abs=0.005 + 1e-9)


def test_photographs_are_recognized_as_often_as_stated() -> None:
    bundle = shipped("objects")
    before = stated("objects", "ai-edge-litert")
    images = data("grocery", bundle).evaluation
    encoder = open_encoder(bundle, "ai-edge-litert", "int8")
    assert before.encoder.model_id == bundle.manifest.model_id
    assert (before.data.classes, before.data.images) == (images.classes, len(images))
    embeddings = embed_all(encoder, images.images)
    for way in (5, 20):
        found, _ = episode_result(
            embeddings, images, bundle.head, way, 1, SAMPLE, within_group=False, seed=SEED
        )
        assert found.accuracy == pytest.approx(_across(before, way).accuracy, abs=0.03), way


def _across(before: Evaluation, way: int) -> EpisodesResult:
    (one,) = (
        e for e in before.episodes if (e.way, e.shot, e.within_group, e.iconic) == (way, 1, False, False)
    )
    return one
