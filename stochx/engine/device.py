"""Where and how numbers are computed: device, precision, and how many rows go through a network at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stochx.errors import UsageError

Precision = Literal["fp32", "bf16", "tf32"]

# Bytes that one batch may keep for its backward pass. On a CPU ResNet-18 at 224 px is fastest with 6 to 10 rows
# (12 MiB each) and DenseNet-121 (110 MiB each) with 4: a small budget, but never fewer rows than four.
CPU_BUDGET, GPU_BUDGET = 120 * 2**20, 6 * 2**30
MIN_ROWS, MAX_ROWS = 4, 512


@dataclass(frozen=True)
class Runtime:
    """The device, the precision of convolutions and products, and rows a batch (0: what the device likes)."""

    device: torch.device
    precision: Precision = "fp32"
    batch_size: int = 0

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Everything inside is computed this way; TF32 is off unless asked for."""
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
        """Where networks run: bfloat16 for convolutions and products if that is the precision."""
        if self.precision != "bf16":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


_plain = Runtime(torch.device("cpu"))
_current: ContextVar[Runtime] = ContextVar("runtime")


def current() -> Runtime:
    """The runtime of the innermost `scope`; a plain float32 one outside of any."""
    return _current.get(_plain)


def at_runtime_precision(operation: Callable[..., Tensor], x: Tensor, *others: Any) -> Tensor:
    """A convolution or product of `x` in the runtime's precision, its result in that of `x`."""
    with current().autocast():
        return operation(x, *others).to(x.dtype)


def full_precision() -> contextlib.AbstractContextManager[None]:
    """Everything inside is computed in float32 (or what the network has), whatever the runtime asks for."""
    return replace(current(), precision="fp32").scope()


def select_runtime(device: str = "auto", precision: str = "auto", batch_size: int = 0) -> Runtime:
    """The runtime for these options; `auto` takes CUDA, then MPS, then the CPU, in float32.

    Raises `UsageError` for a device that is not there or cannot compute in `precision`.
    """
    if device == "auto":
        found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    else:
        found = device
    try:
        chosen = torch.device(found)
    except RuntimeError:
        raise UsageError(f"unknown device `{device}`", "use auto, cpu, cuda, cuda:N or mps") from None
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"unknown device `{device}`", "use auto, cpu, cuda, cuda:N or mps")
    available = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (chosen.index or 0) >= available[chosen.type]:
        raise UsageError(f"there is no device `{device}` here", "use `--device auto`")
    kinds: dict[str, Precision] = {"auto": "fp32", "fp32": "fp32", "bf16": "bf16", "tf32": "tf32"}
    if precision == "tf32" and chosen.type != "cuda":
        raise UsageError("`tf32` needs a CUDA device", "use `--precision fp32`")
    return Runtime(chosen, kinds[precision], batch_size)


def rows_at_once(bytes_a_row: int, device: torch.device) -> int:
    """How many rows to send through a network together, from what one row keeps for its backward pass.

    A rule and no stopwatch: the same work is cut the same way on every run, which repeatable bytes need.
    """
    asked = current().batch_size
    budget = GPU_BUDGET if device.type == "cuda" else CPU_BUDGET
    return asked or max(MIN_ROWS, min(MAX_ROWS, budget // max(bytes_a_row, 1)))


def saved_bytes(model: nn.Module, row: Tensor) -> int:
    """Bytes that autograd keeps for the backward pass of `model` on one row (1, C, H, W), weights apart."""
    weights = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with (
        torch.random.fork_rng(),
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        model(row.detach().requires_grad_())
    return sum(size for place, size in kept.items() if place not in weights)


def as_float64(values: Tensor) -> Tensor:
    """`values` in float64; on the CPU where the device has no such numbers (MPS)."""
    return values.cpu().double() if values.device.type == "mps" else values.double()


def in_batches(total: int, rows: int, work: Callable[[int, int], None]) -> None:
    """`work(start, stop)` over 0..total, `rows` at a time, fewer from where the memory runs out."""
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
        start = stop


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
