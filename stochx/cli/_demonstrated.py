"""The part of `stochx demo` that needs torch: train, explain, score against the masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stochx.catalog import ATTRIBUTIONS, METRICS
from stochx.cli._explained import run_explain
from stochx.cli._scored import run_score
from stochx.cli._trained import run_training
from stochx.engine.io.images import to_image
from stochx.engine.io.store import atomic
from stochx.loading import load_data

DATA = "shapes:count=3000,classes=6"
PLAIN: dict[str, Any] = {"optimizer": "sgd", "schedule": "one-cycle", "decay": 5e-4, "average": 0.0, "accumulate": 1}
PLAIN |= {"init": None, "limit": None, "augment": False, "adversarial": None, "validation": None, "patience": 0}
PLAIN |= {"save_epochs": False, "precision": "auto"}
TRAINING = {**PLAIN, "data": DATA, "arch": "convnet", "epochs": 15, "lr": 0.1, "batch_size": 64}
EXPLAINED, SCORED = 6, 60  # images


def run_demo(
    args: Mapping[str, Any], folder: Path, methods: Sequence[str], metrics: Sequence[str], *, quiet: bool, start: float
) -> tuple[dict[str, object], list[dict[str, Any]]]:
    """Everything into `folder`: the images, the network, the maps, the scores; a row for each method and metric."""
    common = {"seed": args["seed"], "device": "cpu"}
    training = {**TRAINING, **common, "output": str(folder / "train")}
    _, trained = run_training(training, folder / "train", resume=False, quiet=quiet, start=start)
    data, paths = load_data(DATA, "test"), []
    for i in range(EXPLAINED):
        item = data.item(i)
        paths.append(folder / "images" / f"{i:02d}-{data.classes[item.label or 0]}.png")
        with atomic(paths[-1]) as temporary:
            to_image(item.image).save(temporary)
    asking = {**common, "model": trained[0]["model"], "target": None, "arch": None, "crop": True, "draws": 1}
    asking |= {"precision": "auto", "figure": True}
    explaining = {**asking, "images": [str(path) for path in paths], "data": None, "limit": None}
    explaining |= {"method": list(methods[:-2]), "output": str(folder / "explain")}
    made = {name: ATTRIBUTIONS.make(name) for name in methods}
    shown = {name: made[name] for name in explaining["method"]}
    run_explain(explaining, shown, (None, None), 0, resume=False, show=False, quiet=quiet, start=start)
    scoring = {**asking, "images": [], "data": DATA, "limit": SCORED, "maps": None, "fail_over": [], "fail_under": []}
    scoring |= {"method": list(methods), "metric": list(metrics), "output": str(folder / "score")}
    measures = {name: METRICS.make(name) for name in metrics}
    document, rows, _ = run_score(scoring, made, measures, (None, None), 0, [], resume=False, quiet=quiet, start=start)
    assert document is not None, "a demonstration runs in one process"
    return {**document, "command": "demo", "args": dict(args), "accuracy": trained[0]["accuracy"]}, rows
