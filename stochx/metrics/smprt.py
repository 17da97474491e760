"""sMPRT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from stochx.engine.seeds import generator
from stochx.engine.statistics import Bounds
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._cascade import similarity


@dataclass(frozen=True)
class SMPRT:
    """`randomisation` of maps that are averaged over noisy copies of the image (Hedström et al., 2024).

        Spearman(mean_k a(x + e_k), mean_k a'(x + e_k)),   e_k normal, with std = noise * (max x - min x); e_K = 0

    The average takes away the noise of gradients, which alone lowers the correlation. Like `randomisation` it can
    reject a method, not rank the others. It costs `samples` maps at each stage. Undefined for a constant map.
    """

    examples: ClassVar[tuple[str, ...]] = ("samples=2,stages=2",)  # settings that are tested

    samples: int = 50  # copies of the image that a map is averaged over; the last one has no noise
    noise: float = 0.1  # standard deviation of the noise, as a share of the range of the image's values
    stages: int = 5  # evenly spaced stages of the cascade; 0 means every layer
    seed: int = 0  # seed of the new weights

    higher_is_better: ClassVar[None] = None
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "explain"})
    reduction: ClassVar[str] = "ranks of the abs of the channel sum"
    axis: ClassVar[str] = "share of layers re-drawn"
    bounds: ClassVar[Bounds] = (-1.0, 1.0)
    height: ClassVar[str] = "rank correlation with the map"

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError("samples must be at least 1")
        if self.noise < 0:
            raise ValueError("noise must not be negative")
        if self.stages < 0:
            raise ValueError("stages must not be negative")

    def __call__(self, evidence: Evidence) -> Score:
        assert evidence.model is not None and evidence.x is not None and evidence.target is not None
        assert evidence.explain is not None
        explain, x, target = evidence.explain, evidence.x, evidence.target
        std = self.noise * (x.amax((1, 2, 3), keepdim=True) - x.amin((1, 2, 3), keepdim=True))

        def mean_map(model: nn.Module) -> Tensor:
            total = explain(model, x, target)
            for draw in range(self.samples - 1):
                total = total + explain(model, x + std * self._noise(evidence, draw), target)
            return total / self.samples

        return similarity(evidence, mean_map(evidence.model), mean_map, self.stages, self.seed)

    def _noise(self, evidence: Evidence, draw: int) -> Tensor:
        """Draw standard normal values (N, C, H, W), the same for every map of an image."""
        assert evidence.x is not None
        x = evidence.x
        sources = [generator(key, "smprt", draw, device=x.device) for key in evidence.keys]
        noise = [torch.randn(x.shape[1:], generator=g, device=x.device, dtype=torch.float32) for g in sources]
        return torch.stack(noise).to(x.dtype)
