"""LRP's rules against their formulas, on layers written out as matrices."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stochx.engine.lrp import rules
from stochx.engine.lrp.rules import Layer, stabilise

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

LAYERS = {
    "linear": lambda: nn.Linear(54, 7),
    "plain": lambda: nn.Conv2d(6, 4, 3),
    "padded": lambda: nn.Conv2d(6, 4, 3, padding=(1, 0)),
    "strided": lambda: nn.Conv2d(6, 4, 2, stride=2, padding=1),
    "dilated": lambda: nn.Conv2d(6, 4, 2, dilation=2),
    "grouped": lambda: nn.Conv2d(6, 4, 3, padding=1, groups=2),
    "depthwise": lambda: nn.Conv2d(6, 6, 3, padding=1, groups=6),
    "same": lambda: nn.Conv2d(6, 4, 2, padding="same"),
    "without bias": lambda: nn.Conv2d(6, 4, 3, padding=1, bias=False),
}


class Case:
    """A layer, inputs and relevance, and `contributions` (N, K, J): what input j adds to output k."""

    def __init__(self, name: str, signed: bool) -> None:
        generator = torch.Generator().manual_seed(5)
        with torch.random.fork_rng():
            torch.manual_seed(4)
            module = LAYERS[name]().double()
        shape = (54,) if name == "linear" else (6, 3, 3)
        self.layer = Layer.of(module)
        self.x = torch.rand(2, *shape, dtype=torch.float64, generator=generator) - 0.5 * signed
        with torch.no_grad():
            out = module(self.x)
            units = torch.eye(54, dtype=torch.float64).view(54, *shape)
            linear = self.layer.apply(units, self.layer.weight, None)
            ones = self.layer.apply(units, torch.ones_like(self.layer.weight), None)
        self.relevance = torch.randn(out.shape, dtype=torch.float64, generator=generator)
        self.matrix, self.reach = linear.flatten(1).T, ones.flatten(1).T
        self.z, self.flat_x = out.flatten(1), self.x.flatten(1)
        self.bias = torch.zeros_like(self.z[0])
        if module.bias is not None:
            self.bias = (out * 0 + module.bias.view(-1, *[1] * (out.dim() - 2))).flatten(1)[0].detach()
        self.contributions = self.flat_x[:, None] * self.matrix

    def shares(self, numerators, z, where=True, epsilon=1e-6):
        """R_j = sum_k n_jk R_k / (z_k + epsilon sign z_k) over the outputs `where`."""
        s = self.relevance.flatten(1) / (z + epsilon * torch.where(z < 0, -1.0, 1.0)) * where
        return torch.einsum("nkj,nk->nj", numerators.expand(len(s), -1, -1), s).view_as(self.x)


@pytest.fixture(params=LAYERS)
def name(request):
    return request.param


@pytest.fixture(params=[True, False], ids=["signed", "positive"])
def case(request, name):
    return Case(name, request.param)


def test_epsilon_gives_by_contribution(case):
    expected = case.shares(case.contributions, case.z, epsilon=0.1)
    torch.testing.assert_close(rules.epsilon(case.layer, case.x, case.relevance, 0.1), expected)


def test_z_plus_gives_by_what_speaks_for_an_output(case):
    up = case.contributions.clamp(min=0)
    expected = case.shares(up, up.sum(2) + case.bias.clamp(min=0))
    torch.testing.assert_close(rules.z_plus(case.layer, case.x, case.relevance), expected)


def test_alpha_beta_weighs_what_speaks_for_and_against(case):
    up, down = case.contributions.clamp(min=0), case.contributions.clamp(max=0)
    z_up, z_down = up.sum(2) + case.bias.clamp(min=0), down.sum(2) + case.bias.clamp(max=0)
    expected = 2 * case.shares(up, z_up) - case.shares(down, z_down)
    torch.testing.assert_close(rules.alpha_beta(case.layer, case.x, case.relevance, 2, 1), expected)


def test_gamma_favours_what_agrees_with_an_outputs_sign(case):
    up, down = case.contributions.clamp(min=0), case.contributions.clamp(max=0)
    b_up, b_down = case.bias.clamp(min=0), case.bias.clamp(max=0)
    more, less = case.contributions + 0.5 * up, case.contributions + 0.5 * down
    expected = case.shares(more, more.sum(2) + case.bias + 0.5 * b_up, where=case.z > 0)
    expected = expected + case.shares(less, less.sum(2) + case.bias + 0.5 * b_down, where=case.z < 0)
    torch.testing.assert_close(rules.gamma(case.layer, case.x, case.relevance, 0.5), expected)


def test_flat_gives_the_same_to_all_inputs_of_an_output(case):
    torch.testing.assert_close(
        rules.flat(case.layer, case.x, case.relevance), case.shares(case.reach, case.reach.sum(1))
    )


def test_box_measures_from_the_ends_of_the_box(case):
    low, high = torch.full_like(case.x[:1], -0.75), torch.full_like(case.x[:1], 1.25)
    up, down = case.matrix.clamp(min=0), case.matrix.clamp(max=0)
    parts = case.contributions - low.flatten() * up - high.flatten() * down
    expected = case.shares(parts, parts.sum(2))
    torch.testing.assert_close(rules.box(case.layer, case.x, case.relevance, low, high), expected)


RULES = {
    "epsilon": lambda layer, x, r: rules.epsilon(layer, x, r, 1e-12),
    "z+": rules.z_plus,
    "alpha-beta": lambda layer, x, r: rules.alpha_beta(layer, x, r, 2, 1),
    "gamma": lambda layer, x, r: rules.gamma(layer, x, r, 0.25),
    "flat": rules.flat,
    "box": lambda layer, x, r: rules.box(layer, x, r, x - 1, x + 1),
}


@pytest.mark.parametrize("rule", RULES)
def test_rules_conserve_relevance_without_a_bias(rule):
    case = Case("without bias", signed=True)
    sent = RULES[rule](case.layer, case.x, case.relevance)
    torch.testing.assert_close(sent.sum((1, 2, 3)), case.relevance.sum((1, 2, 3)), rtol=1e-4, atol=1e-4)


def test_z_plus_is_alpha_beta_without_a_beta(case):
    expected = rules.alpha_beta(case.layer, case.x, case.relevance, 1, 0)
    torch.testing.assert_close(rules.z_plus(case.layer, case.x, case.relevance), expected)


def test_gamma_zero_is_epsilon(case):
    expected = rules.epsilon(case.layer, case.x, case.relevance)
    torch.testing.assert_close(rules.gamma(case.layer, case.x, case.relevance, 0.0), expected)


def test_the_stabiliser_moves_zero_upwards():
    torch.testing.assert_close(stabilise(torch.tensor([0.0, 2.0, -2.0]), 0.5), torch.tensor([0.5, 2.5, -2.5]))


def test_sums_share_by_contribution():
    a, b = torch.tensor([1.0, 3.0]), torch.tensor([1.0, -1.0])
    first, second = rules.share(torch.tensor([4.0, 4.0]), [a, b])
    torch.testing.assert_close(first, torch.tensor([2.0, 6.0]), rtol=1e-5, atol=0)
    torch.testing.assert_close(second, torch.tensor([2.0, -2.0]), rtol=1e-5, atol=0)


def test_a_summand_that_was_broadcast_gets_the_sum_of_its_shares():
    a, b = torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0]])
    _, second = rules.share(torch.tensor([[4.0, 4.0]]), [a, b])
    torch.testing.assert_close(second, torch.tensor([[3.0]]), rtol=1e-5, atol=0)


def test_average_pooling_gives_by_share_of_the_mean():
    x = torch.tensor([[[[1.0, 3.0], [0.0, 4.0]]]])
    sent = rules.through(torch.tensor([[[[8.0]]]]), x, lambda v: F.avg_pool2d(v, 2), normed=True)
    torch.testing.assert_close(sent, x, rtol=1e-5, atol=0)


def test_max_pooling_gives_all_to_the_winner():
    x = torch.tensor([[[[1.0, 3.0], [0.0, 4.0]]]])
    sent = rules.through(torch.tensor([[[[8.0]]]]), x, lambda v: F.max_pool2d(v, 2), normed=False)
    assert sent.flatten().tolist() == [0.0, 0.0, 0.0, 8.0]
