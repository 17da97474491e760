"""Curves of removed pixels, values and regions against literal loops and quantus; ROAD against a dense solve."""

from __future__ import annotations

import copy
import dataclasses
import warnings

import numpy as np
import pytest
import torch
from conftest import random_images

from stochx.engine.seeds import generator
from stochx.errors import InputError
from stochx.metrics import ROAD, Deletion, Evidence, Insertion, PixelFlipping, RegionPerturbation
from stochx.metrics._imputation import impute

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import quantus
    from quantus.functions.perturb_func import noisy_linear_imputation

KEYS = ["0/a", "0/b", "0/c", "0/d", "0/e"]
METRICS = [
    Deletion(steps=7),
    Insertion(steps=7),
    PixelFlipping(steps=7),
    RegionPerturbation(side=3, regions=9),
    ROAD(shares=4),
]


def name(metric):
    return type(metric).__name__


@pytest.fixture
def evidence(tiny, images):
    relevance = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return Evidence(relevance, KEYS, images, torch.tensor([1, 4, 0, 1, 2]), tiny)


def reference(removal, evidence, n):
    """What stands in the place of removed pixels of image n, (C, H, W)."""
    x = evidence.x[n].numpy()
    if removal == "uniform":
        return torch.rand(x.shape, generator=generator(evidence.keys[n], "removal")).double().numpy()
    constant = {"black": 0.0, "white": 1.0, "mean": x.mean((1, 2), keepdims=True)}
    return np.broadcast_to(constant[removal], x.shape)


def read_one(evidence, n, pixels, read):
    with torch.no_grad():
        logits = evidence.model(torch.from_numpy(pixels)[None])[0].numpy()
    own = int(evidence.target[n])
    if read == "logit":
        return logits[own]
    if read == "margin":
        return logits[own] - np.delete(logits, own).max()
    return np.exp(logits[own]) / np.exp(logits).sum()


def exchanged(evidence, n, ranked, counts, before, after, read):
    """Scores of image n while the features `ranked` (index arrays into (C, H, W)) go from `before` to `after`."""
    curve = []
    for count in counts:
        pixels = before.copy()
        for feature in ranked[:count]:
            pixels[feature] = after[feature]
        curve.append(read_one(evidence, n, pixels, read))
    return np.array(curve)


def pixels_ranked(relevance, order, reduce="abs"):
    """Places of (C, H, W) maps as slices over all channels, by their channel sum."""
    strength = relevance.sum(0).numpy()
    strength = np.abs(strength) if reduce == "abs" else strength
    found = sorted(np.ndindex(strength.shape), key=lambda place: strength[place], reverse=order == "most")
    return [(slice(None), i, j) for i, j in found]


def evenly(steps, total):
    return [round(total * k / steps) for k in range(steps + 1)]


# Deletion and insertion


@pytest.mark.parametrize(
    ("removal", "order", "read", "reduce"),
    [
        ("mean", "most", "probability", "abs"),
        ("black", "least", "logit", "signed"),
        ("white", "most", "margin", "signed"),
        ("uniform", "most", "logit", "abs"),
    ],
)
@pytest.mark.parametrize("metric", [Deletion, Insertion])
def test_deletion_and_insertion_are_their_literal_loops(metric, removal, order, read, reduce, evidence):
    found = metric(steps=7, removal=removal, order=order, read=read, reduce=reduce)(evidence)
    for n in range(5):
        x, other = evidence.x[n].numpy(), reference(removal, evidence, n)
        before, after = (other, x) if metric is Insertion else (x, other)
        ranked = pixels_ranked(evidence.map[n], order, reduce)
        curve = exchanged(evidence, n, ranked, evenly(7, 256), before, after, read)
        np.testing.assert_allclose(found.curve[n].numpy(), curve, rtol=1e-10)
        assert found.value[n].item() == pytest.approx(np.trapezoid(curve, np.linspace(0, 1, 8)), rel=1e-10)
    np.testing.assert_allclose(found.places.numpy(), np.linspace(0, 1, 8), rtol=1e-15)


@pytest.mark.parametrize("removal", ["mean", "blur", "uniform"])
def test_deleting_the_most_relevant_is_inserting_the_least_relevant_backwards(removal, evidence):
    deleted = Deletion(steps=9, removal=removal, order="most")(evidence)
    inserted = Insertion(steps=9, removal=removal, order="least")(evidence)
    torch.testing.assert_close(deleted.curve, inserted.curve.flip(1), rtol=1e-13, atol=0)
    torch.testing.assert_close(deleted.value, inserted.value, rtol=1e-13, atol=0)


