"""Searches for the best noise against scalar loops, and adaptive SmoothTaylor against its parts called by hand."""

from __future__ import annotations

import math
import random

import pytest
import torch

from stochx.attributions import SmoothTaylor
from stochx.attributions._search import climb, golden
from stochx.engine.io.images import Preparation
from stochx.engine.network.classifier import Classifier
from stochx.errors import UsageError
from stochx.metrics import AUPC, AUTVC, Evidence
from stochx.tasks.adaptive import bind_objective

KEYS = ["0/a", "0/b"]
METRICS = {"aupc": AUPC(), "autvc": AUTVC()}
SEARCHED = {"aupc": AUPC(draws=3), "autvc": AUTVC()}  # the cheaper forms that searches minimise


def in_a_loop(function):
    """An objective of `search` from one of (image, sigma), called with plain numbers."""

    def objective(images, sigma):
        values = [function(n, s) for n, s in zip(images.tolist(), sigma.tolist(), strict=True)]
        return torch.tensor(values, dtype=torch.float64)

    return objective


def noisy(n, sigma):
    """A valley at another place for each image, under noise of another strength that repeats; undefined near 0."""
    source = random.Random(f"{n}/{sigma!r}")
    value = (sigma - 0.2 - n % 17 / 10) ** 2 + n % 5 * 0.1 * source.random()
    return math.nan if sigma < 0.03 else value


def climb_by_loop(function, start, step=0.1, decay=0.9, patience=3, iterations=20):
    """The authors' algorithm for one image: (sigma, value, evaluations)."""
    asked = []

    def evaluate(sigma):
        value = function(sigma)
        asked.append((math.inf if math.isnan(value) else value, sigma))
        return asked[-1][0]

    sigma, value, failures = start, evaluate(start), 0
    for _ in range(iterations):
        moved = abs(sigma + step)
        found = evaluate(moved)
        if found > value:
            moved = abs(sigma - step)
            found = evaluate(moved)
        if found > value:
            if failures >= patience:
                break
            step *= decay
            failures += 1
        else:
            failures = 0
        sigma, value = moved, found  # also to a worse point
    value, sigma = min(asked, key=lambda pair: pair[0])
    return (sigma if value < math.inf else start), value, len(asked)


# The authors' search


