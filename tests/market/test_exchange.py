"""Arrow-Debreu economies."""

import numpy as np
import pytest

from catallax import Status
from catallax.market.certify import certify_exchange
from catallax.market.exchange import solve_exchange
from catallax.market.problem import CES, COBB_DOUGLAS, LEONTIEF, LINEAR, Exchange


def economy(utility=LINEAR, n=12, m=5, seed=2):
    draw = np.random.default_rng(seed)
    return Exchange(draw.random((n, m)) + 0.05, draw.random((n, m)), utility=utility)


SLOW = [pytest.param(one, marks=pytest.mark.bench) for one in (CES(0.5), LEONTIEF)]


@pytest.mark.parametrize("utility", [LINEAR, COBB_DOUGLAS, CES(-1.0), *SLOW], ids=str)
def test_every_certificate_holds(utility):
    answer = solve_exchange(economy(utility))
    assert answer.status == Status.SETTLED, [(c.name, c.value) for c in answer.certificates]
    assert [c.name for c in answer.certificates] == ["gap", "regret", "clearing", "spending", "balance"]


def test_two_by_two_cobb_douglas_by_hand():
    # Each brings one unit of one good; shares a and b on the first: p1/p2 = b/(1 − a).
    a, b = 0.3, 0.6
    question = Exchange([[a, 1 - a], [b, 1 - b]], np.eye(2), utility=COBB_DOUGLAS)
    prices = solve_exchange(question, tol=1e-9).prices
    np.testing.assert_allclose(prices[0] / prices[1], b / (1 - a), rtol=1e-8)


def test_two_by_two_linear_by_hand():
    # Each wants only what the other brings: at equilibrium they swap, at equal prices.
    answer = solve_exchange(Exchange([[0.0, 1.0], [1.0, 0.0]], np.eye(2)), tol=1e-9)
    np.testing.assert_allclose(answer.prices[0], answer.prices[1])
    np.testing.assert_allclose(answer.allocation, [[0, 1], [1, 0]], atol=1e-12)


def test_prices_agree_with_newton_on_excess_demand():
    from scipy.optimize import root

    question = economy(CES(0.5), n=20)
    answer = solve_exchange(question, tol=1e-9)
    valuations, endowments = question.valuations, question.endowments

    def excess(log_price):
        price = np.exp(np.append(log_price, 0.0))
        weight = valuations**2 / price
        bundle = (endowments @ price)[:, None] * weight / weight.sum(axis=1, keepdims=True) / price
        return (bundle.sum(axis=0) / question.supply - 1)[:-1]

    independent = np.exp(np.append(root(excess, np.zeros(4), tol=1e-13).x, 0.0))
    np.testing.assert_allclose(answer.prices / answer.prices[-1], independent, rtol=1e-7)


def test_the_level_of_prices_is_stated():
    question = economy()
    prices = solve_exchange(question).prices
    assert prices @ question.supply == pytest.approx(question.n, rel=1e-6)


def test_certificates_reject_a_wrong_answer():
    question = economy()
    answer = solve_exchange(question)
    wrong = certify_exchange(question, answer.prices * np.linspace(1, 1.2, 5), answer.allocation)
    assert not all(c.holds for c in wrong)


def test_an_economy_without_equilibrium_does_not_settle():
    # The first wants only its own first good, so what it owns of the second must sell for nothing; but the second
    # would then want that without bound (Gale 1976).
    question = Exchange([[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [0.0, 1.0]])
    assert solve_exchange(question, max_markets=20).status != Status.SETTLED
