"""Synthetic features: the generator keeps its promises, and the two figures are right where they are known."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from catallax.cortex.features import Features, f1, matched, mcc

WORLD = Features(features=200, inputs=48, trees=4, depth=2)


@pytest.fixture(scope="module")
def known():
    """20,000 samples, seed 3."""
    return WORLD.draw(20_000, seed=3)


def test_a_sample_is_its_features_and_the_bias(known):
    assert np.allclose(known.samples, known.activity.toarray() @ known.directions + known.bias, atol=1e-4)
    assert np.allclose(np.linalg.norm(known.directions, axis=1), 1, atol=1e-6)
    assert np.linalg.norm(known.bias) == pytest.approx(0.5)


def test_features_without_a_parent_are_as_frequent_as_promised(known):
    alone, shares = WORLD.parents() < 0, WORLD.shares()
    seen = (known.activity > 0).sum(0) / 20_000
    sigma = np.sqrt(shares * (1 - shares) / 20_000)
    assert (np.abs(seen - shares)[alone] < 4.5 * sigma[alone]).all()
    assert (seen <= shares + 4.5 * sigma).all(), "a tree can only silence"
    assert (shares[0], shares[-1]) == pytest.approx((0.4, 5e-4))


def test_children_need_their_parent_and_exclude_one_another(known):
    active, parents = (known.activity > 0).toarray(), WORLD.parents()
    assert (np.bincount(parents[parents >= 0]) == 4).all() and (parents >= 0).sum() == 4 * (4 + 16)
    for parent in np.unique(parents[parents >= 0]):
        children = active[:, parents == parent]
        assert children.any(), "no child of this parent is ever active"
        assert not children[~active[:, parent]].any()
        assert children.sum(1).max() == 1


def test_amplitudes_are_folded_normals_about_a_falling_mean(known):
    mean = np.linspace(5, 4, 200)
    for feature in (0, 150):
        seen = known.activity[:, [feature]].data
        assert seen.mean() == pytest.approx(mean[feature], abs=4.5 * 0.5 / np.sqrt(seen.size))
        assert seen.std() == pytest.approx(0.5, rel=4.5 / np.sqrt(2 * seen.size))


def test_common_causes_correlate_what_is_active():
    def excess(correlation):
        world = Features(features=60, inputs=8, trees=0, causes=2, correlation=correlation, least=0.1)
        together = np.corrcoef((world.draw(8000).activity > 0).toarray().T)
        return np.abs(together[np.triu_indices(60, 1)]).mean()

    assert excess(0.0) < 0.011  # √(2/π)/√8000 = .0089 where independent
    assert excess(0.5) > 0.05


def test_the_same_seed_gives_the_same_samples_and_another_gives_others():
    first, again, other = (WORLD.draw(500, seed) for seed in (1, 1, 2))
    assert (first.samples == again.samples).all() and (first.directions == other.directions).all()
    assert not (first.samples == other.samples).all()


def test_trees_that_need_too_many_features_are_refused():
    with pytest.raises(ValueError, match="the trees need 504 features; there are 200"):
        Features(features=200).parents()


def test_mcc_is_one_for_the_truth_in_any_order_and_sign_and_scale():
    rng = np.random.default_rng(4)
    truth = WORLD.directions()
    order = rng.permutation(200)
    found = truth[order] * rng.choice([-3.0, 0.5], (200, 1))
    assert mcc(found, truth) == pytest.approx(1, abs=1e-6)
    units, features, _ = matched(found, truth)
    assert (features == order[units]).all()
    assert mcc(truth[:50], truth) == pytest.approx(1, abs=1e-6)


def test_mcc_of_turned_directions_is_their_cosine():
    turned = np.cos(0.3) * np.eye(8)[:4] + np.sin(0.3) * np.eye(8)[4:]
    assert mcc(turned, np.eye(8)[:4]) == pytest.approx(np.cos(0.3))


def test_mcc_is_the_best_pairing_not_the_greedy_one():
    cosines = np.array([[0.75, 0.6], [0.7, 0.05]])  # greedy: (.75 + .05)/2
    rest = np.sqrt(1 - (cosines**2).sum(1, keepdims=True))
    assert mcc(np.hstack([cosines, rest]), np.eye(3)[:2]) == pytest.approx((0.6 + 0.7) / 2)


def test_f1_by_hand():
    said = np.array([[1.0, 0, 0], [2, 0, 1], [0, 0, 1], [3, 0, 0]])
    true = csr_array(np.array([[1, 0.0], [1, 1], [1, 0], [0, 0]]))
    # unit 0 on feature 0: right twice, active thrice, wanted thrice; unit 2 on 1: right once, active twice, wanted once
    assert f1(said, true, np.array([0, 2, 1]), np.array([0, 1, 1])) == pytest.approx([2 / 3, 2 / 3, 0])
    assert f1(said, true, np.array([1]), np.array([1]))[0] == 0
    assert f1(true, true, np.arange(2), np.arange(2)) == pytest.approx([1, 1])
