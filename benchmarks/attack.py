"""Ours against torchattacks and foolbox: PGD-20 and EOT on a CIFAR network, the same images, starts and settings.

    python benchmarks/attack.py --batches 128 --repeats 3

Weights and images are read below STOCHX_SHARED. Every measurement is a process of its own, variants alternate, and
medians of CPU seconds are printed with the ratio to torchattacks. First comes the agreement of the changed images
without a random start. Variants of ours: images leave when they are wrong, or stay to the end (`-all`); gradients in
fp32 or bf16, verdicts always in fp32. `left` is how many images stay right by the same full-precision verdict.
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
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import explain  # the benchmark beside this one
import torch
from torch import Tensor, nn

SHARED = Path(os.environ.get("STOCHX_SHARED", "../shared/data"))
EPS, STEP, STEPS, DRAWS = 8 / 255, 2 / 255, 20, 10
NETWORKS = {"resnet20": None, "robust_cnn_a_mix": "robust-cnn"}
VARIANTS = {
    "pgd": ["torchattacks", "foolbox", "stochx-all", "stochx-all-bf16", "stochx", "stochx-bf16"],
    "eot": ["torchattacks", "stochx-all", "stochx-all-bf16"],
}
TARGETS = {
    "stochx-all": "1.7 (eot: 1.5 at 4, 1.1 at 128)",
    "stochx-all-bf16": "2.7 (eot: 2.2 at 4, 1.4 at 128)",
    "stochx": "6",
    "stochx-bf16": "9",
}


class Noisy(nn.Module):
    """A network with noise of its own for every image."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x + 0.05 * torch.randn_like(x))


def load(name: str, count: int, noisy: bool) -> tuple[nn.Module, Tensor, Tensor]:
    """The network, and so many images that it gets right or wrong as they come."""
    from stochx.loading import load_data, load_model

    model = load_model(str(SHARED / "weights_cifar10" / f"{name}.safetensors"), arch=NETWORKS[name])
    data = load_data(f"cifar10:root={SHARED / 'cifar10'}")
    assert data.pixels is not None and data.labels is not None
    x, y = data.pixels[:count].float() / 255, torch.tensor([int(v) for v in data.labels[:count]])
    if noisy:
        model.network, model.noise = Noisy(model.network), "sample"
    return model, x, y


def ours(variant: str, model: nn.Module, x: Tensor, y: Tensor, eot: int, random_start: bool = True) -> Tensor:
    from stochx.attacks import PGD, Context
    from stochx.engine.device import choose
    from stochx.engine.gradients import logits
    from stochx.engine.threat import Ball

    def wrong(points: Tensor, places: Tensor) -> Tensor:
        with choose("cpu", "fp32").scope():
            return logits(model, points).argmax(1) != y[places]

    method = PGD(STEPS, STEP / EPS, random_start=random_start, eot=eot)
    context = Context(range(len(x)), wrong=wrong if eot == 1 else None, judge_any="all" not in variant)
    if eot > 1:
        context = Context(range(len(x)), pick=lambda points: points.new_zeros(len(points)))
    with choose("cpu", "bf16" if "bf16" in variant else "fp32").scope():
        return method(model, x, y, Ball(EPS), context).x


def theirs(variant: str, model: nn.Module, x: Tensor, y: Tensor, eot: int, random_start: bool = True) -> Tensor:
    if variant == "torchattacks":
        import torchattacks

        if eot > 1:
            return torchattacks.EOTPGD(model, EPS, STEP, STEPS, eot_iter=eot, random_start=random_start)(x, y)
        return torchattacks.PGD(model, EPS, STEP, STEPS, random_start=random_start)(x, y)
    import foolbox

    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS, random_start=random_start)
    return attack(foolbox.PyTorchModel(model, (0, 1)), x, y, epsilons=EPS)[1]


def run(variant: str, model: nn.Module, x: Tensor, y: Tensor, eot: int, random_start: bool = True) -> Tensor:
    work = ours if variant.startswith("stochx") else theirs
    return work(variant, model, x, y, eot, random_start).detach()


def measure(part: str, variant: str, name: str, count: int) -> dict[str, float]:
    """CPU and wall seconds in this process, and how many images stay right."""
    model, x, y = load(name, count, part == "eot")
    eot = DRAWS if part == "eot" else 1
    run(variant, model, x[:8], y[:8], eot)
    wall, cpu = time.perf_counter(), time.process_time()
    adv = run(variant, model, x, y, eot)
    found = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    with torch.inference_mode():
        return {**found, "left": float((model(adv).argmax(1) == y).sum())}


def agreement(name: str) -> None:
    model, x, y = load(name, 64, False)
    model, x = model.double(), x.double()
    mine = run("stochx-all", model, x, y, 1, random_start=False)
    for peer in ("torchattacks", "foolbox"):
        other = run(peer, model, x, y, 1, random_start=False)
        share = float(((mine - other).abs() < 1e-6).double().mean())
        print(f"agreement {name} with {peer}: {share:.4%} of pixels within 1e-6 (float64)", flush=True)


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--batches", nargs="+", type=int, default=[128, 512])
    parser.add_argument("--eot-batches", nargs="+", type=int, default=[4, 128])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.one:
        part, variant, name, count = args.one
        print(json.dumps(measure(part, variant, name, int(count))))
        return
    if not SHARED.exists():
        parser.error("the weights and images are missing: set STOCHX_SHARED")
    print(f"torch {torch.__version__}, {args.threads} threads, conv peak {explain.peak_gflops():.0f} GFLOP/CPU-s")
    head = ("part", "network", "n", "variant", "CPU s", "img/CPU-s", "ratio", "left", "target")
    print("{:4} {:16} {:>4} {:16} {:>7} {:>9} {:>6} {:>5} {}".format(*head))
    for name in args.networks:
        if "pgd" in args.parts:
            agreement(name)
        for part in args.parts:
            for count in args.batches if part == "pgd" else args.eot_batches:
                runs: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS[part]}
                for _ in range(args.repeats):
                    for variant in runs:
                        command = [sys.executable, __file__, "--threads", str(args.threads), "--one"]
                        done = subprocess.run(
                            [*command, part, variant, name, str(count)], capture_output=True, text=True, check=True
                        )
                        runs[variant].append(json.loads(done.stdout.splitlines()[-1]))
                median = {v: {k: statistics.median(r[k] for r in rs) for k in rs[0]} for v, rs in runs.items()}
                for variant, m in median.items():
                    ratio, target = median["torchattacks"]["cpu"] / m["cpu"], TARGETS.get(variant, "")
                    row = f"{part:4} {name:16} {count:4} {variant:16} {m['cpu']:7.2f} {count / m['cpu']:9.1f}"
                    print(f"{row} {ratio:6.2f} {m['left']:5.0f} {target}", flush=True)


if __name__ == "__main__":
    main()
