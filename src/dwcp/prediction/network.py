"""The network, in torch. Only training needs it; what is shipped is its ONNX.

An LSTM reads the sequence of measurements. Its last state and the scalars go through two layers, which give

- weights, by softmax, of the bank of simple forecasts: what is forecast is a mean of things that are known to be sane;
- a correction of that, within CORRECTION of the error that those have made lately;
- distances between the quantiles, in units of that error: always above 0, so that quantiles never cross, and below the
  median in the logarithm, so that they never fall under 0.

Several of these, trained from different beginnings, are averaged: the noise of one small network trained on few links
is as large as what there is to be won.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dwcp.forecast.distribution import LEVELS, MIDDLE
from dwcp.forecast.features import BANK, FLOOR

HIDDEN, LAYER, DROP = 32, 64, 0.15
CORRECTION = 1.5
ABOVE = len(LEVELS) - MIDDLE - 1


class Network(nn.Module):
    def __init__(self, channels: int, scalars: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, HIDDEN, batch_first=True)
        self.first, self.second = nn.Linear(HIDDEN + scalars, LAYER), nn.Linear(LAYER, LAYER)
        self.drop = nn.Dropout(DROP)
        self.last = nn.Linear(LAYER, BANK + 1 + MIDDLE + ABOVE)
        nn.init.zeros_(self.last.weight)
        with torch.no_grad():
            self.last.bias.zero_()
            # distances begin near one error each
            self.last.bias[BANK + 1 :] = 0.5
        self.register_buffer("mean", torch.zeros(scalars))
        self.register_buffer("deviation", torch.ones(scalars))

    def forward(self, sequence: Tensor, scalars: Tensor, bank: Tensor, scale: Tensor) -> Tensor:
        _, (state, _) = self.lstm(sequence)
        seen = torch.cat([state[0], (scalars - self.mean) / self.deviation], dim=1)
        seen = self.drop(torch.relu(self.first(seen)))
        seen = self.last(self.drop(torch.relu(self.second(seen))))
        base = (torch.softmax(seen[:, :BANK], dim=1) * bank).sum(dim=1)
        error = torch.clamp(scale / (base + FLOOR), max=1.0)
        middle = (base * torch.exp(error * CORRECTION * torch.tanh(seen[:, BANK] * 0.5))).unsqueeze(1)
        distances = nn.functional.softplus(seen[:, BANK + 1 :])
        scale = scale.unsqueeze(1)
        above = middle + scale * torch.cumsum(distances[:, :ABOVE], dim=1)
        below = middle * torch.exp(-scale / (middle + FLOOR) * torch.cumsum(distances[:, ABOVE:], dim=1))
        return torch.cat([below.flip(1), middle, above], dim=1)


class Ensemble(nn.Module):
    """The mean of several, with its distances from the median stretched by what calibration found."""

    def __init__(self, members: Sequence[Network], below: float = 1.0, above: float = 1.0) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.below, self.above = below, above

    def forward(self, sequence: Tensor, scalars: Tensor, bank: Tensor, scale: Tensor) -> Tensor:
        said = torch.stack([member(sequence, scalars, bank, scale) for member in self.members]).mean(dim=0)
        middle = said[:, MIDDLE : MIDDLE + 1]
        low = middle * torch.exp(torch.log((said[:, :MIDDLE] + 1e-9) / (middle + 1e-9)) * self.below)
        return torch.cat([low, middle, middle + (said[:, MIDDLE + 1 :] - middle) * self.above], dim=1)


_LEVELS = torch.tensor(LEVELS)
_IMPORTANCE = torch.ones(len(LEVELS))
_IMPORTANCE[MIDDLE] = 3.0
_IMPORTANCE[[1, len(LEVELS) - 2]] = 4.0
"""The median is what plans are made with, 95% the interval that is asked for unless somebody says otherwise."""


def pinball(said: Tensor, outcome: Tensor, weight: Tensor) -> Tensor:
    """The loss whose least is at the quantiles (Koenker and Bassett, "Regression quantiles", 1978)."""
    off = outcome.unsqueeze(1) - said
    loss = torch.maximum(_LEVELS * off, (_LEVELS - 1) * off) * _IMPORTANCE
    return (loss.sum(dim=1) * weight).mean()
