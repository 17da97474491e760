"""Files of `torch.save` are read inertly: the tensors as PyTorch reads them, and nothing else happens."""

from __future__ import annotations

import argparse
import collections
import copy
import copyreg
import io
import os
import pathlib
import pickle
import struct
import sys
import time
import types
import zipfile

import numpy as np
import pytest
import torch
from hostile_pickles import HOSTILE, RAN, archive, canary, legacy, one_tensor
from torch import nn

from stochx.catalog import MODELS
from stochx.engine.network import pickle_machine, pickled_tensors, pickles
from stochx.engine.network.weights import load
from stochx.errors import InputError
from stochx.loading import load_model, open_model


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MODELS.make("resnet20")(10).network.eval()


class Config(dict):
    """A class that only the training script has."""

    def __reduce__(self):
        return Config, (), {"content": dict(self)}, None, iter(self.items())


class Options:
    def __init__(self):
        self.depth, self.parent = 3, self


def unusual(name):
    """Return an instance of a class that cannot be imported when the file is read."""
    module = types.ModuleType("omegaconf_of_a_user")
    made = type(name, (Options,), {"__module__": module.__name__})
    setattr(module, name, made)
    sys.modules[module.__name__] = module
    return made()


EXTRAS = {
    "namespace": lambda: {"args": argparse.Namespace(lr=0.1, out=pathlib.Path("x"), nested=argparse.Namespace(a=1))},
    "hyper_parameters": lambda: {"hyper_parameters": Config(lr=0.1), "pytorch-lightning_version": "2.1"},
    "numpy": lambda: {
        "best": np.float64(0.5),
        "n": np.int64(3),
        "curve": np.arange(9.0),
        "names": np.array(["a", "b"]),
    },
    "collections": lambda: {"d": collections.defaultdict(list, a=[1]), "c": collections.Counter("aab"), "s": {1, 2}},
    "odd values": lambda: {"b": b"x", "y": bytearray(b"y"), "i": 2**70, "f": frozenset({1}), "z": 1j, ("t", 1): 2},
    "torch": lambda: {
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "size": torch.Size([2]),
        "slice": slice(2),
    },
    "functions": lambda: {"transform": os.path.join, "class": nn.Conv2d, "module": nn.ReLU()},
    "a missing module": lambda: {"cfg": unusual("DictConfig")},
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", EXTRAS)
def test_what_lies_beside_the_weights_is_no_obstacle(name, protocol, legacy, network, tmp_path):
    file = tmp_path / "epoch=12-step=9000.ckpt"
    content = {**EXTRAS[name](), "epoch": 3, "state_dict": network.state_dict()}
    torch.save(content, file, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    sys.modules.pop("omegaconf_of_a_user", None)
    model = load_model(str(file))
    x = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(model.network(x), network(x), rtol=0, atol=0)
    assert "omegaconf_of_a_user" not in sys.modules


TENSORS = {
    "dtypes": lambda: {
        str(kind): torch.arange(5).to(kind)
        for kind in (*pickled_tensors.DTYPES.values(), torch.uint16, torch.float8_e4m3fn, torch.float8_e5m2)
    },
    "views": lambda: {
        "a": (base := torch.rand(6, 8)),
        "b": base.t(),
        "c": base[2:, ::3],
        "d": base[:, :1].expand(6, 9),
    },
    "shapes": lambda: {"scalar": torch.tensor(3.0), "empty": torch.empty(0, 3), "one": torch.ones(1, 1, 1)},
    "parameters": lambda: {"p": nn.Parameter(torch.rand(3)), "b": torch.rand(2, requires_grad=True)},
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", TENSORS)
def test_tensors_are_those_of_pytorch(name, legacy, tmp_path):
    expected = TENSORS[name]()
    torch.save(expected, tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
    found = pickles.load(tmp_path / "w.pt").value
    assert list(found) == list(expected)
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype and found[key].stride() == tensor.stride()
        assert torch.equal(bits(found[key]), bits(tensor))
    assert not any(tensor.requires_grad for tensor in found.values())


def bits(tensor):
    return tensor.detach().reshape(-1).clone().view(torch.uint8)


def test_tied_tensors_stay_tied(tmp_path):
    weight = torch.rand(3)
    torch.save({"a": weight, "b": weight[1:]}, tmp_path / "w.pt")
    found = pickles.load(tmp_path / "w.pt").value
    assert found["a"].untyped_storage().data_ptr() == found["b"].untyped_storage().data_ptr()


WHOLE_NETWORKS = {
    "bare": lambda m: m,
    "in a mapping": lambda m: {"epoch": 3, "model": m},
    "parallel": nn.DataParallel,
    "half": lambda m: copy.deepcopy(m).half(),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrap", WHOLE_NETWORKS.values(), ids=WHOLE_NETWORKS)
def test_of_a_whole_network_the_weights_are_read(wrap, legacy, network, tmp_path):
    torch.save(wrap(network), tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
    loaded = open_model(str(tmp_path / "w.pt"))
    assert loaded.model.arch == "resnet20"
    assert next(fact for fact in loaded.facts if fact.name == "stored as").value.startswith("a whole `")
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(loaded.model.network.state_dict()[name], tensor, rtol=1e-3, atol=1e-3)


class Unknown(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 5, 3)
        self.register_buffer("passing", torch.ones(2), persistent=False)


def test_a_whole_network_that_is_unknown_says_what_to_do(tmp_path):
    torch.save(Unknown(), tmp_path / "w.pt")
    with pytest.raises(
        InputError, match=r"holds a whole network, of the class `.*Unknown`, whose code is not"
    ) as error:
        load_model(tmp_path / "w.pt")
    assert "FILE.py:function" in error.value.hint
    assert load(tmp_path / "w.pt").parts[0].tensors.keys() == {"layer.weight", "layer.bias"}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_of_numpy_are_weights_too(protocol, network, tmp_path):
    arrays = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    arrays["conv1.weight"] = np.asfortranarray(arrays["conv1.weight"])
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "a", "names": ["a"]}, protocol))
    model = load_model(tmp_path / "w.pkl")
    for name, tensor in network.state_dict().items():
        assert torch.equal(model.network.state_dict()[name], tensor)


@pytest.mark.parametrize("value", [np.array(["a"]), np.array([1, None]), np.ones(3, ">f4"), np.datetime64("2026")])
def test_arrays_of_other_values_are_left_out(value, tmp_path):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"w": np.ones((2, 2)), "x": value}))
    assert load(tmp_path / "w.pkl").parts[0].tensors.keys() == {"w"}


