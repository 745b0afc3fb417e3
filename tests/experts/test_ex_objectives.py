"""Objectives of the experts' own: what a gain is, who is moved by what, and which price earns most."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from catallax.experts.objectives import OBJECTIVES, TRIALS, expert_objective, measured_gain, posted

EXPERTS, PLACES, TOKENS, WIDTH, CLASSES = 4, 5, 9, 6, 7
WEIGHTS = np.random.default_rng(9).normal(size=(WIDTH, CLASSES)).astype(np.float32)


def read(state):
    """Logits, by a fixed map that is not linear."""
    return jnp.tanh(state) @ jnp.asarray(WEIGHTS, state.dtype)


@pytest.fixture(scope="module")
def market():
    """Outputs, gates, places (the last of expert 0 empty), hidden states and targets; seed 0."""
    generator = np.random.default_rng(0)
    place = np.stack([generator.permutation(TOKENS)[:PLACES] for _ in range(EXPERTS)])
    place[0, -1] = TOKENS
    return {
        "outputs": jnp.asarray(generator.normal(size=(EXPERTS, PLACES, WIDTH)), jnp.float32),
        "gate": jnp.asarray(generator.uniform(0.2, 0.8, (EXPERTS, PLACES)), jnp.float32),
        "place": jnp.asarray(place),
        "hidden": jnp.asarray(generator.normal(size=(TOKENS, WIDTH)), jnp.float32),
        "targets": jnp.asarray(generator.integers(0, CLASSES, TOKENS)),
    }


def objective(kind, market):
    """The loss alone."""
    return expert_objective(kind, **market, readout=read)[0]


@functools.partial(jax.jit, static_argnums=0)
def slope(kind, market):
    """Its slope with respect to outputs, states and gates."""
    names = ("outputs", "hidden", "gate")
    return jax.grad(lambda some: objective(kind, market | some))({name: market[name] for name in names})


def one_by_one(market, beside):
    """The gain of each place, in NumPy, token by token."""
    added = np.asarray(market["gate"])[..., None] * np.asarray(market["outputs"])
    place, hidden = np.asarray(market["place"]), np.asarray(market["hidden"])

    def loss(state, target):
        logits = np.tanh(state.astype(np.float64)) @ WEIGHTS
        return np.log(np.exp(logits).sum()) - logits[target]

    gain = np.zeros((EXPERTS, PLACES))
    for expert in range(EXPERTS):
        for at, token in enumerate(place[expert]):
            if token == TOKENS:
                continue
            others = [added[e][place[e] == token].sum(0) for e in range(EXPERTS) if e != expert]
            context = hidden[token] + (np.sum(others, axis=0) if beside else 0.0)
            target = int(market["targets"][token])
            gain[expert, at] = loss(context, target) - loss(context + added[expert, at], target)
    return gain


@pytest.mark.parametrize("beside", [False, True])
def test_a_gain_is_what_the_token_loses_less(market, beside):
    added = np.asarray(market["gate"])[..., None] * np.asarray(market["outputs"])
    rest = {name: market[name] for name in ("place", "hidden", "targets")}
    gain = jax.jit(lambda added: measured_gain(added, **rest, readout=read, beside=beside))(added)
    np.testing.assert_allclose(gain, one_by_one(market, beside), rtol=1e-4, atol=2e-6)
    assert gain[0, -1] == 0.0


@pytest.mark.parametrize("kind", OBJECTIVES[1:])
def test_nothing_flows_but_through_the_outputs(market, kind):
    found = slope(kind, market)
    assert jnp.any(found["outputs"] != 0)
    assert not jnp.any(found["hidden"]) and not jnp.any(found["gate"])
    assert not jnp.any(found["outputs"][0, -1]), "an empty place moved its expert"


@pytest.mark.parametrize("kind", ["gain", "revenue"])
def test_an_expert_follows_its_own_customers_alone(market, kind):
    before = slope(kind, market)["outputs"]
    after = slope(kind, market | {"outputs": market["outputs"].at[2].multiply(-3.0)})["outputs"]
    kept = np.array([0, 1, 3])
    np.testing.assert_array_equal(before[kept], after[kept])
    assert jnp.any(before[2] != after[2])


def test_marginal_gains_in_the_last_block_have_the_gradient_of_the_global_loss(market):
    def whole(outputs):
        added = market["gate"][..., None] * outputs
        logits = read(market["hidden"].at[market["place"]].add(added, mode="drop"))
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), market["targets"][:, None], axis=-1))

    own = slope("marginal", market)["outputs"]
    np.testing.assert_allclose(own, jax.jit(jax.grad(whole))(market["outputs"]), rtol=1e-4, atol=1e-7)
    assert np.abs(slope("gain", market)["outputs"] - own).max() > 1e-3


def test_the_gradient_of_gain_is_that_of_finite_differences(market):
    with jax.enable_x64(True):
        double = {
            name: jnp.asarray(np.asarray(leaf), jnp.float64 if leaf.dtype == jnp.float32 else jnp.int32)
            for name, leaf in market.items()
        }
        value = jax.jit(lambda outputs: objective("gain", double | {"outputs": outputs}))
        outputs, step = np.asarray(double["outputs"]), 1e-5
        direction = np.random.default_rng(1).normal(size=outputs.shape)
        difference = (value(outputs + step * direction) - value(outputs - step * direction)) / (2 * step)
        expected = np.sum(np.asarray(slope("gain", double)["outputs"]) * direction)
        assert float(difference) == pytest.approx(float(expected), rel=1e-7)


def test_the_posted_price_earns_most():
    generator = np.random.default_rng(2)
    gain = np.concatenate([generator.exponential(1.0, (3, 400)), generator.normal(-1.0, 0.5, (1, 400))])
    price, revenue = posted(jnp.asarray(gain, jnp.float32), jnp.ones(gain.shape, bool))
    spread = 0.5 * gain.std(axis=1, keepdims=True)
    grid = np.linspace(1e-3, 8, 4000)
    earned = grid * (1 / (1 + np.exp(-(gain[:, :, None] - grid) / spread[..., None]))).sum(axis=1)
    np.testing.assert_allclose(revenue, earned.max(axis=1), rtol=0.01)
    best = grid[earned.argmax(axis=1)]
    reach = np.maximum(gain.max(axis=1), 0) + 3 * spread[:, 0]
    assert np.all(np.abs(np.asarray(price) - best) <= reach / TRIALS)
    assert np.all(np.asarray(price) > 0), "an expert that nobody gains from still has a price to start from"


@functools.partial(jax.jit, static_argnums=2)
def moved(gain, sold, temperature):
    """The slope of all revenue with respect to gains, and the prices."""

    def revenue(gain):
        price, earned = posted(gain, sold, temperature)
        return jnp.sum(earned), price

    return jax.grad(revenue, has_aux=True)(gain)


def test_one_step_in_price_would_not_change_what_the_parameters_follow():
    """The weight of a customer is price · σ'((gain − price)/τ)/τ: largest at the margin, none far from it."""
    gain, sold = np.array([[0.0, 1.0, 2.0, 3.0, 30.0]], np.float32), np.ones((1, 5), bool)
    weight, price = moved(gain, sold, 0.05)
    spread = 0.05 * np.std(gain)
    bought = 1 / (1 + np.exp(-(gain - price[0]) / spread))
    np.testing.assert_allclose(weight, price[0] * bought * (1 - bought) / spread, rtol=1e-4, atol=1e-7)


def test_an_expert_without_customers_earns_nothing_and_is_not_moved():
    gain = np.array([[0.0, 1.0, 2.0, 3.0, 30.0], [0.0, 0.0, 0.0, 0.0, 0.0]], np.float32)
    sold = np.array([[True] * 5, [False] * 5])
    weight, price = moved(gain, sold, 0.05)
    assert np.isfinite(price).all() and np.isfinite(weight).all()
    np.testing.assert_array_equal(weight[1], 0.0)
    assert weight[0].sum() > 0


def test_an_unknown_objective_is_refused(market):
    with pytest.raises(ValueError, match="no objective 'profit'"):
        objective("profit", market)
