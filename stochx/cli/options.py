"""Options that mean the same in every command, and choices read from the catalogs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from stochx.catalog import ATTACKS, ATTRIBUTIONS, DATASETS, Catalog
from stochx.cli.commands import ASKED_BY_FISH, tabbed
from stochx.errors import InputError, UsageError, suggest

WHAT, METHOD, RUN, OUTPUT = "What", "Method", "Run", "Output"
USUAL = {"linf": "8/255", "l2": "0.5", "l1": "12"}  # radii


def complete(catalog: Catalog[Any]) -> Callable[[str], list[Any]]:
    """Completion of `NAME[:KEY=VALUE,...]`: names, then keys, then choices of a key."""

    def values(incomplete: str) -> list[tuple[str, str]]:
        name, colon, rest = incomplete.partition(":")
        if not colon:
            return [(n, catalog.summary(n)) for n in catalog if n.startswith(incomplete)]
        if name not in catalog:
            return []
        *done, last = rest.split(",")
        stem = f"{name}:{''.join(f'{d},' for d in done)}"
        key, equals, value = last.partition("=")
        fields = catalog.fields(name)
        if equals:
            field = next((f for f in fields if f.key == key), None)
            choices = () if field is None else ("true", "false") if field.type == "bool" else field.choices
            return [(f"{stem}{key}={c}", field.help if field else "") for c in choices if c.startswith(value)]
        return [
            (f"{stem}{f.key}=", f"{f.help} (default {f.default})" if f.default else f.help)
            for f in fields
            if f.key.startswith(key)
        ]

    def lines(incomplete: str) -> list[str]:
        return [tabbed(value, help) for value, help in values(incomplete)]

    return lines if ASKED_BY_FISH else values


def check(catalog: Catalog[Any]) -> Callable[[list[str]], list[str]]:
    """A callback that refuses unknown names, keys and values before anything heavy is imported."""

    def callback(texts: list[str]) -> list[str]:
        for text in texts:
            catalog.parse(text)
        if len({*texts}) < len(texts):
            raise UsageError(f"`{next(t for t in texts if texts.count(t) > 1)}` is given twice")
        return texts

    return callback


def check_one(catalog: Catalog[Any]) -> Callable[[str | None], str | None]:
    """The same for a single choice, which may be left out."""

    def callback(text: str | None) -> str | None:
        if text is not None:
            catalog.parse(text)
        return text

    return callback


def load_config(context: typer.Context, path: Path | None) -> Path | None:
    """Take defaults from a TOML file whose keys are the command's long options; flags and variables win."""
    if path is None or context.resilient_parsing:
        return path
    import tomllib

    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read `{path}`: {error.strerror}", "check the path of `--config`") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"`{path}` is no TOML: {error}", 'write lines such as `method = ["ig"]`') from None
    known = [p.name for p in context.command.params if p.name and p.name not in ("config", "help")]
    for key in values:
        if key.replace("-", "_") not in known:
            raise UsageError(f"`{path}` has an unknown key `{key}`", suggest(key, known))
    context.default_map = {**(context.default_map or {}), **{k.replace("-", "_"): v for k, v in values.items()}}
    return path


def three_numbers(text: str | None) -> tuple[float, float, float] | None:
    """`0.5,0.5,0.5` as numbers; one number stands for all channels."""
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 3):
        raise UsageError(f"`{text}` is neither one number nor three", "write `--mean 0.485,0.456,0.406`")
    first, second, third = values * 3 if len(values) == 1 else values
    return first, second, third


