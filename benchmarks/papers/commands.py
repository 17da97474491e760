"""Run stochx commands, each in a folder of its own, and continue those that were interrupted."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import stochx.runs
from stochx.engine.threads import configure_threads
from stochx.runs import Document
from stochx.settings.folders import RunFiles

configure_threads(os.environ)  # importing this module first comes before torch, as `configure_threads` must


def run(settings: RunFiles, ranks: int = 1) -> Document:
    """Return the document of a command from its folder; run it, or continue it, where it is not finished.

    With several `ranks` it runs under torchrun.
    """
    result = settings.folder / "result.json"
    if not result.exists():
        print(f"$ stochx {settings.command} -o {settings.folder}", flush=True)
        settings = dataclasses.replace(settings, resume=(settings.folder / "config.toml").exists())
        if ranks == 1:
            stochx.runs.run(settings)
        else:
            _run_ranks(settings, ranks)
    document: Document = json.loads(result.read_text(encoding="utf-8"))
    return document


def _run_ranks(settings: RunFiles, ranks: int) -> None:
    """Run a command in several processes, which read its settings from a file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "settings.pickle"
        file.write_bytes(pickle.dumps(settings))
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        subprocess.run([*start, __file__, str(file)], check=True)


if __name__ == "__main__":
    stochx.runs.run(pickle.loads(Path(sys.argv[1]).read_bytes()))
