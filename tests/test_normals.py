"""Normal draws from 16 bits each, and noise that a frozen network adds in one operation."""

import math

import pytest
import torch

from stochx.architectures import architecture, untrained
from stochx.catalog import NOISES
from stochx.engine.network.fused import fused
from stochx.engine.network.stochastic import NormalSum
from stochx.engine.normals import FEW, TAILS, _quantiles, standard_normal
from stochx.network_files import install_noise

COUNT = 4_000_000


def draws(seed, count=COUNT):
    torch.manual_seed(seed)
    return standard_normal((count,), torch.float32, torch.device("cpu"))


def test_draws_are_standard_normal():
    z = draws(0).double().sort().values
    normal = torch.special.ndtr(z)
    steps = torch.arange(1, COUNT + 1) / COUNT
    assert float((normal - steps).abs().max()) < 1.95 / math.sqrt(COUNT)  # Kolmogorov-Smirnov, p = 0.001
    assert float(z.mean()) == pytest.approx(0, abs=3.3 / math.sqrt(COUNT))
    assert float(z.var()) == pytest.approx(1, abs=3.3 * math.sqrt(2 / COUNT))


@pytest.mark.parametrize("bound", [3.0, 3.5, 4.0])
def test_tails_have_the_mass_of_the_normal(bound):
    expected = COUNT * math.erfc(bound / math.sqrt(2))
    assert int((draws(1).abs() > bound).sum()) == pytest.approx(expected, abs=3.3 * math.sqrt(expected))


def test_neighbours_are_independent():
    z = draws(2).double()
    for values in (z, z.square() - 1):
        assert float((values[1:] * values[:-1]).mean()) == pytest.approx(0, abs=3.3 * 2 / math.sqrt(COUNT))


def test_quantiles_and_exact_tails_together_have_a_variance_of_one():
    edge = -float(torch.special.ndtri(torch.tensor(TAILS / 2, dtype=torch.float64)))
    density = math.exp(-(edge**2) / 2) / math.sqrt(2 * math.pi)
    inside = (1 - TAILS) * float(_quantiles(torch.float64).square().mean())
    assert inside + TAILS + 2 * edge * density == pytest.approx(1, abs=1e-7)


def test_draws_repeat_with_the_seed_of_torch_and_differ_between_calls():
    assert torch.equal(draws(3, FEW), draws(3, FEW))
    assert not torch.equal(draws(3, FEW), standard_normal((FEW,), torch.float32, torch.device("cpu")))


@pytest.mark.parametrize(
    ("noise", "count"),
    [("adaptive", 19), ("pni:on=activation,granularity=element", 19), ("gaussian", 19), ("learn2perturb", 10)],
)
def test_a_frozen_network_adds_normal_noise_in_one_operation_and_folds_its_norms(noise, count):
    torch.manual_seed(0)
    model = untrained(architecture("resnet20", 10), 10).eval()
    install_noise(model, noise)
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            part.weight.data.uniform_(-1, 1)
    x = torch.rand(2, 3, 32, 32)
    graph = fused(model, x)
    kinds = [type(part) for part in graph.graph.modules()]
    called = {str(node.target) for node in graph.graph.graph.nodes}
    sums = [name for name, part in graph.graph.named_modules() if isinstance(part, NormalSum)]
    assert len(sums) == count
    assert called >= set(sums)
    assert not any(
        isinstance(graph.graph.get_submodule(c), torch.nn.BatchNorm2d)
        for c in called
        if c in dict(graph.graph.named_modules())
    )
    outputs = []
    for network in (model, graph.whole):
        torch.manual_seed(1)
        outputs.append(network(x))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)
    assert NOISES.parse_name(noise)[0] in noise and kinds
