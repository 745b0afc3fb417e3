"""Mean-field games against their peers: `python -m benchmarks meanfield`.

Every method gets the same game and a process of its own; the answers of all are scored by our certificate, which
must agree with the peer's own figure. See `meanfield_peers` for the peers, whose installation is apart, and
`meanfield_ours` for what is timed on our side.
"""

import argparse
import dataclasses
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from catallax.meanfield.games.epidemic import Epidemic
from catallax.meanfield.games.grid import crowd_motion, four_rooms
from catallax.meanfield.games.simple import beach_bar
from catallax.meanfield.games.stationary import stationary_rooms

from . import machine, report
from .meanfield_games import benchmfg_begin, field
from .meanfield_ours import Figures, law, peers_python, played, rest_law, rung, solved
from .meanfield_peers import Job
from .measure import alone

RESULTS = Path(__file__).resolve().parent / "results" / "meanfield.json"
SLOW = 60.0
"""Peers that took more seconds than this, or did not finish, are kept from an earlier run unless `--all`."""
REPEATS = 15


@dataclasses.dataclass(frozen=True)
class Aim:
    """What a case is to reach.

    Args:
        kind: "per round" (least ratio to the first peer's seconds per round), "uniform" (most relative difference
            of our certificate and the first peer's own figure for the policy that it starts from), "own" (the same
            of the policy that it ends with), "equal" (most difference of exploitabilities per reward range to the
            first peer's), "lower" (than the best of all peers), "exploitability" (most, per reward range), "seconds"
            or "gigabytes" (most, of `solve`).
        bound: That number.
    """

    kind: str
    bound: float = 0.0


@dataclasses.dataclass(frozen=True)
class Case:
    """One game, its peers, and what we do beside them.

    Args:
        name: For `--only`.
        make: Makes the game; None for a game that we cannot play yet: the peers are measured all the same.
        jobs: What the peers do.
        order: Which of the peer's actions each of ours is.
        legal: Whether the peer starts from even chances of the steps that lead somewhere, not of all actions.
        begin: The policy of a stationary game from which the peer starts, and then we; None for even chances.
        rate: Of our mirror descent, beside the first peer's, for as many rounds; None to leave it out.
        every: After how many rounds it measures exploitability: as often as the peer does within its own rounds, which
            is each time in MFGLib and Bench-MFG, and never in OpenSpiel (ours then does so in its first round alone).
        double: Whether ours computes in double precision: as the peer does.
        turns: How many times the peer and ours are run in turns, each in a process of its own: seconds are medians of
            the runs' medians, and the least the least of all.
        catch_up: Whether to run as many rounds as it takes to be no more exploitable than the first peer, instead.
        target: What `solve` is asked for, per reward range; None to leave it out.
        options: Of `solve`.
        repeats: Of `solve`.
        aims: What we want.
        limit: Seconds after which a run is ended.
    """

    name: str
    make: Callable[[], Any] | None
    jobs: tuple[Job, ...] = ()
    order: tuple[int, ...] = ()
    legal: bool = False
    begin: Callable[[], np.ndarray] | None = None
    rate: float | None = None
    every: int = 1
    double: bool = True
    turns: int = 1
    catch_up: bool = False
    target: float | None = 1e-6
    options: tuple[tuple[str, Any], ...] = ()
    repeats: int = 3
    aims: tuple[Aim, ...] = ()
    limit: float = 300.0

    @property
    def problem(self) -> str:
        """Return the call that makes the game, as text."""
        if self.make is None:
            return self.jobs[0].game
        given = [*map(str, self.make.args), *(f"{key}={value}" for key, value in self.make.keywords.items())]
        return f"{self.make.func.__name__}({', '.join(given)})"


def mfglib(game: str, rounds: int, method: str = "OnlineMirrorDescent", **rest: Any) -> Job:
    """Return a job of MFGLib."""
    return Job("MFGLib", game, rounds, method, **rest)


OPENSPIEL_ORDER = (2, 0, 4, 1, 3)
"""OpenSpiel's 0 … 4 are up, left, stay, right, down; ours are stay, north, south, west, east."""
BENCHMFG_ORDER = (4, 2, 0, 3, 1)
"""Bench-MFG's 0 … 4 are a row on, right, a row back, left, stay."""
BARS = ((10, 10), (10, 10), (9, 11), (9, 11))
"""Where MFGLib's crowd motion puts the bar at each time with its default seed."""

