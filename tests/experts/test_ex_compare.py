"""Comparison over seeds: intervals and verdicts of known numbers, who is better off, and the whole of it in small."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from catallax.errors import InputError
from catallax.experts.compare import LOSS, MEASURES, ROUTERS, Comparison, compare, interval
from catallax.experts.model import Shape
from catallax.experts.regimes import REGIMES, Regimes, compare_objectives
from catallax.experts.rivals import ROUTERS as RULES
from catallax.experts.text import Corpus
from catallax.experts.train import Settings

SMALL = Shape(width=8, blocks=1, heads=2, context=16, experts=4, active=2, hidden=8)
TEXTS = tuple(np.random.default_rng(seed).integers(97, 123, 4000).astype(np.uint8) for seed in (1, 2))
CORPUS = Corpus(("first", "second"), TEXTS)


def comparison(**values):
    """Two measures of the named methods: a loss, the lower the better, and evenness."""
    array = np.array([[loss, [0.5] * len(loss)] for loss in values.values()], float)
    losses = np.stack([array[:, 0], array[:, 0] + 1], axis=-1)
    return Comparison(tuple(values), {LOSS: -1, "evenness": 1}, array, ("first", "second"), losses)


def test_an_interval_is_that_of_student():
    mean, half = interval(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert mean == 3.0
    assert half == pytest.approx(2.7764451 * np.sqrt(2.5 / 5), rel=1e-6)
    assert np.isnan(interval(np.array([np.nan, np.nan]))[0])


def test_intervals_hold_the_truth_as_often_as_they_say():
    draws = np.random.default_rng(0).normal(2.0, 3.0, (2000, 5))
    held = [abs(mean - 2.0) <= half for mean, half in map(interval, draws)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)


def test_seeds_are_paired():
    """All seeds differ more from one another than the routers do, and still the verdict is clear."""
    seeds = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    found = comparison(
        market=seeds, none=seeds + np.array([10, 12, 10, 9, 11]) / 100, dense=seeds - 0.05, late=seeds[::-1]
    )
    outcomes = {one.method: one.outcome for one in found.verdicts() if one.measure == LOSS}
    assert outcomes == {"none": "better", "dense": "worse", "late": "open"}
    first = found.verdicts()[0]
    assert first.difference == pytest.approx(0.104)


def test_what_the_market_does_not_win_is_said():
    seeds = np.array([1.0, 2.0, 3.0])
    lines = comparison(market=seeds, none=seeds + 0.1, dense=seeds - [0.05, 0.06, 0.05]).unwon()
    assert any(line.startswith(f"market is worse than dense in {LOSS}") for line in lines)
    assert any("is not told apart from none in evenness" in line for line in lines)
    assert not any("none in validation loss" in line for line in lines)


def test_a_measure_that_a_method_lacks_is_left_out():
    found = comparison(market=[1.0, 2.0], dense=[1.5, 2.5])
    values = found.values.copy()
    values[1, 1] = np.nan
    found = dataclasses.replace(found, values=values)
    assert {one.measure for one in found.verdicts()} == {LOSS}
    assert found.table()[1][1][-1] == ""


def regimes(gain, loss):
    """Accounts and losses of "before" and "after", two seeds, one block of three experts."""
    gain = np.asarray(gain, float).reshape(2, 2, 1, 3)
    found = comparison(before=loss[0], after=loss[1])
    return Regimes(found, gain, 2 * gain, np.arange(2), {})


def test_an_improvement_leaves_nobody_worse_off():
    before = [[1, 2, 3], [1, 2, 3]]
    better = regimes([before, [[1, 2, 4], [2, 2, 3]]], [[3.0, 3.1], [2.9, 3.0]]).pareto("before", "after")
    assert better.improvement
    assert better.domains["first"][2] == "better"
    assert better.experts["gain"][0] == pytest.approx(1 / 3)
    robbed = regimes([before, [[9, 9, 2.9], [9, 9, 9]]], [[3.0, 3.1], [2.9, 3.0]]).pareto("before", "after")
    assert not robbed.improvement
    harmed = regimes([before, [[9, 9, 9], [9, 9, 9]]], [[2.9, 3.0], [3.0, 3.1]]).pareto("before", "after")
    assert not harmed.improvement and harmed.domains["second"][2] == "worse"
    assert harmed.lines()[-1].endswith("no")


def test_every_router_can_be_compared():
    assert set(ROUTERS) == {*RULES, "causal", "vacant", "specialist", "weighed", "dense"}


def test_what_is_known_is_not_measured_again():
    known = {f"{name}, {seed}": {"scores": {LOSS: seed}, "losses": [1, 2]} for name in "ab" for seed in (0, 1)}
    found = compare(CORPUS, ("a", "b"), seeds=2, known=known)
    assert found.of("b", LOSS).tolist() == [0, 1] and np.isnan(found.of("b", "evenness")).all()
    assert found.losses[1, 1].tolist() == [1, 2] and len(known) == 4


def test_other_affinities_than_a_router_s_own_are_another_cell():
    cells = ("vacant, 0", 1), ("vacant, absolute, 0", 2), ("late, 0", 3), ("late, relative, 0", 4)
    known = {name.replace("0", seed): {"scores": {LOSS: loss}, "losses": [1]} for name, loss in cells for seed in "01"}
    for relative, losses in ((None, [1, 3]), (True, [1, 4]), (False, [2, 3])):
        found = compare(
            CORPUS, ("vacant", "late"), shape=dataclasses.replace(SMALL, relative=relative), seeds=2, known=known
        )
        assert found.values[:, 0, 0].tolist() == losses


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="at least 2 seeds, not 1"):
        compare(CORPUS, ("market",), seeds=1)
    with pytest.raises(ValueError, match="no regime 'barter'"):
        compare_objectives(CORPUS, ("barter",))
    with pytest.raises(ValueError, match="do not divide"):
        compare_objectives(CORPUS, further=7, points=2)


@pytest.mark.bench
def test_a_loss_that_is_not_finite_is_said_to_whom():
    with pytest.raises(InputError, match="'dense', seed 0, came to a loss that is not finite at step"):
        compare(CORPUS, ("dense",), shape=SMALL, settings=Settings(batch=4, rate=1e30, warming=1), seeds=2, steps=4)


@pytest.mark.bench
def test_all_routers_are_compared_in_small():
    lines = []
    found = compare(
        CORPUS, ROUTERS, shape=SMALL, settings=Settings(batch=4), seeds=2, steps=6, windows=8, watch=lines.append
    )
    assert found.values.shape == (len(ROUTERS), len(MEASURES), 2) and len(lines) == 2 * len(ROUTERS)
    assert np.all(found.of("market", "dropped in training") == 0)
    balanced = [name for name in ROUTERS if name != "dense"]
    assert all(np.isfinite(found.of(name, measure)).all() for name in balanced for measure in MEASURES)
    assert np.isfinite(found.of("dense", LOSS)).all() and np.isnan(found.of("dense", "evenness")).all()
    # Equal beginnings, equal batches: what differs is the router alone. And the same call gives the same numbers.
    known = {"market, 0": {"scores": {LOSS: found.of("market", LOSS)[0]}, "losses": [1, 2]}}
    sizes: Any = dict(shape=SMALL, settings=Settings(batch=4), seeds=2, steps=6, windows=8)
    again = compare(CORPUS, ("market",), known=known, **sizes)
    np.testing.assert_array_equal(again.of("market", LOSS), found.of("market", LOSS))
    assert set(known) == {"market, 0", "market, 1"} and again.losses[0, 0].tolist() == [1, 2]


@pytest.mark.bench
def test_all_regimes_are_compared_in_small():
    found = compare_objectives(
        CORPUS, shape=SMALL, settings=Settings(batch=4), seeds=2, steps=6, further=4, points=2, held_windows=8
    )
    assert found.gain.shape == found.revenue.shape == (len(REGIMES), 2, 1, 4)
    assert np.isfinite(found.comparison.values).all()
    assert {curve.shape for curve in found.curves.values()} == {(len(REGIMES), 2, 3)}
    losses = {regime: tuple(found.comparison.of(regime, LOSS)) for regime in REGIMES}
    # In a single block the gain beside all others and the global loss have one gradient.
    np.testing.assert_allclose(losses.pop("marginal"), losses["global"], rtol=1e-6)
    assert len(set(losses.values())) == len(REGIMES) - 1, "two regimes are one"
