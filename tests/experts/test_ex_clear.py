"""Laws of the router's market: quantiles, prices, exact repair, the proof of the answer, and the contract."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
from jax.sharding import PartitionSpec

from catallax.core.mesh import AXIS, mesh
from catallax.core.result import Status
from catallax.core.run import run
from catallax.errors import InputError
from catallax.experts import Routing, assign, assign_experts, certify, clear, dual_value
from catallax.experts.balance import HASTE, balance
from catallax.experts.certify import worth
from catallax.experts.clear import _listed, _swap, reserves
from catallax.experts.dispatch import ranks
from catallax.experts.measure import max_violation
from catallax.experts.rules import first_state
from catallax.testing import check_locality, check_message_size, check_permutation, check_system

TOKENS, EXPERTS, ACTIVE = 48, 6, 2
CAPACITY = ACTIVE * TOKENS // EXPERTS


def drawn(tokens=TOKENS, experts=EXPERTS, seed=0, skew=1.0):
    """Return affinities of tokens of three domains for experts of whom some suit everybody."""
    draw = np.random.default_rng(seed)
    domains, liked = draw.normal(size=(3, experts)), skew * draw.normal(size=experts)
    noise = draw.normal(size=(tokens, experts))
    return (noise + domains[draw.integers(3, size=tokens)] + liked).astype(np.float32)


def exact(problem):
    """Return the optimum of the linear relaxation, by HiGHS."""
    rows = scipy.sparse.kron(scipy.sparse.eye(problem.tokens), np.ones((1, problem.experts)))
    columns = scipy.sparse.kron(np.ones((1, problem.tokens)), scipy.sparse.eye(problem.experts))
    found = scipy.optimize.linprog(
        -problem.affinity.ravel().astype(float),
        A_ub=columns.tocsr(),
        b_ub=np.full(problem.experts, problem.capacity),
        A_eq=rows.tocsr(),
        b_eq=np.full(problem.tokens, problem.active),
        bounds=(0, 1),
    )
    return -found.fun


def sound(taken, capacity):
    """Say whether every token has different experts, all kept, and no expert too many tokens."""
    chosen = np.asarray(taken.chosen)
    different = all(len(set(row)) == chosen.shape[1] for row in chosen.tolist())
    return different and bool(taken.kept.all()) and np.bincount(chosen.ravel()).max() <= capacity


@pytest.fixture(scope="module")
def cleared():
    affinity = jnp.asarray(drawn())
    return affinity, *clear(affinity, ACTIVE, CAPACITY, jnp.zeros(EXPERTS), sweeps=8)


@pytest.mark.parametrize("active", [1, 3, 4])
def test_a_reserve_lies_between_the_last_surplus_taken_and_the_next(active):
    surplus = np.concatenate([drawn(9, 4), [[1.0, 1.0, 0.0, 0.0], [2.0, -np.inf, 1.0, 0.0]]]).astype(np.float32)
    ordered = -np.sort(-surplus, axis=1)
    reserve = np.asarray(reserves(jnp.asarray(surplus.T), active))
    assert np.isfinite(reserve).all()
    if active == 4:
        assert (reserve < np.min(surplus, axis=1, where=np.isfinite(surplus), initial=np.inf)).all()
    else:
        after = ordered[:, active]
        middle = (ordered[:, active - 1] + after) / 2
        np.testing.assert_allclose(reserve[np.isfinite(after)], middle[np.isfinite(after)], rtol=1e-6)


def test_a_sweep_sets_prices_at_the_capacity_th_highest_worth():
    affinity = drawn()
    price, _ = clear(jnp.asarray(affinity), ACTIVE, CAPACITY, jnp.zeros(EXPERTS), sweeps=1, steps=9)
    ordered = -np.sort(-affinity, axis=1)
    value = affinity - (ordered[:, ACTIVE - 1] + ordered[:, ACTIVE])[:, None] / 2
    expected = -np.sort(-value, axis=0)[CAPACITY]
    # Between the c-th and the next any price would do; the search ends at the least.
    np.testing.assert_allclose(price, expected - expected.min(), atol=2e-6)


def test_clearing_balances_and_is_warm_started(cleared):
    affinity, price, reserve = cleared
    load = assign(affinity, price, ACTIVE, CAPACITY).load
    before = assign(affinity, jnp.zeros(EXPERTS), ACTIVE, CAPACITY).load
    assert max_violation(before) > 1 and max_violation(load) < 0.07
    assert float(price.min()) == 0 and int(load.sum()) == TOKENS * ACTIVE
    np.testing.assert_allclose(reserve, reserves((affinity - price[None]).T, ACTIVE), rtol=1e-6)
    warm = clear(affinity, ACTIVE, CAPACITY, price, sweeps=8)[0]
    assert dual_value(Routing(affinity, ACTIVE), warm) <= dual_value(Routing(affinity, ACTIVE), price) + 1e-4


def loads(affinity, price):
    """Count with NumPy who is among a token's best at the prices."""
    surplus = np.asarray(affinity) - np.asarray(price)
    return np.bincount(np.argsort(-surplus, axis=1)[:, :ACTIVE].ravel(), minlength=affinity.shape[1])


