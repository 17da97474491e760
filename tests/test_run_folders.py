"""Folders of finished runs are read and checked; whatever else lies there is one clear error."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import NotRequired, TypedDict

import pytest
from recorded.cases import RUNS
from support import recorded_document, refused, write_run

from stochx.engine.io.forms import Count, Share, form, keyed
from stochx.engine.io.store import RunFolder
from stochx.runs.folders import read_run


class Score(TypedDict):
    share: Share


class Line(TypedDict):
    label: Count
    scores: Mapping[str, Score]
    parts: NotRequired[list[float]]
    name: NotRequired[str]


SCORES = '"scores": {"a": {"share": 1}}'


@pytest.mark.parametrize("name", RUNS)
def test_the_result_of_every_command_is_read(name, tmp_path):
    document = recorded_document(name)
    run = read_run(write_run(tmp_path / "run", document))
    assert (run.command, run.document, run.records) == (document["command"], document, [])
    assert {**run.config} == {key: value for key, value in document["args"].items() if value not in (None, [], "")}


def test_records_are_read_whatever_their_names_hold(tmp_path):
    records = [{"image": name} for name in ("a.png", "line\u2028separator\x85.png", "n\udcff.png")]
    folder = write_run(tmp_path / "run", recorded_document("explain"), records)
    assert read_run(folder).records == records
    assert read_run(folder / "result.json") == read_run(folder)


def test_a_run_over_several_points_has_parts(tmp_path):
    document = recorded_document("attack-eps")
    write_run(tmp_path, document)
    (tmp_path / "records.jsonl").unlink()
    for eps in ("0.1", "0.2"):
        write_run(tmp_path / f"net-eps={eps}", document, [{"index": 0}], {"eps": eps})
    run = read_run(tmp_path)
    assert [(part.config["eps"], part.records) for part in run.parts] == [
        ("0.1", [{"index": 0}]),
        ("0.2", [{"index": 0}]),
    ]
    assert run.records == []


def test_a_document_may_lie_alone(tmp_path):
    (tmp_path / "old.json").write_text(json.dumps(recorded_document("certify")))
    run = read_run(tmp_path / "old.json")
    assert (run.command, run.config, run.records, run.parts) == ("certify", {}, (), ())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 1}, "has schema `1`, not 2"),
        ({"command": "\x1b[31mrm"}, "unknown command `\\x1b[31mrm`"),
        ({"command": ["attack"]}, "no valid `command`"),
        ({"results": {}}, "no valid `results`"),
        ({"args": None}, "no valid `args`"),
        ({"failed": None}, "no valid `failed`"),
        ({"models": 3}, "no valid `models`"),
        ({"results": [{"model": "n"}]}, "lacks what the table of `stochx attack` shows: 'degree'"),
        ({"results": [3]}, "lacks what the table"),
        ({"checks": None}, "lacks what the table"),
        ({"gate": {"missed": True}}, "lacks what the table"),
    ],
)
def test_a_document_that_is_none_is_named(change, message, tmp_path):
    folder = write_run(tmp_path / "run", recorded_document("attack") | change, config={})
    refused(lambda: read_run(folder), message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "is not the result of a run"),
        ("{}", "is not the result of a run"),
        ('{"schema": NaN}', "NaN is not a number"),
        ("[" * 100_000, "is not valid JSON"),
        (b"\xff", "is not valid JSON"),
    ],
)
def test_a_damaged_result_is_named(text, message, tmp_path):
    (tmp_path / "result.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(lambda: read_run(tmp_path), message)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.toml", "eps = ", "config.toml` is not valid TOML"),
        ("config.toml", f"eps = {'[' * 600}{']' * 600}", "TOML: it is more than 64 levels deep"),
        ("records.jsonl", '{"index": 0}\n{"ind', "records.jsonl` is not valid JSON"),
        ("records.jsonl", "3\n", "has a line that is not an object"),
        ("records.jsonl", f'{{"n": {"9" * 21}}}', "in line 1: an integer of 21 digits"),
        ("records.jsonl", '{"n": 1e999}', "in line 1: 1e999 is not a number"),
        ("records.jsonl", f'{{"n": {"[" * 65}{"]" * 65}}}', "in line 1: it is more than 64 levels deep"),
    ],
)
def test_a_damaged_file_of_a_folder_is_named(file, text, message, tmp_path):
    write_run(tmp_path, recorded_document("attack"))
    (tmp_path / file).write_text(text)
    refused(lambda: read_run(tmp_path), message)


def test_a_folder_without_a_result_says_what_to_do(tmp_path):
    refused(lambda: read_run(tmp_path / "no"), "does not exist", "name the folder of a run")
    refused(lambda: read_run(tmp_path), "holds no result.json", "name the folder that a command wrote")
    (tmp_path / "records.jsonl").write_text("")
    refused(lambda: read_run(tmp_path), "holds no result.json", "finish the run with `--resume`")


def test_a_line_that_a_crash_cut_off_is_not_joined_to_the_next(tmp_path):
    RunFolder(tmp_path, {"seed": 0}).append([{"index": 0}])
    with (tmp_path / "records.jsonl").open("ab") as file:
        file.write('{"index": 1, "image": "é'.encode()[:-1])  # within a letter
    run = RunFolder(tmp_path, {"seed": 0}, resume=True)
    assert [*run.lines] == [{"index": 0}]
    run.append([{"index": 1}])
    assert (tmp_path / "records.jsonl").read_text() == '{"index": 0}\n{"index": 1}\n'
    assert [*RunFolder(tmp_path, {"seed": 0}, resume=True).lines] == [{"index": 0}, {"index": 1}]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "records.jsonl` is not valid JSON in line 2"),
        ('{"label": 1, "name": "é", SCORES}', "is not valid JSON in line 2: 'utf-8' codec can't decode"),
        ("null", "Expected `object`, got `null`"),
        ("{}", "Object missing required field `label`"),
        ('{"label": true, SCORES}', "Expected `int`, got `bool`, at `label`"),
        ('{"label": -1, SCORES}', "Expected `int` >= 0, at `label`"),
        ('{"label": 1, "scores": {"a": {"share": 2}}}', "Expected `float` <= 1.0, at `scores.a.share`"),
        ('{"label": 1, "scores": {"b": {}}}', "Object missing required field `a`, at `scores`"),
        ('{"label": 1, "parts": [0, null], SCORES}', "Expected `float`, got `null`, at `parts[1]`"),
        ('{"label": 1, "parts": [0, 1, 1e101], SCORES}', "Expected `float` <= 1e+100, at `parts[2]`"),
        ('{"label": 1, "name": "\\udcff", "scores": 3}', "Expected `object`, got `int`, at `scores`"),
        ('{"label": NaN}', "NaN is not a number"),
        ('{"label": 1e999, SCORES}', "Number out of range, at `label`"),
        (f'{{"label": {"9" * 5000}, SCORES}}', "in line 2"),
        (f'{{"label": {"9" * 21}, SCORES}}', "Expected `int` <= 2147483647, at `label`"),
        (f'{{"label": {"[" * 100_000}{"]" * 100_000}}}', "Expected `int`, got `array`, at `label`"),
        (f'{{"label": 1, SCORES, "other": {"[" * 100_000}{"]" * 100_000}}}', "is not valid JSON in line 2"),
    ],
)
def test_a_record_without_the_form_of_its_run_is_named(line, message, tmp_path):
    text = f'{{"label": 0, {SCORES}}}\n{line.replace("SCORES", SCORES)}\n'
    (tmp_path / "records.jsonl").write_text(text, encoding="latin-1")
    run = RunFolder(tmp_path, {}, resume=True, kind=form(Line, scores=keyed(["a"], Score)))
    refused(lambda: [*run.lines], message, "leave out `--resume`")


@pytest.mark.parametrize("name", ["config.toml", "records.jsonl"])
def test_what_is_no_file_in_a_run_folder_is_named(name, tmp_path):
    (tmp_path / name).mkdir()
    refused(lambda: [*RunFolder(tmp_path, {}, resume=True).lines], f"{name}` is not a file")


def test_a_config_with_a_byte_order_mark_is_read(tmp_path):
    RunFolder(tmp_path, {"seed": 0}).append([{"index": 0}])
    (tmp_path / "config.toml").write_bytes(b"\xef\xbb\xbfseed = 0\n")
    assert [*RunFolder(tmp_path, {"seed": 0}, resume=True).lines] == [{"index": 0}]


def test_reading_a_run_imports_no_torch():
    code = "import sys, stochx.runs.folders; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
