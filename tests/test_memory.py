"""Memory that is freed and asked for again, and memory that runs out."""

from __future__ import annotations

import gc
import json
import platform
import shutil
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
import torch
from conftest import save_net
from PIL import Image
from safetensors.torch import load_file
from support import shapes_net, stochx
from torch import nn

from stochx.attributions import LRP, Gradient
from stochx.catalog import ATTACKS, ATTRIBUTIONS
from stochx.cli import output
from stochx.engine.device import in_batches, in_parts, is_out_of_memory, select_runtime
from stochx.engine.network.fused import fused

PROGRAM = """
import resource, statistics, sys, torch
from stochx.engine.training.malloc import retain_freed_memory
if sys.argv[1] == "keep":
    retain_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24).sum()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(statistics.median(faults() for _ in range(60)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_freed_memory_comes_back_without_page_faults():
    """A block of 64 MiB takes at least 32 page faults, of 2 MiB at most each, where it comes from the system.

    A busy kernel adds faults now and then, so the median block counts, not their sum.
    """

    def median_faults(word):
        done = subprocess.run([sys.executable, "-c", PROGRAM, word], capture_output=True, text=True, check=True)
        return float(done.stdout)

    assert median_faults("keep") < 32 <= median_faults("release")


# Memory that runs out ---------------------------------------------------------------------------------------------


@pytest.fixture
def room(monkeypatch):
    """Return a function that limits the images for which this process has memory, by its convolutions."""
    convolve = torch.nn.Conv2d._conv_forward

    def leave(rows):
        def limited(self, x, *weights):
            if len(x) > rows:
                torch.rand(3)  # what was drawn before memory ran out is drawn again
                raise torch.OutOfMemoryError("CUDA out of memory")
            return convolve(self, x, *weights)

        monkeypatch.setattr(torch.nn.Conv2d, "_conv_forward", limited)

    return leave


DATA = ("--data", "shapes:size=32,classes=3,count=60", "--device", "cpu", "--no-figure")
FEW = ("--data", "shapes:classes=6,size=32,count=240", "--device", "cpu")
FEW_TRAIN = (
    *FEW,
    "--backbone",
    "convnet:width=4",
    "--size",
    32,
    "--way",
    2,
    "--shot",
    2,
    "--queries",
    2,
)
METHODS = ("-m", "gradient", "-m", "ig:steps=8", "-m", "lrp", "-m", "gradcam", "-m", "smoothgrad:samples=8")
COMMANDS = {
    "explain": ("explain", "a.png", "b.jpg", *METHODS, "--no-figure", "--model", "net.safetensors"),
    "attack": ("attack", "shapes.safetensors", *DATA, "-a", "fgsm", "-a", "pgd:steps=3", "--limit", 20),
    "score": ("score", "--model", "shapes.safetensors", *DATA[:-1], "-m", "gradient", "-s", "aupc", "--limit", 6),
    "boundary": ("boundary", "shapes.safetensors", *DATA[:-1], "--resolution", 8),
    "certify": ("certify", "shapes.safetensors", *DATA, "--sigma", 0.1, "--draws", 200, "--limit", 2),
    "fsc-test": ("fsc-test", "few/model.safetensors", *FEW, "--queries", 2, "--episodes", 5),
}


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    shapes_net(folder)
    save_net(folder / "net.safetensors", ("cat", "dog", "owl"))
    noise = np.random.default_rng(0)
    for name in ("a.png", "b.jpg"):
        Image.fromarray(noise.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / name)
    done = stochx("fsc-train", *FEW_TRAIN, "--episodes", 2, "--validation", 0, "-o", "few", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def numbers(done):
    """Return all numbers of a command's results but times, in order."""
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["results"]
    return [
        value
        for row in rows
        for key, value in sorted(row.items())
        if isinstance(value, int | float) and "seconds" not in key
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_memory_that_runs_out_is_said_once_and_changes_no_result(command, nets, room):
    words = (*COMMANDS[command], "--json")
    words = words if command == "fsc-test" else (*words, "--overwrite", "-o", command)
    expected = numbers(stochx(*words, cwd=nets))
    room(3)
    done = stochx(*words, cwd=nets)
    assert numbers(done) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert done.stderr.count("memory ran out") == 1, done.stderr


@pytest.mark.parametrize("command", ["train", "distill"])
def test_training_in_parts_as_memory_allows_is_training_with_accumulated_gradients(command, nets, room):
    words = (*DATA[:-1], "--epochs", 1, "--batch-size", 16, "--limit", 16, "--overwrite", "--json")
    words += ("--validation", 0, "--adversarial", "pgd:steps=1") if command == "train" else ("--adversarial", "none")
    words += (
        ("--arch", "convnet:width=4") if command == "train" else ("--teacher", "shapes.safetensors", "--noise", "none")
    )
    asked = stochx(command, *words, "--accumulate", 2, "-o", "asked", cwd=nets)
    room(8)
    done = stochx(command, *words, "-o", "short", cwd=nets)
    assert numbers(done) == pytest.approx(numbers(asked), rel=1e-5)
    assert done.stderr.count("memory ran out") == 1, done.stderr
    name = "model" if command == "train" else "student"
    one, other = (load_file(nets / folder / f"{name}.safetensors") for folder in ("asked", "short"))
    assert one.keys() == other.keys()
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, rtol=1e-4, atol=1e-6)


