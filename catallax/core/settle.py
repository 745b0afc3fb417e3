"""Rest: rounds until the signal moves no more, and how rest depends on the system."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Float, Int, Key, PyTree
from optimistix.internal import implicit_jvp

from .exchange import exchange, lay_out
from .result import RunFailed, Status
from .run import (
    GOING,
    AbstractEnding,
    Plan,
    Progress,
    advance,
    begin,
    canonical,
    capacity,
    drive,
    joined,
    public,
    traced,
)
from .system import AbstractSystem, State

DIVERGENCE = 1e8
"""A residual this many times the smallest one seen means that the signal moves away from rest."""


class Settled(eqx.Module):
    """What `settle` leaves behind.

    Args:
        state: The state at rest, or the last sound one.
        rounds: How many rounds it took.
        residual: How far the signal moved in the last round, in units of the tolerance (at most 1 at rest).
        status: How it ended; inside a transformation, its code as an array.
        bytes_per_round: What one device exchanges in a round.
        record: What `record` observed, stacked on a leading axis; None inside a transformation.
        recorded: The rounds after which it was observed.
    """

    state: State
    rounds: Any
    residual: Any
    status: Any
    bytes_per_round: int
    record: PyTree = None
    recorded: Any = None

    @property
    def signal(self) -> PyTree:
        """The signal at rest."""
        return self.state.signal


class Anderson(eqx.Module):
    """Anderson acceleration of the signal, for agents without memory.

    The next signal is the combination of the last `depth` answers whose combined residual is least.

    Args:
        depth: How many past rounds are combined.
        mixing: How much of the answer is taken, in (0, 1].
        regularisation: Relative ridge on the least-squares problem.

    Reference:
        Anderson (1965), Iterative procedures for nonlinear integral equations; Walker & Ni (2011), eq. 2.2.
    """

    depth: int = eqx.field(static=True, default=5)
    mixing: float = eqx.field(static=True, default=1.0)
    regularisation: float = eqx.field(static=True, default=1e-12)

    def start(self, x: Float[Array, " d"]) -> "Past":
        """Return an empty history."""
        empty = jnp.zeros((self.depth, x.size), x.dtype)
        return Past(empty, empty, jnp.asarray(jnp.inf, x.dtype), jnp.int32(0), x)

    def step(self, x: Float[Array, " d"], fx: Float[Array, " d"], past: "Past") -> tuple[Array, "Past"]:
        """Return the next signal and the new history, given the signal and its answer."""
        plain = self.mixing * fx + (1 - self.mixing) * x
        norm = jnp.linalg.norm(fx - x)
        # A residual that grows says that the older answers lie on another branch: start afresh.
        count = jnp.where(norm < past.norm, past.count, 0)
        place = count % self.depth
        answers = past.answers.at[place].set(plain)
        residuals = past.residuals.at[place].set(fx - x)
        known = jnp.arange(self.depth, dtype=count.dtype) <= count
        gram = jnp.where(known[:, None] & known[None, :], residuals @ residuals.T, 0.0)
        # Below the rounding of the Gram matrix a ridge does nothing, and the weights would be noise.
        relative = max(self.regularisation, 16 * float(jnp.finfo(x.dtype).eps))
        ridge = relative * jnp.trace(gram) + jnp.finfo(x.dtype).tiny
        gram = gram + jnp.diag(jnp.where(known, ridge, 1.0))
        weights = jnp.where(known, jnp.linalg.solve(gram, known.astype(x.dtype)), 0.0)
        mixed = (weights / jnp.sum(weights)) @ answers
        mixed = jnp.where(jnp.all(jnp.isfinite(mixed)), mixed, plain)
        # An extrapolation out of the rule's domain (a negative price, say) is taken back.
        lost = ~jnp.all(jnp.isfinite(fx))
        after = Past(answers, residuals, norm, count + 1, plain)
        afresh = Past(past.answers, past.residuals, jnp.full_like(norm, jnp.inf), jnp.int32(0), past.plain)
        return jnp.where(lost, past.plain, mixed), jax.tree.map(lambda a, b: jnp.where(lost, a, b), afresh, after)


class Past(eqx.Module):
    """What Anderson acceleration remembers: answers, residuals, the last norm, how many, the last plain answer."""

    answers: Float[Array, "depth d"]
    residuals: Float[Array, "depth d"]
    norm: Float[Array, ""]
    count: Int[Array, ""]
    plain: Float[Array, " d"]


class Rest(AbstractEnding):
    """Ends the loop when the signal rests."""

    rtol: Array
    atol: Array
    acceleration: Anderson | None
    distance: Callable[[PyTree, PyTree], Array] | None

    def start(self, state: State) -> PyTree:
        past = ()
        if self.acceleration is not None:
            past = self.acceleration.start(ravel_pytree(state.signal)[0])
        far = jnp.asarray(jnp.inf, jnp.result_type(float))
        return far, far, past

    def step(self, before: State, after: State, own: PyTree) -> tuple[State, PyTree, Int[Array, ""]]:
        _, least, past = own
        residual = self.measure(before.signal, after.signal).astype(least.dtype)
        lost = jnp.isnan(residual)
        if self.acceleration is not None:
            x, _ = ravel_pytree(before.signal)
            fx, rebuild = ravel_pytree(after.signal)
            # Without a past there is nothing to return to.
            back, lost = lost & (past.count > 0), lost & (past.count == 0)
            mixed, past = self.acceleration.step(x, fx, past)
            after = State(after.agents, rebuild(jnp.where(residual <= 1, fx, mixed)), after.round)
            residual = jnp.where(back, jnp.inf, residual)
        code = jnp.where(jnp.isfinite(residual) & (residual > DIVERGENCE * least), Status.DIVERGED, GOING)
        code = jnp.where(residual <= 1, Status.SETTLED, code)
        # Growth without bound ends at infinity, at the same relative pace all the way.
        gone = [jnp.any(jnp.isinf(leaf)) for leaf in jax.tree.leaves(after.signal)]
        lost_to = jnp.where(jnp.any(jnp.stack(gone)), Status.DIVERGED, Status.NON_FINITE)
        code = jnp.where(lost, lost_to, code).astype(jnp.int32)
        return after, (residual, jnp.minimum(least, residual), past), code

    def measure(self, before: PyTree, after: PyTree) -> Array:
        """Return how far the signal moved, in units of the tolerance."""
        if self.distance is not None:
            return self.distance(before, after)
        moved = [
            jnp.max(jnp.where(new == old, 0.0, jnp.abs(new - old) / (self.atol + self.rtol * jnp.abs(new))))
            for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
            if jnp.issubdtype(new.dtype, jnp.inexact)
        ]
        if not moved:
            raise ValueError("the signal holds no floats, so that its rest needs distance= to be measured")
        return jnp.max(jnp.stack(moved))

    def residual(self, own: PyTree) -> Array:
        return own[0]


def settle(
    system: AbstractSystem,
    state: State,
    *,
    rtol: ArrayLike = 1e-6,
    atol: ArrayLike = 1e-9,
    max_rounds: int = 10_000,
    acceleration: Anderson | None = None,
    distance: Callable[[PyTree, PyTree], Array] | None = None,
    linear_solver: lx.AbstractLinearSolver | None = None,
    key: Key[Array, ""] | None = None,
    record: Callable[[State], PyTree] | None = None,
    every: int = 1,
    mesh: Mesh | None = None,
    block: int | None = None,
    watch: Callable[[Progress], Any] | None = None,
    throw: bool = False,
) -> Settled:
    """Run rounds until the signal rests: no entry moves by more than atol + rtol·|entry| in a round.

    The result is differentiable with respect to the system's arrays and the agents' constants (the leaves that
    `respond` hands back untouched) by the implicit function theorem, at the cost of one linear solve whatever the
    number of rounds. It is not differentiable with respect to where it started from: rest does not depend on it.

    Args:
        system: The rules. At rest they should be deterministic.
        state: Where to start.
        rtol: Relative tolerance on the signal.
        atol: Absolute tolerance on the signal.
        max_rounds: When to give up.
        acceleration: `Anderson(...)`, for a signal of one floating dtype and agents without memory.
        distance: Replaces the measure of rest: (signal before, signal after) to a scalar, at rest when ≤ 1. A
            function, or an Equinox module if it holds numbers that change from call to call.
        linear_solver: For derivatives; a direct solve by default, `lineax.GMRES` for large signals.
        key, record, every, mesh, block, watch: As for `run`.
        throw: Raise `RunFailed` unless the signal settled.

    Raises:
        ValueError: if acceleration is asked for but agents remember, or the pieces do not fit together.
        RunFailed: with `throw=True`, if the signal does not come to rest.

    Reference:
        Implicit differentiation: Krantz & Parks (2013), The implicit function theorem, theorem 3.3.1.
    """
    state, key = canonical(state), jax.random.key(0) if key is None else key
    layout = lay_out(system, state, mesh, block)
    if acceleration is not None and any(layout.moving):
        raise ValueError(
            "acceleration extrapolates the signal alone, and these agents change their own state from round to "
            "round; settle without acceleration, or let respond hand the agent back untouched"
        )
    dtype = jnp.result_type(float)
    rest = Rest(jnp.asarray(rtol, dtype), jnp.asarray(atol, dtype), acceleration, distance)
    inside = traced(system, state, key)
    observe = None if inside else record
    plan = Plan(layout, observe, every, capacity(observe, state, every, max_rounds, inside))
    if inside:
        solver = lx.AutoLinearSolver(well_posed=None) if linear_solver is None else linear_solver
        state, rounds, residual, status = _at_rest(system, state, key, rest, plan, max_rounds, solver)
        return Settled(state, rounds, residual, status, layout.bytes_per_round)
    carry, status, kept = drive(system, state, key, plan, rest, max_rounds, watch)
    status = Status.OUT_OF_ROUNDS if status is None else status
    rounds = int(carry.state.round) - int(state.round)
    residual = float(rest.residual(carry.ending))
    seen = joined(kept) if record is not None else (None, None)
    result = Settled(public(carry.state, layout), rounds, residual, status, layout.bytes_per_round, *seen)
    if throw and status.failed:
        raise RunFailed(status, result)
    return result


def _split(state: State, moving: list[bool]) -> tuple[list[Array | None], list[Array | None]]:
    """Split the leaves of (agents, signal) into those that move to rest and are real, and all others."""
    leaves = jax.tree.leaves((state.agents, state.signal))
    moves = moving + [True] * (len(leaves) - len(moving))
    real = [m and jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf, m in zip(leaves, moves, strict=True)]
    at_rest = [leaf if r else None for leaf, r in zip(leaves, real, strict=True)]
    others = [None if r else leaf for leaf, r in zip(leaves, real, strict=True)]
    return at_rest, others


def _join(state: State, at_rest: list, others: list) -> State:
    leaves = [b if a is None else a for a, b in zip(at_rest, others, strict=True)]
    agents, signal = jax.tree.unflatten(jax.tree.structure((state.agents, state.signal)), leaves)
    return State(agents, signal, state.round)


def _at_rest(system, state, key, rest, plan, max_rounds, linear_solver):
    """Settle inside a transformation, with the derivative of rest."""
    moving = list(plan.layout.moving)
    start, constants = _split(state, moving)
    start = lax.stop_gradient(start)
    inputs = (system, state.round, start, constants, key, rest, _Static(state, plan, max_rounds, moving))
    root, (rounds, residual, status, integers) = implicit_jvp(_solve, _move, inputs, frozenset(), linear_solver)
    others = [c if i is None else i for c, i in zip(constants, integers, strict=True)]
    final = _join(state, root, others)
    return State(final.agents, final.signal, state.round + rounds), rounds, residual, status


class _Static(eqx.Module):
    """What the two global functions below need besides arrays."""

    structure: Any = eqx.field(static=True)
    plan: Plan = eqx.field(static=True)
    max_rounds: int = eqx.field(static=True)
    moving: tuple[bool, ...] = eqx.field(static=True)

    def __init__(self, state: State, plan: Plan, max_rounds: int, moving: list[bool]):
        self.structure = jax.tree.structure((state.agents, state.signal))
        self.plan, self.max_rounds, self.moving = plan, max_rounds, tuple(moving)

    def state(self, at_rest: list, others: list, round: Array) -> State:
        leaves = [b if a is None else a for a, b in zip(at_rest, others, strict=True)]
        agents, signal = jax.tree.unflatten(self.structure, leaves)
        return State(agents, signal, round)


def _solve(inputs):
    system, round, start, constants, key, rest, static = inputs
    first = static.state(start, constants, round)
    carry = advance(system, key, static.plan, rest, begin(first, static.plan, rest), round + static.max_rounds)
    status = jnp.where(carry.status == GOING, Status.OUT_OF_ROUNDS, carry.status)
    root, others = _split(public(carry.state, static.plan.layout), list(static.moving))
    integers = [
        leaf if (leaf is not None and i >= len(static.moving)) or (leaf is not None and static.moving[i]) else None
        for i, leaf in enumerate(others)
    ]
    return root, (carry.state.round - round, rest.residual(carry.ending), status, integers)


def _move(root, residual, inputs):
    """Return how far one more round would move what should be at rest."""
    system, round, _, constants, key, _, static = inputs
    rounds, _, _, integers = residual
    others = [c if i is None else i for c, i in zip(constants, integers, strict=True)]
    state = static.state(root, others, round + rounds)
    before = begin(state, static.plan, AbstractEnding()).state
    after, _ = exchange(system, before, key, static.plan.layout)
    moved, _ = _split(public(after, static.plan.layout), list(static.moving))
    return jax.tree.map(jnp.subtract, root, moved)
