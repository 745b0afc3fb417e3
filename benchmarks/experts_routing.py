"""Routing alone: `python -m benchmarks.experts_routing [--quick]`, many tokens over 64 experts, against every rival.

Time is the least of several warm calls, which other work on the machine disturbs least, interleaved so that all methods
meet the same disturbance; memory is what XLA sets aside for a call beyond its arguments and results. Affinities are
those of six domains whose tokens like some experts more than others. A router with memory meets its own batches before
it is measured, all of the same law but none the same. Then the gap to the optimum, and how long SciPy takes to find it.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from rich.console import Console
from rich.table import Table

from catallax.experts.certify import certify
from catallax.experts.clear import assign, clear
from catallax.experts.measure import max_violation
from catallax.experts.problem import Routing
from catallax.experts.rivals import ROUTERS
from catallax.experts.routers import Router
from catallax.experts.solve import assign_experts

from . import report

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Size:
    """How large a run is: tokens and experts, active experts, batches before the one measured, calls, small tokens."""

    tokens: int
    experts: int
    active: tuple[int, ...]
    batches: int
    repeats: int
    small: int


FULL = Size(65_536, 64, (2, 8), 4, 3, 2_048)
QUICK = Size(512, 16, (2,), 2, 2, 64)


def affinities(tokens: int, experts: int, seed: int) -> np.ndarray:
    """Draw affinities, float32: noise, what the token's domain likes, and what everybody likes.

    Args:
        tokens: How many.
        experts: How many.
        seed: Of the tokens; what is liked is the same for every seed.
    """
    liked = np.random.default_rng(0)
    domains, common = liked.normal(size=(6, experts)), 0.5 * liked.normal(size=experts)
    draw = np.random.default_rng(seed + 1)
    return (draw.normal(size=(tokens, experts)) + domains[draw.integers(6, size=tokens)] + common).astype(np.float32)


def methods(size: Size, active: int) -> dict[str, tuple[Callable, tuple]]:
    """Return what is timed, by name: a compiled function and its arguments, warm after `size.batches` batches."""
    batch = jnp.asarray(affinities(size.tokens, size.experts, size.batches))
    numbers = jnp.arange(size.tokens, dtype=jnp.int32)
    zero, places = jnp.zeros(size.experts), -(-active * size.tokens // size.experts)
    price = clear(jnp.asarray(affinities(size.tokens, size.experts, 0)), active, places, zero, sweeps=16)[0]
    found: dict[str, tuple[Callable, tuple]] = {
        "top_k alone": (jax.jit(lambda a: jax.lax.top_k(a, active)), (batch,)),
        "clear, one sweep": (jax.jit(lambda a, p: clear(a, active, places, p, sweeps=1)), (batch, price)),
        "clear, four sweeps": (jax.jit(lambda a, p: clear(a, active, places, p)), (batch, price)),
        "assign": (jax.jit(lambda a, p: assign(a, p, active, places)), (batch, price)),
    }
    for kind in ROUTERS:
        router = Router(kind, size.experts, active)
        step = jax.jit(lambda a, state, tokens, router=router: router(a, state, tokens=tokens))
        state = router.start()
        for seed in range(size.batches):
            state = step(jnp.asarray(affinities(size.tokens, size.experts, seed)), state, numbers)[1]
        found[kind] = step, (batch, state, numbers)
    return found


def routing(size: Size, say: Say = report.say) -> list[dict[str, Any]]:
    """Measure a batch's routing by each method: seconds, bytes, MaxVio of demand, pairs dropped, gap where exact."""
    rows = []
    for active in size.active:
        say(f"  {size.tokens:,} tokens, {size.experts} experts, {active} active")
        table = methods(size, active)
        least = dict.fromkeys(table, np.inf)
        for _ in range(size.repeats):
            for name, (law, given) in table.items():
                started = time.perf_counter()
                jax.block_until_ready(law(*given))
                least[name] = min(least[name], time.perf_counter() - started)
        problem = Routing(affinities(size.tokens, size.experts, size.batches), active)
        for name, (law, given) in table.items():
            row: dict[str, Any] = {"method": name, "active": active, "seconds": least[name]}
            row["times top_k"] = least[name] / least["top_k alone"]
            memory = law.lower(*given).compile().memory_analysis()
            row["bytes"] = None if memory is None else int(memory.temp_size_in_bytes)
            if name in ROUTERS:
                routed, state = law(*given)
                row["max_violation"] = max_violation(routed.logs.load)
                row["dropped"] = float(routed.logs.dropped)
                gap, load, whole = certify(problem, np.asarray(routed.chosen), np.asarray(state.price))
                if name in ("market", "auction") and load.holds and whole.holds:
                    row["gap"] = gap.value
            rows.append(row)
    return rows


