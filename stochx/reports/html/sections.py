"""The sections of a report: what a run found, what it rests on, and how to run it again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import ModuleType

from stochx.reports.html import attack, boundary, certify, comparison, explain, fewshot, score, training
from stochx.reports.html.blocks import Block, GalleryBlock, Note, Run, Section, TableBlock
from stochx.reports.html.pictures import Album
from stochx.reports.html.tables import failed_images
from stochx.reports.html.text import duration, shared_folder
from stochx.settings.argv import recorded_line
from stochx.tables import view_of
from stochx.tables.quantities import plural

ROOMS: Mapping[str, ModuleType] = {
    "attack": attack,
    "boundary": boundary,
    "certify": certify,
    "distill": training,
    "explain": explain,
    "fsc-explain": fewshot,
    "fsc-test": fewshot,
    "fsc-train": training,
    "score": score,
    "train": training,
}
"""The commands whose runs have a section, and what makes it."""

TAGS = ("right", "wrong", "fooled", "abstained", "failed")  # in the order of the filters


def make_comparison(run: Run, old: Run, new: Run) -> Section:
    """Return the section of a run of `compare`, which compared two runs."""
    section = _section(run, comparison, f"comparison-{new.command}", Album(0, 0))
    fate = getattr(ROOMS[new.command], "fate", None)  # trainings and planes have no images with an outcome
    changed = comparison.changed_images(old, new, fate) if fate else None
    blocks = [*section.blocks, changed] if changed else section.blocks
    return replace(section, title=comparison.title(run), blocks=blocks)


def make_section(run: Run, name: str, album: Album) -> Section:
    """Return the section of a run of a command that has one."""
    return _section(run, ROOMS[run.command], name, album)


def _section(run: Run, room: ModuleType, name: str, album: Album) -> Section:
    blocks = list(map(_shorten, room.blocks(run, album))) if run.rows else []
    failed = failed_images(run)
    blocks += [failed] if failed else []
    return Section(
        name=name,
        command=run.command,
        title=run.name,
        about=room.about(run) if run.rows else "No image could be used.",
        stats=room.stats(run) if run.rows else [],
        facts=room.facts(run) if run.rows else [],
        notes=list(_notes(run)),
        blocks=blocks,
        environment=list(_environment(run)),
        typed=recorded_line(run.command, run.document["args"]),
        filters=_filters(blocks),
        groups=_groups(blocks),
    )


def _shorten(block: Block) -> Block:
    """Leave out of a gallery's names the folder that all images share."""
    if not isinstance(block, GalleryBlock):
        return block
    start = len(shared_folder([item.name for item in block.items]))
    return replace(block, items=[replace(item, name=item.name[start:]) for item in block.items])


def _notes(run: Run) -> Iterator[Note]:
    """Yield the remarks of the command, those without a label with the one before, and what failed."""
    pending: Note | None = None
    for remark in view_of(run.command).remarks(run.document):
        label, text = remark.label.strip(" :"), remark.text
        if pending is not None and not label:
            pending = Note(pending.label, f"{pending.text}: {text}", pending.tone)
            continue
        if pending is not None:
            yield pending
        pending = Note(label, text, remark.style)
    if pending is not None:
        yield pending
    failed = run.document.get("failed", [])
    if failed:
        reasons = f"{failed[0]['error']}" + (", ..." if len(failed) > 1 else "")
        yield Note("failed", f"{plural(len(failed), 'image')} could not be used: {reasons}", "fail")


def _environment(run: Run) -> Iterator[tuple[str, str]]:
    """Yield where and how the numbers were computed."""
    document = run.document
    names = {"version": "stochx", "device": "Device", "precision": "Precision", "threads": "Threads",
             "batch_size": "Batch size", "seed": "Seed", "noise": "Noise"}  # fmt: skip
    if run.command in ROOMS:
        yield "Folder", str(run.folder)
    for key, name in names.items():
        if document.get(key) is not None:
            yield name, str(document[key])
    yield "Wall time", duration(document["seconds"])
    sample = document.get("sample")
    if sample:
        yield "Sample", f"{sample['kind']}: {sample['count']} of {sample['total']} images, hash {sample['hash']}"
    for model in document.get("models", []):
        yield f"Weights of {model['model']}", f"{model['arch']}, sha256 {model['sha256'] or 'unknown'}"
    if document.get("dataset"):
        yield "Hash of the data", f"sha256 {document['dataset']['sha256']}"


def _tags(blocks: Sequence[Block]) -> Counter[str]:
    """Count the tags of all images: in the gallery where it holds all of them, else in the tables."""
    galleries = [block for block in blocks if isinstance(block, GalleryBlock)]
    lines = [line for block in blocks if isinstance(block, TableBlock) for line in block.lines]
    items = [item for block in galleries for item in block.items]
    whole = bool(items) and not any(block.left_out for block in galleries)
    counts = [Counter(tag for thing in things for tag in thing.tags) for things in (items, lines)]
    chosen = counts[0] if whole or not counts[1] else counts[1]
    return chosen | Counter(failed=counts[1]["failed"])


def _filters(blocks: Sequence[Block]) -> list[tuple[str, int]]:
    """Return the tags of a section with how often they occur."""
    counts = _tags(blocks)
    return [(tag, counts[tag]) for tag in TAGS if counts[tag]]


def _groups(blocks: Sequence[Block]) -> list[str]:
    """Return the classes of a section, where there is something to choose."""
    groups = {line.group for block in blocks if isinstance(block, TableBlock) for line in block.lines if line.group}
    groups |= {item.group for block in blocks if isinstance(block, GalleryBlock) for item in block.items if item.group}
    return sorted(groups) if len(groups) > 1 else []
