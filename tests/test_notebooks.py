"""What notebooks show, tables of pandas, and methods in the shape of Captum's."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pandas
import pytest
import torch
from captum.attr import IntegratedGradients as CaptumIG
from captum.metrics import infidelity, sensitivity_max
from PIL import Image

import stochx
from stochx.attacks import FGSM
from stochx.attributions import GradCAM, Gradient, IntegratedGradients, SmoothTaylor
from stochx.catalog import ATTACKS, ATTRIBUTIONS
from stochx.engine.statistics import Estimate
from stochx.runs.document import Results, compose

NASTY = '<img src=x onerror="alert(1)">\x1b[31m & $x^{$'


def pictures(page):
    """The pictures that a page holds, as arrays (H, W, 3)."""
    data = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(each))).convert("RGB")) for each in data]


def explained_rows(image):
    row = {"image": image, "method": "ig", "target": 0, "class_name": "cat", "probability": 0.9, "gap": 0.5}
    return [row | dict.fromkeys(("error", "used", "sigma", "objective")) | {"seconds": 0.1}]


# Notebooks ------------------------------------------------------------------------------------------------------------


def test_an_explanation_shows_its_maps_and_their_accuracy(tiny, images):
    page = IntegratedGradients(steps=4)(tiny, images, 1)._repr_html_()
    assert len(pictures(page)) == 5 and "<b>ig:steps=4</b>" in page and page.count("n = 4") == 10
    one = Gradient()(tiny, images[0], 1)
    (picture,) = pictures(one._repr_html_())
    assert picture.shape == (160, 160, 3), "16 pixels, each ten times as large"
    strongest = np.abs(one.map.sum(0).numpy()).argmax()
    assert np.ptp(picture[5::10, 5::10].reshape(-1, 3)[strongest]) > 80, "it has a strong colour there"


def test_an_explanation_shows_eight_maps_and_counts_the_others(tiny, images):
    page = Gradient()(tiny, images.repeat(3, 1, 1, 1), 1)._repr_html_()
    assert len(pictures(page)) == 8 and "... and 7 more" in page


def test_a_map_whose_sign_is_no_evidence_is_shown_by_its_strength(tiny, images):
    unsigned = SmoothTaylor(roots=2)(tiny, images[:1], 1)
    assert not unsigned.signed and Gradient()(tiny, images[:1], 1).signed
    red, green, blue = pictures(unsigned._repr_html_())[0].reshape(-1, 3).astype(int).T
    assert (blue >= green).all() and (red >= green).all(), "purple"


def test_an_attempt_shows_its_images(tiny, images):
    attempt = FGSM()(tiny, images[:2], eps=0.1)
    page = attempt._repr_html_()
    first, _ = pictures(page)
    assert "step 1, restart 0, forward passes: 1" in page
    shown = first[5::10, 5::10].transpose(2, 0, 1) / 255
    assert np.abs(shown - attempt.x[0].numpy()).max() <= 0.5 / 255 + 1e-6


def test_an_estimate_is_a_number_with_its_interval():
    assert Estimate(0.431, 0.4004, 0.4619, 1000)._repr_html_() == "0.4310 [0.4004, 0.4619], n = 1000"
    assert str(Estimate(0.5, float("nan"), float("nan"), 1)) == "0.5000, n = 1"


def test_a_document_shows_the_table_of_its_command_with_every_text_escaped():
    document = Results(compose("explain", {}, {}, explained_rows(NASTY)))
    document["failed"] = [{"image": "b", "error": NASTY, "hint": ""}]
    page = document._repr_html_()
    assert (
        "<img" not in page and "\x1b" not in page and page.count("&lt;img src=x onerror=&quot;alert(1)&quot;&gt;") == 2
    )
    assert re.findall(r"<th[^>]*>([^<]*)</th>", page) == [
        "image", "method", "target", "class", "probability", "gap", "seconds"
    ]  # fmt: skip
    assert "gap: sum of the map" in page and "sigma" not in page, "notes on what is there"
    assert document == json.loads(json.dumps(document)), "it is the JSON object still"


def test_a_long_table_is_cut_and_says_so():
    page = Results(compose("explain", {}, {}, explained_rows("a.png") * 130))._repr_html_()
    assert page.count("<tr>") == 101 and "30 of 130 lines are left out" in page


def test_lines_of_a_cell_stay_lines():
    document = Results(compose("info", {}, {}, [{"name": "a", "value": "b\nc", "source": "file"}]))
    assert "b<br>c</td>" in document._repr_html_()


def test_run_returns_what_shows_itself(place):
    document = stochx.run(stochx.settings.Info(model=str(place / "net.safetensors")))
    assert isinstance(document, dict) and "<td" in document._repr_html_()


# stochx.show ----------------------------------------------------------------------------------------------------------


def titles(figure):
    return [axis.get_title() or axis.get_title(loc="left") for axis in figure.axes]


def test_explanations_stand_side_by_side_under_their_methods(tiny, images):
    x = images[:2]
    ig, cam = IntegratedGradients(steps=2)(tiny, x, 1), GradCAM()(tiny, x, 1)
    assert titles(stochx.show(x, ig, cam)) == ["", "ig:steps=2", "gradcam", "", "", ""]
    assert titles(stochx.show(ig, cam, titles=["one", "two"]))[:2] == ["one", "two"]
    assert titles(stochx.show(x, ig))[:3] == ["", "ig:steps=2", ""]


def test_the_image_may_come_first_or_last(tiny, images):
    x, explanation = images[:1], Gradient()(tiny, images[:1], 1)
    orders = ((x, explanation), (explanation, x), (x, explanation.map), (explanation.map, x))
    left = [stochx.show(*order).axes[0].images[0].get_array() for order in orders]
    assert all(np.array_equal(left[0], other) for other in left), "the image is the left one"


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        ((), {}, "there is nothing to show"),
        ((torch.rand(2, 3, 4, 4), torch.randn(2, 4, 4), torch.randn(2, 4, 4)), {"titles": "a"}, "1 titles for 2 expl"),
        ((torch.randn(2, 4, 4), torch.randn(1, 4, 4)), {}, "`image` is .2, 4, 4."),
    ],
)
def test_what_cannot_be_shown_is_refused(content, more, message):
    with pytest.raises(stochx.StochxError, match=message):
        stochx.show(*content, **more)


# Specs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["ig", "ig:steps=8,rule=gauss-legendre", "smoothtaylor:sigma=0.25,roots=7", "lrp"])
def test_an_entry_is_described_by_the_text_that_makes_it(text):
    assert ATTRIBUTIONS.make(ATTRIBUTIONS.describe(ATTRIBUTIONS.make(text))) == ATTRIBUTIONS.make(text)
    assert ATTACKS.describe(ATTACKS.make("pgd:steps=3,restarts=2")) == "pgd:steps=3,restarts=2"


# pandas ---------------------------------------------------------------------------------------------------------------


def test_results_and_records_are_tables_of_pandas(place, tmp_path):
    settings = stochx.settings.Explain(
        model=str(place / "net.safetensors"),
        images=(str(place / "a.png"), str(place / "b.jpg")),
        method=("gradient",),
        figure=False,
        output=tmp_path / "maps",
    )
    document = stochx.run(settings)
    rows = pandas.DataFrame(document["results"])
    assert len(rows) == 2 and rows["probability"].between(0, 1).all()
    records = pandas.read_json(tmp_path / "maps" / "records.jsonl", lines=True)
    assert records["probability"].tolist() == pytest.approx(rows["probability"].tolist())


# Captum ---------------------------------------------------------------------------------------------------------------


def test_integrated_gradients_in_captums_shape_agree_with_captums(tiny, images):
    ours, theirs = stochx.CaptumAttribution(tiny, "ig:steps=50,rule=gauss-legendre"), CaptumIG(tiny)
    maps, delta = ours.attribute(images, target=1, return_convergence_delta=True)
    expected, error = theirs.attribute(images, target=1, n_steps=50, return_convergence_delta=True)
    assert torch.allclose(maps, expected, atol=1e-9) and torch.allclose(delta, error, atol=1e-9)


def test_captums_metrics_take_a_method(tiny, images):
    x, ours = images[:2], stochx.CaptumAttribution(tiny, "gradient")

    def perturb(inputs):
        noise = 0.05 * torch.ones_like(inputs)
        return noise, inputs - noise

    value = infidelity(tiny, perturb, x, ours.attribute(x, target=1), target=1)
    assert value.shape == (2,) and bool(value.isfinite().all())
    assert (sensitivity_max(ours.attribute, x, target=1, n_perturb_samples=2) > 0).all()


def test_perturbed_images_may_leave_the_range_of_pixels_but_normalised_ones_are_refused(place):
    model = stochx.load_model(str(place / "net.safetensors"))
    ours, x = stochx.CaptumAttribution(model, "gradient"), torch.ones(1, *model.input_shape)
    assert not torch.equal(ours.attribute(x + 0.02, 1), ours.attribute(x - 0.1, 1))
    with pytest.raises(stochx.InputError, match="not 0 to 1"):
        ours.attribute(2 * x, 1)


def test_a_map_without_channels_is_spread_over_them_and_keeps_its_sum(tiny, images):
    (spread,) = stochx.CaptumAttribution(tiny, GradCAM()).attribute((images,), target=1)
    assert spread.shape == images.shape and torch.allclose(spread.sum(1, keepdim=True), GradCAM()(tiny, images, 1).map)


def test_methods_without_a_gap_have_no_convergence_delta(tiny, images):
    with pytest.raises(stochx.UsageError, match="`gradient` has no convergence delta"):
        stochx.CaptumAttribution(tiny, "gradient").attribute(images, 1, return_convergence_delta=True)
    with pytest.raises(stochx.InputError, match="there are 2 inputs"):
        stochx.CaptumAttribution(tiny, "gradient").attribute((images, images), 1)
