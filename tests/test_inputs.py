"""Networks of any channels, height and width: how their images are prepared, what is read from them, their files."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from support import stochx as cli
from torch import nn
from torchvision.transforms import functional

import stochx
from stochx import Classifier, Preparation, load_data, load_model, read_image
from stochx.engine.io.images import LUMA, to_image, to_picture, to_tensor, visible
from stochx.engine.network.classifier import IMAGENET_MEAN, IMAGENET_STD, fitting, probabilities
from stochx.engine.network.weights import save
from stochx.engine.training.augment import views
from stochx.errors import InputError
from stochx.loading import Given, open_model
from stochx.metrics._perturb import altered
from stochx.tasks.distill import make_student
from stochx.tasks.network_checks import check_normalisation
from stochx.tasks.reading import stack

CODE = """
import torch
from torch import nn
def net(channels, size=None):
    torch.manual_seed(0)
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(channels, 6, 3, padding=1), nn.Linear(6, 4)
        def forward(self, x):
            assert size is None or tuple(x.shape[2:]) == size, f"expected {size}"
            return self.head(self.conv(x).relu().mean((2, 3)))
    return Net().eval()
def gray(): return net(1)
def four(): return net(4)
def two(): return net(2)
def tall(): return net(3, (96, 32))
def declared():
    made = net(1, (96, 32))
    made.img_size = (96, 32)
    return made
