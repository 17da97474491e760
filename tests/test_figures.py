"""Figures: texts as typed, one style and one colour a class, grids that wrap, labels that do not overlap."""

from __future__ import annotations

import itertools
import logging
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.text import Text
from PIL import Image

import stochx
from stochx.attributions import IntegratedGradients, SmoothGrad, SmoothTaylor, is_signed
from stochx.reports import attacks, explanation, fonts, scores, training
from stochx.reports.colours import colours_of
from stochx.reports.figure import as_label, new_figure, own_style, save_figure, wrapped_label
from stochx.reports.maps import map_file
from stochx.reports.palette import COLOURS
from stochx.settings.base import settings_of
from stochx.settings.figures import Look
from stochx.tasks.attack import Attacked, AttackRecord, Outcome
from stochx.tasks.explain import Explained, ExplanationRow

CLASSES = ["cat", "dog", "owl"]


def explained(methods, classes=CLASSES, target=0, **more):
    """Return an explained image, its maps random."""
    maps = {m: torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0)) for m in methods}
    rows = [
        ExplanationRow(
            0,
            "a.png",
            m,
            target,
            classes[target],
            0.7,
            2.0,
            *[None] * 9,
            seconds=0.1,
            predicted=classes[target],
            true=None,
        )
        for m in methods
    ]
    return Explained(0, "a.png", torch.rand(3, 8, 8), torch.tensor([0.7, 0.2, 0.1]), maps, rows, **more)


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


@pytest.fixture
def base_font_alone(monkeypatch):
    """A machine without other fonts than matplotlib's own."""
    fonts.fonts_for.cache_clear()
    own = [font for font in font_manager.fontManager.ttflist if font.name == fonts.BASE]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    yield
    fonts.fonts_for.cache_clear()


