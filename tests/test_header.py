"""The header of a weights file: its JSON, and what is refused in a damaged one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stochx.architectures import architecture
from stochx.engine.network.header import ClassifierHeader, FewShotHeader, parse, serialise
from stochx.errors import InputError

CLASSIFIER = {
    "version": 1,
    "arch": "convnet:width=4",
    "classes": ["cat", "dog"],
    "mean": [0.5, 0.25, 0.125],
    "std": [0.5, 0.5, 0.25],
    "resize": 36,
    "crop": 32,
    "resampling": "bicubic",
    "noise": "sample",
    "noises": "gaussian:sigma=0.1",
    "origin": {"teacher": "a.pt"},
}
FEW_SHOT = {
    "version": 1,
    "kind": "few-shot",
    "arch": "conv4",
    "head": "relation",
    "way": 5,
    "mean": [0.5],
    "std": [0.25],
    "resize": 84,
    "crop": 84,
    "resampling": "bilinear",
    "facts": {"guide": "none", "classes": {"cub": ["wren", "tern"]}},
    "features": "vectors",
}
PATH = Path("net.safetensors")


@pytest.mark.parametrize("fields", [CLASSIFIER, FEW_SHOT], ids=["classifier", "few-shot"])
def test_a_header_is_written_as_it_was_read(fields):
    assert serialise(parse(json.dumps(fields), PATH)) == json.dumps(fields)


def test_the_kind_decides_the_type():
    assert parse(json.dumps(CLASSIFIER), PATH).origin == {"teacher": "a.pt"}
    assert isinstance(parse(json.dumps(FEW_SHOT), PATH), FewShotHeader)
    assert parse("{}", PATH) == ClassifierHeader()  # a file of another program


@pytest.mark.parametrize("text", ["", "{", "5", "null", "[]", "[" * 10**5, '{"way": ' + "9" * 5000 + "}"])
def test_what_is_not_a_json_object_is_damaged(text):
    with pytest.raises(InputError, match=r"header of `net\.safetensors` is damaged"):
        parse(text, PATH)


NOT_TEXT = [5, None, ["a"], "\ud800"]
NOT_NUMBERS = ["x", 5, [], [0.5, 0.5, "x"], [float("nan")], [float("inf")], [10**400], [[0.5]]]
NOT_SIDES = [0, -1, 2.5, "32", None, True, 5000, [], [32], [32, 0], [32, True], [32, 32, 32]]
WRONG = {
    "version": [2, "1", None],
    "kind": [5, "classifier", []],
    "arch": NOT_TEXT,
    "classes": [5, "ab", [5], {"a": 1}, ["\ud800"]],
    "mean": NOT_NUMBERS,
    "std": [*NOT_NUMBERS, [0, 1, 1], [-1]],
    "resize": [*NOT_SIDES, 31],
    "crop": NOT_SIDES,
    "resampling": ["nearest", 5, []],
    "noise": ["much", 5],
    "noises": NOT_TEXT,
    "origin": [5, [], {"a": 5}, {"\ud800": "a"}],
    "head": NOT_TEXT,
    "way": [0, 1, 2.5, "5", True, 10**9],
    "facts": [5, [], {"a": "\ud800"}, {"classes": 5}, {"classes": {"cub": 5}}, {"classes": {"cub": [5]}}],
}
CASES = [
    (name, value, fields)
    for fields in (CLASSIFIER, FEW_SHOT)
    for name, values in WRONG.items()
    if name in fields
    for value in values
]


@pytest.mark.parametrize(("name", "value", "fields"), CASES)
def test_a_wrong_value_is_refused_by_the_name_of_its_field(name, value, fields):
    field = "classes" if name == "facts" and isinstance(value, dict) and "classes" in value else name
    with pytest.raises(InputError, match=rf"header of `net\.safetensors` is damaged: `{field}` is not "):
        parse(json.dumps(fields | {name: value}), PATH)


@pytest.mark.parametrize("name", [name for name in FEW_SHOT if name not in ("features", "version", "kind")])
def test_a_few_shot_network_needs_every_field(name):
    with pytest.raises(InputError, match=rf"header of `net\.safetensors` lacks `{name}`"):
        parse(json.dumps({key: value for key, value in FEW_SHOT.items() if key != name}), PATH)


def test_an_architecture_of_more_weights_than_there_can_be_is_an_error():
    with pytest.raises(InputError, match=r"`ConvNet\(.*` asks for more memory than there can be"):
        architecture(f"convnet:width={2**62}", 2)
