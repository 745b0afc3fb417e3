"""Experts that leave and experts that enter a trained network, and what follows.

An infinite price keeps tokens away from an expert and leaves all arrays as they are (`exiled`); `remove` takes its
parameters out, so that the others' places grow and hold all tokens again; `add` brings a new one in.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .layer import MarketMoE
from .model import LanguageModel, Shape
from .train import Training, first_training


def exiled(model: LanguageModel, expert: int) -> Float[Array, "blocks experts"]:
    """Return what to add to the prices, `price_offset`, so that no token takes an expert, in any block.

    Raises:
        ValueError: if there is no such expert.
    """
    _there(model, expert)
    return jnp.zeros((model.shape.blocks, model.shape.experts)).at[:, expert].set(jnp.inf)


def remove(training: Training, expert: int) -> Training:
    """Take an expert out of every block: its parameters, its price and its optimiser's memory.

    Args:
        training: With more experts than a token takes.
        expert: Its number.

    Returns:
        The same training of a model whose `shape.experts` is one less; experts after it move up.

    Raises:
        ValueError: if there is no such expert, or too few would be left.
    """
    _there(training.model, expert)
    shape = training.model.shape
    if shape.experts <= shape.active:
        raise ValueError(f"a token takes {shape.active} of {shape.experts} experts; none can be removed")
    return _resized(
        training,
        shape.experts - 1,
        lambda old, new, axis: np.delete(old, expert, axis=axis),
        lambda shape: eqx.filter_eval_shape(first_training, shape),
    )


def add(training: Training, *, like: int | None = None, noise: float = 0.1, seed: int = 0) -> Training:
    """Bring a new expert into every block, the last in number.

    Args:
        training: With experts.
        like: Begin as a copy of this expert plus noise, at its price; None begins at random, as the first ones did,
            at a price of zero.
        noise: How much of such a random beginning is added to a copy.
        seed: Sets the random beginning.

    Returns:
        The same training of a model whose `shape.experts` is one more; the optimiser remembers nothing of it.

    Raises:
        ValueError: if there is no expert to copy.
    """
    if like is not None:
        _there(training.model, like)

    def entered(old: Any, new: Any, axis: int) -> np.ndarray:
        fresh = np.take(new, [-1], axis=axis)
        if like is not None:
            fresh = np.take(old, [like], axis=axis) + noise * fresh
        return np.concatenate([old, fresh], axis=axis, dtype=old.dtype)

    experts = training.model.shape.experts + 1
    return _resized(training, experts, entered, lambda shape: first_training(shape, seed=seed))


def _there(model: LanguageModel, expert: int) -> None:
    if not isinstance(model.blocks.layer, MarketMoE) or not 0 <= expert < model.shape.experts:
        raise ValueError(f"there is no expert {expert}; this model has {_count(model)}")


def _count(model: LanguageModel) -> str:
    return f"0 to {model.shape.experts - 1}" if isinstance(model.blocks.layer, MarketMoE) else "none"


def _resized(
    training: Training, experts: int, splice: Callable[[Any, Any, int], np.ndarray], make: Callable[[Shape], Training]
) -> Training:
    """Return a training whose arrays with an axis of experts are spliced, all others kept.

    Args:
        training: The old one.
        experts: How many the new one has.
        splice: From an old array, that of a new beginning, and the axis at which they differ.
        make: How a new training begins, or what it looks like.
    """
    blank = make(dataclasses.replace(training.model.shape, experts=experts))
    old = jax.tree.leaves(eqx.filter(training, eqx.is_array))
    leaves, structure = jax.tree.flatten(blank)
    joined = [
        next((jnp.asarray(splice(a, b, axis)) for axis in range(a.ndim) if a.shape[axis] != b.shape[axis]), a)
        for a, b in zip(old, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, joined)
