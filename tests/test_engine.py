"""The shared machinery: twins, stems, Monte-Carlo errors, sweeps, seeds, stores."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field

import pytest
import torch
from conftest import random_images
from torch import nn

from stochx.attacks import PGD, Context
from stochx.attributions import IntegratedGradients, SmoothTaylor
from stochx.engine import device
from stochx.engine.gradients import gradient, logits
from stochx.engine.io.files import atomic
from stochx.engine.io.store import RunFolder, to_toml
from stochx.engine.network.fused import fused
from stochx.engine.network.stem import Stem
from stochx.engine.seeds import digest, generator, seeded
from stochx.engine.sweep import canonical_batches, sweep
from stochx.engine.threat import Ball
from stochx.engine.world import World
from stochx.errors import UsageError, WriteError


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(7, 2, 3), (3, 2, 1), (3, 1, 1), (11, 4, 2), (3, 2, 0), (4, 4, 0)]
)
@pytest.mark.parametrize("side", [16, 23])
def test_the_stems_transpose_is_autograds(kernel, stride, padding, side):
    conv = nn.Conv2d(3, 5, kernel, stride, padding).double()
    x = random_images(2, 3, side, side).requires_grad_()
    out = conv(x)
    upstream = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (expected,) = torch.autograd.grad(out, x, upstream)
    stem = Stem(conv, lambda z: z, torch.ones(1, 3, 1, 1, dtype=torch.float64))
    torch.testing.assert_close(stem.transpose(upstream, x), expected)


def test_the_twin_computes_what_the_network_computes(tiny, images):
    fast = fused(tiny)
    assert fast.stem is not None and fast.graph is not None
    torch.testing.assert_close(fast.whole(images), tiny(images))
    torch.testing.assert_close(fast.tail(fast.stem(images)), tiny(images))


def test_the_twin_is_made_once_and_again_when_weights_change(tiny, images):
    first = fused(tiny)
    assert fused(tiny) is first
    with torch.no_grad():
        tiny.stem.weight.mul_(2)
    assert fused(tiny) is not first
    torch.testing.assert_close(logits(tiny, images), tiny(images).detach())


class FixedNoise(nn.Module):
    """Noise whose shape depends on nothing, which tracing would draw once for all time."""

    def forward(self, x):
        return (x + torch.randn(3, 1, 1)).mean((2, 3))


def test_noise_of_a_fixed_shape_is_drawn_anew_by_the_twin(images):
    network, state = FixedNoise().eval(), torch.get_rng_state()
    fast = fused(network)
    assert fast.graph is None and torch.equal(torch.get_rng_state(), state)
    with torch.random.fork_rng():
        assert not torch.equal(fast.whole(images), fast.whole(images))
    fast.rows(images)
    assert fused(network)._sizes == fast._sizes != {}, "what one row keeps is measured once"


def test_a_network_that_cannot_be_traced_is_used_as_it_is(tiny, images):
    class Choosy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = tiny

        def forward(self, x):
            return self.net(x) if x.mean() > 0 else -self.net(x)

    y = tiny(images).argmax(1)
    torch.testing.assert_close(gradient(Choosy().eval(), images, y), gradient(tiny, images, y))


def test_a_model_in_train_mode_is_refused(tiny, images):
    with pytest.raises(UsageError, match="train mode"):
        gradient(tiny.train(), images, torch.zeros(5, dtype=torch.long))


def test_the_batch_size_changes_nothing(tiny, images):
    y = tiny(images).argmax(1)
    maps = []
    for rows in (1, 3, 64):
        with device.select_runtime("cpu", batch_size=rows).scope():
            maps.append(SmoothTaylor(roots=11)(tiny, images, y).map)
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(maps[0], maps[2], rtol=1e-10, atol=1e-12)


def test_the_number_of_threads_changes_nothing(tiny, images):
    y, threads, found = tiny(images).argmax(1), torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            attempt = PGD(steps=5)(tiny, images, y, Ball(4 / 255), Context(list("abcde")))
            found.append((SmoothTaylor(roots=11)(tiny, images, y).map, attempt.x))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


def test_memory_running_out_halves_the_batch():
    seen = []

    def work(start, stop):
        if stop - start > 3:
            raise torch.OutOfMemoryError("full")
        seen.append((start, stop))

    device.in_batches(10, 8, work)
    assert seen == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10)]


@pytest.mark.parametrize(("sigma", "roots"), [(0.05, 40), (0.5, 12)])
def test_the_estimated_error_is_the_true_one_also_where_it_is_large(sigma, roots, tiny):
    """Against 1,000 other roots, whose own error is taken off; over 24 images the ratio must be near one."""
    x = random_images(24, 3, 16, 16, seed=9)
    y = tiny(x).argmax(1)
    reference = SmoothTaylor(sigma=sigma, roots=1000)(tiny, x, y, keys=[f"reference {i}" for i in range(24)])
    found = SmoothTaylor(sigma=sigma, roots=roots)(tiny, x, y)
    far, truth = ((m.sum(1).flatten(1)) for m in (found.map - reference.map, reference.map))
    own = (reference.error.double() ** 2) * truth.square().sum(1)
    expected = ((far.square().sum(1) - own) / (truth.square().sum(1) - own)).mean().sqrt()
    estimated = found.error.double().square().mean().sqrt()
    assert 0.85 < (estimated / expected).item() < 1.18, (estimated, expected)


def test_a_map_stops_when_its_error_is_small_enough(tiny, images):
    y = tiny(images).argmax(1)
    found = SmoothTaylor(sigma=0.1, roots=1000, error=0.4)(tiny, images, y)
    assert (found.error <= 0.4).all() and (found.used < 1000).all()
    alone = SmoothTaylor(sigma=0.1, roots=1000, error=0.4)(tiny, images[2:3], y[2:3], keys=[2])
    assert alone.used[0] == found.used[2]
    torch.testing.assert_close(alone.map[0], found.map[2])


def test_float32_maps_stay_close_to_float64(tiny, images):
    y = tiny(images).argmax(1)
    exact = IntegratedGradients()(tiny, images, y).map
    single = IntegratedGradients()(tiny.float(), images.float(), y).map
    assert ((single - exact).norm() / exact.norm()) < 2e-2


def test_seeds_depend_on_their_keys_alone():
    assert digest(0, "a") == digest(0, "a") != digest(0, "b")
    assert torch.equal(torch.rand(3, generator=generator("x", 1)), torch.rand(3, generator=generator("x", 1)))
    before = torch.get_rng_state()
    with seeded(0, "x"):
        a = torch.rand(2)
    assert torch.equal(torch.get_rng_state(), before)
    with seeded(0, "x"):
        assert torch.equal(torch.rand(2), a)


def test_ranks_share_the_canonical_batches_and_together_see_everything():
    batches = canonical_batches(21, 4)
    assert [i for b in batches for i in b] == list(range(21)) and max(map(len, batches)) <= 4
    seen = []
    for rank in range(3):

        class Alone(World):
            def gather(self, mine):
                return mine

            def leading(self, mine):
                return mine

        seen += sweep(21, 4, list, lambda b, loaded: loaded, Alone(rank, 3))
    assert sorted(seen) == list(range(21))


def test_finished_batches_are_skipped():
    done = {0, 1, 2, 3}
    assert sweep(8, 2, list, lambda b, loaded: loaded, World(), done) == [4, 5, 6, 7]


def test_a_file_is_whole_or_absent(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_run_resumes_only_with_its_own_settings(tmp_path):
    run = RunFolder(tmp_path, {"method": ["ig"], "seed": 0, "limit": 3})
    run.append([{"index": 0}])
    again = RunFolder(tmp_path, {"method": ["ig"], "seed": 0, "limit": 9}, free={"limit"}, resume=True)
    assert [*again.lines] == [{"index": 0}]
    for other in ({"seed": 1, "limit": 3}, {"seed": 0, "limit": 9}):
        with pytest.raises(UsageError, match="seed" if other["seed"] else "limit"):
            RunFolder(tmp_path, {"method": ["ig"], **other}, resume=True)


def test_a_new_run_removes_what_an_older_one_says(tmp_path):
    for name in ("result.json", "card.json", "card.md", "mine.txt"):
        (tmp_path / name).write_text("old")
    RunFolder(tmp_path, {"seed": 0}, resume=True).begin()
    assert (tmp_path / "card.md").exists()
    RunFolder(tmp_path, {"seed": 0}).begin()
    assert {path.name for path in tmp_path.iterdir()} == {"config.toml", "mine.txt"}


def test_a_rank_that_comes_first_makes_the_folder(tmp_path):
    RunFolder(tmp_path / "new", {"seed": 0}, rank=1).append([{"index": 1}])
    RunFolder(tmp_path / "new", {"seed": 0}).append([{"index": 0}])
    records = [*RunFolder(tmp_path / "new", {"seed": 0}, resume=True).lines]
    assert sorted(record["index"] for record in records) == [0, 1]


def test_a_record_that_a_crash_cut_off_is_dropped(tmp_path):
    run = RunFolder(tmp_path, {"seed": 0})
    run.append([{"index": 0}])
    with (tmp_path / "records.jsonl").open("a") as file:
        file.write('{"index": 1, "ima')
    assert [*RunFolder(tmp_path, {"seed": 0}, resume=True).lines] == [{"index": 0}]


def test_a_config_is_toml_that_reads_back():
    import tomllib

    values = {"a": 'x "y" \\ é', "b": [1, 2], "c": True, "d": 0.5}
    assert tomllib.loads(to_toml(values)) == values
    assert json.dumps(values)


def test_an_output_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot write"), atomic(tmp_path / "file" / "x.txt"):
        pass


def test_unknown_devices_are_usage_errors():
    for name in ("cuda:99", "tpu", "meta"):
        with pytest.raises(UsageError):
            device.select_runtime(name)


def test_conv_free_models_have_no_stem(linear):
    assert fused(linear).stem is None
    x = random_images(2, 1, 4, 4)
    torch.testing.assert_close(gradient(linear, x, torch.tensor([0, 2])).flatten(1), linear.weight[[0, 2]].detach())


@dataclass(frozen=True)
class Thread(World):
    """A rank that is a thread, and meets the others in `parts`."""

    parts: dict = field(default_factory=dict)
    meeting: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))

    def gather(self, mine):
        self.parts[self.rank] = mine
        self.meeting.wait(30)
        found = [item for rank in range(self.size) for item in self.parts[rank]]
        self.meeting.wait(30)
        return found


@pytest.mark.parametrize("leader", [{0}, {0, 2, 3}])
def test_ranks_that_find_other_records_share_the_batches_that_the_leading_one_has_left(leader):
    """One comes late, and sees what another has appended meanwhile: no image may be left to nobody."""
    found, parts, meeting = {}, {}, threading.Barrier(3)

    def run(rank):
        world = Thread(rank, 3, parts, meeting)
        done = leader if rank == 0 else {2, 3} if rank == 1 else set()
        found[rank] = sweep(12, 2, lambda batch: None, lambda batch, _: [*batch], world, done)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = set(range(12)) if leader == {0} else {*range(2), *range(4, 12)}
    assert all(sorted(found[rank]) == sorted(expected) for rank in range(3))
