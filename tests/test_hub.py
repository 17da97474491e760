"""Folders of Hugging Face and names on its hub: the networks in them give the logits that their own libraries give."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stochx.architectures import architecture
from stochx.engine.network import shards
from stochx.engine.network.weights import load, save
from stochx.errors import InputError, StochxError, UsageError
from stochx.hub import fetched
from stochx.loading import load_model, open_model

LABELS = {"num_labels": 3, "id2label": {0: "ant", 1: "bee", 2: "cat"}}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def transformers():
    module = pytest.importorskip("transformers", reason="needs transformers")
    module.utils.logging.set_verbosity_error()
    module.utils.logging.disable_progress_bar()
    return module


def vit(transformers, **options):
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(
            **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
            | {"image_size": 32, "patch_size": 8}
            | LABELS
            | options
        )
    )


def tiny(kind, **options):
    def make(transformers):
        config = getattr(transformers, f"{kind}Config")(**LABELS | options)
        return getattr(transformers, f"{kind}ForImageClassification")(config)

    return make


def deit(kind):
    def make(transformers):
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        config = transformers.DeiTConfig(image_size=32, patch_size=8, **sizes, **LABELS)
        return getattr(transformers, kind)(config)

    return make


FOUR = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 16, 16]}
NETWORKS = {
    "vit": (vit, "timm:vit_tiny_patch16_224:"),
    "vit, no bias": (lambda t: vit(t, qkv_bias=False), "timm:vit_tiny_patch16_224:"),
    "vit, another activation": (lambda t: vit(t, hidden_act="relu"), "transformers:"),
    "deit": (deit("DeiTForImageClassification"), "transformers:"),
    "deit, distilled": (deit("DeiTForImageClassificationWithTeacher"), "timm:deit_tiny_distilled_patch16_224:"),
    "resnet18": (
        tiny("ResNet", hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic"),
        "resnet18",
    ),
    "resnet": (tiny("ResNet", hidden_sizes=[8, 16], depths=[1, 1], embedding_size=8), "transformers:"),
    "convnext": (tiny("ConvNext", **FOUR), "transformers:"),
    "swin": (
        tiny("Swin", image_size=32, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4),
        "transformers:",
    ),
    "dinov2": (
        tiny("Dinov2", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=28, patch_size=14),
        "transformers:",
    ),
    "regnet": (tiny("RegNet", embedding_size=8, groups_width=8, **FOUR), "transformers:"),
    "mobilenet v2": (tiny("MobileNetV2", depth_multiplier=0.35), "transformers:"),
}


def redrawn(network):
    """Return a network with weights that give each layer an effect, in eval mode."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            drawn = torch.randn(tensor.shape, generator=generator)
            scale = 1.5 / (tensor[0].numel() ** 0.5) if tensor.dim() > 1 else 0.2
            tensor.copy_(drawn * scale + float(tensor.dim() == 1 and name.endswith("weight")))
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            buffer.abs_().add_(0.5)
    return network.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folder_of_transformers_gives_the_logits_of_transformers(name, transformers, tmp_path):
    make, arch = NETWORKS[name]
    theirs = redrawn(make(transformers))
    theirs.save_pretrained(tmp_path / "folder")
    model = load_model(tmp_path / "folder")
    side = getattr(theirs.config, "image_size", 32)
    x = torch.rand(2, 3, *[side if isinstance(side, int) and side < 64 else 32] * 2)
    with torch.inference_mode():
        expected = theirs(x).logits
        torch.testing.assert_close(model.network(x), expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 1e-3 and (expected[0] - expected[1]).abs().max() > 1e-6
    assert model.arch.startswith(arch) and model.classes == ("ant", "bee", "cat")
    save(tmp_path / "own.safetensors", model)
    with torch.inference_mode():
        torch.testing.assert_close(load_model(tmp_path / "own.safetensors").network(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_convnext_tiny_is_that_of_timm(transformers, tmp_path):
    pytest.importorskip("timm")
    theirs = redrawn(tiny("ConvNext")(transformers))
    theirs.save_pretrained(tmp_path)
    model, x = load_model(tmp_path), torch.rand(1, 3, 64, 64)
    assert model.arch == "timm:convnext_tiny"
    with torch.inference_mode():
        torch.testing.assert_close(model.network(x), theirs(x).logits, rtol=1e-4, atol=1e-4)


PREPROCESSORS = {
    "vit": ({"size": {"height": 32, "width": 32}, "resample": 3}, ("32", "32", "bicubic")),
    "old": ({"size": 40, "resample": 2}, ("40", "40", "bilinear")),
    "cut": ({"size": {"shortest_edge": 40}, "crop_size": 32, "do_center_crop": True}, ("32", "40", "bilinear")),
    "convnext": ({"size": {"shortest_edge": 28}, "crop_pct": 0.875, "resample": 1}, ("28", "32", "lanczos")),
}


@pytest.mark.parametrize("name", PREPROCESSORS)
def test_the_preprocessing_of_a_folder_is_read(name, transformers, tmp_path):
    vit(transformers).save_pretrained(tmp_path)
    told, (crop, resize, resampling) = PREPROCESSORS[name]
    norm = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told | norm))
    try:
        model = load_model(tmp_path)
    except InputError as error:  # a ViT of 32 pixels takes no others; what was read is said
        assert f"{crop} x {crop}" in str(error)
        return
    view = model.preparation
    assert (str(view.crop), str(view.resize), view.resampling) == (crop, resize, resampling)
    assert model.mean.flatten().tolist() == pytest.approx([0.5, 0.4, 0.3])
    assert model.std.flatten().tolist() == pytest.approx([0.2, 0.3, 0.4])


def test_deviations_that_are_not_positive_are_told_with_their_file(transformers, tmp_path):
    vit(transformers).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_std": [0.2, 0.0, 0.2]}))
    with pytest.raises(InputError, match=r"preprocessor_config.json`: the standard deviations"):
        load_model(tmp_path)


@pytest.mark.parametrize("safe", [True, False])
def test_a_folder_of_timm_is_read(safe, tmp_path):
    timm = pytest.importorskip("timm")
    hub = pytest.importorskip("timm.models._hub")
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
    theirs = redrawn(timm.create_model("vit_tiny_patch16_224", num_classes=3, **sizes))
    hub.save_for_hf(theirs, tmp_path, model_config={"label_names": ["ant", "bee", "cat"]}, safe_serialization=safe)
    model, x = load_model(tmp_path), torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(model.network(x), theirs(x), rtol=0, atol=0)
    assert model.classes == ("ant", "bee", "cat") and model.preparation.crop == 32
    assert model.mean.flatten().tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("channels", [1, 4])
def test_a_folder_of_timm_gives_the_channels_of_its_network(channels, tmp_path):
    timm, hub = pytest.importorskip("timm"), pytest.importorskip("timm.models._hub")
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "in_chans": channels}
    theirs = redrawn(timm.create_model("vit_tiny_patch16_224", num_classes=3, **sizes))
    hub.save_for_hf(theirs, tmp_path, model_config={"label_names": ["ant", "bee", "cat"]})
    model, x = load_model(tmp_path), torch.rand(2, channels, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(model.network(x), theirs(x), rtol=0, atol=0)
    assert model.input_shape == (channels, 32, 32) and model.mean.flatten().tolist() == [0.5] * channels


def test_a_gray_vit_of_transformers_takes_gray_images(transformers, tmp_path):
    theirs = redrawn(vit(transformers, num_channels=1))
    theirs.save_pretrained(tmp_path)
    model, x = load_model(tmp_path), torch.rand(2, 1, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(model.network(x), theirs(x).logits, rtol=1e-5, atol=1e-5)
    assert model.arch.startswith("timm:") and model.input_shape == (1, 32, 32)


def sharded(tensors, folder, write=save_file, ending="model.safetensors"):
    """Write tensors in two files, with an index."""
    folder.mkdir(exist_ok=True)
    names, (stem, _, kind) = list(tensors), ending.partition(".")
    files = [f"{stem}-0000{i}-of-00002.{kind}" for i in (1, 2)]
    places = {name: files[i % 2] for i, name in enumerate(names)}
    for file in files:
        write({name: tensors[name] for name in names if places[name] == file}, folder / file)
    index = folder / f"{ending}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


@pytest.fixture
def tensors():
    from stochx.catalog import MODELS

    return MODELS.make("resnet20")(10).network.state_dict()


@pytest.mark.parametrize(
    ("ending", "write"), [("model.safetensors", save_file), ("pytorch_model.bin", torch.save)], ids=["safe", "pickles"]
)
def test_weights_in_several_files_are_one_network(ending, write, tensors, tmp_path):
    index = sharded(tensors, tmp_path / "folder", write, ending)
    for text in (index, index.parent):
        model = load_model(text)
        assert all(torch.equal(model.network.state_dict()[name], value) for name, value in tensors.items())


def lie(change):
    def tell(index):
        content = json.loads(index.read_text())
        change(content["weight_map"])
        index.write_text(json.dumps(content))

    return tell


LIES = {
    "outside": (lie(lambda m: m.update({"conv1.weight": "../w.safetensors"})), "not beside it"),
    "absolute": (lie(lambda m: m.update({"conv1.weight": "/etc/passwd"})), "not beside it"),
    "itself": (lie(lambda m: m.update({"conv1.weight": "model.safetensors.index.json"})), "not beside it"),
    "a number": (lie(lambda m: m.update({"conv1.weight": 3})), "not beside it"),
    "a missing file": (lie(lambda m: m.update({"x": "none.safetensors"})), "lacks `none.safetensors`"),
    "a missing tensor": (lie(lambda m: m.update({"x": next(iter(m.values()))})), "lacks `x`"),
    "another tensor": (lie(lambda m: m.pop("conv1.weight")), "against its index, `conv1.weight`"),
    "nothing": (lie(lambda m: m.clear()), "names no tensors"),
    "no map": (lambda index: index.write_text("{}"), "is damaged"),
    "no json": (lambda index: index.write_text("{" * 10**5), "is damaged"),
    "a list": (lambda index: index.write_text("[]"), "is damaged"),
    "deep": (lambda index: index.write_text("[" * 10**5), "is damaged"),
}


@pytest.mark.parametrize("name", LIES)
def test_the_lies_of_an_index_are_one_error(name, tensors, tmp_path):
    index = sharded(tensors, tmp_path / "folder")
    change, why = LIES[name]
    change(index)
    with pytest.raises(InputError, match=why):
        load(index)


def test_folders_without_one_network_say_so(tensors, tmp_path):
    with pytest.raises(InputError, match="no weights file"):
        load_model(tmp_path)
    for name in ("a.pth", "b.pth"):
        torch.save(tensors, tmp_path / name)
    with pytest.raises(InputError, match="several weights files"):
        load_model(tmp_path)
    (tmp_path / "__0_0.distcp").touch()
    with pytest.raises(InputError, match="distributed checkpoint") as error:
        load_model(tmp_path)
    assert "dcp_to_torch" in error.value.hint


DAMAGED = {
    "no json": "{",
    "a list": "[]",
    "no classes": '{"model_type": "vit", "architectures": ["ViTModel"]}',
    "an unknown type": '{"model_type": "x", "architectures": ["XForImageClassification"]}',
    "code": '{"model_type": "x", "architectures": ["MyForImageClassification"], "auto_map": {"AutoConfig": "c.C"}}',
    "many layers": '{"model_type": "vit", "architectures": ["ViTForImageClassification"], "num_hidden_layers": 999999}',
    "wide layers": '{"model_type": "vit", "architectures": ["ViTForImageClassification"], "hidden_size": 96000000}',
    "open_clip": '{"model_cfg": {}}',
    "timm": '{"architecture": "no_such_net"}',
    "timm, many layers": '{"architecture": "vit_tiny_patch16_224", "model_args": {"depth": 1000000}}',
    "timm, code": '{"architecture": "vit_tiny_patch16_224", "model_args": {"act_layer": {"a": 1}}}',
    "timm, a file": '{"architecture": "vit_tiny_patch16_224", "model_args": {"checkpoint_path": "/etc/passwd"}}',
    "timm, crop": '{"architecture": "resnet18", "pretrained_cfg": {"input_size": [3, 9, 9], "crop_pct": 0.001}}',
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_and_hostile_descriptions_are_one_error(name, tensors, tmp_path):
    pytest.importorskip("timm")
    pytest.importorskip("transformers")
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(DAMAGED[name])
    (tmp_path / "c.py").write_text("raise SystemExit('code of the folder ran')")
    start = time.process_time()
    with pytest.raises(StochxError):
        load_model(tmp_path)
    assert time.process_time() - start < 20


@pytest.mark.parametrize(
    "more", [{"attn_implementation": "org/kernel"}, {"_attn_implementation": "org/kernel"}, {"auto_map": {"x": "y.Z"}}]
)
def test_a_header_cannot_choose_code(more, transformers):
    values = {"model_type": "vit", "architectures": ["ViTForImageClassification"], "num_labels": 3, "image_size": 32}
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "patch_size": 8}
    network = architecture("transformers:" + json.dumps(values | sizes | more), 3).build().network
    assert network(torch.rand(1, 3, 32, 32)).shape == (1, 3)
    assert network.config._attn_implementation in ("sdpa", "eager") and not hasattr(network.config, "auto_map")
    with pytest.raises(InputError, match="too many layers"):
        architecture("transformers:" + json.dumps(values | {"num_hidden_layers": 10**9}), 3).build()


@pytest.mark.parametrize("text", ["vit_tiny_patch16_224:x=1", "vit_tiny_patch16_224:checkpoint_path=a", "resnet18:x"])
def test_arguments_that_timm_does_not_take_are_refused(text):
    pytest.importorskip("timm")
    with pytest.raises(UsageError, match=r"cannot be built|has no option"):
        architecture(f"timm:{text}", 3).build()


def test_another_file_beside_a_description_is_not_described_by_it(tensors, tmp_path):
    torch.save(tensors, tmp_path / "mine.pth")
    (tmp_path / "config.json").write_text('{"model_type": "vit", "architectures": ["ViTModel"]}')
    assert load_model(tmp_path / "mine.pth").arch == "resnet20"


# The hub


def cache(folder, repo, files, revision="main"):
    """Make the hub's cache of a repository."""
    root = folder / f"models--{repo.replace('/', '--')}"
    snapshot = root / "snapshots" / COMMIT
    for name, content in files.items():
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).write_bytes(content)
    (root / "refs").mkdir()
    (root / "refs" / revision).write_text(COMMIT)
    return snapshot


@pytest.fixture
def hub(monkeypatch, tmp_path):
    module = pytest.importorskip("huggingface_hub")
    constants, download = module.constants, pytest.importorskip("huggingface_hub.file_download")
    for place in (constants, download):
        monkeypatch.setattr(place, "HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "hub"


@pytest.fixture
def files(transformers, tmp_path):
    redrawn(vit(transformers)).save_pretrained(tmp_path / "made")
    return {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}


def test_a_name_is_read_from_the_cache_with_its_commit(hub, files, tmp_path):
    cache(hub, "org/net", files)
    for text in ("hf:org/net", "hf:org/net@main", "hf:org/net:model.safetensors", f"hf:org/net@{COMMIT}"):
        loaded = open_model(text)
        assert loaded.model.classes == ("ant", "bee", "cat")
        assert f"{text} at {COMMIT}" in [fact.value for fact in loaded.facts if fact.name == "hub"]
    save(tmp_path / "own.safetensors", load_model("hf:org/net"))
    assert load_model(tmp_path / "own.safetensors").origin["hub"] == f"hf:org/net at {COMMIT}"


def test_a_part_of_a_file_on_the_hub_can_be_chosen(hub, tensors, tmp_path):
    torch.save({"net": tensors, "ema": {n: v + 1 for n, v in tensors.items()}}, tmp_path / "w.pth")
    cache(hub, "org/net", {"sub/w.pth": (tmp_path / "w.pth").read_bytes()})
    plain, average = load_model("hf:org/net:sub/w.pth#net"), load_model("hf:org/net:sub/w.pth", ema=True)
    first, second = (m.network.state_dict()["conv1.weight"] for m in (plain, average))
    torch.testing.assert_close(second, first + 1)


def test_half_of_a_network_in_the_cache_is_not_taken(hub, tensors, tmp_path):
    index = sharded(tensors, tmp_path / "shards")
    config = {"config.json": b"{}", index.name: index.read_bytes()}
    cache(hub, "org/net", config | {"model-00001-of-00002.safetensors": b""})
    with pytest.raises(InputError, match="is not here, and there is no network"):
        fetched("hf:org/net")


@pytest.mark.parametrize("offline", ["0", "1"])
def test_without_a_network_there_is_an_error_within_seconds(offline, tmp_path):
    pytest.importorskip("huggingface_hub")
    environment = {
        "PATH": "/usr/bin:/bin",
        "HF_HUB_OFFLINE": offline,
        "HF_HUB_CACHE": str(tmp_path / "mine"),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "HOME": str(tmp_path),
    }
    code = (
        "import time; from stochx.hub import fetched; from stochx.errors import InputError\n"
        "start = time.monotonic()\n"
        "try: fetched('hf:org/net')\n"
        "except InputError as error: print(error, error.hint, time.monotonic() - start, sep='|')"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert not done.returncode, done.stderr
    message, hint, seconds = done.stdout.strip().split("|")
    assert "is not here, and there is no network" in message and str(tmp_path / "mine") in hint
    assert float(seconds) < 8


@pytest.mark.parametrize(
    "text", ["hf:", "hf:a/b/c", "hf:../x", "hf:a b", "hf:@main", "hf:a/b:../x", "hf:a/b:/etc/passwd", "hf:a/--b"]
)
def test_names_of_no_network_are_refused(text, hub):
    with pytest.raises(UsageError, match="is no name on the hub"):
        fetched(text)


class Repository(http.server.BaseHTTPRequestHandler):
    """A hub with one repository, `org/net`."""

    files: dict[str, bytes] = {}  # noqa: RUF012  # set by the test
    asked: list[str] = []  # noqa: RUF012

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0]
        name = path.removeprefix("/org/net/resolve/main/").removeprefix(f"/org/net/resolve/{COMMIT}/")
        if path.startswith("/api/models/org/net/tree"):
            listed = [{"type": "file", "path": n, "size": len(b), "oid": "abc"} for n, b in self.files.items()]
            body = json.dumps(listed).encode()
        elif name in self.files:
            self.asked.append(name)
            body = self.files[name]
        else:
            body = None
        self.send_response(404 if body is None else 200)
        if body is None and path.startswith("/api/"):
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("ETag", f'"{name.encode().hex()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body or b"")


@pytest.fixture
def server(hub, files, monkeypatch):
    constants = pytest.importorskip("huggingface_hub").constants
    Repository.files, Repository.asked = {**files, "modeling.py": b"raise SystemExit", "README.md": b""}, []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Repository) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{running.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield Repository
        running.shutdown()


def test_a_name_is_fetched_once_and_its_code_never(server, hub):
    found = fetched("hf:org/net")
    assert found.commit == COMMIT and {path.name for path in found.path.iterdir()} == {
        "config.json",
        "model.safetensors",
    }
    assert {*server.asked} == {"config.json", "model.safetensors"}
    server.asked.clear()
    assert load_model("hf:org/net").classes == ("ant", "bee", "cat") and not server.asked
    assert load_file(found.path / "model.safetensors")


def test_a_name_that_the_hub_does_not_have_is_an_error(server, hub):
    with pytest.raises(InputError, match="the hub has no `hf:org/other`"):
        fetched("hf:org/other")
    with pytest.raises(InputError, match="there is no such file"):
        fetched("hf:org/net:other.bin")


def test_the_usual_names_of_weights_come_before_others(tensors, tmp_path):
    save_file(tensors, tmp_path / "model.safetensors")
    torch.save({"x": torch.ones(3)}, tmp_path / "optimizer.pt")
    assert shards.weights_file(tmp_path, {".pt", ".safetensors"}).name == "model.safetensors"
