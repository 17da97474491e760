"""Networks inside what torch wraps around them: `torch.compile`, `DataParallel` and its kin, averages of weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

M = TypeVar("M", bound=Callable[[Tensor], Tensor])


def unwrapped(model: M) -> M | nn.Module:
    """Return the network that computes what `model` computes, with the same weights; `model` if it is no wrapper."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel | AveragedModel):
        inner: object = model.module
    else:
        inner = getattr(model, "_orig_mod", None)  # of `torch.compile`, whose class is slow to import
    return unwrapped(inner) if isinstance(inner, nn.Module) else model


def traceable(network: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Return the context in which compiled parts of `network` can be traced: they run as they were written."""
    compiled = (m for m in network.modules() if hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None))
    if next(compiled, None) is None:
        return contextlib.nullcontext()
    import torch._dynamo  # imported already by what compiled them

    eager: contextlib.AbstractContextManager[None] = torch._dynamo.config.patch(error_on_nested_fx_trace=False)
    return eager
