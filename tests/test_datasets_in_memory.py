"""Data sets that lie in memory: arrays, hostile ones too, and shapes whose masks are the evidence."""

from __future__ import annotations

import itertools
import pickle
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import Bomb, load
from torch import Tensor

from stochx.catalog import DATASETS
from stochx.datasets._outlines import NAMES, OUTLINES, area
from stochx.datasets._scenes import DOMAINS
from stochx.datasets.shapes import Shapes
from stochx.engine.io.data import Data
from stochx.engine.io.mapfile import read_map
from stochx.errors import InputError, UsageError

# Arrays ---------------------------------------------------------------------------------------------------------------

PIXELS = np.random.default_rng(3).integers(0, 256, (4, 12, 10, 3), dtype=np.uint8)


def saved(path: Path, **arrays: object) -> str:
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return f"npz:path={path}"


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": PIXELS, "labels": [2, 0, 1, 1]},
        {"x": PIXELS, "y": np.array([[2], [0], [1], [1]])},
        {"x": PIXELS.transpose(0, 3, 1, 2), "y": np.array([2, 0, 1, 1], np.uint8)},
        {"x": PIXELS / 255, "y": [2, 0, 1, 1]},
        {"x": (PIXELS / 255).astype(np.float32).transpose(0, 3, 1, 2), "y": [2, 0, 1, 1]},
    ],
)
def test_arrays_are_read_in_any_order_and_type(tmp_path: Path, arrays: dict[str, object]) -> None:
    data = load(saved(tmp_path / "a.npz", **arrays))
    assert data.pixels is not None
    assert torch.equal(data.pixels, torch.from_numpy(PIXELS).permute(0, 3, 1, 2))
    assert np.array_equal(data.read(1), PIXELS[1])
    assert (data.labels, data.classes, data.keys[3]) == ([2, 0, 1, 1], ("0", "1", "2"), "a/00003")


def test_arrays_may_name_classes_and_have_masks(tmp_path: Path) -> None:
    masks = PIXELS[..., 0] > 99
    data = load(saved(tmp_path / "a.npz", images=PIXELS, y=[0, 1, 0, 1], classes=["cat", "dog"], masks=masks * 255))
    mask = data.item(2).mask
    assert data.classes == ("cat", "dog")
    assert mask is not None and np.array_equal(mask, masks[2])


def test_arrays_need_no_labels(tmp_path: Path) -> None:
    data = load(saved(tmp_path / "a.npz", images=PIXELS))
    assert (data.labels, data.classes) == (None, ())


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"pictures": PIXELS}, "has no array `images` or `x`"),
        ({"x": PIXELS[0]}, r"images must be \(N, H, W, C\)"),
        ({"x": PIXELS[0, 0]}, r"images must be \(N, H, W, C\)"),
        ({"x": PIXELS[:0]}, "it contains no images"),
        ({"x": PIXELS[:, :5]}, "at least 8 x 8, got 5 x 10"),
        ({"x": PIXELS.astype(np.int64)}, "uint8 or floats, got int64"),
        ({"x": np.where(PIXELS > 250, np.nan, 0.5)}, "contain NaN"),
        ({"x": np.where(PIXELS > 250, np.inf, 0.5)}, "got 0.5 to inf"),
        ({"x": PIXELS.astype(np.float32)}, r"lie in \[0, 1\]"),
        ({"x": PIXELS, "y": [0, 1, 2]}, r"4 images need labels \(4,\), got \(3,\)"),
        ({"x": PIXELS, "y": [0.0, 1, 2, 3]}, "integers, got float64"),
        ({"x": PIXELS, "y": [0, 1, 2, -1]}, "got -1 to 2"),
        ({"x": PIXELS, "y": [0, 1, 2, 10**9]}, "got 0 to 1000000000"),
        ({"x": PIXELS, "y": [0, 1, 2, 3], "classes": ["a", "b"]}, "label 3 is out of range for 2 classes"),
        ({"x": PIXELS, "y": [0, 1, 2, 3], "classes": [1, 2, 3, 4]}, "classes must be a list of strings"),
        ({"x": PIXELS, "masks": np.ones((4, 3, 3), bool)}, r"masks must be \(4, 12, 10\), got \(4, 3, 3\)"),
        ({"x": PIXELS, "masks": np.ones((4, 12, 10))}, "masks must be booleans or integers"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path: Path, arrays: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        load(saved(tmp_path / "a.npz", **arrays))
    assert "a.npz`" in str(caught.value) and caught.value.hint


def test_pickled_arrays_are_refused_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="cannot be read: Object arrays"):
        load(saved(tmp_path / "a.npz", x=np.array([Bomb()], dtype=object)))
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="is not an npz file"):
        load(f"npz:path={tmp_path / 'b.npz'}")
    assert not (tmp_path / "exploded").exists()


