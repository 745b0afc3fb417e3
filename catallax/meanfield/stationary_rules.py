"""A stationary game on the contract: kinds of players answer a density, and theirs at rest make up the next.

Agents: kinds of players, each a share of the crowd with its own objective
Signal: the density of the whole crowd, how exploitable the answers to it are, and how far it is from rest
Reads: the density
Emits: where its share of the crowd comes to rest when it acts by its policy, and what it could gain
Law of motion: mirror descent at a fixed or a self-set rate, or a damped fixed point
Conserves: the mass of the crowd
Rest: an equilibrium: a density at rest under a policy that nobody gains by leaving
Message size: states, and three numbers; never actions, never players
Source: Guo, Hu, Xu & Zhang 2019; Laurière et al. 2022; Pérolat et al. 2021

Values and densities are kept from round to round and improved by sweeps: one Bellman step for the value of the policy
and the best value together, one step of the density. A round makes as many as it takes, `sweeps` at most; with
`sweeps=1` values, densities and policies move side by side, each a step a round.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from ..core.message import Sum
from ..core.system import AbstractSystem
from .problem import AbstractMoves, added, greatest
from .rules import relative
from .stationary import LEAST_RANGE, AbstractStationaryGame

FORTH = 0.9
"""How much of the mass moves in a step of the density; the rest stays, so that chains with a period come to rest."""


class Standing(eqx.Module):
    """The signal.

    Args:
        density: The crowd's density.
        error: The exploitability of the last answers per reward range.
        drift: How far the kinds' densities were from rest, Σ_k share_k ‖μ_k − μ_k P_k‖₁.
    """

    density: Float[Array, " S"]
    error: Float[Array, ""]
    drift: Float[Array, ""]


class Settler(eqx.Module):
    """A kind of players.

    Args:
        share: Its part of the crowd.
        kind: What it is.
        logits: Of its policy.
        policy: Their softmax.
        mass: Its density, which it moves towards rest under its policy.
        values: What its policy and the best one are worth, as far as the sweeps have come.
        step: How its policy last changed, weighted by the mass that was there.
        gain: What that step was expected to earn.
        rate: How fast its logits grow, per unit of reward.
    """

    share: Float[Array, ""]
    kind: PyTree
    logits: Float[Array, "A S"]
    policy: Float[Array, "A S"]
    mass: Float[Array, " S"]
    values: Float[Array, "2 S"]
    step: Float[Array, "A S"]
    gain: Float[Array, ""]
    rate: Float[Array, ""]


class AbstractStationaryLaw(AbstractSystem):
    """What the laws share: the game without its kinds, the tolerance of sweeps, and how many a round may take."""

    game: eqx.AbstractVar[AbstractStationaryGame]
    tol: eqx.AbstractVar[Float[Array, ""]]
    sweeps: eqx.AbstractVar[int]

    def propagate(self, signal, total):
        del signal
        return Standing(total["mass"], relative(total), total["drift"])

    def faced(self, agent: Settler, density: Array) -> tuple[AbstractMoves, Array, Array]:
        """Return the moves, what each action earns, (A, S), and the reward range."""
        game = self.game
        reward = game.reward(density, agent.kind)
        reward = jnp.broadcast_to(reward, (game.states, game.actions)).T.astype(density.dtype)
        discount = jnp.asarray(game.discount, density.dtype)
        span = jnp.maximum(jnp.max(reward) - jnp.min(reward), LEAST_RANGE * jnp.max(jnp.abs(reward)))
        return game.moves(density), reward, span / (1 - discount)

    def valued(self, agent: Settler, moves: AbstractMoves, reward: Array, span: Array) -> tuple[Array, Array]:
        """Return the values of the policy and of the best one, and what actions are worth under the policy.

        Sweeps end when MacQueen's bounds say that no difference of values is wrong by more than a tenth of the
        tolerance; what all values have in common is then taken from the bounds' middle.

        Reference:
            Porteus (1971), Some bounds for discounted sequential decision processes; Puterman (1994), section 6.6.
        """
        discount = jnp.asarray(self.game.discount, reward.dtype)
        ahead = discount / (1 - discount)

        def sweep(values: Array) -> Array:
            action, top = reward[None] + discount * jax.vmap(moves.ahead)(values)
            return jnp.stack([added(agent.policy * action, 0), greatest(top, 0)])

        def close(values: Array, before: Array) -> Array:
            moved = values - before
            loose = ahead * jnp.max(jnp.max(moved, axis=1) - jnp.min(moved, axis=1))
            rounding = 8 * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
            return loose <= 0.1 * self.tol * span + rounding

        values, before = until(sweep, close, agent.values, self.sweeps)
        moved = values - before
        middle = (jnp.max(moved, axis=1) + jnp.min(moved, axis=1)) / 2
        values = values + ahead * middle[:, None]
        return values, reward + discount * moves.ahead(values[0])

    def settled(self, agent: Settler, moves: AbstractMoves, policy: Array) -> tuple[Array, Array]:
        """Return the kind's density at rest under a policy, and how far from rest it still was at most.

        What is left when the sweeps end is no more exact than they are asked to be.
        """
        chain = moves.under(policy.T)

        def sweep(mass: Array) -> Array:
            return mass + FORTH * (chain.carry(mass) - mass)

        def far(mass: Array, before: Array) -> Array:
            return jnp.sum(jnp.abs(mass - before)) / FORTH

        def close(mass: Array, before: Array) -> Array:
            return far(mass, before) <= 0.1 * self.tol + 4 * jnp.finfo(mass.dtype).eps

        mass, before = until(sweep, close, agent.mass, self.sweeps)
        return mass / jnp.sum(mass), jnp.maximum(far(mass, before), 0.1 * self.tol)

    def said(self, agent: Settler, mass: Array, drift: Array, gap: Array, span: Array) -> dict[str, Sum]:
        """Return a message: the kind's parts of the density, of the drift, the exploitability and the range."""
        share = agent.share
        return {
            "mass": Sum(share * mass),
            "drift": Sum(share * drift),
            "gap": Sum(share * gap),
            "reach": Sum(share * span),
        }


