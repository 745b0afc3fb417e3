"""What `catallax run meanfield` shows of a game without an end: tables, pictures and words."""

import io
import math
from typing import Any

import numpy as np

from ..errors import InputError
from ..runs.files import write_whole
from ..runs.store import RunContext
from ..study import Film, Section
from .figures import Plan, draw_moments, draw_rest
from .plan import LEAST_CHANCE, MOST_ROWS, heading, moves_at, where
from .problem import AbstractGame
from .sections import Findings, asked, found
from .stationary import AbstractStationaryGame
from .stationary_crowd import stretch
from .stationary_solve import STATIONARY_LAWS, StationaryEquilibrium, solve_stationary

LATER, MOST_DECISIONS = 0.01, 100
"""An actual crowd decides until later rewards count so little, and at most so often."""


def find(game: AbstractStationaryGame, *, law: str, **options: Any) -> StationaryEquilibrium:
    """Return the equilibrium; options as for `solve_stationary`.

    Raises:
        InputError: if the law is for games that end.
    """
    if law not in STATIONARY_LAWS:
        raise InputError(f"--law {law} is for games that end; without an end there are {', '.join(STATIONARY_LAWS)}")
    return solve_stationary(game, law=law, **options)


def title(named: str, game: AbstractStationaryGame) -> str:
    """Return the report's heading: the game, and how large it is."""
    return f"The crowd of {named} at rest: {game.states:,} states"


def density(answer: StationaryEquilibrium) -> np.ndarray:
    """Return the density by which the grid and the actions are known."""
    return answer.density


def actual(answer: StationaryEquilibrium) -> tuple[AbstractGame, np.ndarray]:
    """Return what an actual crowd plays, and its policy: decisions of a life at rest."""
    decisions = math.ceil(math.log(LATER) / math.log(float(answer.game.discount)))
    return stretch(answer.game, answer.policy, answer.mass, min(decisions, MOST_DECISIONS))


def write_tables(run: RunContext, answer: StationaryEquilibrium, plan: Plan | None, names: list[str]) -> None:
    """Write density.csv, policy.csv and, of several kinds, mass.csv; if too long, equilibrium.npz with all."""
    policy, mass = answer.policy, answer.mass
    run.write_table("density", {**where(np.arange(answer.density.size), plan), "density": answer.density})
    if policy.size > MOST_ROWS:
        stream = io.BytesIO()
        np.savez_compressed(stream, mass=mass, density=answer.density, policy=policy.astype(np.float32))
        write_whole(run.directory / "answer" / "equilibrium.npz", stream.getvalue())
        return
    several = len(policy) > 1
    kind, state, action = np.nonzero(policy >= LEAST_CHANCE)
    columns = {**where(state, plan), "action": np.array(names, dtype=object)[action]}
    columns = {"kind": kind, **columns} if several else columns
    run.write_table("policy", {**columns, "chance": policy[kind, state, action]})
    if several:
        kind, state = np.divmod(np.arange(mass.size), mass.shape[1])
        run.write_table("mass", {"kind": kind, **where(state, plan), "density": mass.ravel()})


def pictures(findings: Findings) -> tuple[dict[str, Any], dict[str, Film]]:
    """Draw where the crowd rests; return pictures by name, and no film."""
    answer, plan = findings.answer, findings.plan
    parts = np.asarray(answer.game.shares, np.float64)[:, None] * answer.mass
    if plan is None:
        return {"density": draw_rest(parts)}, {}
    arrows = heading(plan, moves_at(answer.game, 0, answer.density), acting(parts, answer.policy))
    top = plan.ceiling(answer.density)
    return {"density": draw_moments(plan, answer.density[None], ["at rest"], top, arrows[None])}, {}


def acting(parts: np.ndarray, policy: np.ndarray) -> np.ndarray:
    """Return the probabilities of actions in each state over all who are there, (S, A); zero where nobody is.

    Args:
        parts: The kinds' parts of the density, shape (kinds, S).
        policy: Shape (kinds, S, A).
    """
    there = parts.sum(axis=0)
    return np.einsum("ks,ksa->sa", parts, policy) / np.where(there > 0, there, 1.0)[:, None]


def sections(findings: Findings) -> list[Section]:
    """Return the body of the report."""
    text = (
        "Nobody's life here has an end; later rewards count less. Everybody answers the whole crowd, and nobody can "
        "move it alone. In equilibrium the crowd rests in a density that everyone's policy leaves as it is, and by "
        "that policy each player answers that density as best it can."
    )
    opening = asked(findings, text, ", no end")
    return [opening, _density(findings), *found(findings), _decisions(findings), _conventions()]


def _density(findings: Findings) -> Section:
    text = "The density at which the crowd rests under the policy found."
    note = ""
    if findings.plan is not None:
        text += " Arrows show which way players go on average, chance included; as many come as go."
        note = "Grey cells are walls. The strongest colour also stands for any larger density."
    figure = findings.figures.get("density")
    return Section("Where the crowd rests", text, figure=figure, note=note, file="answer/density.csv")


def _decisions(findings: Findings) -> Section:
    answer = findings.answer
    densest = np.argsort(-answer.mass[0], kind="stable")
    table = {**where(densest, findings.plan), "density": answer.mass[0, densest]}
    for name, chance in zip(findings.names, np.round(answer.policy[0, densest], 4).T, strict=True):
        table[name if findings.plan is not None and not name.isdigit() else f"action {name}"] = chance
    kind = "" if len(answer.policy) == 1 else " Of kind 0 of the players."
    text = f"The chance of each action in each state, the fullest states first.{kind}"
    return Section("What players do", text, table, file="answer/policy.csv")


def _conventions() -> Section:
    terms = {
        "Rest": "A density that one step of the policy leaves as it is. A policy may have several; this is the one "
        "to which the game's first density comes.",
        "Value": "Σ over t ≥ 0 of γ^t times the expected reward while the density stays, for a player drawn from its "
        "kind's density.",
        "Exploitability": "What players gain on average, each kind by its share, by the best policy in place of "
        "theirs while the density stays. Zero at an equilibrium.",
        "Reward range": "The largest less the smallest reward at the density, over all states and actions, divided "
        "by 1 − γ, and at least a thousandth of the largest |reward| / (1 − γ); kinds by their shares.",
    }
    return Section("What the words mean", terms=terms)
