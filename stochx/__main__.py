"""`python -m stochx`, and what `torchrun -m stochx` starts."""

from stochx.cli import main

main()
