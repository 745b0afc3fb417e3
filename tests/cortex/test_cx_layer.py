"""The layer that competes: against an independent solver, differences, and the layer without competition."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

from catallax.core.result import Status
from catallax.core.settle import settle
from catallax.core.system import State
from catallax.cortex.layer import CompetitiveLayer, Inhibition, Unit, safe_step, settled_activity
from catallax.testing import check_locality, check_message_size, check_permutation, check_system

INPUTS, UNITS, STRENGTH = 6, 11, 0.8
DRAW = np.random.default_rng(0)
STIMULI = DRAW.normal(size=(5, INPUTS))
WEIGHT = DRAW.normal(size=(UNITS, INPUTS))
BIAS = np.linspace(-0.3, 0.1, UNITS)


def layer(strength=STRENGTH, **options):
    """A layer with known weights, in the precision of the moment."""
    drawn = CompetitiveLayer(INPUTS, UNITS, strength=strength, key=jax.random.key(0), **options)
    return eqx.tree_at(lambda one: (one.weight, one.bias), drawn, (jnp.asarray(WEIGHT), jnp.asarray(BIAS)))


def energy_matrix(fields, strength):
    """H = (1 − s) I + s N Nᵀ, in float64."""
    fields = np.asarray(fields, np.float64)
    return (1 - strength) * np.eye(len(fields)) + strength * fields @ fields.T


def independent_rest(fields, drive, strength):
    """The minimum over a ≥ 0 of ½ aᵀH a − a·d by Lawson & Hanson's active sets."""
    root = np.linalg.cholesky(energy_matrix(fields, strength))
    return nnls(root.T, np.linalg.solve(root, np.asarray(drive, np.float64)))[0]


def competing():
    fields, start = layer().fields, jnp.linspace(0.1, 1.0, UNITS)
    state = State(Unit(fields, fields @ jnp.asarray(STIMULI[0], jnp.float32), start, start), jnp.zeros(INPUTS))
    return Inhibition(STRENGTH, safe_step(fields, STRENGTH)), state


def test_units_rest_where_an_independent_solver_says():
    fields = layer().fields
    drive = jnp.asarray(STIMULI, jnp.float32) @ fields.T + jnp.asarray(BIAS, jnp.float32)[None]

    @jax.jit
    def settled(drive, strength):
        return settled_activity(fields, drive, safe_step(fields, strength), strength=strength, max_rounds=5000)

    for strength in (0.3, 0.8, 0.99):
        answer = jnp.stack([settled(one, jnp.asarray(strength)) for one in drive])
        assert 0.2 < jnp.mean(answer > 0) < 0.8
        np.testing.assert_allclose(answer, [independent_rest(fields, one, strength) for one in drive], atol=3e-5)


def test_the_units_own_dynamics_rest_there_too():
    """Not only after the layer's last step, which would mend a wrong rest."""
    system, state = competing()
    rest = settle(system, state, rtol=1e-6, atol=1e-6)
    assert rest.status is Status.SETTLED
    agents = rest.state.agents
    expected = independent_rest(agents.field, agents.drive, STRENGTH)
    np.testing.assert_allclose(agents.activity, expected, atol=3e-5)


def test_without_competition_it_is_a_linear_layer_with_relu():
    own, x = layer(0.0), jnp.asarray(STIMULI, jnp.float32)
    plain = eqx.nn.Linear(INPUTS, UNITS, key=jax.random.key(0))
    plain = eqx.tree_at(lambda one: (one.weight, one.bias), plain, (own.fields, own.bias))
    np.testing.assert_array_equal(jax.vmap(own)(x), jax.nn.relu(jax.vmap(plain)(x)))


def test_the_derivative_is_that_of_rest():
    """Forward and reverse agree with differences of the answer, in a direction that moves all there is."""
    with jax.enable_x64(True):
        own, x = layer(tol=1e-11, max_rounds=5000), jnp.asarray(STIMULI[0])
        toward = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape), own)

        def along(size):
            moved = jax.tree.map(lambda leaf, change: leaf + size * change, own, toward)
            return moved(x * (1 + size)) @ jnp.sin(jnp.arange(UNITS, dtype=x.dtype))

        far, forward = jax.jit(lambda size: jax.jvp(along, (size,), (jnp.ones(()),)))(jnp.asarray(1e-6))
        near, reverse = jax.jit(jax.value_and_grad(along))(jnp.asarray(-1e-6))
        slope = float(far - near) / 2e-6
    assert abs(slope) > 0.1
    np.testing.assert_allclose([forward, reverse], slope, rtol=2e-5)


def test_a_unit_sees_nobody_but_the_signal(key):
    check_locality(*competing(), key=key)
    check_permutation(*competing(), key=key)
    check_message_size(*competing())


@pytest.mark.bench
def test_competition_keeps_every_law(key):
    check_system(*competing(), key=key)


def test_the_step_is_safe_and_not_timid():
    for rows, columns in ((3, 40), (40, 3)):
        fields = np.random.default_rng(0).normal(size=(rows, columns))
        fields /= np.linalg.norm(fields, axis=1, keepdims=True)
        largest = np.linalg.eigvalsh(energy_matrix(fields, 0.7))[-1]
        assert 0.85 / largest < safe_step(jnp.asarray(fields, jnp.float32), 0.7) <= (1 + 1e-5) / largest


@pytest.mark.bench
def test_of_two_units_of_nearly_one_direction_the_nearer_one_speaks():
    """Without competition both do. Alone, unit 0 rests at n·x − λ, of which unit 1 is left with less than λ."""
    own, toward = layer(0.99, max_rounds=5000), jnp.eye(INPUTS)[0]
    weight = own.weight.at[:, 0].set(0.0).at[0].set(toward).at[1].set(3 * toward + 1)
    own = eqx.tree_at(lambda one: (one.weight, one.bias), own, (weight, jnp.full_like(own.bias, -0.2)))
    answer = eqx.filter_jit(lambda own, x: own(x))
    np.testing.assert_allclose(answer(own, toward), 0.8 * jnp.eye(UNITS)[0], atol=1e-4)
    assert jnp.sum(own.fields[:, 0] - 0.2 > 0) == 2
    # Outside of any transformation settling goes back to the last sound state, which was silence.
    assert jnp.all(jnp.isnan(own(toward * jnp.nan)))


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="the layer takes one input of 6 numbers, not shape \\(5, 6\\)"):
        layer()(jnp.asarray(STIMULI))
    with pytest.raises(ValueError, match="strength is 1, but must be at least 0 and below 1"):
        CompetitiveLayer(2, 2, strength=1, key=jax.random.key(0))
    with pytest.raises(ValueError, match="at least one input and one unit; got 0 and 2"):
        CompetitiveLayer(0, 2, key=jax.random.key(0))
