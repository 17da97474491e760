"""Checks of an evaluation: indicators of attacks that fail silently, each with advice.

After Carlini et al. (2019), "On evaluating adversarial robustness", Pintor et al. (2022), "Indicators of attack
failure", and Zimmermann et al. (2022), "Increasing confidence in adversarial robustness evaluations": a defence that
only masks its gradients appears robust to attacks that follow them, and so does any network to an attack with a bug.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stochx.attacks import Attack, Context
from stochx.catalog import ATTACKS
from stochx.engine.ascent import loss_gradient
from stochx.engine.gradients import logits
from stochx.engine.judging import Judge, Verdict
from stochx.engine.losses import LOSSES, Goal
from stochx.engine.network.bpda import stand_ins
from stochx.engine.network.classifier import IMAGENET_MEAN, IMAGENET_STD, Classifier
from stochx.engine.network.derivative import REVERSED, comparable, slope_ratio
from stochx.engine.seeds import seeded
from stochx.engine.statistics import mean_difference, paired_p, wilson
from stochx.engine.threat import Ball
from stochx.errors import StochxError, quoted
from stochx.tasks.batches import Source, read_all
from stochx.tasks.planted import FOUND, TASKS, UNREADY, Planted, in_two_classes, planted

CHECKED = 64  # images to check
SLOPES = 16  # images whose gradients are compared with finite differences
DRAWS = 8  # draws of a stochastic network
JUDGING = 32  # draws of it that judge the same attack with more draws
MORE = 4  # times the draws of that attack
FEWEST = 16  # images that it attacks at least
ZERO = 0.05  # tolerated share of images without a gradient
LEFT = 0.05  # tolerated accuracy in a ball of the whole pixel range
BETTER = 0.1  # gain of accuracy by another normalisation above which the network's own is suspect
SURELY = 0.25  # the same above which it is surely wrong
NORMALISATIONS = {
    "ImageNet's": (IMAGENET_MEAN, IMAGENET_STD),
    "CIFAR-10's": ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
    "no": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "a [-1, 1]": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
GAIN = 0.02  # additional drop of accuracy by another attack above which an attack is weak
CHANCE = 0.05  # p-value below which it is so by more than chance
REFERENCES = ("pgd:steps=80,restarts=2", "apgd:steps=50,loss=margin")  # what an attack is compared with

Verdicts = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """An indicator: its name, verdict, observation and advice."""

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
    eot: int = 1,
    *,
    full: bool,
    secret: bool = True,
) -> list[Check]:
    """Run all checks of a finished evaluation; `full` ones attack again.

    `rows` are the table's, as dictionaries. Gradients are means over `eot` draws where an attack does not say
    otherwise. `secret`: attackers do not know the draws of the network's noise.
    """
    loaded = read_all(sources, range(min(CHECKED, len(sources))))
    items = [item for item in loaded if not isinstance(item, StochxError)]
    if not items:
        return []
    x = torch.stack([item.image for item in items]).to(model.mean)
    y = torch.tensor([item.label for item in items], device=x.device)
    with seeded(seed, "checks"):
        right = logits(model, x).argmax(1) == y
        basics = [_accuracy(model, rows), _normalisation(model, x, y, seed)]
    if not right.any():
        return basics
    places = right.nonzero().flatten()
    bench = _CorrectImages(
        model, x[places], y[places], [f"{seed}/{items[n].key}" for n in places.tolist()], ball, seed, eot
    )
    with seeded(seed, "checks"):
        checks = [*basics, _modes(model), _is_probability(model, x), _gradients(bench), _slope(bench), _rising(bench)]
    checks += [_one_step(rows), _whole_range(bench)]
    if model.noise != "none" and secret:  # known noise leaves no mean to estimate
        checks.append(_more_draws(bench, attacks, rows, full=full))
    if full:
        checks += _compare(bench, attacks, rows)
    return [check for check in checks if check is not None]


@dataclass(frozen=True)
class _CorrectImages:
    """Correctly classified images, on which the checks run attacks."""

    model: Classifier
    x: Tensor
    y: Tensor
    keys: Sequence[str]
    ball: Ball
    seed: int
    eot: int

    def __getitem__(self, part: slice) -> _CorrectImages:
        return replace(self, x=self.x[part], y=self.y[part], keys=self.keys[part])

    def right_under(self, text: str, ball: Ball | None = None) -> Tensor:
        """Return the share of draws (N,) that are right under the attack `text`."""
        cheap = replace(self, eot=min(self.eot, DRAWS))
        return cheap.verdict_under(ATTACKS.make(text), text, DRAWS, ball).right

    def verdict_under(self, attack: Attack, name: str, draws: int, ball: Ball | None = None) -> Verdict:
        """Return the verdict of fresh draws on the attacked images; `name` seeds the attack."""
        judge = Judge(self.model, self.y, None, draws, self.seed, "checks", self.model.noise != "none")
        context = Context(
            self.keys,
            wrong=None if judge.noisy else judge.wrong,
            pick=judge.score if judge.noisy else None,
            eot=self.eot,
        )
        with seeded(self.seed, "checks", name):
            attempt = attack(self.model, self.x, self.y, ball or self.ball, context)
        return judge.verdict(attempt.x, "judge")


def _accuracy(model: Classifier, rows: Sequence[Mapping[str, Any]]) -> Check:
    clean, high, chance = rows[0]["clean"], rows[0]["clean_high"], 1 / len(model.classes)
    guesses, surely = clean <= chance, high < min(2 * chance, 0.9 * chance + 0.1)
    return Check(
        name="accuracy",
        verdict="fail" if guesses and surely else "warn" if guesses or surely else "ok",
        text=f"the clean accuracy is {clean:.1%}; guessing gets {chance:.1%}",
        advice="attacking an untrained network is meaningless: check labels, classes and normalisation",
        value=clean,
    )


def _normalisation(model: Classifier, x: Tensor, y: Tensor, seed: int) -> Check:
    """Check that no other common normalisation makes the network better, by more than a few images may by chance."""
    own, others = (model.mean, model.std), {}

    def right() -> Tensor:
        with seeded(seed, "normalisation"):  # the same noise for all normalisations
            return (logits(model, x).argmax(1) == y).double()

    for name, values in NORMALISATIONS.items():
        try:
            model.mean, model.std = (torch.tensor(v).to(x).view(1, -1, 1, 1) for v in values)
            others[name] = right()
        finally:
            model.mean, model.std = own
    as_given = right()
    best = max(others, key=lambda name: float(others[name].sum()))
    share, accuracy = float(others[best].mean()), float(as_given.mean())
    wrong = share > accuracy + BETTER and paired_p((others[best] - as_given).tolist()) < 0.05
    text = f"with {best} normalisation {share:.1%} of {len(y)} images would be correct instead of {accuracy:.1%}"
    mean, std = (",".join(f"{v:g}" for v in values) for values in NORMALISATIONS[best])
    return Check(
        name="normalisation",
        verdict="ok" if not wrong else "fail" if share > accuracy + SURELY else "warn",
        text=text if wrong else "no other common normalisation makes the network better",
        advice=f"the pixels appear to be normalised incorrectly: try `--mean {mean} --std {std}`",
        value=share - accuracy,
    )


def _modes(model: Classifier) -> Check:
    training = [name for name, module in model.named_modules() if module.training]
    matters = model.noise == "none" and any(module.training and _acts_in_training(module) for module in model.modules())
    return Check(
        name="mode",
        verdict="fail" if matters else "warn" if training else "ok",
        text=f"{len(training)} modules are in train mode" if training else "the network is in eval mode",
        advice="in train mode images of a batch affect each other: call `eval()`",
        value=len(training),
    )


def _acts_in_training(module: nn.Module) -> bool:
    """Return True for batch norms, and for dropout that drops anything."""
    dropout = isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
    return dropout or isinstance(module, nn.modules.batchnorm._BatchNorm)


def _is_probability(model: Classifier, x: Tensor) -> Check:
    out = logits(model, x)
    sums = bool(((out.sum(1) - 1).abs() < 1e-3).all() and (out >= 0).all())
    return Check(
        name="logits",
        verdict="fail" if sums else "ok",
        text="the network returns probabilities" if sums else "the network returns logits",
        advice="remove the softmax: its gradients vanish for confident predictions, and losses apply it again",
    )


def _gradients(bench: _CorrectImages) -> Check:
    evaluation = loss_gradient(bench.model, bench.x, Goal(bench.y), LOSSES["ce"])
    none = float((evaluation.gradient.flatten(1).abs().amax(1) == 0).double().mean())
    share = float((evaluation.gradient == 0).double().mean())
    return Check(
        name="gradients",
        verdict="fail" if none > 0.5 else "warn" if none > ZERO or share > 0.5 else "ok",
        text=f"{none:.1%} of the images have no gradient; {share:.1%} of all gradient values are zero",
        advice="use `loss=margin` or `loss=dlr`, and `square`, which needs no gradients",
        value=none,
    )


def _slope(bench: _CorrectImages) -> Check:
    """Compare gradients with finite differences, see `slope_ratio`."""
    with comparable(bench.model):
        ratio = slope_ratio(bench.model, bench.x[:SLOPES])
    backwards = float((ratio < REVERSED).double().mean())
    follows = float(((ratio > 0.5) & (ratio < 2)).double().mean())
    layers = quoted([*stand_ins(bench.model.network)])
    twin = f"; this is the network in which the stand-ins of {layers} run forward too" if layers else ""
    return Check(
        name="derivative",
        verdict="fail" if backwards > ZERO else "warn" if follows < 0.5 else "ok",
        text=f"short steps along the gradient change the outputs as predicted for {follows:.1%} of the images, "
        f"the opposite way for {backwards:.1%}{twin}",
        advice="the gradient is not the derivative of the outputs: mend the backward pass, or give the layer "
        "another one (`stochx.bpda`), and add `square`",
        value=follows,
    )


def _rising(bench: _CorrectImages) -> Check | None:
    if not bench.ball.eps:
        return None
    loss, points = LOSSES["ce"], bench.x
    draws = DRAWS if bench.model.noise != "none" else 1
    before = evaluation = loss_gradient(bench.model, points, Goal(bench.y), loss, draws)
    for _ in range(5):
        points = bench.ball.project(points + bench.ball.eps / 4 * bench.ball.ascent(evaluation.gradient), bench.x)
        evaluation = loss_gradient(bench.model, points, Goal(bench.y), loss, draws)
    rises = float((evaluation.loss > before.loss).double().mean())
    return Check(
        name="ascent",
        verdict="ok" if rises > 0.9 else "warn" if rises > 0.5 else "fail",
        text=f"five gradient steps increase the loss of {rises:.1%} of the images",
        advice="the gradients mislead the attack: use smaller steps, more draws (`eot`), or `square`",
        value=rises,
    )


def _one_step(rows: Sequence[Mapping[str, Any]]) -> Check | None:
    robust = {
        row["attack"]: row["robust"]
        for row in rows
        if row["model"] == rows[0]["model"]
        and row["attack"].partition(":")[0] in ATTACKS  # leaves out the worst case over attacks
    }
    single = [value for text, value in robust.items() if ATTACKS.declares(text, "single_step")]
    iterated = [value for text, value in robust.items() if ATTACKS.declares(text, "iterated")]
    if not single or not iterated:
        return None
    gain = min(single) - min(iterated)
    return Check(
        name="iterating",
        verdict="ok" if gain >= 0 else "warn" if gain > -GAIN else "fail",
        text=f"the accuracy is {min(iterated):.3f} under iterated attacks and {min(single):.3f} under a single step",
        advice="an iterated attack that is weaker than a single step follows misleading gradients: look for masking",
        value=gain,
    )


def _whole_range(bench: _CorrectImages) -> Check:
    eps = {"linf": 1.0, "l2": float(bench.x[0].numel()) ** 0.5, "l1": float(bench.x[0].numel())}[bench.ball.norm]
    accuracy = float(bench.right_under("pgd:steps=20,step=0.25", replace(bench.ball, eps=eps)).mean())
    chance = 1 / len(bench.model.classes)
    return Check(
        name="unbounded",
        verdict="ok" if accuracy <= max(LEFT, chance) else "fail",
        text=f"with perturbations over the whole pixel range, {accuracy:.1%} of the images stay correct",
        advice="no network can withstand that: the attack fails because gradients are masked",
        value=accuracy,
    )


def _compare(
    bench: _CorrectImages, attacks: Mapping[str, Attack], rows: Sequence[Mapping[str, Any]]
) -> list[Check | None]:
    """Try the user's strongest attack against others, and on planted examples; PGD where none follows gradients."""
    blind = {name: attack for name, attack in attacks.items() if _declares(attack, "black_box")}
    white = {name: attack for name, attack in attacks.items() if name not in blind}
    best = _strongest(white, rows)
    right = bench.verdict_under(white[best], best, DRAWS).right if best else bench.right_under("pgd")
    checks: list[Check | None] = [_black_box(bench, right)]
    if best:
        return [*checks, _converged(bench, best, right), _planted(bench, best, white[best])]
    alone = _strongest({name: one for name, one in blind.items() if not _declares(one, "needs_source")}, rows)
    if alone:
        checks.append(_converged(bench, alone, bench.verdict_under(blind[alone], alone, DRAWS).right))
    return checks


