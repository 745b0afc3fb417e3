"""The contract's competition: conformance, closed forms of the dynamics, streams of frames, derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from catallax import run, settle
from catallax.cortex import Competition, unit_rows
from catallax.cortex.rules import Within, first_state, follow, follow_all, hard, read_activity, soft
from catallax.testing import check_devices, check_locality, check_message_size, check_permutation, check_system

BATCH, INPUTS, UNITS = 3, 7, 11


def neurons(**options):
    """A competition with stimuli and penalties of its own, and its first state."""
    draw = np.random.default_rng(1)
    fields = unit_rows(draw.normal(size=(UNITS, INPUTS)).astype(np.float32))
    stimuli = jnp.asarray(draw.normal(size=(BATCH, INPUTS)), jnp.float32)
    system = Competition(stimuli, jnp.array([0.2, 0.3, 0.4], jnp.float32), jnp.float32(0.2), **options)
    return system, first_state(system, jnp.asarray(fields))


def test_conformance(key):
    system, state = neurons()

    def explained_and_not(state):
        return state.signal.residual + read_activity(system, state) @ state.agents.field

    check_system(system, run(system, state, 3).state, key=key, conserves={"stimuli": explained_and_not})


def test_conformance_with_winners(key):
    # No gradient: the price moves by a count, which has none.
    system, state = neurons(signed=False, winners=3)
    state = run(system, state, 3).state
    check_locality(system, state, key=key)
    check_permutation(system, state, key=key)
    check_message_size(system, state)
    check_devices(system, state, key=key, devices=(8,))


@pytest.mark.parametrize("threshold", [soft, hard])
@pytest.mark.parametrize("signed", [True, False])
def test_a_round_is_rozells(threshold, signed):
    system, state = neurons(threshold=threshold, signed=signed)
    fields, x, price = (np.asarray(a, float) for a in (state.agents.field, system.stimuli, system.penalty))
    u = np.zeros((BATCH, UNITS))

    def activity(u):
        size = np.abs(u) if signed else u
        return np.where(size > price[:, None], np.sign(u) * (size - price[:, None] * (threshold is soft)), 0)

    for _ in range(5):
        a = activity(u)
        u = u + 0.2 * (x @ fields.T - a @ (fields @ fields.T) + a - u)
    after = run(system, state, 5).state
    np.testing.assert_allclose(after.agents.potential.T, u, atol=1e-5)
    np.testing.assert_allclose(read_activity(system, after), activity(u), atol=1e-5)
    np.testing.assert_allclose(after.signal.residual, x - activity(u) @ fields, atol=1e-5)
    np.testing.assert_array_equal(after.signal.active, (activity(u) != 0).sum(1))


def test_a_start_has_the_activity_that_it_was_given():
    system, _ = neurons()
    draw = np.random.default_rng(3)
    activity = draw.normal(size=(BATCH, UNITS)) * (draw.random((BATCH, UNITS)) < 0.5)
    fields = unit_rows(draw.normal(size=(UNITS, INPUTS)).astype(np.float32))
    state = first_state(system, jnp.asarray(fields), jnp.asarray(activity, jnp.float32))
    np.testing.assert_allclose(read_activity(system, state), activity, atol=1e-6)
    np.testing.assert_allclose(state.signal.residual, system.stimuli - activity @ fields, atol=1e-5)


def test_frames_carry_potentials_over():
    system, state = neurons()
    frames = jnp.stack([system.stimuli, system.stimuli, 1.1 * system.stimuli])
    seen = list(follow(system, state, frames, 6))
    # The same frame twice is one frame for twice as long, bit for bit.
    once = run(system, state, 12).state
    np.testing.assert_array_equal(seen[1].agents.potential, once.agents.potential)
    activity = [read_activity(system, one) for one in seen]
    np.testing.assert_allclose(follow_all(system, state, frames, 6), activity, atol=1e-6)
    # What a new frame adds is unexplained at once: Rozell's equation with the new stimulus from the first round on.
    one, two = follow(system, state, frames[1:], 1)
    before, field = np.asarray(one.agents.potential.T, float), np.asarray(state.agents.field, float)
    a = np.asarray(read_activity(system, one), float)
    drive = (np.asarray(frames[2], float) - a @ field) @ field.T
    np.testing.assert_allclose(two.agents.potential.T, before + 0.2 * (drive + a - before), atol=1e-5)
    changed = first_state(Competition(frames[2], system.penalty, system.step), state.agents.field)
    cold = run(Competition(frames[2], system.penalty, system.step), changed, 6).state
    assert seen[2].signal.unrest < cold.signal.unrest
    np.testing.assert_allclose(
        seen[2].signal.residual, frames[2] - read_activity(system, seen[2]) @ state.agents.field, atol=1e-5
    )


@pytest.mark.bench  # compiles for seconds; `check_system` sees derivatives of runs
def test_rest_depends_on_stimuli_and_penalty_as_the_closed_form_says():
    with jax.enable_x64(True):
        draw = np.random.default_rng(5)
        fields = jnp.asarray(unit_rows(draw.normal(size=(UNITS, INPUTS))))
        stimuli, penalty = jnp.asarray(draw.normal(size=(1, INPUTS))), jnp.array([0.5])

        def rest(stimuli, penalty):
            system = Competition(stimuli, penalty, jnp.asarray(0.2))
            state = first_state(system, fields)
            done = settle(system, state, distance=Within(jnp.asarray(1e-11)), max_rounds=20_000)
            return read_activity(system, done.state)[0]

        a, (by_stimulus, by_penalty) = rest(stimuli, penalty), jax.jacobian(rest, argnums=(0, 1))(stimuli, penalty)
        on = np.flatnonzero(a)
        # On the active fields A a = (D Dᵀ)⁻¹ (D x − λ sign a), with D their rows.
        inverse = np.linalg.inv(fields[on] @ fields[on].T)
        np.testing.assert_allclose(by_stimulus[on][:, 0], inverse @ fields[on], atol=1e-8)
        np.testing.assert_allclose(by_penalty[on][:, 0], -inverse @ np.sign(a[on]), atol=1e-8)
        assert not np.any(np.delete(by_stimulus, on, axis=0))
