"""Results: a table on the terminal, JSON in the repository, and an alarm when something got slow."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from . import machine

ALARM = 2.0
"""A case that takes this many times as long as before is flagged."""
_console = Console()


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the tables of a system show: headings, and the keys of what stands below them.

    Args:
        title: Of the table of timings.
        columns: Its columns.
        ratios: Its columns of ratios to us.
        size: What the ladder's rungs are counted in.
        rungs: The ladder's columns.
    """

    title: str
    columns: dict[str, str]
    ratios: dict[str, str]
    size: tuple[str, str]
    rungs: dict[str, str]


LAYOUTS = {
    "market": Layout(
        "the same certified gap, warm; the ratios are peer / catallax",
        {
            "gap": "gap",
            "regret": "regret",
            "rounds": "rounds",
            "wall s": "seconds",
            "CPU s": "cpu_seconds",
            "own s": "own_seconds",
            "first s": "first_seconds",
        },
        {"× wall": "wall", "× CPU": "cpu", "× own": "own"},
        ("non-zeros", "nnz"),
        {"rounds": "rounds", "wall s": "seconds", "s per round": "seconds_per_round", "gap": "gap"},
    ),
    "meanfield": Layout(
        "exploitability by our certificate, warm; the ratios are peer / the first of catallax's",
        {
            "exploitability": "exploitability",
            "per range": "relative",
            "peer's own": "own_exploitability",
            "rounds": "rounds",
            "wall s": "seconds",
            "s per round": "seconds_per_round",
            "CPU s": "cpu_seconds",
            "first s": "first_seconds",
        },
        {"× round": "round", "× wall": "wall", "× CPU": "cpu"},
        ("states", "states"),
        {"rounds": "rounds", "wall s": "seconds", "s per round": "seconds_per_round"},
    ),
    "cortex": Layout(
        "least times, scaled to all samples where few were taken; the ratios are peer / the first of catallax's",
        {
            "samples": "samples",
            "objective": "objective",
            "gap": "gap",
            "certified": "certified",
            "active": "active",
            "wall s": "seconds",
            "CPU s": "cpu_seconds",
            "first s": "first_seconds",
        },
        {"× CPU": "cpu", "× wall": "wall"},
        ("units", "units"),
        {"samples": "samples", "CPU s": "cpu_seconds", "µs each": "microseconds", "active": "active"},
    ),
}


def say(line: str) -> None:
    """Print one line of progress."""
    _console.print(line, highlight=False, markup=False)


