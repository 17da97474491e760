"""Compare metrics with the SmoothTaylor authors' loops and Quantus, on the same images, maps, settings and draws.

    python benchmarks/score.py --parts aupc regions autvc --repeats 3
    python benchmarks/score.py --parts adaptive spread --slow

Every measurement runs in its own process, variants alternate, and medians are printed; `ratio` is a peer's CPU seconds
over those of stochx. The agreement of the scores comes first. The loops here follow the authors' description: image by
image, all draws in a batch, the network as it was trained (batch norms not fused, no channels last), windows and
pyramids in numpy. Weights are those of `explain.py`. Photos are read below STOCHX_SHARED; smooth random images replace
missing ones.

    aupc      seconds per 1000 forward passes, without the authors' search for windows
    regions   the search for the 30 most relevant windows of a map
    autvc     1000 maps in a single call, on one thread and on all
    quantus   region perturbation, pixel flipping, sparseness and complexity
    adaptive  the paper's search for sigma and the race of three sigmas: objective and evaluations
    spread    (with --slow, or named) the standard deviation of AUPC over seeds, by the number of draws
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import explain  # the benchmark beside this one
import numpy as np
import torch
from torch import Tensor, nn

from stochx.engine.device import select_runtime
from stochx.engine.gradients import logits
from stochx.engine.io.images import SUFFIXES, Preparation, read, to_tensor
from stochx.engine.network.classifier import IMAGENET_MEAN, IMAGENET_STD, Classifier
from stochx.engine.ranking import channel_sum, regions
from stochx.engine.seeds import generator
from stochx.metrics import AUPC, AUTVC, Complexity, Evidence, PixelFlipping, RegionPerturbation, Sparseness

SIDE, KERNEL, REGIONS = 224, 15, 30
PREPARATION = Preparation(256, SIDE)
SIMPSON_6 = np.array([5 / 12, 13 / 12, 1, 1, 13 / 12, 5 / 12])  # SciPy's former even="avg", the authors' choice

Result = dict[str, Any]


# What is scored


def classifier(name: str, dtype: torch.dtype = torch.float32) -> Classifier:
    classes = [str(i) for i in range(1000)]
    model = Classifier(explain.network(name), classes, PREPARATION, IMAGENET_MEAN, IMAGENET_STD)
    return model.to(dtype).eval()


def smooth(count: int, side: int = SIDE) -> Tensor:
    """Return smooth random pixels in (0, 1)."""
    return torch.sigmoid(explain.images(count, side))


def photos(count: int) -> Tensor:
    """Read photos at even distances; return smooth random images without photos."""
    folder = Path(os.environ.get("STOCHX_SHARED", "../shared/data")) / "imagenet_samples"
    files = sorted(path for path in folder.glob("*") if path.suffix in SUFFIXES)
    if len(files) < count:
        return smooth(count)
    chosen = files[:: len(files) // count][:count]
    return torch.stack([to_tensor(PREPARATION(read(path))) for path in chosen])


def random_maps(count: int, channels: int = 3, side: int = SIDE, seed: int = 0) -> Tensor:
    """Return noise that fades towards the border, where the authors' search skips a row and a column of windows."""
    fade = torch.hann_window(side, periodic=False)
    noise = torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed))
    return noise * fade * fade[:, None]


def evidence(model: Classifier, x: Tensor, relevance: Tensor) -> Evidence:
    """Return evidence for the prediction, which also fuses the network before the clock starts."""
    return Evidence(relevance.to(x), range(len(x)), x, logits(model, x).argmax(1), model)


# The authors' loops


def authors_regions(heat: np.ndarray, side: int, count: int) -> list[tuple[int, int]]:
    """Return the best windows that do not overlap, from the sorted means of all windows."""
    height, width = heat.shape
    windows = [
        (heat[top : top + side, left : left + side].mean(), top, left)
        for top in range(height - side)  # their last row and column of windows are skipped
        for left in range(width - side)
    ]
    chosen: list[tuple[int, int]] = []
    for _, top, left in sorted(windows, reverse=True):
        if all(abs(top - a) >= side or abs(left - b) >= side for a, b in chosen):
            chosen.append((top, left))
        if len(chosen) == count:
            break
    return chosen


