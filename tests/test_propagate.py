"""Relevance through single operations: what each hands on, and that nothing else is touched."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from conftest import random_images
from torch import nn
from torch.nn import functional as F

from stochx.attributions import LRP, FullGrad, Gradient
from stochx.engine.lrp import rules
from stochx.engine.lrp.tape import RelevanceTape, Rules
from stochx.engine.network.folding import folded
from stochx.engine.network.graph import trace
from stochx.errors import InputError


class Wired(nn.Module):
    """A function of the image and of what a convolution makes of it, as a network."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(4, 4, 1, bias=False).double()
        self.conv.weight.data.abs_()
        self.relu = nn.ReLU(inplace=True)
        self.register_buffer("constant", torch.tensor(3.0, dtype=torch.float64))

    def forward(self, x):
        return self.function(self, self.conv(x))


EXACT = partial(rules.epsilon, stabiliser=1e-12)


def tape(function, images=None, chosen=Rules(EXACT, EXACT)):  # noqa: B008  # frozen
    graph = folded(trace(Wired(function).eval()))
    return RelevanceTape(graph, random_images(2, 4, 4, 4) if images is None else images, chosen)


def sent(function, images=None, first=None):
    """Relevance of the images, where the network's own output is the relevance at its end."""
    record = tape(function, images, Rules(EXACT, EXACT, first))
    zero, one = torch.zeros(1, 4, 4, 4, dtype=torch.float64), torch.ones(1, 4, 4, 4, dtype=torch.float64)
    return record.relevance(record.output, zero, one)


def squeezed(x):
    return x.mean((2, 3), keepdim=True)


WIRINGS = {
    "sum": lambda self, x: x + squeezed(x),
    "sum of one value": lambda self, x: x + x,
    "scaled sum": lambda self, x: torch.add(x, F.relu(x), alpha=2),
    "difference": lambda self, x: x - squeezed(x) * 0.1,
    "concatenation": lambda self, x: torch.cat([x, F.relu(x)], dim=1),
    "concatenated rows": lambda self, x: torch.cat((x, x), -1),
    "slices": lambda self, x: torch.cat([x[:, :2], x[:, 2:] + x[:, 2:]], 1),
    "pieces": lambda self, x: torch.cat([x.chunk(2, 1)[1], x.chunk(2, 1)[0]], 1),
    "shuffle": lambda self, x: x.view(x.size(0), 2, 2, 4, 4).transpose(1, 2).contiguous().view(x.shape[0], 4, 4, 4),
    "activation": lambda self, x: self.relu(x),
    "functional activation": lambda self, x: F.relu(x, inplace=True),
    "dropout": lambda self, x: F.dropout(x, training=False),
    "average pooling": lambda self, x: F.avg_pool2d(x, 2),
    "adaptive pooling": lambda self, x: F.adaptive_avg_pool2d(x, 3),
    "max pooling": lambda self, x: F.max_pool2d(x, 2),
    "padding": lambda self, x: F.pad(x, (1, 1, 1, 1)),
    "mean": lambda self, x: x.mean((2, 3)),
    "flattening": lambda self, x: torch.flatten(x, 1),
    "gate": lambda self, x: torch.sigmoid(squeezed(x)) * x,
    "shifted gate": lambda self, x: (1 - torch.sigmoid(x)) * x,
    "constant factor": lambda self, x: x * self.constant,
    "quotient": lambda self, x: x / 2,
    "functional layer": lambda self, x: F.conv2d(x, self.conv.weight),
    "matrix product": lambda self, x: x @ self.conv.weight.flatten(1).abs(),
}


@pytest.mark.parametrize("wiring", WIRINGS)
def test_relevance_is_conserved(wiring):
    relevance, start = sent(WIRINGS[wiring]), tape(WIRINGS[wiring]).output
    torch.testing.assert_close(relevance.flatten(1).sum(1), start.flatten(1).sum(1), rtol=1e-4, atol=0)


def test_a_constant_summand_absorbs_its_share():
    relevance, value = sent(lambda self, x: x + self.constant), tape(lambda self, x: x).output
    torch.testing.assert_close(relevance.flatten(1).sum(1), value.flatten(1).sum(1), rtol=1e-4, atol=0)


def test_what_follows_an_operation_in_place_sees_its_result():
    def overwritten(self, x):
        y = x - 1
        y.relu_()
        return y + self.relu(y)

    images = random_images(2, 4, 4, 4)
    torch.testing.assert_close(tape(overwritten, images).output, Wired(overwritten)(images))


def test_operations_in_place_leave_the_values_of_others_alone():
    expected = sent(lambda self, x: F.relu(x - 1) + F.conv2d(x, self.conv.weight))
    found = sent(lambda self, x: F.relu(x - 1, True) + F.conv2d(x, self.conv.weight))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


class Normalising(nn.Module):
    """A network that normalises its images itself, channel by channel, as GoogLeNet does."""

    def __init__(self, inside):
        super().__init__()
        self.inside = inside
        self.conv = nn.Conv2d(2, 3, 3).double()

    def forward(self, x):
        if self.inside:
            x = torch.cat([torch.unsqueeze(x[:, i], 1) * 2 - 0.5 for i in range(2)], 1)
        return self.conv(x)