def test_noise_is_calibrated_in_parts_as_memory_allows(nets, room):
    words = ("distill", "--teacher", "shapes.safetensors", *DATA[:-1], "--noise", "adaptive", "--adversarial", "none")
    words += ("--epochs", 1, "--batch-size", 8, "--limit", 30, "--draws", 2, "--overwrite", "--json", "-o", "noisy")
    room(16)
    done = stochx(*words, cwd=nets)
    assert done.returncode == 0 and done.stderr.count("memory ran out") == 1, done.stderr


def test_episodes_of_a_step_are_trained_on_apart_as_memory_allows(nets, room):
    words = ("fsc-train", *FEW_TRAIN, "--episodes", 4, "--batch-size", 2, "--validation", 0, "--overwrite", "--json")
    expected = numbers(stochx(*words, "-o", "together", cwd=nets))
    room(8)  # one episode
    done = stochx(*words, "-o", "apart", cwd=nets)
    assert len(numbers(done)) == len(expected) and done.stderr.count("memory ran out") == 1, done.stderr


def test_few_shot_maps_are_the_same_where_memory_runs_out(nets, room):
    support = nets / "support"
    for name in ("one", "two"):
        (support / name).mkdir(parents=True, exist_ok=True)
        for k in range(2):
            shutil.copy(nets / "a.png", support / name / f"{k}.png")
    words = ("fsc-explain", "b.jpg", "--model", "few/model.safetensors", "--support", support, "--device", "cpu")
    words += ("--overwrite", "--json", "-o", "maps")
    expected = numbers(stochx(*words, cwd=nets))
    room(2)
    done = stochx(*words, cwd=nets)
    assert numbers(done) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert done.stderr.count("memory ran out") == 1, done.stderr


def test_memory_for_not_one_image_is_an_error(nets, room):
    room(0)
    done = stochx(*COMMANDS["explain"], "-o", "none", cwd=nets)
    assert done.returncode == 1 and "error: memory ran out, also with the smallest batch" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_is_said_where_no_memory_is_left_to_print_it_well(monkeypatch, capfd):
    def refuse():
        raise MemoryError

    monkeypatch.setattr(output, "stderr", refuse)
    output.complain("memory ran out", "use fewer images")
    assert capfd.readouterr().err == "error: memory ran out\nhint: use fewer images\n"


