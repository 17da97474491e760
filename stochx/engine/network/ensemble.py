"""Randomised ensembles: several networks, of which each image sees one that is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stochx.engine.network.classifier import Classifier, Noise


class RandomEnsemble(nn.Module):
    """Networks of which one is drawn for each image, with given chances: (N, C, H, W) -> (N, K) logits.

    Every image has a draw of its own, and costs one forward pass of one member. `members` have the same classes in the
    same order; `chances` are positive and sum to 1.
    """

    drawn_per: Noise = "sample"

    def __init__(self, members: Sequence[nn.Module], chances: Sequence[float]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.chances = tuple(chances)

    def forward(self, x: Tensor) -> Tensor:
        chosen = torch.multinomial(torch.tensor(self.chances, device=x.device), len(x), replacement=True)
        parts, places = [], []
        for m, member in enumerate(self.members):
            mine = (chosen == m).nonzero().flatten()
            if len(mine):
                parts.append(member(x[mine]))
                places.append(mine)
        return torch.cat(parts)[torch.cat(places).argsort()]


def ensemble_of(model: nn.Module) -> RandomEnsemble | None:
    """Return the randomised ensemble that a network is; None for any other."""
    network = model.network if isinstance(model, Classifier) else model
    return network if isinstance(network, RandomEnsemble) else None
