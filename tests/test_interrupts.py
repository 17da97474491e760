"""Signals end a process with their exit code and without a traceback, wherever they meet it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from stochx import interrupts

CODES = {"SIGINT": (130, "error: interrupted\n"), "SIGTERM": (143, "error: terminated\n")}
CODES["SIGHUP"] = (129, "error: terminated\n")
START = (
    "import atexit, os, runpy, signal, sys, threading, time, weakref\n"
    "for name in ('SIGINT', 'SIGTERM', 'SIGHUP'):\n"  # a job in the background ignores the first
    "    signal.signal(getattr(signal, name), signal.SIG_DFL)\n"
    "def send(name):\n"
    "    os.kill(os.getpid(), getattr(signal, name))\n"
    "    time.sleep(0)\n"
)
RUN = "runpy.run_module('stochx', run_name='__main__')\n"


def run(code):
    """Run a program to its end."""
    return subprocess.run([sys.executable, "-c", START + code], capture_output=True, text=True, timeout=60)


def run_command(body):
    """Run the command line with this body in the place of all commands; `count` is what ends a batch."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return run(
        f"import stochx.cli\nfrom stochx.engine.passes import count\ndef app(**given):\n{lines}stochx.cli.app = app\n"
        + RUN
    )


@pytest.mark.parametrize("name", CODES)
def test_a_signal_during_the_first_imports_is_no_traceback(name):
    done = run(
        "class Interrupt:\n"
        "    def find_spec(self, module, *rest):\n"
        f"        if module == 'typer': send('{name}')\n"
        "sys.meta_path.insert(0, Interrupt())\n" + RUN
    )
    assert (done.returncode, done.stderr) == CODES[name]


def test_one_of_several_ranks_says_what_ended_them_during_imports():
    done = run(
        "os.environ['RANK'] = '1'\n"
        "class Interrupt:\n"
        "    def find_spec(self, module, *rest):\n"
        "        if module == 'typer': send('SIGTERM')\n"
        "sys.meta_path.insert(0, Interrupt())\n" + RUN
    )
    assert (done.returncode, done.stderr) == (143, "")


def test_an_import_that_makes_another_error_of_a_signal_is_no_traceback():
    done = run(
        "class Interrupt:\n"
        "    def find_spec(self, module, *rest):\n"
        "        if module == 'typer':\n"
        "            try: send('SIGTERM')\n"
        "            except BaseException: raise ImportError('initialization failed')\n"
        "sys.meta_path.insert(0, Interrupt())\n" + RUN
    )
    assert (done.returncode, done.stderr) == CODES["SIGTERM"]


@pytest.mark.parametrize(("block", "written"), [("saving()", "saved\n"), ("contextlib.nullcontext()", "")])
def test_an_import_is_left_at_once_where_there_is_nothing_to_save(block, written):
    done = run_command(
        "import contextlib\n"
        "from stochx.interrupts import saving\n"
        "class Interrupt:\n"
        "    def find_spec(self, module, *rest):\n"
        "        if module == 'wave': send('SIGTERM')\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        f"with {block}:\n"
        "    try: import wave\n"
        "    finally: print('saved')\n"
    )
    assert (done.returncode, done.stderr, done.stdout) == (*CODES["SIGTERM"], written)


SWALLOWED = {
    "callback": "thing = threading.Event()\nref = weakref.ref(thing, lambda gone: send(NAME))\ndel thing\n",
    "finaliser": "class Thing:\n    def __del__(self): send(NAME)\nThing()\n",
    "code": "try: send(NAME)\nexcept BaseException: pass\n",
}


@pytest.mark.parametrize("rest", ["for batch in range(9): count(1)\nprint('done')\n", ""], ids=["batches", "end"])
@pytest.mark.parametrize("swallows", SWALLOWED)
def test_a_signal_that_python_swallows_ends_the_command_at_the_next_batch(swallows, rest):
    name = {"callback": "SIGINT", "finaliser": "SIGTERM", "code": "SIGHUP"}[swallows]
    done = run_command(SWALLOWED[swallows].replace("NAME", repr(name)) + rest)
    assert (done.returncode, done.stderr, done.stdout) == (*CODES[name], "")


WRITTEN = ["out", "out/a.txt"]


