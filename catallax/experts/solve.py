"""The answer: experts for every token, exactly within capacity, with prices and a proof of how good it is."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from ..certificate import Certificate
from ..core.result import Status
from ..core.run import Progress
from ..core.settle import settle
from .certify import certify
from .clear import assign, reserves
from .problem import Routing
from .rules import Quotation, first_state

STEPS = 12
"""Passes of the search for prices: to 36 bits of their range, in double precision."""


@dataclasses.dataclass(frozen=True, eq=False)
class Placement:
    """Who serves whom.

    Args:
        problem: The question.
        chosen: Each token's experts, shape (tokens, active).
        price: The experts' prices, shape (experts,), in the unit of the affinities; the least is 0.
        reserve: What a place must be worth to each token above its price, shape (tokens,).
        demand: How many tokens asked for each expert at the prices, before the repair, shape (experts,).
        status: `SETTLED` only if every certificate holds.
        certificates: The independent checks.
        sweeps: How many times prices were set.
        bytes_per_round: What one device exchanges in a round.
    """

    problem: Routing
    chosen: np.ndarray
    price: np.ndarray
    reserve: np.ndarray
    demand: np.ndarray
    status: Status
    certificates: tuple[Certificate, ...]
    sweeps: int
    bytes_per_round: int

    @property
    def load(self) -> np.ndarray:
        """How many tokens each expert serves, shape (experts,)."""
        return np.bincount(self.chosen.ravel(), minlength=self.problem.experts)


class Moved(eqx.Module):
    """How far a sweep moved the prices, in units of the tolerance; infinite within a sweep."""

    least: Array

    def __call__(self, before: Quotation, after: Quotation) -> Array:
        moved = jnp.max(jnp.abs(after.price - before.price)) / self.least
        return jnp.where(after.step == 0, moved, jnp.inf)


def assign_experts(
    affinity: Any,
    active: int,
    capacity: int | None = None,
    *,
    tol: float = 1e-3,
    max_sweeps: int = 200,
    price: Any = None,
    mesh: Mesh | None = None,
    watch: Callable[[Progress], Any] | None = None,
) -> Placement:
    """Find the experts that serve each token best, with none above its capacity.

    With as many places as are needed, or few more, the optimum; where many are to spare, near it: idle tokens are all
    alike, and alternating quantiles may rest where a price can move only together with theirs. The gap says how near.

    Args:
        affinity: How well each expert suits each token, shape (tokens, experts).
        active: k, how many different experts serve a token.
        capacity: c, places per expert; k·tokens/experts, rounded up, by default.
        tol: The gap to reach, in the unit that `certify` states. Prices come to rest at a thousandth of it.
        max_sweeps: When to give up.
        price: Where prices start; at zero by default.
        mesh: Devices to spread the tokens over.
        watch: Called between chunks of rounds with a `Progress`.

    Raises:
        InputError: for affinities, experts or places that make no problem.
    """
    problem = Routing(affinity, active, capacity)
    with jax.enable_x64(True):
        table = problem.affinity.astype(np.float64)
        system, state = first_state(table, problem.active, problem.capacity, price, steps=STEPS)
        scale = max(float(np.ptp(table, axis=1).mean()), np.finfo(np.float64).tiny)
        settled = settle(
            system,
            state,
            max_rounds=max_sweeps * (STEPS + 1),
            distance=Moved(jnp.asarray(tol / 1000 * scale)),
            mesh=mesh,
            watch=watch,
        )
        # What a stopped or interrupted sweep left half done is not in the prices.
        found = jnp.asarray(np.asarray(settled.signal.price))
        placed = assign(jnp.asarray(table), found, problem.active, problem.capacity)
        reserve = np.asarray(reserves(jnp.asarray(table.T) - found[:, None], problem.active))
    chosen, final = np.asarray(placed.chosen), np.asarray(found)
    checks = certify(problem, chosen, final, tol)
    status = Status(settled.status)
    if all(check.holds for check in checks):
        status = Status.SETTLED
    elif status == Status.SETTLED:
        status = Status.OUT_OF_ROUNDS
    sweeps = -(-int(settled.rounds) // (STEPS + 1))
    demand = np.asarray(placed.load)
    return Placement(problem, chosen, final, reserve, demand, status, tuple(checks), sweeps, settled.bytes_per_round)
