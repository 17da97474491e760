"""Adversarial training of ResNet-20 on CIFAR-10: ours against the plain loop around torchattacks, on the same steps.

    python benchmarks/distill.py --steps 4 --repeats 3
    python benchmarks/distill.py --threads 2

PGD-7 at 8/255 (Madry et al., 2018), batches of 128, SGD with Nesterov momentum at a constant rate; the same first
weights, images in the same order and random starts for all. The images are read below STOCHX_SHARED. The plain loop
is the one everyone writes: float32, NCHW, torchattacks' PGD inside, which crafts in eval mode as ours does.
Every measurement is a process of its own, variants alternate, and medians are printed; `ratio` is the plain loop's CPU
seconds over a variant's, on more than one thread its wall seconds, `low` and `high` its extremes over the repeats.
`% peak` is the convolutions and products (a forward and a backward pass for each of eight looks, and the weights'
gradients) over this machine's best fp32 convolution. Losses stand side by side; first comes how far they are apart in
float64, where all work is the same: in float32 rounding turns the sign of gradients near zero, and later steps differ.
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
BALL, LOOKS, BATCH, RATE, SEED = Ball(8 / 255), 7, 128, 0.01, 0
PLAN = Plan(1, batch=BATCH, rate=RATE, schedule="constant")
VARIANTS = {"plain": "", "stochx": "1.3", "stochx-bf16": "2"}  # and the ratio that is aimed at


def load(steps: int, batch: int = BATCH) -> tuple[Classifier, Tensor, Tensor]:
    """An untrained network, and images for so many steps."""
    with seeded(SEED, "weights"):
        model = MODELS.make("resnet20")(10)
    data = load_data(f"cifar10:root={SHARED / 'cifar10'}", "train")
    assert data.pixels is not None and data.labels is not None
    count = steps * batch
    return model, data.pixels[:count].contiguous(), torch.tensor([int(v) for v in data.labels[:count]])


def ours(model: Classifier, pixels: Tensor, labels: Tensor, precision: str = "fp32", batch: int = BATCH) -> list[float]:
    losses: list[float] = []
    lowered = objective(adversarial=Adversarial(PGD(LOOKS), BALL), seed=SEED)

    def noted(network: nn.Module, batch: TrainingBatch) -> Step:
        step = lowered(network, batch)
        losses.append(step.loss.item())
        return step

    with select_runtime("cpu", precision).scope():
        list(fit(model, Images(pixels, labels), replace(PLAN, batch=batch), SEED, objective=noted))
    return losses


def plain(model: Classifier, pixels: Tensor, labels: Tensor, size: int = BATCH) -> list[float]:
    losses = []
    optimizer = torch.optim.SGD(model.parameters(), RATE, PLAN.momentum, weight_decay=PLAN.decay, nesterov=True)
    model.train()
    attack = torchattacks.PGD(model, eps=BALL.eps, alpha=2.5 * BALL.eps / LOOKS, steps=LOOKS)
    for batch in torch.randperm(len(pixels), generator=generator(SEED, "order", 0)).split(size):
        x, y = pixels[batch].to(model.mean.dtype) / 255, labels[batch]
        start = BALL.sample(x, [f"{SEED}/0/{image}" for image in batch.tolist()], 0)  # the one of ours
        with mock.patch.object(Tensor, "uniform_", lambda *_, delta=start - x: delta):  # it is drawn, then added
            adv = attack(x, y)
        loss = F.cross_entropy(model(adv), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def run(variant: str, steps: int) -> dict[str, Any]:
    """In this process, after one step to warm up: CPU and wall seconds, and the losses."""

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
    """The largest difference of a step's loss in float64."""
    model, *data = load(steps, batch)
    pairs = zip(
        ours(copy.deepcopy(model).double(), *data, batch=batch), plain(model.double(), *data, batch), strict=True
    )
    return max(abs(a - b) for a, b in pairs)


def measure(args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    runs: dict[str, list[dict[str, Any]]] = {variant: [] for variant in VARIANTS}
    for _ in range(args.repeats):
        for variant, found in runs.items():
            command = [sys.executable, __file__, "--threads", str(args.threads), "--steps", str(args.steps)]
            done = subprocess.run([*command, "--one", variant], capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    return runs


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", choices=list(VARIANTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.one:
        print(json.dumps(run(args.one, args.steps)))
        return
    if not SHARED.exists():
        parser.error("the images are missing: set STOCHX_SHARED")
    top, clock = explain.peak_gflops(), "cpu" if args.threads == 1 else "wall"
    flops = explain.gflops(load(1)[0], 32) * (LOOKS + 1.5)  # of an image: 7 looks, and 1.5 times that to learn
    print(f"losses in float64: at most {agreement():.1e} apart", flush=True)
    runs = measure(args)
    print(f"torch {torch.__version__}, {args.threads} threads, best convolution {top:.0f} GFLOP/CPU-s")
    print(
        f"{'variant':12} {'CPU s':>7} {'wall s':>7} {'images/s':>9} {'ratio':>6} {'low':>5} {'high':>5} {'target':>6}"
        f" {'% peak':>6}"
    )
    for variant, found in runs.items():
        cpu, wall, used = (statistics.median(one[key] for one in found) for key in ("cpu", "wall", clock))
        ratios = [base[clock] / one[clock] for base, one in zip(runs["plain"], found, strict=True)]
        ratio, count = statistics.median(ratios), args.steps * BATCH
        print(
            f"{variant:12} {cpu:7.2f} {wall:7.2f} {count / used:9.1f} {ratio:6.2f} {min(ratios):5.2f}"
            f" {max(ratios):5.2f} {VARIANTS[variant]:>6} {100 * flops * count / cpu / top:6.0f}"
        )
    print("\nloss   " + " ".join(f"{variant:>12}" for variant in runs) + "   |stochx - plain|")
    for step, losses in enumerate(zip(*(found[0]["losses"] for found in runs.values()), strict=True)):
        apart = abs(losses[1] - losses[0])
        print(f"step {step + 1:2}" + " ".join(f"{loss:12.5f}" for loss in losses) + f"   {apart:.1e}")


if __name__ == "__main__":
    main()