@pytest.mark.parametrize(
    ("place", "name", "left"),
    [("tempfile", "mkdtemp", []), ("shutil", "rmtree", WRITTEN), ("Path", "unlink", WRITTEN)],
)
def test_a_signal_leaves_nothing_temporary_wherever_it_comes(place, name, left, tmp_path):
    removes = name != "mkdtemp"
    done = run_command(
        "import shutil, tempfile\n"
        "from pathlib import Path\n"
        "from stochx.engine.io.files import write_text\n"
        "from stochx.engine.io.store import locked\n"
        f"before = {place}.{name}\n"
        "def met(*words, **more):\n"
        f"    if {removes}: send('SIGTERM')\n"
        "    made = before(*words, **more)\n"
        f"    if not {removes}: send('SIGTERM')\n"
        "    return made\n"
        f"{place}.{name} = met\n"
        f"os.chdir({str(tmp_path)!r})\n"
        "with locked(Path('out')): write_text(Path('out/a.txt'), 'a')\n"
    )
    assert (done.returncode, done.stderr) == CODES["SIGTERM"]
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == left


def test_a_second_signal_leaves_at_once():
    start = time.monotonic()
    done = run_command(
        "threading.Timer(0.1, send, ['SIGTERM']).start()\ntry: send('SIGINT')\nfinally: time.sleep(30)\n",
    )
    assert (done.returncode, done.stderr) == (130, "") and time.monotonic() - start < 10


@pytest.mark.skipif(sys.platform != "linux", reason="needs a lock that C waits for")
def test_a_signal_ends_a_process_that_waits_for_others_in_c():
    done = run_command(
        "import ctypes\n"
        "from stochx.interrupts import waiting\n"
        "lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)\n"
        "lock(mutex)\n"
        "threading.Timer(0.1, send, ['SIGTERM']).start()\n"
        "with waiting(): lock(mutex)\n"
    )
    assert (done.returncode, done.stderr) == CODES["SIGTERM"]


def test_a_second_signal_within_a_moment_lets_the_first_finish():
    done = run_command("try: send('SIGINT')\nfinally: send('SIGTERM')\n")
    assert (done.returncode, done.stderr) == CODES["SIGINT"]


def test_a_signal_while_python_leaves_is_no_traceback():
    done = run_command("atexit.register(send, 'SIGTERM')\nprint('done')\n")
    assert (done.returncode, done.stderr, done.stdout) == (-signal.SIGTERM, "", "done\n")


def test_a_signal_at_the_first_moment_is_no_traceback():
    done = run(
        "begin = threading.Thread.start\n"
        "def met(thread):\n"  # the thread that awaits a second signal
        "    begin(thread)\n"
        "    send('SIGHUP')\n"
        "threading.Thread.start = met\n" + RUN
    )
    assert (done.returncode, done.stderr) == CODES["SIGHUP"]


def test_a_signal_at_the_last_moment_is_no_traceback():
    done = run_command(
        "before = signal.getsignal\n"
        "def late(number):\n"
        "    send('SIGHUP')\n"
        "    return before(number)\n"
        "signal.getsignal = late\n"  # which comes first where signals are left to the system
        "print('done')\n"
    )
    assert (done.returncode, done.stderr, done.stdout) == (129, "", "done\n")


def test_a_command_under_nohup_outlives_its_terminal():
    done = run(
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from stochx import interrupts\n"
        "interrupts.listen()\n"
        "send('SIGHUP')\n"
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_process_that_may_start_no_thread_runs_without_that_of_signals():
    done = run(
        "def refuse(self): raise RuntimeError('can\\'t start new thread')\n"
        "threading.Thread.start = refuse\n"
        "sys.argv = ['stochx', '--version']\n" + RUN
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_signal_to_a_forked_process_is_not_one_to_this():
    done = run_command(
        "import warnings\n"
        "warnings.simplefilter('ignore')  # of the threads that are not forked\n"
        "if os.fork() == 0:\n"
        "    try: send('SIGTERM')\n"
        "    finally: os._exit(0)\n"
        "os.wait()\n"
        "try: send('SIGINT')\n"
        f"finally: time.sleep({interrupts.GRACE} + 0.1)\n"
    )
    assert (done.returncode, done.stderr) == CODES["SIGINT"]
