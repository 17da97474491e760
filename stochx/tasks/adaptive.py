"""Binds attributions to what they take from other families: a metric to minimise, baselines from a data set."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from stochx.attributions import Attribution
from stochx.catalog import METRICS
from stochx.engine.network.classifier import Classifier
from stochx.engine.seeds import Key
from stochx.loading import load_data
from stochx.metrics import Evidence, Metric

BASELINES = 100  # images of a data set that serve as baselines


def bind(method: Attribution, model: Classifier) -> Attribution:
    """Return `method` with all that it needs beside the images."""
    return bind_baselines(bind_objective(method), model)


def bind_baselines(method: Attribution, model: Classifier) -> Attribution:
    """Return `method` with the images of the data set that it names, if any, as `baselines`, prepared for `model`."""
    text = getattr(method, "baseline_data", "")
    if not text:
        return method
    data = load_data(text, "train").limited(BASELINES)
    images = [data.item(i, model.preparation).image for i in range(len(data))]
    tuned: Any = method
    bound: Attribution = partial(tuned, baselines=torch.stack(images).to(model.mean))
    return bound


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
