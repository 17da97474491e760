"""Randomised ensembles as model arguments: `A+B`, or `0.9*A+0.1*B`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from stochx.classes import in_order_of
from stochx.engine.io.fingerprints import union
from stochx.engine.io.images import shape_text
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.ensemble import RandomEnsemble
from stochx.errors import InputError, UsageError
from stochx.facts import Fact, classes_fact, input_fact
from stochx.input_files import exists
from stochx.network_files import file_and_part


@dataclass(frozen=True)
class Part:
    """A member as it is typed, and its chance."""

    model: str
    chance: float


def ensemble_parts(text: str) -> list[Part] | None:
    """Return the parts of `A+B` or `0.9*A+0.1*B`; None for a single network, such as a file with `+` in its name.

    Of texts between plus signs that together name a file, the file wins. Without chances all are equal. Raises
    `UsageError` for chances that are not positive, not all given, or do not sum to 1.
    """
    pieces = text.split("+")
    if len(pieces) == 1 or _is_file(text):
        return None
    members = list[str]()
    while pieces:
        joined = ["+".join(pieces[:count]) for count in range(len(pieces), 0, -1)]
        members.append(next((name for name in joined if _is_file(_split(name)[1])), pieces[0]))
        pieces = pieces[members[-1].count("+") + 1 :]
    if len(members) == 1 and not _split(members[0])[0]:
        return None
    if not all(_split(member)[1] for member in members):
        raise UsageError(f"`{text}` has an empty part", "write `a.safetensors+b.safetensors`")
    given = [_split(member)[0] for member in members]
    if any(given) != all(given):
        raise UsageError(f"`{text}` gives some chances, but not all", "write `0.9*A+0.1*B`, or `A+B` for equal ones")
    chances = [float(chance) for chance in given] if all(given) else [1 / len(members)] * len(members)
    if min(chances) <= 0 or not math.isclose(sum(chances), 1, abs_tol=1e-6):
        raise UsageError(
            f"the chances in `{text}` sum to {sum(chances):.6g}" if min(chances) > 0 else f"`{text}`: a chance is 0",
            "write positive ones that sum to 1, such as `0.9*A+0.1*B`",
        )
    return [Part(_split(member)[1], chance) for member, chance in zip(members, chances, strict=True)]


def _split(member: str) -> tuple[str, str]:
    """Return the chance, empty if there is none, and the model of `0.9*A`."""
    match = re.fullmatch(r"(\d*\.?\d+)\*(.*)", member)
    return ("", member) if match is None else (match[1], match[2])


def _is_file(text: str) -> bool:
    return bool(text) and exists(file_and_part(text)[0])


def make_ensemble(text: str, parts: Sequence[Part], members: Sequence[Classifier]) -> Classifier:
    """Return the randomised ensemble of networks with the classes of the first, in its order.

    Each member normalises by itself. Raises `InputError` for other classes, other input sizes, and stochastic members.
    """
    first = members[0]
    for part, member in zip(parts, members, strict=True):
        if member.noise != "none":
            raise InputError(
                f"`{part.model}` in the ensemble is stochastic itself", "use networks without noise, which are drawn"
            )
        if member.preparation != first.preparation:
            raise InputError(
                f"`{part.model}` takes images of {shape_text(member.input_shape)} that are prepared otherwise than for "
                f"`{parts[0].model}`, of {shape_text(first.input_shape)}",
                "use networks of one input size, or give `--size`",
            )
    others = zip(parts[1:], members[1:], strict=True)
    alike = [first, *(_with_classes_of(first, member, part.model, parts[0].model) for part, member in others)]
    network = RandomEnsemble(alike, [part.chance for part in parts])
    model = Classifier(
        network, first.classes, first.preparation, arch=text, noise="sample", noises="ensemble", channels=first.channels
    )
    model.guessed_classes = first.guessed_classes
    known = [member.trained for member in members if member.trained is not None]
    model.trained = union(*known) if known else None
    return model.to(first.mean.device).eval().requires_grad_(False)


def _with_classes_of(first: Classifier, member: Classifier, name: str, first_name: str) -> Classifier:
    if len(member.classes) != len(first.classes):
        reason = f"{len(member.classes)} and {len(first.classes)} classes"
    else:
        try:
            return in_order_of(first, member, name)
        except InputError:
            reason = "other classes"
    raise InputError(
        f"`{name}` and `{first_name}` have {reason}", "an ensemble needs networks of the same classes"
    ) from None


def ensemble_facts(model: Classifier, parts: Sequence[Part]) -> list[Fact]:
    """Return what is known of an ensemble."""
    members = [Fact("member", f"{part.model}, chance {part.chance:.4g}", "given") for part in parts]
    count = sum(p.numel() for p in model.parameters())
    return [
        Fact("architecture", model.arch, "given"),
        *members,
        classes_fact(model, "measured"),
        input_fact(model, "measured"),
        Fact("parameters", f"{count:,}", "measured"),
        Fact("noise", model.noise, "given"),
    ]
