"""The theorems of each metric, its formula as a literal loop, and the peers where they are right."""

from __future__ import annotations

import copy
import dataclasses
import threading
import warnings

import pytest
import torch
from conftest import Linear, random_images
from scipy.stats import spearmanr
from torch import nn

from stochx.attributions import Gradient, IntegratedGradients, SmoothGrad
from stochx.engine.baselines import BASELINES
from stochx.engine.ranking import spearman
from stochx.engine.seeds import generator
from stochx.errors import InputError
from stochx.metrics import (
    CSDC,
    EMPRT,
    SMPRT,
    Completeness,
    Complexity,
    DeletionCheck,
    Distractibility,
    Evidence,
    Infidelity,
    MaxSensitivity,
    PointingGame,
    PreservationCheck,
    Randomisation,
    RelevanceMass,
    RelevanceRank,
    SingleDeletion,
    Sparseness,
    TargetSensitivity,
)
from stochx.metrics._cascade import from_the_top
from stochx.metrics.emprt import histogram_entropy
from stochx.testing.samples import sample_parts

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import quantus
    from captum.metrics import infidelity, sensitivity_max

METRICS = [
    Sparseness(),
    Complexity(),
    Completeness(),
    Infidelity(draws=7),
    Infidelity(draws=7, operator="square"),
    MaxSensitivity(draws=3),
    MaxSensitivity(draws=3, form="mean"),
    Randomisation(stages=2),
    EMPRT(),
    SMPRT(samples=2, stages=2),
    PointingGame(),
    PointingGame(reduce="signed"),
    RelevanceMass(),
    RelevanceRank(),
    CSDC(),
    PreservationCheck(),
    DeletionCheck(),
    Distractibility(),
    SingleDeletion(),
    SingleDeletion(intervention="replacement"),
    TargetSensitivity(),
]
KEYS = ["a", "b", "c", "d", "e"]


def quick(metric):
    return "-".join(str(part) for part in [type(metric).__name__, *dataclasses.astuple(metric)])


def map_of(*rows):
    """One (1, 1, H, W) map."""
    return torch.tensor(rows, dtype=torch.float64)[None, None]


def theirs(metric, relevance, mask=None):
    """What a metric of quantus says of maps whose channels are summed to their absolute value already."""
    a = relevance.sum(1, keepdim=True).abs().numpy()
    s = None if mask is None else mask[:, None].numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = metric(abs=False, normalise=False, disable_warnings=True)
        found = made(model=None, x_batch=a.copy(), y_batch=None, a_batch=a.copy(), s_batch=s)
    return torch.tensor([float(value) for value in found], dtype=torch.float64)


@pytest.fixture
def mask():
    """A square on each of five images, of another size on each."""
    found = torch.zeros(5, 16, 16, dtype=torch.bool)
    for n in range(5):
        found[n, n : 2 * n + 5, 3 : 9 + n] = True
    return found


@pytest.fixture
def evidence(tiny, images, mask):
    """SmoothGrad of the tiny net: a random map, made again with the same draws."""
    target = tiny(images).argmax(1)

    def explain(model, x, y):
        return SmoothGrad(samples=4, sigma=0.05)(model, x, y, KEYS).map

    parts = sample_parts(images, target.tolist())
    return Evidence(explain(tiny, images, target), KEYS, images, target, tiny, explain, mask, parts)


def only(evidence, n):
    """The evidence of one image."""

    def explain(model, x, y):
        return SmoothGrad(samples=4, sigma=0.05)(model, x, y, KEYS[n : n + 1]).map

    parts = {name: getattr(evidence, name)[n : n + 1] for name in ("map", "keys", "x", "target", "mask", "parts")}
    return Evidence(model=evidence.model, explain=explain, **parts)


# Every metric


@pytest.mark.parametrize("metric", METRICS, ids=quick)
def test_a_score_is_finite_repeats_and_touches_nothing(metric, evidence):
    weights = {key: value.clone() for key, value in evidence.model.state_dict().items()}
    state = torch.get_rng_state()
    first, second = metric(evidence), metric(evidence)
    assert torch.equal(first.value, second.value) and first.value.dtype == torch.float64
    assert first.value.shape == (5,) and first.value.isfinite().all() and not first.why
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, weights[key]) for key, value in evidence.model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in evidence.model.parameters())
    assert not any(m.training or m._forward_hooks or m._forward_pre_hooks for m in evidence.model.modules())


