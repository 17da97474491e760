"""AUTVC against scikit-image's pyramid and plain numpy, and the areas under curves against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import simpson as scipy_simpson
from scipy.ndimage import gaussian_filter
from skimage.transform import pyramid_gaussian

from stochx.errors import InputError
from stochx.metrics import AUTVC, Evidence, autvc
from stochx.metrics._quadrature import mean_height, simpson, simpson_weights

SIX = [5 / 12, 13 / 12, 1, 1, 13 / 12, 5 / 12]  # SciPy's former even="avg"


def random_maps(*shape, seed=3):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def score(relevance, **options):
    return AUTVC(**options)(Evidence(relevance, range(len(relevance))))


def points_by_numpy(heatmap, norm=1, smallest=30):
    """The total variation per pixel of each level of a map (H, W)."""
    points, sides = [], []
    for level in pyramid_gaussian(heatmap, downscale=1.5):
        if min(level.shape) < smallest:
            break
        strength = np.abs(level)
        low, high = strength.min(), np.percentile(strength, 99)
        scaled = np.clip((strength - low) / (high - low), 0, 1)
        down, right = np.diff(scaled, axis=0), np.diff(scaled, axis=1)
        total = (np.abs(down) ** norm).sum() ** (1 / norm) + (np.abs(right) ** norm).sum() ** (1 / norm)
        points.append(total / scaled.size)
        sides.append(level.shape[0])
    return np.array(points), sides


@pytest.fixture
def maps():
    """White noise, a smooth field, and a signed wave with a heavy tail: (3, 3, 224, 224)."""
    found = random_maps(3, 3, 224, 224)
    found[1] = torch.from_numpy(gaussian_filter(found[1].numpy(), (0, 5, 5)))
    wave = torch.linspace(-9, 9, 224, dtype=torch.float64)
    found[2] = 0.05 * found[2] + torch.sin(wave[:, None] * 2) * torch.exp(wave / 3)
    return found


# AUTVC


@pytest.mark.parametrize("norm", [1, 2, 1.5])
@pytest.mark.parametrize("order", ["signed", "abs"])
def test_autvc_is_its_definition_on_scikit_images_pyramid(norm, order, maps):
    found = score(maps, norm=norm, order=order)
    assert found.setting == "6 levels, 224 to 30 px" and not found.why and found.places.tolist() == [0, 1, 2, 3, 4, 5]
    for n in range(3):
        heatmap = maps[n].sum(0).numpy()
        points, sides = points_by_numpy(np.abs(heatmap) if order == "abs" else heatmap, norm)
        assert sides == [224, 150, 100, 67, 45, 30]
        np.testing.assert_allclose(found.curve[n].numpy(), points, rtol=1e-11)
        assert found.value[n].item() == pytest.approx(points @ SIX, rel=1e-11)


@pytest.mark.parametrize(("height", "width", "smallest"), [(60, 90, 10), (90, 61, 3), (33, 20, 2)])
def test_maps_need_not_be_square(height, width, smallest):
    relevance = random_maps(2, 1, height, width)
    found = score(relevance, smallest=smallest)
    for n in range(2):
        points, _ = points_by_numpy(relevance[n, 0].numpy(), smallest=smallest)
        np.testing.assert_allclose(found.curve[n].numpy(), points, rtol=1e-11)


def test_the_scale_of_the_map_and_its_sign_do_not_matter(maps):
    for scale in 7, -1, 1e-9:
        torch.testing.assert_close(score(scale * maps).value, score(maps).value, rtol=1e-11, atol=0)


def test_only_the_channel_sum_counts(maps):
    torch.testing.assert_close(score(maps.sum(1, keepdim=True)).value, score(maps).value, rtol=1e-12, atol=0)


def test_a_map_scores_the_same_alone_and_in_whatever_pieces_the_batch_is_cut(maps, monkeypatch):
    whole = score(maps).value
    torch.testing.assert_close(score(maps[1:2]).value, whole[1:2], rtol=1e-13, atol=0)
    monkeypatch.setattr(autvc, "AT_ONCE", 2 * 224 * 224)
    torch.testing.assert_close(score(maps).value, whole, rtol=1e-13, atol=0)


def test_single_precision_gives_the_same_within_1e_5(maps):
    found = score(maps.float())
    assert found.value.dtype == torch.float32
    torch.testing.assert_close(found.value.double(), score(maps).value, rtol=1e-5, atol=0)


def test_white_noise_scores_2_35_and_any_blur_far_less():
    noise = random_maps(3, 1, 224, 224)
    blurred = torch.from_numpy(gaussian_filter(noise.numpy(), (0, 0, 12, 12)))
    assert score(noise).value.mean().item() == pytest.approx(2.35, abs=0.05)
    assert score(blurred).value.max() < 0.7
    assert (score(noise, order="abs").value < score(noise).value).all()


def test_a_constant_map_is_undefined_for_its_image_alone(maps):
    maps[1] = 0.3
    found = score(maps)
    assert found.why == {1: "a level of the map is constant"}
    assert found.value.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("side", "sides"),
    [
        (448, [448, 299, 200, 134, 90, 60, 40]),
        (224, [224, 150, 100, 67, 45, 30]),
        (128, [128, 86, 58, 39, 26, 18]),
        (32, [32, 22, 15, 10, 7, 5]),
        (16, [16, 11, 8, 6, 4]),
    ],
)
def test_small_maps_get_six_levels_too_while_they_have_four_pixels(side, sides):
    found = score(random_maps(1, 1, side, side))
    assert found.setting == f"{len(sides)} levels, {side} to {sides[-1]} px"
    points, seen = points_by_numpy(random_maps(1, 1, side, side)[0, 0].numpy(), smallest=sides[-1])
    assert seen == sides
    np.testing.assert_allclose(found.curve[0].numpy(), points, rtol=1e-10)


@pytest.mark.parametrize("smallest", [1, 2])
def test_the_pyramid_ends_where_it_no_longer_shrinks(smallest):
    found = score(random_maps(2, 1, 20, 20), smallest=smallest)
    assert found.curve.shape == (2, 8) and found.setting == "8 levels, 20 to 2 px" and found.value.isfinite().all()


@pytest.mark.parametrize(("side", "options"), [(3, {}), (4, {}), (40, {"smallest": 30})], ids=str)
def test_a_map_with_fewer_than_two_levels_is_refused(side, options):
    with pytest.raises(InputError, match="levels") as error:
        score(random_maps(1, 1, side, side), **options)
    assert "smallest" in error.value.hint


@pytest.mark.parametrize("options", [{"norm": 0.5}, {"smallest": -1}], ids=str)
def test_values_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="must"):
        AUTVC(**options)


# Areas


@pytest.mark.parametrize("points", [3, 5, 7, 31])
def test_an_odd_number_of_points_has_scipys_simpson_weights(points):
    weights = simpson_weights(points, torch.zeros(1, dtype=torch.float64))
    np.testing.assert_allclose(weights.numpy(), scipy_simpson(np.eye(points)), rtol=1e-14)


@pytest.mark.parametrize("points", [4, 6, 8, 20])
def test_an_even_number_is_the_mean_of_a_trapezoid_at_either_end(points):
    unit = np.eye(points)
    first = scipy_simpson(unit[:, :-1]) + np.trapezoid(unit[:, -2:])
    last = np.trapezoid(unit[:, :2]) + scipy_simpson(unit[:, 1:])
    weights = simpson_weights(points, torch.zeros(1, dtype=torch.float64)).tolist()
    assert weights == pytest.approx(((first + last) / 2).tolist(), rel=1e-14)
    assert points != 6 or weights == pytest.approx(SIX, rel=1e-14)


def test_simpson_is_exact_for_a_cubic_and_one_point_stands_for_itself():
    t = torch.arange(7, dtype=torch.float64)
    assert simpson((t**3 - t)[None]).item() == pytest.approx(6**4 / 4 - 6**2 / 2, rel=1e-14)
    assert simpson(torch.tensor([[3.0], [4.0]])).tolist() == [3, 4]
    assert simpson(torch.tensor([[3.0, 4.0]])).tolist() == [3.5]


def test_the_mean_height_is_numpys_trapezoid_over_the_length():
    curve, places = random_maps(4, 9), random_maps(9).sort().values
    expected = np.trapezoid(curve.numpy(), places.numpy()) / (places[-1] - places[0]).item()
    np.testing.assert_allclose(mean_height(curve, places).numpy(), expected, rtol=1e-13)
