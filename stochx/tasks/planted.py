"""The planted test, of whether an attack finds adversarial examples that are known to exist.

After Zimmermann et al. (2022), "Increasing confidence in adversarial robustness evaluations": the last layer of the
network gives way to one with two classes, fitted so that a point on the surface of the ball around an image is of the
other class. An attack that follows the network's gradients must find it, or a better one. One that does not would have
missed adversarial examples of the network itself. Success proves nothing of the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from stochx.attacks import Attack, Context
from stochx.engine.judging import Judge
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.readout import LastLayer, Readout, at_last_layer, fit_readout, last_linear, reading_out
from stochx.engine.seeds import Key, generator, seeded
from stochx.engine.threat import Ball, norm_of

TASKS = 16  # images, each with a readout of its own; half as many where each needs many draws
FOUND = 0.95  # share of the tasks that a sound attack solves
UNREADY = 0.2  # share of the tasks above which too many could not be set up
INNER = 200  # inner points of a readout at most, and fewer points than there are features
INSIDE = 0.95  # radius of the inner points, in radii of the ball
CLOSENESS = 0.999  # share of the planted point's score that the shift of the bias takes
RANDOM = 50  # random points on the surface of the ball, and as many corners, that an attack must beat
RANDOM_DRAWN = 10  # the same for a stochastic network, where each needs many draws
FIT, HELD_OUT, FRESH = 50, 60, 60  # draws of noise that fit a readout, set its bias, and accept it
RISK = 0.05  # a readout of a stochastic network is accepted if it errs on this share of the draws at most
JUDGED = 32  # draws that judge
COINS = 20  # draws that judge a random point
ROUNDS = 8  # rescalings of a clipped perturbation to the full radius


@dataclass(frozen=True)
class Planted:
    """The result of the test on N tasks: on how many of them the attack, and random points, met the other class.

    `failed` tasks could not be set up. `regret` is the mean share of draws that are right under the attack, less that
    at the planted points, which is never above 0 for an attack that finds the best point.
    """

    tasks: int
    failed: int
    found: int
    by_chance: int
    regret: float


def planted(
    model: Classifier, attack: Attack, x: Tensor, keys: Sequence[Key], ball: Ball, seed: int, eot: int = 1
) -> Planted | None:
    """Run the test with an attack on images x (N, C, H, W), with gradients over `eot` draws where it names no number.

    None for networks whose last layer is not linear.
    """
    layer = last_linear(model, x)
    if layer is None or layer.width < 4:
        return None
    field = _Field(model, layer, x, keys, ball, seed)
    points = field.plant(corners=ball.norm == "linf", index=0)
    readout, ready = field.readout(points)
    places = ready.nonzero().flatten()
    if not len(places):
        return Planted(0, len(x), 0, 0, 0.0)
    field, points = field[places], points[places]
    label = torch.zeros(len(places), dtype=torch.long, device=x.device)
    chosen = Readout(readout.weight[places], readout.bias[places])
    with reading_out(model, layer, chosen, field.x):
        judge = Judge(model, label, None, JUDGED, seed, "planted", model.noise != "none")
        exists = judge.verdict(points, "planted").right
        met = (exists < 0.5) & (judge.verdict(field.x, "clean").right > 0.5)  # through all that follows the last layer
        context = Context.judged_by(judge, field.keys, eot)
        with seeded(seed, "planted", "attack"):
            attempt = attack(model, field.x, label, ball, context)
        right = judge.verdict(attempt.x, "judge").right
        luck = _by_chance(field, replace(judge, draws=COINS))
    tasks = int(met.sum())
    regret = float((right - exists)[met].mean()) if tasks else 0.0
    found, chance = int((right < 0.5)[met].sum()), int(luck[met].sum())
    return Planted(tasks, len(x) - tasks, found, chance, regret)


def in_two_classes(attack: Attack) -> Attack:
    """Return the attack with the margin loss in place of DLR, which needs three classes."""
    own: Any = attack
    if "loss" in {part.name for part in fields(own)} and own.loss.endswith("dlr"):
        margin: Attack = replace(own, loss="margin")
        return margin
    return attack


def _by_chance(field: _Field, judge: Judge) -> Tensor:
    """Return a mask (N,) of the tasks in which a random point of the surface, or a random corner, is of class 1."""
    lucky = torch.zeros(len(field.x), dtype=torch.bool)
    for corners in (False, True):
        for index in range(1, (RANDOM_DRAWN if judge.noisy else RANDOM) + 1):
            lucky |= judge.verdict(field.plant(corners, index), f"chance {index}").right < 0.5
    return lucky


@dataclass(frozen=True)
class _Field:
    """The images around which points are planted."""

    model: Classifier
    layer: LastLayer
    x: Tensor
    keys: Sequence[Key]
    ball: Ball
    seed: int

    def __getitem__(self, places: Tensor) -> _Field:
        return replace(self, x=self.x[places], keys=[self.keys[n] for n in places.tolist()])

    def plant(self, corners: bool, index: int) -> Tensor:
        """Return points (N, C, H, W) on the surface of the ball: +-eps in every value, or in a random direction."""
        rays = torch.stack([_ray(self.x, (key, corners, index), self.ball, corners) for key in self.keys])
        return on_surface(rays, self.x, self.ball)

    def features(self, points: Sequence[Tensor], question: str) -> Tensor:
        """Return the features (N, P, D) of P batches of points, with the draws that `question` names."""
        with seeded(self.seed, "planted", question):
            return at_last_layer(self.model, self.layer, points)[0]

    def draws(self, x: Tensor, count: int, question: str) -> Tensor:
        """Return the features (N, count, D) of points in `count` draws; one without noise."""
        return self.features([x] * (count if self.model.noise != "none" else 1), question)

    def readout(self, points: Tensor) -> tuple[Readout, Tensor]:
        """Fit a readout of each image whose class 1 holds its planted point; return a mask (N,) of those that do."""
        inside = replace(self.ball, eps=INSIDE * self.ball.eps)
        count = min(INNER, self.layer.width - 3)
        inner = self.features([inside.sample(self.x, self.keys, k) for k in range(count)], "inner")
        clean, other = (self.draws(x, FIT, name) for x, name in ((self.x, "clean"), (points, "point")))
        data = torch.cat([clean, inner, other], 1)
        positive = torch.arange(data.shape[1], device=data.device) >= data.shape[1] - other.shape[1]
        readout, own = fit_readout(data, positive), at_last_layer(self.model, self.layer, [self.x])[1][:, 0]
        if self.model.noise == "none":
            score = readout(data)
            ready = (score[:, positive] > 0).all(1) & (score[:, ~positive] < 0).all(1)
            readout = readout.shifted(-CLOSENESS * score[:, positive].amin(1))
        else:
            held_out = readout(self.draws(points, HELD_OUT, "held out"))
            readout = readout.shifted(-held_out.quantile(RISK / 2, 1))
            ready = self._accepted(readout, points)
        size = readout(data).abs().amax(1)
        return readout.scaled((own.amax(1) - own.amin(1)) / size.clamp(min=torch.finfo(size.dtype).tiny)), ready & (
            size > 0
        )

    def _accepted(self, readout: Readout, points: Tensor) -> Tensor:
        """Return a mask (N,) of the readouts that are right on fresh draws of the image and of the planted point."""
        found = (readout(self.draws(points, FRESH, "fresh point")) > 0).double().mean(1)
        kept = (readout(self.draws(self.x, FRESH, "fresh clean")) < 0).double().mean(1)
        return (found >= 1 - RISK) & (kept >= 1 - RISK)


def _ray(x: Tensor, key: tuple[Key, ...], ball: Ball, corners: bool) -> Tensor:
    """Draw a direction (C, H, W)."""
    draw = torch.randn(x.shape[1:], generator=generator(*key, "planted", device=x.device), device=x.device).to(x.dtype)
    return draw.sign() if corners else draw


def on_surface(rays: Tensor, x: Tensor, ball: Ball) -> Tensor:
    """Return points at the full radius from x (N, C, H, W), or as far as [0, 1] allows, along rays that are clipped."""
    delta = rays
    for _ in range(ROUNDS):
        length = norm_of(delta.flatten(1), ball.norm).view(-1, 1, 1, 1)
        delta = (x + delta * (ball.eps / length)).clamp(0, 1) - x
    return ball.project(x + delta, x)
