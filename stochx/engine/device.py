"""The device, the precision, and the batch size that fits memory."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
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
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "STATUS_ALLOC_FAILED")  # CPU, GPU, MPS
NO_PRIMITIVE = "could not create a primitive"  # of oneDNN, whose other errors begin likewise

log = logging.getLogger("stochx")


@dataclass(frozen=True)
class Runtime:
    """The device, the precision of convolutions and products, and rows per batch (0: chosen for the device)."""

    device: torch.device
    precision: Precision = "fp32"
    batch_size: int = 0

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Make this the runtime of the block; TF32 is off unless requested."""
        token, learnt = _current.set(self), _limits.set(_limits.get() or _Limits())
        matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn
        before = matmul.allow_tf32, conv.allow_tf32
        matmul.allow_tf32 = conv.allow_tf32 = self.precision == "tf32"
        try:
            yield
        finally:
            matmul.allow_tf32, conv.allow_tf32 = before
            _current.reset(token)
            _limits.reset(learnt)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Return the context to run networks in: bfloat16 for convolutions and products if that is the precision."""
        if self.precision != "bf16":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


@dataclass
class _Limits:
    """What a runtime has met of the end of memory: the rows that fit, by the work and the rows it was to have."""

    rows: dict[tuple[object, int], int] = field(default_factory=dict)
    said: bool = False

    def say(self, message: str, *numbers: int) -> None:
        """Log the first message."""
        if not self.said:
            log.warning(message, *numbers)
        self.said = True


_plain = Runtime(torch.device("cpu"))
_current: ContextVar[Runtime] = ContextVar("runtime")
_limits: ContextVar[_Limits | None] = ContextVar("limits", default=None)


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
        return tensor.detach()  # an output that its own operation kept would never be freed

    with (
        torch.random.fork_rng(),
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        model(row.detach().requires_grad_())
    return sum(size for place, size in saved.items() if place not in weights)


def fast_layout(model: nn.Module) -> torch.memory_format:
    """Return the layout of images in which the network trains fastest: channels-last, where torch can.

    In channels-last, oneDNN ends the process in the backward pass of a 1x1 convolution with stride 2 that reads images
    (torch 2.14, CPUs, fewer than eight channels), as FastViT has.
    """
    convolutions = (module for module in model.modules() if isinstance(module, nn.Conv2d))
    fatal = any({*c.kernel_size} == {1} and max(c.stride) > 1 and c.in_channels < 8 for c in convolutions)
    return torch.contiguous_format if fatal else torch.channels_last


def lay_out(model: nn.Module, layout: torch.memory_format) -> None:
    """Lay the weights of convolutions out in memory; `Module.to` would convert masks of five axes too, and fail."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=layout)


def as_float64(values: Tensor) -> Tensor:
    """Convert to float64; on the CPU if the device may have none, such as MPS."""
    return values.double() if values.device.type in ("cpu", "cuda") else values.cpu().double()


def in_batches(total: int, rows: int, work: Callable[[int, int], None]) -> None:
    """Call `work(start, stop)` over 0..total, `rows` at a time, and fewer once memory runs out.

    In the scope of a runtime the same work begins with what fitted last. A batch that is repeated begins with the same
    random state. Raises the error of the memory if a single row does not fit.
    """
    limits = _limits.get() or _Limits()
    key = getattr(work, "__code__", work), rows
    fits, start = limits.rows.get(key, rows), 0
    while start < total:
        stop = min(start + fits, total)
        if not _fitted(lambda: work(start, stop), stop - start == 1):  # noqa: B023  # called at once
            fits = (stop - start) // 2
            continue
        if fits < limits.rows.get(key, rows):
            limits.rows[key] = fits
            limits.say("memory ran out with %d rows at once: going on with %d", rows, fits)
        passes.count(stop - start)
        start = stop


def in_parts(model: nn.Module, parts: int, most: int, work: Callable[[int], None]) -> int:
    """Call `work(parts)`, with twice as many parts as often as memory runs out, and return with how many it was done.

    It is for batches that belong together, such as those of a training step. Each call begins with the same buffers of
    `model`, such as running statistics, and the same random state. Raises the error of the memory if `most` parts are
    too large.
    """
    limits, asked = _limits.get() or _Limits(), parts
    buffers = list(model.buffers())
    before = [buffer.detach().clone() for buffer in buffers]
    while not _fitted(lambda: work(parts), parts >= most):  # noqa: B023  # called at once
        parts = min(2 * parts, most)
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
    if parts > asked:
        limits.say("memory ran out: each batch is computed in %d parts from here on", parts)
    return parts


def _fitted(work: Callable[[], None], last: bool) -> bool:
    """Call `work`; return False, with memory freed and the random state as before, if it ran out and is not `last`."""
    device = current().device
    state = torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        work()
        return True
    except (RuntimeError, MemoryError) as error:
        if last or not is_out_of_memory(error):
            raise
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
        torch.cuda.empty_cache()  # here, where the error, which held the tensors of its frames, is gone
    return False


def is_out_of_memory(error: BaseException) -> bool:
    """Return true for the errors by which torch, its devices and Python say that memory ran out."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError) or str(error) == NO_PRIMITIVE
    return known or (isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY))
