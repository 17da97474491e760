"""Compare convolutions of `stochx.engine.fewshot.convolution` with torch's: CPU seconds on one thread, and errors.

    python benchmarks/convolution.py --repeats 5
    python benchmarks/convolution.py --channels 256 512 --sides 3 7 --images 400

The first table has 3x3 convolutions with equal numbers of input and output channels. `taken` is whether `convolve`
chooses minimal filtering. `forward`, and `both` with the gradients of maps and weights, are torch's seconds over those
of minimal filtering, whether chosen or not. `error` and `torch` are the largest errors of both relative to the largest
output in float64. The second table compares `linear` on many rows with torch's. Medians; variants alternate.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from unittest import mock

import torch
from fewshot import timed  # the benchmark beside this one
from torch import Tensor
from torch.nn import functional as F

from stochx.engine.fewshot import convolution
from stochx.engine.seeds import generator
from stochx.engine.training.malloc import retain_freed_memory

ROWS = [(7200, 192, 192), (7200, 229, 192), (7200, 192, 96), (28000, 512, 192)]


def ratio(theirs: Callable[[], object], ours: Callable[[], object], repeats: int) -> float:
    seconds = timed({"theirs": theirs, "ours": ours}, repeats)
    return statistics.median(a / b for a, b in zip(seconds["theirs"], seconds["ours"], strict=True))


def both(operation: Callable[..., Tensor], *leaves: Tensor) -> Callable[[], object]:
    slope = torch.ones_like(operation(*leaves).detach())
    return lambda: torch.autograd.grad(operation(*leaves), leaves, slope)


def theirs(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x, weight, None, 1, 1)


def ours(x: Tensor, weight: Tensor) -> Tensor:
    return convolution.convolve(x, weight, None, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--sides", type=int, nargs="+", default=[3, 4, 5, 7, 10, 14])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    retain_freed_memory()
    source = generator(0, "convolution")
    print("channels\tside\timages\ttaken\tforward\tboth\terror\ttorch")
    for channels in args.channels:
        for side in args.sides:
            x = torch.randn(args.images, channels, side, side, generator=source).relu().requires_grad_()
            weight = torch.randn(channels, channels, 3, 3, generator=source).requires_grad_()
            taken = convolution._pays(channels, channels, side, side)
            with mock.patch.object(convolution, "_pays", lambda *shape: True):
                with torch.no_grad():
                    forward = ratio(partial(theirs, x, weight), partial(ours, x, weight), args.repeats)
                    exact = theirs(x[:8].double(), weight.double())
                    errors = [((f(x[:8], weight) - exact).abs().max() / exact.abs().max()) for f in (ours, theirs)]
                whole = ratio(both(theirs, x, weight), both(ours, x, weight), args.repeats)
            shown = "\t".join(f"{error:.0e}" for error in errors)
            print(f"{channels}\t{side}\t{args.images}\t{taken}\t{forward:.2f}\t{whole:.2f}\t{shown}", flush=True)
    print("rows\tinputs\toutputs\tboth")
    for rows, inputs, outputs in ROWS:
        x = torch.randn(rows, inputs, generator=source, requires_grad=True)
        weight = torch.randn(outputs, inputs, generator=source, requires_grad=True)
        speedup = ratio(both(F.linear, x, weight), both(convolution.linear, x, weight), args.repeats)
        print(f"{rows}\t{inputs}\t{outputs}\t{speedup:.2f}", flush=True)


if __name__ == "__main__":
    main()
