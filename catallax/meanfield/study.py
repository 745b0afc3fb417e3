"""What `catallax run meanfield` does: read a game, solve it, let a crowd play it, and write what is to be seen."""

import dataclasses
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
from . import flow_study, stationary_study
from .common_noise import CommonNoise
from .crowd import crowd_law, deviation_gain, run_crowd
from .figures import draw_convergence, draw_law
from .load import load_game
from .options import Options
from .plan import action_names, plan_of
from .problem import AbstractGame, cast
from .sections import Findings, Played, signed
from .stationary import AbstractStationaryGame

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
    own: Any = stationary_study if isinstance(game, AbstractStationaryGame) else flow_study
    asked = {"tol": options.tol, "law": options.law, "max_rounds": options.max_rounds}
    answer = own.find(game, **asked, mesh=devices, watch=watch)
    seconds = time.monotonic() - began
    plan, names = plan_of(game, own.density(answer)), action_names(game, own.density(answer))
    own.write_tables(run, answer, plan, names)
    shares = np.asarray(game.shares, np.float64)
    run.write_table("kinds", {"kind": np.arange(shares.size), "share": shares, "value": answer.value})
    played, actual = None, own.actual(answer)
    if options.players and not run.stopped and actual is not None:
        run.progress.update(round=answer.rounds, note=f"{options.players:,} actual players")
        played = play(actual[0], actual[1], options.players, run.seed, devices)
        write_crowd(run, played)
    findings = Findings(options, answer, seconds, plan, names, watch.seen, played)
    findings = dataclasses.replace(findings, **pictures(run, findings, *own.pictures(findings)))
    return Outcome(
        title=own.title(options.named, game),
        status="stopped" if run.stopped else str(answer.status),
        certificates=list(answer.certificates),
        summary=summary(findings),
        sections=own.sections(findings),
    )


def _devices(run: RunContext) -> Any:
    try:
        return mesh(run.devices) if run.devices > 1 else None
    except ValueError as error:
        raise InputError(str(error)) from None


def play(game: AbstractGame, policy: np.ndarray, players: int, seed: int, devices: Any) -> Played:
    """Let actual crowds of several sizes play the answer, and let one of their players deviate.

    Args:
        game: The game.
        policy: The answer's policy, (kinds, T, S, A).
        players: The largest size.
        seed: Of their randomness.
        devices: Over which the largest crowd is spread.
    """
    # A game of the user may be in double precision, which players have no use for.
    game = cast(game, jnp.float32)
    sizes = np.unique(np.rint(np.geomspace(min(10, players), players, SIZES)).astype(int))
    crowd = run_crowd(game, policy, players, key=jax.random.key(seed), mesh=devices)
    law = crowd_law(game, policy, sizes.tolist(), RUNS, seed=seed) if sizes.size >= 3 else None
    gain = deviation_gain(game, policy, players, int(np.clip(MOST_DRAWS // players, 8, 256)), seed=seed)
    return Played(players, game.horizon, crowd.density, law, gain)


def write_crowd(run: RunContext, played: Played) -> None:
    """Write distance.csv, how far crowds of each size are from the mean field, and deviation.csv."""
    if (law := played.law) is not None:
        run.write_table("distance", {"players": law.players, "distance": law.distance, "error": law.error})
    gain, kinds = played.gain, np.arange(played.gain.by_kind.size)
    columns = {"kind": kinds, "players": np.full(kinds.size, played.players)}
    run.write_table("deviation", {**columns, "gain": gain.by_kind, "error": gain.by_kind_error})


def pictures(run: RunContext, findings: Findings, drawn: dict[str, Any], films: dict[str, Film]) -> dict[str, Any]:
    """Draw what there is to see of every game, and write all; return the pictures' texts by name, and the films."""
    if any(value > 0 for _, value in findings.seen):
        rounds, values = np.array(findings.seen).T
        drawn["convergence"] = draw_convergence(rounds, values, findings.options.tol)
    if findings.played is not None and (law := findings.played.law) is not None:
        fit = law.constant * law.players**law.slope
        drawn["crowd"] = draw_law(law.players, law.distance, law.error, fit, "distance from the mean field")
    for name, film in films.items():
        if moving := film_gif(film):
            write_whole(run.directory / "figures" / f"{name}.gif", moving)
    return {"figures": {name: run.write_figure(name, figure) for name, figure in drawn.items()}, "films": films}


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
    elif findings.options.players and isinstance(answer.game, CommonNoise):
        lines.append("no actual crowd: its shocks are the same for all (in Python, play it along a history: `given`)")
    return [signed(line) for line in lines]