CASES = (
    Case(
        "four-rooms",
        partial(four_rooms),
        (Job("OpenSpiel", "crowd_modelling_2d_four_rooms", 50, "MirrorDescent", settings={"lr": 0.1}),),
        OPENSPIEL_ORDER,
        legal=True,
        rate=0.1,
        every=1_000_000,
        catch_up=True,
        aims=(Aim("uniform", 1e-9), Aim("per round", 2500)),
    ),
    Case(
        "beach-bar",
        partial(beach_bar, 100, 51, 50),
        (mfglib("beach_bar", 30, parameters={"T": 50, "n": 100, "bar_loc": 50}, settings={"alpha": 1.0}),),
        (0, 1, 2),
        rate=1.0,
        double=False,
        aims=(Aim("uniform", 1e-5), Aim("equal", 1e-6), Aim("per round", 500)),
    ),
    Case(
        "beach-bar-default",
        partial(beach_bar),
        (mfglib("beach_bar", 300, settings={"alpha": 1.0}),),
        (0, 1, 2),
        rate=1.0,
        double=False,
        aims=(Aim("uniform", 1e-5), Aim("equal", 1e-6), Aim("per round", 800)),
    ),
    Case(
        "sis",
        partial(Epidemic),
        (
            mfglib("susceptible_infected", 300, best=True, repeats=1, settings={"alpha": 1.0}),
            mfglib("susceptible_infected", 300, best=True, repeats=1, settings={"alpha": 0.1}),
            mfglib("susceptible_infected", 300, "FictitiousPlay", best=True, repeats=1),
            mfglib(
                "susceptible_infected", 300, "PriorDescent", best=True, repeats=1, settings={"eta": 1.0, "n_inner": 10}
            ),
            mfglib("susceptible_infected", 300, "MFOMO", best=True, repeats=1),
        ),
        (0, 1),
        aims=(Aim("uniform", 1e-5), Aim("lower")),
    ),
    Case(
        "crowd-motion",
        partial(field, bars=BARS),
        (
            mfglib("crowd_motion", 100, best=True, repeats=1, settings={"alpha": 1.0}),
            mfglib("crowd_motion", 100, "FictitiousPlay", best=True, repeats=1),
            mfglib("crowd_motion", 100, "PriorDescent", best=True, repeats=1, settings={"eta": 1.0, "n_inner": 10}),
        ),
        (0, 1, 2, 3, 4),
        rate=1.0,
        aims=(Aim("uniform", 1e-5), Aim("lower")),
    ),
    Case(
        "stationary",
        partial(stationary_rooms, pull=0.0),
        (Job("Bench-MFG", "four_rooms_obstacles", 150, "omd"),),
        BENCHMFG_ORDER,
        begin=benchmfg_begin,
        rate=0.005 / 0.2,
        turns=5,
        target=None,
        aims=(Aim("own", 1e-2), Aim("per round", 5)),
    ),
    Case(
        "large",
        partial(crowd_motion, 512, 512, horizon=200),
        target=1e-3,
        repeats=0,
        aims=(Aim("exploitability", 1e-3), Aim("seconds", 600.0), Aim("gigabytes", 8.0)),
        limit=900.0,
    ),
)
QUICK = (
    dataclasses.replace(
        CASES[0], jobs=(dataclasses.replace(CASES[0].jobs[0], rounds=3),), aims=(Aim("uniform", 1e-9),), repeats=1
    ),
    dataclasses.replace(CASES[2], repeats=1),
    Case("large", partial(crowd_motion, 32, 32, horizon=20), target=1e-3, repeats=0, limit=120.0),
)
LADDER = (32, 100, 316, 1000)
QUICK_LADDER = (16, 32)


