"""Training: resumed equals uninterrupted, workers agree, interruptions and wrong settings are clear."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edge_siamese.errors import SettingsError
from edge_siamese.recognition.imaging import Preprocessing
from export.data.folders import SPLITS
from export.data.images import ImageSet, Splits
from export.data.sources import together
from export.encoders import ENCODERS, EncoderNetwork, GlyphNet, Koch2015, build_encoder
from export.provenance import outcome_of
from export.training import checkpoint
from export.training.checkpoint import CHECKPOINT, HISTORY
from export.training.distributed import Workers, require_single_process
from export.training.network import load_run
from export.training.objectives import CosineMarginSoftmax, SiamesePairs, build_objective
from export.training.settings import TrainingSettings, settings_for
from export.training.train import Interrupted, build_optimizer, interpolate_weights, learning_rate, train

ROOT = Path(__file__).parents[3]
training = sys.modules["export.training.train"]


def drawn_splits(classes=8, each=6, seed=0):
    """Classes that differ by where a bar stands: learnable in a few steps, made without any data set."""
    rng = np.random.default_rng(seed)

    def images(name):
        pictures = np.full((classes * each, 56, 56, 1), 255, np.uint8)
        for index in range(len(pictures)):
            place = 4 + 6 * (index // each) + rng.integers(-1, 2)
            pictures[index, 8:48, place : place + 4] = rng.integers(0, 60)
        return ImageSet(
            name=name,
            images=pictures,
            labels=np.repeat(np.arange(classes), each),
            class_names=tuple(f"bar-{i}" for i in range(classes)),
            class_groups=np.arange(classes) // 4,
            group_names=("left", "right"),
            drawers=np.tile(np.arange(each), classes),
        )

    return Splits(images("train"), images("validation"), images("evaluation"), (), {"source": "bars"})


SHORT = TrainingSettings(steps=6, batch=16, validations=3, validation_episodes=100, symmetries=False)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def weights(run):
    return checkpoint.load(run / CHECKPOINT)["encoder"] | {"best": load_run(run).model_id}


@pytest.mark.parametrize("objective", ["cosine", "pairs", "all-pairs"])
def test_a_resumed_run_ends_with_the_same_weights_and_history(tmp_path, objective, monkeypatch):
    settings = replace(SHORT, objective=objective)
    if objective == "all-pairs":  # as in the recipe koch2015
        settings = replace(settings, batch=32, precision="bfloat16", max_gradient_norm=1.0)
    train(settings, drawn_splits(), tmp_path / "whole")
    _interrupt_after(3, monkeypatch)
    with pytest.raises(Interrupted, match="stopped at step 3 of 6; the same command resumes from there"):
        train(settings, drawn_splits(), tmp_path / "resumed")
    monkeypatch.undo()
    torch.manual_seed(99)  # what happened in between does not matter
    train(settings, drawn_splits(), tmp_path / "resumed")

    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "resumed")
    assert whole.keys() == resumed.keys() and whole["best"] == resumed["best"]
    for name in whole.keys() - {"best"}:
        assert torch.equal(whole[name], resumed[name]), name
    assert _history(tmp_path / "whole", "validation_accuracy") == _history(
        tmp_path / "resumed", "validation_accuracy"
    )
    assert _history(tmp_path / "resumed", "step") == [2, 4, 6]


def test_a_resumed_run_repeats_its_dropout(tmp_path, monkeypatch):
    forward = GlyphNet.forward
    monkeypatch.setattr(
        GlyphNet, "forward", lambda self, pixels: F.dropout(forward(self, pixels), 0.5, self.training)
    )
    torch.manual_seed(7)
    train(SHORT, drawn_splits(), tmp_path / "whole")
    with monkeypatch.context() as context:
        _interrupt_after(3, context)
        with pytest.raises(Interrupted):
            train(SHORT, drawn_splits(), tmp_path / "resumed")
    torch.manual_seed(99)
    train(SHORT, drawn_splits(), tmp_path / "resumed")
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "resumed")
    assert whole["best"] == resumed["best"]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole.keys() - {"best"})


def composed_splits():
    """Color bars, and beside them turning objects (cut-outs) and pictures that are a class each."""
    own = drawn_splits()
    splits = replace(
        own,
        **{
            name: replace(getattr(own, name), images=np.repeat(getattr(own, name).images, 3, axis=3))
            for name in SPLITS
        },
    )
    rng = np.random.default_rng(1)
    cut_outs = rng.integers(0, 256, (20, 56, 56, 4)).astype(np.uint8)
    cut_outs[..., 3] = 0
    cut_outs[:, 10:46, 10:46, 3] = 255
    turning = image_set("turning", cut_outs, np.repeat(np.arange(5), 4))
    alone = image_set("alone", rng.integers(0, 256, (6, 56, 56, 3)).astype(np.uint8), np.arange(6))
    return replace(splits, training_pictures=together([splits.train, turning, alone]))


def image_set(name, images, labels):
    classes = int(labels.max()) + 1
    names, groups = tuple(f"{name}-{i}" for i in range(classes)), np.zeros(classes, np.int64)
    return ImageSet(name, images, labels, names, groups, (name,), np.full(len(images), -1))


@pytest.fixture
def color_glyphnet(monkeypatch):
    """GlyphNet for color pictures."""

    class ColorGlyphNet(GlyphNet):
        name = "color"

        def __init__(self):
            super().__init__()
            self.preprocessing = Preprocessing(56, 56, "rgb")
            self.training_size = (40, 40)
            self.stem[0] = torch.nn.Conv2d(3, 24, 3, 2, bias=False)
            self.pool = torch.nn.AdaptiveAvgPool2d(1)

    monkeypatch.setitem(ENCODERS, "color", ColorGlyphNet)


COMPOSED = replace(
    SHORT, encoder="color", data="folder:a,turntable:b,anything:c", data_shares="1,2,1", pictures_per_class=2,
    augmentation="photo",
)  # fmt: skip


def test_a_resumed_run_on_several_sources_ends_with_the_same_weights(tmp_path, monkeypatch, color_glyphnet):
    train(COMPOSED, composed_splits(), tmp_path / "whole")
    _interrupt_after(3, monkeypatch)
    with pytest.raises(Interrupted):
        train(COMPOSED, composed_splits(), tmp_path / "resumed")
    monkeypatch.setattr("export.training.train.learning_rate", learning_rate)
    train(COMPOSED, composed_splits(), tmp_path / "resumed")
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "resumed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole.keys() - {"best"})


def test_a_batch_of_several_sources(tmp_path, color_glyphnet):
    """Labels of the bars, the cut-outs and the pictures of anything, two pictures of each, at the training size."""
    run = training.TrainingRun(COMPOSED, composed_splits(), tmp_path, Workers(0, 1, torch.device("cpu")))
    images = torch.from_numpy(run.images.images)
    pixels, labels = run.draw_batch(images, 3)
    assert pixels.shape == (16, 3, 40, 40) and 0.0 <= float(pixels.min()) and float(pixels.max()) <= 255.0
    assert torch.equal(labels[0::2], labels[1::2])
    assert [int(((labels >= low) & (labels < high)).sum()) for low, high in ((0, 8), (8, 13), (13, 19))] == [
        4,
        8,
        4,
    ]
    assert len(run.objective.directions) == 19
    again = run.draw_batch(images, 3)
    assert torch.equal(again[0], pixels) and torch.equal(again[1], labels)
    assert not torch.equal(run.draw_batch(images, 4)[0], pixels)


def test_a_run_with_other_further_sources_is_not_resumed(tmp_path, color_glyphnet):
    splits = composed_splits()
    splits.provenance["further_sources"] = [{"data": "anything:c", "images": 6}]
    train(COMPOSED, splits, tmp_path)
    other = replace(
        splits, provenance=splits.provenance | {"further_sources": [{"data": "anything:c", "images": 7}]}
    )
    with pytest.raises(SettingsError, match="holds a run on other classes or pictures of"):
        train(COMPOSED, other, tmp_path)


def _interrupt_after(step, monkeypatch):
    """SIGTERM at that step, as systemd or a batch scheduler would send it."""
    calls = []

    def counted(settings, at, epoch_steps):
        calls.append(at)
        if at == step - 1:
            signal.raise_signal(signal.SIGTERM)
        return learning_rate(settings, at, epoch_steps)

    monkeypatch.setattr("export.training.train.learning_rate", counted)


def _history(run, key):
    return [json.loads(line)[key] for line in (run / HISTORY).read_text().splitlines()]


def test_training_learns_and_keeps_the_best_validation(tmp_path):
    settings = replace(SHORT, steps=60, validations=6, batch=32, learning_rate=3e-3)
    result = train(settings, drawn_splits(), tmp_path)
    assert result.validation_accuracy >= 0.9
    assert result.validation_accuracy == max(_history(tmp_path, "validation_accuracy"))
    network = load_run(tmp_path)
    assert network.provenance["step"] == result.step
    assert network.provenance["settings"]["seed"] == 0 and network.provenance["data"] == {"source": "bars"}


def test_a_finished_run_is_trained_again_only_with_fresh(tmp_path):
    first = train(SHORT, drawn_splits(), tmp_path)
    written = (tmp_path / CHECKPOINT).stat().st_mtime_ns
    assert train(SHORT, drawn_splits(), tmp_path) == first
    assert (tmp_path / CHECKPOINT).stat().st_mtime_ns == written
    train(SHORT, drawn_splits(), tmp_path, fresh=True)
    assert (tmp_path / CHECKPOINT).stat().st_mtime_ns != written


def test_other_settings_in_the_same_place_are_refused(tmp_path):
    train(SHORT, drawn_splits(), tmp_path)
    with pytest.raises(
        SettingsError,
        match=r"holds a run with other settings \(batch: 32, not 16\); choose another --out, or --fresh",
    ):
        train(replace(SHORT, batch=32), drawn_splits(), tmp_path)


def test_other_data_in_the_same_place_are_refused(tmp_path):
    train(SHORT, drawn_splits(), tmp_path)
    with pytest.raises(SettingsError, match=r"holds a run on other classes or pictures of omniglot; choose"):
        train(SHORT, drawn_splits(classes=7), tmp_path)
    assert train(SHORT, drawn_splits(seed=1), tmp_path).step in (2, 4, 6)  # the same classes, drawn again


def test_damaged_settings_are_one_line(tmp_path):
    train(SHORT, drawn_splits(), tmp_path)
    (tmp_path / "settings.json").write_text('{"data": "omni')
    with pytest.raises(SettingsError, match=r"settings.json is damaged \(Unterminated string.*--fresh"):
        train(SHORT, drawn_splits(), tmp_path)


def test_a_line_of_the_history_that_a_power_cut_left_half_written_is_written_again(tmp_path, monkeypatch):
    _interrupt_after(3, monkeypatch)
    with pytest.raises(Interrupted):
        train(SHORT, drawn_splits(), tmp_path)
    monkeypatch.undo()
    with (tmp_path / HISTORY).open("a") as file:
        file.write('{"step": 4, "loss": 2.')
    train(SHORT, drawn_splits(), tmp_path)
    assert _history(tmp_path, "step") == [2, 4, 6]


def test_a_damaged_checkpoint_is_one_line(tmp_path):
    train(SHORT, drawn_splits(), tmp_path)
    (tmp_path / CHECKPOINT).write_bytes(b"half a file")
    with pytest.raises(
        SettingsError, match=r"checkpoint.pt is not a readable checkpoint .* train again with --fresh"
    ):
        train(SHORT, drawn_splits(), tmp_path)


def test_a_diverging_run_stops_and_says_what_to_change(tmp_path):
    with pytest.raises(SettingsError, match="lower --learning-rate"):
        train(
            replace(SHORT, optimizer="sgd", learning_rate=1e30, warmup=0.0, steps=40),
            drawn_splits(),
            tmp_path,
        )


def test_the_seed_decides_the_weights(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(replace(SHORT, steps=2, seed=seed), drawn_splits(), tmp_path / name)
    ids = [load_run(tmp_path / name).model_id for name in "abc"]
    assert ids[0] == ids[1] != ids[2]


def trained_parameters(out, name):
    """Train a few steps of SGD with frozen batch norms; the parameters go to a file of that name and are returned."""
    from export.training import train as module

    steps, original = [], module.TrainingStep

    class Frozen(original):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            steps.append(self)
            self.start = self.flat()

        def flat(self):
            return torch.cat([p.detach().flatten() for p in self.parameters()])

        def train(self, mode=True):
            super().train(mode)
            for layer in self.modules():
                if isinstance(layer, torch.nn.BatchNorm2d):
                    layer.eval()
            return self

    module.TrainingStep = Frozen
    try:
        train(replace(SHORT, optimizer="sgd", learning_rate=1e-3), drawn_splits(), out)
    finally:
        module.TrainingStep = original
    torch.save(steps[0].flat(), out / name)
    torch.save(steps[0].start, out / "start.pt")
    return steps[0].flat()


def test_two_processes_train_as_one(tmp_path):
    """Through torchrun and Gloo: equal weights in both workers, which are those of a single process but for rounding.

    Batch norms are in evaluation mode, for in training each worker normalizes by its own half of the batch.
    """
    script = tmp_path / "worker.py"
    script.write_text(
        "import sys, torch, os\n"
        f"sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]\n"
        "from pathlib import Path\n"
        "import test_train as t\n"
        "torch.set_num_threads(1)\n"
        "t.trained_parameters(Path(sys.argv[1]), f'worker-{os.environ[\"RANK\"]}.pt')\n"
    )
    out = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0",
               "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", str(script), str(out)]  # fmt: skip
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(out / f"worker-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert torch.equal(first, second)
    alone = trained_parameters(tmp_path / "alone", "alone.pt")
    moved = float((alone - torch.load(tmp_path / "alone" / "start.pt", weights_only=True)).abs().max())
    assert float((alone - first).abs().max()) < 1e-3 * moved
    assert load_run(out).provenance["step"] in (2, 4, 6)
    assert len(_history(out, "step")) == 3


def test_a_share_of_a_batch_is_its_part():
    objective = CosineMarginSoftmax(8, 128, symmetries=True)
    batch = objective.batch(drawn_splits().train, 16, seed=0, step=4)
    halves = [batch.share(rank, 2) for rank in (0, 1)]
    assert np.array_equal(np.concatenate([h.images for h in halves]), batch.images)
    assert np.array_equal(np.concatenate([h.labels for h in halves]), batch.labels)
    assert np.array_equal(batch.labels // 8, drawn_splits().train.labels[batch.images])
    assert np.array_equal(batch.labels % 8, batch.symmetry)


def test_each_image_is_seen_once_an_epoch():
    objective, images = CosineMarginSoftmax(8, 128, symmetries=False), drawn_splits().train
    seen = np.concatenate([objective.batch(images, 16, seed=5, step=s).images for s in range(3)])
    assert sorted(seen.tolist()) == list(range(48))
    again = np.concatenate([objective.batch(images, 16, seed=5, step=s).images for s in range(3, 6)])
    assert sorted(again.tolist()) == list(range(48)) and not np.array_equal(seen, again)


def test_small_classes_are_seen_as_often_as_large_ones():
    images = drawn_splits().train
    images = replace(
        images, labels=np.array([0] * 41 + [1] * 7), class_names=("a", "b"), class_groups=np.array([0, 0])
    )
    objective = CosineMarginSoftmax(2, 128, symmetries=False)
    seen = np.concatenate([objective.batch(images, 41, seed=0, step=s).labels for s in range(2)])
    assert np.bincount(seen).tolist() == [41, 41]


def test_the_cosine_margin_loss_is_the_papers_formula():
    objective = CosineMarginSoftmax(2, 2, symmetries=False, scale=10.0, margin=0.3)
    objective.directions.data = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    loss = objective(torch.tensor([[3.0, 4.0]]), torch.tensor([1]))
    own, other = 10.0 * (0.8 - 0.3), 10.0 * 0.6
    assert float(loss.detach()) == pytest.approx(-(own - np.log(np.exp(own) + np.exp(other))), rel=1e-5)


def test_pairs_are_neighbors_half_same_and_trained_on_the_encoders_own_head():
    encoder = Koch2015()
    objective = build_objective("pairs", encoder, classes=8, symmetries=False)
    assert isinstance(objective, SiamesePairs) and objective.head is encoder.head
    images = drawn_splits().train
    batch = objective.batch(images, 32, seed=0, step=0)
    same = images.labels[batch.images[0::2]] == images.labels[batch.images[1::2]]
    assert batch.labels.tolist() == same.astype(int).tolist() and int(same.sum()) == 8
    a, b = torch.rand(4, 4096), torch.rand(4, 4096)
    both = torch.stack([a, b], dim=1).reshape(8, 4096)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        encoder.head(a, b), torch.tensor([1.0, 0, 1, 0])
    )
    assert float(objective(both, torch.tensor([1, 0, 1, 0])).detach()) == pytest.approx(
        float(expected.detach()), rel=1e-5
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "resnet"}, "there is no encoder 'resnet'"),
        ({"objective": "triplet"}, "objective 'triplet' is not one of cosine, pairs, all-pairs"),
        ({"steps": 0}, "steps must be at least 1 with random initial weights, not 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number of at least 0, not nan"),
        ({"objective": "pairs", "batch": 30}, "batch must be a multiple of 4 .*, not 30"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(SettingsError, match=message):
        settings_for(changes.pop("encoder", "glyphnet"), **changes)


def test_koch_cannot_be_trained_with_unit_vectors():
    with pytest.raises(SettingsError, match="train koch2015 with --objective all-pairs"):
        build_objective("cosine", build_encoder("koch2015"), 10, False)


def test_learning_rates_of_both_schedules():
    cosine = TrainingSettings(steps=100, learning_rate=1.0, warmup=0.1)
    assert learning_rate(cosine, 0, 10) == pytest.approx(0.1)
    assert learning_rate(cosine, 50, 10) == pytest.approx(0.5)
    assert learning_rate(cosine, 99, 10) < 1e-3
    paper = replace(cosine, schedule="exponential", warmup=0.0)
    assert [round(learning_rate(paper, s, 10), 6) for s in (0, 9, 10, 25)] == [1.0, 1.0, 0.99, 0.9801]


def test_validations_are_even_and_end_with_the_run():
    assert sorted(replace(SHORT, steps=10, validations=4).validation_steps()) == [2, 5, 8, 10]
    assert sorted(replace(SHORT, steps=2, validations=20).validation_steps()) == [1, 2]


def test_an_epoch_of_pairs_is_the_papers_and_of_classes_the_images():
    images = drawn_splits().train
    assert build_objective("pairs", build_encoder("glyphnet"), 8, False).images_per_epoch(images) == 300_000
    assert CosineMarginSoftmax(8, 128, symmetries=False).images_per_epoch(images) == 48


def test_only_training_takes_several_workers(monkeypatch):
    require_single_process("pipeline")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        SettingsError, match="pipeline runs in one process; start `-m export train` with torchrun"
    ):
        require_single_process("pipeline")


def test_shared_statistics_change_no_name_of_a_weight():
    encoder = build_encoder("glyphnet")
    names = list(encoder.state_dict())
    shared = Workers(0, 2, torch.device("cuda")).synchronize_batch_norm(encoder)
    assert list(shared.state_dict()) == names
    assert any(isinstance(layer, torch.nn.SyncBatchNorm) for layer in shared.modules())
    alone = Workers(0, 2, torch.device("cpu")).synchronize_batch_norm(build_encoder("glyphnet"))
    assert not any(isinstance(layer, torch.nn.SyncBatchNorm) for layer in alone.modules())


class Published(EncoderNetwork):
    """A small encoder that somebody trained already: its published weights are those of another seed."""

    name = "glyphnet"
    normalization = "l2"

    def __init__(self):
        super().__init__()
        self.preprocessing = Preprocessing(56, 56, "rgb")
        self.dimensions = 16
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 8, 8),
            torch.nn.BatchNorm2d(16),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(4),
        )
        self.out = torch.nn.Linear(256, 16)

    def forward(self, pixels):
        return self.out(self.layers(pixels / 255.0).flatten(1))

    def load_published_weights(self):
        generator = torch.Generator().manual_seed(11)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


@pytest.fixture
def published(monkeypatch):
    from export import encoders

    monkeypatch.setitem(encoders.ENCODERS, "glyphnet", Published)
    splits = drawn_splits()
    colored = {
        name: replace(getattr(splits, name), images=np.repeat(getattr(splits, name).images, 3, axis=3))
        for name in ("train", "validation", "evaluation")
    }
    start = Published()
    start.load_published_weights()
    return replace(splits, **colored), start


FINE_TUNING = replace(
    SHORT, start="published", freeze_batch_statistics=True, augmentation="photo", data="folder:x"
)


def test_a_run_starts_from_what_an_earlier_one_kept(tmp_path):
    train(SHORT, drawn_splits(), tmp_path / "former")
    start = f"run:{tmp_path / 'former'}"
    train(replace(SHORT, start=start, steps=0), drawn_splits(), tmp_path / "same")
    former = load_run(tmp_path / "former")
    assert load_run(tmp_path / "same").model_id == former.model_id
    result = train(replace(SHORT, start=start), drawn_splits(), tmp_path / "further")
    assert result.validation_accuracy >= former.provenance["validation_accuracy"]


def test_the_origin_of_the_weights_is_kept_through_further_runs(tmp_path):
    train(SHORT, drawn_splits(), tmp_path / "former")
    train(replace(SHORT, start=f"run:{tmp_path / 'former'}", steps=0), drawn_splits(), tmp_path / "further")
    assert load_run(tmp_path / "further").provenance["origin"] == "random"


def test_weights_of_unknown_data_are_no_start_for_the_same_data(tmp_path):
    former = tmp_path / "former"
    train(SHORT, drawn_splits(), former)
    saved = checkpoint.load(former / "best.pt")
    del saved["provenance"]["data_fingerprint"]
    checkpoint.save(former / "best.pt", saved)
    with pytest.raises(SettingsError, match="was trained on other classes"):
        train(replace(SHORT, start=f"run:{former}", steps=0), drawn_splits(), tmp_path / "unknown")


def test_a_start_that_does_not_fit_is_refused(tmp_path):
    train(SHORT, drawn_splits(), tmp_path / "former")
    settings = replace(SHORT, start=f"run:{tmp_path / 'former'}")
    with pytest.raises(
        SettingsError,
        match="was trained on other classes of omniglot, perhaps on those that are held out now",
    ):
        train(settings, drawn_splits(each=5), tmp_path / "other")
    with pytest.raises(SettingsError, match="was trained on other classes of omniglot:characters"):
        train(replace(settings, data="omniglot:characters"), drawn_splits(each=5), tmp_path / "other")
    with pytest.raises(SettingsError, match="is a run of glyphnet, not of koch2015"):
        train(replace(settings, encoder="koch2015", objective="pairs"), drawn_splits(), tmp_path / "another")
    with pytest.raises(
        SettingsError, match=r"nowhere is not a training run: it contains neither best\.pt nor"
    ):
        train(replace(SHORT, start="run:nowhere"), drawn_splits(), tmp_path / "none")


def test_a_run_starts_from_a_bundle(tmp_path):
    settings = replace(SHORT, data="folder:x", start="bundle:glyphs", freeze_batch_statistics=True, steps=0)
    splits = drawn_splits()
    random = train(replace(SHORT, steps=1), splits, tmp_path / "random")
    result = train(settings, splits, tmp_path / "further")
    assert result.starting_accuracy > random.validation_accuracy
    assert load_run(tmp_path / "further").provenance["origin"] == "unknown"  # the shipped bundle is older
    with pytest.raises(SettingsError, match="requires --freeze-batch-statistics"):
        replace(settings, freeze_batch_statistics=False)


def test_the_classes_of_the_softmax_start_where_the_weights_put_them(tmp_path):
    settings = replace(
        SHORT,
        data="folder:x",
        start="bundle:glyphs",
        freeze_batch_statistics=True,
        steps=1,
        learning_rate=0.0,
    )
    train(settings, drawn_splits(), tmp_path / "imprinted")
    loss = json.loads((tmp_path / "imprinted" / "history.jsonl").read_text().splitlines()[-1])["loss"]
    train(replace(settings, start="random"), drawn_splits(), tmp_path / "random")
    from_random = json.loads((tmp_path / "random" / "history.jsonl").read_text().splitlines()[-1])["loss"]
    assert loss < 0.7 * from_random


def test_no_steps_keep_the_published_weights(tmp_path, published):
    splits, start = published
    result = train(replace(FINE_TUNING, steps=0), splits, tmp_path)
    assert (result.step, result.seconds) == (0, 0.0) and result.validation_accuracy > 0.0
    kept = load_run(tmp_path).module.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in start.state_dict().items())
    further = replace(FINE_TUNING, steps=0, start=f"run:{tmp_path}")
    train(further, splits, tmp_path / "further")
    assert load_run(tmp_path / "further").provenance["origin"] == "published"


def test_training_that_did_not_help_keeps_the_starting_weights_and_says_so(tmp_path, published, monkeypatch):
    splits, start = published
    accuracies = iter([0.9, 0.5, 0.25])
    monkeypatch.setattr(training, "validation_accuracy", lambda *_: next(accuracies))
    result = train(replace(FINE_TUNING, steps=2, validations=2), splits, tmp_path)
    assert (result.step, result.steps, result.validation_accuracy, result.starting_accuracy) == (
        0,
        2,
        0.9,
        0.9,
    )
    assert result.describe().startswith(
        f"training did not help; the starting weights were kept: one-shot 90.00% on {splits.validation.classes} "
        f"validation classes (chance {1 / result.ways:.1%}), "
    )
    kept = load_run(tmp_path)
    assert all(
        torch.equal(kept.module.state_dict()[name], value) for name, value in start.state_dict().items()
    )
    assert outcome_of(kept.provenance) == "training did not help; the starting weights were kept"
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"] is None, line["validation_accuracy"]) for line in history] == [
        (0, True, 0.9), (1, False, 0.5), (2, False, 0.25),
    ]  # fmt: skip


def test_weights_that_are_only_as_good_as_the_starting_ones_are_not_kept(tmp_path, published, monkeypatch):
    splits, _ = published
    accuracies = iter([1.0, 1.0, 1.0])
    monkeypatch.setattr(training, "validation_accuracy", lambda *_: next(accuracies))
    result = train(replace(FINE_TUNING, steps=2, validations=2), splits, tmp_path)
    assert result.step == 0 and result.describe().startswith(
        "training did not help; the starting weights were"
    )


def test_training_that_helped_names_the_accuracy_before(tmp_path, published, monkeypatch):
    splits, _ = published
    accuracies = iter([0.5, 0.5, 0.75])
    monkeypatch.setattr(training, "validation_accuracy", lambda *_: next(accuracies))
    result = train(replace(FINE_TUNING, steps=2, validations=2), splits, tmp_path)
    assert (
        f"the weights of step 2 of 2 were kept: one-shot 75.00% on {splits.validation.classes} validation"
        in (result.describe())
    )
    assert "(starting weights 50.00%, chance" in result.describe()


def test_a_run_that_was_killed_before_its_first_checkpoint_knows_its_start(tmp_path, published, monkeypatch):
    splits, _ = published
    accuracies = iter([0.9, 0.9, 0.5])
    monkeypatch.setattr(training, "validation_accuracy", lambda *_: next(accuracies))
    with monkeypatch.context() as killed:
        killed.setattr(training, "_train_steps", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(replace(FINE_TUNING, steps=1, validations=1), splits, tmp_path)
    assert (tmp_path / "best.pt").exists() and not (tmp_path / CHECKPOINT).exists()
    result = train(replace(FINE_TUNING, steps=1, validations=1), splits, tmp_path)
    assert (result.step, result.validation_accuracy) == (0, 0.9)


def test_frozen_statistics_stay_and_what_scales_by_them_learns(tmp_path, published):
    splits, start = published
    train(FINE_TUNING, splits, tmp_path)
    trained = checkpoint.load(tmp_path / CHECKPOINT)["encoder"]
    assert torch.equal(trained["layers.1.running_mean"], start.state_dict()["layers.1.running_mean"])
    assert not torch.equal(trained["layers.1.weight"], start.state_dict()["layers.1.weight"])


def test_kept_weights_are_an_average_of_initial_and_finetuned_ones(tmp_path, published):
    splits, start = published
    settings = replace(FINE_TUNING, ema_fraction=0.0, validations=1)
    train(replace(settings, finetuned_weight=1.0), splits, tmp_path / "whole")
    train(replace(settings, finetuned_weight=0.25), splits, tmp_path / "part")
    trained = checkpoint.load(tmp_path / "whole" / CHECKPOINT)["ema"]["out.weight"]
    known = start.state_dict()["out.weight"]
    mean = interpolate_weights(start, _with(trained, start), 0.25).state_dict()["out.weight"]
    assert torch.allclose(mean, known + 0.25 * (trained - known)) and not torch.equal(mean, known)
    kept = load_run(tmp_path / "part")
    if kept.provenance["step"]:  # otherwise the initial weights were the best
        assert torch.allclose(kept.module.state_dict()["out.weight"], mean)


def _with(weight, like):
    changed = Published()
    changed.load_state_dict({**like.state_dict(), "out.weight": weight})
    return changed


def test_the_directions_of_classes_learn_at_their_own_rate():
    encoder = build_encoder("glyphnet")
    objective = CosineMarginSoftmax(4, 128, symmetries=False)
    optimizer = build_optimizer(replace(SHORT, classifier_lr_multiplier=10.0), encoder, objective)
    rates = {id(p): group["lr_multiplier"] for group in optimizer.param_groups for p in group["params"]}
    assert rates.pop(id(objective.directions)) == 10.0 and set(rates.values()) == {1.0}
    assert len(rates) == len(list(encoder.parameters()))
