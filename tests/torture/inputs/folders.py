"""Folders of runs whose files were edited or damaged: resumed, reported, compared, and turned into cards."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import shutil
from collections.abc import Mapping
from pathlib import Path
from random import Random

from torture.inputs import odd
from torture.inputs.command import command
from torture.inputs.data import image

from stochx import settings

SHAPES = "--data shapes:size=16,classes=3,count=60"
EPISODES = "--data shapes:size=16,classes=8,count=200"
FEW = "--way 2 --shot 1 --queries 2"
RUNS: Mapping[str, str] = {
    "train": f"train {SHAPES} --arch convnet:width=2 --epochs 2",
    "attack": f"attack NET {SHAPES} -a fgsm -a pgd:steps=2 --limit 4 --checks none",
    "sweep": f"attack NET {SHAPES} -a fgsm --limit 4 --checks none --sweep eps=0,2/255",
    "certify": f"certify NET {SHAPES} --sigma 0.1 --draws 100 --limit 3",
    "explain": f"explain {SHAPES} --model NET --limit 3 -m gradient -m gradxinput",
    "score": f"score {SHAPES} --model NET --limit 3 -m gradient -m gradxinput -s autvc",
    "boundary": f"boundary NET {SHAPES} --images 0,1,2 --resolution 6",
    "distill": f"distill --teacher NET {SHAPES} --epochs 2 --draws 2",
    "fsc-train": f"fsc-train {EPISODES} --backbone convnet:width=2 --episodes 4 --every 2 {FEW} --validation 2",
    "fsc-test": f"fsc-test FEW {EPISODES} --episodes 6 {FEW}",
    "fsc-explain": "fsc-explain support/a/0.png --model FEW --support support",
}
DRAWN = {"attack", "sweep", "certify", "explain", "boundary", "fsc-explain"}  # slowly; `score` reads its own again
PLACE = "runs"
SHARES = {"records.jsonl": 8, "result.json": 4, "config.toml": 2, "state.safetensors": 4}  # of files that are damaged


def prepare(folder: Path) -> None:
    """Run every command once, beside the cases: in a child, as no forked one may use autograd after its parent did."""
    place = folder / PLACE
    runs = multiprocessing.get_context("fork").Process(target=_run, args=(place,))
    runs.start()
    runs.join()
    assert runs.exitcode == 0
    for name in settings.COMMANDS:
        importlib.import_module(f"stochx.runs.{settings.module_of(name)}")
    command("report", *RUNS, "-o", "report.html", cwd=place)
    command("compare", "attack", "sweep", cwd=place)
    command("card", "attack", cwd=place)


def _run(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    for name in ("a", "b"):
        (place / "support" / name).mkdir(parents=True)
        (place / "support" / name / "0.png").write_bytes(image())
    for name in ("train", "fsc-train", *RUNS):
        if not (place / name).exists():
            done = command(*words(name, place, place / name), cwd=place)
            assert done.returncode == 0, (name, done.stderr)


def words(name: str, place: Path, output: Path) -> list[str]:
    """Return the words of a run."""
    networks = {"NET": place / "train" / "model.safetensors", "FEW": place / "fsc-train" / "model.safetensors"}
    typed = [str(networks.get(word, word)) for word in RUNS[name].split()]
    typed = [str(place / word) if word.startswith("support") else word for word in typed]
    return [*typed, "-o", str(output), "--device", "cpu", "--seed", "0", *(["--no-figure"] if name in DRAWN else [])]


def resumed(draw: Random, folder: Path) -> None:
    """Go on with a run that was damaged."""
    name = draw.choice(list(RUNS))
    shutil.copytree(folder.parent / PLACE / name, folder / name)
    _damage(draw, folder / name)
    command(*words(name, folder.parent / PLACE, folder / name), "--resume", cwd=folder)


def read(draw: Random, folder: Path) -> None:
    """Report on a damaged run, compare it with a whole one, or make a card of it."""
    name = draw.choice(list(RUNS))
    whole = folder.parent / PLACE / name
    shutil.copytree(whole, folder / name)
    _damage(draw, folder / name)
    form = ("--format", draw.choice(("tsv", "json", "markdown", "junit")))
    what = draw.choice(
        (
            ("report", name, "-o", "report.html"),
            ("report", name, whole, "-o", "report.html"),
            ("compare", name, whole, *form),
            ("compare", whole, name),
            ("card", name if name in ("attack", "sweep", "certify") else folder.parent / PLACE / "attack", *form),
        )
    )
    command(*what, cwd=folder)


def _damage(draw: Random, folder: Path) -> None:
    """Edit a file of a run, cut it, or put something else in its place."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for _ in range(draw.choice((1, 1, 1, 2))):
        (path,) = draw.choices(found, [SHARES.get(path.name, 1) for path in found])
        if not path.is_file():
            continue
        content, kind = path.read_bytes(), draw.random()
        if kind < 0.7 and path.suffix in (".json", ".jsonl"):
            path.write_text(_edited(draw, content.decode(errors="replace")), encoding="utf-8")
        elif kind < 0.9:
            path.write_bytes(draw.choice((odd.damaged(draw, content), content + b"\xc3", b"[" * 100_000, content * 2)))
        elif kind < 0.95:
            path.unlink()
            path.mkdir()
        else:
            path.unlink()


def _edited(draw: Random, text: str) -> str:
    """Return JSON, or lines of it, with another value in one place."""
    lines = text.splitlines()
    place = draw.randrange(len(lines)) if lines else 0
    try:
        lines[place : place + 1] = [json.dumps(odd.changed(draw, json.loads(lines[place])))]
    except (ValueError, IndexError, RecursionError):  # of what was damaged before
        return text
    return "\n".join(lines[: place + 1] if draw.random() < 0.2 else lines) + "\n"
