"""What `catallax run meanfield` does: read a game, solve it, let a crowd play it, and write what is to be seen."""

import dataclasses
import io
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..core.mesh import mesh
from ..core.result import Status
from ..core.run import Progress
from ..errors import InputError
from ..runs.files import write_whole
from ..runs.film import film_gif
from ..runs.report import small
from ..runs.store import RunContext
from ..study import Film, Outcome
from .common_noise import CommonNoise
from .crowd import crowd_law, deviation_gain, run_crowd
from .figures import (
    FRAMES,
    PANELS,
    Plan,
    bar_film,
    draw_convergence,
    draw_flow,
    draw_law,
    draw_moments,
    grid_film,
    spread_times,
)
from .load import load_game
from .options import Options
from .plan import action_names, headings, plan_of
from .problem import AbstractGame, cast
from .sections import Findings, Played, sections, signed
from .solve import MeanFieldEquilibrium, solve

MOST_ROWS = 2_000_000
"""A table with more rows than this is written as an array, in equilibrium.npz."""

LEAST_CHANCE = 1e-9
"""Actions less likely than this are left out of policy.csv."""

MOST_ARROWS = 3_000_000
"""With more times × cells × actions than this a film has no arrows."""

SIZES = 3
"""How many sizes of actual crowds are tried; each is compiled anew."""

RUNS = 32
"""How many independent crowds of each size."""

MOST_DRAWS = 128_000
"""About how many players deviations are measured with, over all runs of a size."""


class Watcher:
    """Between chunks: record each round, show how far it has come, and pass a wish to stop on.

    Args:
        run: Where to.
    """

    def __init__(self, run: RunContext):
        self.run = run
        self.seen: list[tuple[int, float]] = []

    def __call__(self, progress: Progress) -> None:
        if progress.record is not None:
            fresh = list(zip(np.asarray(progress.recorded).tolist(), np.asarray(progress.record).tolist(), strict=True))
            self.note(fresh)
        value = self.seen[-1][1] if self.seen else None
        self.run.progress.update(round=int(progress.state.round), total=progress.last_round, certificate=value)
        # The engine hears Ctrl-C in place of the run while it computes.
        if progress.status == Status.STOPPED:
            self.run.stop()

    def note(self, fresh: Sequence[tuple[int, float]]) -> None:
        """Put rounds and exploitabilities into the history.

        Laws measure it every so many rounds: in between the last value stands, which is not said again.
        """
        for number, value in fresh:
            if np.isfinite(value) and (not self.seen or value != self.seen[-1][1]):
                self.seen.append((number, value))
                self.run.record({"round": number, "exploitability": value})


def execute(options: Options, run: RunContext) -> Outcome:
    """Read the game, find its equilibrium, let an actual crowd play it, write tables and pictures.

    Raises:
        InputError: for input that is refused; nothing has been written then.
    """
    began = time.monotonic()
    game = load_game(options.named, options.file, options.parameters, options.horizon)
    devices = _devices(run)
    watch = Watcher(run)
    answer = solve(game, tol=options.tol, law=options.law, max_rounds=options.max_rounds, mesh=devices, watch=watch)
    seconds = time.monotonic() - began
    plan = plan_of(game, answer.flow[0])
    names = action_names(game, answer.flow[0])
    write_tables(run, answer, plan, names)
    played = None
    # Each player of an actual crowd would meet a shock of its own, where there is one for all.
    if options.players and not run.stopped and not isinstance(game, CommonNoise):
        run.progress.update(round=answer.rounds, note=f"{options.players:,} actual players")
        played = play(answer, options.players, run.seed, devices)
        write_crowd(run, played)
    findings = Findings(options, answer, seconds, plan, names, watch.seen, played)
    findings = dataclasses.replace(findings, **pictures(run, findings))
    return Outcome(
        title=title(options, game),
        status="stopped" if run.stopped else str(answer.status),
        certificates=list(answer.certificates),
        summary=summary(findings),
        sections=sections(findings),
    )


def title(options: Options, game: AbstractGame) -> str:
    """Return the report's heading: the game, and how large it is."""
    return f"The crowd of {options.named}: {game.states:,} states, {game.horizon:,} decisions"


def _devices(run: RunContext) -> Any:
    try:
        return mesh(run.devices) if run.devices > 1 else None
    except ValueError as error:
        raise InputError(str(error)) from None


