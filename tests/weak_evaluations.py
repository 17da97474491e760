"""Evaluations for the checks to judge: weak ones, each with one flaw of those that were published, and honest ones.

A flaw is in the network, which hides its gradients, or in the attack, which does not follow them. All networks are
small ones, taught in a second to tell waves (`conftest.textures`).
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from conftest import textures
from torch import nn
from torch.nn import functional as F

from stochx.attacks import Attempt
from stochx.catalog import ATTACKS
from stochx.engine.ascent import loss_gradient
from stochx.engine.io.data import Item
from stochx.engine.io.images import Preparation
from stochx.engine.losses import LOSSES, Goal
from stochx.engine.network.classifier import Classifier
from stochx.engine.threat import Ball
from stochx.tasks.attack import attack
from stochx.tasks.batches import Source
from stochx.tasks.checks import check_evaluation
from stochx.tasks.robustness import summarise

COUNT = 32  # images of an evaluation
MEAN, STD = (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)
WHITE = "pgd:steps=10"


@dataclass(frozen=True)
class Evaluation:
    """A network, attacks by name, a ball, and the check that must fail; none does for an honest evaluation."""

    network: Callable[[], Classifier]
    attacks: Mapping[str, object]
    ball: Ball
    check: str = ""


def with_attacks(*texts):
    return {text: ATTACKS.make(text) for text in texts}


def sources_of(x, y):
    """Images (N, 3, H, W) and labels (N,) as an attack reads them."""
    items = [Item(f"image {n}", x[n].float(), int(y[n])) for n in range(len(x))]
    return [Source(item.key, lambda item=item: item) for item in items]


def judged(one: Evaluation, full: bool = True, images=None):
    """The table's robust accuracies, and the verdicts of all checks by name."""
    sources = sources_of(*(images or textures(COUNT, 1)))
    model, noisy = one.network(), one.network().noise != "none"
    records = [dataclasses.asdict(r) for r in attack(model, one.attacks, sources, one.ball, draws=8)]
    rows = [{"model": "m", **dataclasses.asdict(row)} for row in summarise(records, [*one.attacks], noisy, False)]
    checks = check_evaluation(model, one.attacks, sources, one.ball, rows, 0, full=full)
    return {row["attack"]: row["robust"] for row in rows}, {check.name: check.verdict for check in checks}


# Networks


class Winners(nn.Module):
    """The largest tenth of the activations of a layer pass, the others are 0 (Xiao et al., 2020)."""

    def forward(self, z):
        flat = z.flatten(1)
        least = flat.topk(max(1, flat.shape[1] // 10), dim=1).values[:, -1:]
        return (flat * (flat >= least)).view_as(z)


def convolutional(activation=nn.ReLU, width=12):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1),
        nn.BatchNorm2d(width),
        activation(),
        nn.Conv2d(width, 2 * width, 3, 2, 1),
        activation(),
        nn.Flatten(),
        nn.Linear(32 * width, 5),
    )


NETWORKS = {
    "plain": convolutional,
    "smooth": lambda: convolutional(nn.GELU, 8),
    "winners": lambda: convolutional(Winners),
    "perceptron": lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 96), nn.ReLU(), nn.Linear(96, 5)),
    "pooled": lambda: nn.Sequential(
        *[*convolutional(width=24)][:-2], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 5)
    ),
}


def masked(z, keep):
    """A random share of the values; the others are 0."""
    return z if keep == 1 else z * (torch.rand_like(z) < keep) / keep


@lru_cache
def taught(kind, eps=0.0, temperature=1.0, sigma=0.0, keep=1.0):
    """A network that tells the waves, taught on single steps of `eps` if it is to be robust, or under noise."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, (x, y) = NETWORKS[kind](), textures(400, 0)
        z = (x.float() - 0.5) / 0.2
        optimiser = torch.optim.Adam(network.parameters(), 0.005)
        for _ in range(60):
            seen = masked(z, keep) + sigma * torch.randn_like(z)
            if eps:
                seen.requires_grad_()
                (slope,) = torch.autograd.grad(F.cross_entropy(network(seen), y), seen)
                seen = (seen + eps / 0.2 * slope.sign()).detach()
            optimiser.zero_grad()
            F.cross_entropy(network(seen) / temperature, y).backward()
            optimiser.step()
        if temperature > 1:
            for _ in range(200):
                optimiser.zero_grad()
                F.cross_entropy(network(z) / temperature, y).backward()
                optimiser.step()
    return network.eval().requires_grad_(False)


class Around(nn.Module):
    """A network between what comes before and after it."""

    def __init__(self, before, network, after):
        super().__init__()
        self.before, self.network, self.after = before, network, after

    def forward(self, z):
        return self.after(self.network(self.before(z)))


class Does(nn.Module):
    """A function as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, z):
        return self.function(z)


def net(kind="plain", before=None, after=None, noise="none", mean=MEAN, std=STD, **how):
    """A taught network with something before and after it."""
    network = copy.deepcopy(taught(kind, **how))
    if before is not None or after is not None:
        network = Around(before or nn.Identity(), network, after or nn.Identity())
    names = [f"wave {k}" for k in range(5)]
    return Classifier(network, names, Preparation(16, 16), mean=mean, std=std, noise=noise).eval()


