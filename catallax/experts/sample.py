"""Text that a language model writes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int, Key, PyTree

from .model import LanguageModel


def generate(
    model: LanguageModel,
    states: PyTree,
    prompt: bytes,
    count: int,
    *,
    temperature: float = 0.8,
    seed: int = 0,
) -> bytes:
    """Go on with a text.

    Prices are the frozen ones and every expert has a place for every token, so that a byte depends on none after it.

    Args:
        model: The model.
        states: The routers'.
        prompt: What the text begins with; of a long one the last `context` bytes count.
        count: How many bytes to write.
        temperature: Logits are divided by it; 0 writes the likeliest byte each time.
        seed: Sets the draws.

    Returns:
        The bytes written, without the prompt.

    Raises:
        ValueError: if the prompt is empty or a number is out of range.
    """
    if not prompt:
        raise ValueError("the prompt is empty; give at least one byte to go on from")
    if count < 0 or not 0 <= temperature < float("inf"):
        raise ValueError(f"count is {count} and temperature {temperature}; neither may be negative or infinite")
    if count == 0:
        return b""
    context = model.shape.context
    known = np.frombuffer(prompt[-context:], np.uint8).astype(np.int32)
    start = jnp.asarray(np.pad(known, (0, context - len(known))))
    # Room for a power of two, so that few lengths are compiled.
    room = 1 << (count - 1).bit_length()
    key = jax.random.key(seed)
    written = _written(model, states, start, jnp.int32(len(known)), jnp.float32(temperature), key, room)
    return np.asarray(written)[:count].astype(np.uint8).tobytes()


@eqx.filter_jit
def _written(
    model: LanguageModel,
    states: PyTree,
    known: Int[Array, " context"],
    length: Int[Array, ""],
    temperature: Array,
    key: Key[Array, ""],
    count: int,
) -> Int[Array, " count"]:
    context, shape = model.shape.context, model.shape

    def write(carry, number):
        known, length = carry
        logits = model(known[None], states, train=False, capacity_factor=shape.experts / shape.active)[0][0]
        logits = logits[length - 1]
        drawn = jax.random.categorical(jax.random.fold_in(key, number), logits / jnp.maximum(temperature, 1e-6))
        new = jnp.where(temperature > 0, drawn, jnp.argmax(logits)).astype(jnp.int32)
        # When the window is full, its first byte makes room.
        full = length == context
        known = jnp.where(full, jnp.roll(known, -1), known)
        place = jnp.where(full, context - 1, length)
        return (known.at[place].set(new), jnp.minimum(length + 1, context)), new

    return lax.scan(write, (known, length), jnp.arange(count))[1]
