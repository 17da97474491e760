"""Can this evaluation be believed? Indicators of attacks that fail silently, each with what to do about it.

After Carlini et al. (2019), "On evaluating adversarial robustness", and Pintor et al. (2022), "Indicators of attack
failure": a defence that only hides its gradients looks robust to attacks that follow them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from stochx.attacks import Attack, Context
from stochx.catalog import ATTACKS
from stochx.engine.ascent import loss_gradient
from stochx.engine.gradients import logits
from stochx.engine.losses import LOSSES, Goal
from stochx.engine.network.classifier import IMAGENET_MEAN, IMAGENET_STD, Classifier
from stochx.engine.seeds import seeded
from stochx.engine.threat import Ball
from stochx.tasks.batches import Source
from stochx.tasks.judging import Judge

IMAGES = 64  # that the checks look at
DRAWS = 8  # of a stochastic network
ZERO = 0.05  # share of images without a gradient that is too many
LEFT = 0.05  # accuracy that may be left in a ball of the whole range
BETTER = 0.1  # accuracy that another normalisation may add before the network's own is doubted
NORMALISATIONS = {
    "ImageNet's": (IMAGENET_MEAN, IMAGENET_STD),
    "CIFAR-10's": ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
    "no": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "a [-1, 1]": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
GAIN = 0.02  # accuracy that another attack may take beyond the best, before it is called weak

Verdicts = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One indicator: its name, its verdict, what was seen, and what to do about it."""

    name: str
    verdict: Verdicts
    text: str
    advice: str
    value: float | None = None


def check_evaluation(
    model: Classifier,
    attacks: Mapping[str, Attack],
    sources: Sequence[Source],
    ball: Ball,
    rows: Sequence[Mapping[str, Any]],
    seed: int,
    *,
    full: bool,
) -> list[Check]:
    """All checks of a finished evaluation; `full` ones attack again. `rows` are the table's, as dictionaries."""
    items = [source.read() for source in sources[:IMAGES]]
    x = torch.stack([item.image for item in items]).to(model.mean)
    y = torch.tensor([item.label for item in items], device=x.device)
    with seeded(seed, "checks"):
        right = logits(model, x).argmax(1) == y
        about = [_accuracy(model, rows), _normalisation(model, x, y, seed)]
    if not right.any():
        return about
    places = right.nonzero().flatten()
    bench = _Bench(model, x[places], y[places], [f"{seed}/{items[n].key}" for n in places.tolist()], ball, seed)
    with seeded(seed, "checks"):
        found = [*about, _modes(model), _is_probability(model, x), _gradients(bench), _rising(bench)]
    found += [_one_step(rows), _whole_range(bench)]
    if full:
        found += [_black_box(bench, attacks), _more_steps(bench)]
        if model.noise != "none":
            found.append(_more_draws(bench))
    return [one for one in found if one is not None]


@dataclass(frozen=True)
class _Bench:
    """Images that the network gets right, to try things on."""

    model: Classifier
    x: Tensor
    y: Tensor
    keys: Sequence[str]
    ball: Ball
    seed: int

    def left(self, text: str, ball: Ball | None = None) -> float:
        """The accuracy that the attack `text` leaves."""
        judge = Judge(self.model, self.y, None, DRAWS, self.seed, "checks")
        context = Context(
            self.keys,
            wrong=None if judge.noisy else judge.wrong,
            pick=judge.score if judge.noisy else None,
        )
        with seeded(self.seed, "checks", text):
            found = ATTACKS.make(text)(self.model, self.x, self.y, ball or self.ball, context)
        return float(judge.verdict(found.x, "judge").right.mean())


def _accuracy(model: Classifier, rows: Sequence[Mapping[str, Any]]) -> Check:
    clean, high, chance = rows[0]["clean"], rows[0]["clean_high"], 1 / len(model.classes)
    guesses, surely = clean <= chance, high < min(2 * chance, 0.9 * chance + 0.1)
    return Check(
        name="accuracy",
        verdict="fail" if guesses and surely else "warn" if guesses or surely else "ok",
        text=f"without an attack {clean:.1%} of the images are right, guessing gets {chance:.1%}",
        advice="an attack on a network that knows nothing shows nothing: check labels, classes and normalisation",
        value=clean,
    )


def _normalisation(model: Classifier, x: Tensor, y: Tensor, seed: int) -> Check:
    """No other usual normalisation must make the network better; one of its own may be missing altogether."""
    own, share = (model.mean, model.std), {}

    def right() -> float:
        with seeded(seed, "normalisation"):  # the same noise for all
            return float((logits(model, x).argmax(1) == y).double().mean())

    for name, values in NORMALISATIONS.items():
        try:
            model.mean, model.std = (torch.tensor(v).to(x).view(1, -1, 1, 1) for v in values)
            share[name] = right()
        finally:
            model.mean, model.std = own
    known = right()
    best = max(share, key=lambda name: share[name])
    wrong = share[best] > known + BETTER
    text = f"with {best} normalisation {share[best]:.1%} of {len(y)} images would be right, not {known:.1%}"
    mean, std = (",".join(f"{v:g}" for v in values) for values in NORMALISATIONS[best])
    return Check(
        name="normalisation",
        verdict="warn" if wrong else "ok",
        text=text if wrong else "no other usual normalisation makes the network better",
        advice=f"the pixels seem to be normalised wrongly: try `--mean {mean} --std {std}`",
        value=share[best] - known,
    )


