"""The device, the precision, and the batch size that fits memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stochx.engine import passes
from stochx.errors import UsageError

Precision = Literal["fp32", "bf16", "tf32"]

# Bytes that a batch may keep for its backward pass. On a CPU, ResNet-18 at 224 px is fastest with 6 to 10 rows
# (12 MiB each) and DenseNet-121 (110 MiB each) with 4: a small budget, but never fewer than four rows.
CPU_BUDGET, GPU_BUDGET = 120 * 2**20, 6 * 2**30
MIN_ROWS, MAX_ROWS = 4, 512


@dataclass(frozen=True)
class Runtime:
    """The device, the precision of convolutions and products, and rows per batch (0: chosen for the device)."""

    device: torch.device
    precision: Precision = "fp32"
    batch_size: int = 0

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Make this the runtime of the block; TF32 is off unless requested."""
        token = _current.set(self)
        matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn
        before = matmul.allow_tf32, conv.allow_tf32
        matmul.allow_tf32 = conv.allow_tf32 = self.precision == "tf32"
        try:
            yield
        finally:
            matmul.allow_tf32, conv.allow_tf32 = before
            _current.reset(token)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Return the context to run networks in: bfloat16 for convolutions and products if that is the precision."""
        if self.precision != "bf16":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


_plain = Runtime(torch.device("cpu"))
_current: ContextVar[Runtime] = ContextVar("runtime")


def current() -> Runtime:
    """Return the runtime of the innermost `scope`; outside of any, float32 on the CPU."""
    return _current.get(_plain)


def at_runtime_precision(operation: Callable[..., Tensor], x: Tensor, *others: Any) -> Tensor:
    """Compute a convolution or product of `x` in the runtime's precision; the result has the type of `x`."""
    with current().autocast():
        return operation(x, *others).to(x.dtype)


def full_precision() -> contextlib.AbstractContextManager[None]:
    """Compute the block in float32 (or the network's own type), whatever the runtime's precision."""
    return replace(current(), precision="fp32").scope()


def select_runtime(device: str = "auto", precision: str = "auto", batch_size: int = 0) -> Runtime:
    """Return the runtime for these options; `auto` prefers CUDA, then MPS, then the CPU, in float32.

    Raises `UsageError` for a device that is not available or does not support `precision`.
    """
    if device == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    else:
        name = device
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device `{device}`", "use auto, cpu, cuda, cuda:N or mps") from None
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"unknown device `{device}`", "use auto, cpu, cuda, cuda:N or mps")
    available = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (chosen.index or 0) >= available[chosen.type]:
        raise UsageError(f"the device `{device}` is not available", "use `--device auto`")
    kinds: dict[str, Precision] = {"auto": "fp32", "fp32": "fp32", "bf16": "bf16", "tf32": "tf32"}
    if precision == "tf32" and chosen.type != "cuda":
        raise UsageError("`tf32` requires a CUDA device", "use `--precision fp32`")
    return Runtime(chosen, kinds[precision], batch_size)


def rows_at_once(bytes_per_row: int, device: torch.device) -> int:
    """Return the batch size, from the bytes that one row keeps for its backward pass.

    It follows a rule, not a measurement: every run has the same batches, which bit-identical results need.
    """
    batch_size = current().batch_size
    budget = GPU_BUDGET if device.type == "cuda" else CPU_BUDGET
    return batch_size or max(MIN_ROWS, min(MAX_ROWS, budget // max(bytes_per_row, 1)))


def saved_bytes(model: nn.Module, row: Tensor) -> int:
    """Return the bytes that autograd keeps for the backward pass of `model` on a row (1, C, H, W), without weights."""
    weights = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with (
        torch.random.fork_rng(),
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        model(row.detach().requires_grad_())
    return sum(size for place, size in saved.items() if place not in weights)


def as_float64(values: Tensor) -> Tensor:
    """Convert to float64; on the CPU if the device does not support it (MPS)."""
    return values.cpu().double() if values.device.type == "mps" else values.double()


def in_batches(total: int, rows: int, work: Callable[[int, int], None]) -> None:
    """Call `work(start, stop)` over 0..total, `rows` at a time, and fewer once memory runs out."""
    start = 0
    while start < total:
        stop = min(start + rows, total)
        try:
            work(start, stop)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if rows == 1 or not _out_of_memory(error):
                raise
            rows = max(1, rows // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        passes.count(stop - start)
        start = stop


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
