"""The benchmark of experts: what it keeps between starts, and how it judges; nothing here trains."""

import numpy as np
import pytest

from benchmarks.experts_training import Cells, aims
from catallax.experts.compare import (
    BYTE_BITS,
    HELD_VIOLATION,
    LOSS,
    LOSS_ROOMY,
    MEASURES,
    MOVING_VIOLATION,
    TRAIN_VIOLATION,
    Comparison,
)

METHODS = ("market", "late", "hash", "dense")
CELL = {"scores": {LOSS: 1.5}, "losses": [1.5]}


def test_what_was_measured_is_known_at_the_next_start(tmp_path):
    path = tmp_path / "cells.json"
    first = Cells(path, "10 steps")
    assert not first
    first["market, 0"] = CELL
    first["late, 0"] = CELL
    assert dict(Cells(path, "10 steps")) == {"market, 0": CELL, "late, 0": CELL}


def test_what_was_measured_of_another_problem_counts_for_nothing(tmp_path):
    path = tmp_path / "cells.json"
    Cells(path, "10 steps")["market, 0"] = CELL
    assert not Cells(path, "20 steps")
    assert Cells(path, "10 steps")


def test_without_a_file_nothing_is_kept(tmp_path):
    cells = Cells(None, "10 steps")
    cells["market, 0"] = CELL
    assert cells["market, 0"] == CELL and not list(tmp_path.iterdir())


def found(**changes: dict[str, float]) -> Comparison:
    """Everything 1 in both seeds, but for what is said of a method."""
    values = np.ones((len(METHODS), len(MEASURES), 2))
    for method, measures in changes.items():
        for measure, value in measures.items():
            values[METHODS.index(method), list(MEASURES).index(measure)] = value
    return Comparison(METHODS, MEASURES, values, ("plays",), np.ones((len(METHODS), 2, 1)))


def judged(comparison: Comparison, part: str) -> tuple[str, float, bool]:
    """Return the one aim whose words hold a part."""
    (aim,) = [aim for aim in aims(comparison) if part in aim["wanted"]]
    return aim["wanted"], aim["found"], aim["reached"]


@pytest.mark.parametrize(("own", "reached"), [(1.002, True), (1.004, False)])
@pytest.mark.parametrize(("measure", "part"), [(LOSS, "at capacity 1.0 ("), (LOSS_ROOMY, "capacity 1.25")])
def test_the_loss_is_judged_by_the_best_rival_and_not_by_the_dense_network(measure, part, own, reached):
    comparison = found(market={measure: own}, hash={measure: 1.3}, dense={measure: 0.5})
    words, behind, there = judged(comparison, part)
    assert "(late, ±" in words and behind == pytest.approx(own - 1) and there is reached


@pytest.mark.parametrize(
    ("measure", "part", "most"),
    [
        (TRAIN_VIOLATION, "training MaxVio", 0.03),
        (MOVING_VIOLATION, "moves along", 0.05),
        (HELD_VIOLATION, "at the frozen price", 0.05),
        ("dropped in training", "no token dropped", 0.0),
    ],
)
def test_balance_is_judged_by_the_worst_seed(measure, part, most):
    comparison = found(market={measure: most})
    assert judged(comparison, part)[2]
    comparison.values[0, list(MEASURES).index(measure), 1] = most + 0.01
    assert judged(comparison, part)[1:] == (pytest.approx(most + 0.01), False)


def test_specialisation_is_judged_by_the_rival_that_has_most():
    comparison = found(market={BYTE_BITS: 1.2}, late={BYTE_BITS: 1.1}, hash={BYTE_BITS: 1.3})
    words, more, there = judged(comparison, BYTE_BITS)
    assert "(most: hash," in words and more == pytest.approx(-0.1) and not there


def test_specialists_are_judged_beside_the_rivals_and_not_the_market():
    methods = ("market", "specialist", "late")
    values = np.ones((3, len(MEASURES), 2))
    values[:, list(MEASURES).index(BYTE_BITS)] = np.array([1.5, 1.2, 1.1])[:, None]
    comparison = Comparison(methods, MEASURES, values, ("plays",), np.ones((3, 2, 1)))
    words, more, there = judged(comparison, f"specialist: more {BYTE_BITS}")
    assert "(most: late," in words and more == pytest.approx(0.1) and there
