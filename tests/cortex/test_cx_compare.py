"""Competition against none: that every method is measured alike, and that nothing is claimed that was not seen."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import t as student

from catallax.cortex.certify import certify_hard
from catallax.cortex.compare import (
    MEASURES,
    Comparison,
    compare,
    competing,
    following,
    price_at,
    pursuing,
)
from catallax.cortex.measure import turnover
from catallax.cortex.problem import SparseCoding, unit_rows
from catallax.cortex.pursuit import driven, matching_pursuit, orthogonal_pursuit, refit
from catallax.errors import InputError


def made(samples, units=20, inputs=12, seed=0):
    """Return stimuli made by few units each, and the units' fields."""
    draw = np.random.default_rng(seed)
    fields = unit_rows(draw.normal(size=(units, inputs)).astype(np.float32))
    truth = draw.uniform(1, 2, (samples, units)) * (draw.random((samples, units)) < 3 / units)
    return (truth @ fields + 0.02 * draw.normal(size=(samples, inputs))).astype(np.float32), fields


@pytest.fixture(scope="module")
def comparison():
    """Two seeds, one autoencoder, eight frames of four windows that drift from one stimulus to another."""
    stimuli, _ = made(600)
    ends = stimuli[:8].reshape(2, 4, 12)
    part = np.linspace(0, 1, 8, dtype=np.float32)[:, None, None]
    moving = ends[0] * (1 - part) + ends[1] * part
    labels = (stimuli[:, 0] > 0).astype(int)
    said = []
    options = {"units": 20, "active": 3, "seeds": 2, "held_out": 100, "passes": 2, "steps": 60, "batch": 128}
    found = compare(stimuli, labels, moving, encoders=("topk",), watch=said.append, **options)
    return found, said


def test_orthogonal_units_need_no_competition():
    # They have nothing to tell each other: whoever reads the stimulus alone reads the residual.
    stimuli = np.random.default_rng(1).normal(size=(20, 12)).astype(np.float32)
    fields = np.linalg.qr(np.random.default_rng(2).normal(size=(12, 12)))[0].astype(np.float32)
    alone = driven(stimuli, fields, 4)
    assert np.count_nonzero(alone) == 80
    codes = [competing(stimuli, fields, 4, threshold=threshold) for threshold in ("soft", "hard")]
    codes += [pursuing(pick, stimuli, fields, 4) for pick in (matching_pursuit, orthogonal_pursuit)]
    for activity in codes:
        np.testing.assert_array_equal(activity > 0, alone > 0)
    np.testing.assert_allclose(refit(stimuli, alone, fields), codes[3], atol=1e-6)


def test_hard_competition_on_a_still_picture_rests_where_it_should():
    stimuli, fields = made(6, seed=3)
    frames = np.repeat(stimuli[None], 5, axis=0)
    activity = following(frames, fields, 3, rounds=400)
    assert turnover(activity) == 0 and abs(np.count_nonzero(activity) / 30 - 3) < 0.5
    found = activity[-1]
    # At rest all active units explain fully; the price lies between what silent units want and active ones have.
    want = float(np.max(np.where(found > 0, 0, (stimuli - found @ fields) @ fields.T)))
    least = float(found[found > 0].min())
    assert want < least
    [check] = certify_hard(SparseCoding(stimuli, fields, (want + least) / 2, False), found, tol=1e-3)
    assert check.holds


def test_a_price_is_found_for_the_rate_that_was_asked_for():
    drive = np.random.default_rng(4).exponential(size=(200, 50))
    for active in (2, 10, 30):
        price, activity = price_at(lambda price: np.maximum(drive - price, 0), 1.0, active)
        np.testing.assert_array_equal(activity, np.maximum(drive - price, 0))
        assert price == pytest.approx(-np.log(active / 50), abs=0.1)
        assert np.sum(drive > price) / 200 == pytest.approx(active, rel=0.0101)
    # Nine of ten units are all there is near eight and a half; and nothing is near five.
    together = np.tile(np.repeat([3.0, 2.0, 1.0], [2, 7, 1]), (4, 1))
    assert np.count_nonzero(price_at(lambda price: np.maximum(together - price, 0), 0.5, 8.5)[1]) == 36
    with pytest.raises(InputError, match="no price of activity has 5 units"):
        price_at(lambda price: np.maximum(together - price, 0), 0.5, 5)
    with pytest.raises(InputError, match="no price of activity has 60 units active"):
        price_at(lambda price: np.maximum(drive - price, 0), 1.0, 60)


