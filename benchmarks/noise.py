"""Compare the gradient of a stochastic student, per draw, with that of its teacher: ResNet-20, on one thread.

    python benchmarks/noise.py --repeats 15

Weights are read below STOCHX_SHARED. Networks alternate in one process; medians of CPU milliseconds are printed, and
their ratio to the teacher's. A student's gradient is the mean of four draws.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

import torch

from stochx.engine.ascent import loss_gradient
from stochx.engine.device import select_runtime
from stochx.engine.losses import Goal, cross_entropy
from stochx.engine.network.classifier import Classifier
from stochx.loading import load_model
from stochx.network_files import install_noise

SHARED = Path(os.environ.get("STOCHX_SHARED", "../shared/data"))
WEIGHTS = SHARED / "weights_cifar10" / "resnet20.safetensors"
NOISES = ("gaussian:site=input,first=0.2", "adaptive", "pni:on=activation", "gaussian", "learn2perturb")
DRAWS = 4


def student(noise: str) -> Classifier:
    model = install_noise(load_model(WEIGHTS), noise).eval()
    model.noise = "sample"
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="measurements of each network")
    parser.add_argument("--images", type=int, default=64, help="images in a batch")
    args = parser.parse_args()
    if not WEIGHTS.exists():
        parser.error("the weights are missing: set STOCHX_SHARED")
    torch.set_num_threads(1)
    x, y = torch.rand(args.images, 3, 32, 32), torch.zeros(args.images, dtype=torch.long)
    networks = {"teacher": load_model(WEIGHTS), **{noise: student(noise) for noise in NOISES}}
    times: dict[str, list[float]] = {name: [] for name in networks}
    with select_runtime("cpu", "fp32").scope():
        for repeat in range(args.repeats + 1):  # the first traces the networks
            for name, model in networks.items():
                draws = 1 if name == "teacher" else DRAWS
                start = time.process_time()
                loss_gradient(model, x, Goal(y), cross_entropy, draws)
                if repeat:
                    times[name].append((time.process_time() - start) / draws)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, seconds in medians.items():
        print(f"{name:32} {1000 * seconds:8.1f} ms a draw {seconds / medians['teacher']:6.2f}")


if __name__ == "__main__":
    main()
