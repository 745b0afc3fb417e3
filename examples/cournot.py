"""Cournot's oligopoly: firms that know that they move the price, and what it costs everyone.

n firms make one good at cost c per unit; q units in all sell at price a - b q. Each firm reads what all firms
make together, takes off its own output, and moves part of the way to its best answer to the rest. With one
number as the signal, this is a game that does compress.

At rest each makes (a - c) / (b (n + 1)), and welfare falls short of the best possible by 1 / (n + 1)².

Sources: Cournot (1838), Recherches sur les principes mathématiques de la théorie des richesses, chapter 7;
Theocharis (1960), On the stability of the Cournot solution on the oligopoly problem, for why to move part of
the way.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from catallax import AbstractSystem, State, Sum, settle


class Firm(eqx.Module):
    """A firm: what it makes."""

    output: Float[Array, "*n"]


class Market(eqx.Module):
    """The signal: what all firms make together, how many they are, and how much they still move.

    The total rests long before its parts do; without the last entry, rest would be declared too soon.
    """

    output: Float[Array, ""]
    firms: Float[Array, ""]
    unrest: Float[Array, ""]


class Cournot(AbstractSystem):
    """Best answers, damped by 2 / (n + 1): undamped, four firms or more overshoot further every round.

    Args:
        a: The price at which nothing is sold.
        b: How much a unit on the market lowers the price.
        c: The cost of a unit.
    """

    a: float = 10.0
    b: float = 1.0
    c: float = 1.0

    def respond(self, agent, signal, key):
        del key
        rest = signal.output - agent.output
        best = jnp.maximum((self.a - self.c) / self.b - rest, 0.0) / 2
        move = 2 / (signal.firms + 1) * (best - agent.output)
        output = agent.output + move
        return Firm(output), Sum(Market(output, jnp.ones_like(output), jnp.abs(move)))

    def propagate(self, signal, total):
        del signal
        return total

    def welfare(self, output: float) -> float:
        """Return what consumers and firms gain together from so much output."""
        return (self.a - self.c) * output - self.b * output**2 / 2


def begin(first: Array) -> State:
    """Return the state in which the firms begin with these outputs, shape (n,)."""
    firms, unrest = jnp.asarray(first.size, first.dtype), jnp.asarray(jnp.inf, first.dtype)
    return State(Firm(first), Market(jnp.sum(first), firms, unrest))


if __name__ == "__main__":
    system = Cournot()
    best = system.welfare((system.a - system.c) / system.b)
    print("firms  output of each  by the formula  welfare / best  1 - 1/(n+1)²")
    for n in (1, 2, 4, 8):
        ended = settle(system, begin(jnp.linspace(0.0, 1.0, n)), rtol=1e-7, atol=1e-7, throw=True)
        each = float(ended.state.agents.output[0])
        formula = (system.a - system.c) / (system.b * (n + 1))
        share = system.welfare(n * each) / best
        print(f"{n:5}  {each:14.5f}  {formula:14.5f}  {share:14.5f}  {1 - 1 / (n + 1) ** 2:12.5f}")
