"""Rest: how a settlement ends, how fast, and how rest depends on the system."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from catallax import AbstractSystem, Anderson, RunFailed, State, Status, Sum, mesh, settle


class Budget(eqx.Module):
    money: jax.Array
    taste: jax.Array


class Prices(AbstractSystem):
    """Cobb-Douglas buyers and tâtonnement: at rest each price is what is spent on the good."""

    step: jax.Array = eqx.field(default_factory=lambda: jnp.array(0.5))

    def respond(self, agent, signal, key):
        return agent, Sum(agent.money * agent.taste / signal["price"])

    def propagate(self, signal, total):
        return {"price": signal["price"] * total**self.step, "rounds": signal["rounds"] + 1}


def market(n=12, goods=3):
    taste = jax.random.dirichlet(jax.random.key(0), jnp.ones(goods), (n,))
    money = jnp.linspace(1.0, 2.0, n)
    return State(Budget(money, taste), {"price": jnp.ones(goods), "rounds": jnp.int32(0)})


def spent(state):
    return np.asarray(state.agents.money) @ np.asarray(state.agents.taste)


class Line(AbstractSystem):
    """x ← slope·x + Σ push: rest at Σ push / (1 − slope) if |slope| < 1."""

    slope: jax.Array

    def respond(self, agent, signal, key):
        return agent, Sum(agent)

    def propagate(self, signal, total):
        return self.slope * signal + total


class Habit(AbstractSystem):
    """Agents with memory: each drifts towards what it wants, and the signal towards their mean."""

    drift: jax.Array

    def respond(self, agent, signal, key):
        habit = agent["habit"] + self.drift * (agent["wants"] - 0.5 * signal - agent["habit"])
        return {**agent, "habit": habit}, Sum({"habit": habit, "heads": jnp.ones_like(habit)})

    def propagate(self, signal, total):
        return 0.5 * (signal + total["habit"] / total["heads"])


def habits(wants):
    """At rest habit = wants − signal/2 and signal = mean habit, so that signal = 2/3 · mean wants."""
    return State({"habit": jnp.zeros_like(wants), "wants": wants}, jnp.zeros((), wants.dtype))


class TestStatus:
    def test_settled(self):
        result = settle(Prices(), market(), rtol=1e-6)
        assert result.status is Status.SETTLED and not result.status.failed
        assert 0 < result.residual <= 1 and 10 < result.rounds < 60
        assert result.rounds == result.state.round == result.signal["rounds"]
        np.testing.assert_allclose(result.signal["price"], spent(market()), rtol=1e-5)

    def test_out_of_rounds(self):
        result = settle(Prices(), market(), rtol=1e-6, max_rounds=5)
        assert result.status is Status.OUT_OF_ROUNDS and result.rounds == 5 and result.residual > 1
        further = settle(Prices(), result.state, rtol=1e-6)
        assert further.status is Status.SETTLED and int(further.state.round) == 5 + further.rounds

    def test_diverged_from_close_to_rest(self):
        with jax.enable_x64(True):
            result = settle(Line(jnp.array(3.0)), State(jnp.ones(1), jnp.array(-0.5 + 1e-14)), rtol=1e-15, atol=0.0)
        assert result.status is Status.DIVERGED

    def test_diverged_to_infinity(self):
        """At a steady pace: no round is worse than the one before, relative to the signal."""
        result = settle(Line(jnp.array(3.0)), State(jnp.ones(1), jnp.array(1.0)))
        assert result.status is Status.DIVERGED

    def test_non_finite(self):
        class Root(Line):
            def propagate(self, signal, total):
                return jnp.sqrt(signal - 0.3)

        result = settle(Root(jnp.array(0.0)), State(jnp.ones(1), jnp.array(1.0)))
        assert result.status is Status.NON_FINITE
        assert 0 < result.signal < 0.3 and result.rounds == 9 and np.isfinite(result.residual)

    def test_as_an_exception(self):
        with pytest.raises(
            RunFailed, match="out of rounds: the rounds ran out before the signal came to rest"
        ) as caught:
            settle(Prices(), market(), max_rounds=5, throw=True)
        assert caught.value.result.rounds == 5
        assert settle(Prices(), market(), throw=True).status is Status.SETTLED

    def test_a_zero_rests_at_zero_whatever_the_tolerance(self):
        result = settle(Line(jnp.array(0.5)), State(jnp.zeros(1), jnp.array(0.0)), rtol=0.0, atol=0.0)
        assert result.status is Status.SETTLED and result.rounds == 1

    def test_whole_numbers_alone_need_a_distance(self):
        state = State(jnp.arange(3), 0)
        system = Line(jnp.array(0))
        with pytest.raises(ValueError, match="holds no floats, so that its rest needs distance="):
            settle(system, state)
        assert settle(system, state, distance=lambda a, b: 2.0 * jnp.abs(a - b).astype(float)).rounds == 2

    def test_tolerances_mean_what_they_say(self):
        loose, tight = (settle(Line(jnp.array(0.9)), State(jnp.ones(1), 0.0), rtol=r, atol=0.0) for r in (1e-2, 1e-5))
        absolute = settle(Line(jnp.array(0.9)), State(jnp.ones(1), 0.0), rtol=0.0, atol=1e-4)
        for result, bound in ((loose, 1e-2), (tight, 1e-5), (absolute, 1e-5)):
            assert abs(float(result.signal) - 10) <= 1.1 * 9 * bound * 10
        assert loose.rounds < absolute.rounds == pytest.approx(tight.rounds, abs=2)

    def test_watch_and_record(self):
        seen = []
        result = settle(Prices(), market(), record=lambda s: s.signal["rounds"], every=3, watch=seen.append)
        np.testing.assert_array_equal(result.record, np.arange(3, result.rounds + 1, 3))
        assert seen[-1].status is Status.SETTLED and seen[-1].residual == result.residual


class Slow(AbstractSystem):
    """Creeps to rest: 119 rounds without help."""

    def respond(self, agent, signal, key):
        return agent, Sum(agent.money * agent.taste / signal)

    def propagate(self, signal, total):
        return signal * total**0.1


class TestAnderson:
    def test_reaches_the_same_rest_in_fewer_rounds(self):
        state = State(market().agents, jnp.ones(3))
        plain, fast = (settle(Slow(), state, acceleration=a) for a in (None, Anderson()))
        assert plain.status is fast.status is Status.SETTLED
        assert fast.rounds < plain.rounds / 3
        np.testing.assert_allclose(fast.signal, spent(state), rtol=1e-5)

    def test_does_not_hide_divergence(self):
        class Flee(Line):
            def propagate(self, signal, total):
                return signal + jnp.exp(signal)

        result = settle(
            Flee(jnp.array(0.0)), State(jnp.ones(1), jnp.array(1.0)), acceleration=Anderson(), max_rounds=300
        )
        assert result.status.failed

    def test_is_refused_for_agents_with_memory(self):
        with pytest.raises(ValueError, match="these agents change their own state from round to round"):
            settle(Habit(jnp.array(0.5)), habits(jnp.ones(3)), acceleration=Anderson())


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


def differences(f, x, step=1e-6):
    """The Jacobian by central differences."""
    x, columns = np.asarray(x, float), []
    for i in range(x.size):
        d = np.zeros(x.size)
        d[i] = step
        columns.append(
            (np.asarray(f(jnp.asarray(x + d.reshape(x.shape)))) - np.asarray(f(jnp.asarray(x - d.reshape(x.shape)))))
            / (2 * step)
        )
    return np.stack(columns, -1)


TIGHT = {"rtol": 1e-13, "atol": 1e-13}


@pytest.mark.usefixtures("double")
class TestDerivative:
    @pytest.mark.parametrize(
        ("mode", "solver"),
        [(jax.jacfwd, None), (jax.jacrev, None), (jax.jacrev, lx.GMRES(1e-12, 1e-12))],
        ids=["forward", "reverse", "reverse by GMRES"],
    )
    def test_of_prices_by_money(self, mode, solver):
        """In closed form: dp_j / dB_i = taste_ij."""
        state = market(5)

        def price(money):
            agents = Budget(money, state.agents.taste)
            result = settle(Prices(), State(agents, state.signal), linear_solver=solver, **TIGHT)
            return result.signal["price"]

        np.testing.assert_allclose(mode(price)(state.agents.money), state.agents.taste.T, atol=1e-9)

    def test_of_agents_with_memory(self):
        """By an agent's constant and by the system's field, against differences and the closed form."""
        wants = jnp.array([1.0, 2.0, 4.0])

        def rest(x):
            state = settle(Habit(x[0]), habits(x[1:]), **TIGHT).state
            return jnp.concatenate([state.signal[None], state.agents["habit"]])

        x = jnp.concatenate([jnp.array([0.3]), wants])
        exact = np.zeros((4, 4))
        exact[0, 1:] = 2 / 9
        exact[1:, 1:] = np.eye(3) - 1 / 9
        np.testing.assert_allclose(differences(rest, x, 1e-4), exact, atol=1e-6)
        # The signal rests a little earlier than the agents, whose differences cancel in it.
        np.testing.assert_allclose(jax.jacfwd(rest)(x), exact, atol=1e-7)
        np.testing.assert_allclose(jax.jacrev(rest)(x), exact, atol=1e-7)

    def test_by_a_field_of_the_system(self):
        rest = lambda slope: settle(Line(slope), State(jnp.array([1.0, 2.0]), jnp.array(0.0)), **TIGHT).signal  # noqa: E731
        np.testing.assert_allclose(jax.grad(rest)(0.4), 3 / 0.6**2, rtol=1e-9)
        np.testing.assert_allclose(differences(lambda s: rest(s[0]), np.array([0.4])), [3 / 0.6**2], rtol=1e-7)

    def test_does_not_depend_on_the_start(self):
        rest = lambda x: settle(Line(jnp.array(0.4)), State(jnp.ones(2), x), **TIGHT).signal  # noqa: E731
        assert jax.grad(rest)(jnp.array(7.0)) == 0

    @pytest.mark.parametrize("options", [pytest.param({"mesh": 2}, marks=pytest.mark.bench), {"block": 3}])
    def test_on_devices_and_in_blocks(self, options):
        options = {"mesh": mesh(2)} if "mesh" in options else options
        state = market(7)

        weights = jnp.array([1.0, -2.0, 3.0])

        def price(money):
            agents = Budget(money, state.agents.taste)
            result = settle(Prices(), State(agents, state.signal), **TIGHT, **options)
            return weights @ result.signal["price"]

        np.testing.assert_allclose(jax.grad(price)(state.agents.money), state.agents.taste @ weights, atol=1e-9)

    def test_with_acceleration(self):
        state = market(5)

        def price(money):
            agents = Budget(money, state.agents.taste)
            return settle(Slow(), State(agents, jnp.ones(3)), rtol=1e-12, acceleration=Anderson()).signal

        np.testing.assert_allclose(jax.jacrev(price)(state.agents.money), state.agents.taste.T, atol=1e-9)

    def test_under_vmap_and_jit(self):
        slopes = jnp.array([0.1, 0.4, 0.8, 2.0])
        state = State(jnp.ones(2), jnp.array(0.0))

        @jax.jit
        @jax.vmap
        def both(slope):
            def rest(slope):
                result = settle(Line(slope), state, **TIGHT)
                return result.signal, (result.status, result.rounds)

            return jax.value_and_grad(rest, has_aux=True)(slope)

        (value, (status, rounds)), slope = both(slopes)
        np.testing.assert_allclose(value[:3], 2 / (1 - slopes[:3]), rtol=1e-10)
        np.testing.assert_allclose(slope[:3], 2 / (1 - slopes[:3]) ** 2, rtol=1e-9)
        np.testing.assert_array_equal(status, [Status.SETTLED] * 3 + [Status.DIVERGED])
        assert np.all(np.diff(rounds[:3]) > 0)

    def test_through_whole_numbers_in_the_signal(self):
        """A count in the signal neither moves rest nor breaks its derivative."""
        state = market(4)
        total = lambda step: settle(Prices(step), state, **TIGHT).signal["price"].sum()  # noqa: E731
        assert abs(jax.grad(total)(0.5)) < 1e-9