@pytest.mark.parametrize("first", [None, rules.box, lambda layer, x, r, low, high: rules.flat(layer, x, r)])
def test_normalisation_inside_the_network_is_as_good_as_outside(first):
    x, zero, one = random_images(2, 2, 5, 5), torch.zeros(1, 2, 5, 5).double(), torch.ones(1, 2, 5, 5).double()
    inside, outside = Normalising(True), Normalising(False)
    outside.load_state_dict(inside.state_dict())
    graphs, chosen = [folded(trace(net)) for net in (inside, outside)], Rules(EXACT, EXACT, first)
    tapes = RelevanceTape(graphs[0], x, chosen), RelevanceTape(graphs[1], x * 2 - 0.5, chosen)
    expected = tapes[1].relevance(tapes[1].output, zero * 2 - 0.5, one * 2 - 0.5)
    torch.testing.assert_close(tapes[0].relevance(tapes[0].output, zero, one), expected)


def test_only_layers_that_see_the_image_take_the_first_rule():
    seen = []

    def first(layer, x, relevance, low, high):
        seen.append(layer.weight.shape)
        return rules.flat(layer, x, relevance)

    sent(lambda self, x: F.conv2d(x, self.conv.weight[:2]), first=first)
    assert seen == [torch.Size([4, 4, 1, 1])]


def test_values_are_kept_only_for_the_way_back():
    record = tape(lambda self, x: self.relu(torch.flatten(F.relu(F.relu(x)), 1)))
    kept = sum(isinstance(value, torch.Tensor) for node, value in record.values.items() if node in record.depends)
    assert kept == 2  # the image, for the convolution, and the output


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda self, x: torch.cumsum(x, 1), "`cumsum`"),
        (lambda self, x: x.log_softmax(1), "`log_softmax`"),
        (lambda self, x: F.linear(x, x[0, 0]), "`linear` with weights that are not constant"),
    ],
)
def test_an_operation_without_a_rule_is_named(function, name):
    with pytest.raises(InputError, match=name):
        sent(function)


def test_reflecting_convolutions_are_refused(images):
    net = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1, padding_mode="reflect")).double()
    record = RelevanceTape(folded(trace(net)), images, Rules(EXACT, EXACT))
    with pytest.raises(InputError, match="`Conv2d` with reflect padding"):
        record.relevance(record.output, images[:1], images[:1])


def test_several_outputs_are_refused(images):
    with pytest.raises(InputError, match="several outputs"):
        tape(lambda self, x: (x, x))


class Piecewise(nn.Module):
    """Layers and ReLU, in which LRP-epsilon is the gradient times the image, and what `more` does with them."""

    def __init__(self, more):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
        self.more = more

    def forward(self, x):
        return self.head(self.more(self.conv(x)).mean((2, 3)))


def overwriting(x):
    y = torch.zeros_like(x)
    y[:, :2] = x[:, 2:].relu()
    y[:, 1, ::2] = x[:, 3, ::2] + x[:, :1, ::2, :1].squeeze(1)
    y[:, 2:] += torch.where(x > 0.1, x, 0.1 * x)[:, :2]
    return y


X, TARGET = random_images(2, 3, 6, 6), torch.tensor([1, 3])


def test_values_that_are_overwritten_in_parts_get_none_of_the_relevance():
    net = Piecewise(overwriting).double().eval()
    slope = Gradient()(net, X, TARGET).map
    torch.testing.assert_close(LRP("epsilon", epsilon=1e-12)(net, X, TARGET).map, slope * X)
    torch.testing.assert_close(Gradient(backward="balanced")(net, X, TARGET).map, slope)
    torch.testing.assert_close(FullGrad()(net, X, TARGET).gap, torch.zeros(2, dtype=torch.float64))


def largest(x):
    """The positions with the largest sums."""
    x = x.relu().flatten(2)
    index = x.sum(1).topk(3, 1).indices
    return x.gather(2, index.unsqueeze(1).expand(-1, 4, -1)).unsqueeze(3)


def test_positions_that_the_image_chooses_get_the_relevance():
    net = Piecewise(largest).double().eval()
    slope = Gradient()(net, X, TARGET).map
    torch.testing.assert_close(LRP("epsilon", epsilon=1e-12)(net, X, TARGET).map, slope * X)


@pytest.mark.parametrize("last", [nn.LogSoftmax(1), lambda y: F.log_softmax(y, dim=-1), lambda y: y.log_softmax(1)])
def test_a_log_softmax_at_the_end_changes_no_map(last):
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.last = net, last

        def forward(self, x):
            return self.last(self.net(x))

    net = Piecewise(torch.relu).double().eval()
    for method in (LRP(), LRP("attn-lrp"), Gradient("balanced"), FullGrad()):
        explanation, expected = (method(model, X, TARGET) for model in (Last().eval(), net))
        torch.testing.assert_close(explanation.map, expected.map)
        if expected.gap is not None:
            torch.testing.assert_close(explanation.gap, expected.gap)
