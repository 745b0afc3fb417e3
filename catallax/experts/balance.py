"""Prices that balance a batch within a tolerance, in as few passes over it as may be: what a training step pays for."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from .clear import (
    TRIALS,
    bounds,
    by_expert,
    demand,
    idle_reserve,
    narrowed,
    once,
    quantile,
    reserves,
    spare,
    total,
    trial_prices,
)

PASSES = 3
"""Passes per sweep of `balance`."""

MEMORY = 3
"""Changes that `balance` extrapolates from."""

BEYOND = 1.6
"""How far `balance` goes, in units of a sweep's own step. Reserves lie in the middle of a gap, so that with all other
prices at rest 2 would close it; all move at once, and 2 would be too far. Of 1 to 2, 1.6 took fewest sweeps."""

HASTE = 32
"""Sweeps after which `balance` extrapolates no more."""

RIDGE = 1e-6
"""What `balance` adds to the diagonal when it extrapolates, as a share of the trace."""

LEAST = 1 / 1024
"""How far at least from the old price a new one is sought, as a share of the affinities' range."""


SMALL = 1 << 21
"""Up to so many affinities the sweeps are one compiled loop on the CPU. Beyond, a pass is long enough for XLA to share
it out among cores, of which the loop uses one."""


class _Search(eqx.Module):
    """What `balance` carries from sweep to sweep.

    Args:
        price: The prices, of which the least is zero.
        span: How far from its price each new one is sought.
        reserve: Tokens' reserves at the prices.
        takers: How many would take each expert at each trial price in the span; in the middle is the price itself.
        moved: The last changes of the prices, newest first.
        turned: The changes, with them, of how far a sweep would move the prices.
        last: The prices one sweep before, and how far that sweep would have moved them.
        swept: Sweeps done.
    """

    price: Float[Array, " experts"]
    span: Float[Array, ""]
    reserve: Float[Array, " tokens"]
    takers: Int[Array, "trials experts"]
    moved: Float[Array, "memory experts"]
    turned: Float[Array, "memory experts"]
    last: tuple[Array, Array]
    swept: Int[Array, ""]


@functools.partial(jax.jit, static_argnames=("active", "axis_name"))
def balance(
    affinity: Float[Array, "tokens experts"],
    active: int,
    capacity: int | Int[Array, ""],
    price: Float[Array, " experts"],
    *,
    tol: float,
    sweeps: int | Int[Array, ""] = 128,
    axis_name: str | None = None,
) -> Float[Array, " experts"]:
    """Return prices at which no expert is asked for more than a share `tol` above its capacity: `clear`, hastened.

    Sweeps of alternating quantiles, with three economies. Each new price is sought near the old one, twice as far as
    prices moved in the last sweep. The first pass of a search counts the demand at the price itself, which tells when
    to stop. And what a sweep would do is extrapolated from the last few (Anderson acceleration), since demand that
    passes from expert to expert along a chain spreads slowly otherwise. Should that not come to rest within `HASTE`
    sweeps, the others are plain ones, none of which raises the dual's value.

    Args:
        affinity: Finite; otherwise as for `clear`.
        active: k, how many experts a token takes.
        capacity: c, places per expert; over all devices, where `axis_name` is given.
        price: Where to start: the last batch's prices, or zeros.
        tol: Stop as soon as no expert is asked for more than this share above its places, rounded down to whole tokens
            (what is less than a token is one).
        sweeps: The most there may be.
        axis_name: The mesh axis along which tokens are spread, inside `jax.shard_map`.

    Returns:
        Prices, of which the least is zero; with the tokens spread over any number of devices the same bit for bit. On
        the CPU, where nothing is spread, a compiled loop finds the same but for rounding.

    Reference:
        Anderson (1965), Iterative procedures for nonlinear integral equations; Walker & Ni (2011), eq. 2.2.
    """
    affinity, price = lax.stop_gradient((affinity, price))
    slack = spare(active, total(len(affinity), axis_name), capacity, price.size)
    places = jnp.asarray(capacity, jnp.int32)
    # Rounded down, so that what is promised holds; but a share of less than a token is a token.
    most = jnp.asarray(capacity, jnp.float32) * (1 + tol)
    low, high = (bound(most).astype(jnp.int32) for bound in (jnp.floor, jnp.ceil))
    enough = jnp.maximum(low, jnp.minimum(high, places + 1))
    law = places, slack, enough, jnp.asarray(sweeps, jnp.int32)
    sought = functools.partial(_sought, affinity, price, law, active, axis_name)
    suits = axis_name is None and affinity.dtype in (jnp.float32, jnp.float64) and active < price.size
    if not suits or affinity.size > SMALL:
        return sought()
    return lax.platform_dependent(cpu=lambda: _compiled(affinity, price, law, active), default=sought)


