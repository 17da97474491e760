"""The theorems of each method, and the peers where they are right."""

from __future__ import annotations

import pytest
import torch
from captum.attr import InputXGradient, LayerGradCam, Saliency
from captum.attr import IntegratedGradients as CaptumIG
from captum.attr import Occlusion as CaptumOcclusion
from conftest import Linear, Quadratic, random_images
from torch.nn import functional as F

from stochx.attributions import (
    AdaptGrad,
    GradCAM,
    Gradient,
    GradientTimesInput,
    IntegratedGradients,
    Occlusion,
    SmoothGrad,
    SmoothTaylor,
)
from stochx.engine import gradients
from stochx.engine.gradients import noise
from stochx.engine.io.images import Preparation
from stochx.engine.network.classifier import Classifier

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def y(tiny, images):
    return tiny(images).argmax(1)


def close(a, b, tolerance=1e-6):
    return ((a - b).norm() / b.norm()).item() < tolerance


def test_gradient_agrees_with_captum(tiny, images, y):
    assert close(Gradient()(tiny, images, y).map, Saliency(tiny).attribute(images, target=y, abs=False))


def test_gradient_times_input_agrees_with_captum(tiny, images, y):
    assert close(GradientTimesInput()(tiny, images, y).map, InputXGradient(tiny).attribute(images, target=y))


@pytest.mark.parametrize(
    ("rule", "theirs"),
    [("midpoint", "riemann_middle"), ("right", "riemann_right"), ("gauss-legendre", "gausslegendre")],
)
def test_ig_agrees_with_captum(rule, theirs, tiny, images, y):
    peer = CaptumIG(tiny).attribute(images, target=y, n_steps=13, method=theirs)
    assert close(IntegratedGradients(steps=13, rule=rule)(tiny, images, y).map, peer)


@pytest.mark.parametrize("baseline", ["black", "white", "mean", "blur"])
def test_ig_is_complete(baseline, tiny, images, y):
    found = IntegratedGradients(steps=400, baseline=baseline)(tiny, images, y)
    assert found.gap.abs().max() < 2e-3


def test_ig_is_exact_on_a_linear_model_with_one_step(linear):
    x = random_images(5, 1, 4, 4)
    y = torch.tensor([0, 1, 2, 0, 1])
    found = IntegratedGradients(steps=1)(linear, x, y)
    torch.testing.assert_close(found.map, x * linear.weight[y].view_as(x))
    torch.testing.assert_close(found.gap, torch.zeros(5, dtype=torch.float64))


def test_ig_with_noise_baselines_reports_error_and_gap(tiny, images, y):
    found = IntegratedGradients(steps=40, baseline="noise", draws=6)(tiny, images, y)
    assert found.gap.abs().max() < 0.02 and (found.error > 0).all() and found.used.tolist() == [240] * 5


