"""The layer for Flax answers, learns and is refused as the one for Equinox."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from catallax.cortex.layer import CompetitiveLayer

SETTINGS = {"strength": 0.4, "tol": 1e-5, "max_rounds": 300}


def test_without_flax_the_error_says_what_to_install():
    script = (
        "import sys; sys.modules['flax'] = None\n"
        "try: import catallax.cortex.nnx\n"
        "except ImportError as error: print(error)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "pip install 'catallax[flax]'" in ended.stdout, ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def pair():
    """The same layer twice, for Flax and for Equinox, and a batch of a batch of inputs."""
    nnx = pytest.importorskip("flax.nnx", reason="Flax is an extra")
    from catallax.cortex.nnx import CompetitiveLayer as ForFlax

    ours = ForFlax(6, 9, rngs=nnx.Rngs(params=4), **SETTINGS)
    theirs = CompetitiveLayer(6, 9, key=nnx.Rngs(params=4).params(), **SETTINGS)
    return nnx, ours, theirs, jax.random.normal(jax.random.key(1), (2, 5, 6))


def test_it_answers_and_learns_as_the_layer_for_equinox_does(pair):
    nnx, ours, theirs, x = pair

    def told(layer):
        activity = layer(x)
        return jnp.sum(activity**2), activity

    def known(layer):
        return told(jax.vmap(jax.vmap(layer)))

    slope, activity = nnx.jit(nnx.grad(told, has_aux=True))(ours)
    wanted, expected = jax.jit(jax.grad(known, has_aux=True))(theirs)
    assert activity.shape == (2, 5, 9) and 0 < np.mean(np.asarray(activity) > 0) < 1
    np.testing.assert_allclose(activity, expected, rtol=1e-5, atol=1e-6)
    assert set(slope) == set(nnx.state(ours, nnx.Param)) == {"weight", "bias"}
    np.testing.assert_allclose(slope["weight"][...], wanted.weight, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(slope["bias"][...], wanted.bias, rtol=1e-3, atol=1e-4)


def test_wrong_use_is_refused(pair):
    nnx, ours, *_ = pair
    with pytest.raises(ValueError, match="takes one input of 6 numbers"):
        ours(jnp.zeros((3, 5)))
    with pytest.raises(ValueError, match="below 1, where rest is unique"):
        type(ours)(2, 3, strength=1.0, rngs=nnx.Rngs(0))
