"""Text from files is text: whatever a name holds, no terminal, page, sheet, figure or shell obeys it."""

from __future__ import annotations

import io
import json
import logging
import tomllib
import warnings
import zipfile
from html.parser import HTMLParser
from types import SimpleNamespace
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pytest
from markdown_it import MarkdownIt
from recorded.cases import PRINTS, RUNS
from rich.console import Console
from support import recorded_document, stochx, write_run

from stochx import run, settings
from stochx.catalog import ATTRIBUTIONS
from stochx.cli import complete, narration, output
from stochx.cli.summary import append_summary
from stochx.engine.io.store import RunFolder, read_toml
from stochx.engine.network.header import ClassifierHeader, parse, serialise
from stochx.errors import InputError, StochxError
from stochx.loading import load_data
from stochx.reports import curve, scores
from stochx.reports.figure import as_label, new_figure, own_style, wrapped_label
from stochx.reports.html.blocks import Page
from stochx.reports.html.page import render
from stochx.runs._card import make_card
from stochx.settings.base import settings_of
from stochx.tables import view_of
from stochx.tables.card import card_page
from stochx.tables.html import to_html
from stochx.tables.junit import to_junit
from stochx.tables.markdown import to_markdown

KINDS = {
    "escape code": "\x1b[31mred\x1b[0m",
    "title of a terminal": "\x1b]0;title\x07x",
    "link of a terminal": "\x1b]8;;http://x.y\x1b\\link",
    "C1 control": "\x9b2Jx\x85",
    "null, backspace and delete": "a\x00b\x08c\x7f",
    "bidi override": "abc\u202egnp.exe",
    "zero width": "a\u200bb\ufeff",
    "line separators": "a\u2028b\u2029c\x0bd",
    "tab and line breaks": "a\tb\nc\r\nd",
    "lone surrogate": "n\udcff",
    "no character": "\uffff\U000e0001",
    "markup of rich": "[red]x[/red] [link=http://x]y[/link]",
    "emoji code": ":smile: owl",
    "formula": "$\\frac{a}{b$ $x^{$",
    "script": "</script><script>alert(1)</script>",
    "image": "\"><img src=x onerror='alert(2)'>&amp;",
    "Markdown": "**a** `b` [c](http://x.y) | d \\| www.x.y",
    "mention": "@somebody a@x.yz #12",
    "underscore": "_hidden",
    "template": "{x} {0.__class__} %s %(x)s {{ 7 * 7 }}",
}
ALL = "".join(KINDS.values())
FIXED = {"command", "metric", "better", "verdict", "method", "schema"}  # what views look up, and no file names


