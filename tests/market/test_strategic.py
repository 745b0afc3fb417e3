"""The trading-post game: its rules, its rest by hand, its certificate, and the laws of replicas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse

from catallax import InputError, State, Status, run
from catallax.market.certify import certify
from catallax.market.nash import best_responses, certify_nash, others, posts, sole
from catallax.market.problem import CES, QUASILINEAR, Market
from catallax.market.solve import solve
from catallax.market.strategic import (
    TradingPosts,
    compare,
    first_state,
    replica_law,
    solve_strategic,
)
from catallax.market.welfare import replicas
from catallax.testing import ConformanceError, check_locality, check_message_size, check_permutation

N, M = 8, 4  # one shape wherever the problem does not matter, so that the rules compile once


def drawn(seed: int, spread: float = 0.3) -> Market:
    """Return a random market: U(0,1) valuations, log-normal budgets, supplies between 1 and 3."""
    rng = np.random.default_rng(seed)
    budgets = np.exp(spread * rng.normal(size=N))
    return Market(rng.random((N, M)), budgets, 1 + 2 * rng.random(M))


@pytest.fixture(scope="module")
def answered() -> dict:
    """The answers to three random markets, seeds 0 to 2."""
    return {seed: (drawn(seed), solve_strategic(drawn(seed))) for seed in range(3)}


# The certificate


def best_by_search(worth: np.ndarray, against: np.ndarray, budget: float) -> float:
    """Return the best response's utility by a general-purpose optimiser."""
    ended = scipy.optimize.minimize(
        lambda b: -(worth * b / (b + against)).sum(),
        np.full(worth.size, budget / worth.size),
        jac=lambda b: -worth * against / (b + against) ** 2,
        bounds=[(0, None)] * worth.size,
        constraints={"type": "eq", "fun": lambda b: b.sum() - budget, "jac": np.ones_like},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert ended.success
    return -ended.fun


@pytest.mark.parametrize("seed", range(4))
def test_best_response_is_the_best_there_is(seed):
    market, rng = drawn(seed, spread=1.5), np.random.default_rng(100 + seed)
    bids = rng.dirichlet(np.full(M, 0.5), N) * market.budgets[:, None]
    response, best = best_responses(market, bids)
    against = bids.sum(axis=0) - bids
    assert np.allclose(response.sum(axis=1), market.budgets, rtol=1e-12)
    worth = market.dense() * market.supply
    searched = [best_by_search(worth[i], against[i], market.budgets[i]) for i in range(N)]
    assert np.allclose(best, searched, rtol=1e-7)
    assert np.all(best >= np.array(searched) * (1 - 1e-10))
    assert np.allclose(best, (worth * response / (response + against)).sum(axis=1), rtol=1e-12)


def test_best_response_by_hand():
    # w = (4, 1), o = (1, 1), B = 1: filling both, b = (√4, 1)·t − 1 with 3t − 2 = 1, so b = (1, 0) and u = 2.
    market = Market([[4.0, 1.0], [1.0, 1.0]], [1.0, 2.0])
    response, best = best_responses(market, np.array([[0.5, 0.5], [1.0, 1.0]]))
    assert np.allclose(response[0], [1, 0], atol=1e-15)
    assert best[0] == pytest.approx(2, rel=1e-15)


def test_a_good_nobody_else_bids_on_costs_nothing():
    market = Market([[3.0, 1.0], [0.0, 1.0]], [1.0, 1.0])
    bids = np.array([[0.5, 0.5], [0.0, 1.0]])
    response, best = best_responses(market, bids)
    # All of good 1 for the least bid, and half of good 2 for the whole budget.
    assert best[0] == pytest.approx(3.5)
    assert np.allclose(response[0], [0, 1])
    assert certify_nash(market, bids, posts(market, bids)[1])[0].value == pytest.approx(1 - (3 + 1 / 3) / 3.5)
    # Somebody else values good 2 in vain: without bids it is nobody's, and wanting it is regretted.
    _, idle = posts(market, np.array([[1.0, 0.0], [0.0, 0.0]]))
    assert np.array_equal(idle, [[1, 0], [0, 0]])


def test_others_are_added_up_without_cancellation():
    bids = np.array([[1e20, 1.0], [1.0, 2.0], [2.0, 1e-20]])
    assert np.array_equal(others(bids)[0], [3.0, 2.0])
    assert np.array_equal(others(bids)[2], [1e20, 3.0])
    assert np.array_equal(others(bids[:1]), np.zeros((1, 2)))


def test_certificates_reject_what_is_no_answer(answered):
    market, answer = answered[0]
    shifted = answer.bids.copy()
    shifted[0] = market.budgets[0] * np.roll(answer.bids[0] / market.budgets[0], 1)
    failed = {c.name for c in certify_nash(market, shifted, posts(market, shifted)[1]) if not c.holds}
    assert failed == {"nash regret"}
    more = answer.bids * np.linspace(1, 1 + 1e-9, N)[:, None]
    assert "spending" in {c.name for c in certify_nash(market, more, answer.allocation) if not c.holds}
    other = answer.allocation * (1 - 1e-9)
    assert {c.name for c in certify_nash(market, answer.bids, other) if not c.holds} == {"posts"}
    lost = np.where(answer.bids > 0, np.nan, 0.0)
    assert not any(c.holds for c in certify_nash(market, lost, answer.allocation))


# The answer


@pytest.mark.parametrize("seed", range(3))
def test_it_is_a_nash_equilibrium(answered, seed):
    market, answer = answered[seed]
    assert answer.status == Status.SETTLED
    assert answer.bids.dtype == np.float64
    assert answer.certificates[0].value <= 1e-8
    # First-order conditions: the last unit of money gains the same wherever it is bid, and no more elsewhere.
    money = answer.bids.sum(axis=0)
    gain = market.dense() * market.supply * (money - answer.bids) / money**2
    top = gain.max(axis=1, keepdims=True)
    assert np.all((gain > top * (1 - 1e-3)) | (answer.bids < 1e-3 * market.budgets[:, None]))
    assert np.all(np.diff(answer.history[0]) > 0) and answer.history[1][-1] == answer.certificates[0].value


def test_two_buyers_by_hand():
    # Values (2, 1) and (1, 2), a unit of money each: by symmetry bids (t, 1−t) and (1−t, t), price 1, and
    # 2·(1 − t) = 1·t, so t = 2/3. Price-takers would each take their own good whole, at the same prices.
    market = Market([[2.0, 1.0], [1.0, 2.0]])
    answer = solve_strategic(market, tol=1e-12)
    assert np.allclose(answer.bids, [[2 / 3, 1 / 3], [1 / 3, 2 / 3]], atol=1e-6)
    assert np.allclose(answer.prices, 1, atol=1e-6)
    assert np.allclose(answer.utilities, 5 / 3, atol=1e-6)
    beside = compare(market, solve(market, tol=1e-10), answer)
    assert beside.settled
    assert beside.nash_welfare == pytest.approx((2 / 3, 5 / 9))
    assert beside.nash_ratio == pytest.approx(6 / 5)
    assert beside.utilitarian_welfare == pytest.approx((2 / 3, 5 / 9))
    assert np.allclose(beside.price_difference, 0, atol=1e-6)
    assert (beside.losers, beside.gainers, beside.largest_gain) == (2, 0, None)
    assert beside.largest_loss is not None and beside.largest_loss[1] == pytest.approx(1 / 6)
    assert beside.bytes_read == (2 * 8, 2 * 2 * 8)


def test_like_buyers_bid_as_price_takers():
    # All alike: nobody can gain from anybody, so bids are in proportion to worth and shares are equal.
    market = Market(np.tile([1.0, 2.0, 3.0], (5, 1)), supply=[1.0, 1.0, 2.0])
    answer = solve_strategic(market)
    assert np.allclose(answer.prices, np.array([1, 2, 3]) * 5 / 9, rtol=1e-6)
    assert np.allclose(answer.allocation, market.supply / 5, rtol=1e-6)


def test_buyers_alone_on_a_post_and_without_money():
    values = [[5.0, 1.0, 0.0, 0.0], [0.0, 2.0, 1.0, 0.0], [0.0, 1.0, 3.0, 0.0], [0.0, 1.0, 1.0, 0.0]]
    market = Market(values, [1.0, 1.0, 2.0, 0.0])
    answer = solve_strategic(market)
    assert answer.status == Status.SETTLED
    assert np.array_equal(sole(market), [[True, False, False, False]] + [[False] * 4] * 3)
    assert answer.prices[0] == 0 and answer.allocation[0, 0] == 1  # the limit of ever smaller bids
    assert answer.prices[3] == 0 and not answer.allocation[:, 3].any()  # nobody values it
    assert not answer.allocation[3].any()
    assert answer.bids.sum() == pytest.approx(4)
    alone = solve_strategic(Market([[1.0, 3.0]]))
    assert alone.status == Status.SETTLED and np.array_equal(alone.allocation, [[1, 1]])


def test_bids_stay_where_nobody_else_bids():
    with jax.enable_x64(True):
        state = first_state(drawn(0))
        for bids in (np.zeros((N, M)), np.diag(np.ones(N))[:, :M], np.eye(N, M) * 1e-300):
            after = run(TradingPosts(), State(state.agents, jnp.asarray(bids)), 2, key=jax.random.key(0))
            assert np.array_equal(np.asarray(after.state.signal), bids)  # nothing to gain, so nothing moves
            assert after.status == Status.FINISHED


def test_spending_equals_budgets_every_round():
    market = drawn(1, spread=3.0)
    with jax.enable_x64(True):
        state = first_state(market)
        bids = run(TradingPosts(), state, 4, key=jax.random.key(0), record=lambda s: s.signal.sum(axis=1)).record
    assert np.allclose(np.asarray(bids), market.budgets, rtol=1e-14)


def test_out_of_rounds_says_so():
    answer = solve_strategic(drawn(0), max_rounds=3)
    assert answer.status == Status.OUT_OF_ROUNDS and answer.rounds == 3
    assert not answer.certificates[0].holds


def test_sparse_valuations_give_the_same(answered):
    market, answer = answered[0]
    same = Market(scipy.sparse.csr_array(market.dense()), market.budgets, market.supply)
    assert np.array_equal(solve_strategic(same).bids, answer.bids)


# What full information costs


def test_the_message_grows_with_the_number_of_buyers():
    with jax.enable_x64(True):
        state = first_state(drawn(0))
        with pytest.raises(ConformanceError, match="message size"):
            check_message_size(TradingPosts(), state)
        with pytest.raises(ConformanceError, match=r"the number of agents: 96 for 4 and 216 for 9"):
            check_message_size(
                TradingPosts(), state, sizes=(4, 9), build=lambda n: (TradingPosts(), first_state(crowd(n)))
            )


def crowd(n: int) -> Market:
    """Return n buyers of three goods."""
    return Market(1 + np.random.default_rng(n).random((n, 3)))


def test_otherwise_it_keeps_the_laws_of_a_system():
    # Each reads the others' bids in the signal, not their states: locality holds. Nor does order matter.
    with jax.enable_x64(True):
        state = first_state(drawn(0))
        check_locality(TradingPosts(), state, key=jax.random.key(0))
        check_permutation(TradingPosts(), state, key=jax.random.key(0))


def test_bytes_read_per_round(answered):
    market, answer = answered[0]
    beside = compare(market, solve(market, tol=1e-8), answer)
    assert beside.settled and beside.bytes_read == (8 * M, 8 * N * M)
    assert not compare(market, solve(market, tol=1e-8), solve_strategic(market, max_rounds=3)).settled


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"12000 x 2 bids .* 1\.2 GB"):
        solve_strategic(Market(np.ones((12_000, 2))))


