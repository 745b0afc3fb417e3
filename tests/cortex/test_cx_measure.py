"""Measures of codes, against closed forms."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from catallax.cortex.measure import (
    distinct_share,
    effective_units,
    redundancy,
    specialisation,
    turnover,
    unexplained,
)


def equicorrelated(units, cosine):
    """Return unit fields of which every two have the same cosine."""
    return np.linalg.cholesky(np.full((units, units), cosine) + (1 - cosine) * np.eye(units))


def test_unexplained_is_one_for_the_mean_and_the_share_of_the_noise_for_the_truth():
    draw = np.random.default_rng(0)
    dictionary, activity = draw.normal(size=(6, 9)), draw.normal(size=(40, 6))
    signal, noise = activity @ dictionary, 0.1 * draw.normal(size=(40, 9))
    stimuli = signal + noise + 3.0
    assert unexplained(signal, activity, dictionary) < 1e-30
    spread = np.sum((stimuli - stimuli.mean(0)) ** 2)
    np.testing.assert_allclose(unexplained(stimuli, activity, dictionary, 3.0), np.sum(noise**2) / spread)
    np.testing.assert_allclose(unexplained(stimuli, np.zeros((40, 6)), dictionary, stimuli.mean(0)), 1.0)


@pytest.mark.parametrize("cosine", [0.0, 0.3, 0.9])
def test_units_that_all_overlap_alike(cosine):
    # Random sets of random sizes: neither measure of overlap may depend on which units, and the mean not on how many.
    draw = np.random.default_rng(1)
    activity = draw.normal(size=(50, 8)) * (draw.random((50, 8)) < 0.5)
    dictionary = equicorrelated(8, cosine) * draw.choice([-2.0, 1.0], (8, 1))
    np.testing.assert_allclose(redundancy(activity, dictionary), cosine, atol=1e-12)
    count = np.count_nonzero(activity, axis=1)
    expected = np.mean(1 / (1 + (count[count > 0] - 1) * cosine**2))
    np.testing.assert_allclose(distinct_share(activity, dictionary), expected)
    np.testing.assert_allclose(redundancy(csr_array(activity), dictionary), redundancy(activity, dictionary))


def test_overlap_counts_pairs_of_active_units_alone():
    draw = np.random.default_rng(2)
    activity = np.maximum(draw.normal(size=(30, 7)), 0)
    fields = draw.normal(size=(7, 4))
    fields /= np.linalg.norm(fields, axis=1, keepdims=True)
    pairs = [abs(fields[i] @ fields[j]) for row in activity for i in range(7) for j in range(i) if row[i] and row[j]]
    np.testing.assert_allclose(redundancy(activity, fields), np.mean(pairs))


def test_copies_of_one_unit_count_as_one():
    assert distinct_share(np.ones((3, 5)), np.ones((5, 2))) == pytest.approx(1 / 5)
    assert redundancy(np.ones((3, 5)), np.ones((5, 2))) == pytest.approx(1.0)


def test_effective_units_of_even_and_of_uneven_use():
    assert effective_units(np.eye(7)) == pytest.approx(7)
    assert effective_units(np.eye(7)[[0, 0, 0]]) == pytest.approx(1)
    # Uses 2, 1, 1: entropy 1.5 bits.
    assert effective_units(np.eye(5)[[0, 0, 1, 2]] * -3.0) == pytest.approx(2**1.5)


def test_specialisation_of_units_that_know_the_class_and_of_units_that_do_not():
    labels = np.repeat(["a", "b", "c", "d"], 5000)
    perfect = np.eye(4)[np.repeat(np.arange(4), 5000)]
    assert specialisation(perfect, labels) == pytest.approx(2.0, abs=1e-3)
    assert specialisation(np.ones((20000, 4)), labels) == pytest.approx(0.0, abs=1e-3)
    # A unit that fires on "a" and "b" against one for "c" and "d": one bit, however strongly.
    halves = np.eye(2)[np.repeat(np.arange(2), 10000)] * 0.01
    assert specialisation(halves, labels) == pytest.approx(1.0, abs=1e-3)


def test_specialisation_is_zero_on_average_where_labels_mean_nothing():
    # 200 units, 30 activations each: without its bias taken off the estimate would be about 0.048 bits.
    draw = np.random.default_rng(3)
    found = [specialisation(draw.random((600, 200)) < 0.05, draw.integers(0, 3, 600)) for _ in range(20)]
    assert abs(np.mean(found)) < 0.003


def test_turnover_of_known_movements():
    still = np.tile([1.0, 0.0, -2.0, 0.0], (5, 1))
    assert turnover(still) == 0.0
    assert turnover(still * np.array([[1], [-1], [1], [-1], [1]])) == 1.0
    assert turnover(np.eye(4)) == 1.0
    # One of three units is replaced at each step, in two streams at once.
    sliding = np.stack([np.isin(np.arange(9), [t, t + 1, t + 2]) for t in range(7)]).astype(float)
    assert turnover(sliding) == pytest.approx(1 / 3)
    assert turnover(np.stack([sliding, -sliding], axis=1)) == pytest.approx(1 / 3)
    # From two active units to one: one leaves, of sets of sizes 2 and 1.
    assert turnover(np.array([[1.0, 1.0], [1.0, 0.0]])) == pytest.approx(1 / 3)


def test_silence():
    silent = np.zeros((4, 3))
    assert np.isnan(redundancy(silent, np.eye(3))) and np.isnan(distinct_share(silent, np.eye(3)))
    assert np.isnan(turnover(silent))
    assert effective_units(silent) == 0.0 and specialisation(silent, np.arange(4)) == 0.0


def test_labels_must_match_the_samples():
    with pytest.raises(ValueError, match="one label per sample: 4"):
        specialisation(np.ones((4, 3)), np.arange(3))
