"""Few-shot heads and their relevance as the reference computes them: pair by pair, layer by layer, one episode each.

Nothing is reused and all pairs are built; rules of convolutions and pooling go through `torch.func.vjp`, as the
reference's go through autograd, and the half that is multiplied by 0 is computed too. Weights are those of our heads.
"""

from __future__ import annotations

import torch
from torch.func import vjp
from torch.nn import functional as F


def log_odds(scores):
    p = torch.softmax(scores, -1)
    return torch.log((scores.shape[-1] - 1) * (p + 0.01) / (1.01 - p))


def normalised(r, dim):
    peak = r.abs().max(dim, keepdim=True)[0]
    return 1 + r / peak.masked_fill(peak == 0, 1)


def stabilised(z):
    z = z + 0.01 * z.sign()
    return z.masked_fill(z == 0, 0.01)


def safe(r, z):
    return r / (z + 1e-7 * (z == 0))


def dense_rule(x, weight, r):
    return x * ((r / stabilised(x @ weight.T)) @ weight)


def sum_rule(x, r, dim):
    return x * (r / stabilised(x.sum(dim))).unsqueeze(dim)


def conv_rule(x, weight, r, padding, alpha=1, beta=0):
    def one_sign(first, second):
        return lambda x: (
            F.conv2d(x.clamp(min=0), first, padding=padding) + F.conv2d(x.clamp(max=0), second, padding=padding)
        )

    up, down = weight.clamp(min=0), weight.clamp(max=0)
    parts = []
    for layer in (one_sign(up, down), one_sign(down, up)):
        z, back = vjp(layer, x)
        parts.append(x * back(safe(r, z))[0])
    return alpha * parts[0] - beta * parts[1]


def pool_rule(x, r, window):
    z, back = vjp(lambda x: F.max_pool2d(x, window), x)
    return x * back(safe(r, z))[0]


def norm(x, layer):
    return F.batch_norm(x, None, None, layer.weight, layer.bias, training=True)


