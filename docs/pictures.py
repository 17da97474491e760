"""Make the pictures of the manual: `python docs/pictures.py`, or `make pictures`; six minutes on two cores.

Each is what a command draws or prints, on images of shapes that stochx generates. Runs lie in `build/pictures`; what is
there already is not run again. Pictures are reduced to 256 colours, which keeps each below 150 KB.
"""

from __future__ import annotations

import io
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text

from stochx.engine.io.images import to_image
from stochx.loading import load_data
from stochx.reports.figure import new_figure, own_style, save_figure

HERE = Path(__file__).parent
RUNS = HERE.parent / "build" / "pictures"
WIDEST = 1200  # pixels
COLUMNS = 118  # of the terminal whose tables are shown
SHAPES = "shapes:count=6000,classes=6"
METHODS = "-m ig -m smoothgrad -m smoothtaylor:noise=adaptive,objective=autvc -m lrp:composite=epsilon-gamma-box"
EPISODES = (
    "--data shapes:count=1600,classes=16 --backbone teacher/model.safetensors --head prototypical"
    " --episodes 80 --every 10 --validation 0 --queries 8 --no-augment"
)
COMMANDS = {  # name of the run, and of its folder -> command, in an order in which each finds the files that it needs
    "teacher": f"train --data {SHAPES} --arch convnet:pool=mean --epochs 6 --lr 0.1 --batch-size 64 --no-augment",
    "student": f"distill --teacher teacher/model.safetensors --data {SHAPES} --noise adaptive --adversarial pgd:steps=2"
    " --eps 4/255 --epochs 4 --lr 0.05 --batch-size 64 --no-augment --validation 0",
    "maps": f"explain --model teacher/model.safetensors --data {SHAPES} --limit 4 --sample first {METHODS}",
    "scores": f"score --model teacher/model.safetensors --data {SHAPES} --limit 60 {METHODS} -m gradcam"
    " -m centre -m random -s relevance-mass -s pointing-game",
    "attacked": f"attack student/student.safetensors --data {SHAPES} --limit 96 -a pgd:steps=10,eot=1 -a pgd:steps=10"
    " --sweep eps=0,1/255,2/255,4/255,8/255,16/255 --checks none",
    "trend": f"attack student/student.safetensors --data {SHAPES} --limit 96 -a pgd:steps=10,eot=1 -a pgd:steps=10"
    " --eps 4/255 --sweep noise=0:2:0.5 --checks none",
    "certified": f"certify teacher/model.safetensors --data {SHAPES} --sigma 0.12 --draws 1000 --limit 40",
    "planes": f"boundary teacher/model.safetensors student/student.safetensors --data {SHAPES}",
    "guided": f"fsc-train --guide lrp {EPISODES}",
    "plain": f"fsc-train --guide none {EPISODES}",
    "tested": "fsc-test guided/model.safetensors --versus plain/model.safetensors --shot 1 --shot 5 --episodes 200"
    " --data shapes:domain=sketch,classes=16 --data shapes:domain=inverted,classes=16"
    " --data shapes:domain=clutter,classes=16",
    "matched": "fsc-explain query.png --model guided/model.safetensors --support support",
    "baseline": f"attack teacher/model.safetensors --data {SHAPES} --limit 96 -a pgd:steps=10 --eps 4/255",
    "candidate": f"attack student/student.safetensors --data {SHAPES} --limit 96 -a pgd:steps=10 --eps 4/255",
    "compared": "compare baseline candidate",
    "stated": "card candidate",
    "facts": "info student/student.safetensors",
}
FIGURES = {  # picture -> the figure of a run
    "train": "teacher/curves.png",
    "distill": "student/curves.png",
    "explain": "maps/00002.explained.png",
    "attack": "attacked/sweep.png",
    "attack-noise": "trend/sweep.png",
    "certify": "certified/certified.png",
    "boundary": "planes/plane-*.png",
    "fsc-train": "guided/curves.png",
    "fsc-explain": "matched/query.matched.png",
}
TABLES = {  # picture -> the run whose output is shown
    "score": "scores",
    "fsc-test": "tested",
    "info": "facts",
    "compare": "compared",
    "card": "stated",
}
FOLDERLESS = ("info", "compare", "card")
REPORTED = ("maps", "scores", "candidate", "certified", "planes")  # runs of the report that is shown
WINDOW = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">
<style>
text {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: {char_height}px }}
{styles}
</style>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})">{backgrounds}<g>{matrix}</g></g>
</svg>
"""


def run(name: str) -> None:
    """Run a command on a terminal, unless that was done, and keep what it prints there."""
    kept = RUNS / f"{name}.ansi"
    if kept.exists():
        return
    print(f"stochx {COMMANDS[name]}", flush=True)
    folder = [] if COMMANDS[name].split()[0] in FOLDERLESS else ["-o", name, "--overwrite"]
    words = [sys.executable, "-m", "stochx", *COMMANDS[name].split(), *folder]
    environment = os.environ | {"COLUMNS": str(COLUMNS), "TERM": "xterm-256color", "PYTHONPATH": str(HERE.parent)}
    reader, terminal = pty.openpty()
    process = subprocess.Popen(words, cwd=RUNS, env=environment, stdout=terminal)
    os.close(terminal)
    printed = b"".join(iter(lambda: _read(reader), b""))
    if process.wait():
        sys.exit(f"`{COMMANDS[name]}` failed")
    kept.write_bytes(printed)


def _read(terminal: int) -> bytes:
    """Return what a terminal has to show; nothing once its program has left, which Linux reports as an error."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