def rounded(z):
    return torch.round(z * 2) / 2


def thermometer(z):
    """Each value as a column of bits, and back (Buckman et al., 2018)."""
    levels = torch.linspace(-2.5, 2.5, 16).view(1, 16, 1, 1, 1)
    return (z[:, None] > levels).to(z).mean(1) * 5 - 2.5


def compressed(z):
    """Rounded coefficients of the cosine transform of blocks of 8 x 8 pixels, as in JPEG."""
    place = torch.arange(8.0)
    basis = torch.cos(math.pi / 8 * (place + 0.5) * place[:, None]) / 2
    basis[0] /= math.sqrt(2)
    blocks = z.unfold(2, 8, 8).unfold(3, 8, 8)
    back = basis.T @ torch.round(basis @ blocks @ basis.T * 1.5) / 1.5 @ basis
    return back.permute(0, 1, 2, 4, 3, 5).reshape(z.shape)


def without_graph(z):
    return z.detach()


def reversed_gradient(z):
    return 2 * z.detach() - z


def staircase(z):
    """Slope 0 on the treads, and huge between them."""
    return (torch.floor(z * 2) + torch.sigmoid(200 * (z * 2 - torch.floor(z * 2) - 0.5))) / 2


class WithoutGradients(nn.Module):
    """The whole network under `no_grad`."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, z):
        with torch.no_grad():
            return self.network(z)


def under_no_grad():
    model = net()
    model.network = WithoutGradients(model.network).eval()
    return model


def untaught():
    model = net()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for layer in model.network:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.reset_parameters()
        model.network[-1].weight.zero_()
    return model


def in_train_mode():
    model = net(before=nn.Dropout(0.1))
    model.network.before.train()
    return model


def shaken(sigma):
    return lambda: net(sigma=sigma, before=Does(lambda z: z + sigma * torch.randn_like(z)), noise="sample")


def drawn(keep):
    return lambda: net(keep=keep, before=Does(lambda z: masked(z, keep)), noise="sample")


# Attacks


@dataclass(frozen=True)
class Flawed:
    """Steepest ascent on the cross-entropy, whose parts can be spoiled."""

    steps: int = 20
    length: float = 0.125  # of a step, in radii
    spoil: Callable = lambda gradient, step: gradient
    label: Callable = lambda y, classes: y
    ball_of: Callable = lambda ball: ball
    model: Callable = lambda model: model
    move: Callable = lambda points, x: points
    choose: Callable = lambda points, x, wrong: points

    def __call__(self, model, x, y, ball, context):
        asked, ball, goal = ball, self.ball_of(ball), Goal(self.label(y, len(model.classes)))
        points = ball.sample(x, context.keys, 0)
        for step in range(self.steps):
            slope = loss_gradient(self.model(model), points, goal, LOSSES["ce"]).gradient
            slope = self.spoil(slope, step)
            points = self.move(ball.project(points + self.length * ball.eps * ball.ascent(slope), x), x)
        wrong = model(points).argmax(1) != y
        zero = torch.zeros_like(y)
        return Attempt(asked.project(self.choose(points, x, wrong), x), zero, zero, zero + self.steps)


class Frozen(nn.Module):
    """The network with the same draw at every call."""

    noise = "none"

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.model(x)


class Normalised(nn.Module):
    """The network on images that were normalised before."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model((x - 0.5) / 0.2)


def one_channel(gradient, step):
    return gradient * torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)


def first_image(gradient, step):
    """The gradient of the first image, given to all."""
    return gradient[:1].expand_as(gradient)


def clean_where(points, x, wrong):
    """An early exit that returns the wrong tensor."""
    return x.where(wrong.view(-1, 1, 1, 1), points)


LINF, L2, L1 = Ball(0.06), Ball(1.0, "l2"), Ball(12.0, "l1")


def hides(check, network, ball=LINF, attacks=(WHITE,)):
    return Evaluation(network, with_attacks(*attacks), ball, check)


def misses(check, ball=LINF, network=net, **parts):
    return Evaluation(network, {"flawed": Flawed(**parts)}, ball, check)


