"""Weights beside other tensors, under wrappers, in several copies, with moved heads and declared preprocessing."""

from __future__ import annotations

import argparse
import datetime
import json
import pathlib
import time

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from stochx.architectures import SIGNS
from stochx.catalog import MODELS
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.contents import parts, views, without_norms
from stochx.engine.network.weights import save
from stochx.errors import InputError, UsageError
from stochx.loading import Given, load_model, open_model
from stochx.presets import TorchvisionNetwork, names


@pytest.fixture(scope="module")
def weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MODELS.make("resnet20")(10).network.state_dict()


def prefixed(prefix, weights, shift=0.0):
    return {f"{prefix}{name}": value + shift if value.is_floating_point() else value for name, value in weights.items()}


def facts_of(loaded):
    return {fact.name: (fact.value, fact.source) for fact in loaded.facts}


WRAPPED = {
    "a tensor beside": lambda w: {"epoch": 3, "state_dict": w, "best_acc1": torch.tensor(58.1)},
    "an average": lambda w: {"n_averaged": torch.tensor(5), **prefixed("module.", w)},
    "a loss buffer": lambda w: {"state_dict": {**prefixed("model.", w), "loss.weight": torch.ones(10)}},
    "a loss beside bare names": lambda w: {**w, "criterion.weight": torch.ones(10)},
    "an optimizer": lambda w: {"net": w, "optimizer": {"state": {0: {"m": torch.ones(10**6)}}, "param_groups": []}},
    "an optimizer's state by name": lambda w: {
        "state": {"weight": {"exp_avg": torch.ones(10**6)}},
        "param_groups": [],
        "net": w,
    },
    "Composer": lambda w: {"state": {"model": w, "optimizers": {"SGD": {"state": {0: {"m": torch.ones(10**6)}}}}}},
    "deep": lambda w: {"checkpoint": {"model": {"module": prefixed("_orig_mod.", w)}}},
    "fabric": lambda w: {"my_net": prefixed("_forward_module.", w), "step": 3},
    "an unknown prefix": lambda w: prefixed("student_net.cnn.", w),
    "numpy and settings": lambda w: {
        "state_dict": w,
        "acc": np.float64(3.5),
        "n": np.int64(3),
        "args": argparse.Namespace(lr=0.1, out=pathlib.Path("x")),
        "time": datetime.datetime(2026, 1, 1),
    },
    "a queue": lambda w: {"state_dict": {**prefixed("module.backbone.", w), "module.queue": torch.ones(128, 9)}},
    "half precision": lambda w: {"weights": {n: v.half() if v.is_floating_point() else v for n, v in w.items()}},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_network_is_found_in_every_wrapper(name, weights, tmp_path):
    torch.save(WRAPPED[name](weights), tmp_path / "w.pth")
    model = load_model(str(tmp_path / "w.pth"))
    assert model.arch == "resnet20"
    torch.testing.assert_close(
        model.network.state_dict()["conv1.weight"], weights["conv1.weight"], rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("name", ["weights.pt", "weights.bin", "pytorch_model.bin.index.json"])
def test_safetensors_are_read_under_any_name(name, weights, tmp_path):
    file = name
    if name.endswith("json"):
        file = "shard.bin"
        (tmp_path / name).write_text(json.dumps({"weight_map": dict.fromkeys(weights, file)}))
    save_file(weights, tmp_path / file)
    loaded = open_model(str(tmp_path / name))
    assert loaded.model.arch == "resnet20" and facts_of(loaded)["format"] == ("safetensors", "file")


def test_a_pickle_named_safetensors_is_read_as_what_it_is(weights, tmp_path):
    torch.save(weights, tmp_path / "w.safetensors")
    loaded = open_model(str(tmp_path / "w.safetensors"))
    assert loaded.model.arch == "resnet20" and facts_of(loaded)["format"] == ("pickle", "file")


TWICE = {
    ("state_dict", "state_dict_ema"): lambda w: {"state_dict_ema": prefixed("", w, 1), "state_dict": w},
    ("student", "teacher"): lambda w: {"student": prefixed("module.", w), "teacher": prefixed("module.", w, 1)},
    ("state_dict.encoder_q", "state_dict.encoder_k"): lambda w: {
        "state_dict": {**prefixed("encoder_q.", w), **prefixed("encoder_k.", w, 1)}
    },
    ("net", "ema.shadow"): lambda w: {"net": w, "ema": {"decay": torch.tensor(0.9), "shadow": prefixed("", w, 1)}},
}


@pytest.mark.parametrize("places", TWICE)
def test_of_two_copies_the_plain_one_is_taken_and_the_other_can_be_chosen(places, weights, tmp_path):
    torch.save(TWICE[places](weights), tmp_path / "w.pth")
    loaded, (plain_place, average) = open_model(str(tmp_path / "w.pth")), places
    value, source = facts_of(loaded)["weights"]
    assert value.startswith(plain_place) and f"`w.pth#{average}`" in value and source == "guessed"
    other = load_model(f"{tmp_path}/w.pth#{average}")
    first, second = (m.network.state_dict()["conv1.weight"] for m in (loaded.model, other))
    torch.testing.assert_close(second, first + 1)


@pytest.mark.parametrize("places", TWICE)
def test_ema_takes_the_average(places, weights, tmp_path):
    torch.save(TWICE[places](weights), tmp_path / "w.pth")
    plain, average = load_model(tmp_path / "w.pth"), open_model(str(tmp_path / "w.pth"), Given(ema=True))
    first, second = (m.network.state_dict()["conv1.weight"] for m in (plain, average.model))
    torch.testing.assert_close(second, first + 1)
    assert facts_of(average)["weights"][1] == "given"
    assert facts_of(average)["weights"][0].startswith(places[1]) and "an average" in facts_of(average)["weights"][0]


def test_weights_that_lightning_averaged_are_its_state_dict(weights, tmp_path):
    plain, averaged = prefixed("model.", weights), prefixed("model.", weights, 1)
    content = {"current_model_state": plain, "state_dict": averaged, "averaging_state": {"n_averaged": torch.tensor(3)}}
    torch.save(content, tmp_path / "w.ckpt")
    first = load_model(tmp_path / "w.ckpt").network.state_dict()["conv1.weight"]
    second = load_model(tmp_path / "w.ckpt", ema=True).network.state_dict()["conv1.weight"]
    torch.testing.assert_close(second, first + 1)


def test_ema_takes_a_lone_average_and_is_refused_without_one(weights, tmp_path):
    torch.save({"n_averaged": torch.tensor(5), **prefixed("module.", weights)}, tmp_path / "swa.pth")
    assert facts_of(open_model(str(tmp_path / "swa.pth"), Given(ema=True)))["weights"][0] == "module, an average"
    torch.save({"state_dict": weights}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match="holds no averaged weights"):
        load_model(tmp_path / "w.pth", ema=True)
    with pytest.raises(UsageError, match="`resnet18` is a name"):
        load_model("resnet18", ema=True)


def test_a_classifier_of_openmmlab_is_read_with_its_head(tmp_path):
    network = models.get_model("resnet18", num_classes=4).eval()
    stored = {f"{'head' if n.startswith('fc.') else 'backbone'}.{n}": v for n, v in network.state_dict().items()}
    torch.save({"meta": {"epoch": 3, "CLASSES": ["a"]}, "state_dict": stored}, tmp_path / "w.pth")
    model = load_model(tmp_path / "w.pth")
    assert model.arch == "resnet18"
    torch.testing.assert_close(model.network.fc.weight, network.fc.weight.detach())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_weights_of_any_precision_are_computed_in_single(kind, weights, tmp_path):
    torch.save({n: v.to(kind) if v.is_floating_point() else v for n, v in weights.items()}, tmp_path / "w.pth")
    loaded = open_model(str(tmp_path / "w.pth"))
    assert facts_of(loaded)["precision"] == (f"{str(kind).removeprefix('torch.')}, computed in float32", "file")
    found = loaded.model.network.state_dict()["conv1.weight"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, weights["conv1.weight"].to(kind).float(), rtol=0, atol=0)


def test_many_equal_layers_are_found_in_time(weights):
    names = [f"layer{i}.{j}.weight" for i in range(3000) for j in range(2)]
    start = time.process_time()
    assert parts({name: torch.ones(2, 2) for name in names})[0].place == ""
    assert time.process_time() - start < 3


def test_a_part_that_is_not_there_is_named(weights, tmp_path):
    torch.save({"state_dict": weights}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match="has no part `ema`") as error:
        load_model(f"{tmp_path}/w.pth#ema")
    assert "`state_dict`" in error.value.hint


def test_equal_copies_are_no_choice_and_their_normalisation_is_read(weights, tmp_path):
    stored = {**prefixed("module.model.", weights), **prefixed("module.attacker.model.", weights)}
    stored["module.normalizer.new_mean"] = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
    stored["module.normalizer.new_std"] = torch.tensor([0.2, 0.3, 0.2]).view(3, 1, 1)
    torch.save({"model": stored}, tmp_path / "w.pt")
    loaded = open_model(str(tmp_path / "w.pt"))
    assert facts_of(loaded)["normalisation"] == ("mean [0.4, 0.5, 0.6], std [0.2, 0.3, 0.2]", "file")
    assert facts_of(loaded)["weights"] == ("model.module.model", "file")


def test_a_layer_beside_a_whole_network_is_not_dropped_in_silence(weights, tmp_path):
    torch.save({**prefixed("model.", weights), "head.weight": torch.ones(4, 10)}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"`head.weight` beside a whole `resnet20`") as error:
        load_model(str(tmp_path / "w.pth"))
    assert "w.pth#model" in error.value.hint
    assert len(load_model(f"{tmp_path}/w.pth#model").classes) == 10


def test_a_scalar_that_changes_the_function_is_not_dropped(weights, tmp_path):
    torch.save({**weights, "temperature": torch.tensor([2.0])}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="`temperature` is not expected"):
        load_model(str(tmp_path / "w.pth"))


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"a": {"b": {}}}, [], {"x": torch.tensor(1.0)}])
def test_a_file_without_weights_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(InputError, match="contains no state dict"):
        load_model(str(tmp_path / "w.pt"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "is a pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html>", "is a web page"),
        (b"<html>", "is a web page"),
    ],
)
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_what_downloads_leave_in_the_place_of_weights_is_named(content, message, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_model(tmp_path / name)


def test_integers_in_the_place_of_weights_are_refused(weights, tmp_path):
    quantised = {name: (value * 100).to(torch.int8) if value.dim() else value for name, value in weights.items()}
    torch.save(quantised, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"the tensor `.*weight` is of integers"):
        load_model(tmp_path / "w.pt")


def test_prefixes_of_layers_stay():
    table = {"features.0.weight": torch.ones(9, 9), "classifier.weight": torch.ones(2, 9)}
    assert [view.place for part in parts(table) for view in views(part)] == [""]


def norms():
    def weight_norm(layer):
        return nn.utils.parametrizations.weight_norm(layer)

    def spectral_norm(layer):
        return nn.utils.parametrizations.spectral_norm(layer)

    return [weight_norm, spectral_norm, nn.utils.weight_norm, nn.utils.spectral_norm]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("norm", norms(), ids=["weight", "spectral", "old weight", "old spectral"])
@pytest.mark.parametrize("layer", [lambda: nn.Conv2d(3, 5, 3), lambda: nn.Linear(4, 6)], ids=["conv", "linear"])
def test_normed_weights_are_made_without_norms(norm, layer):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(norm(layer())).eval()
    x = torch.rand(2, 3, 8, 8) if net[0].weight.dim() == 4 else torch.rand(2, 4)
    other = nn.Sequential(layer()).double().to(x.dtype)
    net = net.to(x.dtype)
    expected = net(x)
    other.load_state_dict(without_norms(net.state_dict()))
    torch.testing.assert_close(other(x), expected)


def test_tied_weights_can_be_saved(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net[1].weight = net[0].weight
    view = MODELS.make("convnet:width=4")(3).preparation
    save(tmp_path / "w.safetensors", Classifier(net, ("a", "b", "c"), view))
    assert (tmp_path / "w.safetensors").stat().st_size > 0


def stored(network, path):
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)
    return open_model(str(path))


def resnet(head):
    network = models.get_model("resnet18", weights=None)
    network.fc = head
    return network


def test_a_head_behind_a_dropout_is_recognised_and_saved_with_its_place(tmp_path):
    network = resnet(nn.Sequential(nn.Dropout(), nn.Linear(512, 7))).eval()
    model = stored(network, tmp_path / "w.safetensors").model
    assert model.arch == "resnet18:head=fc.1"
    save(tmp_path / "again.safetensors", model)
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(load_model(str(tmp_path / "again.safetensors")).network(x), network(x))


def test_a_head_in_the_place_of_the_whole_classifier_is_recognised(tmp_path):
    network = models.get_model("mobilenet_v2", weights=None)
    network.classifier = nn.Linear(1280, 5)
    assert stored(network, tmp_path / "w.safetensors").model.arch == "mobilenet_v2:head=classifier"


def test_a_head_of_two_layers_is_refused_since_what_is_between_leaves_no_trace(tmp_path):
    with pytest.raises(InputError, match="closest is `resnet18`"):
        stored(resnet(nn.Sequential(nn.Linear(512, 8), nn.Tanh(), nn.Linear(8, 2))), tmp_path / "w.safetensors")


@pytest.mark.parametrize("auxiliary", [True, False])
def test_googlenet_has_its_input_transformed_with_and_without_auxiliary_heads(auxiliary, tmp_path):
    network = models.get_model("googlenet", weights=None, init_weights=False, aux_logits=auxiliary)
    network.transform_input = True
    model = stored(network.eval(), tmp_path / "w.safetensors").model
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model.network(x), network(x))
    assert not model.network.aux_logits