def test_a_thread_that_the_system_refuses_is_an_error(nets, monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    done = stochx(*COMMANDS["explain"], "-o", "none", cwd=nets)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: the system lets this process start no more threads" in done.stderr, done.stderr


def test_a_library_that_finds_no_memory_is_an_error(nets, monkeypatch):
    def refuse(*given, **named):
        raise ImportError("/lib/_hashlib.so: failed to map segment from shared object")

    monkeypatch.setattr("stochx.runs._networks.open_model", refuse)
    done = stochx(*COMMANDS["explain"], "-o", "none", cwd=nets)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: memory ran out while a library was loaded" in done.stderr, done.stderr


@pytest.mark.parametrize(
    "words", ["error return without exception set", "<function f> returned NULL without setting an exception"]
)
def test_a_library_that_cannot_even_say_that_memory_ran_out_is_an_error(nets, monkeypatch, words):
    def refuse(*given, **named):
        raise SystemError(words)

    monkeypatch.setattr("stochx.runs._networks.open_model", refuse)
    done = stochx(*COMMANDS["explain"], "-o", "none", cwd=nets)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: a library failed and gave no reason, as happens where memory runs out" in done.stderr, done.stderr


def test_a_step_in_parts_begins_with_the_statistics_and_the_randomness_of_the_whole():
    norm, drawn = torch.nn.BatchNorm1d(2), []

    def work(parts):
        drawn.append(torch.rand(1))
        for part in torch.arange(16.0).view(8, 2).tensor_split(parts):
            norm(part)
            if len(part) > 2:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    assert in_parts(norm, 1, 4, work) == 4
    assert norm.num_batches_tracked == 4 and len({float(x) for x in drawn}) == 1 and len(drawn) == 3
    with pytest.raises(RuntimeError, match="can't allocate"):
        in_parts(norm, 1, 2, work)


class ShortOfMemory(torch.autograd.Function):
    """The identity, with memory for the gradients of three images."""

    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        if len(gradient) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return gradient


@pytest.mark.parametrize("entry", ["pgd:steps=3", "apgd:steps=3", "ig:steps=4", "smoothgrad:samples=4"])
def test_memory_that_runs_out_in_a_backward_pass_changes_no_result(entry):
    class Short(nn.Linear):
        def forward(self, x):
            assert x.isfinite().all()  # control flow that needs data: it cannot be traced
            return super().forward(ShortOfMemory.apply(x.flatten(1)))

    short, x, y = Short(3 * 36, 4).eval(), torch.rand(8, 3, 6, 6), torch.arange(8) % 4
    plain = nn.Sequential(nn.Flatten(), nn.Linear(3 * 36, 4)).eval()
    plain[1].load_state_dict(short.state_dict())

    def result(net):
        with select_runtime("cpu", batch_size=8).scope():
            if entry in ("ig:steps=4", "smoothgrad:samples=4"):
                return ATTRIBUTIONS.make(entry)(net, x, y, range(8)).map
            return ATTACKS.make(entry)(net, x, y, keys=range(8)).x

    torch.testing.assert_close(result(short), result(plain))


def test_other_errors_are_no_lack_of_memory():
    with pytest.raises(RuntimeError, match="shape"):
        in_batches(4, 4, lambda start, stop: torch.zeros(2).view(3))
    assert is_out_of_memory(RuntimeError("could not create a primitive"))
    assert not is_out_of_memory(RuntimeError("could not create a primitive descriptor for a convolution"))


def test_a_runtime_remembers_what_fits():
    tried = []

    def work(start, stop):
        tried.append(stop - start)
        if stop - start > 2:
            raise torch.OutOfMemoryError("full")

    with select_runtime("cpu").scope():
        in_batches(8, 8, work)
        del tried[:]
        in_batches(8, 8, work)
    assert tried == [2] * 4


@pytest.mark.parametrize("method", [Gradient(), LRP()], ids=lambda method: type(method).__name__)
def test_a_network_that_is_no_longer_used_is_freed_with_its_fused_form(method):
    """Autograd's records of it are cycles that Python's garbage collector does not see."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)).eval()
    method(net, torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))
    tensors = [weakref.ref(tensor) for part in (net, fused(net).whole) for tensor in part.parameters()]
    del net
    for _ in range(2):  # the network, and then what was kept for it
        gc.collect()
    assert [tensor() for tensor in tensors] == [None] * len(tensors)
