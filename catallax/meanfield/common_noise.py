"""Common noise: shocks that the whole crowd sees, so that policies and densities depend on what has happened.

Shocks follow a Markov chain z_0, z_1, …, z_T that nobody moves. At time t everybody knows z_0 … z_t, acts, and moves
and earns as in the game that belongs to z_t, independently of one another given the shocks. Densities are conditional
on the shocks so far: one for each history. The histories of positive probability are the nodes of a tree, and the
game on them is again an `AbstractGame`: a state is a node with a state of the game, and its density is the
probability of the node times the conditional density. So every law of motion and the certificate apply as they are.

Exact, on the tree: nothing is sampled, averaged or cut off. A policy's value is its expectation over shocks, and the
exploitability is the expectation, over shocks, of what players gain by a best response that sees the same history.
The price is the number of histories: T + 1 where one shock ends all, as in a bar that closes for good, but Z^(T+1)
where Z shocks are drawn anew at each time.

Reference:
    Carmona, Delarue & Lacker (2016), Mean field games with common noise, Annals of Probability 44(6), section 3;
    Perrin et al. (2020), section 4.3, for the beach bar that may close.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from ..errors import InputError
from .problem import SUM_TOLERANCE, AbstractGame, AbstractMoves

MOST_NODES = 2**16
"""The most histories at any time."""


class CommonNoise(AbstractGame):
    """A game whose parameters change with shocks that all see.

    Args:
        games: The game that each shock makes, Z of them: of one class and size, with arrays of their own. Kinds,
            shares and the discount are those of the first.
        chances: The probability of each next shock, (Z, Z); rows sum to one.
        first: The probability of each shock at time 0, (Z,); the first one for sure by default.

    Raises:
        ValueError: if the games are not of one sort.
        InputError: if probabilities are none, or the histories too many.
    """

    stacked: PyTree
    types: PyTree | None
    portions: Float[Array, " n"]
    shock: Int[Array, "T1 N"]
    child: Int[Array, "T N C"]
    odds: Float[Array, "T N C"]
    chance: Float[Array, "T1 N"]
    inner: int = eqx.field(static=True)
    actions: int = eqx.field(static=True)
    horizon: int = eqx.field(static=True)

    def __init__(self, games: Sequence[AbstractGame], chances: Any, first: Any = None):
        one = games[0]
        self.types, self.portions = one.kinds, one.shares
        # The rules may not read the kinds, and know them as the kinds of this game, not of those.
        private = {id(leaf) for leaf in jax.tree.leaves(one.kinds)}
        self.stacked = _stacked(games, private)
        self.inner, self.actions, self.horizon = one.states, one.actions, one.horizon
        shock, child, odds, chance = histories(*_checked(chances, first, len(games)), self.horizon)
        self.shock, self.child = jnp.asarray(shock, jnp.int32), jnp.asarray(child, jnp.int32)
        self.odds, self.chance = jnp.asarray(odds), jnp.asarray(chance)

    @property
    def nodes(self) -> int:
        """N, the most histories that there are at any time; where there are fewer, the other nodes are empty."""
        return self.shock.shape[1]

    @property
    def states(self) -> int:
        """N·S: state n·S + s is state s of the game after history n."""
        return self.nodes * self.inner

    @property
    def discount(self) -> Any:
        """The discount of the game that the first shock makes."""
        return self.under(0).discount

    @property
    def kinds(self):
        """The kinds of players, whatever the shocks, and what part of the crowd each is."""
        return None if self.types is None else (self.types, self.portions)

    @property
    def shares(self):
        """What part of the crowd each kind is."""
        return self.portions

    def under(self, shock: Any) -> Any:
        """Return the game that a shock makes, without its kinds."""
        return jax.tree.map(lambda leaf: leaf[shock] if eqx.is_array(leaf) else leaf, self.stacked)

    def start(self):
        first = jax.vmap(lambda shock: self.under(shock).start())(self.shock[0])
        return (self.chance[0].astype(first.dtype)[:, None] * first).reshape(-1)

    def moves(self, time, density):
        def at(shock: Array, there: Array) -> AbstractMoves:
            return self.under(shock).moves(time, there)

        ways = jax.vmap(at)(self.shock[time], self.conditional(time, density))
        return Branching(ways, self.child[time], self.odds[time].astype(density.dtype))

    def reward(self, time, density, kind):
        def at(shock: Array, there: Array) -> Array:
            earned = self.under(shock).reward(time, there, None if kind is None else kind[0])
            return jnp.broadcast_to(earned, (self.inner, self.actions))

        return jax.vmap(at)(self.shock[time], self.conditional(time, density)).reshape(self.states, self.actions)

    def final(self, density, kind):
        def at(shock: Array, there: Array) -> Array:
            return jnp.broadcast_to(self.under(shock).final(there, None if kind is None else kind[0]), (self.inner,))

        return jax.vmap(at)(self.shock[-1], self.conditional(self.horizon, density)).reshape(-1)

    def conditional(self, time: Any, density: Float[Array, " NS"]) -> Float[Array, "N S"]:
        """Return the density after each history, given their joint density; at empty nodes that of the first."""
        parts = density.reshape(self.nodes, self.inner)
        sums = jnp.sum(parts, axis=1, keepdims=True)
        parts = parts / jnp.where(sums > 0, sums, 1.0)
        full = (self.chance[time] > 0)[:, None]
        return jnp.where(full, parts, parts[:1])

    def histories(self) -> tuple[Int[np.ndarray, "L T1"], Float[np.ndarray, " L"]]:
        """Return all sequences of shocks z_0 … z_T of positive probability, and their probabilities."""
        shock, child, odds, chance = (np.asarray(x) for x in (self.shock, self.child, self.odds, self.chance))
        found = [[number] for number in np.flatnonzero(chance[0] > 0)]
        for time in range(self.horizon):
            found = [[*nodes, int(way)] for nodes in found for way in child[time, nodes[-1]][odds[time, nodes[-1]] > 0]]
        nodes = np.array(found)
        return np.take_along_axis(shock, nodes.T, axis=1).T, chance[-1, nodes[:, -1]].astype(np.float64)

    def walk(self, history: Sequence[int]) -> Int[np.ndarray, " T1"]:
        """Return the node at each time t = 0 … T of a sequence of shocks.

        Raises:
            InputError: if it is too short or long, or cannot happen; it names the time.
        """
        if len(history) != self.horizon + 1:
            raise InputError(f"{len(history)} shocks are given; there is one at each of {self.horizon + 1} times")
        shock, child, odds, chance = (np.asarray(x) for x in (self.shock, self.child, self.odds, self.chance))
        nodes, ways = [], np.flatnonzero(chance[0] > 0)
        for time, wanted in enumerate(history):
            fit = ways[shock[time, ways] == wanted]
            if not fit.size:
                raise InputError(f"shock {wanted} cannot happen at time {time} after {list(history[:time])}")
            nodes.append(int(fit[0]))
            if time < self.horizon:
                ways = child[time, nodes[-1]][odds[time, nodes[-1]] > 0]
        return np.array(nodes)

    def density_along(self, flow: np.ndarray, history: Sequence[int]) -> Float[np.ndarray, "T1 S"]:
        """Return the crowd's densities along a sequence of shocks, given the flow of an answer, (T + 1, N·S)."""
        nodes = self.walk(history)
        parts = np.asarray(flow, np.float64).reshape(self.horizon + 1, self.nodes, self.inner)
        parts = parts[np.arange(nodes.size), nodes]
        return parts / parts.sum(axis=1, keepdims=True)

    def policy_along(self, policy: np.ndarray, history: Sequence[int]) -> Float[np.ndarray, "n T S A"]:
        """Return what players do along a sequence of shocks, given the policy of an answer, (kinds, T, N·S, A)."""
        nodes = self.walk(history)[:-1]
        parts = np.asarray(policy).reshape(-1, self.horizon, self.nodes, self.inner, self.actions)
        return parts[:, np.arange(nodes.size), nodes]

    def given(self, history: Sequence[int]) -> "Given":
        """Return the game in which the shocks are known to be these: for flows and actual crowds along a history.

        Its best responses know what will happen, which players of this game do not.
        """
        self.walk(history)
        return Given(noisy=self, history=jnp.asarray(np.asarray(history), jnp.int32))


