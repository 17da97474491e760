"""The steps of `stochx demo`: the commands that it runs; docs/demo.md says why they have these settings."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stochx.settings import Attack, Boundary, Demo, Distill, Explain, FscTest, FscTrain, Report, Score, Train
from stochx.settings.base import Settings

DATA = "shapes:count=6000,classes=6"
PHOTOS, SKETCHES = "shapes:count=2000,classes=10", "shapes:count=2000,classes=16,domain=sketch"
EPS = "4/255"
ADAPTIVE = "smoothtaylor:noise=adaptive,objective=autvc"
RULES = "lrp:composite=epsilon-gamma-box"

NAMES = (
    "teacher",
    "student",
    "attack-teacher",
    "attack-student",
    "boundary",
    "explain-teacher",
    "explain-student",
    "score",
    "fsc-none",
    "fsc-lrp",
    "fsc-test",
    "report",
)
"""Names of the steps, in order."""


@dataclass(frozen=True)
class Step:
    """A command of the demonstration: its name and folder, what it shows, why, and the settings that it runs with."""

    name: str
    title: str
    why: str
    settings: Settings


def steps(demo: Demo) -> tuple[Step, ...]:
    """Return the commands, in order; each writes to a folder of its own, whose number keeps them in order."""
    folders = {name: demo.folder / f"{number:02d}-{name}" for number, name in enumerate(NAMES, start=1)}
    student = str(folders["student"] / "student.safetensors")
    teacher, unguided, guided = (
        str(folders[name] / "model.safetensors") for name in ("teacher", "fsc-none", "fsc-lrp")
    )
    working = (
        *_networks(teacher),
        *_attacks(teacher, student),
        *_maps(teacher, student),
        *_few_shot(teacher, unguided, guided),
    )
    return (*(_placed(step, folders[step.name], demo.seed) for step in working), _report(demo.folder))


def _placed(step: Step, folder: Path, seed: int) -> Step:
    """Return a step that writes to this folder, on the CPU, so that every machine shows about the same."""
    place: dict[str, Any] = {"output": folder, "device": "cpu", "seed": seed}
    return dataclasses.replace(step, settings=dataclasses.replace(step.settings, **place))


def _networks(teacher: str) -> tuple[Step, ...]:
    return (
        Step(
            "teacher",
            "Train a teacher",
            "A small network learns six shapes on textured backgrounds. The images are generated, with masks of "
            "the shapes, so nothing is downloaded.",
            Train(
                data=DATA,
                arch="convnet:pool=mean",
                epochs=6,
                lr=0.1,
                batch_size=64,
                augment=False,
            ),
        ),
        Step(
            "student",
            "Distill a stochastic student",
            "The student is the teacher with noise in its layers. It learns from adversarial examples, and from "
            "the teacher's answers.",
            Distill(
                teacher=teacher,
                data=DATA,
                noise="adaptive",
                adversarial="pgd:steps=2",
                eps=EPS,
                epochs=4,
                lr=0.05,
                batch_size=64,
                augment=False,
                validation=0,
            ),
        ),
    )


def _attacks(teacher: str, student: str) -> tuple[Step, ...]:
    return (
        Step(
            "attack-teacher",
            "Attack the teacher",
            "PGD looks for the worst image in a ball around each image: no pixel changes by more than "
            f"{EPS}, which people hardly see.",
            Attack(
                model=teacher,
                data=DATA,
                limit=96,
                attack=("pgd:steps=10",),
                eps=EPS,
            ),
        ),
        Step(
            "attack-student",
            "Attack the student, honestly and naively, at several degrees of noise",
            "The gradient of a stochastic network is random. An attack that follows one draw is misled and makes "
            "the network look stronger than it is; by default stochx averages as many draws as a gradient needs. "
            "Degree 0 is without noise, 1 as trained.",
            Attack(
                model=student,
                data=DATA,
                limit=96,
                attack=("pgd:steps=10", "pgd:steps=10,eot=1"),
                eps=EPS,
                sweep="noise=0,1,2",
            ),
        ),
        Step(
            "boundary",
            "Draw the decision boundaries of both",
            "A plane through three images shows which class each network sees between them, and how far the next "
            "class is.",
            Boundary(
                models=(teacher, student),
                data=DATA,
                resolution=80,
                draws=10,
            ),
        ),
    )


def _maps(teacher: str, student: str) -> tuple[Step, ...]:
    return (
        Step(
            "explain-teacher",
            "Explain the teacher",
            "Four methods show the evidence in the first six test images. SmoothTaylor chooses the noise for each "
            "image, so that its map is the smoothest at all scales.",
            Explain(
                model=teacher,
                data=DATA,
                limit=6,
                sample="first",
                method=("ig", "smoothgrad", ADAPTIVE, RULES),
            ),
        ),
        Step(
            "explain-student",
            "Explain the student",
            "The same images again, to see whether the gradients of a robust network follow the object. A map "
            "averages many gradients, each with fresh noise of the student.",
            Explain(
                model=student,
                data=DATA,
                limit=6,
                sample="first",
                method=("ig", "smoothgrad", ADAPTIVE),
                draws=2,
            ),
        ),
        Step(
            "score",
            "Score the maps against the truth",
            "The masks of the shapes are known: how much of a map lies on the object? And how soon is the class "
            "recognised if the most relevant pixels come first? Controls that explain nothing (noise, a blob, "
            "edges, blur) say what a number is worth.",
            Score(
                model=teacher,
                data=DATA,
                limit=24,
                sample="first",
                method=("ig", "smoothgrad", ADAPTIVE, RULES),
                metric=("relevance-mass", "insertion"),
                controls=True,
            ),
        ),
    )


def _few_shot(teacher: str, unguided: str, guided: str) -> tuple[Step, ...]:
    return (
        _few_shot_training(
            teacher,
            "none",
            "A relation network learns to compare images: is this query of "
            "the same class as those few? Its features are the teacher's.",
        ),
        _few_shot_training(
            teacher,
            "lrp",
            "The same training, but LRP explains each prediction, and features that spoke for it get more weight.",
        ),
        Step(
            "fsc-test",
            "Test both few-shot networks on another domain",
            "Sketches in place of photos, and six of the sixteen shapes are new to both networks. Both answer the "
            "same episodes, so that the difference is paired.",
            FscTest(
                model=guided,
                versus=unguided,
                data=(SKETCHES,),
                shot=(5,),
                queries=5,
                episodes=200,
            ),
        ),
    )


def _few_shot_training(teacher: str, guide: str, why: str) -> Step:
    return Step(
        f"fsc-{guide}",
        "Train a few-shot network, " + ("unguided" if guide == "none" else f"guided by {guide.upper()}"),
        why,
        FscTrain(
            data=(PHOTOS,),
            backbone=teacher,
            head="relation",
            guide=guide,
            shot=5,
            queries=3,
            episodes=400,
            validation=0,
            augment=False,
        ),
    )


def _report(folder: Path) -> Step:
    return Step(
        "report",
        "Put everything into one file",
        "Numbers, curves, images and maps of all runs, to read in a browser and to send to a colleague.",
        Report(runs=(folder,), title="stochx demo", output=folder / "report.html"),
    )


NEXT: tuple[Settings, ...] = (
    Explain(images=("photo.jpg",), method=("ig", "smoothgrad", "smoothtaylor:noise=adaptive", "lrp")),
    Attack(model="model.pt", data="folder:root=photos", limit=200),
    Distill(teacher="model.pt", data="folder:root=photos"),
)
"""Commands to try on files of one's own."""
