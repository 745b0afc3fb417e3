"""Every router through the same laws, and each against its paper's formula."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy

from catallax.experts.dispatch import admit
from catallax.experts.rivals import ROUTERS, Terms, entropic, hashed
from catallax.experts.routers import Router, RouterState

TOKENS, EXPERTS, ACTIVE, HALF = 96, 8, 2, 48
CAPACITY = TOKENS * ACTIVE // EXPERTS
FACTOR = {"late": 1.25}
BATCHES = 3


def affinities(seed: int) -> jax.Array:
    """Affinities with popular and unpopular experts."""
    noise = np.random.default_rng(seed).normal(size=(TOKENS, EXPERTS))
    return jnp.asarray(noise + np.linspace(-1, 1, EXPERTS), jnp.float32)


def free_load(affinity: Any) -> np.ndarray:
    """The load when every token takes its best."""
    return np.bincount(np.argsort(np.asarray(affinity), axis=1)[:, -ACTIVE:].ravel(), minlength=EXPERTS)


IDS = jnp.asarray(np.random.default_rng(5).integers(0, 20, TOKENS), jnp.int32)


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """Four batches of training, the last without expert 3, and two of inference for every router (seeds 0-4)."""
    # In the second of the two, later tokens are replaced: the earlier ones must not notice.
    held = jnp.stack([affinities(3), jnp.concatenate([affinities(3)[:HALF], affinities(4)[HALF:]])])
    batches = jnp.stack([affinities(seed) for seed in range(BATCHES + 1)])
    offsets = jnp.zeros((BATCHES + 1, EXPERTS)).at[BATCHES, 3].set(jnp.inf)

    @jax.jit
    def everything(batches, offsets, held):
        def one(kind):
            router = Router(kind, EXPERTS, ACTIVE, capacity_factor=FACTOR.get(kind, 1.0))

            def train(state, batch):
                routed, state = router(batch[0], state, tokens=IDS, price_offset=batch[1])
                return state, (routed, state)

            routed, states = jax.lax.scan(train, router.start(), (batches, offsets))[1]
            learnt = jax.tree.map(lambda leaf: leaf[BATCHES - 1], states)
            infer = jax.lax.map(lambda batch: router(batch, learnt, train=False, tokens=IDS), held)
            return router.start(), states, routed, infer

        return {kind: one(kind) for kind in ROUTERS}

    def split(found):
        start, states, routed, (held, same) = jax.tree.map(np.asarray, found)
        at = lambda tree, index: jax.tree.map(lambda leaf: leaf[index], tree)  # noqa: E731
        return {
            "train": [at(routed, batch) for batch in range(BATCHES)],
            "states": [start, *(at(states, batch) for batch in range(BATCHES))],
            "without": (at(routed, BATCHES), at(states, BATCHES)),
            "held": at(held, 0),
            "later": at(held, 1),
            "same": at(same, 0),
        }

    return {kind: split(found) for kind, found in everything(batches, offsets, held).items()}


@pytest.mark.parametrize("kind", ROUTERS)
def test_no_expert_has_more_tokens_than_places_and_none_twice(seen, kind):
    capacity = math.ceil(CAPACITY * FACTOR.get(kind, 1.0))
    for routed in [*seen[kind]["train"], seen[kind]["held"], seen[kind]["without"][0]]:
        assert routed.place.shape == (EXPERTS, capacity)
        for row in routed.place:
            there = row[row < TOKENS]
            assert len(set(there)) == len(there)
            assert np.all((row >= 0) & (row <= TOKENS))


@pytest.mark.parametrize("kind", ROUTERS)
def test_places_are_those_of_the_choices_kept(seen, kind):
    for routed in [seen[kind]["train"][-1], seen[kind]["held"]]:
        placed = {(token, expert) for expert, row in enumerate(routed.place) for token in row if token < TOKENS}
        kept = {(i, routed.chosen[i, j]) for i in range(TOKENS) for j in range(ACTIVE) if routed.kept[i, j]}
        assert all(len(set(row)) == ACTIVE for row in routed.chosen)
        assert kept <= placed if ROUTERS[kind].worth else kept == placed


@pytest.mark.parametrize("kind", ROUTERS)
def test_gates_are_shares_of_the_experts_that_serve(seen, kind):
    for routed in [seen[kind]["train"][-1], seen[kind]["held"]]:
        filled = routed.place < TOKENS
        assert np.all(routed.gate[filled] > 0) and np.all(routed.gate[~filled] == 0)
        total = np.zeros(TOKENS + 1)
        np.add.at(total, routed.place, routed.gate)
        served = np.isin(np.arange(TOKENS), routed.place)
        if ROUTERS[kind].gates == "all":
            assert total.max() <= 1 + 1e-5
        else:
            np.testing.assert_allclose(total[:-1], served, atol=1e-5)


def test_gates_come_from_affinities_alone(seen):
    affinity, routed = np.asarray(affinities(3)), seen["market"]["held"]
    both = np.flatnonzero(routed.kept.all(axis=1))
    assert len(both) > TOKENS // 2
    for token in both:
        own = np.exp(affinity[token, routed.chosen[token]])
        for expert, share in zip(routed.chosen[token], own / own.sum(), strict=True):
            assert routed.gate[expert, routed.place[expert] == token] == pytest.approx(share, rel=1e-5)


@pytest.mark.parametrize("kind", ROUTERS)
def test_logs_are_what_numpy_counts(seen, kind):
    for routed in [seen[kind]["train"][-1], seen[kind]["held"]]:
        logs, load = routed.logs, routed.logs.load.astype(float)
        share = load[load > 0] / load.sum()
        assert logs.max_violation == pytest.approx(load.max() / load.mean() - 1, abs=1e-5)
        assert logs.entropy == pytest.approx(-(share * np.log(share)).sum(), abs=1e-5)
        assert logs.dead == (load == 0).sum()
        assert logs.dropped == pytest.approx(1 - (routed.place < TOKENS).sum() / load.sum(), abs=1e-6)
        assert logs.unserved == pytest.approx(1 - len(set(routed.place.ravel()) - {TOKENS}) / TOKENS, abs=1e-6)
        if not ROUTERS[kind].worth:
            assert load.sum() == TOKENS * ACTIVE


@pytest.mark.parametrize("kind", ROUTERS)
def test_at_inference_no_token_depends_on_a_later_one_and_the_state_rests(seen, kind):
    before, after = seen[kind]["held"], seen[kind]["later"]
    assert np.array_equal(before.chosen[:HALF], after.chosen[:HALF])
    assert np.array_equal(before.kept[:HALF], after.kept[:HALF])
    assert np.array_equal(before.place[before.place < HALF], after.place[after.place < HALF])
    for old, new in zip(jax.tree.leaves(seen[kind]["states"][-1]), jax.tree.leaves(seen[kind]["same"]), strict=True):
        assert np.array_equal(old, new)


@pytest.mark.parametrize("kind", ROUTERS)
def test_the_average_is_that_of_the_prices(seen, kind):
    states = seen[kind]["states"]
    assert [int(state.count) for state in states] == [0, 1, 2, 3]
    np.testing.assert_allclose(states[-1].average, np.mean([s.price for s in states[1:]], axis=0), atol=1e-5)


@pytest.mark.parametrize("kind", [*ROUTERS, "market above thresholds"])
def test_the_price_to_freeze_suits_many_batches_together(kind):
    """What each rule balances, it balances on the whole: loads, expected loads, or who exceeds a threshold."""
    router = Router(kind.split()[0], EXPERTS, ACTIVE, threshold=" " in kind)
    whole = jnp.concatenate([affinities(seed) for seed in range(40)])
    mean, left = len(whole) * ACTIVE / EXPERTS, RouterState(jnp.ones(EXPERTS), jnp.ones(EXPERTS), jnp.int32(3))
    after = eqx.filter_jit(router.settle)(whole, left)
    assert np.array_equal(after.price, left.price) and after.count == left.count
    surplus = np.asarray(router.rule.score(whole, jnp.tile(IDS, 40))) - np.asarray(after.average)[None]
    if kind in ("market", "late", "auction"):
        assert free_load(surplus).max() <= 1.002 * mean + 1
    elif kind == "sinkhorn":
        np.testing.assert_allclose(scipy.special.softmax(surplus, axis=1).sum(axis=0) * ACTIVE, mean, rtol=1e-2)
    elif kind in ("choice", "threshold", "market above thresholds"):
        np.testing.assert_allclose((surplus > 0).sum(axis=0), mean, atol=1)
    else:
        assert after is left or np.array_equal(after.average, left.average)


@pytest.mark.parametrize("kind", ROUTERS)
def test_a_removed_expert_serves_nobody(seen, kind):
    routed, state = seen[kind]["without"]
    assert np.all(routed.place[3] == TOKENS)
    assert routed.logs.load[3] == 0
    assert np.all(np.isfinite(state.price)) and np.all(np.isfinite(routed.gate))
    if ROUTERS[kind].repair:
        assert np.all(np.delete(routed.place, 3, axis=0) < TOKENS)


def test_the_market_balances_from_the_first_batch_and_drops_nothing(seen):
    for routed in seen["market"]["train"]:
        assert routed.logs.max_violation <= 1.5 / CAPACITY
        assert routed.logs.dropped == 0 and routed.kept.all()
    assert free_load(affinities(0)).max() > 1.5 * CAPACITY


def test_without_balancing_tokens_take_their_best(seen):
    best = np.sort(np.argsort(affinities(3), axis=1)[:, -ACTIVE:], axis=1)
    for kind in ("none", "auxiliary"):
        assert np.array_equal(np.sort(seen[kind]["held"].chosen, axis=1), best)


def test_auxiliary_loss_is_that_of_switch_transformers(seen):
    affinity, routed = np.asarray(affinities(BATCHES - 1), float), seen["auxiliary"]["train"][-1]
    share = np.exp(affinity) / np.exp(affinity).sum(axis=1, keepdims=True)
    wanted = 0.01 * EXPERTS * (routed.logs.load / routed.logs.load.sum() * share.mean(axis=0)).sum()
    assert routed.loss == pytest.approx(wanted, rel=1e-5)
    assert all(seen[kind]["train"][-1].loss == 0 for kind in ROUTERS if kind != "auxiliary")


def test_tokens_are_asked_to_decide_by_their_mean_entropy_at_the_price():
    """Against float64 NumPy, its slope against differences, and spread over two devices (seed 16)."""
    router = Router("market", EXPERTS, ACTIVE, decisive=0.5)
    affinity, direction = affinities(16), affinities(17)

    @jax.jit
    def asked(affinity):
        def one(affinity):
            routed, state = router(affinity, router.start())
            return routed.loss, state.price

        halves = jax.vmap(lambda half: router(half, router.start(), axis_name="half")[0].loss, axis_name="half")
        return *jax.value_and_grad(one, has_aux=True)(affinity), halves(affinity.reshape(2, -1, EXPERTS))

    (loss, price), slope, halves = jax.tree.map(np.asarray, asked(affinity))

    def by_hand(affinity):
        share = scipy.special.softmax(np.asarray(affinity, float) - price, axis=1)
        return 0.5 * scipy.special.entr(share).sum(axis=1).mean()

    assert loss == pytest.approx(by_hand(affinity), rel=1e-5)
    np.testing.assert_allclose(halves, loss, rtol=1e-5)
    ahead, behind = (by_hand(np.asarray(affinity, float) + step * np.asarray(direction)) for step in (1e-4, -1e-4))
    assert np.sum(slope * np.asarray(direction)) == pytest.approx((ahead - behind) / 2e-4, rel=1e-3)


def test_biases_move_against_the_load_and_select_on_sigmoids(seen):
    for kind, law in (("sign", lambda e: 0.001 * np.sign(e)), ("proportional", lambda e: 0.01 * e)):
        price = np.zeros(EXPERTS)
        for batch, routed, state in zip(range(BATCHES), seen[kind]["train"], seen[kind]["states"][1:], strict=True):
            score = 1 / (1 + np.exp(-np.asarray(affinities(batch), float))) - price
            load = np.bincount(np.argsort(score, axis=1)[:, -ACTIVE:].ravel(), minlength=EXPERTS)
            assert np.array_equal(load, routed.logs.load)
            price = price + law(load / load.mean() - 1)
            np.testing.assert_allclose(state.price, price, atol=1e-6)


def test_late_is_one_sweep_behind(seen):
    states = seen["late"]["states"]
    assert np.array_equal(seen["late"]["train"][0].chosen, seen["none"]["train"][0].chosen)
    surplus = np.sort(np.asarray(affinities(1)) - states[1].price, axis=1)
    reserve = surplus[:, -ACTIVE - 1 : EXPERTS - ACTIVE + 1].mean(axis=1)
    price = np.sort(np.asarray(affinities(1)) - reserve[:, None], axis=0)[-CAPACITY - 1]
    np.testing.assert_allclose(states[2].price, price - price.min(), atol=1e-4)


def test_sinkhorn_scales_columns_to_equal_loads():
    # Float64 NumPy on the plan itself, rows and columns in turn, many times; seed 6.
    score = np.random.default_rng(6).normal(size=(TOKENS, EXPERTS))
    plan = np.exp(score / 0.7)
    for _ in range(200):
        plan /= plan.sum(axis=1, keepdims=True)
        plan *= TOKENS / EXPERTS / plan.sum(axis=0, keepdims=True)
    price = score - 0.7 * np.log(plan)
    price = (price - price.mean(axis=1, keepdims=True))[0]
    state = Router("sinkhorn", EXPERTS, ACTIVE).start()
    terms = Terms(ACTIVE, CAPACITY, 0.7, None)
    step = jax.jit(lambda state: entropic(jnp.asarray(score, jnp.float32), state, terms))
    for _ in range(4):
        state = RouterState(step(state), state.average, state.count)
    np.testing.assert_allclose(state.price - state.price.mean(), price, atol=1e-4)


def test_the_auction_is_within_epsilon_of_the_optimum(seen):
    affinity = np.asarray(affinities(0), float)
    pairs = np.arange(TOKENS * EXPERTS).reshape(TOKENS, EXPERTS)
    rows, columns = np.repeat(np.arange(TOKENS), EXPERTS), pairs.ravel()
    of_token = scipy.sparse.csr_array((np.ones(pairs.size), (rows, columns)))
    of_expert = scipy.sparse.csr_array((np.ones(pairs.size), (columns % EXPERTS, columns)))
    answer = scipy.optimize.linprog(
        -affinity.ravel(),
        A_eq=of_token,
        b_eq=np.full(TOKENS, ACTIVE),
        A_ub=of_expert,
        b_ub=np.full(EXPERTS, CAPACITY),
        bounds=(0, 1),
    )
    epsilon = ROUTERS["auction"].rate * np.ptp(affinity)

    def value(kind):
        return np.take_along_axis(affinity, seen[kind]["train"][0].chosen, axis=1).sum()

    assert seen["auction"]["train"][0].kept.all()
    assert -answer.fun - TOKENS * ACTIVE * epsilon <= value("auction") <= -answer.fun + 1e-4
    # Far nearer than what is guaranteed; the repair alone, at prices of zero, reaches .92 of the optimum.
    assert value("auction") > -0.975 * answer.fun


def test_in_choice_every_expert_takes_its_best_tokens(seen):
    affinity = np.asarray(affinities(BATCHES - 1), float)
    score = np.exp(affinity) / np.exp(affinity).sum(axis=1, keepdims=True)
    routed = seen["choice"]["train"][-1]
    for expert, row in enumerate(routed.place):
        assert set(row) == set(np.argsort(-score[:, expert])[:CAPACITY])
        np.testing.assert_allclose(routed.gate[expert], score[row, expert], rtol=1e-4)


def test_thresholds_are_averages_of_those_that_fill_the_expert(seen):
    expected = [np.sort(affinities(batch), axis=0)[-CAPACITY - 1] for batch in range(BATCHES)]
    for state, wanted in zip(seen["threshold"]["states"][1:], expected, strict=True):
        np.testing.assert_allclose(state.price, wanted, atol=1e-5)
    average = seen["threshold"]["states"][2].average
    assert np.array_equal(seen["threshold"]["train"][2].logs.load, (np.asarray(affinities(2)) > average).sum(axis=0))


def test_hash_sends_equal_tokens_to_equal_experts(seen):
    chosen, ids = seen["hash"]["train"][0].chosen, np.asarray(IDS)
    assert np.array_equal(chosen, seen["hash"]["train"][1].chosen)
    for number in set(ids):
        assert len({tuple(row) for row in chosen[ids == number]}) == 1
    score = np.asarray(jax.jit(hashed)(jnp.zeros((4096, 16)), jnp.arange(4096, dtype=jnp.int32)))
    load = np.bincount(score.argmax(axis=1), minlength=16)
    # 4,096 different numbers at 16 experts: 256 each, give or take four standard deviations.
    assert np.abs(load - 256).max() < 4 * np.sqrt(256)


def test_causal_prices_have_heard_of_earlier_tokens_of_the_sequence_alone():
    router = Router("market", EXPERTS, ACTIVE, causal=True, rate=0.3, capacity_factor=4.0)
    route = jax.jit(lambda affinity, state: router(affinity, state, length=32))
    first = affinities(8)
    later = first.at[16:32].set(affinities(9)[16:32])
    (one, state), (other, _) = route(first, router.start()), route(later, router.start())
    unchanged = np.r_[:16, 32:TOKENS]
    assert np.array_equal(one.chosen[unchanged], other.chosen[unchanged])
    assert not np.array_equal(one.chosen, other.chosen)
    # It balances, though it never looks ahead.
    assert one.logs.max_violation < 0.5 * (free_load(first).max() / (TOKENS * ACTIVE / EXPERTS) - 1)
    assert state.price.shape == (EXPERTS,)


def moved(affinity: np.ndarray, price: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Who is chosen and who keeps a place at a price that moves along a batch, one token after another."""
    chosen, kept = np.zeros((2, len(affinity), ACTIVE), int)
    room, price, count = np.full(EXPERTS, CAPACITY), price.astype(float), len(affinity) // length
    mean = count * ACTIVE / EXPERTS
    for position in range(length):
        asked = np.zeros(EXPERTS)
        for token in range(position, len(affinity), length):
            chosen[token] = np.argsort(price - affinity[token], kind="stable")[:ACTIVE]
            asked[chosen[token]] += 1
            kept[token] = room[chosen[token]] > 0
            room[chosen[token]] -= kept[token]
        spread = affinity[position::length].std(axis=1).mean()
        price += 0.2 * spread / max(1, mean) * (asked - mean)
    return chosen, kept.astype(bool)


