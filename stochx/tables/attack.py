"""The table of `stochx attack`, and its remarks: the verdicts of the checks, the draws, the comparison."""

from __future__ import annotations

from collections.abc import Sequence

from stochx.tables.power import power_remark
from stochx.tables.view import Column, Document, Gate, Remark, Row, View, interval, number, text


def _columns(rows: Sequence[Row]) -> list[Column]:
    """Return the columns; models, radii, votes and noise only where the rows differ in them or have them."""
    optional = {
        "vote": number("vote", "{:.4f}", note="accuracy of the mean probabilities"),
        "robust_off": number("noise off", "{:.4f}", "robust_off", note="robust accuracy without the network's noise"),
    }
    return [
        *(column for column in (text("model"), RADIUS, DEGREE) if len({*map(column.cell, rows)}) > 1),
        Column("attack", lambda row: f"{row['attack']} ({row['label']})" if row["label"] else row["attack"]),
        interval("clean", "clean", "clean_low", "clean_high"),
        interval("robust", "robust", "low", "high"),
        number(
            "success",
            "{:.4f}",
            note="share of the clean accuracy that is lost (with `--target`: of the images that reach it)",
        ),
        *(column for key, column in optional.items() if any(row[key] is not None for row in rows)),
        number("n"),
        *([EOT] if any(row["estimand"] for row in rows) else []),
        number("forwards", "{:.1f}", note="forward passes per image", minor=True),
        number("backwards", "{:.1f}", note="backward passes per image", minor=True),
        number("seconds", "{:.1f}", minor=True),
    ]


# A radius is shown as it was typed.
RADIUS = Column("eps", lambda row: str(row["typed"]) if row["degree"] is None else f"{row['eps']:.4g}")
EOT = number("eot", note="draws averaged per gradient")
DEGREE = number("degree", "{:.4g}")


def _remarks(document: Document) -> list[Remark]:
    remarks = list[Remark]()
    for check in document["checks"]:
        remarks.append(Remark(check["verdict"], check["text"], check["verdict"]))
        if check["verdict"] != "ok":
            remarks.append(Remark("", check["advice"]))
    for needed in document["expectation"]:
        remarks += _draws(needed)
    if any(row["label"] for row in document["results"]) and not document["args"].get("budget"):
        remarks.append(Remark("warn", "an attack on one draw follows its noise: leave out `eot=1`", "warn"))
    saved, versus = document["saved"], document["versus"]
    if saved is not None and (saved["outside"] or saved["healed"]):
        outside = f"{saved['outside']} of {saved['images']} images out of the ball"
        text = f"rounding to 8 bits took {outside} and made {saved['healed']} correct again"
        remarks.append(Remark("warn", text, "warn"))
    for curve in document["curve"] or ():
        name = "" if versus is None else f": {curve['model']}"
        remarks.append(Remark("curve", f"{_median(curve, 'target' in document['args'])}, n = {curve['n']}{name}"))
    if versus is not None:
        verdict = "not significant" if versus["p"] >= 0.05 else "significant at 5 %"
        gap = f"{versus['difference']:+.4f} ({versus['low']:+.4f} to {versus['high']:+.4f})"
        statistics = f"{gap}, p = {versus['p']:.2g}, n = {versus['n']}"
        remarks.append(Remark("worst case, first minus second:", f"{statistics}: {verdict}"))
    if document.get("power") is not None:  # None where no image was attacked, and in results of older versions
        what = "robust accuracy of another network on other images" if versus is None else "robust accuracy"
        remarks.append(power_remark(document["power"], what, "images", "{:.4f}".format))
    return remarks


def _draws(needed: Row) -> list[Remark]:
    """Say how many draws of the network's noise a gradient needs."""
    where = f"`{needed['model']}`" + ("" if needed["degree"] is None else f" at degree {needed['degree']:.4g}")
    found = f"{needed['draws']} draws (cosine of their mean to the true one: {needed['agreement']:.2f})"
    if not needed["capped"]:
        return [Remark("ok", f"a gradient of {where} needs {found}", "ok")]
    return [
        Remark("warn", f"a gradient of {where} needs more than {found}", "warn"),
        Remark("", "attacks take no more unless you set their `eot`"),
    ]


def _gates(document: Document) -> list[Gate]:
    gate = document["gate"]
    if gate is None:
        return []
    typed, threat = document["args"], document["threat"]
    eps = str(typed["fail_under"]).partition("@")[2] or (
        threat["typed"][-1] if threat["degree"][-1] is None else typed["eps"]
    )
    side = "below" if gate["missed"] else "not below"
    text = f"robust accuracy {gate['value']:.4f} ({gate['on']}) at eps {eps} is {side} {gate['bound']:g}"
    return [Gate(f"--fail-under {typed['fail_under']}", text, gate["missed"])]


def _median(curve: Row, targeted: bool) -> str:
    """Say how far the nearest misclassified points are, or those of the target class."""
    fate = "reach the target class" if targeted else "are misclassified"
    if curve["median"] is None:
        return f"less than half of the images {fate} at any radius"
    pixels = f" ({255 * curve['median']:.2f}/255)" if curve["norm"] == "linf" else ""
    return f"half of the images {fate} within {curve['median']:.4g}{pixels} in {curve['norm']}"


VIEW = View(_columns, _remarks, _gates, keys=("model", "typed", "attack"))
