"""Adam and AdamW against their published formulas in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from catallax.adam import adamw

SLOPES = np.random.default_rng(0).normal(size=(5, 3))


def by_hand(start, rate, b1, b2, eps, decay):
    """Loshchilov & Hutter (2019), algorithm 2, line by line."""
    value, mean, square = start.copy(), np.zeros(3), np.zeros(3)
    for number, slope in enumerate(SLOPES, 1):
        mean = b1 * mean + (1 - b1) * slope
        square = b2 * square + (1 - b2) * slope**2
        step = (mean / (1 - b1**number)) / (np.sqrt(square / (1 - b2**number)) + eps)
        value = value - rate(number - 1) * (step + decay * value)
    return value


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(
    "rate", [0.1, lambda step: 0.1 / (step.astype(jnp.float32) + 1.0)], ids=["constant", "falling"]
)
def test_adamw_is_its_algorithm(rate, decay):
    start = np.array([1.0, -2.0, 3.0])
    optimiser = adamw(rate, b1=0.8, b2=0.95, eps=1e-3, decay=decay)
    value = {"x": jnp.asarray(start, jnp.float32)}
    memory = optimiser.init(value)
    for slope in SLOPES:
        moves, memory = optimiser.update({"x": jnp.asarray(slope, jnp.float32)}, memory, value)
        value = jax.tree.map(jnp.add, value, moves)
    pace = (lambda step: 0.1 / (step + 1)) if callable(rate) else (lambda step: rate)
    np.testing.assert_allclose(value["x"], by_hand(start, pace, 0.8, 0.95, 1e-3, decay), rtol=2e-6)
    assert int(memory.step) == len(SLOPES)


def test_decay_without_parameters_is_refused():
    optimiser = adamw(0.1, decay=0.1)
    slope = jnp.ones(2)
    with pytest.raises(ValueError, match="weight decay needs the parameters"):
        optimiser.update(slope, optimiser.init(slope))
