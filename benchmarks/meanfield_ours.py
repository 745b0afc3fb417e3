"""Our side of the mean-field games, and the yardstick: runs in a process of its own, answers scored by `certify`.

Two things are timed. `law`: rounds of textbook mirror descent as one compiled program, exploitability measured as
often as the peer does. `solved`: all that a user's call of `solve` does, its checks and certificates included.
Compiling is stated apart: it is in the first lap, and in no other.
"""

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from .meanfield_peers import Job
from .measure import peak_bytes

ROOT = Path(__file__).resolve().parent.parent
SLOW = 60.0
"""A first run of more seconds than this is not repeated: its time then contains the compiling."""


@dataclasses.dataclass(frozen=True)
class Figures:
    """What came of one method on one game.

    Args:
        method: Its name.
        setting: The tolerance asked for, or the rounds that were run.
        outcome: The method's own status; or "did not finish in N s", or the error that ended it.
        seconds: Median wall time.
        least_seconds: The shortest, which other work on the machine disturbs least.
        cpu_seconds: Median user and system time, all threads.
        first_seconds: Wall time of the first run, with loading and compiling.
        seconds_per_round: Median wall time over rounds.
        repeats: How many runs the medians are over.
        rounds: How many rounds led to the answer.
        exploitability: By our certificate, in units of reward.
        relative: The same per reward range.
        uniform: Our exploitability of the policy that the peer starts from, in units of reward.
        own_exploitability: What the method itself says.
        own_uniform: What the method itself says of the policy that it starts from.
        reached: Whether the target is reached.
        peak_bytes: The most memory that the process held, the certificate not included.
        version: Of the peer.
        date: When it was measured, if not in this run.
    """

    method: str
    setting: float
    outcome: str
    seconds: float | None = None
    least_seconds: float | None = None
    cpu_seconds: float | None = None
    first_seconds: float | None = None
    seconds_per_round: float | None = None
    repeats: int = 0
    rounds: int | None = None
    exploitability: float | None = None
    relative: float | None = None
    uniform: float | None = None
    own_exploitability: float | None = None
    own_uniform: float | None = None
    reached: bool = False
    peak_bytes: int | None = None
    version: str | None = None
    date: str | None = None


def law(
    make: Callable[[], Any],
    rounds: int,
    rate: float,
    every: int,
    repeats: int,
    goal: float | None = None,
    double: bool = True,
) -> Figures:
    """Time mirror descent, started from even chances, in this process.

    Args:
        make: Makes the game.
        rounds: How many rounds; with a goal, at most ten times as many.
        rate: By which logits grow, per unit of reward.
        every: After how many rounds exploitability is measured.
        repeats: How many timed runs, after one that compiles.
        goal: If given, run as many rounds as it takes to be no more exploitable, in units of reward; counted before
            and outside the clock.
        double: Whether to compute in double precision.
    """
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    from catallax.meanfield.problem import cast
    from catallax.meanfield.solve import iterate

    with jax.enable_x64(double):
        game = cast(make(), jnp.float64 if double else jnp.float32)
        if goal is not None:
            rounds = _count(game, make, rounds, rate, goal)
        descend = partial(iterate, rounds=rounds, law="mirror-descent", rate=rate, every=every)
        # JAX's own `jit` of the arrays: `eqx.filter_jit` takes as long as twenty rounds of the smallest game to begin.
        arrays, rest = eqx.partition(game, eqx.is_array)
        run = jax.jit(lambda arrays: descend(eqx.combine(arrays, rest)))
        laps, answer = _laps(lambda: jax.block_until_ready(run(arrays)), repeats)
        peak = peak_bytes()
        policy = np.asarray(answer[0], np.float64)
    return _figures(f"catallax mirror-descent({rate:g})", rounds, "ran", laps, rounds, scored(make, policy), peak)


