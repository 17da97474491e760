"""The report: what stands in the file, that names in it are text, and that it asks for nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
import re
import zipfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from reporting import HOSTILE, embedded, hostile_runs, large_run, matched_run, reported
from support import recorded_document, refused, stochx, write_run

from stochx.errors import printable
from stochx.reports.html import ROOMS, Album, Page, Part, Run, make_section, render
from stochx.reports.html.charts import Axes, Series, line_chart, ticks
from stochx.reports.html.images import read_arrays, read_picture
from stochx.reports.html.page import as_data, jointed
from stochx.reports.html.pictures import to_uri
from stochx.reports.inputs import magnified
from stochx.settings import Report

RECORDED = [
    path.stem
    for path in sorted((ROOT / "tests" / "recorded").glob("*.json"))
    if isinstance(json.loads(path.read_text()).get("json"), dict)
    and json.loads(path.read_text())["json"].get("command") in ROOMS
]
VOID = {"meta", "img", "input", "br", "hr", "link"}


class Elements(HTMLParser):
    """The elements of a page with their attributes, its texts, and that every element is closed in order."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.texts, self.open = [], [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return hostile_runs(tmp_path_factory.mktemp("<report>"))


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "report.html"
    reported(file, *runs.values(), title="<script>alert(9)</script>")
    return file.read_text(encoding="utf-8")


def section_of(name, records=()):
    """Return the section of a recorded document."""
    document = recorded_document(name)
    run = Run(Path("some/run"), document, [Part("", Path("nowhere"), records)])
    return make_section(run, "run-1", Album(1_000_000, 10))


@pytest.mark.parametrize("name", RECORDED)
def test_every_command_with_a_report_has_a_section(name):
    section = section_of(name)
    html = render(Page("A report", "now", [section]))
    page = Elements(html)
    assert section.stats and section.about.endswith(".") and any(block.kind == "table" for block in section.blocks)
    assert section.stats[0].value in page.texts
    assert f"stochx {section.command}" in section.typed


def test_every_command_that_writes_a_run_folder_has_a_section():
    assert {recorded_document(name)["command"] for name in RECORDED} == set(ROOMS)


def test_names_are_text(page):
    elements = Elements(page)
    tags = [tag for tag, _ in elements.elements]
    assert tags.count("script") == 2 and "iframe" not in tags and "b" in tags
    for tag, attributes in elements.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert tag != "img" or attributes["src"].startswith("data:image/webp;base64,")
    text = "".join(elements.texts)
    for name in (*HOSTILE, "<script>alert(9)</script>", "<img src=x onerror=alert(3)>.png"):
        assert printable(name) in text
    assert "\u202e" not in page and "\x00" not in page


def test_names_of_folders_and_methods_are_escaped_in_charts(page):
    (labels,) = re.findall(r"<text class=\"label\"[^>]*>pgd:steps=2", page)[:1]
    assert labels
    title = '"><svg onload=alert(1)>'
    chart = line_chart(title, title, Axes(title, title), [Series(title, [(0, 0), (1, 1)], marks=True)])
    assert "<svg onload" not in chart.svg and "&lt;svg onload" in chart.svg


def test_the_documents_stand_in_the_page_as_they_are(page, runs):
    documents = [json.loads((run / "result.json").read_text(encoding="utf-8")) for run in runs.values()]
    assert embedded(page) == documents


def test_json_cannot_close_its_element():
    text = as_data([{"name": "</script><!--<script>&\u2028"}])
    assert "<" not in text and "&" not in text and "\u2028" not in text
    assert json.loads(text) == [{"name": "</script><!--<script>&\u2028"}]


def test_labels_break_at_their_joints_and_nothing_in_them_is_markup():
    assert jointed("pgd:steps=20,eot=4") == "pgd:<wbr>steps=20,<wbr>eot=4"
    assert jointed("<b>:\0") == "&lt;b&gt;:<wbr>" + printable("\0")


def test_only_the_script_of_the_report_may_run(page):
    (policy,) = (a["content"] for tag, a in Elements(page).elements if a.get("http-equiv") == "Content-Security-Policy")
    script = page.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; img-src data:;") and f"script-src 'sha256-{digest}'" in policy


def test_nothing_is_loaded_from_elsewhere(page):
    for tag, attributes in Elements(page).elements:
        for name in {"src", "href", "action", "data", "poster", "srcset"} & attributes.keys():
            assert attributes[name].startswith(("data:image/", "#")), (tag, attributes)
    assert "url(" not in page and "@import" not in page