@pytest.mark.slow
def test_an_architecture_that_is_given_fits_weights_whose_body_has_a_prefix(tmp_path):
    network = models.vit_b_32(num_classes=7)
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    assert len(load_model(tmp_path / "net.safetensors", arch="vit_b_32").classes) == 7


def test_the_side_of_a_vision_transformer_is_read_from_its_positions():
    from stochx.architectures import recognise

    with torch.device("meta"):
        tensors = models.vit_b_32(image_size=384).state_dict()
    candidate = recognise({name: tuple(value.shape) for name, value in tensors.items()}, "w.pth")
    assert candidate.arch == "vit_b_32:image_size=384"
    with torch.device("meta"):
        assert candidate.build().input_shape == (3, 384, 384)


@pytest.mark.parametrize(
    ("name", "size", "source"),
    [
        ("efficientnet_b1", (256, 240, "bicubic"), "guessed"),  # two sets of weights differ
        ("efficientnet_b2", (288, 288, "bicubic"), "known"),
        ("resnet18", (256, 224, "bilinear"), "known"),
        ("resnet50", (256, 224, "bilinear"), "guessed"),
        ("swin_t", (232, 224, "bicubic"), "known"),
        ("inception_v3", (342, 299, "bilinear"), "known"),
    ],
)
def test_preprocessing_is_what_the_published_weights_declare(name, size, source, tmp_path):
    declared = TorchvisionNetwork(name).declared(tmp_path / "w.pth", "0" * 64, 1000)
    preparation = declared.preprocessing.preparation
    assert (preparation.resize, preparation.crop, preparation.resampling) == size and declared.preparation == source
    assert TorchvisionNetwork(name).declared(tmp_path / "w.pth", "0" * 64, 7).preparation == "guessed"


