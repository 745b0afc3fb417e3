"""The methods compared: CVXPY's solvers, plain proportional response, and ours.

Each says which settings to try until the certified gap reaches a target, finds out beforehand and outside the
clock what it has to, and solves, which is timed.
"""

import dataclasses
import importlib
import time
import warnings
from typing import Any, Protocol

import numpy as np
import scipy.sparse

from .problems import Problem
from .score import score


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a method says, before anybody checks it.

    Args:
        prices: Shape (m,), or None where the method gives none.
        allocation: Shape (n, m), dense or sparse.
        status: The method's own word for how it went.
        rounds: How many rounds or iterations it took, if it says so.
        own_seconds: What the solver itself says it took, without the modelling language around it.
    """

    prices: np.ndarray | None
    allocation: Any
    status: str
    rounds: int | None = None
    own_seconds: float | None = None


class Method(Protocol):
    """What is compared."""

    @property
    def name(self) -> str:
        """What the tables call it."""
        ...

    @property
    def compiled(self) -> bool:
        """Whether the first solve of a shape compiles, and is stated apart."""
        ...

    def settings(self, target: float) -> tuple[float, ...]:
        """Return the settings to try in turn, loosest first."""
        ...

    def prepared(self, problem: Problem, target: float, setting: float) -> float:
        """Return the setting to time, found outside the clock."""
        ...

    def solve(self, problem: Problem, setting: float) -> Answer:
        """Solve; this call is timed."""
        ...


_HALF_DECADES = (
    1e-2,
    3e-3,
    1e-3,
    3e-4,
    1e-4,
    3e-5,
    1e-5,
    3e-6,
    1e-6,
    3e-7,
    1e-7,
    3e-8,
    1e-8,
    3e-9,
    1e-9,
    1e-10,
)


@dataclasses.dataclass(frozen=True)
class Conic:
    """A conic solver on the Eisenberg-Gale program, max Σ_i B_i log u_i, modelled as CVXPY's own pages would.

    Its setting is its tolerance; absolute, relative and feasibility tolerances are the same number.

    Args:
        solver: "CLARABEL", "ECOS" or "SCS".
        compiled: No.
    """

    solver: str
    compiled: bool = False

    @property
    def name(self) -> str:
        """The solver's name as its authors write it."""
        return {"CLARABEL": "Clarabel"}.get(self.solver, self.solver)

    def settings(self, target: float) -> tuple[float, ...]:
        """Return tolerances from coarse to fine: which one gives a certified gap is not known beforehand."""
        # Each starts where it was seen to miss the target, so that none is held to more than that.
        start = {"CLARABEL": 3.0, "ECOS": 100.0, "SCS": 300.0}[self.solver] * target
        return tuple(tol for tol in _HALF_DECADES if tol <= 1.1 * start)

    def prepared(self, problem: Problem, target: float, setting: float) -> float:
        """Return the tolerance as it is."""
        del problem, target
        return setting

    def solve(self, problem: Problem, setting: float) -> Answer:
        """Build the model, hand it over, and read bundles and prices (the duals of the supplies)."""
        cp = _cvxpy()
        model, bundle, supplied = _model(cp, problem)
        started = time.perf_counter()
        with warnings.catch_warnings():
            # "Solution may be inaccurate": the certificate says how inaccurate.
            warnings.simplefilter("ignore")
            model.solve(solver=self.solver, **_tolerances(self.solver, setting))
        elapsed = time.perf_counter() - started
        if bundle.value is None:
            return Answer(None, np.zeros(problem.valuations.shape), str(model.status))
        stats = model.solver_stats
        own = (stats.solve_time or 0.0) + (stats.setup_time or 0.0)
        prices = np.abs(np.asarray(supplied.dual_value, float))
        allocation = _as_table(problem, np.asarray(bundle.value, float))
        return Answer(prices, allocation, str(model.status), stats.num_iters, min(own, elapsed) or None)


def _cvxpy() -> Any:
    try:
        return importlib.import_module("cvxpy")
    except ImportError:
        from catallax.errors import MissingExtra

        raise MissingExtra("peers") from None


