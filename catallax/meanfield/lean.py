"""The paced law of motion in little memory: for games whose times × states × actions fill it.

`PacedDescent` holds logits, policies, steps and what actions are worth, all (T, A, S). Here logits are the only such
array. Policies are their softmax wherever a row is needed; what actions are worth is found again from the values,
which are (T + 1, S); and the policy before the last step from what was seen and worth then. A round is one pass back
through time and one forward, in which logits change in place.
"""

import functools
from collections.abc import Iterable

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from ..core.system import AbstractSystem
from .passes import earned, ended, moving, reward_range, times
from .problem import AbstractGame
from .rules import measured, next_rate, said


class Frugal(eqx.Module):
    """A kind of players that sets its own rate, and that remembers what it saw rather than what it did.

    Args:
        share: What part of the crowd it is.
        kind: What tells it from others.
        logits: Its policy is their softmax.
        passed: Its own flow under its policy.
        before: Its own flow under the policy before its last step.
        seen: The density that its last step answered.
        values: What its policy was worth then.
        gain: What that step was expected to earn.
        rate: How fast its logits grow, per unit of reward.
    """

    share: Float[Array, ""]
    kind: PyTree
    logits: Float[Array, "T A S"]
    passed: Float[Array, "T1 S"]
    before: Float[Array, "T1 S"]
    seen: Float[Array, "T1 S"]
    values: Float[Array, "T1 S"]
    gain: Float[Array, ""]
    rate: Float[Array, ""]


class LeanDescent(AbstractSystem):
    """The law of `PacedDescent`, with the same steps but for rounding; exploitability is measured in every round.

    Args:
        game: The game, without its kinds (`public`).
        tol: A kind that could gain no more than this per reward range stays as it is.
        growth: The largest factor from one rate to the next.
    """

    game: AbstractGame
    tol: Float[Array, ""]
    growth: float = eqx.field(static=True, default=1.2)

    def respond(self, agent, signal, key):
        del key
        values, kept, gap, span = self.look(agent, signal.density)
        rate = next_rate(agent, kept, self.growth)
        used = jnp.where(gap <= self.tol * span, jnp.zeros_like(rate), rate)
        logits, flow, gain = self.step(agent, signal.density, values, used)
        after = Frugal(agent.share, agent.kind, logits, flow, agent.passed, signal.density, values, gain, rate)
        return after, said(agent, flow, gap, span)

    def propagate(self, signal, total):
        return measured(signal, total, 1)

    @eqx.filter_jit
    def logits(self, agent: Frugal, time: Array) -> Float[Array, "A S"]:
        """Return the logits of one kind at one time."""
        return row(agent.logits, time)

    def look(self, agent: Frugal, density: Float[Array, "T1 S"]) -> tuple[Array, Array, Array, Array]:
        """Look back through time: what the policy is worth, and the last step now; the gap, the reward range."""
        game, moves = self.game, moving(self.game, density)
        discount = jnp.asarray(game.discount, density.dtype)

        def back(carry: tuple, time: Array) -> tuple[tuple, Array]:
            value, top, kept, least, most = carry
            now, seen = density[time], row(agent.seen, time)
            reward, here = earned(game, time, now, agent.kind), moves(time, now)
            action = [r + discount * q for r, q in zip(reward, here.ahead(value), strict=True)]
            ahead = [r + discount * q for r, q in zip(reward, here.ahead(top), strict=True)]
            past = moves(time, seen).ahead(row(agent.values, time + 1))
            past = [r + discount * q for r, q in zip(earned(game, time, seen, agent.kind), past, strict=True)]
            logits, level = row(agent.logits, time), row(agent.values, time)
            value, _ = mean(weighed(logits), action)
            # Where the last step was none, nothing was gained, and `kept` is not asked for.
            before = weighed(logit - agent.rate * (q - level) for logit, q in zip(logits, past, strict=True))
            lost, _ = mean(before, [q - value for q in action])
            kept = kept - row(agent.before, time) @ lost
            least, most = jnp.minimum(least, jnp.min(reward)), jnp.maximum(most, jnp.max(reward))
            return (value, functools.reduce(jnp.maximum, ahead), kept, least, most), value

        final = ended(game, density[-1], agent.kind)
        none = jnp.zeros_like(agent.gain)
        carry = final, final, none, jnp.full_like(none, jnp.inf), jnp.full_like(none, -jnp.inf)
        (first, top, kept, least, most), values = lax.scan(back, carry, times(game), reverse=True)
        gap = density[0] @ (top - first)
        return jnp.concatenate([values, final[None]]), kept, gap, reward_range(game, most - least, final)

    def step(
        self, agent: Frugal, density: Float[Array, "T1 S"], values: Float[Array, "T1 S"], rate: Float[Array, ""]
    ) -> tuple[Array, Array, Array]:
        """Step forward through time: the logits after the step, the flow that they make, and what it should earn."""
        game, moves = self.game, moving(self.game, density)
        discount = jnp.asarray(game.discount, density.dtype)

        def on(carry: tuple, time: Array) -> tuple[tuple, Array]:
            mass, logits, gain = carry
            now, level = density[time], values[time]
            reward, here = earned(game, time, now, agent.kind), moves(time, now)
            more = [r + discount * q - level for r, q in zip(reward, here.ahead(values[time + 1]), strict=True)]
            for action, q in enumerate(more):
                logits = logits.at[time, action].add(rate * q)
            # Read after they were written: with any use of the old ones XLA would copy all logits in every step.
            weights = weighed(row(logits, time))
            earning, total = mean(weights, more)
            mass = here.under(jnp.stack([weight / total for weight in weights]).T).carry(mass)
            return (mass, logits, gain + row(agent.passed, time) @ earning), mass

        start = density[0], agent.logits, jnp.zeros_like(agent.gain)
        (_, logits, gain), after = lax.scan(on, start, times(game))
        return logits, jnp.concatenate([density[:1], after]), gain


def mean(weights: list[Array], rows: list[Array]) -> tuple[Array, Array]:
    """Return the mean of rows over actions, and the sum of the weights."""
    total = functools.reduce(jnp.add, weights)
    return functools.reduce(jnp.add, [weight * x for weight, x in zip(weights, rows, strict=True)]) / total, total


def weighed(logits: Iterable[Array]) -> list[Array]:
    """Return the exponentials of logits less the greatest of them."""
    logits = list(logits)
    top = functools.reduce(jnp.maximum, logits)
    return [jnp.exp(logit - top) for logit in logits]


def row(x: Float[Array, "T ..."], time: Array) -> Array:
    """Return one time of an array; as a scan's own input it would be copied whole."""
    return lax.dynamic_index_in_dim(x, time, keepdims=False)
