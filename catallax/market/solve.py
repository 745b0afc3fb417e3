"""The answer: a market's equilibrium, by the law of motion that suits it, with its certificates."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax.sharding import Mesh

from ..certificate import Certificate
from ..core.result import Status
from ..core.run import Progress
from ..core.settle import Settled, settle
from ..core.system import AbstractSystem, State
from .certify import certify, regrets
from .interior import Path, Trader, carried_out, central_path
from .problem import Market
from .rules import (
    Basket,
    Buyer,
    Complements,
    ElasticDemand,
    ProportionalResponse,
    Tatonnement,
    Trial,
    best_bundle,
)

SPARSE_BELOW = 0.35
"""Buyers list their goods one by one where the longest list is shorter than this share of all goods."""


@dataclasses.dataclass(frozen=True, eq=False)
class Equilibrium:
    """A market's answer.

    Args:
        market: The question.
        prices: Money per unit of each good, shape (m,).
        allocation: What each buyer gets, shape (n, m); sparse where the valuations are.
        money: What each buyer keeps, shape (n,); zero unless utility is quasilinear.
        status: `SETTLED` only if every certificate holds.
        certificates: The independent checks.
        rounds: How many rounds it took.
        law: The name of the law of motion.
        bytes_per_round: What one device exchanges in a round.
        history: Rounds, and the law's own measure of distance after each; for pictures, not for claims.
    """

    market: Market
    prices: np.ndarray
    allocation: Any
    money: np.ndarray
    status: Status
    certificates: tuple[Certificate, ...]
    rounds: int
    law: str
    bytes_per_round: int
    history: tuple[np.ndarray, np.ndarray]

    @property
    def utilities(self) -> np.ndarray:
        """What each buyer's bundle is worth to it, shape (n,)."""
        return self.market.utility.of(self.market.valuations, self.allocation, self.money)

    @property
    def regrets(self) -> np.ndarray:
        """The share of the best affordable utility that each buyer misses, shape (n,)."""
        return regrets(self.market, self.prices, self.allocation, self.money)


class Within(eqx.Module):
    """The measure of rest of laws that know how far they are: gap and regret, in units of the tolerance.

    Args:
        tol: The tolerance.
        foresees: Whether to count on the change that the central path has just decided on, whose outcome it would
            measure a round later.
    """

    tol: jax.Array
    foresees: jax.Array

    def __call__(self, before: Any, after: Any) -> jax.Array:
        del before
        if not isinstance(after, Path):
            return after.error / self.tol
        stays = (after.bundle_rate == 0) & (after.price_rate == 0)
        part = jnp.minimum(after.bundle_rate, after.price_rate)
        # Along Newton's direction what separates the two sides goes to its target in proportion.
        kept = jnp.where(self.foresees, 1 - part + part * after.target * after.entries / after.spread, 1.0)
        return jnp.where(stays, 0.0, kept * jnp.maximum(after.gap, after.regret) / self.tol)