@pytest.mark.parametrize("metric", METRICS, ids=quick)
def test_a_score_does_not_depend_on_its_batch_neighbours(metric, evidence):
    torch.testing.assert_close(metric(only(evidence, 3)).value, metric(evidence).value[3:4], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("metric", METRICS, ids=quick)
def test_a_score_does_not_change_with_the_scale_of_the_map_unless_it_measures_units(metric, evidence):
    larger = dataclasses.replace(
        evidence, map=7 * evidence.map, explain=lambda model, x, y: 7 * evidence.explain(model, x, y)
    )
    same = torch.allclose(metric(larger).value, metric(evidence).value, rtol=1e-9)
    assert same != isinstance(metric, Infidelity | Completeness)


@pytest.mark.parametrize("metric", METRICS, ids=quick)
def test_a_map_of_zeros_is_undefined_for_its_image_alone(metric, evidence):
    relevance = evidence.map.clone()
    relevance[1] = 0
    found = metric(dataclasses.replace(evidence, map=relevance))
    assert list(found.why) == [1] and found.why[1] in ("the map is zero", "the map is constant")
    assert found.value.isnan().tolist() == [False, True, False, False, False]


@pytest.mark.parametrize("metric", [m for m in METRICS if "mask" in m.needs], ids=quick)
def test_an_empty_mask_is_undefined(metric, evidence, mask):
    mask[2] = False
    found = metric(evidence)
    assert found.why == {2: "the mask is empty"} and found.value.isnan().nonzero().tolist() == [[2]]


@pytest.mark.parametrize("metric", [m for m in METRICS if "explain" in m.needs], ids=quick)
def test_a_map_that_is_not_finite_when_made_again_is_undefined(metric, evidence):
    def explain(model, x, y):
        relevance = evidence.explain(model, x, y)
        relevance[4, 0, 0, 0] = torch.nan
        return relevance

    assert metric(dataclasses.replace(evidence, explain=explain)).why == {
        4: "a logit or a map behind the score is not finite"
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Infidelity(draws=0), "draws"),
        (lambda: Infidelity(sigma=0.0), "sigma"),
        (lambda: Infidelity(side=1.5), "side"),
        (lambda: MaxSensitivity(draws=0), "draws"),
        (lambda: MaxSensitivity(radius=0.0), "radius"),
        (lambda: Randomisation(stages=-1), "stages"),
        (lambda: EMPRT(bins=1), "bins"),
        (lambda: SMPRT(samples=0), "samples"),
        (lambda: SMPRT(noise=-0.1), "noise"),
        (lambda: SMPRT(stages=-1), "stages"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# How the map looks


def test_sparseness_of_four_values_by_hand():
    found = Sparseness()(Evidence(map_of([1, -2], [3, -4]), [0])).value
    assert found.item() == pytest.approx((-3 * 1 - 1 * 2 + 1 * 3 + 3 * 4) / (4 * 10))


def test_sparseness_is_0_for_equal_values_and_1_minus_1_over_d_for_a_single_one():
    assert Sparseness()(Evidence(map_of([2, 2], [-2, 2]), [0])).value.item() == 0
    assert Sparseness()(Evidence(map_of([0, 0], [0, 5]), [0])).value.item() == 0.75


def test_sparseness_agrees_with_quantus_up_to_its_1e_7(evidence):
    ours = Sparseness()(evidence).value
    # Their 1e-7 is added to every value and so shrinks the index: it is undone by its share of the total.
    total = evidence.map.sum(1).abs().flatten(1).sum(1)
    torch.testing.assert_close(
        ours, theirs(quantus.Sparseness, evidence.map) * (1 + 256e-7 / total), rtol=1e-10, atol=0
    )


def test_complexity_of_three_values_by_hand():
    found = Complexity()(Evidence(map_of([1, -1], [2, 0]), [0])).value
    assert found.item() == pytest.approx(0.5 * torch.tensor(4.0).log().item() + 0.5 * torch.tensor(2.0).log().item())


def test_complexity_is_0_for_a_single_pixel_and_ln_d_for_equal_ones():
    assert Complexity()(Evidence(map_of([0, 0], [0, -5]), [0])).value.item() == 0
    assert Complexity()(Evidence(map_of([3, 3], [3, -3]), [0])).value.item() == pytest.approx(1.3862943611198906)


def test_complexity_agrees_with_quantus(evidence):
    torch.testing.assert_close(
        Complexity()(evidence).value, theirs(quantus.Complexity, evidence.map), rtol=1e-8, atol=0
    )


# Where the map points


def test_the_largest_absolute_and_the_largest_signed_value_play_different_games():
    relevance, mask = map_of([0, -5], [3, 0]), torch.tensor([[[False, True], [False, False]]])
    seen = Evidence(relevance, [0], mask=mask)
    assert PointingGame()(seen).value.item() == 1
    assert PointingGame(reduce="signed")(seen).value.item() == 0


def test_a_tie_between_object_and_ground_is_decided_by_the_key():
    relevance, mask = map_of([1, 0], [0, 1]), torch.tensor([[[True, False], [False, False]]])
    seen = Evidence(relevance.expand(400, -1, -1, -1), range(400), mask=mask.expand(400, -1, -1))
    assert 0.4 < PointingGame()(seen).value.mean().item() < 0.6


def test_a_constant_map_points_nowhere_and_ranks_nothing():
    seen = Evidence(map_of([2, 2], [2, 2]), [0], mask=torch.tensor([[[True, False], [False, False]]]))
    for metric in PointingGame(), RelevanceRank():
        assert metric(seen).why == {0: "the map is constant"}
    assert RelevanceMass()(seen).value.item() == 0.25


def test_mass_and_rank_by_hand():
    relevance = map_of([4, -1, 2], [0, 3, 0])
    mask = torch.tensor([[[True, True, False], [False, True, False]]])
    assert RelevanceMass()(Evidence(relevance, [0], mask=mask)).value.item() == pytest.approx(0.8)
    assert RelevanceRank()(Evidence(relevance, [0], mask=mask)).value.item() == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("ours", "peer"),
    [
        (PointingGame(), quantus.PointingGame),
        (RelevanceMass(), quantus.RelevanceMassAccuracy),
        (RelevanceRank(), quantus.RelevanceRankAccuracy),
    ],
    ids=["pointing", "mass", "rank"],
)
def test_what_the_mask_measures_agrees_with_quantus(ours, peer, mask):
    relevance = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    relevance[:3] *= 1 + 5 * mask[:3, None]  # some point at the object, some do not
    found = ours(Evidence(relevance, KEYS, mask=mask)).value
    torch.testing.assert_close(found, theirs(peer, relevance, mask), rtol=1e-12, atol=0)
    assert found.min() < 0.5 < found.max()


# What the map adds up to


def test_integrated_gradients_are_complete_and_its_double_is_off_by_one(linear):
    x, y = random_images(3, 1, 4, 4), torch.tensor([0, 1, 2])
    relevance = IntegratedGradients(steps=1)(linear, x, y).map
    zero, one = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    for scale, expected in [(1, zero), (2, one), (-1, 2 * one)]:
        found = Completeness()(Evidence(scale * relevance, KEYS[:3], x, y, linear)).value
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("baseline", ["black", "white", "mean", "blur"])
def test_completeness_is_its_formula(baseline, evidence):
    model, x, y = evidence.model, evidence.x, evidence.target
    with torch.no_grad():
        gain = [(model(x) - model(BASELINES[baseline](x)))[n, y[n]].item() for n in range(5)]
    expected = [abs(evidence.map[n].sum().item() - gain[n]) / abs(gain[n]) for n in range(5)]
    assert Completeness(baseline=baseline)(evidence).value.tolist() == pytest.approx(expected)


def test_completeness_is_undefined_where_the_baseline_is_the_image(linear):
    x, y = random_images(2, 1, 4, 4), torch.tensor([0, 1])
    x[1] = 0
    found = Completeness()(Evidence(torch.ones_like(x), KEYS[:2], x, y, linear))
    assert found.why == {1: "the logit is that of the black baseline"} and found.value[1].isnan()


def test_the_exact_map_of_a_linear_model_has_no_infidelity(linear):
    x, y = random_images(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1])
    for operator in "noise", "square":
        for scale, low, high in [(1, 0, 1e-28), (2, 1e-3, 10)]:
            seen = Evidence(scale * Gradient()(linear, x, y).map, KEYS, x, y, linear)
            found = Infidelity(draws=20, operator=operator)(seen).value
            assert low <= found.min() and found.max() < high