def authors_aupc(e: Evidence, corners: Sequence[Sequence[tuple[int, int]]], kernel: int, draws: int) -> np.ndarray:
    """Return curves (N, regions + 1) over the first logit, with the draws of stochx for the same keys."""
    assert e.model is not None and e.x is not None and e.target is not None
    curves = []
    for now, target, windows, key in zip(e.x, e.target.tolist(), corners, e.keys, strict=True):
        with torch.no_grad():
            curve = [e.model(now[None])[0, target].item()]
        for step, (top, left) in enumerate(windows):
            shape, source = (draws, len(now), kernel, kernel), generator(key, "patch", step)
            tried = []
            for patch in torch.rand(shape, generator=source).to(now):
                copy = now.clone()
                copy[:, top : top + kernel, left : left + kernel] = patch
                tried.append(copy)
            results: list[float] = []
            with torch.no_grad():
                for batch in torch.utils.data.DataLoader(tried, batch_size=draws):
                    results += e.model(batch)[:, target].tolist()
            curve.append(float(np.mean(results)))
            # The middle two of an even number are equally near to the median: rounding chose theirs, the earlier ours.
            middle = np.argsort(results, kind="stable")[(draws - 1) // 2 : draws // 2 + 1]
            now = tried[middle.min()]
        curves.append(np.array(curve) / abs(curve[0]))
    return np.stack(curves)


def authors_autvc(maps: np.ndarray) -> np.ndarray:
    """Return the areas (N,) of channel sums (N, H, W), map by map."""
    from skimage.transform import pyramid_gaussian

    areas = []
    for heat in maps:
        curve = []
        for level in pyramid_gaussian(heat, max_layer=5, downscale=1.5):
            strength = np.abs(level)
            low, high = strength.min(), np.percentile(strength, 99)
            scaled = np.clip((strength - low) / (high - low), 0, 1)
            total = np.abs(np.diff(scaled, axis=0)).sum() + np.abs(np.diff(scaled, axis=1)).sum()
            curve.append(total / scaled.size)
        areas.append(np.array(curve) @ SIMPSON_6)
    return np.array(areas)


# Measuring


def timed(work: Callable[[], object], times: int = 1) -> Result:
    """Measure the CPU and wall seconds of `work`, a mean over `times` calls, and the peak memory in MiB."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(times):
        results = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"cpu": cpu / times, "wall": wall / times, "peak": explain.peak_memory(), "results": results}


def in_process(part: str, settings: Result, threads: int) -> Result:
    """Run `MEASURES[part](**settings)` in a process of its own."""
    command = [sys.executable, __file__, "--job", json.dumps([part, threads, settings])]
    surroundings = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=surroundings)
    if done.returncode:
        raise SystemExit(done.stderr)
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def medians(part: str, variants: Iterable[str], repeats: int, threads: int, **settings: Any) -> dict[str, Result]:
    """Return the medians of alternating runs, with the value of the last run."""
    runs: dict[str, list[Result]] = {variant: [] for variant in variants}
    for _ in range(repeats):
        for variant, results in runs.items():
            results.append(in_process(part, {"variant": variant, **settings}, threads))
    return {
        variant: results[-1] | {k: statistics.median(r[k] for r in results) for k in ("cpu", "wall", "peak")}
        for variant, results in runs.items()
    }


def title(text: str) -> None:
    print(f"\n{text}", flush=True)


# aupc


def measure_aupc(variant: str, name: str, images: int, count: int, draws: int) -> Result:
    e = evidence(classifier(name), smooth(images), random_maps(images))
    ready_aupc(variant, e, KERNEL, 1, draws)()
    work = ready_aupc(variant, e, KERNEL, count, draws)
    return timed(lambda: work().tolist())


def ready_aupc(variant: str, e: Evidence, kernel: int, count: int, draws: int) -> Callable[[], np.ndarray]:
    """Return a function that computes the curves; the authors' search, which would dominate, runs before."""
    if variant == "authors":
        corners = [authors_regions(heat, kernel, count) for heat in channel_sum(e.map).numpy()]
        return lambda: authors_aupc(e, corners, kernel, draws)

    def ours() -> np.ndarray:
        with select_runtime("cpu", "bf16").scope() if variant == "stochx-bf16" else contextlib.nullcontext():
            return np.asarray(AUPC(kernel=kernel, regions=count, draws=draws)(e).curve)

    return ours


def part_aupc(args: argparse.Namespace, top: float) -> None:
    title("AUPC: curves over the first logit, 2 images of 112 px, 5 regions of 7 px, 10 draws")
    for name in args.networks:
        for dtype in (torch.float64, torch.float32):
            e = evidence(classifier(name, dtype), smooth(2, 112).to(dtype), random_maps(2, side=112))
            loop, ours = (ready_aupc(variant, e, 7, 5, 10)() for variant in ("authors", "stochx"))
            print(f"agreement {name:14} {str(dtype)[6:]:8} largest difference to the loop {abs(loop - ours).max():.1e}")
    targets = {"stochx": "1.8", "stochx-bf16": "3.2"}
    print(
        f"\n{'network':14} {'images':>6} {'variant':12} {'forwards':>8} {'CPU s/1000':>10} {'wall/1000':>10}"
        f" {'images/s':>9} {'ratio':>6} {'target':>7} {'peak MiB':>9} {'% fp32 peak':>11} {'mean |d curve|':>15}"
    )
    for name in args.networks:
        flops = explain.gflops(explain.network(name)) / 2
        for images in args.images:
            forwards = images * args.regions * args.draws
            settings = {"name": name, "images": images, "count": args.regions, "draws": args.draws}
            results = medians(
                "aupc", ("authors", "stochx", "stochx-bf16"), args.repeats, torch.get_num_threads(), **settings
            )
            loop = results["authors"]
            for variant, m in results.items():
                difference = np.abs(np.array(m["results"]) - np.array(loop["results"])).mean()
                print(
                    f"{name:14} {images:6} {variant:12} {forwards:8} {1000 * m['cpu'] / forwards:10.1f}"
                    f" {1000 * m['wall'] / forwards:10.1f} {images / m['wall']:9.3f} {loop['cpu'] / m['cpu']:6.2f}"
                    f" {targets.get(variant, ''):>7} {m['peak']:9.0f}"
                    f" {100 * flops * forwards / m['cpu'] / top:11.0f} {difference:15.1e}",
                    flush=True,
                )


# regions


def measure_regions(variant: str, images: int) -> Result:
    strength = channel_sum(random_maps(images))
    if variant == "authors":
        heats = strength.double().numpy()
        return timed(lambda: [authors_regions(heat, KERNEL, REGIONS) for heat in heats])
    keys = range(images)
    regions(strength, KERNEL, REGIONS, keys)
    return timed(lambda: regions(strength, KERNEL, REGIONS, keys).tolist(), 20)


def part_regions(args: argparse.Namespace, top: float) -> None:
    title(f"The search for {REGIONS} windows of {KERNEL} px in maps of {SIDE} px, one thread (target 100)")
    print(f"{'maps':>5} {'variant':12} {'CPU ms/map':>11} {'wall ms/map':>12} {'ratio':>7} {'the same windows':>17}")
    for images in (1, 16):
        results = {
            "authors": medians("regions", ["authors"], args.repeats, 1, images=min(images, 4))["authors"],
            "stochx": medians("regions", ["stochx"], args.repeats, 1, images=images)["stochx"],
        }
        peer = results["authors"]["cpu"] / min(images, 4)
        pairs = list(zip(*(m["results"] for m in results.values()), strict=False))
        same = sum(tuple(a) == tuple(b) for theirs, ours in pairs for a, b in zip(theirs, ours, strict=True))
        for variant, m in results.items():
            count = len(m["results"])
            print(
                f"{count:5} {variant:12} {1000 * m['cpu'] / count:11.3f} {1000 * m['wall'] / count:12.3f}"
                f" {peer * count / m['cpu']:7.1f} {f'{same} of {len(pairs) * REGIONS}':>17}",
                flush=True,
            )


# autvc


def measure_autvc(variant: str, maps: int) -> Result:
    relevance = torch.randn(maps, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    if variant == "skimage":
        heats = relevance[:, 0].numpy()
        authors_autvc(heats[:1])
        return timed(lambda: authors_autvc(heats).tolist())
    e = Evidence(relevance, range(maps))
    AUTVC()(Evidence(relevance[:1], [0]))
    return timed(lambda: AUTVC()(e).value.tolist())


def part_autvc(args: argparse.Namespace, top: float) -> None:
    title(f"AUTVC of maps of {SIDE} px: {args.maps} in one call, the loop over {args.loop_maps} of them (target 20)")
    maps = random_maps(8).double()
    for dtype in (torch.float64, torch.float32):
        ours = AUTVC()(Evidence(maps.to(dtype), range(8))).value.double().numpy()
        loop = authors_autvc(maps.to(dtype).sum(1).numpy())
        print(f"agreement {str(dtype)[6:]:8} largest relative difference {abs(ours / loop - 1).max():.1e}")
    print(
        f"{'threads':>7} {'variant':12} {'maps':>5} {'CPU ms/map':>11} {'wall ms/map':>12} {'maps/s':>8}"
        f" {'CPU ratio':>10} {'wall ratio':>11} {'peak MiB':>9}"
    )
    for threads in sorted({1, torch.get_num_threads()}):
        runs: dict[str, list[Result]] = defaultdict(list)
        for _ in range(args.repeats):
            for variant, count in (("skimage", args.loop_maps), ("stochx", args.maps)):
                runs[variant].append(in_process("autvc", {"variant": variant, "maps": count}, threads))
        each = {
            v: {k: statistics.median(m[k] / len(m["results"]) for m in ms) for k in ("cpu", "wall")}
            for v, ms in runs.items()
        }
        for variant, m in each.items():
            ratios = [each["skimage"][k] / m[k] for k in ("cpu", "wall")]
            peak = statistics.median(run["peak"] for run in runs[variant])
            print(
                f"{threads:7} {variant:12} {len(runs[variant][0]['results']):5} {1000 * m['cpu']:11.3f}"
                f" {1000 * m['wall']:12.3f} {1 / m['wall']:8.0f} {ratios[0]:10.2f} {ratios[1]:11.2f} {peak:9.0f}",
                flush=True,
            )


# quantus

# Where the two agree on what is measured: a grid of 8 px leaves no rest of 224 (of another size ours leaves the border
# alone, Quantus pads it); black is 0 (theirs is the least pixel unless a number is given); values of single channels
# are flipped, in steps that divide the image. Quantus has no point before the first step, and gives differences for
# regions; its sparseness adds 1e-7 to every value, its complexity 1e-12.
GRID, GRID_REGIONS, FLIPPED = 8, 50, 7168
QUANTUS = ("region-perturbation", "pixel-flipping", "sparseness", "complexity")


def run_quantus(variant: str, metric: str, e: Evidence) -> np.ndarray:
    """Return curves without their first point, or values."""
    if variant == "stochx":
        ours: Any = {
            "region-perturbation": RegionPerturbation(side=GRID, regions=GRID_REGIONS, removal="black"),
            "pixel-flipping": PixelFlipping(steps=e.map[0].numel() // FLIPPED),
            "sparseness": Sparseness(),
            "complexity": Complexity(),
        }[metric]
        score = ours(e)
        if score.curve is None:
            return np.asarray(score.value)
        curve = score.curve[:, :1] - score.curve if metric == "region-perturbation" else score.curve
        return np.asarray(curve[:, 1:])
    import quantus  # imported late, so that only its own variants pay its memory

    common: Any = {"disable_warnings": True, "normalise": False, "display_progressbar": False}
    theirs = {
        "region-perturbation": lambda: quantus.RegionPerturbation(
            patch_size=GRID, regions_evaluation=GRID_REGIONS, perturb_baseline=0.0, **common
        ),
        "pixel-flipping": lambda: quantus.PixelFlipping(features_in_step=FLIPPED, perturb_baseline=0.0, **common),
        "sparseness": lambda: quantus.Sparseness(abs=False, **common),
        "complexity": lambda: quantus.Complexity(abs=False, **common),
    }[metric]()
    relevance = e.map if metric == "pixel-flipping" else channel_sum(e.map)[:, None]
    x = torch.zeros_like(relevance) if e.x is None else e.x  # a map alone needs pixels of its own size
    target = torch.zeros(len(x)).long() if e.target is None else e.target
    results = theirs(
        model=e.model, x_batch=x.numpy(), y_batch=target.numpy(), a_batch=relevance.numpy().copy(), softmax=True
    )
    return np.asarray(results)


def quantus_evidence(metric: str, name: str, images: int, maps: int) -> Evidence:
    if metric in ("sparseness", "complexity"):
        return Evidence(random_maps(maps), range(maps))
    return evidence(classifier(name), photos(images), random_maps(images))


def measure_quantus(variant: str, metric: str, name: str, images: int, maps: int) -> Result:
    warnings.simplefilter("ignore")
    e = quantus_evidence(metric, name, images, maps)
    if variant == "quantus":
        import quantus  # noqa: F401  # before the clock starts
    return timed(lambda: run_quantus(variant, metric, e).tolist())


def part_quantus(args: argparse.Namespace, top: float) -> None:
    images = max(args.images)
    title(
        f"Quantus: {GRID_REGIONS} regions of {GRID} px and {3 * SIDE**2 // FLIPPED} steps of {FLIPPED} values, "
        f"{images} photos of {SIDE} px; 100 maps for what needs no network"
    )
    print(
        f"{'network':14} {'metric':20} {'variant':8} {'CPU s':>8} {'wall s':>8} {'images/s':>9} {'ratio':>6}"
        f" {'peak MiB':>9} {'largest difference':>19} {'of values up to':>16}"
    )
    rows = [(name, metric) for name in args.networks for metric in QUANTUS[:2]] + [("-", m) for m in QUANTUS[2:]]
    for name, metric in rows:
        settings = {"metric": metric, "name": name, "images": images, "maps": 100}
        results = medians("quantus", ("quantus", "stochx"), args.repeats, torch.get_num_threads(), **settings)
        theirs = np.array(results["quantus"]["results"])
        for variant, m in results.items():
            difference = np.abs(np.array(m["results"]) - theirs).max()
            print(
                f"{name:14} {metric:20} {variant:8} {m['cpu']:8.3f} {m['wall']:8.3f} {len(theirs) / m['wall']:9.2f}"
                f" {results['quantus']['cpu'] / m['cpu']:6.2f} {m['peak']:9.0f} {difference:19.1e}"
                f" {np.abs(theirs).max():16.3g}",
                flush=True,
            )


# adaptive


def measure_adaptive(
    variant: str, name: str, images: int, roots: int, objective: str, count: int, draws: int
) -> Result:
    """Measure sigma, the objective on the search's draws and on fresh draws, and evaluations, image by image."""
    from stochx.attributions import SmoothTaylor

    metric: Any = AUPC(regions=count, draws=draws) if objective == "aupc" else AUTVC()
    model = classifier(name)
    e = evidence(model, photos(images), torch.zeros(images, 1, SIDE, SIDE))
    assert e.x is not None and e.target is not None
    method = SmoothTaylor(roots=roots, noise="adaptive", objective=objective, search=variant)
    seen: dict[str, list[float]] = defaultdict(list)

    def measure(model: nn.Module, x: Tensor, target: Tensor, relevance: Tensor, keys: Sequence[str | int]) -> Tensor:
        value: Tensor = metric(Evidence(relevance, keys, x, target, model)).value
        for key, score in zip(keys, value.tolist(), strict=True):
            seen[str(key)].append(score)
        return value

    def work() -> Result:
        chosen = method(model, e.x, e.target, e.keys, measure).chosen
        assert chosen is not None
        return {
            "sigma": chosen.sigma.tolist(),
            "own": [float(np.nanmin(seen[f"{n}/search"])) for n in range(images)],
            "way": [seen[f"{n}/search"] for n in range(images)],
            "fresh": chosen.objective.tolist(),
            "evaluations": chosen.evaluations.tolist(),
        }

    return timed(work)


def part_adaptive(args: argparse.Namespace, top: float) -> None:
    name = args.networks[-1]
    kinds = [("autvc", args.photos), *([("aupc", max(1, args.photos // 2))] if args.slow else [])]
    for objective, images in kinds:
        title(
            f"Adaptive SmoothTaylor, {name}, {images} photos, {args.roots} roots, least {objective}: "
            "as many evaluations as the paper's search over ours (target 3) at the same or a lower objective"
        )
        settings = {
            "name": name,
            "images": images,
            "roots": args.roots,
            "objective": objective,
            "count": 10,
            "draws": 5,
        }
        results = medians("adaptive", ("paper", "race"), 1, torch.get_num_threads(), **settings)
        least = results["paper"]["results"]["own"]
        print(
            f"{'image':>5} {'search':8} {'sigma':>7} {'own draws':>10} {'fresh draws':>12} {'evaluations':>12}"
            f" {'to be no worse than the paper':>30}"
        )
        for n in range(images):
            for variant, m in results.items():
                f = m["results"]
                reached = next((i + 1 for i, value in enumerate(f["way"][n]) if value <= least[n]), "never")
                print(
                    f"{n:5} {variant:8} {f['sigma'][n]:7.3f} {f['own'][n]:10.4f} {f['fresh'][n]:12.4f}"
                    f" {f['evaluations'][n]:12} {reached:>30}"
                )
        total = results["paper"]["results"]["evaluations"]
        for variant, m in results.items():
            own, fresh, used = (np.array(m["results"][k]) for k in ("own", "fresh", "evaluations"))
            print(
                f" mean {variant:8} {'':7} {own.mean():10.4f} {fresh.mean():12.4f} {used.mean():12.1f}"
                f"  ratio {sum(total) / used.sum():.2f}, CPU {m['cpu']:.1f} s,"
                f" ratio {results['paper']['cpu'] / m['cpu']:.2f}",
                flush=True,
            )
        for kind, label in (("own", "own draws"), ("fresh", "fresh draws")):
            difference = np.array(results["race"]["results"][kind]) - np.array(results["paper"]["results"][kind])
            error = difference.std(ddof=1) / len(difference) ** 0.5 if len(difference) > 1 else float("nan")
            print(f"race - paper on {label}: {difference.mean():+.4f} ± {error:.4f} (n = {len(difference)})")


# spread


def measure_spread(variant: str, name: str, images: int, seeds: int) -> Result:
    """Measure the AUPCs of an image's map under `seeds` keys; `variant` is the number of draws."""
    from stochx.attributions import IntegratedGradients

    model = classifier(name)
    e = evidence(model, photos(images), torch.zeros(images, 1, SIDE, SIDE))
    assert e.x is not None and e.target is not None
    relevance = IntegratedGradients(steps=20)(model, e.x, e.target).map

    def work() -> list[list[float]]:
        results = []
        for n in range(images):
            again = [tensor[n : n + 1].expand(seeds, *tensor.shape[1:]) for tensor in (relevance, e.x, e.target)]
            copies = Evidence(again[0], range(seeds), again[1], again[2], model)
            results.append(AUPC(kernel=KERNEL, regions=REGIONS, draws=int(variant))(copies).value.tolist())
        return results

    return timed(work)


def part_spread(args: argparse.Namespace, top: float) -> None:
    name, images, seeds = args.networks[-1], 2, args.seeds
    title(f"AUPC over {seeds} seeds, {name}, maps of integrated gradients, {REGIONS} regions of {KERNEL} px")
    results = medians(
        "spread", map(str, args.spread), 1, torch.get_num_threads(), name=name, images=images, seeds=seeds
    )
    most = str(max(args.spread))
    print(
        f"{'photo':>5} {'draws':>5} {'mean':>8} {'SD':>7} {'its error':>9} {'forwards':>9} {'seeds for the SD of':>20}"
        f" {'forwards then':>14} {'fewer':>6}"
    )
    for n in range(images):
        spreads = {draws: np.std(m["results"][n], ddof=1) for draws, m in results.items()}
        for draws, spread in spreads.items():
            needed = (spread / spreads[most]) ** 2
            print(
                f"{n:5} {draws:>5} {np.mean(results[draws]['results'][n]):8.3f} {spread:7.3f}"
                f" {spread / (2 * seeds - 2) ** 0.5:9.3f} {REGIONS * int(draws):9}"
                f" {f'{most} draws: {needed:.1f}':>20} {needed * REGIONS * int(draws):14.0f}"
                f" {int(most) / (needed * int(draws)):6.1f}",
                flush=True,
            )
    for draws, m in results.items():
        print(f"{draws:>3} draws: CPU {m['cpu']:.1f} s")


PARTS: dict[str, Callable[[argparse.Namespace, float], None]] = {
    "aupc": part_aupc,
    "regions": part_regions,
    "autvc": part_autvc,
    "quantus": part_quantus,
    "adaptive": part_adaptive,
    "spread": part_spread,
}
MEASURES: dict[str, Callable[..., Result]] = {
    "aupc": measure_aupc,
    "regions": measure_regions,
    "autvc": measure_autvc,
    "quantus": measure_quantus,
    "adaptive": measure_adaptive,
    "spread": measure_spread,
}


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), help="default all but spread; all with --slow")
    parser.add_argument("--slow", action="store_true", help="add spread, and adaptive noising for AUPC")
    parser.add_argument("--repeats", type=int, default=3, help="measurements per variant")
    parser.add_argument("--networks", nargs="+", default=["resnet18", "squeezenet1_1"])
    parser.add_argument(
        "--images", nargs="+", type=int, default=[1, 4], help="images of aupc; quantus takes the largest number"
    )
    parser.add_argument("--regions", type=int, default=3, help="regions of aupc")
    parser.add_argument("--draws", type=int, default=50, help="draws of aupc")
    parser.add_argument("--maps", type=int, default=1000, help="maps that autvc takes in a single call")
    parser.add_argument("--loop-maps", type=int, default=50, help="maps of autvc's loop")
    parser.add_argument("--photos", type=int, default=6, help="photos of adaptive")
    parser.add_argument("--roots", type=int, default=50, help="roots of adaptive")
    parser.add_argument("--spread", nargs="+", type=int, default=[5, 10, 50], help="draws of spread")
    parser.add_argument("--seeds", type=int, default=8, help="seeds of spread")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        part, threads, settings = json.loads(args.job)
        torch.set_num_threads(threads)
        print(json.dumps(MEASURES[part](**settings)))
        return
    top = explain.peak_gflops()
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, best convolution {top:.0f} GFLOP/CPU-s",
        flush=True,
    )
    for name in args.networks:
        explain.prepare(name)
    for part in args.parts or [p for p in PARTS if args.slow or p != "spread"]:
        start = time.perf_counter()
        PARTS[part](args, top)
        print(f"({part} took {time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
