"""The table of `stochx info`."""

from stochx.tables.view import View, text

VIEW = View(lambda rows: [text("what", "name"), text("value"), text("source")], keys=("name",))
