"""Backward and forward through time: values against a flow of densities, and the flow that a policy makes.

Layout inside the rules: decisions first, actions next, states last, (T, A, S), so that the longest axis is
contiguous. All that does not depend on the step before is computed for all times at once; the two scans hold
nothing but the step itself.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from .problem import AbstractGame, added, greatest


class Faced(eqx.Module):
    """What a player faces: rewards for all times, and the last reward.

    Args:
        reward: What each action earns in each state.
        final: What it earns to end in each state.
    """

    reward: Float[Array, "T A S"]
    final: Float[Array, " S"]


def times(game: AbstractGame) -> Array:
    """Return the times of the decisions."""
    return jnp.arange(game.horizon, dtype=jnp.int32)


def face(game: AbstractGame, flow: Float[Array, "T1 S"], kind: Any) -> Faced:
    """Return what a kind of player faces in a flow of densities."""

    def at(time: Array, density: Array) -> Array:
        reward = game.reward(time, density, kind)
        return jnp.broadcast_to(reward, (game.states, game.actions)).T.astype(flow.dtype)

    reward = jax.vmap(at)(times(game), flow[:-1])
    return Faced(reward, jnp.broadcast_to(game.final(flow[-1], kind), (game.states,)).astype(flow.dtype))


def chains(game: AbstractGame, flow: Float[Array, "T1 S"], policy: Float[Array, "T A S"]) -> PyTree:
    """Return how a player moves who acts by a policy, stacked over times."""
    return jax.vmap(lambda t, density, pi: game.moves(t, density).under(pi.T))(times(game), flow[:-1], policy)


def worth(game: AbstractGame, faced: Faced, chain: PyTree, policy: Float[Array, "T A S"]) -> Float[Array, "T1 S"]:
    """Return the value of a policy at every time and state, t = 0 … T."""
    gain, discount = added(policy * faced.reward, 1), _discount(game, faced)

    def back(value: Array, step: Any) -> tuple[Array, Array]:
        earned, moving = step
        value = earned + discount * moving.expect(value)
        return value, value

    _, values = lax.scan(back, faced.final, (gain, chain), reverse=True)
    return jnp.concatenate([values, faced.final[None]])


def ahead(
    game: AbstractGame, flow: Float[Array, "T1 S"], faced: Faced, values: Float[Array, "T1 S"]
) -> Float[Array, "T A S"]:
    """Return what each action is worth if values follow it."""
    look = jax.vmap(lambda t, density, value: game.moves(t, density).expect(value).T)
    return faced.reward + _discount(game, faced) * look(times(game), flow[:-1], values[1:])


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

    def back(value: Array, step: Any) -> tuple[Array, tuple[Array, Array]]:
        time, density, reward, lean = step
        action = reward + discount * game.moves(time, density).expect(value).T
        if temperature is None:
            value = greatest(action, 0)
        else:
            logits = action / temperature if lean is None else lean + action / temperature
            value = temperature * jax.nn.logsumexp(logits, axis=0)
        return value, (value, action)

    steps = times(game), flow[:-1], faced.reward, anchor
    _, (values, actions) = lax.scan(back, faced.final, steps, reverse=True)
    return jnp.concatenate([values, faced.final[None]]), actions


def push(start: Float[Array, " S"], chain: PyTree) -> Float[Array, "T1 S"]:
    """Return the densities that a policy's chain leads to from the first one."""

    def on(mass: Array, moving: Any) -> tuple[Array, Array]:
        mass = moving.carry(mass)
        return mass, mass

    _, after = lax.scan(on, start, chain)
    return jnp.concatenate([start[None], after])


def reach(game: AbstractGame, faced: Faced) -> Float[Array, ""]:
    """Return the reward range: largest less smallest reward over all times, states and actions, times Σ γ^t."""
    discount = _discount(game, faced)
    length = jnp.sum(discount ** jnp.arange(game.horizon, dtype=discount.dtype))
    last = discount**game.horizon * (jnp.max(faced.final) - jnp.min(faced.final))
    return (jnp.max(faced.reward) - jnp.min(faced.reward)) * length + last


def one_hot(actions: Float[Array, "T A S"]) -> Float[Array, "T A S"]:
    """Return the policy that takes the action worth most, the first of equals."""
    choice = jnp.argmax(actions, axis=1)
    return jnp.moveaxis(jax.nn.one_hot(choice, actions.shape[1], dtype=actions.dtype), -1, 1)


def _discount(game: AbstractGame, faced: Faced) -> Array:
    return jnp.asarray(game.discount, faced.reward.dtype)
