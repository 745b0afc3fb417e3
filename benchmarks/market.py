"""The market against its peers: `python -m benchmarks market`.

Every method gets the same problems, a process of its own, and the loosest setting at which our certificate
finds its answer within the target. See `measure` for what is timed, `score` for the certificate, `report` for
the output.
"""

import argparse
import dataclasses
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from . import machine, report
from .measure import Measured, apart, to_target
from .peers import Catallax, Conic, Method, ProportionalResponse
from .problems import Problem, dense, listed, sprinkled

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "market.json"
CLARABEL, ECOS, SCS, PLAIN = Conic("CLARABEL"), Conic("ECOS"), Conic("SCS"), ProportionalResponse()
SLOW = 120.0
"""Peers that took more seconds than this, or did not finish, are kept from an earlier run unless `--all`."""


@dataclasses.dataclass(frozen=True)
class Aim:
    """What a case is to reach.

    Args:
        kind: "faster than" a peer (least ratio of wall times), "seconds" or "gigabytes" (most).
        bound: That ratio, or that many.
        peer: The peer's name, for ratios.
    """

    kind: str
    bound: float
    peer: str = ""


@dataclasses.dataclass(frozen=True)
class Case:
    """One problem, one target, and who is compared on it.

    Args:
        name: For `--only`.
        make: Makes the problem.
        target: Gap per unit of budget.
        peers: Who is measured beside us.
        aims: What we want of it.
        limit: Seconds after which a run is ended.
        first_tries: By name, a peer's setting known to be nearly right, where a full search takes an hour.
    """

    name: str
    make: Callable[[], Problem]
    target: float
    peers: tuple[Method, ...] = ()
    aims: tuple[Aim, ...] = ()
    limit: float = 600.0
    first_tries: tuple[tuple[str, float], ...] = ()

    @property
    def problem(self) -> str:
        """Return the call that makes the problem, as text."""
        return described(self.make)


def described(make: Any) -> str:
    """Return a partial call as text, such as "dense(100, 50)"."""
    given = [*map(str, make.args), *(f"{key}={value}" for key, value in make.keywords.items())]
    return f"{make.func.__name__}({', '.join(given)})"


MEDIUM = partial(dense, 1000, 100)
PUBLIC = partial(sprinkled, 10_000, 400, 0.2)
CASES = (
    Case("small", partial(dense, 100, 50), 1e-6, (CLARABEL, ECOS, SCS, PLAIN)),
    Case(
        "medium",
        MEDIUM,
        1e-6,
        (CLARABEL, ECOS, SCS, PLAIN),
        (Aim("faster than", 300, "SCS"), Aim("faster than", 30, "proportional response")),
    ),
    Case("tight", MEDIUM, 6e-8, (ECOS, CLARABEL), (Aim("faster than", 20, "ECOS"),)),
    Case(
        "large",
        partial(dense, 3000, 300),
        1e-6,
        (CLARABEL,),
        (Aim("faster than", 50, "Clarabel"),),
        first_tries=(("Clarabel", 1e-8),),
    ),
    Case("public", PUBLIC, 1e-6, aims=(Aim("seconds", 2.0),)),
    Case("public-tight", PUBLIC, 1e-8, aims=(Aim("seconds", 5.0),)),
    Case(
        "million",
        partial(listed, 1_000_000, 100, 10),
        1e-4,
        aims=(Aim("seconds", 60.0), Aim("gigabytes", 8.0)),
    ),
)
QUICK = (
    Case("small", partial(dense, 100, 50), 1e-6, (CLARABEL, ECOS, SCS, PLAIN)),
    Case("public", partial(sprinkled, 1000, 40, 0.2), 1e-6, (ECOS,), limit=60.0),
    Case("million", partial(listed, 10_000, 100, 10), 1e-4, limit=60.0),
)
LADDER = tuple(round(10**exponent) for exponent in np.arange(4.0, 7.1, 0.5))
QUICK_LADDER = (10_000, 31_623)
COMMAND_SECONDS = 8.0