@pytest.mark.parametrize("name", names())
def test_every_published_file_is_known_by_its_name(name, tmp_path):
    for preset in models.get_model_weights(name):
        if not preset.meta.get("categories"):
            continue
        view, declared = preset.transforms(), None
        side = view.crop_size[0] if name.startswith("vit") else 0
        declared = TorchvisionNetwork(name, image_size=side).declared(
            tmp_path / pathlib.Path(preset.url).name, "0" * 64, 1000
        )
        found = declared.preprocessing.preparation
        assert (found.resize, found.crop) == (view.resize_size[0], view.crop_size[0])
        assert found.resampling == view.interpolation.value and declared.preparation == "known"


def test_given_size_and_classes_win_and_classes_are_stored(tmp_path):
    save_file(MODELS.make("resnet20")(3).network.state_dict(), tmp_path / "w.safetensors")
    loaded = open_model(str(tmp_path / "w.safetensors"), Given(size=(64, 72), classes=("ant", "bee", "cat")))
    assert (loaded.model.preparation.crop, loaded.model.preparation.resize) == (64, 72)
    assert facts_of(loaded)["input"] == ("64 x 64, short side resized to 72, bilinear", "given")
    assert facts_of(loaded)["classes"] == ("3: ant, bee, cat", "given")
    save(tmp_path / "named.safetensors", loaded.model)
    assert load_model(str(tmp_path / "named.safetensors")).classes == ("ant", "bee", "cat")
    with pytest.raises(UsageError, match="2 names for 3 classes"):
        load_model(str(tmp_path / "w.safetensors"), classes=("ant", "bee"))


def test_bare_weights_of_timm_are_recognised_by_the_name_of_their_file(tmp_path):
    timm = pytest.importorskip("timm", reason="needs timm: pip install -e '.[timm]'")
    network = timm.create_model("mobilenetv3_small_050", num_classes=4)
    assert stored(network, tmp_path / "mobilenetv3_small_050_mine.safetensors").model.arch == (
        "timm:mobilenetv3_small_050"
    )
    with pytest.raises(InputError) as error:
        stored(network, tmp_path / "w.safetensors")
    assert "--arch timm:NAME" in error.value.hint


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_every_network_of_torchvision_has_a_sign(name):
    with torch.device("meta") if not name.startswith("regnet") else torch.device("cpu"):
        tensors = TorchvisionNetwork(name).network(7).state_dict()
    assert any(sign in tensors and name.startswith(families) for sign, families in SIGNS.items())