class Relation:
    """support (N, K, C, H, W), query (Q, C, H, W)."""

    def __init__(self, head):
        self.head = head

    def features(self, support, query):
        means = support.mean(1).unsqueeze(0).repeat(len(query), 1, 1, 1, 1)
        queries = query.unsqueeze(0).repeat(len(support), 1, 1, 1, 1).transpose(0, 1)
        return torch.cat([means, queries], 2).flatten(0, 1)

    def layers(self, pairs):
        head, kept = self.head, []
        x = pairs
        for conv, batch_norm in ((head.conv1, head.norm1), (head.conv2, head.norm2)):
            z = F.conv2d(x, conv.weight, conv.bias, padding=head.padding)
            active = F.relu(norm(z, batch_norm))
            window = [min(side, 2) for side in active.shape[2:]]
            kept.append((x, active, window))
            x = F.max_pool2d(active, window)
        flat = x.flatten(1)
        hidden = F.relu(F.linear(flat, head.fc1.weight, head.fc1.bias))
        return F.linear(hidden, head.fc2.weight, head.fc2.bias), kept, flat, hidden

    def scores(self, pairs, ways):
        return self.layers(pairs)[0].view(-1, ways)

    def relevance(self, pairs, ways, shots):
        start, kept, flat, hidden = self.layers(pairs)
        r = dense_rule(hidden, self.head.fc2.weight, log_odds(start.view(-1, ways)).view(-1, 1)) * (hidden > 0)
        r = dense_rule(flat, self.head.fc1.weight, r)
        for conv, (x, active, window) in zip((self.head.conv2, self.head.conv1), reversed(kept), strict=True):
            r = r.view(len(x), -1, *(side // size for side, size in zip(active.shape[2:], window, strict=True)))
            r = pool_rule(active, r, window) * (active > 0)
            r = self.convolved(x, conv.weight, r)
        return r

    def convolved(self, x, weight, r):
        return conv_rule(x, weight, r, self.head.padding)

    def weighted_scores(self, pairs, ways, shots):
        with torch.no_grad():
            self.scores(pairs, ways)
            w = normalised(self.relevance(pairs, ways, shots), 1)
        return self.scores(pairs * w, ways)


class HookedRelation(Relation):
    """With the gradients that the reference's backward hooks receive and put their own results in place of."""

    def convolved(self, x, weight, r):
        _, back = vjp(lambda x, weight: F.conv2d(x, weight, padding=self.head.padding), x, weight)
        back(r)
        return super().convolved(x, weight, r)


class GNN:
    """support (N, K, C, H, W), query (Q, C, H, W); one query a graph, or one of each class."""

    def __init__(self, head):
        self.head = head

    def features(self, support, query):
        ways, shots = support.shape[:2]
        z = torch.cat([support.flatten(0, 1), query]).mean((2, 3))
        z = norm(F.linear(z, self.head.fc.weight, self.head.fc.bias), self.head.norm)
        given, asked = z[: ways * shots], z[ways * shots :]
        each = len(query) // ways
        groups = [asked[i::each] for i in range(each)] if self.head.transductive else [q[None] for q in asked]
        return torch.stack([torch.cat([given, group]) for group in groups])

    def nodes(self, codes, ways, shots):
        label = F.one_hot(torch.arange(ways).repeat_interleave(shots), ways).to(codes)
        label = torch.cat([label, torch.zeros(codes.shape[1] - len(label), ways).to(codes)])
        return torch.cat([codes, label.repeat(len(codes), 1, 1)], 2)

    def edges(self, x, module):
        itself = torch.eye(x.shape[1]).to(x).repeat(len(x), 1, 1)
        y = (x.unsqueeze(2) - x.unsqueeze(1)).abs().transpose(1, 3)
        for layer, batch_norm in zip(module.layers, module.norms, strict=True):
            y = F.leaky_relu(norm(F.conv2d(y, layer.weight[:, :, None, None], layer.bias), batch_norm))
        y = F.conv2d(y, module.last.weight[:, :, None, None], module.last.bias)[:, 0].transpose(1, 2)
        return torch.stack([itself, (y - 1e8 * itself).softmax(2)], 1)

    def layers(self, x):
        graph, levels = self.head.graph, []
        for number, (edges, layer) in enumerate(zip(graph.edges, graph.layers, strict=True)):
            operators = self.edges(x, edges)
            levels.append((x, operators))
            y = F.linear(torch.cat([operators[:, 0] @ x, operators[:, 1] @ x], 2), layer.weight, layer.bias)
            if number < 2:
                y = norm(y.flatten(0, 1), graph.norms[number]).view(y.shape)
                x = torch.cat([x, F.leaky_relu(y)], 2)
        return y, levels

    def of_queries(self, y, ways, shots):
        return y[:, ways * shots :].transpose(0, 1).flatten(0, 1)

    def scores(self, codes, ways, shots):
        return self.of_queries(self.layers(self.nodes(codes, ways, shots))[0], ways, shots)

    def through(self, number, level, r):
        weight, (x, operators) = self.head.graph.layers[number].weight, level
        seen = torch.cat([operators[:, 0] @ x, operators[:, 1] @ x], 2)
        r = dense_rule(seen.flatten(0, 1), weight, r.flatten(0, 1)).view(seen.shape)
        stacked = torch.cat(r.chunk(2, 2), 1)
        result = []
        for i in range(len(x)):
            both = torch.cat([operators[i, 0], operators[i, 1]])
            result.append(x[i] * (both.T @ (stacked[i] / stabilised(both @ x[i]))))
        return torch.stack(result)

    def relevance(self, codes, ways, shots):
        y, levels = self.layers(self.nodes(codes, ways, shots))
        width, next_width = levels[0][0].shape[2], levels[1][0].shape[2]
        last = self.through(2, levels[2], log_odds(y))
        middle = self.through(1, levels[1], last[..., next_width:])
        new = middle[..., width:] + (last[..., width:next_width] if self.head.faithful else 0)
        first = self.through(0, levels[0], new)
        return first[..., :128] + middle[..., :128] + last[..., :128]

    def weighted_scores(self, codes, ways, shots):
        with torch.no_grad():
            w = normalised(self.relevance(codes, ways, shots), 2)
        return self.scores(codes * w, ways, shots)


class CrossAttention:
    """support (N, K, C, H, W), query (Q, C, H, W)."""

    def __init__(self, head):
        self.head = head

    def attention(self, table, temperature=0.025):
        """Cosines (A, B, M, M) of positions of `one` and of `other` -> attention (A, B, M) on `one`."""
        head, kernel = self.head, table.mean(2)
        y = F.linear(kernel.flatten(0, 1), head.narrow.weight, head.narrow.bias)
        y = F.linear(F.relu(norm(y, head.norm)), head.wide.weight, head.wide.bias).view(kernel.shape)
        return 1 + ((table * y.unsqueeze(2)).mean(3) / temperature).softmax(2)

    def features(self, support, query):
        """Attended maps (Q, N, C, H, W) of class means and queries."""
        p, q = support.mean(1).flatten(2), query.flatten(2)
        table = F.normalize(p, dim=1).transpose(1, 2).unsqueeze(1) @ F.normalize(q, dim=1).unsqueeze(0)
        on_p = self.attention(table)
        on_q = self.attention(table.permute(1, 0, 3, 2))
        p = (p.unsqueeze(1) * on_p.unsqueeze(2)).transpose(0, 1)
        q = q.unsqueeze(1) * on_q.unsqueeze(2)
        size = query.shape[2:]
        return p.unflatten(3, size), q.unflatten(3, size)

    def scores(self, features):
        p, q = (F.normalize(maps.mean(4).mean(3), dim=2) for maps in features)
        return 7 * (p * q).sum(2)

    def local(self, features, weights=1):
        p, q = F.normalize(features[0].mean(4).mean(3), dim=2), F.normalize(features[1], dim=2)
        return 7 * (p[..., None, None] * q * weights).sum(2)

    def relevance(self, features):
        p, q = (F.normalize(maps.mean(4).mean(3), dim=2) for maps in features)
        r = sum_rule(p * q, log_odds(7 * (p * q).sum(2)), 2)
        return r, sum_rule(features[1], sum_rule(features[1].mean(4), r, 3), 4)

    def weighted_local(self, features):
        channels, places = self.relevance(features)
        return self.local(features, normalised(channels, 2)[..., None, None] * normalised(places, 2))


KINDS = {"relation": Relation, "hooked": HookedRelation, "gnn": GNN, "cross-attention": CrossAttention}


def guided_step(kind, head, support, query, y, share):
    """The loss of a batch of episodes with the explanations' weights, and all scores (E, Q, N)."""
    literal = KINDS[kind](head)
    losses, all_scores = [], []
    for s, q, labels in zip(support, query, y, strict=True):
        ways, shots = s.shape[:2]
        features = literal.features(s, q)
        if kind == "cross-attention":
            scores = literal.scores(features)
            local = literal.weighted_local(features)
            target = labels[:, None, None].expand(-1, *local.shape[2:])
            losses.append(share * 0.5 * F.cross_entropy(local, target))
        elif isinstance(literal, Relation):
            scores = literal.scores(features, ways)
            target = F.one_hot(labels, ways).to(scores)
            weighted = literal.weighted_scores(features, ways, shots)
            losses.append(F.mse_loss(scores.sigmoid(), target) + share * F.mse_loss(weighted.sigmoid(), target))
        else:
            scores = literal.scores(features, ways, shots)
            weighted = literal.weighted_scores(features, ways, shots)
            losses.append(F.cross_entropy(scores, labels) + share * F.cross_entropy(weighted, labels))
        all_scores.append(scores)
    return torch.stack(losses).mean(), torch.stack(all_scores)