def test_pictures_have_texts_and_headings_are_in_order(page):
    elements = Elements(page).elements
    assert all("alt" in attributes for tag, attributes in elements if tag == "img")
    assert dict(elements)["html"] == {"lang": "en"}
    levels = [int(tag[1]) for tag, _ in elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(after - before <= 1 for before, after in itertools.pairwise(levels))
    drawings = re.findall(r'<svg class="(?:plot|plane)" role="img"[^>]*>(<title>[^<]+</title>)?', page)
    assert drawings and all(drawings)


def test_attacked_images_stand_beside_their_originals(page, runs):
    assert len(list((runs["attack"] / "examples").glob("*.webp"))) == 6
    assert page.count('<bdi class="what">attacked</bdi>') == 6
    strip = read_picture(next((runs["attack"] / "examples").iterdir()))
    assert strip.shape == (32, 96, 3)


def test_magnified_changes_lie_around_grey():
    import torch

    change = torch.tensor([-0.02, 0.0, 0.01])
    assert torch.allclose(magnified(change), torch.tensor([0.0, 0.5, 0.75]))
    assert torch.equal(magnified(torch.zeros(2)), torch.full((2,), 0.5))


def test_the_report_lies_in_the_folder_of_a_single_run(runs, tmp_path):
    done = stochx("report", runs["explain"], "--json")
    (row,) = json.loads(done.stdout)["results"]
    assert done.returncode == 0 and row["report"] == str(runs["explain"] / "report.html")
    assert row["megabytes"] * 1e6 == (runs["explain"] / "report.html").stat().st_size
    both = stochx("report", runs["explain"], runs["score"], cwd=tmp_path)
    assert both.stdout.splitlines()[1].split("\t")[:2] == ["report.html", "2"] and (tmp_path / "report.html").exists()


def test_a_folder_of_runs_is_all_of_them(runs, tmp_path):
    row = reported(tmp_path / "all.html", runs["attack"].parent)
    assert row["runs"] == len(runs)


def test_a_run_is_reported_once_however_it_is_named(runs, tmp_path, monkeypatch):
    folder = runs["attack"]
    monkeypatch.chdir(folder.parent)
    row = reported(tmp_path / "a.html", folder, Path(folder.name), folder / "result.json")
    assert row["runs"] == 1


def test_runs_have_the_names_that_tell_them_apart(tmp_path, monkeypatch):
    document = recorded_document("train")
    runs = [write_run(tmp_path / name / "train", document, []) for name in ("old", "new")]
    reported(tmp_path / "a.html", *runs)
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert page.count("<bdi>old/train</bdi>") >= 2 and "<bdi>old/train and new/train</bdi>" in page
    monkeypatch.chdir(runs[0])
    reported(tmp_path / "b.html", Path())
    assert "<title>Report of train</title>" in (tmp_path / "b.html").read_text(encoding="utf-8")


def test_a_folder_of_other_runs_alone_is_refused(tmp_path):
    write_run(tmp_path / "info", recorded_document("info"), [])
    refused(lambda: reported(tmp_path / "a.html", tmp_path), "holds no run that has a report", "score")


def test_images_beyond_the_limit_are_counted(tmp_path):
    run = large_run(tmp_path / "run", 5)
    assert reported(tmp_path / "a.html", run) | {"megabytes": 0, "report": ""} == {
        "report": "",
        "runs": 1,
        "images": 5,
        "left_out": 0,
        "megabytes": 0,
    }
    row = reported(tmp_path / "a.html", run, limit=2)
    assert (row["images"], row["left_out"]) == (2, 3)
    assert "2 of 5 images are shown: `--limit` is 2." in (tmp_path / "a.html").read_text()


def test_pictures_keep_to_their_room():
    noise = np.random.default_rng(0).integers(0, 255, (300, 200, 3), dtype=np.uint8)
    size = len(to_uri(noise))
    album = Album(int(2.5 * size), 10)
    taken = [album.take([noise]) for _ in range(4)]
    assert [uris is not None for uris in taken] == [True, True, False, False]
    assert (album.shown, album.left_out, album.why) == (2, 2, "there is no room for more in this file")


def test_many_large_pictures_are_made_smaller():
    picture = np.zeros((300, 300, 3), dtype=np.uint8)
    sides = []
    for images in (50, 200):
        (uri,) = Album(10_000_000, 200, images).take([picture])
        with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
            sides.append(image.size)
    assert sides == [(224, 224), (160, 160)]


def test_missing_and_damaged_pictures_leave_the_rest(tmp_path):
    run = large_run(tmp_path / "run", 3)
    (run / "i0.input.png").unlink()
    (run / "i1.gradient.npz").write_bytes(b"PK damaged")
    (run / "i2.gradient.npz").unlink()
    (run / "i2.sobel.npz").unlink()
    row = reported(tmp_path / "a.html", run)
    assert (row["images"], row["left_out"]) == (2, 1)
    assert "2 of 3 images are shown: the files of the others are missing." in (tmp_path / "a.html").read_text()
    assert read_arrays(run / "i1.gradient.npz") is None and read_picture(run / "none.png") is None


def test_arrays_that_unpack_to_more_than_memory_are_not_shown(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as file, file.open("map.npy", "w") as member:
        for _ in range(9):
            member.write(bytes(2**26))
    assert read_arrays(tmp_path / "a.npz") is None


def test_records_name_no_files_elsewhere(tmp_path):
    run = large_run(tmp_path / "run", 1)
    (run / "i0.sobel.npz").rename(tmp_path / "secret.npz")
    lines = (run / "records.jsonl").read_text().replace("i0.sobel.npz", "../secret.npz")
    (run / "records.jsonl").write_text(lines)
    reported(tmp_path / "a.html", run)
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert 'alt="map of i0.png by gradient' in page and 'alt="map of i0.png by sobel' not in page


def test_a_document_without_what_a_report_shows_is_refused(tmp_path):
    document = recorded_document("attack")
    del document["threat"]
    folder = write_run(tmp_path / "run", document)
    refused(lambda: reported(tmp_path / "a.html", folder), "lacks what a report of `attack` shows: 'threat'", "again")


def test_a_row_that_a_section_looks_for_and_lacks_is_one_error(tmp_path, monkeypatch):
    line, square = np.linspace(-1, 1, 4), np.zeros((4, 4))
    pixels = {"origin": np.zeros((3, 4, 4)), "axes": np.zeros((2, 3, 4, 4)), "marks": np.zeros((1, 2))}
    arrays = {"a": line, "b": line, "labels": square.astype(int), "confidence": square, **pixels}
    monkeypatch.setattr("stochx.reports.html.boundary.read_arrays", lambda path: arrays)
    document = recorded_document("boundary")
    document["planes"][0]["name"] = "other"
    folder = write_run(tmp_path / "run", document)
    refused(lambda: reported(tmp_path / "a.html", folder), "lacks what a report of `boundary` shows", "again")


def test_wrong_usage_is_refused(runs, tmp_path):
    refused(lambda: reported(tmp_path / "a.html", tmp_path / "none"), "none` does not exist")
    refused(lambda: Report(runs=(tmp_path, tmp_path)), "is given twice")
    refused(lambda: Report(runs=(tmp_path,), output="result.json"), "is not an HTML file", "`.html`")
    assert stochx("report").returncode == 2


def test_ticks_are_round_numbers_between_the_ends():
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert ticks(0.013, 0.031) == [0.015, 0.02, 0.025, 0.03]
    assert ticks(-3, 7, 5) == [-2, 0, 2, 4, 6]
    assert ticks(2, 2) == [2]


def test_a_step_keeps_its_value_up_to_the_next_point():
    chart = line_chart("t", "c", Axes("x", "y", share=True), [Series("s", [(0, 1), (1, 0.5), (2, 0)], step=True)])
    (path,) = re.findall(r'class="line" d="M([^"]+)"', chart.svg)
    points = [tuple(map(float, point.split())) for point in path.split("L")]
    assert [y for _, y in points] == [points[0][1], points[0][1], points[2][1], points[2][1], points[4][1]]
    assert [x for x, _ in points][1] == points[2][0] and len(points) == 5
    assert len({y for _, y in points}) == 3


def test_filters_count_what_became_of_the_images():
    rows = [
        {"index": k, "image": f"{k}.png", "label": 0, "clean": clean, "prediction": 0, "margin": 1.0, "worst": worst,
         "worst_attack": "fgsm", "attacks": {"fgsm": {"correct": worst, "prediction": 1, "linf": 0.1}}}
        for k, (clean, worst) in enumerate([(1, 1), (1, 0), (0, 0), (1, 0.4), (1, 0.6)])
    ]  # fmt: skip
    section = section_of("attack", rows)
    assert section.filters == [("right", 2), ("wrong", 1), ("fooled", 2)]
    assert replace(section, blocks=()).blends is False


def chart_points(section, title):
    """Return the points of the line of a chart with one line, as they are drawn."""
    (chart,) = (block for block in section.blocks if block.kind == "chart" and block.title == title)
    (path,) = re.findall(r'class="line" d="M([^"]+)"', chart.svg)
    return [tuple(map(float, point.split())) for point in path.split("L")]


def test_certified_accuracy_falls_where_a_certificate_ends():
    rows = [
        {"index": k, "image": f"{k}.png", "label": 0, "prediction": prediction, "radius": radius, "p": 0.9,
         "abstained": radius == 0}
        for k, (prediction, radius) in enumerate([(0, 0.2), (0, 0.4), (1, 0.3), (0, 0.0)])
    ]  # fmt: skip
    section = section_of("certify", rows)
    heights = sorted({y for _, y in chart_points(section, "Certified accuracy")})
    assert len(heights) == 3  # of 4 images two are right and certified, then one, then none
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1])
    assert section.filters == [("right", 2), ("wrong", 1), ("abstained", 1)]