def mlp(): return nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.ReLU(), nn.Linear(8, 10))
def sigmoids(): return nn.Sequential(gray(), nn.Sigmoid())
def patches(): return nn.Sequential(nn.Flatten(), nn.Linear(3 * 20 * 20, 5))
def converts():
    class Converts(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net(1)
        def forward(self, x):
            assert x.shape[1] == 3
            return self.net(x.mean(1, keepdim=True))
    return Converts()
"""


@pytest.fixture
def code(tmp_path, monkeypatch):
    (tmp_path / "own_inputs.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("own_inputs", None)


def noise(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("size", [(100, 60), (60, 100), (400, 60), (48, 16), (50, 17), (97, 33)])
@pytest.mark.parametrize("resize", [(48, 16), (60, 24)])
def test_an_image_just_covers_the_size_before_the_centre_crop(size, resize):
    image = Image.fromarray(noise(*size))
    scale = max(resize[0] / size[0], resize[1] / size[1])
    scaled = [int(side * scale + 1e-9) for side in size]
    expected = functional.center_crop(functional.resize(image, scaled), [48, 16])
    assert np.array_equal(Preparation(resize, (48, 16))(image), expected)


def test_equal_sizes_make_equal_preparations():
    assert Preparation((64, 64), (48, 48)) == Preparation(64, 48) and Preparation(64, 48).shape == (3, 48, 48)
    assert Preparation((64, 32), (48, 16), channels=4).shape == (4, 48, 16)


def test_a_whole_image_covers_the_crop_and_keeps_its_proportion():
    assert Preparation((96, 32), (96, 32), whole=True)(Image.fromarray(noise(100, 80))).size == (76, 96)


def test_gray_pixels_reach_a_gray_network_unchanged():
    values = noise(16, 16, 1)
    for picture in (Image.fromarray(values[:, :, 0]).convert("RGB"), values, Image.fromarray(values[:, :, 0])):
        x = Preparation(16, 16, channels=1).tensor(picture)
        assert x.shape == (1, 16, 16) and np.array_equal(np.asarray(to_image(x)), values[:, :, 0])
    rgb = Preparation(16, 16).tensor(values)
    assert torch.equal(rgb, to_tensor(values).expand(3, -1, -1))


def test_each_channel_of_an_array_is_prepared_like_an_image():
    values = noise(40, 30, 5)
    found = Preparation(32, 24, channels=5).tensor(values)
    for channel in range(5):
        expected = to_tensor(Preparation(32, 24)(Image.fromarray(values[:, :, channel])))
        assert torch.equal(found[channel : channel + 1], expected)


@pytest.mark.parametrize(("channels", "count"), [(4, 3), (2, 3), (3, 4), (1, 2), (5, 4)])
def test_other_channels_are_one_error(channels, count):
    with pytest.raises(InputError, match=f"it has {count} channels, the network takes {channels}") as error:
        Preparation(16, 16, channels=channels).tensor(noise(16, 16, count))
    assert ".npz" in error.value.hint


@pytest.mark.parametrize(
    ("name", "shape", "source"),
    [
        ("gray", (1, 224, 224), "guessed"),
        ("four", (4, 224, 224), "guessed"),
        ("two", (2, 224, 224), "guessed"),
        ("declared", (1, 96, 32), "known"),
        ("mlp", (1, 28, 28), "measured"),
        ("patches", (3, 20, 20), "measured"),
        ("converts", (3, 224, 224), "guessed"),
    ],
)
def test_channels_and_size_are_those_that_the_network_takes(code, name, shape, source):
    loaded = open_model(f"own_inputs:{name}")
    fact = next(fact for fact in loaded.facts if fact.name == "input")
    assert loaded.model.input_shape == shape and fact.source == source
    assert loaded.model.mean.shape[1] == loaded.model.std.shape[1] == shape[0]
    assert loaded.model(loaded.model.blank()).isfinite().all()


def test_the_facts_name_channels_and_size(code):
    facts = {fact.name: fact.value for fact in open_model("own_inputs:declared").facts}
    assert facts["input"] == "96 x 32 with 1 channel, resized to cover 96 x 32, bilinear"
    assert facts["normalisation"] == "mean [0.4588], std [0.2256]"


@pytest.mark.parametrize("size", ["96x32", "96x32/108x40", ((96, 32), (96, 32))])
def test_a_network_of_one_size_gets_the_given_one(code, size):
    model = load_model("own_inputs:tall", size=size)
    assert model.input_shape == (3, 96, 32)
    with pytest.raises(InputError, match=r"cannot take an image of 32 x 96: AssertionError: expected \(96, 32\)"):
        load_model("own_inputs:tall", size="32x96")


@pytest.mark.parametrize("name", ["own_inputs:gray", "own_inputs:four"])
def test_an_image_file_reaches_only_networks_of_its_channels(code, name):
    Image.fromarray(noise(30, 30)).save("a.png")
    model = load_model(name, size=16)
    if model.channels == 1:
        assert read_image("a.png", model).shape == (1, 16, 16)
    else:
        with pytest.raises(InputError, match="it has 3 channels, the network takes 4"):
            read_image("a.png", model)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("gray", Given(size=28, mean=(0.13,), std=(0.31,))),
        ("four", Given(size=(32, 36), mean=(0.1, 0.2, 0.3, 0.4), std=(0.2,))),
        ("tall", Given(size=((96, 32), (100, 40)))),
    ],
)
def test_a_file_keeps_channels_size_and_normalisation(code, name, given):
    model = open_model(f"own_inputs:{name}", given).model
    save(code / "w.safetensors", model)
    again = load_model("w.safetensors", arch=f"own_inputs:{name}")
    assert again.preparation == model.preparation and again.input_shape == model.input_shape
    x = torch.rand(2, *model.input_shape)
    assert torch.equal(again(x), model(x))


def test_bare_weights_of_a_fixed_size_load_with_the_given_one(code):
    made = load_model("own_inputs:tall", size="96x32")
    torch.save(made.network.state_dict(), "w.pt")
    model = load_model("w.pt", arch="own_inputs:tall", size="96x32")
    x = torch.rand(2, 3, 96, 32)
    assert torch.equal(model(x), made(x))


def test_the_header_of_a_square_has_whole_numbers_as_before(code):
    model = load_model("own_inputs:gray", size=28)
    save(code / "w.safetensors", model)
    with safe_open("w.safetensors", "pt") as file:
        header = json.loads(file.metadata()["stochx"])
    assert (header["crop"], header["resize"]) == (28, 28)


def with_header(path, **fields):
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        header = json.loads(file.metadata()["stochx"])
    save_file(tensors, path, {"stochx": json.dumps(header | fields)})


def test_a_file_with_a_normalisation_in_rgb_still_loads_for_a_gray_network(code):
    save(code / "w.safetensors", load_model("own_inputs:gray", size=28))
    with_header("w.safetensors", mean=IMAGENET_MEAN, std=IMAGENET_STD)
    model, (mean, std) = load_model("w.safetensors", arch="own_inputs:gray"), fitting(IMAGENET_MEAN, IMAGENET_STD, 1)
    assert (model.mean.item(), model.std.item()) == pytest.approx((*mean, *std))


def test_a_file_with_a_normalisation_of_other_channels_is_one_error(code):
    save(code / "w.safetensors", load_model("own_inputs:four", size=28))
    with_header("w.safetensors", mean=IMAGENET_MEAN, std=IMAGENET_STD)
    with pytest.raises(InputError, match="3 values of `mean` for a network that takes 4 channels"):
        load_model("w.safetensors", arch="own_inputs:four")


def test_gray_images_are_normalised_as_the_luma_of_normalised_rgb():
    (mean,), (std,) = fitting(IMAGENET_MEAN, IMAGENET_STD, 1)
    gray = torch.rand(8, dtype=torch.float64)
    rgb = sum(w * (gray - m) / s for w, m, s in zip(LUMA, IMAGENET_MEAN, IMAGENET_STD, strict=True))
    torch.testing.assert_close((gray - mean) / std, rgb, rtol=1e-12, atol=1e-12)


def test_channels_are_given_else_of_the_mean_else_of_the_first_convolution():
    conv = nn.Sequential(nn.Conv2d(4, 2, 3), nn.Flatten())
    assert Classifier(conv, "ab", Preparation(8, 8)).channels == 4
    assert Classifier(conv, "ab", Preparation(8, 8), channels=5).input_shape == (5, 8, 8)
    assert Classifier(conv, "ab", Preparation(8, 8), (0.5,) * 3, (0.5,)).mean.shape == (1, 3, 1, 1)
    assert Classifier(nn.Flatten(), "ab", Preparation(8, 8)).channels == 3


@pytest.mark.parametrize("count", [2, 3])
def test_a_normalisation_for_other_channels_is_one_error(code, count):
    with pytest.raises(InputError, match=f"{count} values of `mean` for a network that takes 1 channel"):
        load_model("own_inputs:gray", size=28, mean=(0.5,) * count, std=(0.5,) * count)


ARRAYS = {
    "gray": (5, 12, 10),
    "gray, channels last": (5, 12, 10, 1),
    "gray, channels first": (5, 1, 12, 10),
    "four": (5, 12, 10, 4),
    "thirteen, channels first": (5, 13, 16, 17),
}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("kind", ["npz", "h5"])
def test_arrays_of_any_channels_are_read_as_they_are(name, kind, tmp_path):
    values = np.random.default_rng(0).integers(0, 256, ARRAYS[name], dtype=np.uint8)
    path = tmp_path / f"data.{kind}"
    if kind == "npz":
        np.savez(path, images=values)
    else:
        with pytest.importorskip("h5py").File(path, "w") as file:
            file["images"] = values
    planes = values[:, None] if values.ndim == 3 else values if "first" in name else np.moveaxis(values, 3, 1)
    data = load_data(str(path))
    assert np.array_equal((data[3][0] * 255).round().byte().numpy(), planes[3])
    if data.pixels is not None:
        assert np.array_equal(data.pixels.numpy(), planes)


@pytest.mark.parametrize("kind", ["npz", "h5"])
def test_arrays_whose_channels_cannot_be_told_are_one_error(kind, tmp_path):
    values, path = np.zeros((2, 9, 9, 9), np.uint8), tmp_path / f"data.{kind}"
    if kind == "npz":
        np.savez(path, images=values)
    else:
        with pytest.importorskip("h5py").File(path, "w") as file:
            file["images"] = values
    with pytest.raises(InputError, match=r"which axis of \(2, 9, 9, 9\) holds the channels cannot be told"):
        load_data(str(path))


def arrays(path, channels, count=12, size=(16, 12)):
    values = np.random.default_rng(0).integers(0, 256, (count, *size, channels), dtype=np.uint8)
    np.savez(path, images=values, labels=np.arange(count) % 4, classes=np.array(list("0123")))
    return values


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_data_is_stacked_in_the_channels_of_the_network(channels, tmp_path):
    values = arrays(tmp_path / "a.npz", channels)
    preparation = Preparation((16, 12), (16, 12), channels=channels)
    assert np.array_equal(stack(load_data(str(tmp_path / "a.npz")), preparation).pixels, np.moveaxis(values, 3, 1))


def test_gray_data_is_stacked_in_rgb_for_a_network_of_rgb(tmp_path):
    values = arrays(tmp_path / "a.npz", 1)
    pixels = stack(load_data(str(tmp_path / "a.npz")), Preparation((16, 12), (16, 12))).pixels
    assert pixels.shape == (12, 3, 16, 12)
    assert np.array_equal(pixels, np.moveaxis(values, 3, 1).repeat(3, 1))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_number_of_channels_can_be_looked_at(channels):
    x = torch.rand(channels, 5, 6)
    expected = {1: x[[0, 0, 0]], 2: x.mean(0, keepdim=True)[[0, 0, 0]], 3: x, 4: x[:3]}[channels]
    assert torch.equal(visible(x), expected) and np.array_equal(to_picture(x), expected.permute(1, 2, 0))
    assert to_image(x).mode == ("L" if channels == 1 else "RGB")


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_views_of_episodes_keep_the_channels(channels):
    x = torch.rand(2, 3, channels, 8, 8)
    seen = views(x, slice(0, 2), 2, torch.Generator().manual_seed(0))
    assert seen.shape == x.shape and seen.min() >= 0 and seen.max() <= 1


def test_a_multi_label_network_scores_each_class_by_its_logit(code, caplog):
    plain, several = (load_model("own_inputs:sigmoids", size=16, multilabel=many) for many in (False, True))
    x = torch.rand(3, 1, 16, 16)
    z = load_model("own_inputs:gray", size=16)(x)
    torch.testing.assert_close(several(x), z)
    torch.testing.assert_close(probabilities(several, z), z.sigmoid())
    torch.testing.assert_close(probabilities(plain, z), z.softmax(1))
    warnings = [record.getMessage() for record in caplog.records]
    assert sum("here the classes exclude each other" in text for text in warnings) == 1


def test_the_facts_say_that_labels_are_several(code):
    facts = {fact.name: fact for fact in open_model("own_inputs:sigmoids", Given(size=16, multilabel=True)).facts}
    assert facts["labels"].value.startswith("several: each class by itself") and facts["labels"].source == "given"


@pytest.mark.parametrize("read", ["logit", "probability", "margin"])
def test_metrics_read_a_class_of_a_multi_label_network_without_its_rivals(code, read):
    model, x = load_model("own_inputs:gray", size=16, multilabel=True), torch.rand(2, 1, 16, 16)
    target, z = torch.tensor([0, 3]), model(x)
    own = z[[0, 1], target]
    expected = own.sigmoid() if read == "probability" else own
    torch.testing.assert_close(altered(model, x, target, 1, lambda image, copy: x[image], read)[:, 0], expected)


def test_maps_of_a_multi_label_network_explain_the_logit(code):
    model, x = load_model("own_inputs:sigmoids", size=16, multilabel=True), torch.rand(2, 1, 16, 16)
    explanation = stochx.attributions.IntegratedGradients(steps=200)(model, x, target=2)
    difference = model(x)[:, 2] - model(torch.zeros_like(x))[:, 2]
    torch.testing.assert_close(explanation.map.sum((1, 2, 3)), difference, rtol=1e-2, atol=1e-3)


def test_explain_states_sigmoids_with_multilabel(code):
    arrays(code / "a.npz", 1)
    words = ["explain", "--data", "a.npz", "--limit", 2, "--model", "own_inputs:sigmoids", "--size", 16]
    done = cli(*words, "-m", "gradient", "--multilabel", "--json", cwd=code)
    row = json.loads(done.stdout)["results"][0]
    assert row["probability"] == pytest.approx(1 / (1 + math.exp(-row["logit"])), abs=1e-5)


def test_an_attack_has_no_multi_label_networks(code):
    done = cli("attack", "own_inputs:sigmoids", "--data", "a.npz", "--multilabel", cwd=code)
    assert done.returncode == 2 and "no such option: --multilabel" in done.stderr


def test_adversarial_images_that_no_png_holds_are_one_error(code):
    arrays(code / "a.npz", 4)
    words = ["attack", "own_inputs:four", "--size", 16, "--data", "a.npz", "-a", "fgsm", "--save-adversarial"]
    done = cli(*words, cwd=code)
    assert done.returncode == 2 and "takes images of 4 channels, which PNG files do not have" in done.stderr


@pytest.mark.parametrize("name", ["own_inputs:gray", "own_inputs:four"])
def test_explain_and_attack_take_every_shape(code, name):
    channels = load_model(name, size="96x32").channels
    arrays(code / "a.npz", channels, size=(100, 40))
    words = ["--data", "a.npz", "--limit", 4, "--size", "96x32"]
    done = cli("explain", "--model", name, *words, "-m", "lrp", "-m", "gradcam", "-o", "maps", cwd=code)
    assert done.returncode == 0, done.stderr
    with np.load(next(Path("maps").glob("*.lrp.npz"))) as file:
        assert file["map"].shape == (channels, 96, 32)
    attack = ["attack", name, *words, "-a", "pgd:steps=2", "--eps", "8/255", "-o", "attack", "--json"]
    done = cli(*attack, cwd=code)
    assert done.returncode in (0, 4), done.stderr
    assert json.loads(done.stdout)["results"][0]["n"] == 4 and (code / "attack/examples.png").exists()


def test_a_student_of_another_architecture_takes_the_channels_of_its_teacher(code):
    teacher = load_model("own_inputs:gray", size=16)
    with pytest.raises(InputError, match="takes 3 channels, the teacher 1"):
        make_student(teacher, lambda: load_model("own_inputs:tall", size="96x32"), 0)


def test_the_check_of_the_normalisation_finds_a_wrong_one_of_gray_images():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.stack([-torch.ones(64), torch.ones(64)]) / 64)
        network[1].bias.zero_()
    x = torch.cat([torch.full((20, 1, 8, 8), 0.3), torch.full((20, 1, 8, 8), 0.7)])
    y = torch.tensor([0] * 20 + [1] * 20)
    for mean, std, verdict in (((0.5,), (0.5,), "ok"), ((0.0,), (1.0,), "fail")):
        model = Classifier(network, "ab", Preparation(8, 8), mean, std, channels=1).eval()
        check = check_normalisation(model, x, y, seed=0)
        assert check.verdict == verdict and (model.mean.item(), model.std.item()) == (*mean, *std)
    assert "--mean 0." in check.advice and "," not in check.advice.partition("--mean ")[2].partition(" ")[0]


FAMILIES = """
import torch, torchvision, timm, transformers
def googlenet(): return torchvision.models.googlenet(weights=None, num_classes=5, aux_logits=True, init_weights=False)
def deit(): return timm.create_model("deit_tiny_distilled_patch16_224", num_classes=5, img_size=32, depth=2)
def tall(): return timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=(64, 32), depth=1)
def gray(): return timm.create_model("resnet10t", num_classes=5, in_chans=1)
def hf():
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=(48, 32), patch_size=16, num_channels=4, num_labels=5,
    )
    return transformers.ViTForImageClassification(config)
"""


@pytest.mark.parametrize(
    ("name", "shape", "note"),
    [
        ("googlenet", (3, 64, 64), ""),
        ("deit", (3, 32, 32), ""),
        ("tall", (3, 64, 32), ""),
        ("gray", (1, 176, 176), ""),
        ("hf", (4, 48, 32), "returns several values: `logits` is taken for the logits"),
    ],
)
def test_networks_of_other_libraries_give_their_logits(tmp_path, monkeypatch, name, shape, note):
    pytest.importorskip("timm"), pytest.importorskip("transformers")
    (tmp_path / "families.py").write_text(FAMILIES)
    monkeypatch.chdir(tmp_path)
    loaded = open_model("./families.py:" + name, Given(size=64) if name == "googlenet" else None)
    model, notes = loaded.model, [fact.value for fact in loaded.facts if fact.name == "output"]
    assert model.input_shape == shape and notes == ([note] if note else [])
    x = torch.rand(2, *model.input_shape)
    plain = type(model.network).__mro__[1].forward if note else None
    raw = model.network(model.normalise(x)) if plain is None else plain(model.network, model.normalise(x)).logits
    assert model(x).shape == (2, 5) and torch.equal(model(x), raw)
