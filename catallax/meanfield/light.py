"""Mirror descent with momentum in little memory, for games in which an action earns nothing but where it leads.

Where rewards are the same for all actions and neither time nor density changes the moves, what actions are worth
differs by the values of where they lead alone, and that is linear in the values. So the logits that mirror descent
adds up round by round are one look ahead at the *sum of values*: (T + 1, S) numbers stand for (T, A, S). With so
little to hold there is room for momentum, which takes half the rounds or fewer, and a round moves a fifth of the bytes.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float16, PyTree

from ..core.system import AbstractSystem, State
from .lean import mean, row, weighed
from .passes import ended, moving, reward_range, steady, times
from .problem import AbstractGame, AbstractMoves, greatest
from .rules import Crowd, even_flow, measured, public, said

OLDER = 3.0
"""After n rounds without an overshot momentum is n / (n + 3): that of Nesterov's method (Su, Boyd & Candès 2016)."""

LEAST = 0.3
"""The smallest factor from one rate to the next."""


class Gatherer(eqx.Module):
    """A kind of players that gathers values.

    Args:
        share: What part of the crowd it is.
        kind: What tells it from others.
        base: The logits that it began with, in half precision; None for even ones.
        summed: Its values times its rates, summed over rounds and carried on by momentum; its policy follows from it.
        last: The same before momentum.
        passed: Its own flow under its policy.
        before: Its own flow under the policy before its last step.
        gain: What that step was to earn in the crowd that it answered.
        rate: How fast its logits grow, per unit of reward.
        streak: For how many rounds momentum has grown.
    """

    share: Float[Array, ""]
    kind: PyTree
    base: Float16[Array, "T A S"] | None
    summed: Float[Array, "T1 S"]
    last: Float[Array, "T1 S"]
    passed: Float[Array, "T1 S"]
    before: Float[Array, "T1 S"]
    gain: Float[Array, ""]
    rate: Float[Array, ""]
    streak: Float[Array, ""]


class LightDescent(AbstractSystem):
    """Online mirror descent with Nesterov's momentum, begun anew whenever a step overshot.

    A step moved the flow by m′ − m. It overshot if in the new crowd that loses: ⟨m′ − m, r(μ′)⟩ < 0. Momentum then
    begins anew, and the rate falls by the factor at which, by what it earned in the old crowd, the step would have
    ended where nothing more is to be earned; otherwise the rate grows a little. Exploitability is measured in every
    round.

    Args:
        game: The game, without its kinds (`public`); see `suits`.
        tol: A kind that could gain no more than this per reward range stays as it is.
        growth: The factor from one rate to the next while no step overshoots.

    Reference:
        Pérolat et al. (2021), algorithm 1; Nesterov (1983) for momentum, here that of the dual variables; O'Donoghue
        & Candès (2015), Adaptive restart for accelerated gradient schemes, eq. 13.
    """

    game: AbstractGame
    tol: Float[Array, ""]
    growth: float = eqx.field(static=True, default=1.02)

    def respond(self, agent, signal, key):
        del key
        values, kept, gap, span = self.look(agent, signal.density)
        rate, streak = paced(agent, kept, self.growth)
        stays = gap <= self.tol * span
        last = agent.summed + jnp.where(stays, jnp.zeros_like(rate), rate) * values
        momentum = jnp.where(stays, jnp.zeros_like(rate), streak / (streak + OLDER))
        summed = last + momentum * (last - agent.last)
        flow, gain = self.walk(agent, summed, signal.density)
        after = Gatherer(agent.share, agent.kind, agent.base, summed, last, flow, agent.passed, gain, rate, streak + 1)
        return after, said(agent, flow, gap, span)

    def propagate(self, signal, total):
        return measured(signal, total, 1)

    def leaning(self, moves: AbstractMoves, agent: Gatherer, summed: Float[Array, "T1 S"], time: Array) -> list[Array]:
        """Return the logits of a time, for each action by state."""
        rows = list(moves.ahead(jnp.asarray(self.game.discount, summed.dtype) * row(summed, time + 1)))
        if agent.base is None:
            return rows
        # Action by action: all at once they would not fuse with what is made of them.
        return [one + agent.base[time, action].astype(one.dtype) for action, one in enumerate(rows)]

    def look(self, agent: Gatherer, density: Float[Array, "T1 S"]) -> tuple[Array, Array, Array, Array]:
        """Look back through time: what the policy is worth, and the last step now; the gap, the reward range."""
        game, moves = self.game, constant(self.game, density)
        discount = jnp.asarray(game.discount, density.dtype)

        def back(carry: tuple, time: Array) -> tuple[tuple, Array]:
            value, top, kept, least, most = carry
            reward = paid(game, time, row(density, time), agent.kind)
            weights = weighed(self.leaning(moves, agent, agent.summed, time))
            value = reward + discount * mean(weights, list(moves.ahead(value)))[0]
            top = reward + discount * greatest(moves.ahead(top), 0)
            kept = (row(agent.passed, time) - row(agent.before, time)) @ reward + discount * kept
            return (value, top, kept, jnp.minimum(least, jnp.min(reward)), jnp.maximum(most, jnp.max(reward))), value

        final = ended(game, density[-1], agent.kind)
        far = jnp.full_like(agent.gain, jnp.inf)
        carry = final, final, (agent.passed[-1] - agent.before[-1]) @ final, far, -far
        (first, top, kept, least, most), values = lax.scan(back, carry, times(game), reverse=True)
        span = reward_range(game, most - least, final)
        return jnp.concatenate([values, final[None]]), kept, density[0] @ (top - first), span

    def walk(self, agent: Gatherer, summed: Float[Array, "T1 S"], density: Float[Array, "T1 S"]) -> tuple[Array, Array]:
        """Walk forward through time: the flow that summed values lead to, and what it earns beside the last one."""
        game, moves = self.game, constant(self.game, density)
        discount = jnp.asarray(game.discount, density.dtype)

        def on(carry: tuple, time: Array) -> tuple[tuple, Array]:
            mass, gain, weight = carry
            reward = paid(game, time, row(density, time), agent.kind)
            gain = gain + weight * ((mass - row(agent.passed, time)) @ reward)
            weights = weighed(self.leaning(moves, agent, summed, time))
            total = sum(weights)
            mass = moves.carry(jnp.stack([chance * (mass / total) for chance in weights]).T)
            return (mass, gain, discount * weight), mass

        start = density[0], jnp.zeros_like(agent.gain), jnp.ones_like(agent.gain)
        (mass, gain, weight), after = lax.scan(on, start, times(game))
        gain = gain + weight * ((mass - agent.passed[-1]) @ ended(game, density[-1], agent.kind))
        return jnp.concatenate([density[:1], after]), gain

    @eqx.filter_jit
    def logits(self, agent: Gatherer, time: Array) -> Float[Array, "A S"]:
        """Return the logits of one kind at one time."""
        moves = constant(self.game, agent.passed)
        return jnp.stack(self.leaning(moves, agent, agent.summed, time))


