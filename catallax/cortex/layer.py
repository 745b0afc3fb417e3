"""A layer of units that compete in the forward pass: Linear and ReLU, with inhibition between the units.

A unit i has a receptive field n_i of unit length and a bias b_i, and its activity rests where

    a_i = max(0, n_i·(x − s e) + s a_i + b_i),      e = Σ_j a_j n_j,

with s in [0, 1) the strength of competition: the unit reads what the others, weighed by s, have left unexplained, and
does not inhibit itself. At strength 0 this is ReLU(N x + b). Rest is the one minimum over a ≥ 0 of the strongly convex
½ aᵀH a − a·(N x + b) with H = (1 − s) I + s N Nᵀ, which for s → 1 and b = −λ is the non-negative sparse code.

Reference:
    Rozell, Johnson, Baraniuk & Olshausen (2008), Sparse coding via thresholding and local competition, eq. 2.3-2.5.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float, Key

from ..core.message import Outer
from ..core.settle import settle
from ..core.system import AbstractSystem, State


class Unit(eqx.Module):
    """One unit that competes.

    Args:
        field: n_i, of unit length; constant.
        drive: n_i·x + b_i; constant.
        activity: a_i ≥ 0.
        announced: The activity that the others were told, a step ahead of it in the direction in which it moves.
    """

    field: Float[Array, "*n inputs"]
    drive: Float[Array, "*n"]
    activity: Float[Array, "*n"]
    announced: Float[Array, "*n"]


class Inhibition(AbstractSystem):
    """Units move their activity towards what the explained input leaves them; the signal is the explained input.

    A projected gradient step with Nesterov's constant momentum, each unit for itself. Rest does not depend on `step`.

    Args:
        strength: s, in [0, 1).
        step: At most one over the largest eigenvalue of (1 − s) I + s N Nᵀ.
    """

    strength: float | Float[Array, ""]
    step: Float[Array, ""]

    def respond(self, agent, signal, key):
        del key
        strength = jnp.asarray(self.strength, agent.drive.dtype)
        missing = agent.drive - (1 - strength) * agent.announced - strength * (agent.field @ signal)
        activity = jax.nn.relu(agent.announced + self.step * missing)
        slow = jnp.sqrt((1 - strength) * self.step)
        announced = activity + (1 - slow) / (1 + slow) * (activity - agent.activity)
        return Unit(agent.field, agent.drive, activity, announced), Outer(announced[None], agent.field)

    def propagate(self, signal, total):
        del signal
        return total[0]


def settled_activity(
    fields: Float[Array, "units inputs"],
    drive: Float[Array, " units"],
    step: Float[Array, ""],
    *,
    strength: float | Float[Array, ""] = 0.5,
    tol: float = 1e-4,
    max_rounds: int = 500,
) -> Float[Array, " units"]:
    """Return the activity at which units rest that compete for one input.

    The derivative with respect to fields and drive is that of rest, by the implicit function theorem: one linear
    system in H, restricted to the active units, solved by conjugate gradients (Hestenes & Stiefel 1952).

    Args:
        fields: Receptive fields, rows of unit length.
        drive: What each unit receives before any competition, n_i·x + b_i.
        step: A bound from `safe_step`.
        strength: s, in [0, 1).
        tol: At rest no entry of the explained input moves by more than this times 1 + its size; derivatives are
            good to a tenth of it.
        max_rounds: When to give up; the activity is then that of the last round.
    """
    still_fields, still_drive = lax.stop_gradient((fields, drive))
    silent = jnp.zeros_like(still_drive)
    state = State(Unit(still_fields, still_drive, silent, silent), jnp.zeros_like(still_fields[0]))
    rest = settle(Inhibition(strength, step), state, rtol=tol, atol=tol, max_rounds=max_rounds)
    activity = lax.stop_gradient(rest.state.agents.activity)
    active = (activity > 0).astype(activity.dtype)
    # A Newton step at rest: it moves the activity by less than the tolerance, and its derivative is that of rest.
    missing = active * (drive - (1 - strength) * activity - strength * (fields @ (activity @ fields)))

    def inhibited(change: Float[Array, " units"]) -> Float[Array, " units"]:
        # The silent units' rows are those of the identity, so that the system has one solution.
        lateral = still_fields @ ((active * change) @ still_fields)
        return change - strength * active * (change - lateral)

    correction, _ = cg(inhibited, missing, tol=0.1 * tol, maxiter=max_rounds)
    # Settling keeps the last sound state, but the answer to NaN is NaN.
    return jnp.where(jnp.isnan(drive), drive, jax.nn.relu(activity + correction))


def safe_step(fields: Float[Array, "units inputs"], strength: float | Float[Array, ""] = 0.5) -> Float[Array, ""]:
    """Return a step for `Inhibition` at which it comes to rest whatever the input.

    With λ the largest eigenvalue of N Nᵀ, λ⁸ ≤ tr (N Nᵀ)⁸ ≤ rank·λ⁸: at most half a step in size is given away
    up to a rank of 256. No derivative flows through it, since rest does not depend on it.
    """
    fields = lax.stop_gradient(fields)
    gram = fields @ fields.T if fields.shape[0] <= fields.shape[1] else fields.T @ fields
    # Scaled by its trace, so that the eighth power neither overflows nor vanishes.
    scale = jnp.trace(gram)
    square = (gram / scale) @ (gram / scale)
    fourth = square @ square
    largest = scale * jnp.sum(fourth * fourth) ** (1 / 8)
    return 1 / (1 - strength + strength * largest)


def unit_length(weight: Float[Array, "units inputs"]) -> Float[Array, "units inputs"]:
    """Return the receptive fields: the rows of a weight at unit length."""
    squares = jnp.sum(weight**2, axis=1, keepdims=True)
    return weight * lax.rsqrt(jnp.maximum(squares, jnp.finfo(squares.dtype).tiny))


def answer(
    weight: Float[Array, "units inputs"],
    bias: Float[Array, " units"],
    x: Float[Array, " inputs"],
    *,
    strength: float,
    tol: float,
    max_rounds: int,
) -> Float[Array, " units"]:
    """Return what a layer of units that compete answers to one input: the activity at rest.

    Args:
        weight, bias, strength, tol, max_rounds: As for `CompetitiveLayer`.
        x: The input.

    Raises:
        ValueError: if the input is no vector of the layer's size.
    """
    if x.shape != weight.shape[1:]:
        raise ValueError(f"the layer takes one input of {weight.shape[1]} numbers, not shape {x.shape}")
    fields = unit_length(weight)
    drive = fields @ x + bias
    if strength == 0:
        return jax.nn.relu(drive)
    step = safe_step(fields, strength)
    return settled_activity(fields, drive, step, strength=strength, tol=tol, max_rounds=max_rounds)


class CompetitiveLayer(eqx.Module):
    """Units that settle by local competition before the layer answers: in place of `Linear` and ReLU.

    Called with one input, as Equinox's layers are; `jax.vmap(layer)` takes a batch. It can be differentiated in
    forward and reverse mode. A ReLU layer's weights can be taken over: only the rows' directions count, and the
    length of a row goes into the next layer.

    Args:
        weight: Receptive fields before they are brought to unit length.
        bias: Added to what a unit receives; −λ for a sparse code.
        strength: How much of what the others explain is taken away, in [0, 1); at 0 nobody competes.
        tol, max_rounds: As for `settled_activity`.
    """

    weight: Float[Array, "units inputs"]
    bias: Float[Array, " units"]
    strength: float = eqx.field(static=True)
    tol: float = eqx.field(static=True)
    max_rounds: int = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        units: int,
        *,
        strength: float = 0.5,
        tol: float = 1e-4,
        max_rounds: int = 500,
        key: Key[Array, ""],
    ):
        """Draw fields evenly over all directions, without bias.

        Args:
            inputs: Size of an input.
            units: Size of an answer.
            strength, tol, max_rounds: As above.
            key: Randomness.

        Raises:
            ValueError: if a size is below one, or strength outside [0, 1).
        """
        if inputs < 1 or units < 1:
            raise ValueError(f"a layer needs at least one input and one unit; got {inputs} and {units}")
        if not 0 <= strength < 1:
            raise ValueError(f"strength is {strength}, but must be at least 0 and below 1, where rest is unique")
        self.weight = jax.random.normal(key, (units, inputs)) / math.sqrt(inputs)
        self.bias = jnp.zeros(units)
        self.strength, self.tol, self.max_rounds = strength, tol, max_rounds

    @property
    def fields(self) -> Float[Array, "units inputs"]:
        """The receptive fields: the rows of the weight at unit length."""
        return unit_length(self.weight)

    def __call__(self, x: Float[Array, " inputs"], *, key: Key[Array, ""] | None = None) -> Float[Array, " units"]:
        """Return the activity at rest for one input; `key` is ignored.

        Raises:
            ValueError: if the input is no vector of the layer's size.
        """
        del key
        settings = {"strength": self.strength, "tol": self.tol, "max_rounds": self.max_rounds}
        return answer(self.weight, self.bias, x, **settings)
