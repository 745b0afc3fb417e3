"""Small systems that several tests share."""

import math
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from catallax import AbstractSystem, Best, Deposit, Outer, State, Sum, run

SITES = 5


class Crowd(AbstractSystem):
    """Agents that move at random towards the signal and emit every kind of message."""

    pull: jax.Array = eqx.field(default_factory=lambda: jnp.array(0.1))

    def respond(self, agent, signal, key):
        first, second = jax.random.split(key)
        x = (
            agent["x"]
            + self.pull * (signal["mean"] - agent["x"])
            + 0.1 * jax.random.normal(first, dtype=agent["x"].dtype)
        )
        site = jax.random.randint(second, (), 0, SITES)
        vector = jnp.stack([x, jnp.ones_like(x)])
        message = {
            "sum": Sum({"x": x, "heads": jnp.int32(1)}),
            "outer": Outer(vector, jnp.stack([x, x**2, jnp.ones_like(x)])),
            "counts": Deposit(site, agent["weight"], sites=SITES),
            "best": Best(jnp.abs(x), {"x": x, "name": agent["name"]}),
        }
        return {**agent, "x": x}, message

    def propagate(self, signal, total):
        heads = total["sum"]["heads"]
        return {
            "mean": total["sum"]["x"] / heads.astype(total["sum"]["x"].dtype),
            "heads": heads,
            "outer": total["outer"],
            "counts": signal["counts"] + total["counts"],
            "best": total["best"],
        }


def crowd(n):
    agents = {"x": jnp.linspace(-1.0, 1.0, n), "weight": jnp.arange(n) % 3, "name": 100 + jnp.arange(n)}
    signal = {
        "mean": jnp.zeros(()),
        "heads": jnp.int32(0),
        "outer": jnp.zeros((2, 3)),
        "counts": jnp.zeros(SITES, jnp.int32),
        "best": {"x": jnp.zeros(()), "name": jnp.int32(0)},
    }
    return State(agents, signal)


def assert_same(one, other, rtol=1e-6):
    """Whole numbers bit for bit, floats to rounding relative to the largest entry; rtol=None: every bit."""
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True):
        a, b, name = np.asarray(a), np.asarray(b), jax.tree_util.keystr(path)
        assert a.dtype == b.dtype, name
        if rtol is None or not jnp.issubdtype(a.dtype, jnp.inexact):
            assert a.tobytes() == b.tobytes(), name
        else:
            np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.max(np.abs(a)), err_msg=name)


def program(system, state, rounds=3, **options):
    """Return the compiled program of a run that hands back its signal and status, as text."""

    def signal(state, key):
        result = run(system, state, rounds, key=key, **options)
        return result.state.signal, result.status

    return jax.jit(signal).lower(state, jax.random.key(0)).compile().as_text()


WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}


def buffers(text):
    """List (entries, bytes) of every array in a piece of a compiled program."""
    found = re.findall(rf"\b({'|'.join(WIDTHS)})\[([0-9,]*)\]", text)
    sizes = [math.prod(int(d) for d in dims.split(",") if d) for _, dims in found]
    return [(size, size * WIDTHS[kind]) for size, (kind, _) in zip(sizes, found, strict=True)]