def test_an_npz_with_two_arrays_of_one_name_is_refused(tmp_path: Path) -> None:
    spec = saved(tmp_path / "a.npz", x=PIXELS)
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive, archive.open("x", "w") as file:  # as `x.npy` is named
        np.lib.format.write_array(file, PIXELS[:2])
    with pytest.raises(InputError, match="two members of one name, `x`"):
        load(spec)
    with pytest.raises(InputError, match="two members of one name, `x`"):
        read_map(tmp_path / "a.npz", tmp_path)


def test_a_member_of_an_npz_that_is_no_array_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", b"text")
    for read in (lambda: load(f"npz:path={tmp_path / 'a.npz'}"), lambda: read_map(tmp_path / "a.npz", tmp_path)):
        with pytest.raises(InputError, match=r"a\.npz` cannot be read: `x` is not an array"):
            read()


def test_what_would_not_fit_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = saved(tmp_path / "a.npz", x=PIXELS, other=PIXELS)
    size = PIXELS.nbytes + 128  # with the header of an array
    monkeypatch.setattr("stochx.datasets.npz.available_memory", lambda: size)
    assert len(load(spec)) == len(PIXELS)
    monkeypatch.setattr("stochx.datasets.npz.available_memory", lambda: size - 1)
    with pytest.raises(InputError, match=r"a\.npz` does not fit into memory"):
        load(spec)


