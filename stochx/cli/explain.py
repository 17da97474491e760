"""The table of `stochx explain`."""

from stochx.cli.output import View, number, text

VIEW = View(
    lambda rows: [
        text("image"),
        text("method"),
        text("target"),
        text("class", "class_name"),
        number("probability", "{:.3f}"),
        number("gap", "{:+.3f}"),
        number("error", "{:.3f}"),
        number("used"),
        number("sigma", "{:.3f}"),
        number("objective", "{:.3f}"),
        number("seconds", "{:.2f}"),
    ]
)
