"""Robust accuracy at every radius, `stochx attack --curve`."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from attacking import Binary, context_of, fooled
from conftest import SHAPES, SHARED, random_images
from support import stochx
from torch import nn

from stochx.catalog import ATTACKS
from stochx.engine.judging import Judge
from stochx.engine.statistics import dkw_half
from stochx.engine.threat import DUALS, Ball, norm_of
from stochx.runs._curve import judge_gate
from stochx.settings import Attack
from stochx.tasks.curve import Curve, along, distances, nearest_on_ray, to_the_end

NORMS = ("linf", "l2", "l1")
INF = math.inf
THIRTY = ("--data", SHAPES, "--limit", 30, "--device", "cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory, net_of_shapes):
    """A folder with a small network that is often right."""
    folder = tmp_path_factory.mktemp("curve")
    shutil.copy(net_of_shapes, folder / "net.safetensors")
    return folder


def records(*nearest):
    """Records of images with the distances that each attack has found."""
    return [{"attacks": {f"a{k}": {"distance": d} for k, d in enumerate(each)}} for each in nearest]


def binary(count=36):
    """A linear network, images far from the sides of the box, the network's labels, and a judge."""
    model, x = Binary().eval(), 0.4 + 0.2 * random_images(count, 1, 4, 4)
    y = model(x).argmax(1)
    return model, x, y, Judge(model, y, None, 1, 0, "images", noisy=False)


def found(text, norm, eps=0.05):
    model, x, y, judge = binary()
    ball = Ball(eps, norm)
    attempt = to_the_end(ATTACKS.make(text), judge)(model, x, y, ball, context_of(model, y))
    clean, verdict = judge.verdict(x, "clean"), judge.verdict(attempt.x, "judge")
    return distances(judge, clean, x, ball, attempt.x, verdict, attempt.nearest), verdict


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("text", ["fmn:steps=100", "fab:targets=1"])
def test_on_a_linear_network_the_curve_is_exact(text, norm):
    """d = |z| / |w|_q for two classes, so that RA(eps) = #{|z_i| > eps |w|_q} / N."""
    model, x, _, _ = binary()
    exact = (model(x).diff(dim=1).abs().squeeze(1) / norm_of(model.w.detach()[None], DUALS[norm])).detach()
    ours = torch.tensor([math.inf if d is None else d for d in found(text, norm)[0]], dtype=torch.float64)
    inside = exact < 0.4  # where the box does not matter
    assert inside.sum() > 12 and (ours[inside] >= exact[inside]).all()
    torch.testing.assert_close(ours[inside], exact[inside], rtol=0.005, atol=0)
    curve = Curve(sorted(ours.tolist()))
    for eps in torch.linspace(0, 0.4, 30).tolist():
        least, most = ((exact > eps / share).double().mean() for share in (1.0, 1.005))
        assert least - 1e-12 <= curve.at(eps).mean <= most + 1e-12


@pytest.mark.parametrize("text", ["fmn:steps=60", "pgd:steps=10"])
def test_the_curve_at_the_attacked_radius_is_the_robust_accuracy(text):
    for eps in (0.001, 0.004, 0.008):
        reach, verdict = found(text, "linf", eps)
        curve = Curve.of(records(*([d] for d in reach)))
        assert curve.at(eps).mean == float(verdict.right.mean()) and 0 < float(verdict.right.mean()) < 1


def test_a_success_at_a_fixed_radius_only_lowers_the_distance():
    model, x, y, judge = binary(4)
    ball, clean = Ball(0.3), judge.verdict(x, "clean")
    wrong = (x - 0.29 * ball.ascent(torch.autograd.functional.jacobian(lambda z: model(z).diff(dim=1).sum(), x))).where(
        y.bool().view(-1, 1, 1, 1), x
    )
    verdict = judge.verdict(wrong, "judge")
    alone = distances(judge, clean, x, ball, x, clean, x)
    lower = distances(judge, clean, x, ball, wrong, verdict, x)
    assert alone == [None] * 4 and 0 < y.sum() < 4
    assert [d is not None for d in lower] == y.bool().tolist() and max(d for d in lower if d is not None) < 0.2901
    both = Curve.of(records((0.2, lower[0]), (0.4, lower[1]), (None, lower[2]), (None, None)))
    assert both.distances[0] <= 0.2 and both.distances[-1] == INF