def noise_steps(x, draws):
    """sigma = 0.2, the documented draws, images first: (N * draws, C, H, W)."""
    return 0.2 * torch.stack(
        [
            torch.randn(x.shape[1:], generator=generator(key, "infidelity", i)).double()
            for key in KEYS
            for i in range(draws)
        ]
    )


def square_steps(x, draws):
    """A 6 x 6 square of each image set to black."""
    steps = torch.zeros(len(x), draws, *x.shape[1:], dtype=x.dtype)
    for n, key in enumerate(KEYS):
        for i in range(draws):
            source = generator(key, "infidelity", i)
            top, left = (torch.randint(11, (), generator=source).item() for _ in "yx")
            steps[n, i, :, top : top + 6, left : left + 6] = x[n, :, top : top + 6, left : left + 6]
    return steps.flatten(0, 1)


@pytest.mark.parametrize(
    ("metric", "steps"),
    [
        (Infidelity(draws=9, sigma=0.2), noise_steps),
        (Infidelity(draws=9, operator="square", side=0.4, baseline="black"), square_steps),
    ],
    ids=["noise", "square"],
)
def test_infidelity_agrees_with_captum_under_the_same_draws(metric, steps, evidence):
    step = steps(evidence.x, 9)
    with torch.no_grad():
        peer = infidelity(
            evidence.model,
            lambda repeated: (step, repeated - step),
            evidence.x,
            evidence.map,
            target=evidence.target,
            n_perturb_samples=9,
        )
    torch.testing.assert_close(metric(evidence).value, peer, rtol=1e-9, atol=0)


