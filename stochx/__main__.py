"""`stochx`, `python -m stochx`, and what `torchrun -m stochx` starts."""

import contextlib
import gc
import os

from stochx import interrupts


def main() -> None:
    """Run the command line; a signal ends it without a traceback, also while modules are imported."""
    _fill_closed_streams()
    interrupts.listen()
    try:
        with interrupts.honoured():
            from stochx.cli import main as command_line
        command_line()
    except interrupts.Stopped as stopped:
        with contextlib.suppress(OSError):  # of a terminal that is gone
            if os.environ.get("RANK", "0") == "0":  # one rank of `torchrun` says it
                os.write(2, f"error: {stopped}\n".encode())
    finally:
        interrupts.rest()
        gc.freeze()  # or Python looks for cycles in all of torch, for a second, in memory that the system frees anyway


def _fill_closed_streams() -> None:
    """Open nothing in the place of standard streams that are closed, lest the next file takes it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


if __name__ == "__main__":
    main()
