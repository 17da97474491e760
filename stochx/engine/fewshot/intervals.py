"""Intervals of few-shot accuracies that also hold for other classes and images, from the episodes of one evaluation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stochx.engine.statistics import Bounds, Estimate, student

LEAST = 3  # classes that can be left out, below which their spread is not known


def open_interval(values: Tensor, classes: Tensor, bounds: Bounds) -> Estimate | None:
    """Return the mean of episodes' values (T,) with its 95 % interval over classes; `classes` (T, N) are theirs.

    An interval over episodes speaks of the draw of episodes alone: they share a few classes and images. Here a class
    counts with its images, as a whole. The mean over all episodes is a U-statistic of M classes, and its variance that
    of a jackknife (Efron & Stein, 1981), with m_c the mean of the episodes without class c, less the part that the
    finite number of episodes adds to it, s^2 = var(v) / T:

        V = max((M - 1) / M sum_c (m_c - m_.)^2 - (M - 1) N / (M - N) s^2, 0) + s^2,   mean +- t_{M-1} sqrt(V)

    None where every episode holds all classes, or fewer than three can be left out.
    """
    names, episodes = torch.tensor(sorted({*classes.flatten().tolist()})), len(values)
    count, ways = len(names), classes.shape[1]
    without = torch.stack([(classes != name).all(1) for name in names]).double()
    if count < LEAST or count <= ways or not (without.sum(1) > 0).all():
        return None
    v = values.double()
    means = without @ v / without.sum(1)
    sampling = float(v.var()) / episodes
    spread = (count - 1) / count * float((means - means.mean()).square().sum())
    variance = max(spread - (count - 1) * ways / (count - ways) * sampling, 0.0) + sampling
    mean, half = float(v.mean()), student(count - 1) * math.sqrt(variance)
    return Estimate(mean, max(bounds[0], mean - half), min(bounds[1], mean + half), count)
