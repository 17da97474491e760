"""Measure few-shot learning: guided steps of heads, whole training steps, and 2,000 test episodes.

    python benchmarks/fewshot.py --repeats 3
    python benchmarks/fewshot.py --parts head --heads gnn cross-attention:base=64 --way 5 --shot 1
    python benchmarks/fewshot.py --parts step --size 112
    python benchmarks/fewshot.py --parts test

`head` compares a guided step with a literal rewrite of the reference, on an episode of random features 512x7x7, 5-way
5-shot with 16 queries per class: forward pass, relevance, the pass of the weighted features, and the gradients of
features and weights. The rewrite (`tests/fewshot_literal.py`) has no hooks, deep copies or garbage collection, but
otherwise works as the reference does: it builds all pairs, passes them again for their relevance, and computes both
signs of the convolution rule and tables of all pairs of positions. `hooked` is the ratio with the ordinary gradients of
convolutions too, which the reference's backward hooks receive and discard. Variants alternate; medians of CPU seconds
on one thread are printed. `ratio` is the rewrite's seconds over those of stochx, `low` and `high` its extremes,
`guided/plain` a guided step over a plain step, and `% peak` the throughput of convolutions and products relative to the
machine's fastest fp32 convolution. `loss` and `gradient` are relative differences, in rows of bf16 to the fp32 rewrite.

`step` times a training step of ResNet-10 from images to gradients, guided and plain, in fp32 and bf16.

`test` classifies by nearest class means of random images of 64 classes through conv4, first as easyfsl does (every
image passes the network in every episode), then as stochx does, on the same episodes; and then only the part after the
cached features: easyfsl's `evaluate` with its `FeaturesDataset`, its bare loop over tensors, and stochx, which draws
the episodes too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import explain  # the benchmark beside this one
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from stochx.catalog import GUIDES, HEADS
from stochx.engine.device import select_runtime
from stochx.engine.fewshot.episodes import Domain, Episodes, Task, answers, draw, pool
from stochx.engine.fewshot.head import FewShotHead, guided_loss
from stochx.engine.fewshot.network import FewShotNetwork, cached_features
from stochx.engine.seeds import generator, seeded
from stochx.engine.training.fit import Objective, TrainingBatch
from stochx.engine.training.malloc import retain_freed_memory
from stochx.fewshot_networks import make_fewshot
from stochx.tasks.fewshot import accuracies, accuracy_per_episode, episode_objective

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import fewshot_literal

SHAPE, SEED = (512, 7, 7), 0
NAMES = ["relation", "gnn:transductive=true", "gnn", "cross-attention:base=64"]
Step = Callable[[], tuple[Tensor, list[Tensor | None]]]


def episode(way: int, shot: int, queries: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return support, query and classes of an episode, with features as sparse as after a ReLU."""
    source = generator(SEED, "features")
    support = torch.randn(1, way, shot, *SHAPE, generator=source).relu()
    query = torch.randn(1, way * queries, *SHAPE, generator=source).relu()
    return support, query, torch.arange(way).repeat_interleave(queries)[None]


