"""Contract of every metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stochx.catalog import ATTRIBUTIONS, METRICS
from stochx.metrics import Evidence, Score
from stochx.tasks.comparison import bounds_of
from stochx.testing.samples import MODES, TinyNet, sample_parts, unchanged


def evidence(model: TinyNet, x: Tensor, places: Sequence[int], scale: float = 1.0) -> Evidence:
    """All that a metric may ask for, of the images at `places` of x."""
    some, keys = x[list(places)], [f"key {n}" for n in places]
    mask = torch.zeros(some.shape[0], *x.shape[2:], dtype=torch.bool)
    mask[:, 3:9, 4:12] = True
    y = model(some).argmax(1)

    def make(network: nn.Module, pixels: Tensor, target: Tensor) -> Tensor:
        return ATTRIBUTIONS.make("smoothgrad:samples=3")(network, pixels, target, keys).map * scale

    return Evidence(make(model, some, y), keys, some, y, model, make, mask, sample_parts(some, y.tolist()))


def measure(spec: str, given: Evidence) -> Score:
    score = METRICS.make(spec)(given)
    assert isinstance(score, Score), f"`__call__` returned a {type(score).__name__}: return `Score(value)`"
    return score


def test_a_metric_declares_itself(metric: str) -> None:
    made = METRICS.make(metric)
    for name in ("needs", "axis", "higher_is_better", "reduction"):
        assert hasattr(made, name), f"`{name}` is missing: declare it as a ClassVar or a property"
    assert made.higher_is_better in (True, False, None), "`higher_is_better` must be True, False or None"
    low, high = bounds_of(made)
    assert low < high, f"`bounds` is {(low, high)}: the least and the greatest value that is possible"
    assert made.reduction, "`reduction` must name what the metric takes of a map (C, H, W)"
    unknown = set(made.needs) - {"model", "explain", "mask", "parts"}
    assert not unknown, f"`needs` holds {unknown}: it is a frozenset of model, explain, mask and parts"


def test_a_metric_gives_a_number_an_image(metric: str, tiny: TinyNet, images: Tensor) -> None:
    score, axis = measure(metric, evidence(tiny, images, range(5))), METRICS.make(metric).axis
    assert score.value.shape == (5,), f"`value` is {tuple(score.value.shape)}: give one number an image, (N,)"
    assert score.value.isfinite().all() and not score.why, f"undefined on plain images: {score.value}, {score.why}"
    low, high = (end + room for end, room in zip(bounds_of(METRICS.make(metric)), (-1e-6, 1e-6), strict=True))
    seen = [score.value] if score.curve is None else [score.value, score.curve]
    assert all(((low <= v) & (v <= high)).all() for v in seen), f"a value, or the curve, leaves `bounds`: {seen}"
    assert not score.value.requires_grad, "`value` carries gradients: detach it"
    assert bool(axis) == (score.curve is not None), (
        f"`axis` is {axis!r}: it names the places of a curve, if there is one"
    )
    if score.curve is not None:
        assert score.places is not None, "a curve needs `places` (P,)"
        shape, wanted = tuple(score.curve.shape), (5, len(score.places))
        assert shape == wanted, f"`curve` is {shape}: it must be (N, P), here {wanted}"
        assert score.curve.isfinite().all(), "the curve holds NaN or infinity"


def test_a_metric_repeats_and_ignores_batch_neighbours(metric: str, tiny: TinyNet, images: Tensor) -> None:
    together, again = (measure(metric, evidence(tiny, images, range(5))).value for _ in range(2))
    assert torch.equal(together, again), "two calls differ: draw from `generator(key, ...)` of each image's key"
    alone = measure(metric, evidence(tiny, images, [3])).value
    same = torch.allclose(alone, together[3:4], rtol=1e-9, atol=1e-12)
    assert same, f"an image alone has {alone}, in a batch {together[3:4]}: take no statistics over the batch"


def test_a_metric_does_not_see_the_scale_of_a_map(metric: str, tiny: TinyNet, images: Tensor) -> None:
    one, other = (measure(metric, evidence(tiny, images, range(5), scale)).value for scale in (1.0, 37.0))
    same = torch.allclose(one, other, rtol=1e-9, atol=1e-12)
    scaled = METRICS.declares(metric, "scaled")
    assert same or scaled, (
        f"37 times the map has {other}, not {one}: declare `scaled: ClassVar[bool] = True`, or rescale"
    )
    assert not (same and scaled), "`scaled` is declared, but the scale of a map changes nothing: leave it out"


def test_a_metric_leaves_the_model_and_the_global_generator_alone(metric: str, tiny: TinyNet, images: Tensor) -> None:
    given = evidence(tiny, images, range(5))
    with unchanged(tiny):
        measure(metric, given)


def test_a_metric_may_be_called_on_maps(metric: str, tiny: TinyNet, images: Tensor) -> None:
    made: Any = METRICS.make(metric)
    given = evidence(tiny, images, range(5))
    more = {"explain": given.explain, "mask": given.mask, "parts": given.parts, "keys": given.keys}
    expected, called = made(given).value, made(tiny, images, given.map, given.target, **more).value
    assert torch.equal(called, expected), f"called on maps it gives {called}, with `Evidence` {expected}"
    assert given.mask is not None and given.parts is not None and given.target is not None
    one = {"explain": given.explain, "mask": given.mask[0], "parts": given.parts[0], "keys": "key 0"}
    alone, batch = made(tiny, images[0], given.map[0], given.target[:1], **one).value, made(first(given)).value
    assert torch.equal(alone, batch[0]), "the score of an image (C, H, W) is not that of a batch of one"


def first(given: Evidence) -> Evidence:
    """The evidence of the first image alone, with its own keys for maps that are made again."""
    names = "map", "keys", "x", "target", "mask", "parts"
    return replace(given, **{name: getattr(given, name)[:1] for name in names})


@pytest.mark.parametrize("mode", MODES)
def test_a_score_does_not_depend_on_the_modes_of_torch(metric: str, mode: str, tiny: TinyNet, images: Tensor) -> None:
    model, x = tiny.float(), images[:2].float()
    made: Any = METRICS.make(metric)
    method: Any = ATTRIBUTIONS.make("gradient")
    mask = torch.zeros(2, 16, 16, dtype=torch.bool)
    mask[:, 3:9, 4:12] = True
    maps = method(model, x, 1).map
    more = {"explain": method, "mask": mask, "parts": sample_parts(x, [1, 1])}
    expected = made(model, x, maps, 1, **more).value
    with MODES[mode]():
        found = made(model, x.clone(), maps.clone(), 1, **more).value
    same = torch.allclose(found, expected, rtol=0, atol=0, equal_nan=True)
    assert same, f"under {mode} the score is {found}, not {expected}"
