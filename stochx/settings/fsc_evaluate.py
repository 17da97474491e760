"""Settings of `stochx fsc-test`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from stochx.catalog import HEADS
from stochx.errors import UsageError
from stochx.settings.base import METHOD, WHAT, Option
from stochx.settings.folders import RunFiles
from stochx.settings.groups import Channels, Comparison, Episodes, Machine, check_episodes
from stochx.settings.values import channels

USUAL_HEAD = "prototypical"
OF_BACKBONE = ("backbone", "head", "size", "mean", "std")


@dataclass(frozen=True, kw_only=True)
class FscTest(Episodes, Comparison, Machine, RunFiles):
    """Measure a few-shot network, or a frozen backbone without any training, on classes that it has not seen.

    Examples:
      stochx fsc-test run/model.safetensors --data novel.zip --shot 1 --shot 5 --episodes 2000

      stochx fsc-test run/model.safetensors --backbone mobilenet_v2 --data birds/ --data satellite/

      stochx fsc-test --backbone timm:vit_small_patch16_224.dino --head prototypical --data omniglot.zip
    """

    command: ClassVar[str] = "fsc-test"

    model: Annotated[
        str | None, Option(WHAT, "Few-shot network, a file written by `fsc-train`.", metavar="[MODEL]", positional=True)
    ] = None
    backbone: Annotated[
        str | None,
        Option(
            WHAT,
            "Frozen network, compared on the same episodes without training: weights, a torchvision name, timm:NAME or "
            "package.module:factory.",
            metavar="MODEL",
        ),
    ] = None
    data: Annotated[
        tuple[str, ...],
        Option(WHAT, "Domain: a data set, folder, zip or npz; repeatable.", family="datasets", or_path=True),
    ] = ("shapes",)
    versus: Annotated[
        str | None, Option(WHAT, "Another few-shot network, compared on the same episodes.", metavar="MODEL")
    ] = None
    arch: Annotated[
        str | None, Option(WHAT, "Architecture of `--backbone`, else of a backbone that is your own code.")
    ] = None
    mean: Annotated[str | None, Option(WHAT, "Mean of the normalisation of `--backbone`.", metavar="R,G,B")] = None
    std: Annotated[str | None, Option(WHAT, "Standard deviation of the normalisation.", metavar="R,G,B")] = None
    size: Annotated[
        int | None, Option(WHAT, "Side of the images of `--backbone` in pixels; default its own.", minimum=8)
    ] = None
    head: Annotated[
        str | None,
        Option(
            METHOD,
            "Head of `--backbone`, without weights to train; default prototypical.",
            family="heads",
            declaring="untrained",
        ),
    ] = None
    shot: Annotated[tuple[int, ...], Option(METHOD, "Labelled images per class; repeatable.")] = (1, 5)
    way: Annotated[int | None, Option(METHOD, "Classes per episode; default as in training, or 5.")] = None
    queries: Annotated[int, Option(METHOD, "Query images per class in each episode.")] = 15
    episodes: Annotated[int, Option(METHOD, "Episodes per domain and shot.", minimum=2)] = 2000
    transductive: Annotated[
        bool, Option(METHOD, "Add confident queries (by softmax) to the support, in two rounds.")
    ] = False

    def check(self) -> None:
        super().check()
        if self.model is None and self.backbone is None:
            raise UsageError(
                "no network is given", "name a file of `fsc-train`, or a frozen network with `--backbone MODEL`"
            )
        for name in ("head", "size", "mean", "std"):
            if self.backbone is None and getattr(self, name) is not None:
                raise UsageError(f"`--{name}` belongs to `--backbone`", "name the frozen network, or leave it out")
        if self.head is not None and not HEADS.declares(self.head, "untrained"):
            heads = " or ".join(f"`{name}`" for name in HEADS.declaring("untrained"))
            raise UsageError(
                f"the head `{self.head}` has weights to train, and `--backbone` trains nothing", f"use {heads}"
            )
        _ = self.normalisation
        for shot in self.shot:
            check_episodes(shot=shot)
        check_episodes(way=self.way or 2, queries=self.queries)

    @property
    def normalisation(self) -> tuple[Channels | None, Channels | None]:
        """Mean and standard deviation, where they are given."""
        return channels(self.mean, "--mean"), channels(self.std, "--std")

    def recorded(self) -> dict[str, object]:
        """What concerns `--backbone` only where that is given: runs that were begun without the options go on."""
        record = super().recorded()
        if self.backbone is not None:
            return record | {"head": self.head or USUAL_HEAD}
        return {name: value for name, value in record.items() if name not in OF_BACKBONE}
