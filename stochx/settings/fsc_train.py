"""Settings of `stochx fsc-train`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from stochx.errors import UsageError
from stochx.settings.base import METHOD, RUN, WHAT, Option
from stochx.settings.choices import Optimizer, Precision, Schedule
from stochx.settings.folders import RunFiles
from stochx.settings.groups import Episodes, check_episodes
from stochx.settings.training import Fitting

USUAL_INTERVAL = 100  # episodes


@dataclass(frozen=True, kw_only=True)
class FscTrain(Episodes, Fitting, RunFiles):
    """Train a few-shot network on episodes, guided by the relevance of its own features.

    Examples:
      stochx fsc-train --head relation --guide lrp --data folder:root=mini --way 5 --shot 5 -o run/

      stochx fsc-train --head gnn --guide none --backbone resnet10 --data a.zip --data b.zip --episodes 20000
    """

    command: ClassVar[str] = "fsc-train"

    data: Annotated[
        tuple[str, ...],
        Option(WHAT, "Domain: a data set, folder, zip or npz; repeatable.", family="datasets", or_path=True),
    ] = ("shapes",)
    init: Annotated[
        str | None,
        Option(WHAT, "Continue from this few-shot network, with its backbone, head and image size.", metavar="MODEL"),
    ] = None
    backbone: Annotated[
        str | None,
        Option(
            WHAT,
            "Backbone: an architecture, or a stored classifier without its last layer; default conv4.",
            metavar="NAME|FILE",
        ),
    ] = None
    arch: Annotated[str | None, Option(WHAT, "Architecture of bare weights that are not recognised.")] = None
    size: Annotated[int | None, Option(WHAT, "Side of the images in pixels; default the backbone's.", minimum=8)] = None
    head: Annotated[str | None, Option(METHOD, "Few-shot head; default relation.", family="heads")] = None
    guide: Annotated[str, Option(METHOD, "Guide that reweights features in training.", family="guides")] = "lrp"
    way: Annotated[int, Option(METHOD, "Classes per episode.")] = 5
    shot: Annotated[int, Option(METHOD, "Labelled images per class.")] = 5
    episodes: Annotated[int, Option(METHOD, "Training episodes.", minimum=1, free=True)] = 2000
    every: Annotated[
        int | None,
        Option(
            METHOD,
            "Episodes between two validations and checkpoints; default 100, or what divides the episodes.",
            minimum=1,
        ),
    ] = None
    validation: Annotated[
        int,
        Option(METHOD, "Episodes per validation, on held-out classes, for model selection; 0 for none.", minimum=0),
    ] = 200
    fwt: Annotated[
        bool, Option(METHOD, "Perturb features at the end of each block in training (feature-wise transformation).")
    ] = False
    augment: Annotated[bool, Option(METHOD, "Crop, mirror and recolour images.")] = True
    lr: Annotated[float, Option(METHOD, "Learning rate.", minimum=1e-6, maximum=1e6)] = 1e-3
    batch_size: Annotated[int, Option(METHOD, "Episodes per step.", minimum=1)] = 1
    optimizer: Annotated[Optimizer, Option(METHOD, "Optimizer; sgd has momentum.")] = "adamw"
    schedule: Annotated[Schedule, Option(METHOD, "Schedule of the learning rate.")] = "constant"
    decay: Annotated[float, Option(METHOD, "Weight decay.", minimum=0, maximum=1e6)] = 0.0
    precision: Annotated[
        Precision, Option(RUN, "Precision of the backbone and of large layers of the head; auto is fp32.")
    ] = "auto"

    def check(self) -> None:
        super().check()
        brought = {"--backbone": self.backbone, "--head": self.head, "--size": self.size}
        if self.init and (given := [option for option, value in brought.items() if value is not None]):
            raise UsageError(f"`--init` has its own {given[0]}", f"leave out `{given[0]}`")
        check_episodes(way=self.way, shot=self.shot, queries=self.queries)
        if self.episodes % self.interval:
            raise UsageError(
                f"`--episodes {self.episodes}` is not a multiple of `--every {self.interval}`",
                f"use `--episodes {-(-self.episodes // self.interval) * self.interval}`, or another `--every`",
            )
        if self.patience and not self.validation:
            raise UsageError("`--patience` needs validation episodes", "give `--validation 200`")

    @property
    def interval(self) -> int:
        """Episodes between two validations: by default the largest of 100, 99, ..., 50 that divides the episodes."""
        if self.every is not None:
            return self.every
        most = min(USUAL_INTERVAL, self.episodes)
        return next((n for n in range(most, USUAL_INTERVAL // 2 - 1, -1) if self.episodes % n == 0), most)

    def recorded(self) -> dict[str, object]:
        """Return the settings with the defaults that depend on others filled in."""
        defaults: dict[str, object] = (
            {} if self.init else {"backbone": self.backbone or "conv4", "head": self.head or "relation"}
        )
        return super().recorded() | defaults | {"every": self.interval}
