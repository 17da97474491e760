"""Compare attributions with Captum, LXT's rule and the SmoothTaylor authors' loop, on equal images and weights.

    python benchmarks/explain.py --networks resnet18 --batches 4 --repeats 3

Every measurement runs in its own process, which has its own peak memory; variants alternate, and medians are printed:
CPU seconds, wall seconds, images/s, a peer's CPU seconds over those of stochx, peak memory, and the throughput of the
method's useful work relative to the machine's fastest 3x3 convolution. A variant that needs more than --memory GiB is
stopped and reported as out of memory. Maps are compared first, on small images. Weights are random with calibrated
batch norms, or real where STOCHX_SHARED has them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from types import MethodType

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor, nn
from torchvision import models

STEPS, SAMPLES, ROOTS = 50, 50, 150
NETWORKS = ["resnet18", "densenet121", "squeezenet1_1", "vit_b_16", "convnext_tiny"]
SIGMA = {"smoothgrad": 0.15, "smoothtaylor": 0.5}


def network(name: str, dtype: torch.dtype = torch.float32, side: int = 224) -> nn.Module:
    """Load a network with the weights that `prepare` wrote; one with embeddings of positions for images of a size."""
    net = models.get_model(name, weights=None, **({"image_size": side} if name.startswith("vit") else {}))
    weights = torch.load(weights_file(name), weights_only=True)
    if "encoder.pos_embedding" in weights:
        weights["encoder.pos_embedding"] = weights["encoder.pos_embedding"][:, : net.seq_length]
    net.load_state_dict(weights)
    return net.to(dtype).eval().requires_grad_(False)


def weights_file(name: str) -> Path:
    return Path(tempfile.gettempdir()) / f"stochx-bench-{name}.pt"


def prepare(name: str) -> None:
    """Write weights for all processes: real ones, or random ones whose batch norms have seen 16 images.

    Weights that are equal at first, such as a head of zeros or the scales of layers, are drawn too.
    """
    torch.manual_seed(0)
    real = Path(os.environ.get("STOCHX_SHARED", "../shared/data")) / "weights_imagenet" / f"{name}.safetensors"
    if real.exists():
        from stochx import load_model

        net: nn.Module = load_model(str(real)).network
    else:
        net = models.get_model(name, weights=None)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        with torch.no_grad():
            if not any(isinstance(module, nn.BatchNorm2d) for module in net.modules()):
                for parameter in net.parameters():
                    if parameter.max() == parameter.min():
                        parameter.add_(0.1 * torch.randn_like(parameter))
            else:
                net(torch.randn(16, 3, 224, 224))
    torch.save(net.state_dict(), weights_file(name))


def images(count: int, side: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return smooth random images in normalised units."""
    rough = torch.randn(count, 3, side // 8, side // 8, generator=torch.Generator().manual_seed(1))
    return nn.functional.interpolate(rough, (side, side), mode="bicubic").to(dtype)


def authors_smoothtaylor(net: nn.Module, x: Tensor, y: Tensor, roots: int, sigma: float, draws: object) -> Tensor:
    """Compute SmoothTaylor as the authors do: image by image, root by root, `backward` on the whole network."""
    out = torch.zeros_like(x)
    for n in range(len(x)):
        for i in range(roots):
            z = (x[n] + sigma * draws(n, i))[None].detach().requires_grad_()
            net.zero_grad()
            net(z)[0, y[n]].backward()
            out[n] += ((x[n] - z.detach()[0]) * z.grad[0]) / roots
    return out


def literal_ig(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Sum over the midpoints one by one; Captum's nodes are float32 for float64 models too, which flips ReLUs."""
    total = torch.zeros_like(x)
    for k in range(STEPS):
        z = (x * ((k + 0.5) / STEPS)).requires_grad_()
        total += torch.autograd.grad(net(z).gather(1, y[:, None]).sum(), z)[0]
    return x * total / STEPS


def gradient_lrp(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Compute LRP-epsilon of a vision transformer as LXT does: input times a gradient with constant factors (CP-LRP).

    Constant are attention weights, standard deviations of layer norms, and the secants of activations.
    """

    def norm(layer: nn.LayerNorm, z: Tensor) -> Tensor:
        centred = z - z.mean(-1, keepdim=True)
        deviation = (centred.square().mean(-1, keepdim=True) + layer.eps).sqrt().detach()
        return centred / deviation * layer.weight + layer.bias

    def activation(layer: nn.GELU, z: Tensor) -> Tensor:
        return z * (nn.functional.gelu(z) / z).detach()

    def attention(layer: nn.MultiheadAttention, z: Tensor, *_: Tensor, **__: bool) -> tuple[Tensor, None]:
        qkv = nn.functional.linear(z, layer.in_proj_weight, layer.in_proj_bias)
        q, k, v = qkv.unflatten(-1, (3, layer.num_heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1).detach()
        return layer.out_proj((weights @ v).transpose(1, 2).flatten(2)), None

    rules = {nn.LayerNorm: norm, nn.GELU: activation, nn.MultiheadAttention: attention}
    for module in net.modules():
        for kind, rule in rules.items():
            if isinstance(module, kind):
                module.forward = MethodType(rule, module)
    x = x.requires_grad_()
    (slope,) = torch.autograd.grad(net(x).gather(1, y[:, None]).sum(), x)
    return (x * slope).detach()


def run(variant: str, method: str, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    from stochx.attributions import LRP, IntegratedGradients, SmoothGrad, SmoothTaylor
    from stochx.engine.gradients import noise

    if variant == "literal":
        return literal_ig(net, x, y)
    if variant == "gradient":
        return gradient_lrp(net, x, y)
    internal = None if variant == "captum" else 8 if variant == "captum-best" else None
    if variant.startswith("stochx"):
        attribution = {
            "ig": IntegratedGradients(steps=STEPS),
            "smoothgrad": SmoothGrad(samples=SAMPLES, sigma=SIGMA["smoothgrad"], unit="normalised"),
            "smoothtaylor": SmoothTaylor(roots=ROOTS, sigma=SIGMA["smoothtaylor"]),
            "lrp": LRP(composite="epsilon"),
        }[method]
        if variant == "stochx-bf16":
            from stochx.engine.device import select_runtime

            with select_runtime("cpu", "bf16").scope():
                return attribution(net, x, y).map
        return attribution(net, x, y).map
    import captum.attr as captum  # imported late, so that only its own variants pay its memory

    if method == "ig":
        batch = None if internal is None else internal
        return captum.IntegratedGradients(net).attribute(
            x, target=y, n_steps=STEPS, method="riemann_middle", internal_batch_size=batch
        )
    if method == "smoothgrad":
        return captum.NoiseTunnel(captum.Saliency(net)).attribute(
            x,
            nt_type="smoothgrad",
            nt_samples=SAMPLES,
            nt_samples_batch_size=1 if internal else None,
            stdevs=SIGMA["smoothgrad"],
            target=y,
            abs=False,
        )
    return authors_smoothtaylor(
        net.requires_grad_(True), x, y, ROOTS, SIGMA["smoothtaylor"], lambda n, i: noise(x, n, i)
    )


PEERS = {
    "ig": ["captum", "captum-best", "stochx"],
    "smoothgrad": ["captum", "captum-best", "stochx"],
    "smoothtaylor": ["authors", "stochx"],
    "lrp": ["gradient", "stochx"],  # of vision transformers
}
POINTS = {"ig": STEPS, "smoothgrad": SAMPLES, "smoothtaylor": ROOTS, "lrp": 1}


def measure(variant: str, method: str, name: str, count: int, memory: float) -> dict[str, float]:
    """Measure in this process: CPU and wall seconds, peak memory in MiB."""
    limit = int(memory * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    net, x = network(name), images(count, 224)
    with torch.no_grad():
        y = torch.cat([net(image) for image in x.split(1)]).argmax(1)
    wall, cpu = time.perf_counter(), time.process_time()
    run(variant, method, net, x, y)
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "peak": peak_memory(),
    }


def peak_memory() -> float:
    """Return the peak memory of this process in MiB; `ru_maxrss` would include the parent's before `exec`."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def peak_gflops() -> float:
    """Measure the fastest 3x3 convolution of this machine, in GFLOP per CPU second."""
    x, conv = (
        torch.randn(8, 128, 56, 56).contiguous(memory_format=torch.channels_last),
        nn.Conv2d(128, 128, 3, padding=1),
    )
    conv = conv.to(memory_format=torch.channels_last)
    work = 2 * 8 * 128 * 128 * 9 * 56 * 56 / 1e9
    times = []
    with torch.inference_mode():
        for _ in range(12):
            start = time.process_time()
            conv(x)
            times.append(time.process_time() - start)
    return work / min(times)


def gflops(net: nn.Module, side: int = 224) -> float:
    """Count GFLOP of an image's forward pass and input gradient: twice the forward's convolutions and products."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        net(torch.randn(1, 3, side, side))
    return 2 * counter.get_total_flops() / 1e9


def agreement(name: str) -> None:
    """Print the relative L2 distance of maps to the peers' at 96 px; SmoothGrad draws other noise there."""
    for dtype in (torch.float64, torch.float32):
        net, x = network(name, dtype, 96), images(2, 96, dtype)
        y = net(x).argmax(1)
        for method, peer in (("ig", "captum"), ("ig", "literal"), ("smoothtaylor", "authors")):
            a, b = run("stochx", method, net, x, y), run(peer, method, net, x, y).detach()
            distance = ((a - b).norm() / b.norm()).item()
            print(f"agreement {name:14} {method:13} {peer:8} {str(dtype)[6:]:8} relative L2 {distance:.1e}")
    c = run("stochx-bf16", "ig", net, x, y)
    a = run("stochx", "ig", net, x, y)
    ranks = torch.stack([m.flatten().argsort().argsort().double() for m in (a, c)])
    cosine = nn.functional.cosine_similarity(a.flatten(), c.flatten(), 0)
    rank = torch.corrcoef(ranks)[0, 1]
    print(f"agreement {name:14} ig            stochx   bfloat16 cosine {cosine:.3f}, Spearman {rank:.3f}")
    if name.startswith("vit"):  # last, since the peer changes the network
        net, x = network(name, torch.float64, 96), images(2, 96, torch.float64)
        y = net(x).argmax(1)
        a, b = run("stochx", "lrp", net, x, y), run("gradient", "lrp", net, x.clone(), y)
        distance = ((a - b).norm() / b.norm()).item()
        print(f"agreement {name:14} lrp           gradient float64  relative L2 {distance:.1e}")


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--methods", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 16], help="images per batch")
    parser.add_argument("--repeats", type=int, default=3, help="measurements per variant")
    parser.add_argument("--memory", type=float, default=16.0, help="memory limit of a variant in GiB")
    parser.add_argument("--no-agreement", action="store_true", help="skip the comparison of maps")
    parser.add_argument("--job", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        variant, method, name, count = args.job
        print(json.dumps(measure(variant, method, name, int(count), args.memory)))
        return
    top = peak_gflops()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, best convolution {top:.0f} GFLOP/CPU-s")
    print(
        f"{'network':14} {'method':13} {'n':>3} {'variant':12} {'CPU s':>7} {'wall s':>7} {'img/s':>6}"
        f" {'ratio':>6} {'peak MiB':>9} {'% peak':>7}"
    )
    for name in args.networks:
        prepare(name)
        if not args.no_agreement:
            agreement(name)
        flops = gflops(network(name))
        for method in [m for m in args.methods if m != "lrp" or name.startswith("vit")]:
            for count in args.batches:
                runs: dict[str, list[dict[str, float]]] = {variant: [] for variant in PEERS[method]}
                for _ in range(args.repeats):
                    for variant in runs:
                        command = [sys.executable, __file__, "--job", variant, method, name, str(count)]
                        done = subprocess.run(
                            [*command, "--memory", str(args.memory)], capture_output=True, text=True, check=False
                        )
                        if done.returncode == 0:
                            runs[variant].append(json.loads(done.stdout.splitlines()[-1]))
                        elif "allocate memory" not in done.stderr:
                            raise SystemExit(done.stderr)
                median = {v: {k: statistics.median(r[k] for r in rs) for k in rs[0]} for v, rs in runs.items() if rs}
                for variant in set(runs) - set(median):
                    print(f"{name:14} {method:13} {count:3} {variant:12} out of memory ({args.memory:g} GiB)")
                points = POINTS[method] * count
                for variant, m in median.items():
                    ratio = m["cpu"] / median["stochx"]["cpu"]
                    share = 100 * flops * points / m["cpu"] / top
                    print(
                        f"{name:14} {method:13} {count:3} {variant:12} {m['cpu']:7.1f} {m['wall']:7.1f}"
                        f" {count / m['wall']:6.2f} {ratio:6.2f} {m['peak']:9.0f} {share:7.0f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
