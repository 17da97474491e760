"""The pre-activation block (He et al., 2016b) that wide residual networks are made of too."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class PreActBlock(nn.Module):
    """Norm and ReLU before each of two 3x3 convolutions; a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False)) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(active))))
        skip: Tensor = out + (x if self.shortcut is None else self.shortcut(active))
        return skip


def stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    """Return blocks of one width; the first has the stride."""
    rest = (PreActBlock(outputs, outputs, 1) for _ in range(blocks - 1))
    return nn.Sequential(PreActBlock(inputs, outputs, stride), *rest)
