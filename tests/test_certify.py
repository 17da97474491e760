"""Randomised smoothing: bounds, radii, noise on the grid, and which networks can be certified."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from scipy.stats import beta, binom, binomtest, chisquare
from support import refused
from torch import nn

from stochx.engine.device import Runtime
from stochx.engine.grid_noise import BITS, COARSE, GridNoise, NoisyCopies, grid_noise
from stochx.engine.io.data import Item
from stochx.engine.io.images import Preparation
from stochx.engine.network.classifier import Classifier, measure_noise
from stochx.engine.network.input_noise import input_noise
from stochx.engine.network.stochastic import at_scale
from stochx.engine.smoothing import certified_radius, check_independent, votes
from stochx.engine.statistics import clopper_pearson
from stochx.network_files import install_noise
from stochx.tasks.batches import Source
from stochx.tasks.certify import Smoothing, certified_accuracy, certify, overview

NORMAL = NormalDist()
STD = (0.25, 0.2, 0.5)


class Half(nn.Module):
    """Two classes, divided by a plane: the margin of an image is w (x - 1/2) + b."""

    def __init__(self, margin=0.0):
        super().__init__()
        w = torch.randn(192, generator=torch.Generator().manual_seed(1))
        self.w, self.margin = nn.Parameter(w / w.norm()), margin

    def forward(self, x):
        z = (x - 0.5).flatten(1) @ self.w + self.margin
        return torch.stack([z, -z], 1)


def plane(margin=0.0):
    return Classifier(Half(margin), ("yes", "no"), Preparation(8, 8)).eval()


def ahead(x, model=None):
    """The signed distance of an image from the plane."""
    return float((model or plane())(x[None])[0, 0].detach())


def convnet(noise="", mean=(0.0,) * 3, std=(1.0,) * 3):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
        model = Classifier(nn.Sequential(*layers), ("a", "b", "c"), Preparation(8, 8), mean, std, arch="net").eval()
    if noise:
        model = install_noise(model, noise)
        model.noise = measure_noise(model, torch.full((1, 3, 8, 8), 0.5))
    return model


def image(seed=0):
    return torch.randint(0, 256, (3, 8, 8), generator=torch.Generator().manual_seed(seed)) / 255


def sources(*images, label=0):
    return [Source(f"{n}", lambda n=n, x=x: Item(f"key {n}", x, label)) for n, x in enumerate(images)]


@pytest.mark.parametrize("n", [10, 100, 1000, 100_000])
def test_the_bound_is_clopper_and_pearsons(n):
    for k in {0, 1, n // 2, n * 2 // 3, n - 1, n}:
        exact = binomtest(k, n).proportion_ci(1 - 2 * 0.001, "exact").low
        assert exact - 1e-9 < clopper_pearson(k, n, 0.001) <= exact + 1e-12
        if k:
            assert clopper_pearson(k, n, 0.05) == pytest.approx(beta.ppf(0.05, k, n - k + 1), abs=1e-9)


@pytest.mark.parametrize("p", [0.3, 0.5, 0.9, 0.999])
def test_the_bound_holds_in_all_but_alpha_of_the_samples(p):
    """Exactly, by the probabilities of all counts; and by a simulation of 100,000 samples."""
    n, alpha = 200, 0.05
    bounds = np.array([clopper_pearson(k, n, alpha) for k in range(n + 1)])
    missed = binom.pmf(np.arange(n + 1), n, p)[bounds > p].sum()
    assert missed <= alpha
    counts = np.random.default_rng(0).binomial(n, p, 100_000)
    assert np.mean(bounds[counts] > p) <= alpha + 4 * math.sqrt(alpha / 100_000)


@pytest.mark.parametrize(("n", "largest", "least"), [(100, 1.50, 0.66), (1000, 2.46, 0.55), (10_000, 3.20, 0.516)])
def test_the_largest_radius_and_the_smallest_certified_share_are_those_of_the_paper(n, largest, least):
    assert Smoothing((1.0,), draws=n).largest == pytest.approx(largest, abs=0.005)
    first = next(k for k in range(n // 2, n + 1) if certified_radius(clopper_pearson(k, n, 0.001), [1.0]) is not None)
    assert first / n == pytest.approx(least, abs=0.0051)


def test_a_hundred_thousand_draws_certify_3_81_sigma():
    assert Smoothing((1.0,), draws=100_000).largest == pytest.approx(3.81, abs=0.005)
    assert Smoothing((0.25,), draws=100_000).largest == pytest.approx(0.953, abs=0.0005)


def test_an_even_vote_abstains():
    assert certified_radius(0.5, [1.0]) is None
    assert certified_radius(0.5 + 1e-9, [1.0]) > 0


def test_thresholds_are_the_normal_distributions():
    noise = grid_noise(0.1)
    odd = 2 * torch.arange(-510, 510) + 1
    exact = torch.tensor([NORMAL.cdf(float(k) / 510 / 0.1) for k in odd], dtype=torch.float64)
    assert len(noise.thresholds) == 1020 and noise.reach == 1
    torch.testing.assert_close(noise.thresholds.double() / 2**BITS, exact, rtol=0, atol=4e-16)
    assert int(noise.thresholds[510]) == 585478784916915017, "floor(2^60 Phi(1 / 51)), by mpmath with 60 digits"


@pytest.mark.parametrize("sigma", [0.002, 0.02, 0.25])
def test_drawn_steps_have_the_exact_probabilities(sigma):
    steps = grid_noise(sigma).steps((200, 1000), torch.Generator().manual_seed(3)).flatten().numpy()
    edge = max(1, int(2.5 * sigma * 255))
    bins = np.arange(-edge, edge + 1)
    cdf = [NORMAL.cdf((2 * i + 1) / 510 / sigma) for i in range(-edge - 1, edge + 1)]
    expected = np.diff([0.0, *cdf, 1.0])
    counts = [(steps < -edge).sum(), *((steps == i).sum() for i in bins), (steps > edge).sum()]
    used = expected * len(steps) > 5
    assert (
        chisquare(np.array(counts)[used], expected[used] / expected[used].sum() * sum(np.array(counts)[used])).pvalue
        > 1e-3
    )


def test_the_table_decides_as_the_thresholds_do():
    noise = grid_noise(0.25)
    start = torch.arange(2**COARSE) << (BITS - COARSE)
    inside = start + torch.randint(2 ** (BITS - COARSE), start.shape, generator=torch.Generator().manual_seed(0))
    decided = noise.table != -(2**15)
    assert (~decided).sum() < 0.01 * len(start)
    for number in (start, inside, start + 2 ** (BITS - COARSE) - 1):
        assert torch.equal(noise.table[decided], noise.step_of(number)[decided])


def test_copies_are_whole_steps_and_clipped_to_k_and_k_plus_one():
    white = torch.ones(3, 8, 8)
    assert [grid_noise(sigma).reach for sigma in (0.01, 0.25, 0.5, 4.0)] == [1, 1, 3, 24]
    for sigma, k in ((0.5, 3), (0.05, 1)):
        copies = NoisyCopies.of(white, (sigma,)).draw(2000, torch.Generator().manual_seed(0))
        assert copies.dtype == torch.int16 and -255 * k <= copies.min() and copies.max() <= 255 * (k + 1)
    steep = GridNoise(torch.zeros(2 * 510, dtype=torch.long), torch.full((2**16,), 510, dtype=torch.int16), 1)
    assert NoisyCopies((white * 255).short(), [steep]).draw(1, torch.Generator()).unique().tolist() == [510]
    assert NoisyCopies.of(white, (0.5,)).slack == pytest.approx(192 * 2040 * 2.0**-60)


def test_channels_have_their_own_noise():
    copies = NoisyCopies.of(torch.full((3, 8, 8), 128 / 255), (0.1, 0.2, 0.4)).draw(
        2000, torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close((copies / 255).std((0, 2, 3)), torch.tensor([0.1, 0.2, 0.4]), rtol=0.01, atol=0)


def test_half_a_space_is_certified_up_to_its_plane():
    """p_A = Phi(m / (sigma |w|)), so that the radius tends to the distance m / |w|, from below."""
    x, sigma, n = image(), 0.25, 20_000
    distance = 0.3
    model = plane(distance - ahead(x))
    assert ahead(x, model) == pytest.approx(distance, abs=1e-5)
    share = int(votes(model, NoisyCopies.of(x, (sigma,)), n, 0, "estimate")[0]) / n
    p = NORMAL.cdf(distance / sigma)
    assert share == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / n))
    (record,) = certify(model, sources(x), Smoothing((sigma,), draws=n))
    assert record.prediction == 0 and 0.93 * distance < record.radius < distance and record.clean


def test_an_image_on_the_plane_gets_no_certificate():
    x = image()
    model = plane(-ahead(x))
    (record,) = certify(model, sources(x), Smoothing((0.25,), draws=1000))
    assert record.abstained and record.radius == 0 and record.p < 0.5


def test_radii_of_half_spaces_are_true_in_all_but_alpha_of_the_images():
    """300 images of known distance, with alpha = 0.2: at most 60 false certificates are expected."""
    images = [image(seed) for seed in range(300)]
    model, y = plane(), [ahead(x) for x in images]
    records = certify(model, sources(*images), Smoothing((0.25,), selection=50, draws=100, alpha=0.2))
    false = sum(r.radius > (d if r.prediction == 0 else -d) for r, d in zip(records, y, strict=True) if not r.abstained)
    assert 0 < false <= 60 + 3 * math.sqrt(300 * 0.2 * 0.8)


def test_counts_depend_neither_on_the_batch_size_nor_on_the_other_images():
    model, images = convnet(), [image(seed) for seed in range(4)]
    smoothing = Smoothing((0.5,), selection=50, draws=500)
    together = certify(model, sources(*images), smoothing)
    for rows in (1, 7, 16, 100):
        with Runtime(torch.device("cpu"), "fp32", rows).scope():
            assert [r.count for r in certify(model, sources(*images), smoothing)] == [r.count for r in together]
    (alone,) = certify(model, sources(*images), smoothing, done={0, 1, 3})
    assert (alone.index, alone.count) == (2, together[2].count)
    assert [r.count for r in certify(model, sources(*images), smoothing, seed=1)] != [r.count for r in together]


def test_selection_and_estimation_see_other_copies():
    model, copies = convnet(), NoisyCopies.of(image(), (0.5,))
    first, second = (votes(model, copies, 1000, 0, name, "key") for name in ("selection", "estimation"))
    assert first.sum() == second.sum() == 1000 and not torch.equal(first, second)


def test_gaussian_noise_on_the_input_is_measured_in_pixels():
    model = convnet("gaussian:site=input,first=0.8", (0.5,) * 3, STD)
    layer, sigma = input_noise(model)
    torch.testing.assert_close(sigma, 0.8 * torch.tensor(STD))
    assert certified_radius(NORMAL.cdf(1.5), sigma.tolist()) == pytest.approx(1.5 * 0.8 * 0.2)
    with at_scale(model, 0.5):
        torch.testing.assert_close(input_noise(model)[1], 0.4 * torch.tensor(STD))
    (record,) = certify(model, sources(image()), Smoothing(tuple(sigma.tolist()), draws=200, instead_of=layer))
    (added,) = certify(convnet("", (0.5,) * 3, STD), sources(image()), Smoothing(tuple(sigma.tolist()), draws=200))
    assert record.count == added.count, "its own noise is replaced, not drawn twice"
    assert layer.scale == 1


@pytest.mark.parametrize(
    "noise", ["gaussian:first=0.3", "pni:on=input", "adaptive:site=input", "adaptive:site=input,source=teacher"]
)
def test_noise_inside_may_stay_where_the_first_is_gaussian_and_fixed(noise):
    layer, sigma = input_noise(convnet(noise))
    assert layer.place == "input" and (sigma > 0).all()


@pytest.mark.parametrize("noise", ["gaussian:site=input,first=0.7", "pni:on=input,alpha=0.6", "adaptive:site=input"])
def test_the_noise_of_the_input_has_the_std_that_it_declares(noise):
    model = convnet(noise)
    layer, sigma = input_noise(model)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = torch.stack([layer.scale * layer.noise(image()[None]) for _ in range(300)])
    torch.testing.assert_close(drawn.std((0, 1, 3, 4)), sigma, rtol=0.02, atol=0)


@pytest.mark.parametrize(
    "noise",
    [
        *(
            "",
            "gaussian:site=before-bn",
            "gaussian:site=input,share=batch",
            "gaussian:layers=2",
            "dropout:site=layer-input",
        ),
        *(
            "adaptive:site=input,source=batch",
            "adaptive:site=input,source=instance",
            "pni",
            "multiplicative:site=layer-input",
        ),
        *("adaptive:site=input,stat=unit", "gaussian:site=input,first=0"),
    ],
)
def test_other_noise_is_not_taken_for_that_of_the_input(noise):
    assert input_noise(convnet(noise)) is None


def test_noise_that_the_network_bypasses_is_not_that_of_its_input():
    class Around(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x) + x.mean((2, 3))

    model = convnet("gaussian:site=input")
    model.network = Around(model.network)
    assert input_noise(model) is None


def test_draws_that_depend_on_each_other_are_refused_unless_each_has_a_batch_of_its_own():
    for noise, why in (
        ("gaussian:site=before-bn,share=batch", "once for a whole batch"),
        ("pni", "once for a whole batch"),
        ("adaptive:source=batch", "others of its batch"),
    ):
        model = convnet(noise)
        refused(lambda model=model: check_independent(model), why, "--batch-size 1")
        with Runtime(torch.device("cpu"), "fp32", 1).scope():
            check_independent(model)
    check_independent(convnet("adaptive"))
    unnormed = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), convnet().network)
    refused(lambda: check_independent(Classifier(unnormed.eval(), "abc", Preparation(8, 8))), "others of its batch")


def test_one_draw_for_a_batch_is_drawn_anew_for_every_copy_in_batches_of_one():
    model = convnet("pni:alpha=2")
    with Runtime(torch.device("cpu"), "fp32", 1).scope():
        (record,) = certify(model, sources(image()), Smoothing((0.1,), selection=20, draws=60))
    assert 0 < record.count < 60 and record.clean is not None


def test_the_table_counts_images_that_are_right_and_abstentions_as_none():
    def record(prediction, radius, abstained=False, clean=True):
        return {
            "label": 1,
            "prediction": prediction,
            "radius": radius,
            "abstained": abstained,
            "clean": clean,
            "count": 5 + int(radius),
            "draws": 6,
        }

    records = [record(1, 0.5), record(1, 1.0), record(0, 1.0), record(1, 0.0, abstained=True)]
    rows = certified_accuracy(records, [0, 0.5, 0.75, 2])
    assert [row.certified for row in rows] == [0.5, 0.5, 0.25, 0]
    assert all(row.low <= row.certified <= row.high and row.n == 4 for row in rows)
    said = overview(records)
    assert (said.acr, said.abstained, said.full, said.clean) == (0.375, 0.25, 0.5, 1)


def test_a_network_that_returns_nan_has_no_noise():
    assert measure_noise(lambda x: x.mean((2, 3)) * torch.nan, torch.full((1, 3, 8, 8), 0.5)) == "none"
