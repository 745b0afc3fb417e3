"""A game among finitely many: N actual players under a policy, and what that differs from the limit.

Agents: players, each in a state, with the number of the policy that it follows and what it has earned so far
Signal: how many players are in each state now, the time, and what a reward is worth now
Reads: the empirical density, counts divided by N, its own count included
Emits: one deposit at the state it goes to
Law of motion: counts are the deposits; time goes on by one
Conserves: the number of players, exactly
Rest: none; after T rounds the game is over
Message size: S whole numbers, whatever N
Source: Huang, Malhamé & Caines 2006 and Carmona & Delarue 2018, chapter 6, for the limit of many players

Conventions. Every player's kind and first state are drawn independently, from the shares and from `start`. At times
t = 0 … T−1 it draws an action from its policy, earns γᵗ r(t, μ̂_t) and moves by the game's chances at μ̂_t, where μ̂_t is
the density of the N players themselves; at the end it earns γᵀ final(μ̂_T). Counts are whole numbers and draws belong
to (key, round, player), so where the players are is the same bit for bit on any number of devices.

Among N players the density misses that of the limit by O(1/√N), and a player who is content in the limit may
still gain by deviating; both vanish as N grows. crowd.py measures them.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key, PyTree

from ..core.message import Deposit
from ..core.system import AbstractSystem
from .passes import best, face, one_hot, worth
from .problem import AbstractGame, AbstractMoves


class Player(eqx.Module):
    """An agent: where it is, which policy it follows (also its kind), and what it has earned, discounted to time 0."""

    state: Int[Array, "*n"]
    plan: Int[Array, "*n"]
    earned: Float[Array, "*n"]


class Room(eqx.Module):
    """The signal: how many players are in each state, the time, and γᵗ."""

    counts: Int[Array, " S"]
    time: Int[Array, ""]
    worth: Float[Array, ""]

    @property
    def density(self) -> Float[Array, " S"]:
        """The empirical density, which sums to one."""
        dtype = self.worth.dtype
        return self.counts.astype(dtype) / jnp.sum(self.counts).astype(dtype)


class At(eqx.Module):
    """A time and a density."""

    time: Int[Array, ""]
    density: Float[Array, " S"]


class Doors(eqx.Module):
    """What a round's players read where they stand: cumulative chances of each action and of each successor.

    Computed once per round, not once per player, since only the signal enters.
    """

    actions: Float[Array, "P S B"]
    targets: Int[Array, "S A K"]
    successors: Float[Array, "S A C"]

    def __init__(self, policy: Float[Array, "P S A"], moves: AbstractMoves):
        targets, chances = moves.listed()
        targets = jnp.broadcast_to(targets, (*policy.shape[1:], targets.shape[-1]))
        chances = jnp.broadcast_to(chances, targets.shape).astype(policy.dtype)
        # Behind a barrier, so that no fusion with the players' own work, whose shape depends on the number of
        # devices, can change a last bit.
        self.actions, self.targets, self.successors = lax.optimization_barrier(
            (_cumulative(policy), targets.astype(jnp.int32), _cumulative(chances))
        )

    def go(self, player: Player, key: Key[Array, ""]) -> tuple[Int[Array, ""], Int[Array, ""]]:
        """Draw a player's action and the state it comes to."""
        # The engine's key of this round and player is itself the output of the counter-based generator, and serves
        # nothing else; drawing from it would take five times as long as all the rest of a round.
        words = jax.random.key_data(key)[:2]
        # 24 bits are exact in float32; the largest is below one.
        draw = (words >> 8).astype(self.actions.dtype) * jnp.asarray(2.0**-24, self.actions.dtype)
        action = _passed(self.actions.at[player.plan, player.state].get(mode="promise_in_bounds"), draw[0])
        way = _passed(self.successors.at[player.state, action].get(mode="promise_in_bounds"), draw[1])
        return action, self.targets.at[player.state, action, way].get(mode="promise_in_bounds")


def _cumulative(chances: Float[Array, "*n A"]) -> Float[Array, "*n B"]:
    """Return the cumulative chances but the last; exactly one after the last that is positive."""
    total = jnp.cumsum(chances, axis=-1)
    return total[..., :-1] / total[..., -1:]


def _passed(steps: Float[Array, " B"], draw: Float[Array, ""]) -> Int[Array, ""]:
    return jnp.sum(draw >= steps, dtype=jnp.int32)


def of_kinds(game: AbstractGame, quantity: Callable[[Any], PyTree]) -> PyTree:
    """Stack a quantity over the game's kinds; a single row where all players are alike."""
    if game.kinds is None:
        return jax.tree.map(lambda leaf: leaf[None], quantity(None))
    return jax.vmap(quantity)(game.kinds)


def rewards_of(game: AbstractGame, room: "Room | At") -> Float[Array, "n S A"]:
    """Return what each action earns each kind in each state, at a time and a density."""
    shape = game.states, game.actions
    rows = of_kinds(game, lambda kind: jnp.broadcast_to(game.reward(room.time, room.density, kind), shape))
    return rows.astype(room.density.dtype)


def finals_of(game: AbstractGame, density: Float[Array, " S"]) -> Float[Array, "n S"]:
    """Return what it earns each kind to end in each state."""
    rows = of_kinds(game, lambda kind: jnp.broadcast_to(game.final(density, kind), density.shape))
    return rows.astype(density.dtype)


