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
    GradCAM,
    Gradient,
    GradientTimesInput,
    IntegratedGradients,
    Occlusion,
    SmoothGrad,
    SmoothTaylor,
)
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


def literal(tiny, images, y, sigma, count, term):
    """Each term of each image on its own, in a loop."""
    terms = torch.zeros(count, *images.shape, dtype=images.dtype)
    for n in range(len(images)):
        for i in range(count):
            z = (images[n] + sigma * noise(images, n, i))[None].requires_grad_()
            (slope,) = torch.autograd.grad(tiny(z)[0, y[n]], z)
            terms[i, n] = term((images[n] - z.detach()[0]), slope[0])
    return terms


def test_smoothtaylor_is_the_literal_loop_of_its_formula(tiny, images, y):
    expected = literal(tiny, images, y, 0.3, 7, lambda x_minus_z, slope: x_minus_z * slope).mean(0)
    assert close(SmoothTaylor(sigma=0.3, roots=7)(tiny, images, y).map, expected, 1e-12)


def test_smoothgrad_and_its_forms_are_literal_loops(tiny, images, y):
    slopes = literal(tiny, images, y, 0.2, 9, lambda _, slope: slope)
    for form, expected in [("mean", slopes.mean(0)), ("squared", (slopes**2).mean(0)), ("variance", slopes.var(0))]:
        ours = SmoothGrad(samples=9, sigma=0.2, unit="normalised", form=form)(tiny, images, y).map
        assert close(ours, expected, 1e-10), form


def test_smoothtaylor_vanishes_in_the_mean_on_a_linear_model(linear):
    x, y = random_images(5, 1, 4, 4), torch.zeros(5, dtype=torch.long)
    found = SmoothTaylor(sigma=0.1, roots=4000)(linear, x, y)
    assert found.map.abs().mean() < 0.005


def test_smoothtaylor_is_minus_the_curvature_by_steins_lemma(quadratic: Quadratic):
    x, y = random_images(1, 1, 2, 2), torch.zeros(1, dtype=torch.long)
    found = SmoothTaylor(sigma=0.5, roots=40_000)(quadratic, x, y).map.flatten()
    torch.testing.assert_close(found, -0.25 * quadratic.A.diagonal(), atol=0.05, rtol=0)


def test_sigma_is_in_normalised_units(tiny, images, y):
    std = (0.2, 0.25, 0.5)
    model = Classifier(tiny, list("abcde"), Preparation(16, 16), (0.4, 0.5, 0.6), std).double().eval()
    seen = model.normalise(images)
    expected = torch.zeros_like(images)
    for n in range(len(images)):
        for i in range(5):
            z = (seen[n] + 0.3 * noise(seen, n, i))[None].requires_grad_()
            (slope,) = torch.autograd.grad(tiny(z)[0, y[n]], z)
            expected[n] += (seen[n] - z.detach()[0]) * slope[0] / 5
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
        (lambda: SmoothTaylor(roots=0), "roots"),
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