@dataclasses.dataclass(frozen=True)
class Normal:
    """A market in the rules' units: live buyers and goods only, supply one, budgets summing to one."""

    market: Market
    buyers: np.ndarray
    goods: np.ndarray
    value: np.ndarray
    index: np.ndarray | None
    budget: np.ndarray
    cash: np.ndarray | None
    total: float

    @classmethod
    def of(cls, market: Market) -> "Normal":
        """Convert a market."""
        table = market.valuations
        buyers = np.flatnonzero(market.budgets > 0)
        goods = np.flatnonzero((table[buyers] if buyers.size < market.n else table).sum(axis=0))
        if buyers.size < market.n or goods.size < market.m:
            table = table[buyers][:, goods]
        value, index = _padded(table)
        supply = market.supply[goods] if index is None else market.supply[goods][index]
        rho, total = market.utility.rho, float(market.budgets.sum())
        # The utility of a share of the supply; a buyer's own unit of utility is free, so its dearest good gets 1.
        value = value / supply if rho == -np.inf else value * supply**rho
        unit = value.max(axis=1)
        cash = total / unit if market.utility.money else None
        return cls(market, buyers, goods, value / unit[:, None], index, market.budgets[buyers] / total, cash, total)

    @property
    def m(self) -> int:
        """How many goods are wanted."""
        return self.goods.size

    def read(self, price: np.ndarray) -> np.ndarray:
        """Return a vector over goods at each buyer's goods, shape (n, k)."""
        return price[None, :] if self.index is None else price[self.index]

    def add_up(self, x: np.ndarray) -> np.ndarray:
        """Sum a table over buyers, shape (n, k) to (m,)."""
        if self.index is None:
            return x.sum(axis=0)
        return np.bincount(self.index.ravel(), weights=x.ravel(), minlength=self.m)

    def buyers_state(self, kind: type = Buyer, **private: Any) -> Any:
        """Return the stacked buyers for the engine."""
        # NumPy indexes twice as fast with its own integers; compiled code with short ones.
        goods = None if self.index is None else self.index.astype(np.int32)
        return kind(value=self.value, budget=self.budget, goods=goods, cash=self.cash, **private)

    def restore(self, price: np.ndarray, bundle: np.ndarray) -> tuple[np.ndarray, Any, np.ndarray]:
        """Return prices, allocation and money in the market's units, every good sold exactly."""
        market = self.market
        kept = np.zeros(market.n)
        if self.cash is not None:
            kept[self.buyers], bundle = bundle[:, -1] * self.total, bundle[:, :-1]
        bundle = np.where(self.value > 0, bundle, 0.0)
        if market.utility.rho != -np.inf:
            bundle = bundle / self.read(self.add_up(bundle))
        prices = np.zeros(market.m)
        prices[self.goods] = price * self.total / market.supply[self.goods]
        units = bundle * self.read(market.supply[self.goods])
        if scipy.sparse.issparse(market.valuations):
            rows, columns = np.nonzero(self.value)
            places = columns if self.index is None else self.index[rows, columns]
            entries = units[rows, columns], (self.buyers[rows], self.goods[places])
            return prices, scipy.sparse.csr_array(entries, shape=(market.n, market.m)), kept
        allocation = np.zeros((market.n, market.m))
        if self.index is None:
            allocation[np.ix_(self.buyers, self.goods)] = units
        else:
            np.add.at(allocation, (self.buyers[:, None], self.goods[self.index]), units)
        return prices, allocation, kept


