"""Settings: one frozen dataclass for each command, with a field for each option.

    stochx.settings.Attack(model="net.pt", attack=("pgd:steps=20",), eps="4/255")

Nothing here imports torch; a class is imported when it is named.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stochx.settings.argv import command_line
    from stochx.settings.attack import Attack
    from stochx.settings.base import Settings
    from stochx.settings.boundary import Boundary
    from stochx.settings.card import Card
    from stochx.settings.certify import Certify
    from stochx.settings.compare import Compare
    from stochx.settings.demo import Demo
    from stochx.settings.distill import Distill
    from stochx.settings.doctor import Doctor
    from stochx.settings.explain import Explain
    from stochx.settings.fsc_evaluate import FscTest
    from stochx.settings.fsc_explain import FscExplain
    from stochx.settings.fsc_train import FscTrain
    from stochx.settings.info import Info
    from stochx.settings.report import Report
    from stochx.settings.score import Score
    from stochx.settings.train import Train

__all__ = [
    "Attack",
    "Boundary",
    "Card",
    "Certify",
    "Compare",
    "Demo",
    "Distill",
    "Doctor",
    "Explain",
    "FscExplain",
    "FscTest",
    "FscTrain",
    "Info",
    "Report",
    "Score",
    "Settings",
    "Train",
    "command_line",
]

COMMANDS = {
    "explain": "Explain",
    "score": "Score",
    "attack": "Attack",
    "certify": "Certify",
    "train": "Train",
    "distill": "Distill",
    "fsc-train": "FscTrain",
    "fsc-test": "FscTest",
    "fsc-explain": "FscExplain",
    "boundary": "Boundary",
    "card": "Card",
    "compare": "Compare",
    "report": "Report",
    "info": "Info",
    "doctor": "Doctor",
    "demo": "Demo",
}
"""Commands as typed, and their classes."""


def module_of(command: str) -> str:
    """Return the name of a command's file, the same on every floor: `fsc-train` lies in `fsc_train.py`.

    A file `fsc_test.py` would be taken for a test.
    """
    return "fsc_evaluate" if command == "fsc-test" else command.replace("-", "_")


if not TYPE_CHECKING:  # a type checker would take any name for one that this function knows

    def __getattr__(name: str) -> object:
        homes = {cls: module_of(command) for command, cls in COMMANDS.items()}
        homes |= {"Settings": "base", "command_line": "argv"}
        if name not in homes:
            raise AttributeError(f"module `stochx.settings` has no attribute `{name}`")
        return getattr(importlib.import_module(f"stochx.settings.{homes[name]}"), name)


def __dir__() -> list[str]:
    return __all__
