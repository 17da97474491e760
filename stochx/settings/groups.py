"""Settings that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Literal

from stochx.errors import UsageError, printable
from stochx.settings.base import METHOD, RUN, WHAT, Option, Settings
from stochx.settings.choices import WEIGHTS, Precision, Sampling
from stochx.settings.values import Size, channels, class_names, share, sizes

Channels = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Description(Settings):
    """Facts that a network's file may lack: normalisation, size of the input, names of classes; and which weights."""

    mean: Annotated[str | None, Option(WHAT, "Mean of the normalisation, in [0, 1].", metavar="R,G,B")] = None
    std: Annotated[str | None, Option(WHAT, "Standard deviation of the normalisation.", metavar="R,G,B")] = None
    size: Annotated[
        str | None,
        Option(
            WHAT,
            "Input size of the network in pixels, or height x width; N/M resizes to M and crops N.",
            metavar="N|HxW[/M]",
        ),
    ] = None
    classes: Annotated[
        str | None,
        Option(WHAT, "Class names of the network, in order, or a file with one per line.", metavar="A,B,C|FILE"),
    ] = None
    ema: Annotated[
        bool, Option(WHAT, "Take the averaged weights (EMA, SWA) of a checkpoint that holds both, not the plain ones.")
    ] = False

    @property
    def normalisation(self) -> tuple[Channels | None, Channels | None]:
        """Mean and standard deviation, where they are given."""
        return channels(self.mean, "--mean"), channels(self.std, "--std")

    @property
    def sizes(self) -> tuple[Size, Size] | None:
        """Sizes of the input and of the image before the crop, where they are given."""
        return sizes(self.size)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes, where they are given."""
        return class_names(self.classes)

    def recorded(self) -> dict[str, object]:
        """`ema` only where it is given: runs that were begun without the option go on."""
        record = super().recorded()
        return record if self.ema else {name: value for name, value in record.items() if name != "ema"}

    def check(self) -> None:
        super().check()
        _ = self.normalisation, self.sizes, self.class_names  # raise for texts that cannot be read


@dataclass(frozen=True, kw_only=True)
class Network(Description):
    """Facts that a network's file may lack, its architecture too."""

    arch: Annotated[str | None, Option(WHAT, "Architecture of bare weights that are not recognised.")] = None


@dataclass(frozen=True, kw_only=True)
class Labelled(Network):
    """Facts that a network's file may lack, and whether its classes exclude each other."""

    multilabel: Annotated[
        bool, Option(WHAT, "Each class is present or not by itself: scores are logits, with sigmoids.")
    ] = False

    def recorded(self) -> dict[str, object]:
        """`multilabel` only where it is given: runs that were begun without the option go on."""
        record = super().recorded()
        return record if self.multilabel else {name: value for name, value in record.items() if name != "multilabel"}


@dataclass(frozen=True, kw_only=True)
class Limited(Settings):
    """The sample of images to use."""

    limit: Annotated[
        int | str | None,
        Option(WHAT, "Use only N images, or P percent of them.", metavar="N|P%", minimum=1, free=True),
    ] = None
    sample: Annotated[
        Sampling | None,
        Option(
            WHAT,
            "Limit to the first images, or to equally many of each class; default: balanced where images come sorted "
            "by class.",
        ),
    ] = None

    def limit_of(self, total: int) -> int:
        """Return the number of images to use, of `total`."""
        if isinstance(self.limit, str):
            return min(total, max(1, round(total * share(self.limit, "--limit"))))
        return total if self.limit is None else min(total, self.limit)

    def check(self) -> None:
        super().check()
        _ = self.limit_of(0)  # raises for a text that is no share
        if self.sample is not None and self.limit is None:
            raise UsageError(f"`--sample {self.sample}` has no `--limit`", "add `--limit 100` or `--limit 10%`")


@dataclass(frozen=True, kw_only=True)
class Machine(Settings):
    """Device and seed."""

    device: Annotated[str, Option(RUN, "auto, cpu, cuda, cuda:N or mps.", free=True)] = "auto"
    seed: Annotated[int, Option(RUN, "Seed of every random draw.")] = 0


@dataclass(frozen=True, kw_only=True)
class Batches(Machine):
    """Batch size."""

    batch_size: Annotated[
        int | Literal["auto"],
        Option(RUN, "Images or samples per forward pass.", metavar="N|auto", minimum=1),
    ] = "auto"

    @property
    def rows(self) -> int:
        """Images or samples per forward pass; 0 leaves it to the device."""
        return 0 if self.batch_size == "auto" else self.batch_size


@dataclass(frozen=True, kw_only=True)
class Classified(Network, Limited, Batches):
    """A network, and labelled images that it classifies."""

    model: Annotated[
        str,
        Option(
            WHAT,
            "Weights, a torchvision name, timm:NAME, hf:ORG/NAME or package.module:factory.",
            metavar="MODEL",
            positional=True,
        ),
    ]
    data: Annotated[
        str, Option(WHAT, "Labelled images: a data set, folder, zip or npz.", family="datasets", or_path=True)
    ] = "cifar10"


@dataclass(frozen=True, kw_only=True)
class Images(Labelled, Limited, Batches):
    """The images that maps are made of, and the network that is explained."""

    images: Annotated[tuple[str, ...], Option(WHAT, "Image files.", metavar="[IMAGE]...", positional=True)] = ()
    model: Annotated[
        str,
        Option(WHAT, "Weights or their folder, a torchvision name, timm:NAME, hf:ORG/NAME or package.module:factory."),
    ] = "resnet50"
    data: Annotated[str | None, Option(WHAT, "Data set, folder, zip or npz.", family="datasets", or_path=True)] = None
    target: Annotated[
        str | None, Option(WHAT, "Class to explain, by index or name; default: each image's top prediction.")
    ] = None
    crop: Annotated[bool, Option(WHAT, "Take the centre crop, or keep the whole image.")] = True
    draws: Annotated[int, Option(METHOD, "Draws of a stochastic network's noise to average over.", minimum=1)] = 16
    precision: Annotated[
        Precision, Option(RUN, "Floating-point precision; auto is fp32. Maps in bf16 differ visibly.")
    ] = "auto"

    def check(self) -> None:
        super().check()
        if self.sample == "balanced" and self.data is None:
            raise UsageError("`--sample balanced` needs classes", "name a data set with `--data`, or leave it out")
        check_images(self.images)


@dataclass(frozen=True, kw_only=True)
class Episodes(Settings):
    """The shape of few-shot episodes."""

    queries: Annotated[int, Option(METHOD, "Query images per class in each episode.")] = 16


def check_images(paths: Sequence[str]) -> None:
    """Raise `UsageError` for a file of weights among the images."""
    for path in paths:
        if PurePath(path).suffix in WEIGHTS:
            raise UsageError(f"`{printable(path)}` is no image", "name the network with `--model`")


def check_episodes(**counts: int) -> None:
    """Raise `UsageError` for a way below two, or a shot or number of queries below one."""
    for name, value in counts.items():
        minimum = 2 if name == "way" else 1
        if value < minimum:
            raise UsageError(f"`--{name} {value}` is too few", f"an episode needs at least {minimum}")


@dataclass(frozen=True, kw_only=True)
class Comparison(Settings):
    """What a comparison should be able to find."""

    power: Annotated[
        float | None,
        Option(
            RUN,
            "Say how many images, draws or episodes it takes to find a difference of DELTA in 4 of 5 cases.",
            metavar="DELTA",
            minimum=1e-9,
            free=True,
        ),
    ] = None
