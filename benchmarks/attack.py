"""Compare the speed of PGD-20 and EOT with torchattacks and foolbox, on the same images, starts and settings.

    python benchmarks/attack.py --batches 128 --repeats 3
    python benchmarks/attack.py --parts pgd --threads 2

Weights and images are read below STOCHX_SHARED. Every measurement runs in its own process, variants alternate, and
medians are printed. `ratio` is torchattacks' CPU seconds over a variant's, or wall seconds on several threads. The
agreement of the adversarial images without a random start comes first. Weights are frozen for all, so that foolbox
computes no gradients for them. In the variants of stochx, misclassified images leave the batch, or stay to the end
(`-all`); gradients are fp32 or bf16, verdicts always fp32. `left` counts the images that stay correct by the same fp32
verdict. `passes` are gradients per image, and `% peak` is the throughput of their convolutions and products relative to
the machine's fastest fp32 convolution.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import explain  # the benchmark beside this one
import torch
from torch import Tensor, nn

from stochx.attacks import PGD, Context
from stochx.engine.device import select_runtime
from stochx.engine.judging import Judge
from stochx.engine.network.classifier import Classifier
from stochx.engine.threat import Ball
from stochx.loading import load_data, load_model

SHARED = Path(os.environ.get("STOCHX_SHARED", "../shared/data"))
EPS, STEP, STEPS, DRAWS = 8 / 255, 2 / 255, 20, 10
NETWORKS = {"resnet20": None, "robust_cnn_a_mix": "robust-cnn"}
VARIANTS = {
    "pgd": ["torchattacks", "foolbox", "stochx-all", "stochx-all-bf16", "stochx", "stochx-bf16"],
    "eot": ["torchattacks", "stochx-all", "stochx-all-bf16"],
}
TARGETS = {"stochx-all": "1.7", "stochx-all-bf16": "2.7", "stochx": "6", "stochx-bf16": "9"}
EOT_TARGETS = {
    ("stochx-all", 4): "1.5",
    ("stochx-all", 128): "1.1",
    ("stochx-all-bf16", 4): "2.2",
    ("stochx-all-bf16", 128): "1.4",
}


@dataclass(frozen=True)
class Settings:
    steps: int
    draws: int
    random_start: bool = True

    @property
    def passes(self) -> float:
        return self.steps * self.draws


class Noisy(nn.Module):
    """A network with independent noise for every image."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x + 0.05 * torch.randn_like(x))
        return logits


def load(name: str, count: int, noisy: bool) -> tuple[Classifier, Tensor, Tensor]:
    """Load a network and the first `count` test images with their labels."""
    model = load_model(str(SHARED / "weights_cifar10" / f"{name}.safetensors"), arch=NETWORKS[name])
    data = load_data(f"cifar10:root={SHARED / 'cifar10'}")
    assert data.pixels is not None and data.labels is not None
    x, y = data.pixels[:count].float() / 255, torch.tensor([int(v) for v in data.labels[:count]])
    if noisy:
        model.network, model.noise = Noisy(model.network), "sample"
    return model, x, y


def ours(variant: str, model: Classifier, x: Tensor, y: Tensor, settings: Settings) -> tuple[Tensor, float]:
    judge = Judge(model, y, None, 1, 0, "bench", False)
    context = Context(
        keys=range(len(x)),
        wrong=None if model.noise != "none" else judge.wrong,
        pick=None if model.noise == "none" else lambda points: points.new_zeros(len(points)),
        judge_any="all" not in variant,
    )
    method = PGD(settings.steps, STEP / EPS, random_start=settings.random_start, eot=settings.draws)
    with select_runtime("cpu", "bf16" if "bf16" in variant else "fp32").scope():
        attempt = method(model, x, y, Ball(EPS), context)
    return attempt.x, float(attempt.forwards.double().mean())


def theirs(variant: str, model: Classifier, x: Tensor, y: Tensor, settings: Settings) -> tuple[Tensor, float]:
    start = Ball(EPS).sample(x, range(len(x)), 0)  # as stochx draws it
    options: dict[str, Any] = {"steps": settings.steps, "random_start": settings.random_start}
    if variant == "foolbox":
        import foolbox

        class PGDFromStart(foolbox.attacks.LinfPGD):
            def get_random_start(self, x0: Any, epsilon: float) -> Any:
                return x0 + (type(x0)(start) - x0)

        attack = PGDFromStart(abs_stepsize=STEP, **options)
        return attack(foolbox.PyTorchModel(model, (0, 1)), x, y, epsilons=EPS)[1], settings.passes
    import torchattacks

    attack = (
        torchattacks.PGD(model, EPS, STEP, **options)
        if settings.draws == 1
        else torchattacks.EOTPGD(model, EPS, STEP, eot_iter=settings.draws, **options)
    )
    with mock.patch.object(Tensor, "uniform_", lambda *_: start - x):  # its start is a uniform draw that is added
        return attack(x, y), settings.passes


