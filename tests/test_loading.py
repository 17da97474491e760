"""Models from files and names: recognised, refused, described."""

from __future__ import annotations

import importlib
import os
import pickle
import socket
import sys
import time

import pytest
import torch
from conftest import shared
from safetensors.torch import load_file, save_file
from support import cifar_test_images
from torch import nn
from torchvision import models

from stochx.architectures import architecture, is_factory, recognise
from stochx.catalog import MODELS
from stochx.engine.gradients import logits
from stochx.engine.io.images import Preparation
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.weights import save
from stochx.errors import InputError, UsageError
from stochx.loading import Given, load_model, open_model


@pytest.fixture
def convnet():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MODELS.make("convnet:width=4")(5).eval()


def sources(loaded):
    return {fact.name: fact.source for fact in loaded.facts}


def test_a_saved_model_describes_itself_and_loads_bit_for_bit(convnet, tmp_path):
    convnet.classes = ("a", "b", "c", "d", "e")
    save(tmp_path / "m.safetensors", convnet)
    loaded = open_model(str(tmp_path / "m.safetensors"))
    x = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(loaded.model(x), convnet(x))
    assert loaded.model.classes == convnet.classes
    assert sources(loaded)["architecture"] == sources(loaded)["normalisation"] == "header"
    assert not any(p.requires_grad for p in loaded.model.parameters()) and not loaded.model.training


@pytest.mark.parametrize("name", ["squeezenet1_1", "resnet18", "densenet121", "regnet_y_400mf"])
def test_bare_weights_of_torchvision_are_recognised(name, tmp_path):
    with torch.random.fork_rng():
        net = models.get_model(name, weights=None, num_classes=7)
    torch.save({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, tmp_path / "w.pth")
    loaded = open_model(str(tmp_path / "w.pth"))
    assert loaded.model.arch == name and len(loaded.model.classes) == 7
    assert sources(loaded)["architecture"] == "recognised" and sources(loaded)["normalisation"] == "guessed"


@pytest.mark.parametrize("name", ["vgg11_bn", "vit_b_16"])
def test_shapes_of_large_networks_are_recognised(name):
    with torch.device("meta"):
        weights = models.get_model(name, weights=None, num_classes=7).state_dict()
    assert recognise({key: tuple(value.shape) for key, value in weights.items()}, "w.pth").arch == name


@pytest.mark.parametrize(
    "name",
    [
        "resnet20",
        "resnet110",
        "resnet-cifar:depth=14",
        "preact-resnet18",
        "wide-resnet:depth=10,width=2",
        "robust-resnet2b",
    ],
)
def test_bare_weights_of_our_own_are_recognised(name, tmp_path):
    save_file(MODELS.make(name)(10).network.state_dict(), tmp_path / "w.safetensors")
    assert load_model(tmp_path / "w.safetensors").arch == name


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_resnets_keep_their_old_names(depth, tmp_path):
    old, new = f"resnet{depth}", f"resnet-cifar:depth={depth}"
    assert MODELS.make(old) == MODELS.make(new) and old in MODELS and old not in list(MODELS)
    assert MODELS.make(new)(10).arch == old
    assert architecture(new, 10).arch == architecture(old, 10).arch == old
    with pytest.raises(UsageError, match="gives `depth` twice"):
        MODELS.parse(f"{old}:depth=20")


def test_a_file_whose_header_has_an_old_name_still_loads(tmp_path):
    model = MODELS.make("resnet-cifar:depth=20")(10)
    save(tmp_path / "w.safetensors", model)
    assert b"resnet20" in (tmp_path / "w.safetensors").read_bytes()[:4000]
    for arch in (None, "resnet20", "resnet-cifar:depth=20"):
        loaded = load_model(str(tmp_path / "w.safetensors"), arch=arch)
        assert loaded.arch == "resnet20" and torch.equal(loaded.network.linear.weight, model.network.linear.weight)


def test_strides_cannot_be_seen_so_the_candidates_are_named(tmp_path):
    save_file(MODELS.make("robust-cnn")(10).network.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="several architectures") as caught:
        load_model(str(tmp_path / "w.safetensors"))
    assert "robust-cnn:first=2,second=2" in caught.value.hint
    assert load_model(str(tmp_path / "w.safetensors"), arch="robust-cnn:first=1,second=4")


def test_what_differs_is_named(convnet, tmp_path):
    tensors = convnet.network.state_dict()
    tensors["0.weight"] = torch.zeros(4, 3, 5, 5)
    del tensors["14.bias"]
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"`0.weight` is 4x3x5x5, not 4x3x3x3"):
        load_model(str(tmp_path / "w.safetensors"), arch="convnet:width=4")


def test_an_unknown_network_is_refused(tmp_path):
    save_file({"strange.weight": torch.zeros(3, 4)}, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="unknown"):
        load_model(str(tmp_path / "w.safetensors"))


