"""Experts that trade inside a model: whom each loss moves, their accounts, and experts that leave and enter."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from catallax.experts.model import LanguageModel, Shape
from catallax.experts.surgery import add, exiled, remove
from catallax.experts.trade import LOSSES, accounts, answers
from catallax.experts.train import first_training

# The router that compiles soonest: what is tested here is the same with any.
SHAPE = Shape(width=8, blocks=1, heads=2, context=8, experts=4, active=2, hidden=6, capacity_factor=2.0, router="sign")
KEY = jax.random.key(1)
WINDOWS = jnp.asarray(np.random.default_rng(0).integers(0, 256, (3, 9)), jnp.int32)


@pytest.fixture(scope="module")
def training():
    """One block, four experts, two per token, places for all; seed 1."""
    return first_training(SHAPE, seed=1)


@eqx.filter_jit
def slopes(model, kinds):
    """The slope of each kind of loss."""
    states = model.start()
    return {
        kind: eqx.filter_grad(lambda model: LOSSES[kind](model, states, WINDOWS)[0])(model)  # noqa: B023
        for kind in kinds
    }


def experts_of(model):
    """All experts' parameters in one array."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(model.blocks.layer.experts)])


def others_of(model):
    """All other parameters in one array."""
    rest = eqx.tree_at(lambda model: model.blocks.layer.experts, model, None)
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(rest)])


def test_all_but_the_experts_follow_the_global_loss(training):
    found = slopes(training.model, ("global", "revenue"))
    whole = others_of(found["global"])
    np.testing.assert_allclose(others_of(found["revenue"]), whole, rtol=1e-4, atol=1e-6)
    assert np.abs(whole).max() > 1e-3
    whole = experts_of(found["global"])
    assert np.abs(experts_of(found["revenue"]) - whole).max() > 0.05 * np.abs(whole).max()


@pytest.mark.bench
def test_marginal_gains_in_the_only_block_move_experts_as_the_global_loss_does(training):
    found = slopes(training.model, ("global", "marginal", "gain"))
    whole = experts_of(found["global"])
    np.testing.assert_allclose(experts_of(found["marginal"]), whole, rtol=1e-3, atol=1e-6)
    assert np.abs(experts_of(found["gain"]) - whole).max() > 0.05 * np.abs(whole).max()
    np.testing.assert_allclose(others_of(found["gain"]), others_of(found["global"]), rtol=1e-4, atol=1e-6)


def test_accounts_add_up_and_an_exiled_expert_sells_nothing(training):
    states = training.model.start()
    trade = accounts(training.model, states, WINDOWS, jnp.zeros((1, 4)))
    assert float(trade.served.sum()) == 2 * WINDOWS[:, 1:].size
    without = accounts(training.model, states, WINDOWS, exiled(training.model, 2))
    assert without.served[0, 2] == without.gain[0, 2] == without.revenue[0, 2] == 0
    assert float(without.served.sum()) == 2 * WINDOWS[:, 1:].size


def test_removing_is_an_infinite_price(training):
    model = training.model
    price = jnp.asarray([[0.3, -0.2, 0.1, 0.0]])
    states = eqx.tree_at(lambda states: (states.price, states.average), model.start(), (price, price))
    logits = eqx.filter_jit(LanguageModel.__call__)
    kept = logits(model, WINDOWS[:, :-1], states, train=False, price_offset=exiled(model, 1))[0]
    cut = remove(training._replace(states=states), 1)
    assert cut.model.shape.experts == 3
    np.testing.assert_array_equal(cut.states.average, price[:, jnp.array([0, 2, 3])])
    removed = logits(cut.model, WINDOWS[:, :-1], cut.states, train=False)[0]
    np.testing.assert_allclose(removed, kept, rtol=1e-5, atol=1e-6)
    full = logits(model, WINDOWS[:, :-1], states, train=False, price_offset=jnp.zeros((1, 4)))[0]
    assert jnp.max(jnp.abs(full - kept)) > 1e-3


def test_an_expert_that_enters_and_leaves_changes_nothing(training):
    for like in (None, 2):
        grown = add(training, like=like, seed=5)
        assert grown.model.shape.experts == 5
        again = remove(grown, 4)
        for before, after in zip(jax.tree.leaves(training), jax.tree.leaves(again), strict=True):
            np.testing.assert_array_equal(before, after)


def test_a_copy_is_its_model_but_for_noise(training):
    grown = add(training, like=2, noise=0.0).model.blocks.layer
    for leaf in jax.tree.leaves(grown.experts):
        np.testing.assert_array_equal(leaf[:, 4], leaf[:, 2])
    np.testing.assert_array_equal(grown.affinity[..., 4], grown.affinity[..., 2])
    fresh = add(training, seed=3).model.blocks.layer
    assert not np.array_equal(fresh.affinity[..., 4], fresh.affinity[..., 2])


@pytest.mark.bench
def test_what_every_expert_would_answer_is_its_own_work(training):
    model = training.model
    found = answers(model, model.start(), WINDOWS)
    assert found.shape == (1, 4, 24, 8)
    # What the experts read is the same for all, so two alike must answer alike, and others must not.
    twins = jax.tree.map(lambda leaf: leaf.at[:, 3].set(leaf[:, 0]), model.blocks.layer.experts)
    same = answers(eqx.tree_at(lambda model: model.blocks.layer.experts, model, twins), model.start(), WINDOWS)
    np.testing.assert_array_equal(same[0, 3], same[0, 0])
    assert not np.array_equal(found[0, 3], found[0, 0])


def test_an_expert_that_is_not_there_is_refused(training):
    with pytest.raises(ValueError, match="no expert 4; this model has 0 to 3"):
        remove(training, 4)
    with pytest.raises(ValueError, match="no expert -1"):
        add(training, like=-1)
    least = training._replace(
        model=eqx.filter_eval_shape(LanguageModel, dataclasses.replace(SHAPE, experts=2), key=KEY)
    )
    with pytest.raises(ValueError, match="none can be removed"):
        remove(least, 0)
    dense = eqx.filter_eval_shape(LanguageModel, dataclasses.replace(SHAPE, router="dense"), key=KEY)
    with pytest.raises(ValueError, match="this model has none"):
        exiled(dense, 0)
