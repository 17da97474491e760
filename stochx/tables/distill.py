"""The table of `stochx distill`."""

from stochx.tables.view import View, interval, number, text

VIEW = View(
    lambda rows: [
        text("noise"),
        number("epochs"),
        number("loss", "{:.4f}"),
        interval("accuracy", "accuracy", "low", "high"),
        interval("noise off", "accuracy_off", "low_off", "high_off"),
        interval("teacher", "accuracy_teacher", "low_teacher", "high_teacher"),
        number("quick robust", "{:.4f}", "robust"),
        number("n"),
        text("model"),
    ]
)
