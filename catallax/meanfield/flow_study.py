"""What `catallax run meanfield` shows of a game that ends: tables, pictures and words."""

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..runs.files import write_whole
from ..runs.store import RunContext
from ..study import Film, Section
from .common_noise import CommonNoise
from .figures import FRAMES, PANELS, Plan, bar_film, draw_flow, draw_moments, grid_film, spread_times
from .plan import LEAST_CHANCE, MOST_ROWS, headings, where
from .problem import AbstractGame
from .sections import Findings, asked, found
from .solve import MeanFieldEquilibrium, solve

MOST_ARROWS = 3_000_000
"""With more times × cells × actions than this a film has no arrows."""


def find(game: AbstractGame, **options: Any) -> MeanFieldEquilibrium:
    """Return the equilibrium; options as for `solve`."""
    return solve(game, **options)


def title(named: str, game: AbstractGame) -> str:
    """Return the report's heading: the game, and how large it is."""
    return f"The crowd of {named}: {game.states:,} states, {game.horizon:,} decisions"


def density(answer: MeanFieldEquilibrium) -> np.ndarray:
    """Return the density by which the grid and the actions are known."""
    return answer.flow[0]


def actual(answer: MeanFieldEquilibrium) -> tuple[AbstractGame, np.ndarray] | None:
    """Return what an actual crowd plays, and its policy."""
    # Each player of an actual crowd would meet a shock of its own, where there is one for all.
    return None if isinstance(answer.game, CommonNoise) else (answer.game, answer.policy)


def write_tables(run: RunContext, answer: MeanFieldEquilibrium, plan: Plan | None, names: Sequence[str]) -> None:
    """Write density.csv and policy.csv; if they would be too long, equilibrium.npz with both."""
    flow, policy = answer.flow, answer.policy
    if policy.size > MOST_ROWS:
        stream = io.BytesIO()
        np.savez_compressed(stream, density=flow, policy=policy.astype(np.float32))
        write_whole(run.directory / "answer" / "equilibrium.npz", stream.getvalue())
    else:
        kind, when, state, action = np.nonzero(policy >= LEAST_CHANCE)
        columns = {"kind": kind} if len(policy) > 1 else {}
        columns |= {"time": when, **where(state, plan), "action": np.array(names, dtype=object)[action]}
        run.write_table("policy", {**columns, "chance": policy[kind, when, state, action]})
    if flow.size <= MOST_ROWS:
        when, state = np.divmod(np.arange(flow.size), flow.shape[1])
        run.write_table("density", {"time": when, **where(state, plan), "density": flow.ravel()})


def pictures(findings: Findings) -> tuple[dict[str, Any], dict[str, Film]]:
    """Draw where the crowd is; return pictures and films by name."""
    answer, plan, played = findings.answer, findings.plan, findings.played
    films = {"density": film_of(answer, plan, answer.flow, arrows=True)}
    if played is not None:
        films["crowd"] = film_of(answer, plan, played.density, like=films["density"])
    if plan is None:
        return {"density": draw_flow(answer.flow, [f"state {state}" for state in range(answer.flow.shape[1])])}, films
    # At the horizon nobody decides any more: a picture of where players go does without it.
    times = spread_times(answer.game.horizon, PANELS + 1)[:-1]
    arrows = headings(answer.game, plan, answer.flow, answer.policy, times)
    titles = [f"time {time}" for time in times]
    return {"density": draw_moments(plan, answer.flow[times], titles, plan.ceiling(answer.flow), arrows)}, films


def film_of(
    answer: MeanFieldEquilibrium,
    plan: Plan | None,
    flow: np.ndarray,
    *,
    arrows: bool = False,
    like: Film | None = None,
) -> Film:
    """Return the film of a flow, in the colours of another film if one is given."""
    game = answer.game
    times = spread_times(game.horizon, FRAMES)
    if plan is None:
        film = bar_film(flow[times], times, [f"state {state}" for state in range(game.states)])
    else:
        shown = arrows and times.size * game.states * game.actions <= MOST_ARROWS
        ways = headings(game, plan, answer.flow, answer.policy, times) if shown else None
        film = grid_film(plan, flow[times], times, ways)
    return film if like is None else dataclasses.replace(film, top=like.top)


def sections(findings: Findings) -> list[Section]:
    """Return the body of the report."""
    text = (
        "Everybody answers the whole crowd, and nobody can move it alone. In equilibrium the crowd's flow is the one "
        "that arises when each player answers that flow as best it can."
    )
    opening = asked(findings, text, f", {findings.answer.game.horizon:,} decisions")
    return [opening, _density(findings), *found(findings), _first_decisions(findings), _conventions()]


def _density(findings: Findings) -> Section:
    if findings.plan is None:
        text = "The density of the crowd under the policy found: which part of it is in each state at each time."
        note = ""
    else:
        text = (
            "The density of the crowd under the policy found. Arrows show which way players go on average, chance "
            "included."
        )
        note = "Grey cells are walls. The strongest colour also stands for any larger density."
    return Section(
        "Where the crowd is",
        text,
        figure=findings.figures.get("density"),
        film=findings.films.get("density"),
        note=note,
        file="answer/density.csv",
    )


def _first_decisions(findings: Findings) -> Section:
    answer, plan = findings.answer, findings.plan
    begins = np.flatnonzero(answer.flow[0] > 0)
    table: dict = {"state": begins}
    if plan is not None:
        table = {"row": begins // plan.shape[1], "column": begins % plan.shape[1]}
    table["density"] = answer.flow[0, begins]
    chances = np.round(answer.policy[0, 0, begins], 4)
    for name, chance in zip(findings.names, chances.T, strict=True):
        table[name if plan is not None else f"action {name}"] = chance
    kind = "" if len(answer.policy) == 1 else ", for kind 0 of the players"
    text = f"The chance of each action at time 0 where the crowd begins{kind}."
    return Section("The first decision", text, table, file="answer/policy.csv")


def _conventions() -> Section:
    terms = {
        "Times": "Decisions are made at t = 0 … T−1; densities are given at t = 0 … T.",
        "Value": "Σ over t < T of γ^t times the expected reward, plus γ^T times the expected final reward.",
        "Exploitability": "What players gain on average, each kind by its share, if they answer the flow of the "
        "policy by a best response in place of the policy. Zero at an equilibrium.",
        "Reward range": "The largest less the smallest reward along the flow, over all times, states and actions, "
        "times Σ γ^t, plus γ^T times the range of the final reward; kinds by their shares.",
    }
    return Section("What the words mean", terms=terms)
