"""Inference: all laws come to the same certified rest, which is that of an independent method."""

import numpy as np
import pytest
import scipy.sparse

import catallax.cortex.fast as fast
from catallax import Status
from catallax.cortex import encode, scores, unit_rows
from catallax.cortex.certify import certify_hard

SAMPLES, INPUTS, UNITS, PENALTY = 21, 12, 30, 0.1


@pytest.fixture(scope="module")
def question():
    draw = np.random.default_rng(4)
    fields = unit_rows(draw.normal(size=(UNITS, INPUTS)))
    sources = draw.laplace(size=(SAMPLES, UNITS)) * (draw.random((SAMPLES, UNITS)) < 0.15)
    return unit_rows(sources @ fields + 0.02 * draw.normal(size=(SAMPLES, INPUTS))), fields


def optimum(stimuli, fields, signed):
    """Activity by cyclic coordinate descent in float64, unit after unit."""
    activity, residual = np.zeros((len(stimuli), len(fields))), stimuli.copy()
    for _ in range(2000):
        for unit, field in enumerate(fields):
            drive = residual @ field + activity[:, unit]
            size = np.maximum((np.abs(drive) if signed else drive) - PENALTY, 0)
            change = np.sign(drive) * size - activity[:, unit]
            activity[:, unit] += change
            residual -= np.outer(change, field)
    return activity


@pytest.mark.parametrize("signed", [True, False])
def test_every_law_comes_to_the_rest_of_an_independent_method(question, signed):
    stimuli, fields = question
    expected = optimum(stimuli, fields, signed)
    laws = ["fast", "competition"]
    codes = {law: encode(stimuli, fields, PENALTY, signed=signed, law=law, tol=1e-8) for law in laws}
    for law, code in codes.items():
        assert code.status is Status.SETTLED and code.law == law and code.activity.dtype == np.float64
        assert all(certificate.holds for certificate in code.certificates)
        np.testing.assert_allclose(code.activity, expected, atol=1e-6)
        assert signed or code.activity.min() >= 0
    assert 1 < np.mean(scores(codes["fast"].problem, codes["fast"].activity).active) < INPUTS


def test_the_kernel_comes_to_the_same_rest(question):
    stimuli, fields = (x.astype(np.float32) for x in question)
    code = encode(stimuli, fields, PENALTY, law="kernel")
    other = encode(stimuli, fields, PENALTY)
    assert code.status is other.status is Status.SETTLED and scipy.sparse.issparse(code.activity)
    np.testing.assert_allclose(code.activity.toarray(), other.activity, atol=1e-4)


def test_single_precision_is_enough_for_the_certificate_and_stays_single(question):
    stimuli, fields = (x.astype(np.float32) for x in question)
    code = encode(stimuli, fields, PENALTY)
    assert code.status is Status.SETTLED and code.activity.dtype == np.float32


def test_no_stimulus_and_a_high_price_need_no_activity(question):
    stimuli, fields = question
    code = encode(np.zeros((2, INPUTS)), fields, PENALTY, tol=1e-8)
    assert code.status is Status.SETTLED and not code.activity.any()
    high = np.max(np.abs(stimuli @ fields.T), axis=1) * 1.001
    code = encode(stimuli, fields, high, tol=1e-8)
    assert code.status is Status.SETTLED and not code.activity.any()
    assert encode(stimuli, fields, high * 0.99, tol=1e-8).activity.any(axis=1).all()


def test_a_start_at_rest_is_kept_by_both_laws(question):
    stimuli, fields = question
    rest = encode(stimuli, fields, PENALTY, tol=1e-8)
    again = encode(stimuli, fields, PENALTY, law="competition", tol=1e-8, start=rest.activity)
    cold = encode(stimuli, fields, PENALTY, law="competition", tol=1e-8)
    assert again.rounds < cold.rounds
    np.testing.assert_allclose(again.activity, rest.activity, atol=1e-6)
    once = encode(stimuli, fields, PENALTY, tol=1e-8, start=rest.activity)
    assert once.rounds == 1
    np.testing.assert_allclose(once.activity, rest.activity, atol=1e-8)


