"""The command line as its users meet it: output, exit codes, errors, files."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import typer
from conftest import SHARED
from PIL import Image
from support import stochx

from stochx.cli import app
from stochx.cli.commands import summary

FAST = ("-m", "ig:steps=4", "-m", "smoothtaylor:roots=6", "--model", "net.safetensors")


@pytest.fixture(scope="module")
def run(place):
    done = stochx("explain", "a.png", "b.jpg", "odd [name] é.png", *FAST, "-o", "maps", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_json_has_the_documented_shape(run):
    assert run["schema"] == 2 and run["command"] == "explain" and run["seed"] == 0 and run["device"] == "cpu"
    assert {"version", "args", "results", "seconds", "threads", "precision", "batch_size", "failed"} <= set(run)
    assert [(r["image"], r["method"]) for r in run["results"][:2]] == [
        ("a.png", "ig:steps=4"),
        ("a.png", "smoothtaylor:roots=6"),
    ]
    first, second = run["results"][:2]
    assert first["class_name"] in ("cat", "dog", "owl") and 0 < first["probability"] <= 1
    assert first["gap"] is not None and first["error"] is None
    assert second["error"] > 0 and second["gap"] is None and second["used"] == 6


def test_the_files_of_a_run(run, place):
    names = {path.name for path in (place / "maps").iterdir()}
    assert {"config.toml", "records.jsonl", "result.json", "a.explained.png", "odd__name__é.explained.png"} <= names
    assert not any(name.startswith(".") for name in names)
    with np.load(place / "maps" / run["results"][0]["map"]) as file:
        assert file["map"].shape == (3, 32, 32) and file["map"].dtype == np.float32
        np.testing.assert_allclose(file["sum"], file["map"].sum(0), rtol=1e-6)
        assert str(file["method"]) == "ig:steps=4" and str(file["image"]) == "a.png"
    with Image.open(place / "maps" / "a.explained.png") as figure:
        assert figure.size[0] > 800
    assert json.loads((place / "maps" / "result.json").read_text())["results"] == run["results"]


def test_a_pipe_gets_tab_separated_lines(place):
    done = stochx("explain", "a.png", *FAST, "-o", "tsv", "--no-figure", cwd=place)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert lines[0][:3] == ["image", "method", "target"] and len(lines) == 3 and len({len(line) for line in lines}) == 1


def test_the_same_command_gives_the_same_bytes(run, place):
    stochx("explain", "a.png", "b.jpg", "odd [name] é.png", *FAST, "-o", "again", "--no-figure", cwd=place)
    for row in run["results"]:
        with np.load(place / "maps" / row["map"]) as one, np.load(place / "again" / row["map"]) as two:
            np.testing.assert_array_equal(one["map"], two["map"])


def test_resume_skips_what_is_finished_and_refuses_other_settings(run, place):
    before = (place / "maps" / "a.ig_steps=4.npz").stat().st_mtime_ns
    images = ("a.png", "b.jpg", "odd [name] é.png")
    done = stochx("explain", *images, *FAST, "-o", "maps", "--resume", "--json", cwd=place)
    assert done.returncode == 0 and json.loads(done.stdout)["results"] == run["results"]
    assert (place / "maps" / "a.ig_steps=4.npz").stat().st_mtime_ns == before
    other = stochx("explain", *images, *FAST, "-o", "maps", "--resume", "--seed", 1, cwd=place)
    assert other.returncode == 2 and "`seed`" in other.stderr


def test_a_runs_config_replays_it(run, place):
    done = stochx("explain", "--config", "maps/config.toml", "--output", "replay", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    keep = ("image", "method", "target", "used")
    assert [[r[k] for k in keep] for r in json.loads(done.stdout)["results"]] == [
        [r[k] for k in keep] for r in run["results"]
    ]


def test_flags_beat_variables_and_variables_beat_the_file(place):
    (place / "c.toml").write_text('model = "net.safetensors"\nmethod = ["gradient"]\nseed = 3\nfigure = false\n')
    seeds = {}
    for name, more, env in (("file", (), {}), ("env", (), {"STOCHX_EXPLAIN_SEED": "4"}), ("flag", ("--seed", 5), {})):
        done = stochx("explain", "a.png", "--config", "c.toml", "-o", name, "--json", *more, cwd=place, env=env)
        seeds[name] = json.loads(done.stdout)["seed"]
    assert seeds == {"file": 3, "env": 4, "flag": 5}


def test_one_bad_image_is_reported_skipped_and_counted(place):
    done = stochx("explain", "a.png", "bad.jpg", *FAST, "-o", "some", "--no-figure", "--json", cwd=place)
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert len(document["results"]) == 2 and [f["image"] for f in document["failed"]] == ["bad.jpg"]
    assert "error: `bad.jpg` is damaged" in done.stderr


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        (("missing.png",), "no such image: `missing.png`", "check the path"),
        (("bad.jpg",), "`bad.jpg` is damaged", "again"),
        ((".",), "is a directory", "--data"),
        (("a.png", "-m", "smothgrad"), "unknown method `smothgrad`", "did you mean `smoothgrad`?"),
        (("a.png", "-m", "ig:step=3"), "has no key `step`", "did you mean `steps`?"),
        (("a.png", "-m", "ig:steps=x"), "expects a whole number", ""),
        (("a.png", "-m", "ig:steps=0"), "steps", ""),
        (("a.png", "-m", "ig:baseline=blak"), "does not accept `blak`", "did you mean `black`?"),
        (("a.png", "-m", "ig", "-m", "ig"), "given twice", ""),
        (("a.png", "--target", "3"), "there is no class 3", "use 0 to 2"),
        (("a.png", "--target", "cta"), "no class `cta`", "did you mean `cat`?"),
        (("a.png", "--device", "gpu"), "unknown device `gpu`", "auto"),
        (("a.png", "--mean", "1,2"), "2 values of `mean` for a network that takes 3 channels", "one for all"),
        (("a.png", "--batch-size", "0"), "too small", ""),
        (("a.png", "--nonsense"), "nonsense", "--help"),
        ((), "no image is given", "`--data`"),
        (("a.png", "run/net.pt"), "`run/net.pt` is no image", "name the network with `--model`"),
        (("a.png", "--data", "shaps"), "unknown data set", "did you mean `shapes`?"),
    ],
)
def test_what_a_user_can_cause_is_one_error_and_one_hint(args, message, hint, place):
    done = stochx("explain", *args, "--model", "net.safetensors", "-o", "never", cwd=place)
    assert done.returncode == 2, done.stderr
    assert done.stdout == "" and "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert lines[0].startswith("error: ") and message in lines[0], done.stderr
    assert hint in done.stderr and not (place / "never").exists()


def test_an_unknown_config_key_is_an_error(place):
    (place / "wrong.toml").write_text("metod = 3\n")
    done = stochx("explain", "a.png", "--config", "wrong.toml", cwd=place)
    assert done.returncode == 2 and "`metod`" in done.stderr and "`method`" in done.stderr


def test_a_model_that_returns_nan_is_a_failure_that_names_the_image(place):
    (place / "nan_net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self): super().__init__(); self.fc = nn.Linear(3, 2)\n"
        "    def forward(self, x): return self.fc(x.mean((2, 3))) / 0 * 0\n"
        "net = Net\n"
    )
    done = stochx("explain", "a.png", "-m", "gradient", "--model", "nan_net:net", "-o", "never", "-q", cwd=place)
    assert done.returncode == 1 and "`a.png`" in done.stderr and "not finite" in done.stderr
    assert not (place / "never").exists()


def test_info_tells_what_is_known_and_from_where(place):
    rows = json.loads(stochx("info", "net.safetensors", "--json", cwd=place).stdout)["results"]
    facts = {row["name"]: (row["value"], row["source"]) for row in rows}
    assert facts["architecture"] == ("convnet:width=4", "header") and facts["noise"] == ("none", "measured")


def test_list_shows_keys_and_defaults():
    done = stochx("list", "attributions:smoothtaylor")
    assert "roots\tint\t400" in done.stdout
    assert stochx("list", "atributions").returncode == 2


def test_help_says_what_every_command_does():
    done = stochx("--help")
    text = " ".join(done.stdout.replace("│", " ").split())
    commands = typer.main.get_command(app).commands
    assert done.returncode == 0 and len(commands) >= 5
    for name, command in commands.items():
        first = command.help.partition("\n")[0]
        assert f"{name} {first}" in text and summary(name) == first


def test_help_of_a_command_has_panels_examples_and_defaults():
    text = stochx("explain", "--help").stdout
    assert all(f"─ {panel} ─" in text for panel in ("Arguments", "What", "Method", "Run", "Output"))
    assert "  stochx explain img.jpg --method smoothtaylor\n" in text
    assert "default: smoothtaylor" in " ".join(text.replace("│", " ").split())


def test_no_command_is_a_usage_error_that_shows_the_help():
    done = stochx()
    assert done.returncode == 2 and done.stdout == "" and "Usage: stochx" in done.stderr


def test_help_waits_for_no_markdown():
    code = "import sys; sys.argv = ['stochx', '--help']; from stochx.cli import main\ntry: main()\nfinally: "
    code += "print({'markdown_it', 'pygments', 'stochx.cli.explain'} & {*sys.modules}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "set()"


def test_a_reader_that_has_seen_enough_is_no_error(place):
    done = subprocess.run(
        f"{sys.executable} -m stochx list | head -1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interrupt_keeps_what_is_finished(number, code, place):
    out = place / f"cut-{code}"
    images = []
    for i in range(8):
        images.append(f"{out.name}-{i}.png")
        Image.fromarray(np.full((40, 40, 3), 20 * i + 10, dtype=np.uint8)).save(place / images[-1])
    args = ["explain", *images, "-m", "smoothtaylor:roots=3000", "--model", "net.safetensors", "-o", out.name]
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which `nohup` has every process ignore
    process = subprocess.Popen(
        [sys.executable, "-m", "stochx", *args, "--no-figure"],
        cwd=place,
        stderr=subprocess.PIPE,
        text=True,
    )
    records = out / "records.jsonl"
    for _ in range(600):
        if (records.exists() and records.stat().st_size) or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert "error: " in stderr and "--resume" in stderr and "Traceback" not in stderr
    done = [json.loads(line) for line in records.read_text().splitlines()]
    assert 1 <= len(done) < len(images) and all((out / record["map"]).exists() for record in done)


@pytest.mark.slow
def test_two_ranks_give_the_rows_and_maps_of_one(run, place):
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "stochx")
    images = ("a.png", "b.jpg", "odd [name] é.png")
    done = subprocess.run(
        [*torchrun, "explain", *images, *FAST, "-o", "ranks", "--json", "--no-figure"],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["results"]
    assert [(r["image"], r["method"], r["target"]) for r in rows] == [
        (r["image"], r["method"], r["target"]) for r in run["results"]
    ]
    for row in rows:
        with np.load(place / "maps" / row["map"]) as one, np.load(place / "ranks" / row["map"]) as two:
            np.testing.assert_allclose(one["map"], two["map"], rtol=2e-2, atol=1e-5)


@pytest.mark.skipif(not SHARED.exists(), reason="needs the real data; set STOCHX_SHARED to its folder")
def test_a_real_photo_is_explained_with_real_weights(tmp_path):
    photo = SHARED / "imagenet_samples" / "0025_n01629819.jpg"
    weights = SHARED / "weights_imagenet" / "squeezenet1_1.safetensors"
    done = stochx("explain", photo, "-m", "ig", "--model", weights, "--json", cwd=tmp_path)
    row = json.loads(done.stdout)["results"][0]
    assert row["class_name"] == "European fire salamander" and row["probability"] > 0.9
    assert abs(row["gap"]) < 0.05 * abs(row["logit"])
    assert list((tmp_path / "stochx-out" / "explain").glob("*.explained.png"))
