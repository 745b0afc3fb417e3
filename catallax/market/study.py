"""What `catallax run market` does: read, solve, compare, and write tables, figures and the report."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse

from ..certificate import Certificate
from ..core.mesh import mesh
from ..core.result import RunFailed, Status
from ..core.run import Progress
from ..errors import InputError
from ..runs.store import RunContext
from ..study import Outcome
from .exchange import solve_exchange
from .figures import (
    allocation_map,
    dearest,
    draw_allocation,
    draw_convergence,
    draw_prices,
    draw_statics,
    draw_two_prices,
)
from .groups import Groups, by_budget, by_main_good, income_brackets, main_goods, read_groups
from .options import Options
from .problem import Exchange, Market, utility_named
from .sections import ATTRIBUTION, Findings, sections
from .sensitivity import price_sensitivities
from .solve import Equilibrium, solve
from .strategic import MOST_BYTES, StrategicEquilibrium, compare, replica_law, solve_strategic
from .tables import default_market, read_market

LEAST_SHARE = 1e-9
"""Holdings below this part of a good's supply are rounding, and are left out of allocation.csv."""

MOST_STATICS = 3_000_000
"""With more valuations than this comparative statics would take longer than the answer."""

STRATEGIC_SLACK = 10
"""The tolerance of the trading posts in units of --tol: their law of motion is slow."""

MOST_REPLICA_BIDS = 50_000
"""More bids than this, copies included, and the replica law would take hours."""

REPLICA_TOL = 1e-8
"""The tolerance of the replica law's equilibria, whose differences are small."""


class Watcher:
    """Between chunks: record each round, show how far it has come, and pass a wish to stop on.

    Args:
        run: Where to.
        rest: The residual's unit, for laws that do not measure their distance themselves.
        stage: What is being solved, for the progress line and, unless empty, the history.
    """

    def __init__(self, run: RunContext, *, rest: float, stage: str = ""):
        self.run, self.rest, self.stage = run, rest, stage
        self.seen: list[tuple[int, float]] = []

    def __call__(self, progress: Progress) -> None:
        at = int(progress.state.round)
        if progress.record is not None:
            fresh = [
                (int(number), float(distance))
                for number, distance in zip(progress.recorded, progress.record, strict=True)
            ]
        else:
            fresh = [(at, progress.residual * self.rest)] if np.isfinite(progress.residual) else []
        self.note(fresh)
        value = self.seen[-1][1] if self.seen else None
        self.run.progress.update(round=at, total=progress.last_round, certificate=value, note=self.stage)
        # The engine hears Ctrl-C in place of the run while it computes.
        if progress.status == Status.STOPPED:
            self.run.stop()

    def note(self, fresh: Sequence[tuple[int, float]]) -> None:
        """Put rounds and distances into the history."""
        self.seen += fresh
        stage = {"stage": self.stage} if self.stage else {}
        self.run.record(*({**stage, "round": number, "distance": value} for number, value in fresh))


@dataclasses.dataclass(frozen=True)
class Read:
    """What was asked, read and checked."""

    problem: Market | Exchange
    groups: Groups | None


def execute(options: Options, run: RunContext) -> Outcome:
    """Read the market, find its prices, write tables, figures and the comparison asked for.

    Raises:
        InputError: for input that is refused; nothing has been written then.
        KeyboardInterrupt: if an exchange economy's user stops it; its markets on the way mean nothing.
    """
    began = time.monotonic()
    question = read(options)
    answer, watched = _answer(options, run, question.problem)
    write_tables(run, question.problem, answer)
    findings = Findings(
        options=options,
        problem=question.problem,
        answer=answer,
        seconds=time.monotonic() - began,
        history=watched,
        spending=_spending(answer),
    )
    groups = question.groups or _default_groups(options, answer, findings.spending)
    findings = dataclasses.replace(findings, groups=groups, **_statics(answer, question.problem, groups))
    if options.behaviour == "strategic" and not run.stopped:
        findings = dataclasses.replace(findings, **_strategy(options, run, answer))
    certificates = list(answer.certificates) + _renamed(findings.strategic)
    findings = dataclasses.replace(findings, figures=write_figures(run, findings))
    return Outcome(
        title=f"Prices of {answer.market.m:,} goods for {answer.market.n:,} buyers",
        status="stopped" if run.stopped else str(answer.status),
        certificates=certificates,
        summary=summary(findings),
        sections=sections(findings),
        attribution=ATTRIBUTION if options.data is None else "",
    )