Method = Annotated[
    list[str],
    typer.Option(
        "--method",
        "-m",
        metavar="NAME[:KEY=VALUE,...]",
        callback=check(ATTRIBUTIONS),
        autocompletion=complete(ATTRIBUTIONS),
        help="Attribution; repeat to compare. One of: " + ", ".join(ATTRIBUTIONS) + ".",
        rich_help_panel=METHOD,
    ),
]
Model = Annotated[
    str,
    typer.Option(
        help="Weights (.safetensors, .pt), a torchvision name, timm:NAME or package.module:factory.",
        rich_help_panel=WHAT,
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(help="Architecture of bare weights, where it cannot be recognised.", rich_help_panel=WHAT),
]
Mean = Annotated[
    str | None, typer.Option(metavar="R,G,B", help="Mean of the normalisation, in [0, 1].", rich_help_panel=WHAT)
]
Std = Annotated[
    str | None, typer.Option(metavar="R,G,B", help="Standard deviation of the normalisation.", rich_help_panel=WHAT)
]
DataSet = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="NAME[:KEY=VALUE,...]",
        autocompletion=complete(DATASETS),
        help="Data set, a folder, a zip or an npz. One of: " + ", ".join(DATASETS) + ".",
        rich_help_panel=WHAT,
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Take the first so many images.", rich_help_panel=WHAT)]
Target = Annotated[
    str | None,
    typer.Option(help="Class index or name; default each image's top prediction.", rich_help_panel=WHAT),
]
Crop = Annotated[
    bool, typer.Option("--crop/--no-crop", help="Centre crop, or keep the whole image.", rich_help_panel=WHAT)
]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over the data.", rich_help_panel=METHOD)]
LearningRate = Annotated[
    float | None,
    typer.Option(
        "--lr",
        min=1e-6,
        help="Largest learning rate; default 0.1, with adamw 0.001, a tenth of it for trained weights.",
        rich_help_panel=METHOD,
    ),
]
StepSize = Annotated[int, typer.Option("--batch-size", min=2, help="Images a step.", rich_help_panel=METHOD)]
Augment = Annotated[
    bool, typer.Option("--augment/--no-augment", help="Shift and mirror images.", rich_help_panel=METHOD)
]
Optimizer = Annotated[str, typer.Option(help="sgd (with momentum) or adamw.", rich_help_panel=METHOD)]
Schedule = Annotated[
    str, typer.Option(help="Of the learning rate: one-cycle, cosine, step or constant.", rich_help_panel=METHOD)
]
Decay = Annotated[float, typer.Option(min=0, help="Weight decay.", rich_help_panel=METHOD)]
Accumulate = Annotated[
    int, typer.Option(min=1, help="Parts of a step's images, one after the other: less memory.", rich_help_panel=METHOD)
]
Average = Annotated[
    float,
    typer.Option(min=0, max=0.99999, help="Decay of the weights' moving average; 0 none.", rich_help_panel=METHOD),
]
Patience = Annotated[
    int,
    typer.Option(min=0, help="Stop after so many epochs without a better validation; 0 never.", rich_help_panel=METHOD),
]
Validation = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Training images kept apart, which choose the best epoch; by default in adversarial training a tenth, "
        "1000 at most; weights that are trained already are only watched, on 512.",
        rich_help_panel=METHOD,
    ),
]
Adversarial = Annotated[
    str | None,
    typer.Option(
        "--adversarial",
        metavar="ATTACK[:KEY=VALUE,...]",
        callback=check_one(ATTACKS),
        autocompletion=complete(ATTACKS),
        help="Train on what an attack makes of the images, e.g. pgd:steps=7.",
        rich_help_panel=METHOD,
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(help="Of adversarial training: madry (default), mixed or trades.", rich_help_panel=METHOD),
]
Eps = Annotated[
    str | None, typer.Option(help="Radius of its ball, in pixels in [0, 1]; default 8/255.", rich_help_panel=METHOD)
]
Norm = Annotated[str | None, typer.Option(help="Norm of its ball: linf (default), l2 or l1.", rich_help_panel=METHOD)]
Delay = Annotated[
    int, typer.Option(min=0, help="Epochs of plain training before the adversarial ones.", rich_help_panel=METHOD)
]
SaveEpochs = Annotated[
    bool,
    typer.Option("--save-epochs", help="Keep the weights of every epoch in checkpoints/.", rich_help_panel=OUTPUT),
]
Draws = Annotated[
    int, typer.Option(min=1, help="Draws of a stochastic network's noise to average.", rich_help_panel=METHOD)
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=RUN)]
Precision = Annotated[
    str, typer.Option(help="auto (fp32), fp32, bf16 or tf32. Maps in bf16 differ visibly.", rich_help_panel=RUN)
]
Seed = Annotated[int, typer.Option(help="Seed of every random draw.", rich_help_panel=RUN)]
BatchSize = Annotated[
    str, typer.Option(metavar="N|auto", help="Images or samples sent through the network at once.", rich_help_panel=RUN)
]
Resume = Annotated[bool, typer.Option("--resume", help="Skip what the output folder holds.", rich_help_panel=RUN)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an older run's files.", rich_help_panel=RUN)]
Config = Annotated[
    Path | None,
    typer.Option(
        callback=load_config,
        is_eager=True,
        metavar="FILE.toml",
        help="Take options from a file, e.g. a run's config.toml.",
        rich_help_panel=RUN,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Folder for the files; default stochx-out/COMMAND.", rich_help_panel=OUTPUT),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.", rich_help_panel=OUTPUT)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on stderr.", rich_help_panel=OUTPUT)]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also details on stderr.", rich_help_panel=OUTPUT)]


def one_of(value: str, known: tuple[str, ...], option: str) -> str:
    """`value` if it is known."""
    if value not in known:
        raise UsageError(f"`{option} {value}` is unknown", suggest(value, known))
    return value


def radius(text: str, norm: str) -> float:
    """A radius as typed; what looks like a slip is refused with what may have been meant."""
    top, slash, bottom = text.partition("/")
    try:
        value = float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"`--eps {text}` is no number", f"write `--eps {USUAL[norm]}`") from None
    if not 0 <= value < float("inf"):
        raise UsageError(f"`--eps {text}` is not a radius", "it must not be negative")
    if norm == "linf" and value > 1:
        hint = f"did you mean `--eps {text}/255`?" if value < 256 and not slash else "pixels lie in [0, 1]"
        raise UsageError(f"`--eps {text}` is above 1, the whole range of a pixel", hint)
    if norm != "linf" and slash and bottom.strip() == "255" and value < 0.25:
        raise UsageError(
            f"`--eps {text}` is a radius for linf, not for {norm}",
            f"a usual one is `--eps {USUAL[norm]}`; write `--eps {value:.4g}` if you mean it",
        )
    return value


def batch_size(text: str) -> int:
    """`auto` is 0."""
    if text == "auto":
        return 0
    if not text.isdecimal() or int(text) == 0:
        raise UsageError(f"`--batch-size {text}` is no positive number", "use `auto` or e.g. `16`")
    return int(text)


def empty_or(folder: Path, resume: bool, overwrite: bool) -> None:
    """Refuse a folder with files in it, unless the run goes on with them or replaces them."""
    if folder.is_dir() and any(folder.iterdir()) and not (resume or overwrite):
        raise UsageError(f"`{folder}` is not empty", "use `--resume`, `--overwrite` or another `--output`")
