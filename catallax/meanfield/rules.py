"""A mean-field game: kinds of players answer a flow of densities, and their own flows make up the next.

Agents: kinds of players, each a share of the crowd with its own objective
Signal: the density of the whole crowd at every time, and how exploitable the answers to it are
Reads: the densities at all times
Emits: where its share of the crowd is at every time when it acts by its policy, and what it could gain
Law of motion: mirror descent at a fixed or a self-set rate, fictitious play, or a damped fixed point
Conserves: the mass of the crowd at every time
Rest: an equilibrium: the flow is the one that best responses to it make
Message size: times × states, and two numbers; never actions, never players
Source: Lasry & Lions 2007; Huang, Malhamé & Caines 2006; Perrin et al. 2020; Pérolat et al. 2021

A kind sees nothing of the other kinds, so where moves depend on the density it takes the moves at the flow that is
public, and its own flow along them; at rest that is the flow of the crowd.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from ..core.message import Sum
from ..core.system import AbstractSystem, State
from .passes import best, face, follow, one_hot, push, reach, softmax, times, worth, worth_beside_best
from .problem import AbstractGame


class Crowd(eqx.Module):
    """The signal.

    Args:
        density: The crowd's density, t = 0 … T.
        error: The exploitability of the answers per reward range, when it was last measured.
        count: How many rounds have passed.
    """

    density: Float[Array, "T1 S"]
    error: Float[Array, ""]
    count: Int[Array, ""]


class Follower(eqx.Module):
    """A kind of players that climbs towards what pays: its logits, and the policy that is their softmax."""

    share: Float[Array, ""]
    kind: PyTree
    logits: Float[Array, "T A S"]
    policy: Float[Array, "T A S"]


class Averager(eqx.Module):
    """A kind of players that remembers the average of all it did: mass by time, action and state, and the last one."""

    share: Float[Array, ""]
    kind: PyTree
    acted: Float[Array, "T A S"]
    ended: Float[Array, " S"]

    @property
    def policy(self) -> Float[Array, "T A S"]:
        """The average policy, weighted by mass; uniform where nobody ever was."""
        total = jnp.sum(self.acted, axis=-2, keepdims=True)
        even = jnp.full_like(self.acted, 1 / self.acted.shape[-2])
        return jnp.where(total > 0, self.acted / jnp.where(total > 0, total, 1.0), even)


class Taker(eqx.Module):
    """A kind of players without memory."""

    share: Float[Array, ""]
    kind: PyTree


class Pacer(eqx.Module):
    """A kind of players that sets its own rate of mirror descent by what its last step did.

    Args:
        share, kind, logits, policy: As for `Follower`.
        passed: Its own flow under its policy.
        step: How its policy last changed, weighted by the mass that was there.
        gain: What that step was expected to earn: step · Q as it was then.
        rate: How fast its logits grow, per unit of reward.
    """

    share: Float[Array, ""]
    kind: PyTree
    logits: Float[Array, "T A S"]
    policy: Float[Array, "T A S"]
    passed: Float[Array, "T1 S"]
    step: Float[Array, "T A S"]
    gain: Float[Array, ""]
    rate: Float[Array, ""]


class MirrorDescent(AbstractSystem):
    """Online mirror descent: each action's logit grows by what it is worth under the policy, times the rate.

    Args:
        game: The game, without its kinds (`public`).
        rate: How fast logits grow, per unit of reward.
        tol: A kind that could gain no more than this per reward range stays as it is.
        every: After how many rounds exploitability is measured; it takes a further pass backward.

    Reference:
        Pérolat et al. (2021), Scaling up mean field games with online mirror descent, algorithm 1.
    """

    game: AbstractGame
    rate: Float[Array, ""]
    tol: Float[Array, ""]
    every: int = eqx.field(static=True, default=10)

    def respond(self, agent, signal, key):
        del key
        actions, gap, span, stays = looked(self, agent, signal)
        climbed = agent.logits + jnp.where(stays, jnp.zeros_like(self.rate), self.rate) * actions
        logits, policy, flow = follow(self.game, signal.density, climbed)
        return Follower(agent.share, agent.kind, logits, policy), said(agent, flow, gap, span)

    def propagate(self, signal, total):
        return measured(signal, total, self.every)


class PacedDescent(AbstractSystem):
    """Online mirror descent at a rate that each kind sets for itself.

    A step from π to π′ at rate α was expected to earn e = Σ m (π′ − π)·Q, more than nothing; at the new flow the same
    step is worth e′ = Σ m (π′ − π)·Q′. In a crowd that shuns itself e′ < e, and the rate that would have brought e′
    to zero is α e / (e − e′): the next rate is that one, at most `growth` times the last and at least a fifth. These
    are the step lengths of Barzilai and Borwein in the geometry of mirror descent: curvature as last met, and no
    line search. A kind needs nothing but its own past for it.

    Args:
        game: The game, without its kinds (`public`).
        tol: A kind that could gain no more than this per reward range stays as it is.
        every: After how many rounds exploitability is measured.
        growth: The largest factor from one rate to the next.

    Reference:
        Pérolat et al. (2021), algorithm 1; Barzilai & Borwein (1988), eq. 5, for the rate.
    """

    game: AbstractGame
    tol: Float[Array, ""]
    every: int = eqx.field(static=True, default=10)
    growth: float = eqx.field(static=True, default=1.2)

    def respond(self, agent, signal, key):
        del key
        actions, gap, span, stays = looked(self, agent, signal)
        rate = next_rate(agent, jnp.sum(agent.step * actions), self.growth)
        climbed = agent.logits + jnp.where(stays, jnp.zeros_like(rate), rate) * actions
        logits, policy, flow = follow(self.game, signal.density, climbed)
        step = agent.passed[:-1, None] * (policy - agent.policy)
        after = Pacer(agent.share, agent.kind, logits, policy, flow, step, jnp.sum(step * actions), rate)
        return after, said(agent, flow, gap, span)

    def propagate(self, signal, total):
        return measured(signal, total, self.every)


def next_rate(agent: Any, kept: Float[Array, ""], growth: float) -> Float[Array, ""]:
    """Return the rate at which a kind goes on, given what its last step is worth now; see `PacedDescent`."""
    lost = agent.gain - kept
    bent = (agent.gain > 0) & (lost > 0)
    factor = jnp.where(bent, agent.gain / jnp.where(bent, lost, 1.0), growth)
    return agent.rate * jnp.clip(jnp.where(agent.gain > 0, factor, 1.0), 0.2, growth)


def looked(rule: Any, agent: Any, signal: Crowd) -> tuple[Array, Array, Array, Array]:
    """Return what actions are worth to a kind that acts by its policy, what it could gain, its reward range, and
    whether it stays as it is; the last three are measured only when that is due."""
    game, density = rule.game, signal.density
    faced = face(game, density, agent.kind)

    def measure() -> tuple[Array, Array, Array]:
        return worth_beside_best(game, density, faced, agent.policy)

    def look() -> tuple[Array, Array, Array]:
        nothing = jnp.zeros_like(agent.share)
        return worth(game, density, faced, agent.policy)[1], nothing, nothing

    if rule.every == 1:
        actions, gap, span = measure()
        return actions, gap, span, gap <= rule.tol * span
    due = signal.count % rule.every == 0
    actions, gap, span = lax.cond(due, measure, look)
    return actions, gap, span, due & (gap <= rule.tol * span)


def measured(signal: Crowd, total: dict[str, Array], every: int) -> Crowd:
    """Return the crowd's flow as it was said to be, with its exploitability if that was measured."""
    error = relative(total)
    if every > 1:
        error = jnp.where(signal.count % every == 0, error, signal.error)
    return Crowd(total["flow"], error, signal.count + 1)


