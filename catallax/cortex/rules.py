"""Local competition: each neuron reads what remains unexplained, and inhibits the others by explaining it.

Agents: neurons, each with a receptive field and a membrane potential for every stimulus at hand
Signal: the residual, what remains unexplained of each stimulus; the price of activity; how far from rest it is
Reads: the residual through its own receptive field, and the price
Emits: its activity times its receptive field, whether it is active, and how fast its potentials move
Law of motion: leaky integration of the drive; with a number of winners, a price that finds itself
Conserves: residual + explained input = stimulus
Rest: soft threshold: the least ½|x − aD|² + λ|a|₁; hard threshold: a local optimum with a price per active unit
Message size: stimuli × inputs, and two numbers per stimulus; never neurons
Source: Rozell, Johnson, Baraniuk & Olshausen 2008; Balavoine, Romberg & Rozell 2012

A batch of stimuli is a parameter of the law of motion: neurons never see it, only its residual. A new frame is
another system over the same state (`follow`), and so potentials carry over.
"""

from collections.abc import Callable, Iterable, Iterator

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from ..core.message import Best, Outer, Sum
from ..core.run import canonical, run
from ..core.system import AbstractSystem, State


def soft(size: Float[Array, "..."], price: Float[Array, "..."]) -> Array:
    """Return what of a potential's size exceeds the price."""
    return jnp.maximum(size - price, 0.0)


def hard(size: Float[Array, "..."], price: Float[Array, "..."]) -> Array:
    """Return a potential's whole size where it exceeds the price."""
    return jnp.where(size > price, size, 0.0)


class Neuron(eqx.Module):
    """One neuron.

    Args:
        field: φ, its receptive field, of norm one.
        potential: u, its membrane potential for each stimulus of the batch.
    """

    field: Float[Array, " inputs"]
    potential: Float[Array, " batch"]


class Unexplained(eqx.Module):
    """The signal.

    Args:
        residual: r = x − aD, what remains unexplained.
        price: λ, what activity costs; one per stimulus.
        active: How many neurons are active; one per stimulus.
        pace: By how much the price may move in a round, relative to itself; 0 if it is fixed.
        excess: The sign of (active − winners) when the price last moved.
        unrest: The largest speed of a potential or a price; 0 at rest.
    """

    residual: Float[Array, "batch inputs"]
    price: Float[Array, " batch"]
    active: Int[Array, " batch"]
    pace: Float[Array, " batch"]
    excess: Int[Array, " batch"]
    unrest: Float[Array, ""]


class Competition(AbstractSystem):
    """Rozell's locally competitive algorithm: u ← u + η(φ·r + a − u) with a = T(u), and r = x − Σ a φ.

    A step is stable if η times the largest eigenvalue of the active fields' Gram matrix is below two.

    With `winners` the price is no parameter but public: each stimulus raises its own while more neurons than that
    are active, and lowers it while fewer are, by less and less as it swings.

    Args:
        stimuli: x, one row per stimulus.
        penalty: λ, one per stimulus; where the price starts if there are `winners`.
        step: η = dt/τ, in (0, 1].
        threshold: T on sizes, `soft` or `hard`.
        signed: Whether a neuron may be active with either sign.
        winners: How many neurons shall be active, or None for a fixed price.

    Reference:
        Rozell, Johnson, Baraniuk & Olshausen (2008), Sparse coding via thresholding and local competition in neural
        circuits, eqs. 3.1-3.4, doi:10.1162/neco.2008.03-07-486. Sign-driven paces: Riedmiller & Braun (1993).
    """

    stimuli: Float[Array, "batch inputs"]
    penalty: Float[Array, " batch"]
    step: Float[Array, ""]
    threshold: Callable[[Array, Array], Array] = eqx.field(static=True, default=soft)
    signed: bool = eqx.field(static=True, default=True)
    winners: int | None = eqx.field(static=True, default=None)

    def active(self, potential: Float[Array, "*n batch"], price: Float[Array, " batch"]) -> Float[Array, "*n batch"]:
        """Return the activity that potentials stand for."""
        price = jnp.broadcast_to(price, potential.shape)
        if self.signed:
            return jnp.sign(potential) * self.threshold(jnp.abs(potential), price)
        return self.threshold(jnp.maximum(potential, 0.0), price)

    def respond(self, agent, signal, key):
        del key
        drive = signal.residual @ agent.field
        speed = drive + self.active(agent.potential, signal.price) - agent.potential
        potential = agent.potential + self.step * speed
        activity = self.active(potential, signal.price)
        fastest = jnp.max(jnp.abs(speed))
        message = {
            "explained": Outer(activity, agent.field),
            "active": Sum(activity != 0),
            "speed": Best(-fastest, fastest),
        }
        return Neuron(agent.field, potential), message

    def propagate(self, signal, total):
        residual, active = self.stimuli - total["explained"], total["active"]
        if self.winners is None:
            still = jnp.zeros_like(signal.pace)
            return Unexplained(residual, self.penalty, active, still, signal.excess, total["speed"])
        price, pace, excess = _priced(signal, active - self.winners)
        unrest = jnp.maximum(total["speed"], jnp.max(jnp.abs(price - signal.price)))
        return Unexplained(residual, price, active, pace, excess, unrest)


