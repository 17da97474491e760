"""Several ranks: training comes to the numbers of one, errors are said once, and a lost rank ends the others."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import pytest
import torch
from support import in_ranks, stochx_in_ranks
from torch import nn

from stochx.attacks.pgd import PGD
from stochx.catalog import GUIDES
from stochx.engine import world as world_module
from stochx.engine.fewshot.episodes import Domain, Episodes, Task, pool
from stochx.engine.io.images import Preparation
from stochx.engine.network.classifier import Classifier
from stochx.engine.seeds import seeded
from stochx.engine.threat import Ball
from stochx.engine.training.fit import Plan, cross_entropy, fit
from stochx.engine.training.items import Images, Mixed
from stochx.engine.world import process_group
from stochx.errors import LostRankError, RunError
from stochx.fewshot_networks import make_fewshot
from stochx.interrupts import Stopped
from stochx.loading import load_data
from stochx.network_files import install_noise
from stochx.settings import Train
from stochx.tasks.fewshot import episode_objective
from stochx.tasks.objectives import Adversarial, objective

HEADS = ("cosine", "gnn:statistics=running", "relation:statistics=running", "cross-attention")


class Small(nn.Module):
    """A network with batch norms of two kinds, and a layer that no loss reaches."""

    def __init__(self):
        super().__init__()
        body = [nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(196, 8)]
        self.body = nn.Sequential(*body, nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        return self.body(x)


def small(noise=None):
    with seeded(0, "net"):
        model = Classifier(Small(), "abc", Preparation(16, 16))
        return (model if noise is None else install_noise(model, noise)).double()


def images(count, domain="photo"):
    data = load_data(f"shapes:size=16,classes=3,count={count},domain={domain}", "train")
    return Images(data.pixels, torch.tensor(data.labels))


def attacked(recipe):
    return objective(adversarial=Adversarial(PGD(steps=2), Ball(4 / 255), recipe, awp=0.01))


def few_shot(head):
    """A few-shot network, its episodes and its objective."""
    data = load_data("shapes:size=32,classes=4,count=60", "train")
    task = Task(2, 1, 2)
    episodes = Episodes([Domain(pool("shapes", data.classes, torch.tensor(data.labels)), data.pixels)], task, 7, 0)
    model = make_fewshot("conv4", head, 2, 32, 0, {}).requires_grad_(True).double()
    return model, episodes, episode_objective(model, GUIDES.make("none"), episodes, 0)


def trainings():
    """Models, items, plans and objectives; batches and their rests divide by neither ranks nor parts."""
    plain, sgd = images(35), Plan(2, batch=11, rate=0.05)
    yield "norms", small(), plain, Plan(2, batch=11, rate=0.05, accumulate=2, augment=True), cross_entropy
    yield "average", small(), plain, Plan(2, batch=11, optimizer="adamw", rate=0.01, average=0.9), cross_entropy
    yield "two left", small(), images(24), sgd, cross_entropy
    yield "extra", small(), Mixed(plain, images(9, "sketch"), 0.4, 0), sgd, cross_entropy
    yield "madry", small(), plain, sgd, attacked("madry")
    yield "trades", small(), plain, sgd, attacked("trades")
    for noise in ("adaptive:beta=0", "adaptive:beta=0,stat=unit,source=batch,measure=mean-abs"):
        yield noise, small(noise), plain, sgd, cross_entropy
    for head in HEADS:
        model, episodes, goal = few_shot(head)
        yield head, model, episodes, Plan(2, batch=3, rate=0.01, augment=True), goal


def train_all(file):
    found = {}
    with process_group() as world:
        for name, model, items, plan, goal in trainings():
            epochs = [(epoch.loss, epoch.accuracy) for epoch in fit(model, items, plan, 0, world=world, objective=goal)]
            found[name] = torch.tensor(epochs, dtype=torch.float64), dict(model.state_dict())
        if world.leads:
            torch.save(found, file)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_train_as_one_process(ranks, tmp_path):
    train_all(tmp_path / "one")
    done = in_ranks(train_all, tmp_path / "several", count=ranks)
    assert done.returncode == 0, done.stderr
    one, several = (torch.load(tmp_path / name) for name in ("one", "several"))
    for name, (epochs, weights) in one.items():
        torch.testing.assert_close(several[name][0], epochs, rtol=0, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")
        for key, value in weights.items():
            other = several[name][1][key]
            torch.testing.assert_close(other, value, rtol=0, atol=1e-8, msg=lambda m, n=(name, key): f"{n}: {m}")


@pytest.mark.parametrize("words", [("--data", "nosuch"), ("--data", "shapes", "--epohs", 3)], ids=["name", "option"])
def test_ranks_say_once_what_was_typed_wrong(words, tmp_path):
    done = stochx_in_ranks("train", *words, "--arch", "convnet", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("error:") == done.stderr.count("hint:") == 1, done.stderr


def lose_a_rank(file):
    with process_group() as world:
        if not world.leads:
            os._exit(0)
        try:
            world.gather([world.rank])
        except LostRankError as lost:
            file.write_text(f"{lost}: {lost.said}")


@pytest.mark.slow
def test_a_lost_rank_is_named(tmp_path):
    done = in_ranks(lose_a_rank, tmp_path / "lost")
    assert (done.returncode, (tmp_path / "lost").read_text()) == (0, "another rank was lost: False"), done.stderr


def end_the_leading_rank(file):
    with contextlib.suppress(RunError), process_group() as world:
        if world.leads:
            raise RunError("it has failed, and says so")
        try:
            world.gather([world.rank])
        except LostRankError as lost:
            file.write_text(f"{lost}: {lost.said}")
    while not file.exists():  # its process holds what ranks tell each other
        time.sleep(0.01)


@pytest.mark.slow
def test_the_others_add_nothing_to_what_the_leading_rank_says(tmp_path):
    done = in_ranks(end_the_leading_rank, tmp_path / "lost")
    assert (done.returncode, (tmp_path / "lost").read_text()) == (0, "another rank was lost: True"), done.stderr


def stop_the_leading_rank(file):
    with contextlib.suppress(Stopped):
        try:
            with process_group() as world:
                if world.leads:
                    while not file.exists():
                        time.sleep(0.01)
                    raise Stopped(signal.SIGTERM)
                with contextlib.suppress(LostRankError), world_module._linked():
                    raise RuntimeError("a link has broken")
                file.touch()
        except Stopped as stopped:
            file.write_text(str(stopped.said))
            raise


@pytest.mark.slow
def test_the_leading_rank_adds_nothing_to_what_another_has_said(tmp_path):
    done = in_ranks(stop_the_leading_rank, tmp_path / "lost")
    assert (done.returncode, (tmp_path / "lost").read_text()) == (0, "True"), done.stderr


def test_a_command_that_torchrun_starts_again_resumes(tmp_path, monkeypatch):
    def resumes(**more):
        return Train(data="shapes", arch="convnet", **more).resume

    assert not resumes(output=tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert resumes(output=tmp_path)
    assert not resumes(output=tmp_path, overwrite=True), "what it finds may be of the older run"
    assert not resumes(), "nor is the newest folder its own"
