"""The only loop: compiled once, advanced in chunks, watched from the host between them."""

import contextlib
import dataclasses
import signal as signals
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jax.sharding import Mesh
from jaxtyping import Array, Int, Key, PyTree

from .exchange import Layout, cut_back, exchange, fill_up, lay_out, spread
from .result import RunFailed, Status
from .system import AbstractSystem, State

GOING = -1
"""The code of a loop that has not ended."""

CHUNK_SECONDS = 0.5
"""How long a chunk should last: short enough to stop at once, long enough to cost nothing."""

RECORD_BYTES = 2**26
"""Records of about this size are held by the compiled loop before they go to the host."""


class Run(eqx.Module):
    """What a run leaves behind.

    Args:
        state: The last sound state.
        record: What `record` observed, stacked on a leading axis; None if nothing was recorded.
        recorded: The rounds after which it was observed; inside a transformation that does not know where the
            run starts, 0 in a last row that stayed empty.
        status: How the run ended; inside a transformation, its code as an array.
        bytes_per_round: What one device exchanges in a round; does not depend on the number of agents.
    """

    state: State
    record: PyTree
    recorded: Int[Array, " records"] | None
    status: Any
    bytes_per_round: int


@dataclasses.dataclass(frozen=True)
class Progress:
    """What `watch` is told between chunks.

    Args:
        state: The state now.
        record: What was observed since the last time, stacked; None without `record`.
        recorded: The rounds after which it was observed.
        last_round: The round at which the run ends at the latest.
        seconds: Since the start, compilation included.
        residual: How far the signal moved in the last round, in units of the tolerance; NaN in a `run`.
        status: How the run ended, or None while it goes on.
    """

    state: State
    record: PyTree
    recorded: Any
    last_round: int
    seconds: float
    residual: float
    status: Status | None


class Carry(eqx.Module):
    """The loop's own state."""

    state: State
    status: Int[Array, ""]
    ending: PyTree
    record: PyTree
    recorded: Int[Array, " capacity"]
    records: Int[Array, ""]


