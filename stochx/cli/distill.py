"""The table of `stochx distill`."""

from stochx.cli.output import View, interval, number, text

VIEW = View(
    lambda rows: [
        text("noise"),
        number("epochs"),
        number("loss", "{:.4f}"),
        interval("accuracy", "accuracy", "ci95"),
        interval("noise off", "accuracy_off", "ci95_off"),
        interval("teacher", "accuracy_teacher", "ci95_teacher"),
        number("quick robust", "{:.4f}", "robust"),
        number("n"),
        text("model"),
    ]
)
