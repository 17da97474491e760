"""The networks and images of `stochx boundary`: whether they fit together, and the planes through them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from stochx.classes import are_numbers, with_classes_of
from stochx.engine.io.data import Data, Item
from stochx.engine.io.images import shape_text
from stochx.engine.network.classifier import Classifier
from stochx.engine.plane import Plane
from stochx.errors import InputError, UsageError
from stochx.reports.maps import file_names
from stochx.runs.watch import Watch
from stochx.settings import Boundary
from stochx.tasks.batches import Failed
from stochx.tasks.planes import make_plane


@dataclass(frozen=True)
class View:
    """A plane, its name in files, and the images that it is made of, whose labels are among `classes`."""

    name: str
    plane: Plane
    items: Sequence[Item]
    classes: Sequence[str]


def make_views(settings: Boundary, first: Classifier, data: Data, watch: Watch) -> tuple[list[View], list[Failed]]:
    """Return the planes, by directions of the `first` network, and images that would be in them but cannot be read.

    An image that is named must be readable; of those that are not, the next one of the class takes the place.
    """
    try:
        data = with_classes_of(first, data, settings.data)
    except InputError as error:
        if settings.plane != "images" and data.labels is not None:  # a loss is followed
            raise InputError(str(error), f"{error.hint}; or use `--plane images`") from None
    views, failed = list[View](), list[Failed]()
    chosen = _choose_images(settings, data, first, failed)
    with watch.progress("making planes", len(chosen)) as advance:
        for indices in chosen:
            views.append(_view(settings, first, data, indices))
            advance(1)
    return views, failed


def check_alike(models: Mapping[str, Classifier]) -> None:
    """Raise `InputError` for networks that cannot be compared: of other sizes, or other classes."""
    (name, first), *rest = models.items()
    for other, model in rest:
        if model.input_shape != first.input_shape:
            shapes = shape_text(model.input_shape), shape_text(first.input_shape)
            raise InputError(
                f"`{other}` takes images of {shapes[0]}, `{name}` of {shapes[1]}",
                "compare networks of one input size",
            )
        numbered = are_numbers(model.classes) or are_numbers(first.classes)
        if len(model.classes) != len(first.classes) or not (numbered or model.classes == first.classes):
            raise InputError(f"`{other}` has other classes than `{name}`", "compare networks for the same data")


def _choose_images(settings: Boundary, data: Data, first: Classifier, failed: list[Failed]) -> list[list[int]]:
    """Return the images of each plane, by their index in the data; adds those that cannot be read to `failed`."""
    size = 3 if settings.plane == "images" else 1
    if not len(data):
        raise InputError(f"`{settings.data}` holds no images", "check the path")
    if settings.images is None:
        indices = _first_readable(data, first, size, failed)
    else:
        indices = [_index(text.strip(), data, settings.data) for text in settings.images.split(",")]
    if len({*indices}) < len(indices):
        raise UsageError(f"`--images {settings.images}` names an image twice", "name different ones")
    if len(indices) % size:
        raise UsageError(
            f"a plane of images goes through three, not {len(indices) % size}",
            "name three with `--images 3,17,42`, or use `--plane gradient`",
        )
    return [indices[i : i + size] for i in range(0, len(indices), size)]


def _first_readable(data: Data, first: Classifier, count: int, failed: list[Failed]) -> list[int]:
    """Return `count` readable images: the first of each class, then others; without labels, the first ones."""
    labels = list(range(len(data))) if data.labels is None else [int(label) for label in data.labels]
    by_class: dict[int, list[int]] = {}
    for place, label in enumerate(labels):
        by_class.setdefault(label, []).append(place)
    found = list[int]()

    def is_readable(place: int) -> bool:
        try:
            data.item(place, first.preparation)
        except InputError as error:
            failed.append(Failed(place, data.keys[place], error))
            return False
        return True

    for places in by_class.values():
        if len(found) < count:
            found += list(islice(filter(is_readable, places), 1))
    tried = {*found, *(each.index for each in failed)}
    others = (place for place in range(len(data)) if place not in tried)
    found += list(islice(filter(is_readable, others), count - len(found)))
    if failed and len(found) < count:
        raise failed[0].error
    return found


def _index(text: str, data: Data, name: str) -> int:
    """Find an image by its index or its key."""
    if text in data.keys:
        return list(data.keys).index(text)
    if not text.isdecimal():
        hint = f"use 0 to {len(data) - 1}, or a key such as `{data.keys[0]}`"
        raise UsageError(f"`{name}` has no image `{text}`", hint)
    if int(text) >= len(data):
        raise UsageError(f"there is no image {text}: `{name}` has {len(data)}", f"use 0 to {len(data) - 1}")
    return int(text)


def _view(settings: Boundary, first: Classifier, data: Data, indices: Sequence[int]) -> View:
    items = [data.item(index, first.preparation) for index in indices]
    plane = make_plane(first, items, settings.plane, settings.radius, settings.span, settings.seed)
    return View("-".join(file_names([item.key for item in items]))[:150], plane, items, data.classes)