def test_one_step_is_the_mean_of_image_and_replacement(evidence):
    x, y = evidence.x, evidence.target
    with torch.no_grad():
        ends = [evidence.model(pixels).softmax(1)[range(5), y] for pixels in (x, torch.zeros_like(x))]
    for metric in Deletion, Insertion:
        found = metric(steps=1, removal="black")(evidence).value
        torch.testing.assert_close(found, (ends[0] + ends[1]) / 2, rtol=1e-12, atol=0)


def test_on_a_linear_logit_the_exact_order_deletes_fastest_and_inserts_fastest(linear):
    x = random_images(4, 1, 4, 4)
    relevance = linear.weight.detach()[0].view(1, 1, 4, 4) * x
    options = {"removal": "black", "read": "logit", "reduce": "signed", "steps": 16}
    seen = Evidence(relevance, KEYS[:4], x, torch.zeros(4).long(), linear)
    for metric, sign in (Deletion, 1), (Insertion, -1):
        most, middle, least = (sign * metric(order=o, **options)(seen).value for o in ("most", "random", "least"))
        assert (most < middle).all() and (middle < least).all()


# Pixel flipping and region perturbation


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize(("removal", "order"), [("black", "most"), ("uniform", "least")])
def test_pixel_flipping_is_its_literal_loop_over_signed_values(channels, removal, order, evidence):
    relevance = evidence.map[:, :channels]
    found = PixelFlipping(steps=7, removal=removal, order=order)(dataclasses.replace(evidence, map=relevance))
    for n in range(5):
        values = relevance[n].numpy()
        ranked = sorted(np.ndindex(values.shape), key=lambda place: values[place], reverse=order == "most")
        if channels == 1:
            ranked = [(slice(None), i, j) for _, i, j in ranked]
        x, other = evidence.x[n].numpy(), reference(removal, evidence, n)
        curve = exchanged(evidence, n, ranked, evenly(7, values.size), x, other, "probability")
        np.testing.assert_allclose(found.curve[n].numpy(), curve, rtol=1e-10)
        assert found.value[n].item() == pytest.approx(np.trapezoid(curve, dx=1 / 7), rel=1e-10)


@pytest.mark.parametrize(
    ("side", "regions", "removal", "order", "reduce"),
    [(4, 16, "mean", "most", "abs"), (3, 20, "uniform", "most", "signed"), (5, 7, "black", "least", "abs")],
)
def test_region_perturbation_is_its_literal_loop_on_a_grid(side, regions, removal, order, reduce, evidence):
    metric = RegionPerturbation(side, regions, removal, order, reduce=reduce)
    found = metric(evidence)
    assert found.setting == f"{regions} regions of {side} px" and found.places.tolist() == list(range(regions + 1))
    for n in range(5):
        strength = evidence.map[n].sum(0).numpy()
        strength = np.abs(strength) if reduce == "abs" else strength
        cells = [
            (strength[i : i + side, j : j + side].sum(), (slice(None), slice(i, i + side), slice(j, j + side)))
            for i in range(0, 16 - side + 1, side)
            for j in range(0, 16 - side + 1, side)
        ]
        ranked = [cell for _, cell in sorted(cells, key=lambda pair: pair[0], reverse=order == "most")]
        x, other = evidence.x[n].numpy(), reference(removal, evidence, n)
        curve = exchanged(evidence, n, ranked, range(regions + 1), x, other, "probability")
        np.testing.assert_allclose(found.curve[n].numpy(), curve, rtol=1e-10)
        aopc = sum(curve[0] - height for height in curve) / (regions + 1)
        assert found.value[n].item() == pytest.approx(aopc, rel=1e-9)


def by_quantus(metric, evidence, relevance):
    """Curves (N, P) of a metric of quantus, which works in single precision and calls an image's least value black."""
    model = copy.deepcopy(evidence.model).float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = metric(
            model=model,
            x_batch=evidence.x.float().numpy(),
            y_batch=evidence.target.numpy(),
            a_batch=relevance.numpy(),
            softmax=True,
        )
    return np.array(found, dtype=np.float64)


def test_pixel_flipping_draws_the_curve_of_quantus(evidence):
    peer = quantus.PixelFlipping(
        features_in_step=32, abs=False, normalise=False, perturb_baseline=0.0, disable_warnings=True
    )
    found = PixelFlipping(steps=24)(evidence).curve[:, 1:]  # theirs begins after the first step
    np.testing.assert_allclose(found.numpy(), by_quantus(peer, evidence, evidence.map), atol=1e-6)


