"""The trading-post game: buyers who read every bid and know that their own bid moves the price.

Agents: buyers, each with a budget and its own valuations
Signal: the whole table of bids, one row per buyer
Reads: every bid of every buyer
Emits: its own row of the table, and whose row it is
Law of motion: the next table is the rows emitted
Conserves: spending equals budgets
Rest: a Nash equilibrium: no buyer gains by bidding otherwise while the others stay
Message size: buyers × goods; it grows with the number of buyers, because full information does not compress
Source: Shapley & Shubik 1977; Feldman, Lai & Zhang 2009; Brânzei, Gkatzelis & Mehta 2016

This is the market with the compression taken away, to measure what it costs and what it is worth. Two things
to know. First, the answer is a rest of simultaneous play, in which each buyer knows the others' bids but not
their valuations. Second, posts add bids up, so that this one game could be played on the m sums and one's own
bids alone; a game in which it matters who bid what could not. What is counted is what full information hands
out.

A good that only one buyer values has no equilibrium bid: the least bid buys all of it, and half of that does
as well. Such a good goes to that buyer at price zero, the limit; see `nash.posts`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..certificate import Certificate
from ..core.message import Outer
from ..core.result import Status
from ..core.run import Progress, run
from ..core.system import AbstractSystem, State
from ..errors import InputError
from .nash import certify_nash, posts, require_linear, sole
from .problem import Market
from .solve import Equilibrium, solve
from .welfare import nash_welfare, replicas, utilitarian_welfare

MOST_BYTES = 10**9
"""Buyers × buyers × 8 bytes, and buyers × goods × 8 bytes, beyond which full information is refused."""

BETWEEN_CHECKS = 250
"""Rounds between two looks at the certificate."""


class Bidder(eqx.Module):
    """One buyer at the trading posts.

    Args:
        number: Which row of the table is its own.
        worth: What all supply of each good is worth to it; zero where it does not bid.
        budget: Its money.
    """

    number: Int[Array, ""]
    worth: Float[Array, " m"]
    budget: Float[Array, ""]


class TradingPosts(AbstractSystem):
    """Everybody reads every bid and moves its own towards where a unit of money gains most.

    b ← B normalise(b·(w (1 − share) / p)^γ), where w (1 − share) / p is what a little more money on a post
    would gain: proportional response with one more factor. γ = 2 − the largest share that anybody holds of
    any post: 1 where one buyer dominates, which is the rule that always came to rest, and towards 2 in large
    markets, where it comes to rest in half as many rounds. A buyer with nothing to gain anywhere leaves its
    bids alone.

    Reference:
        Zhang (2011), Proportional response dynamics in the Fisher market, eq. 1, with the marginal utility of
        the trading post in place of the average.
    """

    def respond(self, agent, signal, key):
        del key
        n = signal.shape[0]
        money, against = jnp.sum(signal, axis=0), others_of(signal)
        own, rest = signal[agent.number], against[agent.number]
        largest = jnp.max(jnp.max(signal, axis=0) / jnp.where(money > 0, money, 1.0))
        counts = (own > 0) & (agent.worth > 0) & (rest > 0)

        def log(x: Array) -> Array:
            return jnp.log(jnp.where(counts, x, 1.0))

        # In logarithms, so that the smallest bids neither vanish nor divide by zero.
        gain = log(agent.worth) + log(rest) - 2 * log(money)
        weight = jnp.where(counts, log(own) + (2.0 - largest) * gain, -jnp.inf)
        most = jnp.max(weight)
        weight = jnp.exp(weight - jnp.where(jnp.isfinite(most), most, 0.0))
        total = jnp.sum(weight)
        bids = jnp.where(total > 0, agent.budget * weight / jnp.where(total > 0, total, 1.0), own)
        return agent, Outer((jnp.arange(n, dtype=jnp.int32) == agent.number).astype(bids.dtype), bids)

    def propagate(self, signal, total):
        del signal
        return total


def others_of(table: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """Return the sum of all other rows, for each row, without subtracting a row from the total."""
    none = jnp.zeros_like(table[:1])
    before = jnp.concatenate([none, jnp.cumsum(table[:-1], axis=0)])
    after = jnp.concatenate([jnp.cumsum(table[:0:-1], axis=0)[::-1], none])
    return before + after


@dataclasses.dataclass(frozen=True, eq=False)
class StrategicEquilibrium:
    """A Nash equilibrium of the trading-post game.

    Args:
        market: The question.
        bids: What each buyer spends on each good, shape (n, m).
        prices: Money per unit of each good, shape (m,).
        allocation: What each buyer gets, shape (n, m).
        status: `SETTLED` only if every certificate holds.
        certificates: The independent checks, by exact best responses.
        rounds: How many rounds it took.
        bytes_read_per_round: What each buyer reads in a round: n × m bids of 8 bytes.
        history: Rounds, and the largest regret after each.
    """

    market: Market
    bids: np.ndarray
    prices: np.ndarray
    allocation: np.ndarray
    status: Status
    certificates: tuple[Certificate, ...]
    rounds: int
    bytes_read_per_round: int
    history: tuple[np.ndarray, np.ndarray]

    @property
    def utilities(self) -> np.ndarray:
        """What each buyer's bundle is worth to it, shape (n,)."""
        return self.market.utility.of(self.market.valuations, self.allocation)


