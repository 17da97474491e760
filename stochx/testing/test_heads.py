"""What every few-shot head must do."""

from __future__ import annotations

import pytest
import torch

from stochx.catalog import GUIDES
from stochx.engine.fewshot.head import guided_loss, initial_relevance
from stochx.errors import InputError
from stochx.testing.cases import built_in
from stochx.testing.samples import features, make_head, values

SIZES = [(2, 1, (1, 1)), (4, 3, (2, 3)), (10, 1, (11, 12)), (3, 2, (3, 12))]
Y = torch.arange(6).expand(2, -1) // 2  # three ways, two queries each, two episodes


@pytest.mark.parametrize(("ways", "shots", "size"), SIZES)
def test_any_way_shot_and_size_of_map_will_do(head: str, ways: int, shots: int, size: tuple[int, int]) -> None:
    support, query = features(ways, shots, size=size)
    made = make_head(head, ways, size)
    scores, cache = made(support, query)
    shape, wanted = tuple(scores.shape), (2, 2 * ways, ways)
    assert shape == wanted, f"scores are {shape} for {ways} ways: they must be (E, Q, N), here {wanted}"
    assert scores.isfinite().all(), f"{ways} ways, {shots} shots, maps of {size}: scores hold NaN or infinity"
    on_support, on_query = made.map_relevance(cache, scores.softmax(2))
    fits = on_support.shape == support.shape and on_query.shape == query.shape
    assert fits, "`map_relevance` must be shaped as the maps: (E, N, K, C, H, W) and (E, Q, C, H, W)"
    finite = on_support.isfinite().all() and on_query.isfinite().all()
    assert finite, f"{ways} ways, {shots} shots, maps of {size}: relevance holds NaN or infinity"


def test_episodes_do_not_see_each_other(head: str) -> None:
    support, query = features()
    together, alone = make_head(head)(support, query)[0], make_head(head)(support[1:], query[1:])[0]
    same = torch.allclose(together[1:], alone, rtol=1e-7, atol=1e-9)
    assert same, "an episode alone has other scores than beside another one: take no statistics over episodes"


def test_in_use_a_score_does_not_depend_on_the_other_queries(head: str) -> None:
    support, query = features()
    made = make_head(head)
    made(support, query)  # running statistics that are not those of the start
    if made.eval().inference != "inductive":
        return
    other = query.clone()
    other[:, 1:] = values(*query[:, 1:].shape, seed=9).relu()
    same = torch.equal(made(support, query)[0][:, 0], made(support, other)[0][:, 0])
    assert same, "in eval mode a score depends on other queries: set `transductive`, or take no statistics over queries"


def test_features_that_are_all_zero_are_legal(head: str) -> None:
    made = make_head(head)
    support, query = (torch.zeros_like(maps).requires_grad_() for maps in features())
    scores, cache = made(support, query)
    parts = [scores, *made.map_relevance(cache, torch.ones_like(scores))]
    assert all(part.isfinite().all() for part in parts), "features of zeros give NaN or infinity: guard divisions"
    loss = made.loss(cache.judged, torch.zeros(2, 6, dtype=torch.long))
    slopes = [slope for slope in torch.autograd.grad(loss, (support, query), allow_unused=True) if slope is not None]
    assert all(slope.abs().max() < 100 for slope in slopes), "gradients explode where features are zero: guard roots"


def test_features_as_seen_give_the_scores_again(head: str) -> None:
    made = make_head(head)
    _, cache = made(*features())
    again = made.classify(cache, made.seen(cache))
    same = torch.allclose(again, cache.judged, rtol=1e-7, atol=1e-9)
    assert same, "`classify(cache, seen(cache))` differs from `cache.judged`: both read the same features"


def test_a_head_refuses_maps_of_another_size(head: str) -> None:
    support, query = features()
    made = make_head(head)
    narrow = support[..., :4], query[..., :4]
    if made.takes((4, 5, 4)):
        assert made(*narrow)[0].shape == made(support, query)[0].shape, "`takes` says that maps of another size will do"
    else:
        with pytest.raises(InputError, match="expects feature maps of 4x5x6, got 4x5x4"):
            made(*narrow)
    with pytest.raises(InputError, match="expects feature maps of 4x5x6, got 3x5x6"):
        made(support, query[:, :, :3])


def test_digests_of_maps_have_the_same_scores(head: str) -> None:
    support, query = features()
    made = make_head(head)
    digests = [made.digest(maps.flatten(0, -4)) for maps in (support, query)]
    small = [part.view(*maps.shape[:-3], *part.shape[1:]) for part, maps in zip(digests, (support, query), strict=True)]
    same = torch.equal(make_head(head)(*small)[0], make_head(head)(support, query)[0])
    assert same, "`digest` changes scores: keep all that they depend on"


def test_relevance_is_shaped_as_what_is_seen_and_linear_in_its_start(head: str) -> None:
    made = make_head(head)
    scores, cache = made(*features())
    shapes = [tuple(part.shape) for part in made.relevance(cache, initial_relevance(cache.outputs))]
    seen = [tuple(part.shape) for part in made.seen(cache)]
    assert shapes == seen and len(seen) == len(made.axes), f"`relevance` is {shapes}, `seen` {seen}: they must agree"
    one, other = values(*scores.shape, seed=7), values(*scores.shape, seed=8)
    parts = zip(*(made.relevance(cache, r0) for r0 in (one, other, 2 * one - other)), strict=True)
    linear = all(torch.allclose(together, 2 * a - b, rtol=1e-7, atol=1e-9) for a, b, together in parts)
    assert linear, "`relevance` is not linear in r0: it must not square, clip or scale it"


def test_every_guide_trains_the_head(head: str) -> None:
    support, query = (maps.requires_grad_() for maps in features())
    for guide in built_in("guides"):
        made = make_head(head)
        try:
            loss, _ = guided_loss(made, GUIDES.make(guide), support, query, Y, ("key",))
        except InputError:  # a guide may refuse a head
            continue
        slopes = torch.autograd.grad(loss, (support, query), allow_unused=True)
        reached = any(slope is not None and bool(slope.isfinite().all() and slope.abs().sum() > 0) for slope in slopes)
        assert reached, f"under guide `{guide}` no gradient reaches the features: scores must follow from the maps"
