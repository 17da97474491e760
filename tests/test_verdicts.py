"""Verdicts: every deliberately weak evaluation fails a check, and honest ones do not.

With `python tests/test_verdicts.py` the table of evaluations and the checks that catch them is printed.
"""

from __future__ import annotations

import pytest
from conftest import shared
from support import cifar_test_images
from weak_evaluations import HONEST, WEAK, Evaluation, judged, with_attacks

from stochx.engine.threat import Ball
from stochx.loading import load_model

ALARMS = 0.05  # share of the honest evaluations that may fail
DAILY = ["PGD", "PGD in L2", "APGD", "DLR", "a perceptron", "a student"]  # the others are slow together


FULL = {"black box", "converged", "planted"}  # checks that attack anew, and take most of the time


def failures(one, full=True):
    return {name for name, verdict in judged(one, full)[1].items() if verdict == "fail"}


def test_there_are_enough_evaluations_to_count_alarms():
    assert len(WEAK) >= 20 and len(HONEST) >= 20


@pytest.mark.parametrize("name", WEAK)
def test_a_weak_evaluation_is_caught(name):
    check = WEAK[name].check
    assert check in failures(WEAK[name], full=check in FULL)


@pytest.mark.parametrize("name", DAILY)
def test_an_honest_evaluation_raises_no_alarm(name):
    assert not failures(HONEST[name])


@pytest.mark.slow
def test_one_in_twenty_honest_evaluations_raises_an_alarm_at_most():
    others = {name: one for name, one in HONEST.items() if name not in DAILY}  # of which none raises one
    alarms = {name: found for name, one in others.items() if (found := failures(one))}
    assert len(alarms) <= ALARMS * len(HONEST), alarms


@pytest.mark.parametrize(
    "name", ["quantised pixels", "a reversed gradient", "softmax outputs", "dropout in train mode"]
)
def test_quick_checks_catch_what_hides_gradients(name):
    assert "fail" in judged(WEAK[name], full=False)[1].values()


KIT = [
    ("resnet20", None, Ball(1 / 255), ["pgd:steps=20"]),
    ("resnet20", None, Ball(0.25, "l2"), ["apgd:steps=20"]),
    ("resnet32", None, Ball(1 / 255), ["fgsm", "pgd:steps=20"]),
    ("robust_resnet2b", None, Ball(2 / 255), ["pgd:steps=20"]),
    ("robust_resnet2b", None, Ball(0.25, "l2"), ["pgd:steps=20,loss=margin"]),
    ("robust_resnet2b", None, Ball(8 / 255), ["apgd:steps=30,loss=dlr"]),
    ("robust_cnn_a_mix", "robust-cnn:first=2,second=2", Ball(2 / 255), ["pgd:steps=20", "square:queries=200"]),
    ("robust_cnn_a_mix", "robust-cnn:first=2,second=2", Ball(8 / 255), ["standard:steps=20,queries=200"]),
    ("robust_oval_wide", "robust-cnn:first=2,second=2", Ball(8 / 255), ["apgd:steps=20,loss=margin"]),
    ("robust_oval_wide", "robust-cnn:first=2,second=2", Ball(2 / 255), ["pgd:steps=20"]),
]


@pytest.mark.slow
def test_honest_evaluations_of_real_networks_raise_no_alarm():
    alarms = {}
    for file, arch, ball, texts in KIT:
        model = load_model(str(shared(f"weights_cifar10/{file}.safetensors")), arch=arch).requires_grad_(False)
        one = Evaluation(lambda model=model: model, with_attacks(*texts), ball)
        verdicts = judged(one, images=cifar_test_images(10))[1]
        if found := {name for name, verdict in verdicts.items() if verdict == "fail"}:
            alarms[file, ball, *texts] = found
    assert not alarms


if __name__ == "__main__":
    for title, evaluations in (("weak", WEAK), ("honest", HONEST)):
        for name, one in evaluations.items():
            print(f"{title} | {name} | {', '.join(sorted(failures(one))) or '-'}", flush=True)
