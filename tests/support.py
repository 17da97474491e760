"""Helpers that several test modules share: a command run in this process, real CIFAR images, few-shot episodes."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import multiprocessing
import os
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, save_net, shared
from PIL import Image

from stochx.cli import main
from stochx.engine.io.store import RunFolder
from stochx.errors import StochxError
from stochx.testing.samples import features, make_head

# Few-shot heads that are checked against the literal reference, and heads whose scores are products of vectors.
LITERAL = ["relation", "relation:hidden=3", "gnn", "gnn:transductive=true", "gnn:faithful=false", "cross-attention"]
VECTORS = ["prototypical", "cosine", "matching", "prototypical:embedding=flat", "cosine:embedding=flat"]


@dataclass
class Done:
    """A command that has ended: its exit code and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


def stochx(*args, cwd=".", env=None):
    """Run a command in this process, as `main` runs it."""
    before = Path.cwd()
    out, err, argv, environ = io.StringIO(), io.StringIO(), sys.argv, dict(os.environ)
    log = logging.getLogger("stochx")
    handled, propagates, level = log.handlers, log.propagate, log.level
    sys.argv = ["stochx", *map(str, args)]
    os.environ.update(env or {})
    os.chdir(cwd)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as left:
            main()
    finally:
        os.chdir(before)
        sys.argv = argv
        os.environ.clear()
        os.environ.update(environ)
        log.handlers, log.propagate = handled, propagates
        log.setLevel(level)
    return Done(left.value.code, out.getvalue(), err.getvalue())


STREAMS = "stdout", "stderr"
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["stochx.cli", "stochx.loading", "torch.distributed"])


def in_ranks(target, *args, cwd=".", count=2):
    """Call a function of a module in several ranks, with the variables that `torchrun` sets for each.

    They are forked from a process that has imported torch: `torchrun` imports it three times.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as written:
        folders = [Path(written, str(rank)) for rank in range(count)]
        for folder in folders:
            folder.mkdir()
            for name in STREAMS:  # here, because a rank may be ended before it writes
                (folder / name).touch()
        ranks = [
            FORKSERVER.Process(target=_rank, args=(rank, count, port, folder, Path(cwd).resolve(), target, args))
            for rank, folder in enumerate(folders)
        ]
        for process in ranks:
            process.start()
        _end_together(ranks)
        stdout, stderr = ("".join((folder / name).read_text() for folder in folders) for name in STREAMS)
    codes = [process.exitcode for process in ranks]
    failed = [code for code in codes if code > 0]  # a rank that was ended by another's failure has a negative code
    return Done(max(failed or [abs(code) for code in codes]), stdout, stderr)


def _rank(rank, count, port, folder, cwd, target, args):
    for name, stream in zip(STREAMS, (sys.stdout, sys.stderr), strict=True):
        os.dup2(os.open(folder / name, os.O_WRONLY), stream.fileno())
    machine = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ |= {name: str(value) for name, value in {**machine, "RANK": rank, "LOCAL_RANK": rank}.items()}
    os.chdir(cwd)
    target(*args)


def _end_together(ranks, seconds=300):
    """Wait for all ranks; one that fails, or the time, ends those that would wait for it."""
    end = time.monotonic() + seconds
    while any(process.is_alive() for process in ranks) and time.monotonic() < end:
        if any(process.exitcode for process in ranks):
            break
        time.sleep(0.05)
    for process in ranks:
        process.kill()
        process.join()


def command_line(*words):
    """Run a command, and leave this process with its exit code."""
    sys.argv = ["stochx", *map(str, words)]
    main()


def stochx_in_ranks(*words, cwd):
    """Run a command in two ranks."""
    return in_ranks(command_line, *words, cwd=cwd)


def recorded_document(name):
    """Return the document of a recorded run, with numbers where the recording leaves them out."""
    text = (ROOT / "tests" / "recorded" / f"{name}.json").read_text(encoding="utf-8")
    return _filled(json.loads(text)["json"])


def _filled(value, key=""):
    if isinstance(value, dict):
        return {name: _filled(part, name) for name, part in value.items()}
    if isinstance(value, list):
        return [_filled(part) for part in value]
    return {"seconds": 1.5, "threads": 1}.get(key, value) if value == "*" else value


def write_run(folder, document, records=(), config=None):
    """Write the folder of a finished run with this document, and return it."""
    run = RunFolder(folder, document["args"] if config is None else config)
    run.finish(records, document)
    return folder


def shapes_net(folder):
    """Write an untrained network that knows three shapes into the folder, and return its path."""
    return save_net(folder / "shapes.safetensors", ("disc", "square", "triangle"))


def cifar_test_images(count):
    """Read the first test images of CIFAR-10 (N, 3, 32, 32) in [0, 1] and their labels; skip without the real data."""
    strip = np.asarray(Image.open(shared("cifar10/test_000.webp"))).reshape(-1, 32, 32, 3)[:count]
    labels = np.load(shared("cifar10/test_labels.npy"))[:count]
    return torch.from_numpy(strip.copy()).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(labels).long()


def episodes(head="", ways=3, shots=2, queries=2, size=(5, 6), channels=4, count=2):
    """Make features as after a ReLU: support (E, N, K, C, H, W), query (E, N queries, C, H, W); and the head."""
    support, query = features(ways, shots, queries, size, channels, count)
    return support, query, make_head(head, ways, size, channels) if head else None


def embed(maps, name):
    """Return the vectors (..., D) that a head of this name makes of maps (..., C, H, W)."""
    return maps.mean((-2, -1)) if "flat" not in name else maps.flatten(-3)


def refused(call, message, hint=""):
    """Check that a call from Python is refused with a message and a hint that contain these texts."""
    with pytest.raises(StochxError) as caught:
        call()
    assert message in str(caught.value) and hint in caught.value.hint, (str(caught.value), caught.value.hint)
    assert caught.value.hint
