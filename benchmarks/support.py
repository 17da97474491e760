"""Run a small network of every family through every kind of command, and write the table of what works.

    python benchmarks/support.py                    # all families; writes stochx/support.json and docs/networks.md
    python benchmarks/support.py ViT Swin           # only these; the others stay as they were
    python benchmarks/support.py --missing          # only those that are not in the table yet
    python benchmarks/support.py --columns lrp      # only these columns of all

Networks have random weights and three classes; they are of torchvision and timm, and as small as their builders allow.
`yes` means finite results that are not zero everywhere; any other cell holds the reason. The table is written after
every family, so that `--missing` goes on with a run that was interrupted. One thread takes some minutes.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.append(str(Path(__file__).parents[1] / "tests"))

import families
import torch
from torch import Tensor, nn

from stochx import support
from stochx.attacks import Context
from stochx.catalog import ATTACKS, ATTRIBUTIONS, HEADS, LESSONS
from stochx.engine.fewshot.network import FewShotNetwork
from stochx.engine.io.images import Preparation
from stochx.engine.io.store import write_text
from stochx.engine.network.backbone import Backbone
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.reading import read_as_classifier
from stochx.engine.network.stochastic import noise_layers, penalty
from stochx.engine.threat import Ball
from stochx.engine.training.fit import Plan, fit
from stochx.engine.training.items import Images
from stochx.errors import StochxError, first_line, printable
from stochx.network_files import install_noise
from stochx.support import COLUMNS, YES, Tested
from stochx.tasks.distill import calibrate_student, make_criterion, make_student
from stochx.tasks.objectives import objective

PAGE = Path(__file__).parents[1] / "docs" / "networks.md"
NAMES = (*families.QUICK, *families.SLOW, *families.OTHERS)
LONGEST = 160  # characters of a reason
METHODS = {
    "gradient": "gradient",
    "ig": "ig:steps=3",
    "smoothgrad": "smoothgrad:samples=2",
    "smoothtaylor": "smoothtaylor:roots=2",
    "gradcam": "gradcam:relu=false",  # random weights may speak against a class everywhere
    "lrp": "lrp",
    "balanced": "gradient:backward=balanced",
    "fullgrad": "fullgrad",
}


def tested(family: str, columns: tuple[str, ...] = tuple(COLUMNS)) -> Tested:
    """Run the network of a family through the commands of these columns."""
    network, size = families.network(family)
    network = network.float()
    name, module = _origin(network)
    images = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    try:
        read, _ = read_as_classifier(network, images, family)
    except StochxError as error:
        return Tested(family, name, module, dict.fromkeys(columns, _reason(error, family)))
    model = Classifier(read, list("abc"), Preparation(size, size), arch=family).eval().requires_grad_(False)
    return Tested(family, name, module, {column: _cell(column, model, images) for column in columns})


def _origin(network: nn.Module) -> tuple[str, str]:
    """Return the name under which a network is built, or else its class, and the module that builds it."""
    kind, config = type(network), getattr(network, "pretrained_cfg", None)
    name = getattr(config, "architecture", "") or (config or {}).get("architecture", "") if config else ""
    if not name:
        return kind.__name__, kind.__module__
    import timm

    return name, str(timm.models.model_entrypoint(name).__module__)


def _cell(column: str, model: Classifier, images: Tensor) -> str:
    run: Callable[[Classifier, Tensor], str] = COMMANDS.get(column) or _explain(column)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return run(model, images)
    except Exception as error:  # the table tells what fails, however it fails
        return _reason(error, model.arch)


def _reason(error: Exception, arch: str) -> str:
    text = printable(first_line(error)).replace(f"`{arch}`", "it")
    return (text if isinstance(error, StochxError) else f"fails: {type(error).__name__}: {text}")[:LONGEST]


def _judged(values: Tensor, what: str) -> str:
    if not values.isfinite().all():
        return f"the {what} is not finite"
    return YES if bool((values != 0).any()) else f"the {what} is zero everywhere"


def _explain(column: str) -> Callable[[Classifier, Tensor], str]:
    def run(model: Classifier, images: Tensor) -> str:
        text = METHODS.get(column) or f"occlusion:window={images.shape[-1] // 2}"
        method: Any = ATTRIBUTIONS.make(text)
        return _judged(method(model, images[:2], torch.tensor([0, 1]), ["a", "b"]).map, "map")

    return run


def _attack(model: Classifier, images: Tensor) -> str:
    fgsm: Any = ATTACKS.make("fgsm")
    attempt = fgsm(model, images, torch.tensor([0, 1, 2]), Ball(8 / 255), Context(list("abc")))
    return _judged(attempt.x - images, "perturbation")


def _distill(teacher: Classifier, images: Tensor) -> str:
    student = install_noise(make_student(teacher, None, 0), "adaptive")
    if not noise_layers(student):
        return "no layer for the noise was found"
    pixels = (images.repeat(2, 1, 1, 1) * 255).to(torch.uint8)
    calibrate_student(student, pixels, 0)
    before = torch.cat([p.detach().flatten().clone() for p in student.parameters()])
    loss = objective(make_criterion(teacher, LESSONS.make("soft-labels")), None, penalty, 0)
    list(fit(student, Images(pixels, torch.tensor([0, 1, 2] * 2)), Plan(1, 6, 1e-3), 0, objective=loss))
    after = torch.cat([p.detach().flatten() for p in student.parameters()])
    return _judged(after - before, "step")


def _fewshot(model: Classifier, images: Tensor) -> str:
    backbone = Backbone(copy.deepcopy(model))  # it takes the last layer out
    network = FewShotNetwork(backbone, HEADS.make("prototypical")(backbone.shape, 3), "prototypical", 3, {}).eval()
    verdict = _judged(network.scores(images[:, None], images), "score")
    return "only vectors, no maps" if verdict == YES and backbone.shape[1:] == (1, 1) else verdict


COMMANDS = {"attack": _attack, "distill": _distill, "fewshot": _fewshot}


def main() -> None:
    """Run what the words ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"one of: {', '.join(NAMES)}")
    parser.add_argument("--missing", action="store_true", help="only families that are not in the table yet")
    parser.add_argument("--columns", nargs="+", choices=[*COLUMNS], default=[*COLUMNS], help="commands to run")
    words = parser.parse_args()
    torch.set_num_threads(1)
    rows = {row.family: row for row in support.table() if row.family in NAMES}
    chosen = [name for name in words.families or NAMES if not (words.missing and name in rows)]
    for name in chosen:
        start = time.process_time()
        measured = tested(name, tuple(words.columns))
        before = rows[name].cells if name in rows else dict.fromkeys(COLUMNS, "not run")
        rows[name] = replace(measured, cells={**before, **measured.cells})
        print(f"{name}  {time.process_time() - start:.1f} s  {rows[name].reasons or 'all'}", flush=True)
        _write([rows[family] for family in NAMES if family in rows])


def _write(rows: list[Tested]) -> None:
    measured = {package: version(package).partition("+")[0] for package in ("torch", "torchvision", "timm")}
    stored = {"versions": measured, "networks": [asdict(row) for row in rows]}
    write_text(support.FILE, json.dumps(stored, indent=0, ensure_ascii=False) + "\n")
    write_text(PAGE, support.markdown(rows, measured))


if __name__ == "__main__":
    main()
