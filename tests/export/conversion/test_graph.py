"""Folding: what is folded computes the same, what cannot be folded exactly is left alone."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge_siamese.errors import ExportError
from edge_siamese.recognition.imaging import Preprocessing
from export.conversion.graph import (
    exported_encoder,
    fold_batch_norm,
    fold_pixel_scaling,
    layers,
    module_of,
)
from export.encoders import EncoderNetwork
from export.training.network import model_id
from tests.tiny_network import pictures


class Tiny(EncoderNetwork):
    """Bytes (N, 1, 12, 12) to embeddings (N, 8), with every kind of layer that a bigger encoder has."""

    name = "tiny"
    citation = "none"
    normalization = "l2"

    def __init__(self) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(12, 12)
        self.dimensions = 8
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, 2, bias=False), nn.BatchNorm2d(4), nn.ReLU6())
        self.expand = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6())
        self.project = nn.Sequential(nn.Conv2d(8, 4, 1, bias=False), nn.BatchNorm2d(4))
        self.embedding = nn.Linear(4 * 25, self.dimensions)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                _lived(module)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.stem((255.0 - pixels) * (1.0 / 255.0))
        x = x + self.project(self.expand(x))
        embedding: Tensor = self.embedding(x.flatten(1))
        return embedding


def _lived(normalization: nn.BatchNorm2d) -> None:
    """Statistics and weights as training leaves them: none is 0 or 1."""
    with torch.no_grad():
        normalization.running_mean.uniform_(-0.3, 0.3)
        normalization.running_var.uniform_(0.3, 2.0)
        normalization.weight.uniform_(0.5, 1.5)
        normalization.bias.uniform_(-0.5, 0.5)


class Scaled(EncoderNetwork):
    """A convolution of bytes (N, 1, 12, 12), scaled by a given function, to (N, 3, 10, 10)."""

    name = "scaled"
    citation = "none"
    normalization = "none"
    dimensions = 300

    def __init__(self, scaling: Callable[[Tensor], Tensor], bias: bool = True, **convolution: object) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(12, 12)
        self.scaling = scaling
        self.first = nn.Conv2d(1, 3, 3, bias=bias, **convolution)

    def forward(self, pixels: Tensor) -> Tensor:
        embedding: Tensor = self.first(self.scaling(pixels))
        return embedding


BYTES = torch.from_numpy(pictures(6)).permute(0, 3, 1, 2).float()


def operations(folded: torch.fx.GraphModule) -> list[str]:
    """What the graph calls, in order."""
    return [
        str(getattr(n.target, "__name__", n.target)) for n in folded.graph.nodes if n.op.startswith("call")
    ]


def test_everything_is_folded_and_the_embeddings_stay() -> None:
    torch.manual_seed(0)
    encoder = Tiny().eval()
    exported = exported_encoder(encoder)
    assert operations(exported.encoder) == [
        "stem.0", "stem.2", "expand.0", "expand.2", "project.0", "add", "flatten", "embedding",
    ]  # fmt: skip
    assert not any(isinstance(module, nn.BatchNorm2d) for module in exported.modules())
    images = torch.from_numpy(pictures(6))
    with torch.no_grad():
        expected = encoder(BYTES)
        assert exported(images).numpy() == pytest.approx(expected.numpy(), abs=2e-6)
        assert torch.equal(exported(images), exported(images.float()))
    assert exported(images).dtype == torch.float32 and exported(images).shape == (6, 8)
    assert (exported.preprocessing, exported.dimensions) == (encoder.preprocessing, 8)
    assert not exported.training


def test_layers_are_named_as_the_encoder_calls_them_in_running_order() -> None:
    assert layers(exported_encoder(Tiny()).encoder) == ["stem.0", "expand.0", "project.0", "embedding"]


def test_a_normalization_is_folded_into_weights_and_bias() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, eps=0.0))
    convolution, normalization = network
    with torch.no_grad():
        convolution.weight.copy_(torch.tensor([3.0, -5.0]).reshape(2, 1, 1, 1))
        convolution.bias.copy_(torch.tensor([1.0, 2.0]))
        normalization.running_mean.copy_(torch.tensor([7.0, -1.0]))
        normalization.running_var.copy_(torch.tensor([4.0, 0.25]))
        normalization.weight.copy_(torch.tensor([6.0, 0.5]))
        normalization.bias.copy_(torch.tensor([10.0, 20.0]))
    folded = fold_batch_norm(network)
    assert operations(folded) == ["0"]
    found = folded.get_submodule("0")
    # Per channel: weight * gamma / deviation, and (bias - mean) * gamma / deviation + beta.
    assert found.weight.flatten().tolist() == pytest.approx([3.0 * 3.0, -5.0 * 1.0])
    assert found.bias.tolist() == pytest.approx([(1.0 - 7.0) * 3.0 + 10.0, (2.0 + 1.0) * 1.0 + 20.0])


def test_a_convolution_that_something_else_reads_keeps_its_normalization() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)
            _lived(self.norm)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            return y + self.norm(y)

    torch.manual_seed(0)
    network = Forked().eval()
    folded = fold_batch_norm(network)
    assert operations(folded) == ["first", "norm", "add"]
    assert torch.equal(folded(BYTES), network(BYTES))


def test_the_encoder_is_left_as_it_is() -> None:
    encoder = Tiny().train()
    before = model_id(encoder)
    exported = exported_encoder(encoder, quantizable=True)
    exported_encoder(encoder)
    with torch.no_grad():
        for parameter in exported.parameters():
            parameter.zero_()
    assert encoder.training and model_id(encoder) == before
    assert isinstance(encoder.stem[1], nn.BatchNorm2d)


@pytest.mark.parametrize("quantizable", [True, False])
def test_layers_that_are_evaluated_while_others_train_stay_so(quantizable: bool) -> None:
    encoder = Tiny().train()
    encoder.expand[1].eval()
    before = {name: module.training for name, module in encoder.named_modules()}
    exported_encoder(encoder, quantizable)
    assert {name: module.training for name, module in encoder.named_modules()} == before


# name: (scaling, factor, offset), so that the scaling is `factor * pixels + offset`
CHAINS: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    "none": (lambda x: x, 1.0, 0.0),
    "x + 3": (lambda x: x + 3, 1.0, 3.0),
    "3 + x": (lambda x: 3.0 + x, 1.0, 3.0),
    "x * -2": (lambda x: x * -2, -2.0, 0.0),
    "2 * x": (lambda x: 2 * x, 2.0, 0.0),
    "x - 5": (lambda x: x - 5, 1.0, -5.0),
    "255 - x": (lambda x: 255 - x, -1.0, 255.0),
    "x / 8": (lambda x: x / 8, 0.125, 0.0),
    "functions": (lambda x: torch.div(torch.sub(torch.mul(torch.add(x, 1), 3), 2), 4), 0.75, 0.25),
    "number first": (lambda x: torch.sub(10.0, torch.mul(x, 0.5)), -0.5, 10.0),
    "ink": (lambda x: (255.0 - x) * (1.0 / 255.0), -1.0 / 255.0, 1.0),
    "minus one to one": (lambda x: (x / 255 - 0.5) * 2, 2.0 / 255.0, -1.0),
    "twice reversed": (lambda x: 1 - (2 - x) * 4, 4.0, -7.0),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chain", CHAINS)
def test_an_affine_scaling_of_the_pixels_becomes_part_of_the_first_convolution(
    chain: str, bias: bool
) -> None:
    scaling, factor, offset = CHAINS[chain]
    torch.manual_seed(1)
    encoder = Scaled(scaling, bias).eval()
    folded = fold_pixel_scaling(fold_batch_norm(encoder))
    assert operations(folded) == ["first"]
    found = folded.get_submodule("first")
    weight = encoder.first.weight.detach()
    own = encoder.first.bias.detach() if bias else torch.zeros(3)
    assert found.weight.detach().numpy() == pytest.approx((weight * factor).numpy(), rel=1e-6, abs=1e-9)
    bias_wanted = (own + offset * weight.sum(dim=(1, 2, 3))).tolist()
    assert found.bias.tolist() == pytest.approx(bias_wanted, rel=1e-5, abs=1e-5)
    with torch.no_grad():
        expected = encoder(BYTES).numpy()
        assert folded(BYTES).numpy() == pytest.approx(expected, abs=1e-5 * float(np.abs(expected).max()))
    assert (encoder.first.bias is not None) == bias


@pytest.mark.parametrize(
    ("scaling", "left"),
    [
        (lambda x: 255.0 / (x + 1), ["add", "truediv", "first"]),
        (lambda x: x * x, ["mul", "first"]),
        (lambda x: torch.relu(x - 100), ["sub", "relu", "first"]),
        (lambda x: torch.add(x, 3, alpha=2), ["add", "first"]),
        (lambda x: torch.div(x, 7, rounding_mode="floor"), ["div", "first"]),
        (lambda x: x - x.mean(), ["mean", "sub", "first"]),
    ],
    ids=["reciprocal", "square", "rectified", "alpha", "floor", "mean"],
)  # fmt: skip
def test_what_is_not_affine_stays_in_the_graph(scaling: Callable[[Tensor], Tensor], left: list[str]) -> None:
    torch.manual_seed(1)
    encoder = Scaled(scaling).eval()
    folded = exported_encoder(encoder).encoder
    assert operations(folded) == left
    with torch.no_grad():
        assert torch.equal(folded(BYTES), encoder(BYTES))


@pytest.mark.parametrize("padding", [1, (0, 1), (1, 0), "same"])
def test_padding_keeps_the_scaling_out_of_the_convolution(padding: object) -> None:
    torch.manual_seed(1)
    encoder = Scaled(CHAINS["ink"][0], padding=padding).eval()
    folded = exported_encoder(encoder, quantizable=True).encoder
    assert operations(folded) == ["sub", "mul", "first"]
    assert torch.equal(folded.get_submodule("first").weight, encoder.first.weight)
    assert torch.equal(folded(BYTES), encoder(BYTES))


def test_the_word_valid_is_no_padding() -> None:
    torch.manual_seed(1)
    encoder = Scaled(CHAINS["ink"][0], padding="valid").eval()
    folded = exported_encoder(encoder).encoder
    assert operations(folded) == ["first"]
    with torch.no_grad():
        assert folded(BYTES).numpy() == pytest.approx(encoder(BYTES).numpy(), abs=1e-5)


def test_pixels_that_two_operations_read_are_not_folded() -> None:
    class Forked(Scaled):
        def forward(self, pixels: Tensor) -> Tensor:
            ink = self.scaling(pixels)
            return self.first(ink) + ink[:, :, 1:-1, 1:-1]

    encoder = Forked(CHAINS["x / 8"][0]).eval()
    folded = exported_encoder(encoder).encoder
    assert operations(folded) == ["truediv", "first", "getitem", "add"]
    assert torch.equal(folded(BYTES), encoder(BYTES))


def test_a_quantizable_encoder_has_its_first_weights_on_the_int8_grid() -> None:
    torch.manual_seed(2)
    encoder = Scaled(CHAINS["ink"][0]).eval()
    exact, snapped = (exported_encoder(encoder, q).encoder.get_submodule("first") for q in (False, True))
    weight = snapped.weight.detach().double().flatten(1)
    levels = weight / (weight.abs().amax(1, keepdim=True) / 127)
    assert levels.numpy() == pytest.approx(levels.round().numpy(), abs=1e-4)
    # A grid for each filter, whose largest weight stays, and no weight moves by more than half a step.
    assert torch.equal(levels.abs().amax(1).round(), torch.full((3,), 127.0, dtype=torch.float64))
    steps = exact.weight.detach().abs().amax(dim=(1, 2, 3)) / 127
    moved = (snapped.weight - exact.weight).detach().abs().amax(dim=(1, 2, 3))
    assert (moved > 0.1 * steps).all() and (moved <= 0.5001 * steps).all()


def test_rounding_the_first_weights_costs_nothing_on_white_paper() -> None:
    torch.manual_seed(2)
    encoder = Scaled(CHAINS["ink"][0]).eval()
    exact, snapped = (exported_encoder(encoder, quantizable).eval() for quantizable in (False, True))
    white = torch.full((1, 12, 12, 1), 255, dtype=torch.uint8)
    gray = torch.full((1, 12, 12, 1), 128, dtype=torch.uint8)
    with torch.no_grad():
        # White is no ink: the weights, rounded or not, meet zeros.
        assert snapped(white).numpy() == pytest.approx(exact(white).numpy(), abs=1e-5)
        assert float((snapped(gray) - exact(gray)).abs().max()) > 1e-4


def test_a_filter_of_zeros_stays_one() -> None:
    encoder = Scaled(CHAINS["ink"][0]).eval()
    with torch.no_grad():
        encoder.first.weight[1].zero_()
    first = exported_encoder(encoder, quantizable=True).encoder.get_submodule("first")
    assert torch.equal(first.weight[1], torch.zeros(1, 3, 3))
    assert first.bias[1].item() == encoder.first.bias[1].item()


def test_filters_of_separate_colors_are_folded_each_with_its_own_sum() -> None:
    class Colors(Scaled):
        def __init__(self) -> None:
            super().__init__(CHAINS["ink"][0])
            self.preprocessing = Preprocessing(12, 12, "rgb")
            self.first = nn.Conv2d(3, 6, 3, groups=3)

    torch.manual_seed(3)
    encoder = Colors().eval()
    exported = exported_encoder(encoder)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3), dtype=np.uint8))
    with torch.no_grad():
        expected = encoder(images.permute(0, 3, 1, 2).float())
        assert exported(images).numpy() == pytest.approx(expected.numpy(), abs=1e-5)


def test_an_encoder_that_looks_at_its_numbers_cannot_be_traced() -> None:
    class Choosy(Scaled):
        def forward(self, pixels: Tensor) -> Tensor:
            return self.first(pixels) if pixels.sum() > 0 else self.first(-pixels)

    with pytest.raises(
        ExportError, match=r"^Choosy cannot be traced for export: symbolically traced variables"
    ):
        exported_encoder(Choosy(CHAINS["none"][0]))


def test_an_encoder_that_fails_while_traced_is_named_with_its_reason() -> None:
    class Broken(Scaled):
        def forward(self, pixels: Tensor) -> Tensor:
            raise KeyError("no such filter")

    with pytest.raises(ExportError, match=re.escape("Broken cannot be traced for export: 'no such filter'")):
        exported_encoder(Broken(CHAINS["none"][0]))


def test_folding_that_changes_the_embeddings_is_noticed() -> None:
    class Moody(Scaled):
        """Computes something else once it is traced, as an encoder with state of its own may."""

        calls: ClassVar[int] = 0

        def forward(self, pixels: Tensor) -> Tensor:
            type(self).calls += 1
            return self.first(pixels) * (1.0 if type(self).calls == 1 else 1.1)

    with pytest.raises(
        ExportError, match=r"^folding changed the output of scaled by 0\.091 of its largest value$"
    ):
        exported_encoder(Moody(CHAINS["none"][0]))


def test_an_encoder_of_numbers_that_are_none_is_refused() -> None:
    encoder = Scaled(CHAINS["ink"][0])
    with torch.no_grad():
        encoder.first.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(ExportError, match=r"^folding changed the output of scaled by nan "):
        exported_encoder(encoder)


def test_module_of_knows_calls_of_modules_alone() -> None:
    folded = exported_encoder(Tiny()).encoder
    nodes = {str(node.target): node for node in folded.graph.nodes}
    assert isinstance(module_of(folded, nodes["embedding"]), nn.Linear)
    add = next(node for node in folded.graph.nodes if node.target is operator.add)
    assert module_of(folded, add) is None and module_of(folded, 3.0) is None
