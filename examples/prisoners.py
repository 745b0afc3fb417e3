"""The Prisoner's dilemma: two agents who see everything, and the rest they come to that neither wants.

Each agent reads both choices and answers with the better reply to the other's. The signal is the whole table
of choices, so a message must say whose it is; compare the markets, where a price is enough.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from catallax import AbstractSystem, Outer, State, settle

YEARS = np.array([[1.0, 10.0], [0.0, 5.0]])
"""Years in prison, by own choice (row) and the other's (column): 0 is silence, 1 is betrayal."""


class Prisoner(eqx.Module):
    """One of two: its number, 0 or 1."""

    number: Int[Array, ""]


class Dilemma(AbstractSystem):
    """Best replies; a choice is the probability of betrayal."""

    years: Float[Array, "2 2"]

    def respond(self, agent, signal, key):
        del key
        other = signal[1 - agent.number, 0]
        silent, betray = self.years @ jnp.stack([1 - other, other])
        choice = (betray < silent).astype(signal.dtype)
        mine = jnp.arange(2, dtype=jnp.int32) == agent.number
        return agent, Outer(mine.astype(signal.dtype), choice[None])

    def propagate(self, signal, total):
        del signal
        return total


def years_served(choices: np.ndarray) -> np.ndarray:
    """Return each prisoner's expected years when betrayal has these probabilities, shape (2,)."""
    mixed = np.column_stack([1 - choices, choices])
    return np.array([mixed[0] @ YEARS @ mixed[1], mixed[1] @ YEARS @ mixed[0]])


def rest(first: tuple[float, float]) -> np.ndarray:
    """Return the choices at which two prisoners who begin with `first` come to rest."""
    state = State(Prisoner(jnp.arange(2, dtype=jnp.int32)), jnp.array(first, jnp.float32)[:, None])
    return np.asarray(settle(Dilemma(jnp.asarray(YEARS, jnp.float32)), state, throw=True).signal)[:, 0]


if __name__ == "__main__":
    choices = rest((0.0, 0.0))
    print(f"both begin silent, and both end in betrayal: {choices}")
    print(f"years at rest: {years_served(choices)}")
    print(f"years if both had stayed silent: {years_served(np.zeros(2))}")