def write_tables(run: RunContext, answer: MeanFieldEquilibrium, plan: Plan | None, names: Sequence[str]) -> None:
    """Write density.csv and policy.csv; where they would be too long, equilibrium.npz with both."""
    flow, policy = answer.flow, answer.policy
    if policy.size > MOST_ROWS:
        stream = io.BytesIO()
        np.savez_compressed(stream, density=flow, policy=policy.astype(np.float32))
        write_whole(run.directory / "answer" / "equilibrium.npz", stream.getvalue())
    else:
        kind, when, state, action = np.nonzero(policy >= LEAST_CHANCE)
        columns = {"kind": kind} if len(policy) > 1 else {}
        columns |= {"time": when, **_where(state, plan), "action": np.array(names, dtype=object)[action]}
        run.write_table("policy", {**columns, "chance": policy[kind, when, state, action]})
    if flow.size <= MOST_ROWS:
        when, state = np.divmod(np.arange(flow.size), flow.shape[1])
        run.write_table("density", {"time": when, **_where(state, plan), "density": flow.ravel()})
    shares = np.asarray(answer.game.shares, np.float64)
    run.write_table("kinds", {"kind": np.arange(shares.size), "share": shares, "value": answer.value})


def _where(state: np.ndarray, plan: Plan | None) -> dict[str, np.ndarray]:
    """Return the columns that say where a state is: rows and columns are counted from 0, as states are."""
    if plan is None:
        return {"state": state}
    row, column = np.divmod(state, plan.shape[1])
    return {"state": state, "row": row, "column": column}


def play(answer: MeanFieldEquilibrium, players: int, seed: int, devices: Any) -> Played:
    """Let actual crowds of several sizes play the answer, and let one of their players deviate.

    Args:
        answer: The equilibrium.
        players: The largest size.
        seed: Of their randomness.
        devices: Over which the largest crowd is spread.
    """
    # A game of the user may be in double precision, which players have no use for.
    game, policy = cast(answer.game, jnp.float32), answer.policy
    sizes = np.unique(np.rint(np.geomspace(min(10, players), players, SIZES)).astype(int))
    crowd = run_crowd(game, policy, players, key=jax.random.key(seed), mesh=devices)
    law = crowd_law(game, policy, sizes.tolist(), RUNS, seed=seed) if sizes.size >= 3 else None
    gain = deviation_gain(game, policy, players, int(np.clip(MOST_DRAWS // players, 8, 256)), seed=seed)
    return Played(players, crowd.density, law, gain)


def write_crowd(run: RunContext, played: Played) -> None:
    """Write distance.csv, how far crowds of each size are from the mean field, and deviation.csv."""
    if (law := played.law) is not None:
        run.write_table("distance", {"players": law.players, "distance": law.distance, "error": law.error})
    gain, kinds = played.gain, np.arange(played.gain.by_kind.size)
    columns = {"kind": kinds, "players": np.full(kinds.size, played.players)}
    run.write_table("deviation", {**columns, "gain": gain.by_kind, "error": gain.by_kind_error})


def pictures(run: RunContext, findings: Findings) -> dict[str, Any]:
    """Draw what there is to see; return the pictures' texts by name, and the films."""
    answer, plan = findings.answer, findings.plan
    films = {"density": film_of(answer, plan, answer.flow, arrows=True)}
    drawn = {}
    if plan is None:
        drawn["density"] = draw_flow(answer.flow, [f"state {state}" for state in range(answer.flow.shape[1])])
    else:
        # At the horizon nobody decides any more: a picture of where players go does without it.
        times = spread_times(answer.game.horizon, PANELS + 1)[:-1]
        arrows = headings(answer.game, plan, answer.flow, answer.policy, times)
        drawn["density"] = draw_moments(plan, answer.flow[times], times, plan.ceiling(answer.flow), arrows)
    if any(value > 0 for _, value in findings.seen):
        rounds, values = np.array(findings.seen).T
        drawn["convergence"] = draw_convergence(rounds, values, findings.options.tol)
    played = findings.played
    if played is not None:
        films["crowd"] = film_of(answer, plan, played.density, like=films["density"])
        if played.law is not None:
            law = played.law
            fit = law.constant * law.players**law.slope
            drawn["crowd"] = draw_law(law.players, law.distance, law.error, fit, "distance from the mean field")
    for name, film in films.items():
        if moving := film_gif(film):
            write_whole(run.directory / "figures" / f"{name}.gif", moving)
    return {"figures": {name: run.write_figure(name, figure) for name, figure in drawn.items()}, "films": films}


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


def summary(findings: Findings) -> list[str]:
    """Return the terminal's lines."""
    answer = findings.answer
    part = f" ({small(answer.exploitability / answer.reach)} of the reward range)" if answer.reach > 0 else ""
    values = ", ".join(f"{value:.6g}" for value in answer.value[:5])
    lines = [
        f"exploitability {answer.exploitability:.3g}{part}; value {values}",
        f"{answer.rounds:,} rounds ({answer.law}), {findings.seconds:.1f} s",
    ]
    if (played := findings.played) is not None:
        gain = played.gain
        lines.append(
            f"one of {played.players:,} actual players gains {gain.gain:.3g} ± {2 * gain.error:.1g} by deviating"
        )
        if (law := played.law) is not None:
            low, high = law.interval
            lines.append(f"distance from the mean field ∝ N^{law.slope:.3f} (95%: {low:.3f} to {high:.3f})")
    return [signed(line) for line in lines]