def rest_law(
    make: Callable[[], Any], rounds: int, rate: float, begin: Callable[[], np.ndarray], repeats: int
) -> Figures:
    """Time mirror descent on a stationary game, exploitability measured in each round, in this process.

    Args:
        make: Makes the game.
        rounds: How many rounds.
        rate: By which logits grow, per unit of reward.
        begin: The policy of the first round, (S, A), at the density to which it comes in 20 steps. Logits begin at
            zero all the same. Both are as in Bench-MFG.
        repeats: How many timed runs, after one that compiles.
    """
    import jax
    import jax.numpy as jnp
    from equinox import filter_jit

    from catallax.core.run import run
    from catallax.meanfield.problem import cast
    from catallax.meanfield.stationary_solve import first_standing

    with jax.enable_x64(True):
        game, policy = cast(make(), jnp.float64), jnp.asarray(begin())
        system, state = first_standing(game, "mirror-descent", rate=rate, tol=1e-4)
        mass = game.start()
        for _ in range(20):
            mass = game.moves(mass).under(policy).carry(mass)
        agents = dataclasses.replace(state.agents, policy=policy.T[None], mass=mass[None])
        signal = dataclasses.replace(state.signal, density=mass)
        state = dataclasses.replace(state, agents=agents, signal=signal)
        descend = filter_jit(lambda system, state: run(system, state, rounds, record=lambda now: now.signal.error))
        laps, ended = _laps(lambda: jax.block_until_ready(descend(system, state)), repeats)
        peak = peak_bytes()
        policy = np.moveaxis(np.asarray(ended.state.agents.policy), 1, 2)
    return _figures(f"catallax mirror-descent({rate:g})", rounds, "ran", laps, rounds, scored(make, policy), peak)


def _count(game: Any, make: Callable[[], Any], rounds: int, rate: float, goal: float) -> int:
    """Return after how many rounds the law's answer is no more exploitable than the goal."""
    from equinox import filter_jit

    from catallax.meanfield.solve import iterate

    most = 10 * rounds
    run = filter_jit(partial(iterate, law="mirror-descent", rate=rate, every=1))
    policy, _, errors = run(game, rounds=most)
    _, _, reach = scored(make, np.asarray(policy, np.float64))
    # What a round measures is what the policy before it was worth: entry i belongs to i rounds.
    within = np.flatnonzero(np.asarray(errors) * reach <= goal)
    return max(1, int(within[0])) if within.size else most


def solved(make: Callable[[], Any], tol: float, repeats: int, options: dict[str, Any]) -> Figures:
    """Time `solve` in this process, with its own choice of law unless the options say otherwise."""
    from catallax.meanfield.solve import solve

    game = make()
    laps, answer = _laps(lambda: solve(game, tol=tol, **options), repeats)
    peak = peak_bytes()
    score = answer.exploitability, answer.exploitability / answer.reach, answer.reach
    found = _figures("catallax", tol, str(answer.status), laps, answer.rounds, score, peak)
    return dataclasses.replace(found, reached=found.relative is not None and found.relative <= tol)


def _laps(run: Callable[[], Any], repeats: int) -> tuple[list[tuple[float, float]], Any]:
    """Return wall and CPU seconds of a first run and of `repeats` more, and the last answer; a slow run is the only."""
    laps, answer = [], None
    while len(laps) < 1 + repeats and (not laps or laps[0][0] < SLOW):
        cpu, wall = time.process_time(), time.perf_counter()
        answer = run()
        laps.append((time.perf_counter() - wall, time.process_time() - cpu))
    return laps, answer


def _figures(
    method: str,
    setting: float,
    outcome: str,
    laps: list[tuple[float, float]],
    rounds: int,
    score: tuple[float, float, float],
    peak: int,
) -> Figures:
    warm = laps[1:] or laps
    seconds = median(lap[0] for lap in warm)
    return Figures(
        method,
        setting,
        outcome,
        seconds=seconds,
        least_seconds=min(lap[0] for lap in warm),
        cpu_seconds=median(lap[1] for lap in warm),
        first_seconds=laps[0][0],
        seconds_per_round=seconds / max(rounds, 1),
        repeats=len(laps) - 1,
        rounds=rounds,
        exploitability=score[0],
        relative=score[1],
        peak_bytes=peak,
    )