class Given(AbstractGame):
    """The game along one sequence of shocks.

    Args:
        noisy: The game with common noise.
        history: z_0 … z_T.
    """

    noisy: CommonNoise
    history: Int[Array, " T1"]

    def __init__(self, noisy: CommonNoise, history: Int[Array, " T1"]):
        self.noisy, self.history = noisy, history

    @property
    def states(self) -> int:
        """S, without the histories."""
        return self.noisy.inner

    @property
    def actions(self) -> int:
        """A."""
        return self.noisy.actions

    @property
    def horizon(self) -> int:
        """T."""
        return self.noisy.horizon

    @property
    def discount(self):
        """The discount of the game with common noise."""
        return self.noisy.discount

    @property
    def kinds(self):
        """The kinds of players, and what part of the crowd each is."""
        return self.noisy.kinds

    @property
    def shares(self):
        """What part of the crowd each kind is."""
        return self.noisy.portions

    def start(self):
        return self.noisy.under(self.history[0]).start()

    def moves(self, time, density):
        return self.noisy.under(self.history[time]).moves(time, density)

    def reward(self, time, density, kind):
        return self.noisy.under(self.history[time]).reward(time, density, None if kind is None else kind[0])

    def final(self, density, kind):
        return self.noisy.under(self.history[-1]).final(density, None if kind is None else kind[0])


