"""The benchmarks' problems, their yardstick and their book-keeping; nothing here measures speed."""

import dataclasses
import json
import math
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import scipy.sparse

from benchmarks import machine, market, report
from benchmarks.measure import Measured, apart, timed, to_target
from benchmarks.peers import ProportionalResponse, _respond
from benchmarks.problems import Problem, awkward, dense, listed, sprinkled
from benchmarks.score import score
from catallax.market.problem import Market

# Two buyers with budgets 1 and 2: each wants its own good most, and spends everything there.
HAND = Problem(np.array([[3.0, 1.0], [1.0, 4.0]]), np.array([1.0, 2.0]), np.array([1.0, 5.0]))
HAND_PRICES = np.array([1.0, 0.4])
HAND_ALLOCATION = np.array([[1.0, 0.0], [0.0, 5.0]])


def plain(values):
    return values.toarray() if scipy.sparse.issparse(values) else values


@pytest.mark.parametrize(
    "make",
    [partial(dense, 20, 5), partial(sprinkled, 60, 30, 0.05), partial(listed, 200, 30, 10)],
    ids=["dense", "sprinkled", "listed"],
)
def test_a_seed_fixes_the_problem_and_another_changes_it(make):
    one, again, other = make(seed=1), make(seed=1), make(seed=2)
    for first, second in zip(one, again, strict=True):
        np.testing.assert_array_equal(plain(first), plain(second))
    assert not np.array_equal(plain(one.valuations), plain(other.valuations))


def test_lists_have_distinct_sorted_goods_and_positive_values():
    table = listed(500, 12, 4).valuations
    assert table.nnz == 2000 and (table.data > 0).all()
    goods = table.indices.reshape(500, 4)
    assert (np.diff(goods, axis=1) > 0).all()
    assert np.unique(goods).size == 12


def test_sprinkled_market_leaves_nobody_out():
    values = sprinkled(40, 200, 0.01).valuations.toarray()
    assert (values.max(axis=0) > 0).all() and (values.max(axis=1) > 0).all()


AWKWARD = {name: Problem(*rest) for name, *rest in awkward()}


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_markets_are_valid(name):
    problem = AWKWARD[name]
    found = Market(*problem)
    assert 1 <= found.nnz <= 200_000
    assert (found.budgets > 0).all() and (found.supply > 0).all()
    assert (plain(problem.valuations).max(axis=0) > 0).all()


def test_awkward_markets_are_the_same_each_time():
    for name, values, budgets, supply in awkward():
        np.testing.assert_array_equal(plain(values), plain(AWKWARD[name].valuations))
        np.testing.assert_array_equal(budgets, AWKWARD[name].budgets)
        np.testing.assert_array_equal(supply, AWKWARD[name].supply)


@pytest.mark.parametrize("prices", [HAND_PRICES, 7 * HAND_PRICES, None], ids=["own", "scaled", "none"])
@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_array], ids=["dense", "csr"])
def test_score_of_a_market_solved_by_hand(form, prices):
    found = score(form(HAND.valuations), HAND.budgets, HAND.supply, prices, form(HAND_ALLOCATION))
    assert found.gap < 1e-14 and found.regret < 1e-14 and found.clearing == 0


def test_score_rejects_a_wrong_answer_by_the_right_amount():
    swapped = np.array([[0.0, 5.0], [1.0, 0.0]])
    found = score(*HAND, HAND_PRICES, swapped)
    # At these prices the best utilities are 3 and 20; the buyers got 5 (overspending) and 1.
    assert found.gap == pytest.approx((np.log(3 / 5) + 2 * np.log(20 / 1)) / 3)
    assert found.regret == pytest.approx(1 - 1 / 20)
    halves = score(*HAND, HAND_PRICES, np.array([[0.5, 2.5], [0.5, 2.5]]))
    assert halves.gap > 0.05


def test_score_clears_the_market_first_and_tells_the_error():
    found = score(*HAND, HAND_PRICES, 0.9 * HAND_ALLOCATION)
    assert found.gap < 1e-14
    assert found.clearing == pytest.approx(0.1)


def test_score_takes_the_better_prices():
    found = score(*HAND, np.array([1.0, 1.0]), HAND_ALLOCATION)
    assert found.prices == "recomputed" and found.gap < 1e-14
    slack = score(*HAND, HAND_PRICES, HAND_ALLOCATION + np.array([[0.0, 1e-6], [1e-6, 0.0]]))
    assert 0 < slack.gap < 1e-5


def test_score_of_a_broken_answer_is_infinite():
    assert score(*HAND, HAND_PRICES, np.full((2, 2), np.nan)).gap == math.inf
    assert score(*HAND, HAND_PRICES, np.zeros((2, 2))).gap == math.inf


