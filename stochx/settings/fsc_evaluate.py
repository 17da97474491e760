"""Settings of `stochx fsc-test`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from stochx.settings.base import METHOD, WHAT, Option
from stochx.settings.folders import RunFiles
from stochx.settings.groups import Episodes, Machine, check_episodes


@dataclass(frozen=True, kw_only=True)
class FscTest(Episodes, Machine, RunFiles):
    """Measure a few-shot network on classes, and domains, that it has not seen.

    Examples:
      stochx fsc-test run/model.safetensors --data novel.zip --shot 1 --shot 5 --episodes 2000

      stochx fsc-test guided.safetensors --versus plain.safetensors --data birds/ --data satellite/
    """

    command: ClassVar[str] = "fsc-test"

    model: Annotated[
        str, Option(WHAT, "Few-shot network, a file written by `fsc-train`.", metavar="MODEL", positional=True)
    ]
    data: Annotated[
        tuple[str, ...],
        Option(WHAT, "Domain: a data set, folder, zip or npz; repeatable.", family="datasets", or_path=True),
    ] = ("shapes",)
    versus: Annotated[
        str | None, Option(WHAT, "Another few-shot network, compared on the same episodes.", metavar="MODEL")
    ] = None
    arch: Annotated[str | None, Option(WHAT, "Architecture of a backbone that is your own code.")] = None
    shot: Annotated[tuple[int, ...], Option(METHOD, "Labelled images per class; repeatable.")] = (1, 5)
    way: Annotated[int | None, Option(METHOD, "Classes per episode; default as in training.")] = None
    queries: Annotated[int, Option(METHOD, "Query images per class in each episode.")] = 15
    episodes: Annotated[int, Option(METHOD, "Episodes per domain and shot.", minimum=2)] = 2000
    transductive: Annotated[
        bool, Option(METHOD, "Add confident queries (by softmax) to the support, in two rounds.")
    ] = False

    def check(self) -> None:
        super().check()
        for shot in self.shot:
            check_episodes(shot=shot)
        check_episodes(way=self.way or 2, queries=self.queries)
