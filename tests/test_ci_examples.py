"""The GitHub action and the GitLab example: their scripts are run, with a tiny network and a few images."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest
import yaml
from conftest import ROOT, save_net
from PIL import Image
from support import stochx

ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"]}
EXAMPLES = [
    yaml.safe_load(text) for text in re.findall("```yaml\n(.+?)```", (ROOT / "docs/ci.md").read_text(), re.DOTALL)
]
QUICK = {"STOCHX_ATTACK_CHECKS": "none", "STOCHX_ATTACK_FIGURE": "0", "STOCHX_ATTACK_ATTACK": "fgsm"}


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """The folder of a job: a network, images, an earlier run, and the installed command."""
    folder = tmp_path_factory.mktemp("job")
    save_net(folder / "net.safetensors", ("cat", "dog", "owl"))
    for k, name in enumerate(("cat", "dog", "owl")):
        (folder / "my photos" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), (80 * k, 50, 90)).save(folder / "my photos" / name / "a.png")
    done = stochx("attack", "net.safetensors", "--data", "my photos", "-o", "baseline/attack", cwd=folder, env=QUICK)
    assert done.returncode == 0, done.stderr
    (folder / "bin").mkdir()
    for name, line in {"stochx": "-m stochx", "python": ""}.items():
        (folder / "bin" / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {line} "$@"\n')
        (folder / "bin" / name).chmod(0o755)
    return folder


def run(script, folder, env):
    """Run a script as GitHub's `shell: bash` does."""
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    github = {name: str(folder / name.lower()) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    environ = os.environ | QUICK | github | {"PYTHONPATH": str(ROOT), "PATH": path} | env
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)


def environment(step, **inputs):
    """Return the variables of a step, with these inputs."""
    values = {name: declared.get("default", "") for name, declared in ACTION["inputs"].items()} | inputs
    return {
        name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda match: values[match[1]], text)
        for name, text in step["env"].items()
    }


def test_the_action_runs_a_command_and_compares_it(job):
    typed = "attack net.safetensors --data 'my photos' --fail-under 1 --include '$(touch hacked)'"
    step = STEPS["Run stochx"]
    refused = run(step["run"], job, environment(step, arguments=typed))
    assert refused.returncode == 2 and "$(touch hacked)" in refused.stderr and not (job / "hacked").exists()
    done = run(step["run"], job, environment(step, arguments=typed.partition(" --include")[0]))
    assert done.returncode == 3 and "gate missed" in done.stderr, done.stderr
    assert (job / "github_output").read_text() == "exit-code=2\nexit-code=3\n"
    assert ElementTree.parse(job / "stochx.xml").getroot().get("failures") == "1"
    step = STEPS["Compare with the baseline"]
    nothing = run(step["run"], job, environment(step, baseline="baseline/attack", output="none"))
    assert (nothing.returncode, nothing.stdout, nothing.stderr) == (0, "", "")
    compared = run(step["run"], job, environment(step, baseline="baseline/attack"))
    assert compared.returncode == 0 and "robust ↑" in compared.stdout, compared.stderr
    summary = (job / "github_step_summary").read_text()
    assert re.findall("^### (.+)$", summary, re.MULTILINE) == ["stochx attack", "stochx compare"]
    assert "**gate missed:**" in summary and "stochx attack net.safetensors" in summary


def test_the_action_installs_from_itself(job, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text('#!/bin/sh\necho "$@" >> calls\n')
    (tmp_path / "bin" / "python").chmod(0o755)
    done = run(STEPS["Install stochx"]["run"], tmp_path, {"ACTION": "/the/action"})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "calls").read_text().splitlines()[-1] == "-m pip install --quiet /the/action"
    assert STEPS["Install stochx"]["env"] == {"ACTION": "${{ github.action_path }}"}


def test_inputs_reach_scripts_as_variables_alone():
    """An input within a script would be run by the shell."""
    assert not [step["name"] for step in STEPS.values() if "${{" in step["run"]]
    used = {name for step in STEPS.values() for name in re.findall(r"inputs\.([\w-]+)", str(step))}
    assert used == set(ACTION["inputs"])


def test_the_example_of_the_action_gives_it_inputs_that_it_has():
    (example,) = [example for example in EXAMPLES if "jobs" in example]
    (step,) = [s for s in example["jobs"]["robustness"]["steps"] if s["uses"].startswith("OWNER/stochx")]
    assert set(step["with"]) <= set(ACTION["inputs"])
    assert stochx(*step["with"]["arguments"].split(), "--config", "no.toml").stderr.startswith(
        "error: no such file: `no"
    )


@pytest.mark.slow  # two more processes, each of which imports torch
def test_the_gitlab_example_runs(job):
    (example,) = [example["robustness"] for example in EXAMPLES if "robustness" in example]
    variables = example["variables"] | {"DATA": "my photos", "MINIMUM": "0"}
    for line in example["script"]:
        done = run(line, job, variables)
        assert done.returncode == 0, done.stderr
    assert ElementTree.parse(job / example["artifacts"]["reports"]["junit"]).getroot().get("failures") == "0"
    assert all((job / path).exists() for path in example["artifacts"]["paths"])
    assert "robust ↑" in (job / "comparison.md").read_text()