def test_plain_proportional_response_finds_the_equilibrium_by_hand():
    bids = np.full((2, 2), 0.5)
    prices, allocation = _respond(HAND, bids, 200)
    np.testing.assert_allclose(prices, HAND_PRICES, rtol=1e-12)
    np.testing.assert_allclose(allocation, HAND_ALLOCATION, atol=1e-12)


def test_a_measurement_counts_rounds_before_timing():
    found = timed(ProportionalResponse(), dense(20, 5), 1e-3, 10_000)
    assert found.reached and found.gap is not None and found.gap <= 1e-3
    assert found.rounds == found.setting and found.setting % 50 == 0
    assert found.repeats == 3 and found.seconds is not None and found.seconds > 0
    assert found.peak_bytes is not None and found.peak_bytes > 1e6


def test_a_peer_that_does_not_finish_is_stated_as_such():
    found = apart(ProportionalResponse(), partial(dense, 20, 5), 1e-3, 10_000, 0.01)
    assert found.outcome == "did not finish in 0.01 s" and not found.reached and found.seconds is None


@dataclasses.dataclass(frozen=True)
class Broken:
    """A method that fails."""

    name: str = "broken"
    compiled: bool = False

    def settings(self, target):
        return (1.0, 0.1)

    def prepared(self, problem, target, setting):
        return setting

    def solve(self, problem, setting):
        raise RuntimeError("out of luck")


def test_a_peer_that_fails_says_why():
    found = to_target(Broken(), partial(dense, 3, 2), 1e-3, limit=60)
    assert "out of luck" in found.outcome and found.setting == 0.1 and not found.reached


def test_a_measurement_ends_with_the_benchmark_that_was_killed():
    work = "print('begun', flush=True); import time; time.sleep(30)"
    parent = [sys.executable, "-c", f"from benchmarks.measure import alone; alone(exec, ({work!r},), 60)"]
    with subprocess.Popen(parent, stdout=subprocess.PIPE, text=True) as benchmark:
        assert benchmark.stdout.readline() == "begun\n"
        benchmark.kill()
        # The pipe ends when nobody can write to it any more.
        assert benchmark.communicate(timeout=10) == ("", None)


def ours(seconds=0.5, **rest):
    return Measured("catallax", 1e-6, "settled", seconds, seconds, seconds, peak_bytes=10**9, reached=True, **rest)


def test_ratios_and_aims():
    peer = Measured("SCS", 1e-5, "optimal", 50.0, 49.0, 40.0, own_seconds=45.0, reached=True)
    assert market.ratios(ours(), peer) == {"wall": 100, "cpu": 80, "own": 90, "at_least": False}
    gone = Measured("ECOS", 1e-5, "did not finish in 600 s")
    assert market.ratios(ours(), gone) == {"wall": 1200, "cpu": None, "own": None, "at_least": True}
    assert market.judged(market.Aim("faster than", 99, "SCS"), ours(), [peer])["reached"]
    assert not market.judged(market.Aim("faster than", 101, "SCS"), ours(), [peer])["reached"]
    assert market.judged(market.Aim("seconds", 0.6), ours(), [])["reached"]
    assert not market.judged(market.Aim("gigabytes", 0.9), ours(), [])["reached"]
    missed = dataclasses.replace(ours(), reached=False)
    assert not market.judged(market.Aim("seconds", 0.6), missed, [])["reached"]


def results(seconds, processor="one"):
    case = {
        "name": "small",
        "problem": "dense(1, 1)",
        "target": 1e-6,
        "ours": dataclasses.asdict(ours(seconds)),
    }
    ratio = {"SCS": {"wall": 10 / seconds, "cpu": None, "own": None, "at_least": False}}
    about = machine.description() | {"processor": processor}
    return {
        "date": "2026-01-01",
        "machine": about,
        "cases": [case | {"peers": [], "ratios": ratio, "aims": []}],
    }


@pytest.mark.parametrize("processor", ["one", "other"])
def test_the_alarm_goes_off_when_a_case_is_twice_as_slow(processor, capsys):
    assert report.alarm(results(1.0), results(0.7, processor)) == 0
    assert report.alarm(results(1.0), results(0.4, processor)) == 1
    assert "SLOW small: 2.5 times" in capsys.readouterr().out


def test_results_are_completed_from_an_earlier_run_and_are_plain_json(tmp_path):
    path = tmp_path / "market.json"
    earlier = results(1.0)
    report.save(earlier, path, None)
    other = results(2.0)
    other["cases"][0]["name"] = "large"
    report.save(other, path, report.load(path))
    merged = json.loads(path.read_text())
    assert [(case["name"], case.get("date")) for case in merged["cases"]] == [
        ("small", "2026-01-01"),
        ("large", None),
    ]
    assert str(tmp_path) not in path.read_text()


def test_exponent_of_a_power_law():
    assert report.exponent([(10.0, 3.0), (100.0, 30.0), (1000.0, 300.0)]) == pytest.approx(1.0)
    assert report.exponent([(10.0, 3.0)]) is None
