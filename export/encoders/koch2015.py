"""The network of Koch, Zemel and Salakhutdinov, "Siamese Neural Networks for One-shot Image Recognition", 2015.

Each twin is conv 64@10x10, pool, conv 128@7x7, pool, conv 128@4x4, pool, conv 256@4x4, 4096 sigmoid units (figure 4 of the
paper). The head joins them: p = sigmoid(sum_j alpha_j |h1_j - h2_j| + bias). Including the head there are 38,951,745
parameters. The embedding consists of the 4096 units, each in (0, 1), and is not normalized.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.recognition.imaging import Preprocessing
from export.encoders.base import EncoderNetwork


class Koch2015(EncoderNetwork):
    """Pixels (N, 1, 105, 105), float32 in 0..255, to sigmoid units (N, 4096)."""

    name = "koch2015"
    citation = "Koch, Zemel, Salakhutdinov, Siamese Neural Networks for One-shot Image Recognition, 2015"
    normalization = "none"
    dimensions = 4096
    dropout = 0.0
    """Probability that an input of the sigmoid units is set to zero in training; the paper has no dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(105, 105, "gray")
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 64, 10), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 7), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(128, 128, 4), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(128, 256, 4), nn.ReLU(),
        )  # fmt: skip
        self.units = nn.Linear(256 * 6 * 6, self.dimensions)
        self.head = KochHead(self.dimensions)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Section 3.2: weights N(0, 0.01) in convolutions, N(0, 0.2) in fully connected layers; biases N(0.5, 0.01)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, 0.0, 0.01 if isinstance(module, nn.Conv2d) else 0.2)
                if module.bias is not None:
                    nn.init.normal_(module.bias, 0.5, 0.01)

    def initialize(self, scheme: str) -> None:
        """Draw weights by `he`: He et al. (2015) for convolutions, Glorot and Bengio (2010) for the sigmoid units.

        With the paper's N(0, 0.2) on 9216 inputs, most units start near 0 or 1, where the gradient vanishes. The head starts
        with the log-odds 2 - 0.02 * ||h1 - h2||_1.

        Raises:
            SettingsError: there is no such scheme.
        """
        if scheme != "he":
            super().initialize(scheme)
        for module in self.convolutions:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.xavier_normal_(self.units.weight)
        nn.init.zeros_(self.units.bias)
        nn.init.constant_(self.head.alpha.weight, -0.02)
        nn.init.constant_(self.head.alpha.bias, 2.0)

    def set_dropout(self, probability: float) -> None:
        """Apply dropout (Srivastava et al., 2014) to the inputs of the sigmoid units, which have 97 % of the weights."""
        self.dropout = probability

    def forward(self, pixels: Tensor) -> Tensor:
        ink = (255.0 - pixels) * (1.0 / 255.0)
        if not self.training:
            return torch.sigmoid(self.units(self.convolutions(ink).flatten(1)).float())
        features = F.dropout(pool_first(self.convolutions, ink).flatten(1), self.dropout)
        return torch.sigmoid(self.units(features).float())


def pool_first(layers: nn.Sequential, features: Tensor) -> Tensor:
    """Apply the layers, each pooling before the ReLU that precedes it: the same result, from a quarter of the values."""
    relu = None
    for layer in layers:
        if isinstance(layer, nn.ReLU):
            relu = layer
        elif relu is not None and isinstance(layer, nn.MaxPool2d):
            features, relu = relu(layer(features)), None
        else:
            features, relu = layer(features if relu is None else relu(features)), None
    return features if relu is None else relu(features)


class KochHead(nn.Module):
    """The weighted L1 head: log-odds (N,) that pairs of embeddings (N, D) and (N, D) are of the same class."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.alpha = nn.Linear(dimensions, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        log_odds: Tensor = self.alpha(torch.abs(a - b)).squeeze(1)
        return log_odds

    @torch.no_grad()
    def as_device_head(self) -> SigmoidDistanceHead:
        """The same head for the device: scale 1, and weights with the opposite sign."""
        return SigmoidDistanceHead(
            scale=1.0,
            bias=float(self.alpha.bias.item()),
            distance="weighted_l1",
            weights=(-self.alpha.weight[0]).float().cpu().numpy().copy(),
        )
