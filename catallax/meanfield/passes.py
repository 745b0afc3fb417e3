"""Backward and forward through time: values against a flow of densities, and the flow that a policy makes.

Layout inside the rules: decisions first, actions next, states last, (T, A, S), so that the longest axis is
contiguous. Rewards are computed for all times at once, since logarithms vectorise; moves are never stacked over
times: each step of a scan makes its own, unless neither time nor density changes them (`moving`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from .bands import Bands
from .problem import AbstractGame, AbstractMoves, added, greatest

FEW = 1 << 15
"""Up to so many states passes are compiled loops where moves are bands (`bands`). Beyond, a step is long enough for XLA
to share it out among cores, of which these loops use one."""


class Faced(eqx.Module):
    """What a player faces: rewards for all times, and the last reward.

    Args:
        reward: What each action earns in each state.
        last: What it earns to end, in each state or in any: one number then.
    """

    reward: Float[Array, "T A S"]
    last: Float[Array, " S"] | Float[Array, ""]

    @property
    def final(self) -> Float[Array, " S"]:
        """What it earns to end in each state."""
        return jnp.broadcast_to(self.last, self.reward.shape[-1:])


def times(game: AbstractGame) -> Array:
    """Return the times of the decisions."""
    return jnp.arange(game.horizon, dtype=jnp.int32)


def face(game: AbstractGame, flow: Float[Array, "T1 S"], kind: Any) -> Faced:
    """Return what a kind of player faces in a flow of densities."""

    reward = jax.vmap(lambda time, density: earned(game, time, density, kind))(times(game), flow[:-1])
    return Faced(reward, jnp.asarray(game.final(flow[-1], kind), flow.dtype))


def earned(game: AbstractGame, time: Array, density: Float[Array, " S"], kind: Any) -> Float[Array, "A S"]:
    """Return what each action earns in each state at a time."""
    reward = game.reward(time, density, kind)
    return jnp.broadcast_to(reward, (game.states, game.actions)).T.astype(density.dtype)


def ended(game: AbstractGame, density: Float[Array, " S"], kind: Any) -> Float[Array, " S"]:
    """Return what it earns to end in each state."""
    return jnp.broadcast_to(game.final(density, kind), (game.states,)).astype(density.dtype)


def moving(game: AbstractGame, flow: Float[Array, "T1 S"]) -> Callable[[Array, Array], AbstractMoves]:
    """Return the moves as a function of time and density; found once, outside of the scans, where they are constant."""
    constant = steady(game, flow)
    return game.moves if constant is None else lambda time, density: constant


def steady(game: AbstractGame, flow: Float[Array, "T1 S"]) -> AbstractMoves | None:
    """Return the moves, or None if the time or the density changes them."""
    now = jnp.int32(0), flow[0]
    program = jax.make_jaxpr(game.moves)(*now).jaxpr
    varying = {id(name) for name in program.invars}
    for step in program.eqns:
        if any(id(name) in varying for name in step.invars):
            varying |= {id(name) for name in step.outvars}
    return None if any(id(name) in varying for name in program.outvars) else game.moves(*now)


def through(
    game: AbstractGame,
    flow: Float[Array, "T1 S"],
    step: Callable[[AbstractMoves, Any, Any], tuple[Any, Any]],
    first: Any,
    steps: Any,
    *,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """Scan through time.

    Args:
        game: The game.
        flow: The densities that moves may depend on.
        step: The step of the scan, given the moves at its time first.
        first, steps, reverse: As for `jax.lax.scan`.
    """
    moves = steady(game, flow)
    if moves is None:
        now = times(game), flow[:-1]
        return lax.scan(lambda carry, x: step(game.moves(*x[0]), carry, x[1]), first, (now, steps), reverse=reverse)
    return lax.scan(partial(step, moves), first, steps, reverse=reverse)


def worth(
    game: AbstractGame, flow: Float[Array, "T1 S"], faced: Faced, policy: Float[Array, "T A S"]
) -> tuple[Float[Array, "T1 S"], Float[Array, "T A S"]]:
    """Return the value of a policy at every time and state, t = 0 … T, and what each action is worth before it."""
    return _looking(game, flow)(game, flow, faced, policy, beside=False)[:2]


def worth_beside_best(
    game: AbstractGame, flow: Float[Array, "T1 S"], faced: Faced, policy: Float[Array, "T A S"]
) -> tuple[Float[Array, "T A S"], Float[Array, ""], Float[Array, ""]]:
    """Return what each action is worth before a policy, what a best response gains over it, and the reward range."""
    _, actions, seen = _looking(game, flow)(game, flow, faced, policy, beside=True)
    return actions, seen[0], reward_range(game, seen[1], faced.last)


def _looking(game: AbstractGame, flow: Array) -> Callable[..., tuple[Array, Array, Array]]:
    """Return the function that looks back through time; its last result is empty unless a best response is wanted:
    what that gains over the policy from the first density on, and the largest difference of two rewards."""
    return _look_back_by_scan if bands_of(game, flow) is None else _look_back


def bands_of(game: AbstractGame, flow: Float[Array, "T1 S"]) -> Bands | None:
    """Return the moves as what compiled passes read, or None where these do not serve."""
    if game.states > FEW or flow.dtype not in (jnp.float32, jnp.float64):
        return None
    moves = steady(game, flow)
    return None if moves is None else moves.bands()


def _look_back_by_scan(
    game: AbstractGame, flow: Array, faced: Faced, policy: Array, *, beside: bool
) -> tuple[Array, Array, Array]:
    """Look back step by step."""
    discount = _discount(game, faced)

    def back(moves: AbstractMoves, value: Array, step: Any) -> tuple[Array, tuple[Array, Array]]:
        reward, pi = step
        action = reward + discount * moves.ahead(value)
        value = added(pi * action, 0)
        return value, (value, action)

    def back_beside(moves: AbstractMoves, value: Array, step: Any) -> tuple[Array, tuple[Array, Array]]:
        reward, pi = step
        action, top = reward[None] + discount * jax.vmap(moves.ahead)(value)
        value = jnp.stack([added(pi * action, 0), greatest(top, 0)])
        return value, (value[0], action)

    final, step = (jnp.stack([faced.final, faced.final]), back_beside) if beside else (faced.final, back)
    first, (values, actions) = through(game, flow, step, final, (faced.reward, policy), reverse=True)
    values = jnp.concatenate([values, faced.final[None]])
    if not beside:
        return values, actions, values[:0, 0]
    gain = flow[0] @ (first[1] - first[0])
    return values, actions, jnp.stack([gain, jnp.max(faced.reward) - jnp.min(faced.reward)])


@eqx.filter_custom_jvp
def _look_back(
    game: AbstractGame, flow: Array, faced: Faced, policy: Array, *, beside: bool
) -> tuple[Array, Array, Array]:
    """Look back by a compiled loop; its derivative is that of the scan."""
    bands = bands_of(game, flow)
    assert bands is not None
    discount = _discount(game, faced)
    return lax.platform_dependent(
        cpu=lambda: bands.look_back(flow, faced.reward, policy, faced.last, discount, beside),
        default=lambda: _look_back_by_scan(game, flow, faced, policy, beside=beside),
    )


@_look_back.def_jvp
def _(primals: tuple, tangents: tuple, *, beside: bool):
    return eqx.filter_jvp(partial(_look_back_by_scan, beside=beside), primals, tangents)


def best(
    game: AbstractGame,
    flow: Float[Array, "T1 S"],
    faced: Faced,
    temperature: Float[Array, ""] | None = None,
    anchor: Float[Array, "T A S"] | None = None,
) -> tuple[Float[Array, "T1 S"], Float[Array, "T A S"]]:
    """Return the values of a best response and what each action is worth before it.

    With a temperature τ the best response is smoothed: V = τ log Σ_a exp(anchor + Q / τ), the value of the best
    policy less τ times its relative entropy to the softmax of the anchor (whose exponentials sum to one).
    """
    discount = _discount(game, faced)

    def back(moves: AbstractMoves, value: Array, step: Any) -> tuple[Array, tuple[Array, Array]]:
        reward, lean = step
        action = reward + discount * moves.ahead(value)
        if temperature is None:
            value = greatest(action, 0)
        else:
            logits = action / temperature if lean is None else lean + action / temperature
            value = temperature * jax.nn.logsumexp(logits, axis=0)
        return value, (value, action)

    _, (values, actions) = through(game, flow, back, faced.final, (faced.reward, anchor), reverse=True)
    return jnp.concatenate([values, faced.final[None]]), actions


def push(game: AbstractGame, flow: Float[Array, "T1 S"], policy: Float[Array, "T A S"]) -> Float[Array, "T1 S"]:
    """Return the densities that a policy leads to from the first of a flow, along the moves that the flow allows."""

    def on(moves: AbstractMoves, mass: Array, pi: Array) -> tuple[Array, Array]:
        mass = moves.under(pi.T).carry(mass)
        return mass, mass

    _, after = through(game, flow, on, flow[0], policy)
    return jnp.concatenate([flow[:1], after])


def follow(
    game: AbstractGame, flow: Float[Array, "T1 S"], logits: Float[Array, "T A S"]
) -> tuple[Float[Array, "T A S"], Float[Array, "T A S"], Float[Array, "T1 S"]]:
    """Return logits less the greatest of each state's, their policy, and the densities that it leads to (`push`)."""
    go = _follow_by_scan if bands_of(game, flow) is None else _follow
    return go(game, flow, logits)


