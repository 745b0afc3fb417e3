"""The words and tables of a market's report."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse

from ..study import Section
from .figures import dearest
from .groups import Groups
from .options import Options
from .problem import Exchange, Market
from .solve import Equilibrium
from .strategic import Comparison, ReplicaLaw, StrategicEquilibrium

ATTRIBUTION = (
    "Data: FiveThirtyEight, Food World Cup survey (2014), adapted, licensed under Creative Commons "
    "Attribution 4.0 International (CC BY 4.0). Ratings from 1 to 5 are read as valuations, midpoints of "
    "income brackets in thousands of dollars a year as budgets; cuisines are named after their countries. "
    "FiveThirtyEight does not endorse this use."
)

QUANTILES = {
    "least": 0.0,
    "a tenth": 0.1,
    "a quarter": 0.25,
    "half": 0.5,
    "three quarters": 0.75,
    "most": 1.0,
}

HOLDINGS = 20
"""How many of the largest holdings are listed."""

ALIKE = 1e-4
"""Elasticities of prices that differ by less than this are the same: they are computed to about 1e-6."""

UTILITIES = {
    "linear": "linear: goods replace one another, and a valuation is what one unit of a good is worth",
    "quasilinear": "quasilinear: as linear, and unspent money is worth itself",
    "ces": "CES with ρ = {rho:g}: goods replace one another imperfectly (elasticity {elasticity:.3g})",
    "cobb-douglas": "Cobb-Douglas: each buyer spends fixed parts of its budget, in proportion to its valuations",
    "leontief": "Leontief: goods are needed together, in proportion to the valuations",
}

SECTION_LAW = {
    "CentralPath": "Prices followed the central path: buyers answer a price and say how their answer bends, "
    "and the prices take Newton steps towards a market in which nothing is left over.",
    "ElasticDemand": "Prices took Newton steps: buyers answer a price and say how their answer bends.",
    "Complements": "Prices took Newton steps on prices and leftovers together.",
    "ProportionalResponse": "Proportional response: each buyer bids on a good in proportion to the utility "
    "that it got from it in the round before; a price is the sum of bids.",
    "Tatonnement": "Tâtonnement: a price rises while more of the good is wanted than there is, and falls otherwise.",
}


@dataclasses.dataclass(frozen=True)
class Findings:
    """All that a report is made from.

    Args:
        options: What was asked for.
        problem: The question.
        answer: Its equilibrium.
        seconds: From reading to the tables, compilation included.
        history: Rounds (or markets, for an exchange economy), and the distance after each.
        spending: Money spent by each buyer on each good, (n, m).
        groups: The numbers of the buyers in each group.
        statics: For each group the elasticity of each price, or None.
        why_no_statics: Why there are none.
        strategic, comparison, replicas: Of the trading posts, if asked for.
        figures: The pictures' texts by name.
    """

    options: Options
    problem: Market | Exchange
    answer: Equilibrium
    seconds: float
    history: tuple[np.ndarray, np.ndarray]
    spending: Any
    groups: Groups = dataclasses.field(default_factory=dict)
    statics: Mapping[str, np.ndarray] | None = None
    why_no_statics: str = ""
    strategic: StrategicEquilibrium | None = None
    comparison: Comparison | None = None
    replicas: ReplicaLaw | None = None
    figures: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def alike(self) -> bool:
        """Whether each group moves all prices by the same per cent."""
        if self.statics is None:
            return False
        priced = self.answer.prices > 0
        return all(np.ptp(row[priced]) < ALIKE for row in self.statics.values())


def sections(findings: Findings) -> list[Section]:
    """Return the body of the report."""
    found = [
        _asked(findings),
        _prices(findings),
        _convergence(findings),
        _allocation(findings),
        _buyers(findings),
        _statics(findings),
    ]
    if findings.strategic is not None and findings.comparison is not None:
        found += _strategy(findings, findings.strategic, findings.comparison)
    if findings.replicas is not None:
        found.append(_replicas(findings.replicas))
    return found


def _asked(findings: Findings) -> Section:
    options, problem, market = findings.options, findings.problem, findings.answer.market
    kind = "an exchange economy" if isinstance(problem, Exchange) else "a Fisher market"
    source = "the embedded survey of cuisines" if options.data is None else options.data.name
    rho = market.utility.rho
    elasticity = 1 / (1 - rho) if rho < 1 else np.inf
    money = market.budgets[market.budgets > 0]
    incomes = "Incomes at these prices" if isinstance(problem, Exchange) else "Budgets"
    terms = {
        "Data": f"{source}: {problem.n:,} buyers, {problem.m:,} goods, {problem.nnz:,} valuations "
        f"({problem.nnz / problem.n / problem.m:.0%} of all pairs)",
        "Utility": UTILITIES[options.utility].format(rho=rho, elasticity=elasticity),
        incomes: f"from {money.min():,.6g} to {money.max():,.6g}, half of them below "
        f"{np.median(money):,.6g}; {market.budgets.sum():,.6g} in all"
        + (f"; {market.n - money.size:,} buyers have none" if money.size < market.n else ""),
        "Supply": f"from {market.supply.min():,.6g} to {market.supply.max():,.6g} units of a good"
        if np.ptp(market.supply)
        else f"{market.supply[0]:,.6g} of each good",
        "Tolerance": f"{options.tol:g}",
    }
    text = (
        f"This is {kind}. At equilibrium prices every buyer's bundle is the best that it can afford, and "
        "every good that has a price is sold. A buyer needs to know nothing but the prices."
    )
    return Section("What was asked", text, terms=terms)


def _prices(findings: Findings) -> Section:
    answer = findings.answer
    market, prices = answer.market, answer.prices
    order = dearest(prices, market.m)
    sold = np.asarray(answer.allocation.sum(axis=0)).ravel() * prices
    total = float(sold.sum()) or 1.0
    table = {
        "good": [market.goods[j] for j in order],
        "price": prices[order],
        "supply": market.supply[order],
        "share": [f"{part:.2%}" for part in sold[order] / total],
    }
    note = f"Share is the part of all money spent. {_free(market, prices)}"
    if market.m > 30 and "prices" in findings.figures:
        note = f"The picture shows the 30 dearest of {market.m:,} goods. {note}"
    return Section("Prices", table=table, figure=findings.figures.get("prices"), note=note, file="answer/prices.csv")


def _free(market: Market, prices: np.ndarray) -> str:
    """Name the goods that cost nothing."""
    wanted = np.bincount(market.sparse().indices, minlength=market.m) > 0
    notes = []
    for numbers, what in (
        (np.flatnonzero(~wanted), "valued by nobody, and so sold at price zero"),
        (
            np.flatnonzero(wanted & (prices == 0)),
            "not scarce: at price zero there is enough for all who want them",
        ),
    ):
        if numbers.size:
            names = ", ".join(str(market.goods[int(j)]) for j in numbers[:10])
            more = f" and {numbers.size - 10:,} more" if numbers.size > 10 else ""
            notes.append(f"Goods {what}: {names}{more}.")
    return " ".join(notes)


def _convergence(findings: Findings) -> Section:
    answer = findings.answer
    law = SECTION_LAW.get(answer.law, "")
    what = "markets, each solved at incomes held fixed" if isinstance(findings.problem, Exchange) else "rounds"
    count = findings.history[0].size if isinstance(findings.problem, Exchange) else answer.rounds
    text = (
        f"{law} It ended {answer.status} after {count:,} {what}, {findings.seconds:.1f} seconds after the "
        f"start. A round exchanges {answer.bytes_per_round:,} bytes, however many buyers there are."
    )
    note = "The law's own measure of distance guides it and proves nothing; the certificates above do."
    return Section(
        "How it converged", text, figure=findings.figures.get("convergence"), note=note, file="history.jsonl"
    )


def _allocation(findings: Findings) -> Section:
    answer = findings.answer
    market = answer.market
    spending = scipy.sparse.csr_array(findings.spending)
    held = scipy.sparse.csr_array(answer.allocation)
    rows = np.repeat(np.arange(market.n), np.diff(spending.indptr))
    order = np.argsort(-np.asarray(spending.data, float), kind="stable")[:HOLDINGS]
    at, to = rows[order], spending.indices[order]
    amount = np.array([held[i, j] for i, j in zip(at, to, strict=True)])
    table = {
        "buyer": [market.buyers[i] for i in at],
        "good": [market.goods[j] for j in to],
        "amount": amount,
        "of supply": [f"{part:.2%}" for part in amount / market.supply[to]],
        "spending": spending.data[order],
    }
    text = (
        "Each column of the picture is a buyer, or the mean of a few neighbours where there are many, "
        "ordered by group and then by the good that takes most of the money. Goods stand from the dearest "
        "down."
    )
    note = f"The {len(order)} largest holdings by money spent; all of them are in answer/allocation.csv."
    return Section(
        "Who gets what",
        text if "allocation" in findings.figures else "",
        table=table,
        figure=findings.figures.get("allocation"),
        note=note,
        file="answer/allocation.csv",
    )


def _buyers(findings: Findings) -> Section:
    answer = findings.answer
    live = answer.market.budgets > 0
    columns = {
        "budget": answer.market.budgets[live],
        "utility": answer.utilities[live],
        "regret": np.maximum(answer.regrets[live], 0.0),
    }
    if answer.market.utility.money:
        columns["money kept"] = answer.money[live]
    shares = list(QUANTILES.values())
    table: dict[str, Any] = {"of all buyers": list(QUANTILES)}
    table |= {name: np.quantile(column, shares) for name, column in columns.items()}
    return Section(
        "Buyers",
        "Each column by itself: the least, what a tenth of all buyers stays below, and so on to the most. "
        "Regret is the share of the best affordable utility that a buyer misses.",
        table=table,
        note="Buyers without money are left out." if not live.all() else "",
        file="answer/buyers.csv",
    )


def _statics(findings: Findings) -> Section:
    title = "What one per cent more income would do"
    answer, statics = findings.answer, findings.statics
    if statics is None:
        return Section(title, findings.why_no_statics)
    market = answer.market
    if findings.alike:
        priced = int(np.argmax(answer.prices))
        part = [float(market.budgets[members].sum() / market.budgets.sum()) for members in findings.groups.values()]
        text = (
            "If everyone in a group had one per cent more income, every price would rise by the per cent in the table."
        )
        if market.utility.rho == 1:
            text += (
                " With linear utility, prices of goods that are linked through buyers who are just "
                "indifferent between them keep their ratios, so within such a connected market all prices "
                "move alike, by the group's share of all money."
            )
        table = {
            "group": list(statics),
            "buyers": [int(members.size) for members in findings.groups.values()],
            "share of money": [f"{share:.2%}" for share in part],
            "every price, per cent": [float(row[priced]) for row in statics.values()],
        }
        return Section(title, text, table)
    order = dearest(answer.prices, market.m)
    table = {"good": [market.goods[j] for j in order]}
    table |= {name: row[order] for name, row in statics.items()}
    text = (
        "By how many per cent each price moves if everyone in a group has one per cent more income. Each "
        "line adds up to one over groups that hold all buyers: if all had more, prices would rise with "
        "incomes."
    )
    if market.utility.money:
        text = "By how many per cent each price moves if everyone in a group has one per cent more income."
    elif market.utility.rho == 1:
        text += (
            " With linear utility, prices of goods that are linked through buyers who are just indifferent "
            "between them move alike; this market falls into several such parts."
        )
    return Section(title, text, table, figure=findings.figures.get("statics"))


def _strategy(findings: Findings, strategic: StrategicEquilibrium, compared: Comparison) -> list[Section]:
    market = findings.answer.market
    prices, all_bids = compared.bytes_read
    text = (
        "Here every buyer sees all bids and knows that its own bid moves the price: the trading-post game, "
        f"at its Nash equilibrium ({strategic.status} after {strategic.rounds:,} rounds). Price-takers read "
        f"{prices:,} bytes a round, {market.m:,} prices; strategic buyers {all_bids:,}, {market.n:,} × "
        f"{market.m:,} bids: {all_bids / prices:,.0f} times as much. It lowers Nash social welfare by "
        f"{1 - 1 / compared.nash_ratio:.3%}."
    )
    table = {
        "": ["Nash social welfare", "utilitarian welfare", "bytes read per buyer and round"],
        "price-taking": [
            f"{compared.nash_welfare[0]:.6f}",
            f"{compared.utilitarian_welfare[0]:.6f}",
            f"{prices:,}",
        ],
        "strategic": [
            f"{compared.nash_welfare[1]:.6f}",
            f"{compared.utilitarian_welfare[1]:.6f}",
            f"{all_bids:,}",
        ],
    }
    note = (
        "Welfare counts each buyer's utility as a share of what owning everything would give it: Nash social "
        "welfare is the mean of these by multiplication, weighted by budgets, and is greatest under "
        "price-taking; utilitarian welfare is the plain mean."
    )
    first = Section("What full information changes", text, table, note=note)
    return [first, _who_loses(findings, compared), _two_prices(findings, strategic, compared)]


def _who_loses(findings: Findings, compared: Comparison) -> Section:
    market, ratio = findings.answer.market, compared.utility_ratio
    parts = [
        f"{compared.losers:,} of {market.n:,} buyers get less than as price-takers and {compared.gainers:,} "
        f"get more (changes below {compared.threshold:g} do not count)."
    ]
    if compared.largest_loss is not None:
        parts.append(f"The largest loss is {compared.largest_loss[1]:.3%}, of {compared.largest_loss[0]}.")
    if compared.largest_gain is not None:
        parts.append(f"The largest gain is {compared.largest_gain[1]:.3%}, of {compared.largest_gain[0]}.")
    rows = [(name, ratio[members]) for name, members in findings.groups.items()]
    rows = [(name, part[np.isfinite(part)]) for name, part in rows]
    rows = [(name, part) for name, part in rows if part.size]
    table = {
        "group": [name for name, _ in rows],
        "buyers": [int(part.size) for _, part in rows],
        "who lose": [int(np.sum(part < 1 - compared.threshold)) for _, part in rows],
        "mean change": [_signed(float(np.mean(part)) - 1) for _, part in rows],
    }
    return Section("Who loses", " ".join(parts), table, note="The change is the mean over buyers of utility gained.")


def _signed(change: float) -> str:
    return f"{change:+.3%}".replace("-", "−") if np.isfinite(change) else ""


def _two_prices(findings: Findings, strategic: StrategicEquilibrium, compared: Comparison) -> Section:
    market, prices = findings.answer.market, findings.answer.prices
    order = dearest(prices, market.m)
    table = {
        "good": [market.goods[j] for j in order],
        "price-taking": prices[order],
        "strategic": strategic.prices[order],
        "difference": [_signed(change) for change in compared.price_difference[order]],
    }
    return Section(
        "Price-taking and strategic prices",
        table=table,
        figure=findings.figures.get("strategic"),
        file="answer/strategic-prices.csv",
    )


def _replicas(law: ReplicaLaw) -> Section:
    text = (
        "With k copies of every buyer, and k times the supply, each weighs less. In the limit the largest "
        "relative difference of a price falls as 1/k and the loss of Nash social welfare as 1/k². The slopes "
        f"fitted here are {law.price_slope:.2f} and {law.welfare_slope:.2f}; they come near −1 and −2 only "
        "where k is large enough."
    )
    table = {
        "copies k": [int(k) for k in law.ks],
        "largest price difference": [f"{value:.3e}" for value in law.price_difference],
        "loss of Nash welfare": [f"{value:.3e}" for value in law.welfare_excess],
    }
    note = "" if law.settled else "Not all of these equilibria settled, so take the slopes with care."
    return Section("How it vanishes in large markets", text, table, note=note)
