"""Settings that find bugs. They must be made before JAX starts, so nothing here may import it any earlier."""

import os
import zlib

# Eight devices on one CPU: what must not depend on their number is tested on 1, 2 and 8.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")

import hypothesis
import pytest
from jaxtyping import install_import_hook

# The core's annotations state shapes and dtypes; the tests hold it to them. Not settle.py: the implicit
# derivative takes only bare global functions, which the hook would wrap.
CHECKED = [f"catallax.core.{name}" for name in ("exchange", "mesh", "message", "result", "run", "system")]
with install_import_hook(CHECKED, "beartype.beartype"):
    import catallax.core.run  # noqa: F401

import jax  # noqa: E402 - after the hook

DTYPE_PROMOTION = "strict"
"""Strict finds where two dtypes meet by accident; "standard" lets them."""

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", DTYPE_PROMOTION)

hypothesis.settings.register_profile("default", derandomize=True, deadline=None, max_examples=30)
hypothesis.settings.register_profile("long", deadline=None, max_examples=2000)
hypothesis.settings.load_profile("default")


@pytest.fixture
def key(request: pytest.FixtureRequest) -> jax.Array:
    """A key of the test's own, the same on every run."""
    return jax.random.key(zlib.crc32(request.node.nodeid.encode()))
