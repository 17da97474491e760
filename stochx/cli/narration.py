"""What a demonstration tells on stderr between its steps, as wide as the terminal and no wider than a page."""

from __future__ import annotations

from rich.text import Text

from stochx.cli.output import stderr
from stochx.errors import printable
from stochx.wrapping import wrap

PAGE, INDENT = 100, "  "


def tell_step(number: str, title: str, why: str, line: str) -> None:
    """Print the title of a step, why it is taken, and its command line, which stays in one piece to be copied."""
    stderr().print()
    stderr().print(Text.assemble((f"{number}  {title}", "bold")))
    _print_paragraph(why)
    stderr().print(Text.assemble(INDENT, ("$ ", "dim"), (printable(line), "cyan")))


def tell_finding(text: str, seconds: float) -> None:
    """Print what a step has shown."""
    _print_paragraph(f"{seconds:.0f} s: {text}", "green")


def _print_paragraph(text: str, style: str = "") -> None:
    for part in wrap(printable(text), min(PAGE, stderr().width) - len(INDENT)):
        stderr().print(Text(INDENT + part, style))