def first_state(market: Market) -> State:
    """Return the state in which everybody bids in proportion to worth; call it with 64-bit floats on.

    A good that its buyer would have for nothing gets no bid, unless the buyer wants no other.

    Raises:
        InputError: if utility is not linear, or the table would not fit into memory.
    """
    require_linear(market)
    n, m = market.n, market.m
    size = 8 * n * max(n, m)
    if size > MOST_BYTES:
        raise InputError(
            f"with full information each of {n} buyers reads {n} x {m} bids and says which row is its own: "
            f"{size / 1e9:.1f} GB, and at most {MOST_BYTES / 1e9:.0f} GB is allowed; strategic "
            "behaviour is for fewer buyers, price-taking behaviour for many"
        )
    worth, free = market.dense() * market.supply, sole(market)
    contested = np.where(free, 0.0, worth)
    worth = np.where(contested.any(axis=1, keepdims=True), contested, worth)
    bids = market.budgets[:, None] * worth / worth.sum(axis=1, keepdims=True)
    agents = Bidder(jnp.arange(n, dtype=jnp.int32), jnp.asarray(worth), jnp.asarray(market.budgets))
    return State(agents, jnp.asarray(bids))


def solve_strategic(
    market: Market,
    *,
    tol: float = 1e-8,
    max_rounds: int = 100_000,
    watch: Callable[[Progress], Any] | None = None,
) -> StrategicEquilibrium:
    """Find a Nash equilibrium of the trading-post game.

    Args:
        market: The question; linear utility.
        tol: The largest share of its best response that any buyer may miss.
        max_rounds: When to give up.
        watch: Called between chunks with a `Progress`.

    Returns:
        The answer with its certificates; its status is `SETTLED` only if all of them hold.

    Raises:
        InputError: for other utilities, and for more buyers than full information allows.
    """
    seen: list[tuple[int, float]] = []
    with jax.enable_x64(True):
        system, state, key = TradingPosts(), first_state(market), jax.random.key(0)
        while True:
            bids = np.asarray(state.signal)
            prices, allocation = posts(market, bids)
            certificates = certify_nash(market, bids, allocation, tol=tol)
            rounds = int(state.round)
            seen.append((rounds, certificates[0].value))
            if all(certificate.holds for certificate in certificates):
                status = Status.SETTLED
                break
            if rounds >= max_rounds:
                status = Status.OUT_OF_ROUNDS
                break
            ran = run(system, state, min(BETWEEN_CHECKS, max_rounds - rounds), key=key, watch=watch)
            state, status = ran.state, ran.status
            if status != Status.FINISHED:
                break
    history = np.array([at for at, _ in seen]), np.array([regret for _, regret in seen])
    read = 8 * market.n * market.m
    return StrategicEquilibrium(market, bids, prices, allocation, status, tuple(certificates), rounds, read, history)


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """What full information and strategic behaviour change, beside price-taking.

    Args:
        nash_welfare: Competitive and strategic; budget-weighted geometric mean of relative utilities.
        nash_ratio: Competitive over strategic; at least 1 up to the certificates' tolerance.
        utilitarian_welfare: Competitive and strategic; mean of relative utilities, each a share of what the
            buyer would have if it owned all supply. Either may be the larger.
        price_difference: (strategic − competitive) / competitive price of each good, shape (m,); zero where
            both prices are zero, infinite where only the competitive one is.
        utility_ratio: Strategic over competitive utility of each buyer with money, NaN without, shape (n,).
        losers: How many buyers have less as strategists, by more than `threshold`.
        gainers: How many have more.
        largest_loss: The loser who loses the largest share of utility, and that share; None without losers.
        largest_gain: The same for gains.
        bytes_read: What each agent reads per round: m prices, and n × m bids.
        threshold: The relative change of utility that counts as one.
        settled: Whether both answers are certified; if not, the figures are of no use.
    """

    nash_welfare: tuple[float, float]
    nash_ratio: float
    utilitarian_welfare: tuple[float, float]
    price_difference: np.ndarray
    utility_ratio: np.ndarray
    losers: int
    gainers: int
    largest_loss: tuple[str, float] | None
    largest_gain: tuple[str, float] | None
    bytes_read: tuple[int, int]
    threshold: float
    settled: bool