def read(options: Options) -> Read:
    """Read the problem and the groups that the options name.

    Raises:
        InputError: one line with file, line and column.
    """
    if options.data is None:
        market = default_market()
        if options.utility != "linear":
            market = _with_utility(market, options)
        problem: Market | Exchange = market
    else:
        problem = read_market(
            options.data,
            budgets=options.budgets,
            supply=options.supply,
            endowments=options.endowments,
            utility=utility_named(options.utility, options.rho),
        )
    if options.behaviour == "strategic":
        _require_small(problem, options.replicas or 1)
    groups = None
    if options.groups is not None and isinstance(problem, Market):
        groups = read_groups(options.groups, problem)
    return Read(problem, groups)


def _with_utility(market: Market, options: Options) -> Market:
    return Market(
        market.valuations,
        market.budgets,
        market.supply,
        utility=utility_named(options.utility, options.rho),
        buyers=market.buyers,
        goods=market.goods,
    )


def _require_small(problem: Market | Exchange, replicas: int) -> None:
    """Say before starting that full information is too much for so many buyers."""
    n, m = problem.n, problem.m
    size = 8 * n * max(n, m)
    if size > MOST_BYTES:
        raise InputError(
            f"strategic buyers read all bids: with {n:,} buyers and {m:,} goods that takes {size / 1e9:.1f} "
            f"GB, more than the {MOST_BYTES / 1e9:.0f} GB allowed; leave out --behaviour strategic"
        )
    if replicas > 1 and n * m * replicas > MOST_REPLICA_BIDS:
        raise InputError(
            f"--replicas {replicas} of {n:,} buyers bid on {m:,} goods {n * m * replicas:,} times a round, "
            f"and at most {MOST_REPLICA_BIDS:,} are allowed, or it would take hours; leave it out, or give "
            "fewer buyers"
        )


def _answer(options: Options, run: RunContext, problem: Market | Exchange) -> tuple[Equilibrium, Any]:
    """Solve, and return the answer with its history: rounds (or markets) and distances."""
    try:
        devices = mesh(run.devices) if run.devices > 1 else None
    except ValueError as error:
        raise InputError(str(error)) from None
    watch = Watcher(run, rest=options.tol / 10)
    if isinstance(problem, Market):
        answer = solve(
            problem,
            tol=options.tol,
            law=options.law,
            max_rounds=options.max_rounds,
            mesh=devices,
            watch=watch,
        )
        return answer, _columns(watch.seen)

    def between(progress: Progress) -> None:
        run.progress.update(round=int(progress.state.round), note="one of the markets on the way")
        if progress.status == Status.STOPPED or run.stopped:
            raise KeyboardInterrupt

    limit = {} if options.max_rounds is None else {"max_markets": options.max_rounds}
    answer = solve_exchange(problem, tol=options.tol, mesh=devices, watch=between, **limit)
    watch.note(list(zip(answer.history[0].tolist(), answer.history[1].tolist(), strict=True)))
    return answer, answer.history