@pytest.mark.parametrize("seed", range(4))
def test_balance_stops_as_soon_as_no_load_is_too_large_and_near_the_optimum(seed):
    affinity, tol, start = drawn(480, seed=seed, skew=seed), 0.02, np.linspace(0, seed, EXPERTS, dtype=np.float32)
    capacity = ACTIVE * 480 // EXPERTS
    law = functools.partial(balance, jnp.asarray(affinity), ACTIVE, capacity, jnp.asarray(start), tol=tol)
    price, most = law(), int(capacity * (1 + tol))
    assert float(price.min()) == 0 and loads(affinity, price).max() <= most
    np.testing.assert_allclose(law(sweeps=0), start - start.min(), atol=1e-6)
    each = [loads(affinity, law(sweeps=sweeps)).max() <= most for sweeps in range(33)]
    first = each.index(True)
    assert 1 < first <= 10 and all(each[first:])
    np.testing.assert_array_equal(law(sweeps=first), price)
    # Not only balanced, but worth to tokens what any assignment can be: the proof of the repaired one is tight.
    taken = assign(jnp.asarray(affinity), price, ACTIVE, capacity)
    gap, load, experts = certify(Routing(affinity, ACTIVE, capacity), np.asarray(taken.chosen), np.asarray(price))
    assert gap.value < 2e-3 and load.holds and experts.holds


