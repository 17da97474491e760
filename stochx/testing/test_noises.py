"""Contract of every noise, in every setting that it declares as an example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from stochx.catalog import NOISES
from stochx.engine.io.images import Preparation
from stochx.engine.network import weights
from stochx.engine.network.classifier import Classifier, measure_noise
from stochx.engine.network.fused import fused
from stochx.engine.network.sites import SITES, Place, Site
from stochx.engine.network.stochastic import Noisy, at_scale, calibrate, noise_layers, penalty
from stochx.engine.seeds import seeded
from stochx.errors import UsageError
from stochx.loading import load_model
from stochx.models.convnet import ConvNet
from stochx.network_files import install_noise
from stochx.testing.samples import random_images

X = random_images(8, 3, 16, 16).float()


def net() -> Classifier:
    """A small network in float32 whose batch norms have seen data."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ConvNet(width=4)(5).train()
        model.preparation = Preparation(16, 16)
        for _ in range(10):
            model(torch.rand(16, 3, 16, 16))
    return model.eval()


def noisy(spec: str, model: Classifier | None = None) -> Classifier:
    """The small network with the noise in it."""
    return install_noise(net() if model is None else model, spec)


def place_of(spec: str) -> Place:
    """Where the noise enters a module."""
    return SITES[NOISES.make(spec).site][0]


def replaces(spec: str) -> bool:
    """Return true for a noise that declares to have no mean network."""
    return bool(NOISES.declares(spec, "replaces"))


def under(seed: int, model: nn.Module, batch: Tensor = X) -> Tensor:
    with seeded(seed), torch.no_grad():
        out: Tensor = model(batch)
    return out


def state(model: Classifier) -> Any:
    """All that a measurement could leave behind in a network."""
    parts = [
        (m.training, len(m._forward_hooks), getattr(m, "rate", 0), getattr(m, "momentum", 0)) for m in model.modules()
    ]
    return parts, [layer.scale for layer in noise_layers(model)], model.noise


def in_mixed_modes(model: Classifier) -> Classifier:
    """In training, but with the batch norms frozen, as in fine-tuning."""
    for module in model.train().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def test_a_noise_is_on_in_use_repeats_by_its_seed_and_goes_off_at_scale_zero(noise: str) -> None:
    plain, model = net(), noisy(noise)
    kind = measure_noise(model, X[:1])
    assert kind != "none", "in eval mode two passes agree: draw in eval mode too"
    if place_of(noise) != "weight" and not replaces(noise) and "share=batch" not in noise:
        assert kind == "sample", "the images of a batch share a draw: draw anew for each, as `stochastic.normal` does"
    model.noise = kind
    first, again, other = (under(seed, model) for seed in (1, 1, 2))
    assert torch.equal(first, again), "the same seed gives another output: draw from torch's global generator alone"
    assert not torch.allclose(first, other), "another seed gives the same output: draw from torch's global generator"
    if replaces(noise):
        assert kind == "forward", "the images of a batch do not share a draw"
        with pytest.raises(UsageError, match="no degree"), at_scale(model, 0.0):
            pass
        return
    with at_scale(model, 0.0), torch.no_grad():
        assert torch.equal(model(X), plain(X)), "at degree 0 the network is not the plain one"


def test_images_of_a_batch_share_a_draw_where_they_are_asked_to(noise: str) -> None:
    if "share" not in {field.key for field in NOISES.fields(noise)} or "share=" in noise:
        return
    model = noisy(f"{noise}{',' if ':' in noise else ':'}share=batch")
    assert measure_noise(model, X[:1]) == "forward", "`share=batch` still draws for each image"
    twins = under(0, model, X[:1].expand(8, -1, -1, -1))
    same = torch.allclose(twins, twins[:1].expand_as(twins), rtol=0, atol=1e-5)
    assert same, "with `share=batch` equal images of one batch differ"


def test_a_networks_own_modes_stay_when_noise_goes_in_and_is_measured(noise: str) -> None:
    plain, model = in_mixed_modes(net()), in_mixed_modes(net())
    generator, weight = torch.get_rng_state(), plain.state_dict()
    modes = {module: module.training for module in model.modules()}
    noisy(noise, model)
    assert all(module.training == training for module, training in modes.items()), "installing changes modes"
    assert all(layer.noise.training for layer in noise_layers(model)), "a noise layer is not in the network's mode"
    named = {name.replace(".layer.", "."): value for name, value in model.state_dict().items()}
    assert all(torch.equal(value, named[name]) for name, value in weight.items()), "installing changes weights"
    before = state(model)
    calibrate(model, [X])
    assert state(model) == before, "calibrating changes modes, hooks, rates or scales: restore them"
    assert torch.equal(torch.get_rng_state(), generator), "calibrating moves torch's global generator"


@pytest.mark.parametrize("good", [0, 1, 3])  # broken in the first pass, at its second batch, and in the second pass
def test_a_forward_that_breaks_down_leaves_a_network_as_it_was(noise: str, good: int) -> None:
    model = in_mixed_modes(noisy(noise))
    model.noise = "sample"
    last: Any = list(model.network.children())[13]
    forward, left = last.forward, [good]

    def broken(value: Tensor) -> Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise ValueError("no memory")
        out: Tensor = forward(value)
        return out

    last.forward = broken
    before, generator = state(model), torch.get_rng_state()
    with pytest.raises(ValueError, match="no memory"):
        calibrate(model, [X, X])
    assert state(model) == before and torch.equal(torch.get_rng_state(), generator), "restore all in `finally`"


