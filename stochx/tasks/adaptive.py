"""Adaptive noising: binds an attribution to the metric that it minimises."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from stochx.attributions import Attribution
from stochx.catalog import METRICS
from stochx.engine.seeds import Key
from stochx.metrics import Evidence, Metric


def bind_objective(method: Attribution) -> Attribution:
    """Return `method`, with the metric that it minimises, if any, as `measure`, and what it searches by as `rough`."""
    name = getattr(method, "objective_metric", "")
    if not name:
        return method
    tuned: Any = method
    texts = {"measure": name, "rough": getattr(method, "search_metric", "")}
    measures = {key: partial(_measured, METRICS.make(text)) for key, text in texts.items() if text}
    bound: Attribution = partial(tuned, **measures)
    return bound


def _measured(
    metric: Metric, model: nn.Module, x: Tensor, target: Tensor, relevance: Tensor, keys: Sequence[Key]
) -> Tensor:
    value = metric(Evidence(relevance, keys, x, target, model)).value
    return -value if metric.higher_is_better else value
