"""What the checks are made of: a crowd asked by hand, and arrays compared."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path
from jaxtyping import Array, Int, Key, PyTree

from ..core.exchange import lay_out, trace_rule
from ..core.message import is_message, messages
from ..core.result import Status
from ..core.run import Run, canonical, run
from ..core.system import AbstractSystem, Populations, State, population_size, populations, stages

Draws = dict[str | None, tuple[Key[Array, " n"], Int[Array, " n"]]]
"""For each population, its agents' keys and numbers."""


class ConformanceError(AssertionError):
    """A law of the contract that a system breaks.

    Args:
        law: Which law, in a word or two.
        broken: What broke it, as a sentence.
    """

    def __init__(self, law: str, broken: str):
        super().__init__(f"{law}: {broken}")
        self.law = law


def step_length(leaves: list[Array]) -> float:
    """Return the step at which rounding and curvature hurt a central difference alike."""
    return float(max(jnp.finfo(leaf.dtype).eps for leaf in leaves)) ** (1 / 3)


def difference(value: Callable, point: PyTree, direction: PyTree, step: float) -> float:
    """Return the central difference of a function along a direction."""
    ahead, behind = (
        jax.tree.map(lambda x, d: (np.asarray(x) + s * d).astype(x.dtype), point, direction)  # noqa: B023
        for s in (step, -step)
    )
    return (value(ahead) - value(behind)) / (2 * step)


def slope_fits(value: Callable, point: PyTree, direction: PyTree, slope: float) -> bool:
    """Compare at two steps: a kink within the larger one need not lie within the smaller one."""
    step = step_length(jax.tree.leaves(point))
    for factor in (1, 1 / 8):
        seen = difference(value, point, direction, factor * step)
        if abs(slope - seen) <= 20 * step**2 / factor + 4 * step * max(abs(slope), abs(seen)):
            return True
    return False


class Tally:
    """How often respond was traced."""

    def __init__(self):
        self.traces = 0


class Counted(AbstractSystem):
    """A system that counts how often it is traced."""

    inner: AbstractSystem
    tally: Tally = eqx.field(static=True)

    def respond(self, agent, signal, key):
        self.tally.traces += 1
        return self.inner.respond(agent, signal, key)

    def propagate(self, signal, total):
        return self.inner.propagate(signal, total)


def walk(system: AbstractSystem, state: State, key: Key[Array, ""]) -> Iterator[tuple[AbstractSystem, State]]:
    """Yield each stage of a round with the state that it meets."""
    state, parts = canonical(state), stages(system)
    for place, stage in enumerate(parts):
        yield stage, state
        if place + 1 < len(parts):
            after = run(stage, state, 1, key=jax.random.fold_in(key, place)).state
            state = State(after.agents, after.signal, state.round)


def draw_keys(state: State, key: Key[Array, ""]) -> Draws:
    """Give every agent a key and a number."""
    draws: Draws = {}
    for place, (name, agents) in enumerate(populations(state.agents)):
        size = population_size(agents)
        draws[name] = (
            jax.random.split(jax.random.fold_in(key, place), size),
            jnp.arange(size, dtype=jnp.int32),
        )
    return draws


@eqx.filter_jit
def round_by_hand(
    stage: AbstractSystem, agents: PyTree, signal: PyTree, draws: Draws
) -> tuple[dict[str | None, list[Array]], dict[str | None, PyTree], PyTree]:
    """Return every agent's answer, the totals and the next signal, with keys and numbers given by hand."""
    answers, totals = {}, {}
    shared = jax.tree.leaves(eqx.filter(stage, eqx.is_array))
    for name, crowd in populations(agents):
        keys, numbers = draws[name]
        rule = trace_rule(stage, crowd, signal, keys[0])
        rows = rule.mapped(*shared, *jax.tree.leaves(crowd), *jax.tree.leaves(signal), keys)
        stacked = jax.tree.unflatten(jax.tree.structure(rule.message), rows[len(jax.tree.leaves(crowd)) :])
        finished = [m.finish(m.reduce(None, numbers))[0] for m in messages(stacked)]
        totals[name] = jax.tree.unflatten(jax.tree.structure(stacked, is_leaf=is_message), finished)
        answers[name] = rows
    return answers, totals, stage.propagate(signal, totals.get(None, totals))