def test_a_pickle_with_code_is_refused_and_never_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    for name, writer, why in (
        ("a.pt", torch.save, "contains no state dict"),
        ("b.pth", lambda o, p: p.write_bytes(pickle.dumps(o)), "contains no state dict"),
    ):
        writer({"x": Bomb()}, tmp_path / name)
        with pytest.raises(InputError, match=why):
            load_model(str(tmp_path / name))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_truncated_and_empty_files_are_damaged(suffix, convnet, tmp_path):
    whole = tmp_path / f"w{suffix}"
    save(whole, convnet) if suffix == ".safetensors" else torch.save(convnet.network.state_dict(), whole)
    for name, content in (("half", whole.read_bytes()[:999]), ("empty", b""), ("text", b"hello")):
        (tmp_path / f"{name}{suffix}").write_bytes(content)
        with pytest.raises(InputError, match=f"{name}"):
            load_model(str(tmp_path / f"{name}{suffix}"))


def test_weights_that_are_not_finite_are_refused(convnet, tmp_path):
    convnet.network[0].weight.data[0] = float("nan")
    save(tmp_path / "w.safetensors", convnet)
    with pytest.raises(InputError, match=r"`0.weight` is not finite"):
        load_model(str(tmp_path / "w.safetensors"))


def test_missing_files_names_and_factories_are_clear(tmp_path):
    for text, message in [
        (str(tmp_path / "none.pt"), "no such file"),
        (str(tmp_path), "directory"),
        ("resnet19", "neither a file nor"),
        ("resnet20", "without weights"),
        ("no.such.module:f", "No module"),
        ("os:nothing", "has no"),
        ("os:getcwd", "not a network"),
    ]:
        with pytest.raises((InputError, UsageError), match=message):
            load_model(text)


def test_a_factory_is_loaded_from_where_one_is(tmp_path, monkeypatch):
    (tmp_path / "mynets.py").write_text(
        "from torch import nn\n"
        "def net(): return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(12, 3))\n"
    )
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    model = load_model("mynets:net", mean=(0.5,) * 3, std=(0.5,) * 3)
    assert len(model.classes) == 3 and model.noise == "none" and sys.path == before


def test_noise_in_the_forward_is_noticed(tmp_path, monkeypatch):
    (tmp_path / "noisy_nets.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, shape): super().__init__(); self.fc = nn.Linear(3, 4); self.shape = shape\n"
        "    def forward(self, x): return self.fc(x.mean((2, 3))) + torch.randn(*self.shape(x))\n"
        "def sample(): return Net(lambda x: (len(x), 4))\n"
        "def forward(): return Net(lambda x: (1, 4))\n"
    )
    monkeypatch.chdir(tmp_path)
    assert load_model("noisy_nets:sample").noise == "sample"
    assert load_model("noisy_nets:forward").noise == "forward"


def test_weights_that_are_not_cached_fail_quickly_with_a_way_out(tmp_path, monkeypatch):
    import urllib.error

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError, match="resnet50") as caught:
        load_model("resnet50")
    assert "resnet50-11ad3fa6.pth" in caught.value.hint and str(tmp_path) in caught.value.hint


def test_given_normalisation_wins(convnet, tmp_path):
    save(tmp_path / "w.safetensors", convnet)
    loaded = open_model(str(tmp_path / "w.safetensors"), Given(mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0)))
    torch.testing.assert_close(loaded.model.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    assert sources(loaded)["normalisation"] == "given"


def test_real_cifar_weights_load_by_their_file_alone_and_classify():
    model = load_model(str(shared("weights_cifar10/resnet20.safetensors")))
    x, y = cifar_test_images(500)
    assert (logits(model, x).argmax(1) == y).float().mean() > 0.89


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v2"])
def test_real_imagenet_weights_load_by_their_file_alone(name):
    loaded = open_model(str(shared(f"weights_imagenet/{name}.safetensors")))
    assert loaded.model.arch == name and loaded.model.classes[207] == "golden retriever"
    assert sources(loaded)["normalisation"] == sources(loaded)["classes"] == "known"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "top1"), [("squeezenet1_1", 0.660), ("mobilenet_v2", 0.845)])
def test_real_imagenet_weights_classify_as_measured(name, top1):
    import json

    from stochx.engine.io.images import read, to_tensor

    model = load_model(str(shared(f"weights_imagenet/{name}.safetensors")))
    labels = json.loads(shared("imagenet_samples/labels.json").read_text())
    right = 0
    for some in (labels[i : i + 40] for i in range(0, len(labels), 40)):
        x = torch.stack([to_tensor(model.preparation(read(shared(f"imagenet_samples/{e['file']}")))) for e in some])
        right += sum(a == e["index"] for a, e in zip(logits(model, x).argmax(1).tolist(), some, strict=True))
    assert abs(right / len(labels) - top1) <= 0.01


def test_the_files_of_the_demo_are_plain_safetensors(convnet, tmp_path):
    save(tmp_path / "w.safetensors", convnet)
    assert set(load_file(tmp_path / "w.safetensors")) == set(convnet.network.state_dict())


