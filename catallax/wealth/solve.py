"""The answer: run the exchange, and say who owns how much."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..core.mesh import mesh
from ..core.run import Progress, Run, run
from ..core.system import State
from .problem import Economy
from .rules import Exchange, start, wealth


def begin(economy: Economy) -> State:
    """Return the state in which everyone holds the same."""
    return start(jnp.full(economy.agents, economy.money))


def owned(state: State) -> np.ndarray:
    """Return what each agent owns, shape (agents,), float64."""
    return np.asarray(wealth(state.agents, state.signal), np.float64)


def spread(state: State) -> jax.Array:
    """Return the standard deviation of wealth over its mean: 0 if all own the same, 1 at rest."""
    now = wealth(state.agents, state.signal)
    return jnp.std(now) / jnp.mean(now)


def solve(
    state: State,
    *,
    rounds: int = 500,
    seed: int = 0,
    devices: int = 1,
    watch: Callable[[Progress], Any] | None = None,
) -> Run:
    """Run from a state (`begin(economy)`, or one that a run left) to round `rounds`, recording the spread."""
    places = mesh(devices) if devices > 1 else None
    further = max(0, rounds - int(state.round))
    return run(Exchange(), state, further, key=jax.random.key(seed), record=spread, mesh=places, watch=watch)
