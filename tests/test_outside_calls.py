"""Entries from outside are called as the built-in ones, and one that is not what its family asks for is named."""

from __future__ import annotations

import pickle

import pytest
import torch
from support import refused

from stochx.attacks import PGD
from stochx.attributions import BlurredIG
from stochx.catalog import ATTRIBUTIONS, FAMILIES, METRICS, include
from stochx.metrics import AUPC

PLUGIN = """from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Mine:
    \"\"\"An entry.\"\"\"

    entry: ClassVar[str] = "{family}:mine"
{body}
"""
CALL = "    def __call__(self, *args, **keys):\n        return 3\n"
METRIC = CALL + "".join(
    f"    {line}\n"
    for line in (
        'axis: ClassVar[str] = ""',
        'reduction: ClassVar[str] = "sum"',
        "higher_is_better: ClassVar[bool] = True",
    )
)


@pytest.fixture
def plugin(tmp_path):
    """A function that makes an entry of a family, which is forgotten after the test."""
    file = (tmp_path / "mine.py").resolve()

    def write(family, body):
        file.write_text(PLUGIN.format(family=family, body=body))
        include(file)
        return FAMILIES[family].make("mine")

    yield write
    for catalog in FAMILIES.values():
        catalog.discard(file)


def test_an_entry_from_outside_takes_what_the_others_take(plugin, tiny, images):
    body = "    def __call__(self, model, x, target, keys=None):\n        from stochx.attributions import Explanation\n"
    method = plugin("attributions", body + "        return Explanation(x * target.view(-1, 1, 1, 1))\n")
    assert torch.equal(method(tiny, images[0], 2).map, 2 * images[0])
    refused(lambda: method(tiny, images * 255, 2), "divide by 255")


@pytest.mark.parametrize("family", FAMILIES)
def test_an_entry_that_returns_something_else_is_named(family, plugin, tiny, images):
    entry = plugin(
        family, METRIC + "    needs: ClassVar[frozenset[str]] = frozenset()\n" if family == "metrics" else CALL
    )
    calls = {
        "attributions": lambda: entry(tiny, images, 1),
        "attacks": lambda: entry(tiny, images, 1),
        "metrics": lambda: entry(map=images),
    }
    refused(calls.get(family, lambda: entry(1)), "`Mine` returns a int", "return a")


def test_a_metric_declares_what_it_needs(plugin):
    refused(lambda: plugin("metrics", METRIC), "`Mine` declares no `needs`", "needs: ClassVar")
    refused(
        lambda: plugin("metrics", METRIC + '    needs: ClassVar[frozenset[str]] = frozenset({"modle"})\n'),
        "`Mine.needs` is `frozenset({'modle'})`",
        "model, explain, mask",
    )
    refused(lambda: plugin("attacks", ""), "`Mine` has no `__call__`", "write one")


def test_entries_are_pickled_and_compared_as_dataclasses():
    assert pickle.loads(pickle.dumps(PGD(steps=3))) == PGD(steps=3) != PGD(steps=4)
    assert type(ATTRIBUTIONS.make("blurred-ig:steps=3")) is BlurredIG and METRICS.load("aupc") is AUPC
