"""The modes of torch that stochx computes in, whatever modes its caller is in."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import nn

AUTOCAST = ("cpu", "cuda", "mps", "xpu")

_inside: ContextVar[bool] = ContextVar("inside", default=False)


def is_inside() -> bool:
    """Return true in a block of `plain_modes`, where arguments have been checked."""
    return _inside.get()


@contextlib.contextmanager
def plain_modes() -> Iterator[None]:
    """Run a block as at the start of a program, and restore the caller's modes afterwards.

    Gradients are on; `inference_mode` and autocast are off; new tensors are float32 and on the CPU; what
    `torch.compile` made runs as it was written. The runtime's own precision (`engine.device`) is not affected.
    """
    if is_inside():
        yield
        return
    token, dtype = _inside.set(True), torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in AUTOCAST:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):  # torch 2.6
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            if dtype != torch.float32:  # it is the process's: touch it only where it matters
                torch.set_default_dtype(torch.float32)
            yield
        finally:
            if dtype != torch.float32:
                torch.set_default_dtype(dtype)
            _inside.reset(token)


@contextlib.contextmanager
def frozen_weights(network: nn.Module) -> Iterator[None]:
    """Turn off the gradients of parameters for the block, and restore them afterwards."""
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
