"""Image files and tensors: hostile files are refused by name, odd ones are read right, and sizes match torchvision."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from stochx.engine.io import images
from stochx.engine.io.data import Data, from_arrays
from stochx.engine.io.images import Preparation, to_image, to_tensor
from stochx.errors import InputError


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + header
        + struct.pack(">I", zlib.crc32(header))
        + b"\0\0\0\x64IDAT"
    )


def denied(*_: object) -> None:
    raise PermissionError(13, "Permission denied")


def refused(path: Path | str, words: str) -> InputError:
    """The error for a file: it names the file, on one line, and has a hint."""
    with pytest.raises(InputError, match=words) as caught:
        images.read(path)
    assert Path(path).name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return caught.value


# What is refused ------------------------------------------------------------------------------------------------------


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.jpg"
    path.write_text("no pixels here")
    refused(path, "is not an image")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.png"
    path.touch()
    refused(path, "is empty")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "absent.png", "no such file")
    refused(saved(tmp_path / "real.png", noise(9, 9)) / "below.png", "no such file")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "is a directory")


def test_an_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "locked.png", noise(9, 9))
    path.chmod(0)
    if os.geteuid() == 0:  # root reads everything
        monkeypatch.setattr(Path, "open", denied)
    refused(path, "cannot be read: permission denied")


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    refused(tmp_path / "pipe.png", "is not a regular file")


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "tiff", "bmp"])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"half.{suffix}", noise(60, 60))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(path, "is damaged|is not an image")


def test_a_tiny_image_is_refused(tmp_path: Path) -> None:
    refused(saved(tmp_path / "dot.png", noise(1, 1)), "only 1 x 1 pixels")
    refused(saved(tmp_path / "line.png", noise(500, 7)), "only 500 x 7 pixels")


@pytest.mark.parametrize("side", [10_001, 14_143, 60_000])  # 14,143 squared is 200 million
def test_a_huge_image_is_refused_from_its_header(tmp_path: Path, side: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(side, side))  # decoding it would say: truncated
    refused(path, "more than 100 million pixels")


def test_postscript_is_refused_as_it_would_start_a_program(tmp_path: Path) -> None:
    refused(saved(tmp_path / "program.eps", noise(20, 20)), "is not an image")


def test_colours_that_cannot_be_shown_are_refused(tmp_path: Path) -> None:
    refused(saved(tmp_path / "wide.tiff", Image.fromarray(np.full((9, 9), 70_000, np.int32))), "do not fit 16 bits")
    refused(saved(tmp_path / "nan.tiff", Image.fromarray(np.full((9, 9), np.nan, np.float32))), r"not in \[0, 1\]")


def test_names_are_shown_on_one_line() -> None:
    assert images.printable("a\nb\x1b[2Jc\udce9é 猫.png") == r"a\nb\x1b[2Jc\udce9é 猫.png"


def test_random_damage_gives_no_other_error() -> None:
    random = np.random.default_rng(2)
    originals = []
    for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        noise(30, 20).save(buffer := io.BytesIO(), form)
        originals.append(np.frombuffer(buffer.getvalue(), np.uint8))
    outcomes = set()
    for k in range(350):
        content = originals[k % 7].copy()
        content[random.integers(0, min(len(content), 200), 4)] = random.integers(0, 256, 4)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outcomes.add(images.read(io.BytesIO(content.tobytes()), "damaged").mode)
        except InputError:
            outcomes.add("refused")
    assert outcomes == {"RGB", "refused"}


# What is read ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain.png", "with space.png", "猫.png", "-q.png", "a\nb.png", "100%.png", "[1].png"])
def test_odd_names_are_read(tmp_path: Path, name: str) -> None:
    assert images.read(saved(tmp_path / name, noise(9, 11))).size == (9, 11)


def test_an_undecodable_name_is_read_and_shown(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")
    with pytest.raises(InputError, match=r"no such file: .*\\udcff\.png"):
        images.read(path)


def test_an_open_file_is_read_under_its_name() -> None:
    noise(20, 10).save(buffer := io.BytesIO(), "PNG")
    buffer.seek(0)
    assert np.array_equal(images.read(buffer, "inner.png"), noise(20, 10))
    with pytest.raises(InputError, match=r"`inner.png` is damaged"):
        images.read(io.BytesIO(buffer.getvalue()[:-40]), "inner.png")


def test_rgb_is_read_as_it_is(tmp_path: Path) -> None:
    assert np.array_equal(images.read(saved(tmp_path / "a.png", noise(20, 10))), noise(20, 10))


def test_cmyk_keeps_its_colour(tmp_path: Path) -> None:
    red = Image.new("RGB", (16, 16), (220, 30, 30)).convert("CMYK")
    image = images.read(saved(tmp_path / "ink.jpg", red, quality=95))
    assert image.mode == "RGB"
    assert np.allclose(np.asarray(image)[8, 8], (220, 30, 30), atol=6)


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.linspace(0, 65535, 64 * 64).round().astype(np.uint16).reshape(64, 64)
    image = images.read(saved(tmp_path / f"deep.{suffix}", Image.fromarray(values)))
    assert np.array_equal(np.asarray(image)[..., 1], (values / 257).round().astype(np.uint8))


def test_a_dark_16_bit_image_stays_dark(tmp_path: Path) -> None:
    image = images.read(saved(tmp_path / "dark.png", Image.fromarray(np.full((9, 9), 200, np.uint16))))
    assert np.asarray(image).max() == 1


def test_16_bit_rgb_is_read_as_8_bit(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + struct.pack(">HHH", 65535, 32768, 257) * 9 for _ in range(9))
    header = b"IHDR" + struct.pack(">IIBBBBB", 9, 9, 16, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(rows), b"IEND"]
    content = b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    assert np.asarray(images.read(tmp_path / "deep.png"))[4, 4].tolist() == [255, 128, 1]


def tiff(values: np.ndarray, bits: int, photometric: int) -> io.BytesIO:
    """An uncompressed little-endian TIFF of one channel whose strip holds the bytes of `values`."""
    strip = values.tobytes()
    kind = 3 if values.dtype.kind == "f" else 1
    entries = {
        256: 8,
        257: 8,
        258: bits,
        259: 1,
        262: photometric,
        273: 134,
        277: 1,
        278: 8,
        279: len(strip),
        339: kind,
    }
    lines = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in entries.items())
    return io.BytesIO(b"II" + struct.pack("<HIH", 42, 8, len(entries)) + lines + bytes(4) + strip)


TWELVE = np.frombuffer(bytes([0x40, 0x04, 0x00]) * 32, np.uint8)  # 0x400 everywhere, a quarter


@pytest.mark.parametrize(
    ("values", "bits", "photometric", "grey"),
    [
        (np.full((8, 8), 10 * 257, "<u2"), 16, 1, 10),
        (np.full((8, 8), 10 * 257, "<u2"), 16, 0, 245),
        (np.full((8, 8), 10, np.uint8), 8, 0, 245),
        (np.full((8, 8), 0.2, "<f4"), 32, 1, 51),
        (np.full((8, 8), 0.2, "<f4"), 32, 0, 204),
        (TWELVE, 12, 1, 64),
    ],
)
def test_a_tiff_is_read_at_its_depth_and_where_its_white_is(
    values: np.ndarray, bits: int, photometric: int, grey: int
) -> None:
    read = np.asarray(images.read(tiff(values, bits, photometric), "x.tif"))
    if bits == 12:
        read = read[:, ::2]
    assert (read == grey).all()


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate"])
def test_a_radiograph_with_zero_as_white_is_not_shown_as_its_negative(tmp_path: Path, compression: str | None) -> None:
    stored = Image.fromarray(np.full((9, 8), 60000, np.uint16))
    path = saved(tmp_path / "x.tif", stored, compression=compression, tiffinfo={262: 0})
    assert (np.asarray(images.read(path)) == 255 - round(60000 / 257)).all()


def test_floats_are_scaled_from_one(tmp_path: Path) -> None:
    image = images.read(saved(tmp_path / "f.tiff", Image.fromarray(np.full((9, 9), 0.5, np.float32))))
    assert np.asarray(image)[0, 0].tolist() == [128, 128, 128]


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    board = np.indices((16, 16)).sum(0) % 2
    image = images.read(saved(tmp_path / "bits.png", Image.fromarray(board.astype(bool))))
    assert np.array_equal(np.asarray(image)[..., 2], board * 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white_and_said(tmp_path: Path, mode: str, caplog: pytest.LogCaptureFixture) -> None:
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    image.paste((40, 40, 40, 255), (0, 0, 16, 8))
    image = images.read(saved(tmp_path / "glass.png", image.quantize() if mode == "P" else image.convert(mode)))
    assert np.asarray(image)[[4, 12], 4].tolist() == [[40, 40, 40], [255, 255, 255]]
    assert "`" + str(tmp_path / "glass.png") + "` has transparency" in caplog.text


def test_an_opaque_alpha_channel_is_not_worth_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = images.read(saved(tmp_path / "solid.png", noise(16, 16).convert("RGBA")))
    assert np.array_equal(image, noise(16, 16))
    assert not caplog.text


def test_of_an_animation_the_first_frame_is_read_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    red, blue = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    image = images.read(saved(tmp_path / "film.gif", red, save_all=True, append_images=[blue]))
    assert np.asarray(image)[8, 8].tolist() == [255, 0, 0]
    assert "using the first" in caplog.text


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    image = Image.new("RGB", (32, 16), "black")
    image.paste("white", (0, 0, 8, 8))  # which corner it ends in tells the turn
    read = images.read(saved(tmp_path / "turned.png", image, exif=exif))
    assert read.size == ((32, 16) if orientation < 5 else (16, 32))
    corner = {1: (0, 0), 2: (-1, 0), 3: (-1, -1), 4: (0, -1), 5: (0, 0), 6: (-1, 0), 7: (-1, -1), 8: (0, -1)}
    x, y = corner[orientation]
    assert np.asarray(read)[y, x].tolist() == [255, 255, 255]
    assert np.asarray(read).mean() == 255 / 8


def test_damaged_exif_does_not_lose_the_image(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", noise(16, 16), exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert images.read(path).size == (16, 16)


def test_threads_leave_the_warning_filters_alone(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", noise(64, 64))
    before = list(warnings.filters)
    barrier = threading.Barrier(4)

    def many(_: int) -> int:
        barrier.wait()
        return sum(images.read(path).width for _ in range(20))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(many, range(4))) == [1280] * 4
    assert warnings.filters == before


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from /proc")
def test_a_90_megapixel_photo_is_held_once(tmp_path: Path) -> None:
    Image.new("RGB", (9500, 9500), "teal").save(tmp_path / "large.jpg")
    program = (
        "import re, sys; from stochx.engine.io import images\n"
        "def peak(): return int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "before = peak(); image = images.read(sys.argv[1]); print(peak() - before)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "large.jpg")]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 0.9 < grown * 1024 / (4 * 9500**2) < 1.3  # Pillow keeps 4 bytes a pixel


# Preparation ----------------------------------------------------------------------------------------------------------

SIZES = [(300, 200), (200, 300), (257, 333), (333, 257), (256, 256), (101, 999), (33, 47), (224, 225), (1000, 64)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (232, 224), (32, 32), (37, 31), (48, 33)])
def test_prepared_pixels_are_torchvisions(size: tuple[int, int], resize: int, crop: int) -> None:
    image = noise(*size)
    expected = functional.center_crop(functional.resize(image, resize), crop)
    assert np.array_equal(Preparation(resize, crop)(image), expected)


def test_a_network_made_for_bicubic_images_gets_them() -> None:
    image = noise(300, 200)
    expected = functional.resize(image, 64, functional.InterpolationMode.BICUBIC)
    assert np.array_equal(Preparation(64, 64, resampling="bicubic")(image), functional.center_crop(expected, 64))
    with pytest.raises(InputError, match="unknown resampling `nearest`"):
        Preparation(64, 64, resampling="nearest")


@pytest.mark.parametrize("size", SIZES)
def test_the_whole_image_is_torchvisions_without_the_crop(size: tuple[int, int]) -> None:
    image = noise(*size)
    assert np.array_equal(Preparation(256, 224, whole=True)(image), functional.resize(image, 224))


def test_an_endless_strip_is_refused_not_scaled() -> None:
    strip = Image.new("L", (8, 200_000))
    data = Data((), ["strip.png"], lambda _: strip)
    with pytest.raises(InputError, match=r"`strip.png`: 8 x 200000 pixels are too long and thin to be scaled to 256"):
        data.item(0, Preparation(256, 224))


def test_a_crop_fits_into_what_was_resized() -> None:
    with pytest.raises(InputError, match="cannot crop 256 x 256 pixels out of 224 x 224"):
        Preparation(224, 256)


# Tensors --------------------------------------------------------------------------------------------------------------


def test_tensors_and_images_are_one_to_one() -> None:
    image = noise(21, 13)
    tensor = to_tensor(image)
    assert tensor.shape == (3, 13, 21) and tensor.dtype == torch.float32 and tensor.is_contiguous()
    assert torch.equal(tensor, functional.to_tensor(image))
    assert np.array_equal(to_image(tensor), image)


def test_image_and_mask_are_prepared_alike() -> None:
    pixels = np.zeros((1, 40, 60, 3), np.uint8)
    pixels[:, 10:30, 20:50] = 255
    data = from_arrays(pixels, [0], ["box"], "test", masks=pixels[..., 0] > 0, domains=["photo"])
    item = data.item(0, Preparation(32, 24))
    assert item.mask is not None and item.image.shape == (3, 24, 24)
    assert torch.equal(item.mask, item.image[0] >= 128 / 255)
    assert (item.key, item.label, item.domain) == ("test/00000", 0, "photo")


def test_the_hint_on_a_folder_can_be_pasted_into_a_shell(tmp_path):
    folder = tmp_path / "my photos"
    folder.mkdir()
    with pytest.raises(InputError) as refusal:
        images.read(folder)
    assert f"`--data '{folder}'`" in refusal.value.hint