def test_an_image_that_is_wrong_without_an_attack_has_distance_0():
    _, x, y, judge = binary(6)
    other = replace(judge, y=torch.cat([1 - y[:1], y[1:]]))
    verdict = other.verdict(x, "clean")
    assert distances(other, verdict, x, Ball(0.1), x, verdict, None) == [0.0, None, None, None, None, None]


def test_images_of_the_target_class_stay_correct_at_every_radius():
    _, x, y, judge = binary(6)
    targeted = replace(judge, target=torch.ones_like(y))
    clean = targeted.verdict(x, "clean")
    assert {*y.tolist()} == {0, 1} and distances(targeted, clean, x, Ball(0.1), x, clean, None) == [None] * 6


def test_a_curve_is_a_step_function_of_the_distances():
    curve = Curve.of(records((0.0, 0.0), (0.3, 0.1), (0.1, None), (None, 0.4), (None, None)))
    assert curve.distances == [0.0, 0.1, 0.1, 0.4, INF]
    assert curve.knots == [0.0, 0.1, 0.4]
    assert [curve.at(eps).mean for eps in (0, 0.0999, 0.1, 0.39, 0.4, 9)] == [0.8, 0.8, 0.4, 0.4, 0.2, 0.2]
    assert curve.median == 0.1 and curve.area == pytest.approx(0.8 * 0.1 + 0.4 * 0.3)
    assert Curve([0.1, INF, INF]).median is None


def test_of_many_distances_a_curve_keeps_200_knots_with_both_ends():
    knots = Curve([k / 1000 for k in range(1, 1001)]).knots
    assert 100 < len(knots) <= 200 and knots[0] == 0 and knots[-1] == 1 and knots == sorted({*knots})


def test_the_band_covers_the_whole_curve_in_95_of_100_samples():
    assert dkw_half(100) == pytest.approx(0.135810, abs=1e-6)
    source = torch.Generator().manual_seed(0)
    drawn = torch.rand(4000, 50, generator=source, dtype=torch.float64).sort(1).values
    steps = torch.arange(51, dtype=torch.float64) / 50
    gap = torch.maximum((drawn - steps[:-1]).abs(), (drawn - steps[1:]).abs()).amax(1)
    assert 0.95 <= float((gap <= dkw_half(50)).double().mean()) < 0.975


class Draws(nn.Module):
    """Two logits +-(mean pixel - 0.5 + s) with a normal draw s for each image: p(wrong) = 1/2 on a known plane."""

    noise = "sample"

    def forward(self, x):
        z = x.mean((1, 2, 3)) - 0.5 + 0.1 * torch.randn(len(x), dtype=x.dtype)
        return torch.stack([-z, z], 1)


def test_the_radius_of_a_stochastic_network_is_where_most_draws_are_wrong():
    """From pixels of 0.7, single draws are wrong at once; half of them at 0.5: d = 0.2 in Linf, +- 0.1 / sqrt(K)."""
    model, x = Draws().eval(), torch.full((4, 1, 4, 4), 0.7, dtype=torch.float64)
    y = torch.ones(4, dtype=torch.long)
    judge = Judge(model, y, None, 256, 0, "images", noisy=True)
    lucky = x - 0.05  # one draw in 15 is wrong here
    nearest = nearest_on_ray(judge, x, lucky)
    torch.testing.assert_close((x - nearest).amax((1, 2, 3)), torch.full((4,), 0.2).double(), rtol=0, atol=0.03)
    assert abs(float((x - nearest).mean()) - 0.2) < 0.01
    assert nearest_on_ray(judge, x, x - 0.01).equal(x), "no farther than eight times"
    torch.testing.assert_close(along(x, nearest, Ball(0.4)), x - 0.4)


def test_a_nearest_point_lies_far_enough_beyond_the_boundary_for_every_rounding():
    model, x, y, judge = binary()
    points = x.clone().requires_grad_()
    out = model(points)
    z = out[:, 1] - out[:, 0]
    (w,) = torch.autograd.grad(z.sum(), points)
    touching = x - (z.detach() / w.square().sum((1, 2, 3))).view(-1, 1, 1, 1) * w * (1 + 1e-9)  # just past the boundary
    nearest = nearest_on_ray(judge, x, touching)
    shy = x + (nearest - x) * (1 - 1e-4)  # a thousand roundings of float32
    assert (model(shy).argmax(1) != y).all() and not (model(x + (touching - x) * (1 - 1e-4)).argmax(1) != y).any()


