"""Control maps are what they say they are, and look at no more than they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import random_images
from scipy import ndimage

from stochx.attributions import BlurredIG, CentreBlob, IntegratedGradients, RandomMap, SobelEdges
from stochx.catalog import ATTRIBUTIONS
from stochx.engine.modes import plain_modes
from stochx.errors import UsageError

CONTROLS = ["random", "centre", "sobel", "blurred-ig"]
TARGET = torch.zeros(5, dtype=torch.long)


@pytest.fixture(autouse=True)
def formulas():
    """Call formulas as entries call each other: with what is checked already, so that no network is asked for it."""
    with plain_modes():
        yield


def never(x):
    raise AssertionError("a control asked the model")


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_says_that_it_is_one(name):
    assert ATTRIBUTIONS.summary(name).startswith("A control, not an explanation")
    assert "measures of smoothness" in " ".join(ATTRIBUTIONS.docstring(name).lower().split())


@pytest.mark.parametrize("control", [RandomMap(), CentreBlob(), SobelEdges()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_blind_control_asks_no_model_and_follows_its_input(control, dtype, images):
    found = control(never, images.to(dtype), TARGET)
    assert found.map.shape == (5, 1, 16, 16) and found.map.dtype == dtype
    assert (found.error, found.gap, found.used) == (None, None, None)
    assert torch.equal(control(never, images.to(dtype), TARGET + 1).map, found.map)


def test_random_maps_are_standard_normal_and_follow_their_keys():
    x = random_images(3, 3, 128, 128)
    one = RandomMap()(never, x, TARGET[:3], keys=["a", "b", "c"]).map
    assert abs(one.mean().item()) < 0.02 and one.std().item() == pytest.approx(1, abs=0.02)
    other = RandomMap()(never, 1 - x, TARGET[:3], keys=["b", "a", "d"]).map
    assert torch.equal(one[:2], other[:2].flip(0)) and not torch.equal(one[2], other[2])
    corr = torch.corrcoef(one.flatten(1))
    assert (corr - torch.eye(3).to(corr)).abs().max() < 0.03


def test_the_blob_falls_with_the_distance_to_the_centre():
    (blob,) = CentreBlob(width=0.25)(never, random_images(1, 3, 9, 17), TARGET[:1]).map[0]
    assert blob.argmax() == 4 * 17 + 8 and blob.max() == 1
    for turned in (blob.flip(0), blob.flip(1)):
        torch.testing.assert_close(turned, blob)
    assert blob[4, 8 + 3].item() == pytest.approx(np.exp(-9 / (2 * 2.25**2)))
    assert blob[0, 8] == blob[4, 4]


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (1, 1, 11, 23)])
def test_edges_agree_with_scipy(shape):
    x = random_images(*shape)
    grey = x.mean(1).numpy()
    expected = [np.hypot(ndimage.sobel(g, 0, mode="reflect"), ndimage.sobel(g, 1, mode="reflect")) / 8 for g in grey]
    np.testing.assert_allclose(SobelEdges()(never, x, TARGET[: len(x)]).map[:, 0].numpy(), expected, atol=1e-14)


def test_a_ramp_has_its_slope_as_edge_and_a_plain_image_none():
    ramp = (0.01 * torch.arange(16.0).double()).expand(1, 3, 16, 16)
    inner = SobelEdges()(never, ramp, TARGET[:1]).map[0, 0, :, 1:-1]
    torch.testing.assert_close(inner, torch.full_like(inner, 0.01))
    assert not SobelEdges()(never, torch.full((1, 3, 16, 16), 0.5), TARGET[:1]).map.any()


@pytest.mark.parametrize("width", [0.05, 0.15, 0.25])
def test_blurred_ig_agrees_with_scipy(width, tiny, images):
    y = tiny(images).argmax(1)
    strength = IntegratedGradients(steps=5)(tiny, images, y).map.sum(1).abs()
    radius = min(int(np.ceil(4 * width * 16)), 15)
    expected = [ndimage.gaussian_filter(s.numpy(), width * 16, mode="mirror", radius=radius) for s in strength]
    found = BlurredIG(steps=5, width=width)(tiny, images, y)
    np.testing.assert_allclose(found.map[:, 0].numpy(), expected, rtol=1e-9)
    assert found.used.tolist() == [5] * 5 and found.gap is None


@pytest.mark.parametrize(
    "text", ["centre:width=0", "centre:width=-1", "blurred-ig:width=0", "blurred-ig:width=0.3", "blurred-ig:steps=0"]
)
def test_controls_refuse_what_makes_no_sense(text):
    with pytest.raises(UsageError, match=r"width must|steps must"):
        ATTRIBUTIONS.make(text)
