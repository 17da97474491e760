"""Checks of a network, and of the gradients that attacks follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from stochx.engine.ascent import loss_gradient
from stochx.engine.device import as_float64, in_batches
from stochx.engine.gradients import logits
from stochx.engine.losses import LOSSES, Goal
from stochx.engine.network.bpda import stand_ins
from stochx.engine.network.classifier import IMAGENET_MEAN, IMAGENET_STD, Classifier, fitting
from stochx.engine.network.derivative import REVERSED, comparable, slope_ratio
from stochx.engine.seeds import seeded
from stochx.engine.statistics import paired_p
from stochx.errors import quoted
from stochx.tasks.correct_images import DRAWS, Check, CorrectImages

SLOPES = 16  # images whose gradients are compared with finite differences
ZERO = 0.05  # tolerated share of images without a gradient
BETTER = 0.1  # gain of accuracy by another normalisation above which the network's own is suspect
SURELY = 0.25  # the same above which it is surely wrong
NORMALISATIONS = {
    "ImageNet's": (IMAGENET_MEAN, IMAGENET_STD),
    "CIFAR-10's": ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
    "no": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "a [-1, 1]": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def check_accuracy(model: Classifier, rows: Sequence[Mapping[str, Any]]) -> Check:
    """Check that the network does not guess."""
    clean, high, chance = rows[0]["clean"], rows[0]["clean_high"], 1 / len(model.classes)
    guesses, surely = clean <= chance, high < min(2 * chance, 0.9 * chance + 0.1)
    return Check(
        name="accuracy",
        verdict="fail" if guesses and surely else "warn" if guesses or surely else "ok",
        text=f"the clean accuracy is {clean:.1%}; guessing gets {chance:.1%}",
        advice="attacking an untrained network is meaningless: check labels, classes and normalisation",
        value=clean,
    )


def check_normalisation(model: Classifier, x: Tensor, y: Tensor, seed: int) -> Check:
    """Check that no other common normalisation makes the network better, by more than a few images may by chance."""
    own, others = (model.mean, model.std), {}

    def right() -> Tensor:
        with seeded(seed, "normalisation"):  # the same noise for all normalisations
            return as_float64(logits(model, x).argmax(1) == y)

    fitted = {name: fitting(*values, model.channels) for name, values in NORMALISATIONS.items()}
    usual = {name: values for name, values in fitted.items() if len(values[0]) in (1, model.channels)}
    for name, values in usual.items():
        try:
            model.normalise_by(*values)
            others[name] = right()
        finally:
            model.mean, model.std = own
    as_given = right()
    best = max(others, key=lambda name: float(others[name].sum()))
    share, accuracy = float(others[best].mean()), float(as_given.mean())
    wrong = share > accuracy + BETTER and paired_p((others[best] - as_given).tolist()) < 0.05
    text = f"with {best} normalisation {share:.1%} of {len(y)} images would be correct instead of {accuracy:.1%}"
    mean, std = (",".join(f"{v:g}" for v in values) for values in usual[best])
    return Check(
        name="normalisation",
        verdict="ok" if not wrong else "fail" if share > accuracy + SURELY else "warn",
        text=text if wrong else "no other common normalisation makes the network better",
        advice=f"the pixels appear to be normalised incorrectly: try `--mean {mean} --std {std}`",
        value=share - accuracy,
    )


def check_mode(model: Classifier) -> Check:
    """Check that no part of the network is in train mode."""
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


def check_logits(model: Classifier, x: Tensor) -> Check:
    """Check that the outputs are not probabilities."""
    out = logits(model, x)
    sums = bool(((out.sum(1) - 1).abs() < 1e-3).all() and (out >= 0).all())
    return Check(
        name="logits",
        verdict="fail" if sums else "ok",
        text="the network returns probabilities" if sums else "the network returns logits",
        advice="remove the softmax: its gradients vanish for confident predictions, and losses apply it again",
    )


def check_gradients(bench: CorrectImages) -> Check:
    """Check that the images have a gradient."""
    evaluation = loss_gradient(bench.model, bench.x, Goal(bench.y), LOSSES["ce"])
    none = float(as_float64(evaluation.gradient.flatten(1).abs().amax(1) == 0).mean())
    share = float(as_float64(evaluation.gradient == 0).mean())
    return Check(
        name="gradients",
        verdict="fail" if none > 0.5 else "warn" if none > ZERO or share > 0.5 else "ok",
        text=f"{none:.1%} of the images have no gradient; {share:.1%} of all gradient values are zero",
        advice="use `loss=margin` or `loss=dlr`, and `square`, which needs no gradients",
        value=none,
    )


def check_derivative(bench: CorrectImages) -> Check:
    """Compare gradients with finite differences, see `slope_ratio`."""
    x = bench.x[:SLOPES]
    ratio = x.new_empty(len(x))

    def compare(start: int, stop: int) -> None:
        ratio[start:stop] = slope_ratio(bench.model, x[start:stop])

    with comparable(bench.model):
        in_batches(len(x), SLOPES, compare)
    backwards = float(as_float64(ratio < REVERSED).mean())
    follows = float(as_float64((ratio > 0.5) & (ratio < 2)).mean())
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


def check_ascent(bench: CorrectImages) -> Check | None:
    """Check that a few gradient steps raise the loss."""
    if not bench.ball.eps:
        return None
    loss, points = LOSSES["ce"], bench.x
    draws = DRAWS if bench.model.noise != "none" else 1
    before = evaluation = loss_gradient(bench.model, points, Goal(bench.y), loss, draws)
    for _ in range(5):
        points = bench.ball.project(points + bench.ball.eps / 4 * bench.ball.ascent(evaluation.gradient), bench.x)
        evaluation = loss_gradient(bench.model, points, Goal(bench.y), loss, draws)
    rises = float(as_float64(evaluation.loss > before.loss).mean())
    return Check(
        name="ascent",
        verdict="ok" if rises > 0.9 else "warn" if rises > 0.5 else "fail",
        text=f"five gradient steps increase the loss of {rises:.1%} of the images",
        advice="the gradients mislead the attack: use smaller steps, more draws (`eot`), or `square`",
        value=rises,
    )
