"""What `train` and `distill` check before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stochx.cli import options as o
from stochx.errors import UsageError

RECIPES = ("madry", "mixed", "trades")
RATES = {"sgd": 0.1, "adamw": 0.001}  # largest learning rates


def attacked(args: Mapping[str, Any]) -> bool:
    """Whether the training is adversarial."""
    return args["adversarial"] not in (None, "none")


def settled(args: dict[str, Any], trained: bool) -> dict[str, Any]:
    """The settings of a training with their defaults; raises `UsageError` for what does not go together.

    `trained` says whether the weights are trained already, which wants a tenth of the learning rate.
    """
    o.one_of(args["optimizer"], tuple(RATES), "--optimizer")
    o.one_of(args["schedule"], ("one-cycle", "cosine", "step", "constant"), "--schedule")
    o.one_of(args["precision"], ("auto", "fp32", "bf16", "tf32"), "--precision")
    found = {**args, "lr": args["lr"] or RATES[args["optimizer"]] / (10 if trained else 1)}
    unheld = args["validation"] is None and (trained or not attacked(args))
    if args["patience"] and (unheld or args["validation"] == 0):
        raise UsageError("`--patience` needs images to validate on", "add `--validation 1000`")
    if not attacked(args):
        for key in ("recipe", "eps", "norm", "delay"):
            if args[key]:
                raise UsageError(f"`--{key}` belongs to adversarial training", "add `--adversarial pgd:steps=7`")
        return found
    if args["adversarial"].partition(":")[0] == "transfer":
        raise UsageError("`transfer` crafts on another network, which a training does not have", "use `pgd:steps=7`")
    found["recipe"] = o.one_of(args["recipe"] or "madry", RECIPES, "--recipe")
    found["norm"] = o.one_of(args["norm"] or "linf", tuple(o.USUAL), "--norm")
    found["eps"] = args["eps"] or o.USUAL[found["norm"]]
    if not o.radius(found["eps"], found["norm"]):
        raise UsageError("`--eps 0` leaves the images as they are", "leave out `--adversarial`")
    return found
