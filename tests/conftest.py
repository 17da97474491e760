"""What the tests share: closed-form models in float64, a tiny convnet, and where the real data is."""

from __future__ import annotations

import math
import os
from pathlib import Path

# One thread in each worker, and in what a test starts: two workers of two threads each wait for each other on two
# cores, twelve times as long as they compute. This must come before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("GITHUB_STEP_SUMMARY", None)  # the summary of the job that runs the tests

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from stochx.catalog import MODELS
from stochx.engine.network.weights import save
from stochx.engine.training.fit import Plan, fit
from stochx.engine.training.items import Images
from stochx.loading import load_data
from stochx.tasks.train import build
from stochx.testing.samples import TinyNet, random_images, tiny_network

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("STOCHX_SHARED", ROOT.parent / "shared" / "data"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Begin every test with the same random state: which tests came before it must not matter."""
    torch.manual_seed(0)


def shared(name: str) -> Path:
    """A path below the real data and weights; skips the test, with the reason, where it is absent."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs `{name}` of the real data; set STOCHX_SHARED to its folder")
    return path


class Linear(nn.Module):
    """Three logits, linear in (N, 1, 4, 4): every map below is known in closed form."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(3, 16, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


class Quadratic(nn.Module):
    """One logit x^T A x / 2 + b^T x on (N, 1, 2, 2): E[SmoothTaylor_i] = -sigma^2 A_ii by Stein's lemma."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        half = torch.randn(4, 4, generator=generator, dtype=torch.float64)
        self.A = nn.Parameter(half + half.T)
        self.b = nn.Parameter(torch.randn(4, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return (0.5 * (flat @ self.A * flat).sum(1) + flat @ self.b)[:, None]


def save_net(file, classes):
    """Write a small untrained network that knows these three classes, and return its path."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MODELS.make("convnet:width=4")(3).eval()
    model.classes = classes
    save(file, model)
    return file


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a small network and a few images."""
    folder = tmp_path_factory.mktemp("cli")
    save_net(folder / "net.safetensors", ("cat", "dog", "owl"))
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "odd [name] é.png"):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(folder / name)
    (folder / "bad.jpg").write_bytes((folder / "b.jpg").read_bytes()[:300])
    return folder


SHAPES = "shapes:size=32,classes=3,count=1800"


@pytest.fixture(scope="session")
def net_of_shapes(tmp_path_factory):
    """The file of a small network that is often right on SHAPES."""
    file, data = tmp_path_factory.mktemp("shapes") / "net.safetensors", load_data(SHAPES, "train")
    model = build(MODELS.make("convnet:width=8"), data.classes, seed=0)
    for _ in fit(model, Images(data.pixels, torch.tensor(data.labels)), Plan(12, batch=32, rate=0.1), 0):
        pass
    save(file, model.eval())
    return file


@pytest.fixture
def linear() -> Linear:
    return Linear().eval()


@pytest.fixture
def quadratic() -> Quadratic:
    return Quadratic().eval()


@pytest.fixture
def tiny() -> TinyNet:
    """A convnet in float64 with batch norms that have seen data."""
    return tiny_network()


@pytest.fixture
def images() -> Tensor:
    """(5, 3, 16, 16) in [0.25, 0.75]."""
    return random_images(5, 3, 16, 16)


def textures(count, seed):
    """Waves of five directions under noise: (N, 3, 16, 16) in float64, and which wave."""
    source = torch.Generator().manual_seed(seed)
    y, place = torch.arange(count) % 5, torch.arange(16).double()
    down, right = (1.2 * torch.tensor(w).double()[y].view(-1, 1, 1) for w in ([0, 1, 1, 1, 0], [1, 0, 1, -1, 2]))
    phase = 2 * math.pi * torch.rand(count, 1, 1, generator=source, dtype=torch.float64)
    wave = torch.sin(down * place[:, None] + right * place + phase)
    noise = torch.randn(count, 3, 16, 16, generator=source, dtype=torch.float64)
    return (0.5 + 0.1 * wave[:, None] + 0.1 * noise).clamp(0, 1), y


@pytest.fixture(scope="module")
def trained():
    """The tiny convnet in float64, taught to tell the waves: some images withstand STRENGTH, some do not."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        net, (x, y) = TinyNet(), textures(200, 0)
        optimiser = torch.optim.Adam(net.parameters(), 0.01)
        for _ in range(60):
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(net(x.float()), y).backward()
            optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        for _ in range(30):  # batch norms get over what they saw at first
            net(x.float())
    return net.double().eval()


@pytest.fixture(scope="module")
def waves():
    """Thirty images and their labels."""
    return textures(30, 1)


LONGEST = "test_verdicts.py", "test_matcher.py", "test_masked.py", "test_demo.py"  # with tests of a minute and more


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest tests, lest one of them runs alone at the end while the other processes have none left."""
    items.sort(key=lambda item: item.path.name not in LONGEST)
