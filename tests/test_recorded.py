"""Every command does what it did when it was recorded."""

from __future__ import annotations

import pytest
from recorded.cases import EXITS, PRINTS, RUNS
from recorded.record import Place, differences, load, options


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("recorded").resolve())


def report(path, recorded, today):
    """Return a line for each difference; a change that is meant is recorded anew, and seen in the diff."""
    changes = differences(recorded, today, path).items()
    return "\n".join(f"{where}: recorded {before!r}, today {after!r}" for where, (before, after) in changes)


def test_commands_have_the_recorded_options():
    changed = report("help", load("help"), options())
    assert not changed, changed


@pytest.mark.parametrize("name", [*RUNS, *PRINTS])
def test_a_command_prints_and_writes_what_was_recorded(name, place):
    changed = report(f"runs/{name}", load(name), place.observe(name))
    assert not changed, changed


def test_commands_leave_with_the_recorded_exit_codes(place):
    changed = report("exits", load("exits"), {title: place.exits(command) for title, command in EXITS.items()})
    assert not changed, changed


@pytest.mark.parametrize(
    ("recorded", "today", "where"),
    [
        ({"a": 1}, {"a": 2}, "x/a"),
        ({"a": 1}, {"a": 1.0}, "x/a"),
        ({"a": [0.5, 1.0]}, {"a": [0.5, 1.002]}, "x/a/1"),
        ({"a": [1]}, {"a": [1, 2]}, "x/a"),
        ({"a": 1}, {}, "x/a"),
        ({}, {"a": None}, "x/a"),
    ],
)
def test_a_change_is_reported_where_it_is(recorded, today, where):
    assert list(differences(recorded, today, "x")) == [where]


def test_rounding_and_order_are_no_change():
    assert not differences({"a": 1.0, "b": 2}, {"b": 2, "a": 1.0005}, "x")


@pytest.mark.parametrize("cell", ["0.4177 [0.193]", "0.4167 [0.195]", "0.4167 (0.193)", "0.417 [0.193]", "", None])
def test_a_changed_cell_is_reported(cell):
    recorded, today = ({"rows": [{"clean": text}]} for text in ("0.4167 [0.193]", cell))
    assert list(differences(recorded, today, "runs/x/table")) == ["runs/x/table/rows/0/clean"]


@pytest.mark.parametrize("cell", ["1.98989 [0.193]", "1.98990 [0.192]", "1.9899 [0.193]"])
def test_the_last_place_of_a_cell_may_round_otherwise(cell):
    recorded, today = ({"rows": [{"clean": text}]} for text in ("1.98989 [0.193]", cell))
    assert not differences(recorded, today, "runs/x/table")
