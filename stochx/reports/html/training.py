"""The section of trainings: `train`, `distill` and `fsc-train`, epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterator

from stochx.reports.html.blocks import Block, Record, Run, Stat
from stochx.reports.html.charts import Axes, Mean, Series, interval_chart, line_chart
from stochx.reports.html.pictures import Album
from stochx.reports.html.tables import Shown, image_table, result_table
from stochx.reports.html.text import percent, short, within
from stochx.tables.quantities import plural

MEASURES = {"accuracy": "training images", "clean": "validation", "robust": "validation, attacked",
            "validation": "held-out classes"}  # fmt: skip
TESTS = (
    ("the network", "accuracy", "low", "high"),
    ("noise off", "accuracy_off", "low_off", "high_off"),
    ("teacher", "accuracy_teacher", "low_teacher", "high_teacher"),
)


def about(run: Run) -> str:
    """Say what was trained."""
    row = run.rows[0]
    if run.command == "fsc-train":
        episodes = plural(row["episodes"], "episode")
        return f"A few-shot network with the head {row['head']}, guided by {row['guide']}, after {episodes}."
    epochs = plural(row["epochs"], "epoch")
    if run.command == "distill":
        return (
            f"A student of {short(row['teacher'])} with {row['noise']} noise, after {epochs} on {run.setting('data')}."
        )
    return f"{run.setting('arch') or 'A network'} after {epochs} on {run.setting('data')}."


def stats(run: Run) -> list[Stat]:
    """Return the accuracies of the finished network."""
    row = run.rows[0]
    if run.command == "fsc-train":
        value = row["validation"]
        name = f"{row['way']}-way {row['shot']}-shot accuracy"
        if value is None:
            return [Stat(f"{name} in training", percent(row["train_accuracy"]), "mean over the last epoch")]
        found = [Stat(name, percent(value), "on held-out classes")]
        if (frozen := row.get("frozen")) is not None:
            found.append(Stat("Backbone as it was", percent(frozen), "frozen, with class means, on the same episodes"))
        return found
    return [
        Stat(
            f"Test accuracy, {name}" if run.command == "distill" else "Test accuracy",
            percent(row[mean]),
            within(row, low, high),
        )
        for name, mean, low, high in _tests(run)
    ]


def _tests(run: Run) -> list[tuple[str, str, str, str]]:
    """Return the accuracies that the final test measured: their names and keys."""
    found = [test for test in TESTS if run.rows[0].get(test[1]) is not None]
    if run.command == "distill":
        return [("a random draw", *keys) if name == "the network" else (name, *keys) for name, *keys in found]  # type: ignore[misc]
    return found if run.command == "train" else []


def facts(run: Run) -> list[tuple[str, str]]:
    """Return how it was trained."""
    names = {"adversarial": "Adversarial training", "recipe": "Recipe", "eps": "Radius", "lr": "Peak learning rate",
             "optimizer": "Optimizer", "schedule": "Schedule", "kd": "Lesson of the teacher",
             "augment": "Augmentation"}  # fmt: skip
    pairs = [
        (title, run.setting(key)) for key, title in names.items() if run.setting(key) not in (None, "", [], "none")
    ]
    data = run.setting("data") if isinstance(run.setting("data"), str) else ", ".join(run.setting("data"))
    adversarial = {"recipe", "eps"} if not run.setting("adversarial") else set()
    dropped = {names[key] for key in adversarial}
    return [("Data", data), *((title, _said(value)) for title, value in pairs if title not in dropped)]


def _said(value: object) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def blocks(run: Run, album: Album) -> Iterator[Block]:
    """Yield loss and accuracy over the epochs, the final test, the table."""
    epochs = [record for part in run.parts for record in part.records]
    if epochs:
        yield _loss(epochs)
        yield from _accuracy(epochs)
    means = [
        Mean(name, run.rows[0][mean], run.rows[0][low], run.rows[0][high], place, percent(run.rows[0][mean]))
        for place, (name, mean, low, high) in enumerate(_tests(run))
    ]
    if len(means) > 1:
        n = run.rows[0].get("n")
        yield interval_chart("Final test", f"Accuracy on {n} test images, with 95 % intervals.", means, share=True)
    yield result_table(run)
    if epochs:
        keys = ["loss", *(key for key in MEASURES if any(epoch.get(key) is not None for epoch in epochs))]
        columns = [Shown("epoch", lambda record: str(record["epoch"]), True)]
        columns += [Shown(key, lambda record, key=key: _number(record.get(key)), True) for key in keys]  # type: ignore[misc]
        yield image_table("Every epoch", columns, epochs, lambda record: (), lambda record: "")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _loss(epochs: list[Record]) -> Block:
    points = [(float(epoch["epoch"]), float(epoch["loss"])) for epoch in epochs]
    series = [Series("training loss", points, marks=len(points) < 20)]
    return line_chart(
        "Loss", "Mean loss of the training images in each epoch.", Axes("epoch", "loss", whole=True), series
    )


def _accuracy(epochs: list[Record]) -> Iterator[Block]:
    series = []
    for key, name in MEASURES.items():
        points = [(float(epoch["epoch"]), float(epoch[key])) for epoch in epochs if epoch.get(key) is not None]
        if points:
            series.append(Series(name, points, marks=len(points) < 20))
    if series:
        caption = "Accuracy after each epoch, on training images as the network saw them and on images held out."
        yield line_chart("Accuracy", caption, Axes("epoch", "accuracy", True, whole=True), series)
