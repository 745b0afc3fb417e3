"""Randomness comes from the seed, the round and the agent's own number, and from nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from catallax import AbstractSystem, Populations, Sequence, State, Sum, mesh, run


class Draw(AbstractSystem):
    """Every agent keeps its last draw."""

    def respond(self, agent, signal, key):
        return jax.random.bits(key), Sum(jnp.uint32(0))

    def propagate(self, signal, total):
        return signal


class Draws(Draw):
    """Every agent keeps a draw of every stage."""

    column: int = 0

    def respond(self, agent, signal, key):
        return agent.at[self.column].set(jax.random.bits(key)), Sum(jnp.uint32(0))


def drawn(n=23, rounds=1, seed=0, start=0, **options):
    state = State(jnp.zeros(n, jnp.uint32), 0, round=start)
    return np.asarray(run(Draw(), state, rounds, key=jax.random.key(seed), **options).state.agents)


def test_agents_rounds_and_seeds_draw_differently():
    everything = np.concatenate([drawn(rounds=r, seed=s) for r in (1, 2, 3) for s in (0, 1)])
    assert len(np.unique(everything)) == len(everything)


@pytest.mark.parametrize("options", [{"mesh": 1}, {"mesh": 2}, {"mesh": 8}, {"block": 1}, {"block": 5}])
def test_place_does_not_matter(options):
    options = {**options, "mesh": mesh(options["mesh"])} if "mesh" in options else options
    np.testing.assert_array_equal(drawn(), drawn(**options))


def test_company_does_not_matter():
    np.testing.assert_array_equal(drawn(n=23), drawn(n=40)[:23])


def test_only_the_round_matters_not_how_it_was_reached():
    np.testing.assert_array_equal(drawn(rounds=7), drawn(rounds=2, start=5))


def test_populations_and_stages_draw_differently():
    agents = Populations(one=jnp.zeros((9, 2), jnp.uint32), two=jnp.zeros((9, 2), jnp.uint32))
    state = run(Sequence((Draws(0), Draws(1))), State(agents, 0), 1, key=jax.random.key(0)).state
    everything = np.concatenate([np.ravel(state.agents[name]) for name in ("one", "two")])
    assert len(np.unique(everything)) == 36


def test_no_key_is_a_fixed_key():
    state = State(jnp.zeros(5, jnp.uint32), 0)
    np.testing.assert_array_equal(run(Draw(), state, 1).state.agents, drawn(n=5, seed=0))
