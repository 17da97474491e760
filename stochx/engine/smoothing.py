"""Randomised smoothing: the class that a network predicts most often under noise, and the radius in which it stays.

    g(x) = argmax_c P(f(x + eps) = c),  eps ~ N(0, sigma^2)

is constant in an L2 ball of radius sigma Phi^-1(p) around x, if P(f(x + eps) = g(x)) >= p > 1/2 (Cohen, Rosenfeld &
Kolter, 2019). f may draw noise of its own, independently for every image.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import torch
from torch import Tensor

from stochx.engine.device import current, full_precision, in_batches
from stochx.engine.gradients import finite
from stochx.engine.grid_noise import LEVELS, NoisyCopies
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.fused import fused
from stochx.engine.seeds import Key, generator, seeded
from stochx.errors import InputError, UsageError

BLOCK = 32  # copies that share a generator: its start, and calls for so few numbers, cost as much as a few copies


def certified_radius(p: float, sigma: Sequence[float]) -> float | None:
    """Return the L2 radius for a lower bound `p` of the class's probability; None, which abstains, if p <= 1/2.

    Where channels have other noise, it is that of the largest ball in the certified ellipsoid.
    """
    return min(sigma) * NormalDist().inv_cdf(p) if p > 0.5 else None


def votes(model: Classifier, copies: NoisyCopies, count: int, seed: int, *keys: Key) -> Tensor:
    """Return how many of `count` noisy copies `model` assigns to each class: (K,).

    Copies depend on the seed and the keys alone. The noise of a network that draws its own depends on the batch size
    too. Raises `RunError` for logits that are not finite.
    """
    device = model.mean.device
    image = _pixels(copies.steps[None]).to(model.mean)
    fast = fused(model, image)
    totals = torch.zeros(len(model.classes), dtype=torch.long, device=device)

    def work(start: int, stop: int) -> None:
        points = _pixels(_between(copies, start, stop, device, seed, *keys)).to(model.mean)
        with torch.inference_mode(), full_precision(), seeded(seed, "network", *keys, start):
            out = finite(fast.whole(points))
        totals.add_(torch.bincount(out.argmax(1), minlength=len(totals)))

    rows = current().batch_size or 2 * fast.rows(image)
    in_batches(count, rows - rows % BLOCK if rows > BLOCK else rows, work)
    return totals.cpu()


def _between(copies: NoisyCopies, start: int, stop: int, device: torch.device, seed: int, *keys: Key) -> Tensor:
    """Return the copies start..stop of all, in steps of 1/255; they are drawn in blocks."""
    where = device if device.type == "cuda" else torch.device("cpu")
    first, last = start // BLOCK, -(-stop // BLOCK)
    blocks = [copies.draw(BLOCK, generator(seed, *keys, block, device=where)) for block in range(first, last)]
    return torch.cat(blocks)[start - first * BLOCK : stop - first * BLOCK]


def _pixels(steps: Tensor) -> Tensor:
    """Return copies in [-k, k + 1]: every integer has one value, wherever it comes from."""
    return steps.float().div_(LEVELS)


def check_independent(model: Classifier) -> None:
    """Raise an error if the outputs for the images of a batch depend on each other, unless batches hold one image.

    The draws of an image would not be independent then, as the bound of its probability assumes. Raises `RunError` for
    logits that are not finite.
    """
    if current().batch_size == 1:
        return
    hint = "use `--batch-size 1`, which is slower"
    if model.noise == "forward":
        raise UsageError(
            "the network draws its noise once for a whole batch, so that its draws are not independent", hint
        )
    source = generator("independent", device="cpu")
    images = torch.rand(3, *model.input_shape, generator=source).to(model.mean)

    def first_output(batch: Tensor) -> Tensor:
        with torch.inference_mode(), seeded(0, "independent"):
            return finite(model(batch))[0]

    pair = first_output(images[:2]), first_output(images[::2])
    if not torch.allclose(pair[0], pair[1], rtol=1e-4, atol=1e-5, equal_nan=True):
        raise InputError("the network's output for an image depends on the others of its batch", hint)
