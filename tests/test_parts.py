"""Objects of parts: interventions change nothing else, and scores follow what the network does without a part."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional as F

from stochx.attributions import Gradient
from stochx.datasets import Shapes
from stochx.datasets._figures import PART, PLACE, combinations, incomplete
from stochx.datasets._scenes import DOMAINS
from stochx.engine.parts import sufficient_sets
from stochx.errors import InputError
from stochx.metrics import (
    CSDC,
    BackgroundIndependence,
    DeletionCheck,
    Distractibility,
    Evidence,
    PreservationCheck,
    SingleDeletion,
    TargetSensitivity,
)
from stochx.metrics._parts import THRESHOLDS, shares

CLASSES = 6
LOCAL = [CSDC, PreservationCheck, DeletionCheck, Distractibility]


def figures(domain="photo", parts=4, classes=CLASSES, size=48, split="test"):
    return Shapes(size=size, classes=classes, count=60, parts=parts, domain=domain)(split)


class Reads(nn.Module):
    """Logits that are linear in the pixels of patches of four, of any size of image."""

    def __init__(self, classes=CLASSES, size=48):
        super().__init__()
        source = torch.Generator().manual_seed(3)
        self.register_buffer("weight", torch.randn(classes, 3, size // 4, size // 4, generator=source).double())

    def forward(self, x):
        return F.avg_pool2d(x, 4).flatten(1) @ self.weight.flatten(1).T


def gradient(model, x, target):
    return Gradient()(model, x, target).map


def evidence(net, count=8, relevance=None, **how):
    """What scores are made of, for the first images and the classes of their objects, with random maps."""
    data = figures(**how)
    items = [data.item(i) for i in range(count)]
    x = torch.stack([item.image for item in items]).double()
    y = torch.tensor([item.label for item in items])
    if relevance is None:
        relevance = torch.randn(x.shape, generator=torch.Generator().manual_seed(5)).double() + 0.05
    return Evidence(relevance, range(count), x, y, net, gradient, None, [item.parts() for item in items])


# Pictures


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("parts", [3, 4, 5])
def test_an_intervention_changes_what_its_mask_covers_and_nothing_else(domain, parts):
    data = figures(domain, parts)
    for i in range(4):
        item = data.item(i)
        found = item.parts()
        assert torch.equal(found.without(), item.image)
        for part in range(parts):
            gone, other = (picture != item.image for picture in (found.without([part]), found.replaced(part)))
            assert gone.any() and not gone[:, ~found.masks[part]].any()
            assert other.any()
            others = found.masks[[p for p in range(parts) if p != part]].any(0)
            assert not other[:, others].any(), "the other parts stay as they are"
        for piece in range(len(found.pieces)):
            changed = (found.without([parts + piece]) != item.image).any(0)
            assert not changed[~found.pieces[piece]].any()
        assert len(found.pieces) == (16 if domain == "clutter" else 1)


def test_masks_of_parts_lie_on_the_object_and_do_not_overlap():
    data = figures(parts=5, size=64)
    for i in range(6):
        item = data.item(i)
        masks = item.parts().masks
        assert masks.sum(0).max() == 1 and masks.flatten(1).any(1).all()
        inside = (masks.any(0) & item.mask).sum() / masks.any(0).sum()
        assert inside > 0.75, "the rest is the soft edge"
    assert 2 * PLACE * np.sin(np.pi / 5) > 2 * PART


def test_parts_are_resized_with_their_image():
    from stochx.engine.io.images import Preparation

    item = figures(size=64).item(0, Preparation(resize=32, crop=32))
    found = item.parts()
    assert found.masks.shape == (4, 32, 32) and torch.equal(found.without(), item.image)
    assert found.without([0]).shape == (3, 32, 32)


@pytest.mark.parametrize("parts", [3, 4, 5])
def test_classes_are_different_combinations_and_those_of_a_smaller_set_come_first(parts):
    table = combinations(parts)
    assert len(set(table)) == len(table) == (16 // parts) ** parts
    few, many = figures(parts=parts, classes=5), figures(parts=parts, classes=9)
    assert many.classes[:5] == few.classes and len(set(many.classes)) == 9
    assert all(len(name.split("+")) == parts for name in few.classes)


def test_smallest_sets_of_parts_that_tell_a_class():
    table = ((0, 0, 0), (0, 1, 1), (1, 0, 1), (2, 2, 0))
    assert sufficient_sets(table[0], table) == ({0, 1}, {0, 2}, {1, 2})
    assert sufficient_sets(table[3], table) == ({0}, {1})
    assert sufficient_sets((0, 0, 0), ((0, 0, 0),)) == (frozenset(),)
    assert sufficient_sets((0, 0), ((0, 0), (0, 0), (1, 0))) == ({0},), "rows that are alike are one class"
    table = combinations(4)[:12]
    for row in table:
        for chosen in sufficient_sets(row, table):
            alike = [r for r in table if all(r[p] == row[p] for p in chosen)]
            assert alike == [row]
            assert all(len([r for r in table if all(r[p] == row[p] for p in chosen - {p})]) > 1 for p in chosen)


def test_images_to_train_on_lack_parts_and_still_tell_their_class():
    table = combinations(4)[:10]
    drawn = [incomplete(table[seed % 10], table, seed) for seed in range(400)]
    lacking = [variants for variants in drawn if None in variants]
    assert 100 < len(lacking) < 200
    for seed, variants in enumerate(drawn):
        present = [p for p in range(4) if variants[p] is not None]
        assert [row for row in table if all(row[p] == variants[p] for p in present)] == [table[seed % 10]]
    train, test = figures(split="train"), figures(split="test")
    assert any(None in train.item(i).parts().variants for i in range(10))
    assert not any(None in test.item(i).parts().variants for i in range(10))


def test_parts_survive_a_choice_of_images():
    data = figures()
    assert data.parts is not None
    some = data.subset([3, 1]).limited(1)
    assert torch.equal(some.item(0).parts().without([2]), data.item(3).parts().without([2]))
    assert figures(parts=0).parts is None and figures(parts=0).item(0).parts is None


@pytest.mark.parametrize("text", ["parts=2", "parts=6", "parts=3,classes=126", "classes=17"])
def test_impossible_settings_are_refused(text):
    from stochx.catalog import DATASETS

    with pytest.raises(Exception, match="must be"):
        DATASETS.make(f"shapes:{text}")


# Scores, as literal loops


def literal_shares(relevance, parts, signed):
    """The share of a map (C, H, W) on each part, whose mask is widened by two pixels, and on each piece."""
    total = relevance.sum(0) if signed else relevance.sum(0).abs()
    found = []
    for mask in parts.masks:
        wide = torch.zeros_like(mask)
        for row, column in mask.nonzero().tolist():
            wide[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3] = True
        found.append(wide)
    found += list(parts.pieces)
    return [float(total[m].sum() / total.sum() - (0 if signed else m.double().mean())) for m in found]


def literal(metric, given, n):
    """The score of image n at each threshold."""
    parts, net, y = given.parts[n], given.model, int(given.target[n])
    share = literal_shares(given.map[n], parts, metric.reduce == "signed")
    count = len(parts.masks)

    def logits(picture):
        return net(picture[None].to(given.x))[0]

    whole = logits(parts.without())
    cost = [float((whole[y] - logits(parts.without([q]))[y]) / whole[y].abs()) for q in range(len(share))]
    unused = [q for q in range(len(share)) if cost[q] < 0.05 and (q < count or parts.pieces[q - count].any())]
    curve = []
    for t in THRESHOLDS.tolist():
        chosen = [q for q in range(len(share)) if share[q] > t]
        own = [p for p in chosen if p < count]
        if isinstance(metric, CSDC):
            sets = sufficient_sets(parts.table[parts.label], parts.table)
            curve.append(max(len(s & set(own)) / len(s) for s in sets))
        elif isinstance(metric, PreservationCheck):
            curve.append(float(logits(parts.without([p for p in range(count) if p not in own])).argmax() == y))
        elif isinstance(metric, DeletionCheck):
            curve.append(float(logits(parts.without(own)).argmax() != y))
        else:
            curve.append(1 - len(set(chosen) & set(unused)) / len(unused))
    return curve, cost, share, whole


@pytest.mark.parametrize("reduce", ["abs", "signed"])
@pytest.mark.parametrize("domain", ["photo", "clutter"])
@pytest.mark.parametrize("kind", LOCAL)
def test_a_curve_is_the_paper_s_formula_at_every_threshold(kind, domain, reduce):
    metric, given = kind(reduce=reduce), evidence(Reads(), domain=domain)
    found = metric(given)
    sums = given.map.sum((1, 2, 3))
    for n in range(len(given.x)):
        curve, _, _, whole = literal(metric, given, n)
        unsure = kind in (PreservationCheck, DeletionCheck) and int(whole.argmax()) != int(given.target[n])
        if (reduce == "signed" and sums[n] <= 0) or unsure:
            assert n in found.why and found.value[n].isnan()
        else:
            np.testing.assert_allclose(found.curve[n], curve, rtol=1e-9)
            assert found.value[n].item() == pytest.approx(np.mean(curve))
    assert not found.value.isnan().all()


@pytest.mark.parametrize("reduce", ["abs", "signed"])
def test_single_deletion_is_the_paper_s_formula(reduce):
    metric, given = SingleDeletion(reduce=reduce), evidence(Reads())
    found = metric(given)
    for n in set(range(8)) - set(found.why):
        _, cost, share, _ = literal(metric, given, n)
        assert found.value[n].item() == pytest.approx((1 + spearmanr(cost[:4], share[:4]).statistic) / 2)
    assert len(found.why) < 6


def test_a_map_of_what_each_part_costs_has_the_best_single_deletion():
    given = evidence(Reads())
    assert given.parts is not None
    truth = torch.zeros_like(given.map)
    for n, parts in enumerate(given.parts):
        for part, mask in enumerate(parts.masks):
            gone = parts.without([part]).to(given.x)
            cost = (given.model(given.x[n : n + 1]) - given.model(gone[None]))[0, given.target[n]]
            spot = mask.nonzero()[len(mask.nonzero()) // 2]
            truth[n, 0, spot[0], spot[1]] = cost
    truth[:, 0, 0, 0] = 10 - truth.sum((1, 2, 3))  # a corner without parts, so that all sums are alike
    assert torch.equal(SingleDeletion(reduce="signed")(replace(given, map=truth)).value, torch.ones(8).double())
    assert torch.equal(SingleDeletion(reduce="signed")(replace(given, map=-truth)).value.isnan(), torch.ones(8) > 0)


def test_replacement_asks_which_variant_it_is_and_removal_whether_there_is_one():
    """A network that counts the object's pixels loses with a removal alone, if the other variant is as large."""
    given = evidence(Reads())
    removal, replacement = (SingleDeletion(intervention=how)(given).value for how in ("removal", "replacement"))
    assert not torch.equal(removal, replacement)
    parts = given.parts[0]
    costs = []
    for part in range(4):
        other = parts.replaced(part).to(given.x)
        costs.append(float((given.model(given.x[:1]) - given.model(other[None]))[0, given.target[0]]))
    share = literal_shares(given.map[0], parts, signed=False)
    assert replacement[0].item() == pytest.approx((1 + spearmanr(costs, share[:4]).statistic) / 2)


