"""The question and its certificate, without any solver."""

import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse

from catallax import InputError
from catallax.cortex import SparseCoding, certify, scores, unit_rows


def small(**changes):
    draw = np.random.default_rng(0)
    parts = {"stimuli": draw.normal(size=(6, 4)), "dictionary": unit_rows(draw.normal(size=(5, 4))), "penalty": 0.2}
    return {**parts, **changes}


def spoilt(shape, place, value):
    table = np.ones(shape)
    table[place] = value
    return table


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stimuli": spoilt((6, 4), (3, 2), np.nan)}, "sample 3 is nan at input 2"),
        ({"stimuli": spoilt((6, 4), (5, 0), np.inf)}, "sample 5 is inf at input 0"),
        ({"dictionary": spoilt((5, 4), (1, 3), -np.inf)}, "unit 1 is -inf at input 3"),
        ({"dictionary": np.eye(4) * [[1], [1], [2], [1]]}, "receptive field of unit 2 has norm 2, not 1"),
        ({"dictionary": np.eye(3)}, "4 inputs and the receptive fields 3"),
        ({"stimuli": np.ones(4)}, r"shape \(4,\)"),
        ({"stimuli": np.ones((0, 4))}, r"shape \(0, 4\)"),
        ({"stimuli": [["a", "b", "c", "d"]]}, "not all real numbers"),
        ({"stimuli": np.ones((2, 4), complex)}, "not all real numbers"),
        ({"penalty": 0.0}, "above zero"),
        ({"penalty": np.nan}, "above zero"),
        ({"penalty": "much"}, "not a number"),
        ({"penalty": np.ones(5)}, "one for each of 6 samples"),
    ],
)
def test_what_cannot_be_a_question_is_named(changes, message):
    with pytest.raises(InputError, match=message):
        SparseCoding(**small(**changes))


def test_a_fault_beyond_the_first_block_is_named(monkeypatch):
    monkeypatch.setattr("catallax.cortex.problem.BLOCK", 8)
    with pytest.raises(InputError, match="sample 5 is nan at input 1"):
        SparseCoding(**small(stimuli=spoilt((6, 4), (5, 1), np.nan)))


def test_arrays_are_kept_and_other_numbers_become_single():
    stimuli = np.ones((3, 4), np.float32)
    problem = SparseCoding(stimuli, np.eye(4, dtype=int), 1)
    assert np.shares_memory(problem.stimuli, stimuli) and not problem.stimuli.flags.writeable
    assert problem.dictionary.dtype == np.float32
    assert (problem.samples, problem.inputs, problem.units) == (3, 4, 4)
    assert SparseCoding(stimuli.astype(float), np.eye(4), 1).stimuli.dtype == np.float64


def test_rows_get_norm_one_and_keep_their_direction():
    fields = np.random.default_rng(1).normal(size=(5, 3)) * np.array([[1e-200], [1e200], [1], [3], [0.1]])
    scaled = unit_rows(fields)
    np.testing.assert_allclose(np.linalg.norm(scaled, axis=1), 1, rtol=1e-14)
    np.testing.assert_allclose(scaled[2:] * np.linalg.norm(fields[2:], axis=1, keepdims=True), fields[2:], rtol=1e-13)
    with pytest.raises(InputError, match="unit 1 is zero"):
        unit_rows([[1, 0], [0, 0]])


@pytest.mark.parametrize("signed", [True, False])
def test_orthonormal_fields_certify_the_closed_form_and_nothing_else(signed):
    draw = np.random.default_rng(3)
    fields = np.linalg.qr(draw.normal(size=(6, 6)))[0]
    problem = SparseCoding(draw.normal(size=(9, 6)), fields, 0.3, signed)
    drive = problem.stimuli @ fields.T
    best = np.sign(drive) * np.maximum((np.abs(drive) if signed else drive) - 0.3, 0)
    found = scores(problem, best)
    np.testing.assert_allclose(found.gap, 0, atol=1e-14)
    np.testing.assert_allclose(found.violation, 0, atol=1e-14)
    np.testing.assert_allclose(
        found.objective, ((problem.stimuli - best @ fields) ** 2).sum(1) / 2 + 0.3 * np.abs(best).sum(1)
    )
    np.testing.assert_array_equal(found.active, (best != 0).sum(1))
    for bent in (best * 1.001, np.where(best == best.max(), 0, best), np.where(best == 0, 1e-3, best)):
        gap, conditions = certify(problem, bent, tol=1e-5)
        assert not gap.holds and not conditions.holds


def test_the_gap_bounds_what_is_lost():
    draw = np.random.default_rng(5)
    problem = SparseCoding(draw.normal(size=(40, 7)), unit_rows(draw.normal(size=(15, 7))), 0.4)
    any_activity = scores(problem, draw.normal(size=(40, 15)) * 0.1)
    silence = scores(problem, np.zeros((40, 15)))
    for one in (any_activity, silence):
        for other in (any_activity, silence):
            assert np.all(one.objective - one.gap <= other.objective)


def test_blocks_sparse_activity_and_penalties_per_sample_score_alike(monkeypatch):
    draw = np.random.default_rng(6)
    stimuli, fields = draw.normal(size=(11, 4)), unit_rows(draw.normal(size=(5, 4)))
    activity = draw.normal(size=(11, 5)) * (draw.random((11, 5)) < 0.4)
    penalty = draw.random(11) + 0.1
    whole = scores(SparseCoding(stimuli, fields, penalty), activity)
    alone = [scores(SparseCoding(stimuli[i : i + 1], fields, penalty[i]), activity[i : i + 1]) for i in range(11)]
    monkeypatch.setattr(sys.modules["catallax.cortex.certify"], "BLOCK", 15)
    blocks = scores(SparseCoding(stimuli, fields, penalty), scipy.sparse.coo_array(activity))
    for column, single, cut in zip(whole, zip(*alone, strict=True), blocks, strict=True):
        np.testing.assert_allclose(column, np.concatenate(single), rtol=1e-12)
        np.testing.assert_allclose(column, cut, rtol=1e-12)


def test_negative_activity_is_forbidden_where_it_is_not_signed():
    problem = SparseCoding([[1.0, 0.0]], np.eye(2), 0.5, signed=False)
    gap, conditions = certify(problem, np.array([[0.5, -1e-3]]))
    assert gap.value == np.inf and not conditions.holds
    assert certify(problem, np.array([[0.5, 0.0]]))[0].value == 0
    with pytest.raises(ValueError, match="asks for"):
        certify(problem, np.zeros((1, 3)))


def test_nothing_to_explain_is_certified():
    found = scores(SparseCoding(np.zeros((2, 3)), np.eye(3), 1.0), np.zeros((2, 3)))
    assert not found.gap.any() and not found.relative_gap.any()


def test_the_question_and_its_certificate_load_neither_jax_nor_the_solver():
    script = (
        "import sys, catallax.cortex.certify;"
        "print([n for n in sys.modules if n in ('jax', 'equinox', 'catallax.cortex.solve', 'catallax.cortex.rules')])"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.stdout.strip() == "[]", ended.stdout + ended.stderr