def test_the_fused_network_is_the_network_to_the_last_digits(noise: str) -> None:
    model = noisy(noise)
    calibrate(model, [X])
    model.double()
    fast = fused(model)
    assert fast.graph is not None, "the noise cannot be traced by torch.fx: no branches on values in `forward`"
    drawn, own = under(3, fast.whole, X.double()), under(3, model, X.double())
    same = torch.allclose(drawn, own, rtol=0, atol=1e-9)
    assert same, "traced, the network draws other noise: `forward` must not depend on Python state that changes"
    assert not torch.allclose(drawn, under(4, fast.whole, X.double()), atol=1e-3), "the noise changes nothing"
    if replaces(noise):
        return
    with at_scale(model, 0.0), torch.no_grad():  # another setting, another traced network
        quiet = fused(model).whole(X.double())
        assert torch.allclose(quiet, model(X.double()), rtol=0, atol=1e-9), "at degree 0 the traced network is noisy"
    assert (drawn - quiet).abs().max() > 1e-3, "the noise changes nothing"


def test_the_file_of_a_student_brings_it_back(noise: str, tmp_path: Path) -> None:
    model = noisy(noise)
    calibrate(model, [X, 1 - X])
    with torch.no_grad():
        for layer in noise_layers(model):
            for parameter in layer.noise.parameters():
                parameter.mul_(1.25)
    weights.save(tmp_path / "net.safetensors", model)
    again = load_model(str(tmp_path / "net.safetensors"))
    same = torch.equal(under(5, again), under(5, model))
    assert same, "read from its file, the network draws other noise: keep what it learns in parameters and buffers"
    assert again.noises == noise
    plain, stored = ConvNet(width=4)(5).network, load_file(tmp_path / "net.safetensors")
    plain.load_state_dict({name: value for name, value in stored.items() if ".noise." not in name}, strict=True)


@pytest.mark.parametrize("half", [False, True], ids=["float64", "autocast"])
@pytest.mark.parametrize("training", [False, True])
def test_noise_has_the_type_of_its_value(noise: str, half: bool, training: bool) -> None:
    model = noisy(noise).train(training)
    model = model if half else model.double()
    types = []
    for layer in noise_layers(model):
        layer.noise.register_forward_hook(
            lambda _, inputs, out: types.append((inputs[0].dtype, torch.result_type(inputs[0], out)))
        )
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        out = under(0, model, X if half else X.double())
    assert out.isfinite().all(), "the output holds NaN or infinity"
    assert out.dtype == (torch.bfloat16 if half else torch.float64), f"the output is {out.dtype}"
    assert len(types) == len(noise_layers(model)), "a noise layer was not called once"
    assert all(value == sum_ for value, sum_ in types), (
        f"value and sum are of types {types[0]}: follow that of the value"
    )


def test_a_training_step_reaches_all_that_a_noise_learns(noise: str) -> None:
    model = noisy(noise).train()
    with seeded(1):
        loss = model(X).square().mean() + penalty(model)
    loss.backward()
    learnt = [p for layer in noise_layers(model) for p in layer.noise.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in learnt), (
        "a parameter of the noise gets no gradient: freeze it, or make it a buffer"
    )
    own = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in own), "the noise cuts off gradients of weights"


def test_twice_the_degree_is_twice_the_deviation(noise: str) -> None:
    if replaces(noise):
        pytest.skip("it has no degree")
    made = NOISES.make(noise)
    site: Place = "weight" if place_of(noise) == "weight" else "output"
    shape = (6, 4, 3, 3) if site == "weight" else (6,)
    layer: nn.Module = nn.Conv2d(4, 6, 3).double() if site == "weight" else nn.Identity()
    z = random_images(8, 4, 5, 5) if site == "weight" else random_images(8, 6)
    shaken = Noisy(layer, made(Site("layer", site, shape, 0)), site).eval()
    outs = []
    for scale in (0.0, 1.0, 2.0):
        shaken.scale = scale
        outs.append(under(0, shaken, z))
    same = torch.allclose(outs[2] - outs[0], 2 * (outs[1] - outs[0]), rtol=0, atol=1e-12)
    assert same, "twice the degree is not twice the deviation: keep no state between draws, it is scaled for you"
    assert not torch.allclose(outs[1], outs[0], atol=1e-3), "the noise changes nothing"


def test_the_deviation_has_mean_zero_and_the_type_of_its_value(noise: str) -> None:
    if replaces(noise):
        pytest.skip("it has no mean network")
    made = NOISES.make(noise)
    place: Place = "weight" if place_of(noise) == "weight" else "output"
    shape = (2, 3, 3, 3) if place == "weight" else (4,) if made.site == "penultimate" else (3, 4, 4)
    value = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + 0.5
    module = made(Site("layer", place, shape, 1)).eval()
    value = value if place == "weight" else value[None]
    with seeded(0), torch.no_grad():
        kind = module(value.bfloat16()).dtype
        assert kind == torch.bfloat16, f"the deviation of a bfloat16 value is {kind}: follow its type"
        drawn = torch.stack([module(value) for _ in range(4000)])
    error = drawn.std(0) / 4000**0.5
    assert drawn.std(0).max() > 0, "the deviation is the same in every draw"
    centred = bool((drawn.mean(0).abs() < 5 * error + 1e-12).all())
    assert centred, "the mean of 4000 deviations is not 0: return the deviation alone, not value plus noise"