def test_infidelity_spreads_a_map_without_channels_evenly(evidence):
    flat = evidence.map.sum(1, keepdim=True)
    spread = (flat / 3).expand_as(evidence.x)
    one, other = (Infidelity(draws=5)(dataclasses.replace(evidence, map=a)).value for a in (flat, spread))
    torch.testing.assert_close(one, other)


def test_squares_stay_inside_and_reach_every_corner(linear):
    x, y = torch.ones(1, 1, 4, 4, dtype=torch.float64), torch.tensor([0])
    seen = []

    def model(pixels):
        seen.append(pixels.clone())
        return linear(pixels)

    found = Infidelity(draws=200, operator="square", side=0.5, baseline="black")(
        Evidence(torch.ones_like(x), [0], x, y, model)
    )
    holes = torch.cat([batch for batch in seen if len(batch) > 1])
    assert set((holes == 0).flatten(1).sum(1).tolist()) <= {0, 4} and found.setting == "squares of 2 px"
    assert all((holes[:, 0, i, j] == 0).any() for i in (0, 3) for j in (0, 3))


# Whether the map is steady, and whether it sees the network


def directions(x, draws, radius):
    """The documented draws, images first: (N, draws, C, H, W)."""
    return (
        torch.stack(
            [
                torch.stack(
                    [torch.rand(x.shape[1:], generator=generator(key, "max-sensitivity", i)) for i in range(draws)]
                )
                for key in KEYS
            ]
        ).double()
        * (2 * radius)
        - radius
    )


@pytest.fixture
def plain(evidence):
    """The gradient, which needs no keys: it can be made of any number of images."""

    def explain(model, x, y):
        return Gradient()(model, x, y).map

    return dataclasses.replace(evidence, explain=explain, map=explain(evidence.model, evidence.x, evidence.target))


def test_max_sensitivity_agrees_with_captum_under_the_same_draws(plain):
    step = directions(plain.x, 6, 0.03).flatten(0, 1)

    def attribute(x, target):
        with torch.enable_grad():  # captum switches it off around explanations too
            return (plain.explain(plain.model, x[0] if isinstance(x, tuple) else x, target),)

    peer = sensitivity_max(attribute, plain.x, lambda x: x + step, n_perturb_samples=6, target=plain.target)
    torch.testing.assert_close(MaxSensitivity(draws=6, radius=0.03)(plain).value, peer, rtol=1e-9, atol=0)


def test_mean_sensitivity_is_the_literal_loop(plain):
    step = directions(plain.x, 4, 0.02)
    expected = torch.zeros(5, dtype=torch.float64)
    for n in range(5):
        one, y = plain.x[n : n + 1], plain.target[n : n + 1]
        before = plain.explain(plain.model, one, y)
        for i in range(4):
            change = plain.explain(plain.model, one + step[n, i], y) - before
            expected[n] += change.norm() / before.norm() / 4
    torch.testing.assert_close(MaxSensitivity(draws=4, form="mean")(plain).value, expected, rtol=1e-9, atol=0)


def test_the_gradient_of_a_linear_model_is_perfectly_steady(linear):
    x, y = random_images(5, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1])
    seen = Evidence(Gradient()(linear, x, y).map, KEYS, x, y, linear, lambda m, x, y: Gradient()(m, x, y).map)
    assert MaxSensitivity()(seen).value.tolist() == [0] * 5


