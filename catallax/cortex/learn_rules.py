"""Hebb's rule on the contract: neurons at rest learn from their own activity and the residual.

Agents: neurons, each with a receptive field, its activity, and how active it has been so far
Signal: the residual, what remains unexplained of each stimulus; how many samples there were
Reads: the residual through its own activity, and the number of samples
Emits: its activity times its new receptive field
Law of motion: normalised Hebbian: field + Σ activity × residual / own second moment, back to norm one
Conserves: residual + explained input = stimulus; every field has norm one
Rest: each field points where its own activity asks, given all others
Message size: stimuli × inputs; never neurons
Source: Hebb 1949; Oja 1982; Olshausen & Field 1996; Mairal, Bach, Ponce & Sapiro 2010
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..core.message import Outer
from ..core.system import AbstractSystem, State


class Learner(eqx.Module):
    """One neuron that learns.

    Args:
        field: φ, its receptive field, of norm one.
        activity: a, its activity for each stimulus of the batch, as competition left it.
        moment: m, its sum of squared activities so far, the past weighing less.
        silent: Samples since it was last active.
    """

    field: Float[Array, " inputs"]
    activity: Float[Array, " batch"]
    moment: Float[Array, ""]
    silent: Int[Array, ""]


class Lack(eqx.Module):
    """The signal.

    Args:
        residual: r = x − aD, what remains unexplained.
        seen: How many samples there were before this batch.
    """

    residual: Float[Array, "batch inputs"]
    seen: Float[Array, ""]


class Hebbian(AbstractSystem):
    """One round of learning: m ← κ m + Σ a², φ ← φ + Σ a r / m, φ ← φ / |φ|, with κ = (s/(s + batch))^memory.

    A neuron that was silent for `patience` samples takes up the residual of one stimulus of the batch, drawn by
    itself with odds |r|², and forgets m. `learn` does the same with batches, in NumPy.

    Args:
        stimuli: x, one row per stimulus.
        memory: How fast the past fades.
        patience: Samples of silence before a neuron takes up a new field.

    Reference:
        Hebb (1949); Olshausen & Field (1996), eq. 5; forgetting: Mairal, Bach, Ponce & Sapiro (2010), §3.4.
    """

    stimuli: Float[Array, "batch inputs"]
    memory: Float[Array, ""]
    patience: Int[Array, ""]

    def respond(self, agent, signal, key):
        batch = len(self.stimuli)
        active = jnp.any(agent.activity != 0)
        keep = (signal.seen / (signal.seen + batch)) ** self.memory
        moment = keep * agent.moment + jnp.sum(agent.activity**2)
        silent = jnp.where(active, 0, agent.silent + batch)
        moved = agent.field + (agent.activity @ signal.residual) / jnp.where(moment > 0, moment, 1.0)
        left = jnp.sum(signal.residual**2, axis=1)
        dead = (silent >= self.patience) & jnp.any(left > 0)
        # Of a residual of zero the logarithm is −∞: never drawn while any is left.
        taken = signal.residual[jax.random.categorical(key, jnp.log(left))]
        field = jnp.where(dead, jax.lax.stop_gradient(taken), moved)
        field = field / jnp.linalg.norm(field)
        agent = Learner(field, agent.activity, jnp.where(dead, 0.0, moment), jnp.where(dead, 0, silent))
        return agent, Outer(agent.activity, field)

    def propagate(self, signal, total):
        return Lack(self.stimuli - total, signal.seen + len(self.stimuli))


def first_lesson(
    system: Hebbian,
    fields: Float[Array, "units inputs"],
    activity: Float[Array, "batch units"],
    moment: Float[Array, " units"] | None = None,
    silent: Int[Array, " units"] | None = None,
    seen: int = 0,
) -> State:
    """Return neurons as competition over a batch left them.

    Args:
        system: The rule that they will learn by.
        fields: The receptive fields, rows of norm one.
        activity: Their activity, one row per stimulus.
        moment: Their second moments so far; none by default.
        silent: Samples since each was last active; none by default.
        seen: How many samples there were before.
    """
    fields, activity = jnp.asarray(fields, jnp.float32), jnp.asarray(activity, jnp.float32)
    units = len(fields)
    learners = Learner(
        fields,
        activity.T,
        jnp.zeros(units, jnp.float32) if moment is None else jnp.asarray(moment, jnp.float32),
        jnp.zeros(units, jnp.int32) if silent is None else jnp.asarray(silent, jnp.int32),
    )
    explained = jnp.matmul(activity, fields, precision=jax.lax.Precision.HIGHEST)
    return State(learners, Lack(system.stimuli - explained, jnp.asarray(seen, jnp.float32)))
