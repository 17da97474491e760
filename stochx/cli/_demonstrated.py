"""The part of `stochx demo` that needs torch: train, explain, compare with the masks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stochx.catalog import ATTRIBUTIONS
from stochx.cli import output
from stochx.cli._explained import run_explain
from stochx.cli._trained import run_training
from stochx.engine.images import to_image
from stochx.engine.statistics import estimate
from stochx.engine.store import atomic
from stochx.loading import load_data

TRAINING = {"data": "shapes:count=3000,classes=6", "arch": "convnet", "epochs": 15, "lr": 0.1, "batch_size": 64}
IMAGES = 6


def run_demo(
    args: Mapping[str, Any], folder: Path, methods: Sequence[str], *, quiet: bool, start: float
) -> tuple[dict[str, object], list[dict[str, Any]]]:
    """Everything into `folder`: the images, the network, the maps; a row for each method."""
    training = TRAINING | {"augment": False, "device": "cpu", "seed": args["seed"], "output": str(folder / "train")}
    _, trained = run_training(training, folder / "train", resume=False, quiet=quiet, start=start)
    data = load_data(str(TRAINING["data"]), "test")
    paths, masks = [], []
    for i in range(IMAGES):
        item = data.item(i)
        paths.append(folder / "images" / f"{i:02d}-{data.classes[item.label or 0]}.png")
        masks.append(item.mask.numpy() if item.mask is not None else None)
        with atomic(paths[-1]) as temporary:
            to_image(item.image).save(temporary)
    explaining = {
        "images": [str(path) for path in paths],
        "model": trained[0]["model"],
        "data": None,
        "limit": None,
        "target": None,
        "arch": None,
        "crop": True,
        "method": list(methods),
        "draws": 1,
        "device": "cpu",
        "precision": "auto",
        "seed": args["seed"],
        "figure": True,
        "output": str(folder / "explain"),
    }
    made = {name: ATTRIBUTIONS.make(name) for name in methods}
    _, rows, _ = run_explain(explaining, made, (None, None), 0, resume=False, show=False, quiet=quiet, start=start)
    results = [_against_truth(name, rows, masks, folder / "explain") for name in methods]
    machine = {"seed": args["seed"], "device": "cpu", "accuracy": trained[0]["accuracy"]}
    return output.result("demo", args, machine, results, time.perf_counter() - start), results


def _against_truth(
    method: str, rows: Sequence[Mapping[str, Any]], masks: Sequence[np.ndarray | None], folder: Path
) -> dict[str, Any]:
    """How much of |map| lies on the object, how large the object is, and how often the maximum hits it."""
    mass, area, hits = [], [], []
    for row in rows:
        mask = masks[row["index"]]
        if row["method"] != method or mask is None:
            continue
        with np.load(folder / row["map"]) as file:
            strength = np.abs(file["sum"])
        mass.append(float(strength[mask].sum() / strength.sum()))
        area.append(float(mask.mean()))
        hits.append(float(mask.flat[strength.argmax()]))
    inside = estimate(mass)
    return {
        "method": method,
        "mass": inside.mean,
        "ci95": inside.ci95,
        "area": estimate(area).mean,
        "hits": estimate(hits).mean,
        "n": inside.n,
    }
