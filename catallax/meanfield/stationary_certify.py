"""An independent check of a stationary policy and its density, in float64, by sparse direct solves of its own.

Conventions: a policy is worth E[Σ_{t≥0} γ^t r(s_t, a_t)] while the density stays, to a player drawn from its kind's
density. Exploitability is Σ_k share_k μ_k·(V*_k − V_k): what players gain on average by the best policy, in units of
reward. The reward range is Σ_k share_k ϱ_k / (1 − γ), where ϱ_k is max − min of r_k over all states and actions at the
density, and at least max |r_k| / 1000: in equilibrium rewards may be the same everywhere. Distance from rest is
Σ_k share_k ‖μ_k − μ_k P_k‖₁.
"""

import dataclasses

import numpy as np
import scipy.sparse as sparse
import scipy.sparse.linalg as direct

from ..certificate import Certificate
from .certify import Gains
from .stationary import LEAST_RANGE, AbstractStationaryGame, rest_crowd, rest_table

MOST_IMPROVEMENTS = 1000
"""Policy iterations after which the best response is taken as it is; each is an improvement, so few are needed."""

MOST_STEPS = 100_000
"""Steps of a density towards rest after which it is taken as it is."""

MOST_DENSITIES = 200
"""Densities at which moves that depend on it are taken before the last is taken as it is."""


@dataclasses.dataclass(frozen=True, eq=False)
class StationaryAccount(Gains):
    """What a policy is worth at a density.

    Args:
        value, best, reach, shares: As for `Gains`; values are averaged over each kind's density.
        density: The crowd's density, shape (S,).
        drift: Each kind's distance from rest, shape (kinds,).
        worth: What each kind's policy is worth from each state, shape (kinds, S).
    """

    density: np.ndarray
    drift: np.ndarray
    worth: np.ndarray


def account_stationary(
    game: AbstractStationaryGame, policy: np.ndarray, mass: np.ndarray | None = None
) -> StationaryAccount:
    """Return what a policy is worth at a density, and what the best one would be.

    Args:
        game: The game.
        policy: Shape (kinds, S, A); rows sum to one.
        mass: Each kind's density, shape (kinds, S); by default the one to which the game's first density comes.
    """
    policy = _shaped(game, policy)
    mass = rest(game, policy) if mass is None else np.asarray(mass, np.float64)
    _, shares, discount = rest_crowd(game)
    if mass.shape != policy.shape[:2]:
        raise ValueError(f"the densities have shape {mass.shape}, not (kinds, S) = {policy.shape[:2]}")
    density = shares @ mass
    value, best, reach, drift = np.zeros((4, shares.size))
    worth = np.zeros(mass.shape)
    for kind in range(shares.size):
        reward, targets, chances = rest_table(game, density, kind)
        chain = _chain(policy[kind], targets, chances)
        own = worth[kind] = _worth(np.sum(policy[kind] * reward, axis=1), chain, discount)
        top = _best(reward, targets, chances, discount, own)
        value[kind], best[kind] = mass[kind] @ own, mass[kind] @ top
        reach[kind] = max(np.ptp(reward), LEAST_RANGE * np.abs(reward).max()) / (1 - discount)
        drift[kind] = np.abs(chain.T @ mass[kind] - mass[kind]).sum()
    return StationaryAccount(value, best, reach, shares, density, drift, worth)


def certify_stationary(
    game: AbstractStationaryGame, policy: np.ndarray, mass: np.ndarray | None = None, tol: float = 1e-6
) -> list[Certificate]:
    """Check a policy and its density, without the solver.

    Args:
        game: The game.
        policy: Shape (kinds, S, A).
        mass: Each kind's density, shape (kinds, S); by default the one to which the game's first density comes.
        tol: The tolerance of the exploitability, per reward range, and of the distance from rest.

    Returns:
        The certificates `exploitability` (per reward range), `rest` (how far the density moves in a step), `policy`
        (how far its rows are from probabilities) and `mass` (how far the densities' sums are from one).
    """
    mass = rest(game, _shaped(game, policy)) if mass is None else mass
    return stationary_certificates(account_stationary(game, policy, mass), policy, mass, tol)


