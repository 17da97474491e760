"""Searches for the best noise against scalar loops, and adaptive SmoothTaylor against its parts called by hand."""

from __future__ import annotations

import math
import random

import pytest
import torch

from stochx.attributions import SmoothTaylor
from stochx.attributions._search import climb, race
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

    def objective(images, sigma, r=0):
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


@pytest.mark.parametrize("search", [climb, race])
def test_an_image_whose_objective_is_never_defined_keeps_the_start(search):
    start = torch.tensor([0.3, 0.6]).double()
    best = search(in_a_loop(lambda n, s: math.nan if n else s), start)
    assert best.sigma[1] == start[1] and not best.value[1].isfinite() and best.value[0].isfinite()
    assert best.noise[1].isnan() and best.low[1].isnan() and best.high[1].isnan()


# The race


def race_by_loop(function, start, ratio=3.0):
    """The race for one image, whose `function` takes a sigma and a round: (sigma, evaluations, low, high, noise)."""
    sigmas, values = {k: start * ratio**k for k in (-2, -1, 0, 1, 2)}, {}

    def play(places, rounds):
        for k in places:
            values.setdefault(k, []).extend(function(sigmas[k], r) for r in rounds)

    def noise():
        means, count = [sum(values[k]) / len(values[k]) for k in (-1, 0, 1)], len(values[0])
        drawn = [sum(values[k][r] for k in (-1, 0, 1)) / 3 for r in range(count)]
        rest = [
            values[k][r] - means[k + 1] - drawn[r] + sum(means) / 3 for k in (-1, 0, 1) for r in range(count)
        ]  # of a table with 2 (count - 1) degrees of freedom
        return math.sqrt(sum(v**2 for v in rest) / (2 * (count - 1)))

    def lead(k, first):
        return sum(values[0][first:]) / len(values[0][first:]) - sum(values[k][first:]) / len(values[k][first:])

    play((-1, 0, 1), (0, 1))
    side = -1 if values[-1][0] <= values[1][0] else 1
    if 0 < lead(side, 1) <= noise() * math.sqrt(2):
        play((-1, 0, 1), (2,))
    rounds, chosen = len(values[0]), 0
    if lead(side, 1) > noise() * math.sqrt(2 / (rounds - 1)):
        chosen = side
        play((2 * side,), range(rounds))
        if lead(2 * side, 0) - lead(side, 0) > noise() * math.sqrt(2 / rounds):
            chosen = 2 * side
    error = noise() * math.sqrt(2 / rounds)
    if abs(chosen) < 2:
        below, at, above = (sum(values[chosen + step]) / rounds for step in (-1, 0, 1))
        bend, step = below - 2 * at + above, math.nan
        if bend > 0:
            step = (below - above) / (2 * bend)
        if abs(step) < 1 and bend * step**2 / 2 > error:
            vertex = chosen + step
            sigmas[vertex] = start * ratio**vertex
            play((vertex,), range(rounds))
            if lead(vertex, 0) - lead(chosen, 0) > error:
                chosen = vertex
    near = [sigmas[k] for k in values if lead(chosen, 0) - lead(k, 0) <= noise() * math.sqrt(2 / rounds)]
    return sigmas[chosen], sum(map(len, values.values())), min(near), max(near), noise()


def drawn(n, sigma, r):
    """A valley at another place for each image, under noise of another strength that a round's sigmas partly share."""
    shared, own = random.Random(f"{n}/{r}").gauss(0, 1), random.Random(f"{n}/{r}/{sigma:.9f}").gauss(0, 1)
    return (math.log(sigma) - n % 9 / 2 + 2) ** 2 + n % 5 * (shared + 0.3 * own)


def in_rounds(function):
    """An objective of `race` from one of (image, sigma, round), called with plain numbers."""
    return lambda images, sigma, r: in_a_loop(lambda n, s: function(n, s, r))(images, sigma)