class FictitiousPlay(AbstractSystem):
    """Fictitious play: each round a best response to the average flow, which is averaged in with weight 1/n.

    Args:
        game: The game, without its kinds (`public`).
        tol: A kind that could gain no more than this per reward range stays as it is.

    Reference:
        Perrin et al. (2020), Fictitious play for mean field games, algorithm 1.
    """

    game: AbstractGame
    tol: Float[Array, ""]

    def respond(self, agent, signal, key):
        del key
        game, density = self.game, signal.density
        faced = face(game, density, agent.kind)
        values, actions = best(game, density, faced)
        policy = one_hot(actions)
        flow = push(game, density, policy)
        discount = jnp.asarray(game.discount, density.dtype)
        weights = discount ** jnp.arange(game.horizon, dtype=density.dtype)
        own = jnp.sum(weights[:, None, None] * agent.acted * faced.reward)
        own = own + discount**game.horizon * (agent.ended @ faced.final)
        gap, span = density[0] @ values[0] - own, reach(game, faced)
        stays = (gap <= self.tol * span) & (signal.count > 0)
        old = jnp.concatenate([jnp.sum(agent.acted, axis=1), agent.ended[None]])
        flow = jnp.where(stays, old, flow)
        weight = jnp.where(stays, 0.0, 1 / (1 + signal.count).astype(density.dtype))
        acted = agent.acted + weight * (flow[:-1, None] * policy - agent.acted)
        ended = agent.ended + weight * (flow[-1] - agent.ended)
        return Averager(agent.share, agent.kind, acted, ended), said(agent, flow, gap, span)

    def propagate(self, signal, total):
        weight = 1 / (1 + signal.count).astype(signal.density.dtype)
        density = signal.density + weight * (total["flow"] - signal.density)
        # The first flow belongs to no policy of theirs.
        error = jnp.where(signal.count > 0, relative(total), jnp.inf)
        return Crowd(density, error, signal.count + 1)


