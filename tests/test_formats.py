"""`--format`: Markdown and JUnit say what the table says, names are text in all of them; GitHub gets a summary."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt
from recorded.cases import PRINTS, RUNS
from support import recorded_document, stochx

from stochx import settings
from stochx.cli.summary import ROOM, append_summary
from stochx.settings.argv import recorded_line
from stochx.tables import view_of
from stochx.tables.junit import to_junit
from stochx.tables.markdown import to_markdown

RECORDED = [name for name in (*RUNS, *PRINTS) if not name.startswith("list")]
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "a|b",
    "a\\|b",
    "`code`",
    "**bold** _it_ ~~no~~",
    "[link](http://x.y) ![i](u)",
    "https://x.y www.x.y",
    "line\nbreak\ttab",
    "\x1b[31mred\x00",
    "n\udcff\uffff",
    "&lt;&amp;",
    "]]>",
    "-->",
    " padded ",
    "$x$",
)


class Texts(HTMLParser):
    """Collects the cells of tables, the items of lists, and all tags."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.cells, self.items = set(), [], []
        self.inside = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag in ("td", "th", "li"):
            self.inside = self.items if tag == "li" else self.cells
            self.inside.append("")
        elif tag == "br" and self.inside:
            self.inside[-1] += "\n"

    def handle_endtag(self, tag):
        if tag in ("td", "th", "li"):
            self.inside = []

    def handle_data(self, data):
        if self.inside:
            self.inside[-1] += data


def rendered(markdown):
    return Texts(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown))


def cases(document):
    """Return the suite and its cases of a document as JUnit XML, checked as Jenkins' schema junit-10 asks for."""
    root = ElementTree.fromstring(to_junit(document, view_of(document["command"])))
    (suite,) = root
    assert (root.tag, suite.tag, suite[0].tag) == ("testsuites", "testsuite", "properties")
    assert {"name", "tests", "failures", "errors"} <= suite.attrib.keys()
    assert all(re.fullmatch(r"\d+\.\d{3}", element.get("time")) for element in (root, suite, *suite[1:]))
    assert all(element.keys() == ["name", "value"] for element in suite[0])
    for case in suite[1:]:
        assert case.tag == "testcase" and case.keys() == ["name", "classname", "time"] and case.get("name")
        tags = [part.tag for part in case]
        assert tags in ([], ["system-out"], ["failure"], ["error"], ["failure", "system-out"], ["error", "system-out"])
    assert suite.get("tests") == str(len(suite) - 1)
    for outcome in ("failure", "error"):
        assert suite.get(f"{outcome}s") == root.get(f"{outcome}s") == str(len(suite.findall(f"*/{outcome}")))
    return suite, {(case.get("classname"), case.get("name")): case for case in suite[1:]}


# Markdown -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECORDED)
def test_markdown_holds_the_cells_of_the_table_and_the_remarks(name):
    document = recorded_document(name)
    view = view_of(document["command"])
    page = rendered(to_markdown(document, view))
    rows, columns = view.folded(document["results"])
    columns = [column for column in columns if any(column.cell(row) for row in rows)]
    assert page.cells == [column.name for column in columns] + [column.cell(row) for row in rows for column in columns]
    remarks = [remark for remark in view.remarks(document) if remark.label]
    assert len(page.items) == len(remarks) + len(document.get("failed", []))


@pytest.mark.parametrize("text", HOSTILE)
def test_names_are_text_in_markdown(text):
    document = recorded_document("explain")
    document["results"][0] |= {"image": text, "class_name": text}
    document["failed"] = [{"image": text, "error": f"cannot read `{text}`", "hint": f"mind {text}"}]
    page = rendered(to_markdown(document, view_of("explain")))
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    assert page.tags <= {"table", "thead", "tbody", "tr", "th", "td", "code", "ul", "li", "strong", "br", "p"}
    assert page.cells.count(shown.strip()) == 2
    item = f"error: cannot read {shown}\nmind {shown}"
    assert page.items[0].replace("`", "").rstrip() == item.replace("`", "").rstrip()


def test_columns_without_a_text_are_left_out_of_markdown():
    document = recorded_document("explain")
    assert "| sigma |" not in to_markdown(document, view_of("explain"))
    document["results"][0]["sigma"] = 0.5
    assert "| sigma |" in to_markdown(document, view_of("explain"))


def test_a_markdown_table_of_some_lines_says_how_many_it_lacks():
    document = recorded_document("explain")
    text, rows = to_markdown(document, view_of("explain"), most=2), len(document["results"])
    assert text.count("\n| ") == 3 and f"\n{rows - 2} of {rows} lines are left out" in text


# JUnit ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECORDED)
def test_junit_has_a_case_for_every_row(name):
    document = recorded_document(name)
    _, found = cases(document)
    rows = [case for (group, _), case in found.items() if group.endswith(".results")]
    assert len(rows) == len(document["results"]) and all(case.find("system-out").text for case in rows)


def test_junit_fails_for_missed_gates_and_failed_checks_and_has_errors_of_images():
    document = recorded_document("attack")
    check = {"text": "t", "advice": "do this", "value": None}
    document["checks"] = [check | {"name": verdict, "verdict": verdict} for verdict in ("ok", "warn", "fail")]
    document["args"]["fail_under"] = "0.9"
    document["gate"] = {"on": "point", "eps": 0.1, "bound": 0.9, "value": 0.5, "missed": True}
    document["failed"] = [{"image": "a.png", "error": "cannot read `a.png`", "hint": "mend it"}]
    suite, found = cases(document)
    assert (suite.get("failures"), suite.get("errors")) == ("2", "1")
    assert "is below 0.9" in found["stochx.attack.gates", "--fail-under 0.9"].find("failure").get("message")
    assert found["stochx.attack.checks", "fail"].find("failure").text == "t: do this"
    assert found["stochx.attack.checks", "warn"].find("system-out").text == "warn: t: do this"
    assert found["stochx.attack.images", "a.png"].find("error").get("message") == "cannot read `a.png`"
    document["gate"]["missed"] = False
    assert cases(document)[0].get("failures") == "1"