def compare(
    market: Market, competitive: Equilibrium, strategic: StrategicEquilibrium, *, threshold: float = 1e-5
) -> Comparison:
    """Set the Nash equilibrium of the trading posts beside the price-taking equilibrium of the same market.

    Args:
        market: The question.
        competitive: Its answer by `solve`.
        strategic: Its answer by `solve_strategic`.
        threshold: The relative change of utility that counts as gain or loss; above both tolerances.
    """
    answers = competitive.allocation, strategic.allocation
    social = nash_welfare(market, answers[0]), nash_welfare(market, answers[1])
    mean = utilitarian_welfare(market, answers[0]), utilitarian_welfare(market, answers[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.where(strategic.prices == competitive.prices, 0.0, strategic.prices / competitive.prices - 1)
        ratio = np.where(market.budgets > 0, strategic.utilities / competitive.utilities, np.nan)
    least, most = int(np.nanargmin(ratio)), int(np.nanargmax(ratio))
    losers, gainers = int(np.sum(ratio < 1 - threshold)), int(np.sum(ratio > 1 + threshold))
    return Comparison(
        nash_welfare=social,
        nash_ratio=social[0] / social[1],
        utilitarian_welfare=mean,
        price_difference=change,
        utility_ratio=ratio,
        losers=losers,
        gainers=gainers,
        largest_loss=(market.buyers[least], float(1 - ratio[least])) if losers else None,
        largest_gain=(market.buyers[most], float(ratio[most] - 1)) if gainers else None,
        bytes_read=(8 * market.m, strategic.bytes_read_per_round),
        threshold=threshold,
        settled=competitive.status == strategic.status == Status.SETTLED,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class ReplicaLaw:
    """How strategic behaviour loses its effect as buyers become many and small.

    Args:
        ks: Numbers of replicas.
        welfare_excess: Competitive over strategic Nash social welfare, less one, for each k.
        price_difference: The largest relative difference of a price, for each k.
        welfare_slope: Fitted slope of log welfare_excess over log k; −2 in the limit.
        price_slope: Fitted slope of log price_difference over log k; −1 in the limit.
        settled: Whether all equilibria were certified.
    """

    ks: np.ndarray
    welfare_excess: np.ndarray
    price_difference: np.ndarray
    welfare_slope: float
    price_slope: float
    settled: bool


def replica_law(market: Market, ks: tuple[int, ...] = (1, 2, 4, 8), *, tol: float = 1e-10) -> ReplicaLaw:
    """Measure how far the Nash equilibrium is from the competitive one with k replicas of each buyer.

    The competitive equilibrium of replicas is that of the market itself, with k copies of each bundle, and is
    computed once.

    Args:
        market: The question; linear utility.
        ks: Two or more different numbers of replicas; the law holds in the limit, so leave out small ones to
            see it.
        tol: The tolerance of all equilibria; well below the square of 1/k.

    Raises:
        InputError: for fewer than two different ks, and as `solve_strategic`.
    """
    if len(set(ks)) < 2:
        raise InputError(f"a slope needs two different numbers of replicas; got {tuple(ks)}")
    competitive = solve(market, tol=tol)
    held = competitive.allocation
    held = held.toarray() if hasattr(held, "toarray") else np.asarray(held)
    settled, excess, difference = competitive.status == Status.SETTLED, [], []
    for k in ks:
        many = replicas(market, k)
        strategic = solve_strategic(many, tol=tol)
        settled &= strategic.status == Status.SETTLED
        best = nash_welfare(many, np.tile(held, (k, 1)))
        excess.append(best / nash_welfare(many, strategic.allocation) - 1)
        priced = competitive.prices > 0
        difference.append(float(np.max(np.abs(strategic.prices[priced] / competitive.prices[priced] - 1))))
    logs = np.log(np.asarray(ks, float))
    return ReplicaLaw(
        ks=np.asarray(ks),
        welfare_excess=np.array(excess),
        price_difference=np.array(difference),
        welfare_slope=float(np.polyfit(logs, np.log(excess), 1)[0]),
        price_slope=float(np.polyfit(logs, np.log(difference), 1)[0]),
        settled=settled,
    )
