"""The layer of units that compete, for Flax: a module of `flax.nnx` in place of `nnx.Linear` and ReLU.

This room alone needs Flax, so its name is imported from here and not from the package.
"""

import functools

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..errors import MissingExtra
from . import layer

try:
    from flax import nnx  # pyright: ignore[reportMissingImports]
except ImportError:
    raise MissingExtra("flax") from None

__all__ = ["CompetitiveLayer"]


class CompetitiveLayer(nnx.Module):
    """Units that settle by local competition before the layer answers; see `catallax.cortex.CompetitiveLayer`.

    As Flax's layers do, it takes inputs of any leading shape, and names the stream of keys that it draws from.

    Args:
        weight: Receptive fields before they are brought to unit length, an `nnx.Param` of shape (units, inputs).
        bias: Added to what a unit receives, an `nnx.Param` of shape (units,).
    """

    def __init__(
        self,
        inputs: int,
        units: int,
        *,
        strength: float = 0.5,
        tol: float = 1e-4,
        max_rounds: int = 500,
        rngs: nnx.Rngs,
    ):
        """Draw fields evenly over all directions, without bias.

        Args:
            inputs: Size of an input.
            units: Size of an answer.
            strength, tol, max_rounds: As for `catallax.cortex.CompetitiveLayer`.
            rngs: Randomness; its stream `params` is used.

        Raises:
            ValueError: if a size is below one, or strength outside [0, 1).
        """
        self._settings = {"strength": strength, "tol": tol, "max_rounds": max_rounds}
        drawn = layer.CompetitiveLayer(inputs, units, key=rngs.params(), **self._settings)
        self.weight, self.bias = nnx.Param(drawn.weight), nnx.Param(drawn.bias)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch units"]:
        """Return the activity at rest for each input.

        Raises:
            ValueError: if inputs are not of the layer's size.
        """
        weight, bias = self.weight[...], self.bias[...]
        settled = functools.partial(layer.answer, weight, bias, **self._settings)
        return jnp.vectorize(settled, signature="(i)->(u)")(x)
