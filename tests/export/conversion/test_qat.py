"""Quantization-aware training: where it rounds, how the gradient passes, and that it helps where rounding hurts."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from edge_siamese.errors import ExportError
from edge_siamese.recognition.imaging import Preprocessing
from edge_siamese.runtimes.onnx import OnnxGraph as DeviceGraph
from export.conversion import qat
from export.conversion.graph import ExportedEncoder, exported_encoder, fold_batch_norm
from export.conversion.onnx import OnnxGraph
from export.conversion.qat import (
    FakeQuantizedActivation,
    FakeQuantizedWeight,
    QatSettings,
    add_fake_quantization,
    train_for_int8,
)
from export.conversion.quantize import SIGMOID_SATURATION, choose_ranges, collect_statistics
from export.encoders import EncoderNetwork
from export.training.network import model_id
from tests.export.conversion.test_graph import Tiny
from tests.tiny_network import pictures

TRAINED, UNSEEN = pictures(256, seed=1), pictures(64, seed=2)
SHORT = QatSettings(steps=3, batch=8)
Floats = npt.NDArray[np.float32]


class Hard(EncoderNetwork):
    """Channel 0 is a hundred times larger than the others, which have to share what is left of its 256 levels."""

    name = "hard"
    citation = "none"
    normalization = "l2"

    def __init__(self) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(12, 12)
        self.dimensions = 8
        self.first, self.relu, self.second = nn.Conv2d(1, 6, 3, 2), nn.ReLU(), nn.Conv2d(6, 8, 5)
        with torch.no_grad():
            self.first.weight[0] *= 100
            self.first.bias[0] *= 100
            self.second.weight[:, 0] /= 100

    def forward(self, pixels: Tensor) -> Tensor:
        return self.second(self.relu(self.first(pixels * (1.0 / 255.0)))).flatten(1)


def hard(seed: int = 5) -> Hard:
    torch.manual_seed(seed)
    return Hard().eval()


def pixels(images: npt.NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float()


def unit(embeddings: Floats) -> Floats:
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def int8_embeddings(network: ExportedEncoder, place: Path) -> Floats:
    """Unit embeddings (N, D) of `UNSEEN` from the ONNX int8 file of a quantizable network."""
    place.mkdir()
    graph = OnnxGraph(network, place)
    graph.quantize(place / "int8.onnx", choose_ranges(graph, collect_statistics(graph, TRAINED), "min-max"))
    return unit(DeviceGraph(onnxruntime, place / "int8.onnx", threads=1).run(UNSEEN))


def simulated(network: fx.GraphModule, images: Tensor) -> Tensor:
    """What the fake-quantized copy of a network returns, with ranges from `TRAINED`."""
    rounded = add_fake_quantization(network)
    with torch.no_grad():
        rounded(pixels(TRAINED))
        for module in rounded.modules():
            if isinstance(module, FakeQuantizedActivation):
                module.observing = False
        result: Tensor = rounded(images)
    return result


@torch.no_grad()
def test_training_lowers_the_error_of_the_int8_file_where_rounding_hurts(tmp_path: Path) -> None:
    encoder = hard()
    wanted = unit(encoder(pixels(UNSEEN)).numpy())
    plain = exported_encoder(encoder, quantizable=True)
    before = int8_embeddings(plain, tmp_path / "before")
    with torch.enable_grad():
        trained = train_for_int8(encoder, TRAINED, QatSettings(steps=100))
    after = int8_embeddings(trained, tmp_path / "after")
    errors = [float(np.square(found - wanted).sum(1).mean()) for found in (before, after)]
    assert errors[0] > 5e-3
    assert errors[1] < 0.75 * errors[0]
    # What it trained against is what the file computes.
    expected = unit(simulated(plain.encoder, pixels(UNSEEN)).numpy())
    assert float(np.square(before - expected).sum(1).mean()) < 0.05 * errors[0]


def test_the_teacher_is_left_as_it_is() -> None:
    encoder = Tiny().train()
    before = model_id(encoder)
    trained = train_for_int8(encoder, TRAINED[:16], SHORT)
    assert encoder.training and model_id(encoder) == before
    assert not any(parametrize.is_parametrized(module) for module in encoder.modules())
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert (trained.preprocessing, trained.dimensions) == (encoder.preprocessing, 8)


def test_the_result_is_a_plain_folded_network_whose_weights_have_moved() -> None:
    torch.manual_seed(0)
    encoder = Tiny()
    trained = train_for_int8(encoder, TRAINED[:32], SHORT)
    assert not trained.training
    assert not any(parametrize.is_parametrized(module) for module in trained.modules())
    kinds = {type(module) for module in trained.encoder.modules() if not list(module.children())}
    assert kinds == {nn.Conv2d, nn.ReLU6, nn.Linear}
    untrained = exported_encoder(encoder, quantizable=True)
    now, before = (dict(network.named_parameters()) for network in (trained, untrained))
    assert now.keys() == before.keys()
    # Weights and biases of all four layers: most of the biases come from normalizations that were folded.
    assert len(now) == 8 and not [name for name in now if torch.equal(now[name], before[name])]
    # Float weights, not their int8 levels: only the first convolution is put on its grid.
    weight = trained.encoder.get_submodule("embedding").weight.detach()
    levels = weight / weight.abs().amax(1, keepdim=True) * 127
    assert float((levels - levels.round()).abs().max()) > 0.3
    first = trained.encoder.get_submodule("stem.0").weight.detach().flatten(1)
    levels = first / first.abs().amax(1, keepdim=True) * 127
    assert float((levels - levels.round()).abs().max()) < 1e-3


def test_a_frozen_encoder_is_trained_as_any_other_and_stays_frozen() -> None:
    torch.manual_seed(0)
    encoder = Tiny()
    free = train_for_int8(encoder, TRAINED[:32], SHORT).state_dict()
    encoder.requires_grad_(False)
    frozen = train_for_int8(encoder, TRAINED[:32], SHORT).state_dict()
    assert all(torch.equal(free[name], frozen[name]) for name in free)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_a_step_is_relative_to_the_size_of_the_weights() -> None:
    # The first step of Adam is the learning rate itself, whatever the gradient.
    encoder = hard()
    trained = train_for_int8(encoder, TRAINED[:32], QatSettings(steps=1, batch=32, learning_rate=1e-4))
    moved = (trained.encoder.get_submodule("second").weight - encoder.second.weight).detach().abs()
    size = float(encoder.second.weight.detach().square().mean().sqrt())
    assert float(moved.max()) == pytest.approx(1e-4 * size, rel=0.01)


@pytest.mark.parametrize("normalization", ["l2", "none"])
def test_the_rounded_student_is_taught_the_float_embeddings_as_the_device_finishes_them(
    normalization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, compared = hard(), []
    encoder.normalization = normalization
    embedding = qat._embedding

    def seen(network: nn.Module, images: Tensor, unit: bool) -> Tensor:
        found = embedding(network, images, unit)
        compared.append((images, found.detach()))
        return found

    monkeypatch.setattr(qat, "_embedding", seen)
    train_for_int8(encoder, TRAINED[:64], QatSettings(steps=2, batch=64, learning_rate=1e-4))
    # The teacher's own spread, and before the first step, in each and after the last: a batch by the teacher, then by the
    # student.
    assert len(compared) == 1 + 2 * 4
    pairs = list(zip(compared[1::2], compared[2::2], strict=True))
    for (images, wanted), (same_images, found) in pairs:
        assert torch.equal(images, same_images) and len(images) == 64
        with torch.no_grad():
            expected = encoder(images)
        expected = nn.functional.normalize(expected) if normalization == "l2" else expected
        assert wanted.numpy() == pytest.approx(expected.numpy(), abs=1e-6)
        # Five of the six channels have few levels: rounding is not to be overlooked.
        difference = found - wanted
        assert float(difference.square().sum(1).mean()) > 1e-3 * float(wanted.var(0).sum())
        if normalization == "none":  # 512 numbers on the 256 levels of the last activation
            assert len(found.unique()) <= 256 < len(wanted.unique())
    (first, _), (batch, _), (other, _), (last, _) = (teacher for teacher, _ in pairs)
    assert torch.equal(first, last) and not torch.equal(batch, other)


def test_equal_seeds_give_equal_networks_whatever_the_global_generator() -> None:
    def trained(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(torch.seed())
        return train_for_int8(encoder, TRAINED[:64], QatSettings(steps=3, batch=8, seed=seed)).state_dict()

    encoder = hard()
    first, second, other = trained(0), trained(0), trained(1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["encoder.second.weight"], other["encoder.second.weight"])


def test_a_network_whose_embeddings_are_not_finite_is_refused() -> None:
    encoder = hard()
    with torch.no_grad():
        encoder.second.weight[3, 0, 0, 0] = torch.nan
    with pytest.raises(ExportError, match=r"^quantization-aware training diverged: the loss is not finite$"):
        train_for_int8(encoder, TRAINED[:32], SHORT)


# Rounding turns what is not finite into numbers, so no embedding shows that the weights are lost.
@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("learning_rate", [30.0, 1e30, math.inf])
@pytest.mark.parametrize("network", [hard, Tiny])
def test_training_that_destroys_the_weights_has_diverged(
    network: Callable[[], EncoderNetwork], learning_rate: float, steps: int
) -> None:
    torch.manual_seed(0)
    settings = QatSettings(steps=steps, batch=8, learning_rate=learning_rate)
    with pytest.raises(ExportError, match=r"^quantization-aware training diverged: ") as raised:
        train_for_int8(network(), TRAINED[:64], settings)
    said = "a weight is not finite" if learning_rate == math.inf else "the loss went from 0."
    assert said in str(raised.value)


def test_training_that_changes_next_to_nothing_has_not_diverged() -> None:
    train_for_int8(hard(), TRAINED[:32], QatSettings(steps=2, batch=8, learning_rate=1e-9))


@pytest.mark.parametrize(("images", "batch"), [(32, 1), (1, 1), (1, 8)])
def test_a_batch_may_be_a_single_image(images: int, batch: int) -> None:
    trained = train_for_int8(hard(), TRAINED[:images], QatSettings(steps=3, batch=batch, learning_rate=1e-4))
    assert all(bool(torch.isfinite(parameter).all()) for parameter in trained.parameters())


def test_weights_are_rounded_to_255_levels_for_each_output_channel() -> None:
    weight = torch.tensor([[1.0, 0.501, -0.003, -1.0], [0.02, -0.004, 0.01, 0.0]])
    found = FakeQuantizedWeight()(weight) * torch.tensor([[127.0], [127.0 / 0.02]])
    # 0.501 * 127 = 63.6 and 0.003 * 127 = 0.4; -0.004 * 127 / 0.02 = -25.4 and 63.5 is at a border.
    assert found[0].tolist() == pytest.approx([127.0, 64.0, 0.0, -127.0], abs=1e-4)
    assert found[1, :2].tolist() == pytest.approx([127.0, -25.0], abs=1e-4)
    assert found[1, 3] == 0.0
    assert torch.equal(FakeQuantizedWeight()(torch.zeros(2, 3, 3, 3)), torch.zeros(2, 3, 3, 3))


def test_the_gradient_passes_the_rounding_of_weights_unchanged() -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 2, 3, 3, requires_grad=True)
    wanted = torch.randn(3, 2, 3, 3)
    (FakeQuantizedWeight()(weight) * wanted).sum().backward()
    assert torch.equal(weight.grad, wanted)


def activation(limit: float, *seen: list[float]) -> FakeQuantizedActivation:
    """One that has seen batches, passing each on as it is, and now rounds."""
    module = FakeQuantizedActivation(limit)
    for values in seen:
        assert module(torch.tensor(values)).tolist() == torch.tensor(values).tolist()
    module.observing = False
    return module


def test_activations_are_rounded_to_256_levels_over_all_that_was_seen() -> None:
    rounded = activation(float("inf"), [0.3, 1.55], [-1.0, 0.1], [0.5])
    found = rounded(torch.tensor([0.004, 0.006, -0.254, 1.55, 2.0, -3.0]))
    assert found.tolist() == pytest.approx([0.0, 0.01, -0.25, 1.55, 1.55, -1.0], abs=1e-6)


def test_the_range_of_an_activation_has_zero_in_it() -> None:
    rounded = activation(float("inf"), [5.1, 2.0])
    assert (float(rounded.low), float(rounded.high)) == (0.0, pytest.approx(5.1))
    assert rounded(torch.tensor([0.011, -1.0])).tolist() == pytest.approx([0.02, 0.0], abs=1e-6)
    assert activation(float("inf"), [0.0])(torch.zeros(3)).tolist() == [0.0] * 3


def test_the_gradient_passes_the_rounding_of_activations_and_stops_outside_of_the_range() -> None:
    x = torch.tensor([0.004, 1.0, -0.5, 2.0, -3.0], requires_grad=True)
    (activation(float("inf"), [-1.0, 1.55])(x) * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])).sum().backward()
    assert x.grad.tolist() == [1.0, 2.0, 3.0, 0.0, 0.0]


def test_a_limit_cuts_the_range() -> None:
    rounded = activation(2.0, [-30.0, 1.0], [0.0, 1.5])
    assert (float(rounded.low), float(rounded.high)) == (-2.0, 1.5)


def rounded_places(rounded: fx.GraphModule) -> list[tuple[str, float]]:
    """What each rounded activation comes from, and its limit."""
    found = []
    for node in rounded.graph.nodes:
        if node.op == "call_module" and str(node.target).startswith("rounded_"):
            source = node.args[0].target
            limit = rounded.get_submodule(node.target).limit
            found.append((str(getattr(source, "__name__", source)), limit))
    return found


def test_it_rounds_after_rectifiers_sums_and_products_and_never_the_scaling_of_pixels() -> None:
    student = fold_batch_norm(Tiny())
    rounded = add_fake_quantization(student)
    assert rounded_places(rounded) == [
        (name, float("inf")) for name in ("stem.2", "expand.2", "project.0", "add", "embedding")
    ]
    # Every reader of an activation reads the rounded one.
    for node in rounded.graph.nodes:
        if node.op == "call_module" and str(node.target).startswith("rounded_"):
            assert list(node.args[0].users) == [node]
    for name in ("stem.0", "expand.0", "project.0", "embedding"):
        assert parametrize.is_parametrized(student.get_submodule(name), "weight")
    # The student shares the weights, and rounds no activation itself.
    assert rounded.get_submodule("embedding") is student.get_submodule("embedding")
    assert not any(isinstance(module, FakeQuantizedActivation) for module in student.modules())


def test_a_sum_with_a_number_is_not_rounded_but_what_goes_into_a_sigmoid_is_within_its_limit() -> None:
    class Units(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x + 1.0
            return torch.sigmoid(self.a(x)) + self.b(x).sigmoid()

    rounded = add_fake_quantization(fx.symbolic_trace(Units().eval()))
    assert rounded_places(rounded) == [
        ("a", SIGMOID_SATURATION),
        ("sigmoid", float("inf")),
        ("b", SIGMOID_SATURATION),
        ("sigmoid", float("inf")),
        ("add", float("inf")),
    ]


SIGMOIDS: dict[str, Callable[[Tensor], Tensor]] = {
    "module": nn.Sigmoid(),
    "torch": torch.sigmoid,
    "functional": nn.functional.sigmoid,
    "method": lambda x: x.sigmoid(),
}
RECTIFIERS: dict[str, Callable[[Tensor], Tensor]] = {
    "module": nn.ReLU(),
    "module of six": nn.ReLU6(),
    "torch": torch.relu,
    "functional": nn.functional.relu,
    "functional of six": nn.functional.relu6,
    "method": lambda x: x.relu(),
    "in place": lambda x: x.relu_(),
}


class Following(nn.Module):
    """A matrix product and what follows it."""

    def __init__(self, following: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.product, self.following = nn.Linear(4, 3), following

    def forward(self, x: Tensor) -> Tensor:
        return self.following(self.product(x))


@pytest.mark.parametrize("kind", SIGMOIDS)
def test_every_way_to_write_a_sigmoid_is_seen(kind: str) -> None:
    rounded = add_fake_quantization(fx.symbolic_trace(Following(SIGMOIDS[kind]).eval()))
    (product, limit), (_, none) = rounded_places(rounded)
    assert (product, limit, none) == ("product", SIGMOID_SATURATION, math.inf)


@pytest.mark.parametrize("kind", RECTIFIERS)
def test_whichever_way_a_rectifier_is_written_it_is_rounded_after_it_and_not_before(kind: str) -> None:
    rounded = add_fake_quantization(fx.symbolic_trace(Following(RECTIFIERS[kind]).eval()))
    ((source, limit),) = rounded_places(rounded)
    assert source != "product" and limit == math.inf


def test_before_it_rounds_it_computes_what_the_network_computes() -> None:
    torch.manual_seed(0)
    encoder = Tiny().eval()
    rounded = add_fake_quantization(fold_batch_norm(encoder))
    for module in rounded.modules():
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
    with torch.no_grad():
        assert rounded(pixels(UNSEEN)).numpy() == pytest.approx(encoder(pixels(UNSEEN)).numpy(), abs=1e-5)