@pytest.mark.parametrize(("order", "theirs"), [("most", "morf"), ("least", "lerf")])
def test_region_perturbation_draws_the_curve_of_quantus(order, theirs, evidence):
    peer = quantus.RegionPerturbation(
        patch_size=4,
        order=theirs,
        regions_evaluation=16,
        abs=False,
        normalise=False,
        perturb_baseline=0.0,
        disable_warnings=True,
    )
    curve = RegionPerturbation(side=4, regions=16, removal="black", order=order)(evidence).curve
    falls = by_quantus(peer, evidence, evidence.map.sum(1, keepdim=True).abs())
    np.testing.assert_allclose((curve[:, :1] - curve[:, 1:]).numpy(), falls, atol=1e-6)


def test_a_region_scales_with_the_image_and_too_many_are_refused(evidence):
    x = random_images(1, 1, 224, 230)
    seen = Evidence(x, [0], x, torch.tensor([0]), lambda x: x.mean((2, 3)))
    assert RegionPerturbation(regions=2)(seen).setting == "2 regions of 9 px"
    with pytest.raises(InputError, match="only 25 regions of 3 pixels") as error:
        RegionPerturbation(side=3, regions=26)(evidence)
    assert "regions=25" in error.value.hint
    with pytest.raises(InputError, match="only 0 regions") as error:
        RegionPerturbation(side=17)(evidence)
    assert "smaller side" in error.value.hint


# ROAD


def solved_densely(x, removed):
    """Pixels (C, H, W) whose removed ones (H, W) solve the paper's linear system."""
    height, width = removed.shape
    unknown = {place: row for row, place in enumerate(map(tuple, np.argwhere(removed).tolist()))}
    matrix, right = np.zeros((len(unknown), len(unknown))), np.zeros((len(unknown), len(x)))
    for (i, j), row in unknown.items():
        for di, dj in [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]:
            weight = 1 / 12 if di and dj else 1 / 6
            a, b = i + di, j + dj
            if not (0 <= a < height and 0 <= b < width):
                continue
            matrix[row, row] += weight  # at the border fewer neighbours count
            if (a, b) in unknown:
                matrix[row, unknown[a, b]] -= weight
            else:
                right[row] += weight * x[:, a, b]
    filled = x.copy()
    for (i, j), values in zip(unknown, np.linalg.solve(matrix, right), strict=True):
        filled[:, i, j] = values
    return filled


def holes(share, *shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(8)) < share


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize(("tolerance", "close"), [(1e-4, 1e-3), (1e-12, 1e-9)])
def test_imputation_solves_the_linear_system(share, tolerance, close, images):
    removed = holes(share, 5, 16, 16)
    removed[:, 0], removed[0, :, -3:], removed[:, 7, 7] = True, True, False
    found = impute(images, removed, tolerance)
    assert torch.equal(found.where(~removed[:, None], 0.0), images.where(~removed[:, None], 0.0))
    for n in range(5):
        expected = solved_densely(images[n].numpy(), removed[n].numpy())
        np.testing.assert_allclose(found[n].numpy(), expected, atol=close)


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_imputation_agrees_with_that_of_quantus(share, images):
    removed = holes(share, 16, 16)
    removed[0, :5] = True
    indices = np.flatnonzero(removed.numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = noisy_linear_imputation(images[0].numpy(), indices, noise=0.0)
    np.testing.assert_allclose(impute(images[:1], removed[None], 1e-12)[0].numpy(), theirs, atol=1e-9)


def test_nothing_removed_is_the_image_and_all_removed_is_its_mean(images):
    removed = torch.tensor([True, False, True, False, False])[:, None, None].expand(5, 16, 16)
    found = impute(images, removed)
    assert torch.equal(found[1], images[1]) and torch.equal(found[3], images[3])
    torch.testing.assert_close(found[0::2][:2], images[0::2][:2].mean((2, 3), keepdim=True).expand(2, 3, 16, 16))


def test_imputation_does_not_depend_on_its_batch_neighbours(images):
    removed = torch.cat([holes(0.9, 2, 16, 16), holes(0.05, 3, 16, 16)])
    torch.testing.assert_close(impute(images[1:2], removed[1:2]), impute(images, removed)[1:2], rtol=1e-12, atol=0)


def test_a_constant_image_stays_constant_and_a_gap_in_a_ramp_is_closed():
    flat, ramp = torch.full((1, 1, 8, 8), 0.4).double(), torch.arange(64.0).view(1, 1, 8, 8).double() / 64
    removed = torch.zeros(1, 8, 8, dtype=torch.bool)
    removed[:, 3:5, 2:6] = True
    torch.testing.assert_close(impute(flat, removed), flat)
    torch.testing.assert_close(impute(ramp, removed, 1e-12), ramp)


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize(("order", "reduce"), [("most", "abs"), ("least", "signed")])
def test_road_is_its_literal_loop(noise, order, reduce, evidence):
    found = ROAD(shares=4, noise=noise, order=order, reduce=reduce)(evidence)
    assert found.places.tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8])
    for n in range(5):
        ranked, x, curve = pixels_ranked(evidence.map[n], order, reduce), evidence.x[n].numpy(), []
        for step in range(4):
            removed = np.zeros((16, 16), dtype=bool)
            for _, i, j in ranked[: round(256 * (step + 1) / 5)]:
                removed[i, j] = True
            drawn = torch.randn(3, 16, 16, generator=generator(KEYS[n], "road", step)).double().numpy()
            pixels = solved_densely(x, removed) + noise * drawn * removed
            curve.append(read_one(evidence, n, pixels, "probability"))
        np.testing.assert_allclose(found.curve[n].numpy(), curve, atol=2e-5)
        assert found.value[n].item() == pytest.approx(np.mean(curve), abs=2e-5)