@pytest.mark.parametrize("threshold", ["soft", "hard"])
def test_winners_find_their_price(question, threshold):
    stimuli, fields = question
    code = encode(stimuli, fields, 0.5, law="competition", threshold=threshold, winners=4, tol=1e-6)
    assert code.status is Status.SETTLED
    np.testing.assert_array_equal((code.activity != 0).sum(axis=1), 4)
    assert np.ptp(code.problem.penalty) > 0
    if threshold == "soft":  # a rest of the fixed-price question at the price found
        fixed = encode(stimuli, fields, code.problem.penalty, tol=1e-8)
        np.testing.assert_allclose(code.activity, fixed.activity, atol=1e-5)


def test_a_hard_threshold_leaves_nothing_for_active_units_to_explain(question):
    stimuli, fields = question
    code = encode(stimuli, fields, 0.3, law="competition", threshold="hard", tol=1e-6)
    assert code.status is Status.SETTLED
    for x, a in zip(stimuli, code.activity, strict=True):
        active = np.flatnonzero(a)
        refitted = np.linalg.lstsq(fields[active].T, x, rcond=None)[0]
        np.testing.assert_allclose(a[active], refitted, atol=1e-5)
        assert np.all(np.abs(a[active]) > 0.3)
    bent = code.activity * 1.01
    assert not certify_hard(code.problem, bent, tol=1e-6)[0].holds


def test_one_program_serves_any_number_of_samples(question, monkeypatch):
    stimuli, fields = question
    monkeypatch.setattr(fast, "BATCH", 64)
    whole = encode(stimuli, fields, PENALTY, tol=1e-8).activity
    before = fast._round._cache_size()
    many = encode(np.tile(stimuli, (7, 1)), fields, 2 * PENALTY, tol=1e-8).activity
    part = encode(stimuli[:5], fields, PENALTY, tol=1e-8).activity
    assert fast._round._cache_size() == before
    np.testing.assert_allclose(part, whole[:5], atol=1e-8)
    np.testing.assert_allclose(many[-SAMPLES:], many[:SAMPLES], atol=1e-8)


def test_more_active_units_than_are_kept_and_no_gram_matrix(question, monkeypatch):
    stimuli, fields = question
    expected = encode(stimuli, fields, 0.01, tol=1e-6)
    monkeypatch.setattr(fast, "KEPT", 5)
    monkeypatch.setattr(fast, "GRAM_UNITS", 8)
    crowded = encode(stimuli, fields, 0.01, tol=1e-6, max_rounds=12)
    assert np.max(scores(expected.problem, expected.activity).active) > 5
    assert crowded.status is Status.SETTLED
    np.testing.assert_allclose(crowded.objective, expected.objective, rtol=1e-6)


def test_running_out_of_rounds_is_a_status(question):
    stimuli, fields = question
    code = encode(stimuli, fields, PENALTY, law="competition", max_rounds=3)
    assert code.status is Status.OUT_OF_ROUNDS and code.rounds == 3
    assert not all(certificate.holds for certificate in code.certificates)


def test_the_largest_eigenvalue_is_not_missed():
    fields = unit_rows(np.random.default_rng(8).normal(size=(40, 9)))
    true = np.linalg.norm(fields, 2) ** 2
    assert true <= fast.largest_eigenvalue(fields) <= 1.05 * true


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"law": "slow"}, "no law of motion"),
        ({"threshold": "smooth"}, "no threshold"),
        ({"threshold": "hard"}, "take law='competition'"),
        ({"winners": 3}, "take law='competition'"),
        ({"law": "competition", "winners": UNITS + 1}, "at most all"),
        ({"start": np.zeros((2, 2))}, "start has shape"),
    ],
)
def test_choices_that_do_not_go_together_are_refused(question, options, message):
    with pytest.raises(ValueError, match=message):
        encode(*question, PENALTY, **options)
