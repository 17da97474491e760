"""Path methods beyond straight lines: their theorems, and the authors' formulas as literal loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients as CaptumIG
from conftest import Quadratic, random_images, save_net
from scipy.ndimage import gaussian_filter

from stochx.attributions import IDGI, BlurIG, ExpectedGradients, GuidedIG, IntegratedGradients
from stochx.attributions._noise import uniform_image
from stochx.attributions.blur_ig import blurred
from stochx.catalog import ATTRIBUTIONS
from stochx.engine.baselines import BASELINES
from stochx.engine.seeds import generator
from stochx.errors import InputError, UsageError
from stochx.loading import load_data, load_model
from stochx.tasks.adaptive import bind


@pytest.fixture
def y(tiny, images):
    return tiny(images).argmax(1)


def close(a, b, tolerance=1e-6):
    return ((a - b).norm() / b.norm()).item() < tolerance


def value_and_slope(model, z, target):
    """The logit of one image (C, H, W) and its gradient, as arrays."""
    z = torch.as_tensor(z)[None].requires_grad_()
    value = model(z)[0, target]
    (slope,) = torch.autograd.grad(value, z)
    return value.item(), slope[0].numpy()


# IDGI


def test_idgi_is_the_authors_loop(tiny, images, y):
    found, start = IDGI(steps=7, baseline="blur")(tiny, images, y), BASELINES["blur"](images)
    for n in range(len(images)):
        pairs = [value_and_slope(tiny, torch.lerp(start[n], images[n], k / 7), y[n]) for k in range(8)]
        expected = sum(
            g**2 * (pairs[k + 1][0] - f) / (g**2).sum() for k, (f, g) in enumerate(pairs[:-1])
        )  # the last gradient is not used
        assert close(found.map[n], torch.from_numpy(expected), 1e-10)
    assert found.used.tolist() == [8] * 5


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_idgi_is_complete_with_any_number_of_steps(steps, tiny, images, y):
    found = IDGI(steps=steps)(tiny, images, y)
    assert found.gap.abs().max() < 1e-12
    torch.testing.assert_close(
        found.map.flatten(1).sum(1), (tiny(images) - tiny(images * 0)).gather(1, y[:, None])[:, 0]
    )


def test_idgi_shares_a_linear_logit_out_by_squared_weights(linear):
    x, y = random_images(4, 1, 4, 4), torch.tensor([0, 1, 2, 0])
    shares = linear.weight[y].square() / linear.weight[y].square().sum(1, keepdim=True)
    expected = shares * (linear.weight[y] * x.flatten(1)).sum(1, keepdim=True)
    torch.testing.assert_close(IDGI(steps=3)(linear, x, y).map.flatten(1), expected)


def test_steps_from_a_dead_gradient_are_missing_from_idgi_and_its_gap_says_so():
    class Dead(torch.nn.Module):
        def forward(self, x):
            return torch.relu(x.flatten(1).sum(1, keepdim=True) - 1)

    x = torch.full((1, 1, 2, 2), 1.0).double()
    found = IDGI(steps=2)(Dead().eval(), x, torch.tensor([0]))  # logits 0, 1, 3 at sums 0, 2, 4
    assert found.map.sum().item() == pytest.approx(2) and found.gap.item() == pytest.approx(-1)


# Blur IG


@pytest.mark.parametrize("sigma", [0.0, 0.4, 1.7, 50.0])
def test_the_blur_is_scipys(sigma, images):
    expected = gaussian_filter(images.numpy(), (0, 0, sigma, sigma), mode="constant")
    found = blurred(images[:, :, :, :11], torch.full((len(images),), sigma, dtype=torch.float64))
    narrow = gaussian_filter(images[:, :, :, :11].numpy(), (0, 0, sigma, sigma), mode="constant")
    torch.testing.assert_close(found, torch.from_numpy(narrow), rtol=1e-10, atol=1e-14)
    assert close(
        blurred(images, torch.full((len(images),), sigma, dtype=torch.float64)), torch.from_numpy(expected), 1e-10
    )


def test_blur_ig_is_the_literal_loop_of_its_formula(tiny, images, y):
    found = BlurIG(steps=5, sigma=3.0)(tiny, images, y).map
    for n in range(len(images)):
        path = [gaussian_filter(images[n].numpy(), (0, s, s), mode="constant") for s in np.linspace(3, 0, 6)]
        steps = [(b - a) * value_and_slope(tiny, (a + b) / 2, y[n])[1] for a, b in itertools.pairwise(path)]
        assert close(found[n], torch.from_numpy(sum(steps)), 1e-10)


def test_blur_ig_tends_to_the_authors_sum_over_their_finite_differences(tiny, images, y):
    x, count = images[0].numpy(), 200
    expected = np.zeros_like(x)
    for k in range(count):
        sigma = 4 * k / count
        clear, dim = (gaussian_filter(x, (0, s, s), mode="constant") for s in (sigma, sigma + 0.01))
        expected -= 4 / count * (dim - clear) / 0.01 * value_and_slope(tiny, clear, y[0])[1]
    assert close(BlurIG(steps=count, sigma=4.0)(tiny, images[:1], y[:1]).map[0], torch.from_numpy(expected), 0.03)


def test_blur_ig_is_complete_and_exactly_so_on_a_quadratic(tiny, images, y, quadratic: Quadratic):
    x = random_images(3, 1, 2, 2)
    found = BlurIG(steps=2)(quadratic, x, torch.zeros(3, dtype=torch.long))
    assert found.gap.abs().max() < 1e-14
    expected = quadratic(x)[:, 0] - quadratic(blurred(x, torch.full((3,), 50.0).double()))[:, 0]
    torch.testing.assert_close(found.map.flatten(1).sum(1), expected)
    assert BlurIG(steps=320)(tiny, images, y).gap.abs().max() < 0.01


# Expected gradients


def test_expected_gradients_agree_with_captum_in_the_mean(tiny, images, y):
    baselines = random_images(4, 3, 16, 16, seed=5) ** 3
    found = ExpectedGradients(draws=1000)(tiny, images[:2], y[:2], baselines=baselines)
    expected = sum(
        CaptumIG(tiny).attribute(images[:2], b[None].expand(2, -1, -1, -1), y[:2], n_steps=50) for b in baselines
    )
    assert close(found.map, expected / 4, 0.1)
    assert (found.error < 0.1).all() and found.gap.abs().max() < 0.02


def test_expected_gradients_are_the_literal_loop_of_their_formula(tiny, images, y):
    found, golden = ExpectedGradients(draws=5)(tiny, images, y), (5**0.5 - 1) / 2
    for n in range(len(images)):
        shift = torch.rand(2, generator=generator(n, "places"), dtype=torch.float64)
        expected = 0
        for i in range(5):
            b = uniform_image(images, n, i)
            slope = value_and_slope(tiny, b + (shift[i % 2] + i // 2 * golden) % 1 * (images[n] - b), y[n])[1]
            expected = expected + (images[n] - b).numpy() * slope / 5
        assert close(found.map[n], torch.from_numpy(expected), 1e-10)


def test_expected_gradients_on_a_linear_model_are_weights_times_the_distance_to_the_mean_baseline(linear):
    x, y, baselines = random_images(3, 1, 4, 4), torch.tensor([0, 1, 2]), random_images(5, 1, 4, 4, seed=9)
    found = ExpectedGradients(draws=10)(linear, x, y, baselines=baselines)  # each baseline twice
    torch.testing.assert_close(found.map, (x - baselines.mean(0)) * linear.weight[y].view_as(x))
    assert found.gap.abs().max() < 1e-12 and (found.error < 1e-6).all()


def test_expected_gradients_of_data_take_its_training_images(tmp_path):
    model, text = load_model(str(save_net(tmp_path / "net.safetensors", ("a", "b", "c")))), "shapes:count=30"
    x, y = model.blank().to(model.mean) + 0.5, torch.tensor([0])
    method = ATTRIBUTIONS.make(f"expected-gradients:draws=4,data={text}")
    data = load_data(text, "train")
    images = torch.stack([data.item(i, model.preparation).image for i in range(len(data))])
    with pytest.raises(UsageError, match="images of `data`"):
        method(model, x, y)
    expected = method(model, x, y, baselines=images)
    torch.testing.assert_close(bind(method, model)(model, x, y).map, expected.map)
    with pytest.raises(InputError, match="`baselines` are"):
        method(model, x, y, baselines=images[:, :, :-1])


# Guided IG


def guided_by_loop(model, x, baseline, target, steps, fraction, distance):
    """The path of one image value by value, in the terms of the authors: it returns the map and the path's points."""
    z, total, points = baseline.copy(), np.zeros_like(x), []
    whole = np.abs(x - baseline).sum()
    for step in range(steps):
        points.append(z.copy())
        slope = value_and_slope(model, z, target)[1]
        share = (step + 1) / steps
        low, high = (baseline + s * (x - baseline) for s in (max(share - distance, 0), min(share + distance, 1)))
        old, away = z.copy(), np.abs(x - baseline)
        behind = np.abs(z - baseline) < np.abs(low - baseline)
        z[behind] = low[behind]
        order = np.where(np.isclose(z, high, rtol=0, atol=1e-12), np.inf, np.abs(slope))
        while (missing := np.abs(x - z).sum() - whole * (1 - share)) > 1e-9 * away.sum():
            limit = np.sort(order.ravel())[int(fraction * (order.size - 1))]
            chosen = (order <= limit) & (order < np.inf)
            room = np.abs(high - z)[chosen].sum()
            gamma = min(1, missing / room)
            z[chosen] += gamma * (high - z)[chosen]
            order[chosen] = np.inf
        total += (z - old) * slope
    return total, points


