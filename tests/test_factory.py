"""What a user's function returns: read as a classifier, or refused with one error that says what to mend."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import stochx
from stochx.attributions.gradient import Gradient
from stochx.attributions.lrp import LRP
from stochx.engine.network.reading import in_single_precision, probes, read_as_classifier
from stochx.engine.network.weights import save
from stochx.engine.network.wrappers import unwrapped
from stochx.errors import InputError, UsageError
from stochx.loading import Given, load_model, open_model
from stochx.settings.values import class_names, sizes


class Net(nn.Module):
    """Convolution, mean, linear layer; `out` makes the output of logits (N, K) and maps (N, 6, H, W)."""

    def __init__(self, out=lambda z, maps: z, channels=3, classes=4):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv, self.head = nn.Conv2d(channels, 6, 3, padding=1), nn.Linear(6, classes)
        self.out = out

    def forward(self, x):
        maps = F.relu(self.conv(x))
        return self.out(self.head(maps.mean((2, 3))), maps)


def read(net):
    return read_as_classifier(net.eval(), probes((3, 16, 16)), "mine:net")


OUTPUTS = {
    "tuple": lambda z, maps: (z, maps),
    "maps first": lambda z, maps: [maps, z],
    "dict": lambda z, maps: {"features": maps, "logits": z},
    "named among tables": lambda z, maps: {"embedding": maps.mean((2, 3)), "logits": z},
    "an attribute": lambda z, maps: SimpleNamespace(logits=z, loss=None),
    "one position": lambda z, maps: z[:, :, None, None],
    "main and auxiliary": lambda z, maps: (z, 2 * z),
    "features first": lambda z, maps: (maps.mean((2, 3)), z),
    "features last": lambda z, maps: [z, maps.mean((2, 3))],
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_logits_are_taken_from_other_outputs_and_said(name):
    network, reading = read(Net(OUTPUTS[name]))
    assert torch.equal(network(probes((3, 16, 16))), Net()(probes((3, 16, 16))))
    assert list(network.state_dict()) == list(Net().state_dict())
    assert reading.notes or name == "one position"


REFUSED = {
    "None": (lambda z, maps: None, "returns a NoneType"),
    "numpy": (lambda z, maps: z.detach().numpy(), "returns a ndarray"),
    "segmentation": (lambda z, maps: maps, r"\(N, 6, 16, 16\): maps, as for segmentation"),
    "tokens": (lambda z, maps: maps.flatten(2), "several rows"),
    "classes": (lambda z, maps: z.argmax(1), "int64 instead of logits"),
    "no batch": (lambda z, maps: z.mean(0), r"returns \(4,\) for 3 images"),
    "two heads": (lambda z, maps: (F.linear(z, torch.ones(7, 4)), z), "which one is the logits is not clear"),
    "two features": (lambda z, maps: (maps.mean((2, 3)), z + 1), "which one is the logits is not clear"),
    "boxes": (lambda z, maps: [{"boxes": z}], "which one is the logits is not clear"),
    "an error": (lambda z, maps: 1 / 0, "ZeroDivisionError: division by zero"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_classifier_is_refused(name):
    out, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        read(Net(out))


def test_two_inputs_are_refused():
    class Two(Net):
        def forward(self, x, mask):
            return super().forward(x)

    with pytest.raises(InputError, match="takes more than an image"):
        read(Two())


@pytest.mark.parametrize("out", [lambda z, maps: z, lambda z, maps: z[:, 0]], ids=["column", "vector"])
def test_one_logit_is_the_probability_of_the_positive_class(out):
    network, reading = read(Net(out, classes=1))
    z = Net(classes=1)(probes((3, 16, 16)))
    torch.testing.assert_close(network(probes((3, 16, 16))).softmax(1)[:, 1], z[:, 0].sigmoid())
    assert "one logit" in reading.notes[0]
    maps = [Gradient()(network, probes((3, 16, 16)), torch.tensor([k, k, k])).map for k in (0, 1)]
    assert maps[1].abs().max() > 0 and torch.equal(maps[0], -maps[1])
    explanation = LRP(composite="epsilon")(network, probes((3, 16, 16)), torch.tensor([0, 0, 0]))
    assert explanation.map.abs().max() > 0
    torch.testing.assert_close(explanation.map.sum((1, 2, 3)), network(probes((3, 16, 16)))[:, 0] + explanation.gap)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_a_function_that_makes_probabilities_is_undone(kind):
    network, reading = read(Net(lambda z, maps: getattr(torch, kind)(z, *([1] if kind == "softmax" else []))))
    logits = Net()(probes((3, 16, 16)))
    torch.testing.assert_close(network(probes((3, 16, 16))).softmax(1), logits.softmax(1), rtol=1e-4, atol=1e-5)
    assert f"ends with a {kind}" in reading.notes[0]


@pytest.mark.parametrize("module", [nn.Softmax(1), nn.Sigmoid()], ids=["softmax", "sigmoid"])
def test_a_module_that_makes_probabilities_is_taken_out(module):
    network, _ = read(nn.Sequential(Net(), module))
    assert torch.equal(network(probes((3, 16, 16))), Net()(probes((3, 16, 16)))) and isinstance(network[1], nn.Identity)


def test_a_single_sigmoid_is_undone():
    network, _ = read(nn.Sequential(Net(classes=1), nn.Sigmoid()))
    torch.testing.assert_close(network(probes((3, 16, 16))).diff(dim=1), Net(classes=1)(probes((3, 16, 16))))


def test_logits_that_look_like_probabilities_of_one_class_stay():
    network, reading = read(Net(lambda z, maps: 0.5 + 0 * z, classes=1))
    assert torch.equal(network(probes((3, 16, 16))).diff(dim=1), torch.full((3, 1), 0.5)) and len(reading.notes) == 1


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.optim.swa_utils.AveragedModel, torch.compile])
def test_wrappers_are_taken_off(wrap):
    assert type(unwrapped(wrap(Net()))) is Net


def test_half_and_double_precision_become_single():
    for made in (Net().half(), Net().double()):
        assert in_single_precision(made).conv.weight.dtype == torch.float32


CODE = """
import sys, torch
from torch import nn
from torch.nn import functional as F
class Net(nn.Module):
    def __init__(self, side=None, classes=4):
        super().__init__()
        self.conv, self.head, self.side = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, classes), side
    def forward(self, x):
        assert self.side in (None, x.shape[-1]), "wrong side"
        return self.head(F.relu(self.conv(x)).mean((2, 3)))
