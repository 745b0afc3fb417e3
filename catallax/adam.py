"""Adam, and AdamW in the form that optimisers take in JAX.

    optimiser = adamw(1e-3)
    memory = optimiser.init(parameters)
    moves, memory = optimiser.update(slope, memory, parameters)
    parameters = jax.tree.map(jnp.add, parameters, moves)

`init` and `update` have the arguments and results of an optax `GradientTransformation`, so that either can take the
other's place.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int


class Moments(NamedTuple):
    """Running means of slopes and of their squares, each shaped as the parameters."""

    first: Any
    second: Any

    @classmethod
    def zeros(cls, parameters: Any) -> "Moments":
        """Those before the first step: nothing seen."""
        return cls(*(jax.tree.map(jnp.zeros_like, parameters) for _ in cls._fields))


class Memory(NamedTuple):
    """What AdamW carries from step to step: how many there were, and the moments."""

    step: Int[Array, ""]
    moments: Moments


class Optimiser(NamedTuple):
    """An optimiser: two pure functions.

    Args:
        init: From the parameters, the memory before the first step.
        update: From the slope, the memory and the parameters, what to add to the parameters and the new memory.
    """

    init: Callable[[Any], Any]
    update: Callable[[Any, Any, Any], tuple[Any, Any]]


def adam(
    slope: Any, moments: Moments, step: Int[Array, ""], *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> tuple[Any, Moments]:
    """Return the direction to go against at a rate of one, and the new moments.

    Args:
        slope: The gradient, a pytree of arrays.
        moments: Those of the steps before.
        step: How many steps there were before.
        b1, b2: How much of the running means of slopes and of squares is kept.
        eps: Keeps parameters without a slope where they are.

    Reference:
        Kingma & Ba (2015), Adam: a method for stochastic optimization, algorithm 1.
    """
    first = jax.tree.map(lambda mean, new: b1 * mean + (1 - b1) * new, moments.first, slope)
    second = jax.tree.map(lambda mean, new: b2 * mean + (1 - b2) * new**2, moments.second, slope)
    count = (step + 1).astype(jnp.float32)
    # Moments begin at zero, and are scaled up for what they have not seen.
    sizes = jax.tree.map(lambda mean: jnp.sqrt(mean / (1 - b2**count)) + eps, second)
    return jax.tree.map(lambda mean, size: mean / (1 - b1**count) / size, first, sizes), Moments(first, second)


def adamw(
    rate: float | Callable[[Int[Array, ""]], Any],
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    decay: float = 0.0,
) -> Optimiser:
    """Adam with weight decay apart from the slope: x += −rate·(direction + decay·x).

    Args:
        rate: The learning rate, or a function from the number of steps before to it.
        b1, b2, eps: See `adam`.
        decay: Share of each parameter that a rate of one takes away per step; 0 is plain Adam.

    Reference:
        Loshchilov & Hutter (2019), Decoupled weight decay regularization, algorithm 2.
    """

    def init(parameters: Any) -> Memory:
        return Memory(jnp.int32(0), Moments.zeros(parameters))

    def update(slope: Any, memory: Memory, parameters: Any = None) -> tuple[Any, Memory]:
        if decay and parameters is None:
            raise ValueError("weight decay needs the parameters: update(slope, memory, parameters)")
        pace = rate(memory.step) if callable(rate) else rate
        direction, after = adam(slope, memory.moments, memory.step, b1=b1, b2=b2, eps=eps)
        if decay:
            direction = jax.tree.map(lambda move, value: move + decay * value, direction, parameters)
        return jax.tree.map(lambda move: -pace * move, direction), Memory(memory.step + 1, after)

    return Optimiser(init, update)
