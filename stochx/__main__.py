"""`stochx`, `python -m stochx`, and what `torchrun -m stochx` starts."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C ends it without a traceback also before it listens to signals."""
    try:
        from stochx.cli import main as command_line

        command_line()
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
