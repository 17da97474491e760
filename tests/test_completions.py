"""Completions as they are met: keys typed into a shell on a pseudo-terminal, and the line that stands there after."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from stochx.cli.completion import SCRIPTS

FOLDER = ROOT / "completions"
BIN = Path(sys.executable).parent
DUMP = "\x14"  # Ctrl-T is bound to: append the line to `lines` and clear it
CASES = [
    ("stochx ex", "stochx explain "),
    ("stochx explain -m smoothtaylor:ro", "stochx explain -m smoothtaylor:roots="),
    ("stochx explain -m smoothtaylor:roots=9,si", "stochx explain -m smoothtaylor:roots=9,sigma="),
    ("stochx explain -m ig:baseline=w", "stochx explain -m ig:baseline=white "),
    ("stochx explain --method=gradc", "stochx explain --method=gradcam "),
    ("stochx explain --method=smoothtaylor:ro", "stochx explain --method=smoothtaylor:roots="),
    ("stochx list attributions:smoothg", "stochx list attributions:smoothgrad "),
    ("stochx explain pho", "stochx explain photo.png "),
    (f"{BIN}/stochx inf", f"{BIN}/stochx info "),
]
SHELLS = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        f"source {FOLDER}/stochx.bash\n"
        r"""dump() { printf '%s\n' "$READLINE_LINE" >> lines; READLINE_LINE=; }; bind -x '"\C-t": dump'""",
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        f"fpath=({FOLDER} $fpath); autoload -Uz compinit; compinit -u -D\n"
        r"""dump() { print -r -- "$BUFFER" >> lines; BUFFER= }; zle -N dump; bindkey '^T' dump""",
    ),
    "fish": (
        ["fish", "--no-config", "-i"],
        f"source {FOLDER}/stochx.fish\n" r"""bind \ct 'commandline >> lines; commandline ""'""",
    ),
}


def wait_for(path: Path, lines: int) -> list[str]:
    for _ in range(600):
        if path.exists() and len(found := path.read_text().splitlines()) >= lines:
            return found
        time.sleep(0.1)
    raise AssertionError(f"the shell did not answer ({lines} lines)")


@functools.cache
def completed(shell: str, folder: Path) -> list[str]:
    """What each typed line of `CASES` is after <TAB>."""
    command, setup = SHELLS[shell]
    (folder / "photo.png").touch()
    (folder / "setup").write_text(f"{setup}\necho ready > ready\n")
    private = {"HOME": folder, "XDG_CONFIG_HOME": folder, "XDG_DATA_HOME": folder, "HISTFILE": ""}
    env = {
        **os.environ,
        **{k: str(v) for k, v in private.items()},
        "TERM": "dumb",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    spawn = [sys.executable, "-c", "import pty, sys; pty.spawn(sys.argv[1:])", *command]
    with subprocess.Popen(
        spawn, cwd=folder, env=env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        try:
            process.stdin.write(b"source ./setup\r")
            process.stdin.flush()
            wait_for(folder / "ready", 1)
            for number, (typed, _) in enumerate(CASES, start=1):
                process.stdin.write(f"{typed}\t{DUMP}".encode())
                process.stdin.flush()
                found = wait_for(folder / "lines", number)
        finally:
            process.kill()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {shell: tmp_path_factory.mktemp(shell) for shell in SHELLS}


@pytest.mark.parametrize("number", range(len(CASES)), ids=[typed.rpartition("/")[2] for typed, _ in CASES])
@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_what_is_typed(shell, number, folders):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    typed, expected = CASES[number]
    assert completed(shell, folders[shell])[number] == expected, f"{typed}<TAB>"


def test_completion_scripts_are_up_to_date():
    for script in SCRIPTS.values():
        assert (FOLDER / script.file).read_text() == script.text, f"run `make completions` ({script.file})"


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_program_prints_its_completion_scripts(shell):
    done = subprocess.run([BIN / "stochx", "--completion", shell], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, SCRIPTS[shell].text), done.stderr
