"""The training loop: what it lowers, what it keeps, and that it goes on with the same bytes."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support import in_ranks
from torch import nn
from torch.nn import functional as F
from torchvision.models import googlenet

from stochx.catalog import MODELS
from stochx.engine.device import fast_layout, select_runtime
from stochx.engine.io.images import Preparation
from stochx.engine.network.classifier import Classifier
from stochx.engine.seeds import seeded
from stochx.engine.training.augment import augment
from stochx.engine.training.fit import Plan, Step, cross_entropy, fit, forward
from stochx.engine.training.items import Images
from stochx.engine.training.schedule import SCHEDULES
from stochx.engine.world import process_group
from stochx.errors import InputError, RunError
from stochx.loading import load_data
from stochx.tasks.reading import Stack
from stochx.tasks.train import build, correct


@pytest.fixture(scope="module")
def shapes():
    """90 images of 32 pixels in three classes, uint8, and their labels."""
    data = load_data("shapes:size=32,classes=3,count=90", "train")
    return data.pixels, torch.tensor(data.labels)


def convnet():
    return build(MODELS.make("convnet:width=4"), ("a", "b", "c"), seed=0)


def without_norms():
    """A small network in float64 that treats every image alone."""
    with seeded(0, "net"):
        net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(900, 3))
    return net.double()


def run(shapes, plan, model=None, stop=None, **more):
    """The epochs and the weights that a training comes to; one that is stopped was killed after epoch `stop`."""
    model, epochs = model or convnet(), []
    for epoch in fit(model, Images(*shapes), plan, 0, **more):
        epochs.append((epoch.epoch, epoch.loss, epoch.accuracy, dict(epoch.measures)))
        if epoch.epoch == stop:
            break
    return epochs, {name: value.clone() for name, value in model.state_dict().items()}


def run_each(shapes, plan, model, **more):
    """The weights after each epoch."""
    return [{k: v.clone() for k, v in model.state_dict().items()} for _ in fit(model, Images(*shapes), plan, 0, **more)]


def bias(model):
    """A measure of the weights that goes up and down."""
    return {"quality": model.network[-1].bias[0].item()}


@pytest.mark.parametrize("stop", [1, 2])
@pytest.mark.parametrize(
    "settings",
    [{}, {"optimizer": "adamw", "rate": 1e-3}, {"average": 0.9}, {"accumulate": 2, "schedule": "cosine"}],
    ids=["sgd", "adamw", "average", "parts"],
)
def test_a_training_that_was_killed_goes_on_with_the_same_bytes(settings, stop, shapes, tmp_path):
    plan = Plan(**{"epochs": 3, "batch": 16, "rate": 0.05, "augment": True, **settings})
    more = {"validate": bias, "best": "quality"}
    epochs, whole = run(shapes, plan, **more)
    run(shapes, plan, state=tmp_path / "s.safetensors", stop=stop, **more)
    again, resumed = run(shapes, plan, state=tmp_path / "s.safetensors", resume=True, **more)
    assert again == epochs[stop - 1 :], "the last stored epoch comes once more"
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_what_a_killed_training_would_have_kept_is_kept(shapes, tmp_path):
    """The best epoch is the first one, before the training is killed."""
    falling = iter((3.0, 2.0, 1.0))
    more = {"validate": lambda model: {"quality": next(falling)}, "best": "quality"}
    plan, state = Plan(3, batch=16), tmp_path / "s.safetensors"
    _, first = run(shapes, plan, state=state, stop=1, **more)
    _, ended = run(shapes, plan, state=state, resume=True, **more)
    assert all(torch.equal(first[name], ended[name]) for name in first)


@pytest.mark.parametrize("other", [{"optimizer": "adamw"}, {"average": 0.9}])
def test_a_checkpoint_of_another_training_is_refused(other, shapes, tmp_path):
    run(shapes, Plan(1), state=tmp_path / "s.safetensors")
    with pytest.raises(InputError, match="does not match"):
        run(shapes, Plan(2, **other), state=tmp_path / "s.safetensors", resume=True)


@pytest.mark.parametrize(
    ("facts", "value"),
    [("last", 5), ("last", {"epoch": "x"}), ("last", {"epoch": 1, "loss": None}), ("best", 1), ("best", {"epoch": []})],
)
def test_a_checkpoint_of_edited_facts_is_refused(facts, value, shapes, tmp_path):
    state = tmp_path / "s.safetensors"
    run(shapes, Plan(1), state=state)
    tensors = load_file(state)
    with safe_open(state, "pt") as file:
        header = json.loads(file.metadata()["training"])
    save_file(tensors, state, {"training": json.dumps(header | {facts: value})})
    with pytest.raises(InputError, match="does not match"):
        run(shapes, Plan(2), state=state, resume=True)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_no_checkpoint(make, shapes, tmp_path):
    make(tmp_path / "s.safetensors")
    with pytest.raises(InputError, match=r"is (a directory|not a regular file)"):
        run(shapes, Plan(1), state=tmp_path / "s.safetensors", resume=True)


def test_a_loss_that_is_not_finite_names_its_step_and_leaves_the_last_checkpoint(shapes, tmp_path):
    state = tmp_path / "s.safetensors"
    run(shapes, Plan(1, batch=16), state=state)
    before = state.read_bytes()

    def broken(model, batch):
        logits = forward(model, batch.x)
        return Step(logits.mean() * (math.inf if batch.step == 3 else 1), logits)

    with pytest.raises(RunError, match="epoch 2, step 4"):
        run(shapes, Plan(2, batch=16), state=state, resume=True, objective=broken)
    assert state.read_bytes() == before


def test_a_gradient_that_is_not_finite_is_named_and_not_followed(shapes):
    """The loss is finite, but not its gradient: a root of zero; no later loss shows it."""
    model = convnet()

    def broken(model, batch):
        logits = forward(model, batch.x)
        root = (logits - logits.detach()).square().sum().sqrt()
        return Step(logits.mean() + (root if batch.step == 5 else 0), logits)

    with pytest.raises(RunError, match=r"^the gradient is not finite in epoch 1, step 6"):
        run(shapes, Plan(1, batch=16), model, objective=broken)
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_weights_that_overflow_in_the_last_step_are_named(shapes):
    def steep(model, batch):
        step = cross_entropy(model, batch)
        return Step(step.loss * 1e6, step.logits)

    with pytest.raises(RunError, match=r"^`0\.weight` is not finite after epoch 1, step 1"):
        run(shapes, Plan(1, batch=90, rate=1e38, schedule="constant"), without_norms().float(), objective=steep)


def test_weights_that_overflow_have_no_accuracy(shapes):
    model = without_norms()
    nn.init.constant_(model[-1].weight, 1e308)
    good = iter([1.0])

    def accuracy(trained):
        return {"quality": next(good, None) or correct(model, Stack(*shapes, ())).sum().item()}

    with pytest.raises(RunError, match="the model's logits are not finite after epoch 2"):
        run(shapes, Plan(2, batch=90), validate=accuracy)


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_a_batch_in_parts_is_the_whole_batch(parts, shapes):
    one, other = (run(shapes, Plan(2, batch=32, accumulate=n), without_norms())[1] for n in (1, parts))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-10)


def test_sgd_is_nesterovs_with_decay(shapes):
    """Three steps by hand, at a constant rate on the whole data."""
    model, by_hand = without_norms(), without_norms()
    run(shapes, Plan(3, batch=90, rate=0.1, schedule="constant", decay=0.01), model)
    weights, velocity = list(by_hand.parameters()), None
    for _ in range(3):
        loss = F.cross_entropy(by_hand(shapes[0].double() / 255), shapes[1])
        slopes = [g + 0.01 * w for g, w in zip(torch.autograd.grad(loss, weights), weights, strict=True)]
        velocity = slopes if velocity is None else [0.9 * v + g for v, g in zip(velocity, slopes, strict=True)]
        with torch.no_grad():
            for w, v, g in zip(weights, velocity, slopes, strict=True):
                w -= 0.1 * (g + 0.9 * v)
    for found, wanted in zip(model.parameters(), weights, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


def test_the_average_follows_its_formula(shapes):
    settings = {"epochs": 3, "batch": 90, "rate": 0.05, "schedule": "constant"}
    raw = run_each(shapes, Plan(**settings), without_norms())
    wanted = dict(without_norms().state_dict())
    for step, weights in enumerate(raw):
        decay = min(0.3, (1 + step) / (10 + step))
        wanted = {name: decay * wanted[name] + (1 - decay) * weights[name] for name in wanted}
    _, found = run(shapes, Plan(**settings, average=0.3), without_norms())
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=1e-12)


def test_the_weights_of_the_best_epoch_are_what_remains(shapes):
    model, values = without_norms(), iter((0.1, 0.7, 0.7, 0.3))
    each = run_each(shapes, Plan(4, batch=32), model, validate=lambda model: {"q": next(values)}, best="q")
    assert all(torch.equal(value, each[1][name]) for name, value in model.state_dict().items())
    assert not torch.equal(each[3]["0.weight"], each[1]["0.weight"])


def test_patience_ends_a_training_that_no_longer_gains(shapes):
    values = iter((0.1, 0.7, 0.6, 0.7, 0.9))
    epochs, _ = run(shapes, Plan(9, batch=90, patience=2), validate=lambda model: {"q": next(values)}, best="q")
    assert [epoch for epoch, *_ in epochs] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("constant", [1, 1, 1, 1, 1, 1, 1, 1]),
        ("step", [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]),
        ("cosine", [(1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]),
        ("one-cycle", [1, *((1 + math.cos(math.pi * step / 7)) / 2 for step in range(7))]),
    ],
)
def test_schedules(name, wanted):
    assert [SCHEDULES[name](step, 8) for step in range(8)] == pytest.approx(wanted, abs=1e-12)


def test_groups_have_decays_of_their_own(shapes):
    """At a slope of zero only the decay moves a weight."""
    model = without_norms()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    groups = [{"params": model[0].parameters()}, {"params": model[3].parameters(), "weight_decay": 0.0}]

    def flat(model, batch):
        logits = forward(model, batch.x)
        return Step(0 * logits.sum(), logits)

    plan = Plan(1, batch=90, rate=0.1, momentum=0, decay=0.5, schedule="constant")
    run(shapes, plan, model, groups=groups, objective=flat)
    torch.testing.assert_close(model[0].weight.detach(), before["0.weight"] * 0.95)
    assert torch.equal(model[3].weight, before["3.weight"])


def test_batches_too_small_for_batch_norms_are_refused(shapes):
    for plan in (Plan(1, batch=1), Plan(1, batch=8, accumulate=5)):
        with pytest.raises(InputError, match="batch norms need two images per part"):
            run(shapes, plan)


class OnlyInTraining(nn.Sequential):
    """A network with something more in train mode."""

    def __init__(self, more):
        super().__init__(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        self.more = more

    def forward(self, x):
        return self.more(x, super().forward(x)) if self.training else super().forward(x)


def test_a_network_that_fails_in_train_mode_is_told(shapes):
    pooled = OnlyInTraining(lambda x, y: y + F.avg_pool2d(x, 64).mean())  # as an auxiliary head, on too small an image
    with pytest.raises(InputError, match=r"images of 32 x 32 in train mode, with: .* Output size is too small"):
        run(shapes, Plan(1, 45), pooled)
    with pytest.raises(InputError, match="returns a tuple in train mode"):
        run(shapes, Plan(1, 45), OnlyInTraining(lambda x, y: (y, y)))


def test_a_lone_last_image_waits_for_another_epoch(shapes):
    seen = []

    def noted(model, batch):
        seen.append(batch.index.tolist())
        logits = forward(model, batch.x)
        return Step(logits.mean(), logits)

    run((shapes[0][:9], shapes[1][:9]), Plan(2, batch=4), objective=noted)
    assert [len(part) for part in seen] == [4, 4, 4, 4]
    assert set(seen[0] + seen[1]) != set(seen[2] + seen[3])


def test_in_bf16_the_weights_stay_float32_and_the_loss_is_near(shapes):
    losses = []
    for precision in ("fp32", "bf16"):
        model, dtypes = convnet(), set()

        def noted(model, batch, dtypes=dtypes):
            with torch.autograd.graph.saved_tensors_hooks(lambda t: dtypes.add(t.dtype) or t, lambda t: t):
                logits = forward(model, batch.x)
            return Step(F.cross_entropy(logits, batch.y), logits)

        with select_runtime("cpu", precision).scope():
            epochs, weights = run(shapes, Plan(2, batch=32), model, objective=noted)
        losses.append(epochs[-1][1])
        assert (torch.bfloat16 in dtypes) == (precision == "bf16")
        assert all(value.dtype in (torch.float32, torch.int64) for value in weights.values())
    assert losses[0] != losses[1] and abs(losses[0] - losses[1]) < 0.02


def test_augmented_images_are_shifted_and_mirrored_and_parts_see_the_draws_of_the_whole():
    x = torch.arange(1, 1 + 6 * 3 * 16 * 16).view(6, 3, 16, 16)
    found = augment(x, slice(None), 6, torch.Generator().manual_seed(5))
    source = torch.Generator().manual_seed(5)
    dy, dx = (torch.randint(0, 5, (6, 1), generator=source) for _ in range(2))
    mirrored = torch.rand(6, 1, generator=source) < 0.5
    assert mirrored.any() and not mirrored.all()
    for n in range(6):
        padded = F.pad(x[n], (2, 2, 2, 2))
        window = padded[:, dy[n] : dy[n] + 16, dx[n] : dx[n] + 16]
        assert torch.equal(found[n], window.flip(2) if mirrored[n] else window)
    odd = slice(1, None, 2)
    assert torch.equal(augment(x[odd], odd, 6, torch.Generator().manual_seed(5)), found[odd])


def train_in_a_rank(file):
    """Train a network without batch norms, in which every image counts alone, and store what came of it."""
    with seeded(0, "net"):
        net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(900, 3)).double()
    data = load_data("shapes:size=32,classes=3,count=90", "train")
    images, plan = Images(data.pixels, torch.tensor(data.labels)), Plan(2, batch=32, augment=True, accumulate=2)
    with process_group() as world:
        epochs = [(epoch.epoch, epoch.loss, epoch.accuracy) for epoch in fit(net, images, plan, 0, world=world)]
        if world.leads:
            torch.save((epochs, net.state_dict()), file)


@pytest.mark.slow
def test_two_ranks_train_as_one_process(tmp_path):
    train_in_a_rank(tmp_path / "one")
    done = in_ranks(train_in_a_rank, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    (one, weights), (two, others) = (torch.load(tmp_path / name) for name in ("one", "two"))
    assert [row[2] for row in one] == [row[2] for row in two], "the same images are right"
    for name in weights:
        torch.testing.assert_close(weights[name], others[name], rtol=0, atol=1e-6)


def test_strided_convolutions_of_single_pixels_that_read_an_image_do_not_end_the_process(shapes):
    network = nn.Sequential(nn.Conv2d(3, 8, 1, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    assert fast_layout(network) is torch.contiguous_format
    assert fast_layout(nn.Conv2d(3, 8, 3, 2)) is fast_layout(nn.Conv2d(16, 8, 1, 2)) is torch.channels_last
    ((_, loss, *_),), _ = run(shapes, Plan(1, batch=16), network)
    assert math.isfinite(loss)


def test_weights_of_five_axes_are_no_hindrance_and_auxiliary_heads_none_in_training(shapes):
    network = googlenet(num_classes=3, aux_logits=True, init_weights=False, transform_input=False)
    network.register_buffer("mask", torch.zeros(1, 1, 1, 1, 1))
    model = Classifier(network, "abc", Preparation(32, 32))
    ((_, loss, *_),), _ = run([part[:4] for part in shapes], Plan(1, batch=4), model)
    assert math.isfinite(loss)