def load(path: Path) -> dict[str, Any] | None:
    """Read results; None if there are none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def save(results: dict[str, Any], path: Path | None, before: dict[str, Any] | None) -> dict[str, Any]:
    """Write results as JSON, with what only `before` has kept and dated; return what was written.

    Args:
        results: This run's.
        path: Where to, or None to write nothing.
        before: Earlier results to complete, or None to write this run's alone.
    """
    merged = dict(results)
    if before is not None:
        fresh = {case["name"] for case in results["cases"]}
        origin = {"date": before["date"]}
        if not machine.same(before["machine"], results["machine"]):
            origin["machine"] = before["machine"]
        kept = [origin | case for case in before["cases"] if case["name"] not in fresh]
        merged["cases"] = [*kept, *results["cases"]]
        for part in ("ladder", "large", "command_line"):
            if part in before and part not in results:
                merged[part] = origin | before[part]
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(_rounded(merged), indent=1, ensure_ascii=False, allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")
    return merged


def _rounded(value: Any) -> Any:
    """Return the results with four digits per number, and null for what is not finite."""
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(entry) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if np.isfinite(value) else None
    return value


def exponent(points: list[tuple[float, float]]) -> float | None:
    """Fit cost = a · size^exponent by least squares in logarithms; None with fewer than two points."""
    if len(points) < 2:
        return None
    sizes, costs = np.log(np.asarray(points, float)).T
    return float(np.polyfit(sizes, costs, 1)[0])


def show(results: dict[str, Any]) -> None:
    """Print the tables."""
    about = results["machine"]
    say(f"{about['processor']}; {about['cores']} cores; {about['memory_gib']} GiB; Python {about['python']}")
    layout = LAYOUTS[results.get("system", "market")]
    if results["cases"]:
        _console.print(_timings(results["cases"], layout))
    parts = [(case["name"], case) for case in results["cases"]]
    parts += [(name, results[name]) for name in ("ladder", "command_line") if name in results]
    if "ladder" in results:
        _console.print(_rungs(results["ladder"], layout))
    if any(part["aims"] for _, part in parts):
        _console.print(_aims(parts))
    fault = results.get("command_line", {}).get("fault")
    if fault:
        say(f"catallax run market failed: {fault}")


def _timings(cases: list[dict[str, Any]], layout: Layout) -> Table:
    table = Table(title=layout.title, title_justify="left")
    for name in ("case", "method", "setting"):
        table.add_column(name)
    for name in (*layout.columns, *layout.ratios):
        table.add_column(name, justify="right")
    for case in cases:
        to = "" if case["target"] is None else f" to {case['target']:g}"
        rows = [case["ours"], *case["peers"]]
        if case.get("solve") not in (None, case["ours"]):
            rows.insert(1, case["solve"])
        for position, found in enumerate(rows):
            head = f"{case['problem']}{to}" if position == 0 else ""
            style = ("bold" if position == 0 else "") if found["reached"] else "yellow"
            ratio = case["ratios"].get(found["method"], {})
            table.add_row(head, *_cells(found, ratio, layout), style=style)
        table.add_section()
    return table


def _cells(found: dict[str, Any], ratio: dict[str, Any], layout: Layout) -> list[str]:
    name = found["method"] + (f" ({found['date']})" if found["date"] else "")
    numbers = [_short(found[key]) for key in layout.columns.values()]
    if found["seconds"] is None:
        name += f": {found['outcome']}"
    least = "> " if ratio.get("at_least") else ""
    faster = [least + _short(ratio[kind]) if ratio.get(kind) else "" for kind in layout.ratios.values()]
    return [name, f"{found['setting']:g}", *numbers, *faster]


def _rungs(ladder: dict[str, Any], layout: Layout) -> Table:
    fits = [f"exponent {_short(ladder['exponent'])}"]
    if "exponent_from_1e5" in ladder:
        fits.append(f"from 1e5 on {_short(ladder['exponent_from_1e5'])}")
    table = Table(title=f"cost of a round by {layout.size[0]}: {', '.join(fits)}", title_justify="left")
    for name in (layout.size[0], *layout.rungs, "peak GB"):
        table.add_column(name, justify="right")
    for point in ladder["points"]:
        memory = point["peak_bytes"] / 1e9 if point.get("peak_bytes") else None
        numbers = [point.get(key) for key in layout.rungs.values()]
        table.add_row(f"{point[layout.size[1]]:,}", *map(_short, (*numbers, memory)))
    return table


def _aims(parts: list[tuple[str, dict[str, Any]]]) -> Table:
    table = Table(title="aims", title_justify="left")
    for name in ("case", "wanted", "found", "reached"):
        table.add_column(name)
    for name, part in parts:
        for aim in part["aims"]:
            word, style = ("yes", "green") if aim["reached"] else ("no", "red")
            table.add_row(name, aim["wanted"], _short(aim["found"]), word, style=style)
    return table


def _short(value: float | int | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def alarm(results: dict[str, Any], against: dict[str, Any]) -> int:
    """Say which cases got twice as slow; return 1 if any did, else 0.

    The shortest of each case's solves is compared on the same kind of machine; on another one, only ratios to
    a peer mean anything.
    """
    alike = machine.same(results["machine"], against["machine"])
    if not alike:
        say("another machine than in the earlier results: comparing ratios to peers, not seconds")
    old = {case["name"]: case for case in against["cases"]}
    slow = []
    for case in results["cases"]:
        before = old.get(case["name"])
        if before is None or (before["problem"], before["target"]) != (case["problem"], case["target"]):
            continue
        if before["ours"]["reached"] and not case["ours"]["reached"]:
            slow.append(f"{case['name']}: no longer reaches {case['target']:g} ({case['ours']['outcome']})")
            continue
        factor = _slower(case, before, alike)
        if factor is not None and factor >= ALARM:
            slow.append(f"{case['name']}: {factor:.1f} times as slow")
    if alike and "command_line" in results and "command_line" in against:
        now, then = results["command_line"]["seconds"], against["command_line"]["seconds"]
        if then and (not now or now >= ALARM * then):
            slow.append(f"command: {_short(now) or 'failed'} s, was {_short(then)} s")
    for line in slow:
        say(f"SLOW {line}")
    if not slow:
        say("no case is twice as slow as before")
    return 1 if slow else 0


def _slower(case: dict[str, Any], before: dict[str, Any], alike: bool) -> float | None:
    """Return how many times slower we got in a case; None where that cannot be said."""
    if alike:
        now, then = case["ours"]["least_seconds"], before["ours"]["least_seconds"]
        return now / then if now and then else None
    factors = []
    for peer, ratio in case["ratios"].items():
        then, now = before["ratios"].get(peer, {}).get("wall"), ratio["wall"]
        if then and now:
            factors.append(then / now)
    return min(factors) if factors else None


def plot(ladder: dict[str, Any], path: Path) -> None:
    """Draw the cost of a round against the non-zeros, with a line of slope one, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    points = [(p["nnz"], p["seconds_per_round"]) for p in ladder["points"] if p["seconds_per_round"]]
    if not points:
        return
    sizes, costs = np.asarray(points, float).T
    with matplotlib.rc_context({"svg.hashsalt": "catallax", "font.size": 9}):
        figure, axes = plt.subplots(figsize=(5, 3.4), layout="constrained")
        axes.loglog(sizes, costs, "o-", label="one round, measured")
        axes.loglog(sizes, costs[-1] * sizes / sizes[-1], "--", color="grey", label="linear")
        axes.set(xlabel="non-zero valuations (10 per buyer, 100 goods)", ylabel="seconds per round")
        axes.legend(frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None})
        plt.close(figure)