def _compiled(affinity: Array, price: Array, law: tuple[Array, ...], active: int) -> Array:
    """Sweep in a compiled loop."""
    from ..native import named  # numba takes a second to load
    from ._balanced import balance as loop

    (tokens, experts), dtype = affinity.shape, affinity.dtype
    rows = -(-(active + 1) // 3) * 3
    sizes = (experts,), (experts * tokens,), (2, rows, tokens), (2, tokens), (tokens,), (experts * tokens,)
    reals = [jax.ShapeDtypeStruct(size, dtype) for size in sizes]
    takers, small = jax.ShapeDtypeStruct((experts,), jnp.int32), (experts, 2 * experts, *[MEMORY * experts] * 2)
    scratch = [jax.ShapeDtypeStruct((size,), dtype) for size in (*small, MEMORY * (MEMORY + 1))]
    call = jax.ffi.ffi_call(named(loop, dtype.name), [*reals, takers, *scratch], vmap_method="sequential")
    return call(affinity, price.astype(dtype), jnp.stack([jnp.int32(active), *law, jnp.int32(HASTE)]))[0]


def _sought(
    affinity: Array, price: Array, law: tuple[Array, ...], active: int, axis_name: str | None
) -> Float[Array, " experts"]:
    """Sweep in loops of XLA."""
    across = by_expert(affinity)
    capacity, slack, enough, sweeps = law
    low, high = bounds(across, across, axis_name)
    least, memory = (high - low) * LEAST, jnp.zeros((MEMORY, price.size), price.dtype)

    def look(price: Array, span: Array) -> tuple[Array, Array, Array]:
        trial = trial_prices(price - span, price + span)
        price = trial[TRIALS // 2]
        reserve = once(lambda across: reserves(across - price[:, None], active), across)
        return price, reserve, total(demand(across, reserve, trial), axis_name)

    def going(state: _Search) -> Array:
        return (state.swept < sweeps) & (jnp.max(state.takers[TRIALS // 2]) > enough)

    def sweep(state: _Search) -> _Search:
        price, span, reserve = state.price, state.span, state.reserve
        terms = capacity, slack, idle_reserve(price)
        bracket = narrowed(price - span, price + span, state.takers, *terms)
        change = quantile(across, reserve, bracket, terms, PASSES - 1, axis_name) - price
        change = change - jnp.mean(change)
        fresh = jnp.where(state.swept > 0, 1, 0).astype(price.dtype)
        moved, turned = (
            jnp.concatenate([fresh * (now - before)[None], past[:-1]])
            for now, before, past in zip((price, change), state.last, (state.moved, state.turned), strict=True)
        )
        step = jnp.where(state.swept < HASTE, _extrapolated(change, moved, turned), change)
        new = price + step
        span = jnp.maximum(2 * jnp.max(jnp.abs(step)), least)
        new, reserve, takers = look(new - jnp.min(new), span)
        return _Search(new, span, reserve, takers, moved, turned, (price, change), state.swept + 1)

    span = (high - low) / 4
    price, reserve, takers = look(price - jnp.min(price), span)
    start = _Search(price, span, reserve, takers, memory, memory, (price, price), jnp.int32(0))
    return lax.while_loop(going, sweep, start).price


def _extrapolated(change: Array, moved: Array, turned: Array) -> Array:
    """Return the step to where, as the last changes tell, a sweep would change nothing, and a little beyond."""
    gram = turned @ turned.T
    ridge = RIDGE * jnp.trace(gram) + jnp.finfo(gram.dtype).tiny
    share = _solved(gram + ridge * jnp.eye(MEMORY, dtype=gram.dtype), turned @ change)
    return BEYOND * (change - share @ turned) - share @ moved


def _solved(matrix: Array, right: Array) -> Array:
    """Solve a few equations by elimination, where the matrix is positive definite.

    For three unknowns a solver of any library takes longer to call than this to do.
    """
    rows = [jnp.append(row, value) for row, value in zip(matrix, right, strict=True)]
    for i, j in itertools.combinations(range(MEMORY), 2):
        rows[j] = rows[j] - rows[j][i] / rows[i][i] * rows[i]
    found = jnp.zeros(MEMORY, matrix.dtype)
    for i in reversed(range(MEMORY)):
        found = found.at[i].set((rows[i][MEMORY] - rows[i][:MEMORY] @ found) / rows[i][i])
    return found
