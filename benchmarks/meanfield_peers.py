"""The peers' side of the mean-field games: `python -m benchmarks.meanfield_peers JOB.json ANSWER.npz`.

It runs in the peers' own installation, which cannot be ours: MFGLib needs an older OSQP and an older Rich than the
market's peers and our command line do. So nothing here imports Catallax. A job says which peer, game, method and
how many rounds; the answer is a policy, as (kinds, T, S, A) in the peer's order of states and actions, and timings.
"""

import contextlib
import dataclasses
import importlib.metadata
import io
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Job:
    """What a peer is to do.

    Args:
        peer: "OpenSpiel", "MFGLib" or "Bench-MFG".
        game: The peer's name for the game.
        rounds: How many rounds to run.
        method: The peer's name for the method.
        parameters: Of the game.
        settings: Of the method.
        best: Whether the answer is the best policy of the run by the peer's own exploitability, not the last one.
        repeats: How many runs at most; a run of more than ten seconds is not repeated.
    """

    peer: str
    game: str
    rounds: int
    method: str = "OnlineMirrorDescent"
    parameters: dict[str, Any] = dataclasses.field(default_factory=dict)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    best: bool = False
    repeats: int = 3

    @property
    def name(self) -> str:
        """What the tables call it."""
        given = ", ".join(f"{key}={value:g}" for key, value in self.settings.items() if value is not None)
        return f"{self.peer} {self.method}" + (f"({given})" if given else "")


@dataclasses.dataclass(frozen=True)
class Played:
    """One run of a peer.

    Args:
        policy: Shape (kinds, T, S, A), or (S, A) for a stationary game.
        exploitability: What the peer says of it, in units of reward.
        first: What the peer says of the policy that it starts from.
        rounds: How many rounds led to it.
    """

    policy: np.ndarray
    exploitability: float
    first: float
    rounds: int


def openspiel(job: Job) -> tuple[Callable[[int], Any], Callable[[Any], Played]]:
    """Return how to run OpenSpiel's mirror descent, and how to read its policy.

    Its exploitability is not part of a round and not timed. Its policy reads the table of values that the next
    round writes to, so its rounds are not quite those of the paper.
    """
    import pyspiel
    from open_spiel.python import policy as policies
    from open_spiel.python.mfg.algorithms import mirror_descent, nash_conv
    from open_spiel.python.mfg.games import factory

    settings = factory.GAME_SETTINGS[job.game]
    game = pyspiel.load_game("mfg_crowd_modelling_2d", {**settings, **job.parameters})

    def run(rounds: int) -> Any:
        law = mirror_descent.MirrorDescent(game, **job.settings)
        for _ in range(rounds):
            law.iteration()
        return law

    def read(law: Any) -> Played:
        size = int(game.get_parameters()["size"])
        table = _openspiel_table(game, law.get_policy(), size)
        uniform = nash_conv.NashConv(game, policies.UniformRandomPolicy(game)).nash_conv()
        reached = nash_conv.NashConv(game, law.get_policy()).nash_conv()
        return Played(table, float(reached), float(uniform), job.rounds)

    return run, read


def _openspiel_table(game: Any, policy: Any, size: int) -> np.ndarray:
    """Return a policy of OpenSpiel's grid as (1, T, S, A): state y·size + x; where nobody can be, action 2 stays."""
    import pyspiel

    horizon = int(game.get_parameters()["horizon"])
    table = np.zeros((1, horizon, size * size, 5))
    table[..., 2] = 1.0
    layer, seen = game.new_initial_states(), set()
    while layer:
        following = []
        for state in layer:
            player = state.current_player()
            if state.is_terminal():
                continue
            if player == pyspiel.PlayerId.MEAN_FIELD:
                # Where one may go depends on nobody else: any distribution will do.
                support = state.distribution_support()
                further = state.clone()
                further.update_distribution([1 / len(support)] * len(support))
                children = [further]
            elif player == pyspiel.PlayerId.CHANCE:
                children = [state.child(action) for action, _ in state.chance_outcomes()]
            else:
                x, y, now = (int(word) for word in str(state).strip("()").split(","))
                row = table[0, now, y * size + x]
                row[:] = 0.0
                for action, chance in policy.action_probabilities(state).items():
                    row[action] = chance
                children = [state.child(action) for action in state.legal_actions()]
            for child in children:
                key = str(child)
                if key not in seen:
                    seen.add(key)
                    following.append(child)
        layer = following
    return table


