"""Texts as users type and see them: encodings, homes, dashes, variables, files from other editors."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from support import stochx

from stochx import settings
from stochx.cli import output
from stochx.engine.io.data import from_arrays
from stochx.engine.network.header import ClassifierHeader, parse, serialise
from stochx.errors import InputError, UsageError
from stochx.loading import load_data
from stochx.runs import run
from stochx.runs.document import compose
from stochx.tables.view import View, text

BYTE = os.fsdecode(b"n\xff.png")  # a name that is not UTF-8
NET = ("--model", "net.safetensors", "-m", "gradient", "--no-figure")
ROWS = [{"name": "cat ± 猫 🐈"}]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("as_json", [True, False])
def test_stdout_of_any_encoding_takes_every_text(encoding, as_json, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    output.prepare_streams()
    view, form = View(lambda rows: [text("name")]), "json" if as_json else None
    output.show(compose("list", {}, {}, ROWS), view, form, quiet=True)
    written = stream.buffer.getvalue().decode(encoding)
    if as_json:
        assert json.loads(written)["results"] == ROWS
    else:
        sign = "±" if encoding == "latin-1" else r"\xb1"
        assert written == f"name\ncat {sign} \\u732b \\U0001f408\n"


def test_json_holds_nothing_that_a_terminal_obeys(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", stream)
    name = "".join(map(chr, [*range(32), *range(0x7F, 0xA0)])) + "é"
    output.show(compose("list", {}, {}, [{"name": name}]), View(lambda rows: [text("name")]), "json", quiet=True)
    written = stream.buffer.getvalue().decode()
    assert json.loads(written)["results"] == [{"name": name}]
    assert [c for c in written if not c.isprintable()] == ["\n"] and "é" in written


def test_a_name_that_is_not_utf_8_is_escaped_and_found_again(place):
    try:
        shutil.copy(place / "a.png", place / BYTE)
    except OSError:
        pytest.skip("the file system takes no such name")
    done = stochx("explain", BYTE, *NET, "-o", "byte", "--json", cwd=place)
    assert done.returncode == 0 and json.loads(done.stdout)["results"][0]["image"] == BYTE
    written = (place / "byte" / "result.json").read_text(encoding="utf-8")
    assert r"n\udcff.png" in written and json.loads(written)["args"]["images"] == [BYTE]
    again = stochx("explain", BYTE, *NET, "-o", "byte", "--resume", "--json", cwd=place)
    assert again.returncode == 0 and json.loads(again.stdout)["results"] == json.loads(done.stdout)["results"]


def test_classes_whose_names_are_not_utf_8_can_be_stored(tmp_path):
    header = ClassifierHeader(arch="x", classes=("a", BYTE), mean=(0.5,), std=(0.5,), resize=8, crop=8)
    (tmp_path / "a").mkdir()
    (tmp_path / BYTE).mkdir()
    for folder in ("a", BYTE):
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / folder / "0.png")
    stored = parse(serialise(header), tmp_path)
    assert stored.classes == load_data(f"folder:root={tmp_path}").classes == ("a", r"n\udcff.png")
    assert from_arrays(torch.zeros(1, 4, 4, 3).byte().numpy(), [0], (BYTE,), "x").classes == (r"n\udcff.png",)


def test_an_output_folder_whose_name_is_not_utf_8_is_refused():
    with pytest.raises(UsageError, match="is not UTF-8"):
        settings.Demo(output=Path(BYTE))


def test_every_path_may_begin_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    chosen = settings.Explain(
        images=("~/a.png",), model="~/net.pt", output=Path("~/out"), data="folder:root=~/x", target="~ish"
    )
    assert chosen.images == ("/home/ada/a.png",) and chosen.model == "/home/ada/net.pt"
    assert chosen.output == Path("/home/ada/out") and chosen.target == "~ish"


def test_a_home_in_a_data_set_is_found(place, monkeypatch):
    monkeypatch.setenv("HOME", str(place))
    (place / "pictures").mkdir(exist_ok=True)
    shutil.copy(place / "a.png", place / "pictures")
    for data in ("~/pictures", "images:root=~/pictures"):
        done = stochx("explain", f"--data={data}", *NET, "--json", cwd=place)
        assert [row["image"] for row in json.loads(done.stdout)["results"]] == ["a.png"], done.stderr


def test_a_config_may_have_a_byte_order_mark_and_one_value_for_a_list(place, monkeypatch):
    monkeypatch.setenv("HOME", str(place))
    (place / "mark.toml").write_bytes(b'\xef\xbb\xbfmethod = "gradient"\nimages = "a.png"\nmodel = "net.safetensors"\n')
    done = stochx("explain", "--config=~/mark.toml", "--no-figure", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["args"]["method"] == ["gradient"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("–m", "-m"), ("—model", "--model"), ("–-no-figure", "--no-figure"), ("−o=x", "-o=x"), ("—seed=3", "--seed=3")],
)
def test_a_dash_of_typeset_text_is_named(typed, meant, place):
    done = stochx("explain", "a.png", typed, "ig", cwd=place)
    assert done.returncode == 2 and f"did you mean `{meant}`?" in done.stderr


def test_a_file_that_begins_with_a_dash_of_typeset_text_is_a_file(place):
    shutil.copy(place / "a.png", place / "–m")
    assert stochx("explain", "–m", *NET, cwd=place).returncode == 0
    (place / "–m").unlink()


def test_a_working_folder_that_is_gone_is_one_error(tmp_path):
    shell = f"cd {tmp_path}; rmdir {tmp_path}; {sys.executable} -m stochx list"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ROOT})
    assert done.returncode == 2 and "error: the working folder no longer exists" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_machine_without_a_temporary_folder_is_one_error(monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: ["/nonexistent"])
    with pytest.raises(InputError, match="no folder for temporary files") as caught:
        run(settings.Info(model="resnet18"))
    assert "TMPDIR" in caught.value.hint


@pytest.mark.parametrize("variable", ["STOCHX_HELP", "STOCHX_LIST_HELP", "STOCHX_VERSION", "STOCHX_COMPLETION"])
def test_a_pipelines_own_variables_change_nothing(variable):
    assert "roots" in stochx("list", "attributions:smoothtaylor", env={variable: "1"}).stdout


@pytest.mark.parametrize("command", ["train", "attack", "fsc-explain"])
def test_the_help_names_variables_once(command):
    help = stochx(command, "--help", env={"COLUMNS": "200"}).stdout
    assert help.count("STOCHX_") == 1 and "env var" not in help


def test_hints_do_not_install_a_strangers_package():
    stranger = re.compile(r"""\binstall( --?\S+)* ['"]?stochx(?![-_]vision)|['"]stochx\[""")
    sources = [*ROOT.glob("*.md"), *(ROOT / "stochx").rglob("*.py"), *(ROOT / "docs").rglob("*.md")]
    assert not [path.name for path in sources if stranger.search(path.read_text())]
    assert all(
        stranger.search(f"pip {words}") for words in ("install stochx", "install 'stochx[timm]'", "install -U stochx")
    )
