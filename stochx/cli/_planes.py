"""The networks and images that `stochx boundary` is given: do they fit together, and on which planes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stochx.engine.io.data import Data, Item
from stochx.engine.network.classifier import Classifier
from stochx.engine.plane import Plane
from stochx.errors import InputError, UsageError, suggest
from stochx.reports.maps import file_names
from stochx.tasks.planes import make_plane


@dataclass(frozen=True)
class View:
    """A plane, its name in files, and the images that it is made of, whose labels are among `classes`."""

    name: str
    plane: Plane
    items: Sequence[Item]
    classes: Sequence[str]


def views_of(args: Mapping[str, Any], eps: float, first: Classifier, data: Data) -> list[View]:
    """The planes, by directions of the `first` network."""
    _fits(args, data, first)
    return [_view(args, eps, first, data, places) for places in _chosen(args, data)]


def check_alike(models: Mapping[str, Classifier]) -> None:
    """Networks that can be compared, under the same names of the classes."""
    (name, first), *others = models.items()
    for other, model in others:
        if model.input_size != first.input_size:
            raise InputError(
                f"`{other}` takes images of {model.input_size} pixels, `{name}` of {first.input_size}",
                "compare networks of one input size",
            )
        numbered = any(label.isdecimal() for label in (model.classes[0], first.classes[0]))
        if len(model.classes) != len(first.classes) or not (numbered or model.classes == first.classes):
            raise InputError(f"`{other}` has other classes than `{name}`", "compare networks for the same data")


def _fits(args: Mapping[str, Any], data: Data, first: Classifier) -> None:
    """Labels matter where a loss is followed; the data names the classes of a network that only counts them."""
    if len(data.classes) == len(first.classes):
        first.classes = data.classes if first.classes[0].isdecimal() else first.classes
    elif args["plane"] != "images" and data.labels is not None:
        raise InputError(
            f"`{args['data']}` has {len(data.classes)} classes, the network knows {len(first.classes)}",
            "use the data set that it was trained on, or `--plane images`",
        )


def _chosen(args: Mapping[str, Any], data: Data) -> list[list[int]]:
    """The images of each plane, by their places in the data."""
    size = 3 if args["plane"] == "images" else 1
    if not len(data):
        raise InputError(f"`{args['data']}` holds no images", "check the path")
    if args["images"] is None:
        labels = [int(label) for label in data.labels] if data.labels is not None else list(range(len(data)))
        places = [labels.index(label) for label in dict.fromkeys(labels)][:size]
    else:
        places = [_place(text.strip(), data, args["data"]) for text in args["images"].split(",")]
    if len({*places}) < len(places):
        raise UsageError(f"`--images {args['images']}` names an image twice", "name different ones")
    if len(places) % size:
        raise UsageError(
            f"a plane of images goes through three, not {len(places) % size}",
            "name three with `--images 3,17,42`, or use `--plane gradient`",
        )
    return [places[i : i + size] for i in range(0, len(places), size)]


def _place(text: str, data: Data, name: str) -> int:
    """An image by its place or its key."""
    if text in data.keys:
        return list(data.keys).index(text)
    if not text.isdecimal():
        raise UsageError(f"`{name}` has no image `{text}`", suggest(text, list(data.keys)[:1000]))
    if int(text) >= len(data):
        raise UsageError(f"there is no image {text}: `{name}` has {len(data)}", f"use 0 to {len(data) - 1}")
    return int(text)


def _view(args: Mapping[str, Any], eps: float, first: Classifier, data: Data, places: Sequence[int]) -> View:
    items = [data.item(place, first.preparation) for place in places]
    plane = make_plane(first, items, args["plane"], eps, args["span"], args["seed"])
    return View("-".join(file_names([item.key for item in items]))[:150], plane, items, data.classes)