def _model(cp: Any, problem: Problem) -> tuple[Any, Any, Any]:
    """Return the program, its variable, and the constraint whose dual is the price."""
    values, budgets, supply = problem
    if scipy.sparse.issparse(values):
        # One variable for each non-zero.
        (n, m), pairs = values.shape, values.nnz
        at, rows = np.arange(pairs), np.repeat(np.arange(n), np.diff(values.indptr))
        worth = scipy.sparse.csr_array((values.data, (rows, at)), shape=(n, pairs))
        sums = scipy.sparse.csr_array((np.ones(pairs), (values.indices, at)), shape=(m, pairs))
        bundle = cp.Variable(pairs, nonneg=True)
        utility, sold = worth @ bundle, sums @ bundle
    else:
        bundle = cp.Variable(np.shape(values), nonneg=True)
        utility, sold = cp.sum(cp.multiply(values, bundle), axis=1), cp.sum(bundle, axis=0)
    supplied = sold <= supply
    welfare = cp.sum(cp.multiply(budgets, cp.log(utility)))
    return cp.Problem(cp.Maximize(welfare), [supplied]), bundle, supplied


def _tolerances(solver: str, tol: float) -> dict[str, Any]:
    """Return the solver's own names for a tolerance, and enough iterations never to be the reason to stop."""
    if solver == "CLARABEL":
        return {"tol_gap_abs": tol, "tol_gap_rel": tol, "tol_feas": tol, "max_iter": 500}
    if solver == "ECOS":
        return {"abstol": tol, "reltol": tol, "feastol": tol, "max_iters": 500}
    return {"eps_abs": tol, "eps_rel": tol, "max_iters": 1_000_000}


def _as_table(problem: Problem, bundle: np.ndarray) -> Any:
    values = problem.valuations
    if not scipy.sparse.issparse(values):
        return bundle
    return scipy.sparse.csr_array((bundle, values.indices, values.indptr), shape=values.shape)


@dataclasses.dataclass(frozen=True)
class ProportionalResponse:
    """Plain NumPy proportional response: each bids for a good in proportion to the utility it had from it.

    Its setting is the number of rounds, counted beforehand: so its time contains no certificate.

    Args:
        most: When to give up counting.
        compiled: No.

    Reference:
        Zhang (2011), Proportional response dynamics in the Fisher market.
    """

    most: int = 200_000
    compiled: bool = False

    @property
    def name(self) -> str:
        """What the tables call it."""
        return "proportional response"

    def settings(self, target: float) -> tuple[float, ...]:
        """Return one setting: as many rounds as it takes."""
        del target
        return (self.most,)

    def prepared(self, problem: Problem, target: float, setting: float) -> float:
        """Count the rounds to the target, scored every 50 rounds."""
        problem = _dense(problem)
        bids, rounds = _first_bids(problem), 0
        while rounds < setting:
            prices, allocation = _respond(problem, bids, 50)
            rounds += 50
            if score(*problem, prices, allocation).gap <= target:
                break
        return rounds

    def solve(self, problem: Problem, setting: float) -> Answer:
        """Run that many rounds."""
        problem = _dense(problem)
        prices, allocation = _respond(problem, _first_bids(problem), int(setting))
        return Answer(prices, allocation, "ran", int(setting))


def _dense(problem: Problem) -> Problem:
    values = problem.valuations
    return problem._replace(valuations=values.toarray()) if scipy.sparse.issparse(values) else problem


def _first_bids(problem: Problem) -> np.ndarray:
    values = np.asarray(problem.valuations)
    return values * (problem.budgets / values.sum(axis=1))[:, None]


def _respond(problem: Problem, bids: np.ndarray, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Run rounds on the bids, in place; return prices and the allocation at them."""
    values, budgets, supply = problem
    worth = np.empty_like(bids)
    for number in range(rounds):
        np.multiply(values, supply / bids.sum(axis=0), out=worth)
        np.multiply(bids, worth, out=bids)
        np.multiply(bids, (budgets / bids.sum(axis=1))[:, None], out=bids)
        if number % 50 == 49:
            # Bids that die out would pass through subnormal numbers, which makes rounds four times as slow.
            bids[bids < 1e-200] = 0.0
    spent = bids.sum(axis=0)
    return spent / supply, bids * (supply / spent)


@dataclasses.dataclass(frozen=True)
class Catallax:
    """This library with its defaults; its setting is the tolerance that it is asked for: the target."""

    compiled: bool = True

    @property
    def name(self) -> str:
        """What the tables call it."""
        return "catallax"

    def settings(self, target: float) -> tuple[float, ...]:
        """Return the target: it is promised, so nothing is searched."""
        return (target,)

    def prepared(self, problem: Problem, target: float, setting: float) -> float:
        """Return the tolerance as it is."""
        del problem, target
        return setting

    def solve(self, problem: Problem, setting: float) -> Answer:
        """Check the arrays, solve and certify: all that a user's call does."""
        from catallax.market.problem import Market
        from catallax.market.solve import solve

        found = solve(Market(*problem), tol=setting)
        return Answer(found.prices, found.allocation, str(found.status), int(found.rounds))
