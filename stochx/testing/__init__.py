"""Contract tests: what every entry of every family must do, built in or your own.

    pytest --pyargs stochx.testing --include mine.py                                  # the entries of a file
    pytest --pyargs stochx.testing --include mine.py --spec datasets:mine:root=DIR    # with settings of your choice

An entry is tested with its `examples`, a tuple of settings such as `("", "steps=6")`, else with its defaults. Without
`--include` all entries are tested. Needs pytest, and nothing else beside what stochx needs.
"""
