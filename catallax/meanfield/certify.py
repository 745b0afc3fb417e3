"""An independent check of a policy, in float64 NumPy, from the policy and the game's own numbers alone.

Conventions: decisions at t = 0 … T−1; densities at t = 0 … T; the value of a policy against a flow of densities is
Σ_{t<T} γ^t E[r_t] + γ^T E[final]. Exploitability is Σ_k share_k (best response − own value), both against the flow
that the policy itself makes. The reward range is Σ_k share_k (max − min of r_k along that flow, over all t, s and a)
times Σ_t γ^t, plus γ^T (max − min of the final reward).
"""

import dataclasses
from typing import Any

import numpy as np

from ..certificate import Certificate
from .problem import crowd_table, end_table, table


@dataclasses.dataclass(frozen=True, eq=False)
class Gains:
    """What each kind's policy is worth, and what the best would be, while the crowd does not change.

    Args:
        value: Each kind's value of its own policy, shape (kinds,).
        best: Each kind's value of a best response, shape (kinds,).
        reach: Each kind's reward range, shape (kinds,).
        shares: Each kind's share of the crowd, shape (kinds,).
    """

    value: np.ndarray
    best: np.ndarray
    reach: np.ndarray
    shares: np.ndarray

    @property
    def exploitability(self) -> float:
        """What players gain on average by answering the crowd as best they can, in units of reward."""
        return float(self.shares @ (self.best - self.value))

    @property
    def relative(self) -> float:
        """The exploitability divided by the reward range; 0 where no reward differs from any other.

        Infinite where a reward along the flow is not finite: nothing is then known.
        """
        reach = float(self.shares @ self.reach)
        gap = self.exploitability
        if not np.isfinite(reach + gap):
            return np.inf
        return gap / reach if reach > 0 else (0.0 if abs(gap) <= 1e-12 else np.inf)


@dataclasses.dataclass(frozen=True, eq=False)
class Account(Gains):
    """What a policy is worth against the flow that it makes.

    Args:
        value, best, reach, shares: As for `Gains`.
        flow: The crowd's densities, shape (T + 1, S).
    """

    flow: np.ndarray


def flow(game: Any, policy: np.ndarray) -> np.ndarray:
    """Return the densities that a policy leads to, shape (T + 1, S).

    Args:
        game: The game.
        policy: Shape (kinds, T, S, A); rows sum to one.
    """
    return _push(game, _shaped(game, policy))


def account(game: Any, policy: np.ndarray) -> Account:
    """Return what a policy is worth against the flow that it makes, and what a best response would be.

    Args:
        game: The game.
        policy: Shape (kinds, T, S, A); rows sum to one.
    """
    policy = _shaped(game, policy)
    densities = _push(game, policy)
    start, shares, discount = crowd_table(game)
    length = sum(discount**time for time in range(game.horizon))
    value, best, reach = np.zeros((3, shares.size))
    for kind in range(shares.size):
        own = top = end = end_table(game, densities[-1], kind)
        most, least = -np.inf, np.inf
        for time in reversed(range(game.horizon)):
            # Asked for again rather than kept: a large game's moves at all times would fill the memory.
            reward, targets, chances = table(game, time, densities[time], kind)
            own = np.sum(policy[kind, time] * (reward + discount * np.sum(chances * own[targets], axis=-1)), axis=-1)
            top = np.max(reward + discount * np.sum(chances * top[targets], axis=-1), axis=-1)
            # Unlike Python's own, NumPy's maximum does not pass over what is no number.
            most, least = np.maximum(most, reward.max()), np.minimum(least, reward.min())
        value[kind], best[kind] = start @ own, start @ top
        reach[kind] = (most - least) * length + discount**game.horizon * np.ptp(end)
    return Account(value, best, reach, shares, densities)


def exploitability(game: Any, policy: np.ndarray) -> float:
    """Return what players gain on average by answering, as best they can, the flow that a policy makes.

    Args:
        game: The game.
        policy: Shape (kinds, T, S, A); rows sum to one.
    """
    return account(game, policy).exploitability


def certify(game: Any, policy: np.ndarray, tol: float = 1e-6) -> list[Certificate]:
    """Check a policy, without the solver.

    Args:
        game: The game.
        policy: Shape (kinds, T, S, A).
        tol: The tolerance of the exploitability, per reward range.

    Returns:
        The certificates `exploitability` (per reward range), `policy` (how far its rows are from probabilities)
        and `mass` (how far the density's sums are from one).
    """
    return certificates(account(game, policy), policy, tol)


def certificates(found: Account, policy: np.ndarray, tol: float) -> list[Certificate]:
    """Return the certificates of a policy whose account is known."""
    policy = np.asarray(policy, np.float64)
    rows = float(max(np.max(np.abs(policy.sum(axis=-1) - 1)), -np.min(policy), 0.0))
    mass = float(max(np.max(np.abs(found.flow.sum(axis=-1) - 1)), -np.min(found.flow), 0.0))
    meaning = "what players gain on average by their best response to the flow of the policy, per reward range"
    return [
        Certificate("exploitability", abs(found.relative), tol, meaning),
        Certificate("policy", rows, 1e-6, "largest distance of a row of the policy from probabilities"),
        Certificate("mass", mass, 1e-4, "largest distance of a density's sum from one"),
    ]


def _shaped(game: Any, policy: np.ndarray) -> np.ndarray:
    policy = np.asarray(policy, np.float64)
    kinds = crowd_table(game)[1].size
    if policy.shape != (kinds, game.horizon, game.states, game.actions):
        expected = f"(kinds, T, S, A) = {(kinds, game.horizon, game.states, game.actions)}"
        raise ValueError(f"the policy has shape {policy.shape}, not {expected}")
    return policy


def _push(game: Any, policy: np.ndarray) -> np.ndarray:
    """Return the densities that a policy of the right shape leads to."""
    start, shares, _ = crowd_table(game)
    masses = np.tile(start, (shares.size, 1))
    densities = [start]
    for time in range(game.horizon):
        _, targets, chances = table(game, time, densities[-1])
        acting = masses[:, :, None] * policy[:, time]
        for kind in range(shares.size):
            moved = (acting[kind][:, :, None] * chances).reshape(-1)
            masses[kind] = np.bincount(targets.reshape(-1), weights=moved, minlength=game.states)
        densities.append(shares @ masses)
    return np.stack(densities)
