"""One round: every agent answers the signal, the messages become a total, the signal moves."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import jaxpr_as_fun
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Int, Key, PyTree

from .mesh import AXIS
from .message import AbstractMessage, is_message, messages
from .system import AbstractSystem, Populations, State, population_size, populations, stages

BLOCK_BYTES = 2**25
"""Messages of up to this size are held at once; more agents are taken block by block, which costs copies."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the agents are: how many of each population, filled up to how many, in blocks of how many."""

    sizes: tuple[int, ...]
    padded: tuple[int, ...]
    blocks: tuple[int, ...]
    mesh: Mesh | None
    bytes_per_round: int
    moving: tuple[bool, ...]
    """Which of the agents' leaves any stage can change, in the order of the pytree."""


@dataclasses.dataclass(frozen=True, eq=False)
class Rule:
    """`respond`, traced once for one agent.

    `moving` says which leaves of the agent can change: a leaf that is handed back untouched is a constant.
    """

    mapped: Callable[..., list[Array]]
    message: PyTree
    moving: tuple[bool, ...]

    @property
    def messages(self) -> list[AbstractMessage]:
        return messages(self.message)


def trace_rule(
    stage: AbstractSystem, agents: PyTree, signal: PyTree, key: Key[Array, ""] | jax.ShapeDtypeStruct
) -> Rule:
    """Trace `respond` for one agent and map it over agents and keys; of arrays only the shapes matter.

    Raises:
        ValueError: if the agent comes back with another structure, shape or dtype.
    """
    agent = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), agents)
    dynamic, static = eqx.partition(stage, _array)

    def rule(dynamic, agent, signal, key):
        return eqx.combine(dynamic, static).respond(agent, signal, key)

    jaxpr, (after, message) = jax.make_jaxpr(rule, return_shape=True)(dynamic, agent, signal, key)
    _same_structure("respond handed back an agent", agent, after)
    messages(message)
    size = len(jax.tree.leaves(agent))
    first = len(jax.tree.leaves(dynamic))
    variables = jaxpr.jaxpr.invars[first : first + size]
    moving = tuple(out is not before for out, before in zip(jaxpr.jaxpr.outvars, variables, strict=False))
    shared = [None] * first, [0] * size, [None] * len(jax.tree.leaves(signal)), [0]
    mapped = jax.vmap(jaxpr_as_fun(jaxpr), in_axes=[axis for part in shared for axis in part])
    return Rule(mapped, message, moving)


def _same_structure(what: str, before: PyTree, after: PyTree) -> None:
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise ValueError(
            f"{what} of another structure: {jax.tree.structure(after)} instead of {jax.tree.structure(before)}"
        )
    pairs = zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
    for (path, old), new in pairs:
        if (jnp.shape(old), jnp.result_type(old)) != (jnp.shape(new), jnp.result_type(new)):
            raise ValueError(
                f"{what} whose {jax.tree_util.keystr(path) or 'value'} is {jnp.result_type(new)}{jnp.shape(new)}; "
                f"it was {jnp.result_type(old)}{jnp.shape(old)}, and a round must keep shape and dtype"
            )


def lay_out(system: AbstractSystem, state: State, mesh: Mesh | None, block: int | None) -> Layout:
    """Decide how the agents are spread over devices and blocks, and count the bytes a round exchanges."""
    for _, agents in populations(state.agents):
        population_size(agents)
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if _array(leaf) else leaf, (system, state)
    )
    leaves, structure = jax.tree.flatten(shapes)
    return _lay_out(tuple(leaves), structure, mesh, block, jnp.result_type(float))


