"""Scores of random sets of pixels: F-Fidelity and sensitivity-n, by hand and against literal loops."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from conftest import random_images
from torch import nn

from stochx.engine.seeds import generator
from stochx.metrics import Evidence, FFidelity, SensitivityN
from stochx.metrics.sensitivity_n import correlation

KEYS = ["0/a", "0/b", "0/c", "0/d", "0/e"]


@pytest.fixture
def evidence(tiny, images):
    relevance = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return Evidence(relevance, KEYS, images, torch.tensor([1, 4, 0, 1, 2]), tiny)


class Pixels(nn.Module):
    """One logit: the sum of squares of all pixels, each with its own weight; and a second one, of 0."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        total = (self.weight * x.square().sum(1)).flatten(1).sum(1)
        return torch.stack([total, torch.zeros_like(total)], 1)


def terms(*shape):
    """A network of a sum of pixels, an image for it, and the map of its own terms."""
    x = random_images(*shape)
    model = Pixels(torch.randn(*shape[2:], generator=torch.Generator().manual_seed(3), dtype=torch.float64)).eval()
    return Evidence((model.weight * x.square()).detach(), KEYS[: shape[0]], x, torch.zeros(shape[0]).long(), model)


# Sensitivity-n


def test_the_terms_of_a_sum_of_pixels_are_perfectly_sensitive_at_every_n():
    found = SensitivityN(sizes=5, draws=20)(terms(2, 3, 8, 8))
    torch.testing.assert_close(found.curve, torch.ones(2, 5, dtype=torch.float64), rtol=1e-12, atol=0)
    assert found.places.tolist() == pytest.approx([n / 64 for n in (1, 2, 6, 17, 51)])


def test_their_negative_is_perfectly_wrong():
    seen = terms(2, 3, 8, 8)
    found = SensitivityN(sizes=3, draws=20)(dataclasses.replace(seen, map=-seen.map)).value
    torch.testing.assert_close(found, -torch.ones(2, dtype=torch.float64), rtol=1e-12, atol=0)


def test_a_network_that_ignores_the_image_has_no_correlation(evidence):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.ones(len(x), 5, dtype=x.dtype)

    found = SensitivityN(sizes=3, draws=5)(dataclasses.replace(evidence, model=Constant()))
    assert found.value.tolist() == [0] * 5 and not found.why


@pytest.mark.parametrize("removal", ["black", "mean"])
def test_sensitivity_n_is_its_literal_loop(removal, evidence):
    found = SensitivityN(sizes=3, draws=6, first=0.1, last=0.5, removal=removal)(evidence)
    with torch.no_grad():
        before = evidence.model(evidence.x)
    for n in range(5):
        x, y = evidence.x[n], evidence.target[n]
        for size, count in enumerate((26, 57, 128)):  # 256 times 0.1, the square root of 0.05, and 0.5
            said, cost = [], []
            for draw in range(6):
                places = torch.randperm(256, generator=generator(KEYS[n], "sensitivity-n", 6 * size + draw))[:count]
                pixels = x.clone().flatten(1)
                pixels[:, places] = x.mean((1, 2))[:, None] if removal == "mean" else 0.0
                with torch.no_grad():
                    cost.append((before[n, y] - evidence.model(pixels.view(1, 3, 16, 16))[0, y]).item())
                said.append(evidence.map[n].sum(0).flatten()[places].sum().item())
            assert found.curve[n, size].item() == pytest.approx(np.corrcoef(said, cost)[0, 1], rel=1e-7)


