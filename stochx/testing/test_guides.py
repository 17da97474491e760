"""Contract of every guide."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stochx.catalog import GUIDES
from stochx.engine.fewshot.head import FewShotHead, guided_loss
from stochx.errors import InputError
from stochx.testing.cases import built_in
from stochx.testing.samples import features, make_head, unchanged

Y = torch.arange(6).expand(2, -1) // 2  # three ways, two queries each, two episodes


def served(spec: str) -> dict[str, tuple[FewShotHead[Any], Any, tuple[Tensor, ...]]]:
    """Heads by name that the guide can weigh, with what they keep of a forward pass, and the weights."""
    served = {}
    for name in built_in("heads"):
        head = make_head(name)
        _, cache = head(*features())
        try:
            served[name] = head, cache, GUIDES.make(spec)(head, cache, ("key",))
        except InputError as error:
            assert error.hint, f"the error for head `{name}` gives no hint: `InputError(message, hint)`"
    assert served, "the guide refuses every head"
    return served


def test_weights_are_shaped_as_the_features_and_lie_between_zero_and_two(guide: str) -> None:
    again = served(guide)
    for name, (head, cache, weights) in served(guide).items():
        seen = head.seen(cache)
        fits = [tuple(part.shape) for part in weights] == [tuple(part.shape) for part in seen]
        assert fits, f"head `{name}`: return a tuple of weights, each shaped as its part of `head.seen(cache)`"
        inside = all(part.min() >= 0 and part.max() <= 2 for part in weights)
        assert inside, f"head `{name}`: weights leave [0, 2]: use `stochx.engine.fewshot.head.weights_of`"
        same = all(torch.equal(one, other) for one, other in zip(weights, again[name][2], strict=True))
        assert same, f"head `{name}`: two calls differ: draw from `generator(*keys, ...)`"


def test_a_guide_declares_its_shares_of_the_loss(guide: str) -> None:
    made = GUIDES.make(guide)
    for name in ("xi", "lambda_"):
        value = getattr(made, name, None)
        assert isinstance(value, float), f"`{name}` is {value}: declare a float; below 0 it is the head's own"


def test_the_guided_loss_has_gradients_and_leaves_the_generator_alone(guide: str) -> None:
    for name, (head, _, _) in served(guide).items():
        support, query = features()
        state = torch.get_rng_state()
        loss, _ = guided_loss(head, GUIDES.make(guide), support, query, Y, ("key",))
        assert torch.equal(torch.get_rng_state(), state), "torch's global generator moved: draw from `generator(*keys)`"
        assert loss.isfinite(), f"head `{name}`: the guided loss is {loss.item()}"
        parameters = list(head.parameters())
        slopes = torch.autograd.grad(loss, parameters, allow_unused=True) if parameters else []
        fine = all(slope is None or bool(slope.isfinite().all()) for slope in slopes)
        assert fine, f"head `{name}`: a gradient of the guided loss holds NaN or infinity"


def test_a_guide_leaves_the_head_alone(guide: str) -> None:
    for name in served(guide):
        head = make_head(name).eval()
        _, cache = head(*features())
        with unchanged(head):
            GUIDES.make(guide)(head, cache, ("key",))