class OnParts(nn.Module):
    """For each class the mean brightness of what a fixed image shows in its own mask."""

    def __init__(self, masks):
        super().__init__()
        self.register_buffer("masks", masks)

    def forward(self, x):
        return torch.einsum("nchw,khw->nk", x, self.masks)


def test_maps_that_show_the_shared_parts_of_each_class_are_sensitive_to_it():
    given = evidence(Reads(), count=1, classes=12)
    parts = given.parts[0]
    common = [
        torch.stack(
            [m for m, own, other in zip(parts.masks, parts.variants, row, strict=True) if own == other]
            or [torch.zeros_like(parts.masks[0])]
        ).any(0)
        for row in parts.table
    ]
    net = OnParts(torch.stack(common).double() + 1e-6)

    def explain(model, x, y):
        return model.masks[y][:, None] * torch.ones_like(x)

    right = replace(given, model=net, explain=explain)
    assert TargetSensitivity()(right).value.item() == 1
    swapped = replace(right, explain=lambda model, x, y: 1 - 0.9 * explain(model, x, y))
    assert TargetSensitivity()(swapped).value.item() == 0
    blind = replace(right, explain=lambda model, x, y: given.map)
    assert TargetSensitivity()(blind).value.item() == 0.5


def test_target_sensitivity_compares_the_classes_that_share_the_most_parts():
    asked = []

    def explain(model, x, y):
        asked.append(y.tolist())
        return torch.rand(x.shape, generator=torch.Generator().manual_seed(len(asked))).double()

    given = replace(evidence(Reads(12), count=6, classes=12), explain=explain)
    TargetSensitivity()(given)
    for n, parts in enumerate(given.parts):
        own, rows = parts.variants, parts.table
        common = [{p for p in range(4) if row[p] == own[p]} for row in rows]
        sizes = {
            (a, b): sorted((len(common[a] - common[b]), len(common[b] - common[a])))
            for a, b in itertools.combinations(sorted(set(range(12)) - {parts.label}), 2)
        }
        assert sizes[asked[0][n], asked[1][n]] == max(size for size in sizes.values() if size[0])


