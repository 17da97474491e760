"""Compare the throughput of `certify` with that of bare forward passes in batches of the same size.

    python benchmarks/certify.py --rounds 5

Variants alternate in one process, and medians of CPU seconds are compared. `certify` draws the noise, exact on the grid
of 8-bit images, and counts votes; `float` adds `torch.randn`, as published code does; `forward` does nothing but call
the fused network, and `plain` the network as it is. The target is 80 % of `forward`. With random weights no file is
needed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor

from stochx.catalog import MODELS
from stochx.engine.device import select_runtime
from stochx.engine.grid_noise import NoisyCopies
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.fused import fused
from stochx.engine.smoothing import votes

TARGET = 0.8


def variants(model: Classifier, x: Tensor, sigma: float, draws: int) -> dict[str, Callable[[], object]]:
    """Return what is measured, by name."""
    fast, copies = fused(model, x[None]), NoisyCopies.of(x, (sigma,))
    rows = 2 * fast.rows(x[None]) // 32 * 32
    batch = x.expand(rows, -1, -1, -1).contiguous()

    def forward(network: Callable[[Tensor], Tensor], noise: Callable[[Tensor], Tensor]) -> None:
        with torch.inference_mode():
            for start in range(0, draws, rows):
                network(noise(batch[: min(rows, draws - start)])).argmax(1)

    return {
        "forward": lambda: forward(fast.whole, lambda points: points),
        "plain": lambda: forward(model, lambda points: points),
        "float": lambda: forward(fast.whole, lambda points: points + sigma * torch.randn_like(points)),
        "certify": lambda: votes(model, copies, draws, 0, "benchmark"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["resnet20", "robust-cnn"], help="architectures")
    parser.add_argument("--draws", type=int, default=2000, help="noisy copies of an image in a round")
    parser.add_argument("--sigma", type=float, default=0.25)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each variant")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    runtime = select_runtime(args.device)
    cuda = runtime.device.type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    print(f"torch {torch.__version__}, {args.threads} threads, {torch.cuda.get_device_name() if cuda else 'CPU'}")
    print(f"{'network':16} {'variant':9} {'copies/s':>9} {'of forward':>10} {'target':>7}")
    for name in args.networks:
        model = MODELS.make(name)(10).eval().to(runtime.device)
        x = (torch.randint(0, 256, (3, 32, 32), generator=torch.Generator().manual_seed(0)) / 255).to(runtime.device)
        seconds: dict[str, list[float]] = {}
        with runtime.scope():
            work = variants(model, x, args.sigma, args.draws)
            for _ in range(args.rounds + 1):  # the first warms up
                for variant, call in work.items():
                    start = clock()
                    call()
                    if cuda:
                        torch.cuda.synchronize()
                    seconds.setdefault(variant, []).append(clock() - start)
        medians = {variant: statistics.median(values[1:]) for variant, values in seconds.items()}
        for variant, median in medians.items():
            share, goal = medians["forward"] / median, TARGET if variant == "certify" else ""
            print(f"{name:16} {variant:9} {args.draws / median:9.0f} {share:10.2f} {goal!s:>7}", flush=True)


if __name__ == "__main__":
    main()