def test_a_wrong_point_moves_inwards_and_a_right_one_outwards():
    model, x, y, judge = binary(5)
    slope = torch.autograd.functional.jacobian(lambda z: model(z).diff(dim=1).sum(), x).sign()
    way = slope * torch.where(y.bool(), -1.0, 1.0).view(-1, 1, 1, 1)
    exact = model(x).diff(dim=1).abs().squeeze(1) / model.w.abs().sum()
    for first in (0.3, 0.9, 1.1, 2.5):
        through = x + first * exact.detach().view(-1, 1, 1, 1) * way
        reach = (nearest_on_ray(judge, x, through) - x).abs().amax((1, 2, 3))
        assert ((reach > exact) & (reach < exact * (1 + 0.02))).all()


@pytest.mark.parametrize(
    ("asked", "on", "value"),
    [("0.5", "point", 0.6), ("0.5@0.2", "point", 0.5), ("0.5@0.2", "lower", 0.236593), ("0.4@0.3", "point", 0.4)],
)
def test_a_gate_may_ask_for_any_radius(asked, on, value):
    settings = Attack(model="net.pt", attack=("fmn",), curve=True, fail_under=asked, fail_on=on)
    rows = [{"model": "net.pt", "eps": 8 / 255, "robust": 0.6, "low": 0.3}]
    gate = judge_gate(settings, rows, records(*[[0.1]] * 4, [0.2], [0.3], *[[None]] * 4))
    assert gate["value"] == pytest.approx(value, abs=1e-6) and gate["missed"] == (value < gate["bound"])


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        (("--curve",), "needs an attack that looks for the nearest", "`-a fmn`"),
        (("-a", "fmn", "--curve", "--sweep", "eps=0,0.1"), "do not go together", "leave out one"),
        (("-a", "fmn", "--curve", "--judge", "last"), "--judge last", "leave out one"),
        (("--fail-under", "0.4@4/255"), "asks for a radius that is not attacked", "`--eps 4/255`"),
        (("--fail-under", "0.4@"), "is not a number", "`--fail-under 0.4@8/255`"),
        (("--fail-under", "high"), "is not an accuracy", "0.4@4/255"),
        (("-a", "fmn", "--curve", "--fail-under", "1.4@4/255"), "too large", "0 to 1"),
        (("-a", "fmn", "--curve", "--fail-under", "0.4@4"), "above 1", "4/255"),
    ],
)
def test_a_curve_that_cannot_be_made_is_one_error_and_one_hint(args, message, hint, place):
    attacks = () if "-a" in args else ("-a", "pgd")
    done = stochx("attack", "net.safetensors", *THIRTY, *attacks, *args, "-o", "never", cwd=place)
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and [line.split(":")[0] for line in lines] == ["error", "hint"], done.stderr
    assert message in lines[0] and hint in lines[1] and not (place / "never").exists()


@pytest.fixture(scope="module")
def curved(place):
    words = ("-a", "fmn:steps=30", "-a", "pgd:steps=5", "--curve", "--eps", "4/255", "--checks", "none", "--json")
    done = stochx("attack", "net.safetensors", *THIRTY, *words, "--fail-under", "0.9@2/255", "-o", "curve", cwd=place)
    assert done.returncode == 3, done.stderr
    return json.loads(done.stdout)


def test_a_run_gives_the_curve_in_its_json_and_a_figure(curved, place):
    (curve,) = curved["curve"]
    assert set(curve) == {"model", "norm", "n", "eps", "accuracy", "low", "high", "band", "median", "area"}
    assert curve["accuracy"] == sorted(curve["accuracy"], reverse=True) and curve["eps"] == sorted(curve["eps"])
    assert curve["accuracy"][0] == curved["results"][0]["clean"] and curve["accuracy"][-1] == 0 and curve["n"] == 30
    there = [a for eps, a in zip(curve["eps"], curve["accuracy"], strict=True) if eps <= 4 / 255][-1]
    assert there == curved["results"][-1]["robust"] < curve["accuracy"][0]
    assert curved["gate"]["eps"] == 2 / 255 and curved["gate"]["missed"] and curved["gate"]["bound"] == 0.9
    assert (place / "curve" / "curve.png").exists()
    lines = [json.loads(line) for line in (place / "curve" / "records.jsonl").read_text().splitlines()]
    assert all(line["attacks"]["fmn:steps=30"]["distance"] is not None for line in lines)


