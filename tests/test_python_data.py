"""Data sets, images, figures and few-shot networks from Python."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from conftest import random_images
from PIL import Image
from support import refused

import stochx
from stochx.attributions import Gradient
from stochx.models import Classifier, Preparation
from stochx.testing.samples import tiny_network


@pytest.fixture
def photos(tmp_path):
    """Class folders `ant` and `bee` of three images each, of other sizes."""
    for label, name in enumerate(("ant", "bee")):
        for k in range(3):
            file = tmp_path / "test" / name / f"{k}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20 + k, 24), (100 * label, 40 * k, 9)).save(file)
    return tmp_path


@pytest.fixture
def model():
    return Classifier(tiny_network().float(), ["x", "bee", "y", "ant", "z"], Preparation(18, 16)).eval()


def test_a_data_set_is_a_sequence_of_images_and_labels(photos):
    data = stochx.load_data(str(photos))
    image, label = data[-1]
    assert len(data) == 6 and image.shape == (3, 24, 22) and label == 1 and torch.equal(image, data[5][0])
    assert [label for _, label in data] == [0, 0, 0, 1, 1, 1] and data[np.int64(2)][1] == 0
    for place in (6, -7):
        with pytest.raises(IndexError, match="there are 6"):
            data[place]


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_torch_loader_reads_prepared_images_with_workers(start, photos, model):
    data = stochx.load_data(str(photos), model=model)
    loader = torch.utils.data.DataLoader(data, 4, num_workers=1, multiprocessing_context=start)
    x, y = zip(*loader, strict=True)
    assert [len(part) for part in x] == [4, 2] and x[0].shape[1:] == (3, 16, 16)
    assert torch.cat(y).tolist() == [3, 3, 3, 1, 1, 1], "labels are the model's"
    assert torch.equal(x[0][0], stochx.read_image(photos / "test" / "ant" / "0.png", model))
    assert model.classes == ("x", "bee", "y", "ant", "z")


def test_a_pickle_of_a_part_is_that_part_and_notices_other_images(photos):
    part = stochx.load_data(str(photos)).subset([4, 0]).subset([1])
    again = pickle.loads(pickle.dumps(part))
    assert again.keys == part.keys and again[0][1] == 0 and torch.equal(again[0][0], part[0][0])
    stored = pickle.dumps(stochx.load_data(f"folder:root={photos}"))
    (photos / "test" / "ant" / "0.png").unlink()
    refused(lambda: pickle.loads(stored), "have changed", "again")


def test_an_image_is_read_as_a_command_reads_it(photos, model):
    path = photos / "test" / "bee" / "1.png"
    assert stochx.read_image(path).shape == (3, 24, 21) and stochx.read_image(str(path), model).shape == (3, 16, 16)
    refused(lambda: stochx.read_image(photos / "no.png"), "no such file", "path")


def test_loading_does_not_depend_on_the_modes_of_torch(place):
    plain = stochx.load_model(str(place / "net.safetensors"))
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            odd = stochx.load_model(str(place / "net.safetensors"))
    finally:
        torch.set_default_dtype(torch.float32)
    for (name, value), other in zip(plain.state_dict().items(), odd.state_dict().values(), strict=True):
        assert torch.equal(value, other) and value.dtype == other.dtype and not other.is_inference(), name
    x = stochx.read_image(place / "a.png", plain)
    assert torch.equal(Gradient()(odd, x, 1).map, Gradient()(plain, x, 1).map)


def test_show_draws_a_row_for_each_map(tiny, images):
    explanation = Gradient()(tiny, images[:2], 1)
    figure = stochx.show(explanation, images[:2], titles=["one", "$two$"])
    assert len(figure.axes) == 6 and figure._repr_png_().startswith(b"\x89PNG")
    assert len(stochx.show(explanation.map[0].sum(0).numpy()).axes) == 1
    assert len(stochx.show(Gradient()(tiny, images[0], 1), images[0]).axes) == 3
    refused(lambda: stochx.show(explanation, images), "`map` is (2, 3, 16, 16) for images (5, 3, 16, 16)", "one map")
    refused(lambda: stochx.show(explanation, "a.png"), "`image` is str", "stochx.read_image")
    refused(lambda: stochx.show(explanation, titles="one"), "1 titles for 2 maps", "one for each")


@pytest.mark.parametrize("head", ["prototypical", "relation"])
def test_scores_of_a_few_shot_network_do_not_depend_on_the_modes_of_torch(head):
    from stochx.fewshot_networks import make_fewshot

    model = make_fewshot("convnet:width=4", head, 2, 16, 0, {}).requires_grad_(False)
    support, query = random_images(2, 3, 3, 16, 16).float(), random_images(4, 3, 16, 16, seed=2).float()
    expected = model.scores(support, query)
    assert expected.shape == (4, 2)
    torch.testing.assert_close(model.scores(support, query[0]), model.scores(support, query[:1])[0])
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.scores(support, query), expected)
    refused(lambda: model.scores(support[0], query), "`support` is (3, 3, 16, 16)", "(N, K, C, H, W)")
    refused(lambda: model.scores(support, 255 * query), "divide by 255")
