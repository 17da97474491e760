"""A guided training step of few-shot heads: ours against a literal rewrite of the reference's order of work.

    python benchmarks/fewshot.py --repeats 3
    python benchmarks/fewshot.py --heads gnn cross-attention --way 5 --shot 1

One episode of random features 512x7x7, 5-way 5-shot with 16 queries a class; forward, relevance, the pass of the
weighted features, and the gradients of features and weights. The literal rewrite (`tests/fewshot_literal.py`) has no
hooks, deep copies or collections of garbage, but else does what the reference does: it builds all pairs, passes them
anew for their relevance, computes both signs of the convolution rule and tables of all positions by all. `hooked` is
the ratio with the ordinary gradients of convolutions too, which the reference's backward hooks receive and discard.
Variants alternate; medians of CPU seconds on one thread are printed. `ratio` is the literal's over ours, `low` and
`high` its extremes, `guided/plain` ours over our plain step, `% peak` our convolutions and products over this machine's
best fp32 convolution; `loss` and `gradient` are how far both are apart, relative to their size.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import explain  # the benchmark beside this one
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from stochx.catalog import GUIDES, HEADS
from stochx.engine.fewshot import FewShotHead, guided_loss
from stochx.engine.seeds import generator, seeded

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import fewshot_literal

SHAPE, SEED = (512, 7, 7), 0
NAMES = ["relation", "gnn:transductive=true", "gnn", "cross-attention"]
Step = Callable[[], tuple[Tensor, list[Tensor | None]]]


def episode(way: int, shot: int, queries: int) -> tuple[Tensor, Tensor, Tensor]:
    """Support, query and classes of one episode; features are as sparse as after a ReLU."""
    source = generator(SEED, "features")
    support = torch.randn(1, way, shot, *SHAPE, generator=source).relu()
    query = torch.randn(1, way * queries, *SHAPE, generator=source).relu()
    return support, query, torch.arange(way).repeat_interleave(queries)[None]


def steps(name: str, head: FewShotHead, support: Tensor, query: Tensor, y: Tensor) -> dict[str, Step]:
    leaves = [support.requires_grad_(), query.requires_grad_(), *head.parameters()]
    share = head.guided_weight(support.shape[2])

    def with_slopes(loss: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        return loss, list(torch.autograd.grad(loss, leaves, allow_unused=True))

    def ours(guide: str) -> Step:
        return lambda: with_slopes(guided_loss(head, GUIDES.make(guide), support, query, y)[0])

    def literal(kind: str) -> Step:
        return lambda: with_slopes(fewshot_literal.guided_step(kind, head, support, query, y, share)[0])

    kind = name.partition(":")[0]
    hooked = {"hooked": literal("hooked")} if kind == "relation" else {}
    return {"literal": literal(kind), "guided": ours("lrp"), "plain": ours("none"), **hooked}


def apart(one: list[Tensor | None], other: list[Tensor | None]) -> float:
    """The length of the difference of all gradients over that of the gradients."""
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    return (
        sum((a - b).square().sum().item() for a, b in pairs) / sum(b.square().sum().item() for _, b in pairs)
    ) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", nargs="+", default=NAMES)
    parser.add_argument("--way", type=int, default=5)
    parser.add_argument("--shot", type=int, default=5)
    parser.add_argument("--queries", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    peak = explain.peak_gflops()
    print("head\tliteral s\tguided s\tplain s\tratio\tlow\thigh\thooked\tguided/plain\t% peak\tloss\tgradient")
    for name in args.heads:
        with seeded(SEED, "weights"):
            head = HEADS.make(name)(SHAPE, args.way)
        given = episode(args.way, args.shot, args.queries)
        work = steps(name, head, *given)
        found = {variant: step() for variant, step in work.items()}  # warms up, too
        loss = abs(found["literal"][0] - found["guided"][0]).item() / found["literal"][0].item()
        gap = apart(found["guided"][1], found["literal"][1])
        with FlopCounterMode(display=False) as counter:  # does not work with `torch.autograd.grad`
            guided_loss(head, GUIDES.make("lrp"), *given)[0].backward()
        seconds: dict[str, list[float]] = {variant: [] for variant in work}
        for _ in range(args.repeats):
            for variant, step in work.items():
                start = time.process_time()
                step()
                seconds[variant].append(time.process_time() - start)
        middle = {variant: statistics.median(values) for variant, values in seconds.items()}
        ratios = [a / b for a, b in zip(seconds["literal"], seconds["guided"], strict=True)]
        hooked = f"{middle['hooked'] / middle['guided']:.1f}" if "hooked" in middle else "-"
        share = counter.get_total_flops() / 1e9 / middle["guided"] / peak
        print(
            f"{name}\t{middle['literal']:.2f}\t{middle['guided']:.2f}\t{middle['plain']:.2f}\t"
            f"{middle['literal'] / middle['guided']:.1f}\t{min(ratios):.1f}\t{max(ratios):.1f}\t{hooked}\t"
            f"{middle['guided'] / middle['plain']:.2f}\t{100 * share:.0f}\t{loss:.1e}\t{gap:.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
