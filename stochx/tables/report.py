"""The table of `stochx report`: the file, and what is in it."""

from __future__ import annotations

from stochx.tables.view import View, number, text

VIEW = View(
    lambda rows: [
        text("report"),
        number("runs"),
        number("images"),
        number(
            "left out", key="left_out", note="images that had no room, are beyond --limit, or were not kept by the run"
        ),
        number("MB", "{:.2f}", "megabytes"),
    ]
)
