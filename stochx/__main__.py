"""`stochx`, `python -m stochx`, and what `torchrun -m stochx` starts."""

import gc
import os

from stochx import interrupts


def main() -> None:
    """Run the command line; a signal ends it without a traceback, also while modules are imported."""
    _fill_closed_streams()
    try:
        interrupts.listen()
        with interrupts.honoured():
            from stochx.cli import main as command_line
        command_line()
    except interrupts.Stopped as stopped:
        interrupts.say(stopped)
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
