"""Guides: what their weights are, and what the guided loss does with them."""

from __future__ import annotations

import fewshot_literal as literal
import pytest
import torch
from support import LITERAL, VECTORS, episodes
from torch.nn import functional as F

from stochx.catalog import GUIDES
from stochx.engine.device import select_runtime
from stochx.engine.fewshot.head import guided_loss, initial_relevance
from stochx.errors import InputError, UsageError

EVERY = [*LITERAL, *VECTORS]
Y = torch.arange(6).expand(2, -1) // 2  # three ways, two queries each, two episodes


def weigh(guide, name, keys=("key",)):
    """The head, its cache, and the weights."""
    support, query, head = episodes(name)
    cache = head(support, query)[1]
    return head, cache, GUIDES.make(guide)(head, cache, keys)


def step(guide, name, y=Y, **kinds):
    """The loss, and its gradients in the features and the head's parameters."""
    support, query, head = episodes(name, **kinds)
    support, query = support.requires_grad_(), query.requires_grad_()
    loss, scores = guided_loss(head, GUIDES.make(guide), support, query, y, ("key",))
    return loss, torch.autograd.grad(loss, (support, query, *head.parameters()), allow_unused=True), scores, head


REFERENCE = ["relation", "gnn", "gnn:transductive=true", "gnn:faithful=false", "cross-attention:base=7"]