def name_answers(stage: AbstractSystem, state: State, name: str | None) -> list[str]:
    """Name the leaves of an answer: the agent's, then the message's."""
    agents = dict(populations(state.agents))[name]
    rule = trace_rule(stage, agents, state.signal, jax.random.key(0))
    whose = "an agent" if name is None else f"one of the {name}"
    parts = (("new private state", agents), ("message", rule.message))
    return [f"the {what}{keystr(path)} of {whose}" for what, tree in parts for path, _ in tree_leaves_with_path(tree)]


def hold_no_population(stage: AbstractSystem, state: State) -> None:
    """Reject a rule that has an array as long as a population at hand."""
    sizes = {population_size(agents) for _, agents in populations(state.agents)} - {1}
    fields = tree_leaves_with_path(stage)
    held = [(f"the system's field {keystr(path).lstrip('.')}", leaf) for path, leaf in fields]
    for _, agents in populations(state.agents):
        held += [("an array that respond closes over", x) for x in trace_agent(stage, agents, state).consts]
    for what, leaf in held:
        if eqx.is_array_like(leaf) and sizes & set(np.shape(leaf)):
            raise ConformanceError(
                "locality",
                f"{what}, of shape {np.shape(leaf)}, is as long as a population, so that agents could read "
                "one another there; if that is a coincidence, pass another number of agents",
            )


def trace_agent(stage: AbstractSystem, agents: PyTree, state: State) -> Any:
    agent = jax.tree.map(lambda leaf: leaf[0], agents)
    try:
        return jax.make_jaxpr(lambda a, s, k: stage.respond(a, s, k))(agent, state.signal, jax.random.key(0))
    except NameError as error:
        raise ConformanceError("locality", f"respond reaches along an axis of other agents ({error})") from error


def program_text(stage: AbstractSystem, state: State) -> tuple[list[str], list[bytes]]:
    """Return what the rules are when traced now: their text, and the constants in it."""
    traced = [trace_agent(stage, agents, state) for _, agents in populations(state.agents)]
    texts = [re.sub(r"0x[0-9a-f]+", "", str(one.jaxpr)) for one in traced]
    return texts, [bits(constant) for one in traced for constant in one.consts]


def round_shapes(system: AbstractSystem, state: State) -> tuple[int, list, list]:
    """Return the bytes of a round, and the shapes of totals and signal."""
    everything = []
    for stage in stages(system):
        draws = jax.eval_shape(lambda: draw_keys(state, jax.random.key(0)))
        agents, signal = eqx.filter_eval_shape(lambda: (state.agents, state.signal))
        _, totals, after = eqx.filter_eval_shape(round_by_hand, stage, agents, signal, draws)
        everything.append((totals, after))
    totals, signals = zip(*everything, strict=True)
    sizes = [jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree) for tree in (totals, signals)]
    return lay_out(system, state, None, None).bytes_per_round, *sizes


def rows_of(leaf: Any, rows: Any) -> Any:
    """Return some rows of an array; in NumPy, which compiles nothing, unless it holds keys."""
    if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
        return leaf[rows]
    return np.asarray(leaf)[rows]


def reordered(agents: PyTree, draws: Draws, order: dict[str | None, np.ndarray]) -> tuple[PyTree, Draws]:
    """Put agents, and with them their keys and numbers, in another order."""

    def take(name: str | None, tree: Any) -> Any:
        return jax.tree.map(lambda leaf: rows_of(leaf, order[name]), tree)

    return by_population(take, agents), {name: take(name, draw) for name, draw in draws.items()}


def by_population(change: Callable[[str | None, PyTree], PyTree], agents: PyTree) -> PyTree:
    if not isinstance(agents, Populations):
        return change(None, agents)
    return Populations(**{name: change(name, crowd) for name, crowd in agents.members.items()})


def resized(state: State, size: int) -> State:
    """Repeat or drop agents until there are so many of each kind."""

    def resize(name: str | None, agents: PyTree) -> PyTree:
        del name
        rows = np.arange(size) % population_size(agents)
        return jax.tree.map(lambda leaf: rows_of(leaf, rows), agents)

    return State(by_population(resize, state.agents), state.signal, state.round)


def choose_kept(state: State, key: Key[Array, ""]) -> list[dict[str | None, np.ndarray]]:
    """Choose who is kept: the first, the last, a random half, and the other half."""
    choices: list[dict] = [{}, {}, {}, {}]
    for name, agents in populations(state.agents):
        size = population_size(agents)
        half = np.asarray(jax.random.permutation(key, size)) < size / 2
        masks = np.arange(size) == 0, np.arange(size) == size - 1, half, ~half
        for choice, mask in zip(choices, masks, strict=True):
            choice[name] = mask
    return choices