def test_an_object_that_shares_no_parts_is_undefined():
    found = TargetSensitivity()(evidence(Reads(2), classes=2))
    assert found.value.isnan().all() and "no two other classes" in found.why[0]


def test_a_network_that_sees_no_background_is_independent_of_it_and_a_map_of_it_distracted():
    given = evidence(Reads(), count=1)
    inner = (given.parts[0].masks.any(0) & ~given.parts[0].pieces[0]).double()  # without the soft edge

    class Sees(nn.Module):
        """Logits that fall with every change of an area."""

        def __init__(self, area):
            super().__init__()
            self.register_buffer("area", area)

        def forward(self, x):
            changed = ((x - given.x) * self.area).abs().sum((1, 2, 3))
            return (100 - changed)[:, None] * torch.arange(1, CLASSES + 1)

    blind, sees = (replace(given, model=Sees(area)) for area in (inner, given.parts[0].pieces[0].double()))
    assert BackgroundIndependence()(blind).value.item() == 1
    assert BackgroundIndependence()(sees).value.item() == 0
    background = given.parts[0].pieces.double()[None]
    on_it, off_it = (Distractibility()(replace(blind, map=relevance)) for relevance in (background, 1 - background))
    assert off_it.value.item() == 1, "only the background is not used"
    area = background.mean().item()
    beyond = 1 - area  # its share of the map, less that of the area
    assert on_it.value.item() == pytest.approx((beyond <= THRESHOLDS).double().mean().item())
    assert on_it.value.item() < 1


