"""Attacks on the images of a data set, judged in full precision, and on fresh draws of stochastic networks."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from stochx.attacks import Attack, Attempt, Context
from stochx.engine.ascent import numbered
from stochx.engine.io.data import Item
from stochx.engine.io.forms import Count, Share
from stochx.engine.judging import Judge, Verdict
from stochx.engine.network.classifier import Classifier
from stochx.engine.realisation import realised
from stochx.engine.seeds import digest, seeded
from stochx.engine.threat import Ball, Norm
from stochx.engine.world import World
from stochx.errors import RunError, StochxError, during
from stochx.tasks.batches import Failed, Source, readable, sweep_images
from stochx.tasks.curve import distances, to_the_end

ROWS = 128  # images attacked together; misclassified ones are retired, so a larger batch stays full for longer
NORMS: tuple[Norm, ...] = ("linf", "l2")


@dataclass(frozen=True)
class Outcome:
    """The result of an attack on an image: `correct` is the share of fresh draws that are right, 0 or 1 without noise.

    `hit` is the share that predicts the target class, 0 without one. `vote`: the mean probabilities are right; `off`:
    the network is right with its noise off, None without noise layers. `margin` is the label's logit minus the largest
    other one, a mean over draws; below 0 means wrong. Distances are to the clean image; `step` and `restart` locate the
    point in the run; `forwards` and `backwards` are its cost in passes, backward ones None for an attack that does not
    count them. `distance` is that of the nearest misclassified point, in the norm of the ball, where it was looked for
    and found.
    """

    correct: Share
    hit: Share
    vote: bool
    off: bool | None
    prediction: Count
    margin: float
    linf: float
    l2: float
    step: int
    restart: int
    forwards: int
    backwards: int | None
    distance: float | None = None


@dataclass(frozen=True)
class AttackRecord:
    """An image: its label, the network's clean prediction, and the result of every attack.

    `worst` is the share of draws that are right under `worst_attack`, the strongest attack on this image, which is
    chosen on other draws than it is judged by.
    """

    index: Count
    image: str
    label: Count
    clean: Share
    vote: bool
    off: bool | None
    prediction: Count
    margin: float
    attacks: Mapping[str, Outcome] = field(default_factory=dict)
    worst: Share = 0.0
    worst_attack: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Attacked:
    """The adversarial images of a batch: x, and x' (N, C, H, W) by attack, with their records."""

    x: Tensor
    adversarial: Mapping[str, Tensor]
    records: Sequence[AttackRecord]


def joined(batches: Sequence[Attacked]) -> Attacked:
    """Return batches under the same attacks as one."""
    return Attacked(
        torch.cat([batch.x for batch in batches]),
        {name: torch.cat([batch.adversarial[name] for batch in batches]) for name in batches[0].adversarial},
        [record for batch in batches for record in batch.records],
    )


def attack(
    model: Classifier,
    attacks: Mapping[str, Attack],
    sources: Sequence[Source],
    ball: Ball,
    *,
    source_model: nn.Module | None = None,
    target: int | None = None,
    judge_any: bool = True,
    curve: bool = False,
    seed: int = 0,
    draws: int = 32,
    eot: int = 1,
    realisations: int = 0,
    world: World | None = None,
    done: Collection[int] = (),
    keep: Callable[[Attacked], None] = lambda attacked: None,
    report: Callable[[list[AttackRecord | Failed], int], None] = lambda records, items: None,
) -> list[AttackRecord | Failed]:
    """Attack all images that the network classifies correctly, and return the records of all images, in order.

    On a stochastic network `draws` draws choose between restarts and attacks, and as many others judge; an image is
    attacked if any of its judging draws is right. Gradients are means over `eot` draws where an attack does not say
    otherwise. With `realisations` the attacker knows the noise: for each of that many seeds the network with its noise
    fixed is attacked and judged, and the results are means. For a `curve` attacks of minimal norm run to their end, and
    the records hold distances. Raises `RunError` for points outside the ball.
    """

    def work(places: range, loaded: list[Item | StochxError]) -> list[AttackRecord | Failed]:
        failed, items = readable(sources, places, loaded)
        records: list[AttackRecord | Failed] = [*failed]
        if items:
            y = torch.tensor([item.label for _, item in items], device=model.mean.device)
            goal = None if target is None else torch.full_like(y, target)
            batch = "/".join(item.key for _, item in items)
            judge = Judge(model, y, goal, 1 if realisations else draws, seed, batch, model.noise != "none")

            def attack_batch() -> Attacked:
                return _attack_batch(attacks, sources, ball, items, judge, model, source_model, judge_any, eot, curve)

            attacked = _over_realisations(attack_batch, seed, realisations) if realisations else attack_batch()
            keep(attacked)
            records += attacked.records
        return records

    return sweep_images(sources, ROWS, work, world, done, report)


