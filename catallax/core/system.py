"""The contract: a system is two rules, what one agent does and how the signal moves.

    class MySystem(AbstractSystem):
        def respond(self, agent, signal, key): ...    # ONE agent: own state and the signal, nothing else
        def propagate(self, signal, total): ...       # the law of motion: sees only the total

The engine maps `respond` over the population, so no other agent is ever in scope, and reduces the messages to
one total, so `propagate` cannot tell who said what.
"""

import abc
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key, PyTree


class AbstractSystem(eqx.Module):
    """A decentralised system. Its fields are the parameters that all agents share; it is immutable."""

    @abc.abstractmethod
    def respond(self, agent: Any, signal: Any, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Answer the signal, for one agent.

        Args:
            agent: This agent's private state (one entry of the stacked population). A leaf handed back
                untouched is a constant of the agent: the engine neither copies it nor differentiates
                through its rest.
            signal: The public signal.
            key: Randomness, drawn from (seed, round, this agent's own number); ignore it if the rule is
                deterministic.

        Returns:
            The agent's new private state, of the same structure, and its message: a `Sum`, `Outer`,
            `Deposit` or `Best`, or a pytree of them, of a size that does not depend on other agents.
        """

    @abc.abstractmethod
    def propagate(self, signal: Any, total: Any) -> Any:
        """Move the signal.

        Args:
            signal: The public signal.
            total: The reduced messages, in the structure that `respond` emitted; for several populations,
                a dict from a population's name to its total.

        Returns:
            The new signal, of the same structure, shapes and dtypes.
        """


class Sequence(AbstractSystem):
    """Several systems in turn, over the same agents and the same signal, as one round.

    For laws of motion in which agents speak more than once before the round is over: a quotation and
    then an order, a direction and then a step length. Each stage is a system of its own, under the same rules.
    """

    stages: tuple[AbstractSystem, ...]

    def respond(self, agent, signal, key):
        del agent, signal, key
        raise TypeError("a Sequence has no respond of its own; its stages do")

    def propagate(self, signal, total):
        del signal, total
        raise TypeError("a Sequence has no propagate of its own; its stages do")


def stages(system: AbstractSystem) -> tuple[AbstractSystem, ...]:
    """List the systems that make up one round, in order."""
    if isinstance(system, Sequence):
        return tuple(stage for part in system.stages for stage in stages(part))
    return (system,)


class Populations(eqx.Module):
    """Several kinds of agents that read one signal.

    `respond` is called with an agent of each kind (tell them apart by their type) and `propagate` receives a
    dict from name to total.

        State(Populations(consumers=Consumer(...), firms=Firm(...)), signal)
    """

    members: dict[str, PyTree]

    def __init__(self, **members: PyTree):
        self.members = members

    def __getitem__(self, name: str) -> PyTree:
        return self.members[name]


class State(eqx.Module):
    """All that changes.

    Args:
        agents: Every agent's private state, a pytree of arrays stacked on a leading axis; or `Populations`.
        signal: The public signal, a pytree of arrays.
        round: How many rounds have passed.
    """

    agents: PyTree
    signal: PyTree
    round: Int[Array, ""]

    def __init__(self, agents: PyTree, signal: PyTree, round: Any = 0):
        self.agents = agents
        self.signal = signal
        self.round = jnp.asarray(round, jnp.int32)


def populations(agents: PyTree) -> Iterator[tuple[str | None, PyTree]]:
    """Walk the populations: (name, stacked agents); the name is None where there is only one."""
    if isinstance(agents, Populations):
        yield from agents.members.items()
    else:
        yield None, agents


def population_size(agents: PyTree) -> int:
    """Return the number of agents of one population.

    Raises:
        ValueError: if the leaves are not arrays with one common leading axis.
    """
    sizes = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(agents):
        if not eqx.is_array_like(leaf) or jnp.ndim(leaf) == 0:
            where = jax.tree_util.keystr(path) or "the agents"
            raise ValueError(f"{where}: agents are stacked arrays with a leading axis, not {leaf!r}")
        sizes[jax.tree_util.keystr(path)] = jnp.shape(leaf)[0]
    if len(set(sizes.values())) != 1:
        raise ValueError(f"every leaf of the agents needs the same leading axis; got {sizes or 'no leaf'}")
    if not (size := next(iter(sizes.values()))):
        raise ValueError("a population needs at least one agent")
    return size
