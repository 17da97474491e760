"""Contract of every attribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from stochx.attributions import Explanation
from stochx.catalog import ATTRIBUTIONS
from stochx.engine.seeds import Key
from stochx.testing.samples import MODES, TinyNet, unchanged


def explain(spec: str, model: TinyNet, x: Tensor, y: Tensor, keys: Sequence[Key] | None = None) -> Explanation:
    explanation = ATTRIBUTIONS.make(spec)(model, x, y, keys)
    kind = type(explanation).__name__
    assert isinstance(explanation, Explanation), f"`__call__` returned a {kind}: return `Explanation(map)`"
    return explanation


def test_a_map_has_the_images_shape_and_repeats(attribution: str, tiny: TinyNet, images: Tensor) -> None:
    y = tiny(images).argmax(1)
    first, second = (explain(attribution, tiny, images, y) for _ in range(2))
    shapes = (images.shape, (len(images), 1, *images.shape[2:]))
    assert first.map.shape in shapes, f"the map is {tuple(first.map.shape)}: it must be (N, C, H, W) or (N, 1, H, W)"
    assert first.map.isfinite().all(), "the map holds NaN or infinity: no division by zero"
    assert not first.map.requires_grad, "the map carries gradients: detach it"
    assert first.map.dtype == images.dtype, f"the map is {first.map.dtype}: follow the type of x, {images.dtype}"
    same = torch.equal(first.map, second.map)
    assert same, "two calls differ: draw from `generator(key, ...)` of each image's key, or of its place without keys"
    for name in ("error", "gap", "used"):
        value = getattr(first, name)
        assert value is None or value.shape == (len(images),), f"`{name}` is {value}: give one number an image, (N,)"


def test_a_map_does_not_depend_on_its_batch_neighbours(attribution: str, tiny: TinyNet, images: Tensor) -> None:
    y = tiny(images).argmax(1)
    together = explain(attribution, tiny, images, y, keys=["a", "b", "c", "d", "e"]).map[3:4]
    alone = explain(attribution, tiny, images[3:4], y[3:4], keys=["d"]).map
    same = torch.allclose(together, alone, rtol=1e-9, atol=1e-12)
    assert same, "the map of an image alone differs from its map in a batch: take no statistics over the batch"


def test_explaining_leaves_the_model_and_the_global_generator_alone(
    attribution: str, tiny: TinyNet, images: Tensor
) -> None:
    y, before = tiny(images).argmax(1), images.clone()
    with unchanged(tiny):
        explain(attribution, tiny, images, y)
    assert torch.equal(images, before), "the images changed: work on a copy"


def test_random_maps_follow_their_keys(attribution: str, tiny: TinyNet, images: Tensor) -> None:
    y = tiny(images).argmax(1)
    one, other = (explain(attribution, tiny, images, y, keys=range(k, k + 5)) for k in (0, 1))
    if one.error is not None:
        differ = not torch.allclose(one.map, other.map)
        assert differ, "`error` says that maps are random, but other keys give the same: draw by key, or leave it out"


def test_a_target_may_be_a_number_a_list_or_a_tensor(attribution: str, tiny: TinyNet, images: Tensor) -> None:
    method: Any = ATTRIBUTIONS.make(attribution)
    two = images[:2]
    expected = method(tiny, two, torch.tensor([1, 1])).map
    for target in (1, [1, 1], torch.tensor(1), torch.tensor([1], dtype=torch.uint8)):
        assert torch.equal(method(tiny, two, target).map, expected), f"for the target `{target!r}` the map is another"
    predicted = method(tiny, two, tiny(two).argmax(1)).map
    assert torch.equal(method(tiny, two).map, predicted), (
        "without a target it explains another class than the predicted"
    )


def test_a_single_image_has_a_single_map(attribution: str, tiny: TinyNet, images: Tensor) -> None:
    method: Any = ATTRIBUTIONS.make(attribution)
    alone, batch = method(tiny, images[0], 1), method(tiny, images[:1], 1)
    assert torch.equal(alone.map, batch.map[0]), "the map of an image (C, H, W) is not that of a batch of one"


@pytest.mark.parametrize("mode", MODES)
def test_a_map_does_not_depend_on_the_modes_of_torch(
    attribution: str, mode: str, tiny: TinyNet, images: Tensor
) -> None:
    model, x = tiny.float(), images[:2].float()
    method: Any = ATTRIBUTIONS.make(attribution)
    expected = method(model, x, [1, 2]).map
    with MODES[mode]():
        found = method(model, x.clone(), [1, 2]).map
    assert found.dtype == expected.dtype, f"under {mode} the map is {found.dtype}"
    assert torch.equal(found, expected), f"under {mode} the map is another: name the type of every new tensor"
