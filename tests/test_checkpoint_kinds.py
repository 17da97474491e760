"""A hundred kinds of checkpoints, formats x wrappers x contents: the right logits, or one error that says why."""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stochx.catalog import MODELS
from stochx.errors import InputError
from stochx.loading import load_model

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
ARCH = "convnet:width=4"


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MODELS.make(ARCH)(10)
    for module in model.network.modules():  # layers that a wrong order or lost buffer would change
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.linspace(-0.2, 0.2, len(module.running_mean)))
            module.running_var.copy_(torch.linspace(0.5, 1.5, len(module.running_var)))
    return model.network.eval()


def prefixed(prefix, weights):
    return {f"{prefix}{name}": value for name, value in weights.items()}


def shifted(weights):
    return {name: value + 1 if value.is_floating_point() else value for name, value in weights.items()}


def cast(kind):
    return lambda w: {name: value.to(kind) if value.is_floating_point() else value for name, value in w.items()}


# Formats: how tensors and what lies beside them become bytes.


def legacy(content, file):
    torch.save(content, file, _use_new_zipfile_serialization=False)


FORMATS = {
    "zip": (torch.save, ".pt"),
    "legacy": (legacy, ".pth"),
    "zip, protocol 4": (lambda content, file: torch.save(content, file, pickle_protocol=4), ".ckpt"),
    "zip, protocol 5": (lambda content, file: torch.save(content, file, pickle_protocol=5), ".bin"),
    "legacy, protocol 4": (
        lambda content, file: torch.save(content, file, pickle_protocol=4, _use_new_zipfile_serialization=False),
        ".pth.tar",
    ),
}

# Wrappers: where training scripts put the weights.
WRAPPERS = {
    "bare": lambda w: w,
    "ordered": collections.OrderedDict,
    "state_dict": lambda w: {"epoch": 3, "state_dict": w},
    "model": lambda w: {"model": w, "optimizer": {"state": {0: {"exp_avg": torch.ones(9, 9)}}, "param_groups": []}},
    "net": lambda w: {"net": w, "acc": 91.2, "epoch": 3},
    "deepspeed": lambda w: {"module": w, "global_steps": 7, "ds_config": {"train_batch_size": 8}},
    "data parallel": lambda w: prefixed("module.", w),
    "compiled": lambda w: prefixed("_orig_mod.", w),
    "compiled in parallel": lambda w: {"state_dict": prefixed("module._orig_mod.", w)},
    "fabric": lambda w: {"net": prefixed("_forward_module.", w), "step": 3},
    "lightning": lambda w: {
        "pytorch-lightning_version": "2.5",
        "epoch": 3,
        "global_step": 7,
        "state_dict": {**prefixed("model.", w), "loss.weight": torch.ones(10)},
        "loops": {},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}}],
        "hyper_parameters": argparse.Namespace(lr=0.1, out=pathlib.Path("x")),
    },
    "swa": lambda w: {"n_averaged": torch.tensor(5), **prefixed("module.", w)},
    "timm": lambda w: {
        "state_dict": w,
        "state_dict_ema": shifted(w),
        "args": argparse.Namespace(model="x"),
        "version": 2,
    },
    "dino": lambda w: {"student": prefixed("module.", w), "teacher": prefixed("module.", shifted(w)), "epoch": 3},
    "moco": lambda w: {
        "state_dict": {
            **prefixed("module.encoder_q.", w),
            **prefixed("module.encoder_k.", shifted(w)),
            "module.queue": torch.ones(8, 9),
            "module.queue_ptr": torch.zeros(1, dtype=torch.long),
        }
    },
    "base encoder": lambda w: {
        "state_dict": {**prefixed("base_encoder.", w), **prefixed("momentum_encoder.", shifted(w))}
    },
    "attacker": lambda w: {"model": {**prefixed("module.model.", w), **prefixed("module.attacker.model.", w)}},
    "deep": lambda w: {"checkpoint": {"model": {"module": prefixed("_orig_mod.", w)}}},
    "a list": lambda w: [w, {"epoch": 3}],
    "average beside": lambda w: {"net": w, "ema": {"decay": 0.9, "shadow": shifted(w)}},
}

# Contents: kinds of values among and beside the weights.
CONTENTS = {
    "half": cast(torch.float16),
    "bfloat16": cast(torch.bfloat16),
    "double": cast(torch.float64),
    "parameters": lambda w: {n: nn.Parameter(v) if v.is_floating_point() else v for n, v in w.items()},
    "transposed": lambda w: {n: v.T.contiguous().T if v.dim() == 2 else v for n, v in w.items()},
    "channels last": lambda w: {
        n: v.contiguous(memory_format=torch.channels_last) if v.dim() == 4 else v for n, v in w.items()
    },
    "one storage": lambda w: views(w),
    "numbers of numpy": lambda w: {"state_dict": w, "best": np.float64(0.5), "curve": np.arange(9.0)},
    "texts and bytes": lambda w: {"state_dict": w, "git": b"abc", "name": "ä" * 300, "big": 2**70, "set": {1, 2}},
    "objects": lambda w: {"state_dict": w, "device": torch.device("cpu"), "dtype": torch.float16, "act": nn.ReLU()},
}


def views(weights):
    """Return weights that are views of one storage, as fused optimizers keep them."""
    kinds = [name for name, value in weights.items() if value.is_floating_point()]
    flat, start, found = torch.cat([weights[name].flatten() for name in kinds]), 0, dict(weights)
    for name in kinds:
        count = weights[name].numel()
        found[name] = flat[start : start + count].view(weights[name].shape)
        start += count
    return found


