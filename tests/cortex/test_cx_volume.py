"""Volume transmission: closed forms, an independent integrator, orders of convergence, and where one learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp

from catallax.core.run import run
from catallax.core.system import Populations, State
from catallax.cortex.volume import (
    LinearUptake,
    MichaelisMenten,
    Plastic,
    Terminal,
    Tissue,
    box,
    burst,
    burst_concentration,
    calm,
    medium,
    peak_table,
    radial,
    steady_concentration,
)
from catallax.testing import check_conservation, check_locality, check_message_size, check_permutation, check_system

RATE, DIFFUSION, FRACTION = 19.5, 322.0, 0.21
MIDDLE = {"radial": (radial(8.0, 120), 3), "2-D": (box([14, 14], [63, 63]), 2)}
MIDDLE["3-D"] = box([11, 11, 11], [45, 45, 45]), 3


def one_terminal(space, tissue, rate=0.0, place=None):
    site = space.site(*np.zeros(len(space.shape))) if place is None else place
    return State(Terminal(jnp.array([site], jnp.int32), jnp.array([rate])), tissue)


def bursting(space, seconds, rounds, uptake):
    """The concentration after one release in the middle, and the state's system."""
    site = space.site(*np.zeros(len(space.shape)))
    state = one_terminal(space, Tissue(burst(space, site, 5.0), jnp.zeros(1)))
    return np.asarray(run(medium(space, uptake, seconds=seconds), state, rounds).state.signal.concentration)


@pytest.mark.parametrize("kind", MIDDLE)
def test_a_burst_spreads_as_the_closed_form_says(kind):
    space, dimensions = MIDDLE[kind]
    time = 0.004
    found = bursting(space, time / 4, 4, LinearUptake(RATE))
    distance = space.distances(*np.zeros(len(space.shape)))
    expected = burst_concentration(distance, time, 5.0, rate=RATE, dimensions=dimensions)
    near = distance < 2 * np.sqrt(2 * DIFFUSION * time)
    np.testing.assert_allclose(found[near], expected[near], rtol=0.01)
    free = np.sum(found * space.volumes) * FRACTION
    assert free == pytest.approx(5.0 * np.exp(-RATE * time), rel=1e-5)


def test_a_steady_source_is_surrounded_by_the_closed_form():
    space = radial(20.0, 200)
    state = one_terminal(space, calm(space), rate=10.0)
    found = run(medium(space, LinearUptake(RATE), seconds=2e-4), state, 2500).state.signal.concentration
    distance = space.centres[0]
    there = (distance > 1.0) & (distance < 8.0)
    expected = steady_concentration(distance, 10.0, rate=RATE)
    np.testing.assert_allclose(np.asarray(found)[there], expected[there], rtol=0.01)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_a_steady_source_is_many_bursts(dimensions):
    """The two closed forms agree: the integral of a burst over its age, on a logarithmic scale of time."""

    def aged(log):
        return np.exp(log) * burst_concentration(3.0, np.exp(log), 2.0, rate=RATE, dimensions=dimensions)

    expected = quad(aged, -20, 5, epsrel=1e-10, limit=200)[0]
    assert steady_concentration(3.0, 2.0, rate=RATE, dimensions=dimensions) == pytest.approx(expected, rel=1e-8)


def test_the_order_is_two_in_space():
    """A third of the cells' width, a ninth of the error, in the cell where it all began."""
    with jax.enable_x64(True):
        errors = []
        for cells in (81, 243):
            space = box(20.0, cells)
            found = bursting(space, 0.004, 1, LinearUptake(RATE))[cells // 2]
            errors.append(found / burst_concentration(0.0, 0.004, 5.0, rate=RATE, dimensions=1) - 1)
    assert errors[0] / errors[1] == pytest.approx(9.0, rel=0.05)


def test_saturating_uptake_agrees_with_an_independent_integrator_and_the_order_in_time_is_two():
    space, uptake, time = radial(6.0, 40), MichaelisMenten(100.0, 0.5), 0.004
    first = 3.0 * np.exp(-(space.centres[0] ** 2))

    def law(_, now):
        return DIFFUSION * space.laplacians[0] @ now - 100.0 * now / (0.5 + now)

    expected = solve_ivp(law, (0, time), first, method="LSODA", rtol=1e-10, atol=1e-12).y[:, -1]
    with jax.enable_x64(True):
        errors = []
        for rounds in (16, 32):
            state = one_terminal(space, Tissue(jnp.asarray(first), jnp.zeros(1)))
            end = run(medium(space, uptake, seconds=time / rounds), state, rounds).state
            errors.append(np.max(np.abs(np.asarray(end.signal.concentration) - expected)))
    assert errors[1] < 2e-3 * expected.max()
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.1)


