"""Memory that is freed and asked for again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, statistics, sys, torch
from stochx.engine.training.malloc import retain_freed_memory
if sys.argv[1] == "keep":
    retain_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24).sum()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(statistics.median(faults() for _ in range(60)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_freed_memory_comes_back_without_page_faults():
    """A block of 64 MiB takes at least 32 page faults, of 2 MiB at most each, where it comes from the system.

    A busy kernel adds faults now and then, so the median block counts, not their sum.
    """

    def median_faults(word):
        done = subprocess.run([sys.executable, "-c", PROGRAM, word], capture_output=True, text=True, check=True)
        return float(done.stdout)

    assert median_faults("keep") < 32 <= median_faults("release")