def test_a_moving_price_has_heard_of_earlier_positions_alone():
    """Six sequences of 16 tokens that were not trained on, after one batch of training (seeds 11-13)."""
    router = Router("market", EXPERTS, ACTIVE, bar=0.0)
    state = jax.jit(router)(affinities(11), router.start())[1]
    shift = jnp.linspace(2, 0, EXPERTS)[None]
    first = affinities(12) + shift
    late = np.arange(TOKENS) % 16 >= 8
    other = jnp.where(late[:, None], affinities(13) + shift, first)

    def routes(affinity, state):
        options: Any = dict(train=False, length=16, moving=True)
        routed, after = router(affinity, state, **options)
        # The same over two devices, which each have room for all at any time.
        halves = jax.vmap(
            lambda half: router(half, state, axis_name="half", capacity_factor=4.0, **options)[0], axis_name="half"
        )(affinity.reshape(2, -1, EXPERTS))
        return routed, after, halves, router(affinity, state, train=False)[0]

    routed, after, halves, frozen = jax.tree.map(np.asarray, jax.jit(routes)(first, state))
    changed = jax.tree.map(np.asarray, jax.jit(routes)(other, state)[0])
    chosen, kept = moved(np.asarray(first), np.asarray(state.average), 16)
    assert np.array_equal(routed.chosen, chosen) and np.array_equal(routed.kept, kept)
    placed = {(token, expert) for expert, row in enumerate(routed.place) for token in row if token < TOKENS}
    assert placed == {(t, chosen[t, j]) for t in range(TOKENS) for j in range(ACTIVE) if kept[t, j]}
    for before, since in ((routed.chosen, changed.chosen), (routed.kept, changed.kept)):
        assert np.array_equal(before[~late], since[~late])
    assert not np.array_equal(routed.chosen, changed.chosen)
    assert np.array_equal(halves.chosen.reshape(-1, ACTIVE), routed.chosen)
    # It balances, though it never looks ahead; and what is remembered stays frozen.
    assert routed.logs.max_violation < 0.5 * frozen.logs.max_violation
    assert routed.logs.dropped < 0.5 * frozen.logs.dropped
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True))