@pytest.mark.parametrize(("steps", "fraction", "distance"), [(9, 0.25, 0.02), (7, 0.1, 1.0), (5, 0.5, 0.3)])
def test_guided_ig_is_the_authors_loop(steps, fraction, distance, tiny, images, y):
    x = images.clone()
    x[0, 0, :3] = 0  # values that do not move
    found = GuidedIG(steps, fraction, distance)(tiny, x, y).map
    for n in range(len(x)):
        expected, points = guided_by_loop(tiny, x[n].numpy(), np.zeros(x[n].shape), y[n], steps, fraction, distance)
        assert close(found[n], torch.from_numpy(expected), 1e-8)
        for k, z in enumerate(points):
            assert abs(z.sum() - k / steps * x[n].sum().item()) < 1e-8, "each step covers its share"


def test_guided_ig_that_may_not_leave_the_line_is_ig(tiny, images, y):
    straight = IntegratedGradients(steps=11, rule="left")(tiny, images, y)
    found = GuidedIG(steps=11, distance=0.0)(tiny, images, y)
    assert close(found.map, straight.map, 1e-10)
    torch.testing.assert_close(found.gap, straight.gap)


def test_guided_ig_is_complete_and_exactly_so_on_a_linear_model(linear, quadratic: Quadratic):
    x = random_images(4, 1, 4, 4)
    found = GuidedIG(steps=3)(linear, x, torch.tensor([0, 1, 2, 0]))
    torch.testing.assert_close(found.map, x * linear.weight[[0, 1, 2, 0]].view_as(x))
    assert found.gap.abs().max() < 1e-12
    x, y = random_images(3, 1, 2, 2), torch.zeros(3, dtype=torch.long)
    coarse, fine = (GuidedIG(steps=steps)(quadratic, x, y).gap.abs() for steps in (20, 200))
    assert (fine < coarse / 8).all() and (coarse < 0.2).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExpectedGradients(draws=0), "draws"),
        (lambda: ExpectedGradients(error=1.0), "error"),
        (lambda: IDGI(steps=0), "steps"),
        (lambda: BlurIG(sigma=0.0), "sigma"),
        (lambda: BlurIG(steps=0), "steps"),
        (lambda: GuidedIG(steps=0), "steps"),
        (lambda: GuidedIG(fraction=0.0), "fraction"),
        (lambda: GuidedIG(distance=1.1), "distance"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
