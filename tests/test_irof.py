"""Superpixels, and the curve of their removal against a literal loop and quantus."""

from __future__ import annotations

import copy
import dataclasses
import warnings

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab

from stochx.metrics import IROF, Evidence
from stochx.metrics._segments import _lab, superpixels

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import quantus

KEYS = ["0/a", "0/b", "0/c", "0/d", "0/e"]


@pytest.fixture
def evidence(tiny, images):
    relevance = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return Evidence(relevance, KEYS, images, torch.tensor([1, 4, 0, 1, 2]), tiny)


def test_the_colours_are_those_of_skimage(images):
    expected = rgb2lab(images.permute(0, 2, 3, 1).numpy())
    np.testing.assert_allclose(_lab(images).permute(0, 2, 3, 1).numpy(), expected, atol=1e-3)


def test_a_constant_image_falls_into_the_squares_of_the_grid():
    found, count = superpixels(torch.full((1, 3, 8, 12), 0.3, dtype=torch.float64), 6)
    assert count == 6
    assert torch.equal(found[0], (torch.arange(8) // 4)[:, None] * 3 + (torch.arange(12) // 4)[None])


@pytest.mark.parametrize("channels", [1, 3])
def test_no_superpixel_crosses_an_edge_of_strong_contrast(channels):
    bright = torch.zeros(20, 20, dtype=torch.bool)
    bright[3:14, 6:17] = True  # its edges lie within cells of the grid
    found, count = superpixels(bright.double().expand(1, channels, 20, 20), 16)
    sides = [set(found[0][side].tolist()) for side in (bright, ~bright)]
    assert count == 16 and not sides[0] & sides[1]


def test_superpixels_do_not_depend_on_the_other_images(images):
    assert torch.equal(superpixels(images, 20)[0][3:4], superpixels(images[3:4], 20)[0])


@pytest.mark.parametrize(("order", "reduce", "removal"), [("most", "abs", "mean"), ("least", "signed", "black")])
def test_irof_is_its_literal_loop(order, reduce, removal, evidence):
    found = IROF(segments=9, order=order, reduce=reduce, removal=removal)(evidence)
    segments, _ = superpixels(evidence.x, 9)
    for n in range(5):
        strength = evidence.map[n].sum(0)
        strength = strength.abs() if reduce == "abs" else strength
        names = segments[n].unique().tolist()
        ranked = sorted(names, key=lambda s: strength[segments[n] == s].mean(), reverse=order == "most")
        x = evidence.x[n].clone()
        fill = x.mean((1, 2)) if removal == "mean" else torch.zeros(3)
        heights = []
        for name in [None, *ranked]:
            if name is not None:
                x[:, segments[n] == name] = fill[:, None].to(x)
            with torch.no_grad():
                heights.append(evidence.model(x[None]).softmax(1)[0, evidence.target[n]].item())
        share = np.array(heights) / heights[0]
        np.testing.assert_allclose(found.curve[n, : len(share)].numpy(), 1 - share, rtol=1e-9, atol=1e-12)
        assert found.value[n].item() == pytest.approx(1 - share[1:].mean(), rel=1e-9)


def test_irof_is_the_area_of_quantus_on_the_same_superpixels(evidence, monkeypatch):
    segments, _ = superpixels(evidence.x, 9)
    assert all(len(image.unique()) == 9 for image in segments)
    given = iter(segments.numpy())
    module = quantus.metrics.faithfulness.irof
    monkeypatch.setattr(module.utils, "get_superpixel_segments", lambda **_: next(given))
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)  # NumPy 2 has it under this name alone
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = quantus.IROF(
            perturb_func=lambda arr, mask, **_: np.where(mask, 0, arr),  # its own takes images of one channel alone
            abs=False,
            normalise=False,
            return_aggregate=False,
            disable_warnings=True,
        )(
            model=copy.deepcopy(evidence.model).float(),
            x_batch=evidence.x.float().numpy(),
            y_batch=evidence.target.numpy(),
            a_batch=evidence.map.sum(1, keepdim=True).numpy(),
            softmax=True,
        )
    lost = IROF(segments=9, reduce="signed", removal="black")(evidence).curve
    curve = 1 - lost[:, 1:].numpy()  # theirs begins after the first step
    np.testing.assert_allclose(9 - np.trapezoid(curve, axis=1), expected, atol=1e-5)


def test_empty_superpixels_go_last_and_do_not_count():
    segment = torch.tensor([[0, 0, 2, 2]])
    relevance = torch.tensor([[[[1.0, 1.0], [5.0, 5.0]]]])
    for order, expected in (("most", [1, 2, 0]), ("least", [0, 2, 1])):
        seen = Evidence(relevance, ["a"])
        rank, present = IROF(order=order, reduce="signed")._ranks(seen, segment, 3)
        assert rank[0].tolist() == expected and present.tolist() == [2]
    rank, _ = IROF(order="random")._ranks(Evidence(relevance, ["a"]), segment, 3)
    assert rank[0, 1] == 2


def test_the_value_has_a_direction_and_settings_are_checked(evidence):
    assert IROF().higher_is_better and IROF(order="least").higher_is_better is False
    assert IROF(order="random").higher_is_better is None
    evidence.x[1] = 0.5
    assert list(IROF(segments=4)(evidence).why) == [1]
    with pytest.raises(ValueError, match="segments must be at least 2"):
        IROF(segments=1)


def test_a_score_does_not_depend_on_its_batch_neighbours(evidence):
    parts = {name: getattr(evidence, name)[3:4] for name in ("map", "keys", "x", "target")}
    alone = IROF(segments=9)(dataclasses.replace(evidence, **parts))
    torch.testing.assert_close(alone.curve, IROF(segments=9)(evidence).curve[3:4], rtol=1e-11, atol=0)
