"""Closer and closer rest, until certificates hold that the law of motion itself does not compute."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from ..certificate import Certificate
from ..core.result import Status
from ..core.settle import Settled
from ..core.system import State
from .certify import Gains

CLOSEST = 1e-3
"""Rest is not sought closer than so much of the tolerance."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Equilibrium:
    """What the answers to games with finitely many states have in common.

    Args:
        policy: Each kind's probabilities of actions; the last axes are states and actions.
        value: What each kind's policy is worth, shape (kinds,), in units of reward.
        exploitability: What players gain on average by the best policy while the crowd stays, in units of reward.
        reach: The reward range, averaged over kinds; with an answer's conventions.
        status: `SETTLED` only if every certificate holds.
        certificates: The independent checks.
        rounds: How many rounds it took.
        law: The name of the law of motion.
        bytes_per_round: What one device exchanges in a round.
        history: Rounds, and the law's own exploitability per reward range after each; for pictures, not for claims.
    """

    policy: np.ndarray
    value: np.ndarray
    exploitability: float
    reach: float
    status: Status
    certificates: tuple[Certificate, ...]
    rounds: int
    law: str
    bytes_per_round: int
    history: tuple[np.ndarray, np.ndarray]


def refine(
    rest: Callable[[float, State, int], Settled],
    judge: Callable[[State], tuple[Gains, list[Certificate], dict[str, np.ndarray]]],
    state: State,
    tol: float,
    max_rounds: int,
) -> dict[str, Any]:
    """Let a law of motion come to rest, closer each time, until the certificates hold or rounds run out.

    What a law measures on the way is not quite what its policy is worth in the crowd that it makes.

    Args:
        rest: From a tolerance, a state and a number of rounds to what `settle` returns, with a record of each round.
        judge: From a state to the account of its policy, the certificates, and the arrays of the answer.
        state: The first state.
        tol: The tolerance of the certificates.
        max_rounds: When to give up.

    Returns:
        The fields of an `Equilibrium` but the law's name, and the arrays of the answer.
    """
    goal, left, parts = 0.9 * tol, max_rounds, []
    while True:
        settled = rest(goal, state, left)
        parts.append((np.asarray(settled.recorded), np.asarray(settled.record)))
        state, left = settled.state, left - parts[-1][0].size
        arrays = {}  # Two policies at once may be more than the memory holds.
        found, checks, arrays = judge(state)
        holds, status = all(check.holds for check in checks), Status(settled.status)
        if holds or status != Status.SETTLED or left <= 0 or goal < CLOSEST * tol:
            break
        goal = goal / 4
    recorded, record = (np.concatenate(column) for column in zip(*parts, strict=True))
    return arrays | {
        "value": found.value,
        "exploitability": found.exploitability,
        "reach": float(found.shares @ found.reach),
        "status": Status.SETTLED if holds else Status.OUT_OF_ROUNDS if status == Status.SETTLED else status,
        "certificates": tuple(checks),
        "rounds": recorded.size,
        "bytes_per_round": settled.bytes_per_round,
        "history": (recorded, record),
    }