def test_the_correlation_is_that_of_numpy_and_0_where_a_side_does_not_vary():
    a, b = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = [np.corrcoef(x, y)[0, 1] for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    assert correlation(a, b).tolist() == pytest.approx(expected)
    assert correlation(a, torch.ones_like(b)).tolist() == [0] * 4


def test_a_constant_map_says_nothing_of_any_set(evidence):
    relevance = evidence.map.clone()
    relevance[1] = 2.0
    found = SensitivityN(sizes=2, draws=4)(dataclasses.replace(evidence, map=relevance))
    assert found.why == {1: "the map is constant"} and found.value.isnan().nonzero().tolist() == [[1]]


# F-Fidelity


@pytest.mark.parametrize(
    ("order", "reduce", "read", "removal"),
    [
        ("most", "abs", "accuracy", "mean"),
        ("least", "signed", "probability", "black"),
        ("most", "abs", "margin", "white"),
    ],
)
def test_f_fidelity_is_its_literal_loop(order, reduce, read, removal, evidence):
    metric = FFidelity(shares=4, draws=5, order=order, reduce=reduce, read=read, removal=removal)
    found = metric(evidence)
    fills = {"mean": evidence.x.mean((2, 3)), "black": torch.zeros(5, 3), "white": torch.ones(5, 3)}
    for n in range(5):
        strength = evidence.map[n].sum(0).flatten()
        strength = strength.abs() if reduce == "abs" else strength
        ranked = strength.argsort(descending=order == "most").tolist()
        for place, top in enumerate((64, 128, 192, 256)):
            likely, losses = min(0.5, 0.1 * 256 / top), []
            for draw in range(5):
                luck = torch.rand(16, 16, generator=generator(KEYS[n], "f-fidelity", draw)).flatten()
                gone = [i for i in ranked[:top] if luck[i] < likely]
                pixels = evidence.x[n].clone().flatten(1)
                pixels[:, gone] = fills[removal][n][:, None].to(pixels)
                losses.append(
                    score(evidence, n, evidence.x[n], read) - score(evidence, n, pixels.view(3, 16, 16), read)
                )
            assert found.curve[n, place].item() == pytest.approx(np.mean(losses), rel=1e-9, abs=1e-12)
        assert found.value[n].item() == pytest.approx(found.curve[n].mean().item())


def score(evidence, n, pixels, read):
    with torch.no_grad():
        logits = evidence.model(pixels[None])[0]
    own = int(evidence.target[n])
    if read == "probability":
        return logits.softmax(0)[own].item()
    margin = (logits[own] - torch.cat([logits[:own], logits[own + 1 :]]).max()).item()
    return margin if read == "margin" else float(margin > 0)


def test_the_expected_loss_of_a_sum_of_pixels_is_the_probability_times_the_terms():
    # Two by two pixels: a share of 1/2 holds the top two terms, each of which goes with min(1/2, 0.25 * 4 / 2) = 1/2.
    x = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    model = Pixels(torch.tensor([[8.0, 4.0], [2.0, 1.0]], dtype=torch.float64)).eval()
    seen = Evidence(model.weight.detach()[None, None], ["a"], x, torch.tensor([0]), model)
    options = {"shares": 2, "draws": 4000, "beta": 0.25, "read": "logit", "removal": "black"}
    assert FFidelity(**options)(seen).curve[0].tolist() == pytest.approx([6.0, 15 / 4], rel=0.04)
    assert FFidelity(order="least", **options)(seen).curve[0].tolist() == pytest.approx([1.5, 15 / 4], rel=0.04)


def test_among_all_pixels_the_order_does_not_matter(evidence):
    most, least = (
        FFidelity(shares=3, draws=3, read="logit", order=order)(evidence).curve for order in ("most", "least")
    )
    torch.testing.assert_close(most[:, -1], least[:, -1], rtol=1e-12, atol=1e-15)


def test_accuracy_is_lost_where_the_class_is_and_never_without_need(evidence):
    right = evidence.model(evidence.x).argmax(1)
    found = FFidelity(shares=2, draws=3)(dataclasses.replace(evidence, target=right))
    assert ((found.curve >= 0) & (found.curve <= 1)).all()
    wrong = FFidelity(shares=2, draws=3)(dataclasses.replace(evidence, target=(right + 1) % 5))
    assert (wrong.curve <= 0).all()


def test_directions_and_bounds():
    assert FFidelity().higher_is_better and FFidelity(order="least").higher_is_better is False
    assert FFidelity().bounds == (-1.0, 1.0) and FFidelity(read="logit").bounds[1] == float("inf")


@pytest.mark.parametrize("metric", [FFidelity(shares=2, draws=3), SensitivityN(sizes=2, draws=4)])
def test_a_score_does_not_depend_on_its_batch_neighbours(metric, evidence):
    parts = {name: getattr(evidence, name)[3:4] for name in ("map", "keys", "x", "target")}
    alone = metric(dataclasses.replace(evidence, **parts))
    torch.testing.assert_close(alone.curve, metric(evidence).curve[3:4], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FFidelity(draws=0), "draws"),
        (lambda: FFidelity(beta=0), "beta"),
        (lambda: SensitivityN(sizes=0), "sizes"),
        (lambda: SensitivityN(draws=2), "draws"),
        (lambda: SensitivityN(first=0.9), "first and last"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
