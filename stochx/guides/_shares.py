"""The two weights of the guided loss."""

from __future__ import annotations

import math


def check_shares(lambda_: float, xi: float) -> None:
    """Raises `ValueError` for weights that leave nothing to train on."""
    if not (math.isfinite(lambda_) and math.isfinite(xi)) or lambda_ == xi == 0:
        raise ValueError("lambda and xi must be numbers, and not both 0")