@pytest.mark.parametrize("bar", [0.0, 0.1, 0.5])
def test_places_come_free_along_a_batch_and_go_to_those_for_whom_an_expert_weighs_enough(bar):
    """Six sequences of 16, and 20 places an expert, against one token after another (seeds 20, 21)."""
    draw = np.random.default_rng(20)
    demand, weight = draw.random((TOKENS, EXPERTS)) < np.linspace(0.1, 0.5, EXPERTS), draw.random((TOKENS, EXPERTS))
    weight, places = weight.astype(np.float32), np.full(EXPERTS, 20)
    held, served = np.zeros(EXPERTS), np.zeros_like(demand)
    for position in range(16):
        asked = bar * np.maximum(held - position * 20 / 16, 0) / (20 / 16)
        for token in range(position, TOKENS, 16):
            served[token] = demand[token] & (weight[token] >= asked.astype(np.float32)) & (held < places)
            held = held + served[token]

    law = jax.jit(lambda demand, weight: admit(demand, weight, jnp.asarray(places, jnp.int32), 16, bar))
    found = np.asarray(law(demand, weight))
    np.testing.assert_array_equal(found, served)
    # Who comes later decides nothing, and whoever is refused asked an expert that is asked for too much.
    late = np.arange(TOKENS)[:, None] % 16 >= 9
    other = np.random.default_rng(21)
    changed = law(
        np.where(late, other.random(demand.shape) < 0.5, demand), np.where(late, other.random(demand.shape), weight)
    )
    assert np.array_equal(np.asarray(changed)[~late[:, 0]], found[~late[:, 0]])
    assert found[:, :2].sum() == demand[:, :2].sum() < found[:, -2:].sum() < demand[:, -2:].sum()
    if bar:
        weigh = [np.mean(weight[:, -2:][each[:, -2:]]) for each in (found, demand)]
        assert weigh[0] > weigh[1] + 0.05


