"""Memory that is freed and asked for again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from stochx.engine.training.malloc import retain_freed_memory
if sys.argv[1] == "keep":
    retain_freed_memory()
for _ in range(40):
    torch.ones(2**24).sum()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(2**24).sum()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_freed_memory_comes_back_without_page_faults():
    """Once ten blocks of 64 MiB have places, 20 more find theirs; without `retain_freed_memory` none does."""

    def faults(word):
        done = subprocess.run([sys.executable, "-c", PROGRAM, word], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert 10 * faults("keep") < faults("release")