class AbstractEnding(eqx.Module):
    """When a loop ends by itself, and what it does to the signal on the way (see settle.py)."""

    def start(self, state: State) -> PyTree:
        """Return the ending's own state before the first round."""
        del state
        return ()

    def step(self, before: State, after: State, own: PyTree) -> tuple[State, PyTree, Int[Array, ""]]:
        """Look at a round: return the state to go on from, the ending's own state and a status code."""
        del before
        return after, own, jnp.int32(GOING)

    def residual(self, own: PyTree) -> Array:
        """Return how far the signal moved in the last round, in units of the tolerance."""
        del own
        return jnp.array(jnp.nan)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is fixed when the loop is compiled."""

    layout: Layout
    observe: Callable[[State], PyTree] | None
    every: int
    capacity: int


def _round(system, key: Key[Array, ""], plan: Plan, ending: AbstractEnding, carry: Carry) -> Carry:
    before = carry.state
    after, sound = exchange(system, before, key, plan.layout)
    after, own, code = ending.step(before, after, carry.ending)
    broken = jnp.array(False)
    for leaf in jax.tree.leaves(after.signal):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            broken |= jnp.any(jnp.isnan(leaf))
    code = jnp.where(broken, Status.NON_FINITE, code)
    code = jnp.where(sound, code, Status.OVERFLOW)
    status = jnp.where(carry.status == GOING, code, carry.status).astype(jnp.int32)
    carry = dataclasses.replace(carry, state=after, status=status, ending=own)
    observe = plan.observe
    if observe is None:
        return carry
    due = after.round % plan.every == 0

    def write(carry: Carry) -> Carry:
        seen = observe(public(after, plan.layout))
        record = jax.tree.map(lambda all, one: all.at[carry.records].set(one), carry.record, seen)
        recorded = carry.recorded.at[carry.records].set(after.round)
        return dataclasses.replace(carry, record=record, recorded=recorded, records=carry.records + 1)

    return write(carry) if plan.every == 1 else lax.cond(due, write, lambda carry: carry, carry)


def public(state: State, layout: Layout) -> State:
    return State(cut_back(state.agents, layout), state.signal, state.round)


def advance(system, key, plan: Plan, ending: AbstractEnding, carry: Carry, last: Any) -> Carry:
    """Go on until round `last` or until the loop ends by itself (not differentiable in reverse)."""
    return lax.while_loop(
        lambda carry: (carry.state.round < last) & (carry.status == GOING),
        lambda carry: _round(system, key, plan, ending, carry),
        carry,
    )


_advance_compiled = eqx.filter_jit(advance)


def begin(state: State, plan: Plan, ending: AbstractEnding) -> Carry:
    """Return the carry before the first round."""
    record, capacity = None, 0
    if plan.observe is not None:
        capacity = plan.capacity
        seen = jax.eval_shape(plan.observe, state)
        record = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), seen)
    filled = State(fill_up(state.agents, plan.layout), state.signal, state.round)
    none = jnp.zeros(capacity, jnp.int32)
    return Carry(filled, jnp.int32(GOING), ending.start(filled), record, none, jnp.int32(0))


def traced(*trees: PyTree) -> bool:
    """Say whether we are inside a transformation: no host, no chunks, no exceptions."""
    # Under jit whatever is computed is traced, even if system and state are constants there.
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((trees, jnp.zeros(()))))


def canonical(state: State) -> State:
    """Turn every leaf of a state into an array without a weak dtype."""

    def strong(leaf: Any) -> Array:
        leaf = jnp.asarray(leaf)
        key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return leaf if key else lax.convert_element_type(leaf, leaf.dtype)

    return jax.tree.map(strong, state)


def drive(
    system: AbstractSystem,
    state: State,
    key: Key[Array, ""],
    plan: Plan,
    ending: AbstractEnding,
    rounds: int,
    watch: Callable[[Progress], Any] | None,
) -> tuple[Carry, Status | None, list[tuple[PyTree, Any]]]:
    """Advance chunk by chunk from the host; return the last carry, its status (None: rounds ran out), records."""
    carry = begin(state, plan, ending)
    agents, others = spread(carry.state.agents, (carry, system, key), plan.layout)
    carry, system, key = eqx.tree_at(lambda all: all[0].state.agents, others, agents)
    last, chunk = int(state.round) + rounds, 1
    started, kept, status = time.perf_counter(), [], None
    with _interruptible() as stop:
        while status is None and int(carry.state.round) < last:
            tick = time.perf_counter()
            before, goal = carry, min(last, int(carry.state.round) + chunk)
            carry = jax.block_until_ready(_advance_compiled(system, key, plan, ending, carry, jnp.int32(goal)))
            if int(carry.status) != GOING:
                status = Status(int(carry.status))
            if status in (Status.OVERFLOW, Status.NON_FINITE):
                # Once more, up to the last sound round, wherever in the chunk that was.
                goal = jnp.int32(int(carry.state.round) - 1)
                carry = _advance_compiled(system, key, plan, ending, before, goal)
            if status is None and stop.is_set():
                status = Status.STOPPED
            count = int(carry.records)
            seen = jax.tree.map(lambda leaf: leaf[:count], carry.record), carry.recorded[:count]  # noqa: B023
            kept.append(seen)
            carry = dataclasses.replace(carry, records=carry.records - count)
            if watch is not None:
                residual = float(ending.residual(carry.ending))
                seconds = time.perf_counter() - started
                watch(Progress(public(carry.state, plan.layout), *seen, last, seconds, residual, status))
            chunk = _next_chunk(chunk, time.perf_counter() - tick, plan)
    return carry, status, kept


def joined(kept: list[tuple[PyTree, Any]]) -> tuple[PyTree, Any]:
    """Join the records of all chunks."""
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *kept) if kept else (None, None)


def _next_chunk(chunk: int, seconds: float, plan: Plan) -> int:
    grown = min(2 * chunk, int(chunk * CHUNK_SECONDS / max(seconds, 1e-9))) if chunk > 1 else 8
    most = plan.capacity * plan.every if plan.observe is not None else 2**30
    return max(1, min(grown, most))


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a request to stop after the chunk; a second one interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    previous = signals.signal(signals.SIGINT, request)
    try:
        yield stop
    finally:
        signals.signal(signals.SIGINT, previous)


def run(
    system: AbstractSystem,
    state: State,
    rounds: int,
    *,
    key: Key[Array, ""] | None = None,
    record: Callable[[State], PyTree] | None = None,
    every: int = 1,
    mesh: Mesh | None = None,
    block: int | None = None,
    watch: Callable[[Progress], Any] | None = None,
    throw: bool = False,
) -> Run:
    """Run a system for a number of rounds.

    Compiled once, whatever the number of rounds. Under `jax.grad`, `jax.vmap` or `jax.jit` the whole run is one
    scan; otherwise it goes in chunks of about half a second, and Ctrl-C ends it after the chunk with all that was
    done. A run of a + b rounds equals, bit for bit, a run of a and then one of b from the state that it left.

    Args:
        system: The rules.
        state: Where to start; the state a run left, to go on.
        rounds: How many further rounds.
        key: Randomness (`jax.random.key(seed)`). Each draw depends on the key, the round and the agent's own
            number. None for a system that ignores it.
        record: What to observe: a function of the state, called after every `every`-th round.
        every: How many rounds between two records.
        mesh: Devices to spread the agents over (`catallax.mesh()`); any number of agents will do.
        block: How many agents answer at once; by default as many as their messages fit in the cache.
        watch: Called between chunks with a `Progress`; for progress bars and checkpoints.
        throw: Raise `RunFailed` instead of returning a failed status.

    Raises:
        ValueError: if the rules, the state or the arguments do not fit together.
        RunFailed: with `throw=True`, on a NaN or an overflow.
    """
    if rounds < 0 or every < 1:
        raise ValueError(f"rounds must not be negative and every at least 1; got {rounds} and {every}")
    state, key = canonical(state), jax.random.key(0) if key is None else key
    layout = lay_out(system, state, mesh, block)
    inside = traced(system, state, key)
    plan = Plan(layout, record, every, capacity(record, state, every, rounds, inside))
    ending = AbstractEnding()
    if inside:
        body = lambda _, carry: _round(system, key, plan, ending, carry)  # noqa: E731
        first = begin(state, plan, ending)
        carry = lax.fori_loop(0, rounds, body, first) if rounds else first
        status = jnp.where(carry.status == GOING, Status.FINISHED, carry.status)
        seen = (None, None) if record is None else (carry.record, carry.recorded)
        return Run(public(carry.state, layout), *seen, status, layout.bytes_per_round)
    carry, status, kept = drive(system, state, key, plan, ending, rounds, watch)
    seen = joined(kept) if record is not None else (None, None)
    status = Status.FINISHED if status is None else status
    result = Run(public(carry.state, layout), *seen, status, layout.bytes_per_round)
    if throw and status.failed:
        raise RunFailed(status, result)
    return result


def capacity(record: Callable | None, state: State, every: int, rounds: int, inside: bool) -> int:
    """Return how many records the compiled loop holds."""
    if record is None:
        return 0
    if inside:
        if isinstance(state.round, Tracer) and every > 1:
            # How many rounds are due depends on where the run starts: room for one that may not come.
            return -(-rounds // every)
        return (int(state.round) + rounds) // every - int(state.round) // every if every > 1 else rounds
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(record, state)))
    return max(1, min(4096, RECORD_BYTES // max(1, size)))
