"""Run `stochx demo`: train a small network, explain some images, score the maps against their masks."""

from __future__ import annotations

from pathlib import Path

from stochx.engine.io.images import to_image
from stochx.engine.io.store import atomic
from stochx.engine.world import World
from stochx.loading import load_data
from stochx.runs import Document, Outcome, explain, score, train
from stochx.runs.watch import Watch
from stochx.settings import Demo, Explain, Score, Train

DATA = "shapes:count=3000,classes=6"
METHODS = ("gradcam", "ig", "lrp", "smoothgrad", "smoothtaylor")
CONTROLS = ("random", "centre")
METRICS = ("relevance-mass", "pointing-game", "aupc:draws=10", "autvc")
EXPLAINED, SCORED = 6, 60  # images


def run(settings: Demo, world: World, watch: Watch) -> Outcome:
    """Run the commands of the demonstration; the document is that of the scores."""
    folder, seed = settings.folder, settings.seed
    training = Train(
        data=DATA,
        arch="convnet",
        epochs=15,
        lr=0.1,
        batch_size=64,
        augment=False,
        device="cpu",
        seed=seed,
        output=folder / "train",
    )
    trained = _document(train.run(training, world, watch))["results"][0]
    model, images = trained["model"], _save_images(folder / "images")
    explaining = Explain(
        images=images, model=model, method=METHODS, draws=1, device="cpu", seed=seed, output=folder / "explain"
    )
    explain.run(explaining, world, watch)
    scoring = Score(
        model=model,
        data=DATA,
        limit=SCORED,
        method=(*METHODS, *CONTROLS),
        metric=METRICS,
        draws=1,
        device="cpu",
        seed=seed,
        output=folder / "score",
    )
    document = _document(score.run(scoring, world, watch))
    return Outcome(
        document | {"command": settings.command, "args": settings.recorded(), "accuracy": trained["accuracy"]}
    )


def _document(outcome: Outcome) -> Document:
    assert outcome.document is not None, "a demonstration runs in one process"
    return outcome.document


def _save_images(folder: Path) -> tuple[str, ...]:
    """Write the images that are explained, and return their paths."""
    data = load_data(DATA, "test")
    paths = []
    for i in range(EXPLAINED):
        item = data.item(i)
        path = folder / f"{i:02d}-{data.classes[item.label or 0]}.png"
        with atomic(path) as temporary:
            to_image(item.image).save(temporary)
        paths.append(str(path))
    return tuple(paths)
