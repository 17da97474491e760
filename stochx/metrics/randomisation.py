"""Model-parameter randomisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stochx.engine.statistics import Bounds
from stochx.metrics import Evidence, Need, Score
from stochx.metrics._cascade import similarity


@dataclass(frozen=True)
class Randomisation:
    """Similarity of the map before and after the network's weights are re-drawn, layer by layer from the top.

    The cascading model-parameter randomisation test (Adebayo et al., 2018), on a copy of the network: the curve holds
    Spearman's rank correlation of |channel sum| with the original map, the value is its mean. A map that explains the
    network changes; one that only shows the image scores 1. Layers re-draw their weights as they initialise them and
    reset batch norms; weights that no layer resets get normal draws with the mean and standard deviation of their
    values. A map that becomes constant has no order: its correlation is 0.

    The test can reject a method that scores near 1 but not rank the others, so no direction is better (Binder et al.,
    2023): features of the lower layers survive a re-drawn top, so faithful maps stay similar, while noisy maps change
    most. Undefined for a constant map.
    """

    examples: ClassVar[tuple[str, ...]] = ("stages=2",)  # settings that are tested

    stages: int = 5  # evenly spaced stages of the cascade, one map each; 0 means every layer
    seed: int = 0  # seed of the new weights

    higher_is_better: ClassVar[None] = None
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "explain"})
    reduction: ClassVar[str] = "ranks of the abs of the channel sum"
    axis: ClassVar[str] = "share of layers re-drawn"
    bounds: ClassVar[Bounds] = (-1.0, 1.0)
    height: ClassVar[str] = "rank correlation with the map"

    def __post_init__(self) -> None:
        if self.stages < 0:
            raise ValueError("stages must not be negative")

    def __call__(self, evidence: Evidence) -> Score:
        assert evidence.model is not None and evidence.x is not None and evidence.target is not None
        assert evidence.explain is not None
        explain, x, target = evidence.explain, evidence.x, evidence.target
        return similarity(evidence, evidence.map, lambda model: explain(model, x, target), self.stages, self.seed)