class Branching(AbstractMoves):
    """The moves after each history, and then a shock.

    Args:
        ways: The moves after each of N histories, stacked.
        child: The histories that may follow each.
        odds: Their probabilities.
    """

    ways: AbstractMoves
    child: Int[Array, "N C"]
    odds: Float[Array, "N C"]

    def expect(self, value):
        nodes = self.child.shape[0]
        value = value.reshape(nodes, -1)
        after = jnp.sum(self.odds[:, :, None] * value[self.child], axis=1)
        ahead = jax.vmap(lambda ways, there: ways.expect(there))(self.ways, after)
        return ahead.reshape(-1, ahead.shape[2])

    def carry(self, mass):
        nodes = self.child.shape[0]
        acting = mass.reshape(nodes, -1, mass.shape[1])
        moved = jax.vmap(lambda ways, here: ways.carry(here))(self.ways, acting)
        return jnp.zeros_like(moved).at[self.child].add(self.odds[:, :, None] * moved[:, None]).reshape(-1)

    def listed(self):
        targets, chances = jax.vmap(lambda ways: ways.listed())(self.ways)
        nodes, states, actions, _ = targets.shape
        first = self.child.astype(targets.dtype) * states
        targets = first[:, None, None, :, None] + targets[:, :, :, None, :]
        chances = self.odds[:, None, None, :, None] * chances[:, :, :, None, :]
        shape = nodes * states, actions, -1
        return targets.reshape(shape), chances.reshape(shape)


def histories(
    chances: np.ndarray, first: np.ndarray, horizon: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the tree of a Markov chain's histories of positive probability.

    Args:
        chances: Shape (Z, Z).
        first: Shape (Z,).
        horizon: T.

    Returns:
        For times t = 0 … T and nodes: the last shock, (T + 1, N); for t < T the nodes that follow and their
        probabilities, (T, N, C); and the probability of each history, (T + 1, N). A node that no history uses has
        probability 0, the shock of node 0, and node 0 to follow.

    Raises:
        InputError: if there are more than `MOST_NODES` at any time.
    """
    width = int(np.max(np.sum(chances > 0, axis=1)))
    shocks, odds_of = [np.flatnonzero(first > 0)], [first[first > 0]]
    children, odds = [], []
    for time in range(horizon):
        froms, shock = np.nonzero(chances[shocks[-1]] > 0)
        if froms.size > MOST_NODES:
            raise InputError(
                f"common noise has {froms.size:,} histories by time {time + 1}, more than {MOST_NODES:,}; "
                "take fewer times, or shocks after which nothing happens any more"
            )
        likely = chances[shocks[-1][froms], shock]
        place = np.arange(froms.size) - np.searchsorted(froms, froms)
        child, odd = np.zeros((2, shocks[-1].size, width))
        child[froms, place], odd[froms, place] = np.arange(froms.size), likely
        children.append(child.astype(int))
        odds.append(odd)
        shocks.append(shock)
        odds_of.append(odds_of[-1][froms] * likely)
    nodes = max(level.size for level in shocks)

    def filled(level: np.ndarray, filler: np.ndarray) -> np.ndarray:
        return np.concatenate([level, np.repeat(filler[None], nodes - len(level), axis=0)])

    on, nowhere = np.eye(1, width)[0], np.zeros(width, int)
    return (
        np.stack([filled(level, level[0]) for level in shocks]),
        np.stack([filled(level, nowhere) for level in children]),
        np.stack([filled(level, on) for level in odds]),
        np.stack([filled(level, np.zeros(())) for level in odds_of]),
    )


def _stacked(games: Sequence[AbstractGame], private: set[int]) -> Any:
    """Stack the games' arrays; what is the same number in all of them stays a number."""

    def without_kinds(game: AbstractGame) -> AbstractGame:
        own = {id(leaf) for leaf in jax.tree.leaves(game.kinds)} | private
        return jax.tree.map(lambda leaf: None if id(leaf) in own else leaf, game)

    def one(*leaves: Any) -> Any:
        if not any(eqx.is_array(leaf) for leaf in leaves) and len(set(leaves)) == 1:
            return leaves[0]
        return jnp.stack([jnp.asarray(leaf) for leaf in leaves])

    bare = [without_kinds(game) for game in games]
    if len({jax.tree.structure(game) for game in bare}) > 1:
        raise ValueError("the games that shocks make have to be of one class, size and horizon")
    return jax.tree.map(one, *bare)


def _checked(chances: Any, first: Any, shocks: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the chain's probabilities in float64, rows summing to one exactly."""
    rows = np.asarray(chances, np.float64)
    begin = np.eye(1, shocks)[0] if first is None else np.asarray(first, np.float64)
    if rows.shape != (shocks, shocks) or begin.shape != (shocks,):
        raise ValueError(f"{shocks} games need chances of shape ({shocks}, {shocks}), and ({shocks},) at time 0")
    for row, what in [
        *((row, f"after shock {z} the chances") for z, row in enumerate(rows)),
        (begin, "the first chances"),
    ]:
        if not np.all(row >= 0) or abs(row.sum() - 1) > SUM_TOLERANCE:
            raise InputError(f"{what} are {row.tolist()}; they must not be negative and sum to one")
    return rows / rows.sum(axis=1, keepdims=True), begin / begin.sum()