@pytest.mark.parametrize("utility", [QUASILINEAR, CES(0.5)])
def test_other_utilities_are_refused(utility):
    with pytest.raises(InputError, match="choose linear"):
        solve_strategic(Market([[1.0, 2.0]], utility=utility))


# Replicas


def test_replicas_of_the_market_keep_its_prices():
    market = drawn(2)
    many = replicas(market, 3)
    assert (many.n, many.m) == (3 * N, M) and len(set(many.buyers)) == 3 * N
    one = solve(market, tol=1e-8)
    certificates = certify(many, one.prices, np.tile(one.allocation, (3, 1)), tol=1e-8)
    assert all(certificate.holds for certificate in certificates)
    assert scipy.sparse.issparse(replicas(Market(scipy.sparse.eye_array(2)), 2).valuations)
    with pytest.raises(InputError, match="at least one"):
        replicas(market, 0)


def test_the_effect_of_strategy_vanishes_with_replicas():
    rng = np.random.default_rng(0)
    law = replica_law(Market(rng.random((4, 3)), rng.random(4) + 0.5), (4, 8, 16))
    assert law.settled
    assert law.welfare_slope == pytest.approx(-2, abs=0.2)
    assert law.price_slope == pytest.approx(-1, abs=0.05)
    with pytest.raises(InputError, match="two different"):
        replica_law(drawn(0), (2, 2))