def save_images() -> None:
    """Write a query, and a support with two images for each of three classes, from a domain that is new."""
    data = load_data("shapes:domain=inverted,classes=16,count=320", "test")
    assert data.labels is not None
    for label in (2, 3, 5):
        query, *support = [i for i, other in enumerate(data.labels) if other == label][:3]
        folder = RUNS / "support" / data.classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        for number in support:
            to_image(data.item(number).image).save(folder / f"{number}.png")
    to_image(data.item(query).image).save(RUNS / "query.png")


def reduce(source: Path, target: Path) -> None:
    """Write a figure as a small file, on white."""
    image = Image.open(source).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    image.thumbnail((WIDEST, WIDEST))
    image.quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)


def draw_terminal(name: str, target: Path) -> None:
    """Draw a terminal with a command and what it prints."""
    console = Console(width=COLUMNS, record=True, force_terminal=True, file=io.StringIO())
    console.print(Text(f"$ stochx {COMMANDS[name]}\n", style="bold"))
    console.print(Text.from_ansi((RUNS / f"{name}.ansi").read_text(encoding="utf-8")))
    text = console.export_svg(title="", code_format=WINDOW, unique_id=name)
    target.write_text(re.sub(r' clip-path="[^"]*"', "", text), encoding="utf-8")


def draw_report(target: Path) -> None:
    """Draw the top of a report as a browser shows it; kept as it is where there is none."""
    browser = shutil.which("chromium")
    if browser is None:
        print(f"no chromium: `{target.name}` is kept as it is")
        return
    report = [sys.executable, "-m", "stochx", "report", *REPORTED, "-q", "-o", "report.html"]
    subprocess.run(report, cwd=RUNS, env=os.environ | {"PYTHONPATH": str(HERE.parent)}, check=True)
    shot = RUNS / "report.png"
    look = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1200,1000"]
    page = f"file://{RUNS / 'report.html'}"
    subprocess.run([browser, *look, f"--screenshot={shot}", page], stderr=subprocess.DEVNULL, check=True)
    reduce(shot, target)


def draw_parts(target: Path) -> None:
    """Draw objects of parts in three domains: whole, without a part, with another variant, and on another ground."""
    size = 96
    source = RUNS / "parts.png"
    with own_style():
        figure = new_figure(7.2, 5.2)
        for row, domain in enumerate(("photo", "clutter", "sketch")):
            item = load_data(f"shapes:parts=4,classes=8,size={size},count=40,domain={domain}", "test").item(row)
            assert item.parts is not None
            parts = item.parts()
            ground = range(4, 4 + len(parts.pieces))
            columns = {
                "an object of four parts": item.image,
                "without one": parts.without([0]),
                "with another variant": parts.replaced(0),
                "without fragments" if domain == "clutter" else "on another ground": parts.without(ground),
            }
            for column, (title, pixels) in enumerate(columns.items()):
                axis = figure.add_subplot(3, 4, 4 * row + column + 1)
                axis.imshow(to_image(pixels), interpolation="nearest")
                axis.set_title(title)
                axis.axis("off")
        save_figure(source, figure)
    reduce(source, target)


def main() -> None:
    """Make all pictures."""
    RUNS.mkdir(parents=True, exist_ok=True)
    save_images()
    for name in COMMANDS:
        run(name)
    pictures = HERE / "pictures"
    pictures.mkdir(exist_ok=True)
    for picture, pattern in FIGURES.items():
        reduce(next(RUNS.glob(pattern)), pictures / f"{picture}.png")
    for picture, name in TABLES.items():
        draw_terminal(name, pictures / f"{picture}.svg")
    draw_parts(pictures / "parts.png")
    draw_report(pictures / "report.png")


if __name__ == "__main__":
    main()
