"""Decision boundaries: planes in closed form, regions against scipy, networks whose boundary is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import random_images
from matplotlib.colors import to_rgb
from PIL import Image
from scipy import ndimage
from skimage.color import rgb2lab
from torch import nn

from stochx.engine.device import Runtime
from stochx.engine.io.data import Item
from stochx.engine.io.images import Preparation
from stochx.engine.network.classifier import Classifier
from stochx.engine.plane import Plane, across, off, regions, through
from stochx.errors import InputError, RunError
from stochx.loading import load_data
from stochx.reports.boundary import Panel, Scene, make_figure, palette, short_names
from stochx.reports.palette import COLOURS, METHODS, OTHER, class_colours
from stochx.runs import Quiet
from stochx.runs._planes import make_views
from stochx.settings import Boundary
from stochx.tasks import sequential
from stochx.tasks.boundary import (
    BoundaryRecord,
    BoundaryRow,
    agreement,
    distances,
    measure,
    outside,
    pooled_row,
    predict_grid,
    record,
)
from stochx.tasks.planes import make_plane
from stochx.tasks.sequential import LOOK, Lattice, Predictions, Tally, settled

EPS = 8 / 255


class Binary(nn.Module):
    """Two logits, 0 and w.x + b, with a boundary in the middle of [0, 1]."""

    def __init__(self):
        super().__init__()
        weight = torch.randn(48, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(-weight.sum() / 2)

    def margin(self, x):
        return x.flatten(1) @ self.weight + self.bias

    def forward(self, x):
        margin = self.margin(x)
        return torch.stack([torch.zeros_like(margin), margin], 1)


class Coin(nn.Module):
    """Says heads or tails at random: for every image of its own, or one for all that go through together."""

    def __init__(self, shared, tails=0.5):
        super().__init__()
        self.shared, self.tails = shared, tails

    def forward(self, x):
        first = x[:, 0, 0, 0]
        heads = torch.rand_like(first[:1] if self.shared else first).expand_as(first) >= self.tails
        return 9 * torch.stack([heads, ~heads], 1).to(x)


class MovingLine(nn.Module):
    """A network whose boundary is a straight line, which every forward pass draws at another place."""

    def forward(self, x):
        margin = 40 * (x[:, 0, 0, 0] - 0.5 - 0.1 * torch.randn(1, dtype=x.dtype))
        return torch.stack([margin, -margin], 1)


def classifier(network, noise="none", classes="ab"):
    made = Classifier(network, list(classes), Preparation(4, 4), noise=noise).double().eval()
    return made.requires_grad_(False)


@pytest.fixture
def binary():
    return classifier(Binary())


def images(count):
    return random_images(count, 3, 4, 4, seed=2)


def item(x, label=None):
    return Item("one", x, label)


def one_plane(model, x, kind="gradient", span=4.0):
    return make_plane(model, [item(x)], kind, EPS, span, seed=0)


# Planes ---------------------------------------------------------------------------------------------------------------


def test_the_three_images_lie_at_their_coordinates():
    x = images(3)
    plane = through(x)
    torch.testing.assert_close(plane.points(plane.marks), x, rtol=0, atol=1e-12)
    assert plane.marks[0].tolist() == [0, 0] and plane.marks[1, 1].abs() < 1e-12 and plane.marks[2, 1] > 0
    assert float(plane.marks[1, 0]) == pytest.approx(float((x[1] - x[0]).norm()))


def test_the_axes_of_three_images_are_orthonormal():
    axes = through(images(3)).axes.flatten(1)
    torch.testing.assert_close(axes @ axes.T, torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_range_is_the_box_and_a_tenth_more():
    x = torch.zeros(3, 1, 1, 2)
    x[1, 0, 0, 0], x[2, 0, 0, 1] = 1.0, 0.5
    plane = through(x)
    assert plane.low.tolist() == pytest.approx([-0.1, -0.05]) and plane.high.tolist() == pytest.approx([1.1, 0.55])


def test_cells_are_square_and_cover_the_range():
    nothing, (low, high) = torch.zeros(2, 1), torch.tensor([[0.0, 0.0], [2.0, 1.05]], dtype=torch.float64)
    plane = Plane(nothing[0], nothing, low, high, nothing)
    a, b = plane.grid(21)
    assert (len(a), len(b)) == (21, 12)
    assert a.tolist() == pytest.approx([k / 10 for k in range(21)], abs=1e-12)
    assert b.diff().tolist() == pytest.approx([0.1] * 11) and b[0] <= 0 and b[-1] >= 1.05


@pytest.mark.parametrize("third", [lambda x: x[0], lambda x: 2 * x[1] - x[0], lambda x: (x[0] + x[1]) / 2])
def test_images_that_span_no_plane_are_refused(third):
    x = images(2)
    with pytest.raises(InputError, match=r"equal|on a line"):
        through(torch.stack([*x, third(x)]))


def test_two_directions_are_orthogonal_and_of_one_length():
    x, direction, other = images(3)
    plane = across(x, direction, other, 0.5)
    assert float((plane.axes[0] * plane.axes[1]).sum()) == pytest.approx(0, abs=1e-12)
    assert float(plane.axes[1].norm()) == pytest.approx(float(direction.norm())) == pytest.approx(plane.length)
    assert torch.equal(plane.axes[0], direction) and plane.low.tolist() == [-0.5, -0.5]
    assert float(off(plane.axes[1], off(other, direction)).norm()) < 1e-12
    with pytest.raises(InputError, match="span a plane"):
        across(x, direction, 2 * direction, 0.5)


def test_a_gradient_plane_climbs_the_loss_by_the_sign_of_its_gradient(binary):
    x = images(1)[0]
    plane = make_plane(binary, [item(x, label=1)], "gradient", EPS, 4.0, seed=0)
    torch.testing.assert_close(plane.axes[0], -binary.network.weight.sign().view(3, 4, 4))
    assert plane.high.tolist() == pytest.approx([4 * EPS, 4 * EPS])
    again, other = (make_plane(binary, [item(x, 1)], "gradient", EPS, 4.0, seed).axes[1] for seed in (0, 1))
    assert torch.equal(plane.axes[1], again) and not torch.equal(plane.axes[1], other)


def test_on_a_linear_network_the_attack_leads_along_the_gradient(binary):
    x = images(1)[0]
    axes = [one_plane(binary, x, kind).axes[0] for kind in ("gradient", "attack")]
    torch.testing.assert_close(axes[0], axes[1], rtol=0, atol=1e-9)


def test_a_loss_without_gradient_is_refused():
    with pytest.raises(InputError, match="no gradient"):
        one_plane(classifier(nn.Sequential(nn.Flatten(), nn.Threshold(9.0, 0.0), nn.Linear(48, 2))), images(1)[0])


def test_what_lies_outside_the_box_of_pixels():
    x = torch.full((1, 1, 2), 0.5)
    plane = across(x, torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]]), 1.0)
    share, far = outside(plane, 5)  # a and b are -1, -0.5, 0, 0.5, 1
    assert share[2].tolist() == [0.5, 0, 0, 0, 0.5] and share[0, 0] == 1 and far[2].tolist() == [1, 0.5, 0, 0.5, 1]


# Networks with a known boundary ---------------------------------------------------------------------------------------


def test_the_boundary_of_a_linear_network_is_a_straight_line_in_its_place(binary):
    plane = through(images(3))
    found = predict_grid(binary, plane, 30, 1, 0)
    a, b = plane.grid(30)
    slope = plane.axes.flatten(1) @ binary.network.weight
    margin = binary.network.margin(plane.origin[None]) + slope[0] * a[None] + slope[1] * b[:, None]
    assert torch.equal(found.labels, (margin > 0).long()) and 0 < found.labels.double().mean() < 1
    torch.testing.assert_close(found.confidence, margin.abs().sigmoid(), rtol=1e-9, atol=1e-12)
    assert not found.disagreement.any()


def test_the_distance_to_a_linear_boundary_is_exact(binary):
    x = images(3)
    plane = through(x)
    said, found = distances(binary, plane, 7, 1, 0)  # no fine grid is needed
    margin = binary.network.margin(x)
    place = plane.marks[:, 0] - margin / (plane.axes[0].flatten() @ binary.network.weight)
    wanted = (place - plane.marks[:, 0]).abs()
    within = (place > plane.low[0]) & (place < plane.high[0])
    assert said == (margin > 0).long().tolist() and within.any()
    for got, distance, there in zip(found, wanted.tolist(), within.tolist(), strict=True):
        assert got == (pytest.approx(distance, abs=1e-9) if there else None)


def test_along_the_gradients_sign_the_distance_is_that_in_linf(binary):
    x = images(1)
    margin = float(binary.network.margin(x).abs() / binary.network.weight.abs().sum())
    plane = one_plane(binary, x[0], span=2 * margin / EPS)
    one, _ = record(0, ("plane", "model"), binary, plane, 10, 1, 0, EPS)
    assert one.distances_eps == [pytest.approx(margin / EPS, abs=1e-9)]
    assert one.distances == [pytest.approx(margin * math.sqrt(48), abs=1e-9)]


def test_a_boundary_beyond_the_plane_is_none(binary):
    x = images(1)
    margin = float(binary.network.margin(x).abs() / binary.network.weight.abs().sum())
    assert distances(binary, one_plane(binary, x[0], span=0.9 * margin / EPS), 10, 1, 0)[1] == [None]


def test_logits_that_are_not_finite_are_an_error(binary):
    binary.network.bias.fill_(torch.nan)
    with pytest.raises(RunError, match="not finite"):
        predict_grid(binary, through(images(3)), 5, 1, 0)


# Noise ----------------------------------------------------------------------------------------------------------------


def test_the_draws_of_a_coin_disagree_as_binomial_ones_do_and_repeat():
    coin, plane = classifier(Coin(shared=False), "sample"), through(images(3))
    found, again, other = (predict_grid(coin, plane, 50, 64, seed) for seed in (0, 0, 1))
    wanted = sum(math.comb(64, k) * min(k, 64 - k) for k in range(65)) / 2**64 / 64
    assert float(found.disagreement.mean()) == pytest.approx(wanted, abs=0.004)
    assert torch.equal(found.disagreement, again.disagreement) and torch.equal(found.labels, again.labels)
    assert not torch.equal(found.disagreement, other.disagreement)


@pytest.mark.parametrize("tails", [0.05, 0.2])
def test_draws_end_early_where_the_label_is_known_and_shares_stay_unbiased(tails):
    coin, told = classifier(Coin(shared=False, tails=tails), "sample"), []
    found = predict_grid(coin, through(images(3)), 180, 50, 0, told.append)
    points = found.labels.numel()
    assert found.labels.double().mean() < 1e-3 and sum(told) == points and min(told) >= 0
    assert found.draws.min() == LOOK / 9 and found.draws.double().mean() < 4
    assert float(found.disagreement.mean()) == pytest.approx(tails, rel=0.1)


def test_lines_that_a_batch_shares_give_the_picture_of_all_draws_with_fewer():
    line, plane = classifier(MovingLine(), "forward"), square_plane()
    found = predict_grid(line, plane, 180, 50, 0)
    with Runtime(torch.device("cpu"), batch_size=300).scope():
        again = predict_grid(line, plane, 180, 50, 0)
    every = all_draws(line, plane, torch.stack(torch.meshgrid(*plane.grid(180), indexing="xy"), -1), 50)
    assert found.draws.double().mean() < 6 and agreement(found.labels, every.labels.view(180, 180), 2)[0] > 0.995
    apart = (found.disagreement - every.disagreement.view(180, 180)).abs()
    assert apart.max() < 0.15 and apart.mean() < 0.02
    assert torch.equal(found.draws, again.draws) and torch.equal(found.labels, again.labels)


def all_draws(model, plane, places, draws):
    flat = places.flatten(0, -2)
    tally = Tally(model, lambda where: plane.points(flat[where]), Lattice((1, len(flat))), 0)
    tally.draw(torch.arange(len(flat)), 0, draws)
    return tally.predictions()


def test_without_noise_every_point_is_computed(binary):
    found = predict_grid(binary, through(images(3)), 120, 50, 0)
    assert (found.draws == 1).all() and not found.disagreement.any()


def test_what_is_linear_is_interpolated_exactly_between_neighbours_that_take_turns():
    lattice = Lattice((9, 11), (2, 3))
    exact = torch.arange(9.0)[:, None] * 2 - torch.arange(11.0) / 3
    for turn in range(6):
        there = (lattice.turns == turn).float()
        sums = lattice.interpolate(torch.stack([there * exact.flatten(), there], 1))
        inside = (sums[:, 1] > 0.999).view(9, 11)  # the weights add up to 1 where there are points on both sides
        assert inside.sum() >= 7 * 7
        torch.testing.assert_close(sums[:, 0].view(9, 11)[inside], exact[inside], rtol=1e-5, atol=1e-5)


def test_a_draw_that_a_batch_shares_is_one_function_on_the_whole_plane():
    coin, places = classifier(Coin(shared=True), "forward"), torch.rand(100, 2, dtype=torch.float64)
    with Runtime(torch.device("cpu"), batch_size=7).scope():
        found = all_draws(coin, through(images(3)), places, 5)
    assert len({*found.labels.tolist()}) == 1 and len({*found.disagreement.tolist()}) == 1


def square_plane():
    return across(torch.full((3, 4, 4), 0.5), *torch.eye(48)[:2].view(2, 3, 4, 4), 0.5)


def test_bands_of_a_plane_have_draws_of_their_own(monkeypatch):
    monkeypatch.setattr(sequential, "TALLY_BYTES", 16 * 2 * 20 * 10)  # half of the rows
    found = predict_grid(classifier(Coin(shared=False), "sample"), square_plane(), 20, 8, 0).disagreement
    assert not torch.equal(found[:10], found[10:])


def test_votes_are_counted_beyond_16_bits():
    coin, black = classifier(Coin(shared=True, tails=0.0), "forward"), torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    tally = Tally(coin, lambda where: black, Lattice((1, 1)), 0)
    tally._votes[0, 0], tally._total[0, 0], tally.draws[0] = 2**15 - 1, 2**15 - 1, 2**15 - 1
    tally.draw(torch.arange(1), 0, 1)
    assert tally.predictions().disagreement.item() == 0


class Votes:
    """A tally of made-up votes for two classes at points in a row; those against the label are of the second."""

    def __init__(self, against, draws, independent):
        self.lattice, self.independent = Lattice((1, len(against)), reach=(0, 1)), independent
        self.draws = self.depth = torch.full((len(against),), draws)
        self._against = torch.tensor(against, dtype=torch.float64) / draws

    def labels(self):
        return (self._against > 0.5).long()

    def shares(self):
        share = torch.maximum(self._against, 1 - self._against)
        return share, 1 - share


def test_a_point_is_settled_by_its_neighbourhood():
    def mask(against, draws, independent):
        return settled(Votes(against, draws, independent)).tolist()

    assert mask([0, 0, 0], 8, False) == [True] * 3, "eight of one mind, though they are the same for all"
    assert mask([0, 0, 0], 6, False) == [False] * 3, "6 draws: 1/64 is above the error"
    assert mask([1, 1, 1], 8, False) == [False] * 3 and mask([1, 1, 1], 8, True) == [True] * 3
    assert mask([4, 4, 4], 8, True) == [False] * 3, "a tie"
    assert mask([0, 0, 0, 8, 8, 8], 8, True) == [True, True, False, False, True, True], "two labels side by side"
    assert mask([0, 2, 0, 0], 8, True) == [True] * 4, "its own draws do not decide alone"


# Numbers --------------------------------------------------------------------------------------------------------------


def spiral():
    labels = torch.zeros(9, 9, dtype=torch.long)
    for k in range(0, 5, 2):
        labels[k, k : 9 - k] = labels[k : 9 - k, 8 - k] = labels[8 - k, k : 9 - k] = labels[k + 2 : 9 - k, k] = 1
    return labels


def drawn(classes):
    return torch.randint(classes, (60, 41), generator=torch.Generator().manual_seed(classes))


@pytest.mark.parametrize(
    "labels", [spiral(), drawn(2), drawn(5), torch.zeros(1, 7).long(), torch.arange(6).view(2, 3)], ids=range(5)
)
def test_regions_are_those_of_scipy(labels):
    found = regions(labels)
    total = 0
    for k in labels.unique():
        wanted, count = ndimage.label((labels == k).numpy())
        total += count
        pairs = {*zip(wanted[wanted > 0].tolist(), found[labels == k].tolist(), strict=True)}
        assert len(pairs) == count == len({region for _, region in pairs})
    assert int(found.max()) + 1 == total == len(found.unique())


def test_agreement_is_one_with_itself_and_counted_by_hand_with_another():
    one, two = torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 1, 1, 2]])
    assert agreement(one, one, 5) == (1, 1)
    assert agreement(one, two, 5) == (0.5, pytest.approx((1 / 2 + 1 / 3 + 0) / 3))


def row_of(labels, far):
    labels = torch.tensor(labels)
    said = Predictions(labels, torch.full(labels.shape, 0.75), torch.zeros(labels.shape), torch.full(labels.shape, 12))
    one = BoundaryRecord(0, "p", "m", [0] * len(far), far, [None] * len(far), 1.0)
    return measure(one, said, said, "abc", noisy=False), one


def test_a_row_counts_and_takes_the_median():
    row, _ = row_of([[0, 0, 2], [0, 2, 0]], [3.0, None, 1.0])
    assert row.shares == {"a": pytest.approx(4 / 6), "c": pytest.approx(2 / 6)} and list(row.shares) == ["a", "c"]
    assert (row.regions, row.distance, row.distance_eps, row.changed, row.n) == (4, 3.0, None, 2, 3)
    assert (row.confidence, row.draws) == (0.75, 12) and row.disagreement is None and (row.agreement, row.iou) == (1, 1)


def test_planes_together_have_the_median_of_all_images():
    pairs = [row_of([[0, 0]], [1.0]), row_of([[0, 1]], [5.0]), row_of([[1, 1]], [None])]
    row = pooled_row([row for row, _ in pairs], [one for _, one in pairs])
    assert (row.plane, row.distance, row.changed, row.n, row.regions) == ("all", 5.0, 2, 3, 4)
    assert row.shares == {"a": 0.5, "b": 0.5}


# Figures --------------------------------------------------------------------------------------------------------------


def test_a_class_has_one_colour_in_all_figures():
    first, second = palette([torch.tensor([3, 1, 1])]), palette([torch.tensor([3, 3, 3, 0, 1])])
    assert list(first) == [1, 3] and list(second) == [3, 0, 1], "the largest comes first"
    assert first[1] == second[1] == COLOURS[1] and first[3] == second[3] == COLOURS[3]


def test_no_two_classes_of_a_figure_share_a_colour_while_there_are_any():
    colours = class_colours([25, 5, 45])
    assert colours[5] == COLOURS[5] and colours[25] == COLOURS[6] and colours[45] == COLOURS[7]
    many = class_colours(range(100, 122))
    assert len({*many.values()}) == 21 and [many[120], many[121]] == [OTHER, OTHER]


def test_names_are_as_short_as_they_can_be():
    assert short_names(["runs/a.pt", "runs/b.safetensors"]) == ["a", "b"]
    assert short_names(["x/at/model.pt", "x/ani/model.pt"]) == ["at/model", "ani/model"]
    assert short_names(["a.pt", "a.safetensors"]) == ["a.pt", "a.safetensors"]


# What two kinds of readers see of linear RGB (Machado et al., 2009, severity 1).
DEUTAN = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
PROTAN = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]


@pytest.mark.parametrize("seen", [np.eye(3), DEUTAN, PROTAN], ids=["all", "deutan", "protan"])
@pytest.mark.parametrize(("chosen", "least"), [(METHODS, 16.5), (COLOURS, 16)], ids=["methods", "classes"])
def test_colours_are_told_apart(chosen, least, seen):
    colours = np.array([to_rgb(colour) for colour in chosen]) ** 2.2 @ np.transpose(seen)
    lab = rgb2lab(colours.clip(0, 1)[None] ** (1 / 2.2))[0]
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=2)[np.triu_indices(len(chosen), 1)]
    assert len(apart) in (45, 190) and apart.min() > least  # 2.3 is what can just be noticed


@pytest.mark.parametrize("panels", [1, 4])
@pytest.mark.parametrize("classes", [["ship", "dog", "airplane"], ["golden retriever", "Siberian husky", "tench"]])
def test_legends_stay_inside_the_figure(panels, classes):
    labels = torch.arange(3).repeat(4, 2)[:, :4]
    zeros = torch.zeros(4, 4)
    plane = Plane(
        torch.zeros(3, 8, 8), torch.eye(2, 192).view(2, 3, 8, 8), -torch.ones(2), torch.ones(2), zeros[:1, :2]
    )
    a = torch.linspace(-1, 1, 4)
    names, pictures = ("one direction", "another"), [(torch.zeros(3, 8, 8), "image")]
    scene = Scene(plane, a, a, 1.0, names, pictures, zeros + 1, zeros, classes, palette([labels]))
    row = BoundaryRow("0", "network", 1.0, 1.0, 1, {}, 1.0, None, 1.0, None, None, 0, 1, 0.0)
    figure = make_figure(scene, [Panel("network", row, Predictions(labels, zeros, zeros, zeros))] * panels, None)
    figure.draw_without_rendering()
    (legend,) = figure.subfigs[1].legends
    inside, box = figure.subfigs[1].bbox, legend.get_window_extent()
    assert inside.x0 <= box.x0
    assert box.x1 <= inside.x1


@pytest.mark.parametrize(("folder", "shown"), [("n01440764", "tench"), ("my_fish", "my_fish")])
def test_true_classes_are_named_as_the_network_names_them_where_it_knows_them(folder, shown, tmp_path):
    for shade, name in enumerate((folder, "n01860187", "n02086240")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8), ["red", "green", "blue"][shade]).save(tmp_path / name / "a.png")
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    model = Classifier(network, ["Shih-Tzu", "black swan", "tench", "lark"], Preparation(8, 8)).eval()
    (view,), _ = make_views(Boundary(models=("net",), data=str(tmp_path)), model, load_data(str(tmp_path)), Quiet())
    named = {item.key.split("/")[0]: view.classes[item.label or 0] for item in view.items}
    assert named[folder] == shown
