"""Closer and closer rest: how close is asked for, for how long, and what is said at the end."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from catallax import Status
from catallax.certificate import Certificate
from catallax.meanfield.certify import Gains
from catallax.meanfield.refine import refine

GAINS = Gains(np.array([1.0, 3.0]), np.array([1.5, 3.0]), np.array([2.0, 6.0]), np.array([0.25, 0.75]))


def refined(good: float, *, ends: Status = Status.SETTLED, rounds: int = 10, most: int = 100, tol: float = 1e-2) -> Any:
    """Let a made-up law rest; its certificate holds from a goal on. Return the fields, and what the law was asked."""
    asked = []

    def rest(goal, state, left):
        asked.append((goal, state, left))
        done = min(rounds, left)
        status = ends if done == rounds else Status.OUT_OF_ROUNDS
        seen = {"recorded": state + 1 + np.arange(done), "record": np.full(done, goal)}
        return SimpleNamespace(state=state + done, status=status, bytes_per_round=8, **seen)

    def judge(state):
        holds = asked[-1][0] <= good
        return GAINS, [Certificate("one", 0.0, tol), Certificate("two", 0.0 if holds else 1.0, tol)], {"policy": state}

    return refine(rest, judge, 0, tol, most), asked  # type: ignore[arg-type]


def test_rest_is_sought_closer_until_the_certificates_hold():
    found, asked = refined(0.9 * 1e-2 / 16)
    goal = 0.9 * 1e-2
    assert asked == [(goal, 0, 100), (goal / 4, 10, 90), (goal / 16, 20, 80)]
    assert found["status"] is Status.SETTLED and found["rounds"] == 30 and found["policy"] == 30
    assert found["history"][0].tolist() == list(range(1, 31))
    assert found["history"][1].tolist() == sorted(found["history"][1], reverse=True)
    assert (found["exploitability"], found["reach"], found["bytes_per_round"]) == (0.125, 5.0, 8)


@pytest.mark.parametrize(
    ("given", "status", "rounds"),
    [
        ({"good": 0.0, "most": 25}, Status.OUT_OF_ROUNDS, 25),
        ({"good": 0.0, "most": 20}, Status.OUT_OF_ROUNDS, 20),
        ({"good": 0.0}, Status.OUT_OF_ROUNDS, 60),
        ({"good": 0.0, "ends": Status.STOPPED}, Status.STOPPED, 10),
        ({"good": 0.0, "ends": Status.NON_FINITE}, Status.NON_FINITE, 10),
        ({"good": 1.0, "ends": Status.STOPPED}, Status.SETTLED, 10),
    ],
    ids=["midway", "at the end", "close enough", "stopped", "nan", "stopped where it holds"],
)
def test_it_ends_and_says_how(given, status, rounds):
    found, asked = refined(**given)
    assert found["status"] is status and found["rounds"] == rounds
    # No closer than a thousandth of the tolerance.
    assert len(asked) == -(-rounds // 10) <= 6
