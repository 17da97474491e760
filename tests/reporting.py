"""Run folders for the tests of the report: real ones, with names that would be markup, and one of 1,000 images."""

from __future__ import annotations

import json

import numpy as np
from conftest import save_net
from PIL import Image
from support import recorded_document, write_run

from stochx import run
from stochx.settings import Attack, Boundary, Explain, Report, Score

HOSTILE = ("</script><script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "שלום \u202e😀\x00'`&amp;")


def hostile_runs(folder):
    """Run `attack`, `explain`, `score` and `boundary` with classes that are markup; return their folders by command."""
    net = str(save_net(folder / "net.safetensors", HOSTILE))
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (6, 24, 24, 3), dtype=np.uint8)
    np.savez(folder / "data.npz", images=pixels, labels=np.arange(6) % 3, classes=np.array(HOSTILE))
    data = f"npz:path={folder / 'data.npz'}"
    image = folder / "<img src=x onerror=alert(3)>.png"
    Image.fromarray(pixels[0]).save(image)
    runs = {name: folder / f"<b>{name}" for name in ("attack", "explain", "score", "boundary")}
    run(Attack(model=net, data=data, attack=("fgsm", "pgd:steps=2"), output=runs["attack"], checks="none"))
    run(Explain(model=net, images=(str(image),), method=("gradient", "sobel"), output=runs["explain"]))
    run(Score(model=net, data=data, method=("gradient", "random"), metric=("aupc",), output=runs["score"], limit=3))
    again = str(save_net(folder / "<i>again.safetensors", HOSTILE))
    run(Boundary(models=(net, again), data=data, resolution=6, plane="gradient", output=runs["boundary"], figure=False))
    return runs


def matched_run(folder):
    """Write an `fsc-explain` run with its maps and images, as the command writes them, and return its folder."""
    document = recorded_document("fsc-explain")
    image = document["results"][0]["image"]
    rows = [row for row in document["results"] if row["image"] == image]
    ways, rng, stem = len(rows), np.random.default_rng(0), image.rpartition("/")[2].rpartition(".")[0]
    folder.mkdir()
    maps = {"query": rng.normal(size=(ways, 3, 8, 8)), "support": rng.normal(size=(ways, 2, 3, 8, 8))}
    np.savez(folder / f"{stem}.matched.npz", **{name: part.astype(np.float32) for name, part in maps.items()})
    Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / f"{stem}.query.png")
    Image.fromarray(rng.integers(0, 255, (8 * ways, 16, 3), dtype=np.uint8)).save(folder / "support.png")
    return write_run(folder, document | {"results": rows}, rows), rows


def large_run(folder, count):
    """Write an `explain` run over many small images, as the command writes them, and return its folder."""
    document = recorded_document("explain")
    (row, *_), rows = document["results"], []
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"i{index}.input.png")
        for method in ("gradient", "sobel"):
            file = f"i{index}.{method}.npz"
            np.savez(folder / file, sum=rng.normal(size=(32, 32)).astype(np.float32))
            names = {"image": f"i{index}.png", "true": f"class {index % 7}", "predicted": f"class {index % 5}"}
            rows.append(row | names | {"index": index, "method": method, "map": file})
    document |= {"results": rows}
    document["args"] |= {"method": ["gradient", "sobel"]}
    return write_run(folder, document, rows)


def reported(file, *runs, **settings):
    """Write the report of these runs and return its row."""
    (row,) = run(Report(runs=runs, output=file, **settings))["results"]
    return row


def embedded(html):
    """Return the documents that stand in a report."""
    text = html.partition('<script type="application/json" id="results">')[2].partition("</script>")[0]
    return json.loads(text)
