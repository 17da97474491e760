"""A device that is not there: its tensors have values, and obey the rules of an accelerator.

They say that they are on `meta`, which every build of torch knows, and compute on the CPU inside.
"""

from __future__ import annotations

import contextlib
from collections import Counter

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

DEVICE = torch.device("meta")
aten = torch.ops.aten
# What the CPU must wait for: a value, or a shape that depends on values.
WAITS = {
    aten._local_scalar_dense,
    aten.equal,
    aten.nonzero,
    aten.masked_select,
    aten.bincount,
    aten._unique2,
    aten.unique_consecutive,
    aten.unique_dim,
    aten.repeat_interleave,
}


class There(torch.Tensor):
    """A tensor on the device; `inside` holds its values."""

    @staticmethod
    def __new__(cls, inside):
        there = torch.Tensor._make_wrapper_subclass(
            cls,
            inside.size(),
            strides=inside.stride(),
            storage_offset=inside.storage_offset(),
            dtype=inside.dtype,
            device=DEVICE,
        )
        there.inside = inside
        return there

    def __repr__(self):
        return f"There({self.inside})"

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), keywords=None):
        raise AssertionError(f"{function} outside of the device's block")


class Device(TorchDispatchMode):
    """The block in which the device works; counts the `waits` of the CPU for it, and `copies` to and from it."""

    def __init__(self):
        super().__init__()
        self.waits, self.copies, self.seeds = Counter(), Counter(), set()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        keywords = dict(keywords or {})
        flat, _ = tree_flatten((arguments, keywords))
        tensors = [value for value in flat if isinstance(value, torch.Tensor)]
        there = [value for value in tensors if isinstance(value, There)]
        packet, here = function.overloadpacket, [v for v in tensors if not isinstance(v, There)]
        target = keywords.get("device")
        made_there = bool(there) if target is None else target.type == DEVICE.type
        self._check_generator(function, keywords.get("generator"), made_there)
        if packet in (aten._to_copy, aten.copy_):
            self._count_copy(packet, tensors, made_there)
        elif there:
            self._check_mixed(function, packet, arguments, here)
            if packet in WAITS or (packet in (aten.index, aten.index_put_, aten.index_put) and _is_masked(arguments)):
                self.waits[packet.__name__] += 1
        if target is not None and made_there:
            keywords["device"] = torch.device("cpu")
        arguments, keywords = tree_map_only(There, lambda value: value.inside, (arguments, keywords))
        out = function(*arguments, **keywords)
        if not made_there:
            return out
        return self._wrapped(function, out, there)

    def _wrapped(self, function, out, there):
        known = {id(value.inside): value for value in there}

        def wrap(value):
            if value.dtype == torch.float64:
                raise TypeError(f"{function}: the device has no float64")
            return known.get(id(value)) if id(value) in known else There(value)

        return tree_map_only(torch.Tensor, wrap, out)

    def _check_generator(self, function, source, made_there):
        if source is not None and (source.initial_seed() in self.seeds) != made_there:
            raise RuntimeError(f"{function}: a generator of another device")

    def _count_copy(self, packet, tensors, made_there):
        begins = tensors[-1]
        from_there = isinstance(begins, There)
        to_there = isinstance(tensors[0], There) if packet is aten.copy_ else made_there
        if from_there != to_there:
            self.copies["to the device" if to_there else "from the device"] += 1

    def _check_mixed(self, function, packet, arguments, here):
        if packet in (aten.index, aten.index_put, aten.index_put_):  # by places on the CPU, which torch moves
            here = [value for value in here if not any(value is place for place in arguments[1])]
        if any(value.dim() for value in here):
            raise RuntimeError(f"{function}: tensors on two devices")


def _is_masked(arguments):
    return any(place is not None and place.dtype == torch.bool for place in arguments[1])


def to_device(value):
    """Move tensors, and the parameters and buffers of modules, to the device."""
    if not isinstance(value, nn.Module):
        return There(value.detach())
    for module in value.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(There(parameter.detach()), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = There(buffer.detach())
    return value


class _Numbers(TorchFunctionMode):
    """Turns Python's numbers into tensors on the device, and back, for which torch has short ways."""

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        keywords = dict(keywords or {})
        if function is torch.Tensor.tolist:
            return torch.Tensor.tolist(arguments[0].cpu())
        if function in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor):
            device = keywords.pop("device", None)
            if function is torch.Tensor.new_tensor:
                like, *arguments = arguments
                device = like.device if device is None else device
                keywords.setdefault("dtype", like.dtype)
                function = torch.tensor
            made = function(*arguments, **keywords)
            return made if device is None else made.to(device)
        return function(*arguments, **keywords)


@contextlib.contextmanager
def device(monkeypatch):
    """Return the block in which the device works; generators are made on it too."""
    plain = torch.Generator

    class Generator(plain):
        """A generator whose seed tells the block that it was made on the device."""

        def __new__(cls, place="cpu"):
            made = super().__new__(cls)
            made.there = torch.device(place).type == DEVICE.type
            return made

        def manual_seed(self, seed):
            if self.there:
                block.seeds.add(seed)
            return super().manual_seed(seed)

    with monkeypatch.context() as patch, _Numbers(), Device() as block:
        patch.setattr(torch, "Generator", Generator)
        # tensors of the inference mode cannot be wrapped
        patch.setattr(torch, "inference_mode", lambda mode=True: torch.set_grad_enabled(not mode))
        yield block