def scored(make: Callable[[], Any], policy: np.ndarray) -> tuple[float, float, float]:
    """Return a policy's exploitability, the same per reward range, and that range, whoever gave the policy.

    Args:
        make: Makes the game.
        policy: Shape (kinds, T, S, A), or (kinds, S, A) of a stationary game. Rows are divided by their sum: single
            precision's miss one a little.
    """
    from catallax.meanfield.certify import account
    from catallax.meanfield.stationary import AbstractStationaryGame
    from catallax.meanfield.stationary_certify import account_stationary

    game, policy = make(), np.maximum(np.asarray(policy, np.float64), 0.0)
    policy = policy / policy.sum(axis=-1, keepdims=True)
    found = account_stationary(game, policy) if isinstance(game, AbstractStationaryGame) else account(game, policy)
    return found.exploitability, found.relative, float(found.shares @ found.reach)


def played(
    job: Job, make: Callable[[], Any] | None, order: Sequence[int], interpreter: str, limit: float, *, legal: bool,
    begin: Callable[[], np.ndarray] | None = None,
) -> Figures:  # fmt: skip
    """Let a peer do a job with its own interpreter, and score its policy as ours are.

    Args:
        job: What to do.
        make: Makes our game; None where there is none, and the peer's own figure is all there is.
        order: Which of the peer's actions each of ours is.
        interpreter: The peers' Python.
        limit: Seconds after which it is ended.
        legal: Whether the peer knows only the actions that lead somewhere, and starts from even chances of those.
        begin: The policy (S, A) of a stationary game from which the peer starts, with our order of actions.
    """
    try:
        policy, figures = _answer(job, interpreter, limit)
    except subprocess.TimeoutExpired:
        return Figures(job.name, job.rounds, f"did not finish in {limit:g} s")
    if "outcome" in figures:
        return Figures(job.name, job.rounds, figures["outcome"])
    figures.pop("threads")
    found = Figures(job.name, job.rounds, "ran", **figures)
    if make is None:
        return found
    policy = policy[..., list(order)]
    game = make()
    if begin is not None:
        policy, first = policy[None], begin()[None]
    else:
        first = np.asarray(game.legal_policy()) if legal else np.full(policy.shape, 1 / policy.shape[-1])
    gap, relative, _ = scored(make, policy)
    return dataclasses.replace(found, exploitability=gap, relative=relative, uniform=scored(make, first)[0])


def _answer(job: Job, interpreter: str, limit: float) -> tuple[np.ndarray, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        asked, given = Path(folder) / "job.json", Path(folder) / "answer.npz"
        asked.write_text(json.dumps(dataclasses.asdict(job)), encoding="utf-8")
        command = [interpreter, "-m", "benchmarks.meanfield_peers", str(asked), str(given)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False)
        if not given.exists():
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            return np.zeros(0), {"outcome": f"exit code {done.returncode}: {last}"[:200]}
        with np.load(given) as answer:
            return answer["policy"], json.loads(str(answer["figures"]))


def peers_python() -> str:
    """Return the interpreter of the peers' installation, beside our own if `dev.py` made one."""
    made = ROOT / ".venv" / "peers-meanfield" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    return str(made) if made.exists() else sys.executable


def rung(side: int, horizon: int, rounds: int, repeats: int) -> dict[str, Any]:
    """Time a round of mirror descent on a square field of so many cells a side, in single precision.

    The difference of a long and a short run over the rounds between them: what each run does once drops out.
    """
    import jax
    import jax.numpy as jnp
    from equinox import filter_jit

    from catallax.meanfield.games.grid import crowd_motion
    from catallax.meanfield.problem import cast
    from catallax.meanfield.solve import iterate

    with jax.enable_x64(False):
        game = cast(crowd_motion(side, side, horizon=horizon), jnp.float32)
        seconds = []
        for number in (1, 1 + rounds):
            run = filter_jit(partial(iterate, rounds=number, law="mirror-descent", rate=0.1, every=10 * rounds))
            laps, _ = _laps(lambda run=run: jax.block_until_ready(run(game)), repeats)
            seconds.append(median(lap[0] for lap in laps[1:]))
    return {
        "states": side * side,
        "horizon": horizon,
        "rounds": rounds,
        "seconds": seconds[1],
        "seconds_per_round": (seconds[1] - seconds[0]) / rounds,
        "peak_bytes": peak_bytes(),
    }