def compare(case: Case, before: dict[str, Any] | None, everything: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure a case: us, then each peer, or what an earlier run has of it."""
    say(f"{case.name}: {case.problem} to {case.target:g}")
    ours = to_target(Catallax(), case.make, case.target, limit=case.limit)
    peers = []
    for peer in case.peers:
        old = _earlier(before, case, peer.name)
        if old is not None and not everything and (old.seconds is None or old.seconds > SLOW):
            peers.append(old)
            continue
        say(f"  {peer.name}")
        known = old.setting if old is not None and old.reached else dict(case.first_tries).get(peer.name)
        peers.append(to_target(peer, case.make, case.target, limit=case.limit, known=known))
    result = {
        "name": case.name,
        "problem": case.problem,
        "target": case.target,
        "ours": dataclasses.asdict(ours),
        "peers": [dataclasses.asdict(peer) for peer in peers],
        "ratios": {peer.method: ratios(ours, peer) for peer in peers},
    }
    return result | {"aims": [judged(aim, ours, peers) for aim in case.aims]}


def _earlier(before: dict[str, Any] | None, case: Case, peer: str) -> Measured | None:
    """Return a peer's earlier measurement of this case on such a machine with the same versions."""
    now = machine.description()
    if before is None or not machine.same(before["machine"], now):
        return None
    packages = ("numpy", "scipy", "cvxpy", "clarabel", "ecos", "scs")
    if any(before["machine"]["packages"].get(name) != now["packages"].get(name) for name in packages):
        return None
    for old in before["cases"]:
        if (old["name"], old["problem"], old["target"]) != (case.name, case.problem, case.target):
            continue
        for found in old["peers"]:
            settled = found["reached"] or found["outcome"].startswith("did not finish")
            if found["method"] == peer and settled:
                return Measured(**found | {"date": found["date"] or old.get("date") or before["date"]})
    return None


def ratios(ours: Measured, peer: Measured) -> dict[str, Any]:
    """Return how many times longer the peer took: wall, CPU, and its own word against our wall time."""
    if ours.seconds is None or not ours.reached:
        return {"wall": None, "cpu": None, "own": None, "at_least": False}
    if peer.seconds is None:
        waited = peer.outcome.removeprefix("did not finish in ").removesuffix(" s")
        least = float(waited) / ours.seconds if waited != peer.outcome else None
        return {"wall": least, "cpu": None, "own": None, "at_least": True}
    own = peer.own_seconds / ours.seconds if peer.own_seconds else None
    cpu = peer.cpu_seconds / ours.cpu_seconds if peer.cpu_seconds and ours.cpu_seconds else None
    # A peer that never came within the target would have needed longer still.
    return {"wall": peer.seconds / ours.seconds, "cpu": cpu, "own": own, "at_least": not peer.reached}


def judged(aim: Aim, ours: Measured, peers: list[Measured]) -> dict[str, Any]:
    """Return what an aim wanted, what was found, and whether it was reached."""
    value: float | None = None
    if aim.kind == "faster than":
        wanted, sign = f"at least {aim.bound:g} times faster than {aim.peer}", 1
        value = next((ratios(ours, peer)["wall"] for peer in peers if peer.method == aim.peer), None)
    elif aim.kind == "gigabytes":
        wanted, sign = f"less than {aim.bound:g} GB of memory", -1
        value = ours.peak_bytes / 1e9 if ours.peak_bytes else None
    else:
        wanted, sign = f"less than {aim.bound:g} s", -1
        value = ours.seconds
    reached = value is not None and ours.reached and sign * value >= sign * aim.bound
    return {"wanted": wanted, "found": value, "reached": bool(reached)}


def ladder(sizes: tuple[int, ...], say: Callable[[str], None]) -> dict[str, Any]:
    """Measure the cost of a round from few non-zeros to many, and fit cost = a · nnz^exponent."""
    points = []
    for nnz in sizes:
        say(f"ladder: {nnz:,} non-zeros")
        make = partial(listed, nnz // 10, 100, 10)
        found = apart(Catallax(), make, 1e-4, 1e-4, 600.0)
        per_round = found.seconds / found.rounds if found.seconds and found.rounds else None
        points.append({"nnz": nnz // 10 * 10, "seconds_per_round": per_round} | dataclasses.asdict(found))
    timed = [(p["nnz"], p["seconds_per_round"]) for p in points if p["seconds_per_round"]]
    large = [point for point in timed if point[0] >= 100_000]
    exponent = report.exponent(large)
    aim = {
        "wanted": "cost per round linear in the non-zeros: exponent from 1e5 on at most 1.1",
        "found": exponent,
        "reached": exponent is not None and exponent <= 1.1,
    }
    return {
        "points": points,
        "exponent": report.exponent(timed),
        "exponent_from_1e5": exponent,
        "aims": [aim] if len(large) > 1 else [],
    }


def command_line(say: Callable[[str], None]) -> dict[str, Any]:
    """Time `catallax run market` on the default data, report included, after a run that fills the caches."""
    say("command: catallax run market")
    script = shutil.which("catallax", path=str(Path(sys.executable).parent))
    start = [script] if script else [sys.executable, "-m", "catallax"]
    laps: list[float] = []
    fault = None
    with tempfile.TemporaryDirectory() as folder:
        for lap in range(4):
            out = Path(folder) / f"run-{lap}"
            began = time.perf_counter()
            command = [*start, "run", "market", "--quiet", "--out", str(out)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
            laps.append(time.perf_counter() - began)
            if done.returncode or not (out / "report.html").exists():
                fault = f"exit code {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"
                break
    seconds = None if fault else median(laps[1:])
    aim = {
        "wanted": f"less than {COMMAND_SECONDS:g} s",
        "found": seconds,
        "reached": seconds is not None and seconds < COMMAND_SECONDS,
    }
    return {"first_seconds": laps[0], "seconds": seconds, "repeats": 3, "fault": fault, "aims": [aim]}


def main(arguments: list[str]) -> int:
    """Run the cases, print the tables, write the results; return 1 if `--against` finds a slow case."""
    options = _options(arguments)
    before = report.load(options.out or RESULTS)
    against = report.load(options.against) if options.against else None
    if options.against and against is None:
        print(f"error: there are no results in {options.against}", file=sys.stderr)
        return 2
    results = {
        "system": "market",
        "date": date.today().isoformat(),
        "command": " ".join(["python -m benchmarks market", *_shown(options)]),
        "machine": machine.description(),
        "cases": [],
    }
    out = options.out or (None if options.quick else RESULTS)
    wanted = _wanted(options.only)
    for case in QUICK if options.quick else CASES:
        if wanted(case.name):
            results["cases"].append(compare(case, before, options.all, report.say))
            # Whatever is not measured again yet stays, so that an interrupted run loses nothing.
            report.save(results, out, before)
    if wanted("ladder"):
        results["ladder"] = ladder(QUICK_LADDER if options.quick else LADDER, report.say)
    if wanted("command"):
        results["command_line"] = command_line(report.say)
    merged = report.save(results, out, before if options.only else None)
    if out is not None and "ladder" in results:
        report.plot(results["ladder"], out.with_name(f"{out.stem}-ladder.svg"))
    report.show(results)
    if out is not None:
        report.say(f"written: {out.name}, {len(merged['cases'])} cases")
    return report.alarm(results, against) if against else 0


def _options(arguments: list[str]) -> argparse.Namespace:
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(prog="python -m benchmarks market", description=__doc__)
    parser.add_argument(
        "--only", action="append", metavar="NAME", choices=[*names, "ladder", "command"],
        help=f"measure this case alone (may be repeated): {', '.join(names)}, ladder, command",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="small sizes, two minutes; writes only with --out")
    parser.add_argument("--all", action="store_true", help=f"measure peers of more than {SLOW:g} s again too")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where results go, as JSON")
    parser.add_argument("--against", type=Path, metavar="FILE", help="flag cases twice as slow as in FILE")
    return parser.parse_args(arguments)


def _shown(options: argparse.Namespace) -> list[str]:
    """Return the options that matter to whoever repeats the run: no paths."""
    only = [part for name in options.only or () for part in ("--only", name)]
    return [*only, *(f"--{flag}" for flag in ("quick", "all") if getattr(options, flag))]


def _wanted(only: list[str] | None) -> Callable[[str], bool]:
    return lambda name: only is None or name in only