def _follow_by_scan(game: AbstractGame, flow: Array, logits: Array) -> tuple[Array, Array, Array]:
    logits = centred(logits)
    policy = shares_of(logits)
    return logits, policy, push(game, flow, policy)


@eqx.filter_custom_jvp
def _follow(game: AbstractGame, flow: Array, logits: Array) -> tuple[Array, Array, Array]:
    """Follow logits by a compiled loop; its derivative is that of the scan."""
    bands = bands_of(game, flow)
    assert bands is not None
    return lax.platform_dependent(
        cpu=lambda: bands.follow(flow, logits), default=lambda: _follow_by_scan(game, flow, logits)
    )


@_follow.def_jvp
def _(primals: tuple, tangents: tuple):
    return eqx.filter_jvp(_follow_by_scan, primals, tangents)


def reach(game: AbstractGame, faced: Faced) -> Float[Array, ""]:
    """Return the reward range: largest less smallest reward over all times, states and actions, times Σ γ^t."""
    return reward_range(game, jnp.max(faced.reward) - jnp.min(faced.reward), faced.last)


def reward_range(
    game: AbstractGame, widest: Float[Array, ""], final: Float[Array, " S"] | Float[Array, ""]
) -> Float[Array, ""]:
    """Return the reward range, given the largest difference of two rewards before the last."""
    discount = jnp.asarray(game.discount, final.dtype)
    length = jnp.sum(discount ** jnp.arange(game.horizon, dtype=final.dtype))
    return widest * length + discount**game.horizon * (jnp.max(final) - jnp.min(final))


def one_hot(actions: Float[Array, "T A S"]) -> Float[Array, "T A S"]:
    """Return the policy that takes the action worth most, the first of equals."""
    choice = jnp.argmax(actions, axis=1)
    return jnp.moveaxis(jax.nn.one_hot(choice, actions.shape[1], dtype=actions.dtype), -1, 1)


def centred(logits: Float[Array, "*T A S"]) -> Float[Array, "*T A S"]:
    """Return logits less the greatest of each state's."""
    return logits - jnp.expand_dims(greatest(logits, -2), -2)


def softmax(logits: Float[Array, "*T A S"]) -> Float[Array, "*T A S"]:
    """Return the policy of logits."""
    return shares_of(centred(logits))


def shares_of(logits: Float[Array, "*T A S"]) -> Float[Array, "*T A S"]:
    """Return the policy of logits of which each state's greatest is zero already."""
    weights = jnp.exp(logits)
    return weights / jnp.sum(weights, axis=-2, keepdims=True)


def _discount(game: AbstractGame, faced: Faced) -> Array:
    return jnp.asarray(game.discount, faced.reward.dtype)