def test_saturating_uptake_has_its_two_limits():
    """Of little, a share is taken per second; of much, an amount; of nothing, nothing."""
    concentration, uptake = jnp.array([1e-5, 1e3, 0.0]), MichaelisMenten(4.1, 0.21)
    left = uptake.left(concentration, 0.01)
    np.testing.assert_allclose(left, [1e-5 * np.exp(-0.01 * 4.1 / 0.21), 1e3 - 0.041, 0.0], rtol=1e-5)


def tissue_at_work():
    space = radial(5.0, 9)
    terminals = Terminal(jnp.array([0, 3, 5], jnp.int32), jnp.array([1.0, 2.0, 0.5]))
    places = jnp.array([0, 2, 4, 8], jnp.int32)
    fields, traces = jnp.linspace(-1.0, 1.0, 20).reshape(4, 5), jnp.linspace(0.1, 0.3, 20).reshape(4, 5)
    tissue = Tissue(jnp.linspace(0.1, 1.0, 9), jnp.linspace(-1.0, 1.0, 5))
    agents = Populations(terminals=terminals, neurons=Plastic(places, fields, traces))
    return medium(space, MichaelisMenten(4.1, 0.21), seconds=1e-3), State(agents, tissue)


def test_agents_see_nobody_but_the_signal(key):
    check_locality(*tissue_at_work(), key=key)
    check_permutation(*tissue_at_work(), key=key)
    check_message_size(*tissue_at_work())


@pytest.mark.bench
def test_the_medium_keeps_every_law(key):
    check_system(*tissue_at_work(), key=key)


def test_without_uptake_nothing_is_lost(key):
    _, state = tissue_at_work()
    sites = state.agents["terminals"].site
    quiet = State(Terminal(sites, jnp.zeros(sites.shape)), state.signal)
    volumes = jnp.asarray(radial(5.0, 9).volumes, jnp.float32)
    mass = {"modulator": lambda state: jnp.sum(state.signal.concentration * volumes)}
    system = medium(radial(5.0, 9), LinearUptake(0.0), seconds=1e-3)
    check_conservation(system, quiet, key=key, conserves=mass, rounds=200)


@pytest.mark.bench
def test_uptake_does_not_change_the_peak_within_a_micrometre():
    """Rice & Cragg (2008): dopamine's uptake in the striatum is too slow for that, and decides further out."""
    table = peak_table((1.0, 10.0))
    assert table["kept"][0] > 0.99 and table["kept"][1] < 0.6


def test_only_where_the_modulator_reaches_do_neurons_learn_what_they_see():
    """The change is what three factors make of the concentration each neuron met; without modulator it is nothing."""
    space, stimulus, seconds, gain, memory = radial(20.0, 100), jnp.array([0.6, 0.8]), 1e-3, 0.05, 0.02
    places = jnp.array([2, 10, 25, 60], jnp.int32)
    neurons = Plastic(places, jnp.tile(jnp.array([[1.0, 0.0]]), (4, 1)), jnp.zeros((4, 2)))
    system = medium(space, LinearUptake(RATE), seconds=seconds, gain=gain, memory=memory)

    def met(state):
        return state.signal.concentration[places]

    def learned(rate):
        terminals = Terminal(jnp.zeros(1, jnp.int32), jnp.array([rate]))
        state = State(Populations(terminals=terminals, neurons=neurons), calm(space, stimulus))
        ran = run(system, state, 400, record=met)
        return np.asarray(ran.state.agents["neurons"].field), np.asarray(ran.record)

    still, _ = learned(0.0)
    np.testing.assert_array_equal(still, neurons.field)
    fields, concentration = learned(0.01)
    # Neurons hear what the round before left; their trace tends to a (x − aφ) = 0.6 (0, 0.8).
    built = 1 - (1 - seconds / memory) ** np.arange(2, 401)
    expected = gain * seconds * 0.48 * built @ concentration[:-1]
    np.testing.assert_allclose(fields[:, 1], expected, rtol=0.01)
    assert expected[0] > 400 * expected[-1]
    strong, _ = learned(2e5)
    np.testing.assert_allclose(strong[0], stimulus, atol=0.01)


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="a box needs a positive size and at least 2 cells for each axis"):
        box([1.0, 2.0], 5)
    with pytest.raises(ValueError, match="a ball needs a positive radius and at least 2 shells; got 0 and 5"):
        radial(0, 5)
    with pytest.raises(ValueError, match="fraction in \\(0, 1\\]; got 1.0, 322.0, 2"):
        medium(radial(1.0, 5), LinearUptake(1.0), seconds=1.0, fraction=2)
