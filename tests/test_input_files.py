"""Files that users name: a pipe, a device or a folder in the place of any is one error, and texts have a bound."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from stochx.cli.build import load_config
from stochx.datasets._domain import table
from stochx.datasets._splits import restricted
from stochx.declarations import classes
from stochx.engine.io.data import from_arrays
from stochx.engine.io.mapfile import read_map
from stochx.engine.network import weights
from stochx.engine.network.shards import table_of
from stochx.errors import InputError, StochxError, UsageError
from stochx.folders import described
from stochx.input_files import MOST, can_be_path, exists, open_file, read_text
from stochx.loading import load_data, load_model
from stochx.settings import Score
from stochx.settings.values import class_names

DATA = from_arrays(np.zeros((1, 8, 8, 3), np.uint8), [0], ["a"], "x")


class Context:
    """What `load_config` reads of the command line."""

    resilient_parsing = False


READERS = {
    "config.toml": lambda path: load_config(Context(), path),
    "names.txt": lambda path: class_names(str(path)),
    "names.json": lambda path: class_names(str(path)),
    "entry.py": classes,
    "net.pt": weights.load,
    "net.safetensors": weights.load,
    "net.safetensors.index.json": table_of,
    "config.json": lambda path: described(path.parent, path.parent / "model.safetensors", []),
    "splits.json": lambda path: restricted(DATA, str(path), "test"),
    "map.npy": lambda path: read_map(path, path.parent),
    "map.npz": lambda path: read_map(path, path.parent),
    "labels.csv": lambda path: table(path, ["label"]),
}


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_is_refused_and_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=rf"`.*{name}` is not a regular file"):
        READERS[name](tmp_path / name)


@pytest.mark.parametrize("name", [name for name in READERS if "net." not in name and name != "config.json"])
def test_a_folder_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=rf"{name}` (is a directory|contains no class lists)"):
        READERS[name](tmp_path / name)


def test_a_device_is_refused_and_not_read() -> None:
    with pytest.raises(InputError, match="`/dev/zero` is not a regular file"):
        open_file(Path("/dev/zero"))


def test_a_text_has_no_mark_and_a_bound(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbf\xc3\xa9")
    assert read_text(tmp_path / "a", "mend it") == "é"
    (tmp_path / "a").write_bytes(b"\xff")
    with pytest.raises(InputError, match="a` is not UTF-8") as caught:
        read_text(tmp_path / "a", "mend it")
    assert caught.value.hint == "mend it"
    with (tmp_path / "a").open("wb") as file:
        file.truncate(MOST + 1)
    with pytest.raises(InputError, match="a` holds more than 16 MiB of text"):
        class_names(str(tmp_path / "a"))


@pytest.mark.parametrize("text", ["seed = " + "[" * 5000, "seed = " + "9" * 5000, "seed = {a = [}"])
def test_a_config_that_python_cannot_hold_is_no_toml(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(InputError, match="is not valid TOML"):
        load_config(Context(), tmp_path / "c.toml")


def test_brackets_in_brackets_are_no_splits(tmp_path: Path) -> None:
    (tmp_path / "splits.json").write_text("[" * 10**5)
    with pytest.raises(InputError, match="is not valid JSON"):
        restricted(DATA, str(tmp_path / "splits.json"), "test")
    (tmp_path / "net.safetensors.index.json").write_text(json.dumps({"weight_map": 5}))
    with pytest.raises(InputError, match="is damaged"):
        table_of(tmp_path / "net.safetensors.index.json")


LONG = ",".join(f"class {number}" for number in range(100))  # no name of a file may have 256 bytes


def test_a_long_text_is_no_path(tmp_path: Path) -> None:
    assert len(class_names(LONG)) == 100
    assert not exists(LONG) and not can_be_path("a\0b") and can_be_path(tmp_path / "absent") and exists(tmp_path)
    for load, message in (
        (load_model, "neither a file nor a known model"),
        (load_data, "unknown data set"),
        (weights.load, "too long"),
    ):
        with pytest.raises(StochxError, match=message):
            load(Path(LONG) if load is weights.load else LONG)
    with pytest.raises(InputError, match="cannot be read: File name too long"):
        load_data(f"folder:root={LONG.replace(',', '')}")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"include": ("a\0.py",)}, "`--include` holds a null character"),
        ({"data": "a\0"}, "`--data` holds a null character"),
        ({"maps": "a\0"}, "no path: it is too long, or holds a null"),
        ({"maps": LONG}, "no path: it is too long, or holds a null"),
        ({"data": LONG}, "unknown data set"),
    ],
)
def test_a_setting_that_can_be_no_path_is_refused_by_its_name(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Score(**{"metric": ("sparseness",), **settings})


def test_a_map_has_a_bound(tmp_path: Path) -> None:
    np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.float32, (2**14, 2**13 + 1))  # no more is on the disk
    with pytest.raises(InputError, match=r"a\.npy` holds more than a map of 64 million pixels"):
        read_map(tmp_path / "a.npy", tmp_path)