def files(write, ending, change):
    return lambda network, folder: write(change(network.state_dict()), folder / f"w{ending}") or folder / f"w{ending}"


def safe(change, metadata=None):
    def write(network, folder):
        tensors = {name: value.contiguous().clone() for name, value in change(network.state_dict()).items()}
        save_file(tensors, folder / "w.safetensors", metadata=metadata)
        return folder / "w.safetensors"

    return write


def numpy_pickle(protocol):
    def write(network, folder):
        arrays = {name: value.numpy() for name, value in network.state_dict().items()}
        (folder / "w.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "x"}, protocol))
        return folder / "w.pkl"

    return write


def whole(wrap, write=torch.save):
    return lambda network, folder: write(wrap(network), folder / "w.pt") or folder / "w.pt"


def sharded(write, ending):
    def make(network, folder):
        weights, (stem, _, kind) = network.state_dict(), ending.partition(".")
        places = {name: f"{stem}-{i % 3}.{kind}" for i, name in enumerate(weights)}
        for file in {*places.values()}:
            write({name: weights[name].clone() for name in weights if places[name] == file}, folder / file)
        (folder / f"{ending}.index.json").write_text(json.dumps({"weight_map": places}))
        return folder

    return make


def scripted(network, folder):
    torch.jit.trace(network, IMAGES).save(str(folder / "w.pt"))
    return folder / "w.pt"


def exported(network, folder):
    torch.export.save(torch.export.export(network, (IMAGES,)), folder / "w.pt2")
    return folder / "w.pt2"


KINDS = {
    **{
        f"{form}: {wrapper}": files(*FORMATS[form], WRAPPERS[wrapper])
        for form in ("zip", "legacy", "zip, protocol 4")
        for wrapper in WRAPPERS
    },
    **{
        f"{form}: lightning": files(*FORMATS[form], WRAPPERS["lightning"])
        for form in ("zip, protocol 5", "legacy, protocol 4")
    },
    **{f"{form}: {c}": files(*FORMATS[form], CONTENTS[c]) for form in ("zip", "legacy") for c in CONTENTS},
    **{f"safetensors: {name}": safe(WRAPPERS[name]) for name in ("bare", "data parallel", "compiled", "swa")},
    **{f"safetensors: {name}": safe(CONTENTS[name]) for name in ("half", "bfloat16", "double")},
    "safetensors: notes of others": safe(WRAPPERS["bare"], {"format": "pt", "epoch": "3"}),
    **{f"arrays of numpy, protocol {protocol}": numpy_pickle(protocol) for protocol in (2, 4, 5)},
    "whole": whole(lambda n: n),
    "whole, legacy": whole(lambda n: n, legacy),
    "whole, in parallel": whole(nn.DataParallel),
    "whole, in a mapping": whole(lambda n: {"epoch": 3, "model": n}),
    "TorchScript": scripted,
    "torch.export": exported,
    "sharded safetensors": sharded(save_file, "model.safetensors"),
    "sharded pickles": sharded(torch.save, "pytorch_model.bin"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_gives_the_right_logits(kind, network, tmp_path):
    model = load_model(KINDS[kind](network, tmp_path), arch=ARCH)
    tolerance = 0.1 if "bfloat16" in kind else 1e-2 if "half" in kind else 0
    with torch.inference_mode():
        torch.testing.assert_close(model.network(IMAGES), network(IMAGES), rtol=tolerance, atol=tolerance)


def cut(network, folder):
    torch.save(network.state_dict(), folder / "whole.pt")
    (folder / "w.pt").write_bytes((folder / "whole.pt").read_bytes()[:-900])
    return folder / "w.pt"


def not_finite(weights):
    return {name: torch.full_like(value, torch.nan) if value.dim() == 4 else value for name, value in weights.items()}


REFUSED = {
    "cut short": (cut, "is damaged"),
    "not finite": (files(torch.save, ".pt", not_finite), "is not finite"),
    "without a layer": (files(torch.save, ".pt", lambda w: dict(list(w.items())[2:])), "is missing"),
    "of another width": (
        files(torch.save, ".pt", lambda w: {n: torch.cat([v, v]) if v.dim() else v for n, v in w.items()}),
        "is 8x",
    ),
    "without names": (files(torch.save, ".pt", lambda w: list(w.values())), "contains no state dict"),
    "optimizer alone": (files(torch.save, ".pt", lambda w: {"optimizer": {"state": w}}), "contains no state dict"),
    "sparse": (files(torch.save, ".pt", lambda w: {"w": torch.eye(3).to_sparse()}), "sparse"),
    "tensors by pickle": (
        lambda network, folder: (folder / "w.pkl").write_bytes(pickle.dumps(network.state_dict())) and folder / "w.pkl",
        r"none of `torch.save`",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_checkpoint_that_cannot_be_read_says_why(kind, network, tmp_path):
    make, why = REFUSED[kind]
    with pytest.raises(InputError, match=why) as error:
        load_model(make(network, tmp_path), arch=ARCH)
    assert error.value.hint


def test_there_are_a_hundred_kinds_and_most_can_be_read():
    assert len(KINDS) + len(REFUSED) >= 100 and len(KINDS) >= 0.9 * (len(KINDS) + len(REFUSED))


def test_a_network_of_images_and_texts_says_that_it_has_no_classes(network, tmp_path):
    tower = prefixed("visual.", network.state_dict())
    torch.save({**tower, "logit_scale": torch.tensor(4.6), "text_projection": torch.ones(8, 8)}, tmp_path / "clip.pt")
    with pytest.raises(InputError, match=r"images and texts \(CLIP\), which has no classes"):
        load_model(tmp_path / "clip.pt")
