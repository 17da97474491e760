"""Few-shot heads against their definitions, for any way, shot and map."""

from __future__ import annotations

import fewshot_literal as literal
import pytest
import torch
from support import LITERAL, VECTORS, embed, episodes
from torch import nn
from torch.nn import functional as F

from stochx.catalog import HEADS
from stochx.engine.fewshot.head import frozen_statistics
from stochx.errors import InputError, UsageError
from stochx.heads._norm import EpisodeNorm
from stochx.testing.samples import values

NORMED = ["relation", "gnn"]


@pytest.mark.parametrize(("ways", "queries"), [(2, 2), (3, 1)], ids=["even nodes", "odd nodes"])
@pytest.mark.parametrize("name", LITERAL)
def test_scores_are_those_of_the_reference(name, ways, queries):
    support, query, head = episodes(name, ways, queries=queries)
    scores, _ = head(support, query)
    for episode in range(2):
        s, q = support[episode], query[episode]
        if "relation" in name:
            expected = literal.Relation(head).scores(literal.Relation(head).features(s, q), ways)
        elif "gnn" in name:
            expected = literal.GNN(head).scores(literal.GNN(head).features(s, q), ways, 2)
        else:
            expected = literal.CrossAttention(head).scores(literal.CrossAttention(head).features(s, q))
        torch.testing.assert_close(scores[episode], expected)


@pytest.mark.parametrize("name", VECTORS)
def test_scores_of_vectors_follow_their_definition(name):
    support, query, head = episodes(name)
    vectors, q = embed(support, name), embed(query, name)[:, :, None]
    means = vectors.mean(2)[:, None]
    if "prototypical" in name:
        expected = -(q - means).square().sum(3)
    elif "cosine" in name:
        expected = 10 * F.cosine_similarity(q, means, dim=3)
    else:
        attention = (10 * F.cosine_similarity(q, vectors.flatten(1, 2)[:, None], dim=3)).softmax(2)
        expected = attention.unflatten(2, (3, 2)).sum(3).log()
    torch.testing.assert_close(head(support, query)[0], expected)


def test_cross_attention_learns_from_every_position():
    support, query, head = episodes("cross-attention")
    reference = literal.CrossAttention(head)
    local = torch.stack([reference.local(reference.features(*one)) for one in zip(support, query, strict=True)])
    _, cache = head(support, query)
    torch.testing.assert_close(cache.judged, local)
    y = torch.arange(6).expand(2, -1) // 2
    expected = torch.stack([F.cross_entropy(part, y[0][:, None, None].expand(-1, 5, 6)) for part in local]).mean()
    torch.testing.assert_close(head.loss(local, y), expected / 2)


def test_cross_attention_classifies_the_attended_query_among_the_base_classes():
    support, query, head = episodes("cross-attention:base=7")
    y, base = torch.arange(6).expand(2, -1) // 2, torch.tensor([[6, 6, 1, 1, 0, 0], [2, 2, 3, 3, 4, 4]])
    _, cache = head(support, query)
    losses = []
    for s, q, labels, names in zip(support, query, y, base, strict=True):
        attended = literal.CrossAttention(head).features(s, q)[1][torch.arange(6), labels]
        logits = F.conv2d(attended, head.classifier.weight[:, :, None, None], head.classifier.bias)
        losses.append(F.cross_entropy(logits, names[:, None, None].expand(-1, 5, 6)))
    torch.testing.assert_close(head.auxiliary(cache, y, base), torch.stack(losses).mean())
    with pytest.raises(InputError, match="7 base classes"):
        head.auxiliary(cache, y, base + 1)
    assert episodes("cross-attention")[2].auxiliary(cache, y, base) is None


@pytest.mark.parametrize("name", [*NORMED, "gnn:transductive=true,statistics=running"])
def test_as_in_the_papers_a_score_depends_on_the_other_queries(name):
    support, query, head = episodes(name)
    other = query.clone()
    other[:, 2] = values(2, 4, 5, 6, seed=9).relu()  # of another class; in the same graph as the first
    head.eval()
    assert not torch.allclose(head(support, query)[0][:, 0], head(support, other)[0][:, 0])


def test_a_transductive_graph_holds_one_query_of_each_class():
    support, query, head = episodes("gnn:transductive=true,statistics=running")
    head.eval()
    other = query.clone()
    other[:, 1::2] = values(2, 3, 4, 5, 6, seed=9).relu()  # the second query of each class
    assert torch.equal(head(support, query)[0][:, ::2], head(support, other)[0][:, ::2])
    assert head.transductive and not episodes("gnn")[2].transductive


def test_a_graph_refuses_another_way_and_uneven_queries():
    support, query, head = episodes("gnn:transductive=true")
    with pytest.raises(InputError, match="trained for 3 ways, got 2"):
        head(support[:, :2], query)
    with pytest.raises(InputError, match="5 queries for 3 ways"):
        head(support, query[:, :5])


@pytest.mark.parametrize(
    "text", ["relation:hidden=0", "cosine:scale=0", "matching:scale=-1", "cross-attention:temperature=0"]
)
def test_impossible_settings_are_refused(text):
    with pytest.raises(UsageError, match="must be"):
        HEADS.make(text)


def test_the_relation_loss_is_the_squared_error_of_sigmoids():
    _, _, head = episodes("relation")
    scores = torch.tensor([[[0.0, 30.0, -30.0]]])
    assert head.loss(scores, torch.tensor([[1]])).item() == pytest.approx(0.25 / 3)


def test_running_statistics_are_those_of_torch_for_one_episode():
    ours, theirs = EpisodeNorm(3, "running").double(), nn.BatchNorm1d(3).double()
    for seed in range(3):
        x = values(7, 3, 5, seed=seed)
        torch.testing.assert_close(ours(x[None])[0], theirs(x))
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x[None])[0], theirs(x))
    torch.testing.assert_close(ours.running_var, theirs.running_var)


@pytest.mark.parametrize("name", ["relation:statistics=running", "gnn:statistics=running", "cross-attention"])
def test_statistics_move_in_training_and_not_when_frozen(name):
    support, query, head = episodes(name)
    before = {key: value.clone() for key, value in head.named_buffers()}
    assert before
    with frozen_statistics(head):
        frozen = head(support, query)[0]
    assert all(torch.equal(value, before[key]) for key, value in head.named_buffers())
    assert torch.equal(head(support, query)[0], frozen)
    assert not any(torch.equal(value, before[key]) for key, value in head.named_buffers())