def test_a_damaged_npz_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "a.npz", x=PIXELS)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[100:140] = bytes(40)
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.npz` cannot be read"):
        load(f"npz:path={tmp_path / 'a.npz'}")


# Shapes ---------------------------------------------------------------------------------------------------------------


def masks(data: Data) -> np.ndarray:
    assert data.mask is not None
    return np.stack([data.mask(i) for i in range(len(data))])


@pytest.mark.parametrize("domain", DOMAINS)
def test_an_item_does_not_depend_on_its_company(domain: str) -> None:
    few, many = (Shapes(count=count, domain=domain)("train") for count in (3, 700))  # type: ignore[arg-type]
    assert few.pixels is not None and many.pixels is not None
    assert torch.equal(few.pixels, many.pixels[:3])
    assert np.array_equal(masks(few), masks(many)[:3])


@pytest.mark.parametrize("domain", DOMAINS)
def test_large_sets_are_drawn_when_asked_and_the_same(domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Shapes(count=20, domain=domain)("test")  # type: ignore[arg-type]
    monkeypatch.setattr("stochx.datasets.shapes.IN_MEMORY", 0)
    asked = Shapes(count=20, domain=domain)("test")  # type: ignore[arg-type]
    assert asked.pixels is None and list(asked.keys) == list(made.keys)
    for i in range(4):
        assert np.array_equal(asked.read(i), made.read(i))
    assert np.array_equal(masks(asked), masks(made))


def test_seeds_splits_and_domains_draw_other_images() -> None:
    sets = [Shapes(count=10)("train"), Shapes(count=50)("test"), Shapes(count=10, seed=1)("train")]
    sets += [Shapes(count=10, domain=domain)("train") for domain in ("sketch", "inverted", "clutter")]
    for one, other in itertools.combinations(sets, 2):
        assert (masks(one) != masks(other)).any((1, 2)).all()


def test_mixed_holds_every_domain_as_it_is() -> None:
    mixed, sketch = Shapes(count=80, domain="mixed")("train"), Shapes(count=80, domain="sketch")("train")
    assert mixed.domains is not None and mixed.labels is not None
    for domain in DOMAINS:
        labels = [y for y, d in zip(mixed.labels, mixed.domains, strict=True) if d == domain]
        assert np.bincount(labels).tolist() == [2] * 10
    assert mixed.domains[10] == "sketch" and np.array_equal(mixed.read(10), sketch.read(10))


def test_a_scene_is_the_same_at_any_size() -> None:
    small, large = (Shapes(count=16, classes=16, size=size)("train") for size in (64, 192))
    for i in range(16):
        assert small.mask is not None and large.mask is not None
        shrunk = large.mask(i).reshape(64, 3, 64, 3).mean((1, 3)) > 0.5
        assert (shrunk ^ small.mask(i)).mean() < 0.01


@pytest.mark.parametrize("size", [16, 32, 64])
def test_the_object_is_whole_and_of_sensible_size(size: int) -> None:
    drawn = masks(Shapes(count=400, classes=16, size=size)("train"))
    covered = drawn.mean((1, 2))
    assert 0.08 < covered.min() < 0.16 and 0.28 < covered.max() < 0.35
    border = np.concatenate([drawn[:, [0, -1]].reshape(400, -1), drawn[:, :, [0, -1]].reshape(400, -1)], 1)
    assert not border.any()


def test_evidence_lies_within_the_mask() -> None:
    """A class changes nothing outside of the object: scenes of one chance, but another shape, share their ground."""
    from stochx.datasets._scenes import draw

    for paint in DOMAINS.values():
        one, other = (draw(32, [shape], [11]) for shape in ("disc", "star"))
        outside = (one.distance > 1) & (other.distance > 1)
        assert outside.sum() > 300
        assert np.array_equal(paint(one)[outside], paint(other)[outside])
        assert (paint(one) != paint(other)).any()


def test_outlines_are_true_distances_within_the_unit_circle() -> None:
    side = np.linspace(-1.1, 1.1, 300)
    x, y = np.meshgrid(side, side)
    for name, outline in OUTLINES.items():
        distance = outline(x, y)
        slope = np.hypot(*np.gradient(distance, side, side))
        assert np.hypot(x, y)[distance < 0].max() <= 1.001, name
        assert np.median(np.abs(slope - 1)) < 1e-3, name
        assert outline(x.astype(np.float32), y.astype(np.float32)).dtype == np.float32, name
    assert area("disc") == pytest.approx(np.pi, abs=0.01) and area("square") == pytest.approx(1.96, abs=0.01)


def test_no_two_outlines_are_alike_under_rotation() -> None:
    side = np.linspace(-1, 1, 48)
    x, y = np.meshgrid(side, side)
    angles = np.arange(0, 2 * np.pi, np.pi / 30)
    turned = [(np.cos(a) * x + np.sin(a) * y, np.cos(a) * y - np.sin(a) * x) for a in angles]
    drawn = {name: np.stack([OUTLINES[name](*xy) < 0 for xy in turned]) for name in NAMES}
    for one, other in itertools.combinations(NAMES, 2):
        apart = np.logical_xor(drawn[one][0], drawn[other]).mean((1, 2)).min()
        assert apart > 0.05, (one, other)


def separable(images: Tensor, labels: Tensor) -> float:
    """Held-out accuracy of ridge regression on the pixels."""
    x = torch.cat([images.flatten(1).double() / 255, torch.ones(len(images), 1)], 1)
    targets = torch.nn.functional.one_hot(labels, 10).double()
    half = len(x) // 2
    weights = torch.linalg.solve(x[:half].T @ x[:half] + 30 * torch.eye(x.shape[1]), x[:half].T @ targets[:half])
    return ((x[half:] @ weights).argmax(1) == labels[half:]).double().mean().item()


def test_photos_cannot_be_told_by_single_pixels() -> None:
    data = Shapes(count=2000)("train")
    assert data.pixels is not None and data.labels is not None
    small = torch.nn.functional.avg_pool2d(data.pixels.float(), 2)
    assert separable(small, torch.tensor(data.labels)) < 0.3


@pytest.mark.slow
def test_a_small_network_learns_shapes_in_a_minute() -> None:
    from torch import nn

    def stage(c_in: int, c_out: int) -> list[nn.Module]:
        return [nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]

    train, test = (Shapes(count=2000)(split) for split in ("train", "test"))  # type: ignore[arg-type]
    assert train.pixels is not None and test.pixels is not None
    x, y = train.pixels.float() / 255, torch.tensor(train.labels)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [*stage(3, 32), nn.MaxPool2d(2), *stage(32, 64), nn.MaxPool2d(2), *stage(64, 128), *stage(128, 128)]
        net = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(128, 10))
        optimiser = torch.optim.AdamW(net.parameters(), 4e-3, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=6 * 63)
        for batch in (b for _ in range(6) for b in torch.randperm(2000).split(32)):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
            optimiser.step()
            schedule.step()
    with torch.inference_mode():
        right = net.eval()(test.pixels.float() / 255).argmax(1) == torch.tensor(test.labels)
    assert right.double().mean() > 0.9


@pytest.mark.parametrize("typed", ["size=15", "classes=17", "classes=0", "count=0"])
def test_shapes_beyond_reason_are_refused(typed: str) -> None:
    with pytest.raises(UsageError, match=f"`shapes:{typed}`: {typed.partition('=')[0]} must be"):
        load(f"shapes:{typed}")
    with pytest.raises(UsageError, match="does not accept `oil`"):
        load("shapes:domain=oil")


def test_two_thousand_shapes_take_about_a_second() -> None:
    Shapes(count=20)("train")
    start = time.process_time()
    assert len(Shapes(count=2000)("train")) == 2000
    assert time.process_time() - start < 4


def test_the_mask_of_a_shape_covers_a_part_of_its_image() -> None:
    train, test = (DATASETS.make("shapes:size=32,classes=4,count=12")(split) for split in ("train", "test"))
    item = train.item(3)
    assert len(train) == 12 and len(train.classes) == 4
    assert item.mask is not None and 0.02 < item.mask.float().mean() < 0.6
    assert not torch.equal(item.image, test.item(0).image)