def test_more_draws_never_lower_the_max_sensitivity(plain):
    assert (MaxSensitivity(draws=8)(plain).value >= MaxSensitivity(draws=3)(plain).value).all()


def test_spearman_agrees_with_scipy_also_on_ties():
    a, b = torch.randint(0, 9, (2, 4, 60), generator=torch.Generator().manual_seed(0)).double()
    expected = torch.tensor([spearmanr(a[n], b[n]).statistic for n in range(4)], dtype=torch.float64)
    torch.testing.assert_close(spearman(a, b), expected)
    torch.testing.assert_close(spearman(a, -a), -torch.ones(4, dtype=torch.float64))
    assert spearman(a, torch.ones_like(a)).tolist() == [0] * 4


def test_a_map_that_ignores_the_network_survives_randomisation(evidence):
    seen = dataclasses.replace(evidence, map=evidence.x, explain=lambda model, x, y: x)
    found = Randomisation(stages=3)(seen)
    torch.testing.assert_close(found.value, torch.ones(5, dtype=torch.float64))


def test_the_cascade_goes_from_the_output_down_and_counts_what_it_reaches(tiny, images):
    names = {module: name for name, module in tiny.named_modules()}
    assert [names[m] for m in from_the_top(tiny, images[:1])] == ["linear", "conv", "norm2", "norm", "stem"]


def test_each_stage_draws_its_layers_anew_and_leaves_those_below(evidence):
    seen = []

    def explain(model, x, y):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return evidence.map

    found = Randomisation(stages=0)(dataclasses.replace(evidence, explain=explain))
    assert found.places.tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0]) and found.setting == "5 layers"
    old, order = evidence.model.state_dict(), ["linear", "conv", "norm2", "norm", "stem"]
    for stage, weights in enumerate(seen):
        changed = {name.split(".")[0] for name in old if not torch.equal(old[name], weights[name])}
        assert changed == set(order[: stage + 1])
    assert seen[-1]["norm.running_mean"].eq(0).all() and seen[-1]["norm2.running_var"].eq(1).all()


def test_the_new_weights_depend_on_the_seed_and_not_on_the_stages(evidence):
    every, two, other = (Randomisation(stages=n, seed=s)(evidence) for n, s in [(0, 0), (2, 0), (2, 1)])
    assert two.places.tolist() == pytest.approx([0.6, 1.0])
    torch.testing.assert_close(two.curve, every.curve[:, [2, 4]])
    torch.testing.assert_close(two.value, two.curve.mean(1))
    assert not torch.allclose(two.curve, other.curve)


def test_the_gradient_of_a_network_follows_its_weights(plain):
    found = Randomisation()(plain)
    assert found.value.abs().max() < 0.8 and found.curve.shape == (5, 5)


def test_weights_without_an_initialisation_of_their_own_are_drawn_like_the_old_ones():
    class Scaled(nn.Linear):
        def __init__(self):
            super().__init__(400, 2, dtype=torch.float64)
            self.scale = nn.Parameter(torch.linspace(2, 4, 400, dtype=torch.float64))

        def forward(self, x):
            return super().forward(x.flatten(1) * self.scale)

    seen, x, y = [], random_images(2, 1, 20, 20), torch.tensor([0, 1])

    def explain(model, x, y):
        seen.extend(p.detach().clone() for p in model.parameters())
        return x

    with torch.random.fork_rng():
        model = Scaled().eval()
    Randomisation()(Evidence(x, KEYS[:2], x, y, model, explain))
    assert all(not torch.equal(new, old) for new, old in zip(seen, model.parameters(), strict=True))
    scale = next(new for new in seen if new.shape == (400,))
    assert scale.mean().item() == pytest.approx(3, abs=0.1) and scale.std().item() == pytest.approx(0.58, abs=0.1)


def test_randomising_a_model_with_plain_parameters_works():
    x, y = random_images(2, 1, 4, 4), torch.tensor([0, 1])
    model = Linear().eval()
    seen = Evidence(Gradient()(model, x, y).map, KEYS[:2], x, y, model, lambda m, x, y: Gradient()(m, x, y).map)
    found = Randomisation()(seen)
    assert found.curve.shape == (2, 1) and found.value.max() < 0.99