class DampedFixedPoint(AbstractSystem):
    """Best responses to the flow, which moves part of the way to the flow that they make. The signal is the flow.

    Args:
        game: The game, without its kinds (`public`).
        damping: Which part of the way, in (0, 1].
        temperature: How much players mind which of two nearly equal actions they take, in units of reward: their
            policy is the softmax of what actions are worth, divided by it. None for best responses.
    """

    game: AbstractGame
    damping: Float[Array, ""]
    temperature: Float[Array, ""] | None = None

    def respond(self, agent, signal, key):
        del key
        policy = self.answer(signal, agent.kind)
        return agent, Sum(agent.share * push(self.game, signal, policy))

    def answer(self, density: Float[Array, "T1 S"], kind: Any) -> Float[Array, "T A S"]:
        """Return the policy with which a kind answers a flow."""
        faced = face(self.game, density, kind)
        _, actions = best(self.game, density, faced, self.temperature)
        return one_hot(actions) if self.temperature is None else softmax(actions / self.temperature)

    def propagate(self, signal, total):
        return signal + self.damping * (total - signal)


def said(agent: Any, flow: Array, gap: Array, span: Array) -> dict[str, Sum]:
    """Return a message: the kind's part of the crowd's flow, of the exploitability and of the reward range."""
    share = agent.share
    return {"flow": Sum(share * flow), "gap": Sum(share * gap), "reach": Sum(share * span)}


def relative(total: dict[str, Array]) -> Float[Array, ""]:
    """Return the exploitability per reward range."""
    gap, span = total["gap"], total["reach"]
    return jnp.where(span > 0, gap / jnp.where(span > 0, span, 1.0), jnp.where(gap > 0, jnp.inf, 0.0))


def public(game: AbstractGame) -> AbstractGame:
    """Return a game without the arrays that describe its kinds: those are private, and rules may not read them."""
    private = [id(leaf) for leaf in jax.tree.leaves(game.kinds)]
    return jax.tree.map(lambda leaf: None if id(leaf) in private else leaf, game)


def mass(state: State) -> Float[Array, " T1"]:
    """Return the crowd's mass at every time; no round changes it."""
    density = state.signal if eqx.is_array(state.signal) else state.signal.density
    return jnp.sum(density, axis=-1)


def even_flow(game: AbstractGame) -> Float[Array, "T1 S"]:
    """Return the crowd's flow when all act evenly at random."""
    start = game.start()
    even = jnp.full((start.size, game.actions), 1 / game.actions, start.dtype)

    def on(density: Array, time: Array) -> tuple[Array, Array]:
        density = game.moves(time, density).under(even).carry(density)
        return density, density

    return jnp.concatenate([start[None], lax.scan(on, start, times(game))[1]])


def first_flow(game: AbstractGame, policy: Float[Array, "n T A S"]) -> Float[Array, "T1 S"]:
    """Return the crowd's flow under the kinds' policies; each kind's mass moves at the whole crowd's density."""
    start = game.start()
    shares = jnp.asarray(game.shares, start.dtype)

    def on(masses: Array, step: Any) -> tuple[Array, Array]:
        time, pi = step
        moves = game.moves(time, shares @ masses)
        masses = jax.vmap(lambda mass, own: moves.carry((mass[None] * own).T))(masses, pi)
        return masses, shares @ masses

    masses = jnp.broadcast_to(start, (shares.size, start.size))
    steps = jnp.arange(game.horizon, dtype=jnp.int32), jnp.moveaxis(policy, 0, 1)
    _, after = lax.scan(on, masses, steps)
    return jnp.concatenate([start[None], after])
