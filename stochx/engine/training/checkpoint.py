"""The state of a training run in one file, from which it continues bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from stochx.engine.io.tensors import save_tensors
from stochx.errors import InputError
from stochx.input_files import open_file

Group = Mapping[str, Tensor]


@dataclass
class Progress:
    """The progress of a training run: the last epoch's facts, and the best epoch with its value and weights."""

    last: dict[str, Any] = field(default_factory=dict)
    best_epoch: int = 0
    best_value: float = float("-inf")
    best: dict[str, Tensor] = field(default_factory=dict)


def write(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: Group, progress: Progress) -> None:
    """Write everything the next epoch depends on: tensors in the file's body, numbers in its header."""
    groups: dict[str, Group] = {
        "model": model.state_dict(),
        "average": average,
        "best": progress.best,
        **{f"optimizer.{i}": values for i, values in optimizer.state_dict()["state"].items()},
    }
    tensors = {
        f"{group}.{name}": value.detach().cpu().contiguous().clone()
        for group, values in groups.items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }
    facts = {
        "kind": type(optimizer).__name__,
        "last": progress.last,
        "best": {"epoch": progress.best_epoch, "value": progress.best_value},
    }
    save_tensors(path, tensors, {"training": json.dumps(facts)})


def read(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor]) -> Progress:
    """Restore `model`, `optimizer` and `average` from a checkpoint, if the file exists.

    Raises `InputError` for a file of another training run.
    """
    if not path.exists():
        return Progress()
    open_file(path).close()  # safetensors maps whatever it gets
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            facts = json.loads((file.metadata() or {})["training"])
        if facts["kind"] != type(optimizer).__name__ or {*_group(tensors, "average")} != {*average}:
            raise KeyError("the optimizer, or the average")
        model.load_state_dict(_group(tensors, "model"))
        for name, value in _group(tensors, "average").items():
            average[name].copy_(value)
        _fill(optimizer, tensors)
        progress = Progress(_last(facts["last"]), int(facts["best"]["epoch"]), float(facts["best"]["value"]))
        kept = _group(tensors, "best").items()
        progress.best = {name: value.to(model.state_dict()[name]) for name, value in kept}
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise InputError(f"`{path}` does not match this training run", "use `--overwrite` to start over") from None
    return progress


def _last(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the last epoch's facts, if there was one, as numbers."""
    if not facts:
        return {}
    numbers = {name: float(facts[name]) for name in ("loss", "accuracy", "images_per_second")}
    measures = {str(name): float(value) for name, value in facts["measures"].items()}
    return {"epoch": int(facts["epoch"]), **numbers, "measures": measures}


def _group(tensors: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{group}."): t for name, t in tensors.items() if name.startswith(f"{group}.")}


def _fill(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load the optimizer's state, in the memory layout of its weights, which makes results bit-identical."""
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, value in _group(tensors, "optimizer").items():
        place, _, key = name.partition(".")
        like = parameters[int(place)]
        laid = torch.empty_like(like).copy_(value) if value.shape == like.shape and value.dim() else value
        state.setdefault(int(place), {})[key] = laid.detach()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
