"""Every system of the house under every transformation of JAX, in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from catallax import State, mesh, run
from catallax.market.rules import Buyer, ElasticDemand, ProportionalResponse, Tatonnement, Trial
from catallax.wealth.rules import Exchange, start

ROUNDS = 3


def market(signal, bids=False):
    draw = np.random.default_rng(0)
    value, budget = draw.uniform(1.0, 2.0, (7, 4)), draw.dirichlet(np.ones(7))
    bought = jnp.asarray(budget[:, None] / 4 * np.ones((7, 4))) if bids else None
    return State(Buyer(jnp.asarray(value), jnp.asarray(budget), bids=bought), signal)


CASES = {
    "wealth": lambda: (Exchange(), start(jnp.linspace(1.0, 2.0, 7))),
    "tâtonnement": lambda: (Tatonnement(0.5), market(jnp.full(4, 0.25))),
    "proportional response": lambda: (ProportionalResponse(0.5), market(jnp.full(4, 0.25), bids=True)),
    "elastic demand": lambda: (
        ElasticDemand(0.5),
        market(Trial.at(jnp.log(jnp.full(4, 0.25)), jnp.asarray(1.0))),
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    """What a few rounds lead to, as a vector, as a function of one scale for all private states."""
    with jax.enable_x64(True):
        system, state = CASES[request.param]()

        def scaled(leaf, scale):
            power = jnp.linspace(0.5, 1.0, leaf.shape[0]).reshape(-1, *[1] * (leaf.ndim - 1))
            return leaf * scale**power

        def final(scale, **options):
            agents = jax.tree.map(lambda leaf: scaled(leaf, scale), state.agents)
            after = run(system, State(agents, state.signal), ROUNDS, key=jax.random.key(0), **options).state
            flat = [jnp.ravel(leaf) for leaf in jax.tree.leaves((after.signal, after.agents))]
            finite = jnp.concatenate(flat)
            return jnp.where(jnp.isfinite(finite), finite, 0.0)

        yield final


SCALES = np.array([0.9, 1.0, 1.2])


def close(one, other):
    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_jit(case):
    close(jax.jit(case)(1.1), case(jnp.array(1.1)))


def test_vmap(case):
    close(jax.jit(jax.vmap(case))(SCALES), np.stack([case(jnp.array(s)) for s in SCALES]))


def test_forward_and_reverse_are_one_derivative_and_that_of_differences(case):
    forward, reverse = jax.jit(jax.jacfwd(case))(1.1), jax.jit(jax.jacrev(case))(1.1)
    assert np.max(np.abs(forward)) > 0
    close(forward, reverse)
    step = 1e-6
    differences = (case(jnp.array(1.1 + step)) - case(jnp.array(1.1 - step))) / (2 * step)
    np.testing.assert_allclose(forward, differences, rtol=1e-5, atol=1e-7)


@pytest.mark.bench
def test_vmap_of_derivative(case):
    derivative = jax.jit(jax.vmap(jax.jacfwd(case)))(SCALES)
    single = jax.jit(jax.jacfwd(case))
    close(derivative, np.stack([single(s) for s in SCALES]))


def test_derivative_on_devices(case):
    spread = jax.jit(jax.jacfwd(lambda scale: case(scale, mesh=mesh(2))))
    close(spread(1.1), jax.jit(jax.jacfwd(case))(1.1))
