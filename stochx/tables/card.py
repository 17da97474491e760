"""The robustness card as text: a table of facts, or a page of Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from stochx.tables.markdown import code, escape, inline
from stochx.tables.quantities import plural
from stochx.tables.view import Column, Document, Row, View, text

Card = Mapping[str, Any]
Fact = tuple[str, str, str]  # section, name, value
RESULT = "Result"
CODE = frozenset({"Network", "Reproduce"})  # sections whose values can be typed or copied
NOISE = {"secret": "secret", "known": "known to the attacker", "off": "off"}
JUDGES = {"any": "any point of the attack that fools the network", "last": "the last point of the attack"}


def facts(card: Card) -> list[Fact]:
    """Return what a card says, section by section."""
    attacked = card["kind"] == "empirical"
    return [
        *(_robust(card) if attacked else _certified(card)),
        *(_threat(card) if attacked else _guarantee(card)),
        *(_effort(card) if attacked else ()),
        *_checks(card),
        *_networks(card),
        *_data(card),
        *(("Environment", name.replace("_", " "), str(value)) for name, value in card["environment"].items()),
        ("Reproduce", "command", card["reproduce"]),
    ]


def card_page(card: Card) -> str:
    """Return a card as a page of Markdown."""
    parts = [f"# Robustness card: {inline(f'`{_models(card)}`')}", _summary(card)]
    for section, group in groupby(facts(card), key=lambda fact: fact[0]):
        write = code if section in CODE else inline
        parts += [f"## {section}", "\n".join(f"- **{inline(name)}:** {write(value)}" for _, name, value in group)]
    return "\n\n".join(parts) + "\n"


def _summary(card: Card) -> str:
    """Say in a sentence what was measured, and whether it can be believed."""
    failed = [check["name"] for check in card["checks"] if check["verdict"] == "fail"]
    if card["kind"] == "certified":
        claim = "Certified: no perturbation within the radius changes a vote that counts here, but for the error alpha."
    elif failed:
        return f"**This evaluation cannot be believed:** a check failed ({escape(', '.join(failed))})."
    else:
        claim = "Measured under attack: an upper bound of the true robust accuracy, as stronger attacks may exist."
    name, value = next((name, value) for section, name, value in facts(card) if section == RESULT)
    return f"**{inline(name)}: {inline(value)}.** {claim}"


def _models(card: Card) -> str:
    return " and ".join(model["model"] for model in card["models"])


def _robust(card: Card) -> Iterator[Fact]:
    """Yield the worst case of each network at each point first, then each attack."""
    claims = sorted(card["claims"], key=lambda claim: claim["attack"] != "worst")
    for claim in claims:
        model = f"{claim['model']}, " if len(card["models"]) > 1 else ""
        degree = "" if claim["degree"] is None else f", degree of noise {claim['degree']:g}"
        eps = claim["typed"] if claim["degree"] is None else f"{claim['eps']:.4g}"
        attack = "worst of all attacks" if claim["attack"] == "worst" else claim["attack"]
        robust = _share(claim["robust"], claim["low"], claim["high"])
        clean = _share(claim["clean"], claim["clean_low"], claim["clean_high"])
        of = f" of {claim['estimand']}" if claim["estimand"] else ""
        where = f"{model}{claim['norm']} {eps}{degree}, {attack}"
        yield RESULT, where, f"robust accuracy{of} {robust}, clean {clean}, n = {claim['n']}"
    if card["failed"]:
        yield RESULT, "left out", f"{plural(card['failed'], 'image')} that could not be used"


def _certified(card: Card) -> Iterator[Fact]:
    overview, n = card["overview"], card["claims"][0]["n"]
    for claim in card["claims"]:
        share = _share(claim["certified"], claim["low"], claim["high"])
        yield RESULT, f"l2 radius {claim['radius']:.4g}", f"certified accuracy {share}, n = {claim['n']}"
    if overview is not None:
        yield RESULT, "average certified radius", f"{overview['acr']:.4f}, n = {n}"
        yield RESULT, "abstained", f"{overview['abstained']:.4f} of the images, n = {n}"


def _share(mean: float, low: float, high: float) -> str:
    return f"{mean:.4f} [{low:.3f}, {high:.3f}]"


def _threat(card: Card) -> Iterator[Fact]:
    threat, section = card["threat"], "Threat model"
    radii = [f"{eps:.4g}" for eps in dict.fromkeys(threat["eps"])]
    if threat["degree"][0] is None:
        radii = [name if name == eps else f"{name} ({eps})" for name, eps in zip(threat["typed"], radii, strict=True)]
    yield section, "ball", f"{threat['norm']}, {threat['space']}"
    yield section, "radius", ", ".join(radii)
    yield section, "goal", f"targeted: {threat['target']}" if threat["target"] else "untargeted: any wrong class"
    yield section, "attacker", "knows the network, its weights and its preparation of images"
    if _is_noisy(card):
        yield section, "draws of the noise", NOISE[threat["noise"]]


def _guarantee(card: Card) -> Iterator[Fact]:
    threat, smoothing, section = card["threat"], card["smoothing"], "Threat model"
    sigma = smoothing["sigma"] if isinstance(smoothing["sigma"], list) else [smoothing["sigma"]]
    yield section, "ball", f"{threat['norm']}, {threat['space']}; any perturbation"
    yield section, "classifier", "the network smoothed by its own noise" if smoothing["own"] else "the smoothed network"
    yield section, "sigma", ", ".join(f"{value:.4g}" for value in sigma)
    yield section, "draws", f"{smoothing['selection']} to select a class, {smoothing['draws']} to certify it"
    yield section, "alpha", f"{smoothing['alpha']:g} for each image"


def _effort(card: Card) -> Iterator[Fact]:
    for attack in card["attacks"]:
        draws = [f"{attack['eot']} draws per gradient"] if attack["eot"] is not None and _is_noisy(card) else []
        spent = [(attack[name], name[:-1]) for name in ("forwards", "backwards") if attack[name] is not None]
        passes = [f"{count:.1f} {name} passes per image" for count, name in spent]
        keys = ", ".join(f"{key}={value}" for key, value in attack["parameters"].items())
        name = f"{attack['attack']} at {attack['typed']}" if len(card["threat"]["typed"]) > 1 else attack["attack"]
        yield "Attacks", name, "; ".join(filter(None, [*draws, *passes, attack["label"], keys]))
    yield "Attacks", "counted", JUDGES[card["judging"]["judge"]]
    if _is_noisy(card):
        yield "Attacks", "judged by", f"{card['judging']['draws']} fresh draws of the noise"


def _is_noisy(card: Card) -> bool:
    return any(model["noise"] != "none" for model in card["models"])


def _checks(card: Card) -> Iterator[Fact]:
    for check in card["checks"]:
        advice = "" if check["verdict"] == "ok" else f"; {check['advice']}"
        yield "Checks", check["name"], f"{check['verdict']}: {check['text']}{advice}"
    if card["kind"] == "empirical" and not card["checks"]:
        yield "Checks", "none", "no checks of the evaluation were made"


def _networks(card: Card) -> Iterator[Fact]:
    for model in card["models"]:
        for name in ("model", "arch", "sha256", "noise"):
            if model.get(name) is not None:
                yield "Network", name, str(model[name])
        if model.get("noises"):
            yield "Network", "noise layers", str(model["noises"])


def _data(card: Card) -> Iterator[Fact]:
    data, section = card["data"], "Data"
    sample, dataset = data["sample"], data["dataset"]
    yield section, "name", str(data["name"])
    yield section, "sample", f"{sample['count']} of {sample['total']} images ({sample['kind']})"
    yield section, "hash of names", str(sample["hash"])
    if dataset is not None:
        yield section, "sha256 of names and labels", dataset["sha256"]
    if sample["trained"] is not None:
        yield section, "trained on", f"{sample['trained']} of these images were in the training of a network"


def _columns(rows: Sequence[Row]) -> list[Column]:
    several = [text("run")] if len({row["run"] for row in rows}) > 1 else []
    return [*several, text("section"), text("name"), text("value")]


def _page(document: Document) -> str:
    return "\n".join(map(card_page, document["cards"]))


VIEW = View(_columns, keys=("run", "section", "name"), page=_page)