class TestTimm:
    """`timm:NAME` without a network: from a filled cache, from an empty one, and for names that are none."""

    @pytest.fixture(autouse=True)
    def timm(self, monkeypatch, tmp_path):
        timm = pytest.importorskip("timm", reason="needs timm: pip install -e '.[timm]'")

        def refuse(*_args, **_more):
            raise socket.gaierror("no network in tests")

        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        return timm

    def test_weights_come_from_the_cache_without_a_network(self, timm, tmp_path):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = timm.create_model("test_resnet").eval()
        place = tmp_path / "models--timm--test_resnet.r160_in1k"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text("0" * 40)
        (place / "snapshots" / ("0" * 40)).mkdir(parents=True)
        save_file(network.state_dict(), place / "snapshots" / ("0" * 40) / "model.safetensors")
        model = load_model("timm:test_resnet")
        assert (model.preparation.crop, model.preparation.resize) == (160, 168)  # a crop of 0.95
        x, view = torch.rand(2, 3, 160, 160), timm.data.resolve_model_data_config(network)
        mean, std = (torch.tensor(view[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        with torch.inference_mode():
            torch.testing.assert_close(model(x), network((x - mean) / std))

    def test_a_network_of_imagenet_has_its_classes_and_input(self, timm, monkeypatch):
        create = timm.create_model
        monkeypatch.setattr(timm, "create_model", lambda name, pretrained: create(name, pretrained=False))
        loaded = open_model("timm:resnet18")
        assert (loaded.model.preparation.crop, loaded.model.preparation.resize) == (224, 236)
        assert loaded.model.preparation.resampling == "bicubic"
        assert len(loaded.model.classes) == 1000 and loaded.model.classes[1] == "goldfish"
        assert loaded.model.arch == "timm:resnet18" and loaded.model.noise == "none"
        assert sources(loaded)["normalisation"] == sources(loaded)["classes"] == "known"

    def test_a_network_without_classes_is_refused(self, timm, monkeypatch):
        create = timm.create_model
        monkeypatch.setattr(timm, "create_model", lambda name, pretrained: create(name, num_classes=0))
        with pytest.raises(InputError, match="features"):
            load_model("timm:test_vit")

    def test_absent_weights_without_a_network_are_one_error_soon(self, tmp_path):
        constants, start = importlib.import_module("huggingface_hub.constants"), time.perf_counter()
        before = constants.HF_HUB_OFFLINE, socket.getdefaulttimeout()
        with pytest.raises(InputError, match="no network") as error:
            load_model("timm:test_vit")
        assert time.perf_counter() - start < 20 and str(tmp_path) in error.value.hint
        assert (constants.HF_HUB_OFFLINE, socket.getdefaulttimeout()) == before

    def test_a_hub_that_fails_is_one_error_with_its_reason(self, timm, monkeypatch):
        def fail(name, pretrained):
            raise OSError("the hub is closed.\nsee there")

        monkeypatch.setattr(timm, "create_model", fail)
        monkeypatch.setattr("stochx.pretrained.answers", lambda url: True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        with pytest.raises(InputError, match=r"fetched: the hub is closed\n"):
            load_model("timm:test_vit")

    @pytest.mark.parametrize(
        ("name", "message", "hint"),
        [
            ("resnet18x", "no model `resnet18x`", "did you mean `timm:resnet18`?"),
            ("resnet18.a1_in1", "no weights for `resnet18.a1_in1`", "did you mean `timm:resnet18.a1_in1k`?"),
            ("zzzz", "no model `zzzz`", "`timm.list_models(pretrained=True)` lists all models"),
        ],
    )
    def test_an_unknown_name_is_an_error_with_the_nearest(self, name, message, hint):
        with pytest.raises(UsageError, match=message) as error:
            load_model(f"timm:{name}")
        assert error.value.hint == hint


def test_a_file_does_not_decide_which_code_is_run(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "def net():\n"
        "    open('ran', 'w').close()\n"
        "    from stochx.models.convnet import ConvNet\n"
        "    return ConvNet(width=4)(3)\n"
    )
    monkeypatch.chdir(tmp_path)
    model = MODELS.make("convnet:width=4")(3)
    model.arch = "mine:net"
    save(tmp_path / "net.safetensors", model)
    with pytest.raises(InputError, match="made with the code `mine:net`"):
        load_model("net.safetensors")
    assert not (tmp_path / "ran").exists()
    assert load_model("net.safetensors", arch="mine:net").network[0].weight.shape[0] == 4


@pytest.mark.parametrize("text", ["robust_cnn:first=2,second=2", "robust-cnn:first=2,second=2"])
def test_an_architecture_may_be_written_with_underscores(text):
    assert not is_factory(text) and architecture(text, 4).build().arch.startswith("robust-cnn")


def test_ones_own_code_may_be_called_as_an_architecture():
    assert is_factory("robust_cnn:net") and is_factory("mine:net") and not is_factory("timm:resnet18")


@pytest.mark.parametrize(
    ("mean", "std"), [((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)), ((0.5,), (63.0,)), ((2.0,), (1.0,))]
)
def test_a_normalisation_of_pixels_from_0_to_255_is_refused(mean, std):
    with pytest.raises(InputError, match=r"not in units of \[0, 1\]"):
        Classifier(nn.Flatten(), ["a"], Preparation(8, 8), mean, std)
