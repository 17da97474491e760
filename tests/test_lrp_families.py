"""LRP conserves relevance in every family of architectures, small and with random weights.

Without constants (biases, position and class tokens) the rules conserve: the map sums to the logit.
"""

from __future__ import annotations

import pytest
import torch
from families import OTHERS, QUICK, SLOW
from torch import nn

from stochx.attributions import LRP

pytestmark = pytest.mark.filterwarnings("ignore")
CASES = QUICK | SLOW | OTHERS
REFUSED = {"Sequencer"}  # no rule for an LSTM
CONSTANTS = ("bias", "beta", "_token", "pos_embed", "pos_embedding", "pixel_pos", "patch_pos", "latent")


def drawn(make, x):
    """A network without constants: what starts at zero is drawn anew, batch norms have the deviation of its values."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = make().double()
        for name, parameter in net.named_parameters():
            last = name.rpartition(".")[2]
            if (
                last.rstrip("_0123456789").endswith(CONSTANTS) or "token_projection" in name
            ):  # it projects constant positions
                parameter.data.zero_()
            elif "gamma" in name or "scale" in last or parameter.dim() < 2:  # norms, and layer scales near zero
                nn.init.normal_(parameter, 1, 0.2)
            elif parameter.abs().max() < 1e-3:  # heads
                nn.init.normal_(parameter, 0, parameter.shape[-1] ** -0.5)
        norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        net.eval()
        for norm in norms:
            norm.momentum = None
            norm.train()
        if norms:
            with torch.no_grad():
                net(x + 0.1 * torch.randn_like(x))
    for norm in norms:
        norm.running_mean.zero_()
    return net.eval()


def logits(net, x):
    with torch.no_grad():
        return net(x)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CASES if name not in REFUSED],
)
def test_relevance_sums_to_the_logit(name):
    build, side = CASES[name]
    x = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    net = drawn(build, x.repeat(4, 1, 1, 1))
    y = logits(net, x).argmax(1)
    logit = logits(net, x).gather(1, y[:, None])[:, 0]
    for composite in ("epsilon", "cp-lrp") if name in QUICK else ("epsilon",):
        found = LRP(composite, epsilon=1e-12)(net, x, y)
        assert found.map.abs().sum() > 0
        assert (found.gap / logit).abs().max() < 1e-3, composite


@pytest.mark.parametrize("name", ["torchvision ConvNeXt", "ConvNeXt v2"])
def test_attn_lrp_conserves_where_nothing_has_a_softmax(name):
    build, side = CASES[name]
    x = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    net = drawn(build, x)
    y = logits(net, x).argmax(1)
    found = LRP("attn-lrp", epsilon=1e-12)(net, x, y)
    assert (found.gap / logits(net, x).gather(1, y[:, None])[:, 0]).abs().max() < 1e-3