def test_trainings_show_their_epochs():
    rows = [{"epoch": k, "loss": 3.0 - k, "accuracy": k / 4, "images_per_second": 9} for k in (1, 2, 3)]
    section = section_of("train", rows)
    loss, accuracy = (chart_points(section, title) for title in ("Loss", "Accuracy"))
    assert [y for _, y in loss] == sorted(y for _, y in loss) and len(loss) == 3  # y points down
    assert [y for _, y in accuracy] == sorted((y for _, y in accuracy), reverse=True)


def test_queries_stand_beside_the_support(tmp_path):
    run, rows = matched_run(tmp_path / "run")
    assert reported(tmp_path / "a.html", run)["images"] == 1
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    likeliest = max(rows, key=lambda row: row["probability"])["class_name"]
    notes = re.findall(r'<bdi class="said">support: (.*?)</bdi>', page)
    assert len(notes) == len(rows) and notes[0] == likeliest
    (run / "support.png").unlink()
    reported(tmp_path / "a.html", run)
    assert "support: " not in (tmp_path / "a.html").read_text(encoding="utf-8")


def test_two_runs_of_a_command_are_compared(tmp_path):
    rows = [
        {"index": k, "image": f"{k}.png", "label": 0, "clean": 1.0, "prediction": 0, "margin": 1.0, "vote": True,
         "off": None, "worst": float(k < 3), "worst_attack": "fgsm", "seconds": {},
         "attacks": {name: {"correct": float(k < 3), "prediction": 1, "linf": 0.1} for name in ("fgsm", "pgd:steps=2")}}
        for k in range(12)
    ]  # fmt: skip
    other = [row | {"worst": float(row["index"] < 8)} for row in rows]
    document = recorded_document("attack")
    runs = [write_run(tmp_path / name, document, records) for name, records in (("old", rows), ("new", other))]
    reported(tmp_path / "a.html", *runs)
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    Elements(page)
    assert "Two runs of attack, compared paired over 12 images: new minus old." in page
    assert "Images whose outcome changed: 5 of 12" in page and page.count('href="#comparison-attack"') == 2
    reported(tmp_path / "b.html", *runs, write_run(tmp_path / "third", document, rows))
    assert "compared paired" not in (tmp_path / "b.html").read_text(encoding="utf-8")


def test_failed_images_stand_in_a_table(tmp_path):
    document = recorded_document("explain")
    document["failed"] = [{"image": "<i>bad.png", "error": "is damaged", "hint": "mend it"}]
    reported(tmp_path / "a.html", write_run(tmp_path / "run", document))
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    texts = Elements(page).texts
    assert {"<i>bad.png", "is damaged", "mend it"} <= {*texts} and "Failed images" in page
    assert re.search(r'data-tag="failed".*?<small>1</small>', page)
    assert "1 image could not be used: is damaged" in texts


def test_a_failed_check_stands_beside_the_number():
    document = recorded_document("attack")
    notes = []
    for verdict in ("ok", "fail"):
        document["checks"] = [{"verdict": verdict, "text": "t", "advice": "a", "name": "n", "value": 1}]
        run = Run(Path("some/run"), document, [Part("", Path("nowhere"), [])])
        notes.append(make_section(run, "run-1", Album(1, 1)).stats[0].note)
    assert notes[1] == f"{notes[0]}; a check failed: an upper bound at best"