@pytest.mark.parametrize("name", REFERENCE)
def test_the_guided_loss_and_its_gradients_are_those_of_the_reference(name):
    loss, slopes, scores, head = step("lrp", name, channels=12)  # some of which are not 0 in every position
    support, query, _ = episodes(name, channels=12)
    inputs = support.requires_grad_(), query.requires_grad_(), *head.parameters()
    expected, theirs = literal.guided_step(name.partition(":")[0], head, support, query, Y, share=1.0)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(scores, theirs)
    for ours, other in zip(slopes, torch.autograd.grad(expected, inputs, allow_unused=True), strict=True):
        if ours is not None:  # biases before norms get rounding errors there
            torch.testing.assert_close(ours, other, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("name", ["relation", "gnn:transductive=true"])
def test_large_layers_follow_the_precision_and_all_else_stays_in_float32(name):
    support, query, head = episodes(name, channels=64)
    support, query, head = support.float().requires_grad_(), query.float().requires_grad_(), head.float()
    found = []
    for precision in ("fp32", "bf16"):
        with select_runtime("cpu", precision).scope():
            cache = head(support, query)[1]
            weights = GUIDES.make("lrp")(head, cache, ())
            loss, scores = guided_loss(head, GUIDES.make("lrp"), support, query, Y)
            slopes = torch.autograd.grad(loss, (support, query))
        assert all(w.dtype == torch.float32 and w.min() >= 0 and w.max() <= 2 for w in weights)
        assert {loss.dtype, scores.dtype, slopes[0].dtype} == {torch.float32}
        found.append((loss, torch.cat([slope.flatten() for slope in slopes])))
    (loss, slopes), (rough, roughly) = found
    assert 0 < (loss - rough).abs() < 0.01 * loss
    assert F.cosine_similarity(slopes, roughly, dim=0) > 0.98


@pytest.mark.parametrize(("name", "one", "more"), [("relation", 0.5, 1), ("gnn", 0.5, 1), ("cross-attention", 1, 1)])
def test_lambda_follows_head_and_shot(name, one, more):
    for shots, share in ((1, one), (3, more)):
        own, given = (step(guide, name, shots=shots)[0] for guide in ("lrp", f"lrp:lambda={share}"))
        other = step(f"lrp:lambda={share + 1}", name, shots=shots)[0]
        assert torch.equal(own, given) and not torch.equal(own, other)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("guide", ["lrp", "random", "shuffled", "gradxinput"])
def test_lambda_zero_is_plain_training_bit_for_bit(guide, name):
    for text in (f"{guide}:lambda=0,xi=1", f"{guide}:lambda=0"):
        (loss, slopes, _, head), (plain, others, _, trained) = step(text, name), step("none", name)
        assert torch.equal(loss, plain)
        assert all(torch.equal(one, other) for one, other in zip(slopes, others, strict=True) if one is not None)
        assert all(torch.equal(one, other) for one, other in zip(head.buffers(), trained.buffers(), strict=True))


@pytest.mark.parametrize(("name", "plain"), [("cross-attention:base=7", 0), ("cross-attention", 1)])
def test_cross_attention_leaves_the_plain_loss_out_only_beside_its_classifier(name, plain):
    own, alone = step("lrp", name)[0], step("lrp:xi=0", name)[0]
    torch.testing.assert_close(own - alone, plain * step("none", name)[0])


@pytest.mark.parametrize("name", ["relation:statistics=running", "gnn:statistics=running", "cross-attention"])
@pytest.mark.parametrize("guide", ["lrp", "gradxinput"])
def test_the_guided_pass_moves_no_statistics(guide, name):
    guided, plain = step(guide, name)[3], step("none", name)[3]
    assert list(guided.buffers())
    assert all(torch.equal(one, other) for one, other in zip(guided.buffers(), plain.buffers(), strict=True))


def test_gradients_flow_through_weights_only_where_the_head_says_so():
    through, cut = step("lrp", "cross-attention"), step("lrp", "cross-attention:detached=true")
    torch.testing.assert_close(through[0], cut[0])
    assert not torch.allclose(through[1][1], cut[1][1])
    for name in EVERY:
        assert any(weight.requires_grad for weight in weigh("lrp", name)[2]) == (name == "cross-attention")


@pytest.mark.parametrize("name", ["relation", "gnn", "cross-attention", "prototypical"])
def test_features_that_are_all_zero_can_be_guided(name):
    support, query, head = episodes(name)
    maps = [torch.zeros_like(part).requires_grad_() for part in (support, query)]
    for guide in GUIDES:
        if (guide, name) != ("gradcam", "gnn"):
            loss, _ = guided_loss(head, GUIDES.make(guide), *maps, Y, ("key",))
            slopes = torch.autograd.grad(loss, [*maps, *head.parameters()], allow_unused=True)
            assert loss.isfinite() and all(slope.isfinite().all() for slope in slopes if slope is not None)


@pytest.mark.parametrize("name", ["relation", "gnn", "cross-attention", "cosine"])
def test_random_weights_are_the_same_ones_elsewhere(name):
    head, _, weights = weigh("lrp", name)
    for axis, true, one, other in zip(
        head.axes, weights, weigh("random", name)[2], weigh("random", name, ("other",))[2], strict=True
    ):
        true, one, other = (w.flatten(axis) for w in (true.detach(), one, other))
        assert torch.equal(one.sort().values, true.sort().values)
        assert not torch.equal(one, true) and not torch.equal(one, other)


@pytest.mark.parametrize("name", ["relation", "gnn", "gnn:transductive=true", "cross-attention", "cosine"])
def test_shuffled_weights_are_those_of_another_query(name):
    weights, others = weigh("lrp", name)[2], weigh("shuffled", name)[2]
    for true, other in zip(weights, others, strict=True):
        matches = [[torch.equal(true[0, i], other[0, j]) for i in range(true.shape[1])] for j in range(true.shape[1])]
        assert all(sum(row) == 1 and not row[j] for j, row in enumerate(matches))


def test_shuffled_needs_two_queries():
    support, query, head = episodes("cosine", queries=1, ways=1)
    with pytest.raises(InputError, match="at least two queries"):
        guided_loss(head, GUIDES.make("shuffled"), support, query, Y[:, :1])


def test_gradient_times_input_and_gradcam_follow_the_gradient_of_a_distance():
    support, query, _ = episodes("prototypical:embedding=flat")
    scores = episodes("prototypical:embedding=flat")[2](support, query)[0]
    apart = support.mean(2)[:, None] - query[:, :, None]
    slope = (2 * initial_relevance(scores)[..., None, None, None] * apart).sum(2)
    found = query * slope
    expected = 1 + found / found.abs().amax(2, keepdim=True).clamp(min=1e-300)
    torch.testing.assert_close(weigh("gradxinput", "prototypical:embedding=flat")[2][0], expected)
    for text, kept in (("gradcam", torch.relu), ("gradcam:relu=false", torch.clone)):
        cam = kept((query * slope.mean((3, 4), keepdim=True)).sum(2, keepdim=True))
        expected = 1 + (cam / cam.abs().amax((3, 4), keepdim=True)).nan_to_num()
        torch.testing.assert_close(weigh(text, "prototypical:embedding=flat")[2][0], expected.expand_as(query))


def test_no_guide_weighs_nothing():
    assert all((weight == 1).all() for weight in weigh("none", "relation")[2])
    support, query, head = episodes("cosine")
    plain = F.cross_entropy(head(support, query)[0].flatten(0, 1), Y.flatten())
    torch.testing.assert_close(step("none", "cosine")[0], plain)


@pytest.mark.parametrize("text", ["lrp:lambda=0,xi=0", "random:lambda=0,xi=0", "none:lambda=1", "lrp:lambda=nan"])
def test_impossible_settings_are_refused(text):
    with pytest.raises(UsageError):
        GUIDES.make(text)