def _strongest(attacks: Mapping[str, Attack], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the attack that leaves the first network the lowest accuracy; empty where there is none."""
    robust = [(row["robust"], row["attack"]) for row in rows if row["model"] == rows[0]["model"]]
    return min(((value, name) for value, name in robust if name in attacks), default=(0.0, ""))[1]


def _declares(attack: Attack, key: str) -> bool:
    return getattr(attack, key, False)


def _black_box(bench: _CorrectImages, right: Tensor) -> Check:
    """Compare the strongest attack, which leaves `right` (N,), with one that needs no gradients."""
    blind = bench.right_under("random:tries=200" if bench.ball.norm == "l1" else "square:queries=1000")
    white, black = float(right.mean()), float(blind.mean())
    return Check(
        name="black box",
        verdict=_weaker(right - blind),
        text=f"on {len(bench.y)} images the white-box accuracy is {white:.3f}, the black-box accuracy {black:.3f}",
        advice="a white-box attack must not be weaker: gradients are masked; report the black-box result",
        value=white - black,
    )


def _converged(bench: _CorrectImages, name: str, right: Tensor) -> Check:
    """Compare the attack `name`, which leaves `right` (N,), with long runs of others."""
    others = {text: bench.right_under(text) for text in REFERENCES}
    reference = min(others, key=lambda text: float(others[text].mean()))
    accuracy, lower = float(right.mean()), float(others[reference].mean())
    return Check(
        name="converged",
        verdict=_weaker(right - others[reference]),
        text=f"on {len(bench.y)} images the accuracy is {accuracy:.3f} under `{name}`, {lower:.3f} under `{reference}`",
        advice="the attack has not converged, or has a flaw: increase `steps` and `restarts` until the result is "
        "stable, and report the lowest accuracy",
        value=accuracy - lower,
    )


def _weaker(gap: Tensor) -> Verdicts:
    """Judge an attack by what each image (N,) loses under another one: by chance, noticeably, or significantly."""
    if float(gap.mean()) <= GAIN:
        return "ok"
    return "fail" if paired_p(gap.tolist()) < CHANCE else "warn"


def _planted(bench: _CorrectImages, name: str, attack: Attack) -> Check | None:
    """See if the strongest attack finds planted adversarial examples, see `planted`."""
    if not bench.ball.eps:
        return None
    count = TASKS if bench.model.noise == "none" else TASKS // 2
    few = bench[:count]
    result = planted(few.model, in_two_classes(attack), few.x, few.keys, few.ball, few.seed, few.eot)
    if result is None:
        return Check("planted", "ok", "not applicable: the last layer of the network is not linear", "")
    if result.failed > UNREADY * (result.tasks + result.failed):
        return Check(
            name="planted",
            verdict="warn",
            text=f"not applicable: no example could be planted around {result.failed} of {count} images"
            f"{'' if bench.model.noise == 'none' else ' at this degree of noise'}",
            advice="compare with other attacks instead, and increase the radius",
        )
    return Check(
        name="planted",
        verdict=_finds(result),
        text=f"`{name}` finds an adversarial example that is known to exist on {result.found} of {result.tasks} tasks, "
        f"random search on {result.by_chance}",
        advice=_on_planted(result),
        value=result.found / result.tasks,
    )


def _finds(result: Planted) -> Verdicts:
    if wilson(result.found, result.tasks).high < FOUND:
        return "fail"
    proves = result.found >= FOUND * result.tasks and result.by_chance <= result.found / 2
    return "ok" if proves else "warn"


def _on_planted(result: Planted) -> str:
    if result.found >= FOUND * result.tasks:
        return "random points find as much: check at a smaller radius, where that is harder"
    return (
        "the attack misses adversarial examples that exist, so the accuracy under it is too high: check its loss and "
        "steps, and the gradients of the network; add `square`"
    )


def _more_draws(
    bench: _CorrectImages, attacks: Mapping[str, Attack], rows: Sequence[Mapping[str, Any]], *, full: bool
) -> Check | None:
    """Repeat the strongest attack that averages over draws with `MORE` times as many.

    Both are judged on the same fresh draws, so that the difference of an image has little noise. A quick check sees so
    few images that it costs about as much as the evaluation, but all where the attack takes fewer draws than needed.
    """
    robust = {row["attack"]: row["robust"] for row in rows if row["model"] == rows[0]["model"]}
    averaging = [text for text, attack in attacks.items() if hasattr(attack, "eot") and text in robust]
    if not averaging:
        return None
    text = min(averaging, key=lambda name: robust[name])
    attack: Any = attacks[text]
    draws = attack.eot or bench.eot
    some = bench if full or draws < bench.eot else bench[: max(FEWEST, rows[0]["n"] // MORE)]
    few, many = (
        some.verdict_under(replace(attack, eot=count), text, JUDGING).right.tolist() for count in (draws, MORE * draws)
    )
    gain = mean_difference([a - b for a, b in zip(few, many, strict=True)])
    significant = gain.mean > GAIN and gain.low > 0
    return Check(
        name="expectation",
        verdict="fail" if significant else "warn" if gain.mean > GAIN else "ok",
        text=f"with gradients over {MORE * draws} draws instead of {draws} the accuracy under `{text}` falls by "
        f"{gain.mean:.3f} ({gain.low:+.3f} to {gain.high:+.3f}) on {gain.n} images",
        advice="more draws still help the attack: increase `eot` until the result is stable",
        value=gain.mean,
    )