REFUSED = {
    "quantised": lambda: torch.quantize_per_tensor(torch.rand(3), 0.1, 0, torch.qint8),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "empty": lambda: torch.empty(3, device="meta"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", REFUSED)
def test_tensors_that_are_no_plain_ones_are_named(kind, tmp_path):
    torch.save({"w": REFUSED[kind]()}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=kind if kind != "quantised" else "quantised|QInt8"):
        load(tmp_path / "w.pt")


PROGRAMS = {
    "script.pt": lambda network, x, file: torch.jit.script(network).save(file),
    "trace.pt": lambda network, x, file: torch.jit.trace(network, x).save(file),
    "export.pt2": lambda network, x, file: torch.export.save(torch.export.export(network, (x,)), file),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PROGRAMS)
def test_of_a_program_the_weights_are_read(name, network, tmp_path):
    x = torch.rand(2, 3, 32, 32)
    PROGRAMS[name](network, x, str(tmp_path / name))
    loaded = open_model(str(tmp_path / name))
    assert "whose code is not run" in next(fact for fact in loaded.facts if fact.name == "stored as").value
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model.network(x), network(x), rtol=0, atol=0)


DAMAGED_TABLES = {
    "no json": b"{",
    "no table": b"[]",
    "deep": b'{"config": ' + b"[" * 10**5,
    "another file": b'{"config": {"w": {"path_name": "../weight_1", %s}}}',
    "beyond": b'{"config": {"w": {"path_name": "weight_0", %s}}}',
}


@pytest.mark.parametrize("name", DAMAGED_TABLES)
def test_damaged_tables_of_programs_are_refused(name, tmp_path):
    meta = b'"use_pickle": false, "tensor_meta": {"dtype": 7, "sizes": [{"as_int": 9}], "strides": [{"as_int": 1}], '
    content = DAMAGED_TABLES[name].replace(b"%s", meta + b'"storage_offset": {"as_int": 0}}')
    with zipfile.ZipFile(tmp_path / "w.pt2", "w") as file:
        file.writestr("w/data/weights/model_weights_config.json", content)
        file.writestr("w/data/weights/weight_0", bytes(16))
    with pytest.raises(InputError, match="or is damaged"):
        load(tmp_path / "w.pt2")


def test_a_frozen_program_and_bare_pickles_say_what_to_do(tmp_path):
    torch.jit.freeze(torch.jit.script(nn.Linear(2, 2).eval())).save(str(tmp_path / "w.pt"))
    with pytest.raises(InputError, match="without weights of its own") as error:
        load(tmp_path / "w.pt")
    assert "state_dict()" in error.value.hint
    (tmp_path / "w.pth").write_bytes(pickle.dumps({"weight": torch.ones(3)}))
    with pytest.raises(InputError, match=r"none of `torch.save`"):
        load(tmp_path / "w.pth")


WHOLE = {"a call as a hook", "BUILD on a tensor", "SETITEM on a tensor"}  # their tensors are not touched
BEYOND = "larger than what the file holds"
LONG, CUT, SHAPE, CODE = "is too long", "but only .* remain", "impossible shape", "which is not for files"
WHY = {  # else there is no state dict
    "STACK_GLOBAL of no text": "a name in its pickle is none",
    "EXT1": CODE,
    "EXT2": CODE,
    "EXT4": CODE,
    "aliases of a mapping": "refers to itself too often",
    "copies of a long list": LONG,
    "networks doubled 40 times": LONG,
    "an array of 2**60": SHAPE,
    "a network in itself": "without weights of its own",
    "a long BINUNICODE8": CUT,
    "a long BINBYTES8": CUT,
    "a negative BINSTRING": "byte count < 0",
    "a long number": "Exceeds the limit",
    "too many operations": LONG,
    "an empty stack": "pop from empty list",
    "no end": "exhausted|opcode .* unknown",
    "a persistent id as text": CODE,
    "a tensor beyond its storage": BEYOND,
    "an offset beyond": BEYOND,
    "a negative stride": SHAPE,
    "a tensor of 2**60": BEYOND,
    "no elements of 2**61": BEYOND,
    "shapes of true": SHAPE,
    "no such member": "`../../0` is missing|list of storages",
    "a storage of another size": "the storage `0` has",
    "a storage of os.system": "tensors of the kind `os.system`",
}


@pytest.fixture
def alarm(tmp_path, monkeypatch):
    """Fail where something ran."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(copyreg, "_inverted_registry", {0xF0: (canary.__module__, "canary")})
    monkeypatch.setattr(copyreg, "_extension_cache", {0xF0: canary})
    monkeypatch.setattr(pickle_machine, "OPERATIONS", 300_000)
    RAN.clear()
    yield
    assert not RAN and not (tmp_path / "ran").exists()
    assert canary.__eq__ is not None


@pytest.mark.parametrize("write", [archive, legacy])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_run_nothing_and_end(name, write, tmp_path, alarm):
    write(tmp_path / "hostile.pt", HOSTILE[name]())
    start = time.process_time()
    if name in WHOLE:
        assert load(tmp_path / "hostile.pt").parts[0].tensors["w"].tolist() == [0, 0, 0, 0]
    else:
        with pytest.raises(InputError, match=rf"hostile\.pt.*({WHY.get(name, 'contains no state dict')})"):
            load(tmp_path / "hostile.pt")
    assert time.process_time() - start < 20


def test_checksums_are_not_needed_as_in_pytorch(tmp_path):
    torch.save({"w": torch.ones(3)}, tmp_path / "w.pt")
    content = bytearray((tmp_path / "w.pt").read_bytes())
    with zipfile.ZipFile(tmp_path / "w.pt") as file:
        checksums = [struct.pack("<L", info.CRC) for info in file.infolist() if info.CRC]
    for checksum in checksums:
        content = content.replace(checksum, b"\1\2\3\4")
    (tmp_path / "w.pt").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "w.pt") as file:
        assert file.testzip()
    assert load(tmp_path / "w.pt").parts[0].tensors["w"].tolist() == [1, 1, 1]


def test_the_canary_would_run_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("os.system", "nested REDUCE", "INST", "OBJ", "STACK_GLOBAL"):
        RAN.clear()
        pickle.load(io.BytesIO(HOSTILE[name]()))
        ran = tmp_path / "ran"
        assert RAN or ran.exists()
        ran.unlink(missing_ok=True)


def test_archives_are_read_in_one_way_only(tmp_path):
    good = one_tensor()
    archive(tmp_path / "good.pt", good)
    assert load(tmp_path / "good.pt").parts[0].tensors["w"].tolist() == [0, 0, 0, 0]
    whole = (tmp_path / "good.pt").read_bytes()
    (tmp_path / "shorter.pt").write_bytes(whole[:4] + whole[40:])
    with pytest.raises(InputError, match="within the file"):
        load(tmp_path / "shorter.pt")
    archive(tmp_path / "roots.pt", good, [("other/data.pkl", good)])
    with pytest.raises(InputError, match="holds no network of PyTorch"):
        load(tmp_path / "roots.pt")
    with pytest.warns(UserWarning, match="Duplicate"):
        archive(tmp_path / "twice.pt", good, [("archive/data.pkl", good)])
    with pytest.raises(InputError, match="two members of one name"):
        load(tmp_path / "twice.pt")
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(10**7))
    with pytest.raises(InputError, match="compressed"):
        load(tmp_path / "bomb.pt")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "w.pt")
    with pytest.raises(InputError, match="not a regular file"):
        load(tmp_path / "w.pt")