def _padded(table: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Return values and goods' numbers row by row, filled up with zeros; dense rows have no numbers."""
    if not scipy.sparse.issparse(table):
        if np.count_nonzero(table, axis=1).max() > SPARSE_BELOW * table.shape[1]:
            return table, None
        table = scipy.sparse.csr_array(table)
    sparse, counts = table, np.diff(table.indptr)
    width = int(counts.max())
    if width > SPARSE_BELOW * sparse.shape[1]:
        return sparse.toarray(), None
    if np.all(counts == width):
        shape = (sparse.shape[0], width)
        return sparse.data.reshape(shape), sparse.indices.reshape(shape).astype(np.intp)
    value, index = np.zeros((sparse.shape[0], width)), np.zeros((sparse.shape[0], width), np.intp)
    rows = np.repeat(np.arange(sparse.shape[0]), counts)
    columns = np.arange(sparse.nnz) - np.repeat(sparse.indptr[:-1], counts)
    value[rows, columns], index[rows, columns] = sparse.data, sparse.indices
    return value, index


def solve(
    market: Market,
    *,
    tol: float = 1e-6,
    law: str | None = None,
    max_rounds: int | None = None,
    mesh: Mesh | None = None,
    block: int | None = None,
    watch: Callable[[Progress], Any] | None = None,
) -> Equilibrium:
    """Find a market's competitive equilibrium.

    Args:
        market: The question.
        tol: The duality gap per unit of budget, and the largest regret of any buyer, to reach.
        law: "fast" (default): the central path for linear and quasilinear utilities, Newton's method for the
            others. "tatonnement" and "proportional-response" are the textbook ones.
        max_rounds: When to give up; by default 200, or 100,000 for the textbook laws.
        mesh: Devices to spread the buyers over.
        block: How many buyers answer at once.
        watch: Called between chunks with a `Progress`.

    Returns:
        The answer with its certificates; its status is `SETTLED` only if all of them hold.
    """
    law = "fast" if law is None else law
    normal = Normal.of(market)
    engine = {"rtol": tol / 10, "atol": 0.0, "mesh": mesh, "block": block, "watch": watch}
    left = max_rounds or (200 if law == "fast" else 100_000)
    with jax.enable_x64(True):
        system, state, endings, finish = _law(normal, law, tol)
        parts, found = [], None
        if isinstance(state.signal, Path) and normal.value.size >= SINGLE_FROM and tol < SINGLE_TO:
            state, parts = _opened(normal, system, state, left, engine)
        for distance in endings:
            rounds = left - sum(part.rounds for part in parts)
            if rounds <= 0 or (parts and parts[-1].status == Status.STOPPED):
                break
            record = _measure if distance is not None else None
            parts.append(settle(system, state, max_rounds=rounds, distance=distance, record=record, **engine))
            found, state = _best(normal, finish(parts[-1]), tol), parts[-1].state
            if all(certificate.holds for certificate in found[0]):
                break
        certificates, (prices, allocation, money) = _best(normal, finish(parts[-1]), tol) if found is None else found
    kept = [(np.asarray(part.recorded), np.asarray(part.record)) for part in parts if part.record is not None]
    numbers, distances = (np.concatenate(column) for column in zip((np.zeros(0, int), np.zeros(0)), *kept, strict=True))
    status = Status(parts[-1].status)
    holds = all(certificate.holds for certificate in certificates)
    if holds:
        status = Status.SETTLED
    elif status == Status.SETTLED:
        status = Status.OUT_OF_ROUNDS
    return Equilibrium(
        market,
        prices,
        allocation,
        money,
        status,
        tuple(certificates),
        sum(part.rounds for part in parts),
        type(system).__name__ if law != "fast" or not isinstance(state.signal, Path) else "CentralPath",
        parts[-1].bytes_per_round,
        (numbers, distances),
    )


def _best(normal: Normal, answers: list[tuple[Any, Any]], tol: float) -> tuple[list[Certificate], tuple]:
    """Return the certificates and the answer, in the market's units, of the first that holds; else of the best.

    Rounding may spoil the very last change; the state before it was measured by the law itself.
    """
    scored = []
    for answer in answers:
        restored = normal.restore(*map(np.asarray, answer))
        scored.append((certify(normal.market, *restored, tol=tol), restored))
        if all(certificate.holds for certificate in scored[-1][0]):
            break
    return min(scored, key=lambda score: max(c.value / c.tolerance for c in score[0]))


def _measure(state: State) -> jax.Array:
    signal = state.signal
    return jnp.maximum(signal.gap, signal.regret) if isinstance(signal, Path) else signal.error


def _law(normal: Normal, law: str, tol: float) -> tuple[AbstractSystem, State, tuple[Within | None, ...], Callable]:
    """Return the system, its first state, its measures of rest, to try in turn, and how to read its answers."""
    rho, near = normal.market.utility.rho, jnp.asarray(0.9 * tol)
    within, foreseen = Within(near, jnp.asarray(False)), Within(near, jnp.asarray(True))
    if law == "tatonnement":
        price = jnp.asarray(_first_price(normal))
        return Tatonnement(rho, 0.1), State(normal.buyers_state(), price), (None,), _price_takers(normal)
    if law == "proportional-response":
        bids = _first_bids(normal)
        state = State(normal.buyers_state(bids=bids), jnp.asarray(normal.add_up(_without_cash(normal, bids))))
        return ProportionalResponse(rho), state, (None,), _bidders(normal)
    if law != "fast":
        raise ValueError(f"{law!r} is no law of motion of a market: fast, tatonnement, proportional-response")
    if rho == 1:
        return central_path(money=normal.cash is not None), _first_traders(normal), (foreseen, within), _traders
    price = _first_price(normal)
    if rho == -np.inf:
        signal = Basket(jnp.asarray(price), jnp.full(normal.m, 0.5), jnp.asarray(jnp.inf))
        return Complements(), State(normal.buyers_state(), signal), (within,), _price_takers(normal)
    eta = rho / (1 - rho)
    signal = Trial.at(jnp.log(price), jnp.asarray(min(eta, 1.0)))
    return ElasticDemand(rho), State(normal.buyers_state(), signal), (within,), _price_takers(normal)


def first_state(normal: Normal, law: str) -> tuple[AbstractSystem, State]:
    """Return a law of motion and the state it begins in; call it under `jax.enable_x64(True)`.

    Args:
        normal: The market in the rules' units.
        law: As for `solve`.
    """
    return _law(normal, law, 1.0)[:2]


def _first_bids(normal: Normal) -> np.ndarray:
    worth = normal.value if normal.cash is None else np.column_stack([normal.value, normal.cash])
    return normal.budget[:, None] * worth / worth.sum(axis=1, keepdims=True)


def _without_cash(normal: Normal, table: np.ndarray) -> np.ndarray:
    return table if normal.cash is None else table[:, :-1]


def _earned(normal: Normal, bids: np.ndarray) -> np.ndarray:
    """Return the utility that each buyer gets from what its bids buy, good by good, and from money kept."""
    goods = _without_cash(normal, bids)
    earned = normal.value * goods
    earned /= normal.read(normal.add_up(goods))
    if normal.cash is not None:
        earned = np.column_stack([earned, normal.cash * bids[:, -1]])
    least = FAINT * earned.max(axis=1, keepdims=True)
    return np.maximum(earned, least, out=earned, where=bids > 0)


def _first_price(normal: Normal) -> np.ndarray:
    return normal.add_up(_without_cash(normal, _first_bids(normal)))


HEADSTART = 4
"""Rounds of proportional response before the central path: they cost little and save it a round or two."""

INSIDE = 0.9
"""How much of the largest rate that leaves every slack positive a trader begins with."""


WITHIN_DIGITS = 1 - 1e-6
"""The same where the path is taken up again: no slack smaller than what single precision can tell from none."""

FAINT = 1e-6
"""No good that a buyer values begins with a smaller part of the buyer's bids than about this."""


def _first_traders(normal: Normal) -> State:
    """Return traders well inside: every good sold, every slack positive."""
    bids = _first_bids(normal)
    for _ in range(HEADSTART):
        earned = _earned(normal, bids)
        bids = normal.budget[:, None] * earned / earned.sum(axis=1, keepdims=True)
    goods, earned = _without_cash(normal, bids), _earned(normal, bids)
    bundle = goods / normal.read(normal.add_up(goods))
    price = normal.add_up(_without_cash(normal, normal.budget[:, None] * earned / earned.sum(axis=1, keepdims=True)))
    if normal.cash is not None:
        bundle = np.column_stack([bundle, bids[:, -1]])
    return _traders_at(normal, price, bundle, np.full_like(normal.budget, np.inf), INSIDE)


def _traders_at(normal: Normal, price: np.ndarray, bundle: np.ndarray, rate: np.ndarray, inside: float) -> State:
    """Return traders with these bundles and rates, which are lowered where they would leave a slack too small.

    Args:
        normal: The market.
        price: p, shape (m,).
        bundle: x, shape (n, k), with money last if that has a worth.
        rate: β, shape (n,).
        inside: The most of the largest rate that leaves every slack positive.
    """
    worth, own = normal.value, normal.read(price)
    with np.errstate(divide="ignore"):
        most = np.min(own / worth, axis=1)
    if normal.cash is not None:
        most = np.minimum(most, 1 / normal.cash)
        worth = np.column_stack([worth, normal.cash])
        own = np.column_stack([np.broadcast_to(own, normal.value.shape), np.ones_like(most)])
    rate = np.minimum(rate, inside * most)
    close, none = np.where(worth > 0, 1 / (own - worth * rate[:, None]), 0.0), np.zeros_like(rate)
    private = {"bundle": bundle, "rate": rate, "close": close}
    private |= dict.fromkeys(("rate_step", "stiffness", "guessed", "missed", "centre"), none)
    entries = float(normal.budget @ ((normal.value > 0).sum(axis=1) + (normal.cash is not None)))
    return State(normal.buyers_state(Trader, **private), Path.at(jnp.asarray(price), entries))


SINGLE_FROM = 400_000
"""Tables with at least so many entries begin in single precision; below, compiling twice costs more than it saves."""

SINGLE_TO = 3e-4
"""The gap at which double precision takes over."""


def _opened(
    normal: Normal, system: AbstractSystem, state: State, rounds: int, engine: dict[str, Any]
) -> tuple[State, list[Settled]]:
    """Walk the central path in single precision to where its digits run out; return traders there, and the walk.

    A round in single precision costs half, and what it rounds away the first round after it puts right: Newton's
    method aims at markets that clear, whether or not they did. If nothing sound is found, start where it began.
    """
    single = jax.tree.map(lambda leaf: leaf.astype(np.float32) if leaf.dtype == np.float64 else leaf, state)
    with jax.enable_x64(False):
        within = Within(jnp.asarray(SINGLE_TO), jnp.asarray(False))
        opened = settle(system, single, max_rounds=rounds, distance=within, record=_measure, **engine)
        traders, signal = opened.state.agents, opened.signal
        whole = signal.price, _whole(traders, signal), traders.rate + signal.price_rate * traders.rate_step
    price, bundle, rate = (np.asarray(part, np.float64) for part in whole)
    # What single precision cannot hold underflows: a bundle without a good that its buyer values is on no path.
    inside = np.all((bundle > 0) == (np.asarray(state.agents.bundle) > 0)) and np.all(price > 0) and np.all(rate > 0)
    if not (inside and np.all(np.isfinite(bundle)) and opened.status != Status.NON_FINITE):
        return state, []
    there = _traders_at(normal, price, bundle, rate, WITHIN_DIGITS)
    return dataclasses.replace(there, round=opened.state.round), [opened]


def _traders(settled: Settled) -> list[tuple[Any, Any]]:
    """Return the answer with the last change carried out, and the one before it."""
    signal, traders = settled.signal, settled.state.agents
    before = signal.price - signal.price_rate * signal.change
    return [(signal.price, _whole(traders, signal)), (before, traders.bundle)]


_whole = jax.jit(jax.vmap(carried_out, in_axes=(0, None)))


def _bidders(normal: Normal) -> Callable:
    def finish(settled: Settled) -> list[tuple[Any, Any]]:
        bids, price = np.asarray(settled.state.agents.bids), np.asarray(settled.signal)
        bundle = _without_cash(normal, bids) / normal.read(price)
        return [(price, bundle if normal.cash is None else np.column_stack([bundle, bids[:, -1]]))]

    return finish


def _price_takers(normal: Normal) -> Callable:
    """Return what price-takers ask for at the price reached."""

    def finish(settled: Settled) -> list[tuple[Any, Any]]:
        signal = settled.signal
        if isinstance(signal, Trial):
            price = jnp.exp(signal.good)
        elif isinstance(signal, Basket):
            # Of price and leftover the smaller is zero at rest.
            price = jnp.where(signal.price < signal.unsold, 0.0, signal.price)
        else:
            price = signal
        rho = normal.market.utility.rho
        return [(price, jax.vmap(lambda buyer: best_bundle(buyer, price, rho))(settled.state.agents))]

    return finish
