"""Imputation of removed pixels from their neighbours: the noisy linear imputation of ROAD (Rong et al., 2022)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

DIRECT, DIAGONAL = 1 / 6, 1 / 12  # weights of the eight neighbours in the paper
TOLERANCE, MOST_STEPS = 1e-4, 2000


def impute(x: Tensor, removed: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """Replace every `removed` pixel (N, H, W) of x (N, C, H, W) by the weighted mean of its eight neighbours.

    The linear system w_i x_i = sum_j w_ij x_j over the removed pixels (w_i = sum_j w_ij; fewer neighbours at the
    image's border) is symmetric positive definite: conjugate gradients solve all images and channels together until
    the residual falls to `tolerance` times its start. An image with no pixels left is filled with its mean.
    """
    gone = removed[:, None].to(x)
    weight = F.conv2d(torch.ones_like(x[:1, :1]), _kernel(x), padding=1)
    known = x * (1 - gone)
    remaining = (1 - gone).sum((2, 3), keepdim=True)
    start = known.sum((2, 3), keepdim=True) / remaining.clamp(min=1)
    start = torch.where(remaining > 0, start, x.mean((2, 3), keepdim=True))

    def laplace(values: Tensor) -> Tensor:
        return weight * values - _neighbours(values)

    solution = gone * start  # only the removed pixels are unknown
    residual = gone * (_neighbours(known) - laplace(solution))
    residual = torch.where(remaining > 0, residual, 0.0)
    direction, energy = residual.clone(), residual.square().sum((2, 3), keepdim=True)
    goal = tolerance**2 * energy
    for _ in range(MOST_STEPS):
        going = energy > goal
        if not going.any():
            break
        image = gone * laplace(direction)
        step = torch.where(going, energy / (direction * image).sum((2, 3), keepdim=True), 0.0)
        solution = solution + step * direction
        residual = residual - step * image
        before, energy = energy, residual.square().sum((2, 3), keepdim=True)
        direction = residual + torch.where(going, energy / before, 0.0) * direction
    return known + solution


def _kernel(like: Tensor) -> Tensor:
    rows = [[DIAGONAL, DIRECT, DIAGONAL], [DIRECT, 0.0, DIRECT], [DIAGONAL, DIRECT, DIAGONAL]]
    return like.new_tensor(rows)[None, None]


def _neighbours(values: Tensor) -> Tensor:
    flat = values.flatten(0, 1).unsqueeze(1)
    return F.conv2d(flat, _kernel(values), padding=1).view_as(values)