def test_a_model_that_cannot_be_copied_or_has_no_weights_is_refused(evidence):
    class Locked(nn.Flatten):
        lock = threading.Lock()

        def __deepcopy__(self, memo):
            return copy.deepcopy(self.lock)

    for model, message in [(Locked(), "cannot be copied"), (nn.Flatten(), "no weights")]:
        with pytest.raises(InputError, match=message):
            Randomisation()(dataclasses.replace(evidence, model=model))


def test_a_map_that_randomisation_makes_constant_has_no_likeness_left(evidence):
    found = Randomisation()(dataclasses.replace(evidence, explain=lambda model, x, y: torch.zeros_like(x)))
    assert found.value.tolist() == [0] * 5 and not found.why


def test_no_test_of_weights_ranks_methods():
    assert [metric.higher_is_better for metric in (Randomisation(), EMPRT(), SMPRT())] == [None] * 3


def test_the_entropy_of_a_histogram_by_hand():
    values = torch.tensor([[0.0, 1, 2, 3], [5, 5, 5, 9], [1, 1, 1, 1]], dtype=torch.float64)
    expected = torch.tensor([4.0, 4 / 3**0.75, 1.0], dtype=torch.float64).log()
    torch.testing.assert_close(histogram_entropy(values, 4), expected, rtol=1e-14, atol=0)


def test_the_entropy_of_a_histogram_is_that_of_quantus(evidence):
    values = evidence.map.sum(1).flatten(1)
    expected = [quantus.functions.complexity_func.discrete_entropy(row.numpy(), None) for row in values]
    assert histogram_entropy(values, 100).tolist() == pytest.approx(expected, rel=1e-12)


def test_emprt_is_the_rise_of_the_entropy_over_a_network_of_new_weights(evidence):
    made = []

    def explain(model, x, y):
        made.append({name: value.clone() for name, value in model.state_dict().items()})
        return evidence.map.square()

    found = EMPRT(bins=50)(dataclasses.replace(evidence, explain=explain)).value
    old, (new,) = evidence.model.state_dict(), made
    assert not any(torch.equal(old[name], new[name]) for name in ("stem.weight", "conv.weight", "linear.weight"))
    entropy = [
        [quantus.functions.complexity_func.discrete_entropy(row.numpy(), None, n_bins=50) for row in maps.sum(1)]
        for maps in (evidence.map, evidence.map.square())
    ]
    assert found.tolist() == pytest.approx([(b - a) / a for a, b in zip(*entropy, strict=True)], rel=1e-12)


def test_emprt_of_a_map_that_ignores_the_weights_is_exactly_0(evidence):
    assert EMPRT()(dataclasses.replace(evidence, map=evidence.x, explain=lambda m, x, y: x)).value.tolist() == [0] * 5


def test_emprt_does_not_depend_on_scale_and_offset(evidence):
    moved = dataclasses.replace(evidence, map=3 * evidence.map + 2, explain=lambda *a: 5 * evidence.explain(*a) - 1)
    torch.testing.assert_close(EMPRT()(moved).value, EMPRT()(evidence).value)


def test_smprt_without_noise_is_randomisation(plain):
    torch.testing.assert_close(SMPRT(samples=3, noise=0.0, stages=2)(plain).curve, Randomisation(stages=2)(plain).curve)


def test_smprt_is_randomisation_of_maps_averaged_over_noisy_images(plain):
    def smooth(model, x, y):
        std = 0.2 * torch.stack([image.max() - image.min() for image in x]).view(-1, 1, 1, 1)
        total = plain.explain(model, x, y)
        for draw in range(3):
            rows = [torch.randn(x.shape[1:], generator=generator(key, "smprt", draw)) for key in plain.keys]
            total = total + plain.explain(model, x + std * torch.stack(rows), y)
        return total / 4

    seen = dataclasses.replace(plain, map=smooth(plain.model, plain.x, plain.target), explain=smooth)
    found = SMPRT(samples=4, noise=0.2, stages=2)(plain)
    torch.testing.assert_close(found.curve, Randomisation(stages=2)(seen).curve)


def test_single_precision_gives_the_same_scores(evidence):
    single = dataclasses.replace(
        evidence, map=evidence.map.float(), x=evidence.x.float(), model=copy.deepcopy(evidence.model).float()
    )
    for metric in METRICS:
        if not isinstance(
            metric, Randomisation | EMPRT | SMPRT
        ):  # its maps are made of float32 gradients, whose ReLUs flip
            found = metric(single).value
            assert found.dtype == torch.float32
            torch.testing.assert_close(found.double(), metric(evidence).value, rtol=2e-3, atol=1e-6)
