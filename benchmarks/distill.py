"""Compare adversarial training of ResNet-20 on CIFAR-10 with a plain loop around torchattacks, step by step.

    python benchmarks/distill.py --steps 4 --repeats 3
    python benchmarks/distill.py --threads 2

PGD-7 at 8/255 (Madry et al., 2018), batches of 128, SGD with Nesterov momentum at a constant rate; all variants share
the initial weights, the order of images and the random starts. The images are read below STOCHX_SHARED. The plain loop
is the usual one: float32, NCHW, and torchattacks' PGD, which crafts in eval mode as stochx does. Every measurement runs
in its own process, variants alternate, and medians are printed. `ratio` is the plain loop's CPU seconds over a
variant's, or wall seconds on several threads; `low` and `high` are its extremes over the repeats. `% peak` is the
throughput of convolutions and products (eight forward and backward passes, and the weights' gradients) relative to the
machine's fastest fp32 convolution. The losses are printed side by side, after their largest difference in float64,
where all variants compute the same: in float32 rounding flips the signs of gradients near zero, and later steps differ.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import explain  # the benchmark beside this one
import torch
import torchattacks
from torch import Tensor, nn
from torch.nn import functional as F

from stochx.attacks import PGD
from stochx.catalog import MODELS
from stochx.engine.device import select_runtime
from stochx.engine.network.classifier import Classifier
from stochx.engine.seeds import generator, seeded
from stochx.engine.threat import Ball
from stochx.engine.training.fit import Plan, Step, TrainingBatch, fit
from stochx.engine.training.items import Images
from stochx.loading import load_data
from stochx.tasks.objectives import Adversarial, objective

SHARED = Path(os.environ.get("STOCHX_SHARED", "../shared/data"))
BALL, STEPS, BATCH, RATE, SEED = Ball(8 / 255), 7, 128, 0.01, 0
PLAN = Plan(1, batch=BATCH, rate=RATE, schedule="constant")
VARIANTS = {"plain": "", "stochx": "1.3", "stochx-bf16": "2"}  # and the target of the ratio


def load(steps: int, batch: int = BATCH) -> tuple[Classifier, Tensor, Tensor]:
    """Return an untrained network, and images and labels for `steps` steps."""
    with seeded(SEED, "weights"):
        model = MODELS.make("resnet20")(10)
    data = load_data(f"cifar10:root={SHARED / 'cifar10'}", "train")
    assert data.pixels is not None and data.labels is not None
    count = steps * batch
    return model, data.pixels[:count].contiguous(), torch.tensor([int(v) for v in data.labels[:count]])


def ours(model: Classifier, pixels: Tensor, labels: Tensor, precision: str = "fp32", batch: int = BATCH) -> list[float]:
    losses: list[float] = []
    loss_of = objective(adversarial=Adversarial(PGD(STEPS), BALL), seed=SEED)

    def record(network: nn.Module, batch: TrainingBatch) -> Step:
        step = loss_of(network, batch)
        losses.append(step.loss.item())
        return step

    with select_runtime("cpu", precision).scope():
        list(fit(model, Images(pixels, labels), replace(PLAN, batch=batch), SEED, objective=record))
    return losses


def plain(model: Classifier, pixels: Tensor, labels: Tensor, size: int = BATCH) -> list[float]:
    losses = []
    optimizer = torch.optim.SGD(model.parameters(), RATE, PLAN.momentum, weight_decay=PLAN.decay, nesterov=True)
    model.train()
    attack = torchattacks.PGD(model, eps=BALL.eps, alpha=2.5 * BALL.eps / STEPS, steps=STEPS)
    for batch in torch.randperm(len(pixels), generator=generator(SEED, "order", 0)).split(size):
        x, y = pixels[batch].to(model.mean.dtype) / 255, labels[batch]
        start = BALL.sample(x, [f"{SEED}/0/{image}" for image in batch.tolist()], 0)  # as stochx draws it
        with mock.patch.object(Tensor, "uniform_", lambda *_, delta=start - x: delta):  # the draw is added to x
            adv = attack(x, y)
        loss = F.cross_entropy(model(adv), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def run(variant: str, steps: int) -> dict[str, Any]:
    """Measure in this process, after a step to warm up: CPU and wall seconds, and the losses."""

    def work(count: int) -> tuple[float, float, list[float]]:
        model, pixels, labels = load(count)
        wall, cpu = time.perf_counter(), time.process_time()
        if variant == "plain":
            losses = plain(model, pixels, labels)
        else:
            losses = ours(model, pixels, labels, "bf16" if "bf16" in variant else "fp32")
        return time.process_time() - cpu, time.perf_counter() - wall, losses

    work(1)
    cpu, wall, losses = work(steps)
    return {"cpu": cpu, "wall": wall, "losses": losses}


def agreement(steps: int = 3, batch: int = 16) -> float:
    """Return the largest difference of a step's loss in float64."""
    model, *data = load(steps, batch)
    pairs = zip(
        ours(copy.deepcopy(model).double(), *data, batch=batch), plain(model.double(), *data, batch), strict=True
    )
    return max(abs(a - b) for a, b in pairs)


def measure(args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    runs: dict[str, list[dict[str, Any]]] = {variant: [] for variant in VARIANTS}
    for _ in range(args.repeats):
        for variant, results in runs.items():
            command = [sys.executable, __file__, "--threads", str(args.threads), "--steps", str(args.steps)]
            done = subprocess.run([*command, "--job", variant], capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            results.append(json.loads(done.stdout.splitlines()[-1]))
    return runs


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4, help="training steps")
    parser.add_argument("--repeats", type=int, default=3, help="measurements per variant")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--job", choices=list(VARIANTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.job:
        print(json.dumps(run(args.job, args.steps)))
        return
    if not SHARED.exists():
        parser.error("the images are missing: set STOCHX_SHARED")
    top, clock = explain.peak_gflops(), "cpu" if args.threads == 1 else "wall"
    flops = explain.gflops(load(1)[0], 32) * (STEPS + 1.5)  # per image: the attack, and 1.5 passes to train
    print(f"losses in float64: at most {agreement():.1e} apart", flush=True)
    runs = measure(args)
    print(f"torch {torch.__version__}, {args.threads} threads, best convolution {top:.0f} GFLOP/CPU-s")
    print(
        f"{'variant':12} {'CPU s':>7} {'wall s':>7} {'images/s':>9} {'ratio':>6} {'low':>5} {'high':>5} {'target':>6}"
        f" {'% peak':>6}"
    )
    for variant, results in runs.items():
        cpu, wall, used = (statistics.median(result[key] for result in results) for key in ("cpu", "wall", clock))
        ratios = [base[clock] / result[clock] for base, result in zip(runs["plain"], results, strict=True)]
        ratio, count = statistics.median(ratios), args.steps * BATCH
        print(
            f"{variant:12} {cpu:7.2f} {wall:7.2f} {count / used:9.1f} {ratio:6.2f} {min(ratios):5.2f}"
            f" {max(ratios):5.2f} {VARIANTS[variant]:>6} {100 * flops * count / cpu / top:6.0f}"
        )
    print("\nloss   " + " ".join(f"{variant:>12}" for variant in runs) + "   |stochx - plain|")
    for step, losses in enumerate(zip(*(results[0]["losses"] for results in runs.values()), strict=True)):
        apart = abs(losses[1] - losses[0])
        print(f"step {step + 1:2}" + " ".join(f"{loss:12.5f}" for loss in losses) + f"   {apart:.1e}")


if __name__ == "__main__":
    main()