def test_without_noise_road_needs_no_draws(evidence):
    other = dataclasses.replace(evidence, keys=KEYS[::-1])
    assert torch.equal(ROAD(noise=0)(evidence).value, ROAD(noise=0)(other).value)
    assert (ROAD()(evidence).value != ROAD()(other).value).any()


# All of them


@pytest.mark.parametrize("metric", METRICS, ids=name)
def test_a_score_does_not_depend_on_its_batch_neighbours(metric, evidence):
    parts = {part: getattr(evidence, part)[3:4] for part in ("map", "keys", "x", "target")}
    alone, whole = metric(Evidence(model=evidence.model, **parts)), metric(evidence)
    torch.testing.assert_close(alone.value, whole.value[3:4], rtol=1e-11, atol=0)
    torch.testing.assert_close(alone.curve, whole.curve[3:4], rtol=1e-11, atol=0)


@pytest.mark.parametrize("metric", METRICS, ids=name)
def test_a_score_does_not_change_with_the_scale_of_the_map(metric, evidence):
    scaled = dataclasses.replace(evidence, map=7 * evidence.map)
    assert torch.equal(metric(scaled).curve, metric(evidence).curve)


@pytest.mark.parametrize("metric", METRICS, ids=name)
def test_ties_are_broken_by_the_key(metric, evidence):
    flat = dataclasses.replace(evidence, map=torch.ones_like(evidence.map))
    again, other = metric(flat), metric(dataclasses.replace(flat, keys=[*"vwxyz"]))
    assert torch.equal(metric(flat).value, again.value)
    assert (again.value - other.value).abs().min() > 0


@pytest.mark.parametrize("metric", METRICS, ids=name)
def test_a_random_order_does_not_look_at_the_map(metric, evidence):
    metric = dataclasses.replace(metric, order="random")
    other = dataclasses.replace(evidence, map=evidence.map.flip(2))
    assert metric.higher_is_better is None and torch.equal(metric(evidence).curve, metric(other).curve)


@pytest.mark.parametrize("metric", METRICS, ids=name)
def test_relevant_first_and_last_are_better_in_opposite_directions(metric):
    most, least = (dataclasses.replace(metric, order=o).higher_is_better for o in ("most", "least"))
    assert most == (type(metric) in (Insertion, RegionPerturbation)) and least == (not most)


@pytest.mark.parametrize("metric", METRICS[:4], ids=name)
@pytest.mark.parametrize(("removal", "value"), [("mean", 0.4), ("black", 0.0), ("white", 1.0)])
def test_an_image_that_equals_its_replacement_is_undefined_with_a_reason(metric, removal, value, evidence):
    evidence.x[2] = value
    found = dataclasses.replace(metric, removal=removal)(evidence)
    assert found.why == {2: "the image equals what would replace its pixels"}
    assert found.value.isnan().tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("metric", METRICS[:4], ids=name)
@pytest.mark.parametrize("value", [0.1, 0.3, 0.7])
def test_a_constant_image_equals_its_blur(metric, value, evidence):
    evidence.x[2] = value
    assert list(dataclasses.replace(metric, removal="blur")(evidence).why) == [2]


@pytest.mark.parametrize("metric", METRICS, ids=name)
def test_the_curve_of_a_constant_image_is_flat(metric, evidence):
    evidence.x[2] = 0.4
    options = {"noise": 0.0} if isinstance(metric, ROAD) else {"removal": "mean"}
    curve = dataclasses.replace(metric, **options)(evidence).curve[2]
    torch.testing.assert_close(curve, curve[:1].expand_as(curve), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Deletion(steps=0),
        lambda: Insertion(steps=0),
        lambda: PixelFlipping(steps=0),
        lambda: RegionPerturbation(side=-1),
        lambda: RegionPerturbation(regions=0),
        lambda: ROAD(shares=0),
        lambda: ROAD(noise=-0.1),
    ],
)
def test_values_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="must"):
        make()