def stationary_certificates(
    found: StationaryAccount, policy: np.ndarray, mass: np.ndarray, tol: float
) -> list[Certificate]:
    """Return the certificates of a policy whose account is known."""
    rows, sums = (float(max(np.max(np.abs(x.sum(axis=-1) - 1)), np.max(-x), 0.0)) for x in (policy, mass))
    gain = "what players gain on average by the best policy while the density stays, per reward range"
    drift = float(found.shares @ found.drift)
    return [
        Certificate("exploitability", abs(found.relative), tol, gain),
        Certificate("rest", drift, tol, "mass that one step of the policy moves from where it was, in and out"),
        Certificate("policy", rows, 1e-6, "largest distance of a row of the policy from probabilities"),
        Certificate("mass", sums, 1e-6, "largest distance of a density's sum from one"),
    ]


def rest(game: AbstractStationaryGame, policy: np.ndarray, tol: float = 1e-13) -> np.ndarray:
    """Return the kinds' densities to which a policy brings the game's first density, shape (kinds, S).

    Steps of which half the mass stays, which end where the chain has a period too. Where moves depend on the density,
    they are taken anew at each density that rests, half of the way to it, until the density is its own.

    Args:
        game: The game.
        policy: Shape (kinds, S, A); rows sum to one.
        tol: The distance ‖μ − μP‖₁ that counts as rest. Whoever needs to know whether it was reached measures it:
            after `MOST_STEPS` the densities are returned as they are.
    """
    policy = _shaped(game, policy)
    start, shares, _ = rest_crowd(game)
    mass, chains = np.tile(start, (shares.size, 1)), []
    for _ in range(MOST_DENSITIES):
        tables = [rest_table(game, shares @ mass, kind)[1:] for kind in range(shares.size)]
        known, chains = chains, [_chain(own, *at).T.tocsr() for own, at in zip(policy, tables, strict=True)]
        if known and max(abs(old - new).max() for old, new in zip(known, chains, strict=True)) <= tol:
            break
        fresh = np.stack([_pushed(chain, own, tol) for chain, own in zip(chains, mass, strict=True)])
        mass = (mass + fresh) / 2 if known else fresh
    return mass


def _pushed(chain: sparse.csr_array, mass: np.ndarray, tol: float) -> np.ndarray:
    """Return the density at rest to which a chain, given as its transpose, brings a density."""
    for _ in range(MOST_STEPS):
        after = chain @ mass
        # Probabilities in single precision sum to one only to 1e-7.
        after /= after.sum()
        if np.abs(after - mass).sum() <= tol:
            break
        mass = (mass + after) / 2
    return mass


def _shaped(game: AbstractStationaryGame, policy: np.ndarray) -> np.ndarray:
    policy = np.asarray(policy, np.float64)
    expected = rest_crowd(game)[1].size, game.states, game.actions
    if policy.shape != expected:
        raise ValueError(f"the policy has shape {policy.shape}, not (kinds, S, A) = {expected}")
    return policy


def _chain(policy: np.ndarray, targets: np.ndarray, chances: np.ndarray) -> sparse.csr_array:
    """Return the matrix (S, S) of a policy: entry (s, t) is the probability to go from s to t."""
    states, weights = policy.shape[0], policy[:, :, None] * chances
    froms = np.broadcast_to(np.arange(states)[:, None, None], targets.shape)
    used = weights > 0
    return sparse.csr_array((weights[used], (froms[used], targets[used])), shape=(states, states))


def _worth(reward: np.ndarray, chain: sparse.csr_array, discount: float) -> np.ndarray:
    """Return the values V = r + γPV of a policy."""
    return np.asarray(direct.spsolve(sparse.eye_array(reward.size, format="csc") - discount * chain.tocsc(), reward))


def _best(
    reward: np.ndarray, targets: np.ndarray, chances: np.ndarray, discount: float, value: np.ndarray
) -> np.ndarray:
    """Return the best policy's values by policy iteration, from the values of some policy.

    Reference:
        Howard (1960), Dynamic programming and Markov processes, chapter 7; it ends after finitely many steps.
    """
    every = np.arange(reward.shape[0])
    scale = max(np.abs(reward).max() / (1 - discount), np.finfo(float).tiny)
    for _ in range(MOST_IMPROVEMENTS):
        actions = reward + discount * np.sum(chances * value[targets], axis=-1)
        choice = actions.argmax(axis=1)
        if np.max(actions[every, choice] - value) <= 1e-13 * scale:
            break
        pure = np.zeros_like(reward)
        pure[every, choice] = 1.0
        value = _worth(reward[every, choice], _chain(pure, targets, chances), discount)
    return value