@pytest.mark.parametrize("kind", ["market", "hash", "choice", "threshold"])
def test_a_bar_changes_who_is_served_and_nobody_s_choice(kind):
    """Where tokens choose, those who are refused lose less than by order of arrival (seeds 22, 23)."""
    free, barred, plain, asking = (
        Router(kind, EXPERTS, ACTIVE, bar=bar, repair=repair)
        for bar, repair in ((0.0, None), (None, None), (None, False), (1.0, False))
    )
    crowd = affinities(23) + jnp.linspace(2, 0, EXPERTS)[None]

    @jax.jit
    def routes(first, crowd):
        state = plain(first, plain.start(), tokens=IDS)[1]
        held = [one(crowd, state, train=False, tokens=IDS, length=16)[0] for one in (free, barred)]
        trained = [one(crowd, state, tokens=IDS, length=16)[0].place for one in (plain, asking)]
        return held, [plain(crowd, state, tokens=IDS)[0].place, *trained]

    (early, best), (standing, same, asked) = routes(affinities(22), crowd)
    np.testing.assert_array_equal(early.logs.load, best.logs.load)
    assert early.logs.dropped > 0 and best.logs.dropped > 0
    for routed in (early, best):
        filled = np.asarray(routed.place) < TOKENS
        assert filled.sum(axis=1).max() <= CAPACITY
        np.testing.assert_allclose(routed.logs.dropped, 1 - filled.sum() / routed.logs.load.sum(), atol=1e-6)
    if kind in ("market", "hash"):
        np.testing.assert_array_equal(early.chosen, best.chosen)
        share = jax.nn.softmax(jnp.take_along_axis(crowd, early.chosen, axis=1), axis=1)
        lost = [float(jnp.mean(share[~routed.kept])) for routed in (early, best)]
        assert lost[1] < lost[0] - 0.05
    # In training it is there only if it is asked for, and needs to know what a sequence is.
    assert np.array_equal(standing, same) and not np.array_equal(standing, asked)
    with pytest.raises(ValueError, match="tokens per sequence"):
        asking(crowd, plain.start(), tokens=IDS)


