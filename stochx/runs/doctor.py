"""Run `stochx doctor`: look at this machine, and at what is installed and stored on it. Nothing is fetched."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any, Literal

import torch

from stochx import __version__
from stochx.catalog import DATASETS
from stochx.datasets._root import data_root
from stochx.engine.device import select_runtime
from stochx.engine.memory import available_memory, total_memory
from stochx.engine.threads import usable_cpus
from stochx.engine.world import World
from stochx.errors import InputError, printable
from stochx.installation import clash, install_hint, repair_hint
from stochx.runs import Outcome
from stochx.runs._results import make_document
from stochx.runs.watch import Watch
from stochx.settings import Doctor
from stochx.tasks.doctor import measure_speed

PACKAGES = {  # by the names that are imported
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "numpy",
    "PIL": "pillow",
    "safetensors": "safetensors",
    "msgspec": "msgspec",
    "matplotlib": "matplotlib",
}
EXTRAS = {  # the packages that each needs
    "timm": ("timm", "huggingface_hub"),
    "parquet": ("pyarrow",),
    "hdf5": ("h5py",),
    "hub": ("huggingface_hub",),
    "transformers": ("transformers",),
}
VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")
MEASUREMENTS = 4
GIB = 2**30

State = Literal["ok", "missing", "broken"]


@dataclass(frozen=True)
class Finding:
    """One thing about this machine: `missing` is optional, `broken` keeps commands from working."""

    topic: str
    name: str
    value: str | float | None
    unit: str = ""
    state: State = "ok"
    hint: str = ""


def run(settings: Doctor, world: World, watch: Watch) -> Outcome:
    """Look at everything, and measure the device; the exit code is 1 if something is broken."""
    runtime = select_runtime(settings.device)
    findings = [
        *_versions(),
        *_device(runtime.device, settings.device),
        *_threads(),
        *_memory(runtime.device),
        *_data(),
        *_weights(),
        *_variables(),
    ]
    with watch.progress("measuring the device", MEASUREMENTS) as advance:
        for speed in measure_speed(runtime.device):
            name, state = f"{speed.name}, {speed.precision}", "missing" if speed.gflops is None else "ok"
            value = None if speed.gflops is None else round(speed.gflops, 1)
            findings.append(Finding("speed", name, value, "GFLOP/s", state))  # type: ignore[arg-type]
            advance(1)
    document = make_document(settings, watch, {"device": str(runtime.device)}, [asdict(row) for row in findings])
    return Outcome(document, int(any(row.state == "broken" for row in findings)))


def _versions() -> Iterator[Finding]:
    problem = clash()
    if problem is None:
        yield Finding("version", "stochx", __version__)
    else:
        yield Finding("version", "stochx", str(problem), state="broken", hint=problem.hint)
    yield Finding("version", "python", platform.python_version())
    for module, name in PACKAGES.items():
        reason = _failure(module)
        if reason is None:
            yield Finding("version", name, _version(name))
        else:
            yield Finding("version", name, reason, state="broken", hint=repair_hint(name))
    for extra, packages in EXTRAS.items():
        if all(util.find_spec(package) for package in packages):
            yield Finding("extra", extra, ", ".join(f"{name} {_version(name)}" for name in packages))
        else:
            yield Finding("extra", extra, "not installed", state="missing", hint=install_hint(extra))


def _failure(module: str) -> str | None:
    """Return why a package cannot be imported, in a line; None if it can."""
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever a broken installation raises
        return printable(f"{type(error).__name__}: {error}".partition("\n")[0])
    return None


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # copied there by hand
        return "of unknown version"


def _device(device: torch.device, asked: str) -> Iterator[Finding]:
    """Yield the device that commands use, and the reason."""
    reason = "as asked" if asked != "auto" else REASONS[device.type]()
    yield Finding("device", str(device), reason)
    if device.type == "cuda":
        free, total = (size / GIB for size in torch.cuda.mem_get_info(device))
        yield Finding("device", torch.cuda.get_device_name(device), f"{free:.1f} of {total:.1f} GiB free")


def _reason_for_cpu() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return "this torch is built for CPUs only"
    return "no GPU that this torch can use"


REASONS = {"cuda": lambda: "the first GPU", "mps": lambda: "Apple's GPU", "cpu": _reason_for_cpu}


def _threads() -> Iterator[Finding]:
    count = os.cpu_count() or 1
    yield Finding("processor", _processor(), f"{usable_cpus()} of {count} CPUs usable")
    yield Finding("processor", "threads", torch.get_num_threads())
    for name in VARIABLES:
        yield Finding("processor", name, os.environ.get(name, "not set"))


def _processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _memory(device: torch.device) -> Iterator[Finding]:
    free, total = available_memory(), total_memory()
    known = "" if free is None else f"{free / GIB:.1f} of "
    yield Finding("memory", "RAM", f"{known}{total / GIB:.1f} GiB {'free' if known else ''}".rstrip())
    for name, folder in (("working folder", Path.cwd()), ("temporary files", Path(tempfile.gettempdir()))):
        if folder.is_dir():
            yield Finding("disk", name, f"{shutil.disk_usage(folder).free / GIB:.1f} GiB free in {folder}")


def _data() -> Iterator[Finding]:
    """Yield the data folder, and the data sets that are found there by name."""
    try:
        folder = data_root("")
    except InputError as error:
        yield Finding("data", "STOCHX_DATA", str(error), state="broken", hint=error.hint)
        return
    yield Finding("data", "folder", str(folder) if folder.is_dir() else f"{folder}, not there yet")
    for name in DATASETS.declaring("findable"):
        entry: Any = DATASETS.make(name)
        place: Path | None = entry.find()
        hint = "set STOCHX_DATA to the folder that holds it, or name it with `root`"
        state: State = "missing" if place is None else "ok"
        yield Finding("data", name, "not found" if place is None else str(place), "", state, hint * (place is None))


def _weights() -> Iterator[Finding]:
    """Yield the caches of weights, and the networks of torchvision whose weights are there."""
    if _failure("torchvision") is None:
        yield _torchvision_weights()
    hub = Path(os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or "~/.cache/huggingface") / "hub")
    hub = hub.expanduser()
    models = sorted(path.name.removeprefix("models--").replace("--", "/") for path in hub.glob("models--*"))
    yield Finding("weights", "Hugging Face", f"{', '.join(models) or 'none'} in {hub}")


def _torchvision_weights() -> Finding:
    from torchvision import models as torchvision_models  # now, as its installation may be broken

    from stochx.presets import names

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    files = {path.name for path in folder.glob("*")}  # nothing where it cannot be read
    presets = {name: torchvision_models.get_model_weights(name).DEFAULT.url for name in names()}
    here = [name for name, url in presets.items() if Path(url).name in files]
    return Finding("weights", "torchvision", f"{', '.join(here) or 'none'} in {folder}")


def _variables() -> Iterator[Finding]:
    """Yield the variables that change options, without their values."""
    for name in sorted(os.environ):
        if name.startswith("STOCHX_") and name != "STOCHX_DATA":
            yield Finding("environment", name, "is set")
