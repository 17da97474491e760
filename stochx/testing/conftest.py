"""Gives every contract test the entries of its family, a small network and images."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor, nn

from stochx.catalog import ATTACKS
from stochx.engine.network.ensemble import RandomEnsemble
from stochx.testing.cases import ARGUMENTS, names, specs
from stochx.testing.samples import random_images, tiny_network


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with the argument `attack` runs for the specs of all attacks, one with `entry` for every entry."""
    included = bool(metafunc.config.getoption("include", []))
    given = metafunc.config.getoption("spec", [])
    for argument, family in ARGUMENTS.items():
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, specs(family, included, given))
    if "entry" in metafunc.fixturenames:
        pairs = [(family, name) for family in ARGUMENTS.values() for name in names(family, included)]
        metafunc.parametrize("entry", pairs, ids=[":".join(pair) for pair in pairs])


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the tests of families that no included file has an entry of."""
    family = collection_path.stem.removeprefix("test_")
    if config.getoption("include", []) and family in ARGUMENTS.values() and not names(family, included=True):
        return True
    return None


@pytest.fixture
def tiny(request: pytest.FixtureRequest) -> nn.Module:
    """A convnet in float64 with batch norms that have seen data.

    For an attack on ensembles alone it is one of this network and itself, so that all draws agree.
    """
    net = tiny_network()
    attack = request.node.callspec.params.get("attack") if hasattr(request.node, "callspec") else None
    if attack is None or not ATTACKS.declares(attack, "needs_ensemble"):
        return net
    return RandomEnsemble([net, net], [0.7, 0.3]).eval()


@pytest.fixture
def images() -> Tensor:
    """(5, 3, 16, 16) in [0.25, 0.75]."""
    return random_images(5, 3, 16, 16)
