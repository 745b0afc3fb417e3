"""Moves as bands: which way, and how likely. What the compiled passes through time read, on the CPU.

A step of a pass is short, and XLA spends longer on beginning it than on the step. The loops of `_banded` are one
operation for the whole pass instead. `passes` takes them where they are faster, and JAX's own elsewhere; both say the
same but for rounding.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Bands(eqx.Module):
    """Moves that nothing changes, on states in a row: from each state a way leads so many states ahead, or back.

    What lies ahead of an action is the sum over its ways k of weights[k, s] · x[s + ways[k]], where x are the values,
    or what a gust makes of them first: Σ_g gust[g, s] · value[s + gust_ways[g]]. A way that leads off the row has
    weight zero.

    Args:
        weights: How likely each way is from each state.
        gust: How likely each way of a gust is that follows every action; no rows if there is none.
        ways: How many states ahead each way leads, action by action.
        counts: How many ways each action has.
        gust_ways: As `ways`, of a gust.
    """

    weights: Float[Array, "K S"]
    gust: Float[Array, "G S"]
    ways: tuple[int, ...] = eqx.field(static=True)
    counts: tuple[int, ...] = eqx.field(static=True)
    gust_ways: tuple[int, ...] = eqx.field(static=True)

    def look_back(
        self,
        flow: Float[Array, "T1 S"],
        reward: Float[Array, "T A S"],
        policy: Float[Array, "T A S"],
        last: Float[Array, " S"] | Float[Array, ""],
        discount: Float[Array, ""],
        beside: bool,
    ) -> tuple[Float[Array, "T1 S"], Float[Array, "T A S"], Float[Array, " 2"]]:
        """Return a policy's values and what each action is worth before it; if wanted, what a best response gains over
        it from the first density on, and the largest difference of two rewards."""
        (decisions, _, states), dtype = reward.shape, reward.dtype
        firsts = np.concatenate([[0], np.cumsum(self.counts)])
        ways, gust_ways = self._margin + np.asarray(self.ways), self._margin + np.asarray(self.gust_ways, int)
        # What is one step away counts by the discount.
        weights = discount * self.weights.astype(dtype)
        given = flow, reward, policy, last.reshape(-1), weights, _counts(ways), _counts(firsts)
        room = 4 * (states + 2 * self._margin) + 8 * states
        shapes = (decisions + 1, states), reward.shape, (2 * beside,), (room,)
        found = tuple(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes)
        gust = self.gust.astype(dtype), _counts(gust_ways), _counts([self._margin])
        return _call("look_back", found, *given, *gust)

    def follow(
        self, flow: Float[Array, "T1 S"], logits: Float[Array, "T A S"]
    ) -> tuple[Float[Array, "T A S"], Float[Array, "T A S"], Float[Array, "T1 S"]]:
        """Return logits less the greatest of each state's, their softmax, and the flow from a first density."""
        (decisions, choices, states), dtype = logits.shape, logits.dtype
        # Mass comes from where it is one way back; every action has a row of it.
        wide = states + 2 * self._margin
        rows = np.repeat(np.arange(len(self.counts)), self.counts) * wide
        ways, gust_ways = (self._margin - np.asarray(x, int) for x in (self.ways, self.gust_ways))
        weights, gust = (
            _arriving(self.weights.astype(dtype), self.ways),
            _arriving(self.gust.astype(dtype), self.gust_ways),
        )
        shapes = logits.shape, logits.shape, (decisions + 1, states), ((choices + 1) * wide + 3 * states,)
        found = tuple(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes)
        given = weights, _counts(rows + ways), gust, _counts(gust_ways), _counts([self._margin])
        # The flow takes the place of the one whose first density it starts from.
        return _call("follow", found, flow, logits, *given, replaced={0: 2})

    @property
    def _margin(self) -> int:
        """How far the longest way leads."""
        return max((abs(way) for way in (*self.ways, *self.gust_ways)), default=0)


def _arriving(weights: Float[Array, "K S"], ways: tuple[int, ...]) -> Float[Array, "K S"]:
    """Return weights as they are found where each way ends, instead of where it begins."""
    if not ways:
        return weights
    return jnp.stack([jnp.roll(row, way) for row, way in zip(weights, ways, strict=True)])


def _counts(numbers: Any) -> Array:
    return jnp.asarray(numbers, jnp.uint32)


def _call(
    operation: str, found: tuple, *given: Array, replaced: dict[int, int] | None = None
) -> tuple[Array, Array, Array]:
    """Call a compiled loop; which operands, by number, it may replace by which results."""
    from ..native import named  # numba takes a second to load
    from . import _banded as loops

    name = named(getattr(loops, operation), given[0].dtype.name)
    call = jax.ffi.ffi_call(name, found, vmap_method="sequential", input_output_aliases=replaced)
    # The last result is the loop's scratch memory, which XLA has at hand.
    first, second, third, _ = call(*given)
    return first, second, third
