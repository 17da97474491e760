"""Checks of the attacks of an evaluation: their results beside each other, and those of more attacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from stochx.attacks import Attack
from stochx.engine.statistics import mean_difference, paired_p, wilson
from stochx.tasks.correct_images import DRAWS, Check, CorrectImages, Verdicts
from stochx.tasks.planted import FOUND, TASKS, UNREADY, Planted, in_two_classes, planted

JUDGING = 32  # draws of a stochastic network that judge the same attack with more draws
MORE = 4  # times the draws of the strongest attack, with which it is repeated
FEWEST = 8  # images on which it is repeated at least
SMALL_STEPS = "pgd:steps=100,step=0.02,random_start=false"  # a path through the whole pixel range
LEFT = 0.05  # tolerated accuracy in a ball of the whole pixel range
GAIN = 0.02  # additional drop of accuracy by another attack above which an attack is weak
CHANCE = 0.05  # p-value below which it is so by more than chance
REFERENCES = ("pgd:steps=80,restarts=2", "apgd:steps=50,loss=margin")  # what an attack is compared with


def check_iterating(attacks: Mapping[str, Attack], rows: Sequence[Mapping[str, Any]]) -> Check | None:
    """Check that many steps are at least as strong as a single one."""
    robust = _robust(attacks, rows)
    single = [value for name, value in robust.items() if _declares(attacks[name], "single_step")]
    iterated = [value for name, value in robust.items() if _declares(attacks[name], "iterated")]
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


def check_unbounded(bench: CorrectImages) -> Check:
    """Check that perturbations over the whole pixel range succeed.

    Large steps lead at once to black and white pixels, where some networks see one class whatever the image is, and no
    gradient leaves. So the images that large steps leave are attacked again by small ones, which start at the image: on
    masked gradients these do not move.
    """
    eps = {"linf": 1.0, "l2": float(bench.x[0].numel()) ** 0.5, "l1": float(bench.x[0].numel())}[bench.ball.norm]
    everything = replace(bench.ball, eps=eps)
    right = bench.right_under("pgd:steps=20,step=0.25", everything)
    left = right.nonzero().flatten().tolist()
    if left:
        right[left] = torch.minimum(right[left], bench[left].right_under(SMALL_STEPS, everything))
    accuracy, chance = float(right.mean()), 1 / len(bench.model.classes)
    return Check(
        name="unbounded",
        verdict="ok" if accuracy <= max(LEFT, chance) else "fail",
        text=f"with perturbations over the whole pixel range, {accuracy:.1%} of the images stay correct",
        advice="no network can withstand that: the attack fails because gradients are masked",
        value=accuracy,
    )


def check_against_others(
    bench: CorrectImages, attacks: Mapping[str, Attack], rows: Sequence[Mapping[str, Any]]
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
    robust = _robust(attacks, rows)
    return min(robust, key=lambda name: robust[name], default="")


def _robust(attacks: Mapping[str, Attack], rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the accuracy that each attack leaves the first network, the lowest of a sweep."""
    own = [row for row in rows if row["model"] == rows[0]["model"]]
    return {
        name: min(row["robust"] for row in own if row["attack"] == name)
        for name in attacks
        if any(row["attack"] == name for row in own)
    }


def _declares(attack: Attack, key: str) -> bool:
    return getattr(attack, key, False)


def _black_box(bench: CorrectImages, right: Tensor) -> Check:
    """Compare the strongest attack, which leaves `right` (N,), with one that needs no gradients."""
    blind = bench.right_under("square:queries=1000")
    white, black = float(right.mean()), float(blind.mean())
    return Check(
        name="black box",
        verdict=_weaker(right - blind),
        text=f"on {len(bench.y)} images the white-box accuracy is {white:.3f}, the black-box accuracy {black:.3f}",
        advice="a white-box attack must not be weaker: gradients are masked; report the black-box result",
        value=white - black,
    )


def _converged(bench: CorrectImages, name: str, right: Tensor) -> Check:
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


def _planted(bench: CorrectImages, name: str, attack: Attack) -> Check | None:
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


def check_expectation(
    bench: CorrectImages, attacks: Mapping[str, Attack], rows: Sequence[Mapping[str, Any]], *, full: bool
) -> Check | None:
    """Repeat the strongest attack that averages over draws with `MORE` times as many.

    Both are judged on the same fresh draws, so that the difference of an image has little noise. A quick check sees so
    few images that it costs about as much as the evaluation, but all where the attack takes fewer draws than needed.
    """
    text = _strongest({name: attack for name, attack in attacks.items() if hasattr(attack, "eot")}, rows)
    if not text:
        return None
    attack: Any = attacks[text]
    draws = attack.eot or bench.eot
    some = bench if full or draws < bench.eot else bench[: max(FEWEST, rows[0]["n"] // MORE)]
    few, many = (
        some.verdict_under(replace(attack, eot=count), text, JUDGING).right.tolist() for count in (draws, MORE * draws)
    )
    falls = [a - b for a, b in zip(few, many, strict=True)]
    gain, chance = mean_difference(falls), paired_p(falls) / 2  # one-sided: more draws are not expected to do harm
    return Check(
        name="expectation",
        verdict="ok" if not gain.mean > GAIN else "fail" if chance < CHANCE else "warn",
        text=f"with gradients over {MORE * draws} draws instead of {draws} the accuracy under `{text}` falls by "
        f"{gain.mean:.3f} ({gain.low:+.3f} to {gain.high:+.3f}, p = {chance:.2g}) on {gain.n} images",
        advice="more draws still help the attack: increase `eot` until the result is stable",
        value=gain.mean,
    )