@pytest.mark.parametrize(
    "options", [{}, {"patience": 0}, {"step": 0.37, "decay": 0.5, "iterations": 7}, {"iterations": 0}], ids=str
)
def test_climb_is_the_authors_loop_for_every_image_at_once(options):
    start = torch.rand(300, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1.5
    best = climb(in_a_loop(noisy), start, **options)
    for n in range(300):
        expected = climb_by_loop(lambda sigma, n=n: noisy(n, sigma), start[n].item(), **options)
        assert (best.sigma[n].item(), best.value[n].item(), best.evaluations[n].item()) == expected


def test_climb_stops_at_the_fourth_failure_in_a_row_and_asks_41_times_at_most():
    lengths = climb(in_a_loop(noisy), torch.full((300,), 1.0).double()).evaluations
    assert lengths.min() < 30 and lengths.max() <= 41
    worse_and_worse = iter(range(99))
    found = climb(in_a_loop(lambda n, s: next(worse_and_worse)), torch.ones(1).double())
    assert found.evaluations.tolist() == [9] and found.value.tolist() == [0]


def test_climb_walks_down_a_valley_and_keeps_the_best_it_has_seen():
    best = climb(in_a_loop(lambda n, s: abs(s - 0.5)), torch.tensor([0.1, 0.5, 1.2, 9.0]).double())
    assert best.sigma[:3].tolist() == pytest.approx([0.5] * 3, abs=0.1) and best.sigma[3].item() == pytest.approx(7)
    assert best.value.tolist() == [abs(s - 0.5) for s in best.sigma.tolist()]


@pytest.mark.parametrize("search", [lambda f, s: climb(f, s), lambda f, s: golden(f, s / 9, s * 4)])
def test_an_image_whose_objective_is_never_defined_keeps_the_start(search):
    start = torch.tensor([0.3, 0.6]).double()
    best = search(in_a_loop(lambda n, s: math.nan if n else s), start)
    middle = search(in_a_loop(lambda n, s: math.nan), start).sigma
    assert best.sigma[1] == middle[1] and best.value[1] == math.inf and best.value[0].isfinite()


# Golden sections


def valley(n, sigma):
    """One minimum an image, at exp(-3 + n / 10), as steep on one side as on the other or not."""
    away = math.log(sigma) + 3 - n / 10
    return abs(away) ** (1 + n % 3) * (5 if away < 0 and n % 2 else 1)


def test_golden_finds_the_minimum_of_unimodal_functions():
    low, high, where = math.exp(-3.3), math.exp(2.2), [math.exp(-3 + n / 10) for n in range(50)]
    ends = torch.full((50,), low).double(), torch.full((50,), high).double()
    rough, fine = golden(in_a_loop(valley), *ends, sections=6), golden(in_a_loop(valley), *ends, sections=30)
    assert rough.sigma.tolist() == pytest.approx(where, rel=0.2)
    assert fine.sigma.tolist() == pytest.approx(where, rel=1e-5)
    assert rough.value.tolist() == [valley(n, s) for n, s in enumerate(rough.sigma.tolist())]


@pytest.mark.parametrize(("grid", "sections"), [(6, 6), (2, 0), (5, 1), (3, 2), (9, 11)])
def test_golden_asks_exactly_as_often_as_it_says_and_stays_inside(grid, sections):
    asked = {n: [] for n in range(40)}
    low = torch.linspace(0.01, 0.2, 40).double()

    def function(n, sigma):
        asked[n].append(sigma)
        return noisy(n, sigma)

    best = golden(in_a_loop(function), low, 60 * low, grid, sections)
    assert best.evaluations.tolist() == [grid + sections] * 40
    for n, places in asked.items():
        defined = [s for s in places if not math.isnan(noisy(n, s))]
        assert len(set(places)) == grid + sections
        assert low[n].item() * (1 - 1e-9) <= min(places) and max(places) <= 60 * low[n].item() * (1 + 1e-9)
        assert best.sigma[n].item() == min(defined, key=lambda s, n=n: noisy(n, s))


def test_golden_looks_around_an_undefined_stretch():
    ends = torch.tensor([0.1]).double(), torch.tensor([10.0]).double()
    best = golden(in_a_loop(lambda n, s: math.nan if s < 1 else s), *ends)
    assert 1 <= best.sigma.item() < 1.3 and best.value.item() == best.sigma.item()


def test_golden_takes_the_lower_of_two_valleys_where_the_grid_shows_it():
    def two(n, sigma):
        away = math.log(sigma)
        return min(abs(away + 2), abs(away - 2) - 0.5)

    ends = torch.tensor([math.exp(-4)]).double(), torch.tensor([math.exp(4)]).double()
    assert golden(in_a_loop(two), *ends, grid=9, sections=12).sigma.item() == pytest.approx(math.exp(2), rel=0.01)


@pytest.mark.parametrize("search", [lambda f, s: climb(f, s), lambda f, s: golden(f, s / 9, s * 4)])
def test_each_image_is_sought_in_its_own_tempo_without_its_neighbours(search):
    start = torch.linspace(0.2, 2, 30).double()
    together = search(in_a_loop(noisy), start)
    for n in range(30):
        alone = search(in_a_loop(lambda _, s, n=n: noisy(n, s)), start[n : n + 1])
        assert alone.sigma[0] == together.sigma[n] and alone.evaluations[0] == together.evaluations[n]


# SmoothTaylor with adaptive noise


@pytest.fixture
def network(tiny):
    """The tiny net behind a normalisation: sigma is in its units."""
    made = Classifier(tiny, "abcde", Preparation(16, 16), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    return made.double().eval()


def objective_by_hand(metric, network, x, y, n, roots=6):
    """The score of image n's map at a sigma, under the documented keys of the search."""
    keys = [f"{KEYS[n]}/search"]

    def function(sigma):
        relevance = SmoothTaylor(sigma=sigma, roots=roots)(network, x[n : n + 1], y[n : n + 1], keys).map
        return metric(Evidence(relevance, keys, x[n : n + 1], y[n : n + 1], network)).value.item()

    return function


@pytest.mark.parametrize(("objective", "search"), [("autvc", "golden"), ("autvc", "paper"), ("aupc", "golden")])
def test_the_chosen_sigma_is_that_of_a_search_by_hand(objective, search, network, images):
    x, y = images[:2], torch.tensor([1, 1])
    method = SmoothTaylor(noise="adaptive", roots=6, objective=objective, search=search)
    found = bind_objective(method)(network, x, y, KEYS).chosen
    start = network.normalise(x).abs().mean((1, 2, 3))
    for n in range(2):
        function = objective_by_hand(SEARCHED[objective], network, x, y, n)
        if search == "paper":
            sigma, _, evaluations = climb_by_loop(function, start[n].item())
            assert found.evaluations[n].item() == evaluations
        else:
            one = golden(in_a_loop(lambda _, s, f=function: f(s)), start[n : n + 1] / 20, start[n : n + 1] * 3)
            sigma = one.sigma.item()
            assert found.evaluations[n].item() == 9
        assert found.sigma[n].item() == pytest.approx(sigma, rel=1e-12)


@pytest.mark.parametrize(("objective", "search"), [("autvc", "golden"), ("autvc", "paper"), ("aupc", "golden")])
def test_the_map_is_smoothtaylors_at_the_chosen_sigma_on_fresh_roots(objective, search, network, images):
    x, y = images[:2], torch.tensor([1, 1])
    found = bind_objective(SmoothTaylor(noise="adaptive", roots=6, objective=objective, search=search))(
        network, x, y, KEYS
    )
    for n, sigma in enumerate(found.chosen.sigma.tolist()):
        one = SmoothTaylor(sigma=sigma, roots=6)(network, x[n : n + 1], y[n : n + 1], KEYS[n : n + 1])
        torch.testing.assert_close(found.map[n : n + 1], one.map, rtol=1e-8, atol=1e-12)
        torch.testing.assert_close(found.error[n : n + 1], one.error, rtol=1e-8, atol=0)
        again = METRICS[objective](Evidence(one.map, KEYS[n : n + 1], x[n : n + 1], y[n : n + 1], network)).value
        torch.testing.assert_close(found.chosen.objective[n : n + 1], again, rtol=1e-8, atol=0)
    assert torch.equal(found.used, 6 * (found.chosen.evaluations + 1))
    assert found.chosen.evaluations.max() <= (9 if search == "golden" else 41)


def test_a_search_for_aupc_takes_few_patches_and_the_value_that_is_reported_all(network, images, monkeypatch):
    asked, measured = [], AUPC.__call__
    monkeypatch.setattr(AUPC, "__call__", lambda self, given: asked.append(self.draws) or measured(self, given))
    y = torch.tensor([1])
    bind_objective(SmoothTaylor(noise="adaptive", roots=2))(network, images[:1], y, KEYS[:1])
    assert asked == [3] * 9 + [50]
    asked.clear()
    bind_objective(SmoothTaylor(noise="adaptive", roots=2, patches=50))(network, images[:1], y, KEYS[:1])
    assert asked == [50] * 10


@pytest.mark.parametrize("objective", ["autvc", "aupc"])
def test_adaptive_noise_does_not_depend_on_its_batch_neighbours(objective, network, images):
    method, y = bind_objective(SmoothTaylor(noise="adaptive", roots=6, objective=objective)), torch.tensor([1, 1])
    whole, alone = method(network, images[:2], y, KEYS), method(network, images[1:2], y[:1], KEYS[1:])
    torch.testing.assert_close(alone.chosen.sigma, whole.chosen.sigma[1:], rtol=1e-12, atol=0)
    torch.testing.assert_close(alone.chosen.objective, whole.chosen.objective[1:], rtol=1e-9, atol=0)
    torch.testing.assert_close(alone.map, whole.map[1:], rtol=1e-8, atol=1e-12)


def test_an_image_without_a_defined_score_gets_a_sigma_and_a_map_all_the_same(network, images):
    y = torch.tensor([0])  # its logit is negative: AUPC is undefined
    found = bind_objective(SmoothTaylor(noise="adaptive", roots=6))(network, images[:1], y, KEYS[:1])
    assert found.chosen.objective.isnan().all() and found.chosen.evaluations.tolist() == [9]
    assert (found.chosen.sigma > 0).all() and found.map.isfinite().all()


def test_without_a_measure_adaptive_noise_is_a_usage_error_with_a_hint(network, images):
    with pytest.raises(UsageError, match="measure") as error:
        SmoothTaylor(noise="adaptive")(network, images[:1], torch.tensor([1]), KEYS[:1])
    assert "bind_objective" in error.value.hint


def test_without_keys_the_place_in_the_batch_decides(network, images):
    method, y = bind_objective(SmoothTaylor(noise="adaptive", roots=4, objective="autvc")), torch.tensor([1, 1])
    torch.testing.assert_close(method(network, images[:2], y).map, method(network, images[:2], y, [0, 1]).map)


def test_a_method_that_wants_no_measure_is_ready_as_it_is():
    method = SmoothTaylor()
    assert bind_objective(method) is method


@pytest.mark.parametrize("options", [{"error": 0.1}, {"unit": "range"}], ids=str)
def test_adaptive_noise_refuses_what_it_cannot_keep(options):
    with pytest.raises(ValueError, match="adaptive"):
        SmoothTaylor(noise="adaptive", **options)
