"""Agents hand random parts of their money to a pot and draw random claims on it.

Agents: holders of money, all alike
Signal: the pot, and what one unit of claim on it is worth
Reads: what a unit of claim is worth
Emits: what it gives, and how much it will claim
Law of motion: the pot is what was given; a unit of claim is worth the pot divided by all claims
Conserves: money: what is held plus the pot
Rest: none for an agent; the distribution of wealth rests at the exponential law of Boltzmann and Gibbs
Message size: two numbers
Source: Dragulescu & Yakovenko 2000 for pairs of agents; here every agent meets the pot, a mean field

In Dragulescu & Yakovenko's model two agents pool their money and one takes a random part of it. Nobody here
sees another agent, so the pool is everyone's, and the exponential law carries over exactly. An agent keeps a
part of its purse with law Beta(1/2, 1/2) and claims with law Gamma(1/2). If wealth is spread uniformly over
all ways to divide the total (Dirichlet with parameters 1), then the parts kept and given are Dirichlet with
parameters 1/2; claims on the pot replace the parts given by an independent draw of the same law; and sums of
pairs are Dirichlet with parameters 1 again. So the uniform law is stationary for any number of agents, and
one agent's wealth is exponential in the limit of many.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..core.message import Sum
from ..core.system import AbstractSystem, State


class Holder(eqx.Module):
    """An agent: the money it kept in the last round, and its claim on the pot in units of its own."""

    money: Float[Array, "*n"]
    claim: Float[Array, "*n"]


class Pot(eqx.Module):
    """The signal: the money in the pot, and what one unit of claim on it is worth."""

    money: Float[Array, ""]
    worth: Float[Array, ""]


class Exchange(AbstractSystem):
    """Everyone gives at random and receives at random; without parameters."""

    def respond(self, agent, signal, key):
        kept, claimed = jax.random.split(key)
        purse = wealth(agent, signal)
        # The arcsine law is Beta(1/2, 1/2), and a squared normal draw Gamma(1/2) up to scale.
        money = purse * jnp.sin(jnp.pi / 2 * jax.random.uniform(kept, dtype=purse.dtype)) ** 2
        claim = jax.random.normal(claimed, dtype=purse.dtype) ** 2
        return Holder(money, claim), {"given": Sum(purse - money), "claims": Sum(claim)}

    def propagate(self, signal, total):
        del signal
        return Pot(total["given"], total["given"] / total["claims"])


def wealth(agent: Holder, signal: Pot) -> Float[Array, "*n"]:
    """Return what an agent owns, or every agent: its money and its part of the pot."""
    return agent.money + agent.claim * signal.worth


def total_money(state: State) -> Float[Array, ""]:
    """Return all money, held and in the pot; no round changes it."""
    return jnp.sum(state.agents.money) + state.signal.money


def start(money: Float[Array, " n"]) -> State:
    """Return the state in which everyone holds the given money and the pot is empty."""
    nothing = jnp.zeros((), money.dtype)
    return State(Holder(money, jnp.zeros_like(money)), Pot(nothing, nothing))