def test_a_flat_map_has_no_share_beyond_the_area():
    given = evidence(Reads())
    flat = torch.ones_like(given.map)
    assert shares(flat, given.parts, "abs").abs().max() < 1e-12
    assert CSDC()(replace(given, map=flat)).value.eq(0).all()


def test_a_map_of_another_class_is_not_checked_against_the_object():
    given = evidence(Reads())
    found = CSDC()(replace(given, target=(given.target + 1) % CLASSES))
    assert found.value.isnan().all() and found.why[0] == "the map is not of the object's class"


def test_classes_are_found_by_their_names():
    from stochx.engine.io.images import Preparation
    from stochx.engine.network.classifier import Classifier

    given = evidence(Reads(), count=3)
    turned = tuple(reversed(given.parts[0].classes))
    model = Classifier(Reads(), turned, Preparation(48, 48)).eval().double()
    found = CSDC()(replace(given, model=model, target=CLASSES - 1 - given.target))
    assert torch.equal(found.value, CSDC()(given).value)


def test_objects_of_different_numbers_of_parts_are_not_scored_together():
    three, four = evidence(Reads(), count=1, parts=3), evidence(Reads(), count=1, parts=4)
    both = replace(four, map=four.map.repeat(2, 1, 1, 1), keys=[0, 1], x=four.x.repeat(2, 1, 1, 1))
    both = replace(both, target=four.target.repeat(2), parts=[*three.parts, *four.parts])
    with pytest.raises(InputError, match="different numbers of parts"):
        SingleDeletion()(both)