def mfglib(job: Job) -> tuple[Callable[[int], Any], Callable[[Any], Played]]:
    """Return how to run a method of MFGLib, which measures exploitability in each round, and how to read its answer."""
    import torch
    from mfglib import alg
    from mfglib.env import Environment

    torch.manual_seed(0)
    game = getattr(Environment, job.game)(**job.parameters)
    method = getattr(alg, job.method)(**job.settings)

    def run(rounds: int) -> Any:
        return method.solve(game, max_iter=rounds, atol=None, rtol=None)

    def read(found: Any) -> Played:
        policies, gaps, _ = found
        which = int(np.argmin(gaps)) if job.best else len(gaps) - 1
        policy = policies[which].detach().numpy().astype(float)
        shaped = policy.reshape(1, game.T + 1, game.n_states, game.n_actions)
        return Played(shaped, float(gaps[which]), float(gaps[0]), which)

    return run, read


def benchmfg(job: Job) -> tuple[Callable[[int], Any], Callable[[Any], Played]]:
    """Return how to run a method of Bench-MFG, which measures exploitability in each round, and how to read it.

    It starts from the random policy of its own set-up, whose seed is fixed here.
    """
    from benchmfg.api import load_config, make_environment, make_solver

    config = load_config([f"algorithm={job.method}", f"environment={job.game}", "device=cpu"])
    np.random.seed(0)
    game, policy = make_environment(config)
    first = np.array(game.stationary_mean_field)
    solver = make_solver(config, environment=game, initial_policy=policy)
    for key, value in job.settings.items():
        setattr(solver, key, value)

    def run(rounds: int) -> Any:
        # A run leaves its density behind, and would start the next one from there.
        game.update_stationary_mean_field(first.copy())
        solver.num_iterations = rounds
        return solver.eval()

    def read(found: Any) -> Played:
        reached, _, gaps = found
        return Played(np.asarray(reached, float), float(gaps[-1]), float(gaps[0]), len(gaps) - 1)

    return run, read


PEERS = {
    "OpenSpiel": (openspiel, "open_spiel"),
    "MFGLib": (mfglib, "mfglib"),
    "Bench-MFG": (benchmfg, "bench-mfg-suite"),
}


def measured(job: Job) -> tuple[np.ndarray, dict[str, Any]]:
    """Run a job: once briefly to load what is loaded once, then for the clock; return the policy and the figures."""
    make, package = PEERS[job.peer]
    began = time.perf_counter()
    run, read = make(job)
    run(2)
    first = time.perf_counter() - began
    laps: list[tuple[float, float]] = []
    found = None
    while len(laps) < job.repeats and (not laps or laps[0][0] < 10):
        cpu, wall = time.process_time(), time.perf_counter()
        found = run(job.rounds)
        laps.append((time.perf_counter() - wall, time.process_time() - cpu))
    played = read(found)
    seconds = median(lap[0] for lap in laps)
    return played.policy, {
        "version": importlib.metadata.version(package),
        "seconds": seconds,
        "least_seconds": min(lap[0] for lap in laps),
        "cpu_seconds": median(lap[1] for lap in laps),
        "first_seconds": first,
        "seconds_per_round": seconds / job.rounds,
        "repeats": len(laps),
        "rounds": played.rounds,
        "own_exploitability": played.exploitability,
        "own_uniform": played.first,
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def main(arguments: list[str]) -> int:
    """Do the job in a file and write the answer into another."""
    job = Job(**json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
    try:
        # Peers print; this process says nothing but its answer.
        with contextlib.redirect_stdout(io.StringIO()):
            policy, figures = measured(job)
    except ImportError as error:
        policy, figures = np.zeros(0), {"outcome": f"not installed: {error}"}
    except Exception as error:  # whatever a peer raises is its result, and stays in the table
        policy, figures = np.zeros(0), {"outcome": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    np.savez_compressed(arguments[1], policy=policy, figures=json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
