"""Few-shot networks as a whole: backbones, files, features kept, transductive inference, training."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import random_images, shared
from torch import nn

from stochx.architectures import architecture
from stochx.catalog import GUIDES, HEADS, MODELS
from stochx.engine.fewshot.episodes import Domain, Episodes, Task, answers, draw, pool
from stochx.engine.fewshot.network import FewShotNetwork, cached_features, scores_of
from stochx.engine.io.images import Preparation
from stochx.engine.io.scratch import scratch
from stochx.engine.network.backbone import Backbone
from stochx.engine.network.classifier import Classifier
from stochx.engine.network.stochastic import Noisy, noise_layers
from stochx.engine.network.weights import save
from stochx.engine.training.fit import Plan, fit
from stochx.errors import InputError, RunError, UsageError
from stochx.fewshot_networks import load_fewshot, make_fewshot, save_fewshot
from stochx.loading import load_data, load_model
from stochx.network_files import install_noise
from stochx.runs.fsc_train import FEATURE_WISE
from stochx.tasks.fewshot import accuracies, are_disjoint, domain_of, domains_of, episode_objective, validation

TASK = Task(way=3, shot=2, queries=4)
SMALL = "convnet:width=4"


def matcher(head="prototypical", way=3, size=16):
    return make_fewshot(SMALL, head, way, size, 0, {"guide": "none"})


def domain(name="shapes:classes=5,size=16,count=100"):
    return domain_of(name, load_data(name, "train"), matcher().backbone.model.preparation)[0]


@pytest.mark.parametrize(
    ("text", "shape"),
    [("conv4", (64, 5, 5)), ("resnet12", (512, 6, 6)), ("resnet10:size=64", (512, 2, 2)), ("resnet20", (64, 8, 8))],
)
def test_a_backbone_gives_the_maps_of_the_papers(text, shape):
    model = MODELS.make(text)(7)
    weights = sum(p.numel() for p in model.parameters())
    base = Backbone(model)
    assert base.shape == shape
    assert sum(p.numel() for p in base.parameters()) == weights - 8 * shape[0] + shape[0] - shape[0] + shape[0] - 7


def test_maps_are_what_a_classifier_joins_before_its_last_layer():
    model = MODELS.make("conv4:width=8,size=32")(4).eval()
    x = random_images(2, 3, 32, 32).float()
    features = model.features(x)
    maps = Backbone(model)(x)
    assert maps.shape == (2, 8, 2, 2) and torch.allclose(maps.mean((2, 3)), features, atol=1e-6)


def test_a_network_whose_positions_are_joined_by_layers_gives_the_vector_of_its_last_one():
    model = MODELS.make("robust-resnet2b")(10).eval()
    x = random_images(2, 3, 32, 32).float()
    features = model.features(x)
    maps = Backbone(model)(x)
    assert maps.shape == (2, 100, 1, 1) and torch.equal(maps.flatten(1), features)


@pytest.mark.parametrize("head", list(HEADS))
def test_a_file_gives_the_same_network_back(tmp_path, head):
    model = matcher(head)
    save_fewshot(tmp_path / "m.safetensors", model)
    again = load_fewshot(str(tmp_path / "m.safetensors"))
    assert (again.head_text, again.way, again.facts, again.input_shape) == (head, 3, {"guide": "none"}, (3, 16, 16))
    x = random_images(1, 18, 3, 16, 16).float()
    scores = [one.head(torch.unflatten(one(x)[:, :6], 1, (3, 2)), one(x)[:, 6:])[0] for one in (model, again)]
    assert torch.equal(*scores)


def test_a_stored_classifier_is_a_backbone_without_its_last_layer(tmp_path):
    model = MODELS.make(SMALL)(9).eval()
    save(tmp_path / "teacher.safetensors", model)
    made = make_fewshot(str(tmp_path / "teacher.safetensors"), "cosine", 5, 16, 3, {})
    x = random_images(4, 3, 16, 16).float()
    assert torch.allclose(made(x).mean((2, 3)), model.features(x), atol=1e-6)


def test_files_of_one_kind_are_not_taken_for_the_other(tmp_path):
    save_fewshot(tmp_path / "few.safetensors", matcher())
    save(tmp_path / "plain.safetensors", MODELS.make(SMALL)(3))
    with pytest.raises(InputError, match="is a few-shot network"):
        load_model(str(tmp_path / "few.safetensors"))
    with pytest.raises(InputError, match="is not a few-shot network"):
        load_fewshot(str(tmp_path / "plain.safetensors"))


def test_a_file_of_another_head_says_which_part_does_not_fit(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path = tmp_path / "m.safetensors"
    save_fewshot(path, matcher("relation"))
    with safe_open(path, "pt") as file:
        entry = json.loads(file.metadata()["stochx"])
    save_file(load_file(path), path, {"stochx": json.dumps(entry | {"head": "cosine"})})
    with pytest.raises(InputError, match=r"the head in .* does not fit `cosine`"):
        load_fewshot(str(path))


def test_images_too_small_for_the_backbone_are_refused():
    with pytest.raises(UsageError, match="cannot take images of 8 x 8"):
        make_fewshot("conv4", "cosine", 5, 8, 0, {})


@pytest.mark.parametrize("head", list(HEADS))
def test_accuracy_from_kept_features_is_that_of_one_episode_after_the_other(head):
    model, source = matcher(head), domain()
    (found,) = accuracies(model, source, [TASK], 12, 4)
    drawn = draw(source.pool, TASK, 12, 4, "test", source.pool.name)
    with torch.inference_mode():
        for k in range(12):
            support, query = (model(source.pixels[p[k]].float() / 255)[None] for p in (drawn.support, drawn.query))
            said = model.head(support, query)[0].argmax(2)
            assert float(found[k]) == pytest.approx(float((said == answers(TASK, 1)).float().mean()), abs=1e-6)


def test_shots_share_classes_and_more_episodes_begin_with_the_same():
    model, source = matcher(), domain()
    few, more = Task(3, 1, 4), Task(3, 5, 4)
    both = accuracies(model, source, [few, more], 20, 0)
    assert torch.equal(both[1][:10], accuracies(model, source, [more], 10, 0)[0])
    drawn = [draw(source.pool, task, 20, 0, "test", source.pool.name).classes for task in (few, more)]
    assert torch.equal(*drawn)


class Halves:
    """Two processes, played one after the other."""

    def __init__(self, rank, parts):
        self.rank, self.size, self.parts = rank, 2, parts

    def gather(self, mine):
        self.parts[self.rank] = mine
        return [part for rank in sorted(self.parts) for part in self.parts[rank]]


def test_two_ranks_find_the_accuracies_of_one():
    model, source, parts = matcher(), domain(), {1: [torch.zeros(5)]}
    alone = accuracies(model, source, [TASK], 11, 0)[0]
    first = accuracies(model, source, [TASK], 11, 0, False, Halves(0, parts))[0]
    second = accuracies(model, source, [TASK], 11, 0, False, Halves(1, parts))[0]
    assert torch.equal(first[0::2], alone[0::2]) and torch.equal(second, alone)


def test_scores_that_are_not_finite_are_no_predictions():
    model = matcher()
    support, query = torch.full((1, 3, 2, *model.head.shape), 1e30), torch.zeros(1, 12, *model.head.shape)
    with pytest.raises(RunError, match="the scores of the few-shot network are not finite"):
        scores_of(model.head, support, query, transductive=False)


def test_transductive_inference_is_the_nearest_mean_of_what_it_took_in():
    model = matcher("prototypical")
    generator = torch.Generator().manual_seed(0)
    support, query = (torch.randn(1, *s, 32, 1, 1, generator=generator) for s in ((3, 2), (15,)))
    model.head.shape = (32, 1, 1)
    scores = scores_of(model.head, support, query, transductive=True)
    s, q = support[0, ..., 0, 0], query[0, ..., 0, 0]
    means = s.mean(1)
    for count in (7, 14):
        p = (-torch.cdist(q, means).square()).softmax(1)
        sure, said = p.max(1)
        chosen = sure.topk(count).indices
        means = torch.stack(
            [
                torch.cat([s[k], q[torch.tensor([i for i in chosen if said[i] == k], dtype=torch.long)]]).mean(0)
                for k in range(3)
            ]
        )
    assert torch.allclose(scores[0], -torch.cdist(q, means).square(), atol=1e-4)


def test_heads_that_compare_single_images_refuse_transductive_inference():
    by_means = {name for name in HEADS if matcher(name).head.by_means}
    assert by_means == {"relation", "cross-attention", "prototypical", "cosine"}


def test_a_head_tells_what_its_scores_depend_on():
    told = {
        "relation": "batch statistics",
        "relation:statistics=running": "inductive",
        "gnn": "batch statistics",
        "gnn:transductive=true,statistics=running": "transductive",
        "cross-attention": "inductive",
        "cosine": "inductive",
    }
    assert {text: matcher(text).head.inference for text in told} == told


@pytest.mark.parametrize("head", sorted({"relation", "cross-attention", "prototypical", "cosine"}))
def test_heads_by_means_say_so_truly(head):
    model = matcher(head)
    support, query = (random_images(1, *s, *model.head.shape, seed=n).float() for n, s in enumerate(((3, 4), (6,))))
    means = support.mean(2, keepdim=True)
    assert torch.allclose(model.head(support, query)[0], model.head(means, query)[0], atol=1e-5)


def trained(head, guide, fwt=False, episodes=4, **plan):
    model, source = matcher(head), domain()
    if fwt:
        install_noise(model.backbone.model, FEATURE_WISE)
    items = Episodes([source], TASK, episodes, 0)
    lowered = episode_objective(model, GUIDES.make(guide), items, 0)
    epochs = list(fit(model, items, Plan(**{"epochs": 1, "batch": 2, "rate": 1e-3, **plan}), 0, objective=lowered))
    return model, epochs


@pytest.mark.parametrize("head", list(HEADS))
@pytest.mark.parametrize("guide", ["none", "lrp"])
def test_training_moves_head_and_backbone(head, guide):
    before, (model, (epoch,)) = matcher(head), trained(head, guide)
    moved = {n.split(".")[0] for n, p in model.named_parameters() if not torch.equal(p, before.get_parameter(n))}
    learns = {"backbone", "head"} if list(model.head.parameters()) else {"backbone"}
    assert moved == learns and epoch.loss > 0 and 0 <= epoch.accuracy <= 1


@pytest.mark.parametrize(
    ("arch", "count", "names"),
    [
        (
            "resnet10:size=32",
            7,
            "maps.4.norms.1 maps.5.norms.1 maps.5.shortcut.1 maps.6.norms.1 maps.6.shortcut.1"
            " maps.7.norms.1 maps.7.shortcut.1",
        ),
        ("conv4:width=4,size=32", 4, "maps.1 maps.5 maps.9 maps.13"),
    ],
)
def test_feature_wise_transformation_sits_at_the_ends_of_blocks(arch, count, names):
    model = install_noise(architecture(arch, 5).build(), FEATURE_WISE)
    noisy = {name for name, module in model.network.named_modules() if isinstance(module, Noisy)}
    assert noisy == set(names.split()) and len(noisy) == count


def test_feature_wise_noise_shakes_training_and_nothing_else(tmp_path):
    plain, shaken = trained("cosine", "none")[0], trained("cosine", "none", fwt=True)[0]
    assert noise_layers(shaken) and not torch.equal(plain.head.scale, shaken.head.scale)
    source = domain()
    assert torch.equal(accuracies(shaken, source, [TASK], 5, 0)[0], accuracies(shaken, source, [TASK], 5, 0)[0])
    save_fewshot(tmp_path / "m.safetensors", shaken)
    again = load_fewshot(str(tmp_path / "m.safetensors"))
    places = torch.arange(6)
    for layer in noise_layers(shaken):
        layer.scale = 0.0
    assert torch.equal(
        cached_features(again, source.pixels, places), cached_features(shaken.eval(), source.pixels, places)
    )


def test_features_of_gray_images_are_kept_as_those_of_colour_are():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    view = Classifier(net.eval(), "ab", Preparation(16, 16, channels=1), (0.5,), (0.5,), channels=1)
    base = Backbone(view)
    model = FewShotNetwork(base, HEADS.make("prototypical")(base.shape, 3), "prototypical", 3, {}).eval()
    pixels = (random_images(5, 1, 16, 16) * 255).byte()
    maps = net[1](net[0](2 * pixels[1:4].float() / 255 - 1)).detach()
    assert torch.allclose(cached_features(model, pixels, torch.arange(1, 4)), model.head.digest(maps), atol=1e-5)


def test_classes_of_two_splits_are_apart_the_same_or_an_error():
    one = pool("mini", "abc", torch.arange(3))
    assert are_disjoint(one, pool("mini", "xyz", torch.arange(3))) and not are_disjoint(one, one)
    with pytest.raises(InputError, match=r"1 classes are in two splits, e\.g\. `c`"):
        are_disjoint(one, pool("mini", "cde", torch.arange(3)))


def test_domains_number_their_classes_one_after_the_other():
    texts = ["shapes:classes=5,size=16,count=50", "shapes:classes=4,size=16,count=40,domain=sketch"]
    found = domains_of({text: load_data(text, "train") for text in texts}, matcher().backbone.model.preparation)
    assert [one.first for one, _ in found] == [0, 5]


def test_validation_is_the_mean_over_domains():
    model, source = matcher(), domain()
    other = Domain(source.pool, source.pixels.flip(0))
    alone = [float(accuracies(model, one, [TASK], 10, 0)[0].mean()) for one in (source, other)]
    assert validation(model, [source, other], TASK, 10, 0)(model)["validation"] == pytest.approx(sum(alone) / 2)


def test_large_scratch_tensors_lie_in_a_file_that_is_gone(monkeypatch, tmp_path):
    monkeypatch.setattr("stochx.engine.io.scratch.IN_MEMORY", 10)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    room = scratch((3, 5), torch.float32)
    room[1] = 2.0
    assert float(room.sum()) == 10 and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_guided_relation_network_tells_shapes_of_an_unseen_domain():
    model, task = make_fewshot("convnet:width=16", "relation", 5, 32, 0, {}), Task(5, 5, 8)
    preparation = model.backbone.model.preparation
    source = domain_of("photo", load_data("shapes:count=1000", "train"), preparation)[0]
    unseen = domain_of("sketch", load_data("shapes:count=1000,domain=sketch", "test"), preparation)[0]
    items, plan = Episodes([source], task, 300, 0), Plan(2, 1, 1e-3, "adamw", "constant", decay=0)
    for _ in fit(model, items, plan, 0, objective=episode_objective(model, GUIDES.make("lrp"), items, 0)):
        pass
    assert float(accuracies(model, unseen, [task], 200, 0)[0].mean()) > 0.35


@pytest.mark.slow
def test_a_zip_of_real_photos_is_told_by_a_pretrained_network():
    file = shared("weights_imagenet/squeezenet1_1.safetensors")
    model = make_fewshot(str(file), "prototypical", 5, 84, 0, {})
    text = f"zip:path={shared('fewshot/caltech101.zip')}"
    source = domain_of(text, load_data(text, "test"), model.backbone.model.preparation)[0]
    (found,) = accuracies(model, source, [Task(5, 5, 15)], 50, 0)
    assert float(found.mean()) > 0.8
