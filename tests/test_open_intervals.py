"""Intervals over classes: their coverage where classes and images are drawn anew, and their limits."""

from __future__ import annotations

import pytest
import torch

from stochx.engine.fewshot.intervals import open_interval
from stochx.engine.statistics import mean_share, student

NEW = {"dtype": torch.float64}


def evaluation(chance, classes, ways, shot, count):
    """Accuracies of class means in episodes, and their classes; Gaussian classes and images are drawn anew."""
    means = torch.randn(classes, 1, 8, generator=chance)
    images = means + torch.randn(classes, 30, 8, generator=chance)
    drawn = torch.rand(count, classes, generator=chance).argsort(1)[:, :ways]
    chosen = torch.rand(count, ways, 30, generator=chance).argsort(2)[..., : shot + 5]
    x = images[drawn[:, :, None], chosen]
    nearest = torch.cdist(x[:, :, shot:].flatten(1, 2), x[:, :, :shot].mean(2)).argmin(2)
    return (nearest == torch.arange(ways).repeat_interleave(5)).double().mean(1), drawn


@pytest.mark.parametrize(("classes", "shot"), [(8, 1), (20, 1), (10, 5)])
def test_the_interval_covers_the_accuracy_on_other_classes_where_that_over_episodes_does_not(classes, shot):
    chance = torch.Generator().manual_seed(0)
    truth = float(torch.stack([evaluation(chance, classes, 5, shot, 60)[0].mean() for _ in range(600)]).mean())
    found = [evaluation(chance, classes, 5, shot, 300) for _ in range(200)]
    wide = [open_interval(values, drawn, (0.0, 1.0)) for values, drawn in found]
    narrow = [mean_share(values.tolist()) for values, _ in found]
    assert 0.92 <= sum(one.low <= truth <= one.high for one in wide) / 200 <= 0.985
    assert sum(one.low <= truth <= one.high for one in narrow) / 200 < 0.4


def test_without_differences_between_classes_it_is_no_narrower_than_over_episodes_and_often_as_wide():
    values = torch.tensor([0.0, 1.0], **NEW).repeat(1000)
    least, ratios = student(11) * float(values.std()) / 2000**0.5, []
    for seed in range(20):
        drawn = torch.rand(2000, 12, generator=torch.Generator().manual_seed(seed)).argsort(1)[:, :5]
        found = open_interval(values, drawn, (0.0, 1.0))
        assert found.n == 12 and found.mean == 0.5
        ratios.append(found.half / least)
    assert min(ratios) == pytest.approx(1) and sorted(ratios)[5] == pytest.approx(1)


def test_a_difference_of_nothing_has_no_width():
    drawn = torch.rand(50, 6, generator=torch.Generator().manual_seed(0)).argsort(1)[:, :3]
    found = open_interval(torch.zeros(50), drawn, (-1.0, 1.0))
    assert (found.low, found.mean, found.high) == (0, 0, 0)


@pytest.mark.parametrize("classes", [[[0, 1, 2], [2, 1, 0]], [[0, 1], [0, 1]], [[0, 1], [0, 2], [0, 1]]])
def test_classes_that_no_episode_leaves_out_have_no_interval(classes):
    assert open_interval(torch.rand(len(classes)), torch.tensor(classes), (0.0, 1.0)) is None
