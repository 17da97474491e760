"""The affine first convolution of a network, which need not run for every point around an image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Stem(nn.Module):
    """The affine beginning of a network: pixels -> first convolution's output, and its transpose.

    As it commutes with sums, it need not run for every point of a path or every noisy copy.
    """

    def __init__(self, conv: nn.Conv2d, normalise: Callable[[Tensor], Tensor], slope: Tensor) -> None:
        """Wrap `conv`; `slope` (1, C, 1, 1) is the derivative of `normalise`, which must be affine, per channel."""
        super().__init__()
        self.conv, self.normalise = conv, normalise
        self.kernel, self.reach = _phases(conv.weight.detach() * slope, conv.stride[0], int(conv.padding[0]))

    @staticmethod
    def suits(conv: nn.Conv2d) -> bool:
        """Return True for a plain square convolution, which `transpose` supports."""
        return (
            conv.groups == 1
            and conv.padding_mode == "zeros"
            and not isinstance(conv.padding, str)
            and len({*conv.stride}) == len({*conv.padding}) == len({*conv.kernel_size}) == 1
            and {*conv.dilation} == {1}
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the stem's output (N, D, H', W') for pixels (N, C, H, W)."""
        hidden: Tensor = self.conv(self.normalise(x))
        return hidden

    def transpose(self, gradient: Tensor, like: Tensor) -> Tensor:
        """Return the gradient of the pixels, shaped as `like`, from that of the stem's output.

        A strided transposed convolution equals a dense one per output phase followed by a pixel shuffle, which is
        about three times faster on a CPU than the general kernel.
        """
        height, width = like.shape[-2:]
        stride, (low, high) = self.conv.stride[0], self.reach
        rows, columns = -(-height // stride), -(-width // stride)
        pad = (-low, columns + high - gradient.shape[-1], -low, rows + high - gradient.shape[-2])
        phases = F.conv2d(F.pad(gradient, pad), self.kernel.to(gradient.dtype))
        return F.pixel_shuffle(phases, stride)[..., :height, :width]


def _phases(weight: Tensor, stride: int, padding: int) -> tuple[Tensor, tuple[int, int]]:
    """Return the kernel (C * stride^2, D, K', K') of the transposed convolution by output phase, and its padding.

    With (q, r) = divmod(phase + padding, stride), pixel stride * i + phase depends on the output at i + q - m through
    tap r + stride * m.
    """
    out_channels, in_channels, size, _ = weight.shape
    taps = {
        (phase, (phase + padding) // stride - m): k
        for phase in range(stride)
        for m, k in enumerate(range((phase + padding) % stride, size, stride))
    }
    low, high = min(d for _, d in taps), max(d for _, d in taps)
    kernel = weight.new_zeros(in_channels, stride, stride, out_channels, high - low + 1, high - low + 1)
    for (a, d), k in taps.items():
        for (b, e), m in taps.items():
            kernel[:, a, b, :, d - low, e - low] = weight[:, :, k, m].T
    return kernel.flatten(0, 2).contiguous(memory_format=torch.channels_last), (low, high)
