"""Time one method on one problem in a process of its own: nobody else's threads, caches or memory."""

import dataclasses
import multiprocessing
import os
import resource
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from .peers import Method
from .problems import Problem, dense
from .score import score

REACHED = 1.0 + 1e-9


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came of one method on one problem.

    Args:
        method: Its name.
        setting: The tolerance or the rounds that were timed.
        outcome: The method's own status; or "did not finish in N s", or the error that ended it.
        seconds: Median wall time of a solve.
        least_seconds: The shortest of them, which other work on the machine disturbs least.
        cpu_seconds: Median user and system time of a solve, all threads.
        first_seconds: Wall time of the first solve of this problem; ours loads JAX and compiles in it.
        own_seconds: What the solver says it took itself, in the median solve.
        repeats: How many solves the medians are over.
        rounds: Iterations, if known.
        gap: Certified gap per unit of budget.
        regret: The largest buyer's regret.
        clearing: The clearing error of the raw answer.
        prices: "own" or "recomputed": which ones the gap belongs to.
        reached: Whether the gap is within the target.
        peak_bytes: The most memory that the process ever held, the problem included, the scoring not.
        date: When it was measured, if not in this run.
    """

    method: str
    setting: float
    outcome: str
    seconds: float | None = None
    least_seconds: float | None = None
    cpu_seconds: float | None = None
    first_seconds: float | None = None
    own_seconds: float | None = None
    repeats: int = 0
    rounds: int | None = None
    gap: float | None = None
    regret: float | None = None
    clearing: float | None = None
    prices: str | None = None
    reached: bool = False
    peak_bytes: int | None = None
    date: str | None = None


def to_target(
    method: Method, make: Callable[[], Problem], target: float, *, limit: float, known: float | None = None
) -> Measured:
    """Measure a method at the loosest setting whose certified gap reaches the target.

    Args:
        method: What to time.
        make: Makes the problem; must be importable (a `functools.partial` of a function in a module).
        target: Gap per unit of budget.
        limit: Wall seconds for each setting tried, after which its process is ended.
        known: A setting that was found in an earlier run, to be tried first and alone if it still does.

    Returns:
        The first measurement that reached the target; otherwise the last one.
    """
    if known is not None:
        measured = apart(method, make, target, known, limit)
        if measured.reached:
            return measured
    measured = Measured(method.name, 0.0, "no setting to try")
    for setting in method.settings(target):
        measured = apart(method, make, target, setting, limit)
        if measured.reached or measured.outcome.startswith("did not finish"):
            break
    return measured


def apart(method: Method, make: Callable[[], Problem], target: float, setting: float, limit: float) -> Measured:
    """Measure one method at one setting in a fresh process."""
    found = alone(_timed_of, (method, make, target, setting), limit)
    return found if isinstance(found, Measured) else Measured(method.name, setting, str(found))


def _timed_of(method: Method, make: Callable[[], Problem], target: float, setting: float) -> Measured:
    return timed(method, make(), target, setting)


def alone(work: Callable[..., Any], arguments: tuple[Any, ...], limit: float) -> Any:
    """Do some work in a fresh process, and end it after so many seconds.

    Args:
        work: A function of a module.
        arguments: What to give it; they are pickled, as is what it returns.
        limit: Wall seconds, starting the process included.

    Returns:
        What the work returned; or text: "did not finish in N s", or the error that ended it.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(there, work, arguments))
    process.start()
    there.close()
    try:
        return here.recv() if here.poll(limit) else f"did not finish in {limit:g} s"
    except EOFError:
        process.join()
        return f"ended with exit code {process.exitcode}"
    finally:
        process.kill()
        process.join()
        here.close()


def _child(pipe: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        pipe.send(work(*arguments))
    except Exception as error:  # whatever a peer raises is its result, and stays in the table
        pipe.send(f"{type(error).__name__}: {error}".splitlines()[0][:200])
    finally:
        pipe.close()


def _end_with_parent() -> None:
    """End this process when the one that began it does: whoever is killed ends nobody else."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def timed(method: Method, problem: Problem, target: float, setting: float) -> Measured:
    """Measure in this process: a first solve, then solves for the median.

    A peer solves a small problem first, which loads what is loaded once. Our first solve is cold, with
    loading and compilation, and never counted in the median; a peer's is. A peer that is slow, or misses the
    target at this setting, solves once only.
    """
    if not method.compiled:
        small = dense(20, 5)
        method.solve(small, method.prepared(small, 1e-2, method.settings(1e-2)[0]))
    setting = method.prepared(problem, target, setting)
    first, cpu, answer = _clock(method, problem, setting)
    peak = peak_bytes()
    laps = [] if method.compiled else [(first, cpu, answer.own_seconds)]
    scored = None if method.compiled else score(*problem, answer.prices, answer.allocation)
    if scored is None or scored.gap <= target * REACHED:
        repeats = _repeats(first, method.compiled)
        while len(laps) < repeats:
            wall, cpu, answer = _clock(method, problem, setting)
            laps.append((wall, cpu, answer.own_seconds))
        peak = max(peak, peak_bytes()) if scored is None else peak
    scored = score(*problem, answer.prices, answer.allocation)
    own = [lap[2] for lap in laps if lap[2] is not None]
    return Measured(
        method.name,
        setting,
        answer.status,
        seconds=median(lap[0] for lap in laps),
        least_seconds=min(lap[0] for lap in laps),
        cpu_seconds=median(lap[1] for lap in laps),
        first_seconds=first,
        own_seconds=median(own) if own else None,
        repeats=len(laps),
        rounds=answer.rounds,
        gap=scored.gap,
        regret=scored.regret,
        clearing=scored.clearing,
        prices=scored.prices,
        reached=scored.gap <= target * REACHED,
        peak_bytes=peak,
    )


def _clock(method: Method, problem: Problem, setting: float):
    cpu, wall = time.process_time(), time.perf_counter()
    answer = method.solve(problem, setting)
    return time.perf_counter() - wall, time.process_time() - cpu, answer


def _repeats(seconds: float, compiled: bool) -> int:
    if compiled:
        return 5 if seconds < 20 else 3
    return 3 if seconds < 10 else 1


def peak_bytes() -> int:
    """Return the most memory that this process has held resident, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux getrusage's figure is inherited from the parent through fork, this one is not.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if os.uname().sysname == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