def until(
    sweep: Callable[[Array], Array], close: Callable[[Array, Array], Array], first: Array, most: int
) -> tuple[Array, Array]:
    """Sweep until two values in a row are close or as often as allowed; return the last two.

    Whether they are close is asked after every fourth sweep: the question costs as much as one.
    """
    stride = min(4, most)

    def going(carry: Any) -> Array:
        values, before, count = carry
        return (count < most) & ~close(values, before)

    def on(carry: Any) -> Any:
        values, before, count = carry
        for _ in range(stride):
            values, before = sweep(values), values
        return values, before, count + stride

    values, before, _ = lax.while_loop(going, on, on((first, first, jnp.int32(0))))
    return values, before


class StationaryDescent(AbstractStationaryLaw):
    """Mirror descent: each action's logit grows by what it is worth under the policy, times the rate.

    With a `growth` each kind sets its own rate, by what its last step was expected to earn and what it did, as
    `PacedDescent` does; without, the rate stays.

    Args:
        game: The game, without its kinds.
        tol: To what part of the reward range, and of the mass, a round's sweeps are exact.
        sweeps: How many sweeps a round takes at most.
        growth: The largest factor from one rate to the next; None for a fixed rate.

    Reference:
        Pérolat et al. (2021), algorithm 1, with Q of the discounted game; Barzilai & Borwein (1988), eq. 5.
    """

    game: AbstractStationaryGame
    tol: Float[Array, ""]
    sweeps: int = eqx.field(static=True, default=200)
    growth: float | None = eqx.field(static=True, default=1.2)

    def respond(self, agent, signal, key):
        del key
        moves, reward, span = self.faced(agent, signal.density)
        values, actions = self.valued(agent, moves, reward, span)
        gap = agent.mass @ (values[1] - values[0])
        rate = agent.rate if self.growth is None else agent.rate * self._pace(agent, actions, self.growth)
        logits = agent.logits + rate * actions
        logits = logits - greatest(logits, 0)[None]
        policy = jax.nn.softmax(logits, axis=0)
        step = agent.mass[None] * (policy - agent.policy)
        mass, drift = self.settled(agent, moves, policy)
        after = Settler(agent.share, agent.kind, logits, policy, mass, values, step, jnp.sum(step * actions), rate)
        return after, self.said(agent, mass, drift, gap, span)

    def _pace(self, agent: Settler, actions: Array, growth: float) -> Array:
        """Return the factor to the rate at which the last step would have brought its own gain to zero."""
        lost = agent.gain - jnp.sum(agent.step * actions)
        bent = (agent.gain > 0) & (lost > 0)
        factor = jnp.where(bent, agent.gain / jnp.where(bent, lost, 1.0), growth)
        return jnp.clip(jnp.where(agent.gain > 0, factor, 1.0), 0.2, growth)


class StationaryDamped(AbstractStationaryLaw):
    """Best responses to the density, which moves part of the way to the one at which they rest.

    Args:
        game: The game, without its kinds.
        tol: To what part of the reward range, and of the mass, a round's sweeps are exact.
        damping: Which part of the way, in (0, 1].
        temperature: Policies are the softmax of what actions are worth divided by it, in units of reward.
        sweeps: How many sweeps a round takes at most.
    """

    game: AbstractStationaryGame
    tol: Float[Array, ""]
    damping: Float[Array, ""]
    temperature: Float[Array, ""]
    sweeps: int = eqx.field(static=True, default=200)

    def respond(self, agent, signal, key):
        del key
        moves, reward, span = self.faced(agent, signal.density)
        values, _ = self.valued(agent, moves, reward, span)
        gap = agent.mass @ (values[1] - values[0])
        discount = jnp.asarray(self.game.discount, reward.dtype)
        actions = reward + discount * moves.ahead(values[1])
        policy = jax.nn.softmax(actions / self.temperature, axis=0)
        rest, _ = self.settled(agent, moves, policy)
        mass, drift = agent.mass + self.damping * (rest - agent.mass), jnp.sum(jnp.abs(rest - agent.mass))
        after = Settler(agent.share, agent.kind, agent.logits, policy, mass, values, agent.step, agent.gain, agent.rate)
        return after, self.said(agent, mass, drift, gap, span)