def compare(
    case: Case, before: dict[str, Any] | None, python: str, everything: bool, repeats: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure a case: the peers, or what an earlier run has of them, then us."""
    say(f"{case.name}: {case.problem}")
    peers, ours = [], []
    for job in case.jobs:
        old = _earlier(before, case, job)
        if old is not None and not everything and (old.seconds is None or old.seconds > SLOW):
            peers.append(old)
            continue
        say(f"  {job.name}, {job.rounds} rounds")
        play = partial(played, job, case.make, case.order, python, case.limit, legal=case.legal, begin=case.begin)
        if case.turns == 1 or job is not case.jobs[0]:
            peers.append(play())
            continue
        pairs = [(play(), _descent(case, repeats, None)) for _ in range(case.turns)]
        peers.append(merged([peer for peer, _ in pairs]))
        ours.append(merged([own for _, own in pairs]))
    if case.make is None:
        ours.append(Figures("catallax", 0.0, "a game of this sort cannot be played yet"))
    if case.rate is not None and not ours:
        ours.append(_descent(case, repeats, peers[0].exploitability if case.catch_up else None))
    if case.rate is not None and peers[0].relative is not None and ours[0].relative is not None:
        within = ours[0].relative <= peers[0].relative * (1 + 1e-3) + 1e-7
        ours[0] = dataclasses.replace(ours[0], reached=within)
    if case.target is not None:
        asked = (case.make, case.target, min(case.repeats, repeats), dict(case.options))
        ours.append(_ours("catallax", case.target, alone(solved, asked, case.limit)))
    result = {
        "name": case.name,
        "problem": case.problem,
        "target": case.target,
        "ours": dataclasses.asdict(ours[0]),
        "solve": dataclasses.asdict(ours[-1]),
        "peers": [dataclasses.asdict(peer) for peer in peers],
        "ratios": {peer.method: ratios(ours[0], peer) for peer in peers},
    }
    return result | {"aims": [judged(aim, ours[0], ours[-1], peers) for aim in case.aims]}


def _descent(case: Case, repeats: int, goal: float | None) -> Figures:
    """Run our mirror descent beside the first peer's, to a goal in units of reward if there is one."""
    rounds = case.jobs[0].rounds
    call: Any = law
    asked: tuple = (case.make, rounds, case.rate, case.every, repeats, goal, case.double)
    if case.begin is not None:
        call, asked = rest_law, (case.make, rounds, case.rate, case.begin, repeats)
    return _ours("catallax mirror-descent", rounds, alone(call, asked, case.limit))


def merged(runs: list[Figures]) -> Figures:
    """Return the figures of several runs of one method: medians of times, and the least; all else of the last run."""
    timed = [run for run in runs if run.seconds is not None]
    if len(timed) < len(runs):
        return next(run for run in runs if run.seconds is None)
    names = ("seconds", "cpu_seconds", "first_seconds", "seconds_per_round")
    found = {name: median(getattr(run, name) for run in timed) for name in names}
    least = min(run.least_seconds for run in timed if run.least_seconds is not None)
    return dataclasses.replace(timed[-1], **found, least_seconds=least, repeats=sum(run.repeats for run in timed))


def _ours(name: str, setting: float, found: Any) -> Figures:
    return found if isinstance(found, Figures) else Figures(name, setting, str(found))


def _earlier(before: dict[str, Any] | None, case: Case, job: Job) -> Figures | None:
    """Return a peer's earlier measurement of this case on such a machine, if it is of the same game and rounds."""
    if before is None or not machine.same(before["machine"], machine.description()):
        return None
    for old in before["cases"]:
        if (old["name"], old["problem"]) != (case.name, case.problem):
            continue
        for found in old["peers"]:
            settled = found["outcome"] == "ran" or found["outcome"].startswith("did not finish")
            if (found["method"], found["setting"]) == (job.name, job.rounds) and settled:
                return Figures(**found | {"date": found["date"] or old.get("date") or before["date"]})
    return None


def ratios(ours: Figures, peer: Figures) -> dict[str, Any]:
    """Return how many times longer the peer took: for all, in CPU time, per round, and per round by the least times."""
    if ours.seconds is None or peer.seconds is None or not ours.seconds_per_round or not peer.seconds_per_round:
        return {"wall": None, "cpu": None, "round": None, "least": None, "at_least": False}
    cpu = peer.cpu_seconds / ours.cpu_seconds if peer.cpu_seconds and ours.cpu_seconds else None
    return {
        "wall": peer.seconds / ours.seconds,
        "cpu": cpu,
        "round": peer.seconds_per_round / ours.seconds_per_round,
        "least": _least_round(peer) / _least_round(ours) if peer.least_seconds and ours.least_seconds else None,
        "at_least": False,
    }


def _least_round(run: Figures) -> float:
    return (run.least_seconds or 0.0) * (run.seconds_per_round or 0.0) / (run.seconds or 1.0)


def judged(aim: Aim, ours: Figures, solve: Figures, peers: list[Figures]) -> dict[str, Any]:
    """Return what an aim wanted, what was found, and whether it was reached."""
    first = peers[0] if peers else None
    found: float | None = None
    sign = -1
    bound = aim.bound
    if aim.kind == "per round":
        wanted, sign = f"at least {bound:g} times faster per round than {first.method if first else 'the peer'}", 1
        found = ratios(ours, first)["round"] if first else None
    elif aim.kind == "uniform":
        wanted = f"the first policy's exploitability within {bound:g} of the peer's own figure"
        if first and first.uniform and first.own_uniform:
            found = abs(first.uniform / first.own_uniform - 1)
    elif aim.kind == "own":
        wanted = f"the peer's own figure for its last policy within {bound:g} of our certificate's"
        if first and first.exploitability and first.own_exploitability:
            found = abs(first.own_exploitability / first.exploitability - 1)
    elif aim.kind == "equal":
        wanted = f"exploitability per reward range within {bound:g} of the peer's"
        if first and first.relative is not None and ours.relative is not None:
            found = abs(first.relative - ours.relative)
    elif aim.kind == "lower":
        best = [peer.exploitability for peer in peers if peer.exploitability is not None]
        wanted = "less exploitable than every peer"
        bound = min(best) if best else -1.0
        wanted += f" ({bound:.3g})" if best else ""
        found = solve.exploitability
    else:
        wanted = {
            "exploitability": f"exploitability per reward range of at most {bound:g}",
            "seconds": f"less than {bound:g} s",
            "gigabytes": f"less than {bound:g} GB of memory",
        }[aim.kind]
        gigabytes = solve.peak_bytes / 1e9 if solve.peak_bytes else None
        taken = solve.seconds
        found = {"exploitability": solve.relative, "seconds": taken, "gigabytes": gigabytes}[aim.kind]
    reached = found is not None and sign * found >= sign * bound
    return {"wanted": wanted, "found": found, "reached": bool(reached)}


def ladder(sides: tuple[int, ...], repeats: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure a round from few states to many, and fit seconds = a · states^exponent."""
    points = []
    for side in sides:
        say(f"ladder: {side * side:,} states")
        rounds = 50 if side <= 100 else 5
        found = alone(rung, (side, 20, rounds, repeats), 300.0)
        points.append(found if isinstance(found, dict) else {"states": side * side, "outcome": str(found)})
    timed = [(p["states"], p["seconds_per_round"]) for p in points if (p.get("seconds_per_round") or 0) > 0]
    exponent = report.exponent(timed)
    aim = {
        "wanted": "time per round linear in the states: exponent at most 1.1",
        "found": exponent,
        "reached": exponent is not None and exponent <= 1.1,
    }
    return {"points": points, "exponent": exponent, "aims": [aim] if len(timed) > 2 else []}


def main(arguments: list[str]) -> int:
    """Run the cases, print the tables, write the results; return 1 if `--against` finds a slow case."""
    options = _options(arguments)
    before = report.load(options.out or RESULTS)
    against = report.load(options.against) if options.against else None
    if options.against and against is None:
        report.say(f"error: there are no results in {options.against}")
        return 2
    python, repeats = options.peers or peers_python(), 2 if options.quick else REPEATS
    results = {
        "system": "meanfield",
        "date": date.today().isoformat(),
        "command": " ".join(["python -m benchmarks meanfield", *_shown(options)]),
        "machine": machine.description(),
        "cases": [],
    }
    out = options.out or (None if options.quick else RESULTS)
    for case in QUICK if options.quick else CASES:
        if options.only is None or case.name in options.only:
            results["cases"].append(compare(case, before, python, options.all, repeats, report.say))
            # Whatever is not measured again yet stays, so that an interrupted run loses nothing.
            report.save(results, out, before)
    if options.only is None or "ladder" in options.only:
        results["ladder"] = ladder(QUICK_LADDER if options.quick else LADDER, min(repeats, 3), report.say)
    merged = report.save(results, out, before if options.only else None)
    report.show(results)
    if out is not None:
        report.say(f"written: {out.name}, {len(merged['cases'])} cases")
    return report.alarm(results, against) if against else 0


def _options(arguments: list[str]) -> argparse.Namespace:
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(prog="python -m benchmarks meanfield", description=__doc__)
    parser.add_argument(
        "--only", action="append", metavar="NAME", choices=[*names, "ladder"],
        help=f"measure this case alone (may be repeated): {', '.join(names)}, ladder",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="few rounds and small sizes; writes only with --out")
    parser.add_argument("--all", action="store_true", help=f"measure peers of more than {SLOW:g} s again too")
    parser.add_argument("--peers", metavar="PYTHON", help="the interpreter of the peers' installation")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where results go, as JSON")
    parser.add_argument("--against", type=Path, metavar="FILE", help="flag cases twice as slow as in FILE")
    return parser.parse_args(arguments)


def _shown(options: argparse.Namespace) -> list[str]:
    """Return the options that matter to whoever repeats the run: no paths."""
    only = [part for name in options.only or () for part in ("--only", name)]
    return [*only, *(f"--{flag}" for flag in ("quick", "all") if getattr(options, flag))]
