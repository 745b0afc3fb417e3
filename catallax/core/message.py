"""Messages: what an agent emits, and how a crowd's messages become one total.

Every message has one reduction that does not care about order, written three times over: within a block of
agents (`reduce`), between blocks (`merge`) and between devices (`collect`). `finish` turns the partial total
into what `propagate` sees. The size of a partial never depends on the number of agents.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Int, PyTree

FIXED_POINT_RANGE = 2**30
"""A site's deposits must sum, in absolute value, to fewer units than this."""

MOST_DEPOSITS = 2**23
"""Deposits on one device beyond which the overflow check would no longer be exact."""


class AbstractMessage(eqx.Module):
    """One agent's contribution to a total."""

    @abc.abstractmethod
    def reduce(self, present: Bool[Array, " n"] | None, numbers: Int[Array, " n"]) -> PyTree:
        """Combine the messages of a block of agents, stacked on a leading axis, into a partial total.

        Args:
            present: False for agents that only fill the block up; None if there are none.
            numbers: The agents' own numbers.
        """

    @abc.abstractmethod
    def merge(self, one: PyTree, other: PyTree) -> PyTree:
        """Combine two partial totals."""

    @abc.abstractmethod
    def collect(self, partial: PyTree, axis: str) -> PyTree:
        """Combine the partial totals of all devices along a mesh axis."""

    @abc.abstractmethod
    def finish(self, partial: PyTree) -> tuple[PyTree, Bool[Array, ""]]:
        """Return the total that `propagate` sees, and whether it is sound."""

    def nothing(self, partial: PyTree) -> PyTree:
        """Return the partial total of no agents, given the shape of a partial total."""
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), partial)


def _mask(x: Array, present: Bool[Array, " n"] | None) -> Array:
    """Zero the rows of absent agents; a `where`, so that a NaN there does no harm."""
    if present is None:
        return x
    return jnp.where(present.reshape((-1,) + (1,) * (x.ndim - 1)), x, jnp.zeros((), x.dtype))


class Sum(AbstractMessage):
    """Σ x over the agents: demand, votes, spending, mass.

    Args:
        x: An array, or a pytree of arrays, whose shape does not depend on the number of agents. Truth values
            are counted.
        at: The places, in [0, size), at which x, an array of the same shape, is added to a vector: a long vector
            of which an agent moves few entries costs only those. A place outside is dropped.
        size: The length of that vector.
    """

    x: PyTree
    at: Int[Array, "..."] | None = None
    size: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if (self.at is None) != (self.size is None):
            raise ValueError("a Sum at places takes both at=, the places, and size=, the length of the total")

    def reduce(self, present, numbers):
        del numbers

        def added(x: Array) -> Array:
            # Truth values are counted: a sum in their own dtype would say only whether there is one.
            dtype = jnp.int32 if x.dtype == jnp.bool_ else x.dtype
            if self.at is None or self.size is None:
                return jnp.sum(_mask(x, present), axis=0, dtype=dtype)
            # A place counted from the end would be one outside that wraps around.
            place = jnp.where(self.at < 0, self.size, self.at).reshape(-1)
            return jnp.zeros(self.size, dtype).at[place].add(_mask(x, present).reshape(-1).astype(dtype), mode="drop")

        return jax.tree.map(added, self.x)

    def merge(self, one, other):
        return jax.tree.map(jnp.add, one, other)

    def collect(self, partial, axis):
        return lax.psum(partial, axis)

    def finish(self, partial):
        return partial, jnp.array(True)


class Outer(AbstractMessage):
    """Σ l ⊗ r over the agents, as one matrix product: explained input, second moments, Hessians.

    Args:
        l: A vector of the agent.
        r: A vector of the agent. The total has shape (len(l), len(r)).
    """

    l: Array  # noqa: E741 - l ⊗ r is how the total is written
    r: Array

    def reduce(self, present, numbers):
        del numbers
        if self.l.ndim != 2 or self.r.ndim != 2:
            raise ValueError(f"Outer takes two vectors per agent; got shapes {self.l.shape[1:]} and {self.r.shape[1:]}")
        # The sum over agents is the contraction: no agents × l × r array ever exists. Left to itself, XLA folds the
        # transpose into a product along the slow axis, which takes twice as long on CPUs as the copy and the product.
        across = lax.optimization_barrier(_mask(self.l, present).T)
        return jnp.matmul(across, _mask(self.r, present), precision=lax.Precision.HIGHEST)

    def merge(self, one, other):
        return one + other

    def collect(self, partial, axis):
        return lax.psum(partial, axis)

    def finish(self, partial):
        return partial, jnp.array(True)


