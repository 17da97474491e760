"""The symmetric relevance gain against insertion, deletion and its theorems; the confidence without random pixels."""

from __future__ import annotations

import copy
import dataclasses
import warnings

import numpy as np
import pytest
import torch
from conftest import random_images
from torch import nn

from stochx.metrics import ROMS, SRG, Deletion, Evidence, Insertion

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import quantus

KEYS = ["0/a", "0/b", "0/c", "0/d", "0/e"]
REMOVALS = ["mean", "black", "white", "blur", "uniform"]


@pytest.fixture
def evidence(tiny, images):
    relevance = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return Evidence(relevance, KEYS, images, torch.tensor([1, 4, 0, 1, 2]), tiny)


@pytest.mark.parametrize("removal", REMOVALS)
@pytest.mark.parametrize(("read", "reduce"), [("probability", "abs"), ("margin", "signed")])
def test_srg_is_insertion_minus_deletion_at_equal_removal_grid_and_read(removal, read, reduce, evidence):
    options = {"steps": 7, "removal": removal, "read": read, "reduce": reduce}
    inserted, deleted = Insertion(**options)(evidence), Deletion(**options)(evidence)
    torch.testing.assert_close(SRG(**options)(evidence).value, inserted.value - deleted.value, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("read", ["probability", "logit"])
def test_the_negative_of_a_map_has_the_negative_gain(read, evidence):
    metric = SRG(steps=9, reduce="signed", read=read)
    turned = metric(dataclasses.replace(evidence, map=-evidence.map))
    assert torch.equal(turned.curve, -metric(evidence).curve) and torch.equal(turned.value, -metric(evidence).value)


def test_a_map_without_an_order_has_a_gain_of_exactly_0(evidence):
    found = SRG(steps=9)(dataclasses.replace(evidence, map=torch.ones_like(evidence.map)))
    assert found.value.tolist() == [0] * 5 and not found.curve.any()


def test_the_gain_of_a_sum_of_four_pixels_by_hand():
    # f = 1 + 2 + 3 + 4 by pixel: least first leaves 10 9 7 4 0, most first 10 6 3 1 0; the area between them is 10 / 4.
    x = torch.tensor([[0.1, 0.2], [0.3, 0.4]], dtype=torch.float64)[None, None]
    seen = Evidence(x, ["a"], x, torch.tensor([0]), TenTimes())
    found = SRG(steps=4, removal="black", read="logit")(seen)
    assert found.curve[0].tolist() == pytest.approx([0, 3, 4, 3, 0]) and found.value.item() == pytest.approx(2.5)


class TenTimes(nn.Module):
    """Ten times the sum of all pixels."""

    def forward(self, x):
        return 10 * x.flatten(1).sum(1, keepdim=True)


def test_no_order_gains_more_than_a_linear_networks_own_terms(linear):
    x = random_images(4, 1, 4, 4)
    terms = linear.weight.detach()[0].view(1, 1, 4, 4) * x
    metric = SRG(steps=16, removal="black", read="logit", reduce="signed")

    def gain(relevance):
        return metric(Evidence(relevance, KEYS[:4], x, torch.zeros(4).long(), linear)).value

    for seed in range(20):
        other = torch.randn(terms.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert (gain(other) < gain(terms)).all()


def test_the_gain_is_that_of_pixel_flipping_in_quantus_with_the_map_and_its_negative(linear):
    x, y = random_images(3, 1, 4, 4), torch.tensor([0, 1, 2])
    relevance = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def flipped(maps):
        peer = quantus.PixelFlipping(
            features_in_step=1, abs=False, normalise=False, perturb_baseline=0.0, disable_warnings=True
        )
        model = copy.deepcopy(linear).float()
        options = {"x_batch": x.float().numpy(), "y_batch": y.numpy(), "a_batch": maps.numpy(), "softmax": True}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.array(peer(model=model, **options), dtype=np.float64)

    gain = np.hstack([np.zeros((3, 1)), flipped(-relevance) - flipped(relevance)])  # theirs begins after the first step
    found = SRG(steps=16, removal="black", reduce="signed")(Evidence(relevance, KEYS[:3], x, y, linear))
    np.testing.assert_allclose(found.curve.numpy(), gain, atol=1e-6)
    np.testing.assert_allclose(found.value.numpy(), np.trapezoid(gain, dx=1 / 16), atol=1e-6)


def test_the_gain_keeps_to_its_bounds_and_names_its_axes(evidence):
    assert SRG().bounds == (-1.0, 1.0) and SRG(read="logit").bounds[1] == float("inf")
    assert SRG().higher_is_better and SRG(reduce="signed").reduction == "signed channel sum"
    evidence.x[2] = 0.4
    assert SRG(steps=3)(evidence).why == {2: "the image equals what would replace its pixels"}


@pytest.mark.parametrize("removal", ["mean", "black"])
def test_r_oms_is_its_literal_loop_and_does_not_look_at_the_map(removal, evidence):
    found = ROMS(steps=6, removal=removal)(evidence)
    for n in range(5):
        order = torch.rand(256, generator=torch.Generator().manual_seed(0)).argsort()  # any order has the same ends
        x = evidence.x[n]
        other = x.mean((1, 2), keepdim=True).expand_as(x) if removal == "mean" else torch.zeros_like(x)
        for step in (0, 6):
            pixels = x.clone().flatten(1)
            gone = order[: round(256 * step / 6)]
            pixels[:, gone] = other.flatten(1)[:, gone]
            with torch.no_grad():
                largest = evidence.model(pixels.view(1, 3, 16, 16)).softmax(1).max().item()
            assert found.curve[n, step].item() == pytest.approx(largest, rel=1e-12)
        assert found.value[n].item() == pytest.approx(np.trapezoid(found.curve[n].numpy(), dx=1 / 6), rel=1e-12)
    assert torch.equal(
        ROMS(steps=6, removal=removal)(dataclasses.replace(evidence, map=-evidence.map)).curve, found.curve
    )
    assert ROMS().higher_is_better is None


def test_the_confidence_is_never_below_any_class_in_the_same_order(evidence):
    own = Deletion(steps=6, order="random")(evidence).curve
    assert (ROMS(steps=6)(evidence).curve >= own).all()


@pytest.mark.parametrize("metric", [SRG, ROMS])
def test_at_least_one_step(metric):
    with pytest.raises(ValueError, match="steps must be at least 1"):
        metric(steps=0)
