"""Every command does what it did when it was recorded, but for the differences that are intended."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from recorded.cases import EXITS, PRINTS, RUNS
from recorded.record import ABSENT, Place, differences, load, options

# Intended differences: the place in a recording, as a failure prints it, and its value of today. `*` in a place stands
# for anything; the value ABSENT says that it is gone. An entry that no difference needs fails too. For example
#   "help/*/--include": {"flags": ["--include"], "value": "FILE.py", "variable": "INCLUDE", "panel": "Run"},
#   "help/explain/--support": ABSENT,
#   "runs/fsc-explain/json/command": "fsc-explain",
# A command that is typed in another way is changed in `recorded/cases.py`, and its recording stays.
FSC_EXPLAIN: dict[str, object] = {
    "images": {"flags": ["images"], "value": "IMAGE...", "repeatable": True},
    "--model": {"flags": ["--model"], "value": "FILE", "variable": "MODEL", "panel": "What", "required": True},
    "--support": {"flags": ["--support"], "value": "DIR", "variable": "SUPPORT", "panel": "What", "required": True},
    "--arch": {"flags": ["--arch"], "value": "str", "variable": "ARCH", "panel": "What"},
    "--method": {
        "flags": ["--method", "-m"],
        "value": "NAME[:KEY=VALUE,...]",
        "default": "lrp",
        "variable": "METHOD",
        "panel": "Method",
    },
    "--precision": {
        "flags": ["--precision"],
        "value": "auto|fp32|bf16|tf32",
        "default": "auto",
        "variable": "PRECISION",
        "panel": "Run",
    },
    "--figure": {
        "flags": ["--figure", "--no-figure"],
        "default": "figure",
        "variable": "FIGURE",
        "panel": "Output",
        "switch": True,
    },
    "--device": {"flags": ["--device"], "value": "str", "default": "auto", "variable": "DEVICE", "panel": "Run"},
    "--seed": {"flags": ["--seed"], "value": "int", "default": "0", "variable": "SEED", "panel": "Run"},
    "--output": {"flags": ["--output", "-o"], "value": "path", "variable": "OUTPUT", "panel": "Output"},
    "--resume": {"flags": ["--resume"], "variable": "RESUME", "panel": "Run", "switch": True},
    "--overwrite": {"flags": ["--overwrite"], "variable": "OVERWRITE", "panel": "Run", "switch": True},
    "--include": {
        "flags": ["--include"],
        "value": "FILE.py",
        "variable": "INCLUDE",
        "panel": "Run",
        "repeatable": True,
    },
    "--config": {"flags": ["--config"], "value": "FILE.toml", "variable": "CONFIG", "panel": "Run"},
    "--json": {"flags": ["--json"], "variable": "JSON", "panel": "Output", "switch": True},
    "--quiet": {"flags": ["--quiet", "-q"], "variable": "QUIET", "panel": "Output", "switch": True},
    "--verbose": {"flags": ["--verbose", "-v"], "variable": "VERBOSE", "panel": "Output", "switch": True},
    "--help": {"flags": ["--help", "-h"], "switch": True},
}

AT_BASELINES: dict[str, object] = {
    "--awp": {
        "flags": ["--awp"],
        "value": "float",
        "default": "0.0",
        "range": "0<=x<=1",
        "variable": "AWP",
        "panel": "Method",
    },
    "--awp-delay": {
        "flags": ["--awp-delay"],
        "value": "int",
        "default": "0",
        "range": "x>=0",
        "variable": "AWP_DELAY",
        "panel": "Method",
    },
    "--extra": {"flags": ["--extra"], "value": "NAME[:KEY=VALUE,...]", "variable": "EXTRA", "panel": "What"},
    "--extra-share": {"flags": ["--extra-share"], "value": "float", "variable": "EXTRA_SHARE", "panel": "Method"},
}

SAMPLES: dict[str, tuple[object, ...]] = {  # kind, count, total, hash, trained
    "train/json/sample": ("all", 60, 60, "65c7b660d66b400b", None),
    "train-adversarial/json/sample": ("all", 30, 30, "48f814198c9441b5", None),
    "train-init/json/sample": ("first", 20, 60, "20e436f63fc4963d", None),
    "distill/json/sample": ("first", 40, 60, "89f63c6d0dafa77e", None),
    "explain/json/sample": ("first", 3, 13, "3617e375c658053a", 0),
    "explain-noisy/json/sample": ("all", 1, 1, "e08ef6612b131f20", 0),
    "score/json/sample": ("first", 4, 12, "7c9eb4fe4b420fd1", 0),
    "score-controls/json/sample": ("all", 1, 1, "e08ef6612b131f20", 0),
    "score-maps/json/sample": ("all", 3, 3, "1c2bcc776827b5d3", None),
    "attack/json/sample": ("all", 12, 12, "41dd7bb82996bca7", 0),
    "attack-l2/json/sample": ("first", 6, 12, "71d891a9f889db9c", 0),
    "attack-eps/json/sample": ("first", 6, 12, "71d891a9f889db9c", 0),
    "attack-noise/json/sample": ("first", 6, 12, "71d891a9f889db9c", 0),
    "attack-versus/json/sample": ("all", 12, 12, "41dd7bb82996bca7", 0),
    "train/json/test_sample": ("all", 12, 12, "41dd7bb82996bca7", 0),
    "train-adversarial/json/test_sample": ("all", 6, 6, "71d891a9f889db9c", 0),
    "train-init/json/test_sample": ("all", 12, 12, "41dd7bb82996bca7", 0),
    "distill/json/test_sample": ("all", 12, 12, "41dd7bb82996bca7", 0),
}

INTENDED: dict[str, object] = {
    # every command takes entries from outside, a config file, and `--verbose`
    "help/*/--include": {
        "flags": ["--include"],
        "value": "FILE.py",
        "variable": "INCLUDE",
        "panel": "Run",
        "repeatable": True,
    },
    "help/*/--config": {"flags": ["--config"], "value": "FILE.toml", "variable": "CONFIG", "panel": "Run"},
    "help/*/--verbose": {"flags": ["--verbose", "-v"], "variable": "VERBOSE", "panel": "Output", "switch": True},
    # what is guessed of a network can be given; `info` says where the size of the input is known from
    **{
        f"help/{command}/--{name}": {"flags": [f"--{name}"], "value": value, "variable": name.upper(), "panel": "What"}
        for command in ("explain", "score", "attack", "train", "distill", "boundary", "info")
        for name, value in {"size": "N[/M]", "classes": "A,B,C|FILE"}.items()
    },
    **{
        f"help/train/--{name}": {"flags": [f"--{name}"], "value": "R,G,B", "variable": name.upper(), "panel": "What"}
        for name in ("mean", "std")
    },
    "runs/info*/*/4/value": "3: disc, square, triangle",
    "runs/info/*/9/source": "header",
    "runs/info-noisy/*/10/source": "header",
    # one rule for folders that hold files
    "help/*/--overwrite": {"flags": ["--overwrite"], "variable": "OVERWRITE", "panel": "Run", "switch": True},
    # a pipeline's own STOCHX_VERSION is not ours
    "help/stochx/--version/variable": ABSENT,
    "help/stochx/--completion/variable": ABSENT,
    # `explain --support` is `fsc-explain`, without the options that it used to ignore
    "help/explain/--support": ABSENT,
    "help/fsc-explain": FSC_EXPLAIN,
    "runs/fsc-explain/json/command": "fsc-explain",
    **{
        f"runs/fsc-explain/{place}/{key}": value
        for place in ("json/args", "files/config.toml")
        for key, value in {"crop": ABSENT, "draws": ABSENT, "batch_size": ABSENT, "method": "lrp"}.items()
    },
    # closed choices, and placeholders that say what is expected
    "help/explain/images/value": "[IMAGE]...",
    "help/*/--precision/value": "auto|fp32|bf16|tf32",
    "help/score/--maps/value": "DIR",
    "help/*/model/value": "MODEL",
    "help/*/--norm/value": "linf|l2|l1",
    "help/attack/--judge/value": "any|last",
    "help/attack/--checks/value": "none|quick|full",
    "help/attack/--fail-on/value": "point|lower",
    "help/*/--optimizer/value": "sgd|adamw",
    "help/*/--schedule/value": "one-cycle|cosine|step|constant",
    "help/*/--adversarial/value": "NAME[:KEY=VALUE,...]",
    "help/*/--recipe/value": "madry|mixed|trades|ard",
    "help/distill/--init/value": "teacher|random",
    "help/distill/--kd/value": "NAME[:KEY=VALUE,...]",
    "help/fsc-test/--versus/value": "MODEL",
    "help/boundary/--plane/value": "images|gradient|attack",
    # what is given twice is to be given once
    "exits/explain with the same method twice/hint": True,
    "exits/attack twice the same/hint": True,
    # a batch size is a number
    "runs/explain/json/args/batch_size": 8,
    "runs/explain/files/config.toml/batch_size": 8,
    # what was saved stands with the image, so that it is counted after `--resume`
    "runs/attack-l2/files/records.jsonl/0/0": "attacks clean image index label margin off prediction saved seconds"
    " vote worst worst_attack",
    # a query that cannot be read does not stop the others
    "runs/fsc-explain/json/failed": [],
    # the ends of intervals replace half-widths, which raises the version of the schema
    "*/json/schema": 2,
    # a point of a sweep is shown as it was typed
    "runs/attack/json/results/*/typed": "1/255",
    "runs/attack-versus/json/results/*/typed": "1/255",
    "runs/attack-l2/json/results/*/typed": "0.05",
    **{
        f"runs/attack-{name}/json/results/{row}/typed": text
        for name, texts in {"eps": ("0", "2/255", "8/255"), "noise": ("0", "0.5", "1")}.items()
        for row, text in enumerate(texts)
    },
    "runs/attack-eps/table/rows/1/eps": "2/255",
    "runs/attack-eps/table/rows/2/eps": "8/255",
    # the records of scores name the image's class
    "runs/score*/files/records.jsonl/0/0": "class_name disagreement image index method probability scores seconds sigma"
    " target true",
    # the interval between validations follows the number of episodes
    "help/fsc-train/--every/default": ABSENT,
    # a limit may be a share, and the document says which images were used
    "help/*/--limit/value": "N|P%",
    "help/*/--limit/range": ABSENT,
    "help/*/--sample": {"flags": ["--sample"], "value": "first|balanced", "variable": "SAMPLE", "panel": "What"},
    **{
        f"runs/{place}": dict(zip(("kind", "count", "total", "hash", "trained"), values, strict=True))
        for place, values in SAMPLES.items()
    },
    # files of trainings know their training images, and images that cannot be read do not stop a training
    "runs/*.safetensors/metadata": ["stochx", "stochx.trained"],
    **{f"runs/{command}/json/failed": [] for command in ("train*", "distill", "fsc-train*", "fsc-test*")},
    "runs/fsc-test*/files/records.jsonl/0/0": "domain episodes failed",
    # robust accuracy at every radius, and a gate at any of them
    "help/attack/--curve": {"flags": ["--curve"], "variable": "CURVE", "panel": "Method", "switch": True},
    "help/attack/--fail-under/value": "X[@EPS]",
    "help/attack/--fail-under/range": ABSENT,
    "runs/attack*/json/args/curve": False,
    "runs/attack*/json/curve": None,
    "runs/attack*/config.toml/curve": False,
    # which output each class of a data set belongs to
    "help/info/--data": {"flags": ["--data"], "value": "NAME[:KEY=VALUE,...]", "variable": "DATA", "panel": "What"},
    # adversarial weight perturbation, smoothed labels, extra images
    "help/train/--smoothing": {
        "flags": ["--smoothing"],
        "value": "float",
        "default": "0.0",
        "range": "0<=x<=0.99",
        "variable": "SMOOTHING",
        "panel": "Method",
    },
    **{f"help/{command}/{name}": option for command in ("train", "distill") for name, option in AT_BASELINES.items()},
    **{
        f"runs/{command}/{place}/{name}": value
        for command in ("train*", "distill")
        for place in ("json/args", "files/config.toml")
        for name, value in {"awp": 0.0, "awp_delay": 0}.items()
    },
    **{f"runs/train*/{place}/smoothing": 0.0 for place in ("json/args", "files/config.toml")},
}


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("recorded").resolve())


def unintended(path, recorded, today):
    """Report differences that `INTENDED` lacks, and entries of it without a difference; empty if there are none."""
    used, lines = set(), []
    for where, (before, after) in differences(recorded, today, path).items():
        fitting = [key for key in INTENDED if fnmatchcase(where, key) and not differences(INTENDED[key], after, "")]
        used.update(fitting)
        if not fitting:
            lines.append(f"{where}: recorded {before!r}, today {after!r}")
    unused = [key for key in INTENDED if key.startswith(f"{path}/") and key not in used]
    return "\n".join(lines + [f"{key}: an intended difference that is not there" for key in unused])


def test_commands_have_the_recorded_options():
    report = unintended("help", load("help"), options())
    assert not report, report


@pytest.mark.parametrize("name", [*RUNS, *PRINTS])
def test_a_command_prints_and_writes_what_was_recorded(name, place):
    report = unintended(f"runs/{name}", load(name), place.observe(name))
    assert not report, report


def test_commands_leave_with_the_recorded_exit_codes(place):
    report = unintended("exits", load("exits"), {title: place.exits(command) for title, command in EXITS.items()})
    assert not report, report


@pytest.mark.parametrize(
    ("recorded", "today", "where"),
    [
        ({"a": 1}, {"a": 2}, "x/a"),
        ({"a": 1}, {"a": 1.0}, "x/a"),
        ({"a": [0.5, 1.0]}, {"a": [0.5, 1.002]}, "x/a/1"),
        ({"a": [1]}, {"a": [1, 2]}, "x/a"),
        ({"a": 1}, {}, "x/a"),
        ({}, {"a": None}, "x/a"),
    ],
)
def test_a_change_is_reported_where_it_is(recorded, today, where):
    assert list(differences(recorded, today, "x")) == [where]


def test_rounding_and_order_are_no_change():
    assert not differences({"a": 1.0, "b": 2}, {"b": 2, "a": 1.0005}, "x")


@pytest.mark.parametrize("cell", ["0.4177 [0.193]", "0.4167 [0.195]", "0.4167 (0.193)", "0.417 [0.193]", "", None])
def test_a_changed_cell_is_reported(cell):
    recorded, today = ({"rows": [{"clean": text}]} for text in ("0.4167 [0.193]", cell))
    assert list(differences(recorded, today, "runs/x/table")) == ["runs/x/table/rows/0/clean"]


@pytest.mark.parametrize("cell", ["1.98989 [0.193]", "1.98990 [0.192]", "1.9899 [0.193]"])
def test_the_last_place_of_a_cell_may_round_otherwise(cell):
    recorded, today = ({"rows": [{"clean": text}]} for text in ("1.98989 [0.193]", cell))
    assert not differences(recorded, today, "runs/x/table")


def test_only_an_intended_value_passes(monkeypatch):
    monkeypatch.setitem(INTENDED, "x/*/--include", "a file")
    monkeypatch.setitem(INTENDED, "x/explain/--support", ABSENT)
    recorded = {"explain": {"--support": 1}, "score": {}}
    today = {"explain": {"--include": "a file"}, "score": {"--include": "a file"}}
    assert not unintended("x", recorded, today)
    today["score"]["--include"] = "a folder"
    assert unintended("x", recorded, today) == f"x/score/--include: recorded {ABSENT!r}, today 'a folder'"
    today["explain"]["--support"], today["score"]["--include"] = 1, "a file"
    assert unintended("x", recorded, today) == "x/explain/--support: an intended difference that is not there"
