"""The compiled loops of `balance` and `assign` find what XLA's find, in both precisions, in every transformation."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from catallax.experts.balance import balance
from catallax.experts.clear import assign

balancing, clearing = (sys.modules[law.__module__] for law in (balance, assign))


def drawn(tokens, experts, dtype="float32", seed=0):
    """Return affinities of tokens of three domains for experts of whom some suit everybody, and prices to start at."""
    draw = np.random.default_rng(seed)
    liked = draw.normal(size=(3, experts))[draw.integers(3, size=tokens)] + draw.normal(size=experts)
    return (jnp.asarray(x, dtype) for x in (draw.normal(size=(tokens, experts)) + liked, draw.normal(size=experts)))


def scans(monkeypatch, active, capacity, tol):
    """Return `balance` by XLA's loops, which it takes from here on: of affinities, prices to start at and sweeps."""
    monkeypatch.setattr(balancing, "SMALL", 0)
    return jax.jit(lambda a, p, sweeps: balance.__wrapped__(a, active, capacity, p, tol=tol, sweeps=sweeps))


def loads(affinity, price, active):
    chosen = jax.lax.top_k(affinity - price[None], active)[1]
    return np.bincount(np.asarray(chosen).ravel(), minlength=len(price))


# Tokens that fill no whole vector or cache line; one to eight active experts, an odd number of them; places to spare.
@pytest.mark.parametrize(
    ("tokens", "experts", "active", "room", "dtype"),
    [
        (203, 7, 2, 0, "float32"),
        (64, 2, 1, 0, "float32"),
        (99, 9, 3, 0, "float32"),
        (203, 7, 2, 9, "float32"),
        pytest.param(203, 7, 2, 9, "float64", marks=pytest.mark.bench),
        pytest.param(130, 12, 8, 4, "float64", marks=pytest.mark.bench),
    ],
)
def test_the_compiled_loop_finds_what_scans_find(monkeypatch, tokens, experts, active, room, dtype):
    with jax.enable_x64(dtype == "float64"):
        affinity, start = drawn(tokens, experts, dtype)
        capacity = -(-active * tokens // experts) + room
        # An expert whom nobody likes is paid to take the idle.
        affinity, tol = (affinity.at[:, 0].add(-6.0), 0.0) if room else (affinity, 0.02)
        counts = [jnp.int32(sweeps) for sweeps in (0, 1, 4, 128)]
        found = [balance(affinity, active, capacity, start, tol=tol, sweeps=sweeps) for sweeps in counts]
        by_scans = scans(monkeypatch, active, capacity, tol)
        for one, sweeps in zip(found, counts, strict=True):
            wanted = by_scans(affinity, start, sweeps)
            assert one.dtype == wanted.dtype == dtype and float(one.min()) == 0
            # A step is extrapolated from nearly equal changes, which makes more of rounding.
            np.testing.assert_allclose(one, wanted, atol={"float32": 5e-3, "float64": 1e-9}[dtype])
        most = max(int(capacity * (1 + tol)), capacity + (tol > 0))
        assert loads(affinity, found[-1], active).max() <= most


def test_in_the_end_sweeps_are_plain(monkeypatch):
    affinity, start = drawn(203, 7)
    options = {"tol": 0.0, "sweeps": jnp.int32(4)}
    hasty = balance(affinity, 2, 58, start, **options)
    monkeypatch.setattr(balancing, "HASTE", 1)
    plain = balance.__wrapped__(affinity, 2, 58, start, **options)
    wanted = scans(monkeypatch, 2, 58, 0.0)(affinity, start, options["sweeps"])
    np.testing.assert_allclose(plain, wanted, atol=1e-5)
    assert np.abs(plain - hasty).max() > 1e-3


def ties(tokens, experts):
    return np.random.default_rng(4).integers(3, size=(tokens, experts)).astype(float)


def closed(tokens, experts):
    """Affinities of which a third are out of reach, and one expert for everybody."""
    draw = np.random.default_rng(6)
    affinity = draw.normal(size=(tokens, experts))
    affinity[draw.random((tokens, experts)) < 0.3] = -np.inf
    affinity[:, 2] = -np.inf
    affinity[7] = -np.inf
    return affinity


# Affinities, active experts, places: tokens that flock to few experts and bid in several rounds, more experts than a
# word has bits, ties, experts and tokens out of reach, all experts for all, places that only swaps can fill, too few.
MARKETS = {
    "flocks": (lambda: next(drawn(700, 9)), 2, 160),
    "words": (lambda: next(drawn(90, 70)), 3, 4),
    "ties": (lambda: ties(150, 6), 2, 50),
    "closed": (lambda: closed(120, 8), 2, 40),
    "all": (lambda: next(drawn(12, 4)), 4, 12),
    "too few for all": (lambda: next(drawn(12, 4)), 4, 8),
    "swaps": (lambda: np.tile(np.arange(4.0), (9, 1)), 3, 7),
    "too few": (lambda: next(drawn(203, 7)), 2, 50),
    "none": (lambda: np.full((20, 3), np.nan), 2, 14),
}


@pytest.mark.parametrize("name", [*MARKETS, pytest.param("words in double", marks=pytest.mark.bench)])
def test_the_compiled_repair_is_that_of_scans(monkeypatch, name):
    make, active, capacity = MARKETS[name.removesuffix(" in double")]
    dtype = "float64" if name.endswith("double") else "float32"
    with jax.enable_x64(dtype == "float64"):
        affinity = jnp.asarray(make(), dtype)
        prices = jnp.zeros(affinity.shape[1], dtype)
        found = assign(affinity, prices, active, capacity)
        monkeypatch.setattr(clearing, "SMALL", 0)
        wanted = jax.jit(lambda a, p: assign.__wrapped__(a, p, active, jnp.int32(capacity)))(affinity, prices)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        moved = int(jnp.sum(jnp.maximum(found.load - capacity, 0)))
        assert moved > 256 if name == "flocks" else True  # More than bid at once.


def test_where_they_serve():
    def calls(law, *shape):
        given = (jax.ShapeDtypeStruct(size, jnp.float32) for size in (shape, shape[1:]))
        text = jax.jit(law).lower(*given).as_text()
        return "catallax.experts._" in text

    def balanced(active):
        return lambda a, p: balance(a, active, 40, p, tol=0.02)

    assert calls(balanced(2), 100, 5)
    assert not calls(balanced(5), 100, 5)
    assert not calls(balanced(2), 1 << 18, 16)
    assert calls(lambda a, p: assign(a, p, 5, 100), 100, 5)
    assert calls(lambda a, p: assign(a, p, 2, 1 << 15), 1 << 18, 16)
    assert not calls(lambda a, p: assign(a, p, 2, 1 << 16), 1 << 19, 16)


def test_within_scan_vmap_and_remat_it_is_the_same_and_has_no_gradient():
    affinity, start = drawn(101, 5)

    def loss(a):
        found = jax.checkpoint(lambda a: balance(a, 2, 41, start, tol=0.0, sweeps=jnp.int32(3)))(a)
        return jnp.sum(a - found[None]), found

    batch = jnp.stack([affinity, affinity[::-1]])[None]
    both = jax.jit(lambda b: jax.lax.scan(lambda c, x: (c, jax.vmap(jax.grad(loss, has_aux=True))(x)), 0, b)[1])
    slope, found = both(batch)
    alone = balance(affinity, 2, 41, start, tol=0.0, sweeps=3)
    np.testing.assert_array_equal(found[0], jnp.stack([alone, alone]))
    np.testing.assert_array_equal(slope, jnp.ones_like(batch))
