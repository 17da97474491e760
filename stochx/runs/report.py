"""Run `stochx report`: read runs, and write them as one HTML file."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from stochx import __version__
from stochx.engine.io.files import write_text
from stochx.engine.world import World
from stochx.errors import InputError, StochxError, first_line, quoted
from stochx.reports.html import ROOMS, Album, Page, Part, Run, Section, make_comparison, make_section, render, room_for
from stochx.reports.html.text import folder_names
from stochx.runs import Outcome, compare
from stochx.runs.document import compose
from stochx.runs.folders import DAMAGE, EDITED, RESULT, RunRecord, read_run
from stochx.runs.watch import Quiet, Watch
from stochx.settings import Compare, Report
from stochx.tables.quantities import plural

log = logging.getLogger("stochx")

MEGABYTE = 1e6


def run(settings: Report, world: World, watch: Watch) -> Outcome:
    """Write the report; its row says how large it is, and how many images are in it."""
    if not world.leads:
        return Outcome(None)
    with watch.progress("reading runs"):
        runs = _read(settings.runs)
    sections, albums = _sections(runs, settings.limit, watch)
    compared = [section for pair in _pairs(runs) for section in _comparison(*pair, world)]
    page = Page(
        title=settings.title or _title(runs),
        made=f"{plural(len(runs), 'run')}, stochx {__version__}, {datetime.now():%d %B %Y, %H:%M}",
        sections=[*compared, *sections] if len(runs) == 2 else [*sections, *compared],
        documents=[run.document for run in runs],
        shown=sum(album.shown for album in albums),
        left_out=sum(section.left_out for section in sections),
    )
    with watch.progress("writing"):
        text = render(page)
        write_text(settings.file, text)
    row = {
        "report": str(settings.file),
        "runs": len(runs),
        "images": page.shown,
        "left_out": page.left_out,
        "megabytes": len(text.encode()) / MEGABYTE,
    }
    return Outcome(compose(settings.command, settings.recorded(), {}, [row], watch.seconds))


def _read(paths: Sequence[Path]) -> list[Run]:
    """Read the runs, each once; raises `InputError` where there is none."""
    records = {record.path.resolve(): record for path in paths for record in _expand(path)}
    if not records:
        raise InputError(f"{quoted(paths)} holds no run that has a report", f"name {_known()}")
    names = folder_names(list(records))
    return [_as_run(record, name) for record, name in zip(records.values(), names, strict=True)]


def _expand(path: Path) -> Iterator[RunRecord]:
    """Yield the run of a folder, or those below a folder that holds several."""
    inside = [file.parent for file in sorted(path.glob(f"*/{RESULT}"), key=_finished)] if path.is_dir() else []
    if inside and not (path / RESULT).is_file():
        yield from (record for record in map(read_run, inside) if record.command in ROOMS)
        return
    record = read_run(path)
    if record.command in ROOMS:
        yield record
        return
    if not inside:
        raise InputError(f"`{path}` is a run of `{record.command}`, which has no report", f"name {_known()}")
    yield from (record for record in map(read_run, inside) if record.command in ROOMS)


def _finished(file: Path) -> tuple[float, str]:
    """Return when a run ended, so that a report tells of one after the other."""
    return file.stat().st_mtime, str(file)


def _known() -> str:
    return f"a run of {', '.join(ROOMS)}"


def _as_run(record: RunRecord, name: str) -> Run:
    """Return a run with its parts; a run at one point is a part itself."""
    parts = [Part(part.path.name, part.path, part.records) for part in record.parts]
    if record.records or not parts:
        parts = [Part("", record.path, record.records)]
    return Run(record.path, record.document, parts, name)


def _sections(runs: Sequence[Run], limit: int, watch: Watch) -> tuple[list[Section], list[Album]]:
    """Return the section of each run; what pictures of one do not use is left to the next ones."""
    sections, albums, room = list[Section](), list[Album](), room_for(limit)
    with watch.progress("drawing", len(runs)) as advance:
        for place, run in enumerate(runs):
            with _shown(run):
                images = {record.get("image") for part in run.parts for record in part.records}
                album = Album(room // (len(runs) - place), limit, len(images))
                before = album.room
                sections.append(make_section(run, f"run-{place + 1}", album))
            albums.append(album)
            room -= before - album.room
            advance(1)
    return sections, albums


@contextlib.contextmanager
def _shown(run: Run) -> Iterator[None]:
    """Make what a damaged run raises in the block one error."""
    try:
        yield
    except DAMAGE as error:
        message = f"`{run.folder}` lacks what a report of `{run.command}` shows: {first_line(error)}"
        raise InputError(message, EDITED) from error


def _pairs(runs: Sequence[Run]) -> Iterator[tuple[Run, Run]]:
    """Yield the runs of each command of which there are two."""
    for command in dict.fromkeys(run.command for run in runs):
        alike = [run for run in runs if run.command == command]
        if len(alike) == 2:
            yield alike[0], alike[1]


def _comparison(old: Run, new: Run, world: World) -> Iterator[Section]:
    """Yield the comparison of two runs, unless they have nothing in common."""
    try:
        document = compare.run(Compare(old=old.folder, new=new.folder), world, Quiet()).document
    except StochxError as error:
        log.info("`%s` and `%s` are not compared: %s", old.folder, new.folder, error)
        return
    assert document is not None
    with _shown(new):
        section = make_comparison(Run(new.folder, document, ()), old, new)
    yield section


def _title(runs: Sequence[Run]) -> str:
    return f"Report of {runs[0].name}" if len(runs) == 1 else f"Report of {len(runs)} runs"
