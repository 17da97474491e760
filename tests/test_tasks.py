"""Tasks: explaining stochastic networks."""

from __future__ import annotations

import pytest
import torch
from conftest import random_images
from torch import nn

from stochx.attributions import Gradient, SmoothGrad
from stochx.engine.io.data import Item
from stochx.engine.io.images import Preparation
from stochx.engine.network.classifier import Classifier
from stochx.errors import RunError
from stochx.tasks.batches import Failed, Source
from stochx.tasks.explain import Explained, explain


class Jitter(nn.Module):
    """A network with additive noise of its own for every sample."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x + 0.1 * torch.randn_like(x))


@pytest.fixture
def noisy(tiny):
    return Classifier(Jitter(tiny), list("abcde"), Preparation(16, 16), noise="sample").double().eval()


def sources(count):
    x = random_images(count, 3, 16, 16)
    return [Source(f"image {i}", lambda i=i: Item(f"key {i}", x[i])) for i in range(count)]


def maps(model, count=2, **more):
    kept: list[Explained] = []
    explain(model, {"gradient": Gradient()}, sources(count), target=1, keep=kept.append, **more)
    return torch.stack([k.maps["gradient"] for k in kept]), kept


def test_a_map_of_a_stochastic_network_repeats_and_follows_the_seed(noisy):
    first, kept = maps(noisy, draws=4)
    assert torch.equal(first, maps(noisy, draws=4)[0])
    assert not torch.equal(first, maps(noisy, draws=4, seed=1)[0])
    assert kept[0].rows[0].error is not None


def test_more_draws_bring_the_mean_map_nearer(noisy):
    truth = maps(noisy, draws=256, seed=9)[0]
    few, many = (maps(noisy, draws=n)[0] for n in (4, 64))
    assert (many - truth).norm() < (few - truth).norm() / 2


def test_the_target_is_the_top_prediction_unless_given(tiny):
    model = Classifier(tiny, list("abcde"), Preparation(16, 16)).double().eval()
    rows = explain(model, {"gradient": Gradient()}, sources(3))
    x = torch.stack([s.read().image for s in sources(3)])
    assert [row.target for row in rows] == model(x).argmax(1).tolist()


def test_logits_that_are_not_finite_fail_their_image_alone(tiny):
    class Picky(nn.Module):
        def forward(self, x):
            return torch.where(x.mean((1, 2, 3), keepdim=False)[:, None] > 0.5, tiny(x), torch.nan)

    x = torch.stack([torch.full((3, 16, 16), v, dtype=torch.float64) for v in (0.4, 0.6)])
    model = Classifier(Picky(), list("abcde"), Preparation(16, 16)).double().eval()
    given = [Source(str(i), lambda i=i: Item(str(i), x[i])) for i in range(2)]
    bad, good = explain(model, {"gradient": Gradient(), "smoothgrad:samples=2": SmoothGrad(samples=2)}, given)[:2]
    assert isinstance(bad, Failed) and isinstance(bad.error, RunError) and "`0`" in str(bad.error)
    assert good.index == 1