def test_a_race_is_its_loop_for_every_image_at_once():
    start = 0.5 + torch.rand(300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    best, sorts = race(in_rounds(drawn), start), set()
    for n in range(300):
        expected = race_by_loop(lambda sigma, r, n=n: drawn(n, sigma, r), start[n].item())
        found = [getattr(best, name)[n].item() for name in ("sigma", "evaluations", "low", "high", "noise")]
        assert found == pytest.approx(expected, abs=1e-9)
        sorts.add(int(found[1]))
    assert sorts == {6, 8, 9, 10, 12}


def test_a_race_without_noise_finds_the_lowest_sigma_of_a_parabola():
    """In log sigma, from a ninth of the start to nine times it; beyond the last sigmas but one nothing lies between."""
    best = race(in_rounds(lambda n, s, r: (math.log(s, 3) - n / 10 + 3) ** 2), torch.ones(60).double())
    lowest = [n / 10 - 3 for n in range(60)]
    expected = [3.0 ** (v if abs(v) <= 1.5 else math.copysign(2, v)) for v in lowest]
    assert best.sigma.tolist() == pytest.approx(expected) and best.noise.max() < 1e-12
    assert set(best.evaluations.tolist()) == {6, 8, 10}


def test_a_race_stays_where_the_parabola_misleads():
    """Its vertex is at a quarter of the step, where this valley is as steep as nowhere else."""
    valley = in_rounds(lambda n, s, r: abs(math.log(s, 3)) ** 0.2 * (3 if s < 1 else 1))
    best = race(valley, torch.ones(1).double())
    assert best.sigma.item() == 1 and best.evaluations.item() == 8


def test_a_race_knows_its_noise_and_seldom_takes_noise_for_a_difference():
    source = torch.Generator().manual_seed(0)
    shared = torch.randn(3, 4000, generator=source).double() * 50

    def objective(images, sigma, r):
        return shared[r, images] + 2 * torch.randn(len(images), generator=source).double()

    best = race(objective, torch.ones(4000).double())
    assert best.noise.square().mean().sqrt().item() == pytest.approx(2, rel=0.05), "what all sigmas share is no noise"
    assert (best.sigma == 1).double().mean() > 0.65 and best.evaluations.double().mean() < 7.6
    assert (best.high > best.low).double().mean() > 0.7, "sigmas that are as good are named"


# SmoothTaylor with adaptive noise


@pytest.fixture
def network(tiny):
    """The tiny net behind a normalisation: sigma is in its units."""
    made = Classifier(tiny, "abcde", Preparation(16, 16), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    return made.double().eval()


def objective_by_hand(metric, network, x, y, n, roots=6):
    """The score of image n's map at a sigma in a round, under the documented keys of the search."""

    def function(sigma, r=0):
        keys = [f"{KEYS[n]}/search/{r}"]
        relevance = SmoothTaylor(sigma=sigma, roots=roots)(network, x[n : n + 1], y[n : n + 1], keys).map
        return metric(Evidence(relevance, keys, x[n : n + 1], y[n : n + 1], network)).value.item()

    return function


@pytest.mark.parametrize(("objective", "search"), [("autvc", "race"), ("autvc", "paper"), ("aupc", "race")])
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
            sigma, evaluations, *rest = race_by_loop(function, 0.3)
            assert found.evaluations[n].item() == evaluations
            assert [v[n].item() for v in (found.low, found.high, found.noise)] == pytest.approx(rest, rel=1e-6)
        assert found.sigma[n].item() == pytest.approx(sigma, rel=1e-12)


@pytest.mark.parametrize(("objective", "search"), [("autvc", "race"), ("autvc", "paper"), ("aupc", "race")])
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
    assert found.chosen.evaluations.max() <= (15 if search == "race" else 41)


def test_a_search_for_aupc_takes_few_patches_and_the_value_that_is_reported_all(network, images, monkeypatch):
    asked, measured = [], AUPC.__call__
    monkeypatch.setattr(AUPC, "__call__", lambda self, given: asked.append(self.draws) or measured(self, given))
    y = torch.tensor([1])
    bind_objective(SmoothTaylor(noise="adaptive", roots=2))(network, images[:1], y, KEYS[:1])
    assert len(asked) >= 7 and asked == [3] * (len(asked) - 1) + [50]
    asked.clear()
    bind_objective(SmoothTaylor(noise="adaptive", roots=2, patches=50))(network, images[:1], y, KEYS[:1])
    assert len(asked) >= 7 and set(asked) == {50}


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
    assert found.chosen.objective.isnan().all() and found.chosen.evaluations.tolist() == [6]
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
