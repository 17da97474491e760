"""Tables and messages: they fit a terminal, break names at their joints, and hide no control codes."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import save_net
from PIL import Image
from rich.console import Console
from support import stochx

from stochx.cli import output
from stochx.cli.preview import preview
from stochx.tables import Column, attack, explain, score
from stochx.tables.layout import fit_table
from stochx.tasks.explain import Explained, ExplanationRow
from stochx.wrapping import shorten, width, wrap

METHODS = ("gradient", "ig:steps=300,rule=gauss-legendre", "smoothtaylor:sigma=0.5,roots=1500,unit=range")


def explained_rows(methods=METHODS, **more):
    """Return rows of `explain`; only the last method has an error."""
    row = dict.fromkeys(("gap", "error", "used", "sigma", "objective"))
    row |= {"image": "photos/summer/n02089078_IMG.jpg", "target": 165, "class_name": "black-and-tan coonhound"}
    rows = [row | {"method": m, "probability": 0.5, "seconds": 1.0} | more for m in methods]
    rows[-1]["error"] = 0.83
    return rows


def terminal(monkeypatch, places=80, stream="stdout"):
    """Let results go to a terminal of so many places, whose text this returns."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=places, color_system="truecolor", emoji=False)
    monkeypatch.setattr(output, stream, lambda: console)
    return file


def plain(file):
    """Return the lines of a terminal without its colours."""
    from rich.text import Text

    return Text.from_ansi(file.getvalue()).plain.splitlines()


# Width ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("places", [60, 80, 100, 200])
def test_a_table_of_long_names_is_no_wider_than_the_terminal(places):
    tables, _ = fit_table(*explain.VIEW.fold(explained_rows()), places)
    assert max(width(line) for table in tables for line in (*table.heading, *table.body)) <= places


def test_names_break_at_their_joints_and_numbers_do_not():
    (table,), _ = fit_table(*explain.VIEW.fold(explained_rows()), 80)
    text = "\n".join(table.body)
    for part in ("ig:steps=300,", "gauss-", "legendre", "smoothtaylor:", "sigma=0.5,", "coonhound", "0.500", "0.830"):
        assert part in text
    assert wrap("smoothtaylor:sigma=0.5,roots=150", 14) == ["smoothtaylor:", "sigma=0.5,", "roots=150"]
    assert wrap("abcdefgh", 3) == ["abc", "def", "gh"] and wrap("", 3) == [""]


def test_a_chosen_sigma_stands_with_the_range_that_its_search_could_not_tell_from_it():
    rows = explained_rows(sigma=0.3, sigma_low=0.1, sigma_high=0.9, objective=12.345, noise=2.9)
    columns = {column.name: column.cell(rows[0]) for column in explain.VIEW.columns(rows)}
    assert [columns[name] for name in ("sigma", "range", "objective", "noise")] == [
        "0.300",
        "0.100-0.900",
        "12.345",
        "2.900",
    ]
    lacking = {column.name: column.cell(explained_rows()[0]) for column in explain.VIEW.columns(rows)}
    assert lacking["range"] == lacking["noise"] == "", "a search that measures no noise has no range"


def test_wide_letters_take_two_places():
    assert width("中文a") == 5 and wrap("中文字", 4) == ["中文", "字"] and shorten("中文字", 5) == "中文…"


def test_columns_that_are_empty_for_all_rows_are_left_out():
    names = [column.name for column in fit_table(*explain.VIEW.fold(explained_rows()), 200)[1]]
    assert names == ["image", "method", "target", "class", "probability", "error", "seconds"]


def test_minor_columns_go_first_and_are_named(monkeypatch):
    file = terminal(monkeypatch, 60)
    document = {"results": explained_rows()}
    output.show(document, explain.VIEW, None, quiet=False)
    lines = plain(file)
    assert "seconds" not in lines[0] and any("no room for target, seconds" in line for line in lines)


def test_what_does_not_fit_continues_below_with_the_names():
    rows = [{"method": "a"}, {"method": "b"}]
    columns = [Column("method", lambda row: row["method"])]
    columns += [Column(f"metric{n}", lambda row: "0.1234 ± 0.0123", numeric=True) for n in range(9)]
    tables, _ = fit_table(rows, columns, 40)
    assert len(tables) == 3 and all(table.body[0].startswith("a ") for table in tables)
    assert all(width(line) <= 40 for table in tables for line in table.body)


def test_images_of_one_folder_are_shown_without_it_on_a_terminal_alone(monkeypatch, capsys):
    file = terminal(monkeypatch, 200)
    output.show({"results": explained_rows()}, explain.VIEW, None, quiet=True)
    assert plain(file)[1].startswith("n02089078_IMG.jpg")
    monkeypatch.undo()
    output.show({"results": explained_rows()}, explain.VIEW, None, quiet=True)
    assert capsys.readouterr().out.splitlines()[1].startswith("photos/summer/n02089078_IMG.jpg\tgradient")


@pytest.mark.parametrize(
    ("view", "rows", "notes"),
    [
        (explain.VIEW, explained_rows(gap=0.1, used=50), ["gap: sum of the map minus", "error: Monte-Carlo", "used: "]),
        (
            attack.VIEW,
            [
                {"model": "n", "eps": 0.1, "typed": "0.1", "degree": None, "attack": "fgsm", "success": 0.5, "n": 9}
                | {"vote": None, "robust_off": None, "forwards": 1.0, "backwards": 1.0, "seconds": 0.1}
                | {"estimand": None, "label": None}
                | dict.fromkeys(("clean", "clean_low", "clean_high", "robust", "low", "high"), 0.5)
            ],
            ["success: share of the clean accuracy that is lost"],
        ),
    ],
    ids=["explain", "attack"],
)
def test_a_terminal_says_what_the_numbers_mean(view, rows, notes, monkeypatch):
    file = terminal(monkeypatch, 300)
    document = {"results": rows, "args": {}, "checks": [], "expectation": [], "saved": None, "versus": None}
    document["curve"] = None
    output.show(document, view, None, quiet=False)
    assert all(any(note in line for line in plain(file)) for note in notes)
    file.truncate(0)
    output.show(document, view, None, quiet=True)
    assert not any(note in file.getvalue() for note in notes)