def run(variant: str, model: Classifier, x: Tensor, y: Tensor, settings: Settings) -> tuple[Tensor, float]:
    """Attack; return the adversarial images and the mean gradients per image."""
    work = ours if variant.startswith("stochx") else theirs
    adv, passes = work(variant, model, x, y, settings)
    return adv.detach(), passes


def measure(part: str, variant: str, name: str, count: int, steps: int) -> dict[str, float]:
    """Measure in this process: CPU and wall seconds, gradients per image, and images that stay correct."""
    model, x, y = load(name, count, part == "eot")
    settings = Settings(steps, DRAWS if part == "eot" else 1)
    run(variant, model, x, y, replace(settings, steps=1))
    wall, cpu = time.perf_counter(), time.process_time()
    adv, passes = run(variant, model, x, y, settings)
    results = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "passes": passes}
    torch.manual_seed(0)
    with torch.inference_mode():
        return {**results, "left": float((model(adv).argmax(1) == y).sum())}


def agreement(name: str, steps: int) -> None:
    model, x, y = load(name, 64, False)
    for dtype in (torch.float64, torch.float32):
        model, x = model.to(dtype), x.to(dtype)
        mine, *others = (
            run(variant, model, x, y, Settings(steps, 1, random_start=False))[0]
            for variant in ("stochx-all", "torchattacks", "foolbox")
        )
        for peer, other in zip(("torchattacks", "foolbox"), others, strict=True):
            share = float(((mine - other).abs() < 1e-6).double().mean())
            print(f"agreement {name:16} {peer:12} {str(dtype)[6:]}: {share:.4%} of pixels within 1e-6", flush=True)


def medians(part: str, name: str, count: int, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    runs: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS[part]}
    for _ in range(args.repeats):
        for variant, results in runs.items():
            job = json.dumps([part, variant, name, count, args.steps])
            command = [sys.executable, __file__, "--threads", str(args.threads), "--job", job]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            results.append(json.loads(done.stdout.splitlines()[-1]))
    return {v: {k: statistics.median(r[k] for r in results) for k in results[0]} for v, results in runs.items()}


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), help="default all for pgd, resnet20 for eot")
    parser.add_argument("--batches", nargs="+", type=int, default=[128, 512], help="images per batch")
    parser.add_argument("--eot-batches", nargs="+", type=int, default=[4, 32, 128], help="images per batch of eot")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of the attack")
    parser.add_argument("--repeats", type=int, default=3, help="measurements per variant")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.job:
        print(json.dumps(measure(*json.loads(args.job))))
        return
    if not SHARED.exists():
        parser.error("the weights and images are missing: set STOCHX_SHARED")
    top = explain.peak_gflops()
    print(f"torch {torch.__version__}, {args.threads} threads, best convolution {top:.0f} GFLOP/CPU-s")
    if "pgd" in args.parts:
        for name in args.networks or NETWORKS:
            agreement(name, args.steps)
    clock = "cpu" if args.threads == 1 else "wall"
    print(
        f"{'part':4} {'network':16} {'n':>4} {'variant':16} {'CPU s':>7} {'wall s':>7} {'images/s':>9} {'passes':>7}"
        f" {'ratio':>6} {'target':>7} {'% peak':>7} {'left':>5}"
    )
    for part in args.parts:
        for name in args.networks or (NETWORKS if part == "pgd" else ["resnet20"]):
            flops = explain.gflops(load(name, 1, False)[0], 32)
            for count in args.batches if part == "pgd" else args.eot_batches:
                results = medians(part, name, count, args)
                for variant, m in results.items():
                    print(
                        f"{part:4} {name:16} {count:4} {variant:16} {m['cpu']:7.2f} {m['wall']:7.2f}"
                        f" {count / m[clock]:9.1f} {m['passes']:7.1f} {results['torchattacks'][clock] / m[clock]:6.2f}"
                        f" {target(part, variant, count):>7} {100 * flops * count * m['passes'] / m['cpu'] / top:7.0f}"
                        f" {m['left']:5.0f}",
                        flush=True,
                    )


def target(part: str, variant: str, count: int) -> str:
    return TARGETS.get(variant, "") if part == "pgd" else EOT_TARGETS.get((variant, count), "")


if __name__ == "__main__":
    main()
