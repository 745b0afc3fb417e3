"""Spreading agents over devices. Only the total crosses between them."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

AXIS = "agents"
"""The name of the mesh axis along which agents are sharded."""


def mesh(devices: int | list[Any] | None = None) -> Mesh:
    """Return a mesh for `run(..., mesh=)` and `settle(..., mesh=)`.

    Args:
        devices: How many devices, or which; all by default. On a CPU, set
            `XLA_FLAGS=--xla_force_host_platform_device_count=8` before JAX starts to have eight.

    Raises:
        ValueError: if there are fewer devices than asked for.
    """
    available = jax.devices()
    if devices is None:
        devices = available
    elif isinstance(devices, int):
        if not 1 <= devices <= len(available):
            raise ValueError(f"{devices} devices asked for; {len(available)} at hand ({available[0].platform})")
        devices = available[:devices]
    return Mesh(np.array(devices), (AXIS,))