def _priced(signal: Unexplained, surplus: Int[Array, " batch"]) -> tuple[Array, Array, Array]:
    """Move each stimulus's price against the number of neurons too many, slower after each swing."""
    sign = jnp.sign(surplus)
    swung = (sign * signal.excess) < 0
    pace = jnp.where(swung, 0.5, jnp.where(sign == 0, 1.0, 1.05)) * signal.pace
    pace = jnp.minimum(pace, FASTEST)
    # A stimulus that nobody can explain would take its price to zero, which is no price.
    price = jnp.maximum(signal.price * jnp.exp(pace * sign.astype(pace.dtype)), jnp.finfo(pace.dtype).tiny)
    return price, pace, jnp.where(sign == 0, signal.excess, sign)


FASTEST = 0.05
"""No price moves by a larger share of itself in a round, so that potentials can follow."""


def first_state(
    system: Competition, fields: Float[Array, "units inputs"], activity: Float[Array, "batch units"] | None = None
) -> State:
    """Return neurons at rest without a stimulus, or active as given, and all of the stimuli not yet explained.

    Args:
        system: The competition that they will enter.
        fields: The receptive fields.
        activity: Where to start from; silent if not given.
    """
    fields = jnp.asarray(fields, system.stimuli.dtype)
    batch, units = system.stimuli.shape[0], fields.shape[0]
    if activity is None:
        potential, residual = jnp.zeros((units, batch), fields.dtype), system.stimuli
    else:
        activity = jnp.asarray(activity, fields.dtype)
        residual = system.stimuli - activity @ fields
        potential = activity.T
        if system.threshold is soft:
            potential = potential + jnp.sign(potential) * jnp.broadcast_to(system.penalty, potential.shape)
    none, pace = jnp.zeros(batch, jnp.int32), jnp.full(batch, FASTEST if system.winners else 0.0, fields.dtype)
    signal = Unexplained(residual, system.penalty, none, pace, none, jnp.asarray(jnp.inf, fields.dtype))
    return State(Neuron(fields, potential), signal)


def read_activity(system: Competition, state: State) -> Float[Array, "batch units"]:
    """Return the neurons' activity, one row per stimulus."""
    return system.active(state.agents.potential, state.signal.price).T


def follow(
    system: Competition, state: State, frames: Iterable[Float[Array, "batch inputs"]], rounds: int
) -> Iterator[State]:
    """Show one frame after another to the same neurons, whose potentials carry over.

    Args:
        system: The competition; its own stimuli only give the shape of a frame.
        state: Where to start.
        frames: Batches of stimuli; the k-th rows of all of them are one stream.
        rounds: How many rounds each frame stays.

    Yields:
        The state at the end of each frame (`read_activity`).
    """
    for frame in frames:
        system, state = _shown(system, state, jnp.asarray(frame, system.stimuli.dtype), rounds)
        yield state


@eqx.filter_jit
def follow_all(
    system: Competition, state: State, frames: Float[Array, "frames batch inputs"], rounds: int
) -> Float[Array, "frames batch units"]:
    """Return the activity at the end of each frame, as `follow` shows them; all frames are one compiled program."""

    def show(carry: tuple[Competition, State], frame: Float[Array, "batch inputs"]):
        carry = _shown(*carry, frame, rounds)
        return carry, read_activity(*carry)

    return lax.scan(show, (system, canonical(state)), frames)[1]


def _shown(
    system: Competition, state: State, frame: Float[Array, "batch inputs"], rounds: int
) -> tuple[Competition, State]:
    """Return the competition for a frame, and its state after some rounds."""
    residual = state.signal.residual + (frame - system.stimuli)
    system = eqx.tree_at(lambda one: one.stimuli, system, frame)
    return system, run(system, eqx.tree_at(lambda one: one.signal.residual, state, residual), rounds).state


class Within(eqx.Module):
    """The measure of rest: the largest speed of a potential or price, per price, in units of the tolerance."""

    tol: Float[Array, ""]

    def __call__(self, before: Unexplained, after: Unexplained) -> Array:
        """Return how far from rest the signal is, at rest when at most one."""
        del before
        return after.unrest / (self.tol * jnp.min(after.price))
