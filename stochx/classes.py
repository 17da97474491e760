"""Match the classes of a data set with those of a network: by name, and by place only where one side has no names."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from stochx.engine.io.data import Data
from stochx.engine.io.wnids import WNIDS
from stochx.engine.network.classifier import Classifier
from stochx.errors import InputError, quoted
from stochx.presets import imagenet_classes

SHOWN = 3  # names in a command to type
SYNONYMS = {"airplane": "plane", "aeroplane": "plane", "automobile": "car"}  # names of CIFAR-10's classes in tutorials

log = logging.getLogger("stochx")


def with_classes_of(model: Classifier, data: Data, name: str) -> Data:
    """Return `data` with the classes of the network, and labels that are indices of its outputs.

    Classes without images need no counterpart. If the network only numbers its classes, or their names are a guess
    that does not fit, and the data set has as many, it takes the data set's names. `name` is the data set's in
    messages. Raises `InputError` for data without labels, and for classes that are unknown or ambiguous.
    """
    if data.labels is None:
        raise InputError(f"`{name}` has no labels", "use class folders, or an npz with `labels`")
    labels = [int(label) for label in data.labels]
    used = sorted({*labels})
    count = len(model.classes)
    if takes_names(model.classes, data.classes):
        model.classes = data.classes
    elif are_numbers(model.classes) and len(data.classes) == count and not are_numbers(data.classes):
        _warn_of_order(data.classes, name)
    elif model.guessed_classes and len(data.classes) == count:
        try:
            match_classes(data.classes, model.classes, used, name)
        except InputError:
            log.warning("the network's class names are not in its file: it gets those of `%s`, in their order", name)
            model.classes, model.guessed_classes = data.classes, False
    outputs = match_classes(data.classes, model.classes, used, name)
    return dataclasses.replace(data, labels=[outputs[label] for label in labels], classes=model.classes)


def match_classes(classes: Sequence[str], outputs: Sequence[str], used: Sequence[int], name: str) -> dict[int, int]:
    """Return the place among a network's `outputs` of every class in `used`, indices of the data set's `classes`.

    Names match exactly, else without case, spaces, underscores and hyphens, else as ImageNet's classes, by name or
    WordNet id. Numbers match numbers, whatever their order; beside names, 0, 1, 2, ... are places.
    """
    if tuple(classes) == tuple(outputs):
        return {label: label for label in used}
    places_of = _numbered(classes, outputs)
    if places_of is not None:
        return {label: places_of[label] for label in used}
    if are_numbers(outputs) or are_numbers(classes):
        return _by_place(classes, outputs, used, name)
    places: dict[int, list[int]] = {}
    for keys_of in KEYS:
        known = defaultdict[Hashable, list[int]](list)
        for place, key in enumerate(keys_of(outputs)):
            known[key].append(place)
        keys = keys_of(classes)
        for label in used:
            if not places.get(label) and keys[label] is not None:
                places[label] = known[keys[label]]
    unknown = [classes[label] for label in used if not places.get(label)]
    if unknown:
        raise InputError(
            f"the network does not know {len(unknown)} of {len(used)} classes of `{name}`: {quoted(unknown)}",
            f"its classes are {quoted(outputs)}: rename those of the data, or leave them out",
        )
    ambiguous = [classes[label] for label in used if len(places[label]) > 1]
    if ambiguous:
        raise InputError(
            f"several classes of the network fit {quoted(ambiguous)} of `{name}`", "use WordNet ids, or unique names"
        )
    counts = Counter(places[label][0] for label in used)
    same = [classes[label] for label in used if counts[places[label][0]] > 1]
    if same:
        raise InputError(f"{quoted(same)} of `{name}` are one class of the network", "merge them")
    return {label: places[label][0] for label in used}


def in_order_of(model: Classifier, source: Classifier, name: str) -> Classifier:
    """Return `source`, the network `name`, with the outputs for the classes of `model`, in its order.

    Raises `InputError` for a source that lacks some of them.
    """
    classes = [*range(len(model.classes))]
    outputs = tuple(map(str, range(len(source.classes)))) if source.guessed_classes else source.classes
    try:
        places = match_classes(model.classes, outputs, classes, name)
    except InputError as error:
        raise InputError(
            f"`{name}` cannot stand in for the network: {error}", "use one with the same classes"
        ) from None
    order = [places[label] for label in classes]
    if order == [*range(len(source.classes))]:
        return source
    reordered = nn.Sequential(source.network, _Outputs(order))
    mean, std = (values.flatten().tolist() for values in (source.mean, source.std))
    facts = source.arch, source.noise, source.noises
    made = Classifier(reordered, model.classes, source.preparation, mean, std, *facts, channels=source.channels)
    return made.to(source.mean.device).eval()


class _Outputs(nn.Module):
    """Some outputs of a network (N, K), in another order."""

    def __init__(self, order: Sequence[int]) -> None:
        super().__init__()
        self.order = list(order)

    def forward(self, logits: Tensor) -> Tensor:
        return logits[:, self.order]


@dataclass(frozen=True)
class Matching:
    """The outputs of a network that the classes of a data set belong to, by name or by place; or why there are none."""

    how: Literal["by name", "by place", "refused"]
    places: Mapping[int, int]  # class of the data set -> output
    reason: str = ""
    hint: str = ""


def matching(model: Classifier, data: Data, name: str) -> Matching:
    """Return how `with_classes_of` matches `data`, for display; the network gets the same names."""
    before = model.classes
    try:
        matched = with_classes_of(model, data, name)
    except InputError as error:
        return Matching("refused", {}, str(error), error.hint)
    pairs = {int(a): int(b) for a, b in zip(data.labels or (), matched.labels or (), strict=True)}
    by_place = model.classes != before or are_numbers(before) or are_numbers(data.classes)
    return Matching("by place" if by_place else "by name", dict(sorted(pairs.items())))


def in_both(names: Sequence[str], others: Iterable[str]) -> list[str]:
    """Return the names that are among `others`, without case, spaces, underscores and hyphens."""
    known = {_fold(name) for name in others} - {None}
    return [name for name in names if _fold(name) in known]


def are_numbers(names: Sequence[str]) -> bool:
    """Return true for classes without names, which are called 0, 1, 2, ..."""
    return all(name == str(place) for place, name in enumerate(names))


def takes_names(outputs: Sequence[str], classes: Sequence[str]) -> bool:
    """Return true if a network without names gets those of a data set: of as many classes, and no numbers of outputs.

    Folders called 0, 1, 10, 2, ... come in the order of text, but say themselves which outputs they are.
    """
    return are_numbers(outputs) and len(classes) == len(outputs) and _numbered(classes, outputs) is None


def _numbered(classes: Sequence[str], outputs: Sequence[str]) -> list[int] | None:
    """Return the places of classes that are numbers as outputs are, or are all of 0, 1, 2, ...; else None."""
    numbers, others = _numbers(classes), _numbers(outputs)
    if numbers is None:
        return None
    if others is not None:
        place = {number: i for i, number in enumerate(others)}
        return [place[number] for number in numbers] if place.keys() >= {*numbers} else None
    return numbers if sorted(numbers) == [*range(len(numbers))] and len(numbers) <= len(outputs) else None


def _numbers(names: Sequence[str]) -> list[int] | None:
    """Return the values of names that are different whole numbers, such as `7` or `007`; None for others."""
    if not all(name.isascii() and name.isdecimal() for name in names):
        return None
    numbers = [int(name) for name in names]
    return numbers if len({*numbers}) == len(numbers) else None


def _warn_of_order(classes: Sequence[str], name: str) -> None:
    """Say by which numbers classes are matched, where those who count folders in the order of names mean others."""
    numbers = _numbers(classes) or []
    moved = next((i for i, number in enumerate(numbers) if number != i), None)
    if moved is not None:
        log.warning(
            "`%s`: class `%s` is output %d, by its number; if the network counts classes in the order of names, "
            "where it is %d, give `--classes %s`",
            name,
            classes[moved],
            numbers[moved],
            moved,
            ",".join(classes) if len(classes) <= 2 * SHOWN else f"{','.join(classes[:SHOWN])},...",
        )


def _by_place(classes: Sequence[str], outputs: Sequence[str], used: Sequence[int], name: str) -> dict[int, int]:
    """Take classes by their places: numbers that are among the outputs, or names where there are as many outputs."""
    if not (are_numbers(classes) and max(used, default=0) < len(outputs)) and len(classes) != len(outputs):
        raise InputError(
            f"`{name}` has {len(classes)} classes, the network has {len(outputs)}, and not both have names",
            "use the data set that it was trained on",
        )
    return {label: label for label in used}


def _exact_keys(names: Sequence[str]) -> list[Hashable]:
    return [*names]


def _folded_keys(names: Sequence[str]) -> list[Hashable]:
    return [_fold(name) for name in names]


def _imagenet_keys(names: Sequence[str]) -> list[Hashable]:
    """Return the indices in ILSVRC2012 of WordNet ids, and of names that belong to one of its classes alone."""
    if tuple(names) == imagenet_classes():
        return [*range(len(names))]
    known = defaultdict[Hashable, list[int]](list)
    for place, name in enumerate(imagenet_classes()):
        known[_fold(name)].append(place)
    ids = {wnid: place for place, wnid in enumerate(WNIDS)}
    return [ids[n] if n in ids else known[_fold(n)][0] if len(known[_fold(n)]) == 1 else None for n in names]


KEYS: tuple[Callable[[Sequence[str]], list[Hashable]], ...] = (_exact_keys, _folded_keys, _imagenet_keys)


def _fold(name: str) -> Hashable:
    """Return a name without case, spaces, underscores and hyphens; None if nothing else is left."""
    letters = re.sub(r"[\W_]+", "", name.casefold())
    return SYNONYMS.get(letters, letters) or None
