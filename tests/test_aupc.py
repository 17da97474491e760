"""AUPC and the rankings below it, against the definitions as double loops over windows, steps and draws."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from conftest import random_images
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import simpson
from scipy.stats import spearmanr

from stochx.engine.ranking import disagreement, fitting_regions, positions, regions, window_means
from stochx.engine.seeds import generator
from stochx.errors import InputError
from stochx.metrics import AUPC, Evidence

KEYS = ["0/a", "0/b", "0/c", "0/d", "0/e"]
SMALL = {"kernel": 3, "regions": 6, "draws": 5}


def random_maps(*shape, seed=11):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def brightness(x):
    """Two logits that know no places: the mean pixel above a half, and its negative."""
    mean = x.mean((1, 2, 3))
    return torch.stack([0.5 + mean, -0.5 - mean], 1)


def windows_by_loops(strength, side, count, order):
    """Corners of windows by their mean, each kept if it overlaps none before it."""
    height, width = strength.shape
    found = []
    for i in range(height - side + 1):
        for j in range(width - side + 1):
            found.append((strength[i : i + side, j : j + side].mean(), i, j))
    found.sort(reverse=order == "most")
    kept = []
    for _, i, j in found:
        if all(abs(i - a) >= side or abs(j - b) >= side for a, b in kept):
            kept.append((i, j))
    return kept[:count]


def read_one(model, pixels, target, read):
    with torch.no_grad():
        logits = model(torch.from_numpy(pixels)[None])[0].numpy()
    if read == "logit":
        return logits[target]
    if read == "margin":
        return logits[target] - np.delete(logits, target).max()
    return np.exp(logits[target]) / np.exp(logits).sum()


def aupc_by_loops(evidence, n, kernel, regions, draws, patch="uniform", order="most", read="logit"):
    """(value, curve) of image n, one forward at a time."""
    now, target = evidence.x[n].numpy().copy(), int(evidence.target[n])
    mean, std = now.mean((1, 2)), now.std((1, 2))
    strength = np.abs(evidence.map[n].sum(0).numpy())
    curve = [read_one(evidence.model, now, target, read)]
    for step, (i, j) in enumerate(windows_by_loops(strength, kernel, regions, order)):
        source = generator(evidence.keys[n], "patch", step)
        draw = torch.rand if patch == "uniform" else torch.randn
        drawn = draw(draws, len(now), kernel, kernel, generator=source).double().numpy()
        if patch == "image":
            drawn = np.clip(mean[:, None, None] + std[:, None, None] * drawn, 0, 1)
        tried, heights = [], []
        for one in drawn:
            pixels = now.copy()
            pixels[:, i : i + kernel, j : j + kernel] = one
            tried.append(pixels)
            heights.append(read_one(evidence.model, pixels, target, read))
        curve.append(np.mean(heights))
        far = np.abs(np.array(heights) - np.median(heights))
        now = tried[int(np.flatnonzero(far <= far.min() + 1e-12)[0])]  # the earlier of equally near ones
    curve = np.array(curve) / abs(curve[0])
    return (simpson(curve) if len(curve) % 2 else None), curve


@pytest.fixture
def evidence(tiny, images):
    return Evidence(random_maps(5, 3, 16, 16), KEYS, images, tiny(images).argmax(1), tiny)


# AUPC


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"order": "least"},
        {"patch": "image"},
        {"read": "probability"},
        {"read": "margin", "order": "least"},
        {"kernel": 2, "regions": 10, "draws": 4},
    ],
    ids=str,
)
def test_aupc_is_the_literal_loop(options, evidence):
    options = SMALL | options
    found = AUPC(**options)(evidence)
    assert found.value.dtype == torch.float64 and not found.why
    assert found.places.tolist() == list(range(options["regions"] + 1))
    for n in range(5):
        value, curve = aupc_by_loops(evidence, n, **options)
        np.testing.assert_allclose(found.curve[n].numpy(), curve, rtol=1e-10)
        assert found.value[n].item() == pytest.approx(value, rel=1e-10)


@pytest.mark.parametrize("draws", [1, 2, 6])
def test_of_an_even_number_of_draws_the_earlier_middle_one_stays(draws, evidence):
    found = AUPC(kernel=2, regions=8, draws=draws)(evidence).curve
    for n in range(5):
        _, curve = aupc_by_loops(evidence, n, kernel=2, regions=8, draws=draws)
        np.testing.assert_allclose(found[n].numpy(), curve, rtol=1e-10)


def test_the_same_holds_in_single_precision(evidence):
    single = dataclasses.replace(evidence, x=evidence.x.float(), map=evidence.map.float(), model=evidence.model.float())
    found = AUPC(kernel=3, regions=6, draws=6)(single)
    evidence.model.double()
    torch.testing.assert_close(
        found.curve.double(), AUPC(kernel=3, regions=6, draws=6)(evidence).curve, rtol=0, atol=1e-5
    )


def test_a_first_logit_that_is_not_positive_is_undefined_for_its_image_alone(evidence):
    evidence.target[2] = 0
    found = AUPC(**SMALL)(evidence)
    assert evidence.model(evidence.x)[2, 0] < 0 and found.why == {2: "the first logit is not positive"}
    assert found.value.isnan().tolist() == [False, False, True, False, False]


def test_a_first_margin_of_a_class_that_does_not_win_is_undefined(evidence):
    evidence.target[:] = 4
    found = AUPC(**SMALL, read="margin")(evidence)
    assert found.why == dict.fromkeys(range(5), "the first margin is not positive")


def test_regions_that_do_not_fit_are_refused_with_what_does(evidence):
    with pytest.raises(InputError, match="only 8 regions of 3 pixels") as error:
        AUPC(kernel=3, regions=9)(evidence)
    assert "regions=8" in error.value.hint
    with pytest.raises(InputError, match="only 0 regions") as error:
        AUPC(kernel=17)(evidence)
    assert error.value.hint == "use a smaller kernel"


@pytest.mark.parametrize(("size", "side"), [(224, 15), (32, 2), (16, 1), (5, 1)])
def test_the_region_scales_with_the_short_side(size, side):
    x = random_images(1, 3, size, size + 9)
    found = AUPC(regions=2, draws=1)(Evidence(x, [0], x, torch.tensor([0]), brightness))
    assert found.setting == f"2 regions of {side} px"


def test_all_maps_of_an_image_meet_the_same_patches():
    x = torch.full((2, 3, 16, 16), 0.5, dtype=torch.float64)
    one, other = (
        AUPC(**SMALL)(Evidence(random_maps(2, 3, 16, 16, seed=seed), KEYS[:2], x, torch.tensor([0, 0]), brightness))
        for seed in (1, 2)
    )
    torch.testing.assert_close(one.curve, other.curve, rtol=1e-13, atol=0)
    assert (one.curve[0, 1:] != one.curve[1, 1:]).all()


def test_a_random_order_does_not_look_at_the_map(evidence):
    metric = AUPC(**SMALL, order="random")
    other = dataclasses.replace(evidence, map=random_maps(5, 3, 16, 16, seed=99))
    assert torch.equal(metric(evidence).curve, metric(other).curve)
    assert not torch.allclose(metric(evidence).curve, metric(dataclasses.replace(evidence, keys=KEYS[::-1])).curve)


@pytest.mark.parametrize("options", [{}, {"order": "least", "draws": 50}, {"patch": "image"}], ids=str)
def test_aupc_does_not_depend_on_its_batch_neighbours(options, evidence):
    metric, whole = AUPC(**SMALL | options), AUPC(**SMALL | options)(evidence)
    parts = {name: getattr(evidence, name)[3:4] for name in ("map", "keys", "x", "target")}
    alone = metric(Evidence(model=evidence.model, **parts))
    torch.testing.assert_close(alone.curve, whole.curve[3:4], rtol=1e-12, atol=0)
    torch.testing.assert_close(alone.value, whole.value[3:4], rtol=1e-12, atol=0)


@pytest.mark.parametrize("scale", [7, -1, 2.0**-40, 1e6])
def test_aupc_does_not_change_with_the_scale_of_the_map(scale, evidence):
    scaled = dataclasses.replace(evidence, map=scale * evidence.map)
    assert torch.equal(AUPC(**SMALL)(scaled).curve, AUPC(**SMALL)(evidence).curve)


def test_only_the_channel_sum_counts(evidence):
    summed = dataclasses.replace(evidence, map=evidence.map.sum(1, keepdim=True))
    assert torch.equal(AUPC(**SMALL)(summed).curve, AUPC(**SMALL)(evidence).curve)


def test_the_map_that_sees_the_network_falls_faster_than_its_opposite():
    x = random_images(3, 3, 16, 16) * 0.2 + 0.6
    weight = random_maps(16, 16).abs() ** 3

    def model(x):
        return (x.mean(1) * weight).sum((1, 2))[:, None]

    seen = Evidence(weight.expand(3, 1, 16, 16), KEYS[:3], x, torch.zeros(3).long(), model)
    most, least, middle = (AUPC(**SMALL, order=order)(seen).value for order in ("most", "least", "random"))
    assert (most < middle).all() and (middle < least).all()


def test_nothing_of_the_evidence_is_changed(evidence):
    before, state = evidence.x.clone(), torch.get_rng_state()
    AUPC(**SMALL)(evidence)
    assert torch.equal(evidence.x, before) and torch.equal(torch.get_rng_state(), state)


def test_lower_is_better_only_with_the_most_relevant_first():
    assert [AUPC(order=o).higher_is_better for o in ("most", "least", "random")] == [False, True, None]


@pytest.mark.parametrize("options", [{"kernel": -1}, {"regions": 0}, {"draws": 0}], ids=str)
def test_values_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="must"):
        AUPC(**options)


# Windows


@pytest.mark.parametrize("order", ["most", "least"])
@pytest.mark.parametrize(("height", "width", "side"), [(16, 16, 3), (11, 23, 4), (7, 30, 1), (5, 12, 5)])
def test_regions_are_those_of_the_loops_the_last_row_and_column_included(order, height, width, side):
    strength = random_maps(6, height, width).abs()
    strength[0, :, -1] *= 100 if order == "most" else 0.01  # the authors would miss it
    count = fitting_regions(height, width, side)
    found = regions(strength, side, count, range(6), order)
    for n in range(6):
        assert found[n].tolist() == [list(c) for c in windows_by_loops(strength[n].numpy(), side, count, order)]


@pytest.mark.parametrize("side", [1, 2, 5, 9])
def test_window_means_are_means_of_windows(side):
    strength = random_maps(2, 9, 12)
    found = window_means(strength, side)
    assert found.shape == (2, 10 - side, 13 - side)
    for i in range(10 - side):
        for j in range(13 - side):
            expected = strength[:, i : i + side, j : j + side].mean((1, 2))
            torch.testing.assert_close(found[:, i, j], expected, rtol=1e-12, atol=1e-15)


def test_windows_of_the_same_values_have_exactly_the_same_mean():
    strength = random_maps(1, 40, 40).abs()
    strength[:, 20:], strength[:, :, 30:] = 0, 0.3
    found = window_means(strength, 5)
    assert found[0, 20:, :26].unique().tolist() == [0] and len(found[0, :, 30:].unique()) == 1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 14), st.integers(1, 14), st.integers(1, 5), st.integers(1, 4), st.integers(0, 999))
def test_a_greedy_choice_never_runs_out_before_the_windows_that_fit(height, width, side, levels, seed):
    count = fitting_regions(height, width, side)
    assert (count == 0) == (min(height, width) < side)
    if count:
        source = torch.Generator().manual_seed(seed)
        strength = torch.randint(levels, (3, height, width), generator=source).double()
        for corners in regions(strength, side, count, [seed, "a", "b"]).tolist():
            assert all(0 <= i <= height - side and 0 <= j <= width - side for i, j in corners)
            for n, (i, j) in enumerate(corners):
                assert all(abs(i - a) >= side or abs(j - b) >= side for a, b in corners[:n])


@pytest.mark.parametrize("order", ["most", "least"])
def test_a_constant_stretch_is_broken_by_the_key_alone(order):
    strength = random_maps(16, 16).abs() * 0.1
    strength[8:] = 7.3 if order == "most" else 0
    keys = [*range(60), *range(60)]
    found = regions(strength.expand(120, 16, 16), 3, 4, keys, order)
    assert torch.equal(found[:60], found[60:]) and found[:, :, 0].min() >= 8
    assert len({tuple(corner) for corner in found[:, 0].tolist()}) > 25  # of 84 places
    assert {tuple(regions(strength[None], 3, 4, [5], order)[0].flatten().tolist())} == {
        tuple(found[5].flatten().tolist())
    }


def test_a_tie_in_the_map_reaches_the_score(evidence):
    flat = dataclasses.replace(evidence, map=torch.ones_like(evidence.map))
    again, other = AUPC(**SMALL)(flat).value, AUPC(**SMALL)(dataclasses.replace(flat, keys=KEYS[::-1])).value
    assert torch.equal(AUPC(**SMALL)(flat).value, again) and (again != other).any()


# Positions


def test_positions_are_those_of_a_sort():
    strength = random_maps(4, 50)
    for n in range(4):
        expected = np.argsort(np.argsort(strength[n].numpy()))
        assert positions(strength, range(4), "least")[n].tolist() == expected.tolist()
        assert positions(strength, range(4), "most")[n].tolist() == (49 - expected).tolist()


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.sampled_from(["most", "least", "random"]))
def test_positions_are_a_permutation_that_never_contradicts_the_strength(values, order):
    place = positions(torch.tensor([values]).double(), ["k"], order)[0].tolist()
    assert sorted(place) == list(range(len(values)))
    ranked = [value for _, value in sorted(zip(place, values, strict=True))]
    assert order == "random" or ranked == sorted(values, reverse=order == "most")


def test_equal_features_come_in_an_order_that_the_key_draws():
    strength = torch.tensor([[1.0, 0.0, 0.0, 2.0]]).expand(2000, 4)
    place = positions(strength, range(2000))
    assert place[:, 3].eq(0).all() and place[:, 0].eq(1).all()
    assert 0.46 < place[:, 1].eq(2).double().mean().item() < 0.54
    assert torch.equal(positions(strength[:1], [7])[0], place[7])


def test_a_random_place_is_uniform_and_ignores_the_strength():
    place = positions(random_maps(600, 5), range(600), "random")
    assert torch.equal(place, positions(torch.zeros(600, 5), range(600), "random"))
    assert (place.double().mean(0) - 2).abs().max() < 0.25


# Disagreement


def test_disagreement_is_the_mean_of_1_minus_scipys_spearman_over_pairs():
    maps = [random_maps(3, 6, 6, seed=seed) for seed in range(3)]
    expected = [
        np.mean([1 - spearmanr(maps[a][n].abs().flatten(), maps[b][n].abs().flatten()).statistic for a, b in pairs])
        for n in range(3)
        for pairs in [[(0, 1), (0, 2), (1, 2)]]
    ]
    assert disagreement(maps).tolist() == pytest.approx(expected, rel=1e-12)


def test_a_map_agrees_with_its_negative_and_a_single_one_with_nobody():
    one = random_maps(3, 6, 6)
    assert disagreement([one, -2 * one]).tolist() == pytest.approx([0] * 3, abs=1e-12)
    assert disagreement([one]).isnan().all()
