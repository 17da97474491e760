"""Measure the cost of robust accuracy at every radius, and compare it with attacks at five radii.

    python benchmarks/curve.py --limit 128 --repeats 3
    python benchmarks/curve.py --parts fixed --networks robust_cnn_a_mix

Weights and images are read below STOCHX_SHARED. `cost` runs `-a fmn --curve`, which gives all radii, and beside it one
attack at 8/255: FMN and PGD with as many steps, to the end for every image (`last`) or until an image is misclassified
(`stop`). Runs alternate; medians of CPU seconds are printed, with the ratio of the curve's to each. `fixed` prints the
accuracy of the curve at five radii, the accuracies under APGD and PGD at each, and Wilson's interval of the curve.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

import stochx
from stochx.settings import Attack
from stochx.tasks.curve import Curve

SHARED = Path(os.environ.get("STOCHX_SHARED", "../shared/data"))
NETWORKS = {"robust_cnn_a_mix": "robust-cnn", "robust_oval_wide": "robust-cnn", "resnet20": None}
RADII = {"linf": ["1/255", "2/255", "4/255", "6/255", "8/255"], "l2": ["0.05", "0.1", "0.2", "0.4", "0.6"]}
FIXED = ("apgd:steps=100,loss=ce", "apgd:steps=100,loss=dlr", "pgd:steps=100,restarts=2")


def run(name: str, limit: int, attack: tuple[str, ...], **options: Any) -> tuple[dict[str, Any], float, list[Any]]:
    """Run `stochx attack`; return its document, its CPU seconds, and its records."""
    weights, data = SHARED / "weights_cifar10" / f"{name}.safetensors", f"cifar10:root={SHARED / 'cifar10'}"
    common: dict[str, Any] = {
        "arch": NETWORKS[name],
        "limit": limit,
        "checks": "none",
        "figure": False,
        "device": "cpu",
    }
    with tempfile.TemporaryDirectory() as folder:
        settings = Attack(
            model=str(weights), data=data, attack=attack, output=Path(folder) / "run", **common, **options
        )
        start = time.process_time()
        document = stochx.run(settings)
        seconds = time.process_time() - start
        files = sorted(Path(folder).rglob("records.jsonl"))
        return document, seconds, [json.loads(line) for file in files for line in file.read_text().splitlines()]


def cost(name: str, args: argparse.Namespace) -> None:
    fmn, pgd = (f"{attack}:steps={args.steps}" for attack in ("fmn", "pgd"))
    variants: dict[str, dict[str, Any]] = {
        "fmn --curve": {"attack": (fmn,), "curve": True},
        "fmn last": {"attack": (fmn,), "judge": "last"},
        "fmn stop": {"attack": (fmn,)},
        "pgd last": {"attack": (pgd,), "judge": "last"},
        "pgd stop": {"attack": (pgd,)},
    }
    run(name, 8, (fmn,), curve=True)
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    for _ in range(args.repeats):
        for variant, options in variants.items():
            seconds[variant].append(run(name, args.limit, **options)[1])
    curve = statistics.median(seconds["fmn --curve"])
    for variant, values in seconds.items():
        middle = statistics.median(values)
        print(f"cost  {name:18} {variant:12} {middle:8.2f} CPU s   curve / this {curve / middle:5.2f}", flush=True)


def fixed(name: str, norm: str, args: argparse.Namespace) -> None:
    radii = RADII[norm]
    common: dict[str, Any] = {"norm": norm}
    found = run(name, args.limit, (f"fmn:steps={args.steps}",), curve=True, eps=radii[-1], **common)[2]
    document = run(name, args.limit, FIXED, sweep=f"eps={','.join(radii)}", **common)[0]
    curve = Curve.of(found)
    for typed in radii:
        rows = {row["attack"]: row for row in document["results"] if row["typed"] == typed}
        eps = next(iter(rows.values()))["eps"]
        at, numbers = curve.at(eps), "  ".join(f"{rows[attack]['robust']:.3f}" for attack in (*FIXED, "worst"))
        print(f"fixed {name:18} {norm:4} {typed:6} {at.mean:.3f} [{at.low:.3f}, {at.high:.3f}]   {numbers}", flush=True)


def main() -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("stochx").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["cost", "fixed"], choices=["cost", "fixed"])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--norms", nargs="+", default=list(RADII), choices=list(RADII), help="of the part `fixed`")
    parser.add_argument("--limit", type=int, default=128, help="images")
    parser.add_argument("--steps", type=int, default=100, help="steps of every attack")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each variant")
    args = parser.parse_args()
    if not SHARED.exists():
        parser.error("the weights and images are missing: set STOCHX_SHARED")
    torch.set_num_threads(1)
    if "fixed" in args.parts:
        print(f"part  network            norm eps    curve                  {'  '.join((*FIXED, 'worst'))}")
    for name in args.networks:
        if "cost" in args.parts:
            cost(name, args)
        for norm in args.norms if "fixed" in args.parts else ():
            fixed(name, norm, args)


if __name__ == "__main__":
    main()
