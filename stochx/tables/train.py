"""The table of `stochx train`."""

from stochx.tables.view import View, interval, number, text

VIEW = View(
    lambda rows: [
        number("epochs"),
        number("loss", "{:.4f}"),
        number("train accuracy", "{:.4f}", "train_accuracy"),
        interval("accuracy", "accuracy", "low", "high"),
        number("best epoch", key="best_epoch"),
        number("quick robust", "{:.4f}", "robust"),
        number("n"),
        text("model"),
    ]
)
