"""Codes without competition, against their definitions."""

import numpy as np
import pytest
from scipy.optimize import nnls

from catallax.cortex.pursuit import at_rate, driven, matching_pursuit, orthogonal_pursuit, refit


def fields(units, inputs, seed=0):
    rows = np.random.default_rng(seed).normal(size=(units, inputs))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def question():
    """Forty stimuli of sixteen inputs, made by few of thirty units, and noise."""
    draw = np.random.default_rng(5)
    dictionary = fields(30, 16)
    truth = draw.exponential(size=(40, 30)) * (draw.random((40, 30)) < 0.15)
    return truth @ dictionary + 0.05 * draw.normal(size=(40, 16)), dictionary


def test_a_threshold_leaves_the_rate_that_was_asked_for(question):
    stimuli, dictionary = question
    activity = driven(stimuli, dictionary, 3)
    assert np.count_nonzero(activity) == 3 * 40
    drive = stimuli @ dictionary.T
    assert drive[activity > 0].min() > drive[activity == 0].max()
    # Without a drive nothing is active, whatever the rate; a margin may be negative.
    assert not driven(-stimuli[:1], np.abs(dictionary[:3]) * np.sign(stimuli[:1]), 2).any()
    assert not at_rate(np.full((4, 5), -np.inf), 2).any()
    assert at_rate(np.array([[-1.0, -2.0, -np.inf]]), 1).tolist() == [[True, False, False]]
    assert np.count_nonzero(at_rate(np.arange(1.0, 7.0).reshape(2, 3), 3)) <= 6


@pytest.mark.parametrize("signed", [False, True])
def test_refitted_amplitudes_are_nonnegative_least_squares_on_the_support(question, signed):
    stimuli, dictionary = question
    draw = np.random.default_rng(6)
    activity = draw.choice([-1.0, 1.0], (40, 30)) if signed else np.ones((40, 30))
    activity *= draw.random((40, 30)) < 0.3
    found = refit(stimuli, activity, dictionary)
    assert (found < 0).any() == signed
    for x, before, after in zip(stimuli, activity, found, strict=True):
        active = np.flatnonzero(before)
        expected = np.zeros(30)
        expected[active] = nnls((np.sign(before[active])[:, None] * dictionary[active]).T, x)[0]
        np.testing.assert_allclose(after, expected * np.sign(before), atol=1e-8)


def test_refitting_copies_of_one_unit_shares_alike():
    twins = np.ones((2, 4)) / 2
    np.testing.assert_allclose(refit(np.ones((1, 4)), np.ones((1, 2)), twins), [[1.0, 1.0]], rtol=1e-6)
    assert refit(np.ones((3, 4)), np.zeros((3, 2)), twins).sum() == 0


def pursued(x, dictionary, least, orthogonal):
    """One sample, one pick at a time, from the residual itself."""
    activity, residual = np.zeros(len(dictionary)), x.copy()
    while max(dictionary @ residual) > least:
        best = int(np.argmax(dictionary @ residual))
        activity[best] += dictionary[best] @ residual
        if orthogonal:
            chosen = np.flatnonzero(activity)
            activity[chosen] = nnls(dictionary[chosen].T, x)[0]
        residual = x - activity @ dictionary
    return activity


@pytest.mark.parametrize("orthogonal", [False, True])
def test_pursuits_follow_their_definition(question, orthogonal):
    stimuli, dictionary = question
    found = (orthogonal_pursuit if orthogonal else matching_pursuit)(stimuli, dictionary, 0.2)
    expected = [pursued(x, dictionary, 0.2, orthogonal) for x in stimuli]
    np.testing.assert_allclose(found, expected, atol=1e-8)
    assert found.min() >= 0 and np.max((stimuli - found @ dictionary) @ dictionary.T) <= 0.2
    assert 2 < np.count_nonzero(found) / len(found) < 12


def test_orthogonal_fields_are_explained_alike_by_all():
    stimuli = np.array([[3.0, 0.0, 1.0, -2.0, 0.5]])
    expected = [[3.0, 0.0, 1.0, 0.0, 0.0]]
    for pursuit in (matching_pursuit, orthogonal_pursuit):
        np.testing.assert_allclose(pursuit(stimuli, np.eye(5), 0.6), expected)
    np.testing.assert_allclose(refit(stimuli, driven(stimuli, np.eye(5), 2), np.eye(5)), expected)
