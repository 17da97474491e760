"""The two weights of the guided loss."""

from __future__ import annotations

import math


def check_shares(lambda_: float, xi: float) -> None:
    """Raise `ValueError` for weights that leave no loss to train on."""
    if not (math.isfinite(lambda_) and math.isfinite(xi)) or lambda_ == xi == 0:
        raise ValueError("lambda and xi must be finite, and not both 0")
