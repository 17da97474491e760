"""A function of the user's that makes a network, `package.module:function` or `FILE.py:function`, run and validated."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from stochx.engine.io.images import MIN_SIDE, RGB, Preparation, height_and_width
from stochx.engine.network.bpda import bpda, stand_ins
from stochx.engine.network.classifier import IMAGENET_MEAN, IMAGENET_STD, Classifier, borrowed, first_channels
from stochx.engine.network.reading import channels_to_try, in_single_precision, probes, read_as_classifier, runs
from stochx.engine.network.wrappers import unwrapped
from stochx.errors import InputError, UsageError, quoted, suggest
from stochx.facts import Fact, Source, classes_fact, input_fact, normalisation_fact
from stochx.input_files import exists
from stochx.presets import imagenet_classes
from stochx.settings.values import Size

USUAL = 224
SIDES = (USUAL, 32, 64, 28, 96, 128, 160, 192, 256, 299, 384, 512, 84)  # pixels, tried in this order
GIVEN: Source = "given"
DECLARING = ("image_size", "img_size", "input_size")  # attributes in which networks keep their input size


def call_factory(text: str) -> nn.Module:
    """Return what the user's function returns: a network, or a `Classifier`.

    It may also return `{"network": network, "bpda": {"layer": backward}}`, where layers get backward stand-ins.
    Raises `UsageError` for what cannot be imported or called, `InputError` where it fails or returns no network.
    """
    where, _, what = text.rpartition(":")
    with _as_input_errors(text):
        module = _module(where, text)
    function = _attribute(module, what, where)
    _check_callable(function, text)
    with _as_input_errors(text):
        made, layers = _parts(function())
    if not isinstance(made, nn.Module):
        kind = "None" if made is None else f"a {type(made).__name__}"
        raise InputError(f"`{text}` returns {kind}, not a network", "return a torch.nn.Module")
    network = unwrapped(made)
    _stand_in(network.network if isinstance(network, Classifier) else network, layers, text)
    return network if isinstance(network, Classifier) else in_single_precision(network).eval()


def _parts(made: object) -> tuple[object, object]:
    """Return a network, and which of its layers get a backward stand-in."""
    if isinstance(made, Mapping) and {"network"} <= {*made} <= {"network", "bpda"}:
        return made["network"], made.get("bpda", {})
    return made, {}


def _stand_in(network: nn.Module, layers: object, text: str) -> None:
    """Replace layers of the network by `bpda(layer, backward)`; `layers` maps their names to `backward`."""
    if not isinstance(layers, Mapping):
        raise InputError(
            f"`bpda` of `{text}` is a {type(layers).__name__}", 'map names of layers to functions: {"layer": backward}'
        )
    known = dict(network.named_modules())
    for name, backward in layers.items():
        if not name or name not in known:
            raise InputError(f"`{text}` has no layer `{name}`", suggest(str(name), [k for k in known if k]))
        parent, _, child = name.rpartition(".")
        setattr(known[parent], child, bpda(known[name], backward))


def from_factory(
    text: str, size: tuple[Size, Size] | None = None, usual: Size = USUAL
) -> tuple[Classifier, list[Fact]]:
    """Return the network that a function makes, read as a classifier, and what is known of it.

    Its input size (crop, resize) is the given one, else what it declares, else the first that it takes of `usual` and
    others; its channels are the first of `channels_to_try` that it takes.
    """
    made = call_factory(text)
    if isinstance(made, Classifier):
        model, seen, source = made, GIVEN, GIVEN
    else:
        preparation, seen = _preparation(made, size, usual)
        mean, std = borrowed(IMAGENET_MEAN, IMAGENET_STD, preparation.channels)
        model = Classifier(made, (), preparation, mean, std, arch=text, channels=preparation.channels)
        source = "guessed"
    facts = [Fact("architecture", text, "given"), *read_outputs(model, text), *_read_stand_ins(model, text)]
    named = source if source == GIVEN else "measured"
    if len(model.classes) == 1000 and named == "measured":
        model.classes, named = imagenet_classes(), "guessed"
        model.guessed_classes = True
    return model, [*facts, classes_fact(model, named), normalisation_fact(model, source), input_fact(model, seen)]


def read_outputs(model: Classifier, text: str) -> list[Fact]:
    """Read a network as a classifier, see `read_as_classifier`, and number its classes if they have no names.

    Its channels are as declared, or as it takes them. Raises `InputError` for a network that is not a classifier, and
    where names and outputs differ in number.
    """
    if not runs(model, model.input_shape):
        channels = _taken(model.network, model.preparation.crop, channels_to_try(model.network))
        if channels is not None:
            model.take_channels(channels)
    x = model.normalise(probes(model.input_shape))
    model.network, reading = read_as_classifier(model.network, x, text)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        count = model.network(x[:2]).shape[1]
    if len(model.classes) > 1 and len(model.classes) != count:
        raise InputError(f"`{text}` names {len(model.classes)} classes for {count} outputs", "name each output")
    if len(model.classes) != count:
        model.classes = tuple(map(str, range(count)))
    return [Fact("output", note, "measured") for note in reading.notes]


def _read_stand_ins(model: Classifier, text: str) -> list[Fact]:
    """Run backward stand-ins once, so that one of another shape is refused before any work, and name them."""
    layers = stand_ins(model.network)
    if not layers:
        return []
    with _as_input_errors(text), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        model.network(model.normalise(probes(model.input_shape)))
    return [Fact("bpda", ", ".join(f"{name}: {layer.extra_repr()}" for name, layer in layers.items()), "given")]


def _preparation(network: nn.Module, size: tuple[Size, Size] | None, usual: Size) -> tuple[Preparation, Source]:
    counts, channels = channels_to_try(network), first_channels(network) or RGB
    if size is not None:
        return Preparation(size[1], size[0], channels=_taken(network, size[0], counts) or channels), "given"
    declared = _declared(network)
    tried = ((each, _taken(network, each, counts)) for each in (*declared, *_flattened(network, counts), usual, *SIDES))
    crop, channels = next(((each, count) for each, count in tried if count), (usual, channels))
    preparation = Preparation(256 if crop == USUAL else crop, crop, channels=channels)
    if crop in declared:
        return preparation, "known"
    height, width = height_and_width(crop)
    larger = [(channels, height + 32, width + 32), (channels, 2 * height, 2 * width)]
    return preparation, "guessed" if any(runs(network, shape) for shape in larger) else "measured"


def _taken(network: nn.Module, size: Size, counts: Sequence[int]) -> int | None:
    """Return the first number of channels with which the network takes images of a size; None if there is none."""
    return next((count for count in counts if runs(network, (count, *height_and_width(size)))), None)


def _flattened(network: nn.Module, counts: Sequence[int]) -> list[int]:
    """Return sides of the images whose pixels a network's first layer takes as a vector."""
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)), None)
    if not isinstance(first, nn.Linear):
        return []
    sides = [(count, math.isqrt(first.in_features // count)) for count in counts]
    return [side for count, side in sides if side >= MIN_SIDE and count * side**2 == first.in_features]


def _declared(network: nn.Module) -> list[Size]:
    """Return the sizes that attributes or configurations declare: the network's, then those of its parts.

    A configuration of timm's keeps the size of the published weights where a network was built for another one.
    """
    found = list[Size]()
    for holder in (network, *network.children()):
        values = [getattr(holder, name, None) for name in DECLARING]
        for name in ("pretrained_cfg", "default_cfg", "config"):
            config = getattr(holder, name, None)
            read = config.get if isinstance(config, dict) else lambda key, config=config: getattr(config, key, None)
            values += [read(key) for key in ("input_size", "image_size")]
        for value in values:
            sides = [*value[-2:]] if isinstance(value, tuple | list) else [value]
            known = [side for side in sides if type(side) is int and MIN_SIDE <= side <= 1024]
            if known and len(known) == len(sides):
                found.append(known[0] if known[0] == known[-1] else (known[0], known[-1]))
    return found


def _module(where: str, text: str) -> ModuleType:
    """Import a module by its name, from where one is too, or by its file."""
    if where.endswith(".py") or "/" in where:
        file = Path(where).expanduser().resolve()
        if not exists(file) or not file.is_file():
            raise UsageError(f"no such file: `{where}`", "name the function as FILE.py:function")
        name = str(file)  # other modules may have the same stem
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise UsageError(f"`{where}` is not a Python file", "name the function as FILE.py:function")
        module = importlib.util.module_from_spec(spec)
        with _importable(file.parent):
            sys.modules[name] = module  # for classes that look themselves up
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[name]
                raise
        return module
    with _importable(Path.cwd()):
        try:
            return importlib.import_module(where)
        except ModuleNotFoundError as error:
            if error.name and (where == error.name or where.startswith(f"{error.name}.")):
                raise UsageError(
                    f"`{text}`: {error}",
                    "name it as package.module:function, from where you are, or as FILE.py:function",
                ) from None
            raise
        except (ValueError, TypeError):
            raise UsageError(f"`{text}` names no module", "name it as package.module:function") from None


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the user's code may have changed the path
            sys.path.remove(str(folder))


def _attribute(module: ModuleType, what: str, where: str) -> Any:
    value: Any = module
    for part in what.split("."):
        if not part or not hasattr(value, part):
            functions = [
                n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__
            ]
            known = quoted(functions, 5)
            raise UsageError(
                f"`{where}` has no `{what}`", f"it has {known}" if known else "name a function that returns a network"
            )
        value = getattr(value, part)
    return value


def _check_callable(function: object, text: str) -> None:
    name = text.rpartition(":")[2]
    if isinstance(function, nn.Module):
        raise UsageError(
            f"`{text}` is a network, not a function that makes one",
            f"write `def make(): return {name}`, and name `make`",
        )
    if not callable(function):
        raise UsageError(
            f"`{text}` is not a function, but of type {type(function).__name__}", "name a function without arguments"
        )
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return  # built in: a call will tell
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in kinds]
    if needed:
        raise UsageError(
            f"`{text}` needs arguments: {quoted(needed, 10)}",
            f"write a function without any: `def make(): return {name}(...)`",
        )


@contextlib.contextmanager
def _as_input_errors(text: str) -> Iterator[None]:
    """Turn whatever the user's code raises into an `InputError` with its last line, `sys.exit` too."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout carries results only
            yield
    except (UsageError, InputError):
        raise
    except (Exception, SystemExit) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_theirs(f.filename)]
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "its call"
        if isinstance(error, SyntaxError) and error.filename:
            place = f"{Path(error.filename).name}:{error.lineno}"
        what = f"sys.exit({error.code!r})" if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
        first = (what.splitlines() or [""])[0][:200]
        hint = "mend its code; it must run without arguments"
        if isinstance(error, ImportError) and (error.name or "").startswith("stochx."):
            hint = "public names stand at the top: `from stochx import Classifier, Preparation`"
        raise InputError(f"`{text}` fails at {place}: {first}", hint) from None


def _is_theirs(file: str) -> bool:
    return not file.startswith("<") and "site-packages" not in file and Path(file) != Path(__file__)


def is_named(text: str) -> bool:
    """Return true for texts of the form `package.module:function` or `FILE.py:function`."""
    where, colon, what = text.rpartition(":")
    return bool(colon and where) and all(part.isidentifier() for part in what.split("."))