class Deposit(AbstractMessage):
    """Amounts added at sites, in integer fixed point: pheromone, loads, histograms.

    An amount is rounded to the nearest whole number of units and summed in int32, so that the total is the
    same bit for bit in any order and on any number of devices. At each site the absolute amounts must sum to
    less than 2³⁰ units; beyond that the round is refused with `Status.overflow`, never wrapped.

    Args:
        site: Where: an integer in [0, sites), or an array of them. An index outside is dropped.
        amount: How much: same shape as `site`, or a scalar. Integers are counted in whole units and give an
            int32 total; floats give a float total, a multiple of `unit`.
        sites: K, the number of sites.
        unit: The resolution of a float amount.
    """

    site: Array
    amount: Array
    sites: int = eqx.field(static=True)
    unit: float = eqx.field(static=True)

    def __init__(self, site: ArrayLike, amount: ArrayLike = 1, *, sites: int, unit: float = 2.0**-16):
        site = jnp.asarray(site)
        if not jnp.issubdtype(site.dtype, jnp.integer):
            raise ValueError(f"a deposit's site is a whole number in [0, {sites}), not {site.dtype}")
        # The range is checked before the cast, which would wrap a wide index back into it.
        site = site.astype(jnp.int32) if site.dtype.itemsize < 4 else site
        self.site = jnp.where((site >= 0) & (site < sites), site, sites).astype(jnp.int32)
        self.amount = jnp.asarray(amount)
        self.sites = sites
        self.unit = unit

    def reduce(self, present, numbers):
        amount = _mask(jnp.asarray(self.amount), present)
        amount = amount.reshape(amount.shape + (1,) * (self.site.ndim - amount.ndim))
        amount = jnp.broadcast_to(amount, self.site.shape)
        if amount.size > MOST_DEPOSITS:
            raise ValueError(
                f"{amount.size} deposits at once; the overflow check is exact up to {MOST_DEPOSITS}: "
                "pass block= to run, or a mesh of more devices"
            )
        scaled = amount if self.whole else jnp.round(amount / self.unit)
        magnitude = jnp.abs(scaled.astype(jnp.float32))
        # An amount out of range is cut here and caught by its magnitude in `finish`.
        units = jnp.where(magnitude < FIXED_POINT_RANGE, scaled, jnp.zeros_like(scaled)).astype(jnp.int32)
        site = self.site.reshape(-1)
        counts = jnp.zeros(self.sites, jnp.int32).at[site].add(units.reshape(-1), mode="drop")
        sizes = jnp.zeros(self.sites, jnp.float32).at[site].add(magnitude.reshape(-1), mode="drop")
        return counts, sizes

    @property
    def whole(self) -> bool:
        """Whether amounts are integers."""
        return not jnp.issubdtype(self.amount.dtype, jnp.inexact)

    def merge(self, one, other):
        return jax.tree.map(jnp.add, one, other)

    def collect(self, partial, axis):
        return lax.psum(partial, axis)

    def finish(self, partial):
        counts, sizes = partial
        # A wrapped sum is off by a multiple of 2³², so a float32 sum of magnitudes, good to a factor of two
        # for up to MOST_DEPOSITS terms, is enough to tell; NaN compares false and is refused as well.
        sound = jnp.all(sizes < FIXED_POINT_RANGE)
        if self.whole:
            return counts, sound
        return counts.astype(self.amount.dtype) * jnp.asarray(self.unit, self.amount.dtype), sound


def _worst(dtype: Any) -> Any:
    """Return the greatest score of a dtype: whole scores are compared as such, not rounded to floats."""
    return jnp.asarray(jnp.inf if jnp.issubdtype(dtype, jnp.inexact) else jnp.iinfo(dtype).max, dtype)


class Best(AbstractMessage):
    """The payload of the agent with the least score: tours, records, step lengths.

    Ties go to the agent with the lowest number, so the answer does not depend on order or devices.
    A NaN counts as infinite; if every score is infinite the payload is that of agent 0.

    Args:
        score: A scalar; less is better.
        payload: A pytree of arrays.
    """

    score: Array
    payload: PyTree

    def reduce(self, present, numbers):
        # Who wins is piecewise constant; derivatives flow through the winner's payload alone.
        score = lax.stop_gradient(self.score)
        score = jnp.where(jnp.isnan(score), _worst(score.dtype), score)
        if present is not None:
            score = jnp.where(present, score, _worst(score.dtype))
        winner = jnp.argmin(jnp.where(score == jnp.min(score), numbers, jnp.iinfo(numbers.dtype).max))
        return score[winner], numbers[winner], jax.tree.map(lambda leaf: leaf[winner], self.payload)

    def merge(self, one, other):
        first = (one[0] < other[0]) | ((one[0] == other[0]) & (one[1] <= other[1]))
        return jax.tree.map(lambda a, b: jnp.where(first, a, b), one, other)

    def collect(self, partial, axis):
        score, number, payload = partial
        least = lax.pmin(score, axis)
        absent = jnp.iinfo(number.dtype).max
        lowest = lax.pmin(jnp.where(score == least, number, absent), axis)
        mine = number == lowest

        def from_winner(x: Array) -> Array:
            # A sum with one non-zero term is exact, and its size does not depend on the number of devices.
            counted = x.astype(jnp.int32) if x.dtype == jnp.bool_ else x
            return lax.psum(jnp.where(mine, counted, jnp.zeros_like(counted)), axis).astype(x.dtype)

        return least, lowest, jax.tree.map(from_winner, payload)

    def finish(self, partial):
        return partial[2], jnp.array(True)

    def nothing(self, partial):
        score, number, payload = super().nothing(partial)
        return jnp.full_like(score, _worst(score.dtype)), jnp.full_like(number, _worst(number.dtype)), payload


def is_message(x: Any) -> bool:
    """Say whether x is a message (used as `is_leaf` over pytrees of messages)."""
    return isinstance(x, AbstractMessage)


def messages(message: PyTree) -> list[AbstractMessage]:
    """List the messages in a pytree of messages.

    Raises:
        ValueError: if a leaf is a bare array, whose reduction nobody has stated.
    """
    leaves = jax.tree_util.tree_leaves_with_path(message, is_leaf=is_message)
    for path, leaf in leaves:
        if not is_message(leaf):
            raise ValueError(
                f"respond emitted message{jax.tree_util.keystr(path)}, which is no message but an array; "
                "wrap it in Sum, Outer, Deposit or Best, so that the engine knows how to add it up"
            )
    return [leaf for _, leaf in leaves]
