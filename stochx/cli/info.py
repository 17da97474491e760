"""The table of `stochx info`."""

from stochx.cli.output import View, text

VIEW = View(lambda rows: [text("what", "name"), text("value"), text("source")])