# Style ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting",
    [
        {"text.usetex": True},
        {"savefig.bbox": "tight"},
        {"font.family": ["no such font"]},
        {"figure.facecolor": "black"},
        {"savefig.dpi": 20},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_no_matplotlibrc_changes_a_figure(setting, tmp_path):
    explanation.draw_explanation(tmp_path / "plain.png", explained(["ig"]), CLASSES)
    with matplotlib.rc_context(setting):
        explanation.draw_explanation(tmp_path / "set.png", explained(["ig"]), CLASSES)
        assert all(matplotlib.rcParams[key] == value for key, value in setting.items()), "the user's own stay"
    with Image.open(tmp_path / "plain.png") as one, Image.open(tmp_path / "set.png") as two:
        assert one.size == two.size


def test_figures_are_drawn_with_a_wrong_backend_and_tex(place, tmp_path):
    for name in ("net.safetensors", "a.png"):
        shutil.copy(place / name, tmp_path)
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    done = subprocess.run(
        [sys.executable, "-m", "stochx", "explain", "a.png", "-m", "gradient", "--model", "net.safetensors"],
        cwd=tmp_path,
        env=os.environ | {"MPLBACKEND": "nonsense"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "stochx-out/explain/a.explained.png").exists()


def test_a_dollar_is_a_dollar(tmp_path):
    classes = ["$\\frac{a}", "a$b$c", "owl"]
    figure = explanation.make_figure(explained(["from:$x^{$"], classes), classes)
    save_figure(tmp_path / "a.png", figure)
    assert {"from:$x^{$", "a$b$c", "predicted: $\\frac{a} (p = 0.700)"} <= {*texts(figure)}


# Letters --------------------------------------------------------------------------------------------------------------


def test_control_characters_are_shown_as_codes(caplog):
    assert as_label("\x1b[31mcat\u202e") == "\\x1b[31mcat\\u202e" and not caplog.messages


def test_letters_without_a_font_are_shown_as_codes_with_one_warning(base_font_alone, tmp_path, caplog, recwarn):
    classes = ["猫", "狗", "owl"]
    with caplog.at_level(logging.WARNING, "stochx"):
        explanation.draw_explanation(tmp_path / "a.png", explained(["ig"], classes), classes)
    assert "predicted: \\u732b (p = 0.700)" in texts(explanation.make_figure(explained(["ig"], classes), classes))
    assert len({*caplog.messages}) == 1 and "no installed font has some letters" in caplog.messages[0]
    assert not recwarn.list, "nothing with a source path"


@pytest.mark.parametrize("name", ["قطة", "😀", "Käse", "кошка"])
def test_names_that_the_base_font_has_are_drawn_without_a_word(name, tmp_path, caplog):
    with own_style():
        figure = new_figure(2, 2)
        figure.suptitle(as_label(name))
    save_figure(tmp_path / "a.png", figure)
    assert texts(figure) == [name] and not caplog.messages


def make_font(path, letters):
    """Write a font that has these letters alone, each a square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 800), (800, 800), (800, 0)):
        pen.lineTo(corner)
    pen.closePath()
    names = [".notdef", *(f"u{ord(letter):x}" for letter in letters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): name for letter, name in zip(letters, names[1:], strict=True)})
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Few Letters", "styleName": "Regular"})
    builder.setupOS2(usWeightClass=400)
    builder.setupPost()
    builder.save(path)


def test_a_name_is_drawn_with_an_installed_font_that_has_its_letters(base_font_alone, tmp_path, caplog):
    make_font(tmp_path / "few.ttf", "猫狗")
    font_manager.fontManager.addfont(tmp_path / "few.ttf")
    with own_style():
        figure = new_figure(2, 2)
        title = figure.suptitle(as_label("cat 猫"))
    save_figure(tmp_path / "a.png", figure)
    assert title.get_text() == "cat 猫" and title.get_fontfamily() == ["DejaVu Sans", "Few Letters"]
    assert not caplog.messages


# Explanations ---------------------------------------------------------------------------------------------------------


def overlapping(figure):
    """Return pairs of texts whose boxes intersect."""
    with own_style():
        figure.draw_without_rendering()
    visible = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in visible if text.axes is None or drawn(text.axes)]
    return [(a, b) for (a, one), (b, two) in itertools.combinations(boxes, 2) if one.overlaps(two)]


def drawn(axis):
    return axis.get_visible() and axis.axison


@pytest.mark.parametrize("count", [1, 4, 10])
def test_methods_wrap_into_a_grid_whose_texts_keep_apart(count):
    methods = [f"smoothtaylor:sigma=0.{n}25,roots=1500,unit=range" for n in range(count)]
    classes = ["black-and-tan coonhound of the northern woods", "a" * 60, "owl"]
    figure = explanation.make_figure(explained(methods, classes, true="b" * 60), classes)
    assert figure.get_figwidth() < 14 and not overlapping(figure)
    labels = [axis.get_ylabel() for axis in figure.axes if drawn(axis)]
    assert labels.count("map") == labels.count("map on the image") == -(-(count + 1) // 5)


@pytest.mark.parametrize("methods", [["ig"], ["ig", "smoothgrad"]])
def test_a_map_stands_above_the_same_map_on_the_image(methods):
    figure = explanation.make_figure(explained(methods), CLASSES)
    figure.draw_without_rendering()
    above, below = (
        next(axis.get_position() for axis in figure.axes if axis.get_ylabel() == label)
        for label in ("map", "map on the image")
    )
    assert (above.x0, above.x1) == pytest.approx((below.x0, below.x1), abs=1e-3)


def test_a_figure_names_the_true_the_predicted_and_the_explained_class():
    assert "true: owl    predicted: cat (p = 0.700)" in texts(
        explanation.make_figure(explained(["ig"], true="owl"), CLASSES)
    )
    other = texts(explanation.make_figure(explained(["ig"], target=1), CLASSES))
    assert "predicted: cat (p = 0.700)    explained: dog (p = 0.700)" in other


def test_bars_have_the_colours_of_their_classes():
    figure = explanation.make_figure(explained(["ig"]), CLASSES)
    (bars,) = (axis.patches for axis in figure.axes if axis.get_xlabel() == "probability")
    assert [matplotlib.colors.to_hex(bar.get_facecolor()).upper() for bar in bars] == [*COLOURS[:3]]


def test_a_map_whose_sign_is_no_evidence_is_drawn_by_its_strength():
    assert not is_signed(SmoothTaylor()) and not is_signed(SmoothGrad(form="squared"))
    assert is_signed(SmoothGrad()) and is_signed(IntegratedGradients())
    values = np.array([[-1.0, 0.0, 1.0]])
    left, middle, right = colours_of(values, 1.0, signed=False)[0]
    assert (left == right).all() and middle.min() > 0.9 > right.max()
    words = texts(explanation.make_figure(explained(["smoothtaylor"], unsigned=frozenset({"smoothtaylor"})), CLASSES))
    assert "|relevance|" in words and any("the sign of the map is no evidence" in text for text in words)
    assert "relevance" in texts(explanation.make_figure(explained(["ig"]), CLASSES))


def test_doubtful_numbers_are_red():
    few = explained(["ig"])
    noisy = replace(few, rows=[replace(few.rows[0], error=0.83, used=150)])
    figure = explanation.make_figure(noisy, CLASSES)
    (label,) = [t for t in figure.findobj(Text) if t.get_text() == "Monte-Carlo error 0.83, n = 150"]
    assert label.get_color() == "#B2182B"


def test_what_is_known_of_a_map_does_not_reach_its_neighbours():
    methods = ["expected-gradients", "smoothtaylor", "ig", "lrp"]
    all_known = explained(methods)
    rows = [replace(row, error=0.0512, used=1500, gap=-12.34, logit=123.4) for row in all_known.rows]
    figure = explanation.make_figure(replace(all_known, rows=rows), CLASSES)
    figure.draw_without_rendering()
    said = [t for t in figure.findobj(Text) if t.get_text().startswith("Monte-Carlo error")]
    assert {t.get_text() for t in said} == {"Monte-Carlo error 0.05, n = 1500\ngap -12.34 of logit 123.4"}
    spans = sorted((box.x0, box.x1) for box in (t.get_window_extent() for t in said))
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(spans))


# Other commands -------------------------------------------------------------------------------------------------------


def sweep_rows(points):
    return [
        {"eps": eps, "typed": typed, "degree": None, "norm": "linf", "attack": "fgsm", "n": 9, "success": 0.5}
        | dict.fromkeys(("clean", "clean_low", "clean_high", "robust", "low", "high"), 0.5)
        for eps, typed in points
    ]


def test_radii_stand_on_the_axis_as_they_were_typed():
    points = [(k / 255, f"{k}/255") for k in (1, 2, 4, 8, 16, 64)]
    figure = attacks._sweep_figure(sweep_rows(points), "")
    ticks = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert ticks[-1] == "64/255" and len(ticks) > 2 and {*ticks} <= {typed for _, typed in points}
    assert not overlapping(figure)
    assert figure.axes[0].get_xlabel() == "radius eps (linf, pixels in [0, 1])"


def test_examples_name_the_true_and_the_predicted_class():
    x = torch.zeros(1, 3, 4, 4)
    outcome = Outcome(0.0, 0.0, False, None, 2, -1.0, 0.1, 0.7, 1, 0, 3, 3)
    record = AttackRecord(0, "a", 0, 1.0, True, None, 0, 1.0, {"fgsm": outcome}, 0.0, "fgsm")
    words = texts(attacks._example_figure(Attacked(x, {"fgsm": x + 0.1}, [record]), CLASSES))
    assert "true: cat\npredicted: cat" in words and "predicted: owl" in words and "× 5" in words


def test_axes_of_curves_have_names():
    class Metric:
        axis, higher_is_better, read = "share of pixels removed", False, "probability"

    curves = {"deletion": {"ig": (np.array([0.0, 1.0]), np.array([[1.0, 0.0], [0.9, 0.1], [0.8, 0.2]]))}}
    (axis,) = scores._curve_figure(curves, ["ig"], {"deletion": Metric()}).axes
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("share of pixels removed  (lower is better)", "probability")
    rows = [{"epoch": 1, "loss": 2.0, "accuracy": 0.5}]
    left, right = training._make_figure(rows, None, False).axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("training loss", "accuracy")


@pytest.mark.parametrize("count", [1, 2, 3, 30])
def test_epochs_on_the_axis_are_whole(count):
    rows = [{"epoch": k + 1, "loss": 2.0, "accuracy": 0.5} for k in range(count)]
    for axis in training._make_figure(rows, None, False).axes:
        low, high = axis.get_xlim()
        ticks = [tick for tick in axis.get_xticks() if low <= tick <= high]
        assert ticks and all(tick == int(tick) for tick in ticks)


# Formats --------------------------------------------------------------------------------------------------------------


NASTY = "<script>alert('$x^{$')</script> & \x1b[31m"


def hatched():
    """Return a figure of everything that the formats treat in ways of their own: parts, clips, hatches, images."""
    with own_style():
        figure = new_figure(4, 2)
        left, right = figure.subfigures(1, 2)
        axis = left.subplots()
        axis.contourf([[0, 1], [2, 3]], levels=[0.5, 4], colors="none", hatches=["..."])
        axis.plot([0, 1], [0, 1], "o-", label=NASTY[:30])
        axis.set_title(as_label(NASTY))
        right.subplots(1, 2)[1].imshow(np.eye(3))
        left.legend(loc="outside lower center")
    return figure


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_a_figure_has_the_same_bytes_every_time(suffix, tmp_path):
    for name in "ab":
        save_figure(tmp_path / f"{name}{suffix}", hatched(), Look(100, 3.0, "a title"))
    one, other = ((tmp_path / f"{name}{suffix}").read_bytes() for name in "ab")
    assert one == other and b"CreationDate" not in one and b"dc:date" not in one


def test_a_figure_is_scaled_to_its_width(tmp_path):
    for suffix in (".png", ".pdf", ".svg"):
        save_figure(tmp_path / f"a{suffix}", hatched(), Look(100, 3.0))
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (300, 150) and round(picture.info["dpi"][0]) == 100
    assert re.search(rb"/MediaBox \[ ?0 0 216 108 ?\]", (tmp_path / "a.pdf").read_bytes())
    root = ElementTree.parse(tmp_path / "a.svg").getroot()
    assert (root.get("width"), root.get("height"), root.get("viewBox")) == ("216pt", "108pt", "0 0 288 144")


def test_names_are_texts_in_an_svg(tmp_path):
    save_figure(tmp_path / "a.svg", hatched(), Look(title=NASTY))
    tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(tmp_path / "a.svg").iter()}
    assert "path" in tags and "script" not in tags


def test_letters_of_a_pdf_can_be_edited_unless_another_font_has_them(base_font_alone, tmp_path):
    make_font(tmp_path / "few.ttf", "猫狗")
    font_manager.fontManager.addfont(tmp_path / "few.ttf")
    kinds = {}
    for name in ("cat", "猫"):
        with own_style():
            figure = new_figure(2, 2)
            figure.suptitle(name)
        save_figure(tmp_path / "a.pdf", figure)
        kinds[name] = {*re.findall(rb"/Subtype /(Type3|CIDFontType2)", (tmp_path / "a.pdf").read_bytes())}
    assert kinds == {"cat": {b"CIDFontType2"}, "猫": {b"Type3"}}


def test_a_title_stands_above_the_figures_own_and_long_lines_break(tmp_path):
    classes = ["black-and-tan coonhound of the northern woods", "a" * 60, "owl"]
    figure = explanation.make_figure(explained(["ig"], classes, true="猫" * 40), classes)
    save_figure(tmp_path / "a.png", figure, Look(title="A long title " * 9))
    title, box = figure.get_suptitle(), figure._suptitle.get_window_extent()
    assert title.startswith("A long title") and title.index("\ntrue: ") < title.index("predicted:")
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and not overlapping(figure)


def test_a_name_that_is_cut_keeps_its_blanks():
    assert wrapped_label("northern woods and lakes and hills", 12, 2) == "northern\nwoods and l…"


def test_a_command_writes_figures_of_the_format_that_is_asked_for(place, tmp_path):
    settings = stochx.settings.Explain(
        images=(str(place / "a.png"),),
        model=str(place / "net.safetensors"),
        method=("gradient",),
        figure_format="svg",
        figure_width=4,
        figure_title="mine",
        output=tmp_path / "maps",
    )
    assert stochx.run(settings)["args"]["figure_format"] == "svg"
    assert ElementTree.parse(tmp_path / "maps" / "a.explained.svg").getroot().get("width") == "288pt"
    assert not [*(tmp_path / "maps").glob("*.explained.png")]


@pytest.mark.parametrize("look", [{"figure_format": "pdf"}, {"figure_dpi": 200}, {"figure_title": "a"}])
def test_the_look_of_figures_that_are_not_drawn_is_refused(look):
    with pytest.raises(stochx.UsageError, match="asks for figures, `--no-figure` for none"):
        stochx.settings.Explain(images=("a.png",), figure=False, **look)


def test_every_command_with_figures_has_their_look():
    for cls in (getattr(stochx.settings, name) for name in stochx.settings.COMMANDS.values()):
        names = {setting.name for setting in settings_of(cls)}
        assert "figure" not in names or {"figure_format", "figure_width", "figure_dpi", "figure_title"} <= names


def test_maps_of_methods_that_name_paths_have_files_of_their_own():
    methods = [
        "ig",
        "eg:data=a/photos",
        "eg:data=b/photos",
        "eg:draws=9,data=b/photos",
        *(f"m:{'k' * 90}{n}" for n in (0, 1)),
    ]
    files = {map_file("cat", method) for method in methods}
    assert len(files) == 6 and "cat.ig.npz" in files and not any("/" in file for file in files)
    assert any(file.startswith("cat.eg_data=a_photos-") for file in files)