def test_closed_places_stay_closed_behind_a_bar():
    closing = Router("market", EXPERTS, ACTIVE, vacant=0.5, bar=0.1)
    routed = jax.jit(lambda x: closing(x, closing.start(), length=16)[0])(affinities(1))
    taken = (np.asarray(routed.place) < TOKENS).sum(axis=1)
    opened = np.asarray(jax.jit(lambda: closing._opened(CAPACITY, closing.start()))())
    assert (taken <= opened).all() and taken.sum() > 0.7 * opened.sum() and (opened < CAPACITY).all()
    # Closed along the whole batch: they are not those of the last sequences.
    token = np.asarray(routed.place)
    first, last = (np.sum(token // 16 == sequence) for sequence in (0, 5))
    assert last > 0.6 * first


def test_a_moving_price_knows_no_unit_and_nothing_of_experts_removed():
    """Affinities times 32 are served alike; what tokens think of a removed expert moves nobody (seeds 14, 15)."""
    router = Router("market", EXPERTS, ACTIVE)
    state = jax.jit(router)(affinities(14), router.start())[1]
    gone = jnp.zeros(EXPERTS).at[EXPERTS - 1].set(jnp.inf)

    @jax.jit
    def routes(affinity, state):
        moving: Any = dict(train=False, length=16, moving=True, capacity_factor=4.0)
        large = router(32 * affinity, jax.tree.map(lambda leaf: 32 * leaf, state), **moving)[0]
        rests = [router(one, state, price_offset=gone, **moving)[0] for one in (affinity, affinity.at[:, -1].mul(9))]
        return [one.chosen for one in (router(affinity, state, **moving)[0], large, *rests)]

    plain, large, without, never = map(np.asarray, routes(affinities(15), state))
    assert np.array_equal(plain, large) and np.array_equal(without, never)
    assert np.any(plain == EXPERTS - 1) and not np.any(without == EXPERTS - 1)
    assert np.bincount(without.ravel()).max() < 2 * CAPACITY


def test_no_price_moves_tokens_that_go_where_their_number_says():
    router, state = Router("hash", EXPERTS, ACTIVE), Router("hash", EXPERTS, ACTIVE).start()
    both: Any = {"train": False, "tokens": IDS, "length": 16, "capacity_factor": float(EXPERTS)}
    found = jax.jit(lambda x: [router(x, state, moving=moving, **both)[0].chosen for moving in (True, False)])
    assert np.array_equal(*found(affinities(1)))


def test_tokens_that_are_equal_are_parted():
    # A long row of one byte: no price can send half of it here and half of it there.
    affinity = jnp.asarray(np.random.default_rng(4).normal(size=(512, 8)), jnp.float32).at[:96].set(jnp.arange(8) / 4)
    router = Router("market", 8, 2)
    routed, state = jax.jit(router)(affinity, router.start())
    assert routed.logs.max_violation <= 0.03 and routed.logs.dropped == 0
    whole = Router("market", 8, 2)(affinity, state, train=False)[0].logs
    assert whole.max_violation > 0.1


def test_above_thresholds_of_the_market_a_token_takes_what_is_worth_its_price():
    router = Router("market", EXPERTS, ACTIVE, threshold=True)
    routed, state = jax.jit(router)(affinities(10), router.start())
    takes = np.asarray(affinities(10)) > np.asarray(state.price)
    assert np.array_equal(takes.sum(axis=0), np.full(EXPERTS, CAPACITY))
    assert takes.sum(axis=1).max() > ACTIVE
    assert {(t, e) for e, row in enumerate(np.asarray(routed.place)) for t in row} == set(
        zip(*takes.nonzero(), strict=True)
    )


@pytest.mark.parametrize("kind", ["market", "late"])
def test_closed_places_are_those_of_the_latest_tokens_and_of_training_alone(kind):
    whole, vacant = (Router(kind, EXPERTS, ACTIVE, vacant=share) for share in (0.0, 0.25))
    law, closing = jax.jit(whole), jax.jit(vacant)
    state, closed = whole.start(), []
    for seed in range(20):
        routed, after = law(affinities(seed), state)
        less, same = closing(affinities(seed), state)
        jax.tree.map(
            np.testing.assert_array_equal, (after, routed.chosen, routed.logs.load), (same, less.chosen, less.logs.load)
        )
        full, filled = (np.asarray(one.place) for one in (routed, less))
        taken = (filled < TOKENS).sum(axis=1)
        np.testing.assert_allclose(less.logs.dropped, 1 - taken.sum() / less.logs.load.sum(), atol=1e-6)
        # What is left of a place is what was there, and whoever comes after the last one served finds none.
        for here, there, count in zip(full, filled, taken, strict=True):
            assert (there[:count] == here[:count]).all() and (there[count:] == TOKENS).all()
        opened = np.minimum((full < TOKENS).sum(axis=1), CAPACITY)
        assert (taken <= opened).all() and (taken >= np.minimum(opened, CAPACITY // 2)).all()
        closed.append(CAPACITY - np.minimum(taken, CAPACITY))
        state = after
    if kind == "market":
        # Of 160 draws between none and half of 16 places.
        assert 0.2 < np.mean(closed) / CAPACITY < 0.3 and np.std(closed) / CAPACITY > 0.1
    resting = (one(affinities(1), state, train=False)[0] for one in (whole, vacant))
    jax.tree.map(np.testing.assert_array_equal, *resting)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("markt", 8, 2), {}, "no router 'markt'"),
        (("market", 8, 9), {}, "9 of 8 experts"),
        (("market", 8, 0), {}, "0 of 8 experts"),
        (("none", 8, 2), {"capacity_factor": 0.0}, "need places"),
        (("none", 8, 2), {"causal": True}, "options of the market"),
        (("market", 8, 2), {"causal": True, "threshold": True}, "do not go together"),
        (("market", 8, 2), {"vacant": 0.6}, "from 0 to 0.5"),
        (("choice", 8, 2), {"vacant": 0.1}, "vacant is for routers whose tokens choose"),
        (("market", 8, 2), {"threshold": True, "vacant": 0.1}, "vacant is for routers whose tokens choose"),
        (("market", 8, 2), {"bar": -0.1}, "bar is -0.1"),
        (("market", 8, 2), {"bar": math.nan}, "bar is nan"),
        (("market", 8, 2), {"decisive": -1.0}, "decisive is -1.0"),
        (("market", 8, 2), {"decisive": math.nan}, "decisive is nan"),
        (("sign", 8, 2), {"decisive": 0.1}, "not for 'sign'"),
        (("market", 8, 2), {"threshold": True, "decisive": 0.1}, "decisive is for routers whose tokens choose"),
        (("market", 8, 2), {"frozen": "first"}, "frozen is 'first'"),
        (("market", 8, 2), {"gates": "some"}, "gates is 'some'"),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        Router(*arguments, **options)


def test_batches_that_do_not_fit_are_refused():
    state = Router("none", EXPERTS, ACTIVE).start()
    with pytest.raises(ValueError, match=r"it is \(tokens, 8\)"):
        Router("none", EXPERTS, ACTIVE)(jnp.zeros((4, 9)), state)
    with pytest.raises(ValueError, match="pass tokens="):
        Router("hash", EXPERTS, ACTIVE)(jnp.zeros((4, 8)), state)
    with pytest.raises(ValueError, match="tokens per sequence"):
        Router("market", EXPERTS, ACTIVE, causal=True)(jnp.zeros((4, 8)), state, length=3)
    with pytest.raises(ValueError, match="tokens per sequence"):
        Router("market", EXPERTS, ACTIVE)(jnp.zeros((4, 8)), state, train=False, moving=True)
