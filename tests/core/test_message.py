"""Totals: against NumPy, in any order, and never wrapped."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from crowds import buffers, program
from hypothesis import given
from hypothesis import strategies as st

from catallax import AbstractSystem, Best, Deposit, Outer, RunFailed, State, Status, Sum, mesh, run

N = 37


@eqx.filter_jit
def reduced(message, n, present):
    return message.finish(message.reduce(present, jnp.arange(n, dtype=jnp.int32)))


def total(message, n=N, present=None):
    """Reduce stacked messages as the engine does: the total, and whether it is sound."""
    value, sound = reduced(message, n, present)
    return value, bool(sound)


@pytest.fixture
def draw():
    return np.random.default_rng(0)


class TestSum:
    def test_against_numpy(self, draw):
        x, y = draw.normal(size=(N, 3)).astype(np.float32), draw.integers(-9, 9, (N, 2), np.int32)
        value, sound = total(Sum({"x": jnp.asarray(x), "y": jnp.asarray(y)}))
        assert sound
        np.testing.assert_allclose(value["x"], x.sum(0), rtol=1e-5)
        np.testing.assert_array_equal(value["y"], y.sum(0))
        assert (value["x"].dtype, value["y"].dtype) == (jnp.float32, jnp.int32)

    def test_truth_values_are_counted(self):
        assert total(Sum(jnp.arange(N) % 3 == 0))[0] == 13

    def test_fillers_do_not_count_even_if_they_hold_nan(self):
        x = jnp.where(jnp.arange(N) < 30, 1.0, jnp.nan)
        assert total(Sum(x), present=jnp.arange(N) < 30)[0] == 30

    def test_at_places(self, draw):
        x, at = draw.normal(size=(N, 4)).astype(np.float32), draw.integers(-2, 9, (N, 4), np.int32)
        inside = (at >= 0) & (at < 7)
        expected = np.zeros(7)
        np.add.at(expected, at[inside], x[inside])
        value, sound = total(Sum(jnp.asarray(x), at=jnp.asarray(at), size=7))
        assert sound
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        few = total(Sum(jnp.asarray(x), at=jnp.asarray(at), size=7), present=jnp.arange(N) < 3)[0]
        np.add.at(expected, at[3:][inside[3:]], -x[3:][inside[3:]])
        np.testing.assert_allclose(few, expected, atol=1e-5)

    def test_places_and_how_many_there_are_come_together(self):
        with pytest.raises(ValueError, match="both at="):
            total(Sum(jnp.ones(N), at=jnp.zeros(N, jnp.int32)))


class Moments(AbstractSystem):
    def respond(self, agent, signal, key):
        return agent, Outer(agent["l"] * signal[0, 0], agent["r"])

    def propagate(self, signal, total):
        return total / jnp.max(jnp.abs(total))


class TestOuter:
    def test_against_numpy(self, draw):
        l, r = draw.normal(size=(N, 4)).astype(np.float32), draw.normal(size=(N, 6)).astype(np.float32)  # noqa: E741
        present = jnp.arange(N) < 30
        np.testing.assert_allclose(total(Outer(jnp.asarray(l), jnp.asarray(r)))[0], l.T @ r, rtol=1e-5, atol=1e-5)
        masked = total(Outer(jnp.asarray(l).at[30:].set(jnp.nan), jnp.asarray(r)), present=present)[0]
        np.testing.assert_allclose(masked, l[:30].T @ r[:30], rtol=1e-5, atol=1e-5)

    def test_wants_vectors(self):
        with pytest.raises(ValueError, match=r"two vectors per agent; got shapes \(\) and \(2,\)"):
            total(Outer(jnp.ones(N), jnp.ones((N, 2))))

    @pytest.mark.parametrize("options", [{}, {"block": 250}], ids=["whole", "in blocks"])
    def test_is_one_matrix_product_in_the_compiled_program(self, options):
        n, l, r = 1000, 12, 17  # noqa: E741
        state = State({"l": jnp.ones((n, l)), "r": jnp.ones((n, r))}, jnp.ones((l, r)))
        text = program(Moments(), state, **options)
        assert text.count(" dot(") == 1
        assert max(entries for entries, _ in buffers(text)) <= n * r

    def test_the_reading_of_programs_finds_a_stacked_tensor(self):
        """The check above must be able to fail: the same moments as a sum of tensors."""

        class Stacked(Moments):
            def respond(self, agent, signal, key):
                del key
                product = jax.lax.optimization_barrier(jnp.outer(agent["l"] * signal[0, 0], agent["r"]))
                return agent, Sum(product)

        n, l, r = 1000, 12, 17  # noqa: E741
        state = State({"l": jnp.ones((n, l)), "r": jnp.ones((n, r))}, jnp.ones((l, r)))
        assert max(entries for entries, _ in buffers(program(Stacked(), state))) >= n * l * r


class TestDeposit:
    def test_whole_amounts_against_numpy(self, draw):
        site, amount = draw.integers(0, 6, (N, 4)), draw.integers(-50, 50, (N, 4))
        expected = np.zeros(6, np.int32)
        np.add.at(expected, site, amount)
        value, sound = total(Deposit(site, amount, sites=6))
        np.testing.assert_array_equal(value, expected)
        assert sound and value.dtype == jnp.int32

    def test_real_amounts_are_multiples_of_the_unit(self, draw):
        site, amount = draw.integers(0, 6, N), draw.normal(size=N).astype(np.float32)
        expected = np.zeros(6)
        np.add.at(expected, site, np.round(amount / 0.125) * 0.125)
        value, sound = total(Deposit(site, amount, sites=6, unit=0.125))
        np.testing.assert_array_equal(value, expected)
        assert sound and value.dtype == jnp.float32

    def test_one_amount_for_several_sites(self):
        value, _ = total(Deposit(jnp.tile(jnp.arange(3), (N, 1)), jnp.full(N, 2), sites=3))
        np.testing.assert_array_equal(value, [2 * N] * 3)

    def test_sites_outside_are_dropped(self):
        value, sound = total(Deposit(jnp.array([-1, 0, 3, 2**31 - 1, -(2**31)]), 2**29, sites=3), 5)
        np.testing.assert_array_equal(value, [2**29, 0, 0])
        assert sound
        with jax.enable_x64(True):
            wide = jnp.array([2**32, 2**32 + 1, 1])
            np.testing.assert_array_equal(total(Deposit(wide, jnp.int32(1), sites=3), 3)[0], [0, 1, 0])
        np.testing.assert_array_equal(total(Deposit(jnp.array([0, 255, 1], jnp.uint8), sites=300), 3)[0][255], 1)

    def test_a_site_is_a_whole_number(self):
        with pytest.raises(ValueError, match=r"site is a whole number in \[0, 3\), not float32"):
            Deposit(jnp.array(1.5), sites=3)

    @given(st.permutations(range(N)))
    def test_order_does_not_matter_by_a_bit(self, order):
        draw = np.random.default_rng(1)
        site, amount = draw.integers(0, 4, N), draw.normal(size=N).astype(np.float32) * 1000
        order = np.array(order)
        one, other = (total(Deposit(s, a, sites=4))[0] for s, a in ((site, amount), (site[order], amount[order])))
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()

    @pytest.mark.parametrize(
        "amounts",
        [
            [2**29] * 8 + [5],  # 2³² + 5, which wraps to 5
            [2**29] * 4,
            [2**29, 2**29],
            [-(2**29)] * 8 + [-5],
            [2**29, -(2**29)] * 4,  # cancels, but not in every order
            [2**31 - 1],
            [-(2**31)],
        ],
    )
    def test_whole_amounts_never_wrap(self, amounts):
        amounts = jnp.array(amounts, jnp.int32)
        assert not total(Deposit(jnp.zeros_like(amounts), amounts, sites=2), len(amounts))[1]

    def test_wide_amounts_never_wrap(self):
        with jax.enable_x64(True):
            for amount in (2**32 + 5, 2**62, -(2**63)):
                assert not total(Deposit(jnp.zeros(1, int), jnp.array([amount]), sites=2), 1)[1]
        assert not total(Deposit(jnp.zeros(1, int), jnp.array([2**32 - 1], jnp.uint32), sites=2), 1)[1]

    @pytest.mark.parametrize("amount", [2.0**14, 2.0**16 + 2.0**-16, 1e30, jnp.inf, -jnp.inf, jnp.nan])
    def test_real_amounts_never_wrap(self, amount):
        assert not total(Deposit(jnp.zeros(3, int), jnp.array([1.0, amount, 1.0]), sites=2), 3)[1]

    def test_the_stated_range_is_there(self):
        most = jnp.array([2**29, 2**29 - 2**7])
        value, sound = total(Deposit(jnp.zeros(2, int), most, sites=1), 2)
        assert sound and value[0] == 2**30 - 2**7

    @given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=40))
    def test_a_sound_total_is_the_true_one(self, amounts):
        padded = np.zeros(40, np.int32)
        padded[: len(amounts)] = amounts
        value, sound = total(Deposit(jnp.zeros(40, int), jnp.asarray(padded), sites=1), 40)
        assert int(value[0]) == sum(amounts) if sound else sum(map(abs, amounts)) >= 2**30 - 2**7

    def test_too_many_for_an_exact_check(self):
        with pytest.raises(ValueError, match="pass block="):
            jax.eval_shape(lambda: reduced(Deposit(jnp.zeros((2**12, 2**12), int), 1, sites=2), 2**12, None))


class Doubling(AbstractSystem):
    """Every agent deposits twice as much in every round."""

    def respond(self, agent, signal, key):
        return 2 * agent, Deposit(jnp.int32(0), agent, sites=1)

    def propagate(self, signal, total):
        return total


@pytest.mark.parametrize("options", [{}, {"block": 3}, {"mesh": 2}], ids=["whole", "in blocks", "on two devices"])
def test_overflow_ends_a_run_with_its_last_sound_state(options):
    """Eight agents reach 2³⁰ units in round 28; in round 30 the total would wrap to zero."""
    options = {**options, "mesh": mesh(options["mesh"])} if "mesh" in options else options
    state = State(jnp.ones(8, jnp.int32), jnp.zeros(1, jnp.int32))
    result = run(Doubling(), state, 100, **options)
    assert result.status is Status.OVERFLOW and result.status.failed
    assert (int(result.state.round), int(result.state.signal[0])) == (27, 8 * 2**26)
    with pytest.raises(
        RunFailed, match=r"overflow: a site's deposits exceed 2\*\*30 units; choose a larger unit"
    ) as caught:
        run(Doubling(), state, 100, throw=True, **options)
    assert int(caught.value.result.state.round) == 27


class TestBest:
    def test_the_least_score_wins(self, draw):
        score = draw.normal(size=N).astype(np.float32)
        value, sound = total(Best(jnp.asarray(score), {"score": jnp.asarray(score), "odd": jnp.arange(N) % 2 == 1}))
        assert sound and value["score"] == score.min() and value["odd"] == (score.argmin() % 2 == 1)

    def test_ties_go_to_the_lowest_number(self):
        message = Best(jnp.array([3.0, 1.0, 1.0, 1.0]), jnp.arange(4))
        assert total(message, 4)[0] == 1
        backwards = message.reduce(None, jnp.array([3, 2, 1, 0], jnp.int32))
        assert message.finish(backwards)[0] == 3

    def test_ties_between_blocks_too(self):
        message = Best(jnp.array([1.0, 1.0]), jnp.arange(2))
        low, high = (message.reduce(None, jnp.array(numbers, jnp.int32)) for numbers in ([4, 5], [6, 7]))
        for merged in (message.merge(low, high), message.merge(high, low)):
            assert merged[1] == 4

    def test_nan_counts_as_infinite(self):
        assert total(Best(jnp.array([jnp.nan, jnp.inf, 5.0]), jnp.arange(3)), 3)[0] == 2
        assert total(Best(jnp.array([jnp.inf, jnp.nan, jnp.inf]), jnp.arange(3)), 3)[0] == 0
        assert total(Best(jnp.array([5.0, -jnp.inf, jnp.nan]), jnp.arange(3)), 3)[0] == 1

    def test_fillers_never_win(self):
        message = Best(jnp.array([jnp.inf, jnp.inf, -5.0]), jnp.arange(3))
        assert total(message, 3, present=jnp.arange(3) < 2)[0] == 0

    def test_whole_scores_are_not_rounded(self):
        """2²⁴ + 1 and 2²⁴ are the same in single precision."""
        score = jnp.array([2**24 + 1, 2**24, 2**24 + 1])
        message = Best(score, jnp.arange(3))
        assert total(message, 3)[0] == 1
        parts = [
            Best(score[i : i + 1], jnp.arange(3)[i : i + 1]).reduce(None, jnp.array([i], jnp.int32)) for i in range(3)
        ]
        assert message.finish(message.merge(message.merge(parts[0], parts[1]), parts[2]))[0] == 1
        assert message.finish(message.merge(message.nothing(parts[2]), parts[2]))[0] == 2
