"""Compare `autoattack` with AutoAttack, image for image, and the attacks of other toolkits; write attack_parity.md.

    python benchmarks/parity.py
    python benchmarks/parity.py --cases robust_resnet2b/l2 --images 0.25
    python benchmarks/parity.py --network mine/model.safetensors --norm linf --eps 1/255 --images 8

Weights and images are read below STOCHX_SHARED. Every run has its own process; CPU seconds count the attack alone, on
one thread, and all attacks get the same images, those that the network classifies correctly. The authors' AutoAttack
runs as `pyautoattack`, which gives the same bits. Toolkits that are not installed are left out, and the table says so.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stochx.catalog import ATTACKS
from stochx.engine.gradients import logits
from stochx.engine.threat import Ball, Norm
from stochx.loading import load_data, load_model

SHARED = Path(os.environ.get("STOCHX_SHARED", "../shared/data"))
PAGE = Path(__file__).parents[1] / "docs" / "results" / "attack_parity.md"
ARCHITECTURES = {"robust_cnn_a_mix": "robust-cnn", "robust_oval_wide": "robust-cnn"}
NAMES: dict[Norm, str] = {"linf": "Linf", "l2": "L2", "l1": "L1"}
ORDERS: dict[Norm, float] = {"linf": float("inf"), "l2": 2, "l1": 1}
PEERS = {"pyautoattack": "pyautoattack", "torchattacks": "torchattacks", "foolbox": "foolbox", "adv_lib": "adv-lib"}


@dataclass(frozen=True)
class Case:
    """A network, of the test data or a file of its own, under a threat; `eps` is as one types it."""

    network: str
    norm: Norm
    eps: str
    images: int

    @property
    def file(self) -> Path:
        own = Path(self.network)
        return own if own.suffix else SHARED / "weights_cifar10" / f"{self.network}.safetensors"

    @property
    def ball(self) -> Ball:
        top, _, bottom = self.eps.partition("/")
        return Ball(float(top) / float(bottom or 1), self.norm)


ENSEMBLE = [
    Case("robust_cnn_a_mix", "linf", "8/255", 128),
    Case("robust_resnet2b", "linf", "2/255", 64),
    Case("resnet20", "linf", "1/255", 50),
    Case("robust_oval_wide", "linf", "8/255", 64),
    Case("robust_resnet2b", "l2", "0.5", 50),
    Case("robust_resnet2b", "l1", "6", 24),
    Case("resnet20", "linf", "2/255", 50),
    Case("robust_cnn_a_mix", "linf", "2/255", 64),
]
SINGLE = {  # attack: its case, as typed here, and who else has it
    "PGD-20": (Case("robust_resnet2b", "linf", "2/255", 200), "pgd:steps=20"),
    "APGD-CE-100": (Case("robust_resnet2b", "linf", "2/255", 200), "apgd"),
    "FMN-100": (Case("robust_resnet2b", "l2", "0.25", 200), "fmn"),
    "DDN-100": (Case("robust_resnet2b", "l2", "0.25", 200), "ddn"),
}


def autoattack(model: nn.Module, x: Tensor, y: Tensor, case: Case) -> Tensor:
    peer = importlib.import_module("pyautoattack")
    attack = peer.AutoAttack(model, norm=NAMES[case.norm], eps=case.ball.eps, seed=0, version="standard", device="cpu")
    return attack.run_standard_evaluation(x, y, batch_size=250)[0]


def torchattacks(name: str, model: nn.Module, x: Tensor, y: Tensor, case: Case) -> Tensor:
    peer, eps = importlib.import_module("torchattacks"), case.ball.eps
    return {
        "PGD-20": lambda: peer.PGD(model, eps, eps / 8, 20),
        "APGD-CE-100": lambda: peer.APGD(model, NAMES[case.norm], eps, 100),
    }[name]()(x, y)


def foolbox(name: str, model: nn.Module, x: Tensor, y: Tensor, case: Case) -> Tensor:
    peer, eps = importlib.import_module("foolbox"), case.ball.eps
    attacks = peer.attacks
    attack = {
        "PGD-20": lambda: attacks.LinfPGD(abs_stepsize=eps / 8, steps=20),
        "FMN-100": lambda: attacks.L2FMNAttack(steps=100),
        "DDN-100": lambda: attacks.DDNAttack(steps=100),
    }[name]()
    raw, clipped, _ = attack(peer.PyTorchModel(model, (0, 1)), x, y, epsilons=eps)
    return raw if name.startswith(("FMN", "DDN")) else clipped


def adv_lib(name: str, model: nn.Module, x: Tensor, y: Tensor, case: Case) -> Tensor:
    sys.modules.setdefault("visdom", types.ModuleType("visdom"))  # imported for plots, of which none is drawn
    peer, eps = importlib.import_module("adv_lib.attacks"), case.ball.eps
    return {
        "PGD-20": lambda: peer.pgd_linf(model, x, y, eps, steps=20, absolute_step_size=eps / 8),
        "APGD-CE-100": lambda: peer.apgd(model, x, y, eps, ORDERS[case.norm], loss_function="ce"),
        "FMN-100": lambda: peer.fmn(model, x, y, ORDERS[case.norm], steps=100),
        "DDN-100": lambda: peer.ddn(model, x, y, steps=100, levels=None),
    }[name]()


TOOLKITS: dict[str, Callable[[str, nn.Module, Tensor, Tensor, Case], Tensor]] = {
    "torchattacks": torchattacks,
    "foolbox": foolbox,
    "adv_lib": adv_lib,
}


def measure(who: str, name: str, case: Case) -> dict[str, Any]:
    """Run one attack in this process: CPU seconds, the images that are left, and the distances of the others."""
    model = load_model(str(case.file), arch=ARCHITECTURES.get(case.network)).eval().requires_grad_(False)
    data = load_data(f"cifar10:root={SHARED / 'cifar10'}")
    assert data.pixels is not None and data.labels is not None
    x = (data.pixels[: case.images].float() / 255).contiguous()
    y = torch.tensor([int(v) for v in data.labels[: case.images]])
    right = (logits(model, x).argmax(1) == y).nonzero().flatten()
    x, y = x[right], y[right]
    torch.manual_seed(0)
    start = time.process_time()
    if who == "stochx":
        attempt = ATTACKS.make(name)(model, x, y, 0 if minimal(name) else case.ball.eps, case.norm)
        adv = attempt.x if attempt.nearest is None else attempt.nearest
    elif name == "autoattack":
        adv = autoattack(model, x, y, case)
    else:
        adv = TOOLKITS[who](name, model, x, y, case)
    cpu, adv = time.process_time() - start, adv.detach()
    fooled = logits(model, adv).argmax(1) != y
    length = case.ball.length(adv, x).where(fooled, torch.inf)
    left = right[~(fooled & case.ball.holds(adv, x))].tolist()
    return {"cpu": cpu, "left": left, "right": len(right), "length": float(length.median())}


def minimal(name: str) -> bool:
    return name.startswith(("fmn", "ddn"))


def in_own_process(who: str, name: str, case: Case) -> dict[str, Any] | None:
    """Return what `measure` finds; None for a toolkit that is absent or lacks the attack."""
    job = json.dumps([who, name, case.network, case.norm, case.eps, case.images])
    done = subprocess.run([sys.executable, __file__, "--job", job], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{who} {name}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}", file=sys.stderr)
        return None
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def installed(package: str) -> str:
    """Return the version of a package, or an empty text."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def ensemble_row(case: Case) -> str:
    ours, theirs = in_own_process("stochx", "autoattack", case), in_own_process("pyautoattack", "autoattack", case)
    assert ours is not None
    cells = [case.network, NAMES[case.norm], case.eps, case.images, ours["right"], len(ours["left"])]
    if theirs is None:
        return row([*cells, "-", "-", f"{ours['cpu']:.1f}", "-", "-"])
    lost = [len({*a["left"]} - {*b["left"]}) for a, b in ((ours, theirs), (theirs, ours))]
    ratio = theirs["cpu"] / ours["cpu"]
    times = [f"{ours['cpu']:.1f}", f"{theirs['cpu']:.1f}", f"{ratio:.2f}"]
    return row([*cells, len(theirs["left"]), f"{lost[0]} / {lost[1]}", *times])


