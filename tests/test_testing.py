"""Each check lets an honest system pass and rejects a cheat."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import catallax.testing
from catallax import AbstractMessage, AbstractSystem, Best, Deposit, Outer, Populations, Sequence, State, Sum
from catallax.testing import (
    ConformanceError,
    check_compilations,
    check_conservation,
    check_determinism,
    check_devices,
    check_gradient,
    check_locality,
    check_message_size,
    check_permutation,
    check_system,
    check_vmap,
    checks,
)

N = 23


class Savers(AbstractSystem):
    """Agents spend a share of what they hold; the pot is handed back equally. Honest."""

    share: jax.Array = eqx.field(default_factory=lambda: jnp.array(0.2))

    def respond(self, agent, signal, key):
        purse = agent["money"] + signal["each"]
        spent = self.share * jax.random.uniform(key) * purse
        message = {"pot": Sum(spent), "heads": Sum(jnp.int32(1)), "where": Deposit(agent["home"], 1, sites=4)}
        return {"money": purse - spent, "home": agent["home"]}, message

    def propagate(self, signal, total):
        del signal
        heads = total["heads"].astype(total["pot"].dtype)
        return {"pot": total["pot"], "each": total["pot"] / heads, "where": total["where"]}


def savers(n=N):
    agents = {"money": jnp.linspace(1.0, 2.0, n), "home": jnp.arange(n) % 4}
    return State(agents, {"pot": jnp.zeros(()), "each": jnp.zeros(()), "where": jnp.zeros(4, jnp.int32)})


def wealth(state):
    return jnp.sum(state.agents["money"]) + state.signal["pot"]


class Quote(AbstractSystem):
    """First stage of a round: every kind of agent weighs in on the quotation."""

    def respond(self, agent, signal, key):
        del key
        return agent, {"level": Sum(agent["x"] / signal["price"]), "most": Best(-agent["x"], agent["x"])}

    def propagate(self, signal, total):
        level = sum(kind["level"] for kind in total.values())
        return {**signal, "price": 0.5 * signal["price"] + 0.01 * level, "most": total["firms"]["most"]}


class Order(AbstractSystem):
    """Second stage: agents move, and their moments are known."""

    def respond(self, agent, signal, key):
        noise = jax.random.normal(key, dtype=agent["x"].dtype)
        x = agent["x"] + 0.01 * noise + 0.1 * jnp.tanh(signal["price"])
        both = jnp.stack([x, jnp.ones_like(x)])
        return {"x": x}, Outer(both, both)

    def propagate(self, signal, total):
        return {**signal, "moments": sum(total.values())}


def two_kinds():
    agents = Populations(households={"x": jnp.linspace(1.0, 2.0, N)}, firms={"x": jnp.linspace(2.0, 3.0, 7)})
    return State(agents, {"price": jnp.ones(()), "most": jnp.ones(()), "moments": jnp.ones((2, 2))})


def test_an_honest_system_passes(key):
    check_system(Savers(), savers(), key=key, conserves={"money": wealth})


def test_an_honest_system_passes_in_double_precision(key):
    """The checks in which precision matters."""
    with jax.enable_x64(True):
        check_locality(Savers(), savers(), key=key)
        check_permutation(Savers(), savers(), key=key)
        check_conservation(Savers(), savers(), key=key, conserves={"money": wealth})
        check_gradient(Savers(), savers(), key=key)


@pytest.mark.bench
def test_several_kinds_in_several_stages_pass(key):
    check_system(Sequence((Quote(), Order())), two_kinds(), key=key)


# Cheats. Each is an honest system but for one law.


class Simple(AbstractSystem):
    """What the cheats change: agents hold x and emit it."""

    def respond(self, agent, signal, key):
        del key
        return agent, Sum(self.read(agent["x"], signal))

    def read(self, x, signal):
        del signal
        return x

    def propagate(self, signal, total):
        del signal
        return total


def simple(x=None):
    return State({"x": jnp.linspace(1.0, 2.0, N) if x is None else x}, jnp.ones(()))


def batched(rule):
    """Return a function of one agent's number that sees the whole batch when it is mapped."""
    function = jax.custom_batching.custom_vmap(lambda x: x)
    function.def_vmap(lambda size, which, x: (rule(x) if which[0] else x, which[0]))
    return function


class Rank(Simple):
    """Reads its rank among all, which has no derivative, through a batching rule."""

    def read(self, x, signal):
        return batched(lambda x: jnp.argsort(jnp.argsort(x)).astype(x.dtype))(x)


class Average(Simple):
    def read(self, x, signal):
        return batched(lambda x: jnp.broadcast_to(jnp.mean(x), x.shape))(x)


class Peeker(Simple):
    """Reads everyone through the host."""

    def read(self, x, signal):
        everyone = lambda x: np.broadcast_to(np.sort(x)[..., :1], np.shape(x)) if np.ndim(x) else x  # noqa: E731
        return jax.pure_callback(everyone, jax.ShapeDtypeStruct((), x.dtype), x, vmap_method="expand_dims")