def steps(name: str, head: FewShotHead, support: Tensor, query: Tensor, y: Tensor) -> dict[str, Step]:
    leaves = [support.requires_grad_(), query.requires_grad_(), *head.parameters()]
    share = head.guided_weight(support.shape[2])

    def with_slopes(loss: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        return loss, list(torch.autograd.grad(loss, leaves, allow_unused=True))

    def ours(guide: str, precision: str) -> Step:
        def step() -> tuple[Tensor, list[Tensor | None]]:
            with select_runtime("cpu", precision).scope():
                return with_slopes(guided_loss(head, GUIDES.make(guide), support, query, y)[0])

        return step

    def literal(kind: str) -> Step:
        return lambda: with_slopes(fewshot_literal.guided_step(kind, head, support, query, y, share)[0])

    kind = name.partition(":")[0]
    hooked = {"hooked": literal("hooked")} if kind == "relation" else {}
    kinds = {"guided": "lrp", "plain": "none"}
    own = {
        f"{kind} {precision}": ours(guide, precision) for precision in ("fp32", "bf16") for kind, guide in kinds.items()
    }
    return {"literal": literal(kind), **own, **hooked}


def difference(grads: list[Tensor | None], other: list[Tensor | None]) -> float:
    """Return the L2 norm of the difference of gradients, relative to that of `other`."""
    pairs = [(a, b) for a, b in zip(grads, other, strict=True) if a is not None and b is not None]
    return (
        sum((a - b).square().sum().item() for a, b in pairs) / sum(b.square().sum().item() for _, b in pairs)
    ) ** 0.5


def timed(work: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Measure the CPU seconds of each variant; variants alternate, after a first round that warms up."""
    seconds: dict[str, list[float]] = {variant: [] for variant in work}
    for repeat in range(repeats + 1):
        for variant, step in work.items():
            start = time.process_time()
            step()
            if repeat:
                seconds[variant].append(time.process_time() - start)
    return seconds


def whole_steps(args: argparse.Namespace) -> None:
    """Time a guided and a plain training step, from images to gradients."""
    task = Task(args.way, args.shot, args.queries)
    count = task.way * (task.shot + task.queries)
    x, y = torch.rand(1, count, 3, args.size, args.size), answers(task, 1)
    source = Domain(pool("noise", [str(k) for k in range(task.way)], torch.arange(count) % task.way), torch.zeros(1))
    print(f"head\tprecision\tguided s\tplain s\tguided/plain\tlow\thigh\t(resnet10, {count} images of {args.size} px)")
    for name in args.heads:
        model = make_fewshot("resnet10", name, task.way, args.size, SEED, {})
        model.train().to(memory_format=torch.channels_last)
        work = {}
        for variant, guide in (("guided", "lrp"), ("plain", "none")):
            loss_of = episode_objective(model, GUIDES.make(guide), Episodes([source], task, 1, SEED), SEED)
            work[variant] = partial(_descend, model, loss_of, TrainingBatch(x, y, torch.tensor([0]), 0, 0))
        for precision in ("fp32", "bf16"):
            with select_runtime("cpu", precision).scope():
                timings = timed(work, args.repeats)
            ratios = [a / b for a, b in zip(timings["guided"], timings["plain"], strict=True)]
            guided, plain = (statistics.median(timings[key]) for key in ("guided", "plain"))
            spread = f"{statistics.median(ratios):.2f}\t{min(ratios):.2f}\t{max(ratios):.2f}"
            print(f"{name}\t{precision}\t{guided:.2f}\t{plain:.2f}\t{spread}", flush=True)


def _descend(model: FewShotNetwork, loss_of: Objective, batch: TrainingBatch) -> None:
    loss_of(model, batch).loss.backward()


def test_episodes(args: argparse.Namespace) -> None:
    """Time test episodes from images and from cached features, with easyfsl and with stochx."""
    from easyfsl.datasets import FeaturesDataset
    from easyfsl.methods import PrototypicalNetworks
    from easyfsl.samplers import TaskSampler
    from easyfsl.utils import evaluate, evaluate_on_one_task
    from torch.utils.data import DataLoader

    task, size = Task(5, 5, 15), 84
    pixels = (torch.rand(64 * 40, 3, size, size, generator=generator(SEED, "pixels")) * 255).to(torch.uint8)
    labels = torch.arange(64 * 40) % 64
    source = Domain(pool("noise", [str(k) for k in range(64)], labels), pixels)
    model = make_fewshot("conv4", "prototypical", 5, None, SEED, {})
    drawn = draw(source.pool, task, args.episodes, SEED, "test", "noise")
    asked, given = answers(task, 1)[0], torch.arange(5).repeat_interleave(5)
    maps = cached_features(model, pixels, torch.arange(len(pixels)))  # this head keeps the mean of each map
    means = maps.flatten(1)
    data = FeaturesDataset(labels.tolist(), means, [str(k) for k in range(64)])
    queries = drawn.query[:, asked.argsort(stable=True)].unflatten(1, (task.way, task.queries))
    batches = torch.cat([drawn.support, queries], 2).flatten(1).tolist()
    sampler = TaskSampler.__new__(TaskSampler)  # its `__init__` fails with this torch, and its draws are not used
    sampler.n_way, sampler.n_shot, sampler.n_query = task.way, task.shot, task.queries

    def vectors(x: Tensor) -> Tensor:
        return model(x).mean((2, 3))

    def loop(network: torch.nn.Module, images: Tensor, count: int) -> float:
        method, right = PrototypicalNetworks(network).eval(), 0
        with torch.no_grad():
            for support, query in zip(drawn.support[:count], drawn.query[:count], strict=True):
                parts = images[support.flatten()], given, images[query], asked
                right += evaluate_on_one_task(method, *parts)[0]
        return right / (count * len(asked))

    class Vectors(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return vectors(x.float() / 255)

    def evaluated() -> float:
        loader = DataLoader(data, batch_sampler=batches, collate_fn=sampler.episodic_collate_fn)
        return evaluate(PrototypicalNetworks(torch.nn.Identity()), loader, device="cpu", use_tqdm=False)

    def ours_from_features() -> float:
        again = draw(source.pool, task, args.episodes, SEED, "test", "noise")
        images = torch.cat([again.support.flatten(1), again.query], 1)
        return float(accuracy_per_episode(model, maps, images, task, False).mean())

    few = max(1, args.episodes // 100)
    work: dict[str, Callable[[], float]] = {
        "images, easyfsl": lambda: loop(Vectors(), pixels, few),
        "images, ours": lambda: float(accuracies(model, source, [task], args.episodes, SEED)[0].mean()),
        "features, easyfsl": evaluated,
        "features, bare loop": lambda: loop(torch.nn.Identity(), means, args.episodes),
        "features, ours": ours_from_features,
    }
    timings, accuracy = timed(work, args.repeats), {key: step() for key, step in work.items()}
    same = float(accuracies(model, source, [task], few, SEED)[0].mean())
    timings["images, easyfsl"] = [seconds * args.episodes / few for seconds in timings["images, easyfsl"]]
    print(f"{args.episodes} episodes\tCPU s\ttimes ours\tlow\thigh\taccuracy")
    print(f"(`images, easyfsl`: {few} episodes, on which ours gives {same:.6f}; seconds times {args.episodes // few})")
    for key, seconds in timings.items():
        ours = timings[f"{key.split(',')[0]}, ours"]
        ratios = [a / b for a, b in zip(seconds, ours, strict=True)]
        middle = statistics.median(seconds)
        print(
            f"{key}\t{middle:.2f}\t{statistics.median(ratios):.1f}\t{min(ratios):.1f}\t{max(ratios):.1f}\t{accuracy[key]:.6f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", nargs="+", default=NAMES)
    parser.add_argument("--way", type=int, default=5)
    parser.add_argument("--shot", type=int, default=5)
    parser.add_argument("--queries", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", nargs="+", default=["head", "step", "test"], choices=["head", "step", "test"])
    parser.add_argument("--size", type=int, default=224, help="side of the images of `step` in pixels")
    parser.add_argument("--episodes", type=int, default=2000, help="episodes of `test`")
    args = parser.parse_args()
    torch.set_num_threads(1)
    retain_freed_memory()
    parts = {"head": head_steps, "step": whole_steps, "test": test_episodes}
    for part in args.parts:
        parts[part](args)


def head_steps(args: argparse.Namespace) -> None:
    """Time a guided step of each head and of its literal rewrite."""
    peak = explain.peak_gflops()
    columns = "literal s\tguided s\tplain s\tratio\tlow\thigh\thooked\tguided/plain\t% peak\tloss\tgradient"
    print(f"head\tprecision\t{columns}")
    for name in args.heads:
        with seeded(SEED, "weights"):
            head = HEADS.make(name)(SHAPE, args.way)
        given = episode(args.way, args.shot, args.queries)
        work = steps(name, head, *given)
        results = {variant: step() for variant, step in work.items()}  # warms up, too
        seconds = timed(work, args.repeats)
        with FlopCounterMode(display=False) as counter:  # does not work with `torch.autograd.grad`
            guided_loss(head, GUIDES.make("lrp"), *given)[0].backward()
        literal, slopes = results["literal"]
        middle = {variant: statistics.median(values) for variant, values in seconds.items()}
        for precision in ("fp32", "bf16"):
            guided, plain = f"guided {precision}", f"plain {precision}"
            ratios = [a / b for a, b in zip(seconds["literal"], seconds[guided], strict=True)]
            hooked = f"{middle['hooked'] / middle[guided]:.1f}" if "hooked" in middle else "-"
            share = 100 * counter.get_total_flops() / 1e9 / middle[guided] / peak
            gradient = difference(results[guided][1], slopes)
            loss = abs(literal - results[guided][0]).item() / literal.item()
            print(
                f"{name}\t{precision}\t{middle['literal']:.2f}\t{middle[guided]:.2f}\t{middle[plain]:.2f}\t"
                f"{statistics.median(ratios):.1f}\t{min(ratios):.1f}\t{max(ratios):.1f}\t{hooked}\t"
                f"{middle[guided] / middle[plain]:.2f}\t{share:.0f}\t{loss:.1e}\t{gradient:.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
