"""Time adaptive noising for AUPC on photos, and compare the sigma of searches with few patches with the full one's.

    python benchmarks/adaptive.py --images 4
    python benchmarks/adaptive.py --model resnet50.safetensors --images 2 --patches 50 3 --page page.md

Each photo is searched with every number of `patches`, on the same roots; the AUPC is that of the full metric, with 50
patches, on the same fresh roots and patches for all. Default photos and networks lie below STOCHX_SHARED. Rows appear
as they are done.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch

from stochx.attributions.smoothtaylor import SmoothTaylor
from stochx.engine.device import select_runtime
from stochx.engine.io.images import read, to_tensor
from stochx.engine.io.store import write_text
from stochx.loading import load_model
from stochx.tasks.adaptive import bind_objective

SHARED = Path(os.environ.get("STOCHX_SHARED", "../shared/data"))
HEAD = """\
# The search of adaptive noising: few patches against all

Written by `benchmarks/adaptive.py`; do not edit. `smoothtaylor:noise=adaptive,objective=aupc`, 6 to 15 evaluations and
the fresh one that is reported, which takes 50 patches in every row. {threads} threads on a CPU that other work shares.

| network | photo | patches in the search | sigma | AUPC on fresh roots and patches | seconds |
|---|---|---|---|---|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(SHARED / "weights_imagenet" / "squeezenet1_1.safetensors"))
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--patches", type=int, nargs="+", default=[50, 3])
    parser.add_argument("--page", type=Path, default=Path("docs/results/smoothtaylor-search.md"))
    args = parser.parse_args()
    page, runtime = HEAD.format(threads=torch.get_num_threads()), select_runtime("cpu", "fp32")
    with runtime.scope():
        model = load_model(args.model, device=runtime.device)
        files = sorted((SHARED / "imagenet_samples").glob("*.jpg"))
        for file in files[:: max(1, len(files) // args.images)][: args.images]:
            x = to_tensor(model.preparation(read(file)))[None]
            with torch.inference_mode():
                target = model(x).argmax(1)
            for patches in args.patches:
                start = time.perf_counter()
                method = bind_objective(SmoothTaylor(noise="adaptive", patches=patches))
                chosen = method(model, x, target, [file.stem]).chosen
                assert chosen is not None
                cells = f"{patches} | {float(chosen.sigma):.3f} | {float(chosen.objective):.2f}"
                row = f"| {model.arch} | {file.stem} | {cells} | {time.perf_counter() - start:.0f} |"
                print(row, flush=True)
                page += f"{row}\n"
                write_text(args.page, page)


if __name__ == "__main__":
    main()
