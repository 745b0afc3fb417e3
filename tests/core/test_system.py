"""What a system may consist of, and what is said when its pieces do not fit."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from catallax import AbstractSystem, Populations, Sequence, State, Sum, run


class Person(eqx.Module):
    wants: jnp.ndarray


class Firm(eqx.Module):
    makes: jnp.ndarray
    stock: jnp.ndarray


class Trade(AbstractSystem):
    """Two kinds of agents: people want, firms make."""

    def respond(self, agent, signal, key):
        if isinstance(agent, Person):
            return agent, Sum(agent.wants / signal)
        return Firm(agent.makes, agent.stock + agent.makes), Sum({"made": agent.makes, "stock": agent.stock})

    def propagate(self, signal, total):
        return signal * jnp.sqrt(total["people"] / total["firms"]["made"])


def trade():
    people, firms = Person(jnp.arange(1.0, 8.0)), Firm(jnp.array([2.0, 5.0]), jnp.zeros(2))
    return State(Populations(people=people, firms=firms), jnp.array(1.0))


@pytest.mark.parametrize("block", [None, 3])
def test_several_kinds_of_agents(block):
    after = run(Trade(), trade(), 30, block=block).state
    np.testing.assert_allclose(after.signal, 28 / 7, rtol=1e-6)
    np.testing.assert_allclose(after.agents["firms"].stock, [60.0, 150.0])
    assert isinstance(after.agents, Populations) and isinstance(after.agents["people"], Person)


class Add(AbstractSystem):
    amount: float

    def respond(self, agent, signal, key):
        return agent + signal, Sum(agent)

    def propagate(self, signal, total):
        return signal + self.amount * total


def test_a_sequence_is_its_stages_in_turn():
    """Each stage hears the signal that the one before it left; the round counts once."""
    one, two = Add(1.0), Add(-0.5)
    state = State(jnp.array([1.0, 2.0]), jnp.array(1.0))
    whole = run(Sequence((one, Sequence((two,)))), state, 1).state
    by_hand = run(two, run(one, state, 1).state, 1).state
    np.testing.assert_array_equal(whole.agents, by_hand.agents)
    np.testing.assert_array_equal(whole.signal, by_hand.signal)
    assert (int(whole.round), int(by_hand.round)) == (1, 2)


def test_a_sequence_itself_is_no_rule():
    for call in (lambda s: s.respond(0, 0, None), lambda s: s.propagate(0, 0)):
        with pytest.raises(TypeError, match="its stages do"):
            call(Sequence((Add(1.0),)))


class Broken(AbstractSystem):
    """Does what it is told."""

    answer: object = eqx.field(static=True, default=lambda agent: (agent, Sum(agent["x"])))
    motion: object = eqx.field(static=True, default=lambda signal, total: total)

    def respond(self, agent, signal, key):
        return self.answer(agent)

    def propagate(self, signal, total):
        return self.motion(signal, total)


@pytest.mark.parametrize(
    ("system", "message"),
    [
        (
            Broken(lambda a: (a, a["x"])),
            "respond emitted message, which is no message but an array; wrap it in Sum",
        ),
        (
            Broken(lambda a: (a, {"d": {"e": a["x"]}, "s": Sum(a["x"])})),
            r"respond emitted message\['d'\]\['e'\]",
        ),
        (Broken(lambda a: (a["x"], Sum(a["x"]))), "respond handed back an agent of another structure"),
        (
            Broken(lambda a: ({**a, "x": a["x"][None]}, Sum(a["x"]))),
            r"agent whose \['x'\] is float32\(1,\); it was float32\(\)",
        ),
        (
            Broken(lambda a: ({**a, "k": a["x"]}, Sum(a["x"]))),
            r"agent whose \['k'\] is float32\(\); it was int32\(\)",
        ),
        (Broken(motion=lambda s, t: {"p": t}), "propagate gave a signal of another structure"),
        (
            Broken(motion=lambda s, t: jnp.stack([t, t])),
            r"signal whose value is float32\(2,\); it was float32\(\)",
        ),
        (Broken(motion=lambda s, t: t > 0), "signal whose value is bool"),
    ],
)
def test_rules_that_do_not_fit(system, message):
    with pytest.raises(ValueError, match=message):
        run(system, State({"x": jnp.ones(3), "k": jnp.arange(3)}, 0.0), 1)


@pytest.mark.parametrize(
    ("agents", "message"),
    [
        ({"x": jnp.ones((0, 2))}, "a population needs at least one agent"),
        ({"x": jnp.ones(3), "y": jnp.ones(4)}, r"same leading axis; got \{\"\['x'\]\": 3, \"\['y'\]\": 4\}"),
        ({"x": 1.0}, r"\['x'\]: agents are stacked arrays with a leading axis"),
        ({}, "same leading axis; got no leaf"),
        (
            Populations(one={"x": jnp.ones(3)}, two={"x": jnp.ones(0)}),
            "a population needs at least one agent",
        ),
    ],
)
def test_agents_that_are_no_population(agents, message):
    with pytest.raises(ValueError, match=message):
        run(Broken(), State(agents, 0.0), 1)
