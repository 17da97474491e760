"""Learning rate schedules: the rate as a share of its peak, at a step of the training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

Schedule = Literal["one-cycle", "cosine", "step", "constant"]
RISE = 0.2  # share of a one-cycle training in which the rate rises


def one_cycle(step: int, steps: int) -> float:
    """Rise linearly over a fifth of the steps, then follow a cosine to zero (after Smith & Topin, 2018)."""
    rise = max(1, int(steps * RISE))
    return (step + 1) / rise if step < rise else cosine(step - rise, steps - rise)


def cosine(step: int, steps: int) -> float:
    """Follow a cosine from the peak to zero (Loshchilov & Hutter, 2017, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * step / max(1, steps)))


def stepped(step: int, steps: int) -> float:
    """Drop to a tenth after half of the steps, and to a hundredth after three quarters (He et al., 2016)."""
    return 0.1 ** ((2 * step >= steps) + (4 * step >= 3 * steps))


def constant(step: int, steps: int) -> float:
    """Stay at the peak."""
    return 1.0


SCHEDULES: dict[Schedule, Callable[[int, int], float]] = {
    "one-cycle": one_cycle,
    "cosine": cosine,
    "step": stepped,
    "constant": constant,
}