def test_resume_keeps_the_curve(curved, place):
    words = ("-a", "fmn:steps=30", "-a", "pgd:steps=5", "--curve", "--eps", "4/255", "--checks", "none", "--json")
    done = stochx("attack", "net.safetensors", *THIRTY, *words, "-o", "curve", "--resume", cwd=place)
    again = json.loads(done.stdout)
    assert done.returncode == 0 and again["curve"] == curved["curve"] and again["gate"] is None


def test_two_networks_get_a_curve_each(place):
    words = ("--versus", "net.safetensors", "-a", "fmn:steps=10", "--curve", "--checks", "none", "--json")
    done = stochx("attack", "net.safetensors", *THIRTY, *words, "-o", "two", "--limit", 8, cwd=place)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["curve"]) == 2 and (place / "two" / "curve.png").exists()


@pytest.mark.parametrize(
    ("norm", "radii"), [("linf", (0.005, 0.01, 0.02, 0.03, 0.05)), ("l2", (0.1, 0.2, 0.3, 0.5, 0.8))]
)
def test_the_curve_is_not_above_attacks_at_five_radii(norm, radii, trained, waves):
    """FMN and FAB find at once what APGD finds at each radius, but for one image in thirty."""
    x, y, judge = waves[0].double(), waves[1], Judge(trained, waves[1], None, 1, 0, "images", noisy=False)
    clean, ball, reach = judge.verdict(x, "clean"), Ball(radii[0], norm), []
    for text in ("fmn:steps=100", "fab:steps=30"):
        attempt = to_the_end(ATTACKS.make(text), judge)(trained, x, y, ball, context_of(trained, y))
        verdict = judge.verdict(attempt.x, "judge")
        reach.append(distances(judge, clean, x, ball, attempt.x, verdict, attempt.nearest))
    curve = Curve.of(records(*zip(*reach, strict=True)))
    apgd = [~fooled("apgd:steps=50", trained, x, y, norm, eps) & (clean.right > 0) for eps in radii]
    fixed = [int(standing.sum()) for standing in apgd]
    assert all(len(x) * curve.at(eps).mean < count + 1.5 for eps, count in zip(radii, fixed, strict=True))
    assert len({*fixed}) > 2 and fixed[0] > fixed[-1], fixed


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="needs the real data; set STOCHX_SHARED to its folder")
def test_the_curve_of_a_robust_network_is_that_of_attacks_at_five_radii(tmp_path):
    weights = SHARED / "weights_cifar10" / "robust_cnn_a_mix.safetensors"
    common = ("--arch", "robust-cnn", "--data", f"cifar10:root={SHARED / 'cifar10'}", "--limit", 64, "--json", "-q")
    common = ("attack", weights, *common, "--checks", "none", "--no-figure", "--device", "cpu")
    one = stochx(*common, "-a", "fmn:steps=100", "--curve", "-o", "curve", cwd=tmp_path)
    radii = "eps=1/255,2/255,4/255,6/255,8/255"
    five = stochx(*common, "-a", "apgd:steps=50", "-a", "apgd:steps=50,loss=dlr", "--sweep", radii, cwd=tmp_path)
    (curve,) = json.loads(one.stdout)["curve"]
    for row in json.loads(five.stdout)["results"]:
        at = [a for eps, a in zip(curve["eps"], curve["accuracy"], strict=True) if eps <= row["eps"]][-1]
        assert at <= row["robust"] + 2 / 64, row


def test_an_attack_of_minimal_norm_that_returns_no_nearest_point_is_refused(place):
    (place / "far.py").write_text(
        "from dataclasses import dataclass\nfrom typing import ClassVar\nimport torch\n"
        "from stochx.attacks import Attempt\n"
        "@dataclass(frozen=True)\nclass Far:\n    'Nothing.'\n"
        "    entry: ClassVar[str] = 'attacks:far'\n    minimal: ClassVar[bool] = True\n"
        "    def __call__(self, model, x, y, ball, context):\n"
        "        zero = torch.zeros_like(y)\n        return Attempt(x, zero, zero, zero + 1)\n"
    )
    words = ("--include", "far.py", "-a", "far", "--curve", "--checks", "none", "-o", "far")
    try:
        done = stochx("attack", "net.safetensors", *THIRTY, *words, cwd=place)
    finally:
        ATTACKS.discard((place / "far.py").resolve())
    assert done.returncode == 2 and "returns no nearest points" in done.stderr and "Traceback" not in done.stderr
