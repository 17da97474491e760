"""The table of `stochx fsc-explain`."""

from stochx.tables.view import View, number, text

VIEW = View(
    lambda rows: [
        text("image"),
        text("class", "class_name"),
        number("probability", "{:.3f}"),
        number("evidence", "{:+.3f}", note="the class's score minus the mean of the others'"),
        number("relevance", "{:+.3f}", note="the part of it that reaches the query's pixels"),
    ],
    keys=("image", "class_name"),
)