def paced(agent: Gatherer, kept: Float[Array, ""], growth: float) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the rate at which a kind goes on, and how long momentum has grown, given what its last step is worth."""
    gained = agent.gain > 0
    factor = jnp.where(gained, agent.gain / jnp.where(gained, agent.gain - kept, 1.0), 1.0)
    overshot = kept < 0
    factor = jnp.where(overshot, jnp.maximum(factor, LEAST), growth)
    return factor * agent.rate, jnp.where(overshot, jnp.zeros_like(agent.streak), agent.streak)


def constant(game: AbstractGame, flow: Float[Array, "T1 S"]) -> AbstractMoves:
    """Return the moves of a game whose moves are the same at all times and densities."""
    return moving(game, flow)(jnp.int32(0), flow[0])


def paid(game: AbstractGame, time: Array, density: Float[Array, " S"], kind: Any) -> Float[Array, " S"]:
    """Return what every action earns in each state at a time."""
    return jnp.broadcast_to(game.reward(time, density, kind), (game.states, game.actions))[:, 0].astype(density.dtype)


def light_state(
    game: AbstractGame, tol: Array, rate: Any, base: Float[Array, "n T A S"] | None
) -> tuple[LightDescent, State]:
    """Return the light law and the state it begins in; `base` are the logits to begin with.

    Raises:
        ValueError: if the law does not suit the game.
    """
    if not suits(game):
        raise ValueError(
            f"'light' is for rewards that are the same for all actions and moves that nothing changes, and "
            f"{type(game).__name__} is not written as such; 'lean' takes any game"
        )
    shares = jnp.asarray(game.shares, game.start().dtype)
    none, even = jnp.zeros_like(shares), even_flow(game)
    zeros, passed = (jnp.broadcast_to(x, (shares.size, *even.shape)) for x in (jnp.zeros_like(even), even))
    speed = jnp.broadcast_to(jnp.asarray(rate, shares.dtype), shares.shape)
    base = None if base is None else base.astype(jnp.float16)
    first = Gatherer(shares, game.kinds, base, zeros, zeros, passed, passed, none, speed, none)
    system = LightDescent(public(game), tol)
    flows = _flows(system, first, even)
    first = eqx.tree_at(lambda agent: (agent.passed, agent.before), first, (flows, flows))
    return system, State(
        first, Crowd(jnp.tensordot(shares, flows, 1), jnp.asarray(jnp.inf, shares.dtype), jnp.int32(0))
    )


@eqx.filter_jit
def _flows(system: LightDescent, agents: Gatherer, density: Float[Array, "T1 S"]) -> Float[Array, "n T1 S"]:
    return jax.vmap(lambda agent: system.walk(agent, agent.summed, density)[0])(agents)


def suits(game: AbstractGame) -> bool:
    """Say whether every action earns the same and nothing changes the moves, as far as their programs show."""
    flow, kind = jnp.broadcast_to(game.start(), (2, game.states)), jax.tree.map(lambda leaf: leaf[0], game.kinds)
    program = jax.make_jaxpr(game.reward)(jnp.int32(0), flow[0], kind).jaxpr
    out = program.outvars[0]
    if out.aval.shape[-1:] != (1,):
        made = [step for step in program.eqns if out in step.outvars and step.primitive.name == "broadcast_in_dim"]
        along = [
            dict(zip(step.params["broadcast_dimensions"], step.invars[0].aval.shape, strict=True)) for step in made
        ]
        if not along or along[0].get(1, 1) != 1:
            return False
    return steady(game, flow) is not None