class FiniteCrowd(AbstractSystem):
    """N players at a game, each following one of several policies.

    Args:
        game: The game.
        policy: Chances of each action, for policies p, times, states; policy p is followed by players of kind
            p mod n, of n kinds.
    """

    game: AbstractGame
    policy: Float[Array, "P T S A"]

    def respond(self, agent, signal, key):
        doors = Doors(self.policy[:, signal.time], self.game.moves(signal.time, signal.density))
        rewards = lax.optimization_barrier(signal.worth * rewards_of(self.game, signal))
        action, state = doors.go(agent, key)
        kind = agent.plan % rewards.shape[0]
        gain = rewards.at[kind, agent.state, action].get(mode="promise_in_bounds")
        return Player(state, agent.plan, agent.earned + gain), Deposit(state, sites=self.game.states)

    def propagate(self, signal, total):
        return _next(self.game, signal, total)


def _next(game: AbstractGame, signal: Room, counts: Int[Array, " S"]) -> Room:
    worth = signal.worth * jnp.asarray(game.discount, signal.worth.dtype)
    return Room(counts, signal.time + 1, worth)


class AuditedCrowd(AbstractSystem):
    """The same crowd, in which `earned` is what the finite number of players changes, without the luck of the draw.

    Let V be the value in the limit of the policy that a player follows. What the player earns among N players equals,
    up to terms whose expectation given the past is zero (its own draws, weighed by V),

        J(limit) + Σ_t γᵗ Σ_a π(a|s_t) [r̂_t − r_t + γ (P̂_t − P_t) V_{t+1}](s_t, a)
            + γᵀ (final at μ̂_T − final at μ_T)(s_T)

    where hats are at the crowd's own density. So the sum alone is booked: an unbiased estimate whose variance vanishes
    with 1/N, where that of the earnings does not.

    Args:
        game: The game.
        policy: As for `FiniteCrowd`.
        value: The policies' values in the limit.
        flow: The densities of the limit.
    """

    game: AbstractGame
    policy: Float[Array, "P T S A"]
    value: Float[Array, "P U S"]
    flow: Float[Array, "U S"]

    def respond(self, agent, signal, key):
        time = signal.time
        moves, policy, ahead = self.game.moves(time, signal.density), self.policy[:, time], self.value[:, time + 1]
        limit = At(time, self.flow[time])
        change = _worth_of_actions(self.game, signal, moves, ahead)
        change -= _worth_of_actions(self.game, limit, self.game.moves(time, limit.density), ahead)
        change = lax.optimization_barrier(signal.worth * jnp.sum(policy * change, axis=-1))
        _, state = Doors(policy, moves).go(agent, key)
        gain = change.at[agent.plan, agent.state].get(mode="promise_in_bounds")
        return Player(state, agent.plan, agent.earned + gain), Deposit(state, sites=self.game.states)

    def propagate(self, signal, total):
        return _next(self.game, signal, total)


def _worth_of_actions(
    game: AbstractGame, room: Room | At, moves: AbstractMoves, ahead: Float[Array, "P S"]
) -> Float[Array, "P S A"]:
    """Return what each action earns and leads to, for policies with the given values one step later."""
    rewards = rewards_of(game, room)
    rewards = jnp.tile(rewards, (ahead.shape[0] // rewards.shape[0], 1, 1))
    return rewards + jnp.asarray(game.discount, ahead.dtype) * jax.vmap(moves.expect)(ahead)


# --- The limit


def mean_flow(game: AbstractGame, policy: Float[Array, "n T S A"]) -> Float[Array, "U S"]:
    """Return the densities at times 0 … T in the limit of many players, under a policy for each kind."""
    first = game.start()
    shares = game.shares.astype(first.dtype)

    def step(masses: Array, now: tuple) -> tuple[Array, Array]:
        time, row = now
        density = shares @ masses
        moved = jax.vmap(game.moves(time, density).carry)(masses[:, :, None] * row)
        return moved, density

    masses = jnp.broadcast_to(first, (shares.shape[0], *first.shape))
    times = jnp.arange(game.horizon, dtype=jnp.int32)
    last, flow = lax.scan(step, masses, (times, jnp.swapaxes(policy, 0, 1)))
    return jnp.concatenate([flow, (shares @ last)[None]])


def policy_value(
    game: AbstractGame, policy: Float[Array, "n T S A"], flow: Float[Array, "U S"]
) -> Float[Array, "n U S"]:
    """Return what a policy is worth to each kind from each time and state on, against a flow."""

    def one(kind: Any, policy: Array) -> Array:
        acted = jnp.swapaxes(policy, 1, 2)
        return worth(game, flow, face(game, flow, kind), acted)[0]

    return jax.vmap(one)(game.kinds, policy)


def best_response(
    game: AbstractGame, flow: Float[Array, "U S"]
) -> tuple[Float[Array, "n T S A"], Float[Array, "n U S"]]:
    """Return each kind's best pure policy against a flow (the first of equals), and its value."""

    def one(kind: Any) -> tuple[Array, Array]:
        values, actions = best(game, flow, face(game, flow, kind))
        return jnp.swapaxes(one_hot(actions), 1, 2), values

    return of_kinds(game, one)
