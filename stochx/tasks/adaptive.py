"""Adaptive noising brings two families together: an attribution, and the metric that it makes small."""

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
    """`method` as it is; or, where it needs a metric to make small, with that metric as its `measure`."""
    wanted = getattr(method, "objective_metric", "")
    if not wanted:
        return method
    tuned: Any = method
    bound: Attribution = partial(tuned, measure=partial(_measured, METRICS.make(wanted)))
    return bound


def _measured(
    metric: Metric, model: nn.Module, x: Tensor, target: Tensor, relevance: Tensor, keys: Sequence[Key]
) -> Tensor:
    value = metric(Evidence(relevance, keys, x, target, model)).value
    return -value if metric.higher_is_better else value
