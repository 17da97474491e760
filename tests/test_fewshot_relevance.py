"""Rules and relevance of few-shot heads against matrices written out, `torch.func.vjp` and the literal reference."""

from __future__ import annotations

import fewshot_literal as literal
import pytest
import torch
from support import LITERAL, VECTORS, embed, episodes
from torch.func import vjp
from torch.nn import functional as F

from stochx.engine.fewshot import lrp_rules as rules
from stochx.engine.fewshot.head import initial_relevance, weights_of
from stochx.testing.samples import values


def s(z):
    return z + 0.01 * torch.where(z < 0, -1.0, 1.0)


@pytest.mark.parametrize(("ways", "value"), [(5, 0.0364), (10, 0.0843), (20, 0.1719)])
def test_relevance_starts_near_zero_at_chance(ways, value):
    assert initial_relevance(torch.zeros(ways)).tolist() == pytest.approx([value] * ways, abs=1e-4)


def test_relevance_starts_as_log_odds_of_every_class():
    scores = torch.log(torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64))
    expected = torch.log(2 * torch.tensor([[0.71 / 0.31, 0.21 / 0.81, 0.11 / 0.91]], dtype=torch.float64))
    torch.testing.assert_close(initial_relevance(scores), expected)
    sure = initial_relevance(torch.tensor([200.0, 0, 0, 0, 0]))
    assert sure[0].item() == pytest.approx(6.00, abs=0.005) and sure[1].item() == pytest.approx(-3.23, abs=0.005)


def test_weights_lie_between_zero_and_two_and_are_one_where_nothing_is_relevant():
    r = torch.tensor([[2.0, -4.0, 1.0], [0.0, 0.0, 0.0], [-3.0, 0.0, 3.0]])
    assert weights_of(r, -1).tolist() == [[1.5, 0.0, 1.25], [1.0, 1.0, 1.0], [0.0, 1.0, 2.0]]


def test_dense_gives_by_contribution_and_conserves_all_but_the_stabiliser():
    x, weight, r = values(2, 3, 5), values(4, 5, seed=1), values(2, 3, 4, seed=2)
    parts = x[:, :, None] * weight
    expected = (parts * (r / s(parts.sum(3)))[..., None]).sum(2)
    torch.testing.assert_close(rules.dense(x, weight, r), expected)
    z = x @ weight.T
    torch.testing.assert_close(rules.dense(x, weight, r).sum(2), (r * z / s(z)).sum(2))


def test_dense_takes_a_matrix_for_each_episode():
    x, weight, r = values(2, 3, 5), values(2, 4, 5, seed=1), values(2, 3, 4, seed=2)
    expected = torch.stack([rules.dense(*parts) for parts in zip(x, weight, r, strict=True)])
    torch.testing.assert_close(rules.dense(x, weight, r), expected)


def test_mixed_is_the_vjp_of_a_product_with_a_constant_matrix():
    operator, x, r = values(3, 4), values(4, 5, seed=1), values(3, 5, seed=2)
    z, back = vjp(lambda x: operator @ x, x)
    torch.testing.assert_close(rules.mixed(operator, x, r), x * back(r / s(z))[0])


def test_summed_and_to_shots_go_by_parts_of_the_sum():
    x, r = values(2, 3, 4), values(2, 3, seed=1)
    torch.testing.assert_close(rules.summed(x, r), x / s(x.sum(2, keepdim=True)) * r[..., None])
    support = values(2, 3, 4, 5)
    found = rules.to_shots(support, values(2, 3, 5, seed=1))
    torch.testing.assert_close(found, support / s(support.sum(2, keepdim=True)) * values(2, 3, 5, seed=1)[:, :, None])


def test_winners_take_all_of_what_pooling_and_relu_kept():
    z, r = values(2, 3, 7, 6), values(2, 3, 3, 3, seed=1)
    output, places = F.max_pool2d(z, 2, return_indices=True)
    pooled, back = vjp(lambda z: F.max_pool2d(z.relu(), 2), z)
    expected = back(r * (pooled > 0))[0] * (z > 0)
    torch.testing.assert_close(rules.winners(r, output.relu(), places, z.shape), expected)


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("signed", [False, True])
def test_convolved_is_the_vjp_of_what_speaks_for_an_output_and_conserves(padding, signed):
    x, weight = values(2, 3, 6, 5, signed=signed), values(4, 3, 3, 3, seed=1)
    r = values(*F.conv2d(x, weight, padding=padding).shape, seed=2)
    found = rules.convolved(x, weight, r, padding)
    torch.testing.assert_close(found, literal.conv_rule(x, weight, r, padding))
    torch.testing.assert_close(found.sum(), r.sum())