class Declares(Net):
    image_size = 40
def plain(): return Net()
def fixed(): return Net(48 * 2)
def one(): return Net(classes=1)
def two(): return Net(classes=2)
def noisy(): print("progress"); return Net()
def deep(depth, width=3): return Net()
def leaves(): sys.exit(3)
def breaks(): return {}["key"]
def nothing(): pass
instance = Net()
number = 3
"""


@pytest.fixture
def code(tmp_path, monkeypatch):
    (tmp_path / "own_networks.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("own_networks", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("own_networks:deep", r"needs arguments: `depth`"),
        ("own_networks:leaves", r"fails at own_networks.py:20: sys.exit\(3\)"),
        ("own_networks:breaks", r"fails at own_networks.py:21: KeyError: 'key'"),
        ("own_networks:nothing", "returns None, not a network"),
        ("own_networks:instance", "is a network, not a function that makes one"),
        ("own_networks:number", "is not a function, but of type int"),
        ("own_networks:nope", "has no `nope`"),
        ("no_such_module:f", "No module named"),
        ("./nope.py:f", "no such file"),
        ("broken.py:f", r"fails at broken.py:1: SyntaxError"),
        ("missing.py:f", r"fails at missing.py:1: ModuleNotFoundError: No module named 'not_installed'"),
    ],
)
def test_code_that_makes_no_network_is_one_error(code, text, message):
    (code / "broken.py").write_text("def f(:\n")
    (code / "missing.py").write_text("import not_installed\n")
    with pytest.raises((UsageError, InputError), match=message) as error:
        load_model(text)
    assert error.value.hint


@pytest.mark.parametrize("text", ["own_networks:plain", "./own_networks.py:plain", "own_networks:Net"])
def test_a_function_is_named_by_module_or_file(code, text):
    facts = {fact.name: fact for fact in open_model(text).facts}
    assert facts["input"].source == facts["normalisation"].source == "guessed"
    assert facts["classes"].value == "4: 0, 1, 2, ..." and str(code) not in sys.path


def test_a_file_is_code_for_weights_too(code):
    model = load_model("./own_networks.py:plain", classes=("a", "b", "c", "d"), size=32)
    save(code / "w.safetensors", model)
    with pytest.raises(InputError, match="made with the code"):
        load_model("w.safetensors")
    again = load_model("w.safetensors", arch="./own_networks.py:plain")
    assert again.classes == ("a", "b", "c", "d") and again.input_shape == (3, 32, 32)
    assert torch.equal(again.network.conv.weight, model.network.conv.weight)


def test_one_logit_survives_a_file(code):
    model = load_model("own_networks:one", classes=("no", "yes"), size=32)
    save(code / "w.safetensors", model)
    again = load_model("w.safetensors", arch="own_networks:one")
    assert again.classes == ("no", "yes")
    torch.testing.assert_close(again(probes((3, 32, 32))), model(probes((3, 32, 32))))


@pytest.mark.parametrize(
    ("text", "size", "side", "source"),
    [
        ("own_networks:Declares", None, 40, "known"),
        ("own_networks:fixed", None, 96, "measured"),
        ("own_networks:plain", None, 224, "guessed"),
        ("own_networks:plain", (48, 56), 48, "given"),
    ],
)
def test_the_input_size_and_its_source(code, text, size, side, source):
    loaded = open_model(text, Given(size=size))
    fact = next(fact for fact in loaded.facts if fact.name == "input")
    assert loaded.model.input_shape == (3, side, side) and fact.source == source


def test_what_code_prints_does_not_reach_stdout(code, capsys):
    load_model("own_networks:noisy", size=32)
    assert capsys.readouterr().out == ""


def test_a_wrong_given_size_is_one_error(code):
    with pytest.raises(InputError, match="cannot take an image of 32 x 32: AssertionError: wrong side"):
        load_model("own_networks:fixed", size=32)


@pytest.mark.parametrize(
    "text", ["0", "240/", "240/200", "x", "5000", "24x", "x24", "24x5000", "24x24x24", "384x128/400x100"]
)
def test_sizes(text):
    assert sizes("240") == (240, 240) and sizes("240/255") == (240, 255) and sizes(None) is None
    assert sizes("384x128") == ((384, 128), (384, 128)) and sizes("24x24/32") == (24, 32)
    assert sizes("384x128/400x144") == ((384, 128), (400, 144))
    if text != "240/":
        with pytest.raises(UsageError, match="is not a size"):
            sizes(text)


def test_names_of_classes_are_typed_or_read_from_a_file(tmp_path):
    assert class_names("ant, bee,cat") == ("ant", "bee", "cat")
    for name, content in (
        ("a.txt", "ant\nbee\r\ncat\n\n"),
        ("b.json", '["ant", "bee", "cat"]'),
        ("c.json", '{"0": "ant", "1": ["n1", "bee"], "2": "cat"}'),
    ):
        (tmp_path / name).write_text(content)
        assert class_names(str(tmp_path / name)) == ("ant", "bee", "cat")


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"a": 1}', "holds no names"), ("[1, 2]", "holds no names"), ("{", "holds no names"), ("[]", "empty names")],
)
def test_a_file_without_names_is_refused(content, message, tmp_path):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises((UsageError, InputError), match=message):
        class_names(str(tmp_path / "c.json"))


@pytest.mark.parametrize(("text", "message"), [("a,,b", "empty names"), ("a,b,a", "twice"), ("nope", "no such file")])
def test_names_that_are_typed_wrongly_are_refused(text, message):
    with pytest.raises((UsageError, InputError), match=message):
        class_names(text)


def test_the_hint_names_the_public_place_of_what_moved(code):
    (code / "old.py").write_text("from stochx.engine.classifier import Classifier\n")
    with pytest.raises(InputError) as caught:
        load_model("old:make")
    assert "from stochx import Classifier, Preparation" in caught.value.hint
    assert issubclass(stochx.Classifier, torch.nn.Module) and stochx.Preparation(256, 224).crop == 224
