"""The table of `stochx fsc-train`."""

from stochx.tables.view import View, number, text

VIEW = View(
    lambda rows: [
        text("head"),
        text("guide"),
        number("way"),
        number("shot"),
        number("episodes"),
        number("loss", "{:.4f}"),
        number("train accuracy", "{:.4f}", "train_accuracy"),
        number("validation", "{:.4f}"),
        number("frozen", "{:.4f}", note="the same validation of the backbone as it was, with class means"),
        number("kept after", key="kept"),
        text("model"),
    ]
)