@functools.lru_cache(maxsize=256)
def _lay_out(leaves: tuple, structure: Any, mesh: Mesh | None, block: int | None, precision: Any) -> Layout:
    """Lay out from shapes alone, so that a second run traces nothing."""
    del precision
    system, state = jax.tree.unflatten(structure, leaves)
    devices = mesh.size if mesh is not None else 1
    key = jax.eval_shape(lambda: jax.random.key(0))
    sizes, padded, blocks, exchanged, moving = [], [], [], 0, []
    for _, agents in populations(state.agents):
        size = jax.tree.leaves(agents)[0].shape[0]
        rules = [trace_rule(stage, agents, state.signal, key) for stage in stages(system)]
        moving += [any(leaf) for leaf in zip(*(rule.moving for rule in rules), strict=True)]
        per_agent = max(_bytes(rule.message) for rule in rules)
        local = -(-size // devices)
        chosen = block or max(1, BLOCK_BYTES // max(1, per_agent))
        # Equal blocks, so that at most one agent per block is a filler.
        chosen = -(-local // (-(-local // chosen)))
        sizes.append(size)
        blocks.append(chosen)
        padded.append(-(-local // chosen) * chosen * devices)
        exchanged += sum(_bytes(_partials(rule, chosen)) for rule in rules)
    return Layout(tuple(sizes), tuple(padded), tuple(blocks), mesh, exchanged, tuple(moving))


def _array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct)


def _bytes(tree: PyTree) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _partials(rule: Rule, block: int) -> PyTree:
    stacked = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((block, *leaf.shape), leaf.dtype), rule.message)
    numbers = jax.ShapeDtypeStruct((block,), jnp.int32)
    return jax.eval_shape(lambda m, i: [x.reduce(None, i) for x in messages(m)], stacked, numbers)


def fill_up(agents: PyTree, layout: Layout) -> PyTree:
    """Repeat each population's last agent until the devices and blocks come out even."""

    def fill(population: PyTree, size: int, padded: int) -> PyTree:
        if size == padded:
            return population
        return jax.tree.map(
            lambda leaf: jnp.concatenate([leaf, jnp.repeat(leaf[-1:], padded - size, axis=0)]), population
        )

    return _each_population(fill, agents, layout.sizes, layout.padded)


def cut_back(agents: PyTree, layout: Layout) -> PyTree:
    """Remove the fillers."""

    def cut(population: PyTree, size: int, padded: int) -> PyTree:
        return population if size == padded else jax.tree.map(lambda leaf: leaf[:size], population)

    return _each_population(cut, agents, layout.sizes, layout.padded)


def _each_population(change: Callable, agents: PyTree, *details: tuple) -> PyTree:
    rows = zip(populations(agents), *details, strict=True)
    changed = {name: change(population, *detail) for (name, population), *detail in rows}
    return changed[None] if None in changed else Populations(**changed)


def spread(agents: PyTree, others: PyTree, layout: Layout) -> tuple[PyTree, PyTree]:
    """Put laid-out agents and all that is shared where the compiled loop wants them.

    Otherwise the first chunk would be compiled for another placement than the second, and a state that comes
    from another mesh could not be taken further.
    """
    if layout.mesh is None:
        return agents, others
    sharded, whole = (NamedSharding(layout.mesh, spec) for spec in (PartitionSpec(AXIS), PartitionSpec()))
    arrays, rest = eqx.partition(others, _array)
    return jax.device_put(agents, sharded), eqx.combine(jax.device_put(arrays, whole), rest)


def exchange(
    system: AbstractSystem, state: State, key: Key[Array, ""], layout: Layout
) -> tuple[State, Bool[Array, ""]]:
    """Run one round on agents that are laid out.

    Returns:
        The new state, and whether every total is sound (no overflow).
    """
    agents, signal, sound = state.agents, state.signal, jnp.array(True)
    key = jax.random.fold_in(key, state.round)
    for index, stage in enumerate(stages(system)):
        moved, totals = {}, {}
        for place, (name, population) in enumerate(populations(agents)):
            own = jax.random.fold_in(key, index * len(layout.sizes) + place)
            moved[name], totals[name], fine = _crowd(stage, population, signal, own, layout, place)
            sound &= fine
        agents = moved[None] if None in moved else Populations(**moved)
        after = stage.propagate(signal, totals.get(None, totals))
        _same_structure("propagate gave a signal", signal, after)
        signal = after
    return State(agents, signal, state.round + 1), sound


def _crowd(
    stage: AbstractSystem, agents: PyTree, signal: PyTree, key: Key[Array, ""], layout: Layout, place: int
) -> tuple[PyTree, PyTree, Bool[Array, ""]]:
    """Let one population answer, on all devices."""
    size, padded, block = layout.sizes[place], layout.padded[place], layout.blocks[place]
    rule = trace_rule(stage, agents, signal, key)
    dynamic, static = eqx.partition(stage, _array)

    def on_device(agents, dynamic, signal, key):
        first = jnp.int32(0)
        if layout.mesh is not None:
            first = (lax.axis_index(AXIS) * (padded // layout.mesh.size)).astype(jnp.int32)
        own = eqx.combine(dynamic, static)
        moved, partials = _answers(own, agents, signal, key, first, size if size != padded else None, block)
        if layout.mesh is not None:
            partials = [m.collect(p, AXIS) for m, p in zip(rule.messages, partials, strict=True)]
        return moved, partials

    if layout.mesh is not None:
        sharded, whole = PartitionSpec(AXIS), PartitionSpec()
        # check_vma would ask a user's scan inside respond to annotate its carry.
        on_device = jax.shard_map(
            on_device,
            mesh=layout.mesh,
            in_specs=(sharded, whole, whole, whole),
            out_specs=(sharded, whole),
            check_vma=False,
        )
    moved, partials = on_device(agents, dynamic, signal, key)
    finished = [m.finish(p) for m, p in zip(rule.messages, partials, strict=True)]
    total = jax.tree.unflatten(jax.tree.structure(rule.message, is_leaf=is_message), [t for t, _ in finished])
    changed, (leaves, structure) = iter(moved), jax.tree.flatten(agents)
    leaves = [next(changed) if moves else leaf for leaf, moves in zip(leaves, rule.moving, strict=True)]
    return jax.tree.unflatten(structure, leaves), total, jnp.all(jnp.stack([fine for _, fine in finished]))


def _answers(
    stage: AbstractSystem,
    agents: PyTree,
    signal: PyTree,
    key: Key[Array, ""],
    first: Int[Array, ""],
    present: int | None,
    block: int,
) -> tuple[list[Array], list[PyTree]]:
    """Return the answers of one device's agents: the leaves that can change, and the partial totals."""
    rule = trace_rule(stage, agents, signal, key)
    shared, heard = jax.tree.leaves(eqx.filter(stage, _array)), jax.tree.leaves(signal)
    structure, leaves = jax.tree.structure(rule.message), jax.tree.leaves(agents)

    def answer(leaves: list[Array], numbers: Int[Array, " b"]) -> tuple[list[Array], list[PyTree]]:
        keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)
        out = rule.mapped(*shared, *leaves, *heard, keys)
        mask = None if present is None else numbers < present
        message = jax.tree.unflatten(structure, out[len(leaves) :])
        moved = [leaf for leaf, moves in zip(out, rule.moving, strict=False) if moves]
        return moved, [m.reduce(mask, numbers) for m in messages(message)]

    count = leaves[0].shape[0]
    if count == block:
        return answer(leaves, first + jnp.arange(block, dtype=jnp.int32))
    empty = [m.nothing(p) for m, p in zip(rule.messages, _partials(rule, block), strict=True)]

    def one_block(partials, index):
        part = [lax.dynamic_slice_in_dim(leaf, index * block, block) for leaf in leaves]
        moved, more = answer(part, first + index * block + jnp.arange(block, dtype=jnp.int32))
        return [m.merge(a, b) for m, a, b in zip(rule.messages, partials, more, strict=True)], moved

    partials, moved = lax.scan(one_block, empty, jnp.arange(count // block, dtype=jnp.int32))
    return [leaf.reshape(-1, *leaf.shape[2:]) for leaf in moved], partials