def test_scores_on_a_terminal_keep_two_lines_of_heading(monkeypatch):
    file = terminal(monkeypatch)
    row = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 6, "better": "lower", "best": False}
    rows = [row | {"method": m, "metric": s} for m in ("a", "b") for s in ("aupc", "autvc")]
    output.show({"results": rows}, score.VIEW, None, quiet=True)
    assert [line.split() for line in plain(file)[:2]] == [["method", "aupc", "↓", "autvc", "↓"], ["(n", "=", "6)"] * 2]


def test_a_preview_of_many_methods_fits_the_terminal(monkeypatch):
    file = terminal(monkeypatch, stream="stderr")
    maps = {m: torch.randn(1, 8, 8) for m in METHODS}
    rows = [
        ExplanationRow(0, "\x1b]0;x.png", m, 0, "cat", 0.5, 1.0, *[None] * 9, seconds=0.1, predicted="cat", true=None)
        for m in METHODS
    ]
    preview(Explained(0, "\x1b]0;x.png", torch.rand(3, 8, 8), torch.tensor([1.0]), maps, rows))
    lines = plain(file)
    assert max(map(width, lines)) == 80 and len(lines) == 2 * (1 + 13), "three beside one another, and a fourth"
    assert "\\x1b]0;x.png" in lines[0] and "smoothtaylor:" in lines[14]


# Pipes and codes ------------------------------------------------------------------------------------------------------

COLOUR = {"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1", "PY_COLORS": "1", "TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1"}


@pytest.mark.parametrize("args", [("list", "attacks"), ("list", "atacks"), ("--help",), ("attack", "--help")])
def test_variables_of_colour_change_nothing_in_a_pipe(args):
    runs = [
        subprocess.run([sys.executable, "-m", "stochx", *args], capture_output=True, env=env, check=False)
        for env in (os.environ | {"COLUMNS": "90"}, os.environ | {"COLUMNS": "90", "TERM": "xterm-256color"} | COLOUR)
    ]
    assert runs[0].stdout == runs[1].stdout and runs[0].stderr == runs[1].stderr
    assert b"\x1b" not in runs[1].stdout + runs[1].stderr


@pytest.fixture(scope="module")
def hostile(place, tmp_path_factory):
    """A folder with names that are codes or markup, and a network whose classes are."""
    folder = tmp_path_factory.mktemp("hostile")
    names = ("\\[/red].png", "im:b:1.png", "[bold]x.png", "a\x1b[31mred\tx.png")
    (folder / "\\[").mkdir()
    for name in names:
        shutil.copy(place / "a.png", folder / name)
    (folder / "\x1b[31m[b].png").write_bytes(b"no image")
    save_net(folder / "net.safetensors", ("\x1b]0;title\x07cat", "[/red]dog", ":smile: owl"))
    return folder, names


def test_names_from_files_are_printed_as_text(hostile):
    folder, names = hostile
    done = stochx("explain", *names, "\x1b[31m[b].png", "-m", "gradient", "--model", "net.safetensors", cwd=folder)
    assert done.returncode == 1 and "\x1b" not in done.stdout + done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[0] for line in lines[1:]] == [*names[:3], "a\\x1b[31mred\\tx.png"]
    assert {line[3] for line in lines[1:]} <= {"\\x1b]0;title\\x07cat", "[/red]dog", ":smile: owl"}
    assert {len(line) for line in lines} == {13} and "error: `\\x1b[31m[b].png`" in done.stderr


def test_a_terminal_gets_names_from_files_as_text(hostile, monkeypatch):
    folder, names = hostile
    file = terminal(monkeypatch, 200)
    stochx("explain", *names, "-m", "gradient", "--model", "net.safetensors", "--no-figure", "-o", "t", cwd=folder)
    lines = plain(file)
    assert [line.split("  ")[0] for line in lines[1:5]] == [*names[:3], "a\\x1b[31mred\\tx.png"]
    assert "\x1b]0" not in file.getvalue() and "\x07" not in file.getvalue()


def test_facts_of_a_file_are_printed_as_text(hostile):
    done = stochx("info", "net.safetensors", cwd=hostile[0])
    assert done.returncode == 0 and "\x1b" not in done.stdout and "\\x1b]0;title\\x07cat" in done.stdout
    (value,) = [
        row["value"]
        for row in json.loads(stochx("info", "net.safetensors", "--json", cwd=hostile[0]).stdout)["results"]
        if row["name"] == "classes"
    ]
    assert "\x1b" in str(value), "JSON has its own escapes"


def test_a_sweep_shows_radii_as_typed(place, tmp_path):
    folder = tmp_path / "data"
    for k, name in enumerate(("cat", "dog", "owl")):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (40, 40), (80 * k, 50, 90)).save(folder / name / "a.png")
    sweep = ("--sweep", "eps=0,2/255,0.1", "--checks", "none", "--no-figure")
    done = stochx("attack", place / "net.safetensors", "--data", folder, "-a", "fgsm", *sweep, cwd=tmp_path)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["eps", "0", "2/255", "0.1"], done.stderr