def _modes(model: Classifier) -> Check:
    training = [name for name, module in model.named_modules() if module.training]
    return Check(
        name="mode",
        verdict="warn" if training else "ok",
        text=f"{len(training)} modules are in train mode" if training else "the network is in eval mode",
        advice="a network in train mode mixes the images of a batch: call `eval()`",
        value=len(training),
    )


def _is_probability(model: Classifier, x: Tensor) -> Check:
    out = logits(model, x)
    sums = bool(((out.sum(1) - 1).abs() < 1e-3).all() and (out >= 0).all())
    return Check(
        name="logits",
        verdict="fail" if sums else "ok",
        text="the network returns probabilities" if sums else "the network returns logits",
        advice="take the softmax out: its gradients vanish where the network is sure, and losses apply it again",
    )


def _gradients(bench: _Bench) -> Check:
    found = loss_gradient(bench.model, bench.x, Goal(bench.y), LOSSES["ce"])
    none = float((found.gradient.flatten(1).abs().amax(1) == 0).double().mean())
    share = float((found.gradient == 0).double().mean())
    return Check(
        name="gradients",
        verdict="fail" if none > 0.5 else "warn" if none > ZERO or share > 0.5 else "ok",
        text=f"{none:.1%} of the images have no gradient at all, {share:.1%} of all values are zero",
        advice="use `loss=margin` or `dlr`, and `square`, which needs no gradient",
        value=none,
    )


def _rising(bench: _Bench) -> Check | None:
    if not bench.ball.eps:
        return None
    loss, points = LOSSES["ce"], bench.x
    draws = DRAWS if bench.model.noise != "none" else 1
    before = found = loss_gradient(bench.model, points, Goal(bench.y), loss, draws)
    for _ in range(5):
        points = bench.ball.project(points + bench.ball.eps / 4 * bench.ball.ascent(found.gradient), bench.x)
        found = loss_gradient(bench.model, points, Goal(bench.y), loss, draws)
    rises = float((found.loss > before.loss).double().mean())
    return Check(
        name="ascent",
        verdict="ok" if rises > 0.9 else "warn" if rises > 0.5 else "fail",
        text=f"five gradient steps raise the loss of {rises:.1%} of the images",
        advice="the gradients do not show the way: smaller steps, more draws (`eot`), or `square`",
        value=rises,
    )


def _one_step(rows: Sequence[Mapping[str, Any]]) -> Check | None:
    robust = {
        row["attack"]: row["robust"]
        for row in rows
        if row["model"] == rows[0]["model"] and row["attack"].partition(":")[0] in ATTACKS  # not the worst case of all
    }
    one = [value for text, value in robust.items() if ATTACKS.declares(text, "single_step")]
    many = [value for text, value in robust.items() if ATTACKS.declares(text, "iterated")]
    if not one or not many:
        return None
    gain = min(one) - min(many)
    return Check(
        name="iterating",
        verdict="ok" if gain >= 0 else "warn" if gain > -GAIN else "fail",
        text=f"iterated attacks leave {min(many):.3f}, a single step {min(one):.3f}",
        advice="an iterated attack that is weaker than one step follows gradients that mislead: look for masking",
        value=gain,
    )


def _whole_range(bench: _Bench) -> Check:
    eps = {"linf": 1.0, "l2": float(bench.x[0].numel()) ** 0.5, "l1": float(bench.x[0].numel())}[bench.ball.norm]
    left = bench.left("pgd:steps=20,step=0.25", replace(bench.ball, eps=eps))
    chance = 1 / len(bench.model.classes)
    return Check(
        name="unbounded",
        verdict="ok" if left <= max(LEFT, chance) else "fail",
        text=f"with the whole range of pixels allowed, {left:.1%} of the images stay right",
        advice="nothing can be robust to that: the attack fails, the gradients are masked",
        value=left,
    )


def _black_box(bench: _Bench, attacks: Mapping[str, Attack]) -> Check:
    blind = {*ATTACKS.declaring("black_box"), *ATTACKS.declaring("needs_source")}
    typed = [text for text in attacks if ATTACKS.parse_name(text)[0] not in blind]
    white = min(bench.left(text) for text in typed or ["pgd"])
    black = bench.left("random:tries=200" if bench.ball.norm == "l1" else "square:queries=1000")
    return Check(
        name="black box",
        verdict="ok" if black >= white - GAIN else "fail",
        text=f"the white-box attacks leave {white:.3f} of {len(bench.y)} images, a black-box one {black:.3f}",
        advice="knowing more must not make an attack weaker: the gradients are masked; report the black-box number",
        value=white - black,
    )


def _more_steps(bench: _Bench) -> Check:
    few, many = bench.left("pgd:steps=40"), bench.left("pgd:steps=80,restarts=2")
    return Check(
        name="converged",
        verdict="ok" if few - many <= GAIN else "warn",
        text=f"40 steps leave {few:.3f}, twice as many from two starts {many:.3f}",
        advice="the attack has not converged: raise `steps` and `restarts` until nothing changes",
        value=few - many,
    )


def _more_draws(bench: _Bench) -> Check:
    few, many = bench.left("pgd:steps=20,eot=5"), bench.left("pgd:steps=20,eot=20")
    return Check(
        name="expectation",
        verdict="ok" if few - many <= GAIN else "warn",
        text=f"gradients over 5 draws leave {few:.3f}, over 20 {many:.3f}",
        advice="more draws still help: raise `eot` until nothing changes",
        value=few - many,
    )
