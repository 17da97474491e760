"""Attacks: change images, within a ball, until the network is wrong.

Add one by writing `stochx/attacks/<name>.py` with one frozen dataclass that fits `Attack`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from stochx.catalog import ATTACKS, lazy_entries

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stochx.engine.seeds import Key as Key
    from stochx.engine.threat import Ball as Ball
    from stochx.engine.threat import Norm as Norm


@dataclass(frozen=True)
class Context:
    """What an attack is told beside the images.

    `keys`, one for each image, decide its random starts. `target` (N,): classes to be driven to; None for any wrong
    one. `wrong(x, places)` is the verdict that counts, (B,) for images `places` (B,) of the batch; a deterministic
    network's attack may stop at the first wrong point. None for a stochastic network, where one draw proves nothing:
    there every attack runs to its end, and `pick(x)` (N,) scores whole batches of candidates on draws that are kept
    for choosing: lower is more wrong. `source` is another network to craft on (transfer). `judge_any` is false where
    only the last point of a run may count.
    """

    keys: Sequence[Key]
    target: Tensor | None = None
    wrong: Callable[[Tensor, Tensor], Tensor] | None = None
    pick: Callable[[Tensor], Tensor] | None = None
    source: nn.Module | None = None
    judge_any: bool = True


@dataclass(frozen=True)
class Attempt:
    """What an attack found: x' (N, C, H, W), in the ball and in [0, 1]; and what it cost.

    `step` and `restart` (N,) say where each x' was found, `forwards` (N,) how many passes of the network it took.
    """

    x: Tensor
    step: Tensor
    restart: Tensor
    forwards: Tensor


class Attack(Protocol):
    """x: (N, C, H, W) in [0, 1], y: (N,) labels, `ball` around x -> `Attempt`."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball, context: Context) -> Attempt: ...


__getattr__, __dir__ = lazy_entries(ATTACKS)
