"""Parts of objects: what a map says of them, and what the network does without them (Hesse et al., 2023).

Parts (P) and pieces of the background (K) are numbered together, Q = P + K.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from stochx.engine.gradients import logits
from stochx.engine.network.classifier import Classifier
from stochx.engine.parts import Parts
from stochx.engine.ranking import Reduction, channel_sum
from stochx.errors import InputError
from stochx.metrics import Evidence, Score
from stochx.metrics._perturb import Read, altered
from stochx.metrics._undefined import ZERO, is_zero, undefined

DILATION = 5  # pixels of the square by which the mask of a part is widened
THRESHOLDS = torch.linspace(0.01, 0.5, 80, dtype=torch.float64)  # shares of a map from which a part is important
AXIS = "share of the map that makes a part important"
LEAST_COST = 0.05  # share of the logit that the network loses with a part that it uses
UNSURE = "the network does not predict the class"
NONE: Mapping[str, Tensor] = {}
NO_SUM = "the map's sum is not positive"


def parts_of(evidence: Evidence) -> Sequence[Parts]:
    """Return the parts of all images; raises `InputError` for objects of different numbers of parts."""
    assert evidence.parts is not None
    sizes = {(len(parts.masks), len(parts.pieces)) for parts in evidence.parts}
    if len(sizes) > 1:
        raise InputError("the objects have different numbers of parts", "score those of one number together")
    return evidence.parts


def shares(relevance: Tensor, parts: Sequence[Parts], reduce: Reduction) -> Tensor:
    """Return the share (N, Q) of maps (N, C, H, W) on each part, whose mask is widened, and on each piece.

    Of absolute values the part's share of the area is taken off: a map without structure has 0 everywhere.
    """
    masks = torch.stack([each.masks for each in parts]).to(relevance)
    wide = F.max_pool2d(masks, DILATION, 1, DILATION // 2)
    inside = torch.cat([wide, torch.stack([each.pieces for each in parts]).to(relevance)], 1).flatten(2)
    strength = channel_sum(relevance, reduce).flatten(1)
    share = (strength[:, None] * inside).sum(2) / strength.sum(1, keepdim=True)
    return share - inside.mean(2) if reduce == "abs" else share


def important(share: Tensor) -> Tensor:
    """Return for each threshold whether a part has more of the map: shares (N, Q) -> (N, T, Q)."""
    return share[:, None] > THRESHOLDS.to(share)[:, None]


def without(evidence: Evidence, gone: Tensor, read: Read) -> Tensor:
    """Return the scores (N, R) of each image drawn R times, without the parts and pieces `gone` (N, R, Q)."""
    parts = parts_of(evidence)
    return drawn(evidence, gone.shape[1], lambda n, r: parts[n].without(gone[n, r].nonzero().flatten().tolist()), read)


def drawn(evidence: Evidence, copies: int, picture: Callable[[int, int], Tensor], read: Read) -> Tensor:
    """Return the scores (N, copies) of pictures (C, H, W) by image and copy."""
    assert evidence.model is not None and evidence.x is not None and evidence.target is not None

    def build(image: Tensor, copy: Tensor) -> Tensor:
        pairs = zip(image.tolist(), copy.tolist(), strict=True)
        return torch.stack([picture(n, r) for n, r in pairs]).to(evidence.x)

    return altered(evidence.model, evidence.x, evidence.target, copies, build, read)


def part_check(evidence: Evidence, reduce: Reduction, kept: bool) -> Score:
    """Return how often the prediction stays with the important parts alone, or else changes without them, by threshold.

    A threshold's set holds that of a higher one: the P + 1 sets of the parts that rank first are all that there are.
    """
    parts = parts_of(evidence)
    count = len(parts[0].masks)
    share = shares(evidence.map, parts, reduce)[:, :count]
    rank = share.argsort(dim=1, descending=True, stable=True).argsort(1)
    first = rank[:, None] < torch.arange(count + 1, device=share.device)[:, None]
    gone = F.pad(~first if kept else first, (0, len(parts[0].pieces)))
    right, sure = without(evidence, gone, "accuracy"), without(evidence, torch.zeros_like(gone[:, :1]), "accuracy")
    curve = (right if kept else 1 - right).gather(1, important(share).sum(2))
    score = Score(curve.mean(1), curve, THRESHOLDS.to(curve.dtype))
    return with_reasons(evidence, score, reduce, {UNSURE: sure[:, 0] == 0})


def costs(evidence: Evidence) -> Tensor:
    """Return what the logit loses without each part or piece (N, Q), as a share of its absolute value."""
    parts = parts_of(evidence)
    count = len(parts[0].masks) + len(parts[0].pieces)
    gone = torch.cat([torch.zeros(1, count), torch.eye(count)]).bool().expand(len(parts), -1, -1)
    found = without(evidence, gone, "logit")
    whole = found[:, :1]
    return (whole - found[:, 1:]) / whole.abs()


def replacement_costs(evidence: Evidence) -> Tensor:
    """Return what the logit loses (N, P) with another variant in the place of each part, as a share of its value."""
    parts = parts_of(evidence)
    count = len(parts[0].masks)
    left = drawn(evidence, count, lambda n, part: parts[n].replaced(part), "logit")
    whole = drawn(evidence, 1, lambda n, _: parts[n].without(), "logit")
    return (whole - left) / whole.abs()


def visible_pieces(evidence: Evidence) -> Tensor:
    """Return which pieces of the background can be seen, (N, K): others lie below the object."""
    assert evidence.x is not None
    return torch.stack([each.pieces.flatten(1).any(1) for each in parts_of(evidence)]).to(evidence.x.device)


def outputs(evidence: Evidence) -> list[list[int | None]]:
    """Return by image the network's output for each class of the table: that of its name, or else of its number."""
    assert evidence.model is not None and evidence.x is not None
    names = evidence.model.classes if isinstance(evidence.model, Classifier) else ()
    place: dict[str, int | None] = {name: number for number, name in enumerate(names)}
    count = logits(evidence.model, evidence.x[:1]).shape[1]
    found = []
    for each in parts_of(evidence):
        named = [place.get(name) for name in each.classes]
        numbered = [number if number < count else None for number in range(len(named))]
        found.append(numbered if named.count(None) == len(named) else named)
    return found


def not_of_the_object(evidence: Evidence) -> Tensor:
    """Return where (N,) the class that the map explains is not that of the object."""
    assert evidence.target is not None
    of = [row[each.label] for row, each in zip(outputs(evidence), parts_of(evidence), strict=True)]
    return torch.tensor([own != target for own, target in zip(of, evidence.target.tolist(), strict=True)])


def with_reasons(evidence: Evidence, score: Score, reduce: Reduction, more: Mapping[str, Tensor] = NONE) -> Score:
    """Set a score to NaN where it has no meaning: where the map has no shares, and for `more` reasons."""
    total = channel_sum(evidence.map, reduce)
    reasons = {ZERO: is_zero(total)} | ({NO_SUM: total.flatten(1).sum(1) <= 0} if reduce == "signed" else {})
    return undefined(score, {**reasons, **more})
