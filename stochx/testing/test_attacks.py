"""Contract of every attack."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from stochx.attacks import Attempt, Context
from stochx.catalog import ATTACKS
from stochx.engine.gradients import logits
from stochx.engine.threat import Ball, Norm
from stochx.errors import UsageError
from stochx.testing.samples import MODES, TinyNet, unchanged

BALLS: dict[Norm, float] = {"linf": 0.04, "l2": 0.5, "l1": 4.0}
PARTS = ("step", "restart", "forwards")


def attempt(
    spec: str, model: TinyNet, x: Tensor, places: Sequence[int], norm: Norm | None = None, **changes: Any
) -> Attempt:
    """The attempt on the images at `places` of x, by their keys; in the attack's first norm if none is given."""
    some, norm = x[list(places)], norm or first_norm(spec)
    with torch.random.fork_rng():
        y = model(some).argmax(1)
    context = Context(
        keys=[f"key {n}" for n in places],
        wrong=lambda points, at: logits(model, points).argmax(1) != y[at],
        source=model,
    )
    result = ATTACKS.make(spec)(model, some, y, Ball(BALLS[norm], norm), dataclasses.replace(context, **changes))
    assert isinstance(result, Attempt), f"`__call__` returned a {type(result).__name__}: return an `Attempt`"
    return result


def first_norm(spec: str) -> Norm:
    """Return the first norm whose balls the attack searches."""
    return next(norm for norm in BALLS if searches(spec, norm))


def searches(spec: str, norm: Norm) -> bool:
    """Return true for a norm that the attack declares, or all where it declares none."""
    norms = ATTACKS.declares(spec, "norms")
    return not isinstance(norms, tuple) or norm in norms


@pytest.mark.parametrize("norm", BALLS)
def test_an_attack_stays_in_the_ball_and_the_box_and_repeats(
    attack: str, norm: Norm, tiny: TinyNet, images: Tensor
) -> None:
    if not searches(attack, norm):
        with pytest.raises(UsageError):
            attempt(attack, tiny, images, range(5), norm)
        return
    first, again = (attempt(attack, tiny, images, range(5), norm) for _ in range(2))
    x = first.x
    assert x.shape == images.shape, f"x' is {tuple(x.shape)}: it must be shaped as x, {tuple(images.shape)}"
    assert x.dtype == images.dtype and not x.requires_grad, f"x' is {x.dtype}: follow the type of x, and detach it"
    far = float(Ball(0, norm).length(x, images).max())
    assert far <= BALLS[norm] + 1e-12, f"x' is {far} away in {norm}, eps is {BALLS[norm]}: `ball.project(x', x)`"
    assert x.min() >= 0 and x.max() <= 1, "x' leaves [0, 1]: `ball.project(x', x)` clips"
    assert not torch.equal(x, images), "x' is x: no image was changed"
    assert torch.equal(x, again.x), "two calls differ: draw from `ball.sample(x, context.keys, index)` or by key"
    for name in PARTS:
        value = getattr(first, name)
        fits = value.shape == (5,) and value.dtype == torch.long and value.min() >= 0
        assert fits, f"`{name}` is {value}: give one whole number an image, (N,)"
        assert torch.equal(value, getattr(again, name)), f"two calls differ in `{name}`"
    assert first.forwards.min() > 0, "`forwards` is 0: count the passes of the network"


@pytest.mark.parametrize("norm", BALLS)
def test_an_attack_does_not_depend_on_its_batch_neighbours(
    attack: str, norm: Norm, tiny: TinyNet, images: Tensor
) -> None:
    if not searches(attack, norm):
        pytest.skip(f"it searches no balls in {norm}")
    together, alone = (attempt(attack, tiny, images, places, norm) for places in (range(5), [3]))
    same = torch.allclose(together.x[3:4], alone.x, rtol=1e-9, atol=1e-12)
    assert same, "x' of an image alone differs from that in a batch: take no statistics over the batch"
    for name in PARTS:
        assert torch.equal(getattr(together, name)[3:4], getattr(alone, name)), f"`{name}` depends on the batch"


def test_an_attack_leaves_the_images_the_model_and_the_global_generator_alone(
    attack: str, tiny: TinyNet, images: Tensor
) -> None:
    before = images.clone()
    with unchanged(tiny):
        attempt(attack, tiny, images, range(5))
    assert torch.equal(images, before), "the images changed: work on a copy"


CONTEXTS: dict[str, Callable[[Tensor], dict[str, Any]]] = {
    "a target": lambda y: {"target": (y + 1) % 5},
    "the last point alone": lambda y: {"judge_any": False},
    "a stochastic network": lambda y: {"wrong": None, "pick": lambda x: x.flatten(1).mean(1)},
}


@pytest.mark.parametrize("context", CONTEXTS)
def test_an_attack_works_in_every_context(attack: str, context: str, tiny: TinyNet, images: Tensor) -> None:
    changes = CONTEXTS[context](tiny(images).argmax(1))
    norm = first_norm(attack)
    far = float(Ball(0, norm).length(attempt(attack, tiny, images, range(5), **changes).x, images).max())
    assert far <= BALLS[norm] + 1e-12, f"with {context} x' is {far} away, eps is {BALLS[norm]}"


def test_an_attack_needs_no_more_than_a_network_images_and_labels(attack: str, tiny: TinyNet, images: Tensor) -> None:
    if not searches(attack, "linf"):
        pytest.skip("it searches no balls in linf")
    made: Any = ATTACKS.make(attack)
    y = tiny(images).argmax(1)
    expected = made(tiny, images, y, source=tiny)
    far = float(Ball(0).length(expected.x, images).max())
    assert far <= 8 / 255 + 1e-12, f"x' is {far} away, eps is 8 / 255"
    assert torch.equal(made(tiny, images, y.tolist(), source=tiny).x, expected.x), "labels in a list give another x'"
    assert torch.equal(made(tiny, images, source=tiny).x, expected.x), "without labels it attacks another class"
    one, batch = made(tiny, images[0], int(y[0]), source=tiny), made(tiny, images[:1], y[:1], source=tiny)
    assert torch.equal(one.x, batch.x[0]), "x' of an image (C, H, W) is not that of a batch of one"


@pytest.mark.parametrize("mode", MODES)
def test_an_attack_does_not_depend_on_the_modes_of_torch(attack: str, mode: str, tiny: TinyNet, images: Tensor) -> None:
    if not searches(attack, "linf"):
        pytest.skip("it searches no balls in linf")
    model, x = tiny.float(), images[:2].float()
    made: Any = ATTACKS.make(attack)
    expected = made(model, x, 1, source=model).x
    with MODES[mode]():
        found = made(model, x.clone(), 1, source=model).x
    assert torch.equal(found, expected), f"under {mode} x' is another: name the type of every new tensor"