class Gossip(Simple):
    """Leaves a note on the host for whoever comes next."""

    notes: list = eqx.field(static=True, default_factory=lambda: None)

    def read(self, x, signal):
        def swap(x):
            heard = NOTES[-1] if NOTES else x
            NOTES.append(x)
            return heard

        return jax.pure_callback(swap, jax.ShapeDtypeStruct((), x.dtype), x, vmap_method="sequential")


NOTES: list = []


class Holder(Simple):
    """Holds everyone's state as a parameter."""

    everyone: jax.Array = eqx.field(default_factory=lambda: jnp.linspace(1.0, 2.0, N))

    def read(self, x, signal):
        return x - jnp.mean(self.everyone)


EVERYONE = jnp.linspace(1.0, 2.0, N)


class Closure(Simple):
    """Closes over everyone's state."""

    def read(self, x, signal):
        return x - EVERYONE[3]


class Axis(Simple):
    """Reaches along the engine's own axis."""

    def read(self, x, signal):
        return jax.lax.psum(x, "agents")


@pytest.mark.parametrize("cheat", [Rank, Average, Peeker, Gossip, Holder, Closure, Axis])
def test_locality_rejects(cheat, key):
    with pytest.raises(ConformanceError, match=r"^locality: "):
        check_locality(cheat(), simple(), key=key)


def test_locality_accepts_an_agent_without_company(key):
    check_locality(Simple(), simple(jnp.ones(1)), key=key)


def test_locality_uses_the_redraw_it_is_given(key):
    """A leak that only wakes at a value which shuffling would hardly find."""

    class Sleeper(Simple):
        def read(self, x, signal):
            return batched(lambda x: jnp.where(jnp.any(x == 7777.0), x + 1, x))(x)

    redraw = lambda key, agents: {"x": jnp.full_like(agents["x"], 7777.0)}  # noqa: E731
    check_locality(Sleeper(), simple(), key=key, poison=False)
    with pytest.raises(ConformanceError, match="redrawn"):
        check_locality(Sleeper(), simple(), key=key, redraw=redraw)


def test_poison_alone_finds_a_leak_that_a_redraw_does_not(key):
    class Nosy(Simple):
        def read(self, x, signal):
            return batched(lambda x: x + 0.0 * jnp.sum(x))(x)

    check_locality(Nosy(), simple(), key=key, poison=False)
    with pytest.raises(ConformanceError, match="set to NaN"):
        check_locality(Nosy(), simple(), key=key)


class Queue(Simple):
    """Knows its place in the row; reads nobody's state."""

    def read(self, x, signal):
        return batched(lambda x: x + jnp.arange(x.size, dtype=x.dtype))(x)


class FirstMessage(AbstractMessage):
    """A total that depends on who comes first."""

    x: jax.Array

    def reduce(self, present, numbers):
        return self.x[0]

    def merge(self, one, other):
        return one

    def collect(self, partial, axis):
        return jax.lax.psum(partial, axis) / jax.lax.psum(1, axis)

    def finish(self, partial):
        return partial, jnp.array(True)


class First(Simple):
    def respond(self, agent, signal, key):
        return agent, FirstMessage(agent["x"])


@pytest.mark.parametrize("cheat", [Queue, First])
def test_permutation_rejects(cheat, key):
    check_locality(cheat(), simple(), key=key)
    with pytest.raises(ConformanceError, match=r"^permutation: "):
        check_permutation(cheat(), simple(), key=key)


class EverythingMessage(FirstMessage):
    """A total with an entry per agent."""

    def reduce(self, present, numbers):
        return self.x


class Everything(First):
    def respond(self, agent, signal, key):
        return agent, EverythingMessage(agent["x"])

    def propagate(self, signal, total):
        return jnp.mean(total)


class Ballot(Simple):
    """Publishes everyone's state at a site of its own."""

    voters: int = eqx.field(static=True, default=N)

    def respond(self, agent, signal, key):
        return agent, Deposit(agent["number"], agent["x"], sites=self.voters)

    def propagate(self, signal, total):
        return total


def ballot(n):
    agents = {"x": jnp.linspace(1.0, 2.0, n), "number": jnp.arange(n)}
    return Ballot(n), State(agents, jnp.zeros(n))


def test_message_size_rejects():
    with pytest.raises(ConformanceError, match=r"^message size: "):
        check_message_size(Everything(), simple())
    with pytest.raises(ConformanceError, match="as long as a population"):
        check_message_size(*ballot(N))
    with pytest.raises(ConformanceError, match=r"bytes per round depends .* 32 for 4 and 3200 for 400"):
        check_message_size(*ballot(N), build=ballot)


def test_message_size_accepts_a_coincidence_that_build_explains():
    with pytest.raises(ConformanceError, match="coincidence"):
        check_message_size(Savers(), savers(4))
    check_message_size(Savers(), savers(4), build=lambda n: (Savers(), savers(n)))


class Leak(Savers):
    """Loses a ten-thousandth of the pot in every round."""

    def propagate(self, signal, total):
        after = super().propagate(signal, total)
        return {**after, "each": after["each"] * (1 - 1e-4)}


