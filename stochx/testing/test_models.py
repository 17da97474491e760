"""Contract of every architecture."""

from __future__ import annotations

import torch

from stochx.catalog import MODELS
from stochx.engine.network.classifier import Classifier


def build(spec: str) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MODELS.make(spec)(7)
    assert isinstance(model, Classifier), f"`__call__` returned a {type(model).__name__}: return a `Classifier`"
    return model.eval()


def test_a_model_takes_pixels_and_gives_logits(model: str) -> None:
    made = build(model)
    x = torch.rand(2, *made.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        shape = tuple(made(x).shape)
        assert shape == (2, 7), f"for 7 classes the logits are {shape}: they must be (N, 7)"
        shape = tuple(made.features(x).shape)
        assert shape[0] == 2, f"the features are {shape}: the last layer must be an `nn.Linear` or a convolution"
        assert not torch.allclose(made.normalise(x), x), "pixels are not normalised: give mean and std to `Classifier`"


def test_a_model_rebuilds_from_its_text(model: str) -> None:
    made = build(model)
    name = made.arch.partition(":")[0]
    assert name in MODELS, f"`arch` is `{made.arch}`, which is no entry: give its name and keys to `Classifier(arch=)`"
    shapes, again = ({k: v.shape for k, v in net.state_dict().items()} for net in (made, MODELS.make(made.arch)(7)))
    assert shapes == again, f"`{made.arch}`, its `arch`, builds another network: name all keys that change it"


def test_a_model_recognises_its_own_weights(model: str) -> None:
    made = build(model)
    cls = MODELS.load(made.arch)
    shapes = {key: tuple(value.shape) for key, value in made.network.state_dict().items()}
    archs = [entry(7).arch for entry in cls.fits(shapes)]
    assert made.arch in archs, f"`fits` yields {archs} for the weights of `{made.arch}`: yield the settings that fit"
    foreign = {"embedding.weight": (11, 13)}
    assert not list(cls.fits(foreign)), f"`fits` yields something for {foreign}: look at names and shapes"
