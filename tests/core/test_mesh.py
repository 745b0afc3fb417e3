"""Agents spread over devices: the same run anywhere, and only the total crosses."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from crowds import Crowd, assert_same, buffers, crowd, program

from catallax import AbstractSystem, Best, State, Status, Sum, mesh, run

ROUNDS = 5


def seen(state):
    return state.signal["counts"], state.agents["x"]


def go(state, rounds=ROUNDS, **options):
    return run(Crowd(), state, rounds, key=jax.random.key(3), record=seen, **options)


@pytest.fixture(scope="module")
def alone():
    return go(crowd(29))


@pytest.mark.parametrize("options", [{"mesh": 1}, {"mesh": 2}, {"mesh": 8}, {"mesh": 2, "block": 4}])
def test_the_same_run_anywhere(options, alone):
    """29 agents, divisible by nothing. Whole numbers bit for bit, floats to 1e-6; what is recorded, too."""
    elsewhere = go(crowd(29), **{**options, "mesh": mesh(options["mesh"])})
    assert elsewhere.status is alone.status is Status.FINISHED
    assert elsewhere.record[1].shape == (ROUNDS, 29)
    assert_same((alone.state, alone.record), (elsewhere.state, elsewhere.record))


def test_fewer_agents_than_devices():
    one, other = (go(crowd(3), mesh=m) for m in (None, mesh(8)))
    assert_same(one.state, other.state)


def test_a_state_goes_on_elsewhere(alone):
    """Two rounds on two devices, two on eight, and the last one on one."""
    state = crowd(29)
    for rounds, place in ((2, mesh(2)), (2, mesh(8)), (1, mesh(1))):
        state = go(state, rounds, mesh=place).state
    assert_same(alone.state, state)


def test_bytes_per_round_do_not_depend_on_the_number_of_agents():
    counts = {run(Crowd(), crowd(n), 0, mesh=place).bytes_per_round for n in (3, 29, 1000) for place in (None, mesh(8))}
    assert len(counts) == 1


@pytest.mark.parametrize(("n", "devices"), [(16, 2), (48, 8)])
def test_bytes_per_round_are_what_the_compiled_program_exchanges(n, devices):
    text = program(Crowd(), crowd(n), mesh=mesh(devices))
    lines = [line for line in text.splitlines() if re.search(r" all-reduce(-start)?\(", line)]
    exchanged = sum(size for line in lines for _, size in buffers(line.split(" all-reduce")[0]))
    assert exchanged == run(Crowd(), crowd(n), 0, mesh=mesh(devices)).bytes_per_round
    assert not re.search(r" (all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast)", text)


class Loud(AbstractSystem):
    """Has nothing to say but truth values and infinities."""

    def respond(self, agent, signal, key):
        return agent, {"best": Best(agent, agent > 0), "sum": Sum(agent > 0)}

    def propagate(self, signal, total):
        return total


@pytest.mark.parametrize("agents", [[3.0, 1.0, jnp.nan, 1.0, 2.0], [jnp.inf] * 5, [-1.0, jnp.nan, -jnp.inf, 1.0, 0.0]])
def test_best_and_truth_values_across_devices(agents):
    state = State(jnp.array(agents), {"best": False, "sum": 0})
    alone, spread = (run(Loud(), state, 1, mesh=place).state.signal for place in (None, mesh(8)))
    assert_same(alone, spread, rtol=None)
    assert int(spread["sum"]) == int(np.sum(np.array(agents) > 0))


def test_more_devices_than_there_are():
    with pytest.raises(ValueError, match=r"9 devices asked for; 8 at hand \(cpu\)"):
        mesh(9)
    with pytest.raises(ValueError, match="0 devices asked for"):
        mesh(0)
    assert mesh().size == 8 and mesh(jax.devices()[2:4]).size == 2
