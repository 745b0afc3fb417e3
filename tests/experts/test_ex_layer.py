"""The layer: what it computes, what that costs, and that its price survives every transformation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from catallax.core.mesh import AXIS, mesh
from catallax.experts.layer import Expert, MarketMoE
from catallax.experts.routers import Router

TOKENS, WIDTH, HIDDEN, EXPERTS, ACTIVE, LAYERS = 64, 8, 16, 8, 2, 2
CAPACITY = TOKENS * ACTIVE // EXPERTS


def tokens(*shape: int, seed: int = 0) -> jax.Array:
    """Tokens with a common direction, so that some experts are more popular."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=(*shape, WIDTH)) + 0.7, jnp.float32)


def make(key: int = 0, **options) -> MarketMoE:
    return eqx.filter_jit(lambda key: MarketMoE(WIDTH, HIDDEN, EXPERTS, ACTIVE, key=key, **options))(
        jax.random.key(key)
    )


@pytest.fixture(scope="module")
def layer() -> MarketMoE:
    return make(shared=1)


def by_hand(layer: MarketMoE, x: jax.Array, chosen: jax.Array, kept: jax.Array) -> jax.Array:
    """Every expert on every token, and the weighted sum of those that serve it."""
    every = jnp.stack([jax.tree.map(lambda leaf, e=e: leaf[e], layer.experts)(x) for e in range(EXPERTS)], axis=1)
    own = jnp.take_along_axis(x @ layer.affinity, chosen, axis=1)
    gate = jax.nn.softmax(jnp.where(kept, own, -jnp.inf), axis=1)
    y = jnp.einsum("ik,ikd->id", jnp.where(kept, gate, 0), jnp.take_along_axis(every, chosen[:, :, None], axis=1))
    return y + jax.tree.map(lambda leaf: leaf[0], layer.shared)(x)


@pytest.mark.parametrize("train", [pytest.param(True, marks=pytest.mark.bench), False])
def test_outputs_and_gradients_are_those_of_all_experts_weighed_by_gates(layer, train):
    x = tokens(TOKENS)

    def dispatched(layer, x):
        y, _, _ = layer(x, layer.start(), train=train)
        return jnp.sum(jnp.sin(y)), y

    @eqx.filter_jit
    def both(layer, x):
        routed, _ = layer.route(x, layer.start(), train=train)

        def dense(both):
            y = by_hand(*both, routed.chosen, routed.kept)
            return jnp.sum(jnp.sin(y)), y

        (_, y), slope = eqx.filter_value_and_grad(lambda both: dispatched(*both), has_aux=True)((layer, x))
        (_, z), other = eqx.filter_value_and_grad(dense, has_aux=True)((layer, x))
        return y, z, slope, other, routed.kept

    y, z, slope, other, kept = both(layer, x)
    # At inference before any batch every price is 0, and some tokens lose places.
    assert bool(kept.all()) == train
    np.testing.assert_allclose(y, z, atol=2e-5)
    for one, two in zip(jax.tree.leaves(slope), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4)


def test_no_gradient_passes_through_the_price(layer):
    def served(price):
        state = eqx.tree_at(lambda state: (state.price, state.average), layer.start(), (price, price))
        # Served at the average price, and clearing begins at the last one.
        prices = layer.route(tokens(TOKENS), state)[1].price
        return jnp.sum(layer(tokens(TOKENS), state, train=False)[0]) + jnp.sum(prices)

    assert not np.any(jax.jit(jax.grad(served))(jnp.linspace(0, 0.5, EXPERTS)))


@pytest.mark.parametrize("train", [pytest.param(True, marks=pytest.mark.bench), False])
def test_the_work_is_that_of_the_active_experts(train):
    def answer(layer, x):
        return layer(x, layer.start(), train=train)[0]

    def slope(layer, x):
        return jax.grad(lambda both: jnp.sum(answer(*both) ** 2))((layer, x))

    def work(experts):
        layer = eqx.filter_eval_shape(lambda key: MarketMoE(32, 64, experts, 2, key=key), jax.random.key(0))
        shape = jax.ShapeDtypeStruct((512, 32), jnp.float32)
        return jax.jit(slope if train else answer).lower(layer, shape).compile().cost_analysis()["flops"]

    # Two matrix products per expert, a multiplication and an addition each; the slope takes two more for each of them,
    # one to what comes in and one to the parameters.
    served = 2 * 2 * 2 * 512 * 32 * 64 * (3 if train else 1)
    few, many = work(4), work(32)
    assert served <= few < 1.5 * served
    # All 32 experts would be 16 times as much; what grows is the affinities' product and the search for the best.
    assert served <= many < 2.2 * served