def test_balance_is_hastened_where_demand_passes_along_a_chain():
    # Experts on a line, each token near two of them, and most tokens at one end.
    tokens, experts = 480, 12
    capacity, seats = ACTIVE * tokens // experts, (np.arange(experts) + 0.5) / experts
    place = np.random.default_rng(0).random(tokens) ** 2
    affinity = jnp.asarray(-10 * (place[:, None] - seats) ** 2, jnp.float32)

    def uneven(price):
        return loads(affinity, price).max() > np.ceil(1.02 * capacity)

    price, plain = jnp.zeros(experts), 0
    while uneven(price) and plain < 200:
        price, plain = clear(affinity, ACTIVE, capacity, price, sweeps=1)[0], plain + 1
    law = functools.partial(balance, affinity, ACTIVE, capacity, jnp.zeros(experts), tol=0.02)
    # 78 sweeps against 11.
    assert not uneven(price) and not uneven(law(sweeps=plain // 4))


def test_balance_without_end_gives_up_haste_and_descends(cleared):
    affinity, _, _ = cleared
    law = functools.partial(balance, affinity, ACTIVE, CAPACITY, jnp.zeros(EXPERTS), tol=-1.0)
    bounds = [dual_value(Routing(affinity, ACTIVE), law(sweeps=HASTE + more)) for more in range(8)]
    assert np.all(np.diff(bounds) <= 1e-4)
    assert bounds[-1] == pytest.approx(exact(Routing(affinity, ACTIVE)), rel=2e-3)


def test_the_contract_and_the_batch_come_to_the_same_prices(cleared):
    affinity, price, _ = cleared
    system, state = first_state(affinity, ACTIVE, CAPACITY)
    rounds = 8 * (system.steps + 1)
    np.testing.assert_array_equal(run(system, state, rounds).state.signal.price, price)


@pytest.mark.parametrize("devices", [2, 8])
def test_prices_are_the_same_bits_on_any_number_of_devices(cleared, devices):
    affinity, price, _ = cleared
    law = functools.partial(clear, active=ACTIVE, capacity=CAPACITY, sweeps=8, axis_name=AXIS)
    spec = PartitionSpec(AXIS)
    many = jax.shard_map(
        lambda a: law(a, price=jnp.zeros(EXPERTS))[0],
        mesh=mesh(devices),
        in_specs=spec,
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    np.testing.assert_array_equal(jax.jit(many)(affinity), price)


def test_transformations_leave_prices_alone_and_give_no_gradient(cleared):
    affinity, price, _ = cleared

    def loss(a):
        found = jax.checkpoint(lambda a: clear(a, ACTIVE, CAPACITY, jnp.zeros(EXPERTS), sweeps=8)[0])(a)
        found = balance(a, ACTIVE, CAPACITY, found, tol=0.0, sweeps=3)
        taken = assign(a, found, ACTIVE, CAPACITY)
        return jnp.sum(found) + jnp.sum(jnp.take_along_axis(a, taken.chosen, axis=1)), found

    # Within scan and vmap, and under remat, as in the layers of a network.
    batch = jnp.stack([affinity, affinity[::-1]])[None]
    both = jax.jit(lambda b: jax.lax.scan(lambda c, x: (c, jax.vmap(jax.grad(loss, has_aux=True))(x)), 0, b)[1])
    slope, found = both(batch)
    price = balance(affinity, ACTIVE, CAPACITY, price, tol=0.0, sweeps=3)
    np.testing.assert_array_equal(found[0], jnp.stack([price, price]))
    assert set(np.unique(slope)) == {0.0, 1.0} and float(slope[0, 0].sum()) == TOKENS * ACTIVE


CORNERS = {
    "cleared": (drawn(), 2, 16),
    "unpriced": (drawn(skew=3.0), 2, 16),
    "all alike": (np.zeros((TOKENS, EXPERTS), np.float32), 2, 16),
    "every expert": (drawn(12, 4), 4, 12),
    "room to spare": (drawn(), 2, 20),
    "swaps": (np.tile(np.arange(4.0, dtype=np.float32), (9, 1)), 3, 7),
}


@pytest.mark.parametrize("corner", CORNERS)
def test_repair_places_every_token_within_capacity(corner):
    affinity, active, capacity = CORNERS[corner]
    affinity = jnp.asarray(affinity)
    prices = jnp.zeros(affinity.shape[1])
    taken = assign(affinity, prices, active, capacity)
    assert sound(taken, capacity)
    ordered = np.sort(np.asarray(affinity), axis=1)[:, -active:].sum()
    if corner == "every expert":
        assert np.take_along_axis(np.asarray(affinity), np.asarray(taken.chosen), 1).sum() == pytest.approx(ordered)


def test_words_of_bits_rank_tokens_and_list_experts_as_numpy_does():
    # More tokens and more experts than a word has bits.
    demand = np.random.default_rng(2).random((70, 40)) < 0.1
    rank, load = ranks(jnp.asarray(demand))
    count = np.cumsum(demand, axis=0)
    np.testing.assert_array_equal(rank, count - demand)
    np.testing.assert_array_equal(load, count[-1])
    chosen, there = map(np.asarray, _listed(jnp.asarray(demand.T), 3))
    for row, numbers, found in zip(demand, chosen, there, strict=True):
        np.testing.assert_array_equal(numbers[found], np.flatnonzero(row)[:3])


def test_a_token_left_with_a_full_market_swaps():
    # Token 2 asks last for places; the only one left is at expert 0, where it already is.
    chosen = jnp.asarray([[1, 2], [1, 2], [0, 0]], jnp.int32)
    kept = jnp.asarray([[True, True], [True, True], [True, False]])
    surplus = jnp.asarray([[0.0, 1.0, 2.0], [0.5, 3.0, 3.0], [9.0, 4.0, 4.0]])
    chosen, kept = _swap(surplus, chosen, kept, jnp.full(3, 2, jnp.int32))
    # Moving token 0 away from expert 1 loses least: 0 − 1 + 4 beats 0 − 2 + 4 and 0.5 − 3 + 4.
    assert kept.all() and sorted(chosen[2].tolist()) == [0, 1] and sorted(chosen[0].tolist()) == [0, 2]


def test_too_few_places_and_closed_experts_drop_and_never_hang(cleared):
    affinity, price, _ = cleared
    taken = assign(affinity, price, ACTIVE, CAPACITY - 3)
    assert int(taken.kept.sum()) == EXPERTS * (CAPACITY - 3)
    closed = assign(affinity, price.at[1].set(jnp.inf), ACTIVE, CAPACITY)
    served = np.asarray(closed.chosen)[np.asarray(closed.kept)]
    assert 1 not in served and served.size == (EXPERTS - 1) * CAPACITY
    assert np.bincount(served).max() == CAPACITY
    assert not bool(assign(jnp.full((TOKENS, EXPERTS), jnp.nan), price, ACTIVE, CAPACITY).kept.any())


def test_the_outcome_of_bids_does_not_hang_on_the_buffer_that_holds_them(monkeypatch):
    # At no prices 300 tokens flock to what suits everybody: some two hundred have to bid again.
    affinity, outcomes = jnp.asarray(drawn(300, skew=2.0)), []
    module = sys.modules["catallax.experts.clear"]
    monkeypatch.setattr(module, "SMALL", 0)
    for few in (7, 300):
        monkeypatch.setattr(module, "FEW", few)
        outcomes.append(jax.jit(lambda x: assign.__wrapped__(x, jnp.zeros(EXPERTS), ACTIVE, 100))(affinity))
    assert int(jnp.sum(outcomes[0].load) - jnp.sum(jnp.minimum(outcomes[0].load, 100))) > 100
    for other in outcomes[1:]:
        np.testing.assert_array_equal(other.chosen, outcomes[0].chosen)
        np.testing.assert_array_equal(other.kept, outcomes[0].kept)


def test_without_repair_tokens_are_served_in_order_of_arrival(cleared):
    affinity, price, _ = cleared
    taken = assign(affinity, price * 0, ACTIVE, CAPACITY, repair=False)
    np.testing.assert_array_equal(taken.chosen, jax.lax.top_k(affinity, ACTIVE)[1])
    seen = np.zeros(EXPERTS, int)
    for chosen, kept in zip(taken.chosen.tolist(), taken.kept.tolist(), strict=True):
        for expert, here in zip(chosen, kept, strict=True):
            assert here == (seen[expert] < CAPACITY)
            seen[expert] += 1
    np.testing.assert_array_equal(taken.load, seen)


@pytest.mark.parametrize("capacity", [CAPACITY, CAPACITY + 4])
def test_the_answer_is_the_optimum_of_the_linear_program(capacity):
    problem = Routing(drawn(), ACTIVE, capacity)
    answer = assign_experts(drawn(), ACTIVE, capacity)
    best, scale = exact(problem), ACTIVE * np.ptp(problem.affinity, axis=1).sum()
    gap = answer.certificates[0]
    assert (answer.status == Status.SETTLED) == gap.holds and answer.load.max() <= capacity
    # No worse than the certificate says, which bounds the optimum from above.
    assert worth(problem, answer.chosen) <= best + 1e-6 <= dual_value(problem, answer.price) + 2e-6
    assert best - worth(problem, answer.chosen) <= gap.value * scale + 1e-6
    # Prices are within 1e-3 of the best bound either way; with places to spare the repair is not quite as near.
    assert dual_value(problem, answer.price) - best <= 1e-3 * scale
    assert gap.value < (1e-9 if capacity == CAPACITY else 0.02)
    assert answer.price.dtype == np.float64 and answer.bytes_per_round == 7 * 4 * EXPERTS + 40


def test_any_prices_bound_every_assignment_and_what_breaks_is_found():
    problem = Routing(drawn(), ACTIVE)
    draw = np.random.default_rng(1)
    best = exact(problem)
    for _ in range(5):
        assert dual_value(problem, draw.normal(size=EXPERTS)) >= best
    chosen = np.argsort(-problem.affinity, axis=1)[:, :ACTIVE]
    gap, load, experts = certify(problem, chosen, np.zeros(EXPERTS))
    over = np.bincount(chosen.ravel()).max() - CAPACITY
    # At prices of zero everybody's best is worth the bound, and more than there are places for.
    assert (gap.holds, load.value, experts.value) == (True, over, 0) and not load.holds
    gap, _, experts = certify(problem, np.zeros_like(chosen), np.zeros(EXPERTS))
    assert experts.value == TOKENS and not gap.holds
    with pytest.raises(ValueError, match="shapes"):
        certify(problem, chosen[1:], np.zeros(EXPERTS))


def test_tokens_are_local_and_have_no_order():
    system, state = first_state(drawn(29), ACTIVE, 11, steps=2)
    check_locality(system, state, key=jax.random.key(3))
    check_permutation(system, state, key=jax.random.key(3))
    check_message_size(system, state)


@pytest.mark.bench
def test_conformance():
    system, state = first_state(drawn(29), ACTIVE, 11, steps=2)
    check_system(system, state, key=jax.random.key(3), differentiable=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([[0.0, 1.0], [np.nan, 0.0]], 1), "affinity of token 1 for expert 0 is nan"),
        (([[0.0, 1.0]], 3), "3 experts, and there are 2"),
        ((drawn(), 2, 15), "90|6 experts with 15 places each are 6 places short"),
        ((drawn(), 0), "active.* is 0"),
        ((drawn(), 2, 1.5), "capacity is 1.5"),
        (([0.0, 1.0], 1), r"shape \(2,\)"),
        ((["a"], 1), "no table of numbers"),
    ],
)
def test_what_is_wrong_with_a_problem_is_said_with_its_place(arguments, said):
    with pytest.raises(InputError, match=said):
        Routing(*arguments)