def single_rows(name: str) -> list[str]:
    case, typed = SINGLE[name]
    rows = []
    for who in ("stochx", *TOOLKITS):
        if who != "stochx" and not installed(PEERS[who]):
            continue
        found = in_own_process(who, typed if who == "stochx" else name, case)
        if found is not None:
            distance = f"{found['length']:.4f}" if minimal(typed) else ""
            cells = [name, case.network, NAMES[case.norm], case.eps, found["right"], who, len(found["left"])]
            rows.append(row([*cells, distance, f"{found['cpu']:.1f}"]))
    return rows


def row(cells: list[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def head(*cells: str) -> list[str]:
    return [row(list(cells)), row(["---"] * len(cells))]


def page(ensemble: list[str], single: list[str]) -> str:
    versions = ", ".join(f"{name} {installed(name) or 'absent'}" for name in PEERS.values())
    return "\n".join(
        [
            "# Attacks against their authors' code and other toolkits",
            "",
            "Written by `benchmarks/parity.py`; do not edit. First test images of CIFAR-10, CPU seconds on one thread.",
            f"torch {torch.__version__.partition('+')[0]}; {versions}.",
            "",
            "## `autoattack` and AutoAttack's `standard`",
            "",
            "Random starts and squares are drawn otherwise, so that single images near the limit may differ. `only one",
            "left`: images that withstood ours alone / theirs alone. `ratio`: their CPU seconds over ours, one",
            "run each. For these networks no figures of AutoAttack are published.",
            "",
            *head(
                "network",
                "norm",
                "eps",
                "images",
                "right",
                "left: stochx",
                "left: AutoAttack",
                "only one left",
                "CPU s: stochx",
                "CPU s: AutoAttack",
                "ratio",
            ),
            *ensemble,
            "",
            "## Single attacks of several toolkits",
            "",
            "The same steps, with each toolkit's own random start; PGD steps are eps / 8. FMN and DDN look for the",
            "nearest wrong point: `left` counts those farther than eps, `median` is the median distance of all.",
            "",
            *head("attack", "network", "norm", "eps", "right", "toolkit", "left", "median", "CPU s"),
            *single,
            "",
        ]
    )


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", help="such as robust_resnet2b/l2; default all, and the single attacks")
    parser.add_argument("--images", type=float, default=1.0, help="share of the images; with --network their number")
    parser.add_argument("--network", help="run `autoattack` alone, on this file of weights")
    parser.add_argument("--norm", choices=NAMES, default="linf")
    parser.add_argument("--eps", default="8/255")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.job:
        who, name, *case = json.loads(args.job)
        print(json.dumps(measure(who, name, Case(*case))))
        return
    if not SHARED.exists():
        parser.error("the weights and images are missing: set STOCHX_SHARED")
    if args.network is not None:
        print(ensemble_row(Case(args.network, args.norm, args.eps, int(args.images))))
        return
    ensemble, single = list[str](), list[str]()
    if args.cases is None:
        for name in SINGLE:
            single += single_rows(name)
    for case in ENSEMBLE:
        if args.cases is None or f"{case.network}/{case.norm}" in args.cases:
            count = max(1, round(args.images * case.images))
            ensemble.append(ensemble_row(replace(case, images=count)))
            print(ensemble[-1], flush=True)
            if args.cases is None:
                PAGE.write_text(page(ensemble, single), encoding="utf-8")


if __name__ == "__main__":
    main()
