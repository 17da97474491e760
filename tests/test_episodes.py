"""Episodes: what is drawn, from which classes, and how it repeats."""

from __future__ import annotations

import pytest
import torch

from stochx.engine.fewshot.episodes import Domain, Episodes, Task, answers, check_pool, draw, pool
from stochx.engine.seeds import generator
from stochx.engine.training.augment import views
from stochx.errors import InputError, UsageError

LABELS = torch.arange(120) % 6  # 20 images of each of 6 classes
POOL = pool("shapes", "abcdef", LABELS)
TASK = Task(way=4, shot=3, queries=5)


def test_an_episode_has_distinct_classes_and_distinct_images_each_of_the_class_it_stands_for():
    found = draw(POOL, TASK, 150, 0)
    assert found.support.shape == (150, 4, 3) and found.query.shape == (150, 20) and found.classes.shape == (150, 4)
    everything = torch.cat([found.support.flatten(1), found.query], 1)
    assert all(len({*row}) == 32 for row in everything.tolist())
    assert all(len({*row}) == 4 for row in found.classes.tolist())
    assert (LABELS[found.support] == found.classes[:, :, None]).all()
    own = found.classes.gather(1, answers(TASK, 150))
    assert (LABELS[found.query] == own).all()


def test_episodes_depend_on_their_keys_alone_and_more_of_them_begin_with_the_same():
    torch.manual_seed(5)
    first, again = draw(POOL, TASK, 130, 7, "test"), draw(POOL, TASK, 250, 7, "test")
    assert torch.equal(first.query, again.query[:130])
    assert not torch.equal(first.query, draw(POOL, TASK, 130, 8, "test").query)


def test_every_class_and_every_image_comes_equally_often():
    found = draw(POOL, TASK, 3000, 0)
    classes = found.classes.flatten().bincount(minlength=6) / 3000
    assert (classes - 4 / 6).abs().max() < 0.04  # 4.6 standard deviations
    images = torch.cat([found.support.flatten(), found.query.flatten()]).bincount(minlength=120) / 3000
    assert (images - 4 / 6 * 8 / 20).abs().max() < 0.04


def test_classes_of_unequal_sizes_lend_only_images_that_they_have():
    labels = torch.tensor([0] * 9 + [1] * 30 + [3] * 8)
    found = draw(pool("uneven", "abcd", labels), Task(3, 3, 5), 50, 0)
    assert (labels[found.support] == torch.tensor([0, 1, 3])[found.classes][:, :, None]).all()
    assert all(len({*row}) == 24 for row in torch.cat([found.support.flatten(1), found.query], 1).tolist())


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (Task(7, 1, 1), "`shapes` has 6 classes, but an episode needs 7"),
        (Task(2, 10, 11), "the class `a` has 20 images, but an episode needs 10 + 11; 5 more classes have too few"),
    ],
)
def test_a_pool_that_is_too_small_is_refused_by_name(task, said):
    with pytest.raises(InputError, match=said.replace("+", r"\+")):
        check_pool(POOL, task)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (5, 0, 1), (5, 1, 0)])
def test_an_episode_of_nothing_is_refused(sizes):
    with pytest.raises(UsageError, match="too few"):
        Task(*sizes)


def lessons(count=6):
    pixels = torch.arange(120, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8).contiguous()
    other = pool("other", "uvwxyz", LABELS)
    domains = [Domain(POOL, pixels), Domain(other, pixels + 120, first=6)]
    return Episodes(domains, TASK, count, seed=0)


def test_domains_take_turns_and_their_images_follow_the_drawn_places():
    episodes = lessons()
    x, y = episodes.batch(torch.arange(6), slice(None), 0, torch.zeros(()), None)
    assert x.shape == (6, 32, 3, 8, 8) and torch.equal(y, answers(TASK, 6))
    values = (x[:, :, 0, 0, 0] * 255).round()
    assert (values[0::2] < 120).all() and (values[1::2] >= 120).all()
    drawn = draw(POOL, TASK, 3, 0, "episodes", "shapes", 0)
    assert torch.equal(values[2], torch.cat([drawn.support[1].flatten(), drawn.query[1]]).float())


def test_base_classes_are_numbered_over_all_domains():
    episodes = lessons()
    base = episodes.base(torch.arange(6), 0)
    x, _ = episodes.batch(torch.arange(6), slice(None), 0, torch.zeros(()), None)
    values = (x[:, 12:, 0, 0, 0] * 255).round().long()
    assert torch.equal(base, torch.where(values >= 120, (values - 120) % 6 + 6, values % 6))


def test_ranks_take_the_parts_of_one_step_with_the_same_views():
    episodes = lessons()
    whole, like = torch.tensor([4, 1, 3, 0]), torch.zeros(())
    x, _ = episodes.batch(whole, slice(None), 0, like, generator("views"))
    halves = [episodes.batch(whole, slice(rank, None, 2), 0, like, generator("views"))[0] for rank in (0, 1)]
    assert torch.equal(halves[0], x[0::2]) and torch.equal(halves[1], x[1::2])


def test_views_stay_pixels_differ_by_image_and_keep_a_flat_image_flat():
    ramp = torch.linspace(0, 1, 16).expand(2, 3, 3, 16, 16)
    seen = views(ramp, slice(None), 2, generator(0))
    assert seen.shape == ramp.shape and seen.min() >= 0 and seen.max() <= 1
    assert len({round(float(image.mean()), 5) for image in seen.flatten(0, 1)}) == 6
    flat = views(torch.full((1, 40, 3, 8, 8), 0.5), slice(None), 1, generator(0))[0]
    assert flat.flatten(1).std(1).max() < 1e-6
    assert flat.mean((1, 2, 3)).min() > 0.5 * 0.6 - 1e-6 and flat.mean((1, 2, 3)).max() < 0.5 * 1.4 + 1e-6


def test_half_of_the_views_are_mirrored_and_crops_keep_what_they_promise():
    ramp = torch.linspace(0, 1, 64).expand(1, 600, 3, 64, 64)
    seen = views(ramp, slice(None), 1, generator(1))[0]
    slopes = seen[:, 0, 32, 40] - seen[:, 0, 32, 24]
    assert 240 < int((slopes < 0).sum()) < 360  # 4.9 standard deviations