@pytest.mark.bench
def test_all_methods_are_measured_at_the_same_number_of_active_units(comparison):
    found, said = comparison
    assert found.methods == (
        "competition, hard",
        "competition, soft",
        "drive alone",
        "matching pursuit",
        "orthogonal pursuit",
        "topk encoder",
        "topk units competing",
    )
    assert found.values.shape == (7, len(MEASURES), 2) and np.isfinite(found.values).all()
    np.testing.assert_allclose(found.values[:, 0], 3, rtol=0.03)
    measures = list(MEASURES)
    fitted, own = found.values[:, measures.index("error")], found.values[:, measures.index("error of own amplitudes")]
    assert (fitted <= own + 1e-6).all()
    assert any("seed 1" in line and "topk" in line for line in said)


@pytest.mark.bench
def test_competition_explains_sparse_stimuli_better_than_drive_alone(comparison):
    found, _ = comparison
    hard, alone = (found.interval(method, "error")[0] for method in ("competition, hard", "drive alone"))
    assert hard < 0.6 * alone
    own, competing_now = (found.interval(f"topk {what}", "error")[0] for what in ("encoder", "units competing"))
    assert competing_now < own


def test_verdicts_follow_from_paired_differences():
    values = np.full((3, len(MEASURES), 3), 1.0)
    measures = list(MEASURES)
    error, special = measures.index("error"), measures.index("specialisation")
    values[:, error] = [[1.0, 2.0, 3.0], [1.5, 2.5, 3.6], [0.9, 2.1, 3.0]]
    values[:, special] = [[1.0, 2.0, 3.0], [1.5, 2.5, 3.6], [0.9, 2.1, 3.0]]
    values[:, measures.index("turnover")] = np.nan
    found = Comparison(("a", "b", "c"), values, np.zeros(3))
    outcomes = {(one.method, one.measure): one for one in found.verdicts()}
    first = outcomes["b", "error"]
    half = student.ppf(0.975, 2) * np.std([0.5, 0.5, 0.6], ddof=1) / np.sqrt(3)
    np.testing.assert_allclose([first.difference, first.half], [1.6 / 3, half])
    assert first.outcome == "better" and outcomes["b", "specialisation"].outcome == "worse"
    assert outcomes["c", "error"].outcome == outcomes["c", "specialisation"].outcome == "open"
    assert ("b", "turnover") not in outcomes and ("b", "active units") not in outcomes
    turned = {(one.method, one.measure): one.outcome for one in found.verdicts("b")}
    assert turned["a", "error"] == "worse" and ("b", "error") not in turned
    header, rows = found.table()
    assert header[0] == "method" and rows[0][1 + measures.index("turnover")] == ""
    assert rows[1][1 + error].startswith("2.533 ± ")


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"seeds": 1}, InputError, "at least 2 seeds"),
        ({"active": 20}, InputError, "20 of 20 units cannot be active; give 1 to 19"),
        ({"held_out": 90}, InputError, "too few to learn 20 units"),
        ({"labels": np.zeros(3)}, ValueError, "give one label to each"),
        ({"moving": np.zeros((3, 4, 5))}, ValueError, "not \\(frames, windows, 12\\)"),
        ({"moving": np.zeros((3, 1, 12))}, InputError, "too few for 2 seeds"),
    ],
)
def test_questions_that_cannot_be_answered(change, kind, message):
    question = {"labels": np.zeros(100), "units": 20, "active": 3, "seeds": 2, "held_out": 50} | change
    with pytest.raises(kind, match=message):
        compare(made(100)[0], **question)


def test_a_comparison_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Comparison((), np.zeros(0), np.zeros(0)).methods = ("x",)
