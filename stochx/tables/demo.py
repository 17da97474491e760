"""The table of `stochx demo`: a line for each step. Every sentence is computed from the document of its command."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median

from stochx.tables.view import Column, Document, Remark, Row, View, number, text

SIGNIFICANT = 0.05
NOISY = 0.5  # random error above which the warnings call a map mostly noise
Documents = Mapping[str, Document]
"""The documents of the steps so far, by the name of the step."""


def finding(step: str, documents: Documents) -> str:
    """Return what a step has shown, in a sentence or two."""
    return FINDINGS[step](documents)


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _share(row: Row, mean: str, low: str, high: str) -> str:
    """Return `57.3% [47.3, 66.7]`."""
    return f"{_percent(row[mean])} [{100 * row[low]:.1f}, {100 * row[high]:.1f}]"


def _teacher(documents: Documents) -> str:
    (row,) = documents["teacher"]["results"]
    return f"The teacher classifies {_share(row, 'accuracy', 'low', 'high')} of {row['n']} test images correctly."


def _student(documents: Documents) -> str:
    (row,) = documents["student"]["results"]
    lost = row["accuracy_teacher"] - row["accuracy"]
    price = f"{100 * lost:.1f} points less than its teacher: that is the price of robustness"
    compared = price if lost > 0 else "no less than its teacher"
    return f"The student classifies {_share(row, 'accuracy', 'low', 'high')} correctly with its noise, {compared}."


def _attack_teacher(documents: Documents) -> str:
    (row,) = documents["attack-teacher"]["results"]
    return (
        f"{_percent(row['clean'])} are right without the attack, {_share(row, 'robust', 'low', 'high')} under it "
        f"(n = {row['n']}). {_verdicts(documents['attack-teacher'])}"
    )


def _attack_student(documents: Documents) -> str:
    document = documents["attack-student"]
    rows = [row for row in document["results"] if row["attack"] != "worst"]
    trend = {
        degree: tuple(row for row in rows if row["degree"] == degree)
        for degree in sorted({row["degree"] for row in rows})
    }
    honest, naive = trend[1]
    without, more = trend[min(trend)][0], trend[max(trend)][0]
    teacher = documents["attack-teacher"]["results"][0]
    return (
        f"The honest attack ({honest['eot']} draws a gradient) leaves {_share(honest, 'robust', 'low', 'high')}, where "
        f"the teacher kept {_percent(teacher['robust'])}. {_overstatement(honest, naive)} "
        f"{_part_of_noise(honest, without)} At {more['degree']:g} times the noise {_percent(more['robust'])} are left, "
        f"of {_percent(more['clean'])} clean; one draw would claim {_percent(trend[max(trend)][1]['robust'])}. "
        f"{_verdicts(document)}"
    )


def _overstatement(honest: Row, naive: Row) -> str:
    excess = 100 * (naive["robust"] - honest["robust"])
    if excess < 0.1:
        return f"One draw a gradient leaves {_percent(naive['robust'])}: here it is no weaker."
    return f"One draw a gradient leaves {_percent(naive['robust'])}, {excess:.1f} points too many."


def _part_of_noise(honest: Row, without: Row) -> str:
    gain = 100 * (honest["robust"] - without["robust"])
    if gain < 0.1:
        return f"The noise itself adds nothing: without it {_percent(without['robust'])} stay right."
    apart = honest["low"] > without["high"]
    doubt = "" if apart else " (within the intervals)"
    return f"Without the noise {_percent(without['robust'])} stay right: it adds {gain:.1f} points{doubt}."


def _verdicts(document: Document) -> str:
    """Say what the checks of an attack conclude."""
    bad = [check["name"] for check in document["checks"] if check["verdict"] != "ok"]
    if not bad:
        return f"All {len(document['checks'])} checks of the evaluation pass."
    return f"Checks that do not pass: {', '.join(bad)}."


def _boundary(documents: Documents) -> str:
    teacher, student = documents["boundary"]["results"][-2:]  # a plane, or all of them
    sentence = f"The student agrees with its teacher on {_percent(student['agreement'])} of the points."
    if teacher["distance"] is None or student["distance"] is None:
        return sentence
    comparison = "farther away" if student["distance"] > teacher["distance"] else "no farther away"
    return (
        f"{sentence} From an image, the next class is {comparison} for the student: {student['distance']:.2f} against "
        f"{teacher['distance']:.2f} in L2."
    )


def _explain_teacher(documents: Documents) -> str:
    rows = documents["explain-teacher"]["results"]
    gap = max(abs(row["gap"]) for row in rows if row["method"] == "ig")
    return f"IG is complete: its maps miss the change of the logit by at most {gap:.2f}. {_adapted(rows)}"


def _explain_student(documents: Documents) -> str:
    rows = documents["explain-student"]["results"]
    teacher, student = (
        median(row["error"] for row in documents[step]["results"] if row["method"] == "smoothgrad")
        for step in ("explain-teacher", "explain-student")
    )
    comparison = "steadier" if student < teacher else "no steadier"
    return (
        f"The student's gradients are {comparison}: the median random error of SmoothGrad is {_percent(student)}, "
        f"against {_percent(teacher)} for the teacher. {_adapted(rows)}"
    )


def _adapted(rows: Sequence[Row]) -> str:
    """Say what noise SmoothTaylor chose, and of how many images its map is mostly noise."""
    adapted = [row for row in rows if row["sigma"] is not None]
    sigmas, noisy = [row["sigma"] for row in adapted], sum(row["error"] > NOISY for row in adapted)
    verdict = f"{noisy or 'none'} of its {len(adapted)} maps {'are' if noisy > 1 else 'is'} mostly noise"
    return f"SmoothTaylor chose sigma from {min(sigmas):.2f} to {max(sigmas):.2f}, image by image; {verdict}."


def _score(documents: Documents) -> str:
    document = documents["score"]
    methods = {*documents["explain-teacher"]["args"]["method"]}
    return " ".join(
        _ranking([row for row in document["results"] if row["metric"] == metric], methods)
        for metric in document["args"]["metric"]
    )


def _ranking(rows: Sequence[Row], methods: set[str]) -> str:
    """Name the best method by a metric, the best control and whether they differ, and the methods with a worse mean."""
    sign = -1 if rows[0]["better"] == "lower" else 1
    defined = sorted((row for row in rows if row["mean"] is not None), key=lambda row: -sign * row["mean"])
    best = next(row for row in defined if row["method"] in methods)
    control = next(row for row in defined if row["method"] not in methods)
    p = max(best, control, key=defined.index)["p"]  # one of them has the best mean, which the other is tested against
    verdict = "significantly worse" if p is not None and p < SIGNIFICANT else "not significantly different"
    verdict += "" if p is None else f" (p = {p:.2g})"
    below = [row["method"].partition(":")[0] for row in defined[defined.index(control) :] if row["method"] in methods]
    worse = f" Worse than that on average: {', '.join(below)}." if below else ""
    metric, method = (row.partition(":")[0] for row in (best["metric"], best["method"]))
    means = f"`{method}` has {best['mean']:.3g}", f"`{control['method']}` has {control['mean']:.3g}"
    if control is defined[0]:
        found = f"a control leads, so that no method is marked best: {means[1]}. Of the methods {means[0]}"
    else:
        found = f"{means[0]}, the best; of the controls {means[1]}"
    return f"By {metric} ({best['better']} is better) {found}, {verdict}.{worse}"


def _few_shot(name: str) -> Callable[[Documents], str]:
    def sentence(documents: Documents) -> str:
        (row,) = documents[name]["results"]
        return (
            f"After {row['episodes']} episodes it answers {_percent(row['train_accuracy'])} of the training queries "
            f"correctly; guessing gets {_percent(1 / row['way'])}."
        )

    return sentence


def _fsc_test(documents: Documents) -> str:
    (row,) = documents["fsc-test"]["results"]
    difference = f"{100 * row['difference']:+.1f} points [{100 * row['low_difference']:+.1f}, "
    difference += f"{100 * row['high_difference']:+.1f}], p = {row['p']:.2g}"
    if row["p"] >= SIGNIFICANT:
        verdict = "so short a training shows no difference"
    else:
        better = "guided" if row["difference"] > 0 else "unguided"
        verdict = f"of these two networks the {better} one is better; with other seeds it may be the other"
    return (
        f"Guided {_percent(row['accuracy'])}, unguided {_percent(row['accuracy_versus'])} ({row['way']} classes, "
        f"{row['shot']} images each): {difference} over {row['n']} paired episodes; {verdict}."
    )


def _report(documents: Documents) -> str:
    (row,) = documents["report"]["results"]
    return f"{row['runs']} runs and {row['images']} images in {row['megabytes']:.1f} MB: open `{row['report']}`."


FINDINGS: dict[str, Callable[[Documents], str]] = {
    "teacher": _teacher,
    "student": _student,
    "attack-teacher": _attack_teacher,
    "attack-student": _attack_student,
    "boundary": _boundary,
    "explain-teacher": _explain_teacher,
    "explain-student": _explain_student,
    "score": _score,
    "fsc-none": _few_shot("fsc-none"),
    "fsc-lrp": _few_shot("fsc-lrp"),
    "fsc-test": _fsc_test,
    "report": _report,
}


def _columns(rows: Sequence[Row]) -> list[Column]:
    return [
        text("step"),
        text("finding"),
        number("seconds", "{:.0f}"),
    ]


def _remarks(document: Document) -> list[Remark]:
    folder = document["args"]["output"]
    lines = document["next"]
    return [
        Remark("report:", f"{folder}/report.html"),
        *(Remark("try:" if n == 0 else "", line) for n, line in enumerate(lines)),
    ]


VIEW = View(_columns, _remarks)
