"""Run `stochx card`: make the cards of finished runs."""

from __future__ import annotations

from stochx.engine.world import World
from stochx.errors import InputError, UsageError, first_line
from stochx.runs import Document, Outcome
from stochx.runs._card import COMMANDS, make_card
from stochx.runs._results import make_document
from stochx.runs.folders import RunRecord, read_run
from stochx.runs.watch import Watch
from stochx.settings import Card
from stochx.tables.card import card_page, facts


def run(settings: Card, world: World, watch: Watch) -> Outcome:
    """Make a card of each run; the rows of the document are their facts, and it has the cards themselves too."""
    if not world.leads:
        return Outcome(None)
    runs = [read_run(path) for path in settings.runs]
    cards = [_card(record) for record in runs]
    rows = [
        {"run": str(record.path), "section": section, "name": name, "value": value}
        for record, card in zip(runs, cards, strict=True)
        for section, name, value in facts(card)
    ]
    return Outcome(make_document(settings, watch, {}, rows) | {"cards": cards})


def _card(record: RunRecord) -> Document:
    """Return the card of a run, once it is sure that its page can be written."""
    if record.command not in COMMANDS:
        raise UsageError(
            f"`{record.path}` is a run of {record.command}", f"a card is made of runs of {' and '.join(COMMANDS)}"
        )
    if not record.document["results"]:
        raise InputError(f"`{record.path}` has no results", "a card needs at least one image")
    try:
        card = make_card(record.document)
        card_page(card)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        hint = f"another version of stochx wrote it: run `{record.command}` again"
        raise InputError(f"`{record.path}` lacks what a card says: {first_line(error)}", hint) from None
    return card
