"""A memory that no single neuron holds: Hebb's couplings, the theory of the load, and what survives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from catallax.cortex.memory import Recall, cubic, expected_overlap, exponential, first_state, hebb, recall, recall_table
from catallax.testing import check_locality, check_message_size, check_permutation, check_system

DRAW = np.random.default_rng(4)
PATTERNS = DRAW.choice([-1.0, 1.0], (5, 40))


def test_neurons_obey_hebbs_couplings_though_no_coupling_is_written_down():
    """All at once for one round: sign of the field under W = ξᵀξ without its diagonal."""
    cues = DRAW.choice([-1.0, 1.0], (3, 40))
    couplings = PATTERNS.T @ PATTERNS
    np.fill_diagonal(couplings, 0.0)
    field = cues @ couplings
    state = first_state(PATTERNS, cues)
    rule = Recall(hebb, haste=1.0)
    agents, message = jax.vmap(rule.respond, (0, None, None))(state.agents, state.signal, jax.random.key(0))
    np.testing.assert_array_equal(agents.spin.T, np.where(field == 0, cues, np.sign(field)))
    total = message.reduce(None, jnp.arange(40))
    np.testing.assert_array_equal(rule.propagate(state.signal, total), np.asarray(agents.spin).T @ PATTERNS.T)


def test_a_neuron_sees_nobody_but_the_signal(key):
    check_locality(Recall(), first_state(PATTERNS, -PATTERNS[:2]), key=key)
    check_permutation(Recall(), first_state(PATTERNS, -PATTERNS[:2]), key=key)
    check_message_size(Recall(), first_state(PATTERNS, -PATTERNS[:2]))


@pytest.mark.bench
def test_recall_keeps_every_law(key):
    check_system(Recall(), first_state(PATTERNS, -PATTERNS[:2]), key=key, differentiable=False)


def test_capacity_and_overlap_are_those_of_the_theory():
    """Amit, Gutfreund & Sompolinsky: α_c = 0.1379, where the overlap is 0.967."""
    assert expected_overlap(0.1375) == pytest.approx(0.967, abs=0.01) and np.isnan(expected_overlap(0.1385))
    for load in (0.05, 0.1, 0.13):
        # The three equations, by iteration from a full overlap.
        m, c = 1.0, 0.0
        for _ in range(2000):
            width = np.sqrt(2 * load) / (1 - c)
            m, c = erf(m / width), 2 / np.sqrt(np.pi) / width * np.exp(-((m / width) ** 2))
        assert expected_overlap(load) == pytest.approx(m, abs=1e-6)


def test_recall_against_load_follows_the_theory_and_breaks_down_beyond_capacity():
    table = recall_table(400, (0.08, 0.25), cues=20, rounds=30)
    assert table["overlap"][0] == pytest.approx(table["expected"][0], abs=0.003)
    assert table["recalled"] == [1.0, 0.0] and table["overlap"][1] < 0.7 and np.isnan(table["expected"][1])


def test_no_single_neuron_holds_it():
    """A third of the neurons dies, a fifth of the cue is wrong, and all patterns come back; near a half wrong, not."""
    table = recall_table(400, (0.04,), noise=(0.2, 0.45), removed=(1 / 3,), cues=16, rounds=30, seed=1)
    assert table["noise"] == [0.2, 0.45] and table["removed"] == [1 / 3] * 2
    assert table["recalled"][0] == 1.0 and table["recalled"][1] < 0.5
    # The load is now that of the neurons that are left.
    assert table["expected"] == [expected_overlap(16 / 267)] * 2


def test_a_dead_neuron_is_none_and_a_pattern_of_zeros_is_none():
    draw = np.random.default_rng(6)
    patterns, left = draw.choice([-1.0, 1.0], (8, 120)), np.sort(draw.permutation(120)[:80])
    cues = np.where(draw.random((8, 120)) < 0.15, -patterns, patterns)
    alive = np.isin(np.arange(120), left)
    masked = np.concatenate([patterns, np.zeros((5, 120))]) * alive
    whole, small = (
        np.asarray(recall(jnp.asarray(one), jnp.asarray(cue), separation=exponential, key=jax.random.key(0)))
        for one, cue in ((masked, cues * alive), (patterns[:, left], cues[:, left]))
    )
    np.testing.assert_array_equal(whole[:, left], small)
    assert np.mean(small == patterns[:, left]) > 0.99 and not whole[:, ~alive].any()


def test_dense_memories_hold_what_hebbs_rule_cannot():
    options = {"noise": (0.1,), "cues": 8, "rounds": 12}
    shares = [recall_table(64, (2.0,), separation=f, **options)["recalled"] for f in (hebb, cubic)]
    assert shares == [[0.0], [1.0]]
    # Of one cue after one look: the exponential answers with the pattern that is nearest.
    rule, state = Recall(exponential, haste=1.0), first_state(PATTERNS, -PATTERNS[:1])
    answer = jax.vmap(rule.respond, (0, None, None))(state.agents, state.signal, jax.random.key(0))[0].spin
    nearest = PATTERNS[np.argmax(-PATTERNS @ PATTERNS[0])]
    assert np.mean(np.asarray(answer)[:, 0] == nearest) > 0.9


def test_patterns_and_cues_of_different_units_are_refused():
    with pytest.raises(ValueError, match="of the same units; got \\(5, 40\\), \\(2, 39\\)"):
        first_state(PATTERNS, PATTERNS[:2, :39])