def mix(kept: dict[str | None, np.ndarray], agents: PyTree, others: PyTree) -> PyTree:
    """Keep some agents and take all others from elsewhere."""
    replaced = dict(populations(others))

    def mix_leaf(mask: np.ndarray, own: Array, new: Any) -> Any:
        if jnp.issubdtype(own.dtype, jax.dtypes.prng_key):
            return jnp.where(mask.reshape(-1, *[1] * (own.ndim - 1)), own, new)
        mixed = np.array(new, dtype=own.dtype)
        mixed[mask] = np.asarray(own)[mask]
        return mixed

    def mix_crowd(name: str | None, crowd: PyTree) -> PyTree:
        return jax.tree.map(lambda own, new: mix_leaf(kept[name], own, new), crowd, replaced[name])

    return by_population(mix_crowd, agents)


def disturbed(key: Key[Array, ""], agents: PyTree) -> PyTree:
    """Shuffle each leaf's rows, then disturb numbers and flip truth values (NumPy compiles nothing)."""
    draw = np.random.default_rng(np.asarray(jax.random.key_data(key)))

    def disturb(leaf: Array) -> Any:
        order = draw.permutation(leaf.shape[0])
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf[order]
        x = np.asarray(leaf)[order]
        if x.dtype == np.bool_:
            return ~x
        if jnp.issubdtype(x.dtype, jnp.integer):
            return x + draw.integers(1, 8, x.shape).astype(x.dtype)
        noise = draw.normal(size=x.shape)
        return (x * (1 + noise / 2) + noise * np.mean(np.abs(x))).astype(x.dtype)

    return jax.tree.map(disturb, agents)


def poisoned(leaf: Array) -> Any:
    return np.full(leaf.shape, np.nan, leaf.dtype) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf


def first_change(stage: AbstractSystem, state: State, before: dict, after: dict, rows: dict) -> str | None:
    """Name the first answer that changed by a bit among some agents, or None."""
    for name, answers in before.items():
        for place, (one, other) in enumerate(zip(answers, after[name], strict=True)):
            if bits(one, rows[name]) != bits(other, rows[name]):
                return name_answers(stage, state, name)[place]
    return None


def differing(one: PyTree, other: PyTree, tolerance: float | None, floor: float = 0.0) -> str | None:
    """Name the first leaf by which two trees differ by more than rounding, or return None."""
    for (path, a), b in zip(tree_leaves_with_path(one), jax.tree.leaves(other), strict=True):
        if apart(a, b, tolerance, floor * unit(a)):
            return keystr(path)
    return None


def bits(x: Any, rows: Any = ...) -> bytes:
    if jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    return np.asarray(x)[rows].tobytes()


def unit(x: Any) -> float:
    """Return the rounding unit of x's dtype, in that of single precision."""
    dtype = jnp.result_type(x)
    return float(jnp.finfo(dtype).eps / jnp.finfo(jnp.float32).eps) if jnp.issubdtype(dtype, jnp.inexact) else 0.0


def largest(x: Any) -> float:
    if not jnp.issubdtype(jnp.result_type(x), jnp.inexact):
        return 0.0
    x = np.abs(np.asarray(x))
    return float(np.max(x, initial=0.0, where=np.isfinite(x)))


def apart(one: Any, other: Any, tolerance: float | None, floor: float = 0.0) -> bool:
    """Say whether two arrays differ by more than rounding; whole numbers, truth values and keys: at all."""
    if not jnp.issubdtype(jnp.result_type(one), jnp.inexact):
        return bits(one) != bits(other)
    one, other = np.asarray(one), np.asarray(other)
    margin = tolerance_for(one, tolerance) * max(largest(one), largest(other)) + floor
    return not np.allclose(one, other, rtol=0, atol=margin, equal_nan=True)


def tolerance_for(x: Any, tolerance: float | None) -> float:
    if tolerance is None:
        return 1e-4 * unit(x) ** (2 / 3)
    return tolerance


def finished(law: str, result: Run) -> None:
    if result.status is not Status.FINISHED:
        raise ConformanceError(law, f"the run ended after round {int(result.state.round)}: {result.status}")