def shown(text: str) -> str:
    """A text as every exit shows it, in the words of Python's own escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def is_text(written: str, also: str = "\n") -> bool:
    return not [c for c in written if not c.isprintable() and c not in also]


class Texts(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.text = set[str](), ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


def of_markdown(text: str) -> Texts:
    page = Texts(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text))
    assert not page.tags & {"a", "img", "script", "em", "h3", "del"}
    return page


@pytest.fixture
def terminal(monkeypatch):
    """Stdout and stderr of commands, as a very wide terminal without colours."""
    streams = SimpleNamespace(out=io.StringIO(), err=io.StringIO())
    for name, file in (("stdout", streams.out), ("stderr", streams.err)):
        console = Console(file=file, width=10**4, emoji=False, highlight=False, force_terminal=True, color_system=None)
        monkeypatch.setattr(output, name, lambda console=console: console)
    monkeypatch.setattr(narration, "stderr", output.stderr)
    return streams


def document_with(text: str) -> dict:
    document = recorded_document("explain")
    document["results"] = [document["results"][0] | {"image": text, "class_name": text}]
    document["args"]["images"] = [text]
    document["failed"] = [{"image": text, "error": f"cannot read {text}", "hint": f"mind {text}"}]
    return document


def everywhere(value, text: str, key: str = ""):
    """A document in which every text that a file may bring holds another."""
    if isinstance(value, dict):
        return {name: everywhere(part, text, name) for name, part in value.items()}
    if isinstance(value, list):
        return [everywhere(part, text, key) for part in value]
    return text if isinstance(value, str) and key not in FIXED else value


every_kind = pytest.mark.parametrize("text", KINDS.values(), ids=KINDS)


# Stdout ---------------------------------------------------------------------------------------------------------------


@every_kind
def test_a_table_and_what_stands_beside_it(text, terminal):
    output.show(document_with(text), view_of("explain"), "table", quiet=False)
    assert is_text(terminal.out.getvalue()) and is_text(terminal.err.getvalue())
    assert shown(text) in terminal.out.getvalue()
    assert f"error: cannot read {shown(text)}\nhint: mind {shown(text)}\n" in terminal.err.getvalue()


@every_kind
def test_tab_separated_lines(text):
    head, line = output.WRITERS["tsv"](document_with(text), view_of("explain")).splitlines()
    cells = dict(zip(head.split("\t"), line.split("\t"), strict=True))
    assert cells["image"] == cells["class"] == shown(text) and is_text(line, "\t")


@every_kind
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_json_reads_back_as_it_was(text, encoding, monkeypatch):
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    document = document_with(text)
    written = output.WRITERS["json"](document, view_of("explain"))
    assert json.loads(written) == document and is_text(written)


@every_kind
def test_markdown_and_the_summary_of_a_job(text, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    append_summary(document_with(text), view_of("explain"))
    summary = (tmp_path / "summary.md").read_text(encoding="utf-8").partition("\n\n")[2]
    for written in (to_markdown(document_with(text), view_of("explain")), summary):
        assert is_text(written)
        assert of_markdown(written).text.replace("`", "").count(shown(text).replace("`", "")) >= 3


@pytest.mark.parametrize("text", [":smile:", "@somebody", "#12", "a@x.yz"])
def test_what_sites_read_beside_markdown_is_code(text):
    document = document_with(f"an {text} x")
    document["failed"] = [{"image": "x", "error": f"no {text} here", "hint": ""}]
    written = to_markdown(document, view_of("explain"))
    assert f"| an `{text}` x |" in written and f"no `{text}` here" in written


@every_kind
def test_junit(text):
    written = to_junit(document_with(text), view_of("explain"))
    root = ElementTree.fromstring(written)
    assert is_text(written) and root.find(".//error").text == f"cannot read {shown(text)}"
    assert root.find(".//property[@name='images']").get("value") == shown(text)


@every_kind
def test_notebooks(text):
    page = Texts(to_html(document_with(text), view_of("explain")))
    assert page.tags <= {"div", "b", "small", "table", "thead", "tbody", "tr", "th", "td", "br"}
    assert is_text(page.text) and all(shown(line) in page.text for line in text.split("\n"))  # which stay lines


@pytest.mark.parametrize("name", [name for name in (*RUNS, *PRINTS) if not name.startswith("list")])
def test_every_text_of_every_document(name, terminal):
    document = everywhere(recorded_document(name), ALL)
    view = view_of(document["command"])
    output.show(document, view, "table", quiet=False)
    written = [writer(document, view) for form, writer in output.WRITERS.items() if form != "tsv"]
    assert all(map(is_text, (terminal.out.getvalue(), terminal.err.getvalue(), *written, to_html(document, view))))
    assert is_text(output.WRITERS["tsv"](document, view), "\t\n")
    of_markdown(to_markdown(document, view))


@every_kind
def test_the_card(text):
    document = recorded_document("attack")
    document["models"][0] |= {"model": text, "arch": text}
    document["args"]["data"] = text
    page = card_page(make_card(document))
    assert is_text(page) and of_markdown(page).text.replace("`", "").count(shown(text).replace("`", "")) >= 4


@every_kind
def test_a_comparison(text, tmp_path, terminal):
    runs = []
    for name, data in (("old", text), ("new", f"{text}!")):
        document = recorded_document("attack")
        document["args"]["data"] = data
        runs.append(write_run(tmp_path / name, document))
    document = run(settings.Compare(old=runs[0], new=runs[1]))
    output.show(document, view_of("compare"), "table", quiet=False)
    assert f"data: `{shown(text)}` → `{shown(text)}!`" in terminal.err.getvalue()
    assert is_text(terminal.err.getvalue()) and is_text(terminal.out.getvalue())
    of_markdown(to_markdown(document, view_of("compare")))


# Stderr ---------------------------------------------------------------------------------------------------------------


@every_kind
def test_errors_hints_and_messages_of_libraries(text, terminal):
    error = InputError(f"cannot read {text}", f"mind {text}")
    assert str(error) == f"cannot read {shown(text)}" and error.__notes__ == [f"hint: mind {shown(text)}"]
    output.complain(f"raw {text}", f"raw {text}")
    assert terminal.err.getvalue() == f"error: raw {shown(text)}\nhint: raw {shown(text)}\n"


@every_kind
def test_warnings_ours_and_others(text, terminal, monkeypatch):
    log = logging.getLogger("stochx")
    for name in ("handlers", "propagate", "level"):
        monkeypatch.setattr(log, name, getattr(log, name))
    monkeypatch.setattr(logging, "lastResort", None)
    foreign = logging.Logger("foreign")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        output.notes(quiet=False)
        log.warning("ours %s", text)
        foreign.warning("foreign %s", text)
        warnings.warn(f"of Python {text}\nsecond line", stacklevel=1)
    written = [f"ours {text}", f"foreign {text}", f"of Python {text}".partition("\n")[0]]
    assert terminal.err.getvalue() == "".join(f"warning: {shown(line)}\n" for line in written)


@every_kind
def test_what_a_demonstration_tells(text, terminal):
    narration.tell_step("1", "title", f"why {text}", f"stochx {text}")
    narration.tell_finding(f"found {text}", 1.0)
    assert is_text(terminal.err.getvalue()) and f"$ stochx {shown(text)}" in terminal.err.getvalue()


# Help, lists and completion -------------------------------------------------------------------------------------------

ENTRY = '''# -*- coding: utf-8 -*-
from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True)
class Odd:
    """Help \x1b[31m\x9b2J\u202e[red] :smile:.

    More \x1b]0;x\x07 of it.
    """

    entry: ClassVar[str] = "attributions:odd"

    key: Literal["a\x9b2J", "b"] = "b"  # of the key \x1b[31m\u202e
'''


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """The path of a file with an entry, which is forgotten after these tests."""
    file = tmp_path_factory.mktemp("odd") / "odd.py"
    file.write_text(ENTRY, encoding="utf-8")
    yield file
    ATTRIBUTIONS.discard(file.resolve())


@pytest.mark.parametrize(
    "words", [("list", "attributions:odd", "--format", "table"), ("list", "attributions:odd", "--json"), ("list",)]
)
def test_entries_of_a_file_in_lists(words, odd):
    done = stochx(*words, "--include", odd)
    assert done.returncode == 0 and is_text(done.stdout, "\n\t") and not done.stderr
    if "table" in words:
        assert done.stdout.startswith("Help \\x1b[31m\\x9b2J\\u202e[red] :smile:.\n\nMore \\x1b]0;x\\x07 of it.\n\n")


@pytest.mark.parametrize("fish", [True, False])
def test_entries_of_a_file_in_completions(fish, odd, monkeypatch):
    monkeypatch.setattr(complete, "ASKED_BY_FISH", fish)
    setting = next(one for one in settings_of(settings.Explain) if one.name == "method")
    for begun in ("od", "odd:", "odd:key="):
        answers = complete.completer(setting)(SimpleNamespace(params={"include": [str(odd)]}), begun)
        assert answers and is_text("".join(map("".join, answers)), "\t")


def test_defaults_of_a_file_in_help(tmp_path):
    (tmp_path / "defaults.toml").write_text('model = "\\u001b[31m\\u009b\\u202e[red]"\n', encoding="utf-8")
    done = stochx("explain", "--config", "defaults.toml", "--help", cwd=tmp_path, env={"COLUMNS": "200"})
    assert done.returncode == 0 and is_text(done.stdout) and "\\x1b[31m\\x9b\\u202e[red]" in done.stdout


# Pictures and pages ---------------------------------------------------------------------------------------------------


@every_kind
@own_style()
def test_figures_draw_it_as_it_is(text):
    figure = new_figure(3, 2)
    axis = figure.subplots()
    for drawn in (axis.set_title(as_label(text)), axis.text(0, 0, wrapped_label(text, 400))):
        assert drawn.get_text() == shown(text) and not drawn.get_parse_math()
    figure.canvas.draw()
    plt.close("all")


@every_kind
def test_legends_name_it(text):
    metric = SimpleNamespace(axis="share", higher_is_better=True)
    panel = {name: (np.arange(3.0), np.ones((2, 3))) for name in (text, "other")}
    (legend,) = scores._curve_figure({"deletion": panel}, [text, "other"], {"deletion": metric}).legends
    assert [label.get_text() for label in legend.get_texts()] == [shown(text), "other"]


def test_a_legend_names_networks_that_begin_with_an_underscore():
    steps = {"eps": [0.0, 0.1], "accuracy": [1.0, 0.5], "low": [0.9, 0.4], "high": [1.0, 0.6], "band": 0.1}
    curves = [{**steps, "norm": "l2", "n": 10, "model": name} for name in ("_hidden.pt", "other.pt")]
    (legend,) = curve._curve_figure(curves, 0.1, "0.1").legends
    assert [label.get_text() for label in legend.get_texts()] == ["_hidden.pt", "other.pt", *curve.NOTES]


@every_kind
def test_the_page_of_a_report(text):
    page = Page(title=text, made=text, sections=(), documents=[document_with(text)])
    html = render(page)
    found = Texts(html)
    assert "img" not in found.tags and html.count("<script") == render(Page("", "", ())).count("<script")
    data = html.partition('<script type="application/json" id="results">')[2].partition("</script>")[0]
    assert json.loads(data) == [document_with(text)] and shown(text) in found.text and is_text(html)


# Files ----------------------------------------------------------------------------------------------------------------


@every_kind
def test_the_files_of_a_run(text, tmp_path):
    folder, document = RunFolder(tmp_path / "run", {"data": text, "method": [text]}), document_with(text)
    folder.finish([{"image": text}], document)
    files = {path.name: path.read_text(encoding="utf-8") for path in folder.folder.iterdir()}
    assert all(map(is_text, files.values()))
    assert json.loads(files["result.json"]) == document and json.loads(files["records.jsonl"]) == {"image": text}
    kept = text.replace("\udcff", "\\udcff")  # TOML has no way to write it
    assert tomllib.loads(files["config.toml"]) == {"data": kept, "method": [kept]}
    assert read_toml(folder.folder / "config.toml", "") == {"data": kept, "method": [kept]}


# Sources --------------------------------------------------------------------------------------------------------------

BROKEN = "\x1b[31m\x9b[red]:smile:\u202e.png"


def _zip(folder):
    with zipfile.ZipFile(folder / "data.zip", "w") as archive:
        archive.writestr(f"cat/{BROKEN}", b"no image")
    load_data(f"zip:path={folder / 'data.zip'}").read(0)


def _header(folder):
    text = serialise(ClassifierHeader(arch="x", classes=("a",), mean=(0.5,), std=(0.5,)))
    parse(json.dumps(json.loads(text) | {"noise": BROKEN}), folder / BROKEN)


@pytest.mark.parametrize("source", [_zip, _header], ids=lambda source: source.__name__[1:])
def test_errors_of_files_quote_them_as_text(source, tmp_path):
    with pytest.raises(StochxError) as caught:
        source(tmp_path)
    assert is_text(str(caught.value)) and is_text(caught.value.hint) and "x1b[31m" in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        ("explain", BROKEN),
        ("explain", "a.png", f"--{BROKEN}"),
        ("info", BROKEN),
        ("info", f"{BROKEN}.safetensors"),
        ("explain", "a.png", "--seed", BROKEN),
        ("explain", "a.png", "--format", BROKEN),
        ("explain", "a.png", "-m", BROKEN),
        ("explain", "a.png", "-m", f"ig:{BROKEN}=3"),
        ("explain", "a.png", "-m", f"ig:steps={BROKEN}"),
        ("explain", "a.png", "--config", BROKEN),
        ("explain", "a.png", "--config", "keys.toml"),
        ("explain", "a.png", "--config", "values.toml"),
        ("explain", "a.png", "--include", BROKEN),
        ("explain", "--data", BROKEN),
        ("explain", "--data", f"folder:{BROKEN}=3"),
        ("attack", "net.pt", "--data", "shapes", "--eps", BROKEN),
        ("compare", BROKEN, BROKEN),
        ("report", BROKEN),
        ("card", BROKEN),
        ("list", BROKEN),
        (BROKEN,),
        ("--completion", BROKEN),
    ],
    ids=lambda words: " ".join(words).replace(BROKEN, "ODD"),
)
def test_errors_of_a_command_line_quote_it_as_text(words, tmp_path):
    (tmp_path / "keys.toml").write_text('"\\u001b[31m\\u009b" = 1\n', encoding="utf-8")
    (tmp_path / "values.toml").write_text('method = "\\u001b[31m\\u009b"\n', encoding="utf-8")
    done = stochx(*words, cwd=tmp_path)
    assert done.returncode == 2 and not done.stdout and done.stderr.startswith("error: ")
    assert is_text(done.stderr) and "\\x" in done.stderr
