"""Randomised ensembles: as model arguments, as networks, and under the attack that is made for them."""

import itertools
import json

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from support import stochx
from torch import nn

from stochx import load_model
from stochx.attacks import ARC, PGD, Ball, Context
from stochx.attacks.arc import expected
from stochx.engine.gradients import logits
from stochx.engine.io.images import Preparation
from stochx.engine.losses import Goal
from stochx.engine.network import weights
from stochx.engine.network.classifier import Classifier, measure_noise
from stochx.engine.network.ensemble import RandomEnsemble
from stochx.engine.network.readout import last_linear
from stochx.ensembles import Part, ensemble_parts
from stochx.errors import InputError, UsageError
from stochx.models.convnet import ConvNet


class TwoClasses(nn.Module):
    """Logits (f, 0) with f(x) = w (x - 1/2) + b: class 0 where f > 0."""

    def __init__(self, w, b):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.as_tensor(w).double().flatten()), b

    def forward(self, x):
        f = (x - 0.5).flatten(1) @ self.w + self.b
        return torch.stack([f, torch.zeros_like(f)], 1)


def net(seed=0, classes=("a", "b", "c"), size=16, scale=1.0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ConvNet(width=4)(len(classes))
    model.classes, model.preparation = tuple(classes), Preparation(size, size)
    model.normalise_by((0.5 * scale,) * 3, (0.25 * scale,) * 3)
    return model.eval()


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights.save(tmp_path / "a.safetensors", net(0))
    weights.save(tmp_path / "b.safetensors", net(1, ("c", "a", "b"), scale=0.8))
    weights.save(tmp_path / "four.safetensors", net(2, ("a", "b", "c", "d")))
    weights.save(tmp_path / "other.safetensors", net(2, ("a", "b", "x")))
    weights.save(tmp_path / "large.safetensors", net(3, size=20))
    weights.save(tmp_path / "a+b.safetensors", net(4))
    return tmp_path


def test_a_text_names_its_parts_and_their_chances(place):
    assert ensemble_parts("x.pt+y.pt") == [Part("x.pt", 0.5), Part("y.pt", 0.5)]
    assert ensemble_parts("0.9*x.pt+.1*resnet18") == [Part("x.pt", 0.9), Part("resnet18", 0.1)]
    assert ensemble_parts("resnet18") is None


def test_plus_signs_in_names_of_files_belong_to_the_names(place):
    assert ensemble_parts("a+b.safetensors") is None
    assert ensemble_parts("0.25*a.safetensors+0.75*a+b.safetensors") == [
        Part("a.safetensors", 0.25),
        Part("a+b.safetensors", 0.75),
    ]


@pytest.mark.parametrize(
    "text, words",
    [
        ("0.9*a+0.2*b", "sum to 1.1"),
        ("0.9*a+b", "not all"),
        ("a+", "empty part"),
        ("1*a+0*b", "a chance is 0"),
    ],
)
def test_chances_that_make_no_sense_are_refused(place, text, words):
    with pytest.raises(UsageError, match=words) as raised:
        ensemble_parts(text)
    assert raised.value.hint


@pytest.mark.parametrize("other, words", [("four", "4 and 3 classes"), ("other", "other classes"), ("large", "20")])
def test_networks_that_cannot_stand_together_are_one_error(place, other, words):
    done = stochx("info", f"a.safetensors+{other}.safetensors")
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("hint:") == 1


def test_a_draw_is_one_members_answer_by_its_own_normalisation_and_in_the_first_ones_classes(place):
    model, a, b = (
        load_model(text) for text in ("0.25*a.safetensors+0.75*b.safetensors", "a.safetensors", "b.safetensors")
    )
    x = torch.rand(1, 3, 16, 16).expand(2000, -1, -1, -1)
    assert model.noise == measure_noise(model, x[:1]) == "sample"
    torch.manual_seed(0)
    out, first, second = model(x), a(x[:1]), b(x[:1])[:, [1, 2, 0]]
    is_first, is_second = (torch.isclose(out, each, atol=1e-5).all(1) for each in (first, second))
    assert (is_first ^ is_second).all() and float(is_first.double().mean()) == pytest.approx(0.25, abs=0.03)


def test_an_ensemble_is_attacked_and_drawn_like_any_network(place):
    text, data = "a.safetensors+b.safetensors", "images.npz"
    images = np.random.default_rng(0).integers(0, 255, (12, 16, 16, 3), dtype=np.uint8)
    x = torch.tensor(images).movedim(-1, 1) / 255
    labels = load_model("a.safetensors")(x).argmax(1).numpy()
    np.savez(data, images=images, labels=labels, classes=np.array(["a", "b", "c"]))
    done = stochx(
        "attack", text, "--data", data, "-a", "arc:steps=2", "-a", "pgd:steps=3,eot=4", "--json", "--output", "o"
    )
    document = json.loads(done.stdout)
    assert done.returncode in (0, 4) and document["models"][0]["noise"] == "sample"
    assert [row["attack"] for row in document["results"]] == ["arc:steps=2", "pgd:steps=3,eot=4", "worst"]
    single = stochx("attack", "a.safetensors", "--data", data, "-a", "arc", "--output", "single")
    assert single.returncode == 2 and "randomised ensembles" in single.stderr and single.stderr.count("hint:") == 1
    grid = (
        "--plane",
        "gradient",
        "--images",
        "1",
        "--resolution",
        8,
        "--draws",
        4,
        "--no-figure",
        "--output",
        "planes",
    )
    assert stochx("boundary", text, "a.safetensors", "--data", data, *grid).returncode == 0


def attempt(attack, model, x, eps, norm="linf"):
    y = torch.zeros(len(x), dtype=torch.long)
    context = Context(keys=range(len(x)), pick=lambda points: expected(model, points, Goal(y)))
    return attack(model, x, y, Ball(eps, norm), context)


def test_arc_finds_the_optimum_where_the_mean_gradient_vanishes():
    """f1 = 1/2 + v1 and f2 = 1/2 - v1, in units in which eps is 1: the mean loss is flat at the image.

    PGD leaves both members right, one step of ARC fools one of them, and no point fools both.
    """
    way = torch.zeros(3, 2, 2)
    way[0, 0, 0] = 10.0
    model = RandomEnsemble([TwoClasses(way, 0.5), TwoClasses(-way, 0.5)], [0.5, 0.5]).eval()
    x, y = torch.full((1, 3, 2, 2), 0.5).double(), torch.zeros(1, dtype=torch.long)
    points = x.clone().requires_grad_()
    loss = sum(nn.functional.cross_entropy(member(points), y) for member in model.members)
    (slope,) = torch.autograd.grad(loss, points)
    assert slope.abs().max() < 1e-12
    pgd = PGD(steps=20, random_start=False, eot=400)
    mean = RandomMean(model.members)
    left = pgd(mean, x, y, Ball(0.1), Context(keys=[0], pick=lambda p: expected(model, p, Goal(y))))
    assert expected(model, left.x, Goal(y)).tolist() == [1.0]
    assert expected(model, attempt(ARC(steps=1), model, x, 0.1).x, Goal(y)).tolist() == [0.5]
    assert min(float(expected(model, x + t * way / 10, Goal(y))) for t in torch.linspace(-0.1, 0.1, 101)) == 0.5


class RandomMean(nn.Module):
    """Log-probabilities whose cross-entropy is the exact mean of the members': EOT over all draws."""

    def __init__(self, members):
        super().__init__()
        self.members = members

    def forward(self, x):
        return torch.stack([member(x).log_softmax(1) for member in self.members]).mean(0)


def best(members, chances, x, eps):
    """Return the least expected accuracy in the Linf ball: over all subsets that a linear program can fool at once."""
    low, high = (x - eps).clamp(min=0).flatten(), (x + eps).clamp(max=1).flatten()
    found = 1.0
    for subset in itertools.product([False, True], repeat=len(members)):
        fooled = [member for member, chosen in zip(members, subset, strict=True) if chosen]
        if not fooled:
            continue
        rows = np.stack([m.w.detach().numpy() for m in fooled])
        bounds = [float(0.5 * m.w.detach().sum() - m.b) - 1e-9 for m in fooled]
        program = linprog(np.zeros(rows.shape[1]), rows, bounds, bounds=list(zip(low, high, strict=True)))
        if program.success:
            found = min(found, 1 - sum(c for c, chosen in zip(chances, subset, strict=True) if chosen))
    return found


def test_arc_lies_between_the_optimum_and_the_best_single_member_of_linear_networks():
    """The optimum is that of a linear program for each subset of the members; each alone can be fooled.

    The rounds are greedy: ARC may miss a subset that could be fooled.
    """
    generator = torch.Generator().manual_seed(0)
    chances, optimum, found = [0.5, 0.3, 0.2], [], []
    for _ in range(12):
        draws = torch.randn(3, 3, 2, 2, generator=generator).double()
        members = [TwoClasses(w, 0.06 * float(w.abs().sum())) for w in draws]
        model, x = RandomEnsemble(members, chances).eval(), torch.full((1, 3, 2, 2), 0.5).double()
        optimum.append(best(members, chances, x, 0.1))
        found.append(float(expected(model, attempt(ARC(), model, x, 0.1).x, Goal(torch.tensor([0])))))
    assert all(a >= b - 1e-6 for a, b in zip(found, optimum, strict=True))
    assert max(found) <= 0.5 + 1e-6 and min(found) < 0.31


def test_arc_counts_all_passes_of_members():
    """Each of K rounds over M members costs a pass, C - 1 gradients, and M passes of the expected accuracy."""
    models = [net(seed).double() for seed in range(2)]
    model = RandomEnsemble(models, [0.6, 0.4]).eval()
    x = torch.rand(1, 3, 16, 16).double()
    y = logits(models[0], x).argmax(1)
    result = ARC(steps=3)(model, x, y, Ball(1e-9), Context(keys=[0]))
    assert result.forwards.tolist() == [2 + 3 * 2 * (1 + 2 + 2)] and result.backwards.tolist() == [3 * 2 * 2]


def test_a_stochastic_member_is_refused(place):
    (place / "noisy.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Net(nn.Module):\n    def forward(self, x):\n"
        "        return x.mean((2, 3)) + torch.randn(len(x), 3)\n\n\ndef make():\n    return Net()\n"
    )
    with pytest.raises(InputError, match="stochastic itself"):
        load_model("noisy.py:make+noisy.py:make")


def test_an_ensemble_without_images_of_a_member_is_whole():
    model = Classifier(RandomEnsemble([net(0), net(1)], [0.999, 0.001]), ("a", "b", "c"), Preparation(16, 16)).eval()
    assert model(torch.rand(3, 3, 16, 16)).shape == (3, 3)


def test_no_layer_of_an_ensemble_is_its_last_one(place):
    """Each image passes one member alone: a search for planted examples once took what the last draw had passed."""
    members = {name: load_model(f"{name}.safetensors") for name in "ab"}
    x = torch.rand(2, *members["a"].input_shape)
    assert last_linear(members["a"], x) is not None
    assert last_linear(load_model("a.safetensors+b.safetensors"), x) is None