@pytest.mark.parametrize("signed", [False, True])
def test_convolved_pairs_are_the_pairs_convolved(signed):
    first, second, weight = values(2, 3, 2, 5, 4, signed=signed), values(2, 4, 2, 5, 4, seed=3), values(3, 4, 3, 3)
    r = values(2, 4, 3, 3, 5, 4, seed=2)
    pairs = torch.stack([torch.cat([first[e, n], second[e, q]]) for e in range(2) for q in range(4) for n in range(3)])
    expected = literal.conv_rule(pairs, weight, r.flatten(0, 2), 1).view(2, 4, 3, 4, 5, 4)
    torch.testing.assert_close(rules.convolved_pairs(first, second, weight, r, 1), expected)


def literal_relevance(name, head, support, query):
    """That of one episode, shaped as the head's without its episodes."""
    ways, shots = support.shape[:2]
    if "relation" in name:
        reference = literal.Relation(head)
        found = reference.relevance(reference.features(support, query), ways, shots)
        return [found.unflatten(0, (-1, ways))]
    if "gnn" in name:
        reference = literal.GNN(head)
        return [reference.relevance(reference.features(support, query), ways, shots)]
    reference = literal.CrossAttention(head)
    return reference.relevance(reference.features(support, query))


@pytest.mark.parametrize("size", [(5, 6), (1, 1), (3, 2)], ids=str)
@pytest.mark.parametrize("name", LITERAL)
def test_a_heads_relevance_is_that_of_the_reference(name, size):
    support, query, head = episodes(name, size=size)
    _, cache = head(support, query)
    found = head.relevance(cache, initial_relevance(cache.outputs))
    for episode in range(2):
        expected = literal_relevance(name, head, support[episode], query[episode])
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours[episode], theirs)


@pytest.mark.parametrize("name", VECTORS)
def test_relevance_of_vectors_is_shared_by_the_products(name):
    support, query, head = episodes(name)
    scores, cache = head(support, query)
    r0 = initial_relevance(scores)
    vectors, q = embed(support, name), embed(query, name)
    means = vectors.mean(2)
    expected = torch.zeros_like(q)
    for e in range(2):
        for i in range(q.shape[1]):
            for n in range(3):
                for k in range(2):
                    share, weight = r0[e, i, n] / 2, means[e, n]
                    if name == "matching":
                        cosines = F.cosine_similarity(q[e, i], vectors[e].flatten(0, 1), dim=1).view(3, 2)
                        weight = vectors[e, n, k]
                        share = r0[e, i, n] * (10 * cosines[n]).softmax(0)[k]
                    one, other = q[e, i], 2 * weight
                    if "prototypical" not in name:
                        one, other = F.normalize(one, dim=0), F.normalize(weight, dim=0)
                    expected[e, i] += share * one * other / s(one @ other)
    if "flat" in name:
        expected = expected.view(query.shape)
    else:
        expected = query / s(query.sum((-2, -1), keepdim=True)) * expected[..., None, None]
    torch.testing.assert_close(head.relevance(cache, r0)[0], expected)


@pytest.mark.parametrize("name", ["relation", "cross-attention", *VECTORS])
def test_relevance_is_conserved_without_a_stabiliser(name, monkeypatch):
    monkeypatch.setattr(rules, "EPSILON", 1e-14)
    support, query, head = episodes(name)
    scores, cache = head(support, query)
    r0 = initial_relevance(scores)
    for part in head.relevance(cache, r0):
        torch.testing.assert_close(part.sum(), r0.sum())


def test_a_graphs_relevance_is_conserved_when_every_path_is_taken(monkeypatch):
    monkeypatch.setattr(rules, "EPSILON", 1e-14)
    support, query, head = episodes("gnn")
    _, cache = head(support, query)
    r0 = initial_relevance(cache.outputs)
    for skips, kept in ((True, True), (False, False)):
        total = sum(part.sum() for part in head.graph.relevance(cache.levels, r0, skips))
        assert torch.isclose(total, r0.sum()).item() is kept


@pytest.mark.parametrize("name", [*LITERAL, *VECTORS])
def test_maps_receive_what_the_features_did(name, monkeypatch):
    monkeypatch.setattr(rules, "EPSILON", 1e-14)
    support, query, head = episodes(name)
    scores, cache = head(support, query)
    r0 = torch.zeros_like(scores)
    r0[:, 1, 2] = 1.5  # one class of one query
    on_support, on_query = head.map_relevance(cache, r0)
    assert on_support.shape == support.shape and on_query.shape == query.shape
    together = on_support.sum() + on_query.sum()
    total = head.relevance(cache, r0)[-1].sum() * (1 if name.startswith(("relation", "gnn")) else 2)
    torch.testing.assert_close(together, total)
    if "transductive" not in name:
        assert on_query[:, 1].abs().sum() > 0 and on_query[:, [0, 2, 3, 4, 5]].abs().sum() == 0