WEAK = {
    "quantised pixels": hides("gradients", lambda: net(before=Does(rounded))),
    "thermometer encoding": hides("gradients", lambda: net(before=Does(thermometer))),
    "JPEG-like compression": hides("gradients", lambda: net(before=Does(compressed))),
    "a staircase of sigmoids": hides("planted", lambda: net(before=Does(staircase))),
    "detached pixels": hides("gradients", lambda: net(before=Does(without_graph))),
    "a forward under no_grad": hides("gradients", under_no_grad),
    "a reversed gradient": hides("derivative", lambda: net(before=Does(reversed_gradient))),
    "saturated logits": hides("gradients", lambda: net(after=Does(lambda z: 1000 * z))),
    "defensive distillation": hides("gradients", lambda: net(temperature=100)),
    "softmax outputs": hides("logits", lambda: net(after=nn.Softmax(1))),
    "k winners take all": hides("converged", lambda: net("winners"), attacks=("pgd:steps=3,step=0.1",)),
    "dropout in train mode": hides("mode", in_train_mode),
    "a wrong normalisation": hides("normalisation", lambda: net(mean=(0.0,) * 3, std=(1.0,) * 3)),
    "an untrained network": hides("unbounded", untaught),
    "random search alone": hides("converged", net, attacks=("random",)),
    "few short steps": hides("converged", net, attacks=("pgd:steps=2,step=0.05",)),
    "a step too small": hides("planted", net, attacks=("pgd:steps=20,step=0.001",)),
    "a step too small in L2": hides("planted", net, L2, attacks=("pgd:steps=20,step=0.001",)),
    "a step too small in L1": hides("planted", net, L1, attacks=("pgd:steps=20,step=0.001",)),
    "a single short step": hides("converged", net, attacks=("pgd:steps=1,step=0.2,random_start=false",)),
    "a radius divided by 255 twice": misses("planted", ball_of=lambda ball: Ball(ball.eps / 255, ball.norm)),
    "a fifth of the radius": misses("converged", ball_of=lambda ball: Ball(ball.eps / 5, ball.norm)),
    "a ball in another norm": misses("planted", ball_of=lambda ball: Ball(ball.eps, "l2")),
    "a mean over the batch": misses("planted", move=lambda points, x: x + (points - x) / len(x)),
    "a reversed sign": misses("planted", spoil=lambda gradient, step: -gradient),
    "a detached graph": misses("planted", spoil=lambda gradient, step: 0 * gradient),
    "momentum that cancels": misses("planted", spoil=lambda gradient, step: (-1) ** step * gradient),
    "a single colour channel": misses("converged", spoil=one_channel),
    "the gradient of the first image": misses("converged", spoil=first_image),
    "labels off by one": misses("converged", label=lambda y, classes: (y + 1) % classes),
    "clean images where it succeeds": misses("planted", choose=clean_where),
    "rounding that undoes each step": misses("planted", length=0.03, move=lambda p, x: (p * 255).round() / 255),
    "another network's gradient": misses("planted", model=lambda model: untaught()),
    "images normalised twice": misses("converged", model=Normalised),
    "one frozen draw": misses("converged", Ball(0.1), network=drawn(0.15), model=Frozen),
}


HONEST = {
    "PGD": hides("", net),
    "PGD, small radius": hides("", net, Ball(0.01)),
    "PGD in L2": hides("", net, L2, ("pgd:steps=20",)),
    "PGD in L1": hides("", net, L1, ("pgd:steps=40",)),
    "APGD in L1": hides("", net, L1, ("apgd:steps=30",)),
    "APGD": hides("", net, LINF, ("apgd:steps=20",)),
    "APGD on the margin in L2": hides("", net, Ball(0.5, "l2"), ("apgd:steps=20,loss=margin",)),
    "DLR": hides("", net, Ball(0.02), ("apgd:steps=20,loss=dlr",)),
    "targeted DLR": hides("", net, Ball(0.02), ("apgd:steps=20,loss=targeted-dlr,targets=4",)),
    "the standard ensemble": hides("", net, Ball(0.02), ("standard:steps=20,queries=100",)),
    "PGD and Square": hides("", net, Ball(0.02), ("pgd:steps=20", "square:queries=200")),
    "one step and many": hides("", net, Ball(0.03), ("fgsm", "pgd:steps=20")),
    "a robust network": hides("", lambda: net(eps=0.03), Ball(0.03), ("pgd:steps=20",)),
    "a robust network in L2": hides("", lambda: net(eps=0.03), L2, ("apgd:steps=20",)),
    "a robust network under DLR": hides("", lambda: net(eps=0.03), Ball(0.03), ("apgd:steps=20,loss=dlr",)),
    "a robust network, small radius": hides("", lambda: net(eps=0.03), Ball(0.01), ("pgd:steps=20",)),
    "a smooth network": hides("", lambda: net("smooth"), LINF, ("pgd:steps=20",)),
    "a smooth network in L2": hides("", lambda: net("smooth"), Ball(0.5, "l2"), ("pgd:steps=20,loss=margin",)),
    "a smooth robust network": hides("", lambda: net("smooth", eps=0.03), Ball(0.03), ("pgd:steps=20",)),
    "a perceptron": hides("", lambda: net("perceptron"), Ball(0.02), ("pgd:steps=20",)),
    "a perceptron in L2": hides("", lambda: net("perceptron"), Ball(0.5, "l2"), ("apgd:steps=20",)),
    "a network that pools": hides("", lambda: net("pooled"), Ball(0.02), ("pgd:steps=20",)),
    "FAB": hides("", net, Ball(0.02), ("fab:steps=20",)),
    "a student": hides("", shaken(0.05), Ball(0.03), ("pgd:steps=20,eot=4",)),
    "a student with more noise": hides("", shaken(0.2), Ball(0.03), ("pgd:steps=20,eot=8",)),
    "a student in L2": hides("", shaken(0.1), L2, ("apgd:steps=20,eot=4",)),
}