def literal(tiny, images, y, sigma, count, term, paired=False):
    """Each term of each image on its own, in a loop; `sigma` is one number, or that of every value of an image."""
    terms = torch.zeros(count, *images.shape, dtype=images.dtype)
    for n in range(len(images)):
        for i in range(count):
            step = noise(images, n, i // 2) * (-1) ** i if paired else noise(images, n, i)
            z = (images[n] + (sigma if isinstance(sigma, float) else sigma[n]) * step)[None].requires_grad_()
            (slope,) = torch.autograd.grad(tiny(z)[0, y[n]], z)
            terms[i, n] = term((images[n] - z.detach()[0]), slope[0])
    return terms


def test_smoothtaylor_is_the_covariance_of_offset_and_gradient_in_a_literal_loop(tiny, images, y):
    offsets, slopes = (literal(tiny, images, y, 0.3, 7, lambda *pair, k=k: pair[k]) for k in (0, 1))
    expected = ((offsets - offsets.mean(0)) * (slopes - slopes.mean(0))).sum(0) / 6
    assert close(SmoothTaylor(sigma=0.3, roots=7)(tiny, images, y).map, expected, 1e-12)


def test_smoothgrad_and_its_forms_are_literal_loops(tiny, images, y):
    pairs, slopes = (literal(tiny, images, y, 0.2, 9, lambda _, slope: slope, paired) for paired in (True, False))
    for form, expected in [("mean", pairs.mean(0)), ("squared", (slopes**2).mean(0)), ("variance", slopes.var(0))]:
        ours = SmoothGrad(samples=9, sigma=0.2, unit="normalised", form=form)(tiny, images, y).map
        assert close(ours, expected, 1e-10), form


def test_pairs_of_opposite_noise_are_exact_where_the_gradient_is_linear(quadratic: Quadratic):
    x, y = random_images(3, 1, 2, 2), torch.zeros(3, dtype=torch.long)
    exact = Gradient()(quadratic, x, y).map
    for method in (SmoothGrad(samples=4), AdaptGrad(samples=4)):
        found = method(quadratic, x, y)
        torch.testing.assert_close(found.map, exact, rtol=0, atol=1e-12)
        assert (found.error < 1e-6).all(), "a half holds whole pairs"
    lone = SmoothGrad(samples=5)(quadratic, x, y)
    assert not torch.allclose(lone.map, exact) and (lone.error > 1e-3).all()


def test_adaptgrad_is_the_authors_loop(tiny, images, y):
    sigma = torch.minimum(images, 1 - images) / 1.959963984540054  # the 97.5 % quantile of the normal distribution
    slopes = literal(tiny, images, y, sigma, 6, lambda _, slope: slope, paired=True)
    expected = (slopes.sum(0) + Gradient()(tiny, images, y).map) / 7
    found = AdaptGrad(samples=6)(tiny, images, y)
    assert close(found.map, expected, 1e-12) and found.used.tolist() == [7] * 5


def test_adaptgrad_leaves_the_range_of_pixels_as_rarely_as_it_says_and_never_from_its_ends(linear, monkeypatch):
    seen, slopes = [], gradients._slopes
    monkeypatch.setattr(
        gradients, "_slopes", lambda fast, z, *more, **keys: seen.append(z) or slopes(fast, z, *more, **keys)
    )
    x = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    x[0, 0, 0], x[0, 0, 1] = 0, 1
    AdaptGrad(samples=1000, confidence=0.8)(linear, x, torch.tensor([0]))
    copies = torch.cat(seen)
    outside = ((copies < 0) | (copies > 1)).double().mean().item()
    assert len(copies) == 1001 and 0.02 < outside <= 0.2 / 2  # half of the values never
    assert (copies[:, 0, 0] == 0).all() and (copies[:, 0, 1] == 1).all()


def test_a_black_and_white_image_has_the_plain_gradient_for_adaptgrad(tiny, images, y):
    x = images.round()
    assert close(AdaptGrad(samples=2)(tiny, x, y).map, Gradient()(tiny, x, y).map, 1e-12)


def test_smoothtaylor_vanishes_on_a_linear_model(linear):
    x, y = random_images(5, 1, 4, 4), torch.zeros(5, dtype=torch.long)
    assert SmoothTaylor(sigma=0.1, roots=2)(linear, x, y).map.abs().max() < 1e-15


def test_smoothtaylor_is_minus_the_curvature_by_steins_lemma(quadratic: Quadratic):
    x, y = random_images(1, 1, 2, 2), torch.zeros(1, dtype=torch.long)
    found = SmoothTaylor(sigma=0.5, roots=40_000)(quadratic, x, y).map.flatten()
    torch.testing.assert_close(found, -0.25 * quadratic.A.diagonal(), atol=0.05, rtol=0)


def test_sigma_is_in_normalised_units(tiny, images, y):
    std = (0.2, 0.25, 0.5)
    model = Classifier(tiny, list("abcde"), Preparation(16, 16), (0.4, 0.5, 0.6), std).double().eval()
    seen = model.normalise(images)
    terms = torch.zeros(5, len(images), 2, *images.shape[1:]).double()
    for n in range(len(images)):
        for i in range(5):
            z = (seen[n] + 0.3 * noise(seen, n, i))[None].requires_grad_()
            (slope,) = torch.autograd.grad(tiny(z)[0, y[n]], z)
            terms[i, n] = torch.stack([seen[n] - z.detach()[0], slope[0]])
    offsets, slopes = terms.unbind(2)
    expected = ((offsets - offsets.mean(0)) * (slopes - slopes.mean(0))).sum(0) / 4
    assert close(SmoothTaylor(sigma=0.3, roots=5)(model, images, y).map, expected)


def test_range_is_a_fraction_of_the_images_span(tiny, images, y):
    span = images.flatten(1).amax(1) - images.flatten(1).amin(1)
    for n in range(2):
        one = images[n : n + 1]
        a = SmoothGrad(samples=3, sigma=0.15)(tiny, one, y[n : n + 1]).map
        b = SmoothGrad(samples=3, sigma=0.15 * span[n].item(), unit="normalised")(tiny, one, y[n : n + 1]).map
        assert close(a, b)


def test_occlusion_agrees_with_captum(tiny, images, y):
    ours = Occlusion(window=4, stride=2, baseline="black")(tiny, images, y).map
    peer = CaptumOcclusion(tiny).attribute(images, (3, 4, 4), strides=(3, 2, 2), target=y, baselines=0)
    assert close(ours, peer[:, :1])


def test_gradcam_agrees_with_captum(tiny, images, y):
    peer = LayerGradCam(tiny, tiny.norm2).attribute(images, y, relu_attributions=True)
    peer = F.interpolate(peer, images.shape[2:], mode="bilinear")
    assert close(GradCAM(layer="norm2")(tiny, images, y).map, peer)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SmoothTaylor(roots=1), "roots"),
        (lambda: AdaptGrad(samples=0), "samples"),
        (lambda: AdaptGrad(confidence=1.0), "confidence"),
        (lambda: SmoothTaylor(sigma=-1.0), "sigma"),
        (lambda: SmoothGrad(samples=3, form="variance"), "samples"),
        (lambda: IntegratedGradients(steps=0), "steps"),
        (lambda: IntegratedGradients(draws=3), "baseline"),
        (lambda: SmoothTaylor(error=2.0), "error"),
        (lambda: Occlusion(window=3, stride=5), "stride"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_constant_model_gives_a_zero_map():
    found = Gradient()(Linear().requires_grad_(False).eval(), random_images(2, 1, 4, 4) * 0, torch.tensor([0, 1]))
    assert found.map.shape == (2, 1, 4, 4)