@pytest.mark.bench
def test_the_price_survives_scan_checkpoint_and_vmap():
    layers = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(make(key) for key in range(LAYERS)))
    arrays, rest = eqx.partition(layers, eqx.is_array)
    start = jax.tree.map(lambda leaf: jnp.stack([leaf] * LAYERS), layers.router.start())

    def step(x, each):
        y, state, logs = eqx.combine(each[0], rest)(x, each[1])
        return x + y, (state, logs)

    def scanned(step, arrays, x):
        def loss(arrays):
            y, (states, logs) = jax.lax.scan(step, x, (arrays, start))
            return jnp.sum(y**2), (states, logs)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(arrays)

    x = tokens(TOKENS)
    (_, (states, logs)), slope = scanned(step, arrays, x)
    (_, (again, _)), same = scanned(jax.checkpoint(step), arrays, x)
    for one, two in zip(jax.tree.leaves((states, slope)), jax.tree.leaves((again, same)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
    call = eqx.filter_jit(lambda layer, x: layer(x, layer.start()))
    batches = jnp.stack([x, tokens(TOKENS, seed=1)])
    mapped = eqx.filter_jit(eqx.filter_vmap(lambda layer, x: layer(x, layer.start())[1].price, in_axes=(None, 0)))(
        jax.tree.map(lambda leaf: leaf[0], layers), batches
    )
    np.testing.assert_allclose(mapped[0], states.price[0], atol=1e-5)
    assert np.any(mapped[0] != mapped[1])
    for index in range(LAYERS):
        y, state, _ = call(jax.tree.map(lambda leaf, i=index: leaf[i], layers), x)
        x = x + y
        np.testing.assert_allclose(states.price[index], state.price, atol=1e-5)
    assert np.all(logs.dropped == 0) and np.all(states.count == 1)
    assert np.any(states.price[0] != states.price[1])


def test_the_price_is_the_same_on_1_2_and_8_devices(layer):
    x = tokens(TOKENS)

    def over(devices):
        def call(layer, x):
            routed, state = layer.route(x, layer.start(), axis_name=AXIS)
            return state.price, routed.logs.load, routed.logs.max_violation

        spread, whole = PartitionSpec(AXIS), PartitionSpec()
        split = jax.shard_map(call, mesh=mesh(devices), in_specs=(whole, spread), out_specs=whole, check_vma=False)
        return [np.asarray(leaf) for leaf in jax.jit(split)(layer, x)]

    one = over(1)
    for devices in (2, 8):
        for here, there in zip(one, over(devices), strict=True):
            assert np.array_equal(here, there)
    price, load, violation = one
    assert np.any(price > 0) and load.sum() == TOKENS * ACTIVE and violation <= 2 / CAPACITY


def test_capacity_can_be_changed_for_a_call_and_any_expert_serves():
    class Twice(eqx.Module):
        factor: jax.Array

        def __init__(self, width, hidden, *, key):
            del width, hidden, key
            self.factor = jnp.array(2.0)

        def __call__(self, x):
            return self.factor * x

    layer = make(expert=Twice, router="none")
    x = tokens(TOKENS)
    call = eqx.filter_jit(lambda layer, factor: layer(x, layer.start(), train=False, capacity_factor=factor))
    (tight, _, some), (wide, _, none) = call(layer, 1.0), call(layer, EXPERTS / ACTIVE)
    np.testing.assert_allclose(wide, 2 * x, rtol=1e-5)
    assert none.dropped == 0 and some.dropped > 0
    assert np.array_equal(np.any(np.asarray(tight) != 0, axis=1).mean(), np.float64(1 - some.unserved))


def test_half_precision_stays_half_and_prices_stay_whole(layer):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if eqx.is_inexact_array(leaf) else leaf, layer)
    shape = jax.ShapeDtypeStruct((TOKENS, WIDTH), jnp.bfloat16)
    y, state, logs = eqx.filter_eval_shape(lambda layer, x: layer(x, layer.start()), half, shape)
    assert (y.dtype, state.price.dtype, logs.dropped.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)


def test_experts_are_slices_and_begin_differently(layer):
    assert layer.experts.inward.shape == (EXPERTS, WIDTH, HIDDEN)
    assert not np.array_equal(layer.experts.inward[0], layer.experts.inward[1])
    assert isinstance(layer.experts, Expert)


def test_tokens_hear_the_mean_of_what_their_sequence_has_said():
    """Against float64 NumPy; no token hears a later one or another sequence; experts' weights for it are learnt."""
    layer, deaf, x = make(hears=True), make(), tokens(TOKENS, seed=2)
    assert not np.any(layer.hearing)
    layer = eqx.tree_at(lambda layer: layer.hearing, layer, jax.random.normal(jax.random.key(3), (WIDTH, EXPERTS)))
    found = np.asarray(eqx.filter_jit(MarketMoE.affinities)(layer, x, length=16))
    by_sequence = np.asarray(x, float).reshape(-1, 16, WIDTH)
    heard = np.cumsum(by_sequence, axis=1) / np.arange(1, 17)[:, None]
    expected = by_sequence @ np.asarray(layer.affinity, float) + heard @ np.asarray(layer.hearing, float)
    np.testing.assert_allclose(found, expected.reshape(TOKENS, EXPERTS), atol=1e-5)
    other = np.asarray(eqx.filter_jit(MarketMoE.affinities)(layer, x.at[24:].add(1.0), length=16))
    assert np.array_equal(other[:24], found[:24]) and np.all(np.any(other[24:] != found[24:], axis=1))

    @eqx.filter_jit
    @eqx.filter_grad
    def slope(layer):
        return jnp.sum(layer(x, layer.start(), length=16)[0] ** 2)

    assert np.all(np.any(np.asarray(slope(layer).hearing) != 0, axis=0))
    assert deaf.hearing is None and np.array_equal(deaf.affinities(x), x @ deaf.affinity)
    for length in (None, 15):
        with pytest.raises(ValueError, match=r"hears.* needs length=.*64 is a multiple"):
            layer.affinities(x, length=length)


def test_relative_affinities_are_beside_those_of_earlier_tokens():
    """Against float64 NumPy, a table's share included and what is heard not; a first token's are as they are."""
    layer, x, numbers = make(relative=True, hears=True, vocabulary=5), tokens(TOKENS, seed=2), np.arange(TOKENS) % 5
    keys = jax.random.split(jax.random.key(3))
    layer = eqx.tree_at(lambda layer: layer.table, layer, jax.random.normal(keys[0], (5, EXPERTS)))
    layer = eqx.tree_at(lambda layer: layer.hearing, layer, jax.random.normal(keys[1], (WIDTH, EXPERTS)))
    affinities = eqx.filter_jit(lambda x: layer.affinities(x, tokens=jnp.asarray(numbers), length=16))
    found, by_sequence = np.asarray(affinities(x)), np.asarray(x, float).reshape(-1, 16, WIDTH)
    own = by_sequence @ np.asarray(layer.affinity, float) + np.asarray(layer.table, float)[numbers].reshape(-1, 16, 8)
    count = np.arange(1, 17)[:, None]
    heard = np.cumsum(by_sequence, axis=1) / count @ np.asarray(layer.hearing, float)
    expected = own - (np.cumsum(own, axis=1) - own) / count + heard
    np.testing.assert_allclose(found, expected.reshape(TOKENS, EXPERTS), atol=1e-5)
    other = np.asarray(affinities(x.at[24:].add(1.0)))
    assert np.array_equal(other[:24], found[:24]) and np.all(np.any(other[24:] != found[24:], axis=1))


def test_what_suits_a_whole_text_weighs_less_and_less():
    """Something added to every affinity of a sequence, as a text in one language would, is soon taken off again."""
    layer, x = make(relative=True), tokens(TOKENS, seed=2)
    # What raises the first expert's affinity by one, and no other's.
    along = np.linalg.pinv(np.asarray(layer.affinity))[:1].astype(np.float32)
    affinities = eqx.filter_jit(lambda x: layer.affinities(x, length=16))
    more = np.asarray(affinities(x + along)) - np.asarray(affinities(x))
    expected = np.zeros((TOKENS // 16, 16, EXPERTS))
    expected[:, :, 0] = 1 / np.arange(1, 17)
    np.testing.assert_allclose(more, expected.reshape(TOKENS, EXPERTS), atol=1e-5)
    with pytest.raises(ValueError, match=r"relative, needs length="):
        layer.affinities(x)


def test_a_vocabulary_tells_tokens_apart():
    """Against float64 NumPy; rows are learnt, each by its own tokens; a number beyond the vocabulary has none."""
    layer, x = make(vocabulary=5), tokens(TOKENS, seed=2)
    assert not np.any(layer.table) and layer.table.shape == (5, EXPERTS)
    layer = eqx.tree_at(lambda layer: layer.table, layer, jax.random.normal(jax.random.key(3), (5, EXPERTS)))
    numbers = np.arange(TOKENS) % 4
    found = np.asarray(layer.affinities(x, tokens=jnp.asarray(numbers)))
    expected = np.asarray(x, float) @ np.asarray(layer.affinity, float) + np.asarray(layer.table)[numbers]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    strange = layer.affinities(x, tokens=jnp.full(TOKENS, 5))
    np.testing.assert_array_equal(strange, x @ layer.affinity)

    @eqx.filter_jit
    @eqx.filter_grad
    def slope(layer):
        return jnp.sum(layer(x, layer.start(), tokens=jnp.asarray(numbers))[0] ** 2)

    assert np.any(np.asarray(slope(layer).table) != 0, axis=1).tolist() == [True, True, True, True, False]
    with pytest.raises(ValueError, match="a vocabulary needs tokens="):
        layer(x, layer.start())


def test_a_router_for_another_layer_is_refused():
    with pytest.raises(ValueError, match="2 of 4 experts, the layer has 2 of 8"):
        make(router=Router("market", 4, 2))