def _columns(seen: list[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([number for number, _ in seen], int), np.array([value for _, value in seen], float)


def _spending(answer: Equilibrium) -> Any:
    """Return money spent by each buyer on each good, CSR where the allocation is, else an array."""
    if scipy.sparse.issparse(answer.allocation):
        return scipy.sparse.csr_array(answer.allocation.multiply(answer.prices[None, :]))
    return answer.allocation * answer.prices


def write_tables(run: RunContext, problem: Market | Exchange, answer: Equilibrium) -> None:
    """Write prices.csv, the dearest first; allocation.csv, without what is rounding; buyers.csv."""
    market, prices = answer.market, answer.prices
    sold = np.asarray(answer.allocation.sum(axis=0)).ravel()
    order = dearest(prices, market.m)
    goods = np.array(market.goods, dtype=object)
    run.write_table(
        "prices",
        {
            "good": goods[order],
            "price": prices[order],
            "supply": market.supply[order],
            "spending": (prices * sold)[order],
        },
    )
    held = scipy.sparse.csr_array(answer.allocation)
    rows, columns = np.repeat(np.arange(market.n), np.diff(held.indptr)), held.indices
    seen = held.data > LEAST_SHARE * market.supply[columns]
    rows, columns, amount = rows[seen], columns[seen], held.data[seen]
    buyers = np.array(market.buyers, dtype=object)
    run.write_table(
        "allocation",
        {
            "buyer": buyers[rows],
            "good": goods[columns],
            "amount": amount,
            "spending": amount * prices[columns],
        },
    )
    table = {
        "buyer": buyers,
        "budget": market.budgets,
        "utility": answer.utilities,
        "regret": np.maximum(answer.regrets, 0.0),
    }
    if market.utility.money:
        table["money kept"] = answer.money
    run.write_table("buyers", table)


def _default_groups(options: Options, answer: Equilibrium, spending: Any) -> Groups:
    """Return income brackets for the survey, else quartiles of budgets, else those who buy the same good."""
    if options.data is None:
        return income_brackets(answer.market)
    groups = by_budget(answer.market)
    return groups if len(groups) > 1 else by_main_good(answer.market, spending)


def _statics(answer: Equilibrium, problem: Market | Exchange, groups: Groups) -> dict[str, Any]:
    """Return how prices answer incomes, or why that is not said."""
    if isinstance(problem, Exchange):
        return {"why_no_statics": "In an exchange economy incomes come from the prices themselves."}
    if answer.status != Status.SETTLED:
        return {"why_no_statics": "The prices did not settle, so there is nothing to vary."}
    if problem.nnz > MOST_STATICS:
        return {"why_no_statics": f"Left out for a market of {problem.nnz:,} valuations."}
    try:
        return {"statics": price_sensitivities(answer, groups)}
    except (ValueError, RunFailed) as error:
        return {"why_no_statics": f"Not available here: {error}."}


def _strategy(options: Options, run: RunContext, answer: Equilibrium) -> dict[str, Any]:
    """Play the trading posts, and set the result beside the price-takers'."""
    market = answer.market
    watch = Watcher(run, rest=1.0, stage="strategic")
    tol = STRATEGIC_SLACK * options.tol
    strategic = solve_strategic(market, tol=tol, watch=watch)
    watch.note(list(zip(strategic.history[0].tolist(), strategic.history[1].tolist(), strict=True)))
    compared = compare(market, answer, strategic, threshold=10 * tol)
    order = dearest(answer.prices, market.m)
    run.write_table(
        "strategic-prices",
        {
            "good": np.array(market.goods, dtype=object)[order],
            "price-taking": answer.prices[order],
            "strategic": strategic.prices[order],
        },
    )
    found = {"strategic": strategic, "comparison": compared}
    if options.replicas is not None and not run.stopped:
        ks = [2**power for power in range(20) if 2**power < options.replicas] + [options.replicas]
        found["replicas"] = replica_law(market, tuple(ks), tol=REPLICA_TOL)
    return found


def _renamed(strategic: StrategicEquilibrium | None) -> list[Certificate]:
    """Return the certificates of the trading posts, told apart from the market's by their names."""
    found = [] if strategic is None else list(strategic.certificates)
    return [one if "nash" in one.name else dataclasses.replace(one, name=f"strategic {one.name}") for one in found]


def write_figures(run: RunContext, findings: Findings) -> dict[str, str]:
    """Draw what there is to see; return the pictures' texts by name."""
    answer, goods = findings.answer, findings.answer.market.goods
    drawn = {"prices": draw_prices(goods, answer.prices)}
    rounds, distances = findings.history
    if np.any(np.isfinite(distances) & (distances > 0)):
        unit = "market" if isinstance(findings.problem, Exchange) else "round"
        drawn["convergence"] = draw_convergence(rounds, distances, findings.options.tol, unit)
    if np.all(np.isfinite(answer.prices)):
        budgets = answer.market.budgets
        per_money = np.divide(1.0, budgets, out=np.zeros_like(budgets), where=budgets > 0)
        shares = scipy.sparse.diags_array(per_money) @ scipy.sparse.csr_array(findings.spending)
        picture, columns, ends = allocation_map(shares, main_goods(findings.spending), answer.prices, findings.groups)
        names = [goods[j] for j in columns] + ["others"] * (picture.shape[1] - columns.size)
        drawn["allocation"] = draw_allocation(picture, names, ends)
    if findings.statics is not None and not findings.alike:
        drawn["statics"] = draw_statics(goods, answer.prices, findings.statics)
    if findings.strategic is not None:
        drawn["strategic"] = draw_two_prices(goods, answer.prices, findings.strategic.prices)
    return {name: run.write_figure(name, figure) for name, figure in drawn.items()}


def summary(findings: Findings) -> list[str]:
    """Return the terminal's lines: the dearest goods, and how they were found."""
    answer = findings.answer
    order = dearest(answer.prices, 10)
    sold = np.asarray(answer.allocation.sum(axis=0)).ravel() * answer.prices
    total = float(sold.sum()) or 1.0
    shown = [f"{answer.prices[j]:,.6g}" for j in order]
    wide = max(map(len, shown))
    lines = [f"The {order.size} dearest goods: price of one unit, share of all spending"]
    lines += [
        f"{price:>{wide}}  {sold[j] / total:6.2%}  {answer.market.goods[j]}"
        for price, j in zip(shown, order, strict=True)
    ]
    devices = f"{answer.bytes_per_round:,} bytes exchanged per round"
    lines.append(f"{answer.rounds:,} rounds ({answer.law}), {findings.seconds:.1f} s, {devices}")
    if findings.strategic is not None and findings.comparison is not None:
        lines.append(
            f"strategic: {findings.strategic.status} after {findings.strategic.rounds:,} rounds; "
            f"{findings.comparison.losers:,} of {answer.market.n:,} buyers lose by it"
        )
    return lines