def optimum(size: Size) -> list[dict[str, Any]]:
    """Compare the solved assignment of one expert per token with SciPy's exact one, and time both."""
    table = affinities(size.small, size.experts, 0)
    problem = Routing(table, 1)
    started = time.perf_counter()
    places = np.repeat(table, problem.capacity, axis=1)
    rows, columns = scipy.optimize.linear_sum_assignment(places, maximize=True)
    best, slow = float(places[rows, columns].sum(dtype=np.float64)), time.perf_counter() - started
    scale = float(np.ptp(table, axis=1).sum(dtype=np.float64))
    assign_experts(table, 1)
    started = time.perf_counter()
    answer = assign_experts(table, 1)
    solved = time.perf_counter() - started
    batch, zero = jnp.asarray(table), jnp.zeros(size.experts)

    def fast() -> Any:
        price = clear(batch, 1, problem.capacity, zero)[0]
        return jax.block_until_ready(assign(batch, price, 1, problem.capacity))

    fast()
    started = time.perf_counter()
    taken = fast()
    seconds = time.perf_counter() - started
    short = {"assign_experts": (answer.chosen, solved), "clear and assign": (np.asarray(taken.chosen), seconds)}
    found = [{"method": "scipy linear_sum_assignment", "seconds": slow, "gap": 0.0, "times faster": 1.0}]
    for name, (chosen, took) in short.items():
        worth = float(np.take_along_axis(table, chosen, axis=1).sum(dtype=np.float64))
        found.append({"method": name, "seconds": took, "gap": (best - worth) / scale, "times faster": slow / took})
    return found


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows as a table."""
    table = Table(title=title, title_justify="left")
    heads = list(dict.fromkeys(key for row in rows for key in row))
    for head in heads:
        table.add_column(head, justify="left" if head == "method" else "right")
    for row in rows:
        cells = [row.get(head) for head in heads]
        table.add_row(*("" if c is None else c if isinstance(c, str) else f"{c:,.4g}" for c in cells))
    Console(width=160).print(table)


def measure(size: Size, say: Say = report.say) -> list[dict[str, Any]]:
    """Run and print both parts; return their results, ready for JSON, with what was wanted."""
    batch, exact = routing(size, say), optimum(size)
    show(f"routing {size.tokens:,} tokens over {size.experts} experts", batch)
    show(f"the optimum: {size.small:,} tokens, {size.experts} experts, one each", exact)
    market = [row for row in batch if row["method"] == "market"]
    aims = []
    for name, most in (("max_violation", 0.03), ("dropped", 0.0)):
        worst = float(max(row[name] for row in market))
        aims.append({"wanted": f"market: {name} at most {most:g}", "found": worst, "reached": worst <= most})
    for aim in aims:
        say(f"{'reached' if aim['reached'] else 'NOT REACHED'}: {aim['wanted']}: {aim['found']:.4g}")
    return [
        {"name": "routing", "problem": f"{size.tokens:,} tokens, {size.experts} experts", "rows": batch, "aims": aims},
        {"name": "optimum", "problem": f"{size.small:,} tokens, {size.experts} experts", "rows": exact, "aims": []},
    ]


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experts_routing", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, not how it does")
    options = parser.parse_args(arguments)
    measure(QUICK if options.quick else FULL)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