class Mint(AbstractSystem):
    """Counts, and now and then one too many."""

    def respond(self, agent, signal, key):
        return agent - 1, Sum(jnp.int32(1))

    def propagate(self, signal, total):
        return signal + total + jnp.int32(signal > 60)


def test_conservation_rejects(key):
    with pytest.raises(ConformanceError, match=r"^conservation: money was .* after round"):
        check_conservation(Leak(), savers(), key=key, conserves={"money": wealth})
    count = {"count": lambda state: jnp.sum(state.agents) + state.signal}
    with pytest.raises(ConformanceError, match=r"^conservation: count was 230 and is 23. after round 9"):
        check_conservation(Mint(), State(jnp.full(N, 10), 0), key=key, conserves=count)


def test_conservation_rejects_a_run_that_fails(key):
    class Broken(Simple):
        def propagate(self, signal, total):
            return signal / 0.0 * 0.0

    with pytest.raises(ConformanceError, match="the run ended after round 0: non finite"):
        check_conservation(Broken(), simple(), key=key, conserves={"x": lambda s: jnp.sum(s.agents["x"])})


class Dice(Simple):
    """Draws from outside while it is traced."""

    def read(self, x, signal):
        return x + np.random.random()


class Counter(Simple):
    """Counts its rounds on the host."""

    def propagate(self, signal, total):
        NOTES.append(0)
        count = lambda _: NOTES.append(0) or np.float32(len(NOTES))  # noqa: E731
        return total + jax.pure_callback(count, jax.ShapeDtypeStruct((), signal.dtype), total)


@pytest.mark.parametrize("cheat", [Dice, Counter])
def test_determinism_rejects(cheat, key):
    with pytest.raises(ConformanceError, match=r"^determinism: "):
        check_determinism(cheat(), simple(), key=key)


class Fickle:
    """Never equal to itself."""

    def __hash__(self):
        return 0

    def __eq__(self, other):
        return False


class Retraced(Simple):
    setting: Fickle = eqx.field(static=True, default_factory=Fickle)


def test_compilations_rejects(key):
    with pytest.raises(ConformanceError, match=r"^compilations: "):
        check_compilations(Retraced(), simple(), key=key)


class CarelessMessage(Sum):
    """Counts the fillers that make devices and blocks come out even."""

    def reduce(self, present, numbers):
        return jnp.sum(self.x, axis=0)


class Careless(Simple):
    def respond(self, agent, signal, key):
        return agent, CarelessMessage(agent["x"])


class LonelyMessage(Sum):
    """Forgets the other devices."""

    def collect(self, partial, axis):
        return partial


class Lonely(Simple):
    def respond(self, agent, signal, key):
        return agent, LonelyMessage(agent["x"])


@pytest.mark.parametrize("cheat", [Careless, Lonely])
def test_devices_rejects(cheat, key):
    with pytest.raises(ConformanceError, match=r"^devices: "):
        check_devices(cheat(), simple(), key=key)


class Crosstalk(Simple):
    """Averages over whatever batch the signal is in."""

    def respond(self, agent, signal, key):
        return agent, Sum(agent["x"] * jax.random.uniform(key))

    def propagate(self, signal, total):
        return batched(lambda x: jnp.broadcast_to(jnp.mean(x), x.shape))(total)


def test_vmap_rejects(key):
    with pytest.raises(ConformanceError, match=r"^vmap: "):
        check_vmap(Crosstalk(), simple(), key=key)


class Cut(Simple):
    """Hides a dependence from the derivative."""

    def read(self, x, signal):
        return x * jax.lax.stop_gradient(signal)

    def propagate(self, signal, total):
        return jnp.sqrt(total)


@jax.custom_jvp
def wrong_square(x):
    return x**2


wrong_square.defjvp(lambda x, t: (x[0] ** 2, 3 * x[0] * t[0]))


class Wrong(Simple):
    """States a derivative that is not its own."""

    def read(self, x, signal):
        return wrong_square(x)


@pytest.mark.parametrize("cheat", [Cut, Wrong])
def test_gradient_rejects(cheat, key):
    with pytest.raises(ConformanceError, match=r"^gradient: the derivative along"):
        check_gradient(cheat(), simple(), key=key)
    with jax.enable_x64(True), pytest.raises(ConformanceError, match=r"^gradient: the derivative along"):
        check_gradient(cheat(), simple(jnp.linspace(1.0, 2.0, N)), key=key)


def test_gradient_rejects_a_signal_of_whole_numbers(key):
    with pytest.raises(ConformanceError, match="hold no floats"):
        check_gradient(Mint(), State(jnp.full(N, 10), 0), key=key)


def test_the_whole_suite_runs_every_check(key, monkeypatch):
    names = {name for name in catallax.testing.__all__ if name.startswith("check_")} - {"check_system"}
    ran = []
    for name in names:
        monkeypatch.setattr(checks, name, lambda *args, name=name, **options: ran.append(name))
    check_system(Simple(), simple(), key=key, conserves={"nothing": lambda state: 0})
    assert sorted(ran) == sorted(names)