@pytest.mark.parametrize("text", HOSTILE)
def test_names_are_text_in_junit(text):
    document = recorded_document("explain")
    document["results"][0]["image"] = text
    document["failed"] = [{"image": text, "error": text, "hint": text}]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    _, found = cases(document)
    assert found["stochx.explain.images", shown].find("error").text == shown
    assert any(name.startswith(f"{shown}, ") for group, name in found if group.endswith("results"))


def test_a_label_holds_what_differs():
    rows = recorded_document("attack-eps")["results"]
    assert view_of("attack").labels(rows) == [f"{row['typed']}" for row in rows]
    assert view_of("attack").labels(rows[:1]) == [rows[0]["attack"]]
    assert view_of("compare").labels([{"label": "", "measure": "clean"}, {"label": "pgd", "measure": "robust"}]) == [
        "clean",
        "pgd, robust",
    ]


# The option -----------------------------------------------------------------------------------------------------------


def test_a_command_writes_every_format(place):
    outputs = {form: stochx("info", "net.safetensors", "--format", form, cwd=place) for form in FORMATS}
    assert not [done.stderr for done in outputs.values() if done.returncode or done.stderr]
    for form, start in FORMATS.items():
        assert outputs[form].stdout.startswith(start)
    assert outputs["tsv"].stdout == stochx("info", "net.safetensors", cwd=place).stdout
    as_json = [json.loads(stochx("info", "net.safetensors", *a, cwd=place).stdout) for a in (["--json"], BOTH)]
    assert as_json[0]["results"] == as_json[1]["results"] == json.loads(outputs["json"].stdout)["results"]


FORMATS = {"table": "what  ", "markdown": "| what |", "json": '{"schema"', "tsv": "what\tvalue", "junit": "<?xml"}
BOTH = ["--json", "--format", "json"]


@pytest.mark.parametrize(
    ("words", "env", "start"),
    [
        (["--format", "tsv", "--config", "json.toml"], {}, "what\t"),
        (["--config", "json.toml"], {"STOCHX_INFO_FORMAT": "tsv"}, "what\t"),
        (["--json"], {"STOCHX_INFO_FORMAT": "tsv"}, "{"),
        (["--json", "--config", "format.toml"], {}, "{"),
        (["--config", "format.toml"], {}, "| what"),
    ],
)
def test_a_flag_wins_over_a_variable_and_that_over_a_file(words, env, start, place):
    (place / "json.toml").write_text("json = true\n")
    (place / "format.toml").write_text('format = "markdown"\n')
    done = stochx("info", "net.safetensors", *words, cwd=place, env=env)
    assert done.stdout.startswith(start), done.stderr


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--json", "--format", "tsv"], "`--json` and `--format tsv` do not go together"),
        (["--format", "jsn"], "`--format jsn` is unknown\nhint: did you mean `json`?"),
        (["--config", "three.toml"], "`--format 3` is unknown"),
    ],
)
def test_a_format_that_cannot_be_is_one_error(words, error, place):
    (place / "three.toml").write_text("format = 3\n")
    done = stochx("info", "net.safetensors", *words, cwd=place)
    assert done.returncode == 2 and error in done.stderr and not done.stdout


# The summary of a job -------------------------------------------------------------------------------------------------


def test_every_command_appends_to_the_summary_of_a_job(place, tmp_path):
    env = {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
    for _ in range(2):
        assert stochx("info", "net.safetensors", "--json", cwd=place, env=env).returncode == 0
    text = (tmp_path / "summary.md").read_text()
    assert text.count("### stochx info\n\n`stochx info net.safetensors`\n\n| what | value | source |") == 2


def test_a_summary_that_cannot_be_written_is_a_warning(place, tmp_path):
    done = stochx("info", "net.safetensors", cwd=place, env={"GITHUB_STEP_SUMMARY": str(tmp_path)})
    assert done.returncode == 0 and done.stderr.startswith("warning: cannot write the summary")
    assert done.stdout.startswith("what\t")


def test_a_summary_is_no_longer_than_github_takes(tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    document = recorded_document("explain")
    document["results"] = [document["results"][0] | {"image": f"{k:04d}" + 3000 * "x"} for k in range(2000)]
    sizes = []
    for _ in range(4):
        append_summary(document, view_of("explain"))
        sizes.append((tmp_path / "summary.md").stat().st_size)
    assert ROOM * 0.4 < sizes[0] < sizes[1] <= sizes[-1] <= ROOM
    assert "lines are left out" in (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize("name", RUNS)
def test_the_typed_command_runs_the_same_settings(name):
    document = recorded_document(name)
    words = recorded_line(document["command"], document["args"])
    done = stochx(*shell_words(words), "--output", "x", "--config", "no.toml")
    assert done.returncode == 2 and "no such file: `no.toml`" in done.stderr, "every option is one of the command's"
    cls = getattr(settings, settings.COMMANDS[document["command"]])
    given = {key: tuple(v) if isinstance(v, list) else v for key, v in document["args"].items() if v != []}
    made = cls(**given)
    assert recorded_line(document["command"], made.recorded()) == words


def shell_words(line):
    import shlex

    command, *words = shlex.split(line)
    assert command == "stochx"
    return words