def _attack_batch(
    attacks: Mapping[str, Attack],
    sources: Sequence[Source],
    ball: Ball,
    items: Sequence[tuple[int, Item]],
    judge: Judge,
    model: Classifier,
    source_model: nn.Module | None,
    judge_any: bool,
    eot: int,
    curve: bool,
) -> Attacked:
    x = torch.stack([item.image for _, item in items]).to(model.mean)
    clean, clean_off = judge.verdict(x, "clean"), judge.without_noise(x)
    places = (clean.right > 0).to(x.device)
    places = (places if judge.target is None else places & (judge.y != judge.target)).nonzero().flatten()
    keys = [f"{judge.seed}/{items[n][1].key}" for n in places.tolist()]
    chosen = judge[places]
    context = replace(Context.judged_by(chosen, keys, eot), source=source_model, judge_any=judge_any)
    adversarial, outcomes, seconds, choices = {}, {}, {}, {}
    for name, method in attacks.items():
        start = time.perf_counter()
        with during(f"`{name}`"), numbered(), seeded(judge.seed, "attack", name, judge.batch):
            search = to_the_end(method, chosen) if curve else method
            attempt = search(model, x[places], chosen.y, ball, context) if len(places) else _nothing(x, chosen.y)
        seconds[name] = (time.perf_counter() - start) / len(items)
        _check(attempt, x[places], ball, name)
        adversarial[name] = x.index_copy(0, places, attempt.x)
        verdict = judge.verdict(adversarial[name], "judge")
        off = judge.without_noise(adversarial[name])
        outcomes[name] = _outcomes(verdict, off, judge.y, adversarial[name], x, places, attempt)
        if curve:
            nearest = None if attempt.nearest is None else x.index_copy(0, places, attempt.nearest)
            reach = distances(judge, clean, x, ball, adversarial[name], verdict, nearest)
            outcomes[name] = [replace(o, distance=d) for o, d in zip(outcomes[name], reach, strict=True)]
        choices[name] = judge.score(adversarial[name]) if judge.noisy else verdict.right - verdict.hit
    records = []
    for n, (i, _) in enumerate(items):
        worst = min(choices, key=lambda name: float(choices[name][n])) if choices else None  # called at once
        correct = outcomes[worst][n].correct if worst is not None else float(clean.right[n])
        records.append(
            AttackRecord(
                index=i,
                image=sources[i].name,
                label=int(judge.y[n]),
                clean=float(clean.right[n]),
                vote=bool(clean.prediction[n] == judge.y[n]),
                off=clean_off[n],
                prediction=int(clean.prediction[n]),
                margin=float(clean.margin[n]),
                attacks={name: results[n] for name, results in outcomes.items()},
                worst=correct,
                worst_attack=worst,
                seconds=seconds,
            )
        )
    return Attacked(x, adversarial, records)


def _over_realisations(attack_batch: Callable[[], Attacked], seed: int, count: int) -> Attacked:
    """Attack a batch under `count` realisations of the noise; shares are means, passes sums, images the first's."""
    runs = []
    for k in range(count):
        with realised(digest(seed, k)):
            runs.append(attack_batch())
    return replace(runs[0], records=[_mean_record(same) for same in zip(*(run.records for run in runs), strict=True)])


def _mean_record(records: Sequence[AttackRecord]) -> AttackRecord:
    """Return the mean of the records of one image."""

    def mean(values: Iterable[float]) -> float:
        return sum(values) / len(records)

    def outcome(name: str) -> Outcome:
        same = [record.attacks[name] for record in records]
        backwards = [o.backwards for o in same if o.backwards is not None]
        return replace(
            same[0],
            correct=mean(o.correct for o in same),
            hit=mean(o.hit for o in same),
            vote=mean(o.vote for o in same) > 0.5,
            margin=mean(o.margin for o in same),
            forwards=sum(o.forwards for o in same),
            backwards=sum(backwards) if len(backwards) == len(same) else None,
        )

    first = records[0]
    return replace(
        first,
        clean=mean(record.clean for record in records),
        vote=mean(record.vote for record in records) > 0.5,
        margin=mean(record.margin for record in records),
        attacks={name: outcome(name) for name in first.attacks},
        worst=mean(record.worst for record in records),
        seconds={name: sum(record.seconds[name] for record in records) for name in first.seconds},
    )


def _nothing(x: Tensor, y: Tensor) -> Attempt:
    return Attempt(x[:0], y, y, y, backwards=y)


def _check(attempt: Attempt, x: Tensor, ball: Ball, name: str) -> None:
    if not ball.holds(attempt.x, x).all():
        far = float(ball.length(attempt.x, x).max())
        raise RunError(
            f"`{name}` left the ball: {far:.6g} of {ball.eps:.6g} in {ball.norm}", "this is a bug in the attack"
        )


def _outcomes(
    verdict: Verdict,
    off: Sequence[bool | None],
    y: Tensor,
    adv: Tensor,
    x: Tensor,
    places: Tensor,
    attempt: Attempt,
) -> list[Outcome]:
    """Return one outcome per image of the batch; images that were not attacked keep their clean values."""
    linf, l2 = (Ball(0, norm).length(adv, x) for norm in NORMS)
    cost = {
        key: torch.zeros_like(y).index_copy(0, places, getattr(attempt, key).to(y)).tolist()
        for key in ("step", "restart", "forwards", "backwards")
        if getattr(attempt, key) is not None
    }
    return [
        Outcome(
            correct=float(verdict.right[n]),
            hit=float(verdict.hit[n]),
            vote=bool(verdict.prediction[n] == y[n]),
            off=off[n],
            prediction=int(verdict.prediction[n]),
            margin=float(verdict.margin[n]),
            linf=float(linf[n]),
            l2=float(l2[n]),
            **({"backwards": None} | {key: values[n] for key, values in cost.items()}),
        )
        for n in range(len(y))
    ]
